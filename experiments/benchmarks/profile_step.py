"""What a private step is made of, in time, operations and bytes, beside what is computed anyway.

    ./run.sh python -m experiments.benchmarks.profile_step --out experiments/results/profile

Programs that do more and more of the private step, each in a compiled loop of steps as `speed.py`
has it, take turns: a batch drawn; its losses; every example's gradient norm; the clipped sum; the
sum with noise, which is the whole step; and beside them the ordinary step. A part's time is the
difference of two neighbours', taken within a round. Operations and bytes are those that XLA counts
for one step's compiled program: fused operations read and write once, drawing a batch counts as
reading all examples, and what fits a cache need not go to memory. XLA counts the body of a loop
once: so the whole batch is one microbatch (`microbatch.py` compares sizes), and the program that is
counted, not the one that is timed, adds up all small groups of a sum at once. Writes `<out>.md` and
`<out>.json`. Four minutes, nothing else running.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import dpgan_jax
from dpgan_jax.privacy import transforms
from dpgan_jax.privacy.ghost import sums
from dpgan_jax.privacy.ghost.sums import over_groups
from experiments import pages
from experiments.benchmarks import machine, nets, turns, worker_jax
from experiments.benchmarks.protocol import Job
from experiments.benchmarks.turns import Spread, number, spread

# In order: each does what the one before it does, and more.
PRIVATE = {
  'batch': 'draw a batch',
  'losses': 'losses (forward pass)',
  'norms': "backward pass and every example's norm",
  'sum': 'clipped sum, SGD',
  'step': 'noise',
}
ORDINARY = {'batch': 'draw a batch', 'losses': 'losses (forward pass)',
            'ordinary': 'backward pass, SGD'}  # fmt: skip


def parts(job: Job, params: Any) -> dict[str, tuple[worker_jax.Step, Any]]:
  """The programs by name: a step, and the initial state of its optimizer."""
  model = worker_jax.Model(job.spec, ours=True)
  clipped = dpgan_jax.clipped_grad(
    worker_jax.one_example_loss(model), l2_clip_norm=job.clip, microbatch_size=job.batch
  )

  def computing(value: Callable[..., jax.Array]) -> tuple[worker_jax.Step, Any]:
    """Changes parameters by next to nothing, which no compiler knows: it must compute `value`."""

    def step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
      leaves, tree = jax.tree.flatten(params)
      smallest = min(range(len(leaves)), key=lambda i: leaves[i].size)
      leaves[smallest] = leaves[smallest] + 1e-30 * value(params, images, labels)
      return jax.tree.unflatten(tree, leaves), state

    return step, ()

  def private(noise_multiplier: float) -> tuple[worker_jax.Step, Any]:
    noise = transforms.noise_sum(job.clip, noise_multiplier, job.batch, jax.random.key(1))
    return worker_jax.learning(job, params, lambda *batch: clipped(*batch).sum, [noise])

  return {
    'batch': computing(lambda _, images, labels: jnp.sum(images) + jnp.sum(labels)),
    'losses': computing(lambda *batch: jnp.sum(worker_jax.losses(model, *batch))),
    'ordinary': worker_jax.learning(job, params, jax.grad(worker_jax.mean_loss(model)), []),
    'norms': computing(lambda *batch: jnp.sum(clipped(*batch).norms)),
    'sum': private(0.0),
    'step': private(job.noise),
  }


def counted(compiled: Any) -> dict[str, float]:
  """What XLA counts for a compiled program."""
  found = compiled.cost_analysis() or {}
  found = found[0] if isinstance(found, list) else found
  return {'flops': found.get('flops', 0.0), 'bytes': found.get('bytes accessed', 0.0)}


def _all_at_once(contract: Any, arrays: Any, grid: Any, group: int, at_once: int) -> Any:
  del at_once
  return over_groups(contract, arrays, grid, group, arrays[0].shape[0])


def profile(net: str, batch: int, rounds: int, turn_seconds: float) -> dict[str, Any]:
  """Seconds per step in every round, and counts, by program."""
  job = Job(net, 'profile', batch)
  data = tuple(map(jnp.asarray, job.data()))
  params = worker_jax.initial(job.spec)
  found: dict[str, Any] = {'net': net, 'batch': batch, 'programs': {}}
  calls: dict[str, Callable[[], int]] = {}
  length = max(2, min(20, round(turn_seconds * 20e9 / (2 * _flops(net) * batch))))
  for name, (step, state) in parts(job, params).items():
    carry = (params, state, jax.random.key(3))

    def compiled(steps: int, step: Any = step, carry: Any = carry) -> Any:
      return jax.jit(worker_jax.steps_in_loop(job, step, steps)).lower(carry, *data).compile()

    many = compiled(length)
    with mock.patch.object(sums, 'over_groups', _all_at_once):
      found['programs'][name] = counted(compiled(1))
    calls[name] = lambda many=many, carry=carry: (
      len([jax.block_until_ready(many(carry, *data))]) * length
    )
    calls[name]()  # pays for fresh memory
  for name, times in turns.take(calls, rounds, turn_seconds).items():
    found['programs'][name]['rounds'] = times
  return found


def _flops(net: str) -> int:
  return nets.flops_per_example(nets.NETS[net])


def table(found: dict[str, Any], peak: float) -> str:
  """The parts of the private step and of the ordinary one, and both whole, in Markdown."""
  programs, rows = found['programs'], []
  whole_step = spread(programs['step']['rounds']).median

  def row(title: str, name: str, before: str | None) -> None:
    now, then = programs[name], programs.get(before or '', {})
    earlier = then.get('rounds', [0.0] * len(now['rounds']))
    seconds = spread([a - b for a, b in zip(now['rounds'], earlier, strict=True)])
    flops, moved = (now[k] - then.get(k, 0.0) for k in ('flops', 'bytes'))
    rate = flops / seconds.median / 1e9 if seconds.median > 0 else None
    rows.append((
      title, Spread(*(1000 * value for value in seconds)),
      f'{100 * seconds.median / whole_step:.0f} %', number(flops / 1e6), number(moved / 2**20),
      '–' if rate is None else number(rate), '–' if rate is None else f'{100 * rate / peak:.0f} %',
    ))  # fmt: skip

  for whole, order in (('**private step**', PRIVATE), ('**ordinary step**', ORDINARY)):
    for before, name in zip([None, *order], order, strict=False):
      row(order[name], name, before)
    row(whole, list(order)[-1], None)
  header = ('', 'ms (10–90 %)', 'of the private step', 'MFLOP', 'MiB read and written', 'GFLOP/s',
            'of peak')  # fmt: skip
  return pages.table(header, rows)


def markdown(results: dict[str, Any]) -> str:
  """The whole page."""
  here = results['machine']
  parts = [
    '# What a private step is made of',
    f'{here["cpu"]}, {here["cores"]} cores, {here["memory_gib"]} GiB ({here["system"]});'
    f' {", ".join(f"{k} {v}" for k, v in here["versions"].items())}.'
    f' Measured peak: {number(here["peak_gflops"])} GFLOP/s.'
    f' Load average {here["load_before"]} before, {here["load_after"]} after.'
    f' {here["rounds"]} rounds. Command: `{here["command"]}`',
    'Parts are differences of programs that do one thing more each; a difference of two noisy times'
    ' can come out below zero. FLOP and bytes are what XLA counts for the compiled step. All'
    ' examples of a batch are one microbatch.',
  ]
  for found in results['profiles']:
    seconds = {k: v['rounds'] for k, v in found['programs'].items()}
    needed = _flops(found['net']) * found['batch'] / 1e6
    parts += [
      f'## {nets.NETS[found["net"]].title}, B = {found["batch"]}',
      f'Private ÷ ordinary: {turns.ratio(seconds["step"], seconds["ordinary"])}. The products that '
      f'training without privacy needs: {number(needed)} MFLOP.',
      table(found, here['peak_gflops']),
    ]
  return pages.join(*parts)


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  add = parser.add_argument
  add('--nets', nargs='+', choices=list(nets.NETS), default=list(nets.NETS))
  add('--batches', nargs='+', type=int, default=[120])
  add('--rounds', type=int, default=7)
  add('--turn_seconds', type=float, default=0.2, help='how long a program runs in one round')
  add('--out', type=pathlib.Path, help='writes <out>.md and <out>.json')
  arguments = parser.parse_args()
  command = ' '.join(['./run.sh python -m experiments.benchmarks.profile_step', *sys.argv[1:]])
  here = {
    **machine.describe(), **worker_jax.describe(), 'peak_gflops': worker_jax.peak(),
    'rounds': arguments.rounds, 'load_before': machine.load(),
    'command': machine.without_paths(command),
  }  # fmt: skip
  results: dict[str, Any] = {'machine': here, 'profiles': []}
  for net in arguments.nets:
    for batch in arguments.batches:
      print(f'{net}, B = {batch}', file=sys.stderr, flush=True)
      found = profile(net, batch, arguments.rounds, arguments.turn_seconds)
      results['profiles'].append(found)
  here['load_after'] = machine.load()
  text = markdown(results)
  print(text, end='')
  if arguments.out:
    pages.write_json(arguments.out.with_suffix('.json'), results)
    pages.write(arguments.out.with_suffix('.md'), text)


if __name__ == '__main__':
  main()
