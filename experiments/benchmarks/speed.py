"""How fast a private step is, beside other libraries, in one run on one machine.

    python experiments/benchmarks/install_peers.py        # once: the others, where they install
    ./run.sh python experiments/benchmarks/speed.py --out experiments/results/speed
    ./run.sh python experiments/benchmarks/speed.py --quick     # minutes, to see that all runs
    ./run.sh python experiments/benchmarks/speed.py --check     # are the same sums computed?

Every contender has a process of its own and waits while another one is measured. For each network
and batch size all are built, one after the other, then take turns for several rounds, so that
whatever else the machine does hits all of them alike. Prints the tables in Markdown, and with
`--out` writes them to `<out>.md` and everything measured to `<out>.json`. `--peers` says where the
other libraries were installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import platform
import sys
import time
from typing import Any

import check
import client
import install_peers
import nets
import tables
from contenders import CONTENDERS, Contender, select, too_large
from protocol import cores
from results import Result, Results

BATCHES = (120, 256, 1024)
# The memory of a private step is to be compared where it matters.
EXTRA_BATCHES = {'large_d': (512,)}


def _meminfo(field: str) -> int:
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/meminfo').read_text(encoding='utf-8').splitlines():
      if line.startswith(field + ':'):
        return int(line.split()[1]) * 1024
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _cpu_name() -> str:
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()


def _load() -> str:
  return ' '.join(f'{value:.1f}' for value in os.getloadavg())


class Progress:
  """Lines on stderr, with an estimate of the time left from the turns done so far."""

  def __init__(self, turns: int):
    self._turns, self._done, self._start = turns, 0, time.monotonic()

  def say(self, text: str) -> None:
    spent = time.monotonic() - self._start
    left = ''
    if self._done:
      left = f', about {spent / self._done * (self._turns - self._done) / 60:.0f} min left'
    print(f'[{spent / 60:.1f} min{left}] {text}', file=sys.stderr, flush=True)

  def turn(self, count: int = 1) -> None:
    self._done += count


class Harness:
  """One run: all networks and batch sizes, all contenders."""

  def __init__(self, arguments: argparse.Namespace, contenders: list[Contender]):
    self.arguments, self.contenders = arguments, contenders
    self.combinations = [(net, b) for net in arguments.nets for b in self._batches(net)]
    self._estimate: dict[str, float] = {}  # seconds per step, by contender, from the warm-up
    # Building counts as two turns: it takes about that long.
    turns = arguments.rounds + 2
    self.progress = Progress(len(self.combinations) * len(contenders) * turns)
    self.memory_limit = arguments.memory_share * _meminfo('MemAvailable')

  def _batches(self, net: str) -> list[int]:
    if self.arguments.batches:
      return self.arguments.batches
    return sorted({*BATCHES, *EXTRA_BATCHES.get(net, ())})

  def run(self) -> Results:
    results = Results(self._machine())
    for net, batch in self.combinations:
      results.results += self._combination(net, batch)
      results.machine['load_after'] = _load()
      if self.arguments.out:
        self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
        results.save(self.arguments.out.with_suffix('.json'))
    return results

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
        environments[environment] = {'versions': {str(error): ''}, 'threads': 0}
        self.progress.say(f'{environment}: {error}')
    self.progress.say(f'measured peak: {max(peaks):.0f} GFLOP/s')
    return {
      'cpu': _cpu_name(), 'cores': cores(), 'memory_gib': round(_meminfo('MemTotal') / 2**30),
      'system': f'{platform.system()} {platform.machine()}', 'device': device,
      'environments': environments,
      'peak_gflops': max(peaks), 'rounds': self.arguments.rounds,
      'load_before': _load(), 'load_after': _load(),
      'command': 'python experiments/benchmarks/speed.py ' + ' '.join(self.arguments.given),
    }  # fmt: skip

  def _combination(self, net: str, batch: int) -> list[Result]:
    """Builds all contenders, then lets them take turns."""
    found = [Result(net, batch, c.name) for c in self.contenders]
    with contextlib.ExitStack() as stack:
      workers = {}
      for contender, result in zip(self.contenders, found, strict=True):
        try:
          workers[result.contender] = self._build(stack, contender, result)
        except client.WorkerError as error:
          self._fail(result, error)
        self.progress.turn(2)
        self.progress.say(f'{net}, B = {batch}, {contender.name}: {self._state(result)}')
      for turn in range(self.arguments.rounds):
        # Whoever comes first in one round comes last in another.
        start = turn % len(found)
        for result in found[start:] + found[:start]:
          self._take_turn(workers.get(result.contender), result, turn)
          self.progress.turn()
        self.progress.say(f'{net}, B = {batch}: round {turn + 1} of {self.arguments.rounds}')
      for result in found:
        worker = workers.get(result.contender)
        result.idle_cpu = worker.idle_cpu if worker else 0.0
        if worker and not result.failure:
          try:
            memory = worker.ask('memory')
          except client.WorkerError as error:
            self._fail(result, error)
            continue
          result.peak_bytes, result.device_bytes = memory['bytes'], memory['device_bytes']
    return found

  def _state(self, result: Result) -> str:
    if result.failure:
      return result.failure
    return (
      f'{1000 * self._estimate[result.contender]:.1f} ms, compiled {result.compile_seconds:.1f} s'
    )

  def _fail(self, result: Result, error: Exception) -> None:
    result.failure, result.rounds = str(error), []

  def _build(
    self, stack: contextlib.ExitStack, contender: Contender, result: Result
  ) -> client.Worker:
    spec = nets.NETS[result.net]
    reason = too_large(contender, spec, result.batch, self.memory_limit)
    if reason:
      raise client.WorkerError(reason)
    arguments = self.arguments
    worker = stack.enter_context(client.start(contender, arguments.peers, arguments.device))
    # A loop of at least two steps, or XLA takes the loop away; of at most what a turn may last at a
    # modest 20 GFLOP/s.
    expected = nets.flops_per_example(spec) * result.batch / 20e9
    chunk = max(2, min(20, int(arguments.turn_seconds / expected)))
    built = worker.ask(
      'build', timeout=arguments.timeout, net=result.net, batch=result.batch,
      mode=contender.mode, chunk=chunk,
    )  # fmt: skip
    result.compile_seconds, result.note = built['seconds'], built['note']
    result.peak_bytes_before = built['memory_before']
    for _ in range(2):  # warm-up: the first run pays for fresh memory
      answer = worker.ask('time', timeout=arguments.timeout, steps=1)
    self._estimate[contender.name] = answer['seconds']
    return worker

  def _take_turn(self, worker: client.Worker | None, result: Result, turn: int) -> None:
    if worker is None or result.failure:
      return
    estimate = self._estimate[result.contender]
    slow = estimate > self.arguments.slow_seconds
    if slow and turn >= self.arguments.slow_rounds:
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


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], epilog=f'contenders: {", ".join(CONTENDERS)}'
  )
  add = parser.add_argument
  add('--nets', nargs='+', choices=list(nets.NETS), default=list(nets.NETS))
  add('--batches', nargs='+', type=int, help='default: 120 256 1024, and 512 for large_d')
  add('--contenders', nargs='+', default=list(CONTENDERS), help='names, families, environments')
  add('--rounds', type=int, default=9)
  add('--turn_seconds', type=float, default=1.0, help='how long a contender runs in one round')
  add('--slow_seconds', type=float, default=3.0, help='from this step time on: few rounds')
  add('--slow_rounds', type=int, default=2, help='how many rounds slow contenders get')
  add('--timeout', type=float, default=600.0, help='for one command to a contender, in seconds')
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
    arguments.batches = arguments.batches or [32]
    arguments.rounds, arguments.turn_seconds, arguments.slow_rounds = 2, 0.2, 1
  return arguments


def main(argv: list[str] | None = None) -> int:
  arguments = _parse(sys.argv[1:] if argv is None else argv)
  contenders = select(arguments.contenders)
  if arguments.check:
    return check.run(arguments.nets, contenders, arguments.peers, arguments.device)
  results = Harness(arguments, contenders).run()
  text = tables.markdown(results)
  print(text)
  if arguments.out:
    results.save(arguments.out.with_suffix('.json'))
    arguments.out.with_suffix('.md').write_text(text, encoding='utf-8')
  return 0


if __name__ == '__main__':
  sys.exit(main())
