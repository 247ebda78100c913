"""Tables: noisy counts of all cells of each column, then of pairs of cells of two columns.

A row is in one cell of each of C columns, so it moves one-way counts by √C in Euclidean norm, and
two-way counts by the root of how many pairs of columns are counted (`privacy.releases`), however
many cells there are; a person with k rows moves both by k times as much. So one-way counts are of
fine cells, which find where values heap up, and two-way counts of coarse ones, which follow from
the first release (`partition`). The second begins with scores of all pairs, and counts those that
are worth it (`choice`), and coarse cells of numbers by themselves.

The rest is free of cost. Counts of neighbouring cells are smoothed (`smoothing`), two-way counts
are drawn to what independence would have them be (`shrinkage`), and a mixture of products is fitted
to them (`mixture`), which takes most of the noise out. A draw is a coarse cell in each column,
moved until no relation is left that counted pairs do not imply (`pairwise`), and in it a fine one,
by their shares (`rows`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.moments.encoding import ByClass, Means, digest, divided
from dpgan_jax.models.moments.tables import choice, mixture, pairwise, partition, smoothing
from dpgan_jax.models.moments.tables.mixture import Counts
from dpgan_jax.models.moments.tables.rows import Rows
from dpgan_jax.models.moments.tables.shrinkage import corrected, counted, possible, shrunk
from dpgan_jax.privacy.releases import marginals, pairs

_FEWEST_COMPONENTS, _MOST_COMPONENTS = 10, 300
_LEFT = 0.5  # of the noise of smoothed counts, about, by hand: less where they are smooth
_MOVED, _FEWEST_MOVED = 12_000, 500  # rows that relations are found with
_SCORES_SHARE = 0.1  # of the second release: scores of pairs
_WEAKLY = 3.0  # in units of noise of counted pairs: how other pairs are held to independence


class _Column(NamedTuple):
  """What the first release says of a column."""

  counts: np.ndarray  # of fine cells, float64 [K, cells]
  within: np.ndarray  # of each, the coarse cell that it is in, int64 [cells]
  size: int  # how many these are

  @property
  def coarse(self) -> np.ndarray:
    """Counts of coarse cells, float64 [K, size]."""
    return np.stack([np.bincount(self.within, row, minlength=self.size) for row in self.counts])


@dataclasses.dataclass(frozen=True)
class TableEncoding(ByClass):
  """Cells of the rows of a table, float64 [n, C].

  Attributes:
    schema: public.
    bins: coarse cells of numbers, for two-way counts.
    intervals: fine ones that numbers are cut into for one-way counts.
    noise_multiplier: of the first release, which says how fine cells go together.
  """

  schema: Schema
  bins: int
  intervals: int
  noise_multiplier: float = 0.0

  @functools.cached_property
  def fine(self) -> tuple[Cells, ...]:
    """Of each column, for one-way counts."""
    return tuple(Cells(column, self.intervals) for column in self.schema.modelled)

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """How many coarse cells each column has."""
    return tuple(
      fine.count if fine.column.is_category else min(fine.count, self.bins + fine.column.nullable)
      for fine in self.fine
    )

  def within(self, means: Means) -> tuple[np.ndarray, ...]:
    """Of each column, the coarse cell that each fine cell lies in, int64 [cells]."""
    return tuple(column.within for column in self._columns(means))

  def _columns(self, means: Means) -> list[_Column]:
    """What the first release says of each column, without most of its noise."""
    # As a file keeps them: what is read again must give the same cells.
    sums = means.sums.astype(np.float32).astype(np.float64)
    deviation, found = self.noise(self.noise_multiplier)[1], []
    each = np.split(sums, np.cumsum(self.fine_sizes)[:-1], axis=1)
    for counts, fine, size in zip(each, self.fine, self.sizes, strict=True):
      if fine.column.is_category:
        smooth, within = smoothing.of_categories(counts, deviation), np.arange(size)
      else:
        first = int(fine.column.nullable)  # what is missing stays apart
        smooth = counts.copy()
        smooth[:, first:] = smoothing.of_classes(counts[:, first:], deviation)
        joined = partition.into(smooth.sum(axis=0)[first:], size - first)
        within = np.append(np.zeros(first, np.int64), joined + first)
      found.append(_Column(smooth, within, size))
    return found

  @functools.cached_property
  def fine_sizes(self) -> tuple[int, ...]:
    """How many fine cells each column has."""
    return tuple(cells.count for cells in self.fine)

  @property
  def dim(self) -> int:
    """Fine cells of all columns together."""
    return sum(self.fine_sizes)

  @property
  def second_dim(self) -> int:
    """D, coarse cells of all columns together: every one with every other."""
    return sum(self.sizes)

  @property
  def prefixes(self) -> tuple[int, ...]:
    """All cells at once: columns have no order."""
    return (self.dim,)

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Rows float64 [n, C] → the fine cell in each column, int64 [n, C]."""
    return np.stack(
      [cells.of(values) for cells, values in zip(self.fine, records.T, strict=True)], axis=1
    )

  def release_sums(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """One-way counts; the number of rows is the mean over columns of their sums."""
    counts = marginals.release_one_way(
      codes, self.fine_sizes, noise_multiplier=noise_multiplier, secret=secret, purpose=purpose,
      rows_per_record=self.schema.rows_per_unit,
    )  # fmt: skip
    return counts.sum() / len(self.sizes), counts

  def second_groups(self, classes: int) -> int:
    """Each class, and all of them together if they are several."""
    return pairs.groups(classes)

  def release_seconds(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, classes: int, *,
    noise_multiplier: float, secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Scores of pairs of columns, and two-way counts of those that are worth it; 0 of others.

    Counts of a column's coarse cells by themselves are on the diagonal.
    """
    columns, (of_scores, of_counts) = self._columns(means), of_second(noise_multiplier)
    coarse = np.stack([c.within[cells] for c, cells in zip(columns, codes.T, strict=True)], axis=1)
    expected = np.concatenate([column.coarse for column in columns], axis=1)
    totals = np.clip(expected.sum(axis=1) / len(columns), 1.0, pairs.MOST_ROWS)
    expected = possible(expected, self.sizes, totals)
    rows = pairs.TwoWay(
      coarse, labels, classes, self.sizes, rows_per_record=self.schema.rows_per_unit,
      secret=secret, purpose=f'{purpose}, {digest(*(c.within for c in columns), expected)}',
    )  # fmt: skip
    scores = rows.release_scores(expected, noise_multiplier=of_scores)
    alone = np.array(self.fine_sizes) > self.sizes  # columns of numbers
    deviation = of_counts * self.schema.rows_per_unit
    chosen = choice.choose(scores, expected, self.sizes, deviation, alone)
    return rows.release_counts(*chosen, noise_multiplier=of_counts)

  def noise(self, noise_multiplier: float, scale: float = 1.0) -> tuple[float, float]:
    del scale  # all bounds are public
    squared = marginals.squared_sensitivity(len(self.sizes), self.schema.rows_per_unit)
    of_a_cell = noise_multiplier * math.sqrt(squared)
    return of_a_cell * math.sqrt(self.dim) / len(self.sizes), of_a_cell

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    """Of being in a cell: p(1 - p)."""
    del seconds
    shares = np.clip(means.sums.sum(axis=0) / max(float(means.counts.sum()), 1.0), 0, 1)
    return shares * (1 - shares)

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Rows:
    columns, of_ones = self._columns(means), self.noise(noise_multipliers[0])[1]
    known = counted(seconds, self.sizes)
    of_a_row = marginals.squared_sensitivity(
      int(np.triu(known.any(axis=0)).sum()), self.schema.rows_per_unit
    )
    of_pairs = of_second(noise_multipliers[1])[1] * math.sqrt(of_a_row)
    one_way = np.concatenate([column.coarse for column in columns], axis=1)
    finer = np.concatenate([np.bincount(c.within, minlength=c.size) for c in columns])
    deviations = of_ones * np.sqrt(finer)
    one_way, two_way = shrunk(one_way, seconds, self.sizes, deviations, of_pairs)
    counts = self._fitted_to(one_way, two_way, known, deviations, of_pairs)
    # As many as rows that it takes to stand out of the noise of a two-way count.
    worth = counts.total / max(of_pairs, 1e-300)
    components = int(np.clip(worth, _FEWEST_COMPONENTS, _MOST_COMPONENTS))
    shares = tuple(
      shares_of_classes(each, within, of_ones * (1.0 if fine.column.is_category else _LEFT))
      for (each, within, _), fine in zip(columns, self.fine, strict=True)
    )
    fitted = mixture.fit(counts, components)
    ones, implied = (counts.total * each for each in mixture.marginals(fitted, self.sizes))
    implied = corrected(implied, seconds, self.sizes, of_pairs)
    begun = self._start(fitted, counts.total)
    of_pairwise = pairwise.fit(ones, implied, known, self.sizes, begun)
    within = tuple(column.within for column in columns)
    return Rows(self.schema, self.fine, within, fitted, of_pairwise, shares)

  def _fitted_to(
    self, one_way: np.ndarray, two_way: np.ndarray, known: np.ndarray, deviations: np.ndarray,
    of_pairs: float,
  ) -> Counts:  # fmt: skip
    """Counted pairs by their noise, and others weakly as if they were independent in each class."""
    of = np.repeat(np.arange(len(self.sizes)), self.sizes)
    two_way, noise = two_way.copy(), np.where(known, of_pairs, math.inf)
    classes, other = len(one_way), np.logical_not(known.any(axis=0))
    noise[:classes, other] = _WEAKLY * of_pairs
    for place, own, later, base in pairs.independent(one_way, self.sizes):
      base = np.where(other[place, of[later]], base, two_way[:classes, own, later])
      two_way[:classes, own, later], two_way[:classes, later, own] = base, base.mT
    return Counts(self.sizes, one_way, two_way, deviations, noise[:, of[:, np.newaxis], of])

  def _start(self, fitted: mixture.Mixture, total: float) -> np.ndarray:
    """Rows of each class, as coarse cells int64 [K, S, C]: together as many as there are."""
    classes = fitted.weights.shape[1]
    num = int(np.clip(total // classes, _FEWEST_MOVED, max(_MOVED // classes, _FEWEST_MOVED)))
    rng = np.random.default_rng(0)
    rows = [mixture.draw(fitted, self.sizes, np.full(num, k), rng) for k in range(classes)]
    return np.stack(rows)


def of_second(noise_multiplier: float) -> tuple[float, ...]:
  """σ of scores of pairs, and of counts, of the second release."""
  return divided(noise_multiplier, _SCORES_SHARE)


def shares_of_classes(counts: np.ndarray, within: np.ndarray, deviation: float) -> np.ndarray:
  """Of each class, what each fine cell has of its coarse one, float64 [K, cells].

  Args:
    counts: float64 [K, cells], noisy.
    within: int64 [cells], the coarse cell of each.
    deviation: of the noise in each count.
  """
  of_all = partition.shares_within(
    counts.sum(axis=0), within, deviation * math.sqrt(len(counts))
  )
  return np.stack([partition.shares_within(row, within, deviation, of_all) for row in counts])
