"""How many examples a private step should look at at once: step times by microbatch size.

    ./run.sh python -m experiments.benchmarks.microbatch --out experiments/results/microbatch

The steps are those of `speed.py` (its networks, its loop), one process, the sizes in turns. `auto`
is what `dpgan_jax.clipped_grad` takes when nothing else is asked for. Prints a table in Markdown,
and with `--out` writes it to `<out>.md` and all rounds to `<out>.json`.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import dpgan_jax
from dpgan_jax import _files, _markdown, clipping
from experiments.benchmarks import nets, worker_jax
from experiments.benchmarks.protocol import Job, cores

BATCHES = {'tutorial_cnn': (120, 256, 1024), 'report_d': (120, 256, 1024), 'large_d': (256,)}
SIZES = {'tutorial_cnn': (32, 64, 128), 'report_d': (32, 64, 128), 'large_d': (8, 32, 128)}


class Sized:
  """What `worker_jax` calls `dpgan_jax`, with another default of `microbatch_size`."""

  def __init__(self, size: int | None):
    self.clipped_grad = functools.partial(dpgan_jax.clipped_grad, microbatch_size=size)

  def __getattr__(self, name: str) -> Any:
    return getattr(dpgan_jax, name)


def program(net: str, batch: int, size: int | None) -> worker_jax.Program:
  worker_jax.dpgan_jax = Sized(size)  # type: ignore[assignment]
  try:
    made = worker_jax.Program(Job(net, 'ours_ghost_scan', batch, chunk=2 if batch > 512 else 4))
    made.prepare()
  finally:
    worker_jax.dpgan_jax = dpgan_jax
  made.run(1)
  return made


def chosen(net: str, batch: int) -> int:
  """The size that stands for `auto`."""
  model = worker_jax.Model(nets.NETS[net], ours=True)

  def loss(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
    return worker_jax.losses(model, params, image[None], label[None])[0]

  images, labels = Job(net, 'ours_ghost_scan', batch, examples=batch).data()
  shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in (images, labels)]
  params = worker_jax.initial(nets.NETS[net])
  return clipping.fast_microbatch(loss, jax.tree.map(jnp.asarray, params), tuple(shapes))


def measure(net: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
  auto = chosen(net, batch)
  sizes = {'auto': None, 'all': batch} | {str(s): s for s in SIZES[net] if s < batch}
  programs = {name: program(net, batch, size) for name, size in sizes.items()}
  times: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(rounds):
    for name, made in programs.items():
      start, steps = time.perf_counter(), 0
      while time.perf_counter() - start < seconds:
        steps += made.run(1)
      times[name].append((time.perf_counter() - start) / steps)
  return {'net': net, 'batch': batch, 'auto': auto, 'seconds_per_step': times}


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
  return _markdown.table(head, lines) + '\n'


def main() -> int:
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
    result = {
      'command': './run.sh python -m experiments.benchmarks.microbatch --out <out>',
      'machine': f'{jax.devices()[0].platform}, {cores()} cores',
      'rows': rows,
    }
    for suffix, content in (('.json', json.dumps(result, indent=1) + '\n'), ('.md', text)):
      with _files.atomic_write(given.out.with_suffix(suffix)) as file:
        file.write(content)
  return 0


if __name__ == '__main__':
  sys.exit(main())
