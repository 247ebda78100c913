"""The side of a worker: one contender in one process, told what to do in JSON lines on stdin.

Commands, each answered by one line on stdout ({"ok": true, …} or {"ok": false, "error": …}):

* {"op": "describe"} → versions and threads of the libraries
* {"op": "build", **Job} → seconds until the first step could be taken (tracing and compiling)
* {"op": "time", "steps": k} → the seconds per step of a run of at least k steps
* {"op": "check", **Job, "out": path} → one step without noise from given weights; see `Job`
* {"op": "peak"} → the GFLOP/s of a large float32 matrix product
* {"op": "memory"} → peak resident memory of the process in bytes
* {"op": "quit"}

Between commands the worker waits in a read and uses no CPU.

Standard library and numpy only: it is imported into every environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from experiments.benchmarks import nets


@dataclasses.dataclass(frozen=True)
class Job:
  """What a contender is to do in each step.

  A step takes a batch of random indices out of `examples` examples in memory, computes its gradient
  (clipped to `clip` per example and with noise of `noise`·`clip` on the sum, if the mode is
  private), divides it by the batch size, and takes a step of plain SGD.

  `fixed_batch` makes every batch the whole data set in order. With it, without noise, and with a
  learning rate equal to the batch size, the change of the weights in one step is the sum of the
  clipped gradients, and what is timed can be compared between libraries.
  """

  net: str
  mode: str
  batch: int
  chunk: int = 10  # steps in one compiled loop, where there is one
  microbatch: int | None = None  # examples at once, of ours; None: what it takes by itself
  clip: float = 1.0
  noise: float = 1.0
  learning_rate: float = 0.01
  examples: int = 10_000
  fixed_batch: bool = False

  @property
  def spec(self) -> nets.Net:
    return nets.NETS[self.net]

  def data(self) -> tuple[np.ndarray, np.ndarray]:
    return nets.make_data(self.examples, even=not self.fixed_batch)

  def for_check(self) -> Job:
    return dataclasses.replace(
      self, chunk=1, noise=0.0, learning_rate=float(self.batch), examples=self.batch,
      fixed_batch=True,
    )  # fmt: skip


class Program(Protocol):
  """A contender, ready to run."""

  note: str = ''

  def prepare(self) -> None:
    """Compiles; here by taking a step, as that is what makes most libraries compile."""
    self.run(1)

  def run(self, steps: int) -> int:
    """Takes at least so many steps, waits for the last to end, returns how many it took."""
    ...

  def parameters(self) -> dict[str, np.ndarray]:
    """The weights now, in the canonical form of `nets`."""
    ...


def cores() -> int:
  """How many cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def from_proc(file: str, field: str) -> str | None:
  """What a file of Linux's /proc says of a field; None where it does not."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc', file).read_text(encoding='utf-8').splitlines():
      name, _, value = line.partition(':')
      if name.strip() == field:
        return value.strip()
  return None


def peak_memory() -> int:
  """Peak resident memory in bytes.

  Not `getrusage` where /proc exists: that figure survives exec and would start at the size of the
  process that started this one.
  """
  if peak := from_proc('self/status', 'VmHWM'):
    return int(peak.split()[0]) * 1024
  maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return maximum if sys.platform == 'darwin' else maximum * 1024


def measure_peak(multiply: Callable[[], Any], size: int) -> float:
  """GFLOP/s of `multiply`, which multiplies two square matrices of `size` and waits."""
  multiply()
  seconds = []
  for _ in range(9):
    start = time.perf_counter()
    multiply()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / statistics.median(seconds) / 1e9


class Session:
  """Holds the program between commands."""

  def __init__(
    self,
    build: Callable[[Job], Program],
    describe: Callable[[], dict[str, Any]],
    peak: Callable[[], float],
  ):
    self._build, self._describe, self._peak = build, describe, peak
    self._program: Program | None = None

  def answer(self, command: dict[str, Any]) -> dict[str, Any]:
    op = command.pop('op')
    if op == 'describe':
      return {**self._describe(), 'cores': cores()}
    if op == 'peak':
      return {'gflops': self._peak()}
    if op == 'memory':
      return {'bytes': peak_memory(), 'device_bytes': getattr(self._program, 'device_bytes', None)}
    if op == 'build':
      return self._start(Job(**command))
    if op == 'time':
      return self._time(command['steps'])
    if op == 'check':
      return self._check(pathlib.Path(command.pop('out')), Job(**command).for_check())
    raise ValueError(f'unknown command {op!r}')

  def _start(self, job: Job) -> dict[str, Any]:
    start = time.perf_counter()
    self._program = self._build(job)
    self._program.prepare()
    return {'seconds': time.perf_counter() - start, 'note': self._program.note}

  def _time(self, steps: int) -> dict[str, Any]:
    if self._program is None:
      raise ValueError('nothing was built')
    start, cpu = time.perf_counter(), time.process_time()
    taken = self._program.run(steps)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {'seconds': seconds / taken, 'steps': taken, 'cores_used': cpu / seconds}

  def _check(self, out: pathlib.Path, job: Job) -> dict[str, Any]:
    program = self._build(job)
    before = program.parameters()
    program.run(1)
    after = program.parameters()
    np.savez(out, **{name: before[name] - after[name] for name in before})
    return {'note': program.note}


def serve(session: Session) -> None:
  """Answers commands until there are no more.

  Whatever libraries print goes to stderr. Where memory runs out, this process is the one to go: it
  is nobody's work but a measurement.
  """
  channel = os.fdopen(os.dup(1), 'w', encoding='utf-8', buffering=1)
  os.dup2(2, 1)
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/oom_score_adj').write_text('1000', encoding='utf-8')
  for line in sys.stdin:
    command = json.loads(line)
    if command['op'] == 'quit':
      return
    try:
      answer = {'ok': True, **session.answer(command)}
    except Exception as error:  # any failure of a peer is a line of the table, not an end
      text = str(error).strip().splitlines()
      answer = {'ok': False, 'error': f'{type(error).__name__}: {text[0][:200] if text else ""}'}
    channel.write(json.dumps(answer) + '\n')
