"""The sentence over all scores: its rule, and what it says of planted failures.

These sets chose the rule's levels: shapes that are drawn here, and the digits of scikit-learn's
training split. Every real image of a test set is left out of them.
"""

from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.data import datasets
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.evaluation import tasks, verdict
from dpgan_jax.evaluation.scores import Evaluation, Store
from tests.support.shapes import planted, shapes

TASKS = ('features', 'memorisation', 'tstr_lr', 'ceiling_lr')
SHARES = st.floats(0, 1)
ORDER = [level.name for level in reversed(verdict.LEVELS)]

# --- the rule ------------------------------------------------------------------------------------


def judged(usefulness: float | None, likeness: float | None) -> verdict.Verdict:
  """The verdict on samples of these shares."""
  return verdict.judge(
    None if usefulness is None else (0.9, 0.1 + 0.8 * usefulness, 0.1),
    None if likeness is None else (1.0, (9 - 8 * likeness) ** 2, 81.0),
  )


@pytest.mark.parametrize(
  ('usefulness', 'likeness', 'level', 'colour'),
  [
    (1.0, 1.0, 'good', 'green'),
    (0.91, 0.91, 'good', 'green'),
    (0.89, 1.0, 'usable', 'yellow'),
    (1.0, 0.89, 'usable', 'yellow'),
    (0.59, 1.0, 'poor', 'orange'),
    (1.0, 0.49, 'poor', 'orange'),
    (0.19, 1.0, 'useless', 'red'),
    (1.0, 0.09, 'useless', 'red'),
    (0.0, 0.0, 'useless', 'red'),
    (None, 1.0, 'usable', 'yellow'),  # nobody looked whether its labels mean anything
    (1.0, None, 'usable', 'yellow'),
    (None, 0.05, 'useless', 'red'),
    (None, None, 'unknown', 'grey'),
  ],
)
def test_the_rule(usefulness, likeness, level, colour):
  found = judged(usefulness, likeness)
  assert (found.level, found.colour) == (level, colour)
  assert f'{level} ({colour})' in found.sentence.replace('Not known', 'unknown').replace(
    'what these samples are worth ', ''
  )


@hypothesis.given(SHARES, SHARES, SHARES, SHARES)
def test_better_samples_are_never_called_worse(u, f, more_u, more_f):
  one, two = judged(u, f), judged(max(u, more_u), max(f, more_f))
  assert ORDER.index(two.level) >= ORDER.index(one.level)
  assert two.usefulness is not None
  assert two.usefulness == pytest.approx(max(u, more_u), abs=1e-6)


def test_likeness_is_the_mean_over_both_kinds_of_noise():
  assert verdict.judge(None, (1.0, 4.0, 9.0, 25.0)).likeness == pytest.approx((1 / 2 + 3 / 4) / 2)
  # Nearer than one kind of noise, and no nearer than the other.
  assert verdict.judge(None, (1.0, 9.0, 4.0, 25.0)).likeness == pytest.approx(1 / 4)


def test_beyond_its_ends_a_share_is_cut():
  """Worse than a guess or than static is worth nothing; better than real images, as much."""
  found = verdict.judge((0.9, 0.05, 0.1), (1.0, 100.0, 81.0))
  assert (found.usefulness, found.likeness, found.level) == (0, 0, 'useless')
  found = verdict.judge((0.9, 0.95, 0.1), (1.0, 0.0, 81.0))
  assert (found.usefulness, found.likeness, found.level) == (1, 1, 'good')


def test_a_classifier_that_learns_nothing_from_real_images_says_nothing():
  found = verdict.judge((0.15, 0.15, 0.1), (1.0, 1.0, 81.0))
  assert found.usefulness is None
  assert 'usefulness says nothing here' in found.sentence
  assert found.level == 'usable'


# --- planted failures ----------------------------------------------------------------------------


