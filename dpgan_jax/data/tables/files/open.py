"""Tables of which bounds and categories are still to be found, with privacy, by the run itself.

What a draft has read from the data has no part in it: `opened` takes it out of the schema, and what
is left is as public as names and kinds of columns are. Values are kept as texts until the run has
found what each column may hold (`OpenTable.closed`). What does not fit that is then clipped, or
becomes `other`.

>>> drafted = Schema(columns=(
...   Column(name='age', kind='integer', lower=17, upper=903, drafted=('lower', 'upper')),))
>>> opened(drafted).columns[0].bounds
(-4503599627370496.0, 4503599627370496.0)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.spec import ALL_ROWS, Spec, fingerprint
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read
from dpgan_jax.data.tables.files.text import TextColumn, TextTable
from dpgan_jax.data.tables.schema import DRAFTED, Column, Schema, is_text

OTHER = 'other'
WIDEST = 2.0**52  # numbers farther from zero count as this
_DATES = {
  'date': ('0001-01-01', '9999-12-31'),
  'datetime': ('0001-01-01T00:00:00', '9999-12-31T23:59:59'),
}


def opened(schema: Schema) -> Schema:
  """The schema without anything that was read from the data and not confirmed.

  Which entries are open follows from kinds and from what the owner confirmed, and so do the
  placeholders in them: the widest bounds, two made-up categories, missing values allowed.

  Raises:
    InputError: nothing is open, or constraints, which need to know what columns hold.
  """
  columns = tuple(
    _opened(c, schema.declared_public, is_target=c.name == schema.target) for c in schema.columns
  )
  if not any(column.found for column in columns):
    raise InputError(
      'expected entries that were drafted with schema_epsilon, got a schema that is confirmed: '
      'leave schema_epsilon out'
    )
  if schema.constraints:
    raise InputError(
      'expected no constraints with schema_epsilon: whether they can be held is not known before '
      'bounds and categories are'
    )
  return dataclasses.replace(schema, columns=columns)


def _opened(column: Column, confirmed: bool, *, is_target: bool) -> Column:
  read_from_data = {*column.found, *(() if confirmed else column.drafted)}
  if not read_from_data or column.kind == 'id':
    return column
  changes: dict[str, Any] = {}
  if column.is_category and 'categories' in read_from_data:
    boolean = column.kind == 'boolean'
    changes['categories'] = ('false', 'true') if boolean else (OTHER, 'unknown')
    changes['outside'] = 'refuse' if boolean else 'other'
  if column.is_number and read_from_data & {'lower', 'upper'}:
    changes['outside'] = 'clip'
    # A draft says nothing of a resolution that it has not found: that is read from the data too.
    if column.kind == 'real' and ('resolution' in read_from_data or column.resolution is None):
      changes['resolution'] = None
    step = changes.get('resolution', column.resolution) or 1.0
    most = WIDEST * min(step, 1.0)
    ends = _DATES.get(column.kind, (-most, most))
    changes |= {n: end for n, end in zip(('lower', 'upper'), ends, strict=True)
                if n in read_from_data}  # fmt: skip
  elif column.kind == 'real' and 'resolution' in read_from_data:
    changes['resolution'] = None
  if read_from_data & {'nullable', 'missing'} and not is_target:  # which is never missing
    changes |= {'nullable': True, 'missing': ''}
  found = tuple(name for name in DRAFTED if name in changes)
  return dataclasses.replace(column, drafted=(), found=found, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OpenTable:
  """A table that has passed every check but those of bounds and categories that are to be found.

  Attributes:
    columns: of all columns but identifiers, in the schema's order; what is missing has the code -1.
    schema: as `opened` makes it: public.
    name, persons, partial, notes: as of `TableDataset`.
    where: what messages call the table.
  """

  columns: tuple[TextColumn, ...] = dataclasses.field(repr=False)
  schema: Schema
  name: str
  where: str
  persons: np.ndarray | None = dataclasses.field(default=None, repr=False)
  partial: bool = False
  notes: tuple[str, ...] = dataclasses.field(default=(), repr=False)

  class_names = ALL_ROWS

  def __len__(self) -> int:
    return len(self.columns[0].codes)

  @property
  def unit(self) -> str:
    """What a record is called."""
    return self.schema.unit

  @property
  def labels(self) -> np.ndarray:
    """Zeros int32 [N]: classes are not known yet."""
    return np.zeros(len(self), np.int32)

  @functools.cached_property
  def hashes(self) -> np.ndarray:
    """What each row holds, uint64 [N, C]: a hash of each text, which knows of no other row."""
    return np.stack([_hashes(column) for column in self.columns], axis=1)

  @property
  def content(self) -> np.ndarray:
    """As of `TableDataset`."""
    if self.persons is not None:
      return self.persons
    alike = persons.ordinals(persons.keys(self.hashes)).astype(np.uint64)
    return np.column_stack([self.hashes, alike])

  @functools.cached_property
  def first_rows(self) -> np.ndarray:
    """One row of each record, bool [N]: of a person the one whose hash is least."""
    if self.persons is None:
      return np.ones(len(self), bool)
    return persons.kept(self.persons, self.hashes, 1)

  def part(self, chosen: np.ndarray, *, partial: bool) -> OpenTable:
    """As of `TableDataset`."""
    columns = tuple(dataclasses.replace(c, codes=c.codes[chosen]) for c in self.columns)
    whose = None if self.persons is None else self.persons[chosen]
    return dataclasses.replace(self, columns=columns, persons=whose, partial=partial)

  @property
  def spec(self) -> Spec:
    """What is public of this table."""
    count = len(self) if self.persons is None else persons.count(self.persons)
    return Spec.of_schema(self.schema, num_records=count, name=self.name)

  def fingerprint(self) -> str:
    """A private hash of rows and persons."""
    whose = () if self.persons is None else (self.persons,)
    return fingerprint(self.hashes, *whose)

  def numbers(self, name: str) -> np.ndarray:
    """Values of an open column of numbers, float64 [N], within the widest bounds; NaN is missing.
    """
    column = next(c for c in self.schema.columns if c.name == name)
    return read.encode(self.where, column, self.text(name), [])

  def text(self, name: str) -> TextColumn:
    """The column of this name."""
    return next(column for column in self.columns if column.name == name)

  def closed(self, schema: Schema) -> TableDataset:
    """The table as a schema describes it, whose bounds and categories are found."""
    notes = list(self.notes)
    known = [column for column in schema.columns if column.kind != 'id']
    records, labels, _ = read.matrix(
      schema,
      ((c, read.encode(self.where, c, _filled(c, self.text(c.name)), notes)) for c in known),
    )
    return TableDataset(
      records=records, labels=labels, schema=schema, name=self.name, persons=self.persons,
      partial=self.partial, notes=tuple(notes),
    )  # fmt: skip


def read_open(source: Any, schema: Schema, *, name: str = 'table') -> OpenTable:
  """Reads a table of whose columns bounds and categories are still to be found.

  Texts in `read.MISSING` are missing values wherever it is open how those are written.

  Args:
    source, name: as of `read.read_table`.
    schema: a draft.

  Raises:
    InputError: as of `read.read_table` and `opened`.
  """
  schema = opened(schema)
  table, notes = TextTable(source), []
  read.require_columns(table, schema)
  known = [column for column in schema.columns if column.kind != 'id']
  texts = table.columns([column.name for column in known])
  found = OpenTable(
    columns=tuple(_checked(table.where, c, text) for c, text in zip(known, texts, strict=True)),
    schema=schema, name=name, where=table.where,
  )  # fmt: skip
  if schema.unit_column is None:
    return found
  whose = read.read_persons(table, schema.unit_column)
  chosen = read.kept_rows(whose, found.hashes, schema, notes)
  return dataclasses.replace(
    dataclasses.replace(found, persons=whose).part(chosen, partial=False), notes=tuple(notes)
  )


def _checked(where: str, column: Column, text: TextColumn) -> TextColumn:
  """The column's texts, each known to be one; -1 where a value is missing."""
  written = text.texts.to_pylist()
  markers = read.MISSING if 'missing' in column.found else (column.missing,) * column.nullable
  is_missing = np.append([each in markers for each in written], True)
  text = dataclasses.replace(
    text, codes=np.where(is_missing[text.codes], -1, text.codes).astype(np.int32)
  )
  if 'categories' not in column.found:
    read.encode(where, column, text, [])  # refuses what is none of the kind
    return text
  held = [written[code] for code in np.unique(text.codes[text.codes >= 0])]
  bad = [each for each in held if not is_text(each)]
  if bad or (column.kind == 'boolean' and len(held) > 2):
    wanted = 'text of a category' if bad else 'at most two values of a boolean'
    raise InputError(f'{where}: column {column.name!r}: expected {wanted}, got {bad or held[:3]!r}')
  if not column.nullable and (text.codes < 0).any():
    row = np.flatnonzero(text.codes < 0)[0] + 1
    raise InputError(f'{where}: column {column.name!r}, row {row}: expected a value, got none')
  return text


def _filled(column: Column, text: TextColumn) -> TextColumn:
  """With a public value in the place of what is so rare that the column is found to have none of
  it: a missing value, or a category.
  """
  written, known = text.texts.to_pylist(), set(column.categories)
  gone = np.zeros(len(written) + 1, bool)  # the last is what is missing
  gone[-1] = not column.nullable
  if 'categories' in column.found and column.outside == 'refuse':
    gone[:-1] = [each not in known for each in written]
  if not gone[text.codes].any():
    return text
  import pyarrow as pa

  if column.is_category:
    value = OTHER if OTHER in known else column.categories[0]
  else:
    value = column.format(column.rounded(sum(column.bounds) / 2))
  codes = np.where(gone[text.codes], len(written), text.codes).astype(np.int32)
  return dataclasses.replace(text, texts=pa.array([*written, value]), codes=codes)


def _hashes(column: TextColumn) -> np.ndarray:
  of_texts = [
    int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big')
    for text in column.texts.to_pylist()
  ]
  return np.array([*of_texts, 0], np.uint64)[column.codes]  # the last is what is missing
