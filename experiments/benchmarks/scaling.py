r"""How many chips a private step would be worth: a model of its time, from what is counted.

    ./run.sh python -m experiments.benchmarks.scaling     # experiments/results/DEVICES.md

On a chip a program takes e⁻¹·(operations ÷ peak) + bytes ÷ bandwidth, and the noise so much for
each coordinate. On a CPU, e, the bandwidth and the noise are fitted to three measured programs of
`profile.json`, and all others are foretold: the page says how far off. For TPU chips the vendor's
figures take their place, and what passes between chips is added: the clipped sums, once each way
(`tpu.json` counted these bytes in compiled programs, and operations and bytes of an example in that
of one chip's share). No TPU was used, and nothing of it timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
from typing import Any

from experiments import pages
from experiments.benchmarks import nets, tpu_check

CHIPS = (1, 4, 16, 64, 256)
BATCH = 65_536
NET = 'large_d'
FITTED = (('tutorial_cnn', 'sum'), ('large_d', 'sum'))
WANTED = 0.9  # efficiency at 256 chips


@dataclasses.dataclass(frozen=True)
class Chip:
  """Rates of a chip: operations, bytes and elementwise operations a second; bytes to others."""

  flops: float
  bandwidth: float
  elementwise: float
  link: float = float('inf')
  hop: float = 0.0  # seconds from a chip to its neighbour

  def work(self, flops: float, moved: float) -> float:
    """Seconds of a program of so many operations that moves so many bytes."""
    return flops / self.flops + moved / self.bandwidth


# Google's figures of a v5e chip (docs.cloud.google.com/tpu/docs/v5e, read in November 2026): 197e12
# operations in bfloat16, 819e9 bytes of memory a second, 400e9 bytes in both directions over four
# links. Assumed here: six tenths of the first are reached, 6e12 elementwise operations (1,024 lanes
# of four units at 1.5 GHz), a microsecond a hop.
V5E = Chip(0.6 * 197e12, 819e9, 6e12, 200e9, 1e-6)


def _of_net(profile: dict[str, Any]) -> dict[str, Any]:
  (found,) = (p for p in profile['profiles'] if p['net'] == NET)
  return found


def noise_operations(profile: dict[str, Any]) -> float:
  """Of one coordinate's noise, as XLA counts them: what the step has more than the sum."""
  programs = _of_net(profile)['programs']
  more = programs['step']['flops'] - programs['sum']['flops']
  return more / nets.count_parameters(nets.NETS[NET])


def median(program: dict[str, Any]) -> float:
  return statistics.median(program['rounds'])


def fitted(profile: dict[str, Any]) -> Chip:
  """The CPU of the profile: two rates by two programs, and the noise's by the largest network."""
  programs = {found['net']: found['programs'] for found in profile['profiles']}
  (a, b), (c, d) = ((programs[n][p]['flops'], programs[n][p]['bytes']) for n, p in FITTED)
  one, two = (median(programs[n][p]) for n, p in FITTED)
  a_flop = (one * d - two * b) / (a * d - c * b)
  a_byte = (two * a - one * c) / (a * d - c * b)
  noise = median(programs[NET]['step']) - median(programs[NET]['sum'])
  each = nets.count_parameters(nets.NETS[NET]) * noise_operations(profile) / noise
  return Chip(1 / a_flop, 1 / a_byte, each)


def foretold(profile: dict[str, Any], chip: Chip) -> list[dict[str, Any]]:
  """Seconds of every program of the profile, measured and by the model."""
  rows, of_noise = [], noise_operations(profile) / chip.elementwise
  for found in profile['profiles']:
    parameters = nets.count_parameters(nets.NETS[found['net']])
    for name in ('losses', 'ordinary', 'sum', 'step'):
      program = found['programs'][name]
      # Of the noise, operations and bytes stand in what a coordinate takes.
      counted = found['programs']['sum'] if name == 'step' else program
      seconds = chip.work(counted['flops'], counted['bytes'])
      seconds += parameters * of_noise if name == 'step' else 0
      is_fitted = (found['net'], name) in FITTED or (found['net'], name) == (NET, 'step')
      rows.append({
        'net': found['net'], 'batch': found['batch'], 'program': name, 'fitted': is_fitted,
        'measured': median(program), 'model': seconds,
      })  # fmt: skip
  return rows


