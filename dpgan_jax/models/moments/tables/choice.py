"""Which pairs of columns are counted: those that scores say are worth their noise.

A pair that is not counted is taken to be independent in each class, and is off by its score. One
that is counted is off by what noise leaves in it: of cells I × J with noise of deviation s about
s·√(I·J·(I + J)), as a relation takes few directions of a matrix and noise all. All pairs share one
budget, so s grows with the root of how many are counted, and so many are that all are off by least
together. A pair is counted once of all classes together, or of each, where classes depend on it in
ways of their own by more than the noise that this adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dpgan_jax.privacy.releases import pairs

# On held-out training rows of Adult at ε = 0.2, 1 and 10.
_LEFT = 0.8  # of noise, in units of s·√(I·J·(I + J)): what shrinkage leaves of it
_APART = 0.3  # how much what classes differ by matters, beside what all have together
_TRIED = 64  # numbers of pairs


def choose(
  scores: tuple[np.ndarray, np.ndarray], one_way: np.ndarray, sizes: Sequence[int],
  deviation: float, alone: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """(together, apart) bool [C, C], as `pairs.TwoWay.release_counts` takes them.

  Args:
    scores: of each pair, as `release_scores` gives them.
    one_way: float64 [K, D], what they are compared with.
    sizes: [C], cells of each column.
    deviation: of the noise of counts if a row were in one of them alone.
    alone: bool [C], columns that are counted by themselves in any case.
  """
  classes, columns = len(one_way), len(sizes)
  together, apart = np.zeros((columns, columns), bool), np.diag(alone)
  first, second = np.triu_indices(columns, 1)
  if not len(first):
    return together, apart
  whole, own = (
    np.maximum(score - chance, 0)
    for score, chance in zip(scores, _by_chance(one_way, sizes), strict=True)
  )
  own *= 2 * _APART
  cells = np.asarray(sizes, float)
  left = _LEFT * np.sqrt(cells[first] * cells[second] * (cells[first] + cells[second]))
  best, pair, of_each = math.inf, first, np.ones(len(first), bool)
  for number in np.unique(np.geomspace(1, len(first), _TRIED).round().astype(int)):
    noise = left * deviation * math.sqrt(number + alone.sum())
    once = np.minimum(whole, noise) + own
    each = np.minimum(whole, noise * math.sqrt(classes))
    each += np.minimum(own, _APART * noise * math.sqrt(classes - 1))
    gain = whole + own - (np.minimum(once, each) if classes > 1 else each)
    chosen = np.argsort(-gain, kind='stable')[:number]
    if (off := (whole + own).sum() - gain[chosen].sum()) < best:
      best, pair, of_each = off, chosen, (each <= once)[chosen] | (classes == 1)
  together[first[pair[~of_each]], second[pair[~of_each]]] = True
  apart[first[pair[of_each]], second[pair[of_each]]] = True
  return together, apart


def _by_chance(one_way: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """What scores of independent columns are without noise, as rows are few."""
  found: list[list[np.ndarray]] = []
  for place, _, _, base in pairs.independent(one_way, sizes):
    of_all = base.sum(axis=0)
    share = base / np.maximum(of_all, 1e-300)
    spread = np.sqrt(of_all), np.sqrt(of_all * share * (1 - share)).sum(axis=0) / 2
    found.append([pairs.over_cells(each, sizes[place + 1 :]) for each in spread])
  together, apart = np.concatenate(found, axis=1) * math.sqrt(2 / math.pi)
  return together, apart
