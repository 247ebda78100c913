"""Pictures of a run: sample grids, loss curves, ε over δ and over steps.

Drawn with Pillow and with matplotlib's objects, never through pyplot, whose state would be the
caller's as well. A file is whole or absent, and the same input gives the same bytes.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...   path = sample_grid(np.zeros((20, 28, 28), np.uint8), f'{folder}/samples.png')
...   with Image.open(path) as picture:
...     print(picture.size)
(571, 115)
"""

from __future__ import annotations

import decimal
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image, ImageDraw, ImageFont

from dpgan_jax._files import atomic_write
from dpgan_jax._validate import InputError, integer

PathLike = str | os.PathLike[str]

# Okabe & Ito's palette: distinct for readers with any form of colour blindness. In grey print some
# of it is alike, so that lines differ in style too, and what is filled in lightness, with an edge.
INK, FAINT = '#333333', '#d9d9d9'
LINES = (('#0072b2', '-'), ('#d55e00', '--'), ('#009e73', '-.'))
FILLS = tuple(
  {'color': colour, 'edgecolor': INK, 'linewidth': 0.4} for colour in ('#0072b2', '#e69f00', FAINT)
)
_BLUE, _ORANGE = LINES[0][0], LINES[1][0]
_PAPER, _GAP = (255, 255, 255), (128, 128, 128)
_FONT = 'fonts/ttf/DejaVuSans.ttf'

_CURVES = (('g_loss', 'G'), ('d_loss_real', 'D on real ¹'), ('d_loss_fake', 'D on fake'))


def sample_grid(
  images: np.ndarray,
  path: PathLike,
  *,
  columns: int = 10,
  labels: np.ndarray | None = None,
  class_names: Sequence[str] | None = None,
  scale: int = 2,
  title: str | None = None,
) -> pathlib.Path:
  """Draws images in a grid, every pixel a sharp square, with gaps of one pixel.

  Args:
    images: uint8 [N, H, W] or [N, H, W, C], C = 1 or 3, N ≥ 1.
    path: the PNG file; replaced where it exists.
    columns: images in a row.
    labels: whole numbers [N]. Each class then begins a row of its own, with its label before it,
    class_names: or with its name, of which a long one is cut.
    scale: side of an image pixel in the picture.
    title: one line above the grid.

  Raises:
    InputError: arrays of another shape or dtype.
  """
  images = _checked(images)
  integer('columns', columns, minimum=1)
  rows = [
    (name, images[chosen]) for name, chosen in _rows(len(images), columns, labels, class_names)
  ]
  return image_rows(rows, path, scale=scale, title=title)


