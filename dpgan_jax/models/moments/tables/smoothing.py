"""Noisy counts of neighbouring cells, without most of the noise: free of cost.

Most columns of numbers are smooth but for some values that heap up, and noise is neither. Haar
wavelets tell them apart: of each level, coefficients stay that each by itself stands out of the
noise, and the others stay by as much as they do together (James & Stein 1961). No place is a border
of cells that are joined, as all shifts take part (Coifman & Donoho 1995). A heap that stands out
little is flattened in part.

>>> rng, true = np.random.default_rng(0), np.where(np.arange(64) == 40, 900.0, 50.0)
>>> noisy = true + rng.normal(0, 20, 64)
>>> found = smoothed(noisy, 20.0)
>>> [round(float(np.abs(each - true).mean())) for each in (noisy, found)], bool(found[40] > 850)
([15, 5], True)
"""

from __future__ import annotations

import math

import numpy as np

from dpgan_jax.models.moments.tables.shrinkage import nearest, noise_apart

_OUTSTANDING = 3.0  # deviations
_SELDOM = 0.5  # in deviations of the mean square of noise, how much above its mean is no signal
_FEWEST = 8  # of so few cells each matters by itself
_PROPORTIONS = np.append(0, np.geomspace(0.02, 4, 30))  # of a cell, by which classes may differ


def smoothed(counts: np.ndarray, deviation: float | np.ndarray) -> np.ndarray:
  """What is expected of counts, float64 [..., n].

  Args:
    counts: float64 [..., n], of neighbouring cells, with noise.
    deviation: of the noise in each, [...].
  """
  cells, deviation = counts.shape[-1], np.asarray(deviation)[..., np.newaxis]
  if cells < _FEWEST or not (deviation > 0).any():
    return counts.copy()
  level, details = np.concatenate([counts, counts[..., ::-1]], axis=-1), []
  steps = [2**i for i in range(cells.bit_length() - 1)]
  for step in steps:
    ahead = np.roll(level, -step, axis=-1)
    details.append((level - ahead) / 2)
    level = (level + ahead) / 2
  for step, detail in zip(reversed(steps), reversed(details), strict=True):
    # Of all shifts of a level about n/(2·step) are independent.
    kept = _kept(detail, deviation / math.sqrt(2 * step), independent=cells / (2 * step))
    level = (level + kept + np.roll(level - kept, step, axis=-1)) / 2
  return (level[..., :cells] + level[..., : cells - 1 : -1]) / 2


def of_classes(counts: np.ndarray, deviation: float) -> np.ndarray:
  """`smoothed` of all classes together, and of what each differs by from its share of that.

  Args:
    counts: float64 [K, n], of neighbouring cells.
    deviation: of the noise in each.
  """
  together, shares = counts.sum(axis=0), np.maximum(counts.sum(axis=1), 1.0)
  shares /= shares.sum()
  apart = smoothed(counts - np.outer(shares, together), noise_apart(shares) * deviation)
  return np.outer(shares, smoothed(together, deviation * math.sqrt(len(counts)))) + apart


def of_categories(counts: np.ndarray, deviation: float) -> np.ndarray:
  """Counts of cells in no order, what classes differ by without what noise would make of it.

  What a class has more of a cell than its share is about in proportion to the cell, and by so much
  that what is seen, with noise, is likeliest: then what is expected of it is known (Efron & Morris
  1973).

  Args:
    counts: float64 [K, n].
    deviation: of the noise in each.
  """
  together, shares = counts.sum(axis=0), np.maximum(counts.sum(axis=1), 1.0)
  shares /= shares.sum()
  if len(counts) == 1 or not deviation > 0:
    return counts.copy()
  alike = np.outer(shares, together)
  sizes = np.outer(shares * (1 - shares), nearest(together, max(together.sum(), 1.0)))
  noise = np.square(noise_apart(shares) * deviation)[:, np.newaxis]
  signal = np.multiply.outer(_PROPORTIONS**2, np.square(sizes))
  unlikely = np.log(signal + noise) + np.square(counts - alike) / (signal + noise)
  best = signal[unlikely.sum(axis=(1, 2)).argmin()]
  return alike + best / (best + noise) * (counts - alike)


def _kept(detail: np.ndarray, deviation: np.ndarray, *, independent: float) -> np.ndarray:
  """Coefficients of one level, [..., 2n]."""
  small = np.abs(detail) <= _OUTSTANDING * deviation
  energy = np.square(detail * small).sum(axis=-1, keepdims=True)
  energy /= np.maximum(small.sum(axis=-1, keepdims=True), 1)
  noise = np.square(deviation) * (1 + _SELDOM * math.sqrt(2 / independent))
  share = np.where(energy > noise, 1 - noise / np.where(energy > noise, energy, 1.0), 0.0)
  return np.where(small, share * detail, detail)
