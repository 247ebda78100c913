"""Kills processes that write to the disk, at random moments and at every change they make there,
starts them again, and compares the end with that of a process left alone.

    ./run.sh python -m experiments.trust.kills --results=experiments/results/trust/kills.json
    ./run.sh python -m experiments.trust.kills --parts=ledger,checkpoint     # some of it

With `--results` the counts are kept as `counted` says.

Two ways to choose the moment. At a change: the process kills itself (SIGKILL) before its n-th call
that creates, writes, flushes, renames or removes something, or half way through a write; for the
parts of the library every n is tried, for whole commands n is drawn at random. At a time: a command
started as users start it (`python -m ...`) is killed, or sent SIGTERM, after a random part of the
time that it takes. After every kill: steps begun ≤ steps charged, and nothing under a final name
but the final thing. Then it is started again, perhaps to be killed again, and must come to the same
end bit for bit. Any difference ends this command with status 1.

A SIGKILL keeps what the kernel was given. A power cut may lose what was not flushed: that is why
flushes count as changes, and the order of flushes and renames has tests of its own (test_files.py,
test_ledger.py, test_checkpoint.py).
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import tqdm
from absl import flags

from dpgan_jax import _validate
from dpgan_jax.data import writers
from experiments.trust import counted, injector, victims

FLAGS = flags.FLAGS
PARTS = ('ledger', 'checkpoint', 'metrics', 'export', 'train', 'sample', 'sweep', 'train_process')
_COMMAND = (
  './run.sh python -m experiments.trust.kills --results=experiments/results/trust/kills.json'
)
_TOTALS = ('kills', 'terminated', 'restarts', 'ends', 'same_end')
_CHAIN = 4  # kills of a command before it is let come to its end


@dataclasses.dataclass
class Row:
  """Kills of one place, counted.

  Attributes:
    place: what was killed.
    moments: how the moments were chosen.
    kills: processes ended by SIGKILL.
    terminated: processes ended by SIGTERM.
    restarts: processes started again after a kill.
    ends: times it was let come to its end.
    same_end: of these, how often that was the end of an undisturbed process, bit for bit.
    changes: changes of the disk that it makes undisturbed; 0 where times were drawn.
    found: what a kill left, in words, with counts.
    hit: names of the calls and files at which kills fell, with counts.
    leftovers: hidden temporary files that kills left behind, at most.
    faults: what did not hold, in words; empty.
  """

  place: str
  moments: str
  kills: int = 0
  terminated: int = 0
  restarts: int = 0
  ends: int = 0
  same_end: int = 0
  changes: int = 0
  found: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  hit: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  leftovers: int = 0
  faults: list[str] = dataclasses.field(default_factory=list)


class Killer:
  """Runs victims in folders of their own under `work_dir`."""

  def __init__(self, work_dir: pathlib.Path, rng: random.Random) -> None:
    self._work_dir, self._rng = work_dir, rng
    self._folders = 0

  def fresh(self, victim: victims.Victim) -> pathlib.Path:
    folder = self._work_dir / f'case_{self._folders}'
    self._folders += 1
    folder.mkdir()
    victim.prepare(folder)
    return folder

  def undisturbed(self, victim: victims.Victim) -> tuple[injector.Outcome, float]:
    """The end that all others are compared with, and the seconds it took."""
    folder = self.fresh(victim)
    started = time.monotonic()
    outcome = injector.run(lambda: victim.work(folder), folder)
    seconds = time.monotonic() - started
    if outcome.status != 0:
      raise RuntimeError(f'{victim.place}, undisturbed, failed: {outcome.stderr}')
    shutil.rmtree(folder)
    return outcome, seconds

  def at_every_change(self, victim: victims.Victim) -> Row:
    """A kill before every change, and half way through every write; each brought to its end."""
    row = Row(victim.place, 'before every change of the disk, half way through every write')
    reference, _ = self.undisturbed(victim)
    row.changes = len(reference.changes)
    cases = [(n, 'before') for n in range(1, row.changes + 1)]
    writes = [n for n, (call, _) in enumerate(reference.changes, start=1) if 'write' in call]
    cases += [(n, 'half') for n in writes]
    for n, how in tqdm.tqdm(cases, desc=victim.place, unit='kill', disable=None):
      folder = self.fresh(victim)
      outcome = injector.run(lambda f=folder: victim.work(f), folder, at=n, how=how)
      if outcome.was_killed:
        self._after_kill(victim, row, folder, outcome, outcome.told, reference.result)
        self._to_the_end(victim, row, folder, reference)
      elif outcome.result != reference.result:  # threads: that time there were fewer changes
        row.faults.append(f'change {n}: {outcome.stderr[-300:]}')
      shutil.rmtree(folder)
    return row

  def at_random_changes(self, victim: victims.Victim, kills: int) -> Row:
    """Kills at changes drawn at random, `_CHAIN` of them before an end."""
    row = Row(victim.place, 'before a change of the disk, or half way through a write, at random')
    reference, _ = self.undisturbed(victim)
    row.changes = len(reference.changes)
    while row.kills < kills:
      folder = self.fresh(victim)
      told: list[str] = []
      for left in range(min(_CHAIN, kills - row.kills), 0, -1):
        # The first kills of a chain fall early, so that there is something left for the next.
        n = self._rng.randint(1, max(1, row.changes // left))
        how = self._rng.choice(('before', 'half'))
        outcome = injector.run(lambda f=folder: victim.work(f), folder, at=n, how=how)
        told += outcome.told
        if not outcome.was_killed:
          break
        self._after_kill(victim, row, folder, outcome, told, reference.result)
      self._to_the_end(victim, row, folder, reference)
      shutil.rmtree(folder)
      counted.say(row, 'place', _TOTALS)
    return row

  def _after_kill(
    self, victim: victims.Victim, row: Row, folder: pathlib.Path, outcome: injector.Outcome,
    told: list[str], end: Any,
  ) -> None:  # fmt: skip
    row.kills += 1
    row.restarts += 1
    row.hit[_spot(*outcome.changes[-1])] += 1
    self._look(victim, row, folder, told, end)

  def _look(
    self, victim: victims.Victim, row: Row, folder: pathlib.Path, told: list[str], end: Any
  ) -> None:
    with victims.noting(row.faults):
      row.found[victim.check(folder, told, end)] += 1
    row.leftovers = max(row.leftovers, victims.leftovers(folder))

  def _to_the_end(
    self, victim: victims.Victim, row: Row, folder: pathlib.Path, reference: injector.Outcome
  ) -> None:
    outcome = injector.run(lambda: victim.work(folder), folder)
    row.ends += 1
    if outcome.status == 0 and outcome.result == reference.result:
      row.same_end += 1
    else:
      row.faults.append(f'another end: {difference(outcome, reference)}')

  def at_random_times(self, kills: int, terms: int) -> Row:
    """`python -m dpgan_jax.train` killed after a random part of the time it takes."""
    victim = victims.Train()
    row = Row('python -m dpgan_jax.train', 'at a random time of its whole life, start included')
    folder = self.fresh(victim)
    started = time.monotonic()
    self._process(folder, None, signal.SIGKILL)
    seconds = time.monotonic() - started
    reference = self._end_of_run(folder)
    shutil.rmtree(folder)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    self._rng.shuffle(signals)
    while signals:
      folder = self.fresh(victim)
      for _ in range(min(_CHAIN, len(signals))):
        status, errors = self._process(folder, self._rng.uniform(0, seconds), signals[-1])
        if status == 0:
          break
        kind = signals.pop()
        row.restarts += 1
        row.kills += kind == signal.SIGKILL
        row.terminated += kind == signal.SIGTERM
        if kind == signal.SIGTERM and status not in (143, -signal.SIGTERM):
          row.faults.append(f'SIGTERM ended it with status {status}: {errors[-300:]}')
        self._look(victim, row, folder, [], reference)
      status, errors = self._process(folder, None, signal.SIGKILL)
      row.ends += 1
      if status == 0 and self._end_of_run(folder) == reference:
        row.same_end += 1
      else:
        row.faults.append(f'another end, status {status}: {errors[-300:]}')
      shutil.rmtree(folder)
      counted.say(row, 'place', _TOTALS)
    return row

  def _end_of_run(self, folder: pathlib.Path) -> dict[str, str]:
    # In a process of its own: one that has read a checkpoint has threads, and must not fork.
    return injector.run(lambda: victims.end_of_run(folder / 'run'), folder).result

  def _process(
    self, folder: pathlib.Path, after: float | None, kind: signal.Signals
  ) -> tuple[int, str]:
    """Exit status and stderr of the command, `kind` being sent after some seconds if it lives."""
    arguments = {**victims.SETTINGS, 'run_dir': folder / 'run'}
    command = [sys.executable, '-m', 'dpgan_jax.train']
    command += [f'--{name}={value}' for name, value in arguments.items()]
    with tempfile.TemporaryFile('w+') as errors:
      process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=folder)
      try:
        process.wait(after)
      except subprocess.TimeoutExpired:
        process.send_signal(kind)
        process.wait()
      errors.seek(0)
      return process.returncode, errors.read()


def _spot(call: str, path: str) -> str:
  """'write ledger.jsonl': what was about to be changed, without the parts that differ each time."""
  parts = [p for p in path.split('/') if p]
  name = '/'.join('*' if len(p) > 20 or p.isdigit() or '.tmp' in p else p for p in parts[-2:])
  return f'{call} {name or "."}'


def difference(outcome: injector.Outcome, reference: injector.Outcome) -> str:
  """How an end differs from the one it should be: the names of what is not the same."""
  if outcome.status != 0 or not isinstance(outcome.result, dict):
    return f'status {outcome.status}: {outcome.stderr[-400:]}'
  names = {*outcome.result, *reference.result}
  return ', '.join(sorted(n for n in names if outcome.result.get(n) != reference.result.get(n)))


def run_part(part: str, killer: Killer, work_dir: pathlib.Path, commands: int) -> list[Row]:
  """The rows of one of `PARTS`; `commands` says how many kills whole commands get."""
  match part:
    case 'ledger' | 'checkpoint' | 'metrics' | 'export':
      return [killer.at_every_change(each) for each in victims.SMALL[part]]
    case 'train':
      return [killer.at_random_changes(victims.Train(), commands)]
    case 'sample':
      run = work_dir / 'finished'
      victim = victims.Train()
      outcome = injector.run(lambda: victim.work(run), work_dir)
      if outcome.status != 0:
        raise RuntimeError(f'training failed: {outcome.stderr}')
      return [
        killer.at_random_changes(victims.Sample(run / 'run', f), max(1, commands // 8))
        for f in writers.FORMATS
      ]
    case 'sweep':
      return [killer.at_random_changes(victims.Sweep(), max(1, commands // 4))]
    case 'train_process':
      return [killer.at_random_times(commands // 2, commands // 8)]
  raise ValueError(part)


def define_flags() -> None:
  counted.define_flags('parts', PARTS, 'moments_seed')
  flags.DEFINE_integer('commands', 40, 'Kills of a training run at changes; others in proportion.')


def main() -> None:
  counted.check_names('parts', FLAGS.parts, PARTS)
  _validate.integer('commands', FLAGS.commands, minimum=8)
  seed, rng = counted.rng(FLAGS.moments_seed)
  victims.warm_up()
  with tempfile.TemporaryDirectory(prefix='dpgan_jax_kills_') as name:
    folder = pathlib.Path(name)
    killer = Killer(folder, rng)
    counted.collect(
      {p: lambda p=p: run_part(p, killer, folder, FLAGS.commands) for p in FLAGS.parts},
      key='place', command=_COMMAND, totals=_TOTALS, seed_of_the_moments=seed,
    )  # fmt: skip


if __name__ == '__main__':
  counted.start(define_flags, main)
