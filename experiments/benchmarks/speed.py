"""How fast a private step is, beside other libraries, in one run on one machine.

    python -m experiments.benchmarks.install_peers        # once: the others, where they install
    ./run.sh python -m experiments.benchmarks.speed --out experiments/results/speed
    ./run.sh python -m experiments.benchmarks.speed --quick     # minutes, to see that all runs
    ./run.sh python -m experiments.benchmarks.speed --check     # are the same sums computed?

Every contender has a process of its own and waits while another one is measured. For each network
and batch size all are built, one after the other, then take turns for several rounds, so that
whatever else the machine does hits all of them alike. Whole steps of private and ordinary GANs are
taken in turns likewise. Prints the tables in Markdown, and with `--out` writes them to `<out>.md`
and everything measured to `<out>.json`, after every network and batch size: the same command goes
on where it was stopped, on the same machine. `--minutes` ends it early, between two of them.
`--peers` says where the other libraries were installed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import pathlib
import sys
import time
from typing import Any

import tqdm

from experiments import pages
from experiments.benchmarks import check, client, install_peers, machine, nets, tables, targets
from experiments.benchmarks.contenders import (
  ALL,
  CONTENDERS,
  GANS,
  WAYS,
  Contender,
  select,
  too_large,
)
from experiments.benchmarks.results import Result, Results

BATCHES = (120, 256, 1024)
# The memory of a private step is to be compared where it matters.
EXTRA_BATCHES = {'large_d': (512,)}
say = functools.partial(tqdm.tqdm.write, file=sys.stderr)
SETTINGS = ('rounds', 'turn_seconds', 'slow_seconds', 'slow_rounds', 'longest_step')
# What has to agree before results of two goes may stand in one table.
SAME = ('cpu', 'cores', 'memory_gib', 'system', 'device', 'environments', *SETTINGS)


class Harness:
  """One run: all networks and batch sizes, all contenders."""

  def __init__(self, arguments: argparse.Namespace, contenders: list[Contender]):
    self.arguments, self.contenders = arguments, contenders
    # What the lines of the list ask for comes first, and what takes longest last.
    self.combinations = [(net, b) for net in arguments.nets for b in self._batches(net)]
    whole = [(name, arguments.gan_batch or GANS[name].batch) for name in arguments.gans]
    self.combinations = sorted(self.combinations + whole, key=lambda c: c[0] == 'large_d')
    self._estimate: dict[str, float] = {}  # seconds per step, by contender, from the warm-up
    self.progress = tqdm.tqdm(disable=True)
    self.results = Results()

  def _batches(self, net: str) -> list[int]:
    if self.arguments.batches:
      return self.arguments.batches
    return sorted({*BATCHES, *EXTRA_BATCHES.get(net, ())})

  def _taking_part(self, net: str) -> list[Contender]:
    return list(WAYS.values()) if net in GANS else self.contenders

  def run(self) -> Results:
    """Measures what is not measured yet.

    Raises:
      SystemExit: the results to go on with are of another machine or of other settings.
    """
    self.results, start = self._begin(), time.monotonic()
    left = [c for c in self.combinations if not self._complete(*c)]
    # Building counts as two turns: it takes about that long.
    turns = sum(len(self._taking_part(net)) for net, _ in left) * (self.arguments.rounds + 2)
    with tqdm.tqdm(total=turns, unit='turn') as self.progress:
      for position, (net, batch) in enumerate(left):
        if (time.monotonic() - start) / 60 > self.arguments.minutes:
          rest = ', '.join(f'{net} at B = {batch}' for net, batch in left[position:])
          say(f'time is up; the same command goes on with {rest}')
          break
        self.results.replace(net, batch, self._combination(net, batch))
        self.results.machine['load_after'] = machine.load()
        self.save()
    return self.results

  def save(self) -> None:
    if self.arguments.out:
      self.results.save(self.arguments.out.with_suffix('.json'))
      pages.write(self.arguments.out.with_suffix('.md'), tables.markdown(self.results))

  def _complete(self, net: str, batch: int) -> bool:
    there = {r.contender for r in self.results.of(net, batch)}
    return there >= {c.name for c in self._taking_part(net)}

  def _begin(self) -> Results:
    """Nothing, or what an earlier go on this machine measured."""
    here = self._machine()
    path = self.arguments.out and self.arguments.out.with_suffix('.json')
    if path is None or self.arguments.fresh or not path.exists():
      return Results(here)
    found = Results.load(path)
    other = [name for name in SAME if found.machine.get(name) != here[name]]
    if other:
      raise SystemExit(
        f'speed.py: {path.name} holds results that differ in {", ".join(other)}:'
        ' give another --out, or --fresh to measure everything again'
      )
    found.machine['peak_gflops'] = max(found.machine['peak_gflops'], here['peak_gflops'])
    found.machine['sessions'] += 1
    return found

  def _machine(self) -> dict[str, Any]:
    """Describes the machine and the libraries, and measures what a matrix product reaches."""
    environments, peaks, device = {}, [0.0], 'cpu'
    for environment in dict.fromkeys(c.environment for c in self.contenders):
      first = next(c for c in self.contenders if c.environment == environment)
      try:
        with client.start(first, self.arguments.peers, self.arguments.device) as worker:
          environments[environment] = worker.ask('describe')
          peaks.append(worker.ask('peak')['gflops'])
          if environment == 'jax':
            device = environments[environment]['device']
      except client.WorkerError as error:
        reason = machine.without_paths(str(error))
        environments[environment] = {'versions': {reason: ''}, 'threads': 0}
        say(f'{environment}: {error}')
    say(f'measured peak: {max(peaks):.0f} GFLOP/s')
    return {
      **machine.describe(), 'device': device, 'environments': environments,
      'peak_gflops': max(peaks), **{name: getattr(self.arguments, name) for name in SETTINGS},
      'load_before': machine.load(), 'load_after': machine.load(), 'sessions': 1,
      'command': machine.without_paths(
        ' '.join(['./run.sh python -m experiments.benchmarks.speed', *self.arguments.given])
      ),
    }  # fmt: skip

  def _combination(self, net: str, batch: int) -> list[Result]:
    """Builds all contenders, then lets them take turns."""
    contenders = self._taking_part(net)
    found = [Result(net, batch, c.name) for c in contenders]
    with contextlib.ExitStack() as stack:
      workers = {}
      for contender, result in zip(contenders, found, strict=True):
        try:
          workers[result.contender] = self._build(stack, contender, result)
        except client.WorkerError as error:
          self._fail(result, error)
        self.progress.update(2)
        say(f'{net}, B = {batch}, {contender.name}: {result.failure or "built"}')
      for turn in range(self.arguments.rounds):
        # Whoever comes first in one round comes last in another.
        start = turn % len(found)
        for result in found[start:] + found[:start]:
          self._take_turn(workers.get(result.contender), result, turn)
          self.progress.update()
      for result in found:
        if result.failure:
          continue
        try:
          memory = workers[result.contender].ask('memory')
        except client.WorkerError as error:
          self._fail(result, error)
          continue
        result.peak_bytes, result.device_bytes = memory['bytes'], memory['device_bytes']
    return found

  def _fail(self, result: Result, error: Exception) -> None:
    result.failure, result.rounds = machine.without_paths(str(error)), []

  def _build(
    self, stack: contextlib.ExitStack, contender: Contender, result: Result
  ) -> client.Worker:
    reason = self._hopeless(contender, result)
    if reason:
      raise client.WorkerError(reason)
    arguments = self.arguments
    worker = stack.enter_context(client.start(contender, arguments.peers, arguments.device))
    built = worker.ask(
      'build', timeout=arguments.timeout, net=result.net, batch=result.batch,
      mode=contender.mode, chunk=self._chunk(result),
    )  # fmt: skip
    result.compile_seconds, result.note = built['seconds'], built['note']
    for _ in range(2):  # warm-up: the first run pays for fresh memory
      answer = worker.ask('time', timeout=arguments.timeout, steps=1)
      self._estimate[contender.name] = answer['seconds']
      if answer['seconds'] > arguments.slow_seconds:
        break
    if self._too_slow(contender, result, answer['seconds']):
      result.rounds.append(answer['seconds'])  # and it gets no more turns
      result.cores_used = answer['cores_used']
    return worker

  def _too_slow(self, contender: Contender, result: Result, seconds: float) -> bool:
    """Whether a step of so many seconds is beyond the limit, which what the targets ask for, and
    whole GANs, have not.
    """
    needed = targets.families_needed(result.net, result.batch)
    exempt = result.net in GANS or contender.family in needed
    return not exempt and seconds > self.arguments.longest_step

  def _hopeless(self, contender: Contender, result: Result) -> str | None:
    """Why a combination is not tried, or None: no memory, or a step that would take too long."""
    if result.net in GANS:
      return None
    smaller = [
      r for r in self.results.results
      if (r.net, r.contender) == (result.net, contender.name) and r.batch < result.batch
    ]  # fmt: skip
    # Those that are waiting keep some of their memory.
    limit = self.arguments.memory_share * machine.memory_bytes('MemAvailable')
    reason = too_large(contender, nets.NETS[result.net], result.batch, limit)
    if reason or not smaller:
      return reason
    last = max(smaller, key=lambda r: r.batch)
    if not last.rounds:
      given_up = last.failure.startswith(('skipped', 'stopped'))
      given_up &= self._too_slow(contender, result, float('inf'))
      return f'skipped: B = {last.batch} was too much already' if given_up else None
    foretold = last.seconds * result.batch / last.batch
    if not self._too_slow(contender, result, foretold):
      return None
    return f'skipped: {last.seconds:.1f} s at B = {last.batch} foretell {foretold:.0f} s a step'

  def _chunk(self, result: Result) -> int:
    """Steps in one compiled loop.

    At least two, or XLA takes the loop away; at most what half a turn may last at a modest 20
    GFLOP/s.
    """
    if result.net in GANS:
      return GANS[result.net].chunk
    expected = nets.flops_per_example(nets.NETS[result.net]) * result.batch / 20e9
    return max(2, min(20, int(self.arguments.turn_seconds / 2 / expected)))

  def _take_turn(self, worker: client.Worker | None, result: Result, turn: int) -> None:
    if worker is None or result.failure:
      return
    estimate = self._estimate[result.contender]
    slow = estimate > self.arguments.slow_seconds
    if slow and turn >= self.arguments.slow_rounds:
      return
    if self._too_slow(ALL[result.contender], result, estimate):
      return
    steps = max(1, round(self.arguments.turn_seconds / estimate))
    time.sleep(0.05)  # thread pools of the one before spin a little after their last work
    try:
      answer = worker.ask('time', timeout=self.arguments.timeout, steps=steps)
    except client.WorkerError as error:
      self._fail(result, error)
      return
    result.rounds.append(answer['seconds'])
    result.cores_used = answer['cores_used']
    # The warm-up may have been disturbed: what proves to be faster fills its turns.
    self._estimate[result.contender] = min(estimate, answer['seconds'])


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=(__doc__ or '').splitlines()[0], epilog=f'contenders: {", ".join(CONTENDERS)}'
  )
  parser.set_defaults(gan_batch=None)
  add = parser.add_argument
  add('--nets', nargs='+', choices=list(nets.NETS), default=list(nets.NETS))
  add('--batches', nargs='+', type=int, help='default: 120 256 1024, and 512 for large_d')
  add('--contenders', nargs='+', default=list(CONTENDERS), help='names, families, environments')
  add('--gans', nargs='*', choices=list(GANS), default=list(GANS), help='whole steps of these')
  add('--rounds', type=int, default=7)
  add('--turn_seconds', type=float, default=0.5, help='how long a contender runs in one round')
  add('--slow_seconds', type=float, default=1.0, help='from this step time on: few rounds')
  add('--slow_rounds', type=int, default=3, help='how many rounds slow contenders get')
  add('--longest_step', type=float, default=5.0,
      help='seconds; a step that took longer is taken once, one foretold to is skipped, unless a'
      ' target asks for it')
  add('--timeout', type=float, default=90.0, help='for one command to a contender, in seconds')
  add('--minutes', type=float, default=1e9, help='after which nothing more is begun')
  add('--fresh', action='store_true', help='measure again what <out>.json holds')
  add('--memory_share', type=float, default=0.6, help='of the free memory, for one contender')
  add('--device', choices=('cpu', 'gpu'), default='cpu')
  add('--peers', type=pathlib.Path, default=install_peers.DEFAULT_DIRECTORY)
  add('--out', type=pathlib.Path, help='writes <out>.md and <out>.json')
  add('--quick', action='store_true', help='B = 32, two short rounds: does everything run?')
  add('--check', action='store_true', help='no timing: compare the sums of clipped gradients')
  arguments = parser.parse_args(argv)
  # The directory of the peers is this machine's business, and goes into no result.
  arguments.given = [a for a in argv if not a.startswith('--peers')]
  if '--peers' in argv:
    position = argv.index('--peers')
    arguments.given = argv[:position] + argv[position + 2 :]
  if arguments.quick:
    arguments.batches, arguments.gan_batch = arguments.batches or [32], 32
    arguments.rounds, arguments.turn_seconds, arguments.slow_rounds = 2, 0.2, 1
  return arguments


def main(argv: list[str] | None = None) -> int:
  arguments = _parse(sys.argv[1:] if argv is None else argv)
  contenders = select(arguments.contenders)
  if arguments.check:
    return check.run(arguments.nets, contenders, arguments.peers, arguments.device)
  print(tables.markdown(Harness(arguments, contenders).run()))
  return 0


if __name__ == '__main__':
  sys.exit(main())
