"""Public cells: what a table looks like once every value is one of few, by its schema alone.

Nothing here is read from data, so that two tables of one schema always share their cells:

* a category is a cell of its own;
* a column of numbers that can take at most `MOST_SINGLE` values has a cell for each of them;
* other numbers fall into `BINS` bins of equal width between the public bounds, beside the two
  bounds and zero, which are cells of their own (clipped values and empty amounts heap up there);
* what is missing is a cell too.

>>> from dpgan_jax.data.tables.schema import Column
>>> age = Column(name='age', kind='integer', lower=0, upper=160, nullable=True)
>>> codes(age, np.array([0, 1, 10, 159, 160, np.nan])).tolist(), count(age)
([0, 1, 2, 16, 17, 19], 20)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.schema import Column, TableDataset

BINS = 16
MOST_SINGLE = 20


class Table(NamedTuple):
  """A table in cells: the modelled columns, and after them the target, if there is one.

  Attributes:
    names: of the D columns.
    sizes: [D], how many cells each has.
    codes: int32 [N, D], column by column in memory.
  """

  names: tuple[str, ...]
  sizes: np.ndarray
  codes: np.ndarray


def count(column: Column) -> int:
  """How many cells a column has; the last of them is what is missing, whether it may be or not."""
  if column.is_category:
    return len(column.categories) + 1
  return (_singles(column) or BINS + 3) + 1


def codes(column: Column, values: np.ndarray) -> np.ndarray:
  """The cell of each value: int32 [n] of float64 [n]."""
  missing = np.isnan(values)
  present = np.where(missing, 0.0 if column.is_category else column.bounds[0], values)
  found = present.astype(np.int32) if column.is_category else _number_codes(column, present)
  found[missing] = count(column) - 1
  return found


def names(column: Column) -> list[str]:
  """What the cells are called in a picture, in their order."""
  if column.is_category:
    return [*column.categories, 'missing']
  low, high = column.bounds
  if singles := _singles(column):
    step = column.step or 1.0
    return [*(column.format(min(low + i * step, high)) for i in range(singles)), 'missing']
  edges = [column.format(_on_grid(column, e)) for e in np.linspace(low, high, BINS + 1)]
  return [
    f'= {edges[0]}', *(f'{a} to {b}' for a, b in itertools.pairwise(edges)),
    f'= {edges[-1]}', '= 0', 'missing',
  ]  # fmt: skip


def table(data: TableDataset) -> Table:
  """A whole table in cells."""
  columns = data.schema.modelled
  found = [codes(c, v) for c, v in zip(columns, data.records.T, strict=True)]
  called, sizes = [c.name for c in columns], [count(c) for c in columns]
  if data.schema.target is not None:
    found.append(data.labels)
    called.append(data.schema.target)
    sizes.append(data.num_classes)
  return Table(tuple(called), np.array(sizes), np.array(found, np.int32).T)


def require_same(*tables: TableDataset) -> None:
  """Refuses tables of differing columns, whose cells would not be the same.

  Raises:
    InputError: one line that names the first difference.
  """
  first = tables[0]
  for other in tables[1:]:
    if other.schema.target != first.schema.target:
      raise InputError(
        f'expected {other.name} to have the target of {first.name}, {first.schema.target!r}, got '
        f'{other.schema.target!r}'
      )
    ours, theirs = (_domain(t) for t in (first, other))
    if ours != theirs:
      differing = [n for n, d in ours.items() if theirs.get(n) != d] or sorted(theirs - ours.keys())
      raise InputError(
        f'expected the columns of {other.name} to be those of {first.name}: {differing[0]!r} '
        'differs'
      )
    if list(ours) != list(theirs):
      raise InputError(f'expected the columns of {other.name} in the order of {first.name}')


def _domain(data: TableDataset) -> dict[str, Sequence[object]]:
  """What decides on cells, by name of column."""
  target = data.schema.target
  columns = [*data.schema.modelled, *(c for c in data.schema.columns if c.name == target)]
  return {
    c.name: (c.kind, c.categories, c.bounds if c.is_number else (), c.is_number and c.step)
    for c in columns
  }


def _singles(column: Column) -> int | None:
  """How many values a column of numbers can take, if it is few of them."""
  low, high = column.bounds
  if low == high:
    return 1
  if column.step is None:
    return None
  many = math.ceil((high - low) / column.step - 1e-9) + 1
  return many if many <= MOST_SINGLE else None


def _number_codes(column: Column, values: np.ndarray) -> np.ndarray:
  low, high = column.bounds
  if singles := _singles(column):
    found = np.rint((values - low) / (column.step or 1.0)).astype(np.int32)
    return np.where(values == high, singles - 1, np.minimum(found, singles - 1)).astype(np.int32)
  found = np.floor((values - low) / (high - low) * BINS).clip(0, BINS - 1).astype(np.int32) + 1
  found[values == 0] = BINS + 2
  found[values == high] = BINS + 1
  found[values == low] = 0
  return found


def _on_grid(column: Column, value: float) -> float:
  return column.rounded(float(value)) if column.step is not None else float(f'{value:.6g}')
