"""Compares the peak memory that `dpgan_jax.privacy.memory` estimates with what XLA plans.

    ./run.sh python -m experiments.benchmarks.memory \\
        --out=experiments/results/memory_estimates.json

For the real half of every discriminator by name, a private gradient at B = 256 in several ways;
nothing is run. What training needs at its peak, private and not, is in speed.md. Minutes.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from dpgan_jax import _cli
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks import discriminators
from dpgan_jax.privacy import memory
from experiments import pages
from experiments.benchmarks.ordinary_gan import MNIST, make_gan

FLAGS = flags.FLAGS
MIB = 2**20
WAYS: dict[str, dict[str, Any]] = {
  'whole': {},
  'whole, vmap': {'clipping_strategy': 'vmap'},
  'whole, bfloat16': {'compute_dtype': 'bfloat16'},
  '64 at once': {'microbatch_size': 64},
}


def estimate(name: str, changes: dict[str, Any]) -> dict[str, Any]:
  """Estimated, and planned by XLA: the real half of D's gradient."""
  generator = 'report' if name in discriminators.UNCONDITIONAL else 'report_conditional'
  gan = make_gan(
    TrainConfig(
      noise_multiplier=1.0, steps=1000, batch_size=256, generator=generator, discriminator=name,
      **changes,
    )
  )  # fmt: skip
  count = gan.mechanism.truncated_batch_size
  images = jax.ShapeDtypeStruct((count, *MNIST.shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((count,), jnp.int32)
  params = jax.eval_shape(gan.init, jax.random.key(0)).d_params
  clip = gan.mechanism.clipped_grad(
    gan._real_loss, strategy=gan._strategy, microbatch_size=gan.config.microbatch_size
  )
  estimated = memory.working_bytes(clip, params, images, labels) / memory.MARGIN
  compiled = jax.jit(clip).lower(params, images, labels).compile()
  planned = compiled.memory_analysis().temp_size_in_bytes
  return {'estimated_mib': round(estimated / MIB, 1), 'planned_mib': round(planned / MIB, 1)}


def main() -> None:
  found = {
    name: {way: estimate(name, changes) for way, changes in WAYS.items()}
    for name in discriminators.DISCRIMINATORS if name not in discriminators.UNACCOUNTED
  }
  shares = [c['planned_mib'] / c['estimated_mib'] for ways in found.values() for c in ways.values()]
  cell = '{planned_mib} / {estimated_mib}'.format_map
  rows = [[name, *(cell(ways[way]) for way in WAYS)] for name, ways in found.items()]
  print(pages.table(('planned / estimated, MiB', *WAYS), rows))
  print(f'planned / estimated: {min(shares):.2f} to {max(shares):.2f}; margin {memory.MARGIN}')
  planned_over_estimated = [round(min(shares), 3), round(max(shares), 3)]
  if FLAGS.out:
    pages.write_json(pathlib.Path(FLAGS.out), {
      'command': './run.sh python -m experiments.benchmarks.memory --out=FILE',
      'jax': jax.__version__, 'device': jax.devices()[0].device_kind,
      'planned_over_estimated': planned_over_estimated, 'discriminators': found,
    })  # fmt: skip


if __name__ == '__main__':
  flags.DEFINE_string('out', None, 'A JSON file for the figures.')
  _cli.run(main)
