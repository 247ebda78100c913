"""An evaluation from samples to the files that hold its scores."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np

from dpgan_jax import _files, _progress, _validate
from dpgan_jax.data import datasets, naming, readers
from dpgan_jax.data.sources import Source
from dpgan_jax.evaluation import curves, features, scores, tasks
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import secrets

KEPT = 'evaluation_scores'


@dataclasses.dataclass(frozen=True)
class Amount:
  """How much of an evaluation is done.

  Attributes:
    settings: of the scores.
    num: samples that are drawn from a run.
    quick: whether this is a first impression only.
  """

  settings: tasks.Settings
  num: int
  quick: bool


@dataclasses.dataclass(frozen=True)
class Samples:
  """What is evaluated: images uint8 [n, h, w, c], classes [n] or None, and where they are from."""

  images: np.ndarray
  labels: np.ndarray | None
  source: str


def draw(model: Synthesizer, amount: Amount) -> Samples:
  """Samples of a generator; the same model and seed give the same ones."""
  print(f'drawing {amount.num:,} samples', file=sys.stderr, flush=True)
  key = secrets.root_key(amount.settings.seed)
  images, labels = model.sample(amount.num, key=key)
  return Samples(images, labels if has_classes(model) else None, source=source_of(model))


def has_classes(model: Synthesizer) -> bool:
  """Whether classes of samples can be scored; a single one is none, with nothing to tell apart."""
  return model.is_conditional and model.spec.num_classes > 1


def source_of(model: Synthesizer) -> str:
  return f'run at step {model.steps:,}'


def load_real(source: Source) -> tuple[datasets.ImageDataset, datasets.ImageDataset]:
  """What a run was trained on, and images that it never saw: held out, or the test split."""
  train, test = (source.load_images(split) for split in datasets.SPLITS)
  naming.require_same(test.name, test.class_names, train.class_names, 'training')
  return train, test


def score(
  samples: Samples,
  train: datasets.ImageDataset,
  test: datasets.ImageDataset,
  amount: Amount,
  out: pathlib.Path,
  *,
  scores_dir: str | pathlib.Path | None = None,
) -> scores.Evaluation:
  """Evaluates samples, showing progress, and writes evaluation.json, .md and .png into `out`.

  Args:
    samples: what is evaluated.
    train, test: the real images.
    amount: how much is done.
    out: folder of the results; made where missing.
    scores_dir: where finished scores are kept; default: `KEPT` in `out`.

  Raises:
    InputError: samples that cannot be scored, or `out` is a file.
  """
  if out.exists() and not out.is_dir():
    raise _validate.InputError(f'expected out to be a folder, got the file {out}')
  show = _progress.WorkProgress()
  store = scores.Store(pathlib.Path(scores_dir or out / KEPT))
  result = tasks.evaluate(
    samples.images, samples.labels, train, test, amount.settings, store=store, progress=show.update
  )
  show.close()
  count, shape = len(samples.images), samples.images.shape[1:]
  labelled = samples.labels is not None
  write(result, describe(samples.source, count, shape, labelled, train, test, amount), amount, out)
  return result


def describe(
  source: str,
  count: int,
  shape: tuple[int, ...],
  labelled: bool,
  train: datasets.ImageDataset,
  test: datasets.ImageDataset,
  amount: Amount,
) -> dict[str, Any]:
  """What was evaluated and against what, for the head of the record."""
  return {
    'samples': f'{source}, {count:,} images {tuple(shape)}, '
    + ('labelled' if labelled else 'unlabelled'),
    'real_data': f'{train.name}, {len(train):,} for training and {len(test):,} for testing',
    'features': features.choose(train.spec),
    'amount': 'quick: compares with no full evaluation' if amount.quick else 'full',
    'eval_seed': amount.settings.seed,
  }


def read_samples(path: str) -> tuple[np.ndarray, np.ndarray | None]:
  """Images uint8 [n, h, w, c] and classes [n], None if the file has no `y`.

  Raises:
    InputError: as `readers.read_npz`.
  """
  labelled = 'y' in readers.npz_names(path)
  images, *rest = readers.read_npz(path, parts=('x', 'y') if labelled else ('x',))
  images = images if images.ndim == 4 else images[..., np.newaxis]
  return np.ascontiguousarray(images), rest[0] if rest else None


def write(
  result: scores.Evaluation, about: dict[str, Any], amount: Amount, out: pathlib.Path
) -> None:
  """Writes the three files; each is whole or absent. The page leaves out the bare settings."""
  record = result.to_json({**about, 'settings': dataclasses.asdict(amount.settings)})
  _files.write_json(out / 'evaluation.json', record)
  curves.evaluation(result, out / 'evaluation.png')
  with _files.atomic_write(out / 'evaluation.md') as file:
    file.write(result.to_markdown(about) + '\n![TSTR and coverage](evaluation.png)\n')
