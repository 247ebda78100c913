"""Stays as recurrent networks see them, step by step, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.constraints.system import on_grid
from dpgan_jax.evaluation.series import summaries


class Codes(NamedTuple):
  """Records [S + T·C] as [T, P], and back.

  At a step: of each channel the value in its public range less a half, 0 where there is none; of
  each whether there is one; then static columns, the same at every step: categories one by one,
  numbers as a place in their bounds, and whether a value is missing.
  """

  schema: SeriesSchema

  @property
  def channels(self) -> int:
    return len(self.schema.channels)

  @property
  def widths(self) -> list[int]:
    """Of each static column."""
    sizes = [len(c.categories) if c.is_category else 1 for c in self.schema.static]
    return [n + c.nullable for n, c in zip(sizes, self.schema.static, strict=True)]

  @property
  def size(self) -> int:
    """P."""
    return 2 * self.channels + sum(self.widths)

  def encode(self, records: np.ndarray) -> np.ndarray:
    """float32 [n, T, P] of records float64 [n, S + T·C]."""
    values = summaries.scaled(self.schema, records)
    static, parts = self.schema.split(records)[0], []
    for column, width, x in zip(self.schema.static, self.widths, static.T, strict=True):
      gone = np.isnan(x)
      low, high = (0, 1) if column.is_category else column.bounds
      if column.is_category:
        part = np.nan_to_num(x)[:, np.newaxis] == np.arange(len(column.categories))
      else:
        part = ((np.nan_to_num(x, nan=low) - low) / (high - low))[:, np.newaxis]
      part = np.where(gone[:, np.newaxis], 0, part)
      parts.append(np.concatenate([part, gone[:, np.newaxis]], axis=1)[:, :width])
    static = np.repeat(np.concatenate(parts, axis=1)[:, np.newaxis], values.shape[1], axis=1)
    there = ~np.isnan(values)
    return np.concatenate([np.where(there, values - 0.5, 0), there, static], 2, dtype=np.float32)

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """Records of codes [n, T, P]."""
    values, there, static = np.split(codes, np.cumsum([self.channels] * 2), axis=2)
    columns = []
    ends = np.cumsum(self.widths)[:-1]
    for column, part in zip(self.schema.static, np.split(static[:, 0], ends, axis=1), strict=True):
      own = part[:, : part.shape[1] - column.nullable]
      if column.is_category:
        x = own.argmax(axis=1)
      else:
        low, high = column.bounds
        x = on_grid(column, low + (high - low) * own[:, 0])
      gone = part[:, -1] > 0.5 if column.nullable else np.zeros(len(x), bool)
      columns.append(np.where(gone, np.nan, x))
    found = np.full(values.shape, np.nan)
    for c, channel in enumerate(self.schema.channels):
      low, high = channel.range
      own = np.clip(low + (high - low) * (values[:, :, c] + 0.5), *channel.bounds)
      gone = channel.nullable & (there[:, :, c] <= 0.5)
      found[:, :, c] = np.where(gone, np.nan, on_grid(channel, own))
    return self.schema.join(np.stack(columns, axis=1), found)
