"""Any table as columns of text: CSV, Parquet, and the frames of pandas, polars and Arrow.

One way for all: a column is the texts that occur in it, each once, and for every row which of them
it has. Whatever is done to a text is then done once, however many rows have it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dpgan_jax import _files
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.files import csv_file
from dpgan_jax.data.tables.schema import LONGEST, MOST_COLUMNS


@dataclasses.dataclass(frozen=True, eq=False)
class TextColumn:
  """A column as text.

  Attributes:
    name: of the column.
    texts: an Arrow array of what occurs in it, each once.
    codes: int32 [N], which of them each row has; -1 for a null.
    type: what the file calls it: 'text' of CSV, which has no types; 'string', 'boolean',
      'integer', 'real', 'date' or 'datetime' of others.
  """

  name: str
  texts: Any = dataclasses.field(repr=False)
  codes: np.ndarray = dataclasses.field(repr=False)
  type: str = 'text'


class TextTable:
  """A table that is open: its names are known, its columns are read on demand.

  Attributes:
    where: what messages call it.
    names: of its columns, in their order.
  """

  def __init__(self, source: Any) -> None:
    """Opens a table.

    Args:
      source: the path of a CSV or Parquet file; or a frame, which is anything that Arrow turns
        into a table: of pandas, polars or Arrow, or a dict of columns.

    Raises:
      InputError: something else, or names that are empty or occur twice.
    """
    self._table = self._parquet = self._path = None
    if isinstance(source, str | os.PathLike):
      self._open(pathlib.Path(source))
    else:
      self.where, self._table = 'the table', _frame(source)
      self.names = tuple(map(str, self._table.column_names))
    if not 1 <= len(self.names) <= MOST_COLUMNS:
      raise InputError(f'{self.where}: expected 1 to {MOST_COLUMNS} columns, got {len(self.names)}')
    for number, name in enumerate(self.names, 1):
      if not name.strip() or len(name) > LONGEST:
        raise InputError(
          f'{self.where}: expected every column to have a name of at most {LONGEST} characters, '
          f'got {name[:LONGEST]!r} for column {number}'
        )
    if len(set(self.names)) < len(self.names):
      twice = next(name for name in self.names if self.names.count(name) > 1)
      raise InputError(f'{self.where}: expected names of columns that differ, got {twice!r} twice')

  def _open(self, path: pathlib.Path) -> None:
    self.where = str(path)
    if not path.is_file():
      found = 'a folder' if path.is_dir() else 'no regular file' if path.exists() else 'nothing'
      raise InputError(f'{path}: expected a CSV or Parquet file, got {found}')
    csv_file.require_size(path)
    self._path = path
    with path.open('rb') as file:
      is_parquet = file.read(4) == b'PAR1'
    if is_parquet:
      self._parquet = _open_parquet(path)
      self.names = tuple(self._parquet.schema_arrow.names)
    else:
      self._separator, names = csv_file.read_header(path)
      self.names = tuple(names)

  def columns(self, wanted: Sequence[str]) -> Iterator[TextColumn]:
    """The columns of these names, in this order, as many rows each; others are not read.

    Raises:
      InputError: no rows, ragged rows, or a column that is no text, number, date or boolean.
    """
    if self._parquet is not None:
      table = _read_parquet(self.where, self._parquet, wanted)
    elif self._table is not None:
      table = dict(zip(self.names, self._table.columns, strict=True))
    else:
      assert self._path is not None
      table = csv_file.read_columns(self._path, self._separator, self.names, wanted)
    for name in wanted:
      column = table.pop(name)
      if not len(column):
        raise InputError(f'{self.where}: expected at least one row, got none')
      yield _as_text(self.where, name, column, typed=self._parquet or self._table)


def _frame(source: Any) -> Any:
  import pyarrow as pa

  try:
    return source if isinstance(source, pa.Table) else pa.table(source)
  except (pa.ArrowException, TypeError, ValueError) as error:
    what = type(source).__name__
    raise InputError(f'expected a file or a frame of columns, got {what}: {error}') from None


def _open_parquet(path: pathlib.Path) -> Any:
  import pyarrow as pa
  from pyarrow import parquet

  try:
    file = parquet.ParquetFile(csv_file.for_arrow(path))
  except (pa.ArrowException, OSError) as error:
    raise InputError(f'{path}: begins as a Parquet file and is none: {error}') from None
  cells = file.metadata.num_rows * file.metadata.num_columns
  if cells * 8 > _files.MAX_BYTES:
    raise InputError(f'{path} holds {cells} values; expected at most {_files.MAX_BYTES // 8}')
  return file


def _read_parquet(where: str, file: Any, wanted: Sequence[str]) -> dict[str, Any]:
  import pyarrow as pa

  try:
    table = file.read(columns=list(wanted), use_threads=False)
  except (pa.ArrowException, OSError) as error:
    raise InputError(f'{where}: the Parquet file is damaged: {error}') from None
  return {name: table.column(name) for name in wanted}


def _as_text(where: str, name: str, column: Any, *, typed: Any) -> TextColumn:
  import pyarrow as pa

  pc, kind = compute(), 'text'
  try:
    if typed is not None:
      if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
      kind = _kind(column.type)
      if kind == 'datetime':  # with a time zone it is the time in UTC
        column = column.cast(pa.timestamp('us'), safe=False)
      column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
      array = array.chunk(0)
    values, codes = array.dictionary, pc.fill_null(array.indices, -1)
    if kind == 'date':
      values = values.cast(pa.date32())
    texts = values.cast(pa.string())
  except (pa.ArrowException, NotImplementedError) as error:
    raise InputError(
      f'{where}: column {name!r} cannot be read as text, numbers, dates or booleans: {error}'
    ) from None
  codes = np.asarray(codes, np.int32)
  if pa.types.is_floating(values.type):  # pandas writes what is missing as NaN
    nan = np.asarray(pc.fill_null(pc.is_nan(values), False))
    codes = np.append(np.where(nan, -1, np.arange(len(nan))), -1).astype(np.int32)[codes]
  return TextColumn(name, texts, codes, kind)


def compute() -> Any:
  """pyarrow.compute; type checkers do not know its functions, which it makes when it is loaded."""
  import pyarrow.compute

  return pyarrow.compute


def _kind(type: Any) -> str:
  import pyarrow as pa

  of = pa.types
  if of.is_boolean(type):
    return 'boolean'
  if of.is_integer(type):
    return 'integer'
  if of.is_decimal(type) or (of.is_floating(type) and not of.is_float16(type)):
    return 'real'
  if of.is_date(type):
    return 'date'
  if of.is_timestamp(type):
    return 'datetime'
  if of.is_string(type) or of.is_large_string(type) or of.is_string_view(type) or of.is_null(type):
    return 'string'
  raise NotImplementedError(f'it is of the type {type}')
