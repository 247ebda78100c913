"""Pictures of a synthetic table beside real rows: one-way marginals, and relations of columns.

Both read private data without noise, and say so.
"""

from __future__ import annotations

import os
import pathlib

from matplotlib.figure import Figure

from dpgan_jax import _figures
from dpgan_jax.data.tables import picture
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.curves import PRIVATE
from dpgan_jax.evaluation.tables import cells, marginals

PathLike = str | os.PathLike[str]
_MOST_NAMED = 30


def one_way(real: TableDataset, synthetic: TableDataset, path: PathLike) -> pathlib.Path:
  """Draws the shares of the cells of each column, at most `picture.MOST_PANELS` of them.

  Args:
    real: held-out rows.
    synthetic: of the same schema.
    path: the PNG file; replaced where it exists.
  """
  rows = {
    'held-out real rows': (real.records, real.labels),
    'synthetic rows': (synthetic.records, synthetic.labels),
  }
  return picture.one_way(real.schema, rows, path, note=PRIVATE)


def relations(real: TableDataset, synthetic: TableDataset, path: PathLike) -> pathlib.Path:
  """Draws Cramér's V of every two columns: of real rows, of synthetic ones, and the difference.

  Args:
    real, synthetic, path: as of `one_way`; at most 100 columns are shown.
  """
  a, b = (marginals.relations(cells.table(t), 100) for t in (real, synthetic))
  names = [picture.short(name, 16) for name in cells.table(real).names[: len(a)]]
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
  return _figures.save(figure, path, f"Cramér's V, corrected, on public cells. {PRIVATE}")
