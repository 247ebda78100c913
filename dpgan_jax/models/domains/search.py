"""Finds bounds, categories, resolutions and whether values are missing, of an open table.

One mechanism (`SelectionMechanism`). A record counts with one row, of a person the one whose hash
is least, and adds 1 to one cell of each histogram below, and nothing else: H of them move all
counts by √H in Euclidean norm, however many rows a person has and however many cells there are.

| of a column | histograms |
| --- | --- |
| of numbers whose bounds are open | two: public cells, then cells within what these have shown |
| of real numbers whose resolution is open | one: how many decimals a value is written with |
| whose categories are open | one: its values (`privacy.releases.selection`), or missing |
| of which only missing values are open | one: missing, or not |

The second of the two is chosen by the first, noise included: Gaussian releases compose to one,
whether or not later ones are chosen by earlier ones. All else is computed from noisy counts.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from dpgan_jax.data.tables.files.open import OTHER, OpenTable
from dpgan_jax.data.tables.schema import MOST_CATEGORIES, Column, Schema
from dpgan_jax.data.tables.values import LARGEST
from dpgan_jax.models.domains import grid
from dpgan_jax.privacy.releases import marginals, selection
from dpgan_jax.privacy.releases.selection import SelectionMechanism

_MOST_DECIMALS = 6  # of a resolution; numbers with more have none
_BOUNDS = {'lower', 'upper'}


def histograms(column: Column) -> int:
  """How many cells a record adds 1 to, of this column."""
  found = set(column.found)
  of_values = 2 * bool(found & _BOUNDS) + ('categories' in found)
  missing_alone = bool(found & {'nullable', 'missing'}) and not of_values
  return of_values + ('resolution' in found) + missing_alone


def squared_sensitivity(schema: Schema) -> int:
  """H: the square of the distance by which a record moves all counts."""
  return sum(histograms(column) for column in schema.columns)


def _columns(schema: Schema) -> int:
  """How many columns have categories to be found."""
  return max(1, sum('categories' in column.found for column in schema.columns))


def least(schema: Schema, mechanism: SelectionMechanism) -> float:
  """The noisy count from which on a category is named."""
  return selection.threshold(
    mechanism.noise_multiplier, squared_sensitivity(schema), mechanism.selection_delta,
    _columns(schema),
  )  # fmt: skip


def find(table: OpenTable, mechanism: SelectionMechanism, secret: bytes) -> Schema:
  """The schema of a table, with everything that was open; charged before it is called.

  Args:
    table: private.
    mechanism: σ, and the δ of values that are named.
    secret: 32 bytes that the noise follows from.
  """
  search = _Search(table, mechanism, squared_sensitivity(table.schema), secret)
  columns = tuple(search.column(c) if c.found else c for c in table.schema.columns)
  target = next((c for c in columns if c.name == table.schema.target), None)
  learnt = target is not None and len(target.categories) > 1  # else there are no classes to learn
  return dataclasses.replace(
    table.schema, columns=columns, target=table.schema.target if learnt else None
  )


@dataclasses.dataclass(frozen=True)
class _Search:
  """One use of the mechanism: counts, each with noise of deviation σ√H."""

  table: OpenTable
  mechanism: SelectionMechanism
  squared: int
  secret: bytes

  @property
  def deviation(self) -> float:
    """Of the noise in a count."""
    return self.mechanism.noise_multiplier * math.sqrt(self.squared)

  def counts(self, codes: np.ndarray, size: int, purpose: str) -> np.ndarray:
    """How many records have each code, int [n] in [0, size), with noise: float64 [size]."""
    return marginals.with_noise(
      np.bincount(codes, minlength=size), self.mechanism.noise_multiplier, self.squared,
      self.secret, f'schema {purpose}',
    )  # fmt: skip

  def column(self, column: Column) -> Column:
    """The column with what is found."""
    if 'categories' in column.found:
      changes, missing = self._categories(column)
    elif _BOUNDS & set(column.found):
      changes, missing = self._bounds(column)
    else:
      changes, missing = self._resolution(column), 0.0
      if 'nullable' in column.found:
        absent = self._rows(self.table.text(column.name).codes < 0)
        missing = self.counts(absent.astype(np.int64), 2, f'missing {column.name!r}')[1]
    if 'nullable' in column.found:
      changes['nullable'] = bool(missing > self.deviation)
    return dataclasses.replace(column, **changes)

  def _rows(self, values: np.ndarray) -> np.ndarray:
    """One of each record."""
    return values[self.table.first_rows]

  # --- numbers -----------------------------------------------------------------------------------

  def _bounds(self, column: Column) -> tuple[dict[str, Any], float]:
    """Bounds and resolution, and the noisy number of missing values."""
    name, values = column.name, self._rows(self.table.numbers(column.name))
    edges = grid.first_edges(column)
    size = len(edges)  # one more than cells: what is missing
    counts = self.counts(grid.cells(values, edges), size, f'numbers {name!r}')
    most_likely = int(np.argmax(counts[:-1]))
    first, last = grid.occupied(counts[:-1], self.deviation) or (most_likely, most_likely)
    edges = grid.second_edges(column, float(edges[first]), float(edges[last + 1]))
    within = self.counts(grid.cells(values, edges), len(edges), f'within {name!r}')
    first, last = grid.trimmed(within[:-1], self.deviation)
    resolution = self._resolution(column)
    step = resolution.get('resolution', column.resolution)
    low, high = _outwards(column, float(edges[first]), float(edges[last + 1]), step)
    if step is not None and high - low > LARGEST * min(step, 1):
      resolution['resolution'] = None
    bounds = {'lower': _written(column, low), 'upper': _written(column, high)}
    found = {n: bounds[n] for n in _BOUNDS & set(column.found)}
    return {**resolution, **found}, float(counts[-1])

  def _resolution(self, column: Column) -> dict[str, Any]:
    """The fewest decimals beyond which there is about noise; None: more than can be said."""
    if 'resolution' not in column.found:
      return {}
    text = self.table.text(column.name)
    decimals = np.array([*map(_decimals, text.texts.to_pylist()), _MOST_DECIMALS + 2])
    codes = self._rows(decimals[text.codes])
    size = _MOST_DECIMALS + 3
    counts = self.counts(codes, size, f'decimals {column.name!r}')[:-1]
    beyond = np.cumsum(counts[::-1])[::-1]  # with d decimals and more
    noise = self.deviation * np.sqrt(np.arange(len(beyond), 0, -1))
    enough = [d for d in range(_MOST_DECIMALS + 1) if beyond[d + 1] <= noise[d + 1]]
    return {'resolution': float(f'1e-{enough[0]}') if enough else None}

  # --- categories --------------------------------------------------------------------------------

  def _categories(self, column: Column) -> tuple[dict[str, Any], float]:
    """Categories, and the noisy number of missing values."""
    text = self.table.text(column.name)
    codes, written = self._rows(text.codes), text.texts.to_pylist()
    named = selection.release_named(
      codes[codes >= 0], len(written), mechanism=self.mechanism, squared_sensitivity=self.squared,
      columns=_columns(self.table.schema), secret=self.secret, purpose=f'schema {column.name!r}',
    )  # fmt: skip
    missing = self.counts(codes[codes < 0] + 1, 1, f'missing {column.name!r}')[0]
    most = 2 if column.kind == 'boolean' else MOST_CATEGORIES - 1
    largest = sorted(named, key=lambda code: -named[code])[:most]
    names = sorted((written[code] for code in largest), key=lambda name: (name.casefold(), name))
    kind = 'categorical' if column.kind == 'boolean' and len(names) < 2 else column.kind
    # N is public. What is left of it is of other categories, or noise; where it is, rows of others
    # count as of the first category (`OpenTable.closed`).
    left = self.table.spec.num_records - sum(named[code] for code in largest) - missing
    if names and left <= self.deviation * math.sqrt(len(names) + 1):
      return {'kind': kind, 'categories': tuple(names), 'outside': 'refuse'}, missing
    names = [name for name in names if name != OTHER]
    if kind == 'boolean':  # it has no others
      return {'categories': tuple(names)}, missing
    return {'kind': kind, 'categories': (*names, OTHER), 'outside': 'other'}, missing


def _decimals(text: str) -> int:
  """How many decimals a number is written with, zeros at the end aside; many: one more than most.
  """
  if 'e' in text.lower():
    return _MOST_DECIMALS + 1
  return min(len(text.strip().partition('.')[2].rstrip('0')), _MOST_DECIMALS + 1)


def _outwards(column: Column, low: float, high: float, step: float | None) -> tuple[float, float]:
  """Bounds that are whole steps, no narrower than [low, high); within what is known of them."""
  if column.kind != 'real':
    step = step or 1
    high -= 1
  if step is not None:
    # Divided by its inverse, a power of ten: 0.1 is none that float64 holds.
    per = round(1 / step) if step < 1 else 1 / step
    low, high = math.floor(low * per) / per, math.ceil(high * per) / per
  least, most = column.bounds
  return max(low, least), min(max(high, low), most)


def _written(column: Column, value: float) -> float | str:
  if column.kind in ('date', 'datetime'):
    return column.format(value)
  return int(value) if column.kind == 'integer' else value
