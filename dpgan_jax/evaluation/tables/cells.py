"""Two tables of one schema in the same public cells (`data.tables.cells`), and nothing else.

>>> from dpgan_jax.data.tables.schema import Column
>>> of(Column(name='age', kind='integer', lower=0, upper=180, nullable=True)).count
21
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column

BINS = 18


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


def of(column: Column) -> Cells:
  """The cells that scores are computed on."""
  return Cells(column, BINS)


def table(data: TableDataset) -> Table:
  """A whole table in cells."""
  columns = data.schema.modelled
  found = [of(c).of(v) for c, v in zip(columns, data.records.T, strict=True)]
  called, sizes = [c.name for c in columns], [of(c).count for c in columns]
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
