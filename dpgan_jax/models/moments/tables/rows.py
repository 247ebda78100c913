"""Rows of a table: a coarse cell of each column, in it a fine one, by its share in the class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.constraints import enforce
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.moments.tables import mixture, pairwise
from dpgan_jax.models.moments.tables.mixture import Mixture
from dpgan_jax.models.moments.tables.pairwise import Pairwise


@dataclasses.dataclass(frozen=True)
class Rows:
  """What coarse cells go together, and what values they hold.

  Attributes:
    schema: of the table.
    fine: fine cells of each column.
    within: of each column, the coarse cell that each fine one lies in, int64 [cells].
    mixture: of coarse cells, where rows begin.
    pairwise: what they then move by, unless cells are too many.
    shares: of each column, what each fine cell has of its coarse one in each class, float64
      [K, cells].
  """

  schema: Schema
  fine: tuple[Cells, ...]
  within: tuple[np.ndarray, ...]
  mixture: Mixture
  pairwise: Pairwise | None
  shares: tuple[np.ndarray, ...]

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """How many coarse cells each column has."""
    return tuple(int(within[-1]) + 1 for within in self.within)

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Rows float64 [n, C]."""
    rng, sizes = mixture.generator(key), self.sizes

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      own = labels[rows]
      begun = mixture.draw(self.mixture, sizes, own, rng)
      return self._values(pairwise.move(self.pairwise, sizes, begun, own, rng), own, rng), own

    target = {len(sizes)}
    return enforce.drawn(self.schema.system, draw, len(labels), target, rng)[0]

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
    rng, sizes = mixture.generator(key), self.sizes
    cells = {
      c: int(self.within[c][self.fine[c].of(np.array([v]))[0]]) for c, v in given.items()
    }
    likely = mixture.condition(self.mixture, sizes, cells, label)
    if not likely.sum() > 0:
      raise _validate.InputError('expected values that some row has together, got none that has')

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      component, labels = np.divmod(
        mixture.pick(likely.ravel(), len(rows), rng), likely.shape[1]
      )
      begun = mixture.draw_cells(self.mixture, sizes, component, rng)
      for column, cell in cells.items():
        begun[:, column] = cell
      moved = pairwise.move(self.pairwise, sizes, begun, labels, rng, fixed=cells)
      drawn = self._values(moved, labels, rng)
      for column, value in given.items():
        drawn[:, column] = value
      return drawn, labels

    fixed = {*given, *([len(sizes)] if label is not None else [])}
    return enforce.drawn(self.schema.system, draw, num, fixed, rng)

  def _values(
    self, found: np.ndarray, labels: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """Values float64 [n, C] in coarse cells int64 [n, C] of rows of classes int [n]."""
    values = np.empty(found.shape)
    for i, (fine, within) in enumerate(zip(self.fine, self.within, strict=True)):
      cells = found[:, i]
      if self.sizes[i] < fine.count:
        shares = np.zeros((len(self.shares[i]), self.sizes[i], fine.count))
        shares[:, within, np.arange(fine.count)] = self.shares[i]
        place = labels * self.sizes[i] + cells
        cells = mixture.pick_in(shares.reshape(-1, fine.count), place, rng)
      values[:, i] = fine.value(cells, rng.random(len(cells)))
    return values
