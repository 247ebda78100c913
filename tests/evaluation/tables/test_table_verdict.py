"""The sentence over the scores of a table: its rule, and what it says of planted failures."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from dpgan_jax.evaluation.tables import verdict

WORTHLESS = {'independent': 0.1, 'static': 0.6}
SHARES = st.floats(0, 1)
ORDER = [level.name for level in reversed(verdict.LEVELS)]


def judged(auroc: float, two_way: float):
  return verdict.judge((0.9, auroc, 0.5), (0.02, two_way, WORTHLESS))


@pytest.mark.parametrize(
  ('auroc', 'two_way', 'level'),
  [
    (0.9, 0.02, 'good'),
    (0.95, 0.01, 'good'),  # better than real rows counts as these
    (0.87, 0.03, 'good'),
    (0.80, 0.03, 'usable'),
    (0.87, 0.06, 'usable'),
    (0.70, 0.03, 'poor'),
    (0.9, 0.1, 'poor'),  # independent columns that tell of the target
    (0.51, 0.02, 'useless'),  # a target that means nothing
    (0.1, 0.02, 'useless'),
    (0.9, 0.6, 'useless'),
    (0.5, 0.9, 'useless'),
  ],
)
def test_the_rule(auroc, two_way, level):
  found = judged(auroc, two_way)
  assert found.level == level
  assert found.sentence.startswith(f'These rows are {level} (')
  assert f'AUROC {auroc:.3f}' in found.sentence


@hypothesis.given(auroc=st.tuples(SHARES, SHARES), two_way=st.tuples(SHARES, SHARES))
def test_better_scores_are_never_called_worse(auroc, two_way):
  worse = judged(min(auroc), max(two_way))
  better = judged(max(auroc), min(two_way))
  assert ORDER.index(worse.level) <= ORDER.index(better.level)


@hypothesis.given(two_way=SHARES, auroc=SHARES)
def test_without_usefulness_nothing_is_good(two_way, auroc):
  for known in (None, (0.54, auroc, 0.5), (0.9, auroc, 0.86)):
    found = verdict.judge(known, (0.02, two_way, WORTHLESS))
    assert found.usefulness is None
    assert found.level != 'good'


def test_what_says_nothing_is_left_out():
  near = verdict.judge((0.9, 0.9, 0.5), (0.02, 0.02, {'independent': 0.021, 'static': 0.6}))
  assert near.level == 'good'
  assert 'independent' not in near.sentence
  for distance in (None, (0.02, 0.02, {'independent': 0.021})):
    found = verdict.judge((0.9, 0.9, 0.5), distance)
    assert (found.level, found.likeness) == ('usable', None)
    assert 'not known' in found.sentence
  assert verdict.judge(None, None).level == 'unknown'
