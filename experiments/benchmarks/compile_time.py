"""How long compiling takes before the first step, cold and from the cache of an earlier run.

    ./run.sh python -m experiments.benchmarks.compile_time --out=experiments/results/compile.json

For each file of flags, the programs of a GAN's training are compiled in a fresh process with an
empty cache directory (cold), and again in another one with what that left there (warm): the first
state, a chunk of as many steps as training takes between reports, the copy of the state, and the
generator of the sample grid. Data are not needed beyond their number and shape, and nothing is run,
so that settings meant for accelerators can be measured too. Training shows the time of the chunk
('compiled ... steps in ... s'); the two programs after it are compiled while the device works.
Of the runs on MNIST, which differ in their budgets, one is measured. Wanted on 2 cores: at most
15 s for digits_gan, at most 60 s for the largest.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import loop, stages
from dpgan_jax.run.stages import make_chunk
from experiments import pages
from experiments.benchmarks import cases, ordinary_gan

FLAGS = flags.FLAGS
DATA = {'digits': ordinary_gan.spec(1440, (8, 8, 1)), 'mnist': ordinary_gan.MNIST}
WANTED = {'digits_gan': 15.0, 'eps1': 60.0, 'revisited_eps10': 60.0}  # seconds, cold, on 2 cores


def measure(config: TrainConfig) -> dict[str, float]:
  """Seconds for each program, tracing included, in this process."""
  dataset = _validate.one_of('dataset', config.dataset, DATA)
  gan = ordinary_gan.make_gan(config, data=DATA[dataset])
  started = time.monotonic()
  gan.examples_at_once  # noqa: B018 (traces the step once, and remembers what it found)
  found = {'memory estimate': time.monotonic() - started}
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(gan.init, key)
  images = jax.ShapeDtypeStruct((gan.mechanism.num_examples, *gan.spec.shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((gan.mechanism.num_examples,), jnp.int32)
  length = stages.steps_per_report(config, gan.mechanism)
  programs: dict[str, tuple[Any, tuple[Any, ...]]] = {
    'first state': (jax.jit(gan.init), (key,)),
    'chunk': (make_chunk(gan, length), (state, images, labels)),
    'copy of the state': (loop._copy, (state,)),
    'sample grid': (stages.grid_program(gan), (state.g_average,)),
  }
  for name, (program, arguments) in programs.items():
    started = time.monotonic()
    program.lower(*arguments).compile()
    found[name] = time.monotonic() - started
  return {name: round(seconds, 2) for name, seconds in found.items()}


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
  return pages.table(head, rows)


def flag_file(name: str) -> pathlib.Path:
  """The file NAME.flags in any folder of experiments/."""
  for path in pages.FOLDER.rglob(f'{name}.flags'):
    return path
  raise _validate.InputError(f'expected names of files NAME.flags in experiments/, got {name!r}')


def main() -> None:
  if FLAGS.case:
    print(json.dumps(measure(_cli.config_from_flags(TrainConfig))))
    return
  files = {name: flag_file(name) for name in FLAGS.names}
  found: dict[str, dict[str, dict[str, float]]] = {}
  for name, path in files.items():
    with tempfile.TemporaryDirectory() as cache:
      found[name] = {
        how: cases.in_its_own_process(
          name, f'--flagfile={path}', JAX_COMPILATION_CACHE_DIR=cache
        )
        for how in ('cold', 'warm')
      }
    cases.say(f'{name}: {found[name]}')
  print(table(found))
  cases.write(seconds=found)


if __name__ == '__main__':
  flags.DEFINE_list('names', list(WANTED), 'Flag files to measure, without their ending.')
  cases.run(main)
