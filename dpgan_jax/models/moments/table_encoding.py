"""Tables: a histogram of every column, then second moments of normal scores: a Gaussian copula.

The first release counts, of each class, how many records are in each cell of each column. From that
follow the column's distribution in the class and, for every cell, its normal score: the mean of a
standard normal within the cell's share. The second release is of products of scores, from which the
correlations of the normals behind follow (`copula`). A draw is correlated normals, each of which
falls into a cell of its column.

Sensitivity 1 in the first release: a record is in one cell of each of C columns, so it moves the
counts by √C. In the second: its scores are clipped to √C, their length on average.

Categories without an order of their own are put in the one that tells classes apart: by the
first axis of a correspondence analysis of released counts, which costs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import scipy.special

from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.moments import copula
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.privacy.releases import histograms


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
  def starts(self) -> np.ndarray:
    """Where among all cells those of each column begin, int64 [C + 1]; the last is `dim`."""
    return np.cumsum([0, *(cells.count for cells in self.cells)])

  @property
  def dim(self) -> int:
    """Cells of all columns together."""
    return int(self.starts[-1])

  @property
  def scores(self) -> int:
    """One a column."""
    return len(self.cells)

  @property
  def prefixes(self) -> tuple[int, ...]:
    """All cells at once: columns have no order."""
    return (self.dim,)

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Rows float64 [n, C] → the cells that they are in, int32 [n, C], each in [0, `dim`)."""
    codes = np.empty(records.shape, np.int32)
    for i, cells in enumerate(self.cells):
      codes[:, i] = cells.of(records[:, i]) + self.starts[i]
    return codes

  def release(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """The counts of all cells; the number of records is the mean over columns of their sums."""
    counts = histograms.release_histograms(
      codes, num_cells=self.dim, noise_multiplier=noise_multiplier, secret=secret, purpose=purpose
    )
    return counts.sum() / self.scores, counts

  def noise(self, noise_multiplier: float) -> tuple[float, float]:
    of_a_cell = noise_multiplier * math.sqrt(self.scores)
    return of_a_cell * math.sqrt(self.dim) / self.scores, of_a_cell

  def fitted(self, means: Means, noise_multiplier: float) -> TableScores:
    return TableScores(self, means, self.noise(noise_multiplier)[1])


@dataclasses.dataclass(frozen=True)
class TableScores:
  """Normal scores of the cells of each column, in each class.

  Attributes:
    encoding: of the table.
    means: the first release.
    deviation: of the noise in each of its counts.
  """

  encoding: TableEncoding
  means: Means
  deviation: float

  @property
  def dim(self) -> int:
    """One a column."""
    return self.encoding.scores

  @property
  def spread(self) -> float:
    """The length that scores have on average at most."""
    return math.sqrt(self.dim)

  @property
  def spectrum(self) -> np.ndarray:
    """All columns alike."""
    return np.ones(self.dim)

  @functools.cached_property
  def centres(self) -> np.ndarray:
    """The share of each cell of its column in each class, float64 [K, d]; ≥ 0."""
    starts = self.encoding.starts
    columns = [
      _shares(self.means.sums[:, a:b], self.means.counts, self.deviation)
      for a, b in itertools.pairwise(starts)
    ]
    return np.concatenate(columns, axis=1)

  def of(self, codes: np.ndarray, label: int) -> np.ndarray:
    by_cell = np.empty(self.encoding.dim)
    for start, column in zip(self.encoding.starts, self._columns[label], strict=False):
      by_cell[start + column.order] = column.scores
    return by_cell[codes]

  def variances(self, covariance: np.ndarray) -> np.ndarray:
    """Of being in a cell: p(1 - p)."""
    del covariance
    shares = np.maximum(self.means.counts, 0) / max(np.maximum(self.means.counts, 0).sum(), 1e-300)
    pooled = shares @ self.centres
    return pooled * (1 - pooled)

  def factor(self, covariance: np.ndarray, label: int) -> np.ndarray:
    return copula.factor(covariance, self._columns[label])

  def decode(self, draws: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Normals [n, C] → rows float64 [n, C]."""
    levels = scipy.special.ndtr(draws)
    records = np.empty(draws.shape)
    for k in np.unique(labels):
      own = np.flatnonzero(labels == k)
      for i, (cells, column) in enumerate(zip(self.encoding.cells, self._columns[k], strict=True)):
        found, places = column.at(levels[own, i])
        records[own, i] = cells.value(found, places)
    return records

  @functools.cached_property
  def _columns(self) -> list[list[copula.Marginal]]:
    """Of each class, the distribution of each column."""
    starts = self.encoding.starts
    orders = [
      self._order(cells, self.centres[:, a:b])
      for cells, a, b in zip(self.encoding.cells, starts, starts[1:], strict=False)
    ]
    return [
      [
        copula.Marginal(order, row[a:b][order])
        for order, a, b in zip(orders, starts, starts[1:], strict=False)
      ]
      for row in self.centres
    ]

  def _order(self, cells: Cells, shares: np.ndarray) -> np.ndarray:
    """The cells in the order of their scores, the same in every class."""
    if cells.column.is_ordered or len(shares) == 1:
      return np.arange(cells.count)
    weights = np.maximum(self.means.counts, 1.0)[:, np.newaxis]
    joint = weights * shares / weights.sum()
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    residuals = (joint - expected) / np.sqrt(np.maximum(expected, 1e-12))
    axis = np.linalg.svd(residuals, full_matrices=False)[2][0]
    return np.argsort(axis / np.sqrt(np.maximum(joint.sum(axis=0), 1e-12)), kind='stable')


def _shares(counts: np.ndarray, sizes: np.ndarray, deviation: float) -> np.ndarray:
  """Noisy counts of a column's cells in each class → shares float64 [K, cells].

  The shares of a class are drawn towards those of all classes together by as much as noise explains
  of what lies between (James & Stein 1961), and are the nearest that are none negative.

  Args:
    counts: float64 [K, cells].
    sizes: float64 [K], numbers of records.
    deviation: of the noise in each count.
  """
  sizes = np.maximum(sizes, 1.0)
  pooled = _on_simplex(counts.sum(axis=0) / sizes.sum())
  shares = []
  for own, size in zip(counts, sizes, strict=True):
    apart = own / size - pooled
    noise = len(own) * (deviation / size) ** 2
    kept = max(0.0, 1 - noise / max(apart @ apart, 1e-300))
    shares.append(_on_simplex(pooled + kept * apart))
  return np.stack(shares)


def _on_simplex(values: np.ndarray) -> np.ndarray:
  """The nearest shares: ≥ 0, their sum 1 (Duchi et al. 2008, figure 1)."""
  ordered = np.sort(values)[::-1]
  above = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
  return np.maximum(values - above[np.flatnonzero(ordered > above)[-1]], 0)
