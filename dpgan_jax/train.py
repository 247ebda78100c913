"""Trains a GAN with differential privacy: `python -m dpgan_jax.train
--flagfile=experiments/eps2.flags`.

Running the same command again continues an interrupted run. `--dry_run` shows the plan and trains
nothing.
"""

from __future__ import annotations

import math
import sys
import time
import warnings

import jax
import jax.numpy as jnp
from absl import flags

from dpgan_jax import _cli, _environment, _keys, _progress, _shared_flags, _validate
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.networks import layers
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import plan, trainer
from dpgan_jax.run.stages import make_chunk

FLAGS = flags.FLAGS


def define_flags() -> None:
  _cli.define_flags(TrainConfig)
  _shared_flags.define_data_flags()
  flags.DEFINE_string(
    'run_dir', None, 'Directory of the run: checkpoints, ledger, samples, report.'
  )
  flags.DEFINE_bool(
    'dry_run', False, 'Show mechanism, models, devices and expected time; train nothing.'
  )


def main() -> None:
  config = _cli.config_from_flags(TrainConfig)
  run_dir: str = FLAGS.run_dir or ''
  if not run_dir and not FLAGS.dry_run:
    raise _validate.InputError(
      'expected --run_dir=DIRECTORY, where checkpoints, samples and report go'
    )
  source = _shared_flags.source(config).settled()
  config, dataset = config.replace(holdout=source.holdout), source.load()
  if FLAGS.dry_run:
    show_plan(config, dataset)
    return
  _shared_flags.show(dataset)
  trained = trainer.train(config, dataset, run_dir)
  statement = run_statement.write(trained.run)
  print(statement.summary())
  print(f'Samples, figures and report: {trained.run.path}/')


def show_plan(config: TrainConfig, dataset: datasets.ImageDataset) -> None:
  """Prints what a run would do, and how long it would take; no step is taken on the data."""
  planned = plan.make(config, dataset.spec)
  gan, mechanism = planned.gan, planned.gan.mechanism
  state = jax.eval_shape(gan.init, _keys.from_seed(0))
  seconds = measure_step(gan)
  epsilon = planned.budget.epsilon()
  g_steps = str(mechanism.steps // config.d_steps_per_g_step)
  if config.n_d_threshold is not None:
    g_steps = f'at most {g_steps} (adaptive n_D)'
  rows = {
    'data': '; '.join((dataset.spec.describe(), *dataset.notes)),
    'mechanism': 'Gaussian noise on per-example clipped gradients of truncated Poisson batches'
    if mechanism.is_private
    else 'none (no privacy)',
    'epsilon': f'{epsilon:.4g} at delta {mechanism.delta:g} ({mechanism.neighboring_relation})',
    'noise multiplier': f'{mechanism.noise_multiplier:g}',
    'clip norm': f'{mechanism.l2_clip_norm:g}',
    'batch': f'{mechanism.batch_size} expected, q = {mechanism.sampling_probability:.6g}, '
    f'cap {mechanism.truncated_batch_size}',
    'steps': f'{mechanism.steps} of D, {g_steps} of G '
    f'({mechanism.steps * mechanism.batch_size / len(dataset):.1f} epochs)',
    'generator': f'{config.generator}, {layers.count_parameters(state.g.params):,} parameters',
    'discriminator': f'{config.discriminator}, '
    f'{layers.count_parameters(state.d_params):,} parameters',
    'noise in D': f'{gan.noise_in_d:.2g} times its longest gradient, between two steps of G',
    'device': f'{_environment.device_name()} x {jax.device_count()}',
    'expected time': f'{_progress.duration(seconds * mechanism.steps)} '
    f'({seconds * 1e3:.1f} ms a step)',
  }
  if planned.budget.beside:
    rows['labels samples'] = '; '.join(
      f'{name}: B = {m.batch_size}, sigma = {m.noise_multiplier:.4g}, {m.steps} steps'
      for name, m in planned.budget.beside.items()
    )
  for name, value in rows.items():
    print(f'{name:>17}: {value}')
  if mechanism.is_private and math.isinf(epsilon):
    warnings.warn(
      'epsilon is infinite: this much noise gives no guarantee at this delta', stacklevel=1
    )


def measure_step(gan: GAN) -> float:
  """Seconds per step on this machine, compilation excluded, measured on blank images."""
  mechanism = gan.mechanism
  images = jnp.zeros((mechanism.num_examples, *gan.spec.shape), jnp.uint8)
  labels = jnp.zeros((mechanism.num_examples,), jnp.int32)
  chunk = make_chunk(gan, 2 * gan.config.d_steps_per_g_step)
  state, _ = jax.block_until_ready(chunk(jax.jit(gan.init)(_keys.from_seed(0)), images, labels))
  started = time.monotonic()
  jax.block_until_ready(chunk(state, images, labels))
  return (time.monotonic() - started) / (2 * gan.config.d_steps_per_g_step)


if __name__ == '__main__':
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
  define_flags()
  _cli.run(main, interrupted='Run the same command again to continue.')
