"""The public cells that a column's values are counted in, and what a cell's values are.

A category is a cell. Numbers lie between public bounds: both bounds, and zero between them, are
cells of their own, since values heap up there; the rest is cut into intervals of one width. Where
there are no more numbers than cells then, each is one. A missing value has the first cell.

>>> cells = Cells(Column(name='hours', kind='integer', lower=0, upper=80, nullable=True), 4)
>>> cells.names
('missing', '0', '0 to 20', '20 to 40', '40 to 60', '60 to 80', '80')
>>> cells.of(np.array([np.nan, 0, 7, 20, 80])).tolist()
[0, 1, 2, 3, 6]
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

from dpgan_jax.data.tables.schema import Column


@dataclasses.dataclass(frozen=True)
class Cells:
  """The cells of one column.

  Attributes:
    column: public.
    bins: intervals that numbers are cut into, ≥ 1.
  """

  column: Column
  bins: int

  @property
  def count(self) -> int:
    """How many cells there are."""
    values = self.column.categories if self.column.is_category else self._ends[0]
    return len(values) + int(self.column.nullable)

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """What each cell holds, in words."""
    missing = ('missing',) if self.column.nullable else ()
    if self.column.is_category:
      return (*missing, *self.column.categories)
    low, high = self._ends
    said = ((self.column.format(a), self.column.format(b)) for a, b in zip(low, high, strict=True))
    return (*missing, *(a if a == b else f'{a} to {b}' for a, b in said))

  def of(self, values: np.ndarray) -> np.ndarray:
    """The cell of each value, int64 [n].

    Args:
      values: float64 [n], within the column's domain; NaN is missing.
    """
    first, missing = int(self.column.nullable), np.isnan(values)
    present = np.where(missing, self.column.bounds[0] if self.column.is_number else 0, values)
    if self.column.is_category:
      return np.where(missing, 0, present.astype(np.int64) + first)
    low, high = self._ends
    present = self._snapped(present)
    if self._points is not None:  # the bound may lie off the grid, between two of its points
      found = np.rint((present - low[0]) / (self.column.step or 1.0)).astype(np.int64)
      found = np.where(present == high[-1], self._points - 1, np.minimum(found, self._points - 1))
      return np.where(missing, 0, found + first)
    found = np.searchsorted(low, present, side='right') - 1
    # A single number and the interval that begins with it have the same lower end.
    at_point = (found > 0) & (present == low[found]) & (low[found - 1] == high[found - 1])
    at_point &= low[found - 1] == low[found]
    return np.where(missing, 0, found - at_point + first)

  @functools.cached_property
  def middles(self) -> np.ndarray:
    """The middle of each cell, float64 [cells]; NaN of what is missing."""
    missing = [np.nan] if self.column.nullable else []
    if self.column.is_category:
      return np.append(missing, np.arange(len(self.column.categories)))
    low, high = self._ends
    return np.append(missing, (low + high) / 2)

  def value(self, cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A value of each cell, float64 [n]; NaN is missing.

    Args:
      cells: int64 [n].
      places: float64 [n] in [0, 1], where in its cell the value lies.
    """
    column = self.column
    first = int(column.nullable)
    inner = np.maximum(cells - first, 0)
    if column.is_category:
      values = inner.astype(np.float64)
    else:
      low, high = self._ends
      values = low[inner] + (high[inner] - low[inner]) * places
      if column.step is not None and self._points is None:
        begins, many = self._steps
        steps = begins[inner] + np.minimum(np.floor(places * many[inner]), many[inner] - 1)
        values = column.bounds[0] + steps * column.step
      values = np.clip(values, *column.bounds)
    return np.where(cells < first, np.nan, values)

  @functools.cached_property
  def _steps(self) -> tuple[np.ndarray, np.ndarray]:
    """Of each cell, its first step from the lower bound, and how many are in it: ≥ 1.

    Each is as likely as another: of a place that is rounded, many lie in the next cell.
    """
    low, high = self._ends
    begins, ends = ((end - low[0]) / (self.column.step or 1.0) for end in (low, high))
    behind_a_point = np.append(False, (low[1:] == low[:-1]) & (low[:-1] == high[:-1]))
    first = np.where(behind_a_point, np.floor(begins + 1e-6) + 1, np.ceil(begins - 1e-6))
    last = np.ceil(ends - 1e-6) - 1
    nothing = last < first  # a single number; zero may cut an interval shorter than a step
    first = np.where(nothing, np.rint((begins + ends) / 2), first)
    return first, np.where(nothing, 1, last - first + 1)

  def _snapped(self, present: np.ndarray) -> np.ndarray:
    """Zero and the upper bound where steps from the lower bound miss them by a rounding error:
    -0.3 + 3·0.1 is not 0.
    """
    low, high = self.column.bounds
    if self.column.step is None:
      return present
    for point in (0.0, high) if low < 0 < high else (high,):
      present = np.where(np.abs(present - point) < 1e-6 * self.column.step, point, present)
    return present

  @functools.cached_property
  def _points(self) -> int | None:
    """How many numbers there are, if it is so few that each is a cell."""
    (low, high), step = self.column.bounds, self.column.step
    if low == high:
      return 1
    many = math.inf if step is None else math.ceil((high - low) / step - 1e-9) + 1
    return int(many) if many <= self.bins + 2 else None

  @functools.cached_property
  def _ends(self) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of each cell of numbers; of a single number they are equal."""
    low, high = self.column.bounds
    if self._points is not None:
      points = np.append(low + np.arange(self._points - 1) * (self.column.step or 1.0), high)
      return points, points
    edges = np.linspace(low, high, self.bins + 1)
    points = {low, high}
    if low < 0 < high and self.column.kind in ('integer', 'real'):
      near = np.abs(edges) < 1e-9 * (high - low)  # -0.3 + 3·0.1
      near[[0, -1]] = False  # bounds stay, however near
      edges, points = np.unique(np.append(edges[~near], 0.0)), {low, 0.0, high}
    ends = [(a, b) for a, b in itertools.pairwise(edges)] + [(p, p) for p in points]
    lower, upper = zip(*sorted(ends), strict=True)
    return np.array(lower), np.array(upper)
