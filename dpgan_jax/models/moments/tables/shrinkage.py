"""Noisy two-way counts drawn to what one-way counts imply, as far as noise may be all that differs.

Of each pair of columns, what the counts of all classes together differ by from independent columns
is a matrix, cells of one by cells of the other, of which a relation takes few directions and noise
all. So singular values beyond those of noise are kept, shrunk to the least squared error (Gavish &
Donoho 2017); the rest is kept by as much as it is more than noise (James & Stein 1961). Then the
same of what each class differs by from all. A pair whose columns are independent in every class is
independent after it, and one that depends alike in all classes has the noise of all of them, not of
each.

>>> counts = np.array([[50.0, 50, 50, 50]])
>>> noisy = np.array([[[0.0, 0, 30, 20], [0, 0, 20, 30], [30, 20, 0, 0], [20, 30, 0, 0]]])
>>> for deviation in (0.0, 2.0, 6.0):
...   shrunk(counts, noisy, (2, 2), np.zeros(4), deviation)[1][0, 0, 2:].round(1).tolist()
[30.0, 20.0]
[29.1, 20.9]
[25.0, 25.0]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

# So many deviations more than noise has of squares: of its largest singular value (Johnstone 2001),
# and of all together. Without, noise is kept of some pairs of many, and independent columns seem to
# go together.
_SELDOM = 2.0


def shrunk(
  one_way: np.ndarray, two_way: np.ndarray, sizes: Sequence[int], deviations: np.ndarray,
  deviation: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """One-way counts as both releases say, ≥ 0, [K, D], and two-way counts, [L, D, D].

  Args:
    one_way: float64 [K, D], of each class, column after column.
    two_way: float64 [L, D, D], as `privacy.releases.pairs` counts them: of each class, and of all.
    sizes: [C], cells of each column.
    deviations: [D], of the noise of one-way counts.
    deviation: of the noise of two-way counts.
  """
  totals = np.maximum(one_way.sum(axis=1) / len(sizes), 1.0)
  columns, classes = slices(sizes), len(one_way)
  ones = _combined(one_way, two_way, sizes, totals, deviations, deviation)
  shares = totals / totals.sum()
  result, of_classes = np.zeros_like(two_way), noise_apart(shares)
  for group, i, j in _pairs(two_way, sizes, classes):
    a, b = columns[i], columns[j]
    independent = ones[:, a, np.newaxis] * ones[:, np.newaxis, b]
    independent /= totals[:, np.newaxis, np.newaxis]
    if group is not None:
      implied = independent.sum(axis=0)
      found = implied + clear(two_way[group, a, b] - implied, deviation)
      result[group, a, b], result[group, b, a] = found, found.T
      continue
    off = two_way[:classes, a, b] - independent
    together, of_each = off.sum(axis=0), shares[:, np.newaxis, np.newaxis]
    found = independent + of_each * clear(together, deviation * math.sqrt(classes))
    for own, apart, scale in zip(found, off - of_each * together, of_classes, strict=True):
      own += clear(apart, deviation * scale)
    result[:classes, a, b], result[:classes, b, a] = found, found.mT
  return ones, result


def counted(two_way: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
  """Which pairs of columns were counted, in which group of rows: bool [L, C, C]."""
  starts = np.cumsum([0, *sizes[:-1]])
  by_rows = np.add.reduceat(two_way != 0, starts, axis=1, dtype=np.int64)
  return np.add.reduceat(by_rows, starts, axis=2) > 0


def _pairs(
  two_way: np.ndarray, sizes: Sequence[int], classes: int
) -> Iterator[tuple[int | None, int, int]]:
  """Counted pairs of columns, and before them the group, or None of what each class was counted."""
  found = np.triu(counted(two_way, sizes), 1)
  for i, j in zip(*np.nonzero(found[:classes].any(axis=0)), strict=True):
    yield None, int(i), int(j)
  for group in range(classes, len(two_way)):
    for i, j in zip(*np.nonzero(found[group]), strict=True):
      yield group, int(i), int(j)


def noise_apart(shares: np.ndarray) -> np.ndarray:
  """Of what each class differs by from its share of all: so many deviations of a count, [K]."""
  return np.sqrt(np.square(1 - shares) + (len(shares) - 1) * np.square(shares))


def corrected(
  model: np.ndarray, two_way: np.ndarray, sizes: Sequence[int], deviation: float
) -> np.ndarray:
  """What a model has of counted pairs, moved to noisy counts as far as they stand out of noise.

  Args:
    model: float64 [L, D, D], symmetric, zero within a column.
    two_way: the same, as released.
    sizes: [C], cells of each column.
    deviation: of the noise of two-way counts.
  """
  result, columns = model.copy(), slices(sizes)
  for own, counts, chosen in zip(result, two_way, counted(two_way, sizes), strict=True):
    for i, j in zip(*np.nonzero(np.triu(chosen, 1)), strict=True):
      a, b = columns[i], columns[j]
      own[a, b] += clear(counts[a, b] - own[a, b], deviation)
      own[b, a] = own[a, b].T
  return result


def slices(sizes: Sequence[int]) -> list[slice]:
  """Where the cells of each column are among those of all."""
  ends = np.cumsum(sizes)
  return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def clear(values: np.ndarray, deviation: float) -> np.ndarray:
  """What stands clear of noise: of few directions, and of the rest if its squares do together.

  Args:
    values: float64 [m, n], each with noise.
    deviation: of the noise; nothing is left out without.
  """
  if not deviation > 0:
    return values
  left, found, right = np.linalg.svd(values / deviation, full_matrices=False)
  short, long = sorted(values.shape)
  roots = math.sqrt(max(long - 1, 0.5)), math.sqrt(short)
  varies = sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3)
  stands = int((np.square(found) > sum(roots) ** 2 + _SELDOM * varies).sum())
  squares, ratio, rest = np.square(found[:stands]) / long, short / long, found[stands:]
  shrunk_to = np.sqrt(long * (np.square(squares - ratio - 1) - 4 * ratio) / squares)
  degrees = (short - stands) * (long - stands)
  noise = degrees + _SELDOM * math.sqrt(2 * degrees)
  kept = max(0.0, 1 - noise / max(float(np.square(rest).sum()), 1e-300))
  return (left * np.append(shrunk_to, kept * rest) * deviation) @ right


def _combined(
  one_way: np.ndarray, two_way: np.ndarray, sizes: Sequence[int], totals: np.ndarray,
  deviations: np.ndarray, deviation: float,
) -> np.ndarray:  # fmt: skip
  """One-way counts, each the mean of what both releases say, weighed by their noise; then the
  nearest that are ≥ 0 and add up to the number of rows.
  """
  classes, columns = len(one_way), len(sizes)
  of = np.repeat(np.arange(columns), sizes)
  # A pair's counts are summed over the cells of the other column; a column's own are no sums.
  summed = np.where(np.eye(columns, dtype=bool), 1, np.asarray(sizes))
  weights = counted(two_way, sizes) / (summed * deviation**2 + 1e-9)
  sums = np.add.reduceat(two_way, np.cumsum([0, *sizes[:-1]]), axis=2)  # [L, D, C]
  indirect, told = (sums * weights[:, of]).sum(axis=2), weights.sum(axis=2)[:, of]
  direct = 1 / (np.square(deviations) + 1e-9)
  found = (direct * one_way + indirect[:classes]) / (direct + told[:classes])
  for of_all, known in zip(indirect[classes:], told[classes:], strict=True):
    variance = (1 / (direct + told[:classes])).sum(axis=0)
    off = of_all - known * found.sum(axis=0)
    found += variance / (1 + known * variance) * off / classes
  return possible(found, sizes, totals)


def possible(one_way: np.ndarray, sizes: Sequence[int], totals: np.ndarray) -> np.ndarray:
  """The nearest one-way counts [K, D] ≥ 0 whose columns have `totals` [K] rows each."""
  found = one_way.copy()
  for column in slices(sizes):
    for counts, total in zip(found[:, column], totals, strict=True):
      counts[:] = nearest(counts, total)
  return found


def nearest(counts: np.ndarray, total: float) -> np.ndarray:
  """The nearest counts ≥ 0 that add up to `total` (Held, Wolfe & Crowder 1974)."""
  falling = np.sort(counts)[::-1]
  excess = (np.cumsum(falling) - total) / np.arange(1, len(counts) + 1)
  return np.maximum(counts - excess[np.flatnonzero(falling > excess)[-1]], 0)