class Bench:
  """Real images, samples of known worth, and their evaluations, each made once."""

  def __init__(self, train: ImageDataset, test: ImageDataset, fresh: ImageDataset, store: Store):
    self.train, self.test, self.store = train, test, store
    self.samples = planted(train, fresh, seed=3)
    self.done: dict[str, Evaluation] = {}

  def __getitem__(self, name: str) -> Evaluation:
    if name not in self.done:
      made = self.samples[name]
      self.done[name] = tasks.evaluate(
        made.images, made.labels, self.train, self.test, tasks.Settings.quick(tasks=TASKS),
        store=self.store,
      )  # fmt: skip
    return self.done[name]


def rows(data: ImageDataset, start: int, stop: int) -> ImageDataset:
  return dataclasses.replace(
    data, images=data.images[start:stop].copy(), labels=data.labels[start:stop]
  )


@pytest.fixture(
  scope='module',
  params=[
    pytest.param('grey shapes', marks=pytest.mark.slow),
    pytest.param('coloured shapes', marks=pytest.mark.slow),
    'digits',
  ],
)
def bench(request, tmp_path_factory) -> Bench:
  if request.param == 'digits':
    digits = datasets.load_dataset('digits')
    order = np.random.default_rng(0).permutation(len(digits))
    mixed = dataclasses.replace(digits, images=digits.images[order], labels=digits.labels[order])
    parts = rows(mixed, 0, 700), rows(mixed, 700, 1000), rows(mixed, 1000, 1440)
  else:
    channels = 1 if request.param == 'grey shapes' else 3
    parts = tuple(
      shapes(n, channels=channels, seed=seed) for n, seed in ((800, 0), (300, 1), (500, 2))
    )
  return Bench(*parts, Store(tmp_path_factory.mktemp('scores')))


def test_real_images_are_good_and_no_copies(bench):
  found = bench['real']
  assert found.verdict.level == 'good', found.verdict
  assert found.copies is not None
  assert not found.copies.alarm, found.copies


@pytest.mark.parametrize(
  'name', ['static', 'grey static', 'gaussian static', 'one image', 'shuffled labels']
)
def test_failures_are_called_useless(bench, name):
  found = bench[name].verdict
  assert (found.level, found.colour) == ('useless', 'red'), found


def test_means_are_worse_than_real_images_and_better_than_static(bench):
  real, means, static = (bench[name].verdict for name in ('real', 'means', 'static'))
  assert real.likeness > means.likeness + 0.2 > static.likeness + 0.3
  assert means.level == 'poor', means


def test_copies_ring_the_alarm_and_blurred_images_do_not(bench):
  copied, means = bench['copies'], bench['means']
  assert copied.copies is not None
  assert copied.copies.alarm
  assert copied.sentences[1].startswith('ALARM, copies of training images: 100.0% of samples')
  assert means.copies is not None
  assert not means.copies.alarm, means.copies
  assert copied['copy_share'].remark.endswith('100.0%, alarm')
  assert means['copy_share'].remark.endswith(', no alarm')


@pytest.mark.parametrize('name', ['static', 'grey static', 'gaussian static'])
def test_static_looks_good_in_no_score_that_says_something(bench, name):
  for score in bench[name].scores:
    if not score.separates:
      continue
    middle = (score.reference + score.static) / 2
    worse = score.value > middle if score.best == 'low' else score.value < middle
    assert worse, score


def test_most_scores_say_something(bench):
  """Else the test above would be empty."""
  said = {score.name for score in bench['real'].scores if score.separates}
  assert {'fid', 'kid', 'density', 'coverage', 'tstr_lr'} <= said


def test_the_page_begins_with_the_sentence_and_names_features_and_classes(bench):
  found = bench['static']
  page = found.to_markdown({})
  assert page.splitlines()[2] == f'**{found.verdict.sentence}**'
  assert '| real | static |' in page
  assert 'of scattering_features_v1' in page
  for name in bench.train.class_names:
    assert f'\n| {name} | ' in page
