"""Results of the speed benchmark as a page."""

from __future__ import annotations

from experiments import pages
from experiments.benchmarks import nets
from experiments.benchmarks.contenders import CONTENDERS, GANS
from experiments.benchmarks.results import Results
from experiments.benchmarks.targets import outcomes
from experiments.benchmarks.turns import number

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


def _machine(results: Results) -> list[str]:
  m = results.machine
  goes = f' (in {m["sessions"]} goes, each network and batch size within one)'
  rows = [
    (name, ', '.join(f'{library} {version}' for library, version in found['versions'].items()),
     found['threads'])
    for name, found in m['environments'].items()
  ]  # fmt: skip
  return [
    f'{m["cpu"]}, {m["cores"]} cores, {m["memory_gib"]} GiB ({m["system"]}); device: '
    f'{m["device"]}.\n'
    f'Measured peak, a large float32 matrix product: {number(m["peak_gflops"])} GFLOP/s.\n'
    f'{m["rounds"]} rounds of {number(m["turn_seconds"])} s a turn, {m["slow_rounds"]} for '
    f'contenders of more than {number(m["slow_seconds"])} s a step;\n'
    f'a step foretold to take more than {number(m["longest_step"])} s is not tried, one that does '
    'is taken once,\nunless a target asks for it.\n'
    f'Load average {m["load_before"]} before, {m["load_after"]} after'
    f'{goes * (m["sessions"] != 1)}.\n'
    f'Command: `{m["command"]}`',
    pages.table(('environment', 'versions', 'threads'), rows),
  ]


def _overview(results: Results) -> str:
  """Milliseconds per step, everything in one table."""
  combinations = results.combinations()
  rows = []
  for name in (c for c in CONTENDERS if any(r.contender == c for r in results.results)):
    found = [results.get(net, batch, name) for net, batch in combinations]
    rows.append((CONTENDERS[name].title, *(number(1000 * r.seconds) if r else '–' for r in found)))
  return pages.table(('ms per step', *(f'{net} B={batch}' for net, batch in combinations)), rows)


def _details(results: Results, net: str, batch: int) -> list[str]:
  spec, peak = nets.NETS[net], results.machine['peak_gflops']
  reference = results.get(net, batch, 'ours_ghost')
  rows = []
  for r in results.of(net, batch):
    if not r.rounds:
      rows.append((r.title, r.failure or 'no figure', *[''] * 8))
      continue
    rows.append((
      r.title, number(1000 * r.seconds),
      results.ratio(r, reference) if reference else '–',
      number(batch / r.seconds), number(r.compile_seconds), number(r.memory / 2**20),
      number(r.gflops), f'{100 * r.gflops / peak:.0f} %' if peak else '–', f'{r.cores_used:.1f}',
      len(r.rounds),
    ))  # fmt: skip
  header = ('', 'ms per step', '÷ ours (10–90 %)', 'examples/s', 'compile s', 'peak MiB',
            'GFLOP/s', 'of peak', 'cores', 'rounds')  # fmt: skip
  flops = nets.flops_per_example(spec) * batch
  return [
    f'### {spec.title}, B = {batch}',
    f'{nets.count_parameters(spec):,} parameters, {number(flops / 1e9)} GFLOP per step',
    pages.table(header, rows),
  ]


def _whole_step(results: Results, net: str, batch: int) -> list[str]:
  private = results.get(net, batch, 'gan_private')
  rows = []
  for r in results.of(net, batch):
    if not r.rounds:
      rows.append((r.title, r.failure or 'no figure', *[''] * 5))
      continue
    rows.append((
      r.title, number(1000 * r.seconds), results.ratio(private, r) if private else '–',
      len(r.rounds), number(r.compile_seconds), number(r.memory / 2**20), f'{r.cores_used:.1f}',
    ))  # fmt: skip
  header = ('', 'ms per step', 'private ÷ it (10–90 %)', 'rounds', 'compile s', 'peak MiB', 'cores')
  title = f'### {GANS[net].title}, B = {batch} (`{GANS[net].flag_file}`)'
  return [title, pages.table(header, rows)]


def markdown(results: Results) -> str:
  """The whole page."""
  reached = [(o.text, o.wanted, o.measured, o.verdict) for o in outcomes(results)]
  parts = ['# Speed', *_machine(results), NOTES]
  parts += ['## Targets', pages.table(('', 'to reach', 'measured', ''), reached)]
  parts += ['## Overview', _overview(results), '## Details']
  for net, batch in results.combinations():
    parts += _details(results, net, batch)
  if whole := results.combinations(GANS):
    parts += ['## A whole DPGAN step', WHOLE_STEP_NOTES]
    for net, batch in whole:
      parts += _whole_step(results, net, batch)
  return pages.join(*parts)
