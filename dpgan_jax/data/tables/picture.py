"""A picture of a table: the share of each cell of each column, of one table or of several."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpgan_jax import _figures
from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.schema import Schema

Rows = tuple[np.ndarray, np.ndarray | None]
"""Records float64 [n, C] of the columns of a schema, and classes of the target if it has one."""

PathLike = str | os.PathLike[str]
MOST_PANELS, _MOST_BARS, _BINS = 24, 24, 16


def one_way(
  schema: Schema, tables: Mapping[str, Rows], path: PathLike, *, note: str = ''
) -> pathlib.Path:
  """Draws the shares of the cells of each column, at most `MOST_PANELS` of them.

  Args:
    schema: of all tables.
    tables: by what to call them.
    path: the PNG file; replaced where it exists.
    note: below the panels.
  """
  columns = [(Cells(c, _BINS), i) for i, c in enumerate(schema.modelled)]
  columns += [(Cells(c, _BINS), -1) for c in schema.columns if c.name == schema.target]
  shown = columns
  if len(shown) > MOST_PANELS:  # the last one is the target, if there is one
    shown = [*columns[: MOST_PANELS - 1], columns[-1]]
    note = f'{note} {len(columns) - len(shown)} columns are not shown.'.strip()
  across = min(4, len(shown))
  down = -(-len(shown) // across)
  figure = Figure(figsize=(3.2 * across, 2.1 * down + 0.6), dpi=130, layout='constrained')
  panels = figure.subplots(down, across, squeeze=False).ravel()
  for axes, panel in itertools.zip_longest(panels, shown):
    if panel is None:
      axes.set_axis_off()
      continue
    cells, place = panel
    shares = {}
    for name, (records, labels) in tables.items():
      values = records[:, place] if place >= 0 else np.asarray(labels, np.float64)
      shares[name] = np.bincount(cells.of(values), minlength=cells.count) / len(records)
    _panel(axes, cells, shares)
  if len(tables) > 1:
    figure.legend(
      *panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=len(tables),
      frameon=False,
    )  # fmt: skip
  return _figures.save(figure, path, note)


def short(text: str, longest: int) -> str:
  """One line of a name; a dollar sign would begin a formula."""
  text = ' '.join(text.split()).replace('$', r'\$')
  return text if len(text) <= longest else f'{text[: longest - 1]}…'


def _panel(axes: Axes, cells: Cells, shares: Mapping[str, np.ndarray]) -> None:
  """Bars of all, cells that are empty in all at an end left out."""
  title, column = short(cells.column.name, 34), cells.column
  order, largest = np.arange(cells.count), np.max(list(shares.values()), axis=0)
  if not column.is_ordered:
    order = np.argsort(-largest, kind='stable')
    order = order[largest[order] > 0]
  else:
    used = np.flatnonzero(largest > 0)
    order = order[used[0] : used[-1] + 1]
  if len(order) > _MOST_BARS:
    title, order = f'{title}: {_MOST_BARS} of {len(order)}', order[:_MOST_BARS]
  places, width = np.arange(len(order)), 0.8 / len(shares)
  for i, (name, values) in enumerate(shares.items()):
    offset = (i - (len(shares) - 1) / 2) * width
    axes.bar(places + offset, values[order], width, label=name, **_figures.FILLS[i])
  labels = [short(cells.names[k], 14) for k in order]
  every = -(-len(order) // 12)
  axes.set_xticks(places[::every], labels[::every], rotation=90, fontsize=6)
  axes.tick_params(axis='y', labelsize=7)
  axes.set_title(title, fontsize=8, color=_figures.INK, parse_math=False)
  _figures.quiet(axes, 'y')
