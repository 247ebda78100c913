"""What is killed: the parts of the library that write to the disk, each with what must hold after
a kill and at the end.

A victim prepares a folder, does its work there as often as it is started, and returns the end:
digests of everything that has to come out the same bit for bit, however often it was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dpgan_jax import _cli, _validate, sample, sweep, train
from dpgan_jax.budget import ledger
from dpgan_jax.data import writers
from dpgan_jax.models import config
from dpgan_jax.privacy import mechanism
from dpgan_jax.run import directory, metrics, plan, stages
from dpgan_jax.run.checkpoint import Checkpoints
from experiments.trust import injector

# σ = 10 so that accounting costs milliseconds; three chunks of two steps, a checkpoint after each.
SETTINGS = {
  'dataset': 'digits', 'generator': 'compact', 'noise_multiplier': 10.0, 'steps': 8,
  'batch_size': 24, 'delta': 1e-4, 'steps_per_report': 2, 'd_steps_per_g_step': 2,
  'num_samples': 20, 'seed': 7,
}  # fmt: skip
_CHUNK = 2
_SMALL = mechanism.DPMechanism.create(
  num_examples=200, batch_size=10, l2_clip_norm=1.0, noise_multiplier=6.0, steps=6, delta=1e-3
)
_OPEN = {'stages': {'dp_sgd': _SMALL}, 'data_fingerprint': 'f00d'}


# The number that every run draws for itself, and what it is hashed into.
_OWN = re.compile(rb'"(hash|run|run_id|sha256)\\?": \\?"[0-9a-f]*')


def digest_of(path: pathlib.Path) -> str:
  """Of a file's content, less what tells one run from another with the same settings."""
  content = path.read_bytes()
  if path.name in ('config.json', 'ledger.jsonl') or path.suffix == '.safetensors':
    content = _OWN.sub(b'', content)
  return hashlib.sha256(content).hexdigest()


def contents(folder: pathlib.Path) -> dict[str, str]:
  """Digest by name of every file whose name, and whose folders' names, are final (not hidden)."""
  files = (p for p in sorted(folder.rglob('*')) if p.is_file())
  named = ((p.relative_to(folder), p) for p in files)
  return {
    name.as_posix(): digest_of(p)
    for name, p in named
    if not any(part.startswith('.') for part in name.parts)
  }


def leftovers(folder: pathlib.Path) -> int:
  """Temporary files and folders that killed processes left; their names are hidden ones."""
  return sum(p.name.startswith('.') and p.name.endswith('.tmp') for p in folder.rglob('*'))


def highest(told: list[str], word: str) -> int:
  return max([int(t.split()[1]) for t in told if t.split()[0] == word], default=0)


def require(condition: bool, what: str) -> None:
  if not condition:
    raise AssertionError(what)


@contextlib.contextmanager
def noting(faults: list[str], where: str = '') -> Iterator[None]:
  """Adds to `faults` what a check of the block finds."""
  try:
    yield
  except (AssertionError, _validate.InputError) as error:
    faults.append(f'{where}{error}')


class Victim:
  """Something that is killed, and started again.

  Attributes:
    place: what it is called in the results.
    ends_same: what `work` returns has to be the same after every history of kills.
  """

  place = ''

  def prepare(self, folder: pathlib.Path) -> None:
    """Makes what is there before the first start."""
    del folder

  def work(self, folder: pathlib.Path) -> Any:
    """Starts, or continues, to the end; in a process of its own."""
    raise NotImplementedError

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    """Looks at what a kill left; `told` is what all processes before had told, `end` the end of an
    undisturbed one. Returns in a few words what it found; raises AssertionError."""
    raise NotImplementedError


class LedgerAppend(Victim):
  """Three charges; or, `torn`, the mending of a line that an earlier kill cut off, and a charge."""

  def __init__(self, torn: bool = False) -> None:
    self._torn = torn
    self.place = 'ledger: mending a torn line' if torn else 'ledger: creation and appends'

  def prepare(self, folder: pathlib.Path) -> None:
    if self._torn:
      path = folder / 'ledger.jsonl'
      written = ledger.Ledger.open(path, **_OPEN)
      for step in (2, 4):
        written.charge(step)
      path.write_bytes(path.read_bytes()[:-20])

  def work(self, folder: pathlib.Path) -> Any:
    spent = ledger.Ledger.open(folder / 'ledger.jsonl', **_OPEN)
    for step in (2, 4, 6):
      spent.charge(step)
      injector.tell(f'taken {step}')
    return contents(folder)

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    path, taken = folder / 'ledger.jsonl', highest(told, 'taken')
    if not path.exists():
      require(taken == 0, f'{taken} steps were taken and there is no ledger')
      return 'no ledger yet, nothing taken'
    charged = ledger.Ledger.read(path, stages=_OPEN['stages']).charged_steps()
    require(charged >= taken, f'{charged} charged and {taken} taken')
    return 'charged = taken' if charged == taken else 'charged > taken'


