"""Scores samples against the real images they stand for: `python -m dpgan_jax.evaluate
--run_dir=runs/eps2 --data_dir=…`, or `--samples=synthetic.npz --dataset=mnist --data_dir=…`.

Writes evaluation.json, evaluation.md and evaluation.png beside the run (or into `--out`). Running
the same command again after an interruption finds the scores that were finished. Nearly every score
reads real images without noise: the output says which.

`--over_steps` scores the generators that a run kept along the way (`--reports_per_snapshot` of
dpgan_jax.train) instead of its last one, lightly: evaluation_steps.json and figures over steps.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from dpgan_jax import (
  _files,
  _validate,
  cli,
  data,
  evaluation,
  evaluation_steps,
  features,
  model_file,
  readers,
  resume,
  scores,
  snapshots,
  trainer,
)
from dpgan_jax.model_file import Model
from dpgan_jax.run_dir import RunDir

FLAGS = flags.FLAGS
KEPT = 'evaluation_scores'


def define_flags() -> None:
  flags.DEFINE_string('run_dir', None, 'Directory of a run; its latest checkpoint is sampled.')
  flags.DEFINE_string(
    'samples',
    None,
    'Instead of run_dir: an .npz file with images x and, if there are any, classes y.',
  )
  flags.DEFINE_string('dataset', None, "Name of the real data; default: the run's.")
  flags.DEFINE_string(
    'data_dir', None, 'Folder (or .npz file) of the real data; default: download by name.'
  )
  flags.DEFINE_string('out', None, 'Folder of the results; default: beside the run or the samples.')
  flags.DEFINE_string(
    'scores_dir', None,
    f'Where finished scores are kept; default: {KEPT}/ in out. Runs that share it share ceilings.',
  )  # fmt: skip
  flags.DEFINE_bool(
    'over_steps', False, 'Score the snapshots of a run, lightly, instead of its last generator.'
  )
  flags.DEFINE_bool(
    'as_trained', False, 'With over_steps: score the generators themselves, not their averages.'
  )
  flags.DEFINE_integer(
    'snapshots', 10, 'With over_steps: how many at most, evenly spaced, the last one among them.'
  )
  define_amount_flags()


def define_amount_flags() -> None:
  """How much is evaluated: flags that this command shares with those that evaluate many runs."""
  flags.DEFINE_integer(
    'num',
    None,
    'Samples to draw from a run; default: 70,000, as the report did, or 12,000 if quick.',
  )
  flags.DEFINE_integer('eval_seed', 0, 'Seed of samples, draws and judges.')
  flags.DEFINE_bool('quick', False, 'A first impression: fewer images, fewer epochs.')
  flags.DEFINE_bool('inception', False, 'FID on Inception-v3 too; needs torch-fidelity.')
  flags.DEFINE_integer(
    'cnn_epochs', None, 'Epochs of the TSTR CNN; default: 4 to 50, so that it takes minutes.'
  )
  flags.DEFINE_list(
    'tasks', None, f'Only these of: {", ".join(evaluation.TASKS)}; default: all of them.'
  )


def main() -> None:
  if (FLAGS.run_dir is None) == (FLAGS.samples is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them')
  if FLAGS.over_steps:
    _over_steps()
    return
  if FLAGS.as_trained:
    raise _validate.InputError(
      'expected as_trained only with over_steps: other scores are of the generator that is sampled'
    )
  if FLAGS.num is not None and FLAGS.run_dir is None:
    raise _validate.InputError('expected num only with run_dir: all samples of a file are used')
  amount = amount_from_flags()
  if FLAGS.samples is not None:
    if FLAGS.dataset is None:
      raise _validate.InputError('expected --dataset=NAME of the real data beside --samples')
    samples = Samples(*read_samples(FLAGS.samples), source=pathlib.Path(FLAGS.samples).name)
    out = pathlib.Path(FLAGS.out or pathlib.Path(FLAGS.samples).parent)
    train, test = load_real(FLAGS.dataset, FLAGS.data_dir)
    if samples.labels is not None and (names := readers.npz_class_names(FLAGS.samples)):
      data.require_same_classes(train, names, 'the samples')
  else:
    trained = trainer.restore_model(FLAGS.run_dir)
    out = pathlib.Path(FLAGS.out or trained.run.path)
    train, test = load_real(FLAGS.dataset or trained.model.dataset, FLAGS.data_dir)
    data.require_same_classes(train, trained.model.class_names, 'the run')
    samples = draw(trained.model, amount)
  result = score(samples, train, test, amount, out, scores_dir=FLAGS.scores_dir)
  for name in ('tstr_cnn', 'fid', 'secondary_accuracy'):
    if name in result:
      found = result[name]
      real = '' if found.reference is None else f' (real images: {found.reference:.4g})'
      print(f'{name}: {found.value:.4g}{real}')
  for name, reason in result.skipped.items():
    print(f'{name} left out: {reason}')
  print(f'Scores that read private data are marked: {out / "evaluation.md"}')


def _over_steps() -> None:
  if FLAGS.run_dir is None:
    raise _validate.InputError('expected over_steps with --run_dir, whose snapshots are scored')
  for name in ('quick', 'inception', 'cnn_epochs', 'tasks'):
    if FLAGS[name].value:
      raise _validate.InputError(f'expected over_steps without {name}: it is light as it is')
  _validate.integer('snapshots', FLAGS.snapshots, minimum=1)
  seed = _validate.integer('eval_seed', FLAGS.eval_seed, minimum=0, maximum=2**32 - 1)
  num = 12_000 if FLAGS.num is None else FLAGS.num
  _validate.integer('num', num, minimum=evaluation.MIN_SAMPLES)
  run = RunDir.open(FLAGS.run_dir, create=False)
  files = snapshots.paths(run, FLAGS.snapshots, as_trained=FLAGS.as_trained)
  model = model_file.load(files[-1])
  train, test = load_real(FLAGS.dataset or model.dataset, FLAGS.data_dir)
  data.require_same_classes(train, model.class_names, 'the run')
  out = pathlib.Path(FLAGS.out or run.path)
  show = Progress()
  steps = evaluation_steps.score(
    files, train, test, evaluation.Settings.light(seed=seed), num=num,
    store=scores.Store(pathlib.Path(FLAGS.scores_dir or out / KEPT)), progress=show.update,
  )  # fmt: skip
  show.close()
  record, picture = evaluation_steps.JSON, 'samples_steps.png'
  if FLAGS.as_trained:
    record, picture = evaluation_steps.JSON_AS_TRAINED, 'samples_steps_as_trained.png'
  evaluation_steps.write(steps, out, record)
  snapshots.picture_over_steps(
    run, out / picture, title='samples over training', as_trained=FLAGS.as_trained
  )
  print(steps.to_table())
  print(f'Every score reads private data: {out / record}')


@dataclasses.dataclass(frozen=True)
class Amount:
  """How much of an evaluation is done.

  Attributes:
    settings: of the scores.
    num: samples that are drawn from a run.
    quick: whether this is a first impression only.
  """

  settings: evaluation.Settings
  num: int
  quick: bool


@dataclasses.dataclass(frozen=True)
class Samples:
  """What is evaluated: images uint8 [n, h, w, c], classes [n] or None, and where they are from."""

  images: np.ndarray
  labels: np.ndarray | None
  source: str


def amount_from_flags() -> Amount:
  """What the flags of `define_amount_flags` ask for.

  Raises:
    InputError: a value that will not do; torch-fidelity is asked for and not installed.
  """
  _validate.integer('eval_seed', FLAGS.eval_seed, minimum=0, maximum=2**32 - 1)
  if FLAGS.cnn_epochs is not None:
    _validate.integer('cnn_epochs', FLAGS.cnn_epochs, minimum=1)
  num = (12_000 if FLAGS.quick else 70_000) if FLAGS.num is None else FLAGS.num
  _validate.integer('num', num, minimum=evaluation.MIN_SAMPLES)
  if FLAGS.inception:
    features.require_inception()
  make = evaluation.Settings.quick if FLAGS.quick else evaluation.Settings
  for task in FLAGS.tasks or ():
    _validate.one_of('tasks', task, evaluation.TASKS)
  settings = make(
    seed=FLAGS.eval_seed, inception=FLAGS.inception, cnn_epochs=FLAGS.cnn_epochs,
    tasks=None if FLAGS.tasks is None else tuple(sorted(FLAGS.tasks)),
  )  # fmt: skip
  return Amount(settings, num, FLAGS.quick)


def draw(model: Model, amount: Amount) -> Samples:
  """Samples of a generator; the same model and seed give the same ones."""
  print(f'drawing {amount.num:,} samples', file=sys.stderr, flush=True)
  key = resume.root_key(amount.settings.seed)
  return Samples(*model.sample(amount.num, key=key), source=source_of(model))


def source_of(model: Model) -> str:
  return f'run at step {model.steps:,}'


def load_real(dataset: str, data_dir: str | None) -> tuple[data.ImageDataset, data.ImageDataset]:
  """The training and the test images of a data set."""
  train, test = (data.load_dataset(dataset, data_dir=data_dir, split=s) for s in data.SPLITS)
  data.require_same_classes(test, train.class_names, 'training')
  return train, test


def score(
  samples: Samples,
  train: data.ImageDataset,
  test: data.ImageDataset,
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
  show = Progress()
  store = scores.Store(pathlib.Path(scores_dir or out / KEPT))
  result = evaluation.evaluate(
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
  train: data.ImageDataset,
  test: data.ImageDataset,
  amount: Amount,
) -> dict[str, Any]:
  """What was evaluated and against what, for the head of the record."""
  return {
    'samples': f'{source}, {count:,} images {tuple(shape)}, '
    + ('labelled' if labelled else 'unlabelled'),
    'real_data': f'{train.name}, {len(train):,} for training and {len(test):,} for testing',
    'features': features.NAME + _resized(train.image_shape),
    'amount': 'quick: compares with no full evaluation' if amount.quick else 'full',
    'eval_seed': amount.settings.seed,
  }


def _resized(image_shape: tuple[int, int, int]) -> str:
  wanted = (features.SIZE, features.SIZE, 1)
  return '' if image_shape == wanted else f', images resized from {image_shape} to {wanted}'


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
  text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
  with _files.atomic_write(out / 'evaluation.json') as file:
    file.write(f'{text}\n')
  result.figure(out / 'evaluation.png')
  with _files.atomic_write(out / 'evaluation.md') as file:
    file.write(result.to_markdown(about) + '\n![TSTR and coverage](evaluation.png)\n')


class Progress:
  """What is being done and the time left, on stderr: one line on a terminal, elsewhere one at most
  every ten seconds and one for each new piece of work."""

  _SECONDS_BETWEEN_LINES = 10.0

  def __init__(self) -> None:
    self._stream = sys.stderr
    self._started = time.monotonic()
    self._printed_at, self._name = -float('inf'), ''

  def update(self, name: str, share: float) -> None:
    now = time.monotonic()
    pause = 0.2 if self._stream.isatty() else self._SECONDS_BETWEEN_LINES
    if name == self._name and now - self._printed_at < pause:
      return
    elapsed = now - self._started
    left = f', {cli.duration(elapsed / share * (1 - share))} left' if share > 0.02 else ''
    line = f'{share:4.0%} {name}{left}'
    begin, end = ('\r\x1b[K', '') if self._stream.isatty() else ('', '\n')
    print(f'{begin}{line}', end=end, file=self._stream, flush=True)
    self._printed_at, self._name = now, name

  def close(self) -> None:
    elapsed = cli.duration(time.monotonic() - self._started)
    begin = '\r\x1b[K' if self._stream.isatty() else ''
    print(f'{begin}100% done in {elapsed}', file=self._stream, flush=True)


if __name__ == '__main__':
  define_flags()
  cli.run(main, interrupted='Run the same command again: finished scores are kept.')
