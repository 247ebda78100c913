"""Generators side by side: those that a run kept along the way, drawn, and scored over steps.

A run with `--reports_per_snapshot` leaves `snapshots/step_<n>.safetensors`, each a publishable
generator. Looking at samples of them reads no private data; scores do, and to choose when to stop
by them is a use of private data that no ε of the run covers.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpgan_jax import _figures, _files, _keys, _markdown, _validate
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.evaluation import curves, features, scores, tasks
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.privacy.accounting import rounded_up, show_epsilon
from dpgan_jax.run import generator_file, secrets
from dpgan_jax.run.directory import RunDir

STEPS_FORMAT = 'dpgan_jax evaluation over steps 1'
STEPS_JSON = 'evaluation_steps.json'
STEPS_JSON_AS_TRAINED = 'evaluation_steps_as_trained.json'
PRIVATE = (
  'Computed from real images without noise: for the data owner, not for publication (unless the '
  'data are public). Choosing a step by these scores is a use of private data that no ε covers.'
)
FIGURES: tuple[tuple[str, str, str, dict[str, str], dict[str, Any]], ...] = (
  ('fid', 'FID on fixed features over training', 'FID', {'fid': 'FID'}, {'log': True}),
  ('tstr', 'TSTR over training: trained on samples, tested on real images', 'accuracy',
   {'tstr_mlp': 'MLP', 'tstr_lr': 'logistic regression'}, {}),
  ('secondary', 'How often the secondary network tells samples from real images', 'accuracy',
   {'secondary_accuracy': 'secondary network'}, {'ideal': (0.5, 'ideal: 0.5, a guess')}),
)  # fmt: skip
"""Name, title, unit, scores with their labels, and options of `curves.over_steps`."""

_SHOWN = 20  # samples in a row
_KEY = 0  # public, and the same for all: rows show the same z


def paths(
  run: RunDir, at_most: int | None = None, *, as_trained: bool = False
) -> list[pathlib.Path]:
  """Files of a run's snapshots by step; of more than `at_most`, evenly many and the last one.

  Args:
    run: the run's directory.
    at_most: how many.
    as_trained: the generators themselves instead of their moving averages, where the run kept both.
      Averaging does not feed back: they are those of the same run without an average.

  Raises:
    InputError: the run has none.
  """
  folder = run.snapshots / 'as_trained' if as_trained else run.snapshots
  found = sorted(folder.glob('step_*.safetensors'))
  if not found:
    raise _validate.InputError(
      f'{run.path} has no snapshots{" as trained" if as_trained else ""}: train with '
      '--reports_per_snapshot=N to keep generators along the way'
      + (', and with --g_ema_decay > 0 to keep both' if as_trained else '')
    )
  if at_most is not None and len(found) > at_most:
    chosen = np.linspace(0, len(found) - 1, _validate.integer('at_most', at_most, minimum=1) + 1)
    found = [found[round(i)] for i in chosen[1:]]
  return found


def samples(model: Synthesizer) -> np.ndarray:
  """The row that a generator gets in a picture: uint8 [20, h, w, c], of a public key."""
  by_class = np.arange(_SHOWN) % model.spec.num_classes
  asked = model.is_conditional and not model.is_labelled_afterwards
  images, _ = model.sample(_SHOWN, labels=by_class if asked else None, key=_keys.from_seed(_KEY))
  return images


def picture(
  models: Sequence[tuple[str, Synthesizer]], path: str | os.PathLike[str], *, title: str
) -> pathlib.Path:
  """Draws a row of samples of each generator, all of them of the same z and classes.

  Args:
    models: a name for each, and the generator; images of one size.
    path: the PNG file; replaced where it exists.
    title: one line above.
  """
  rows = [(name, samples(model)) for name, model in models]
  height = models[0][1].spec.shape[0]
  return _figures.image_rows(rows, path, scale=max(1, round(56 / height)), title=title)


def picture_over_steps(
  run: RunDir,
  path: str | os.PathLike[str],
  *,
  title: str,
  at_most: int = 8,
  as_trained: bool = False,
) -> pathlib.Path:
  """Draws a row of samples of each of a run's snapshots (the report's figures 6.2 and 6.3).

  Raises:
    InputError: the run kept none.
  """
  models = [generator_file.load(file) for file in paths(run, at_most, as_trained=as_trained)]
  rows = [(f'step {m.steps:,}, ε = {show_epsilon(m.epsilon())}', m) for m in models]
  return picture(rows, path, title=title)


# --- scores over steps --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
  """One snapshot: its step, the ε spent until there, and its scores."""

  step: int
  epsilon: float
  evaluation: scores.Evaluation


@dataclasses.dataclass(frozen=True)
class Steps:
  """The series of a run.

  Attributes:
    steps: in order.
    num: samples of each.
    settings: of every evaluation.
    real_data: what they were compared with, in words.
    features: by which FID to coverage compare images.
  """

  steps: tuple[Step, ...]
  num: int
  settings: tasks.Settings
  real_data: str
  features: str

  def to_json(self) -> dict[str, Any]:
    """Everything, for machines."""
    return {
      'format': STEPS_FORMAT,
      'about': {
        'samples': f'{self.num:,} of each snapshot',
        'real_data': self.real_data,
        'features': self.features,
        'amount': 'light: compares with no other evaluation',
        'settings': dataclasses.asdict(self.settings),
      },
      'privacy': PRIVATE,
      'steps': [
        {
          'step': step.step,
          'epsilon': rounded_up(step.epsilon),
          'scores': [score.to_json() for score in step.evaluation.scores],
        }
        for step in self.steps
      ],
    }

  def to_table(self) -> str:
    """The main scores as Markdown, a row per step."""
    names = [n for _, _, _, wanted, _ in FIGURES for n in wanted if n in self.steps[0].evaluation]
    rows = [
      (f'{s.step:,}', show_epsilon(s.epsilon), *(f'{s.evaluation[n].value:.4g}' for n in names))
      for s in self.steps
    ]
    return _markdown.table(('step', 'ε', *(scores.TITLES[n] for n in names)), rows)


def score(
  files: Sequence[pathlib.Path],
  train: ImageDataset,
  test: ImageDataset,
  settings: tasks.Settings,
  *,
  num: int,
  store: scores.Store | None = None,
  progress: Callable[[str, float], None] | None = None,
) -> Steps:
  """Scores snapshots one after the other, each on samples of the same z.

  Args:
    files: `snapshots.paths` of a run.
    train, test: real images.
    settings: of every evaluation.
    num: samples of each.
    store: where finished scores are kept and found.
    progress: is told what is being done and the share of all work that is done.

  Raises:
    InputError: as `tasks.evaluate`.
  """
  steps = []
  for number, file in enumerate(files):
    model = generator_file.load(file)
    name = f'step {model.steps:,}'

    def tell(what: str, share: float, number: int = number, name: str = name) -> None:
      if progress is not None:
        progress(f'{name}: {what}', (number + share) / len(files))

    tell('sampling', 0.0)
    images, labels = model.sample(num, key=secrets.root_key(settings.seed))
    found = tasks.evaluate(images, labels, train, test, settings, store=store, progress=tell)
    steps.append(Step(model.steps, model.epsilon(), found))
  real = f'{train.name}, {len(train):,} for training and {len(test):,} for testing'
  return Steps(tuple(steps), num, settings, real, features.choose(train.spec))


def write(steps: Steps, out: pathlib.Path, record: str = STEPS_JSON) -> None:
  """Writes the record and its figures <record>_<name>.png; each is whole or absent."""
  _files.write_json(out / record, steps.to_json())
  for name, title, ylabel, wanted, options in FIGURES:
    series = []
    for score_name, label in wanted.items():
      if score_name in steps.steps[0].evaluation:
        points = {float(s.step): [s.evaluation[score_name].value] for s in steps.steps}
        reference = steps.steps[-1].evaluation[score_name].reference
        series.append(curves.Series(label, points, reference))
    if series:
      path = out / f'{pathlib.Path(record).stem}_{name}.png'
      curves.over_steps(series, path, title=title, ylabel=ylabel, **options)
