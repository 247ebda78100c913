"""Tables: noisy counts of all cells of each column, then of all pairs of cells of two columns.

A row is in one cell of each of C columns, so it moves one-way counts by √C and two-way counts by
√(C(C - 1)/2), in Euclidean norm (`privacy.releases.marginals`), however many cells there are, and a
person with k rows moves both by k times as much. So
one-way counts are of fine cells, which find where values heap up, and two-way counts of coarse
ones, which a mixture of products is fitted to (`mixture`). A draw is a coarse cell in each column,
and in it a fine one, by their shares.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.constraints import enforce
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.moments import mixture
from dpgan_jax.models.moments.encoding import ByClass, Means
from dpgan_jax.models.moments.mixture import Counts, Mixture
from dpgan_jax.privacy.releases import marginals

_FEWEST_COMPONENTS, _MOST_COMPONENTS = 10, 300
_FINER = 8  # fine intervals in a coarse one


@dataclasses.dataclass(frozen=True)
class TableEncoding(ByClass):
  """Cells of the rows of a table, float64 [n, C].

  Attributes:
    schema: public.
    bins: intervals that numbers are cut into for two-way counts.
  """

  schema: Schema
  bins: int

  @functools.cached_property
  def coarse(self) -> tuple[Cells, ...]:
    """Of each column, for two-way counts."""
    return tuple(Cells(column, self.bins) for column in self.schema.modelled)

  @functools.cached_property
  def fine(self) -> tuple[Cells, ...]:
    """Of each column, for one-way counts."""
    return tuple(Cells(column, self.bins * _FINER) for column in self.schema.modelled)

  @functools.cached_property
  def within(self) -> tuple[np.ndarray, ...]:
    """Of each column, the coarse cell that each fine cell lies in, int64 [cells]."""
    return tuple(
      coarse.of(fine.middles) for coarse, fine in zip(self.coarse, self.fine, strict=True)
    )

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """How many coarse cells each column has."""
    return tuple(cells.count for cells in self.coarse)

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
    del labels, means
    coarse = np.stack(
      [within[cells] for within, cells in zip(self.within, codes.T, strict=True)], axis=1
    )
    return marginals.release_two_way(
      coarse, self.sizes, noise_multiplier=noise_multiplier, secret=secret, purpose=purpose,
      rows_per_record=self.schema.rows_per_unit,
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
    first, second = noise_multipliers
    columns = len(self.sizes)
    by_column = np.split(means.sums, np.cumsum(self.fine_sizes)[:-1], axis=1)
    one_way = np.concatenate(
      [
        np.stack([np.bincount(within, row, minlength=size) for row in counts])
        for counts, within, size in zip(by_column, self.within, self.sizes, strict=True)
      ],
      axis=1,
    )
    # How much smaller the noise of a one-way count is than that of a two-way count, as a variance.
    precision = np.ones(self.second_dim)
    if first > 0:
      finer = np.concatenate(
        [np.bincount(w, minlength=s) for w, s in zip(self.within, self.sizes, strict=True)]
      )
      precision = (second / first) ** 2 * max(columns - 1, 1) / 2 / np.maximum(finer, 1)
    counts = Counts(self.sizes, one_way, seconds, precision)
    # As many as rows that it takes to stand out of the noise of a two-way count.
    worth = counts.total / max(second * columns * self.schema.rows_per_unit, 1e-300)
    components = int(np.clip(worth, _FEWEST_COMPONENTS, _MOST_COMPONENTS))
    deviation = self.noise(first)[1] * math.sqrt(len(means.counts))
    shares = tuple(
      _shares_within(counts.sum(axis=0), within, deviation)
      for counts, within in zip(by_column, self.within, strict=True)
    )
    return Rows(self, mixture.fit(counts, components), shares)


def _shares_within(counts: np.ndarray, within: np.ndarray, deviation: float) -> np.ndarray:
  """The share that each fine cell has of its coarse one, float64 [cells].

  They are alike but for what stands out of the noise, by as much as it does (James & Stein 1961).

  Args:
    counts: float64 [cells], of all classes together, noisy.
    within: int64 [cells], the coarse cell of each.
    deviation: of the noise in each count.
  """
  sizes = np.bincount(within)
  level = (np.bincount(within, counts) / np.maximum(sizes, 1))[within]
  apart = counts - level
  energy = np.bincount(within, np.square(apart))[within]
  noise = (sizes[within] - 1) * deviation**2
  kept = np.maximum(0, 1 - noise / np.maximum(energy, 1e-9))
  found = np.maximum(np.maximum(level, 0) + kept * apart, 0)
  totals = np.bincount(within, found)[within]
  return np.where(totals > 0, found / np.maximum(totals, 1e-300), 1 / sizes[within])


@dataclasses.dataclass(frozen=True)
class Rows:
  """A mixture of products, and what values its cells hold.

  Attributes:
    encoding: of the table.
    mixture: of its coarse cells.
    shares: of each column, what each fine cell has of its coarse one.
  """

  encoding: TableEncoding
  mixture: Mixture
  shares: tuple[np.ndarray, ...]

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Rows float64 [n, C]."""
    rng, sizes = mixture.generator(key), self.encoding.sizes

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      own = labels[rows]
      return self._values(mixture.draw(self.mixture, sizes, own, rng), rng), own

    target = {len(sizes)}
    return enforce.drawn(self.encoding.schema.system, draw, len(labels), target, rng)[0]

  def draw_given(
    self, num: int, given: Mapping[int, float], label: int | None, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows float64 [num, C] that have some values, and their classes int64 [num].

    Args:
      num: how many.
      given: the value of a column, by its number.
      label: the class, if it is given.
      key: a typed key.

    Raises:
      InputError: values that no row of the model has together, or that break a constraint.
    """
    rng, sizes = mixture.generator(key), self.encoding.sizes
    cells = {c: int(self.encoding.coarse[c].of(np.array([v]))[0]) for c, v in given.items()}
    likely = mixture.condition(self.mixture, sizes, cells, label)
    if not likely.sum() > 0:
      raise _validate.InputError('expected values that some row has together, got none that has')

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      component, labels = np.divmod(
        mixture.pick(likely.ravel(), len(rows), rng), likely.shape[1]
      )
      drawn = self._values(mixture.draw_cells(self.mixture, sizes, component, rng), rng)
      for column, value in given.items():
        drawn[:, column] = value
      return drawn, labels

    fixed = {*given, *([len(sizes)] if label is not None else [])}
    return enforce.drawn(self.encoding.schema.system, draw, num, fixed, rng)

  def _values(self, found: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values float64 [n, C] in coarse cells int64 [n, C]."""
    values = np.empty(found.shape)
    for i, (fine, within) in enumerate(
      zip(self.encoding.fine, self.encoding.within, strict=True)
    ):
      shares = np.zeros((self.encoding.sizes[i], fine.count))
      shares[within, np.arange(fine.count)] = self.shares[i]
      cells = mixture.pick_in(shares, found[:, i], rng)
      values[:, i] = fine.value(cells, rng.random(len(cells)))
      # Noise may fill a coarse cell that no fine one lies in: of -1 to 5, what is between -1 and 0.
      alone = np.flatnonzero(shares.sum(axis=1)[found[:, i]] == 0)
      values[alone, i] = self.encoding.coarse[i].value(found[alone, i], rng.random(len(alone)))
    return values
