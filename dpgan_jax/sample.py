"""Draws a synthetic data set: `python -m dpgan_jax.sample --run_dir=runs/eps2 --num=60000
--format=png --out=synthetic`.

Sampling costs no privacy, however many examples are drawn.
"""

from __future__ import annotations

import csv
import difflib
import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

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
    'labels', None, 'Classes to draw, by name or number: köln or 0,1,7; default: all equally.'
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
    labels=parse_labels(FLAGS.labels, FLAGS.num, model.spec.class_names),
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
    class_names=None if labels is None else model.spec.class_names,
    overwrite=FLAGS.overwrite,
  )
  epsilon = model.epsilon()
  spent = (
    'no privacy'
    if np.isinf(epsilon)
    else f'epsilon {epsilon:.4g}, delta {model.budget.mechanism.delta:g}'
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


def parse_labels(text: str | None, num: int, names: Sequence[str]) -> np.ndarray | None:
  """`'0,1,7'` or `'köln,bonn'` → int64[num], these classes in turn; None → None, the default.

  Names come first: where classes are called 1, 2, 3, the class 1 is the first of them. A name that
  holds a comma is given alone, or in quotes as in CSV.

  Args:
    text: names or numbers of classes, with commas between them.
    num: how many labels.
    names: of all classes.

  Raises:
    InputError: something that is no class, naming it.
  """
  if text is None:
    return None
  # What a terminal of another encoding (LANG=C) has handed over, and either way to spell an ö.
  text = unicodedata.normalize('NFC', os.fsencode(text).decode('utf-8', 'replace'))
  numbers = {unicodedata.normalize('NFC', name): number for number, name in enumerate(names)}
  try:
    parts = [text] if text in numbers else next(csv.reader([text], skipinitialspace=True), None)
  except csv.Error:  # a name of 131,073 characters
    parts = [text]
  parts = parts or ['']
  return np.resize(np.asarray([_number(p.strip(), numbers) for p in parts], np.int64), num)


def _number(part: str, numbers: Mapping[str, int]) -> int:
  if part in numbers:
    return numbers[part]
  if part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(numbers):
    return int(part)
  close = difflib.get_close_matches(part, numbers, n=1, cutoff=0.5)
  hint = f' (did you mean {close[0]}?)' if close else ''
  shown = ', '.join(list(numbers)[:10]) + (', ...' if len(numbers) > 10 else '')
  raise _validate.InputError(
    f'expected labels to be classes, by name ({shown}) or number (0 to {len(numbers) - 1}), as in '
    f'--labels=0,1; got {part!r}{hint}'
  )


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
