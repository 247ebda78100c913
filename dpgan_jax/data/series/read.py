"""Series in: arrays on the grid, or a long table that is put on it; every value checked.

>>> from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
>>> schema = SeriesSchema(
...   channels=(Channel(name='pulse', kind='integer', lower=0, upper=300, nullable=True),),
...   grid=Grid(steps=3),
... )
>>> long = {'id': ['a', 'a', 'a', 'b'], 'time': [0.2, 0.7, 2.0, 1.0], 'pulse': [60, 70, 80, 90]}
>>> read_series(long, schema).records.tolist()
[[65.0, nan, 80.0], [nan, 90.0, nan]]
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _files
from dpgan_jax._validate import InputError
from dpgan_jax.data.series.schema import Channel, SeriesSchema
from dpgan_jax.data.spec import schema_of
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.constraints.system import on_grid
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read as tables
from dpgan_jax.data.tables.files import schema_file
from dpgan_jax.data.tables.files.text import TextTable
from dpgan_jax.data.tables.schema import Column, Schema

X, Y, CHANNELS = 'x', 'y', 'channels'
"""Names of arrays in an .npz file: values, classes if no array has the target's name, and names."""


def read_records(source: Any, schema: Schema) -> TableDataset:
  """Reads what a schema of either kind describes: a table, or series.

  Raises:
    InputError: as `read_series` and `tables.files.read.read_table`.
  """
  if isinstance(schema, SeriesSchema):
    return read_series(source, schema)
  return tables.read_table(source, schema)


def declared(
  path: str,
  schema_path: str | None,
  kind: str,
  split: str,
  unit_column: str | None,
  max_rows_per_unit: int | None,
) -> Schema:
  """The schema in a file, with persons as they are given beside it, confirmed or not.

  Raises:
    InputError: a schema of another kind, or none; a test split, which there is only by holding
      records out (`sources`).
  """
  if schema_path is None:
    raise InputError(
      f'expected schema to name the file that describes {path}; dpgan_jax.schema drafts one'
    )
  if split == 'test':
    raise InputError(f'{path}: a {kind} has no test split of its own; expected holdout')
  schema = schema_file.read_schema(schema_path, schema_of)
  if schema.kind != kind:
    raise InputError(f'{schema_path}: expected the schema of a {kind}, got one of a {schema.kind}')
  return persons.settled(schema, unit_column, max_rows_per_unit)


def read_series(source: Any, schema: SeriesSchema, *, name: str = 'series') -> TableDataset:
  """Reads series that a schema describes.

  Args:
    source: an .npz file or a mapping with the array `x` [N, T, C], NaN where nothing was measured,
      an array [N] for each static column, by its name, and one for the target, by its name or `y`;
      or a long table, a CSV or Parquet file or a frame: a row for each record and time, with the
      identifier, the time, all channels, and static columns, which do not change within a record.
    schema: what is public.
    name: what the data are called in messages and reports.

  Raises:
    InputError: one line that names the file, what is wrong in it, and what would be right.
  """
  if isinstance(source, Mapping) and X in source and schema.time not in source:
    return _of_arrays('the arrays', source, schema, name)
  if isinstance(source, str | os.PathLike):
    path = pathlib.Path(source)
    if not path.is_file():
      raise InputError(f'{path}: expected an .npz, CSV or Parquet file, got nothing of the name')
    if zipfile.is_zipfile(path):
      return _of_arrays(str(path), load_npz(path), schema, name)
  return _of_long(TextTable(source), schema, name)


# --- arrays --------------------------------------------------------------------------------------


