"""The bundle that is safe to publish, and what its receiver can check.

A run directory is private as a whole. The bundle holds what may leave it, and nothing is copied:
every file is made here, from the generator of the latest checkpoint and from the run's statement,
so that no file of the run can slip in. There is no optimizer state, key, seed, real image, score on
real data, path, name of a machine or person, or time in it. `cards` has the Markdown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import pathlib
import re

import jax
import numpy as np

from dpgan_jax import _files, _html, _json, _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data import distort, readers
from dpgan_jax.data.series import read as declared
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.privacy import accounting
from dpgan_jax.publishing import cards, page, run_statement, statement
from dpgan_jax.run import directory, generator_file, samples, secrets, trainer
from dpgan_jax.run.directory import RunDir

GENERATOR, PICTURE = 'generator.safetensors', 'samples.png'
REPORT_JSON, REPORT_MARKDOWN, CURVE = 'report.json', 'report.md', statement.PICTURE
PAGE = page.NAME
MODEL_CARD, DATA_CARD, USAGE = 'MODEL_CARD.md', 'DATA_CARD.md', 'USAGE.md'
MANIFEST = 'SHA256SUMS'
# What every bundle consists of, beside its samples.
FILES = (
  GENERATOR, PICTURE, REPORT_JSON, REPORT_MARKDOWN, PAGE, CURVE, MODEL_CARD, DATA_CARD, USAGE,
  MANIFEST,
)  # fmt: skip
# Of which it holds one, as the kind of data is.
SAMPLES = tuple(directory.SAMPLES.values())

_MAX_SUMS = 2**16  # bytes; a manifest of ten lines has a thousand
_EPSILON_MARGIN = 1e-3  # another version of the accountant may round otherwise


def files(spec: Spec) -> tuple[str, ...]:
  """All that a bundle of such data consists of."""
  return (FILES[0], directory.SAMPLES[spec.kind], *FILES[1:])


def release(
  run: RunDir,
  out: str | os.PathLike[str],
  *,
  num: int = 10_000,
  clearest: float = 1.0,
  distorted: bool = False,
  licence: str | None = None,
  allow_no_privacy: bool = False,
  allow_unfinished: bool = False,
  seed_is_secret: bool = False,
) -> statement.Statement:
  """Writes the bundle of a run, whole or not at all; the run directory is only read.

  Args:
    run: a run directory.
    out: directory of the bundle, outside of the run's; new or empty.
    num: samples in it. Their noise comes from the operating system, never from the run's keys.
    clearest: the share kept of what is drawn of each class (`Synthesizer.sample`).
    distorted: samples are turned, shifted, scaled and slanted a little (`distort`).
    licence: what the data owner grants, e.g. an SPDX identifier; None: the bundle says that none
      was named.
    allow_no_privacy: publish although nothing is guaranteed; the cards begin with saying so.
    allow_unfinished: publish the generator of an unfinished run.
    seed_is_secret: publish a run of a fixed seed, which the owner says nobody else knows.

  Returns:
    What the report in the bundle says.

  Raises:
    InputError: a run that may not be published without one of the above, or `out` is not new.
    OSError: the file system failed; nothing is at `out`.
  """
  _validate.integer('num', num, minimum=1)
  out = pathlib.Path(out)
  _refuse_place(out, run.path)
  # The checkpoint first: the ledger that is read after it charges at least as many steps.
  model = trainer.restore_model(run.path).model
  said = dataclasses.replace(run_statement.build(run), steps_taken=model.steps)
  _refuse_run(said, allow_no_privacy, allow_unfinished, seed_is_secret)

  picture_key, key, *distort_keys = jax.random.split(secrets.root_key(None), 4)
  records, labels = model.sample(num, clearest=clearest, key=key)
  shown, shown_labels = samples.for_picture(
    model, (records, labels), picture_key, clearest=clearest
  )
  if distorted:
    records, shown = (
      distort.distort(of, k) for of, k in zip((records, shown), distort_keys, strict=True)
    )
  about = cards.About(
    statement=said,
    num=num,
    clearest=clearest,
    distorted=distorted,
    class_counts=None if labels is None else _counts(labels, model.spec.num_classes),
    parameters=model.num_parameters,
    licence=licence,
  )
  if out.is_dir():
    out.rmdir()  # it is empty; its name is needed for the bundle as a whole
  with _files.atomic_directory(out) as staging:
    generator_file.save(model, staging / GENERATOR)
    file = directory.SAMPLES[model.spec.kind]
    samples.write(model, records, labels, staging / file)
    samples.picture_of(model.spec, shown, shown_labels, staging / PICTURE)
    run_statement.save(said, staging)
    texts = {
      MODEL_CARD: cards.model_card(about),
      DATA_CARD: cards.data_card(about),
      USAGE: cards.usage(about),
    }
    for name, text in texts.items():
      with _files.atomic_write(staging / name) as file:
        file.write(text)
    _refuse_paths(staging, run.path, out)
    with _files.atomic_write(staging / MANIFEST) as file:
      names = (n for n in files(model.spec) if n != MANIFEST)
      file.write(''.join(f'{_sha256(staging / n)}  {n}\n' for n in names))
  return said


def _counts(labels: np.ndarray, num_classes: int) -> tuple[int, ...]:
  return tuple(int(n) for n in np.bincount(labels, minlength=num_classes))


def _refuse_place(out: pathlib.Path, run: pathlib.Path) -> None:
  if out.is_symlink() or (out.exists() and not out.is_dir()):
    raise _validate.InputError(f'expected out to be a new directory, got {out}, which is none')
  if out.is_dir() and any(out.iterdir()):
    raise _validate.InputError(f'expected out to be a new or empty directory, got {out}')
  if out.resolve().is_relative_to(run.resolve()):
    raise _validate.InputError(
      f'expected out to be outside the run directory, which is private as a whole, got {out}'
    )


def _refuse_run(
  said: statement.Statement, allow_no_privacy: bool, allow_unfinished: bool, seed_is_secret: bool
) -> None:
  if not said.holds and not allow_no_privacy:
    raise _validate.InputError(
      'this run has no privacy guarantee (its ε is infinite), so nothing of it may be published; '
      '--allow_no_privacy makes a bundle that says so'
    )
  if said.holds and said.seed_fixed and not seed_is_secret:
    raise _validate.InputError(
      'this run has a fixed seed: whoever knows or guesses it can draw the noise again and take it '
      'away; train without --seed, or say --seed_is_secret if nobody else knows it'
    )
  if not said.finished and not allow_unfinished:
    rest = '' if said.beside_finished else ', and not all of what names its samples'
    raise _validate.InputError(
      f'this run has taken {said.steps_taken} of {said.mechanism.steps} steps{rest}; finish it '
      'with dpgan_jax.train, or say --allow_unfinished'
    )


def _refuse_paths(staging: pathlib.Path, run: pathlib.Path, out: pathlib.Path) -> None:
  """Names that a user chose (of data set and classes, the tuning note) could hold a path."""
  places = {pathlib.Path.cwd(), pathlib.Path.home(), run.resolve(), out.resolve().parent}
  for path in staging.iterdir():
    content = path.read_bytes()
    for place in places:
      if place != pathlib.Path(place.anchor) and os.fsencode(place) in content:
        raise _validate.InputError(
          f'{path.name} would hold the path {place} of this machine: name the data set, its '
          'classes and the tuning note without it'
        )


def verify(folder: str | os.PathLike[str]) -> str:
  """Checks a bundle as its receiver can: nothing of the run directory is needed.

  Args:
    folder: the bundle.

  Returns:
    One sentence: what was found right.

  Raises:
    InputError: a file that differs from the manifest, is missing or not in it; a generator, samples
      or report that cannot be read or do not belong together; a report that states less than its
      own mechanism costs; a page that states another ε or δ than the report; a guarantee, in
      generator or samples, that is not their mechanism's.
  """
  folder = readers.existing_folder(folder)
  others = {entry.name for entry in itertools.islice(folder.iterdir(), len(FILES) + 2)}
  sums = _read_manifest(folder)
  for name, digest in sums.items():
    path = folder / name
    if path.is_symlink() or not path.is_file():
      raise _validate.InputError(f'{path} is in {MANIFEST} but not there as a file')
    if path.stat().st_size > readers.MAX_BYTES:
      raise _validate.InputError(f'{path}: expected at most {readers.MAX_BYTES} bytes')
    if _sha256(path) != digest:
      raise _validate.InputError(f'{path} is not what {MANIFEST} says: its SHA-256 differs')
  if others := others - set(sums) - {MANIFEST}:
    raise _validate.InputError(f'{folder} holds {min(others)}, which {MANIFEST} does not list')

  model = generator_file.load(folder / GENERATOR)
  _require_samples(folder / directory.SAMPLES[model.spec.kind], model)
  stated, steps = _read_report(folder / REPORT_JSON, model.budget)
  if steps < model.steps:
    raise _validate.InputError(
      f'{folder / REPORT_JSON} charges {steps} steps; the generator took {model.steps}'
    )
  mechanism, epsilon = model.budget.mechanism, model.budget.epsilon(steps)
  if not stated >= epsilon * (1 - _EPSILON_MARGIN):  # written so that NaN is refused too
    raise _validate.InputError(
      f'{folder / REPORT_JSON} states ε = {stated:.6g}, but {steps} steps of its mechanism cost '
      f'{epsilon:.6g}'
    )
  _require_same_epsilon(folder, stated, repr(mechanism.delta))
  drawn = folder / directory.SAMPLES[model.spec.kind]
  lines = {folder / GENERATOR: generator_file.guarantee_of(folder / GENERATOR)}
  if drawn.suffix == '.npz':  # CSV has no place for it
    lines[drawn] = readers.npz_guarantee(drawn)
  for path, said in lines.items():
    if said not in (None, model.guarantee()):
      raise _validate.InputError(
        f'{path} says {said!r}; the mechanism of its generator gives {model.guarantee()!r}'
      )
  return (
    f'{len(sums)} files are as {MANIFEST} says, and load without pickle; '
    + (
      f'ε = {accounting.show_epsilon(epsilon)} at δ = {mechanism.delta!r}, computed again from the '
      f'mechanism for {steps} steps'
      if math.isfinite(epsilon)
      else 'NO PRIVACY GUARANTEE: ε is infinite'
    )
  )


def _require_samples(path: pathlib.Path, model: Synthesizer) -> None:
  """Samples are of the kind of data that the model is of."""
  if not path.is_file():
    raise _validate.InputError(f'{path}, the samples of this generator, is missing')
  if model.spec.schema is not None:
    declared.read_records(path, model.spec.schema)
    return
  parts = ('x', 'y') if model.is_conditional else ('x',)
  images = readers.read_npz(path, parts=parts)[0]
  height, width, channels = model.spec.shape
  if images.shape[1:] != ((height, width) if channels == 1 else (height, width, channels)):
    raise _validate.InputError(
      f'{path}: expected images of {model.spec.shape}, got {images.shape[1:]}'
    )


_EPSILON_SAID = re.compile(
  r'private with ε = (\S+) and|\| ε(?: of the (?:steps|releases) charged)? \| (\S+) \|'
)
_DELTA_SAID = re.compile(r'private with ε = \S+ and δ = (\S+)')


def _require_same_epsilon(folder: pathlib.Path, stated: float, delta: str) -> None:
  """Every page states ε and δ of the report, and nothing else as those of this bundle."""
  wanted = accounting.show_epsilon(stated) if math.isfinite(stated) else None
  for name in (REPORT_MARKDOWN, PAGE, MODEL_CARD, DATA_CARD, USAGE):
    if name == PAGE and not (folder / name).exists():
      continue
    text = (folder / name).read_text('utf-8', 'replace')
    text = _read_page(folder, text) if name == PAGE else text
    said = {one or other for one, other in _EPSILON_SAID.findall(text)}
    if wanted is None:
      said -= {'∞', 'inf'}
    if said != ({wanted} if wanted else set()):
      raise _validate.InputError(
        f'{folder / name} states ε = {", ".join(sorted(said)) or "nothing"}, {REPORT_JSON} '
        f'{wanted or "that there is no guarantee"}'
      )
    if others := set(_DELTA_SAID.findall(text)) - {delta}:
      raise _validate.InputError(
        f'{folder / name} states δ = {min(others)}, the mechanism of {GENERATOR} {delta}'
      )


def _read_page(folder: pathlib.Path, text: str) -> str:
  """What the page says, having checked that it shows the bundle's own pictures and no others."""
  try:
    said, pictures = _html.read(text)
  except ValueError as error:
    raise _validate.InputError(f'{folder / PAGE} is no report of dpgan_jax: {error}') from None
  known = [(folder / name).read_bytes() for name in (PICTURE, CURVE)]
  if any(picture not in known for picture in pictures):
    raise _validate.InputError(f'{folder / PAGE} shows a picture that is not of this bundle')
  return said


