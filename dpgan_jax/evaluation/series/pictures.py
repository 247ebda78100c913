"""Pictures of synthetic series beside real ones; both read private data without noise."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from matplotlib.figure import Figure

from dpgan_jax import _figures
from dpgan_jax.data.series import picture as series
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables import picture
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.curves import PRIVATE

PathLike = str | os.PathLike[str]
_MOST_LAGS = 24


def courses(real: TableDataset, made: TableDataset, path: PathLike) -> pathlib.Path:
  """Quantile bands over time, single sequences, and the share measured (`data.series.picture`)."""
  assert isinstance(real.schema, SeriesSchema)
  sets = {'held-out real series': real.records, 'synthetic series': made.records}
  return series.courses(real.schema, sets, path, note=PRIVATE)


def correlations(schema: SeriesSchema, records: np.ndarray) -> np.ndarray:
  """The correlation of values that are so many steps apart, over records, float64 [lags, C]."""
  values = schema.split(records)[1]
  mean, deviation = np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1))
  values = (values - mean) / np.maximum(deviation, 1e-12)
  found = []
  for lag in range(1, min(_MOST_LAGS, values.shape[1] - 1) + 1):
    products = values[:, lag:] * values[:, :-lag]
    number = (~np.isnan(products)).sum(axis=(0, 1))
    total = np.nansum(products, axis=(0, 1))
    found.append(np.where(number > 0, total / np.maximum(number, 1), np.nan))
  return np.array(found)


def autocorrelation(real: TableDataset, made: TableDataset, path: PathLike) -> pathlib.Path:
  """Draws `correlations` of each channel, at most `data.series.picture.MOST_PANELS`."""
  schema = real.schema
  assert isinstance(schema, SeriesSchema)
  shown = schema.channels[: series.MOST_PANELS]
  across = min(4, len(shown))
  down = -(-len(shown) // across)
  figure = Figure(figsize=(3 * across, 1.9 * down + 0.5), dpi=120, layout='constrained')
  panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
  for axes in panels[len(shown) :]:
    axes.set_axis_off()
  for name, data, (colour, style) in (
    ('held-out real series', real, _figures.LINES[0]),
    ('synthetic series', made, _figures.LINES[1]),
  ):
    found = correlations(schema, data.records)
    for c, channel in enumerate(shown):
      panels[c].plot(range(1, len(found) + 1), found[:, c], style, color=colour, label=name)
      panels[c].set_title(picture.short(channel.name, 30), fontsize=8)
      panels[c].tick_params(labelsize=6)
  figure.legend(
    *panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=2, frameon=False
  )
  return _figures.save(figure, path, f'Correlation by steps apart. {PRIVATE}')
