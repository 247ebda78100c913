"""Runs of a sweep: one model per ε and seed, each in a directory of its own, resumable."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _files, _progress, _validate
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.data.sources import Dataset
from dpgan_jax.data.tables.files.open import OpenTable
from dpgan_jax.evaluation import scoring
from dpgan_jax.evaluation.series.pages import evaluate_model
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import generator_file, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search import sweep_table

SECRET = 'secret_key'
_FINGERPRINT, _ASKED = 'fingerprint.json', 'evaluation_asked.json'
OF_A_RUN = ('target_epsilon', 'seed')  # settings that differ from run to run


@dataclasses.dataclass(frozen=True)
class Planned:
  """One run of a sweep.

  Attributes:
    name: its directory within the sweep's, such as 'eps2/seed_0'.
    config: its settings.
  """

  name: str
  config: TrainConfig


def parse_epsilons(text: str | None) -> list[float]:
  """`'0.5,1,inf'` → [0.5, 1.0, inf].

  Raises:
    InputError: none given, one that is no number > 0, or one that is there twice.
  """
  parts = _between_commas(text or '')
  if parts == ['']:
    raise _validate.InputError('expected --epsilons=LIST of numbers > 0, such as 0.5,1,2,inf')
  epsilons: list[float] = []
  for part in parts:
    try:
      epsilon = float(part)
    except ValueError:
      raise _validate.InputError(
        f'expected epsilons to be numbers > 0 (or inf) between commas, got {part!r} in {text!r}'
      ) from None
    epsilons.append(_validate.positive('each of epsilons', epsilon, allow_inf=True))
    if epsilon in epsilons[:-1]:
      raise _validate.InputError(
        f'expected epsilons that differ, got {part} twice (repeat runs with --seeds)'
      )
  return epsilons


def parse_steps_at(text: str | None, epsilons: Sequence[float]) -> dict[float, int]:
  """`'10:16000'` → {10.0: 16000}.

  Raises:
    InputError: not in this form, or of an ε that is not among those of the sweep, or named twice.
  """
  steps: dict[float, int] = {}
  for part in _between_commas(text) if text else []:
    epsilon, _, count = part.partition(':')
    try:
      key, value = float(epsilon), int(count)
    except ValueError:
      raise _validate.InputError(
        f'expected steps_at to be EPSILON:STEPS between commas, such as 10:16000, got {part!r}'
      ) from None
    if key not in epsilons or key in steps:
      what = 'another epsilon' if key in steps else 'an epsilon of the sweep'
      raise _validate.InputError(f'expected each of steps_at to name {what}, got {part!r}')
    steps[key] = _validate.integer('steps_at', value, minimum=1)
  return steps


def _between_commas(text: str) -> list[str]:
  return [part.strip() for part in text.split(',')]


def plan(
  settings: Mapping[str, Any],
  epsilons: Sequence[float],
  seeds: int | None,
  steps_at: Mapping[float, int] | None = None,
  first_seed: int = 0,
) -> list[Planned]:
  """The runs, in the order they are made: every ε once before any is repeated with another seed.

  Args:
    settings: fields of `TrainConfig`, but for those of `OF_A_RUN`, which are the plan's.
    epsilons: budgets, all different.
    seeds: runs per ε, with the fixed seeds 0, 1, ...; None: one run each, of a secret key.
    steps_at: steps of runs of some ε, in the place of those of `settings`.
    first_seed: the first of the seeds.

  Raises:
    InputError: settings that do not validate with one of the ε, or a first seed without seeds.
  """
  _validate.integer('first_seed', first_seed, minimum=0)
  if seeds is not None:
    _validate.integer('seeds', seeds, minimum=1)
  elif first_seed:
    raise _validate.InputError('expected --seeds=N with --first_seed: how many seeds from there on')
  runs, other_steps = [], steps_at or {}
  for seed in [None] if seeds is None else range(first_seed, first_seed + seeds):
    key = SECRET if seed is None else f'seed_{seed}'
    for epsilon in epsilons:
      own: dict[str, Any] = {'target_epsilon': epsilon, 'seed': seed}
      if epsilon in other_steps:
        own |= {'steps': other_steps[epsilon], 'epochs': None}
      config = TrainConfig(**{**settings, **own})
      runs.append(Planned(f'eps{short(epsilon)}/{key}', config))
  return runs


def short(epsilon: float) -> str:
  """`2.0` → '2': the shortest text that is read as the same number."""
  return repr(float(epsilon)).removesuffix('.0')


def open_sweep(path: str, settings: Mapping[str, Any], dataset: Dataset) -> RunDir:
  """The directory of the sweep, whose runs share all settings but ε, seed and what `steps_at` says.

  Raises:
    InputError: it holds something else, or a sweep of other settings (naming what differs).
  """
  shared = {k: v for k, v in settings.items() if k not in OF_A_RUN}
  about = dataset.spec.to_record()
  try:
    directory = RunDir.open(path, create=True)
    if directory.config.is_file():
      saved = directory.load_config()
      for name, now in (('settings', shared), ('data', about)):
        if not isinstance(saved.get(name), dict):
          raise _validate.InputError(f'run directory {path} is that of one run')
        directory.check_same_config(saved[name], now)
    else:
      directory.save_config({'format': sweep_table.FORMAT, 'settings': shared, 'data': about})
    _check_same_data(directory, dataset.fingerprint())
  except _validate.InputError as error:
    # It is kept as a run directory is: the same file of settings, the same lock.
    text = str(error).replace('run directory', 'sweep directory').replace('run_dir', 'sweep_dir')
    raise _validate.InputError(
      text.replace('belongs to another run', 'belongs to another sweep')
    ) from None
  return directory


def _check_same_data(directory: RunDir, fingerprint: str) -> None:
  """Keeps the fingerprint of the data in a private file of its own, or compares it."""
  path = directory.path / _FINGERPRINT
  now = {'data_fingerprint': fingerprint}
  if not path.exists() and not any(directory.path.glob('eps*')):
    with _files.atomic_write(path, permissions=0o600) as file:
      file.write(json.dumps(now) + '\n')
    return
  try:
    kept = dict(json.loads(path.read_bytes()))
  except (FileNotFoundError, ValueError, TypeError):
    raise _validate.InputError(
      f'{path} is missing or damaged: whether the runs here read the same data is no longer known; '
      'restore it from a backup'
    ) from None
  directory.check_same_config(kept, now)


def trained(planned: Planned, run: pathlib.Path, dataset: Dataset) -> Synthesizer | None:
  """The generator that a finished run left; None if the run is not finished.

  Raises:
    InputError: the directory belongs to a run of other settings or other data, or is damaged.
  """
  kept = run / sweep_table.GENERATOR
  if not kept.is_file():
    return None
  directory = RunDir.open(run, create=False)
  directory.check_same_config(directory.load_config().get('config', {}), planned.config.to_dict())
  model = generator_file.load(kept)
  mechanism = model.budget.mechanism
  with directory.lock():
    ledger = Ledger.open(
      directory.ledger,
      stages=model.budget.stages,
      data_fingerprint=dataset.fingerprint(),
      identity=directory.identity(),
    )
    ledger.require_covers(model.steps, model.budget.stage)
  finished = model.steps == mechanism.steps and directory.report_json.is_file()
  return model if finished else None


def train(
  planned: Planned, run: pathlib.Path, dataset: Dataset, *, devices: int, data_on: str
) -> Synthesizer:
  """Trains a run, or continues it, and keeps report and generator.

  Raises:
    InputError: as `trainer.train`.
  """
  result = trainer.train(planned.config, dataset, run, devices=devices, data_on=data_on)
  print(run_statement.write(result.run).summary())
  # Last: its presence says that all the rest is there.
  generator_file.save(result.model, run / sweep_table.GENERATOR)
  return result.model


def _kept(path: pathlib.Path) -> Any:
  """What a JSON file holds; None where there is none, or half of one."""
  try:
    return json.loads(path.read_bytes())
  except (FileNotFoundError, ValueError):
    return None


def score(
  model: Synthesizer,
  run: pathlib.Path,
  train: Dataset,
  test: Dataset,
  amount: scoring.Amount,
  scores_dir: pathlib.Path,
) -> bool:
  """Evaluates a generator, unless that is done; the runs share `scores_dir`, and thus ceilings.

  Returns:
    Whether there was anything to do.
  """
  if not isinstance(train, ImageDataset):
    return _score_table(model, run, train, test, amount, scores_dir)
  assert isinstance(test, ImageDataset)
  about = scoring.describe(
    scoring.source_of(model), amount.num, model.spec.shape, scoring.has_classes(model), train,
    test, amount,
  )  # fmt: skip
  found = _kept(run / sweep_table.EVALUATION)
  asked = json.loads(json.dumps({**about, 'settings': dataclasses.asdict(amount.settings)}))
  if isinstance(found, dict) and found.get('about') == asked:
    return False
  scoring.score(scoring.draw(model, amount), train, test, amount, run, scores_dir=scores_dir)
  return True


def _score_table(
  model: Synthesizer,
  run: pathlib.Path,
  train: Dataset,
  test: Dataset,
  amount: scoring.Amount,
  scores_dir: pathlib.Path,
) -> bool:
  """The same of a table or of series; `amount.num` 0: as many records as were trained on."""
  schema, settings = model.spec.schema, amount.settings
  assert schema is not None
  train, test = (d.closed(schema) if isinstance(d, OpenTable) else d for d in (train, test))
  assert not isinstance(train, ImageDataset | OpenTable)
  assert not isinstance(test, ImageDataset | OpenTable)
  asked = {'num': amount.num, 'quick': amount.quick, 'seed': settings.seed}
  asked |= {'data': [train.fingerprint(), test.fingerprint()]}  # private, as all evaluation* are
  if (run / sweep_table.EVALUATION).is_file() and _kept(run / _ASKED) == asked:
    return False
  evaluate_model(
    model, train, test, run, num=amount.num or None, quick=amount.quick, seed=settings.seed,
    scores_dir=scores_dir,
  )  # fmt: skip
  _files.write_json(run / _ASKED, asked)
  return True


def make_runs(
  runs: Sequence[Planned],
  folder: pathlib.Path,
  dataset: Dataset,
  test: Dataset | None,
  amount: scoring.Amount,
  *,
  devices: int = 1,
  data_on: str = 'device',
) -> dict[str, str]:
  """Makes the runs one after the other; one that fails does not keep the others from being made.

  Args:
    runs: as planned.
    folder: of the sweep.
    dataset: the private records.
    test: what runs are scored on; None: they are not.
    amount: of scoring.
    devices, data_on: as of `trainer.train`; no part of what a run is.

  Returns:
    Why a run failed, by its name.
  """
  failures: dict[str, str] = {}
  seconds: list[float] = []
  for number, planned in enumerate(runs, 1):
    left = len(runs) - number + 1
    rest = _progress.duration(sum(seconds) / len(seconds) * left) if seconds else 'not known yet'
    epsilon = planned.config.target_epsilon
    print(f'run {number} of {len(runs)}: {planned.name}, time left for all: {rest}', flush=True)
    assert epsilon is not None
    if math.isinf(epsilon):
      print('no privacy: this run and its samples are not covered by any epsilon', flush=True)
    started = time.monotonic()
    run = folder / planned.name
    try:
      model = trained(planned, run, dataset)
      worked = model is None
      if model is None:
        model = train(planned, run, dataset, devices=devices, data_on=data_on)
      if test is not None:
        worked |= score(model, run, dataset, test, amount, folder / scoring.KEPT)
    except _validate.InputError as error:
      failures[planned.name] = str(error).replace(f'{run}', planned.name)
      print(f'{planned.name} failed: {error}', file=sys.stderr, flush=True)
      continue
    if worked:  # what was found finished says nothing about the time that others take
      seconds.append(time.monotonic() - started)
    else:
      print(f'{planned.name} was finished already', flush=True)
  return failures
