"""CSV files as columns of text: what is no table of UTF-8 text is refused in one line.

The first line names the columns and tells the separator, which is a comma where that line has one
outside quotes, else a semicolon, else a tab. Values may be quoted and hold line ends. A byte-order
mark is skipped; lines end as on any system. Rows are counted from 1, the header not counted.
"""

from __future__ import annotations

import codecs
import csv
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from dpgan_jax import _files
from dpgan_jax._validate import InputError

_BLOCK = 8 * 2**20  # bytes that are parsed at once; no row may be longer
_MOST_HEADER = 4 * 2**20
_SEPARATORS = ',;\t'
_KNOWN = (  # first bytes of what people mistake for CSV
  (b'PK\x03\x04', 'a zip or Excel file; save the sheet as CSV (UTF-8)'),
  (b'\xd0\xcf\x11\xe0', 'an old Excel file; save the sheet as CSV (UTF-8)'),
  (b'\x1f\x8b', 'a gzip file; unpack it first'),
  (codecs.BOM_UTF16_LE, 'UTF-16 text; expected UTF-8: save it as CSV (UTF-8)'),
  (codecs.BOM_UTF16_BE, 'UTF-16 text; expected UTF-8: save it as CSV (UTF-8)'),
)


def read_header(path: pathlib.Path) -> tuple[str, list[str]]:
  """The separator and the names of the columns, after a look at every byte.

  Raises:
    InputError: no text in UTF-8, or no header.
  """
  _require_text(path)
  with path.open('rb') as file:
    start = file.read(_MOST_HEADER).decode('utf-8-sig', 'ignore')
  outside = re.sub(r'"[^"]*"', '', start)  # a line end within quotes ends no header
  first = re.split(r'[\r\n]', outside.lstrip('\r\n'), maxsplit=1)[0]
  separator = next((s for s in _SEPARATORS if s in first), ',')
  try:
    lines = csv.reader(io.StringIO(start.lstrip('\r\n'), newline=''), delimiter=separator)
    names = next(lines, [])
  except csv.Error as error:
    raise InputError(f'{path}: the first line names no columns: {error}') from None
  if not names:
    raise InputError(f'{path}: expected a line of names and rows below it, got an empty file')
  return separator, names


def _require_text(path: pathlib.Path) -> None:
  decode, line = codecs.getincrementaldecoder('utf-8')().decode, 1
  with path.open('rb') as file:
    for prefix, what in _KNOWN:
      if file.peek(8).startswith(prefix):
        raise InputError(f'{path} is {what}')
    while chunk := file.read(2**20):
      if b'\0' in chunk:
        raise InputError(f'{path} holds bytes of zero; expected a table, as CSV (UTF-8) or Parquet')
      try:
        decode(chunk)
      except UnicodeDecodeError as error:
        # The decoder may hold up to three bytes of the chunk before, none of them a line's end.
        line += error.object[: error.start].count(b'\n')
        raise InputError(_not_utf8(path, line, error.object[error.start])) from None
      line += chunk.count(b'\n')
  try:
    decode(b'', True)
  except UnicodeDecodeError as error:
    raise InputError(_not_utf8(path, line, error.object[error.start])) from None


def _not_utf8(path: pathlib.Path, line: int, byte: int) -> str:
  return (
    f'{path}: line {line} is not UTF-8 (byte 0x{byte:02x}), perhaps Latin-1 or Windows-1252; '
    'expected UTF-8: iconv -f windows-1252 -t utf-8 FILE, or save it as CSV (UTF-8)'
  )


def read_columns(
  path: pathlib.Path, separator: str, names: Sequence[str], wanted: Sequence[str]
) -> dict[str, Any]:
  """Columns as Arrow dictionaries of text, by name; the others are not kept.

  Raises:
    InputError: a row of another number of values than the header, naming it.
  """
  import pyarrow as pa  # a quarter of a second that images do without
  from pyarrow import csv as arrow_csv

  numbers = {name: str(number) for number, name in enumerate(names)}
  ragged: list[Any] = []

  def refuse(row: Any) -> str:
    ragged.append(row)
    return 'error'

  if not _has_rows(path):
    raise InputError(f'{path}: expected rows below the header, got none')
  text = pa.dictionary(pa.int32(), pa.string())
  try:
    table = arrow_csv.read_csv(
      for_arrow(path),
      # Threads do not know the numbers of their rows, and some that still read ahead when a process
      # ends have ended it with an abort (apache/arrow#34314).
      arrow_csv.ReadOptions(
        column_names=list(numbers.values()),
        skip_rows_after_names=1,
        block_size=_BLOCK,
        use_threads=False,
      ),
      arrow_csv.ParseOptions(
        delimiter=separator, newlines_in_values=True, invalid_row_handler=refuse
      ),
      arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(numbers.values(), text),
        include_columns=[numbers[name] for name in wanted],
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
      ),
    )
  except pa.ArrowInvalid as error:
    if ragged:
      found = ragged[0]
      raise InputError(
        f'{path}: row {found.number - 1} has {found.actual_columns} values; expected '
        f'{found.expected_columns}, one for each name in the header'
      ) from None
    hint = f' (a row longer than {_BLOCK} bytes, or a quote that is never closed?)'
    hint = hint if 'straddling' in str(error) else f' ({error})'
    raise InputError(f'{path}: the table cannot be read{hint}') from None
  if not table.num_rows:
    raise InputError(f'{path}: expected rows below the header, got none')
  return {name: table.column(numbers[name]) for name in wanted}


def _has_rows(path: pathlib.Path) -> bool:
  # Arrow reads a header without a line end as half a row.
  with path.open('rb') as file:
    start = file.read(_MOST_HEADER)
  return b'\n' in start.strip() or b'\r' in start.strip() or len(start) == _MOST_HEADER


def for_arrow(path: pathlib.Path) -> Any:
  """The path; or the file, opened, where its name is no UTF-8, which Arrow does not take."""
  try:
    str(path).encode()
  except UnicodeEncodeError:
    return path.open('rb')
  return path


def require_size(path: pathlib.Path) -> None:
  """Refuses a file larger than any that is read here."""
  size = path.stat().st_size
  if not size:
    raise InputError(f'{path}: expected a table, got an empty file')
  if size > _files.MAX_BYTES:
    raise InputError(f'{path} has {size} bytes; expected at most {_files.MAX_BYTES}')
