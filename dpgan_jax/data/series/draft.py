"""A schema of series drafted from data, for its owner to correct and confirm.

As of tables (`data.tables.draft`): what was read from the data is listed in `drafted`, and nothing
is trained on it before somebody says that it is public. Of a long table, numbers that change within
a record are channels, and what does not change is a static column; that, the names, and the shape
of an array are taken to be public.

>>> long = {'id': [1, 1, 2, 2], 'time': [0, 1, 0, 1], 'pulse': [60, 70, None, 90],
...         'age': [9, 9, 7, 7]}
>>> drafted, _ = draft_series(long)
>>> [c.name for c in drafted.channels], [c.name for c in drafted.columns], drafted.grid.drafted
(['pulse'], ['age'], ('steps', 'start'))
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.series.read import CHANNELS, X, load_npz
from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.tables import draft
from dpgan_jax.data.tables.files import read as tables
from dpgan_jax.data.tables.files.text import TextColumn, TextTable
from dpgan_jax.data.tables.schema import Column, Schema


def draft_series(
  source: Any,
  *,
  id: str = 'id',
  time: str = 'time',
  step: float = 1.0,
  target: str | None = None,
  declare_public: bool = False,
) -> tuple[SeriesSchema, tuple[str, ...]]:
  """Drafts a schema of an .npz file, or of a long table.

  Args:
    source: as of `series.read.read_series`.
    id, time: columns of a long table.
    step: of the grid, in the unit of the time.
    target: the static column of classes.
    declare_public: the owner's word that every entry is public.

  Returns:
    The schema, and what its owner should look at, in lines.

  Raises:
    InputError: no such data.
  """
  notes: list[str] = []
  if isinstance(source, str | os.PathLike) and zipfile.is_zipfile(source):
    channels, static, grid = _of_arrays(str(source), load_npz(pathlib.Path(source)), step)
  elif isinstance(source, Mapping) and X in source and time not in source:
    channels, static, grid = _of_arrays('the arrays', source, step)
  else:
    channels, static, grid = _of_long(TextTable(source), id, time, step)
  if target is not None and target not in [text.name for text in static]:
    raise InputError(f'expected target to be a static column, got {target!r}')
  found = [
    draft.draft_column('static columns', t, notes, is_target=t.name == target) for t in static
  ]
  columns = tuple(column for column in found if column.kind != 'id')
  said = 'channels have no typical range yet: declare where nearly all values lie ("typical")'
  return SeriesSchema(
    columns=columns, channels=tuple(channels), grid=grid, id=id, time=time, target=target,
    declared_public=declare_public,
  ), (*notes, said)  # fmt: skip


def _of_arrays(
  where: str, arrays: Mapping[str, Any], step: float
) -> tuple[list[Channel], list[TextColumn], Grid]:
  x = np.asarray(arrays.get(X, 0))
  if x.ndim != 3 or x.dtype.kind not in 'fiu':
    raise InputError(f'{where}: expected {X} to be numbers [N, T, C], got {x.dtype} {x.shape}')
  names = [str(n) for n in np.asarray(arrays.get(CHANNELS, range(x.shape[2]))).ravel()]
  if len(names) != x.shape[2]:
    raise InputError(f'{where}: expected {x.shape[2]} names in {CHANNELS}, got {len(names)}')
  channels = [_channel(n, x[:, :, c].astype(np.float64), None) for c, n in enumerate(names)]
  static = {
    name: _written(array) for name, array in arrays.items()
    if name not in (X, CHANNELS) and np.shape(array) == (len(x),)
  }  # fmt: skip
  texts = list(TextTable(static).columns(list(static))) if static else []
  return channels, texts, Grid(steps=x.shape[1], step=step)


def _written(array: Any) -> list[Any]:
  """Whole numbers that are kept as real ones for the sake of NaN are whole; NaN is a null."""
  values = np.asarray(array).tolist()
  if all(v != v or (isinstance(v, float) and v.is_integer()) for v in values):
    return [None if v != v else int(v) for v in values]
  return [None if v != v else v for v in values]


def _of_long(
  table: TextTable, id: str, time: str, step: float
) -> tuple[list[Channel], list[TextColumn], Grid]:
  for name in (id, time):
    if name not in table.names:
      raise InputError(
        f'{table.where}: column {name!r} is not there; say --id and --time of a long table, whose '
        f'columns are {", ".join(table.names[:8])}'
      )
  clock = Column(name=time, kind='real', lower=-1e15, upper=1e15)
  others = [name for name in table.names if name not in (id, time)]
  ids, times, *rest = table.columns([id, time, *others])
  hours = tables.encode(table.where, clock, times, [])
  start = float(np.floor(hours.min() / step) * step)
  steps = max(2, int((hours.max() - start) // step) + 1)
  grid = Grid(steps=steps, start=start, step=step, drafted=('steps', 'start'))
  first = np.unique(ids.codes, return_index=True)[1]
  owner = np.searchsorted(ids.codes[first], ids.codes)
  channels, static = [], []
  for text in rest:
    if (text.codes == text.codes[first][owner]).all():
      static.append(dataclasses.replace(text, codes=text.codes[first]))
      continue
    drafted = draft.draft_column(table.where, text, [])
    if drafted.kind not in ('integer', 'real'):
      raise InputError(
        f'{table.where}: column {text.name!r} changes within a record and holds no numbers; '
        'channels are numbers'
      )
    own = {f.name: getattr(drafted, f.name) for f in dataclasses.fields(Column)}
    fields = set(drafted.drafted) | {'nullable'}
    channels.append(Channel(**{**own, 'nullable': True, 'drafted': tuple(sorted(fields))}))
  return channels, static, grid


def _channel(name: str, values: np.ndarray, resolution: float | None) -> Channel:
  known = values[np.isfinite(values)]
  if not len(known):
    raise InputError(f'channel {name!r} is missing everywhere; leave it out')
  low, high = float(known.min()), float(known.max())
  return Channel(
    name=name, kind='real', lower=low, upper=high if high > low else low + 1,
    resolution=resolution, nullable=bool(np.isnan(values).any()),
    drafted=('lower', 'upper', 'nullable'),
  )  # fmt: skip


def describe(schema: SeriesSchema) -> list[str]:
  """For people: the grid, the channels and the static columns, and what was read from the data."""
  grid = schema.grid
  lines = [
    f'grid: {grid.steps} steps of {grid.step:g} from {grid.start:g}; read from the data: '
    f'{", ".join(grid.drafted) or "-"}'
  ]
  for columns in (schema.channels, schema.columns):
    if columns:
      lines += draft.describe(Schema(columns=columns))
  return lines
