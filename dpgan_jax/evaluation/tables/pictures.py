"""Pictures of a synthetic table beside real rows: one-way marginals, and relations of columns.

Both read private data without noise, and say so.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpgan_jax import _files
from dpgan_jax.data.tables.schema import Column, TableDataset
from dpgan_jax.evaluation.curves import PRIVATE
from dpgan_jax.evaluation.tables import cells, marginals

PathLike = str | os.PathLike[str]
MOST_PANELS, _MOST_NAMED, _MOST_BARS = 24, 30, 24
# Okabe and Ito's, as in all pictures of this package.
_REAL, _MADE, _INK, _FAINT = '#0072b2', '#d55e00', '#333333', '#d9d9d9'


def one_way(real: TableDataset, synthetic: TableDataset, path: PathLike) -> pathlib.Path:
  """Draws the shares of the cells of each column, at most `MOST_PANELS` of them.

  Args:
    real: held-out rows.
    synthetic: of the same schema.
    path: the PNG file; replaced where it exists.
  """
  tables = cells.table(real), cells.table(synthetic)
  columns = _columns(real)
  shown = list(range(len(columns)))
  if len(shown) > MOST_PANELS:  # the last one is the target, if there is one
    shown = [*shown[: MOST_PANELS - 1], len(columns) - 1]
  across = min(4, len(shown))
  down = -(-len(shown) // across)
  figure = Figure(figsize=(3.2 * across, 2.1 * down + 0.6), dpi=130, layout='constrained')
  panels = figure.subplots(down, across, squeeze=False).ravel()
  for axes, c in itertools.zip_longest(panels, shown):
    if c is None:
      axes.set_axis_off()
      continue
    size = int(tables[0].sizes[c])
    p, q = (np.bincount(t.codes[:, c], minlength=size) / len(t.codes) for t in tables)
    _panel(axes, columns[c], p, q)
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=2,
                frameon=False)  # fmt: skip
  left_out = len(columns) - len(shown)
  note = f'{PRIVATE} {left_out} columns are not shown.' if left_out else PRIVATE
  return _save(figure, path, note)


def relations(real: TableDataset, synthetic: TableDataset, path: PathLike) -> pathlib.Path:
  """Draws Cramér's V of every two columns: of real rows, of synthetic ones, and the difference.

  Args:
    real, synthetic, path: as of `one_way`; at most 100 columns are shown.
  """
  a, b = (marginals.relations(cells.table(t), 100) for t in (real, synthetic))
  names = [_short(name, 16) for name in cells.table(real).names[: len(a)]]
  figure = Figure(figsize=(13, 4.9), dpi=130, layout='constrained', facecolor='white')
  panels = figure.subplots(1, 3)
  for axes, values, title, limits, colours in (
    (panels[0], a, 'held-out real rows', (0, 1), 'viridis'),
    (panels[1], b, 'synthetic rows', (0, 1), 'viridis'),
    (panels[2], b - a, 'synthetic - real', (-0.5, 0.5), 'RdBu_r'),
  ):  # fmt: skip
    image = axes.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set_title(title, fontsize=10)
    named = range(len(names)) if len(names) <= _MOST_NAMED else []
    axes.set_xticks(named, [names[i] for i in named], rotation=90, fontsize=7)
    axes.set_yticks(named, [names[i] for i in named] if axes is panels[0] else [''] * len(named),
                    fontsize=7)  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.75)
  return _save(figure, path, f"Cramér's V, corrected, on public cells. {PRIVATE}")


def _panel(axes: Axes, column: Column, real: np.ndarray, made: np.ndarray) -> None:
  """Bars of both, cells that are empty in both at an end left out."""
  names, title = cells.names(column), _short(column.name, 34)
  order = np.arange(len(real))
  if column.is_category and column.kind != 'ordinal' and len(order) > 2:
    order = np.argsort(-real, kind='stable')
  used = (real + made)[order] > 0
  order = order[used] if column.is_category else order[_between_used(used)]
  if len(order) > _MOST_BARS:
    title, order = f'{title}: {_MOST_BARS} of {len(order)}', order[:_MOST_BARS]
  places = np.arange(len(order))
  axes.bar(places - 0.2, real[order], 0.4, color=_REAL, label='held-out real rows')
  axes.bar(places + 0.2, made[order], 0.4, color=_MADE, label='synthetic rows')
  labels = [_short(names[k], 14) for k in order]
  every = -(-len(order) // 12)
  axes.set_xticks(places[::every], labels[::every], rotation=90, fontsize=6)
  axes.tick_params(axis='y', labelsize=7)
  axes.set_title(title, fontsize=8, color=_INK, parse_math=False)
  axes.grid(axis='y', color=_FAINT, linewidth=0.6)
  axes.set_axisbelow(True)
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)


def _between_used(used: np.ndarray) -> np.ndarray:
  """From the first to the last cell that holds anything."""
  places = np.flatnonzero(used)
  return (np.arange(len(used)) >= places[0]) & (np.arange(len(used)) <= places[-1])


def _columns(data: TableDataset) -> Sequence[Column]:
  """Those of `cells.table`, in its order."""
  target = data.schema.target
  return [*data.schema.modelled, *(c for c in data.schema.columns if c.name == target)]


def _short(text: str, longest: int) -> str:
  """One line of a name; a dollar sign would begin a formula."""
  text = ' '.join(text.split()).replace('$', r'\$')
  return text if len(text) <= longest else f'{text[: longest - 1]}…'


def _save(figure: Figure, path: PathLike, note: str) -> pathlib.Path:
  figure.supxlabel(note, fontsize=8, color=_INK, x=0.01, ha='left')
  with _files.atomic_write(path, 'wb') as file:
    figure.savefig(file, format='png', metadata={'Software': None})
  return pathlib.Path(path)