def load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of a file, without pickle.

  Raises:
    InputError: none, damaged, or too large.
  """
  try:
    with zipfile.ZipFile(path) as file:
      size = sum(each.file_size for each in file.infolist())
    if size > _files.MAX_BYTES:
      raise InputError(f'{path}: expected at most {_files.MAX_BYTES} bytes of arrays, got {size}')
    with np.load(path, allow_pickle=False) as file:
      return {str(key): np.asarray(file[key]) for key in file.files}
  except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as e:
    if isinstance(e, InputError):
      raise
    raise InputError(f'{path}: expected an .npz file of plain arrays: {e}') from None


def _of_arrays(
  where: str, arrays: Mapping[str, Any], schema: SeriesSchema, name: str
) -> TableDataset:
  if X not in arrays:
    raise InputError(f'{where}: expected an array {X!r} of series [N, T, C], got none of the name')
  x = arrays[X]
  if isinstance(x, np.ma.MaskedArray) and x.dtype.kind in 'fiu':
    x = np.ma.filled(x.astype(np.float64), np.nan)
  x = np.asarray(x)
  wanted = schema.grid.steps, len(schema.channels)
  if x.ndim != 3 or x.shape[1:] != wanted or not len(x) or x.dtype.kind not in 'fiu':
    raise InputError(
      f'{where}: expected {X} to be numbers [N, {wanted[0]}, {wanted[1]}], as the grid and the '
      f'channels of the schema are, got {x.dtype} {list(x.shape)}; series of unequal lengths come '
      'as a long table'
    )
  if CHANNELS in arrays:
    names = [str(each) for each in np.asarray(arrays[CHANNELS]).ravel()]
    if names != [channel.name for channel in schema.channels]:
      _refuse_channels(where, names, schema)
  known = {X, CHANNELS, *(Y for _ in schema.class_names[:1]), *(c.name for c in schema.columns)}
  notes = [
    f'the array {key!r} is not in the schema, and left out'
    for key in arrays
    if key not in known and np.shape(arrays[key])[:1] == (len(x),)
  ]
  values = np.stack(
    [
      _within(where, channel, x[:, :, c].astype(np.float64), notes)
      for c, channel in enumerate(schema.channels)
    ],
    axis=2,
  )
  found = {}
  for column in schema.columns:
    key = Y if column.name == schema.target and column.name not in arrays else column.name
    if key not in arrays or np.shape(arrays[key]) != (len(x),):
      got = 'none' if key not in arrays else f'{list(np.shape(arrays[key]))}'
      raise InputError(
        f'{where}: expected an array [{len(x)}] of the static column {column.name!r}, got {got}'
      )
    found[column.name] = _static(where, column, np.asarray(arrays[key]))
  return _assembled(where, schema, name, found, values, notes)


def _static(where: str, column: Column, array: np.ndarray) -> np.ndarray:
  """float64 [N] of an array of numbers, or of texts as they are written."""
  values, texts = np.empty(len(array)), {}
  for row, each in enumerate(array.tolist()):
    if isinstance(each, bytes):
      each = each.decode('utf-8', 'replace')
    if each not in texts or each != each:
      missing = each != each or each is None
      try:
        texts[each] = column.parse(column.missing if missing else _written(each, column))
      except InputError as error:
        hint = '; a missing value? Then it has to be nullable' if missing else ''
        raise InputError(
          f'{where}: static column {column.name!r}, record {row + 1}: {error}{hint}'
        ) from None
    values[row] = texts[each]
  return values


def _written(value: Any, column: Column) -> str:
  """As the column has it in a file: 3 and not 3.0 where it holds no reals."""
  if isinstance(value, bool):
    return str(value).lower()
  whole = isinstance(value, float) and value.is_integer() and column.kind != 'real'
  return str(int(value)) if whole else str(value)


def _refuse_channels(where: str, names: list[str], schema: SeriesSchema) -> None:
  known = [channel.name for channel in schema.channels]
  extra = [n for n in names if n not in known] or [n for n in known if n not in names]
  what = f'{extra[0]!r} is in one of them only' if extra else 'their order differs'
  raise InputError(f'{where}: expected the channels of the schema, in its order: {what}')


def _within(where: str, channel: Channel, values: np.ndarray, notes: list[str]) -> np.ndarray:
  """Values of a channel within its bounds, on its resolution."""
  (low, high), gone = channel.bounds, np.isnan(values)
  if np.isinf(values).any():
    raise InputError(f'{where}: channel {channel.name!r}: expected finite numbers or NaN, got inf')
  if gone.any() and not channel.nullable:
    raise InputError(
      f'{where}: channel {channel.name!r} has missing values; then the schema has to say '
      '"nullable": true'
    )
  with np.errstate(invalid='ignore'):
    outside = (values < low) | (values > high)
  if outside.any() and channel.outside != 'clip':
    raise InputError(
      f'{where}: channel {channel.name!r}: expected values in [{channel.lower}, {channel.upper}], '
      f'got {values[outside][0]:g}; "outside": "clip" moves them to the bounds'
    )
  if outside.any():
    notes.append(f'{outside.sum():,} values of channel {channel.name!r} moved to its bounds')
  return on_grid(channel, np.clip(values, low, high))


# --- a long table --------------------------------------------------------------------------------


def _of_long(table: TextTable, schema: SeriesSchema, name: str) -> TableDataset:
  known = [schema.id, schema.time, *(c.name for c in (*schema.channels, *schema.columns))]
  for column in known:
    if column not in table.names:
      raise InputError(f'{table.where}: column {column!r} of the schema is not there')
  for column in table.names:
    if column not in known:
      raise InputError(f'{table.where}: column {column!r} is neither channel nor static column')
  notes: list[str] = []
  ids, *rest = table.columns(known)
  texts, codes = tables.owners(table.where, ids, schema.unit)
  clock = Column(name=schema.time, kind='real', lower=-1e15, upper=1e15)
  times = tables.encode(table.where, clock, rest[0], notes)
  _require_order(table.where, schema, texts, codes, times)
  order = np.unique(codes, return_index=True)[1].argsort().argsort()
  # Records come in the order in which they are first seen.
  owner = order[np.searchsorted(np.unique(codes), codes)]
  count = len(order)
  cells = schema.grid.cells(times)
  if (cells < 0).any() and schema.grid.outside == 'refuse':
    last = schema.grid.start + schema.grid.step * schema.grid.steps
    raise InputError(
      f'{table.where}: expected times in [{schema.grid.start:g}, {last:g}), got '
      f'{times[cells < 0][0]:g}; "outside": "drop" of the grid leaves such rows out'
    )
  values = np.full((count, schema.grid.steps, len(schema.channels)), np.nan)
  for c, channel in enumerate(schema.channels):
    # In a row another channel may be what was measured: not yet a value missing on the grid.
    any_row = dataclasses.replace(channel, nullable=True)
    measured = tables.encode(table.where, any_row, rest[1 + c], notes)
    kept = (cells >= 0) & ~np.isnan(measured)
    place = owner[kept] * schema.grid.steps + cells[kept]
    values[:, :, c] = _gridded(schema, place, measured[kept], count)
    values[:, :, c] = _within(table.where, channel, values[:, :, c], notes)
  found = {}
  for column, text in zip(schema.columns, rest[1 + len(schema.channels) :], strict=True):
    static = tables.encode(table.where, column, text, notes)
    first = np.empty(count)
    first[owner[::-1]] = static[::-1]
    apart = ~((static == first[owner]) | (np.isnan(static) & np.isnan(first[owner])))
    if apart.any():
      who = texts[codes[np.flatnonzero(apart)[0]]]
      raise InputError(
        f'{table.where}: static column {column.name!r} changes within {schema.id} {who!r}; '
        'expected one value in all rows of a record, or a channel'
      )
    found[column.name] = first
  return _assembled(table.where, schema, name, found, values, notes)


def _require_order(
  where: str, schema: SeriesSchema, texts: list[str], codes: np.ndarray, times: np.ndarray
) -> None:
  order = np.argsort(codes, kind='stable')
  same = np.diff(codes[order]) == 0
  steps = np.diff(times[order])
  for wrong, what in ((same & (steps == 0), 'repeated'), (same & (steps < 0), 'out of order')):
    if wrong.any():
      row = order[np.flatnonzero(wrong)[0] + 1]
      raise InputError(
        f'{where}, row {row + 1}: the time {times[row]:g} of {schema.id} '
        f'{texts[codes[row]]!r} is {what}; expected times that rise within a record'
      )


def _gridded(schema: SeriesSchema, place: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
  size = count * schema.grid.steps
  result = np.full(size, np.nan)
  if schema.grid.within == 'last':
    result[place] = values  # times rise, and of equal places the last one stays
  else:
    number = np.bincount(place, minlength=size)
    total = np.bincount(place, values, minlength=size)
    result[number > 0] = total[number > 0] / number[number > 0]
  return result.reshape(count, schema.grid.steps)


def _assembled(
  where: str, schema: SeriesSchema, name: str, found: dict[str, np.ndarray], values: np.ndarray,
  notes: list[str],
) -> TableDataset:  # fmt: skip
  for c, channel in enumerate(schema.channels):
    if np.isnan(values[:, :, c]).all():
      raise InputError(
        f'{where}: channel {channel.name!r} is missing everywhere; leave it out of the schema'
      )
  if len(values) < 2:
    raise InputError(f'{where}: expected at least 2 records, got {len(values)}')
  static = np.stack([found[c.name] for c in schema.static], axis=1) if schema.static else (
    np.empty((len(values), 0))
  )  # fmt: skip
  labels = np.zeros(len(values), np.int32)
  if schema.target is not None:
    labels = found[schema.target].astype(np.int32)
  return TableDataset(
    records=schema.join(static, values), labels=labels, schema=schema, name=name,
    notes=tuple(notes),
  )  # fmt: skip