def _read_manifest(folder: pathlib.Path) -> dict[str, str]:
  path = folder / MANIFEST
  if not path.is_file() or path.stat().st_size > _MAX_SUMS:
    raise _validate.InputError(f'expected a bundle of dpgan_jax.release, found no {path}')
  sums = {}
  for line in path.read_bytes().decode('utf-8', 'replace').splitlines():
    digest, _, name = line.partition('  ')
    if name not in (*FILES, *SAMPLES) or name in sums:  # so that no name leads out of the folder
      expected = ', '.join((*FILES[:-1], ' or '.join(SAMPLES)))
      raise _validate.InputError(f'{path} lists {name!r}; expected {expected}, once')
    sums[name] = digest
  missing = sorted(set(FILES) - set(sums) - {MANIFEST, PAGE})  # bundles of version 0.1 have no page
  if missing:
    raise _validate.InputError(f'{path} does not list {missing[0]}')
  return sums


def _read_report(path: pathlib.Path, budget: Budget) -> tuple[float, int]:
  """ε and the number of steps it is stated for; the mechanisms have to be the generator's."""
  try:
    facts = _json.read(path)
    epsilon = float(facts['guarantee']['epsilon'])
    steps = _validate.integer(
      'steps_charged', facts['progress']['steps_charged'], minimum=0,
      maximum=budget.mechanism.steps,
    )  # fmt: skip
    same = all(facts['mechanism'][k] == v for k, v in budget.mechanism.to_dict().items())
    # All that the generator holds; of an unfinished run, the report states what is still to come.
    stated = facts.get('mechanisms_beside', facts.get('mechanisms_before', {}))
    same = same and all(stated.get(name) == m.to_dict() for name, m in budget.beside.items())
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _validate.InputError(f'{path} is not a report of dpgan_jax: {error!r}') from None
  if not same:
    raise _validate.InputError(f'{path} and {GENERATOR} have different mechanisms')
  return epsilon, steps


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
