"""Membership attacks on released samples: was this image among those the generator was trained on?

Samples are what is published, so this is the attack that anybody can make. Each attack gives every
candidate image a score that is higher for those it believes to be members:

* `nearest`: how near the nearest sample is, in pixels. What it misses is that some images are near
  to everything.
* `density`: the density of the samples there, by a Gaussian kernel in the samples' principal
  components (Hilprecht et al. 2019, Monte Carlo and reconstruction attacks, PoPETs 2019(4)).
* `density_ratio`: that, over the density of images known not to be members, which makes up for
  where images are many (van Breugel et al. 2023, DOMIAS, arXiv 2302.12580).

A generator that memorised nothing gives areas under the curve of one half. What the attacks do not
find they do not disprove: a low figure is no guarantee, ε is.

Members and non-members have to be draws of one distribution. Where a test set differs from the
training set in anything but chance, the attacks find the difference and call it membership.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special
from sklearn import decomposition, metrics

from dpgan_jax import _validate
from dpgan_jax.auditing import bounds

ATTACKS = ('nearest', 'density', 'density_ratio')
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
_COMPONENTS = 32
_MOST_FOR_BANDWIDTH = 2000
MIN_CANDIDATES = 40


def _flat(images: np.ndarray) -> np.ndarray:
  return images.reshape(len(images), -1).astype(np.float32) / 255


def nearest_distance(images: np.ndarray, samples: np.ndarray) -> np.ndarray:
  """The Euclidean distance of each image to the nearest sample, float[n], pixels in [0, 1].

  Args:
    images: uint8 [n, ...].
    samples: uint8 [s, ...] of the same size.
  """
  found: Any = metrics.pairwise_distances_argmin_min(_flat(images), _flat(samples))
  return found[1]


def log_density(points: np.ndarray, centres: np.ndarray, bandwidth: float) -> np.ndarray:
  """The log of a Gaussian kernel density at each point, up to a constant for all points.

  Args:
    points: float [n, d].
    centres: float [s, d].
    bandwidth: standard deviation of a kernel, > 0.
  """

  def reduce(distances: np.ndarray, start: int) -> np.ndarray:
    del start
    logs: Any = scipy.special.logsumexp(-(distances**2) / (2 * bandwidth**2), axis=1)
    return logs

  blocks = metrics.pairwise_distances_chunked(points, centres, reduce_func=reduce)
  return np.concatenate(list(blocks)) - math.log(len(centres))


def scores(images: np.ndarray, samples: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
  """What each attack thinks of each image; higher is more likely a member.

  Args:
    images: uint8 [n, H, W, C], the candidates.
    samples: uint8 [s, H, W, C], what was released; s ≥ 2.
    reference: uint8 [r, H, W, C], images known not to be members, none of them a candidate.
  """
  components = min(_COMPONENTS, len(samples), _flat(samples[:1]).shape[1])
  project = decomposition.PCA(components, random_state=0).fit(_flat(samples)).transform
  points, fakes, others = (project(_flat(x)) for x in (images, samples, reference))
  some = fakes[:_MOST_FOR_BANDWIDTH]
  # Narrower than samples are usually apart, so that a copy stands out from the crowd; chosen on the
  # samples alone, never on who is a member.
  apart = metrics.pairwise_distances(some)
  np.fill_diagonal(apart, np.inf)
  bandwidth = max(float(np.median(apart.min(axis=1))) / 3, 1e-3)
  density = log_density(points, fakes, bandwidth)
  return {
    'nearest': -nearest_distance(images, samples),
    'density': density,
    'density_ratio': density - log_density(points, others, bandwidth),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateAt:
  """True positives at a low rate of false ones; the threshold was chosen on other non-members.

  Attributes:
    aimed_at: false-positive rate that the threshold was chosen for.
    false_positive_rate, true_positive_rate: what fresh candidates gave.
    false_positive_interval, true_positive_interval: Clopper-Pearson, each at the given confidence.
  """

  aimed_at: float
  false_positive_rate: float
  false_positive_interval: tuple[float, float]
  true_positive_rate: float
  true_positive_interval: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
  """What one attack achieved.

  Attributes:
    guesses: area under the curve, and the ε below which its guesses would be refuted if each
      candidate had been a member by a fair coin.
    rates: true-positive rates at low false-positive rates.
  """

  guesses: bounds.Guesses
  rates: tuple[RateAt, ...]


def attack(
  samples: np.ndarray,
  members: np.ndarray,
  non_members: np.ndarray,
  *,
  delta: float,
  confidence: float = 0.95,
  most: int = 5000,
  seed: int = 0,
  progress: Callable[[float], None] | None = None,
) -> dict[str, Attack]:
  """Attacks released samples, knowing for each candidate whether it was in the training set.

  Args:
    samples: uint8 [s, H, W, C], what was released.
    members: uint8 [n, H, W, C], the training set.
    non_members: uint8 [m, H, W, C], images of the same kind that were not in it. Half of them are
      the attacker's reference, the other half candidates.
    delta: δ for the implied ε.
    confidence: of every interval and bound.
    most: candidates of each kind.
    seed: which images are candidates.
    progress: is told the share of the work that is done.

  Raises:
    InputError: images of different sizes, fewer than 40 non-members or 2 samples.
  """
  shapes = {x.shape[1:] for x in (samples, members, non_members)}
  if len(shapes) > 1:
    raise _validate.InputError(
      f'expected samples, members and non-members of one size, got {sorted(shapes)}'
    )
  if len(samples) < 2:
    raise _validate.InputError(f'expected at least 2 samples to attack, got {len(samples)}')
  count = min(most, len(members), len(non_members) // 2)
  if count < MIN_CANDIDATES // 2:
    raise _validate.InputError(
      f'expected at least {MIN_CANDIDATES} non-members and {MIN_CANDIDATES // 2} members, got '
      f'{len(non_members)} and {len(members)}'
    )
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(non_members))
  outside, reference = non_members[order[:count]], non_members[order[count : 2 * count]]
  inside = members[rng.permutation(len(members))[:count]]
  found_in = scores(inside, samples, reference)
  if progress is not None:
    progress(0.5)
  found_out = scores(outside, samples, reference)
  if progress is not None:
    progress(1.0)
  present = np.arange(2 * count) < count
  result = {}
  for name in ATTACKS:
    both = np.concatenate([found_in[name], found_out[name]])
    # Ties are broken by place, and members come first: mix them.
    mix = rng.permutation(2 * count)
    guesses = bounds.guess(both[mix], present[mix], delta=delta, confidence=confidence)
    rates = rates_at(found_in[name], found_out[name], confidence)
    result[name] = Attack(guesses=guesses, rates=rates)
  return result


def rates_at(
  scores_in: np.ndarray,
  scores_out: np.ndarray,
  confidence: float,
  aims: Sequence[float] = FALSE_POSITIVE_RATES,
) -> tuple[RateAt, ...]:
  """True-positive rates at false-positive rates: thresholds from the first half of `scores_out`."""
  chosen_on, fresh = np.array_split(np.asarray(scores_out), 2)
  failure = (1 - _validate.fraction('confidence', confidence)) / 2

  def interval(count: int, trials: int) -> tuple[float, float]:
    low = bounds.lower_limit(count, trials, failure)
    return float(low), float(bounds.upper_limit(count, trials, failure))

  rates = []
  for aim in aims:
    allowed = int(aim * len(chosen_on))  # scores that may lie above the threshold
    threshold = np.sort(chosen_on)[len(chosen_on) - 1 - allowed]
    hits, alarms = int(np.sum(scores_in > threshold)), int(np.sum(fresh > threshold))
    rates.append(
      RateAt(
        aimed_at=aim,
        false_positive_rate=alarms / len(fresh),
        false_positive_interval=interval(alarms, len(fresh)),
        true_positive_rate=hits / len(scores_in),
        true_positive_interval=interval(hits, len(scores_in)),
      )
    )
  return tuple(rates)
