"""The statement of a run as one page for people who decide about it: report.html.

Made from the same `Statement` as report.json, and of the sections of report.md. It holds what may
be published, and nothing else: beside the statement a picture of samples, and curves of what is
computed on fakes only. What reads records without noise is on pages that `verdicts` keeps private.
"""

from __future__ import annotations

import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _figures, _html, _markdown
from dpgan_jax.data.spec import Spec
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.publishing import verdicts, words

NAME = 'report.html'
_CURVES = ('step', 'epsilon', 'g_loss', 'd_loss_fake')
_POINTS = 6  # rows of the table of ε over steps
_PUBLISH = {
  verdicts.YES: ('green', '**This page may be published.** It holds settings, public constants and '
                 'what the guarantee covers; nothing that was computed from records without noise. '
                 'Of other files the table below says whether they may.'),
  verdicts.IF_SECRET: ('yellow', '**This page may be published only if the seed of the run stays '
                       'secret.** Who knows or guesses it can take the noise away.'),
  verdicts.NO: ('red', '**Do not publish this page.** Nothing protects the people in the data from '
                'what it shows: the samples may be copies of records.'),
}  # fmt: skip
_CHANGES = 'The page in a bundle of `dpgan_jax.release` is the one to pass on.'
_VERDICT, _OTHER_DELTA = 'What the samples can be good for', 'ε at other δ'
_FIRST = ('What this means', _VERDICT)  # before the samples


def make(
  markdown: str,
  files: Sequence[Mapping[str, str]],
  spec: Spec,
  name: str,
  pictures: Mapping[str, bytes],
  *,
  colour: str | None = None,
  metrics: Sequence[Mapping[str, Any]] = (),
) -> str:
  """The page.

  Args:
    markdown: of the statement.
    files: its verdicts on files.
    spec: of the data.
    name: of the data set.
    pictures: PNG files by name: of ε over δ, and of samples, 'samples.png', where there are any.
    colour: of the verdict on samples; None: there is none.
    metrics: lines of metrics.jsonl, of which `_CURVES` are shown; none in a bundle.
  """
  title = markdown.partition('\n')[0].removeprefix('# ')
  parts = _markdown.sections(markdown)
  ground, may = _PUBLISH[next(row['publish'] for row in files if row['file'] == NAME)]
  made = [_html.box(ground, f'{may} {_CHANGES}' if metrics else may), _html.body(parts.pop(''))]
  for heading in [h for h in _FIRST if h in parts]:
    text = parts.pop(heading)
    boxed = _html.box(colour, text) if colour and heading == _VERDICT else _html.body(text)
    made += [f'<h2>{heading}</h2>', boxed]
  if 'samples.png' in pictures:
    shown = _html.Picture(pictures['samples.png'], *_of_samples(spec, name))
    made += ['<h2>Samples</h2>', _html.figure(shown)]
  curve = _html.Picture(
    pictures[verdicts.PICTURE],
    'Curve of ε over δ: ε falls as δ grows. The table below it has the numbers.',
  )
  for heading, text in parts.items():
    made.append(_html.body(f'## {heading}\n\n{text}', {verdicts.PICTURE: curve}))
    if heading == _OTHER_DELTA and metrics:
      made += _over_steps(metrics)
  return _html.page(title, made)


def _of_samples(spec: Spec, name: str) -> tuple[str, str]:
  """What the picture shows, and what stands below it."""
  said = words.of(spec)
  if spec.schema is not None:
    return (
      f'Bar charts of synthetic {name}: the share of rows in each cell of each column.',
      'Synthetic rows only: shares of the values of each column, after noise.',
    )
  rows = ', a row for each class' if spec.num_classes > 1 else ''
  return (
    f'A grid of synthetic {said.records} like those of {name}{rows}.',
    f'None of these {said.records} was chosen; each was drawn from noise.',
  )


def _over_steps(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
  """ε over steps, and the losses that read no records."""
  lines: list[dict[str, Any]] = [{n: line.get(n) for n in _CURVES} for line in metrics]
  made = []
  known = [line for line in lines if _finite(line['epsilon']) and _finite(line['step'])]
  if len(known) > 1:
    places = sorted({round(i * (len(known) - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    rows = ((f'{known[i]["step"]:,}', show_epsilon(known[i]['epsilon'])) for i in places)
    made.append(_html.body(
      '## ε over steps\n\nEach step adds to what is spent. ε so far, at the δ of this run:\n\n'
      + _markdown.table(('discriminator steps', 'ε spent'), rows)
    ))  # fmt: skip
  if any(_finite(line[name]) for line in lines for name in ('g_loss', 'd_loss_fake')):
    # Without ε, which the figure interpolates and the table has rounded up.
    losses = [{n: line[n] for n in _CURVES if n != 'epsilon'} for line in lines]
    with tempfile.TemporaryDirectory() as folder:
      png = _figures.loss_curves(losses, pathlib.Path(folder) / 'losses.png').read_bytes()
    made += [
      '<h2>Training, as far as it may be published</h2>',
      _html.figure(_html.Picture(
        png,
        'Curves over steps: the loss of the generator, and of the discriminator on fakes.',
        'Computed on fakes only, so that the guarantee covers them. The loss on real records is '
        'in `losses.png`, which stays private.',
      )),
    ]  # fmt: skip
  return made


def _finite(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


