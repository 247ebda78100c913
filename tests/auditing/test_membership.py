"""dpgan_jax.auditing.membership: attacks that find copies, and find nothing where there is
nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import neighbors

from dpgan_jax._validate import InputError
from dpgan_jax.auditing import membership


def images(count: int, seed: int) -> np.ndarray:
  """Smooth random images of a few kinds, so that some places are crowded."""
  rng = np.random.default_rng(seed)
  kinds = np.random.default_rng(99).normal(size=(6, 8, 8, 1))
  chosen = kinds[rng.integers(0, 6, count)] * 40 + 128
  return np.clip(chosen + rng.normal(size=(count, 8, 8, 1)) * 25, 0, 255).astype(np.uint8)


def noisy(x: np.ndarray, seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return np.clip(x + rng.normal(size=x.shape) * 8, 0, 255).astype(np.uint8)


MEMBERS, OTHERS = images(300, 1), images(400, 2)


def test_finds_copies():
  found = membership.attack(noisy(MEMBERS, 3), MEMBERS, OTHERS, delta=1e-5)
  assert set(found) == set(membership.ATTACKS)
  for result in found.values():
    assert result.guesses.auc > 0.99
    assert result.guesses.lower_bound > 2
    assert result.rates[-1].true_positive_rate > 0.9
    assert result.rates[-1].false_positive_rate < 0.25


def test_finds_nothing_in_fresh_images():
  """False alarms: each interval misses one half in one of a hundred; the seeds are fixed."""
  found = membership.attack(images(1500, 4), MEMBERS, OTHERS, delta=1e-5, confidence=0.99)
  for result in found.values():
    low, high = result.guesses.auc_interval
    assert low < 0.5 < high
    assert result.guesses.lower_bound == 0


def test_the_seed_chooses_the_candidates():
  samples = images(200, 5)
  runs = [
    membership.attack(samples, MEMBERS, OTHERS, delta=1e-5, most=50, seed=s) for s in (0, 0, 1)
  ]
  assert runs[0] == runs[1] != runs[2]


def test_nearest_distance():
  a = np.zeros((2, 2, 2, 1), np.uint8)
  a[1] = 255
  b = np.zeros((1, 2, 2, 1), np.uint8)
  np.testing.assert_allclose(membership.nearest_distance(a, b), [0, 2], atol=1e-6)


def test_log_density_is_scikit_learns():
  rng = np.random.default_rng(6)
  points, centres = rng.normal(size=(40, 3)), rng.normal(size=(70, 3))
  theirs = neighbors.KernelDensity(bandwidth=0.7).fit(centres).score_samples(points)
  ours = membership.log_density(points, centres, 0.7)
  np.testing.assert_allclose(ours - theirs, (ours - theirs)[0], rtol=1e-6)
  # And relative to another number of centres: the constant is that of bandwidth and dimension.
  again = membership.log_density(points, np.repeat(centres, 2, axis=0), 0.7)
  np.testing.assert_allclose(again, ours, rtol=1e-6)


def test_rates_by_hand():
  outside = np.concatenate([np.arange(10.0), np.full(10, 8.5)])  # thresholds come from 0 ... 9
  (rate,) = membership.rates_at(np.array([3.0, 8.5, 9.0, 9.5]), outside, 0.9, aims=(0.1,))
  # One of ten may lie above: the threshold is 8. Of the other ten, all do.
  assert rate.aimed_at == 0.1
  assert rate.true_positive_rate == 0.75
  assert rate.false_positive_rate == 1.0
  assert rate.false_positive_interval == (pytest.approx(0.05 ** (1 / 10)), 1.0)
  low, high = rate.true_positive_interval
  assert 0.2 < low < 0.75 < high < 1


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'samples': np.zeros((5, 9, 8, 1), np.uint8)}, 'of one size'),
    ({'samples': MEMBERS[:1]}, 'at least 2 samples to attack, got 1'),
    ({'non_members': OTHERS[:39]}, 'at least 40 non-members and 20 members, got 39 and 300'),
    ({'members': MEMBERS[:19]}, 'got 400 and 19'),
  ],
)
def test_refuses(changes, words):
  given = {'samples': MEMBERS, 'members': MEMBERS, 'non_members': OTHERS}
  with pytest.raises(InputError, match=words):
    membership.attack(**{**given, **changes}, delta=1e-5)