class CheckpointWrite(Victim):
  """Two saves of which the newest is kept."""

  place = 'checkpoint: save, commit, removal of the oldest'
  steps = 2

  def _state(self, step: int) -> dict[str, np.ndarray]:
    return {'x': np.random.default_rng(step).normal(size=5000), 'step': np.full(1, step)}

  def work(self, folder: pathlib.Path) -> Any:
    warnings.simplefilter('error')  # a committed checkpoint that is found damaged would warn
    with Checkpoints(folder / 'checkpoints', keep=1) as checkpoints:
      found = checkpoints.restore_latest(self._state(0))
      start = 0
      if found is not None:
        start, state, _ = found
        for name, array in self._state(start).items():
          require(state[name].tobytes() == array.tobytes(), f'step {start}: another {name}')
      injector.tell(f'restored {start}')
      for step in range(start + 1, self.steps + 1):
        checkpoints.save(step, self._state(step), {'step': step})
        checkpoints.wait()
        injector.tell(f'durable {step}')
      # Killed between the last commit and the removal of the oldest, it has one more: whole.
      digests = [checkpoints.digest(step) for step in checkpoints.steps()]
      return {'newest': digests[-1], 'step': checkpoints.steps()[-1]}

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    durable, found = highest(told, 'durable'), Checkpoints(folder / 'checkpoints').steps()
    require(max(found, default=0) >= durable, f'{durable} was durable, {found} are there')
    torn = any(not p.name.isdigit() for p in (folder / 'checkpoints').glob('*'))
    return f'newest whole one: {max(found, default=0)}' + (', a half-written one aside' * torn)


class MetricsWrite(Victim):
  """Three lines, resumed after the last that is known to be on the disk."""

  place = 'metrics: lines, and dropping them on resuming'

  def prepare(self, folder: pathlib.Path) -> None:
    (folder / 'known').mkdir()

  def work(self, folder: pathlib.Path) -> Any:
    known = len(list((folder / 'known').iterdir()))
    with metrics.MetricsWriter(folder, resume_step=known or None) as writer:
      for step in range(known + 1, 4):
        writer.write(step, {'epsilon': 0.25 * step, 'd_loss_fake': 1 / step})
        injector.tell(f'written {step}')
        (folder / 'known' / str(step)).touch()  # the checkpoint of that step
    return {'metrics.jsonl': digest_of(folder / 'metrics.jsonl')}

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    path, written = folder / 'metrics.jsonl', highest(told, 'written')
    there = len(metrics.read_metrics(path)) if path.exists() else 0
    require(there >= written, f'{written} lines were written, {there} are there')
    return 'every line that was written is there'


class Export(Victim):
  """One export, into nothing or over an older data set."""

  def __init__(self, format: str, replace: bool) -> None:
    self._format, self._replace = format, replace
    self.place = f'export: {format}' + (', replacing another' if replace else '')

  def _data(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (4, 6, 6)).astype(np.uint8), np.arange(4) % 2

  def prepare(self, folder: pathlib.Path) -> None:
    if self._replace:
      writers.export(folder / 'out', *self._data(0), format=self._format)

  def work(self, folder: pathlib.Path) -> Any:
    writers.export(folder / 'out', *self._data(1), format=self._format, overwrite=True)
    return contents(folder)

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    there = contents(folder)
    if there == end:
      return 'all of the new'
    if not there:
      return 'nothing'
    if not self._replace:
      raise AssertionError(f'neither nothing nor all: {sorted(there)}')
    with tempfile.TemporaryDirectory() as place:
      self.prepare(pathlib.Path(place))
      old = contents(pathlib.Path(place))
    if there == old:
      return 'all of the old'
    # Several files of one folder are replaced one by one, the old going first.
    only_old, only_new = there.items() <= old.items(), there.items() <= end.items()
    require(only_old or only_new, f'old and new side by side: {sorted(there)}')
    return f'some files of the {"old" if only_old else "new"}, none of the other'


SMALL: dict[str, tuple[Victim, ...]] = {
  'ledger': (LedgerAppend(), LedgerAppend(torn=True)),
  'checkpoint': (CheckpointWrite(),),
  'metrics': (MetricsWrite(),),
  'export': tuple(Export(f, replace) for f in writers.FORMATS for replace in (False, True)),
}
"""Parts of the library, by what they write."""


# --- whole commands ------------------------------------------------------------------------------


def run_command(module: Any, arguments: dict[str, Any]) -> None:
  """A command's main in this process, as `python -m` would run it.

  Raises:
    SystemExit: it failed.
  """
  module.define_flags()
  sys.argv = [module.__name__, *(f'--{name}={value}' for name, value in arguments.items())]
  try:
    _cli.run(module.main)
  except SystemExit as end:
    if end.code not in (None, 0):
      raise


def watch_steps() -> None:
  """Makes the trainer tell which steps it is about to take."""
  make_chunk: Callable[..., Any] = stages.make_chunk

  def telling(stage: Any, length: int) -> Any:
    chunk = make_chunk(stage, length)

    def call(state: Any, *data: Any) -> Any:
      injector.tell(f'taking {int(state.step) + length}')
      return chunk(state, *data)

    return call

  stages.make_chunk = telling


