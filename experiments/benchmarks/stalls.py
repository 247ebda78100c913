"""How long the device waits for the host between chunks of steps, on the real path of training.

    ./run.sh python -m experiments.benchmarks.stalls --out=experiments/results/stalls.json

Runs `trainer.train` on the settings of digits_gan.flags (`--flagfile` takes others) with everything
recorded after every chunk (metrics, sample grid, snapshot, checkpoint), and again with metrics
alone. Each run is a process of its own. What is watched are the calls of the compiled chunk: when
each was dispatched, and when the device was done with it, which a thread of its own waits for. The
device idles from the end of a chunk to the dispatch of the next. Counted is from the end of the
second chunk to the end of the last: during the first two everything is compiled. `--package=FOLDER`
measures another version of the library, e.g. a worktree of an earlier commit. No private data: the
digits are embedded.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import stages, trainer
from experiments import pages
from experiments.benchmarks import cases

FLAGS = flags.FLAGS
CASES: dict[str, dict[str, Any]] = {
  'everything after every chunk': {'reports_per_grid': 1, 'reports_per_snapshot': 1,
                                   'reports_per_checkpoint': 1},
  'metrics alone': {'reports_per_grid': 10**9, 'reports_per_snapshot': None,
                    'reports_per_checkpoint': 10**9},
}  # fmt: skip


class Watch:
  """Times of dispatch and of the end of every chunk, seconds on one clock."""

  def __init__(self) -> None:
    self.dispatched: list[float] = []
    self.lengths: list[int] = []
    self._ended: dict[int, float] = {}
    self._threads: list[threading.Thread] = []

  def make_chunk(self, original: Any) -> Any:
    """`stages.make_chunk`, whose chunks are watched."""

    def make(stage: Any, length: int) -> Any:
      chunk = original(stage, length)

      def call(*arguments: Any) -> Any:
        number = len(self.dispatched)
        self.dispatched.append(time.monotonic())
        self.lengths.append(length)
        state, history = chunk(*arguments)
        thread = threading.Thread(target=self._wait, args=(number, history))
        thread.start()
        self._threads.append(thread)
        return state, history

      return call

    return make

  def _wait(self, number: int, history: Any) -> None:
    jax.block_until_ready(history)
    self._ended[number] = time.monotonic()

  def ended(self) -> list[float]:
    for thread in self._threads:
      thread.join()
    return [self._ended[number] for number in range(len(self.dispatched))]


def idle(dispatched: Sequence[float], ended: Sequence[float]) -> Iterator[float]:
  """Seconds between the end of each chunk and the dispatch of the next; 0 where it came before."""
  for end, start in zip(ended, dispatched[1:], strict=False):
    yield max(0.0, start - end)


def summary(
  dispatched: Sequence[float], ended: Sequence[float], lengths: Sequence[int]
) -> dict[str, Any]:
  """What the times mean, from the end of the second chunk to the end of the last."""
  if len(dispatched) < 4:
    raise _validate.InputError(f'expected at least 4 chunks, got {len(dispatched)}: more steps')
  gaps = list(idle(dispatched, ended))[1:]
  wall, steps = ended[-1] - ended[1], sum(lengths[2:])
  return {
    'chunks': len(gaps),
    'steps': steps,
    'seconds': round(wall, 3),
    'steps_per_second': round(steps / wall, 2),
    'idle_ms_median': round(1e3 * statistics.median(gaps), 3),
    'idle_ms_max': round(1e3 * max(gaps), 3),
    'idle_share': round(sum(gaps) / wall, 5),
  }


def measure(config: TrainConfig, data_dir: str | None) -> dict[str, Any]:
  """What one process does: a run in a directory that is thrown away."""
  watch = Watch()
  stages.make_chunk = watch.make_chunk(stages.make_chunk)
  # A thread that has something to say gets its turn at once: 5 ms would be an error of that size.
  sys.setswitchinterval(1e-4)
  dataset = datasets.load_dataset(config.dataset, data_dir=data_dir)
  with tempfile.TemporaryDirectory(dir=FLAGS.work_dir) as folder:
    trainer.train(config, dataset, pathlib.Path(folder) / 'run', progress=False)
  return summary(watch.dispatched, watch.ended(), watch.lengths)


def table(found: dict[str, dict[str, Any]]) -> str:
  """The table, in Markdown."""
  head = ['recorded', 'chunks', 'steps/s', 'idle between chunks, ms: median', 'longest',
          'idle, % of the time']  # fmt: skip
  rows = [
    [name, case['chunks'], f'{case["steps_per_second"]:,.1f}', f'{case["idle_ms_median"]:.2f}',
     f'{case["idle_ms_max"]:.2f}', f'{100 * case["idle_share"]:.2f}']
    for name, case in found.items()
  ]  # fmt: skip
  return pages.table(head, rows)


def main() -> None:
  config = _cli.config_from_flags(TrainConfig)
  if FLAGS.case is not None:
    changes = CASES[_validate.one_of('case', FLAGS.case, CASES)]
    print(json.dumps(measure(config.replace(**changes), FLAGS.data_dir)))
    return
  # Not this folder first, as with -m: the package that is asked for.
  path = os.pathsep.join([*([FLAGS.package] if FLAGS.package else []), str(pages.FOLDER.parent)])
  found = {}
  for name in CASES:
    found[name] = cases.in_its_own_process(name, PYTHONPATH=path, PYTHONSAFEPATH='1')
    cases.say(f'{name}: {100 * found[name]["idle_share"]:.2f} % idle')
  print(table(found))
  cases.write(
    data=config.dataset, steps=config.steps, batch_size=config.batch_size, cases=found
  )


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', None, 'Folder of the data, as for training.')
  flags.DEFINE_string('work_dir', None, 'Where the runs are, on the disk to be measured; /tmp.')
  flags.DEFINE_string('package', None, 'Folder with another version of dpgan_jax to measure.')
  if not any(a.lstrip('-').startswith('flagfile') for a in sys.argv[1:]):
    sys.argv.insert(1, f'--flagfile={pages.FOLDER / "digits_gan.flags"}')
  cases.run(main)
