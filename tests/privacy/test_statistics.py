"""experiments/trust/statistical_checks.py: wrong as rarely, and right as often, as they say."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import scipy.stats

from experiments.trust import power
from experiments.trust import statistical_checks as checks

RESULT = (
  pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'results' / 'trust'
  / 'statistics.json'
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('case', power.CASES, ids=lambda case: case.check.func.__name__)
def test_accepts_what_is_correct_and_refuses_faults(case):
  """Ten draws each. A check of power 99 % that misses none: 90 %; the seed is fixed."""
  row = power.measure(case, 10, seed=1)
  assert row['correct']['refused_at_false_alarm'] == 0
  assert all(fault['refused'] == 10 for fault in row['faults'].values())


def test_the_committed_measurement():
  """400 draws. Faults: the lower limit of every power is above 98 %. Correct draws: p-values below
  1 % are as frequent as they should be (binomial tests, false alarm 1e-3 for each check).
  """
  rows = {row['check']: row for row in json.loads(RESULT.read_text('utf-8'))['rows']}
  assert list(rows) == [case.check.func.__name__ for case in power.CASES]
  for row, case in zip(rows.values(), power.CASES, strict=True):
    correct = row['correct']
    assert correct['refused_at_false_alarm'] <= 1
    count = scipy.stats.binom(correct['of'], power.LEVEL)
    assert count.sf(correct['refused_at_0.01'] - 1) > 1e-3
    assert not case.exact or count.cdf(correct['refused_at_0.01']) > 1e-3
    assert all(fault['power'][0] > 0.98 for fault in row['faults'].values())
    assert set(row['faults']) == set(case.faults)


def test_what_is_not_random_at_all_is_refused():
  """No noise, NaN, and constant keys: statistics of them are NaN, which must not pass."""
  for nothing in (np.zeros(100), np.full(100, np.nan)):
    with pytest.raises(checks.Violation):
      checks.noise_is_normal(nothing, 1.0)
    with pytest.raises(checks.Violation):
      checks.noise_is_unshared([nothing, nothing])
  with pytest.raises(checks.Violation):
    checks.noise_is_white(np.zeros(100), [1])
  with pytest.raises(checks.Violation, match='bit 0 of 64'):
    checks.key_bits_are_random(np.zeros((64, 2), np.uint32))
  with pytest.raises(checks.Violation, match=r'hold 4\.00 examples on average, not 5'):
    checks.cut_is_uniform(np.tile(np.arange(50) < 4, (10, 1)), 5)
