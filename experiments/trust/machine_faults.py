"""What a machine does to a run: a full disk, damaged files, two processes at once, wrong clocks.

    ./run.sh python -m experiments.trust.machine_faults \\
        --results=experiments/results/trust/faults_of_the_machine.json
    ./run.sh python -m experiments.trust.machine_faults --kinds=clock,cache       # some of it

Every case starts from a run that was stopped half way, brings the fault about, and runs the command
again. Allowed is: the end of an undisturbed run, bit for bit; or one line that says what is wrong
(and names the damaged file, or the process that holds the directory), after which the same command
comes to that end once the fault is gone. Anything else ends this command with status 1: another
end, a traceback, a ledger below what was taken, half a file under a final name. Results are kept as
`counted` says.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from dpgan_jax import _cli, _validate, train
from dpgan_jax.data import datasets, readers
from dpgan_jax.run import directory
from dpgan_jax.run.checkpoint import Checkpoints
from experiments.trust import counted, injector, kills, victims

FLAGS = flags.FLAGS
KINDS = ('disk_full', 'damaged_run', 'damaged_data', 'cache', 'two_processes', 'clock')
_COMMAND = (
  './run.sh python -m experiments.trust.machine_faults '
  '--results=experiments/results/trust/faults_of_the_machine.json'
)
YEAR = 365 * 86400.0
_BACK = 'jumping back by an hour'
_PATIENCE = 60.0  # seconds; a run takes a few
# Written anew at the end of every run, or pictures of earlier steps: nothing is read from them.
_OUTPUTS = ('tensorboard/', 'grids/')


@dataclasses.dataclass
class Row:
  """Cases of one fault.

  Attributes:
    fault: what was done.
    cases: how often.
    same_end: came to the end of an undisturbed run at once.
    refused: ended with one line that says what is wrong.
    warned: went on to the same state with a warning that the record of its metrics was gone.
    mended: of the refused, came to that end when the fault was gone (where that was tried).
    messages: the lines, paths and numbers left out, with counts.
    faults: what did not hold; empty.
  """

  fault: str
  cases: int = 0
  same_end: int = 0
  refused: int = 0
  warned: int = 0
  mended: int = 0
  messages: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  faults: list[str] = dataclasses.field(default_factory=list)


def one_line(outcome: injector.Outcome) -> str:
  """The line with which a command ended, '' if it ended in another way."""
  errors = [line for line in outcome.stderr.splitlines() if line.startswith('error: ')]
  clean = 'Traceback' not in outcome.stderr and outcome.status in (1, 2)
  return errors[0].removeprefix('error: ') if clean and len(errors) == 1 else ''


class Machine:
  """Makes faults in copies of one half-way run."""

  def __init__(self, folder: pathlib.Path, rng: random.Random) -> None:
    self._folder, self._rng = folder, rng
    self._copies = 0
    self._train = victims.Train()
    whole = folder / 'whole'
    whole.mkdir()
    outcome = injector.run(lambda: self._train.work(whole), whole)
    if outcome.status != 0:
      raise RuntimeError(f'an undisturbed run failed: {outcome.stderr}')
    self.end = outcome.result
    self.half = folder / 'half'
    self.half.mkdir()
    # Stopped as it charges its last chunk: by then two checkpoints are there, of which one may be
    # damaged. (The newest is written while the next chunk runs.)
    charges = [
      n for n, (call, path) in enumerate(outcome.changes, start=1)
      if call == 'write' and path.endswith('ledger.jsonl')
    ]  # fmt: skip
    injector.run(lambda: self._train.work(self.half), self.half, at=charges[-1], how='before')

  def copy(self) -> pathlib.Path:
    self._copies += 1
    return pathlib.Path(shutil.copytree(self.half, self._folder / f'copy_{self._copies}'))

  def settle(
    self,
    row: Row,
    case: str,
    folder: pathlib.Path,
    outcome: injector.Outcome,
    *,
    names: tuple[str, ...] = (),
    mend: Callable[[], None] | None = None,
  ) -> None:
    """Judges a case. `names`: one of which the refusal must hold; `mend`: undoes the fault."""
    row.cases += 1
    if outcome.status == 0 and outcome.result == self.end:
      row.same_end += 1
      return
    same_state = outcome.status == 0 and outcome.result['state'] == self.end['state']
    if same_state and 'metrics.jsonl is missing' in outcome.stderr:
      row.warned += 1
      return
    line = one_line(outcome)
    if not line or (names and not any(name in line for name in names)):
      row.faults.append(f'{case}: {kills.difference(outcome, _reference(self.end))}')
      return
    row.refused += 1
    row.messages[_anonymous(line, folder)] += 1
    if mend is not None:
      mend()
      again = injector.run(lambda: self._train.work(folder), folder)
      if again.status == 0 and again.result == self.end:
        row.mended += 1
      else:
        row.faults.append(f'{case}, mended: {kills.difference(again, _reference(self.end))}')

  # --- the faults --------------------------------------------------------------------------------

  def disk_full(self, cases: int) -> Iterator[Row]:
    """From a change of the disk on, every call that needs space fails (ENOSPC)."""
    for victims_of_part in victims.SMALL.values():
      yield from map(self._disk_full_at_every_change, victims_of_part)
    row = Row('no space left, training')
    folder = self.copy()
    reference = injector.run(lambda: self._train.work(folder), folder)
    needs = [
      n for n, (call, _) in enumerate(reference.changes, start=1)
      if call in ('open', 'openat', 'write', 'writev', 'mkdir', 'fsync')
    ]  # fmt: skip
    for n in _shown(self._rng.sample(needs, min(cases, len(needs))), row.fault):
      folder = self.copy()
      outcome = injector.run(lambda f=folder: self._train.work(f), folder, at=n, how='full')
      with victims.noting(row.faults, f'change {n}: '):
        self._train.check(folder, outcome.told, self.end)
      # Nothing needs mending: there is space again.
      self.settle(row, f'change {n}', folder, outcome, names=('No space left',), mend=lambda: None)
      shutil.rmtree(folder)
    yield row

  def _disk_full_at_every_change(self, victim: victims.Victim) -> Row:
    row = Row(f'no space left, {victim.place}')
    folder = self._folder / 'small'

    def start(at: int, how: str) -> injector.Outcome:
      return injector.run(lambda: victim.work(folder), folder, at=at, how=how)

    def fresh() -> None:
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir()
      victim.prepare(folder)

    fresh()
    reference = start(0, 'count')
    for n in _shown(range(1, len(reference.changes) + 1), row.fault):
      fresh()
      outcome = start(n, 'full')
      row.cases += 1
      if outcome.status == 0:  # from there on it needed no more space
        row.same_end += outcome.result == reference.result
        if outcome.result != reference.result:
          row.faults.append(f'change {n}: another end')
        continue
      last = outcome.stderr.strip().splitlines()[-1]
      if 'No space left' not in last:
        row.faults.append(f'change {n}: {last}')
      row.refused += 1
      with victims.noting(row.faults, f'change {n}: '):
        victim.check(folder, outcome.told, reference.result)
      again = start(0, 'count')
      if again.status == 0 and again.result == reference.result:
        row.mended += 1
      else:
        row.faults.append(f'change {n}, space again: {kills.difference(again, reference)}')
    return row

  def damaged_run(self, cases: int) -> Iterator[Row]:
    """A flipped bit, a cut, an empty file, a missing file: each of the files of a run directory."""
    names = [p.relative_to(self.half) for p in sorted(self.half.rglob('*')) if p.is_file()]
    groups: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    newest = Checkpoints(self.half / 'run' / 'checkpoints').steps()[-1]
    for name in names:
      inside = name.relative_to('run').as_posix()
      if inside.startswith(f'checkpoints/{newest}/'):
        groups['the newest checkpoint'].append(name)
      elif not inside.startswith(('checkpoints/', *_OUTPUTS, '.')):
        groups[inside].append(name)
    for group, members in groups.items():
      row = Row(f'damaged: {group}')
      damages = ['flip'] * cases + ['cut', 'empty', 'missing']
      if len(members) > 1:  # test_checkpoint.py tries every kind on every file
        self._rng.shuffle(damages)
      tried: set[str] = set()
      for number, name in enumerate(_shown(members, row.fault)):
        for kind in damages if len(members) == 1 else [damages[number % len(damages)]]:
          folder = self.copy()
          path = folder / name
          original = path.read_bytes()
          damage(path, kind, self._rng)
          outcome = injector.run(lambda f=folder: self._train.work(f), folder)
          wanted = (path.name, 'checkpoints')

          def restore(path: pathlib.Path = path, original: bytes = original) -> None:
            path.write_bytes(original)

          # One mending of each kind shows that the refusal has spoilt nothing.
          mend = restore if kind not in tried else None
          tried.add(kind)
          self.settle(row, f'{kind} {name.name}', folder, outcome, names=wanted, mend=mend)
          shutil.rmtree(folder)
      yield row

  def damaged_data(self, cases: int) -> Iterator[Row]:
    """The data set changes between the two halves of a run: IDX files, not compressed."""
    row = Row('damaged: data files')
    digits = datasets.load_dataset('digits')
    source = self._folder / 'data'
    source.mkdir()
    for name, array in (('images-idx3', digits.images[..., 0]), ('labels-idx1', digits.labels)):
      path = source / f'train-{name}-ubyte'
      path.write_bytes(readers.idx_bytes(np.ascontiguousarray(array, np.uint8)))
    half = self._folder / 'idx_half'
    half.mkdir()
    victim = victims.Train(dataset='idx', data_dir=source)
    reference = injector.run(lambda: victim.work(half), half)
    if reference.status != 0:
      raise RuntimeError(f'training on IDX files failed: {reference.stderr}')
    images, labels = sorted(source.iterdir())
    for kind in _shown(['flip'] * cases + ['cut', 'empty', 'missing'], row.fault):
      for path in (images, labels):
        original = path.read_bytes()
        damage(path, kind, self._rng)
        outcome = injector.run(lambda: victim.work(half), half)
        path.write_bytes(original)
        row.cases += 1
        if line := one_line(outcome):
          row.refused += 1
          row.messages[_anonymous(line, self._folder)] += 1
        else:
          row.faults.append(f'{kind} {path.name}: {kills.difference(outcome, reference)}')
    again = injector.run(lambda: victim.work(half), half)
    if again.result != reference.result:
      row.faults.append('whole data again: another end')
    yield row

  def cache(self, cases: int) -> Iterator[Row]:
    """Every compiled program kept from earlier runs is damaged, all at once."""
    row = Row('damaged: compiled programs kept between runs')
    kept = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
    for kind in _shown(['flip'] * max(1, cases // 4) + ['cut', 'empty'], row.fault):
      folder, place = self.copy(), self._folder / 'cache'
      shutil.rmtree(place, ignore_errors=True)
      shutil.copytree(kept, place)
      for path in place.glob('*-cache'):
        damage(path, kind, self._rng)

      def work(folder: pathlib.Path = folder, place: pathlib.Path = place) -> Any:
        jax.config.update('jax_compilation_cache_dir', str(place))
        return self._train.work(folder)

      self.settle(row, kind, folder, injector.run(work, folder))
      shutil.rmtree(folder)
    yield row

  def two_processes(self, cases: int) -> Iterator[Row]:
    """A second process on the directory of a run that is being trained."""
    row = Row('a second process on one run directory')
    for _ in _shown(range(max(2, cases // 4)), row.fault):
      folder = self.copy()
      outcome = injector.run(lambda f=folder: _two_at_once(self._train, f), folder)
      row.cases += 1
      result = outcome.result or {}
      if outcome.status != 0 or result['end'] != self.end:
        row.faults.append(f'the first: {outcome.stderr[-300:]}')
      elif result['status'] != 2 or f'process with id {result["pid"]};' not in result['line']:
        row.faults.append(f'the second: status {result["status"]}, {result["line"]}')
      else:
        row.refused += 1
        row.same_end += 1
        row.messages[_anonymous(result['line'], folder).replace(str(result['pid']), 'PID')] += 1
      shutil.rmtree(folder)
    yield row

  def clock(self, cases: int) -> Iterator[Row]:
    """The wall clock is wrong, or jumps; killed under one clock, continued under another."""
    clocks = {
      'a year ahead': (YEAR, 0.0),
      'ten years back': (-10 * YEAR, 0.0),
      _BACK: (-3600.0, 3.0),
      'jumping a year ahead': (YEAR, 3.0),
    }
    row = Row(f'wall clock {", ".join(clocks)}; stopped under one, continued under another')
    for name, clock in clocks.items():
      folder = self.copy()
      # tensorstore finishes a write at a time of the wall clock: it waits for one that jumps back
      # to catch up. Nothing is lost by that; the process is ended, as its user would, and started
      # again.
      patience = _PATIENCE if name == _BACK else None
      outcome = injector.run(
        lambda f=folder: self._train.work(f), folder, clock=clock, stop_after=patience
      )
      if outcome.was_killed:
        row.messages['a save waited for the clock to catch up; started again'] += 1
        outcome = injector.run(lambda f=folder: self._train.work(f), folder)
      self.settle(row, name, folder, outcome)
      shutil.rmtree(folder)
    del clocks[_BACK]
    for _ in _shown(range(max(2, cases // 4)), row.fault):
      folder = self._folder / 'clock'
      folder.mkdir()
      before, after = self._rng.sample(sorted(clocks), 2)
      n = self._rng.randint(1, 200)
      injector.run(
        lambda f=folder: self._train.work(f), folder, at=n, how='before', clock=clocks[before]
      )
      outcome = injector.run(lambda f=folder: self._train.work(f), folder, clock=clocks[after])
      self.settle(row, f'{before}, then {after}', folder, outcome)
      shutil.rmtree(folder)
    yield row


def _two_at_once(victim: victims.Train, folder: pathlib.Path) -> dict[str, Any]:
  """Trains, and starts a second process on the same directory as soon as it holds the lock."""
  seen: dict[str, Any] = {}

  def second() -> None:
    with tempfile.TemporaryFile('w+') as errors:
      pid = os.fork()
      if pid == 0:
        os.dup2(errors.fileno(), 2)
        status = 1
        try:
          _cli.run(train.main)  # the flags are defined, and parsed anew from the same command line
        except SystemExit as end:
          status = int(end.code or 0)
        finally:
          os._exit(status)
      _, status = os.waitpid(pid, 0)
      errors.seek(0)
      lines = errors.read().strip().splitlines()
      seen.update(status=os.waitstatus_to_exitcode(status), line=lines[-1] if lines else '')

  lock = directory.RunDir.lock

  @contextlib.contextmanager
  def locking(run: directory.RunDir) -> Iterator[None]:
    with lock(run):
      if not seen:  # in this process, before JAX has started its threads
        seen['pid'] = os.getpid()
        second()
      yield

  directory.RunDir.lock = locking  # pyright: ignore[reportAttributeAccessIssue]
  end = victim.work(folder)
  return {'end': end, **seen}


def damage(path: pathlib.Path, kind: str, rng: random.Random) -> None:
  """Flips a bit of a file, cuts it, empties it, or removes it."""
  content = bytearray(path.read_bytes())
  if kind == 'missing':
    path.unlink()
    return
  if kind == 'flip' and content:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  elif kind == 'cut':
    content = content[: rng.randrange(len(content)) if content else 0]
  elif kind == 'empty':
    content = bytearray()
  path.write_bytes(content)


def _anonymous(line: str, folder: pathlib.Path) -> str:
  """Without the folder, and what differs from case to case in it."""
  line = line.replace(str(folder), '')
  return re.sub(r"line \d+ column \d+ \(char \d+\)|b'.*?'|\d{2,}", '…', line)[:160]


def _reference(end: Any) -> injector.Outcome:
  return injector.Outcome(0, (), end, '', '')


def _shown(cases: Any, what: str) -> Any:
  """The cases, with a bar on a terminal."""
  return tqdm.tqdm(list(cases), desc=what, disable=None)


def define_flags() -> None:
  counted.define_flags('kinds', KINDS, 'faults_seed')
  flags.DEFINE_integer('cases', 8, 'About how many cases of each fault that takes a training run.')


def main() -> None:
  counted.check_names('kinds', FLAGS.kinds, KINDS)
  _validate.integer('cases', FLAGS.cases, minimum=1)
  seed, rng = counted.rng(FLAGS.faults_seed)
  victims.warm_up()
  with tempfile.TemporaryDirectory(prefix='dpgan_jax_faults_') as folder:
    machine = Machine(pathlib.Path(folder), rng)
    counted.collect(
      {kind: lambda k=kind: getattr(machine, k)(FLAGS.cases) for kind in FLAGS.kinds},
      key='fault', command=_COMMAND, totals=('cases', 'same_end', 'refused', 'mended'),
      seed_of_the_faults=seed,
    )  # fmt: skip


if __name__ == '__main__':
  counted.start(define_flags, main)