def image_rows(
  rows: Sequence[tuple[str, np.ndarray]],
  path: PathLike,
  *,
  scale: int = 2,
  title: str | None = None,
) -> pathlib.Path:
  """Draws rows of images, each with a name before it, every pixel a sharp square.

  Args:
    rows: at least one; its name ('' for none) and its images, uint8 [n, H, W] or [n, H, W, C], of
      the same H and W in all rows.
    path: the PNG file; replaced where it exists.
    scale: side of an image pixel in the picture.
    title: one line above the grid.

  Raises:
    InputError: arrays of another shape or dtype.
  """
  rows = [(name, _checked(images)) for name, images in rows]
  sizes = {images.shape[1:3] for _, images in rows}
  if len(sizes) != 1:
    raise InputError(f'expected rows of images of one size, got {sorted(sizes)}')
  integer('scale', scale, minimum=1)

  height, width = (side * scale for side in sizes.pop())
  font_size = max(11, min(18, height // 2))
  # matplotlib's own font: Pillow's has no Greek letters.
  font = ImageFont.truetype(os.path.join(matplotlib.get_data_path(), _FONT), font_size)
  names = [name for name, _ in rows if name]
  left = math.ceil(max(map(font.getlength, names))) + font_size if names else 0
  top = 2 * font_size if title else 0
  across = max(len(row) for _, row in rows)
  grid_width, grid_height = across * (width + 1) + 1, len(rows) * (height + 1) + 1
  canvas_width = left + grid_width
  if title:
    canvas_width = max(canvas_width, math.ceil(font.getlength(title)) + font_size)
  canvas = Image.new('RGB', (canvas_width, top + grid_height), _PAPER)
  draw = ImageDraw.Draw(canvas)
  if title:
    draw.text((left or font_size // 2, font_size), title, INK, font, anchor='lm')
  for i, (name, row) in enumerate(rows):
    y = top + i * (height + 1)
    if name:
      draw.text((left - font_size // 2, y + 1 + height // 2), name, INK, font, anchor='rm')
    # The grey reaches as far as there are images: a short row ends where its images end.
    draw.rectangle((left, y, left + len(row) * (width + 1), y + height + 1), _GAP)
    for j, image in enumerate(row):
      tile = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
      tile = tile.resize((width, height), Image.Resampling.NEAREST)
      canvas.paste(tile, (left + j * (width + 1) + 1, y + 1))
  with atomic_write(path, 'wb') as file:
    canvas.save(file, format='PNG', optimize=True)
  return pathlib.Path(path)


def scale_of(shape: Sequence[int]) -> int:
  """Screen pixels per pixel: small images [H, W, C] are shown about as large as those of MNIST."""
  return max(1, round(56 / shape[0]))


def class_name(names: Sequence[str], k: int) -> str:
  """The name of class k in one line of a figure or a table; its number where it has no name."""
  name = ' '.join(names[k].split()) if 0 <= k < len(names) else str(k)
  return name if len(name) <= 24 else f'{name[:23]}…'


def _checked(images: np.ndarray) -> np.ndarray:
  """Images as uint8 [n, h, w, c], none of them 0 and c = 1 or 3, or what is wrong with them."""
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
    raise InputError(
      f'expected images to be uint8 [N, H, W] or [N, H, W, C], none of them 0, got {images.dtype} '
      f'{images.shape}'
    )
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if images.shape[3] not in (1, 3):
    raise InputError(f'expected images of 1 (grey) or 3 (RGB) channels, got {images.shape[3]}')
  return images


def _rows(
  count: int, columns: int, labels: np.ndarray | None, class_names: Sequence[str] | None
) -> list[tuple[str, np.ndarray]]:
  """Returns for each row what stands before it ('' if nothing) and the indices of its images."""
  if labels is None:
    groups = [('', np.arange(count))]
  else:
    labels = np.asarray(labels)
    if labels.dtype.kind not in 'iu' or labels.shape != (count,):
      raise InputError(
        f'expected labels to be {count} whole numbers, got {labels.dtype} {labels.shape}'
      )
    names = {k: class_name(class_names or (), int(k)) for k in np.unique(labels)}
    groups = [(name, np.flatnonzero(labels == k)) for k, name in names.items()]
  return [
    (name if start == 0 else '', group[start : start + columns])
    for name, group in groups
    for start in range(0, len(group), columns)
  ]


def loss_curves(metrics: Sequence[Mapping[str, Any]], path: PathLike) -> pathlib.Path:
  """Draws the losses of G, of D on real and of D on fake images over steps, with ε above them.

  The loss on real images is computed from private data without noise: the picture says so.

  Args:
    metrics: one mapping per line of a run's metrics, with `step` and any of `g_loss`,
      `d_loss_real`, `d_loss_fake`, `epsilon`. What is missing, None, NaN or infinite leaves a gap.
    path: the PNG file; replaced where it exists.

  Raises:
    InputError: no line with a finite step.
  """
  step = _column(metrics, 'step')
  kept = np.isfinite(step)
  if not kept.any():
    raise InputError('expected at least one line of metrics with a finite step, got none')
  order = np.argsort(step[kept], kind='stable')

  def column(name: str) -> np.ndarray:
    return _column(metrics, name)[kept][order]

  step, epsilon = column('step'), column('epsilon')
  figure, axes = one_panel()
  # A line of one point is invisible; many points are noise, so their running mean is drawn over it.
  window = len(step) // 50
  marker = 'o' if len(step) <= 25 else ''
  for (name, label), (colour, style) in zip(_CURVES, LINES, strict=True):
    loss = column(name)
    if not np.isfinite(loss).any():
      continue
    if window > 1:
      axes.plot(step, loss, color=colour, linewidth=0.6, alpha=0.25)
      loss = _running_mean(loss, window)
    axes.plot(step, loss, style, color=colour, lw=1.6, marker=marker, markersize=4, label=label)
  _step_axis(axes, step)
  axes.set_ylabel('loss')
  _epsilon_axis(axes, step, epsilon)
  if axes.get_legend_handles_labels()[0]:
    figure.legend(frameon=False, ncols=3, loc='outside upper left')
  notes = []
  if np.isfinite(column('d_loss_real')).any():
    notes.append('¹ reads private data without noise: ε does not cover this curve.')
  if window > 1:
    notes.append(f'Bold: mean of {window} points.')
  return save(figure, path, ' '.join(notes))


def epsilon_delta_curve(
  deltas: Sequence[float],
  epsilons: Sequence[float],
  path: PathLike,
  *,
  at_delta: float,
  at_epsilon: float,
) -> pathlib.Path:
  """Draws the (ε, δ) pairs that a run guarantees, δ on a logarithmic axis, and marks one of them.

  Args:
    deltas: [n] in (0, 1), in any order.
    epsilons: [n], ε at each δ; infinite or NaN values are left out.
    path: the PNG file; replaced where it exists.
    at_delta: δ of the pair that is stated.
    at_epsilon: its ε; infinite for a run without privacy, which the picture then says.

  Raises:
    InputError: lists of differing lengths, or a δ outside (0, 1).
  """
  delta, epsilon = np.asarray(deltas, np.float64), np.asarray(epsilons, np.float64)
  if delta.shape != epsilon.shape or delta.ndim != 1:
    raise InputError(f'expected one epsilon per delta, got {delta.shape} and {epsilon.shape}')
  for value in (*delta, at_delta):
    if not 0 < value < 1:
      raise InputError(f'expected delta in (0, 1), got {float(value)!r}')
  order = np.argsort(delta)
  order = order[np.isfinite(epsilon[order])]
  figure, axes = one_panel()
  axes.set_xscale('log')
  axes.plot(delta[order], epsilon[order], color=_BLUE, linewidth=1.8)
  axes.set_xlabel('δ')
  axes.set_ylabel('ε')
  if math.isfinite(at_epsilon):
    axes.plot([at_delta], [at_epsilon], 'o', color=_ORANGE, markersize=7, zorder=3)
    axes.annotate(
      f'ε = {at_epsilon:.4g} at δ = {_short(at_delta)}',
      (at_delta, at_epsilon),
      xytext=(8, 8),
      textcoords='offset points',
      color=INK,
    )
  else:
    axes.text(0.5, 0.5, 'no finite ε: not private', transform=axes.transAxes, ha='center')
  axes.margins(x=0.04, y=0.12)
  axes.set_ylim(bottom=0)
  return save(figure, path)


def _column(metrics: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  values = (line.get(name) for line in metrics)
  column = np.array([np.nan if value is None else float(value) for value in values], np.float64)
  return np.where(np.isfinite(column), column, np.nan)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Mean of the finite among `window` values around each; NaN where there is none."""
  finite = np.isfinite(values)
  kernel = np.ones(window)
  total = np.convolve(np.where(finite, values, 0), kernel, 'same')
  count = np.convolve(finite, kernel, 'same')
  return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5)


def one_panel(height: float = 4) -> tuple[Figure, Axes]:
  """A figure of one quiet panel, seven inches wide."""
  figure = Figure(figsize=(7, height), dpi=150, layout='constrained', facecolor='white')
  axes = figure.add_subplot()
  quiet(axes)
  return figure, axes


def quiet(axes: Axes, grid: Literal['both', 'y'] = 'both') -> None:
  """A faint grid behind what is drawn, and no frame above it and at its right."""
  axes.grid(axis=grid, color=FAINT, linewidth=0.6)
  axes.set_axisbelow(True)
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)


def _step_axis(axes: Axes, step: np.ndarray) -> None:
  axes.set_xlabel('discriminator steps')
  if len(set(step)) == 1:  # no range to spread ticks over
    axes.set_xticks(step[:1])
  else:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 2.5, 5, 10], integer=True))
  axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))


def _short(delta: float) -> str:
  """'1e-5' rather than '1e-05'."""
  return f'{delta:.3g}'.replace('e-0', 'e-')


def _epsilon_axis(axes: Axes, step: np.ndarray, epsilon: np.ndarray) -> None:
  """Writes ε at the ticks of the steps, on top, never too little; nothing if no ε is finite."""
  known = np.isfinite(epsilon)
  if not known.any():
    return
  step, epsilon = step[known], epsilon[known]
  ticks = [t for t in axes.get_xticks() if step[0] <= t <= step[-1]] or [step[-1]]
  top = axes.twiny()
  top.set_xlim(axes.get_xlim())
  spent = epsilon[np.searchsorted(step, ticks)]  # of the next step that is known
  up = decimal.Context(3, decimal.ROUND_CEILING).create_decimal
  top.set_xticks(ticks, [f'{float(up(repr(float(value)))):#.3g}' for value in spent])
  top.set_xlabel('ε spent')
  top.spines['right'].set_visible(False)


def save(figure: Figure, path: PathLike, note: str = '') -> pathlib.Path:
  """Writes a figure as PNG, whole or not at all, the same bytes every time; `note` is below it."""
  if note:
    figure.supxlabel(note, fontsize=8, color=INK, x=0.01, ha='left')
  with atomic_write(path, 'wb') as file:
    # The version of matplotlib would be written by default.
    figure.savefig(file, format='png', metadata={'Software': None})
  return pathlib.Path(path)
