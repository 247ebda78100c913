"""Draws a synthetic data set: `python -m dpgan_jax.sample --run_dir=runs/eps2 --num=60000
--format=png --out=synthetic`.

Sampling costs no privacy, however many examples are drawn.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from dpgan_jax import _cli, _settings, _shared_flags, _validate
from dpgan_jax.data import distort, writers
from dpgan_jax.data.tables.files import write as tables
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import generator_file, samples, secrets, trainer

_source, _samples, _files = (
  functools.partial(_settings.field, group=group, common=True)
  for group in ('generator', 'samples', 'what is written')
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Flags of this command."""

  run_dir: str | None = _source(None, 'Directory of a run; its latest checkpoint is used.')
  model: str | None = _source(
    None, 'Instead of run_dir: a generator saved with DPGAN.save (.safetensors).'
  )
  num: int | None = _samples(
    None, 'How many examples; default: 10,000, or as many rows as persons had by the noisy counts.',
    minimum=1,
  )
  labels: str | None = _samples(
    None, 'Classes to draw, by name or number: köln or 0,1,7; default: all equally.'
  )
  given: str | None = _samples(
    None, 'Values that all rows of a table have, or static ones of series, as sex=female,region=01.'
  )
  seed: int | None = _samples(
    None, 'Seed of the samples; default: from the operating system.', minimum=0,
    maximum=_settings.MOST_SEED,
  )
  format: str | None = _files(
    None, 'Of files: of images npz (default), png (train/<class>/<n>.png), idx (as MNIST) or '
    'parquet; of tables csv (default) or parquet; of series npz (default), csv or parquet.',
    choices=sorted({*writers.FORMATS, *tables.FORMATS}),
  )
  out: str | None = _files(
    None, 'File (npz, csv, parquet) or folder (png, idx); default: inside run_dir. A file gets the '
    'ending of its format where it has not.',
  )
  overwrite: bool = _files(False, 'Replace what is there.')

  __post_init__ = _settings.check


def define_flags() -> None:
  _cli.define_flags(Options, _shared_flags.ChoiceOptions)


def main() -> None:
  options = _cli.config_from_flags(Options)
  choice = _cli.config_from_flags(_shared_flags.ChoiceOptions)
  model, folder = _generator(options)
  key = secrets.root_key(options.seed)
  format = options.format or samples.formats(model.spec)[0]
  if format not in samples.formats(model.spec):
    listed = ', '.join(samples.formats(model.spec))
    raise _validate.InputError(f'expected format to be one of {listed}; got {format}')
  num = options.num or model.usual_num
  if options.given is not None:
    if options.labels is not None:
      raise _validate.InputError('expected given without labels: the target is one of the columns')
    records, labels = model.sample_given(num, parse_given(options.given), key=key)
  else:
    records, labels = model.sample(
      num,
      labels=parse_labels(options.labels, num, model.spec.class_names),
      clearest=choice.clearest,
      key=key,
    )
  if choice.distort:
    records = distort.distort(records, key)
  written = samples.write(
    model, records, labels,
    with_ending(options.out or str(folder / f'synthetic_{format}'), format),
    format=format, overwrite=options.overwrite,
  )  # fmt: skip
  kind = 'distorted synthetic' if choice.distort else 'synthetic'
  what = 'example' if model.spec.schema is None else model.spec.schema.unit
  if model.spec.kind == 'table':
    what = 'row'
  print(f'{num} {kind} {what}s (step {model.steps}; {model.guarantee()}): {written}')


def _generator(options: Options) -> tuple[Synthesizer, pathlib.Path]:
  """The generator to draw from, and the folder that samples go to unless told otherwise."""
  if (options.run_dir is None) == (options.model is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --model=FILE, one of them')
  if options.model is not None:
    return generator_file.load(options.model), pathlib.Path(options.model).parent
  assert options.run_dir is not None
  trained = trainer.restore_model(options.run_dir)
  return trained.model, trained.run.path


def with_ending(out: str, format: str) -> pathlib.Path:
  """`'s'`, 'npz' → s.npz: a file ends as its format does, a folder (png, idx) as it likes."""
  path, ending = pathlib.Path(out), f'.{format}' if format in ('npz', 'csv', 'parquet') else ''
  named = path.is_dir() or path.name.lower().endswith(ending)
  return path if named else path.with_name(path.name + ending)


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


def parse_given(text: str) -> dict[str, str]:
  """`'sex=female,region=01'` → {'sex': 'female', 'region': '01'}; quoted as in CSV.

  Raises:
    InputError: another form.
  """
  pairs = [part.partition('=') for part in next(csv.reader([text], skipinitialspace=True), [])]
  if not pairs or not all(name and equals for name, equals, _ in pairs):
    raise _validate.InputError(
      f'expected given as COLUMN=VALUE, with commas between several, got {text!r}'
    )
  return {name: value for name, _, value in pairs}


def _number(part: str, numbers: Mapping[str, int]) -> int:
  if part in numbers:
    return numbers[part]
  if part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(numbers):
    return int(part)
  shown = ', '.join(list(numbers)[:10]) + (', ...' if len(numbers) > 10 else '')
  raise _validate.InputError(
    f'expected labels to be classes, by name ({shown}) or number (0 to {len(numbers) - 1}), as in '
    f'--labels=0,1; got {part!r}{_validate.nearest(part, numbers)}'
  )


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
