"""How far the marginals of two tables lie apart, and how their columns hang together.

The distance is total variation, half the sum of |p - q| over the cells (`cells`), which is 1 minus
the scores TVComplement (one column) and ContingencySimilarity (two) of the package sdmetrics. Every
pair of columns counts, up to `MOST_PAIRS`, and of three columns `TRIPLES` sets that are drawn.

The relation of two columns is Cramér's V with Bergsma's correction (2013, "A bias-correction for
Cramér's V and Tschuprow's T"), in [0, 1]: one measure for categories and numbers alike.

>>> total_variation(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2)
0.25
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from dpgan_jax.evaluation.tables.cells import Table

MOST_PAIRS, TRIPLES = 2000, 128
_DENSE = 2**18  # cells that are counted one by one, whether anything lies in them or not
_COARSE = 50  # cells a column for the relation of two


def total_variation(a: np.ndarray, b: np.ndarray, size: int) -> float:
  """Half the sum of |p - q| between the shares of codes a [n] and b [m] in [0, size)."""
  if size > max(_DENSE, 4 * (len(a) + len(b))):  # most cells are empty: only those that occur
    _, both = np.unique(np.concatenate([a, b]), return_inverse=True)
    a, b, size = both[: len(a)], both[len(a) :], int(both.max()) + 1
  p, q = (np.bincount(codes, minlength=size) / len(codes) for codes in (a, b))
  return min(float(np.abs(p - q).sum() / 2), 1.0)


def joint(table: Table, columns: tuple[int, ...]) -> tuple[np.ndarray, int]:
  """The cell of each row in a marginal of several columns, int64 [N], and how many there are."""
  codes, size = np.zeros(len(table.codes), np.int64), 1
  for c in columns:
    codes = codes * int(table.sizes[c]) + table.codes[:, c]
    size *= int(table.sizes[c])
  return codes, size


def sets(columns: int, order: int, most: int, *, seed: int = 0) -> list[tuple[int, ...]]:
  """Sets of so many columns: all of them, or `most` different ones, drawn evenly."""
  if math.comb(columns, order) <= most:
    return list(itertools.combinations(range(columns), order))
  rng = np.random.default_rng([seed, order])
  found: set[tuple[int, ...]] = set()
  while len(found) < most:
    found.add(tuple(sorted(rng.choice(columns, order, replace=False).tolist())))
  return sorted(found)


def compare(real: Table, other: Table, *, seed: int = 0) -> dict[str, Any]:
  """Total variation between the marginals of two tables of one schema; JSON-ready.

  Returns:
    `one_way`, `two_way`, `three_way`: means, None where there are too few columns;
    `one_way_worst`, `two_way_worst`: the largest; `columns`: that of each, by name; `pairs`: of
    each pair that was compared, as [i, j, value]; `sampled`: whether pairs were drawn, as there
    were more than `MOST_PAIRS`; `relations`: mean |V - V'| over these pairs.
  """
  count = len(real.names)
  ones, pairs, triples = (
    [(chosen, _between(real, other, chosen)) for chosen in sets(count, order, most, seed=seed)]
    for order, most in ((1, count), (2, MOST_PAIRS), (3, TRIPLES))
  )
  different = [
    abs(a - b)
    for a, b in zip(*(_relations(t, [p for p, _ in pairs]) for t in (real, other)), strict=True)
  ]
  return {
    'one_way': _mean([v for _, v in ones]),
    'two_way': _mean([v for _, v in pairs]),
    'three_way': _mean([v for _, v in triples]),
    'one_way_worst': max(v for _, v in ones),
    'two_way_worst': max((v for _, v in pairs), default=None),
    'relations': _mean(different),
    'columns': {real.names[c]: v for (c,), v in ones},
    'pairs': [[*pair, v] for pair, v in pairs],
    'sampled': math.comb(count, 2) > MOST_PAIRS,
  }


def pair_matrix(pairs: list[list[float]], count: int) -> np.ndarray:
  """`pairs` of `compare` as a symmetric matrix [count, count]; NaN where there is no value."""
  found = np.full((count, count), np.nan)
  for i, j, value in pairs:
    found[int(i), int(j)] = found[int(j), int(i)] = value
  return found


def relations(table: Table, columns: int | None = None) -> np.ndarray:
  """Corrected Cramér's V of each pair of the first `columns`, symmetric; 1 on the diagonal."""
  count = min(columns or len(table.names), len(table.names))
  pairs = list(itertools.combinations(range(count), 2))
  values = _relations(table, pairs)
  found = pair_matrix([[*p, v] for p, v in zip(pairs, values, strict=True)], count)
  np.fill_diagonal(found, 1.0)
  return found


def cramers_v(counts: np.ndarray) -> float:
  """Corrected Cramér's V of a table of counts [r, k]; 0 where a column has one value only."""
  counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0].astype(np.float64)
  n, (r, k) = counts.sum(), counts.shape
  if min(r, k) < 2 or n < 2:
    return 0.0
  expected = np.outer(counts.sum(1), counts.sum(0)) / n
  phi = ((counts - expected) ** 2 / expected).sum() / n
  phi = max(0.0, phi - (r - 1) * (k - 1) / (n - 1))
  smaller = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
  return min(1.0, math.sqrt(phi / smaller)) if smaller > 0 else 0.0


def _between(real: Table, other: Table, columns: tuple[int, ...]) -> float:
  (a, size), (b, _) = joint(real, columns), joint(other, columns)
  return total_variation(a, b, size)


def _relations(table: Table, pairs: list[tuple[int, ...]]) -> list[float]:
  """V of each pair, of columns of many cells after neighbouring ones are put together."""
  sizes = np.minimum(table.sizes, _COARSE)
  used = {c for pair in pairs for c in pair}
  codes = {c: table.codes[:, c].astype(np.int64) * sizes[c] // table.sizes[c] for c in used}
  found = []
  for i, j in pairs:
    counts = np.bincount(codes[i] * sizes[j] + codes[j], minlength=sizes[i] * sizes[j])
    found.append(cramers_v(counts.reshape(sizes[i], sizes[j])))
  return found


def _mean(values: list[float]) -> float | None:
  return float(np.mean(values)) if values else None
