"""How long compiling takes before the first step, cold and from the cache of an earlier run.

    ./run.sh python experiments/benchmarks/compile_time.py --out=experiments/results/compile.json

For each file of flags, the programs of a GAN's training are compiled in a fresh process with an
empty cache directory (cold), and again in another one with what that left there (warm): the first
state, a chunk of as many steps as training takes between reports, the copy of the state, and the
generator of the sample grid. Data are not needed beyond their number and shape, and nothing is run,
so that settings meant for accelerators can be measured too. Training shows the time of the chunk
('compiled ... steps in ... s'); the two programs after it are compiled while the device works.
Of the runs on MNIST, which differ in their budgets, one is measured. Wanted on 2 cores: at most
15 s for the quickstart, at most 60 s for the largest.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import ordinary_gan
from absl import flags

from dpgan_jax import _cli, _files, _markdown, _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import recorder, trainer
from dpgan_jax.run.loop import make_chunk

FLAGS = flags.FLAGS
EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1]
DATA = {'digits': (1440, (8, 8, 1), 10), 'mnist': (60_000, (28, 28, 1), 10)}
WANTED = {'quickstart': 15.0, 'eps1': 60.0, 'revisited_eps10': 60.0}  # seconds, cold, on 2 cores


def measure(config: TrainConfig) -> dict[str, float]:
  """Seconds for each program, tracing included, in this process."""
  dataset = _validate.one_of('dataset', config.dataset, DATA)
  gan = ordinary_gan.make_gan(config, data=DATA[dataset])
  started = time.monotonic()
  gan.examples_at_once  # noqa: B018 (traces the step once, and remembers what it found)
  found = {'memory estimate': time.monotonic() - started}
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(gan.init, key)
  images = jax.ShapeDtypeStruct((gan.mechanism.num_examples, *gan.image_shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((gan.mechanism.num_examples,), jnp.int32)
  length = trainer.steps_per_report(config, gan.mechanism)
  programs: dict[str, tuple[Any, tuple[Any, ...]]] = {
    'first state': (jax.jit(gan.init), (key,)),
    'chunk': (make_chunk(gan, length), (state, images, labels)),
    'copy of the state': (recorder.copy_state, (state,)),
    'sample grid': (recorder.grid_program(gan), (state.g_average,)),
  }
  for name, (program, arguments) in programs.items():
    started = time.monotonic()
    program.lower(*arguments).compile()
    found[name] = time.monotonic() - started
  return {name: round(seconds, 2) for name, seconds in found.items()}


def in_its_own_process(name: str, cache: str) -> dict[str, float]:
  """Runs this command again for one file of flags."""
  path = EXPERIMENTS / f'{name}.flags'
  result = subprocess.run(
    [sys.executable, __file__, f'--flagfile={path}', '--here'], stdout=subprocess.PIPE, text=True,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache}, check=False,
  )  # fmt: skip
  if result.returncode:
    raise _validate.InputError(f'{name}: the process that was measured ended with an error')
  return json.loads(result.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
  """The table, in Markdown."""
  rows = []
  for name, case in found.items():
    cold, warm = (sum(case[how].values()) for how in ('cold', 'warm'))
    wanted = WANTED.get(name)
    verdict = '–' if wanted is None else f'{wanted:g}: {"met" if cold <= wanted else "not met"}'
    rows.append([name, f'{case["cold"]["chunk"]:.1f}', f'{cold:.1f}', f'{warm:.1f}', verdict])
  head = ['flags', 'chunk, cold, s', 'all programs, cold, s', 'all, from the cache, s',
          'wanted, cold: at most, s']  # fmt: skip
  return _markdown.table(head, rows)


def main() -> None:
  if FLAGS.here:
    print(json.dumps(measure(_cli.config_from_flags(TrainConfig))))
    return
  found = {}
  for name in FLAGS.names:
    if not (EXPERIMENTS / f'{name}.flags').is_file():
      raise _validate.InputError(f'expected names of files experiments/NAME.flags, got {name!r}')
    with tempfile.TemporaryDirectory() as cache:
      found[name] = {how: in_its_own_process(name, cache) for how in ('cold', 'warm')}
    print(f'{name}: {found[name]}', file=sys.stderr, flush=True)
  print(table(found))
  if FLAGS.out:
    record = {
      'command': './run.sh python experiments/benchmarks/compile_time.py --out=FILE',
      'jax': jax.__version__,
      'machine': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores',
      'device': jax.devices()[0].device_kind,
      'seconds': found,
    }
    with _files.atomic_write(pathlib.Path(FLAGS.out)) as file:
      file.write(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
  _cli.define_flags(TrainConfig)
  flags.DEFINE_string('run_dir', None, 'Ignored: it stands in the flag files of training.')
  flags.DEFINE_list('names', list(WANTED), 'Files experiments/NAME.flags to measure.')
  flags.DEFINE_string('out', None, 'A JSON file for the figures.')
  flags.DEFINE_bool('here', False, 'Measure the flags given, in this process, and print JSON.')
  _cli.run(main, interrupted='Nothing was written.')
