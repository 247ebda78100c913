r"""What is to be known of a GPU, in eight minutes at most: one command for whoever has one.

    ./run.sh python -m pip install -e '.[cuda]'
    ./run.sh python -m experiments.benchmarks.install_peers      # for Opacus; can be left out
    ./run.sh python -m experiments.benchmarks.gpu_check --out=experiments/results/gpu

In this order: the device; whole training steps of `eps1.flags` and of `revisited_eps10.flags`, as a
run compiles them (steps a second, memory, how much a step starts on the device); core tests on the
GPU; the speed table at one batch size, beside non-private JAX, PyTorch and Opacus. Every part is a
process with a deadline of its own. What a part found is written when it ends, to `<out>.json` and
`<out>.md`; the same command goes on with what is missing. `--tiny` rehearses all of it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from experiments import pages
from experiments.benchmarks import contenders, install_peers, machine, turns
from experiments.benchmarks.results import Results

ROOT = pathlib.Path(__file__).resolve().parents[2]
MINUTES = 8.0
# Seconds that a part may take; the order is that in which they are wanted.
DEADLINES = {'device': 40, 'eps1': 75, 'revisited': 75, 'tests': 110, 'speed': 175}
TESTS = tuple(
  f'tests/privacy/test_{name}.py' for name in ('sampling', 'clipping', 'step_noise', 'transforms')
)
# What trains, and how many steps are compiled into one call.
GANS = {'eps1': ('gan_report', 250), 'revisited': ('gan_revisited', 50)}
STEPS_OF_PAPER = 450_000
BEFORE = 240.0  # steps of eps1.flags a second, of one H200, before anything was done about it
QUICK_COMPILER = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
FEWEST_SECONDS = 8.0  # a part is not begun with less left


# --- the parts, each in a process of its own ----------------------------------------------------


def look_at_device(tiny: bool) -> dict[str, Any]:
  """Its name and memory, and what a matrix product reaches."""
  import jax
  import jax.numpy as jnp

  from experiments.benchmarks import protocol

  device, size = jax.devices()[0], 256 if tiny else 8192
  found: dict[str, Any] = {
    'device': device.device_kind, 'platform': device.platform, 'count': jax.device_count(),
    'memory_bytes': (device.memory_stats() or {}).get('bytes_limit'), 'jax': jax.__version__,
  }  # fmt: skip
  for name, dtype in {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}.items():
    a = jnp.ones((size, size), dtype)
    # float32 in full: XLA's default on GPUs may round its factors.
    product = jax.jit(lambda a: jnp.matmul(a, a, precision='highest'))
    found[f'{name}_gflops'] = protocol.measure_peak(lambda: product(a).block_until_ready(), size)  # noqa: B023
  return found


def train_gan(name: str, tiny: bool) -> dict[str, Any]:
  """Steps a second of a whole GAN on random images, and what its compiled loop is made of."""
  import jax

  from dpgan_jax.run.stages import make_chunk
  from experiments.benchmarks import compiled, ordinary_gan, worker_gan

  gan_name, length = GANS[name]
  described = contenders.GANS[gan_name]
  batch, length = (8, 2) if tiny else (described.batch, length)
  gan, _ = worker_gan.build(worker_gan.settings(described, batch), 'private')
  state, data = jax.jit(gan.init)(jax.random.key(0)), ordinary_gan.random_data()
  begun = time.perf_counter()
  chunk = make_chunk(gan, length).lower(state, *data).compile()
  found: dict[str, Any] = {
    'flag_file': 'eps1.flags' if name == 'eps1' else described.flag_file,
    'batch_size': batch, 'steps_of_a_call': length,
    'compile_seconds': time.perf_counter() - begun,
    'started_a_step': {k: n / length for k, n in compiled.started(chunk.as_text()).items()},
  }  # fmt: skip
  state, _ = jax.block_until_ready(chunk(state, *data))
  rates, until = [], time.perf_counter() + (0 if tiny else 15)
  while not rates or (time.perf_counter() < until and len(rates) < 20):
    begun = time.perf_counter()
    state, _ = jax.block_until_ready(chunk(state, *data))
    rates.append(length / (time.perf_counter() - begun))
  found['steps_per_second'] = turns.spread(rates).median
  stats = jax.devices()[0].memory_stats() or {}
  return {**found, 'peak_bytes': stats.get('peak_bytes_in_use')}


# --- the check -----------------------------------------------------------------------------------


class Check:
  """Runs the parts that are missing in a record, within a time; writes it after each."""

  def __init__(
    self, out: pathlib.Path, *, tiny: bool, peers: pathlib.Path, say: Callable[[str], None] = print
  ) -> None:
    self._out, self._tiny, self._peers, self._say = out, tiny, peers, say
    here = {**machine.describe(), 'tiny': tiny}
    self.record = pages.read_json(out.with_suffix('.json')) or {**here, 'parts': {}}
    if (found := {k: self.record.get(k) for k in here}) != here:
      raise SystemExit(f'{out.name}.json is of another machine: {found}; give another --out')

  def run(self, parts: list[str], minutes: float) -> bool:
    """Whether all parts are there."""
    until = time.monotonic() + 60 * minutes
    for name in parts:
      if self.record['parts'].get(name, {}).get('complete'):
        self._say(f'{name}: there already')
        continue
      left = until - time.monotonic()
      if left < FEWEST_SECONDS:
        self._say(f'{name}: no time left; the same command goes on here')
        continue
      # Compiling is slow on a CPU.
      seconds = min(DEADLINES[name] * (5 if self._tiny else 1), left)
      self._say(f'{name}: at most {seconds:.0f} s')
      begun = time.monotonic()
      found = self._part(name, seconds)
      found['seconds'] = round(time.monotonic() - begun, 1)
      if name == 'device' and not self._tiny and found.get('platform') == 'cpu':
        raise SystemExit('found no GPU (pip install -e ".[cuda]"); --tiny rehearses on a CPU')
      self.record['parts'][name] = found
      self._write()
      shown = {k: v for k, v in found.items() if not isinstance(v, dict | list)}
      self._say(f'{name}: {shown}')
    return all(self.record['parts'].get(name, {}).get('complete') for name in parts)

  def _write(self) -> None:
    pages.write_json(self._out.with_suffix('.json'), self.record)
    speed = self._speed_file()
    found = Results.load(speed) if speed.exists() else Results()
    pages.write(self._out.with_suffix('.md'), markdown(self.record, found))

  def _speed_file(self) -> pathlib.Path:
    return self._out.with_name(f'{self._out.name}_speed').with_suffix('.json')

  def _part(self, name: str, seconds: float) -> dict[str, Any]:
    if name == 'tests':
      tests = ('-k', 'refuses', TESTS[0]) if self._tiny else TESTS
      text, status = self._process(
        ['pytest', '-q', '-n', '0', '-p', 'no:cacheprovider', *tests], seconds,
        {'DPGAN_JAX_TEST_PLATFORM': 'cpu' if self._tiny else 'cuda', 'XLA_FLAGS': ''},
      )  # fmt: skip
      counts = {what: int(n) for n, what in re.findall(r'(\d+) (passed|failed|error)', text)}
      failed = re.findall(r'^FAILED (\S+)', text, re.MULTILINE)
      return {'complete': status in (0, 1), **counts, 'failures': failed, 'dots': text.count('.')}
    if name == 'speed':
      # The harness keeps what it measured, and goes on with it.
      few = ['--rounds', '2', '--turn_seconds', '0.05'] if self._tiny else ['--rounds', '5']
      text, status = self._process(
        ['experiments.benchmarks.speed', '--device', 'cpu' if self._tiny else 'gpu',
         '--nets', 'report_d', *([] if self._tiny else ['large_d']),
         '--batches', '8' if self._tiny else '512',
         '--contenders', 'ours_ghost', 'ours_nonprivate', 'jax_nonprivate_scan',
         *([] if self._tiny else ['torch_nonprivate', 'opacus']),
         '--gans', *([] if self._tiny else ['gan_report', 'gan_revisited']), *few,
         '--minutes', str((seconds - 30) / 60), '--peers', str(self._peers),
         '--out', str(self._speed_file().with_suffix(''))],
        seconds,
      )  # fmt: skip
      return {'complete': status == 0 and 'time is up' not in text}
    text, status = self._process(
      ['experiments.benchmarks.gpu_check', f'--part={name}', *(['--tiny'] if self._tiny else [])],
      seconds,
    )
    if status == 0:
      return {'complete': True, **json.loads(text.splitlines()[-1])}
    last = [line for line in text.strip().splitlines() if line.strip()][-1:] or ['']
    why = 'took too long' if status is None else machine.without_paths(last[0])[:200]
    return {'complete': False, 'why': why}

  def _process(
    self, command: list[str], seconds: float, variables: dict[str, str] | None = None
  ) -> tuple[str, int | None]:
    """What `python -m command` printed, shown as it comes; its status, None at the deadline."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'}
    environment |= variables or {}
    if self._tiny:
      environment |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': QUICK_COMPILER}
    else:
      environment['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # or peak memory is all there is
    process = subprocess.Popen(
      [sys.executable, '-m', *command], cwd=ROOT, env=environment, start_new_session=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    until, text, late = time.monotonic() + seconds, b'', False
    while process.poll() is None and not late:
      text += self._shown(process.stdout.read())
      late = time.monotonic() > until
      time.sleep(0.1)
    if late:
      os.killpg(process.pid, signal.SIGKILL)  # workers of the harness too
      process.wait()
    text += self._shown(process.stdout.read())
    process.stdout.close()
    return text.decode('utf-8', 'replace'), None if late else process.returncode

  def _shown(self, part: bytes | None) -> bytes:
    sys.stderr.buffer.write(part or b'')
    sys.stderr.flush()
    return part or b''


# --- the page ------------------------------------------------------------------------------------


def outcomes(record: Mapping[str, Any], speed: Results) -> list[tuple[str, str, str, str]]:
  """(what, wanted, found, verdict) of every figure that a GPU was to reach."""
  rows = []

  def add(what: str, wanted: str, value: float | None, reached: Callable[[float], bool]) -> None:
    verdict = 'not measured' if value is None else 'met' if reached(value) else 'not met'
    rows.append((what, wanted, pages.number(value, '.3g'), verdict))

  def ratio(net: str, batch: int, above: str, below: str) -> float | None:
    found = [speed.best(net, batch, family) for family in (above, below)]
    return speed.ratio(*found).median if all(found) else None  # pyright: ignore

  for net in ('report_d', 'large_d'):
    batch = max((b for n, b in speed.combinations([net]) if n == net), default=0)
    private = ratio(net, batch, 'ours_ghost', 'ours_nonprivate')
    add(f'private ÷ non-private step, {net}', '≤ 1.15', private, lambda x: x <= 1.15)
    opacus = ratio(net, batch, 'opacus', 'ours_ghost')
    add(f"Opacus's best ÷ ours, {net}", '≥ 2.5', opacus, lambda x: x >= 2.5)
  for name, gan in contenders.GANS.items():
    whole = ratio(name, gan.batch, 'gan_private', 'gan_ordinary')
    add(f'private ÷ non-private step of a whole GAN, {name}', '≤ 1.15', whole, lambda x: x <= 1.15)
  rate = {name: record['parts'].get(name, {}).get('steps_per_second') for name in GANS}
  minutes = rate['revisited'] and STEPS_OF_PAPER / rate['revisited'] / 60
  add(f'minutes for {STEPS_OF_PAPER:,} steps of revisited_eps10.flags', '≤ 10', minutes,
      lambda x: x <= 10)  # fmt: skip
  times = rate['eps1'] and rate['eps1'] / BEFORE
  add(f'steps of eps1.flags a second ÷ {BEFORE:g}', '≥ 5', times, lambda x: x >= 5)
  return rows


def markdown(record: Mapping[str, Any], speed: Results) -> str:
  """The page."""
  parts, device = record['parts'], record['parts'].get('device', {})
  title = '# What a GPU does' + (' (a rehearsal on a CPU: no figure means anything)'
                                 if record['tiny'] else '')  # fmt: skip
  about = f'{device.get("device", "unknown device")}; {record["cpu"]}, {record["cores"]} cores.'
  if 'float32_gflops' in device:
    about += (f' A matrix product reaches {device["float32_gflops"]:,.0f} GFLOP/s in float32,'
              f' {device["bfloat16_gflops"]:,.0f} in bfloat16. JAX {device["jax"]}.')  # fmt: skip
  about += ' Command: `python -m experiments.benchmarks.gpu_check --out=experiments/results/gpu`'
  tests = parts.get('tests')
  said = pages.NOT_MEASURED
  if tests:
    said = f'{tests.get("passed", 0)} passed, {tests.get("failed", 0)} failed'
    said += '' if tests['complete'] else f' (not ended in time: {tests["dots"]} results)'
    said += ''.join(f'\n- {name}' for name in tests['failures'])
  rows = [
    (
      found['flag_file'], found['batch_size'], pages.number(found['steps_per_second']),
      pages.number(found['compile_seconds'], '.1f'),
      pages.number((peak := found['peak_bytes']) and peak / 2**20, ',.0f'),
      pages.number(sum(found['started_a_step'].values()), '.1f'),
      ', '.join(f'{kind} {n:.1f}' for kind, n in
                sorted(found['started_a_step'].items(), key=lambda x: -x[1])[:4]),
    )
    for name in GANS if 'steps_per_second' in (found := parts.get(name, {}))
  ]  # fmt: skip
  unfinished = [f'{name} ({parts.get(name, {}).get("why", "not complete")})'
                for name in DEADLINES if not parts.get(name, {}).get('complete')]  # fmt: skip
  return pages.join(
    title,
    about + (f'\n\nMissing: {"; ".join(unfinished)}.' if unfinished else ''),
    pages.table(('', 'wanted', 'found', ''), outcomes(record, speed)),
    '## Training\n\n'
    + pages.table(('flag file', 'B', 'steps/s', 'compiles in s', 'peak MiB',
                   'started on the device a step', 'most of them'), rows),
    f'## Core tests on the device\n\n{said}',
    'The speed table is `gpu_speed.md`, beside this page.',
  )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/gpu_check'))
  parser.add_argument('--parts', nargs='+', choices=list(DEADLINES), default=list(DEADLINES))
  parser.add_argument('--minutes', type=float, default=MINUTES, help='in all')
  parser.add_argument('--tiny', action='store_true', help='a rehearsal on a CPU')
  parser.add_argument('--peers', type=pathlib.Path, default=install_peers.DEFAULT_DIRECTORY)
  parser.add_argument('--part', choices=['device', *GANS], help='measure it here, print JSON')
  options = parser.parse_args(argv)
  if options.part:
    look = look_at_device if options.part == 'device' else lambda t: train_gan(options.part, t)
    print(json.dumps(look(options.tiny)))
    return 0
  check = Check(options.out.absolute(), tiny=options.tiny, peers=options.peers.absolute())
  return 0 if check.run(options.parts, options.minutes) else 1


if __name__ == '__main__':
  sys.exit(main())
