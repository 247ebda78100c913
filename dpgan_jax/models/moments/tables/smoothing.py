"""Noisy counts of neighbouring cells, without most of the noise: free of cost.

Most columns of numbers are smooth but for some values that heap up, and noise is neither. Haar
wavelets tell them apart: of each level, coefficients that stand out of the noise alone stay, and
the others stay by as much as they do together (James & Stein 1961). No place is a border of cells
that are joined, as all shifts take part (Coifman & Donoho 1995).

>>> rng, true = np.random.default_rng(0), np.where(np.arange(64) == 40, 900.0, 50.0)
>>> noisy = true + rng.normal(0, 20, 64)
>>> found = smoothed(noisy, 20.0)
>>> [round(float(np.abs(each - true).mean())) for each in (noisy, found)], bool(found[40] > 850)
([15, 5], True)
"""

from __future__ import annotations

import math

import numpy as np

_OUTSTANDING = 3.0  # deviations
_SELDOM = 0.5  # deviations more than noise has of squares, on average


def smoothed(counts: np.ndarray, deviation: float) -> np.ndarray:
  """What is expected of counts, float64 [n].

  Args:
    counts: float64 [n], of neighbouring cells, with noise.
    deviation: of the noise in each.
  """
  if len(counts) < 4 or not deviation > 0:
    return counts
  level, details = np.concatenate([counts, counts[::-1]]), []
  for step in _steps(len(counts)):
    ahead = np.roll(level, -step)
    details.append((level - ahead) / 2)
    level = (level + ahead) / 2
  for step in reversed(_steps(len(counts))):
    of_noise = deviation / math.sqrt(2 * step)
    detail = _kept(details.pop(), of_noise, independent=len(counts) / (2 * step))
    level = (level + detail + np.roll(level - detail, step)) / 2
  return (level[: len(counts)] + level[len(counts) :][::-1]) / 2


def of_classes(counts: np.ndarray, deviation: float) -> np.ndarray:
  """`smoothed` of all classes together, and of what each differs by from its share of that.

  Args:
    counts: float64 [K, n], of neighbouring cells.
    deviation: of the noise in each.
  """
  classes, together = len(counts), counts.sum(axis=0)
  shares = np.maximum(counts.sum(axis=1), 1.0)
  shares /= shares.sum()
  of_noise = np.sqrt(np.square(1 - shares) + (classes - 1) * np.square(shares)) * deviation
  apart = counts - np.outer(shares, together)
  own = [smoothed(row, noise) for row, noise in zip(apart, of_noise, strict=True)]
  return np.outer(shares, smoothed(together, deviation * math.sqrt(classes))) + np.stack(own)


def _steps(cells: int) -> list[int]:
  return [2**level for level in range(cells.bit_length() - 1)]


def _kept(detail: np.ndarray, deviation: float, *, independent: float) -> np.ndarray:
  """Coefficients of one level; `independent` of them are as many as there are cells for."""
  small = np.abs(detail) <= _OUTSTANDING * deviation
  energy = np.square(detail[small]).mean() if small.any() else 0.0
  noise = deviation**2 * (1 + _SELDOM * math.sqrt(2 / independent))
  return np.where(small, max(0.0, 1 - noise / max(energy, 1e-300)) * detail, detail)