def step_seconds(
  chips: int,
  chip: Chip,
  example: tuple[float, float],
  parameters: int,
  noise: float,
  *,
  sharded_noise: bool,
) -> dict[str, float]:
  """A step of `BATCH` examples on so many chips, part by part.

  Args:
    chips: how many, in a square torus.
    chip: one of them.
    example: operations and bytes of an example's share of the clipped sum.
    parameters: of the discriminator.
    noise: operations of a coordinate's.
    sharded_noise: every chip draws the noise of its share of the coordinates, adds it between the
      two halves of an all-reduce, and the optimizer's step with it; else every chip draws all.
  """
  parts = chips if sharded_noise else 1
  side = chips**0.5
  return {
    'examples': chip.work(*(x * BATCH / chips for x in example)),
    'noise': parameters * noise / chip.elementwise / parts,
    # Adam reads and writes parameters and two moments, and reads the sum.
    'optimizer': 7 * 4 * parameters / chip.bandwidth / parts,
    'between chips': 2 * 4 * parameters * (chips - 1) / chips / chip.link
    + (4 * side * chip.hop if chips > 1 else 0.0),
  }


def curve(example: tuple[float, float], noise: float, sharded_noise: bool) -> list[Any]:
  """Seconds, and efficiency beside one chip, by number of chips."""
  rows, parameters = [], nets.count_parameters(nets.NETS[NET])
  for chips in CHIPS:
    found = step_seconds(chips, V5E, example, parameters, noise, sharded_noise=sharded_noise)
    rows.append({'chips': chips, 'parts': found, 'seconds': sum(found.values())})
  return [{**r, 'efficiency': rows[0]['seconds'] / r['chips'] / r['seconds']} for r in rows]


def curves(profile: dict[str, Any], tpu: dict[str, Any]) -> dict[str, list[Any]]:
  """By what is counted of an example, and where the noise is drawn."""
  found = _of_net(profile)
  of_cpu, of_tpu = found['programs']['sum'], next(r for r in tpu['rows'] if r['case'] == 'sum')
  flops, moved = of_cpu['flops'] / found['batch'], of_cpu['bytes'] / found['batch']
  by = {
    'counted for a TPU': tuple(of_tpu[k] / of_tpu['batch_size'] for k in
                               ('flops_a_step', 'bytes_a_step')),
    'counted for a CPU': (flops, moved),
    'no bytes': (flops, 0.0),
  }  # fmt: skip
  return {
    f'{where}, {what}': curve(example, noise_operations(profile), sharded)
    for what, example in by.items()
    for where, sharded in {'noise on every chip': False, 'noise shared out': True}.items()
  }


def _scaling_parts(profile: dict[str, Any], tpu: dict[str, Any]) -> list[str]:
  chip = fitted(profile)
  rows = foretold(profile, chip)
  worst = max(abs(r['model'] / r['measured'] - 1) for r in rows if not r['fitted'])
  found = curves(profile, tpu)
  last = {name: rows[-1] for name, rows in found.items()}
  reached = [name for name, row in last.items() if row['efficiency'] >= WANTED]
  return [
    '## How long a step takes, by a model',
    f'On the CPU of `profile.json`: {chip.flops / 1e9:.0f} GFLOP/s, {chip.bandwidth / 1e9:.0f} '
    f'GB/s, {noise_operations(profile) / chip.elementwise * 1e9:.3g} ns a coordinate of noise (of '
    f'{noise_operations(profile):.0f} operations), fitted to the lines marked so; the others are '
    f'foretold within {worst:.0%}.',
    pages.table({
      'network': lambda r: r['net'], 'B': lambda r: r['batch'], 'program': lambda r: r['program'],
      'measured, ms': lambda r: f'{1e3 * r["measured"]:.3g}',
      'model, ms': lambda r: f'{1e3 * r["model"]:.3g}',
      '': lambda r: 'fitted' if r['fitted'] else f'{r["model"] / r["measured"] - 1:+.0%}',
    }, rows),
    f"## {BATCH:,} examples a step of the 1.7 M discriminator on v5e chips, by the same model",
    'The vendor\'s rates, six tenths of the peak, and what is assumed of noise and hops stand in '
    '`scaling.py`. **Nothing of this was measured.** How many bytes an example moves to memory '
    'depends on what a compiler fuses: here are what libtpu counts in the program of one chip\'s '
    'share, what XLA counts for a CPU, and none. Norms and sums take products in full float32, '
    'several on a TPU for each one that is counted: steps would be longer for it, and efficiency '
    'higher. Efficiency is that of one chip taking the same batch. Of a GAN this is the half of '
    'real examples; fakes add to the work of examples and to what passes between chips alike.',
    pages.table(
      ['', *(f'{chips} chip{"s" * (chips > 1)}' for chips in CHIPS),
       f'at {CHIPS[-1]}: examples, noise, optimizer, between chips, ms'],
      [
        [name, *(f'{r["efficiency"]:.0%} ({1e3 * r["seconds"]:.3g} ms)' for r in rows),
         ', '.join(f'{1e3 * v:.2g}' for v in rows[-1]['parts'].values())]
        for name, rows in found.items()
      ],
    ),
    f'Wanted: {WANTED:.0%} at {CHIPS[-1]} chips. By this model '
    + (f'reached with {"; ".join(reached)}' if reached else 'nowhere reached')
    + (f', not with {"; ".join(n for n in last if n not in reached)}.'
       if len(reached) < len(last) else '.')
    + ' Noise is shared out where parameters are split over devices, as in FSDP; training as '
    '`dpgan_jax.train` does it keeps them whole on every chip.',
  ]  # fmt: skip


