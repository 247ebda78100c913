"""Tables: noisy counts of all cells of each column, then of all pairs of cells of two columns.

A row is in one cell of each of C columns, so it moves one-way counts by √C and two-way counts by
√(C(C - 1)/2), in Euclidean norm (`privacy.releases.marginals`), however many cells there are, and a
person with k rows moves both by k times as much. So one-way counts are of fine cells, which find
where values heap up, and two-way counts of coarse ones, which follow from the first release
(`partition`). Counts of neighbouring cells are smoothed (`smoothing`), two-way counts are drawn to
what independence would have them be (`shrinkage`), and a mixture of products is fitted to them
(`mixture`), which takes most of the noise out. A draw is a coarse cell in each column, moved until
no relation is left that pairs of columns do not imply (`pairwise`), and in it a fine one, by their
shares (`rows`).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.moments.encoding import ByClass, Means, digest
from dpgan_jax.models.moments.tables import mixture, pairwise, partition, smoothing
from dpgan_jax.models.moments.tables.mixture import Counts
from dpgan_jax.models.moments.tables.rows import Rows
from dpgan_jax.models.moments.tables.shrinkage import corrected, shrunk
from dpgan_jax.privacy.releases import marginals

_FEWEST_COMPONENTS, _MOST_COMPONENTS = 10, 300
_LEFT = 0.5  # of the noise of smoothed counts, about, by hand: less where they are smooth
_MOVED, _FEWEST_MOVED = 12_000, 500  # rows that relations are found with


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
    # As a file keeps them: what is read again must give the same cells.
    sums = means.sums.astype(np.float32).astype(np.float64)
    smoothed, found = self._smoothed(sums, self.noise(self.noise_multiplier)[1]), []
    for counts, fine, size in zip(smoothed, self.fine, self.sizes, strict=True):
      first = int(fine.column.nullable)  # what is missing stays apart
      joined = partition.into(counts.sum(axis=0)[first:], size - first)
      found.append(np.append(np.zeros(first, np.int64), joined + first))
    return tuple(found)

  def _smoothed(self, sums: np.ndarray, deviation: float) -> list[np.ndarray]:
    """One-way counts of each column, float64 [K, cells], those of numbers without most noise."""
    found = np.split(sums.copy(), np.cumsum(self.fine_sizes)[:-1], axis=1)
    for counts, fine in zip(found, self.fine, strict=True):
      if not fine.column.is_category:
        first = int(fine.column.nullable)
        counts[:, first:] = smoothing.of_classes(counts[:, first:], deviation)
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

  def release_products(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Two-way counts."""
    del labels
    joined = self.within(means)
    coarse = np.stack([of[cells] for of, cells in zip(joined, codes.T, strict=True)], axis=1)
    return marginals.release_two_way(
      coarse, self.sizes, noise_multiplier=noise_multiplier, secret=secret,
      purpose=f'{purpose}, {digest(*joined)}', rows_per_record=self.schema.rows_per_unit,
    )  # fmt: skip

  def noise(self, noise_multiplier: float, scale: float = 1.0) -> tuple[float, float]:
    del scale  # all bounds are public
    squared, _ = marginals.squared_sensitivities(len(self.sizes), self.schema.rows_per_unit)
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
    of_ones, of_pairs = self.noise(noise_multipliers[0])[1], noise_multipliers[1]
    _, squared = marginals.squared_sensitivities(len(self.sizes), self.schema.rows_per_unit)
    of_pairs *= math.sqrt(squared)
    by_column = self._smoothed(means.sums, of_ones)
    columns = list(zip(by_column, self.within(means), self.sizes, strict=True))
    one_way = np.concatenate(
      [
        np.stack([np.bincount(within, row, minlength=size) for row in counts])
        for counts, within, size in columns
      ],
      axis=1,
    )
    finer = np.concatenate([np.bincount(w, minlength=size) for _, w, size in columns])
    deviations = of_ones * np.sqrt(finer)
    one_way, two_way = shrunk(one_way, seconds, self.sizes, deviations, of_pairs)
    counts = Counts(self.sizes, one_way, two_way, deviations, of_pairs)
    # As many as rows that it takes to stand out of the noise of a two-way count.
    rows = noise_multipliers[1] * len(columns) * self.schema.rows_per_unit
    worth = counts.total / max(rows, 1e-300)
    components = int(np.clip(worth, _FEWEST_COMPONENTS, _MOST_COMPONENTS))
    shares = tuple(
      shares_of_classes(each, within, of_ones * (1.0 if fine.column.is_category else _LEFT))
      for (each, within, _), fine in zip(columns, self.fine, strict=True)
    )
    fitted = mixture.fit(counts, components)
    ones, pairs = (counts.total * each for each in mixture.marginals(fitted, self.sizes))
    pairs = corrected(pairs, seconds, self.sizes, of_pairs)
    of_pairwise = pairwise.fit(ones, pairs, self.sizes, self._start(fitted, counts.total))
    within = tuple(w for _, w, _ in columns)
    return Rows(self.schema, self.fine, within, fitted, of_pairwise, shares)

  def _start(self, fitted: mixture.Mixture, total: float) -> np.ndarray:
    """Rows of each class, as coarse cells int64 [K, S, C]: together as many as there are."""
    classes = fitted.weights.shape[1]
    num = int(np.clip(total // classes, _FEWEST_MOVED, max(_MOVED // classes, _FEWEST_MOVED)))
    rng = np.random.default_rng(0)
    rows = [mixture.draw(fitted, self.sizes, np.full(num, k), rng) for k in range(classes)]
    return np.stack(rows)


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
