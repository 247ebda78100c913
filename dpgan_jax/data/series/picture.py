"""A picture of series: quantiles over time and how often each channel is measured."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpgan_jax import _figures
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables import picture

PathLike = str | os.PathLike[str]
MOST_PANELS, _EXAMPLES = 12, 2


def courses(
  schema: SeriesSchema, sets: Mapping[str, np.ndarray], path: PathLike, *, note: str = ''
) -> pathlib.Path:
  """Draws of each channel, at most `MOST_PANELS`: the median at each step, between the tenth and
  the ninetieth percentile, two sequences, and below it the share of records that were measured.

  Args:
    schema: of all sets.
    sets: records float64 [n, S + T·C], by what to call them.
    path: the PNG file; replaced where it exists.
    note: below the panels.
  """
  chosen = range(min(len(schema.channels), MOST_PANELS))
  left = len(schema.channels) - len(chosen)
  note = f'{note} {left} channels are not shown.'.strip() if left else note
  across = min(4, len(chosen))
  down = -(-len(chosen) // across)
  figure = Figure(figsize=(3.3 * across, 3.1 * down + 0.5), dpi=120, layout='constrained')
  panels = figure.subplots(
    2 * down, across, squeeze=False, sharex=True, height_ratios=[3, 1] * down
  )
  for axes in panels.ravel():
    axes.set_axis_off()
  for c in chosen:
    above, below = panels[2 * (c // across) :, c % across][:2]
    for i, (name, records) in enumerate(sets.items()):
      values = schema.split(records)[1][:, :, c]
      _panel(above, below, schema, values, name, *_figures.LINES[i])
    channel = schema.channels[c]
    unit = f', {channel.unit}' if channel.unit else ''
    above.set_title(picture.short(f'{channel.name}{unit}', 34), fontsize=8)
    below.set_ylim(0, 1.05)
    for axes in (above, below):
      axes.set_axis_on()
      axes.tick_params(labelsize=6)
      for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
  if len(sets) > 1:
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc='outside upper left', ncols=len(sets), frameon=False)
  said = 'Median, 10 to 90 %, two sequences (thin); below: share measured.'
  return _figures.save(figure, path, f'{said} {note}'.strip())


def _panel(
  above: Axes, below: Axes, schema: SeriesSchema, values: np.ndarray, name: str, colour: str,
  style: str,
) -> None:
  times = schema.grid.times
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of steps at which nobody was measured
    low, middle, high = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
  above.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
  for edge in (low, high):
    above.plot(times, edge, style, color=colour, linewidth=0.8)
  above.plot(times, middle, style, color=colour, label=name)
  fullest = np.argsort(np.isnan(values).sum(axis=1), kind='stable')
  for row in fullest[len(values) // 4 :][:_EXAMPLES]:
    known = ~np.isnan(values[row])
    above.plot(times[known], values[row, known], style, color=colour, lw=0.5, marker='.', ms=2)
  below.plot(times, (~np.isnan(values)).mean(axis=0), style, color=colour)
