"""Tables in: every value checked against the schema, and turned into the numbers of a matrix.

Nothing is guessed: a value that its column does not know is refused, or becomes what the column's
`outside` says, which is counted in the notes. Messages quote a value of the table: they are for its
owner's terminal.

>>> from dpgan_jax.data.tables.schema import Column, Schema
>>> schema = Schema(columns=(
...   Column(name='plz', kind='categorical', categories=('01067', '50667')),
...   Column(name='age', kind='integer', lower=0, upper=120, nullable=True),
... ))
>>> read_table({'age': ['41', ''], 'plz': ['50667', '01067']}, schema).records.tolist()
[[1.0, 41.0], [0.0, nan]]
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.constraints.system import on_grid
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files.text import TextColumn, TextTable, compute
from dpgan_jax.data.tables.schema import Column, Schema

MISSING = ('', 'NA', 'N/A', '?', 'nan', 'NaN', 'NULL', 'null')
"""How people write that a value is missing."""

# What Arrow and Python read as the same number: both round exactly. Longer whole numbers may not be
# those that float64 holds, which `Column.parse` looks at.
_PLAIN = r'^-?[0-9]{1,15}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?$'
_PLAIN_TIME = r'^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2})?$'


def read_table(
  source: Any, schema: Schema, *, name: str = 'table', partial: bool = False
) -> TableDataset:
  """Reads a table that a schema describes.

  Args:
    source: a CSV or Parquet file, or a frame (`text.TextTable`). Its columns are those of the
      schema, in any order. Of identifiers only the names are read, but for persons, of whom rows
      beyond `schema.max_rows_per_unit` are left out (`persons.kept`). In Parquet and frames nulls
      are missing, whatever `Column.missing` says, and so are NaN.
    schema: what the columns hold.
    name: what the data are called in messages and reports.
    partial: as in `TableDataset`.

  Raises:
    InputError: no such table, other columns, or a value out of its domain, naming file, column and
      row. Rows are counted from 1, the header not counted.
  """
  table, notes = TextTable(source), []
  require_columns(table, schema)
  read = [c for c in schema.columns if c.kind != 'id']
  found = table.columns([column.name for column in read])
  records, labels, derived = matrix(
    schema,
    ((c, encode(table.where, c, text, notes)) for c, text in zip(read, found, strict=True)),
  )
  notes += _broken(schema, records, labels, derived)
  whose = None
  if schema.unit_column is not None:
    whose = read_persons(table, schema.unit_column)
    rows = np.column_stack([records, labels])
    chosen = kept_rows(whose, rows, schema, notes)
    records, labels, whose = records[chosen], labels[chosen], whose[chosen]
  return TableDataset(
    records=records, labels=labels, schema=schema, name=name, partial=partial, notes=tuple(notes),
    persons=whose,
  )  # fmt: skip


def matrix(
  schema: Schema, columns: Iterable[tuple[Column, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
  """Records float64 [N, C], classes int32 [N], and columns that are derived, of all columns with
  their values float64 [N].
  """
  place = {column.name: number for number, column in enumerate(schema.modelled)}
  records, labels = np.empty((0, 0)), np.zeros(0, np.int32)
  derived: dict[str, np.ndarray] = {}
  for column, values in columns:
    if not records.size:
      records = np.empty((len(values), len(place)))
      labels = np.zeros(len(values), np.int32)
    if column.name in place:
      records[:, place[column.name]] = values
    elif column.name in schema.system.derived:
      derived[column.name] = values
    else:
      labels = values.astype(np.int32)
  return records, labels, derived


def kept_rows(whose: np.ndarray, rows: np.ndarray, schema: Schema, notes: list[str]) -> np.ndarray:
  """Which rows of persons count, bool [N]; how many do not is added to `notes`."""
  chosen = persons.kept(whose, rows, schema.rows_per_unit)
  if left := int((~chosen).sum()):
    notes.append(f'{left:,} rows are left out: beyond {schema.rows_per_unit} of a person')
  return chosen


def read_persons(table: TextTable, name: str) -> np.ndarray:
  """Whose each row is."""
  (column,) = table.columns([name])
  names, codes = owners(table.where, column, 'person')
  return persons.digests(names)[codes]


def owners(where: str, column: TextColumn, unit: str) -> tuple[list[str], np.ndarray]:
  """The names of whose rows these are, and int [N], which of them each row has.

  A name is one however Unicode writes it (an umlaut as one character or as two).

  Raises:
    InputError: a row of nobody: all such rows would be taken for those of one `unit`.
  """
  texts = column.texts.to_pylist()
  nobody = np.append([text.strip() in MISSING for text in texts], True)[column.codes]
  if nobody.any():
    raise InputError(
      f'{where}: column {column.name!r}, row {np.flatnonzero(nobody)[0] + 1}: expected every row '
      f'to name its {unit}, got a missing value'
    )
  numbers: dict[str, int] = {}
  own = [numbers.setdefault(unicodedata.normalize('NFC', text), len(numbers)) for text in texts]
  return list(numbers), np.array(own)[column.codes]


def _broken(
  schema: Schema, records: np.ndarray, labels: np.ndarray, derived: Mapping[str, np.ndarray]
) -> list[str]:
  """How many rows break each constraint: they are read as they are."""
  wrong = schema.system.failing(schema.system.joined(records, labels))
  for name, computed in schema.system.derived_of(records).items():
    found = schema.system.derived[name].written(derived[name])
    differ = (found != computed) & ~(np.isnan(found) & np.isnan(computed))
    wrong[f'{name}, which is derived'] = differ
  return [
    f'{int(rows.sum()):,} rows break {source}: they count as they are, and samples will not'
    for source, rows in wrong.items()
    if rows.any()
  ]


def require_columns(table: TextTable, schema: Schema) -> None:
  """Refuses a table with other columns than the schema's, naming them.

  Raises:
    InputError: as it says.
  """
  known = [column.name for column in schema.columns]
  missing = [name for name in known if name not in set(table.names)]
  extra = [name for name in table.names if name not in set(known)]
  if not missing and not extra:
    return
  parts = []
  if missing:
    parts.append(f'column {_listed(missing)} of the schema is not there')
  if extra:
    parts.append(f'column {_listed(extra)} is not in the schema')
  close = difflib.get_close_matches(missing[0], extra, n=1) if missing and extra else []
  hint = f' (is {close[0]!r} meant to be {missing[0]!r}?)' if close else ''
  raise InputError(
    f'{table.where}: {" and ".join(parts)}{hint}; expected the columns of the schema, in any order'
  )


def _listed(names: Sequence[str]) -> str:
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(map(repr, names[:5])) + more


def encode(where: str, column: Column, text: TextColumn, notes: list[str]) -> np.ndarray:
  """A column of the matrix, float64 [N]; what was changed is added to `notes`.

  Raises:
    InputError: a value out of the column's domain, naming the row.
  """
  count = len(text.texts)
  values = np.full(count + 1, np.nan)  # the last one is what -1 stands for
  changed, bad = np.zeros(len(values), bool), np.zeros(len(values), bool)
  bad[-1] = not column.nullable
  if column.is_category and text.type == 'boolean' and column.kind == 'boolean':
    values[:-1] = [float(each == 'true') for each in text.texts.to_pylist()]
    slow = np.arange(0)
  elif column.is_category:
    slow = np.arange(count)
  else:
    slow = np.flatnonzero(~_plain(column, text.texts, values, changed))
  for number, written in zip(slow, text.texts.take(slow).to_pylist(), strict=True):
    try:
      values[number] = value = column.parse(written)
      changed[number] = _is_changed(column, written, value)
    except InputError:
      bad[number] = True
  if bad.any() and len(rows := np.flatnonzero(bad[text.codes])):
    code = text.codes[rows[0]]
    raise InputError(
      f'{where}: column {column.name!r}, row {rows[0] + 1}: '
      + _why(column, None if code < 0 else text.texts[code].as_py())
    )
  if changed.any() and (moved := int(changed[text.codes].sum())):
    how = 'became other' if column.is_category else 'moved to its bounds or its resolution'
    notes.append(f'{moved:,} values of column {column.name!r} {how}')
  return values[text.codes]


def _plain(column: Column, texts: Any, values: np.ndarray, changed: np.ndarray) -> np.ndarray:
  """Parses what is plainly a value within the bounds, all at once; bool, which texts were that.

  It does to each what `Column.parse` does, which the others are left to.
  """
  import pyarrow as pa

  pc, is_time = compute(), column.kind in ('date', 'datetime')
  plain = pc.match_substring_regex(texts, _PLAIN_TIME if is_time else _PLAIN)
  if column.nullable:
    plain = pc.and_(plain, pc.not_equal(texts, column.missing))
  found = pc.if_else(plain, texts, None)
  try:
    found = found.cast(pa.timestamp('s')).cast(pa.int64()) if is_time else found
    numbers = pc.cast(found, pa.float64())
  except pa.ArrowInvalid:  # such as 30 February
    return np.zeros(len(texts), bool)
  raw = np.asarray(pc.fill_null(numbers, np.nan)) / (86_400 if column.kind == 'date' else 1) + 0.0
  low, high = column.bounds
  with np.errstate(invalid='ignore'):
    done = (raw >= low) & (raw <= high)
    if column.kind in ('integer', 'date'):
      done &= raw == np.rint(raw)
  rounded = on_grid(column, raw)
  values[:-1][done] = rounded[done]
  changed[:-1][done] = _moved(column, raw, rounded)[done]
  return done


def _moved(column: Column, raw: Any, value: Any) -> Any:
  rounding = 1e-12 * np.abs(raw) + 1e-15 * max(map(abs, column.bounds))  # of float64
  return np.abs(raw - value) > 1e-6 * (column.step or 0) + rounding


def _is_changed(column: Column, text: str, value: float) -> bool:
  if np.isnan(value):
    return False
  if column.is_category:
    return text != column.categories[int(value)]
  return bool(_moved(column, column.number(text), value))


def _why(column: Column, text: str | None) -> str:
  """What is wrong with a value; None: a null."""
  hint = '; a missing value? Then the schema has to say "nullable": true'
  if text is None:
    return f'expected a value, got none{hint}'
  try:
    column.parse(text)
  except InputError as error:
    if text not in MISSING:
      return str(error)
    spelled = f' and "missing": "{text}"' if text != Column.missing or column.nullable else ''
    return f'{error}{hint}{spelled}'
  raise AssertionError('it was refused before')
