"""Bounds of a column of numbers, from noisy counts of public cells, in two rounds.

The first round's cells are those of floating-point numbers: zero, and each power of two cut into
four, on both sides of it. They know nothing of the column, and reach from 2⁻³⁰ to 2⁵². The second
round's are of one width, within the bounds that the first has found. Both are functions of public
numbers and of noisy counts: bounds follow from these, free of cost.

>>> import numpy as np
>>> edges = first_edges(Column(name='age', kind='integer', lower=0, upper=200))
>>> edges[:8].tolist(), len(edges)
([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 28)
>>> ages = np.random.default_rng(0).integers(17, 91, 5_000)
>>> low, high = occupied(np.histogram(ages, edges)[0], 20.0)
>>> edges[[low, high + 1]].tolist()
[16.0, 96.0]
"""

from __future__ import annotations

import math

import numpy as np

from dpgan_jax.data.tables.schema import Column

_PARTS = 4  # of a power of two
_SMALLEST = -30  # exponent; what is nearer to zero counts as zero
CELLS = 16  # of the second round
_LONGEST = 2 * _PARTS  # run of cells
# In standard deviations: how far a run of cells has to stand out of the noise, how far beside what
# stands out already, and how far each end of a run has to. The first is exceeded once in a thousand
# columns of nothing; the others are more often, which costs a few cells.
_SURE, _NEAR, _LIKELY = 5.0, 2.5, 1.0


def first_edges(column: Column) -> np.ndarray:
  """Edges of the cells of the first round, ascending; cell i is [edges[i], edges[i + 1])."""
  low, high = column.bounds
  smallest = _SMALLEST if column.kind == 'real' else 0
  largest = math.frexp(max(abs(low), abs(high), 1.0))[1]
  exponents = np.arange(smallest, largest + 1, dtype=np.float64)
  positive = np.ravel(np.outer(2.0**exponents, 1 + np.arange(_PARTS) / _PARTS))
  if column.kind != 'real':
    positive = np.unique(np.ceil(positive))
  edges = np.unique(np.concatenate([-positive, [0.0], positive]))
  if column.kind == 'real':  # zero is a cell: (-2⁻³⁰, 2⁻³⁰)
    edges = edges[edges != 0.0]
  inside = (edges > low) & (edges < high)
  step = column.step or np.spacing(max(abs(low), abs(high)))
  return np.concatenate([[low], edges[inside], [high + step]])


def second_edges(column: Column, low: float, high: float) -> np.ndarray:
  """Edges of the cells of the second round, within [low, high)."""
  width = (high - low) / CELLS
  if column.kind != 'real':
    width = math.ceil(width)
  count = min(CELLS, math.ceil((high - low) / width)) if width > 0 else 1
  return low + np.arange(count + 1) * max(width, 1e-300)


def cells(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """The cell of each value, int64 [n]: the first or the last of what lies beyond them; of what is
  missing, NaN, one more than there are.
  """
  found = np.searchsorted(edges, values, side='right') - 1
  last = len(edges) - 2
  return np.where(np.isnan(values), last + 1, np.clip(found, 0, last)).astype(np.int64)


def occupied(counts: np.ndarray, deviation: float) -> tuple[int, int] | None:
  """The first and the last cell that hold more than noise; None: nothing does.

  Args:
    counts: noisy, float64 [cells].
    deviation: of the noise in each.
  """
  scores = counts / deviation
  sure = [_run(scores[: end + 1][::-1], _SURE) for end in range(len(scores))]
  ends = np.flatnonzero(sure)
  if not len(ends):
    return None
  first, last = int(min(e - sure[e] + 1 for e in ends)), int(ends[-1])
  return first - _further(scores[:first][::-1]), last + _further(scores[last + 1 :])


def _run(scores: np.ndarray, least: float) -> int:
  """How many of the first cells stand out of the noise together by `least`; 0: none do.

  Wherever such a run is cut, what is before the cut has to be likely to hold something: else one
  with much in it would reach into what is empty.
  """
  sums = np.cumsum(scores[:_LONGEST]) / np.sqrt(np.arange(1, min(len(scores), _LONGEST) + 1))
  until = int(np.argmax(sums < _LIKELY)) if (sums < _LIKELY).any() else len(sums)
  enough = np.flatnonzero(sums[:until] >= least)
  return int(enough[0]) + 1 if len(enough) else 0


def _further(scores: np.ndarray) -> int:
  """How many cells beside those that are surely occupied are likely to be."""
  count = 0
  while True:
    # From the far end of each run: that has to hold something too.
    runs = (n for n in range(1, min(len(scores) - count, _LONGEST) + 1)
            if _run(scores[count : count + n][::-1], _NEAR) == n)  # fmt: skip
    longest = max(runs, default=0)
    if not longest:
      return count
    count += longest


def trimmed(counts: np.ndarray, deviation: float) -> tuple[int, int]:
  """The first and the last cell of the second round that are kept.

  From either end cells are cut off as long as what they hold together is about their noise, and
  surely less than a twentieth of all.
  """
  total = max(float(counts.sum()), 0.0)

  def cut(ordered: np.ndarray) -> int:
    sums = np.cumsum(ordered)
    noise = deviation * np.sqrt(np.arange(1, len(ordered) + 1))
    may = (sums <= noise) & (np.maximum(sums, 0) + 2 * noise <= total / 20)
    return int(np.flatnonzero(may)[-1]) + 1 if may.any() else 0

  first, last = cut(counts), len(counts) - 1 - cut(counts[::-1])
  return (first, last) if first <= last else (0, len(counts) - 1)
