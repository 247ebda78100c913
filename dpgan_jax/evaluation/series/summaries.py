"""Series as a table that anyone would make of them: the simplest summaries of each channel.

They are not those that a release is made of (`models.moments.series.summaries`), on purpose.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema

WHAT = ('share', 'mean', 'least', 'most', 'last', 'change')


def scaled(schema: SeriesSchema, records: np.ndarray) -> np.ndarray:
  """Values float64 [n, T, C] in [0, 1] by the public range of each channel; NaN is missing."""
  low, high = np.array([channel.range for channel in schema.channels]).T
  return np.clip((schema.split(records)[1] - low) / (high - low), 0, 1)


def filled(values: np.ndarray) -> np.ndarray:
  """The last value that was measured at each step, NaN before the first: [n, T, C]."""
  steps = np.arange(values.shape[1])[:, np.newaxis]
  last = np.maximum.accumulate(np.where(np.isnan(values), -1, steps), axis=1)
  found = np.take_along_axis(values, np.maximum(last, 0), axis=1)
  return np.where(last < 0, np.nan, found)


def table(data: TableDataset) -> TableDataset:
  """Static columns, and of each channel: the share of steps that were measured; mean, least, most
  and last value; and the mean change between neighbouring steps, without its sign.
  """
  schema = data.schema
  assert isinstance(schema, SeriesSchema)
  values = scaled(schema, data.records)
  there = ~np.isnan(values)
  number = there.sum(axis=1)
  changes = np.abs(np.diff(values, axis=1))
  pairs = (~np.isnan(changes)).sum(axis=1)
  found = {
    'share': number / values.shape[1],
    'mean': _over(np.nansum(values, axis=1), number),
    'least': np.where(number > 0, np.where(there, values, 2).min(axis=1), np.nan),
    'most': np.where(number > 0, np.where(there, values, -1).max(axis=1), np.nan),
    'last': filled(values)[:, -1],
    'change': np.sqrt(_over(np.nansum(changes, axis=1), pairs)),  # small ones are many
  }
  columns, parts = list(schema.static), [schema.split(data.records)[0]]
  for c, channel in enumerate(schema.channels):
    for what in WHAT:
      columns.append(
        Column(name=f'{channel.name} ({what})', kind='real', lower=0, upper=1,
               nullable=what != 'share')
      )  # fmt: skip
    parts.append(np.stack([found[what][:, c] for what in WHAT], axis=1))
  columns += [column for column in schema.columns if column.name == schema.target]
  return dataclasses.replace(
    data, records=np.concatenate(parts, axis=1),
    schema=Schema(columns=tuple(columns), target=schema.target, declared_public=True),
  )  # fmt: skip


def _over(total: np.ndarray, number: np.ndarray) -> np.ndarray:
  return np.where(number > 0, np.clip(total / np.maximum(number, 1), 0, 1), np.nan)
