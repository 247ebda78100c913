"""Pictures of scores: of several runs side by side, over ε or over steps, and of one evaluation.

Every run is a point, so that the spread can be seen and not only its summary; a line goes through
the means, and a bar spans from mean − s to mean + s (s, the standard deviation between runs) where
there are at least two. What real images get is a dotted line. Series differ by colour (Okabe and
Ito's), marker and line style, so that they can be told apart in print.

>>> import pathlib, tempfile
>>> tstr = Series('TSTR', {1.0: [0.80, 0.82], math.inf: [0.95]}, reference=0.99)
>>> with tempfile.TemporaryDirectory() as folder:
...   over_epsilon([tstr], pathlib.Path(folder) / 'tstr.png', title='…', ylabel='accuracy').name
'tstr.png'
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, StrMethodFormatter

from dpgan_jax import _figures, _validate
from dpgan_jax.evaluation.scores import Evaluation

PathLike = str | os.PathLike[str]
# Okabe and Ito's palette with their yellow left out, which is faint on white.
_LOOKS = (
  ('#0072b2', 'o', '-'), ('#d55e00', 's', '--'), ('#009e73', '^', '-.'), ('#cc79a7', 'D', ':'),
  ('#e69f00', 'v', '-'), ('#56b4e9', 'P', '--'), ('#333333', 'X', '-.'),
)  # fmt: skip
_LOOK_OF: dict[str, dict] = dict(
  zip(('real images', 'samples', 'static'), _figures.FILLS, strict=True)
)
PRIVATE = 'Reads private data without noise: ε does not cover this figure.'
PUBLIC = 'The real images are public, so that scores on them may be shown; ε does not cover these.'


@dataclasses.dataclass(frozen=True)
class Series:
  """One score of several runs.

  Attributes:
    label: in the legend.
    points: ε (or steps) ↦ the score of each run there, at least one.
    reference: what real images get in the place of samples; None if that is not known.
  """

  label: str
  points: Mapping[float, Sequence[float]]
  reference: float | None = None


def over_epsilon(
  series: Sequence[Series],
  path: PathLike,
  *,
  title: str,
  ylabel: str,
  ideal: tuple[float, str] | None = None,
  log: bool = False,
  note: str = PRIVATE,
) -> pathlib.Path:
  """Draws scores over ε, which is on a logarithmic axis; ε = ∞ stands apart at its right end.

  Args:
    series: at most seven, which are as many as can be told apart.
    path: the PNG file; replaced where it exists.
    title: what was measured.
    ylabel: its unit.
    ideal: a value that perfect samples would have, and its name.
    log: whether the scores are on a logarithmic axis too; they must be > 0.
    note: below the figure.

  Raises:
    InputError: no point, or more series than looks.
  """
  figure, axes = _begin(series, title, ylabel, log)
  epsilons = sorted({e for s in series for e in s.points})
  finite = [e for e in epsilons if math.isfinite(e)]
  end = max(finite, default=1.0) * 2.2  # where ∞ is drawn
  place = {e: e if math.isfinite(e) else end for e in epsilons}
  _draw(axes, series, place, ideal)
  axes.set_xscale('log')
  if math.inf in place and finite:
    axes.axvline(math.sqrt(finite[-1] * end), color=_figures.FAINT, linewidth=4, zorder=0)
  axes.xaxis.set_major_locator(FixedLocator([place[e] for e in epsilons]))
  axes.xaxis.set_major_formatter(
    FixedFormatter([f'{e:g}' if math.isfinite(e) else '∞: not private' for e in epsilons])
  )
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel('ε of each run')
  return _end(figure, title, path, note)


def over_steps(
  series: Sequence[Series],
  path: PathLike,
  *,
  title: str,
  ylabel: str,
  ideal: tuple[float, str] | None = None,
  log: bool = False,
  note: str = PRIVATE,
) -> pathlib.Path:
  """Draws scores over discriminator steps; arguments and errors as of `over_epsilon`."""
  figure, axes = _begin(series, title, ylabel, log)
  _draw(axes, series, {x: x for s in series for x in s.points}, ideal)
  axes.set_xlabel('discriminator steps')
  axes.set_xlim(left=0)
  axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  return _end(figure, title, path, note)


def evaluation(found: Evaluation, path: PathLike) -> pathlib.Path:
  """Draws samples beside real images and noise: precision to coverage, and TSTR by class."""
  per_class = found['tstr_cnn'].detail if 'tstr_cnn' in found else None
  count = len(per_class['per_class']) if per_class else 0
  classes = [found.class_name(k) for k in range(count)]
  long = sum(map(len, classes)) > 60
  width = 9 + 0.25 * max(0, len(classes) - 16) if classes else 5
  figure = Figure(figsize=(width, 4.4 if long else 3.6), dpi=150, layout='constrained')
  panels = figure.subplots(1, 2 if classes else 1, squeeze=False)[0]
  chosen = [found[n] for n in ('precision', 'recall', 'density', 'coverage') if n in found]
  _bars(panels[0], [s.name for s in chosen], {
    'samples': [s.value for s in chosen],
    'real images': [s.reference for s in chosen],
    'static': [s.static for s in chosen],
  })  # fmt: skip
  name = next((s.features for s in chosen if s.features), None) or 'features'
  panels[0].set_title(f'samples against real images, {name}', fontsize=9)
  if per_class:
    _bars(panels[1], classes, {
      'samples': per_class['per_class'],
      'real images': per_class.get('per_class_ceiling', [None] * len(classes)),
    })  # fmt: skip
    if long:
      panels[1].tick_params(axis='x', labelrotation=90, labelsize=8)
    panels[1].set_xlabel('class')
    panels[1].set_ylabel('accuracy on real test images')
    panels[1].set_title('CNN trained on samples (TSTR), or on real images', fontsize=9)
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=3,
                frameon=False)  # fmt: skip
  return _figures.save(figure, path, PRIVATE)


def _bars(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> None:
  width = 0.8 / len(series)
  for number, (label, values) in enumerate(series.items()):
    places = [i + (number - (len(series) - 1) / 2) * width for i in range(len(names))]
    axes.bar(places, [v or 0.0 for v in values], width, label=label, **_LOOK_OF[label])
  axes.set_xticks(range(len(names)), names)
  _figures.quiet(axes, 'y')


def _begin(series: Sequence[Series], title: str, ylabel: str, log: bool) -> tuple[Figure, Axes]:
  if not any(s.points for s in series):
    raise _validate.InputError(f'expected at least one point of {title!r}, got none')
  if len(series) > len(_LOOKS):
    raise _validate.InputError(
      f'expected at most {len(_LOOKS)} series in a figure, got {len(series)}'
    )
  values = np.array([v for s in series for group in s.points.values() for v in group])
  if log and not (values > 0).all():
    raise _validate.InputError(f'expected values > 0 on a logarithmic axis, got {values.min():g}')
  figure, axes = _figures.one_panel(4.2)
  axes.set_ylabel(ylabel)
  if log:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
  return figure, axes


def _draw(
  axes: Axes,
  series: Sequence[Series],
  place: Mapping[float, float],
  ideal: tuple[float, str] | None,
) -> None:
  """Draws every series, the values of x moved to where `place` says."""
  for one, (colour, marker, style) in zip(series, _LOOKS, strict=False):
    # The unprivate end is no continuation of a curve over ε: the line ends before it.
    joined = [(x, statistics.fmean(one.points[x])) for x in sorted(one.points) if x < math.inf]
    alone = [(x, statistics.fmean(one.points[x])) for x in one.points if x == math.inf]
    look = {'color': colour, 'marker': marker, 'markersize': 6}
    axes.plot([place[x] for x, _ in joined], [y for _, y in joined], style, linewidth=1.6,
              label=one.label if joined else None, **look)  # fmt: skip
    axes.plot([place[x] for x, _ in alone], [y for _, y in alone], '',
              label=None if joined else one.label, **look)  # fmt: skip
    for x, values in one.points.items():
      if len(values) < 2:
        continue
      mean, spread = statistics.fmean(values), statistics.stdev(values)
      axes.errorbar(place[x], mean, yerr=spread, color=colour, capsize=4, linewidth=1.2)
      axes.plot([place[x]] * len(values), values, '.', color=colour, alpha=0.5, markersize=5)
    if one.reference is not None:
      axes.axhline(one.reference, color=colour, linewidth=1, linestyle=(0, (1, 1.5)),
                   marker=marker, markersize=4, clip_on=False,
                   label=f'{one.label}: real images')  # fmt: skip
  if ideal is not None:
    value, name = ideal
    axes.axhline(value, color=_figures.INK, linewidth=1, linestyle=(0, (6, 3)), label=name)


def _end(figure: Figure, title: str, path: PathLike, note: str) -> pathlib.Path:
  figure.legend(
    title=title, title_fontsize=10, alignment='left', frameon=False, fontsize=8, ncols=3,
    loc='outside upper left',
  )  # fmt: skip
  return _figures.save(figure, path, note)
