"""Checks of a release of moments: how far a record moves it, and what noise it gets."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings
from dpgan_jax.models.moments.encoding import Means, weights
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from experiments.trust.statistical_checks import Violation

_SHAPE, _CLASSES, _N = (5, 5, 1), 3, 40
_DRAWS = 40


@functools.cache
def _moments(epsilon: float) -> Moments:
  spec = Spec(num_records=_N, shape=_SHAPE, class_names=tuple('abc'), name='made')
  return settings.make(TrainConfig(target_epsilon=epsilon, delta=1e-5), spec)


def _records(n: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(n)
  codes = _moments(math.inf).encoding.encode(rng.integers(0, 256, (n, *_SHAPE), np.uint8))
  return codes, np.arange(n) % _CLASSES


def released(
  codes: np.ndarray, labels: np.ndarray, moments: Moments, number: int = 0
) -> tuple[Means, np.ndarray]:
  """Both releases, by the secret of this number."""
  secret = number.to_bytes(32, 'big')
  means = release.release_means(codes, labels, moments, secret)
  return means, release.release_seconds(codes, labels, means, moments, secret)


def require_charged(draws: Mapping[str, Any], within: float | Mapping[str, float]) -> None:
  """Refuses noise, by name and in units of what is accounted for, whose deviation is not 1."""
  for name, found in draws.items():
    deviation = float(np.std(found))
    if not abs(deviation - 1) < (within if isinstance(within, float) else within[name]):
      raise Violation(f'noise of {name} is {deviation:.3g} times what is accounted for')


def require_moved_by_one(what: str, moved: Mapping[str, float]) -> None:
  """Refuses what a record moves by more than the sensitivity, in units of which it is given."""
  for name, by in moved.items():
    if not by <= 1 + 1e-6:
      raise Violation(f'one {what} moves {name} by {by:.4g} of the sensitivity')


def noise_of_moments_is_charged() -> None:
  """Of no records at all, counts, sums and covariances have the noise that is accounted for.

  A deviation of n draws is off by 1/√(2n), here at most 1/√(2·120): a third off is five of that.
  """
  moments, nothing = _moments(1.0), (np.zeros((0, 25)), np.zeros(0, int))
  first, second = (moments.stages[name].noise_multiplier for name in (MEANS, SECONDS))
  in_sum, in_count = weights(moments.dim)
  found: dict[str, list[np.ndarray]] = {'counts': [], 'sums': [], 'covariances': []}
  for number in range(_DRAWS):
    means, seconds = released(*nothing, moments, number)
    found['counts'].append(means.counts * in_count / first)
    found['sums'].append(means.sums * in_sum / moments.encoding.radius / first)
    upper = np.triu_indices(moments.dim, 1)
    scale = second * moments.encoding.spread**2 / math.sqrt(2)
    found['covariances'].append(seconds[:, upper[0], upper[1]] / scale)
  require_charged(found, 1 / 3)


def classes_have_noise_of_their_own() -> None:
  """Two classes of no records: what is released of them is not the same."""
  moments, nothing = _moments(1.0), (np.zeros((0, 25)), np.zeros(0, int))
  means, seconds = released(*nothing, moments)
  if (means.sums[0] == means.sums[1]).any() or (seconds[0] == seconds[1]).all():
    raise Violation('two classes got the same noise: their difference is free of it')


def one_record_moves_moments_by_one() -> None:
  """The longest code there is, in any class, in units of the sensitivity."""
  moments, (codes, labels) = _moments(math.inf), _records(_N)
  centres = release.release_means(codes, labels, moments, bytes(32))
  longest = moments.encoding.encode(np.full((1, *_SHAPE), 255, np.uint8))
  in_sum, in_count = weights(moments.dim)
  for scale in (1.0, 1e6):  # beyond what an image can be, too
    more = (np.concatenate([codes, scale * longest]), np.append(labels, 1))
    with_it, without = (
      release.release_means(*records, moments, bytes(32)) for records in (more, (codes, labels))
    )
    sums = (with_it.sums - without.sums) * in_sum / moments.encoding.radius
    moved = math.hypot(
      np.linalg.norm(sums), np.linalg.norm(with_it.counts - without.counts) * in_count
    )
    seconds = [
      release.release_seconds(*records, centres, moments, bytes(32))
      for records in (more, (codes, labels))
    ]
    squares = np.linalg.norm(seconds[0] - seconds[1]) / moments.encoding.spread**2
    require_moved_by_one('record', {'the means': moved, 'the covariances': squares})


def covariances_are_around_what_was_released() -> None:
  """Around centres that are no class's mean, Σ(x - μ)(x - μ)ᵀ is that of these centres."""
  moments, (codes, labels) = _moments(math.inf), _records(_N)
  elsewhere = Means(np.ones(_CLASSES), np.full((_CLASSES, moments.dim), 0.1))
  seconds = release.release_seconds(codes / 3, labels, elsewhere, moments, bytes(32))
  for k in range(_CLASSES):
    around = codes[labels == k] / 3 - 0.1
    if not np.allclose(seconds[k], around.T @ around, atol=0.05):
      raise Violation('covariances are around a mean of the records, which nobody has charged for')
