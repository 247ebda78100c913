"""Series out, in the shapes that they come in: arrays on the grid, or a long table."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile

import numpy as np

from dpgan_jax._files import atomic_write, require_free
from dpgan_jax._validate import InputError, one_of
from dpgan_jax.data.series.read import CHANNELS, X
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import write as tables
from dpgan_jax.data.tables.schema import Column, Schema

FORMATS = ('npz', 'csv', 'parquet')


def to_arrays(
  schema: SeriesSchema, records: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
  """What an .npz file holds (`read.read_series`): `x` float64 [n, T, C], `channels`, their names,
  and an array of each static column; categories as texts, what is missing NaN or as it is written.
  """
  static, values = schema.split(records)
  found = {X: values, CHANNELS: np.array([channel.name for channel in schema.channels])}
  own = iter(static.T)
  for column in schema.columns:
    numbers = next(own) if column.name != schema.target else np.asarray(labels, np.float64)
    plain = column.kind in ('integer', 'real')
    found[column.name] = numbers if plain else np.array([column.format(v) for v in numbers])
  return found


def to_long(schema: SeriesSchema, records: np.ndarray, labels: np.ndarray | None) -> TableDataset:
  """A row for each record and time at which anything was measured, or one where nothing was.

  The identifier is the number of the record, from 1.
  """
  static, values = schema.split(records)
  any_measured = np.asarray(~np.isnan(values).all(axis=2))
  any_measured[~any_measured.any(axis=1), 0] = True
  owner, cell = np.nonzero(any_measured)
  grid = schema.grid
  columns = (
    Column(name=schema.id, kind='integer', lower=1, upper=max(len(records), 1)),
    Column(
      name=schema.time, kind='real', lower=grid.start, upper=float(grid.times[-1]),
      resolution=grid.step,
    ),
    *(dataclasses.replace(c, nullable=True) for c in schema.channels), *schema.static,
    *(c for c in schema.columns if c.name == schema.target),
  )  # fmt: skip
  rows = [owner[:, np.newaxis] + 1.0, grid.times[cell][:, np.newaxis], values[owner, cell]]
  classes = np.zeros(len(records), np.int32) if labels is None else np.asarray(labels, np.int32)
  return TableDataset(
    records=np.concatenate([*rows, static[owner]], axis=1), labels=classes[owner],
    schema=Schema(columns=columns, target=schema.target, declared_public=True), name='samples',
    partial=True,
  )  # fmt: skip


def export(
  path: str | os.PathLike[str],
  schema: SeriesSchema,
  records: np.ndarray,
  labels: np.ndarray | None,
  *,
  format: str = 'npz',
  overwrite: bool = False,
  guarantee: str = '',
) -> pathlib.Path:
  """Writes series to the file `path`, all of it or nothing.

  Args:
    path: the name of the file.
    schema: what the records are.
    records: float64 [N, S + T·C], as in `TableDataset`.
    labels: whole numbers [N], of the target; None without one.
    format: one of `FORMATS`: npz (`to_arrays`), or a long table (`to_long`) as csv or parquet.
    overwrite: replace what is there.
    guarantee: what they cost, in a line: metadata of Parquet, an array of .npz.

  Returns:
    `path`.

  Raises:
    InputError: records that do not fit the schema, or something at `path` and not `overwrite`.
    OSError: the file system failed; what was there before is still there.
  """
  one_of('format', format, FORMATS)
  if (labels is None) != (schema.target is None):
    raise InputError('expected labels with a schema that has a target, and only then')
  if format != 'npz':
    long = to_long(schema, records, labels)
    return tables.export(
      path, long.schema, long.records, None if labels is None else long.labels, format=format,
      overwrite=overwrite, guarantee=guarantee,
    )  # fmt: skip
  path = require_free(path, overwrite, f' for format {format}')
  # As numpy.savez_compressed, which takes some names of arrays for arguments of its own.
  with (
    atomic_write(path, 'wb') as file,
    zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive,
  ):
    said = {'guarantee': np.array(guarantee)} if guarantee else {}
    for name, array in {**said, **to_arrays(schema, records, labels)}.items():
      with archive.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)
  return path
