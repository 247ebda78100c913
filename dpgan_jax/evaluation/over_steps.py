"""Scores over the steps of a run: whether training on still helps, or harms.

Every generator that the run kept (`snapshots`) is scored with the same settings, seed and real
images, lightly. Looking at this series to choose when to stop is a use of private data that no ε of
the run covers.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from dpgan_jax import _files
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import curves, features, scores, tasks
from dpgan_jax.privacy.accounting import rounded_up, show_epsilon
from dpgan_jax.run import generator_file, secrets

FORMAT = 'dpgan_jax evaluation over steps 1'
JSON = 'evaluation_steps.json'
JSON_AS_TRAINED = 'evaluation_steps_as_trained.json'
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
  """

  steps: tuple[Step, ...]
  num: int
  settings: tasks.Settings
  real_data: str

  def to_json(self) -> dict[str, Any]:
    """Everything, for machines."""
    return {
      'format': FORMAT,
      'about': {
        'samples': f'{self.num:,} of each snapshot',
        'real_data': self.real_data,
        'features': features.NAME,
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
    lines = [f'| step | ε | {" | ".join(scores.TITLES[n] for n in names)} |']
    lines.append('| --- ' * (2 + len(names)) + '|')
    for step in self.steps:
      cells = ' | '.join(f'{step.evaluation[name].value:.4g}' for name in names)
      lines.append(f'| {step.step:,} | {show_epsilon(step.epsilon)} | {cells} |')
    return '\n'.join(lines)


def score(
  files: Sequence[pathlib.Path],
  train: datasets.ImageDataset,
  test: datasets.ImageDataset,
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
  return Steps(tuple(steps), num, settings, real)


def write(steps: Steps, out: pathlib.Path, record: str = JSON) -> None:
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
