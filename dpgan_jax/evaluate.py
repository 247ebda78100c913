"""Scores samples against the real images they stand for: `python -m dpgan_jax.evaluate
--run_dir=runs/eps2 --data_dir=…`, or `--samples=synthetic.npz --dataset=mnist --data_dir=…`.

Writes evaluation.json, evaluation.md and evaluation.png beside the run (or into `--out`). Running
the same command again after an interruption finds the scores that were finished. Nearly every score
reads real images without noise: the output says which.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
import zipfile

import numpy as np
from absl import flags

from dpgan_jax import _files, _validate, cli, data, evaluation, features, readers, scores, trainer

FLAGS = flags.FLAGS
_KEPT = 'evaluation_scores'


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
  flags.DEFINE_string(
    'scores_dir', None,
    f'Where finished scores are kept; default: {_KEPT}/ in out. Runs that share it share ceilings.',
  )  # fmt: skip


def main() -> None:
  settings = _settings()
  if (FLAGS.run_dir is None) == (FLAGS.samples is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them')
  if settings.inception:
    features.require_inception()
  if FLAGS.samples is not None:
    if FLAGS.dataset is None:
      raise _validate.InputError('expected --dataset=NAME of the real data beside --samples')
    dataset, source, beside = FLAGS.dataset, pathlib.Path(FLAGS.samples).name, FLAGS.samples
    images, labels = read_samples(FLAGS.samples)
    out = pathlib.Path(FLAGS.out or pathlib.Path(beside).parent)
    train, test = _real(dataset)
  else:
    trained = trainer.restore_model(FLAGS.run_dir)
    dataset = FLAGS.dataset or trained.model.dataset
    out = pathlib.Path(FLAGS.out or trained.run.path)
    train, test = _real(dataset)
    num = FLAGS.num or (12_000 if FLAGS.quick else 70_000)
    _validate.integer('num', num, minimum=evaluation.MIN_SAMPLES)
    print(f'drawing {num:,} samples', file=sys.stderr, flush=True)
    images, labels = trained.model.sample(num, key=trainer.root_key(settings.seed))
    source = f'run at step {trained.model.steps:,}'
  if out.exists() and not out.is_dir():
    raise _validate.InputError(f'expected out to be a folder, got the file {out}')
  about = {
    'samples': f'{source}, {len(images):,} images {images.shape[1:]}, '
    + ('unlabelled' if labels is None else 'labelled'),
    'real_data': f'{dataset}, {len(train):,} for training and {len(test):,} for testing',
    'features': features.NAME + _resized(train.image_shape),
    'amount': 'quick: compares with no full evaluation' if FLAGS.quick else 'full',
    'eval_seed': settings.seed,
  }
  show = Progress()
  store = scores.Store(pathlib.Path(FLAGS.scores_dir or out / _KEPT))
  result = evaluation.evaluate(
    images, labels, train, test, settings, store=store, progress=show.update
  )
  show.close()
  write(result, about, out)
  for name in ('tstr_cnn', 'fid', 'secondary_accuracy'):
    if name in result:
      score = result[name]
      real = '' if score.reference is None else f' (real images: {score.reference:.4g})'
      print(f'{name}: {score.value:.4g}{real}')
  for name, reason in result.skipped.items():
    print(f'{name} left out: {reason}')
  print(f'Scores that read private data are marked: {out / "evaluation.md"}')


def _settings() -> evaluation.Settings:
  _validate.integer('eval_seed', FLAGS.eval_seed, minimum=0, maximum=2**32 - 1)
  if FLAGS.cnn_epochs is not None:
    _validate.integer('cnn_epochs', FLAGS.cnn_epochs, minimum=1)
  if FLAGS.num is not None and FLAGS.run_dir is None:
    raise _validate.InputError('expected num only with run_dir: all samples of a file are used')
  make = evaluation.Settings.quick if FLAGS.quick else evaluation.Settings
  return make(seed=FLAGS.eval_seed, inception=FLAGS.inception, cnn_epochs=FLAGS.cnn_epochs)


def _real(dataset: str) -> tuple[data.ImageDataset, data.ImageDataset]:
  train, test = (
    data.load_dataset(dataset, data_dir=FLAGS.data_dir, split=split) for split in data.SPLITS
  )
  return train, test


def _resized(image_shape: tuple[int, int, int]) -> str:
  wanted = (features.SIZE, features.SIZE, 1)
  return '' if image_shape == wanted else f', images resized from {image_shape} to {wanted}'


def read_samples(path: str) -> tuple[np.ndarray, np.ndarray | None]:
  """Images uint8 [n, h, w, c] and classes [n], None if the file has no `y`.

  Raises:
    InputError: as `readers.read_npz`.
  """
  labelled = True
  if pathlib.Path(path).is_file() and zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      labelled = 'y.npy' in archive.namelist()
  images, *rest = readers.read_npz(path, parts=('x', 'y') if labelled else ('x',))
  images = images if images.ndim == 4 else images[..., np.newaxis]
  return np.ascontiguousarray(images), rest[0] if rest else None


def write(result: scores.Evaluation, about: dict[str, object], out: pathlib.Path) -> None:
  """Writes the three files; each is whole or absent."""
  text = json.dumps(result.to_json(about), indent=2, ensure_ascii=False, allow_nan=False)
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
