"""Draws a synthetic data set: `python -m dpgan_jax.sample --run_dir=runs/eps2 --num=60000
--format=png --out=synthetic`.

Sampling costs no privacy, however many examples are drawn.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from dpgan_jax import _cli, _shared_flags, _validate
from dpgan_jax.data import distort, writers
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import generator_file, secrets, trainer

FLAGS = flags.FLAGS
_SUFFIX = {'npz': '.npz', 'parquet': '.parquet', 'png': '', 'idx': ''}


def define_flags() -> None:
  flags.DEFINE_string('run_dir', None, 'Directory of a run; its latest checkpoint is used.')
  flags.DEFINE_string(
    'model', None, 'Instead of run_dir: a generator saved with DPGAN.save (.safetensors).'
  )
  flags.DEFINE_integer('num', 10_000, 'How many examples.')
  flags.DEFINE_string(
    'format', 'npz', 'npz, png (train/<class>/<n>.png), idx (as MNIST) or parquet.'
  )
  flags.DEFINE_string(
    'labels', None, 'Classes to draw, e.g. 3 or 0,1,7; default: all, equally often.'
  )
  flags.DEFINE_string(
    'out', None, 'File (npz, parquet) or folder (png, idx); default: inside run_dir.'
  )
  _shared_flags.define_choice_flags()
  flags.DEFINE_integer('seed', None, 'Seed of the samples; default: from the operating system.')
  flags.DEFINE_bool('overwrite', False, 'Replace what is there.')


def main() -> None:
  _validate.integer('num', FLAGS.num, minimum=1)
  _validate.one_of('format', FLAGS.format, writers.FORMATS)
  model, default_out = _source()
  if FLAGS.seed is not None:
    _validate.integer('seed', FLAGS.seed, minimum=0, maximum=2**32 - 1)
  key = secrets.root_key(FLAGS.seed)
  images, labels = model.sample(
    FLAGS.num,
    labels=parse_labels(FLAGS.labels, FLAGS.num, model.spec.num_classes),
    clearest=FLAGS.clearest,
    key=key,
  )
  if FLAGS.distort:
    images = distort.distort(images, key)
  written = writers.export(
    FLAGS.out or default_out,
    images,
    labels,
    format=FLAGS.format,
    num_classes=None if labels is None else model.spec.num_classes,
    overwrite=FLAGS.overwrite,
  )
  epsilon = model.epsilon()
  spent = (
    'no privacy'
    if np.isinf(epsilon)
    else f'epsilon {epsilon:.4g}, delta {model.gan.mechanism.delta:g}'
  )
  kind = 'distorted synthetic' if FLAGS.distort else 'synthetic'
  print(f'{FLAGS.num} {kind} examples ({spent}, step {model.steps}): {written}')


def _source() -> tuple[Synthesizer, str]:
  """The generator to draw from, and where samples go unless told otherwise."""
  if (FLAGS.run_dir is None) == (FLAGS.model is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --model=FILE, one of them')
  name = f'synthetic_{FLAGS.format}{_SUFFIX[FLAGS.format]}'
  if FLAGS.model is not None:
    return generator_file.load(FLAGS.model), str(pathlib.Path(FLAGS.model).parent / name)
  trained = trainer.restore_model(FLAGS.run_dir)
  return trained.model, str(trained.run.path / name)


def parse_labels(text: str | None, num: int, num_classes: int) -> np.ndarray | None:
  """`'0,1,7'` → int64[num], these classes in turn; None → None, the model's default.

  Raises:
    InputError: not whole numbers, or not classes.
  """
  if text is None:
    return None
  try:
    wanted = [int(part) for part in text.split(',')]
  except ValueError:
    raise _validate.InputError(f'expected labels like 3 or 0,1,7, got {text!r}') from None
  for label in wanted:
    _validate.integer('labels', label, minimum=0, maximum=num_classes - 1)
  return np.resize(np.asarray(wanted, np.int64), num)


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
