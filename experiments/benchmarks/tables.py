"""Results of the speed benchmark as Markdown."""

from __future__ import annotations

from typing import Any

from dpgan_jax import _markdown
from experiments.benchmarks import nets
from experiments.benchmarks.contenders import CONTENDERS
from experiments.benchmarks.gans import GANS, WAYS
from experiments.benchmarks.results import Result, Results, number
from experiments.benchmarks.targets import outcomes


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
  return _markdown.table(header, rows).splitlines()


def _few(machine: dict[str, Any]) -> str:
  longest = number(machine['longest_step'])
  return (
    f'{machine["slow_rounds"]} for contenders of more than {number(machine["slow_seconds"])} s a'
    f' step;\na step foretold to take more than {longest} s is not tried,'
    ' one that does is taken once,\nunless a target asks for it'
  )


def _slots(machine: dict[str, Any]) -> str:
  count = machine['sessions']
  return '' if count == 1 else f' (in {count} goes, each network and batch size within one)'


def _machine(results: Results) -> list[str]:
  machine = results.machine
  lines = [
    f'{machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB'
    f' ({machine["system"]}); device: {machine["device"]}.',
    f'Measured peak, a large float32 matrix product: {number(machine["peak_gflops"])} GFLOP/s.',
    f'{machine["rounds"]} rounds of {number(machine["turn_seconds"])} s a turn, {_few(machine)}.',
    f'Load average {machine["load_before"]} before, {machine["load_after"]} after'
    f'{_slots(machine)}.',
    f'Command: `{machine["command"]}`',
    '',
  ]
  rows = [
    [name, ', '.join(f'{library} {version}' for library, version in found['versions'].items()),
     str(found['threads'])]
    for name, found in machine['environments'].items()
  ]  # fmt: skip
  return lines + _table(['environment', 'versions', 'threads'], rows)


def _matrix(results: Results) -> list[str]:
  """Milliseconds per step, everything on one page."""
  combinations = results.combinations()
  names = [c for c in CONTENDERS if any(r.contender == c for r in results.results)]
  rows = []
  for name in names:
    cells = []
    for net, batch in combinations:
      found = results.get(net, batch, name)
      cells.append(number(1000 * found.seconds) if found else '–')
    rows.append([CONTENDERS[name].title, *cells])
  return _table(['ms per step', *(f'{net} B={batch}' for net, batch in combinations)], rows)


def _row(results: Results, result: Result, reference: Result | None, peak: float) -> list[str]:
  title = CONTENDERS[result.contender].title
  if not result.rounds:
    return [title, result.failure or 'no figure', *[''] * 8]
  if result.note:
    title += f' ({result.note})'
  memory = result.peak_bytes if result.device_bytes is None else result.device_bytes
  return [
    title,
    number(1000 * result.seconds),
    str(results.ratio(result, reference)) if reference else '–',
    number(result.batch / result.seconds),
    number(result.compile_seconds),
    number(memory / 2**20),
    number(result.gflops),
    f'{100 * result.gflops / peak:.0f} %' if peak else '–',
    f'{result.cores_used:.1f}',
    str(len(result.rounds)),
  ]


def _details(results: Results, net: str, batch: int) -> list[str]:
  spec = nets.NETS[net]
  flops = nets.flops_per_example(spec) * batch
  reference = results.get(net, batch, 'ours_ghost')
  peak = results.machine['peak_gflops']
  rows = [
    _row(results, r, reference, peak)
    for r in results.of(net, batch)
  ]  # fmt: skip
  header = ['', 'ms per step', '÷ ours (10–90 %)', 'examples/s', 'compile s', 'peak MiB',
            'GFLOP/s', 'of peak', 'cores', 'rounds']  # fmt: skip
  return [
    f'### {spec.title}, B = {batch}',
    '',
    f'{nets.count_parameters(spec):,} parameters, {number(flops / 1e9)} GFLOP per step',
    '',
    *_table(header, rows),
  ]


def _whole_step(results: Results, net: str, batch: int) -> list[str]:
  private = results.get(net, batch, 'gan_private')
  rows = []
  for r in results.of(net, batch):
    title = f'{WAYS[r.contender].title} ({r.note})' if r.note else WAYS[r.contender].title
    if not r.rounds:
      rows.append([title, r.failure or 'no figure', *[''] * 5])
      continue
    memory = r.peak_bytes if r.device_bytes is None else r.device_bytes
    rows.append([
      title, number(1000 * r.seconds), str(results.ratio(private, r)) if private else '–',
      str(len(r.rounds)), number(r.compile_seconds), number(memory / 2**20),
      f'{r.cores_used:.1f}',
    ])  # fmt: skip
  header = ['', 'ms per step', 'private ÷ it (10–90 %)', 'rounds', 'compile s', 'peak MiB', 'cores']
  return [f'### {GANS[net].title}, B = {batch} (`{GANS[net].flag_file}`)', '',
          *_table(header, rows), '']  # fmt: skip


WHOLE_STEP_NOTES = """\
`GAN.step` in the loop that training takes: D's step on real and fake images, noise, D's optimizer,
and G's step when its turn has come. *Not private* is the same GAN with one gradient of the mean
loss of B real examples and the fakes. The private step looks at more real examples than B: a
Poisson batch varies, and has slots for the largest. That is part of its price and of the ratio in
the targets; the last row takes as many real examples without privacy."""

NOTES = """\
Milliseconds are medians over rounds; in every round each contender runs in turn, in a process of
its own, while the others wait. Ratios are medians of the ratios within a round. A step gathers a
random batch from memory, computes the gradient (per-example clipping and noise where private) and
takes a step of SGD. *Compile* is the time from the data to the first possible step. *Peak MiB* is
the peak resident memory of the contender's process, libraries and compiling included (on a GPU: of
the device). GFLOP/s count the operations of a *non-private* forward and backward pass, so that
whatever privacy adds shows as a lower share of the peak. *Cores* is CPU time ÷ time."""


def targets_table(results: Results) -> list[str]:
  rows = [[o.text, o.wanted, o.measured, o.verdict] for o in outcomes(results)]
  return _table(['', 'to reach', 'measured', ''], rows)


def markdown(results: Results) -> str:
  """The whole report."""
  lines = ['# Speed', '', *_machine(results), '', NOTES, '', '## Targets', '']
  lines += [*targets_table(results), '', '## Overview', '', *_matrix(results), '', '## Details', '']
  for net, batch in results.combinations():
    lines += [*_details(results, net, batch), '']
  whole = results.combinations(GANS)
  lines += ['## A whole DPGAN step', '', WHOLE_STEP_NOTES, ''] if whole else []
  for net, batch in whole:
    lines += _whole_step(results, net, batch)
  return '\n'.join(lines)
