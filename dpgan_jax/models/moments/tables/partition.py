"""How fine cells of a column go together, as noisy counts of them say: free of cost.

Two-way counts are of coarse cells, each of neighbouring fine ones. Cells of one width would mostly
be empty where bounds are wide and numbers are near each other; cells of equal mass would leave one
for all that is rare. Equal shares of the cube roots of counts lie between, and have the least
squared error (Panter & Dite 1951).

>>> into(np.array([729.0, 0, 0, 125, 125, 125, 0, 1]), 4).tolist()
[0, 1, 1, 1, 2, 3, 3, 3]
"""

from __future__ import annotations

import numpy as np

from dpgan_jax.models.moments.tables.shrinkage import nearest

VERSION = 'of chosen pairs, of smoothed counts'
"""Which pairs are counted, in cells that follow from what: other counts would be misread."""


def into(counts: np.ndarray, cells: int) -> np.ndarray:
  """The coarse cell of each fine one, int64 [n], rising from 0 to `cells` - 1 without a gap.

  Args:
    counts: float64 [n], of neighbouring cells; n ≥ `cells`.
    cells: how many coarse ones.
  """
  roots = np.cbrt(np.maximum(counts, 0)) + 1e-6
  middles = (np.cumsum(roots) - roots / 2) / roots.sum()
  order = np.arange(cells)
  starts = np.searchsorted(middles, order / cells)
  starts = np.maximum.accumulate(starts - order) + order  # each has a fine cell at least
  starts = np.minimum(starts, len(counts) - cells + order)
  return np.searchsorted(starts, np.arange(len(counts)), side='right') - 1


def shares_within(
  counts: np.ndarray, within: np.ndarray, deviation: float, prior: np.ndarray | None = None
) -> np.ndarray:
  """The share that each fine cell has of its coarse one, float64 [n].

  Of shares ≥ 0 they are the nearest to the counts: most noise is in cells that are empty. With a
  prior they are as that says but for what stands out of the noise, by as much as it does (James &
  Stein 1961).

  Args:
    counts: float64 [n], noisy.
    within: int64 [n], the coarse cell of each.
    deviation: of the noise in each count.
    prior: shares of another, float64 [n]; without, fine cells of an empty coarse one are alike.
  """
  sizes, totals = np.bincount(within), np.bincount(within, counts)
  found = 1 / sizes[within] if prior is None else prior.copy()
  if prior is not None:
    level = totals[within] * prior
    energy = np.bincount(within, np.square(counts - level))[within]
    noise = (sizes[within] - 1) * deviation**2
    counts = level + np.maximum(0, 1 - noise / np.maximum(energy, 1e-9)) * (counts - level)
  for cell in np.flatnonzero(totals > 0):
    own = within == cell
    found[own] = nearest(counts[own], totals[cell]) / totals[cell]
  return found
