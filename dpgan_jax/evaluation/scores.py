"""Scores of samples: what one is, the record of finished ones, and the page that shows them.

>>> score = Score(name='fid', value=3.2, best='low', reads=('train',), n=1000, reference=0.4)
>>> score.reads_private_data
True
>>> Evaluation(scores=(score,), skipped={})['fid'].value
3.2
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from dpgan_jax import _files

Result = dict[str, Any]
"""Plain numbers, lists of them and dictionaries of both: what JSON holds."""

FORMAT = 'dpgan_jax evaluation 1'
_SAMPLES, _REAL, _FAINT = '#d55e00', '#0072b2', '#d9d9d9'  # Okabe & Ito

TITLES = {
  'tstr_cnn': 'TSTR, CNN 32-64-128',
  'tstr_mlp': 'TSTR, MLP',
  'tstr_lr': 'TSTR, logistic regression',
  'hold_out_cnn': 'the CNN on samples held out',
  'hold_out_mlp': 'the MLP on samples held out',
  'hold_out_lr': 'logistic regression on samples held out',
  'fid': 'FID (fixed features)',
  'kid': 'KID (fixed features)',
  'precision': 'precision',
  'recall': 'recall',
  'density': 'density',
  'coverage': 'coverage',
  'secondary_accuracy': "accuracy of the report's secondary network",
  'conv_judge_accuracy': 'accuracy of a convolutional judge',
  'secondary_fid': "the report's FID (activations of its secondary network)",
  'closer_to_train': 'nearer to a training than to a test image',
  'copy_share': 'share of near copies',
  'copying_z': 'copying, z score',
  'distinct_samples': 'share of distinct samples',
  'inception_fid': 'FID (Inception-v3)',
}
"""Names of scores for people."""
PRIVACY = (
  'Rows marked **yes** were computed from real images without noise. The ε of a run does not cover '
  'them: they are for the data owner, not for publication, and choosing settings, a checkpoint or '
  'samples by them is a use of private data that has to be charged or disclosed. Rows marked *no* '
  'read samples only and are covered.'
)
_NOTES = (
  '- *Real* is what real images get in the place of samples: the floor of a distance, the ceiling '
  'of an accuracy. For FID to coverage it is one half of the training images against the other, of '
  'the same size; for TSTR the same classifier trained on as many real images.',
  '- TSTR: trained on samples, tested on the real test images, the epoch chosen on a tenth of the '
  'samples that was held out. Comparable between papers, unlike FID, which depends on its '
  'features and on n.',
  '- A judge is trained to tell samples from real images and tested on unseen ones of both; one '
  'that guesses has accuracy 0.5.',
  '- Memorisation: a generator that copies has its samples nearer to training than to test images '
  '(well above 0.5), many near copies (0.01 is what fresh real images have) and a z score far '
  'below 0. A z score far above 0 only says that samples lie further off than real images do.',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """One number.

  Attributes:
    name: which.
    value: of the samples.
    best: what good samples have: 'high', 'low', or the number itself, such as '0.5'.
    reads: which real images it read: any of 'train' and 'test'. Empty: covered by the run's ε.
    n: of how many samples.
    reference: what real images get in the place of samples, computed the same way; None if absent.
    detail: further numbers.
  """

  name: str
  value: float
  best: str
  reads: tuple[str, ...]
  n: int
  reference: float | None = None
  detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def reads_private_data(self) -> bool:
    """Real test images count: the people in them are not protected by the run's ε either."""
    return bool(self.reads)

  def to_json(self) -> Result:
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {**fields, 'reads': list(self.reads), 'reads_private_data': self.reads_private_data}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """All scores of one set of samples; `skipped` gives a reason for each that is not there."""

  scores: tuple[Score, ...]
  skipped: Mapping[str, str]

  def __contains__(self, name: str) -> bool:
    return any(score.name == name for score in self.scores)

  def __getitem__(self, name: str) -> Score:
    for score in self.scores:
      if score.name == name:
        return score
    raise KeyError(name)

  def to_json(self, about: Mapping[str, Any]) -> Result:
    """The record, with what was evaluated (`about`) at its head; strict JSON."""
    return {
      'format': FORMAT,
      'about': dict(about),
      'privacy': PRIVACY.replace('*', ''),
      'scores': [score.to_json() for score in self.scores],
      'skipped': dict(self.skipped),
    }

  def to_markdown(self, about: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = ['# Evaluation of synthetic images', '']
    lines += [f'- {name.replace("_", " ")}: {value}' for name, value in about.items()]
    lines += ['', PRIVACY, '', '| score | samples | real | best | n | reads private data |']
    lines += ['| --- | --- | --- | --- | --- | --- |']
    for s in self.scores:
      reference = '' if s.reference is None else _number(s.reference)
      reads = f'**yes** ({", ".join(s.reads)})' if s.reads else '*no*'
      lines.append(
        f'| {TITLES.get(s.name, s.name)} | {_number(s.value)} | {reference} | {s.best} | {s.n:,} '
        f'| {reads} |'
      )
    lines += self._per_class()
    if self.skipped:
      lines += ['', '## Left out', '']
      lines += [f'- {name}: {reason}' for name, reason in self.skipped.items()]
    return '\n'.join([*lines, '', '## How to read it', '', *_NOTES, ''])

  def _per_class(self) -> list[str]:
    classified = [s for s in self.scores if 'per_class' in s.detail]
    if not classified:
      return []
    names = [s.name.removeprefix('tstr_') for s in classified]
    head = ' | '.join(f'{name} | {name}, real' for name in names)
    lines = ['', '## TSTR by class (reads private data: **yes**)', '', f'| class | {head} |']
    lines.append('| --- ' * (1 + 2 * len(names)) + '|')
    for k in range(len(classified[0].detail['per_class'])):
      cells = [
        s.detail[which][k] if which in s.detail else None
        for s in classified
        for which in ('per_class', _CEILING)
      ]
      lines.append(f'| {k} | ' + ' | '.join('–' if c is None else _number(c) for c in cells) + ' |')
    return lines

  def figure(self, path: pathlib.Path) -> None:
    """Draws samples beside real images: TSTR by class, and precision to coverage."""
    per_class = self['tstr_cnn'].detail if 'tstr_cnn' in self else None
    figure = Figure(figsize=(9 if per_class else 5, 3.6), dpi=150, layout='constrained')
    panels = figure.subplots(1, 2 if per_class else 1, squeeze=False)[0]
    names = [n for n in ('precision', 'recall', 'density', 'coverage') if n in self]
    chosen = [self[name] for name in names]
    _bars(panels[0], names, [s.value for s in chosen], [s.reference or 0.0 for s in chosen])
    if per_class:
      values = [c or 0.0 for c in per_class['per_class']]
      ceiling = [c or 0.0 for c in per_class.get(_CEILING, [0.0] * len(values))]
      _bars(panels[1], [str(k) for k in range(len(values))], values, ceiling)
      panels[1].set_xlabel('class')
      panels[1].set_ylabel('accuracy on real test images')
      panels[1].set_title('CNN trained on samples (TSTR), or on real images', fontsize=9)
    panels[0].set_title('samples against real images, fixed features', fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=2,
                  frameon=False)  # fmt: skip
    figure.supxlabel('Reads private data without noise: ε does not cover this figure.',
                     fontsize=8, x=0.01, ha='left')  # fmt: skip
    with _files.atomic_write(path, 'wb') as file:
      # The version of matplotlib would be written by default.
      figure.savefig(file, format='png', metadata={'Software': None})


_CEILING = 'per_class_ceiling'


def _bars(axes: Any, names: list[str], values: list[float], reference: list[float]) -> None:
  x = range(len(names))
  axes.bar([i - 0.2 for i in x], values, 0.4, color=_SAMPLES, label='samples')
  axes.bar([i + 0.2 for i in x], reference, 0.4, color=_REAL, label='real images')
  axes.set_xticks(list(x), names)
  axes.grid(axis='y', color=_FAINT, linewidth=0.6)
  axes.set_axisbelow(True)
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)


def _number(value: float) -> str:
  """Four digits that matter: 0.9612, 13.37, 205.1, 3.2e-05."""
  return f'{value:.4g}'


class Store:
  """Finished results on the disk, one file each, whole or absent; a damaged one counts as absent.

  The files hold scores on private data, named by digests of it: they are for the data owner only.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def get(self, name: str, key: str) -> Result | None:
    """The result kept under `key`, a digest of all that it depends on."""
    try:
      record = json.loads(self._path(name, key).read_bytes())
      return record['result'] if record['key'] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
      return None

  def put(self, name: str, key: str, result: Result) -> None:
    """Keeps a result; it is on the disk when this returns."""
    text = json.dumps({'key': key, 'result': result}, allow_nan=False)
    with _files.atomic_write(self._path(name, key)) as file:
      file.write(text)

  def _path(self, name: str, key: str) -> pathlib.Path:
    return self.folder / f'{name}-{key[:16]}.json'
