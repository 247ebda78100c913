"""Tables out: CSV and Parquet with the columns, order and types that went in.

What is written is whole or absent, and the same records give the same bytes. `read.read_table`
gives back the same matrix.

>>> import tempfile
>>> from dpgan_jax.data.tables.schema import Column, Schema
>>> schema = Schema(columns=(
...   Column(name='id', kind='id'),
...   Column(name='plz', kind='categorical', categories=('01067', '50667')),
...   Column(name='age', kind='integer', lower=0, upper=120, nullable=True),
... ))
>>> with tempfile.TemporaryDirectory() as folder:
...   written = export(f'{folder}/s.csv', schema, np.array([[1, 41.0], [0, np.nan]]), None)
...   print(written.read_text('utf-8'), end='')
id,plz,age
1,50667,41
2,01067,
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import numpy as np

from dpgan_jax._files import atomic_write, require_free
from dpgan_jax._validate import InputError, one_of
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files.text import compute
from dpgan_jax.data.tables.schema import Column, Schema

FORMATS = ('csv', 'parquet')

_ROWS = 20_000  # that are written at once
_QUOTED = re.compile('[,;\t"\r\n\ufeff]|^\\s|\\s$')


def export(
  path: str | os.PathLike[str],
  schema: Schema,
  records: np.ndarray,
  labels: np.ndarray | None,
  *,
  format: str = 'csv',
  overwrite: bool = False,
  guarantee: str | None = None,
) -> pathlib.Path:
  """Writes records as a table to the file `path`, in order, all of it or nothing.

  Identifiers are made afresh: the number of the row, from 1. In CSV (UTF-8, commas) what is missing
  is written as `Column.missing`. In Parquet it is null, and types are int64, double, date32,
  timestamp, bool of false and true, int64 of 0 and 1, and string for all other categories.

  Args:
    path: the name of the file.
    schema: what the records are.
    records: float64 [N, C], N ≥ 1, as in `TableDataset`.
    labels: whole numbers [N], of the target; None without one.
    format: one of `FORMATS`.
    overwrite: replace what is there.
    guarantee: what the rows cost, in a line, for Parquet's metadata; CSV has no place for it.

  Returns:
    `path`.

  Raises:
    InputError: records that do not fit the schema, or something at `path` and not `overwrite`.
    OSError: the file system failed; what was there before is still there.
  """
  one_of('format', format, FORMATS)
  if (labels is None) != (schema.target is None):
    raise InputError('expected labels with a schema that has a target, and only then')
  labels = np.zeros(len(records), np.int32) if labels is None else np.asarray(labels)
  if labels.dtype.kind not in 'iu':
    raise InputError(f'expected labels to be whole numbers, got {labels.dtype}')
  table = TableDataset(
    records=np.asarray(records, np.float64), labels=labels.astype(np.int32), schema=schema,
    name='records', partial=True,
  )  # fmt: skip
  path = require_free(path, overwrite, f' for format {format}')
  with atomic_write(path, 'wb') as file:
    if format == 'csv':
      _write_csv(file, table)
    else:
      _write_parquet(file, table, guarantee)
  return path


def _values(table: TableDataset) -> list[np.ndarray]:
  """What each column of the schema holds, float64 [N] each; row numbers for identifiers."""
  modelled, found = iter(table.records.T), []
  derived = table.schema.system.derived_of(table.records)
  for column in table.schema.columns:
    if column.kind == 'id':
      found.append(np.arange(1.0, len(table) + 1))
    elif column.name == table.schema.target:
      found.append(table.labels.astype(np.float64))
    elif column.name in derived:
      found.append(derived[column.name])
    else:
      found.append(next(modelled))
  return found


def _write_csv(file: Any, table: TableDataset) -> None:
  import pyarrow as pa

  columns, alone = table.schema.columns, len(table.schema.columns) == 1
  header = ','.join(_quoted(column.name) for column in columns)
  file.write(f'{header}\n'.encode())
  coded = []
  for column, values in zip(columns, _values(table), strict=True):
    found, codes = np.unique(values, return_inverse=True)
    texts = [_quoted(_text(column, value), alone=alone) for value in found]
    coded.append((pa.array(texts, pa.string()), codes))
  for start in range(0, len(table), _ROWS):
    parts = [texts.take(pa.array(codes[start : start + _ROWS])) for texts, codes in coded]
    lines = compute().binary_join_element_wise(*parts, ',')
    file.write(('\n'.join(lines.to_pylist()) + '\n').encode())


def _text(column: Column, value: float) -> str:
  return str(int(value)) if column.kind == 'id' else column.format(value)


def _quoted(text: str, *, alone: bool = False) -> str:
  # A line of a single empty value would be an empty line, which is no row.
  if _QUOTED.search(text) or (alone and not text):
    return '"' + text.replace('"', '""') + '"'
  return text


def to_arrow(table: TableDataset) -> Any:
  """A pyarrow.Table of the schema's columns, as Parquet has them (`export`)."""
  import pyarrow as pa

  columns = table.schema.columns
  arrays = [_array(column, v) for column, v in zip(columns, _values(table), strict=True)]
  return pa.table(arrays, names=[column.name for column in columns])


def _write_parquet(file: Any, table: TableDataset, guarantee: str | None) -> None:
  from pyarrow import parquet

  arrow = to_arrow(table)
  if guarantee is not None:
    arrow = arrow.replace_schema_metadata({'guarantee': guarantee})
  parquet.write_table(arrow, file)


def _array(column: Column, values: np.ndarray) -> Any:
  """An Arrow array of the column's own type; nulls for NaN."""
  import pyarrow as pa

  gone = np.isnan(values)
  kept = np.where(gone, 0, values)
  if column.is_category:
    if tuple(c.lower() for c in column.categories) == ('false', 'true'):
      return pa.array(kept.astype(bool), mask=gone)
    codes = pa.array(kept.astype(np.int64), mask=gone)
    if column.kind == 'boolean' and column.categories == ('0', '1'):
      return codes
    return pa.array(column.categories, pa.string()).take(codes)
  if column.kind == 'date':
    return pa.array(kept.astype(np.int32), mask=gone).cast(pa.date32())
  if column.kind == 'datetime':
    micros = np.rint(kept * 1e6).astype(np.int64)
    return pa.array(micros, mask=gone).cast(pa.timestamp('us'))
  if column.kind != 'real':
    return pa.array(kept.astype(np.int64), mask=gone)
  if column.step is not None:  # 0.15 and not 0.15000000000000002
    found, codes = np.unique(values, return_inverse=True)
    kept = np.array([0 if np.isnan(v) else float(column.format(v)) for v in found])[codes]
  return pa.array(kept, pa.float64(), mask=gone)
