"""How many examples in a microbatch: times of a private step by its size.

    ./run.sh python -m experiments.benchmarks.microbatch --out experiments/results/microbatch

The steps are those of `speed.py` (its networks, its loop), one process, the sizes in turns. `auto`
is what `dpgan_jax.clipped_grad` takes when nothing else is asked for. Prints a table in Markdown,
and with `--out` writes it to `<out>.md` and all rounds to `<out>.json`.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import statistics
import sys
from typing import Any

import jax

from dpgan_jax import clipping
from experiments import pages
from experiments.benchmarks import nets, turns, worker_jax
from experiments.benchmarks.protocol import Job, cores

BATCHES = {'tutorial_cnn': (120, 256, 1024), 'report_d': (120, 256, 1024), 'large_d': (256,)}
SIZES = {'tutorial_cnn': (32, 64, 128), 'report_d': (32, 64, 128), 'large_d': (8, 32, 128)}


def program(net: str, batch: int, size: int | None) -> worker_jax.Program:
  """The private step, compiled, that looks at so many examples at once."""
  job = Job(net, 'ours_ghost_scan', batch, chunk=2 if batch > 512 else 4, microbatch=size)
  made = worker_jax.Program(job)
  made.prepare()
  made.run(1)
  return made


def chosen(net: str, batch: int) -> int:
  """The size that stands for `auto`."""
  loss = worker_jax.one_example_loss(worker_jax.Model(nets.NETS[net], ours=True))
  data = Job(net, 'ours_ghost_scan', batch, examples=batch).data()
  shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in data)
  return clipping.fast_microbatch(loss, worker_jax.initial(nets.NETS[net]), shapes)


def measure(net: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
  sizes = {'auto': None, 'all': batch} | {str(s): s for s in SIZES[net] if s < batch}
  programs = {name: program(net, batch, size) for name, size in sizes.items()}
  calls = {name: functools.partial(made.run, 1) for name, made in programs.items()}
  times = turns.take(calls, rounds, seconds)
  return {'net': net, 'batch': batch, 'auto': chosen(net, batch), 'seconds_per_step': times}


def table(rows: list[dict[str, Any]]) -> str:
  """The table in Markdown."""
  head = ['network', 'B', 'auto is', 'at once', 'ms per step', '÷ all at once (min–max)']
  lines = []
  for row in rows:
    times = row['seconds_per_step']
    for name, values in times.items():
      ratios = sorted(a / b for a, b in zip(values, times['all'], strict=True))
      lines.append([
        row['net'], str(row['batch']), str(row['auto']), name,
        f'{1000 * statistics.median(values):.3g}',
        f'{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})',
      ])  # fmt: skip
  return pages.table(head, lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--seconds', type=float, default=0.4, help='how long a size runs in a round')
  parser.add_argument('--nets', nargs='+', choices=list(BATCHES), default=list(BATCHES))
  parser.add_argument('--out', type=pathlib.Path, help='writes <out>.md and <out>.json')
  given = parser.parse_args()
  rows = []
  for net in given.nets:
    for batch in BATCHES[net]:
      rows.append(measure(net, batch, given.rounds, given.seconds))
      print(f'{net}, B = {batch}: done', file=sys.stderr, flush=True)
  text = table(rows)
  print(text)
  if given.out:
    command = './run.sh python -m experiments.benchmarks.microbatch --out <out>'
    where = f'{jax.devices()[0].platform}, {cores()} cores'
    pages.write_json(
      given.out.with_suffix('.json'), {'command': command, 'machine': where, 'rows': rows}
    )
    pages.write(given.out.with_suffix('.md'), text)


if __name__ == '__main__':
  main()
