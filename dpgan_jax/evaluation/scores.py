"""Scores of samples: what one is, the record of finished ones, and the page that shows them.

>>> score = Score(
...   name='fid', value=3.2, best='low', reads=('train',), n=1000, reference=0.4, static=60.0
... )
>>> score.reads_private_data, score.separates
(True, True)
>>> Evaluation(scores=(score,), skipped={})['fid'].value
3.2
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dpgan_jax import _figures, _files, _markdown
from dpgan_jax.evaluation import verdict
from dpgan_jax.evaluation.distances import Memorisation

Result = dict[str, Any]
"""Plain numbers, lists of them and dictionaries of both: what JSON holds."""

FORMAT = 'dpgan_jax evaluation 2'
APART = 0.2
"""How far apart real images and noise have to be in a share or an accuracy for it to say much."""

TITLES = {
  'tstr_cnn': 'TSTR, CNN 32-64-128',
  'tstr_mlp': 'TSTR, MLP',
  'tstr_lr': 'TSTR, logistic regression',
  'balanced_cnn': 'TSTR, CNN, balanced over classes',
  'balanced_mlp': 'TSTR, MLP, balanced over classes',
  'balanced_lr': 'TSTR, logistic regression, balanced over classes',
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
  'copying_z': 'nearness to training images, z score',
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
  '*Real* is what real images get in the place of samples: the floor of a distance, the ceiling '
  'of an accuracy. For FID to coverage it is one half of the training images against the other, of '
  'the same size; for TSTR the same classifier trained on as many real images.',
  '*Static* is what noise gets in the place of samples: static of the mean and variance of real '
  'images, or pixels each from another real image, whichever looks better. For TSTR it is a guess: '
  'always the commonest class, or for balanced accuracy any. A score that likes noise about as '
  'well as real images **says nothing here**, whatever samples get.',
  f'Which scores say something: those of which noise gets {APART} less than real images (of an '
  'accuracy or a share), or at least twice as much (of a distance).',
  'Features: FID to coverage compare features of images. Those trained on MNIST digits are used '
  'for such digits only, fixed wavelets of luminance and colour for all other images.',
  'TSTR: trained on samples, tested on the real test images, the epoch chosen on a tenth of the '
  'samples that was held out. Comparable between papers, unlike FID, which depends on its '
  'features and on n.',
  'A judge is trained to tell samples from real images and tested on unseen ones of both; one '
  'that guesses has accuracy 0.5.',
  'Copies: the alarm follows from the share of near copies and its interval, and from whether near '
  'samples are nearer to training than to held-out images than chance has it. The other two scores '
  'do not decide: a z score far below 0 is that of copies, and of plain samples too; far above 0 '
  'it only says that samples lie further off than real images do.',
  verdict.RULE,
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
    static: what noise gets there, the kind that looks better; None if absent.
    features: what it compares images by; None if it needs none.
    off_ground: why these features say less than usual of these images; None if they do not.
    detail: further numbers.
  """

  name: str
  value: float
  best: str
  reads: tuple[str, ...]
  n: int
  reference: float | None = None
  static: float | None = None
  features: str | None = None
  off_ground: str | None = None
  detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def reads_private_data(self) -> bool:
    """Real test images count: the people in them are not protected by the run's ε either."""
    return bool(self.reads)

  @property
  def separates(self) -> bool | None:
    """Whether it tells noise from real images on these data; None where that is not known."""
    real, noise = self.reference, self.static
    if real is None or noise is None:
      return None
    if self.best == 'low':
      return noise > 0 and noise >= 2 * real
    return (real - noise if self.best == 'high' else abs(noise - real)) >= APART

  @property
  def remark(self) -> str:
    """What a reader has to know of it, for people."""
    remarks = ['**says nothing here**: static scores as well'] if self.separates is False else []
    remarks += [self.detail['remark']] if 'remark' in self.detail else []
    remarks += [f'of {self.features}'] if self.features else []
    remarks += [f'off its ground: {self.off_ground}'] if self.off_ground else []
    return '; '.join(remarks)

  def describe(self) -> str:
    """The number beside its references, for people."""
    beside = (('real images', self.reference), ('static', self.static))
    known = ', '.join(f'{name}: {number(v)}' for name, v in beside if v is not None)
    said = f'{number(self.value)} ({known})' if known else number(self.value)
    return f'{said}; says nothing here' if self.separates is False else said

  def to_json(self) -> Result:
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {
      **fields, 'reads': list(self.reads), 'reads_private_data': self.reads_private_data,
      'separates_static_from_real': self.separates,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """All scores of one set of samples.

  Attributes:
    scores: in the order of the page.
    skipped: a reason for each that is not there.
    class_names: of the data, for tables and figures; without them classes are numbers.
    copies: what the alarm goes by; None if it was not looked for.
  """

  scores: tuple[Score, ...]
  skipped: Mapping[str, str]
  class_names: tuple[str, ...] = ()
  copies: Memorisation | None = None

  def __contains__(self, name: str) -> bool:
    return any(score.name == name for score in self.scores)

  def __getitem__(self, name: str) -> Score:
    for score in self.scores:
      if score.name == name:
        return score
    raise KeyError(name)

  @property
  def verdict(self) -> verdict.Verdict:
    """What all of it comes to."""
    utilities = [
      (s.detail['balanced_ceiling'], s.detail['balanced'], s.detail['balanced_guess'])
      for s in self.scores
      if 'balanced_ceiling' in s.detail
    ]
    distances: list[tuple[float, ...]] = [
      (s.reference, s.value, *s.detail.get('static', {'': s.static}).values())
      for s in self.scores
      if s.name == 'fid' and s.separates and s.reference is not None and s.static is not None
    ]
    # Of the classifiers the one that learns most from real images.
    return verdict.judge(max(utilities, default=None), max(distances, default=None))

  @property
  def sentences(self) -> tuple[str, ...]:
    """What to say first: the verdict, and of copies."""
    return (self.verdict.sentence, *([self.copies.sentence] if self.copies else []))

  def to_json(self, about: Mapping[str, Any]) -> Result:
    """The record, with what was evaluated (`about`) at its head; strict JSON."""
    return {
      'format': FORMAT,
      'about': dict(about),
      'privacy': PRIVACY.replace('*', ''),
      'verdict': {**self.verdict.to_json(), 'reads_private_data': True},
      'copies': self.copies and {
        **dataclasses.asdict(self.copies), 'alarm': self.copies.alarm,
        'sentence': self.copies.sentence, 'reads_private_data': True,
      },
      'class_names': list(self.class_names),
      'scores': [score.to_json() for score in self.scores],
      'skipped': dict(self.skipped),
    }  # fmt: skip

  def to_markdown(self, about: Mapping[str, Any]) -> str:
    """The same for people."""
    record = {
      'sentences': self.sentences, 'next_step': self.verdict.next_step, 'about': about,
      'privacy': PRIVACY, 'skipped': self.skipped,
    }  # fmt: skip
    scored = [score.to_json() | {'remark': score.remark} for score in self.scores]
    title = 'Evaluation of synthetic images'
    return page(title, record, ('samples', 'static'), TITLES, scored, self._per_class(), _NOTES)

  def class_name(self, k: int) -> str:
    """For tables and figures; a bar would be read as the end of a cell."""
    return _figures.class_name(self.class_names, k).replace('|', '/')

  def _per_class(self) -> list[str]:
    classified = [s for s in self.scores if 'per_class' in s.detail]
    if not classified:
      return []
    names = [s.name.removeprefix('tstr_') for s in classified]
    header = ['class', *(h for name in names for h in (name, f'{name}, real'))]
    rows = []
    for k in range(len(classified[0].detail['per_class'])):
      cells = [
        s.detail[which][k] if which in s.detail else None
        for s in classified
        for which in ('per_class', 'per_class_ceiling')
      ]
      rows.append((self.class_name(k), *('–' if c is None else number(c) for c in cells)))
    title = '## TSTR by class (reads private data: **yes**)'
    return ['', title, '', _markdown.table(header, rows)]


def number(value: float | None) -> str:
  """Four digits that matter: 0.9612, 13.37, 205.1, 3.2e-05; nothing for what is not known."""
  return '' if value is None else f'{value:.4g}'


@dataclasses.dataclass(frozen=True)
class Piece:
  """One piece of work whose result is kept as a whole.

  Attributes:
    name: in messages and file names.
    key: a digest of all that its result follows from, beside the code.
    cost: seconds it takes on two idle cores, very roughly; divides the progress bar.
    run: does it; is given a function that it may tell the share of it that is done.
  """

  name: str
  key: str
  cost: float
  run: Callable[[Callable[[float], None]], Result]


def results(
  pieces: Sequence[Piece], store: Store | None, progress: Callable[[str, float], None] | None
) -> dict[str, Result]:
  """The results of all pieces by name: those that are kept, and the others, which are then kept."""
  kept = {p.name: store.get(p.name, p.key) for p in pieces} if store else {}
  todo = sum(p.cost for p in pieces if kept.get(p.name) is None)
  done, found = 0.0, {}
  for piece in pieces:
    result = kept.get(piece.name)
    if result is None:

      def tell(share: float, piece: Piece = piece, before: float = done) -> None:
        if progress is not None:
          progress(piece.name, (before + share * piece.cost) / todo)

      tell(0.0)
      result = piece.run(tell)
      done += piece.cost
      if store is not None:
        store.put(piece.name, piece.key, result)
    found[piece.name] = result
  return found


def digest(about: Any) -> str:
  """A key of a piece: of what JSON holds."""
  return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def page(
  title: str,
  record: Mapping[str, Any],
  names: tuple[str, str],
  titles: Mapping[str, str],
  scored: Iterable[Mapping[str, Any]],
  own: Iterable[str],
  notes: Iterable[str],
) -> str:
  """A record for people, as Markdown.

  Args:
    title: of the page.
    record: `sentences`, the first of which is the verdict, `next_step`, `about`, what is said of
      `privacy`, and why scores were `skipped`.
    names: what samples and what noise are called.
    titles: of scores.
    scored: the scores, as `Score.to_json` has them, with a `remark`.
    own: lines of further sections.
    notes: how to read it.
  """
  first, *others = record['sentences']
  lines = [f'# {title}', '', f'**{first}**', '', *(f'{line}\n' for line in others)]
  lines += [f'{record["next_step"]} These sentences read private data too.', '']
  about = (f'{name.replace("_", " ")}: {value}' for name, value in record['about'].items())
  header = (
    'score', names[0], 'real', names[1], 'best', 'n', 'reads private data', 'what to know',
  )  # fmt: skip
  rows = [
    (
      titles.get(s['name'], s['name']), number(s['value']), number(s['reference']),
      number(s['static']), s['best'], f'{s["n"]:,}',
      f'**yes** ({", ".join(s["reads"])})' if s['reads'] else '*no*', s['remark'],
    )
    for s in scored
  ]  # fmt: skip
  lines += [_markdown.bullets(about), '', '## Scores', '', record['privacy'], '']
  lines += [_markdown.table(header, rows), *own]
  if record['skipped']:
    left_out = _markdown.bullets(f'{name}: {why}' for name, why in record['skipped'].items())
    lines += ['', '## Left out', '', left_out]
  return '\n'.join([*lines, '', '## How to read it', '', _markdown.bullets(notes), ''])


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