def end_of_run(path: pathlib.Path) -> dict[str, str]:
  """Every file of a finished run but TensorBoard's, which holds times; and the last state."""
  kept = {k: v for k, v in contents(path).items() if not k.startswith(('checkpoints', 'tensor'))}
  checkpoints = Checkpoints(path / 'checkpoints')
  steps = checkpoints.steps()
  # Killed between the last commit and the removal of the oldest, a run has one more.
  return {**kept, 'steps': str(steps[-3:]), 'state': checkpoints.digest(steps[-1])}


def charged_steps(path: pathlib.Path) -> int:
  """What a run's ledger says, 0 if there is none yet."""
  run = directory.RunDir(path)
  if not run.ledger.exists():
    return 0
  stages = plan.read(run.load_config(), run.config).budget.stages
  return ledger.Ledger.read(run.ledger, stages=stages, identity=run.identity()).charged_steps()


def check_run(path: pathlib.Path, told: list[str], end: dict[str, str]) -> str:
  """Nothing taken that is not charged; nothing under a final name that is not the final thing."""
  charged = charged_steps(path)
  checkpoints = max(Checkpoints(path / 'checkpoints').steps(), default=0)
  lines = metrics.read_metrics(path / 'metrics.jsonl') if (path / 'metrics.jsonl').exists() else []
  known = {
    'begun': highest(told, 'taking'),
    'in a checkpoint': checkpoints,
    'in the metrics': max((line['step'] for line in lines), default=0),
  }
  for where, steps in known.items():
    require(charged >= steps, f'{charged} steps charged, {steps} {where}')
  growing = ('ledger.jsonl', 'metrics.jsonl')
  for name, digest in contents(path).items():
    if name in end and name not in growing:
      require(digest == end[name], f'{name} is not what it is at the end')
    else:
      require(
        name in growing or name.startswith(('checkpoints/', 'tensorboard/')),
        f'{name} does not belong to a finished run',
      )
  if not charged:
    return 'nothing charged yet'
  return 'finished' if checkpoints == charged == SETTINGS['steps'] else 'between charge and end'


class Train(Victim):
  """The command `dpgan_jax.train` with a fixed seed, on the embedded digits or as `changes` say."""

  place = 'training'

  def __init__(self, **changes: Any) -> None:
    self._settings = {**SETTINGS, **changes}

  def work(self, folder: pathlib.Path) -> Any:
    watch_steps()
    run_command(train, {**self._settings, 'run_dir': folder / 'run'})
    return end_of_run(folder / 'run')

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    return check_run(folder / 'run', told, end) if (folder / 'run').exists() else 'no directory yet'


class Sample(Victim):
  """The command `dpgan_jax.sample` on a finished run."""

  def __init__(self, run: pathlib.Path, format: str) -> None:
    self._run, self._format = run, format
    self.place = f'command sample, {format}'

  def work(self, folder: pathlib.Path) -> Any:
    out = folder / 'synthetic'
    arguments = {'run_dir': self._run, 'num': 30, 'format': self._format, 'out': out, 'seed': 3}
    # Asked for again after it was finished (killed in its last moment), it would refuse.
    run_command(sample, {**arguments, 'overwrite': True})
    return contents(folder)

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    there = contents(folder)
    require(there in ({}, end), f'neither nothing nor all: {sorted(there)}')
    return 'all of it' if there else 'nothing'


class Sweep(Victim):
  """The command `dpgan_jax.sweep`: a private run and one without privacy, table and figures."""

  place = 'command sweep'

  def work(self, folder: pathlib.Path) -> Any:
    settings = {k: v for k, v in SETTINGS.items() if k not in ('seed', 'noise_multiplier')}
    arguments = {**settings, 'epsilons': '0.01,inf', 'seeds': 1, 'evaluate': False}
    run_command(sweep, {**arguments, 'sweep_dir': folder / 'sweep'})
    runs = self._runs(folder)
    end = {f'{run}/{name}': v for run, p in runs.items() for name, v in end_of_run(p).items()}
    for name, digest in contents(folder / 'sweep').items():
      if not name.startswith(tuple(runs)):
        end[name] = digest
    return end

  def _runs(self, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    place = folder / 'sweep'
    return {p.relative_to(place).as_posix(): p for p in sorted(place.glob('eps*/*'))}

  def check(self, folder: pathlib.Path, told: list[str], end: Any) -> str:
    begun = 0
    for name, run in self._runs(folder).items():
      of_run = {k.removeprefix(f'{name}/'): v for k, v in end.items() if k.startswith(f'{name}/')}
      begun += check_run(run, [], of_run) != 'finished'
    for name, digest in contents(folder / 'sweep').items() if (folder / 'sweep').exists() else ():
      if '/' not in name:
        require(digest == end.get(name), f'{name} is not what it is at the end')
    return f'{len(self._runs(folder)) - begun} of 2 runs finished'


def warm_up() -> None:
  """Accounts for what the runs will ask for, so that forked processes need not."""
  m = plan.make_budget(config.TrainConfig(**SETTINGS), 1440).mechanism
  for steps in range(_CHUNK, m.steps + 1, _CHUNK):
    m.epsilon(steps)
