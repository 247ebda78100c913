"""Tables: noisy counts of all cells of each column, then of all pairs of cells of two columns.

A row is in one cell of each of C columns, so it moves one-way counts by √C and two-way counts by
√(C(C - 1)/2), in Euclidean norm (`privacy.releases.marginals`). A mixture of products is fitted to
both (`mixture`). Numbers come back anywhere within their cell.
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
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.moments import mixture
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.mixture import Counts, Mixture
from dpgan_jax.privacy.releases import marginals

_FEWEST_COMPONENTS, _MOST_COMPONENTS = 10, 300


@dataclasses.dataclass(frozen=True)
class TableEncoding:
  """Cells of the rows of a table, float64 [n, C].

  Attributes:
    schema: public.
    bins: intervals that numbers are cut into.
  """

  schema: Schema
  bins: int

  @functools.cached_property
  def cells(self) -> tuple[Cells, ...]:
    """Of each column."""
    return tuple(Cells(column, self.bins) for column in self.schema.modelled)

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """How many cells each column has."""
    return tuple(cells.count for cells in self.cells)

  @property
  def dim(self) -> int:
    """D, cells of all columns together."""
    return sum(self.sizes)

  @property
  def second_dim(self) -> int:
    """Every cell with every other."""
    return self.dim

  @property
  def prefixes(self) -> tuple[int, ...]:
    """All cells at once: columns have no order."""
    return (self.dim,)

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Rows float64 [n, C] → the cell in each column, int64 [n, C]."""
    return np.stack(
      [cells.of(values) for cells, values in zip(self.cells, records.T, strict=True)], axis=1
    )

  def release_sums(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """One-way counts; the number of rows is the mean over columns of their sums."""
    counts = marginals.release_one_way(
      codes, self.sizes, noise_multiplier=noise_multiplier, secret=secret, purpose=purpose
    )
    return counts.sum() / len(self.sizes), counts

  def release_products(
    self, codes: np.ndarray, label: int, means: Means, *, noise_multiplier: float, secret: bytes,
    purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Two-way counts."""
    del label, means
    return marginals.release_two_way(
      codes, self.sizes, noise_multiplier=noise_multiplier, secret=secret, purpose=purpose
    )

  def noise(self, noise_multiplier: float) -> tuple[float, float]:
    of_a_cell = noise_multiplier * math.sqrt(len(self.sizes))
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
    precision = 1.0
    if first > 0:  # how much smaller the noise of a one-way count is, as a variance
      precision = max(1.0, (second / first) ** 2 * (columns - 1) / 2)
    counts = Counts(self.sizes, means.sums, seconds, precision)
    # As many as rows that it takes to stand out of the noise of a two-way count.
    worth = counts.total / max(second * columns, 1e-300)
    components = int(np.clip(worth, _FEWEST_COMPONENTS, _MOST_COMPONENTS))
    return Rows(self, mixture.fit(counts, components))


@dataclasses.dataclass(frozen=True)
class Rows:
  """A mixture of products, and what values its cells hold.

  Attributes:
    encoding: of the table.
    mixture: of its cells.
  """

  encoding: TableEncoding
  mixture: Mixture

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Rows float64 [n, C]."""
    rng = _generator(key)
    return self._values(mixture.draw(self.mixture, self.encoding.sizes, labels, rng), rng)

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
      InputError: values that no row of the model has together.
    """
    rng, sizes = _generator(key), self.encoding.sizes
    cells = {c: int(self.encoding.cells[c].of(np.array([v]))[0]) for c, v in given.items()}
    likely = mixture.condition(self.mixture, sizes, cells, label)
    if not likely.sum() > 0:
      raise _validate.InputError('expected values that some row has together, got none that has')
    component, labels = np.divmod(mixture.pick(likely.ravel(), num, rng), likely.shape[1])
    rows = self._values(mixture.draw_cells(self.mixture, sizes, component, rng), rng)
    for column, value in given.items():
      rows[:, column] = value
    return rows, labels

  def _values(self, found: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.stack(
      [
        cells.value(column, rng.random(len(found)))
        for cells, column in zip(self.encoding.cells, found.T, strict=True)
      ],
      axis=1,
    )


def _generator(key: jax.Array) -> np.random.Generator:
  return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