def _tpu_parts(record: dict[str, Any]) -> list[str]:
  there = {(row['case'], row['chips']) for row in record['rows']}
  missing = [
    f'{tpu_check.CASES[case].title} for {chips} chip{"s" * (chips > 1)}'
    for case, chips in tpu_check.wanted(list(tpu_check.CASES), list(tpu_check.CHIPS))
    if (case, chips) not in there
  ]
  return [
    '## Training compiled for TPU chips',
    f'By libtpu {record["libtpu"]}, without a TPU: {tpu_check.STEPS} steps of whole GANs for '
    f'{record["chip"]}, and what else runs on a device. `{record["command"]}`',
    pages.table({
      '': lambda r: r['title'],
      'chips': lambda r: r['chips'],
      'B': lambda r: r['batch_size'] or '–',
      'MiB of a chip': lambda r: f'{r["memory_bytes"] / 2**20:.0f}',
      'state donated': lambda r: '–' if not r['state_bytes'] else
        'all' if r['donated_bytes'] >= r['state_bytes'] else 'not all',
      'collectives a step, bytes': lambda r: ', '.join(
        f'{k} {v:,}' for k, v in r['collective_bytes_a_step'].items()) or 'none',
      'allowed': lambda r: f'{r["allowed_bytes_a_step"]:,}' if r['chips'] > 1 else '–',
      'operations started a step': lambda r:
        f'{r["started_a_step"]:.0f}' if r['state_bytes'] and 'started_a_step' in r else '–',
      'to or from the host': lambda r: ', '.join(r['host_transfers']) or 'nothing',
      'found': lambda r: '; '.join(r['faults']) or 'as it should be',
    }, record['rows']),
    *(['GANs without a number of operations were compiled before these were counted, and batches '
       'drawn before a chunk of steps.'] if any(
         r['state_bytes'] and 'started_a_step' not in r for r in record['rows']) else []),
    *([f'Not compiled yet (`--resume` does it): {"; ".join(missing)}.'] if missing else []),
    'Allowed are 1.1 × 2 × 4 bytes for each parameter of D, its sums of real examples and of fakes '
    'with what metrics need, and 4 for each of G where its gradient is summed; so nothing that '
    'grows with B or N passes between chips.',
    'Tables and series have no loop of private steps. What is released of them, and of images by '
    'moments, are exact sums of whole numbers with noise of whole numbers from the bits of a hash '
    '(64-bit integers, fractions): NumPy and Python on the host, once, in seconds. After it, the '
    'fit of a mixture to the counts of a table runs on a device; of series nothing does.',
  ]  # fmt: skip


def _host_parts(record: dict[str, Any] | None) -> list[str]:
  if record is None:
    return ['## Records on the host', pages.NOT_MEASURED]
  return [
    '## Records on the host',
    f'`{record["command"]}`, {record["cpu"]}, {record["cores"]} cores, load {record["load"]}; CPU '
    'seconds of all threads, as other work was under way. Memory is that of the process without '
    'pages of the file.',
    pages.table({
      'records': lambda r: f'{r["records"]:,}', 'GB in a file': lambda r: f'{r["bytes"] / 1e9:.2f}',
      'B': lambda r: r['batch_size'],
      'drawing a batch, CPU ms': lambda r: f'{1e3 * r["drawing"]["cpu_seconds_a_step"]:.3g}',
      'the same with a number for each record': lambda r:
        f'{1e3 * r["drawing_numbers"]["cpu_seconds_a_step"]:.3g}',
      'reading it, CPU ms': lambda r: f'{1e3 * r["reading"]["cpu_seconds_a_step"]:.3g}',
      'a step in all, CPU ms': lambda r: f'{1e3 * r["all"]["cpu_seconds_a_step"]:.3g}',
      'GiB in memory': lambda r: f'{r["own_bytes"] / 2**30:.2f}',
    }, record['rows']),
  ]  # fmt: skip


def page() -> str:
  """Of the committed records."""
  read = lambda name: pages.read_json(pages.RESULTS / name)  # noqa: E731
  return pages.join(
    '# On many devices',
    'What was compiled, measured and computed of devices that were not there. No GPU and no TPU '
    'took part. How it works: [BUILD.md](../../BUILD.md#on-many-devices).',
    *_tpu_parts(read('tpu.json')),
    *_scaling_parts(read('profile.json'), read('tpu.json')),
    *_host_parts(read('host_data.json')),
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, default=pages.RESULTS / 'DEVICES.md')
  pages.write(parser.parse_args().out, page())


if __name__ == '__main__':
  main()
