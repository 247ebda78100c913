"""Normal scores of cells, from noisy counts that are smoothed first: free of privacy cost."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.special

from dpgan_jax.data.tables.cells import Cells

CONSTANT = 0.3  # a² beside the squared bound of the scores
LONGEST = 1.2  # the squared bound, beside the mean square
MOST = 2.5  # a score
_FEWEST = 0.1  # records in a cell
# Deviations of the noise: of a heap; of all beside the largest one, and of another, in doubt.
_HEAP, _DOUBT, _SURE = 2.5, 3.0, 4.0


@dataclasses.dataclass(frozen=True)
class Scores:
  """Normal scores of the cells of each column.

  Attributes:
    shares: of each column, what each cell has of all records, their sum 1.
    normal: the score of each cell; 0 of what is missing.
  """

  shares: tuple[np.ndarray, ...]
  normal: tuple[np.ndarray, ...]

  @classmethod
  def of_counts(
    cls, cells: Sequence[Cells], counts: Sequence[np.ndarray], total: float, deviation: float,
    doubted: Sequence[bool],
  ) -> Scores:  # fmt: skip
    """What noisy counts say.

    Args:
      cells: of each column.
      counts: of each column float64 [cells].
      total: about how many records there are, ≥ 1.
      deviation: of the noise in each count.
      doubted: of each column, whether all that is beside single values may be noise.
    """
    shares, normal = [], []
    for own, found, doubt in zip(cells, counts, doubted, strict=True):
      share = _shares(_smooth(found, own, deviation, doubt), total)
      score = np.zeros(len(share))
      first = int(own.column.nullable)  # what is missing has no score, and the mean in its place
      known = share[first:] / max(share[first:].sum(), 1e-12)
      middle = np.clip(np.cumsum(known) - known / 2, 1e-9, 1 - 1e-9)
      score[first:] = np.clip(scipy.special.ndtri(middle), -MOST, MOST)
      shares.append(share)
      normal.append(score)
    return cls(tuple(shares), tuple(normal))

  @functools.cached_property
  def squares(self) -> np.ndarray:
    """The mean square of each score, float64 [D]."""
    return np.array([p @ np.square(z) for p, z in zip(self.shares, self.normal, strict=True)])

  @functools.cached_property
  def measured(self) -> np.ndarray:
    """The share of records that have a score, float64 [D]; of few it is not known how few."""
    return np.clip(self.squares, 0.02, 1)

  @property
  def longest(self) -> float:
    """Vectors of scores are scaled down to it."""
    return math.sqrt(LONGEST * max(float(self.squares.sum()), 1e-3))

  @property
  def constant(self) -> float:
    """a: what makes sums of scores of sums of products."""
    return math.sqrt(CONSTANT) * self.longest

  @property
  def bound(self) -> float:
    """Of a vector with its constant."""
    return math.hypot(self.longest, self.constant)

  def of(self, cells: np.ndarray) -> np.ndarray:
    """float64 [n, D + 1] of cells int64 [n, D]."""
    found = np.stack([z[c] for z, c in zip(self.normal, cells.T, strict=True)], axis=1)
    lengths = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300)
    found *= np.minimum(1, self.longest / lengths)
    return np.concatenate([found, np.full((len(found), 1), self.constant)], axis=1)


def _smooth(counts: np.ndarray, cells: Cells, deviation: float, doubt: bool) -> np.ndarray:
  """Counts of cells that rise to one top and fall, but for what stands out of their noise.

  Single values (missing, both bounds, zero) are cells of their own, and so are categories. What is
  left of the others beside their fit is kept as far as it is more than noise (James & Stein 1961).
  Where nearly all have a single value, the rest may be noise as a whole, and of many columns some
  have another heap by chance: with `doubt` it has to be clear that it is not.
  """
  column = cells.column
  if column.is_category or len(counts) < 6 or not deviation:
    return counts
  alone = np.isnan(cells.middles) | np.isin(cells.middles, (*column.bounds, 0.0))
  inner = counts[~alone]
  best, least = inner, math.inf
  for top in range(len(inner)):
    fit = np.concatenate([
      scipy.optimize.isotonic_regression(inner[: top + 1]).x,
      scipy.optimize.isotonic_regression(inner[top + 1 :], increasing=False).x
      if top + 1 < len(inner) else [],
    ])  # fmt: skip
    error = float(np.square(fit - inner).sum())
    if error < least:
      best, least = fit, error
  kept = max(0.0, 1 - len(inner) * deviation**2 / max(least, 1e-12))
  found = counts.copy()
  found[~alone] = np.maximum(best + kept * (inner - best), 0)
  heaps = alone & ~np.isnan(cells.middles)
  found[heaps] = np.where(counts[heaps] > _HEAP * deviation, counts[heaps], 0)
  of_all = inner.sum() / (deviation * math.sqrt(len(inner)))
  if doubt and found[heaps].any():
    found[~alone] *= max(0.0, 1 - (_DOUBT / max(of_all, 1e-12)) ** 2)
    others = heaps & (counts < counts[heaps].max())
    found[others & (counts < _SURE * deviation)] = 0
  return found


def _shares(counts: np.ndarray, total: float) -> np.ndarray:
  """The nearest shares ≥ 0 of the sum 1 to noisy counts (Duchi et al. 2008).

  Where some are missing, all get more of what they have: cells that hardly anybody is in stay so.
  """
  found = counts / total
  kept = np.maximum(found, _FEWEST / total)
  if 0 < kept.sum() <= 1:
    return kept / kept.sum()
  ordered = np.sort(found)[::-1]
  excess = (np.cumsum(ordered) - 1) / np.arange(1, len(found) + 1)
  last = np.flatnonzero(ordered > excess)[-1]
  return np.maximum(found - excess[last], 0)
