"""Makes a private model of data and draws from it: `python -m dpgan_jax.train
--flagfile=experiments/eps2.flags`.

Running the same command again continues an interrupted run. `--dry_run` shows the plan and trains
nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import (
  _cli,
  _devices,
  _environment,
  _keys,
  _progress,
  _settings,
  _shared_flags,
  _validate,
)
from dpgan_jax.data.sources import Dataset
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.domains import search
from dpgan_jax.models.domains.plan import OpenMoments
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gans import recipe
from dpgan_jax.models.moments import settings as moments_settings
from dpgan_jax.models.moments import verdict
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.networks import layers
from dpgan_jax.publishing import run_statement, words
from dpgan_jax.run import plan, trainer
from dpgan_jax.run.host.feed import Feed
from dpgan_jax.run.stages import make_chunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(_shared_flags.DataOptions, _shared_flags.ProcessOptions):
  """Flags of this command beside the settings of a run."""

  run_dir: str | None = _settings.field(
    None, 'Directory of the run: checkpoints, ledger, samples, report.', group='records',
    common=True,
  )
  anyway: bool = _settings.field(
    False, 'Spend the budget although samples are bound to be useless.', group='budget'
  )
  dry_run: bool = _settings.field(
    False, 'Show mechanism, models, devices and expected time; train nothing.', group='records',
    common=True,
  )


def define_flags() -> None:
  _cli.define_flags(TrainConfig, Options)


def main() -> None:
  config = _cli.config_from_flags(TrainConfig)
  options = _cli.config_from_flags(Options)
  devices = options.start_devices()
  if not options.run_dir and not options.dry_run:
    raise _validate.InputError(
      'expected --run_dir=DIRECTORY, where checkpoints, samples and report go'
    )
  config, source = options.settled(config)
  dataset = source.load()
  config, chosen = recipe.settled(config, dataset.spec, _cli.given(TrainConfig))
  if not options.run_dir or options.dry_run:
    if _devices.is_owner():
      show_plan(config, dataset, devices, chosen, options.data_on)
    return
  if _devices.is_owner():
    _shared_flags.show(dataset)
  begun = (pathlib.Path(options.run_dir) / 'config.json').exists()
  if not begun:
    _look_ahead(config, dataset, settled=bool(chosen), anyway=options.anyway)
  trained = trainer.train(
    config, dataset, options.run_dir, devices=devices, data_on=options.data_on
  )
  if not _devices.is_owner():
    return
  statement = run_statement.write(trained.run)
  print(statement.summary())
  print(f'Samples, figures and report: {trained.run.path}/')


def _look_ahead(config: TrainConfig, dataset: Dataset, *, settled: bool, anyway: bool) -> None:
  """Refuses what cannot succeed, and names classes that cannot: to the owner, on the terminal only.

  Of a GAN only where its settings were chosen here: others may know what they do.
  """
  if config.schema_epsilon is not None or (config.method != 'moments' and not settled):
    return  # of a schema that is not known nothing can be said yet
  of_moments = TrainConfig(
    target_epsilon=config.target_epsilon, delta=config.delta,
    neighboring_relation=config.neighboring_relation,
  )  # fmt: skip
  planned = moments_settings.make(
    config if config.method == 'moments' else of_moments, dataset.spec
  )
  if not anyway and verdict.expected(planned) == 'useless':
    raise _validate.InputError(
      f'samples would be useless: {verdict.advice(planned)}. Nothing was spent; --anyway spends it'
    )
  counts = np.bincount(dataset.labels, minlength=dataset.spec.num_classes)
  if _devices.is_owner() and len(counts) > 1 and (small := verdict.too_small(planned, counts)):
    warnings.warn(
      f'too few records to be learnt at epsilon = {config.target_epsilon:g}: '
      f'{verdict.named(small)}. Merge these classes or leave them out; this was counted without '
      'noise and is for you only',
      stacklevel=1,
    )


def show_plan(
  config: TrainConfig,
  dataset: Dataset,
  devices: int = 1,
  chosen: Mapping[str, recipe.Choice] | None = None,
  data_on: str = 'device',
) -> None:
  """Prints what a run would do, and how long it would take; no step is taken on the data."""
  planned = plan.make(config, dataset.spec)
  described = '; '.join((dataset.spec.describe(), *dataset.notes))
  rows = {'data': described, **_describe(planned, data_on)}
  if 'device' in rows and devices > 1:
    rows['device'] = f'{_environment.device_name()} x {devices} (the time is that of one)'
  for name, value in rows.items():
    print(f'{name:>17}: {value}')
  for name, choice in (chosen or {}).items():
    print(f'{"chosen":>17}: --{name}={choice.value} ({choice.why})')
  if planned.budget.is_private and math.isinf(planned.budget.epsilon()):
    warnings.warn(
      'epsilon is infinite: this much noise gives no guarantee at this delta', stacklevel=1
    )


def _describe(planned: plan.Plan, data_on: str) -> dict[str, str]:
  budget = planned.budget
  if budget.is_private:
    said = f'{budget.epsilon():.4g} at delta {budget.mechanism.delta:g} '
    said += f'({budget.mechanism.neighboring_relation})'
  else:
    said = 'inf'
  if isinstance(planned, Moments):
    return _describe_moments(planned, said)
  if isinstance(planned, OpenMoments):
    return _describe_open(planned, said)
  return _describe_gan(planned, said, data_on)


def _describe_moments(moments: Moments, epsilon: str) -> dict[str, str]:
  of_what = f'{moments.dim} of the {math.prod(moments.spec.shape)} numbers of a record'
  expected, steps = 'seconds', moments.config.matching_steps
  if moments.spec.schema is not None:
    of_what = f'{moments.dim} sums, and products of {moments.encoding.second_dim}'
  elif steps is not None:
    of_what = f'{moments.dim} numbers, of the features of an image'
    expected = f'minutes: {steps:,} steps of a generator that matches moments, free of cost'
  else:
    expected = 'seconds; images are blurred, and with --matching_steps=3000 sharp, in minutes'
  if moments.cells > 1:
    of_what = f'{of_what}, in {moments.cells} parts of each class'
  samples = f'{verdict.expected(moments)}, as N, K and epsilon let expect'
  if few := verdict.of_matching(moments):
    samples = f'{samples}. {few}'
  first, second = words.of(moments.spec, moments.config).released
  return {
    'method': f'moments: {first}, then {second}, released once, then sampled',
    'epsilon': epsilon,
    'noise multipliers': ', '.join(
      f'{name} {m.noise_multiplier:.4g}' for name, m in moments.stages.items()
    ),
    'is released of': of_what,
    'samples': samples,
    'expected time': expected,
  }


def _describe_open(planned: OpenMoments, epsilon: str) -> dict[str, str]:
  assert planned.spec.schema is not None
  found = {c.name: c.found for c in planned.spec.schema.columns if c.found}
  least = search.least(planned.spec.schema, planned.mechanism)
  return {
    'method': 'moments, after the schema: what was drafted is found, then counts are released',
    'epsilon': f'{epsilon}, of which {planned.mechanism.epsilon():.4g} for the schema',
    'is found': ', '.join(f'{name} ({", ".join(fields)})' for name, fields in found.items()),
    'categories': f'of about {least:,.0f} {planned.spec.schema.unit}s and more; others are "other"',
    'noise multipliers': ', '.join(
      f'{name} {m.noise_multiplier:.4g}' for name, m in planned.stages.items()
    ),
    'expected time': 'seconds',
  }


def _describe_gan(planned: plan.GANPlan, epsilon: str, data_on: str) -> dict[str, str]:
  gan, mechanism, config = planned.gan, planned.gan.mechanism, planned.config
  state = jax.eval_shape(gan.init, _keys.from_seed(0))
  seconds = measure_step(gan, data_on)
  g_steps = str(mechanism.steps // config.d_steps_per_g_step)
  if config.n_d_threshold is not None:
    g_steps = f'at most {g_steps} (adaptive n_D)'
  rows = {
    'method': 'gan: DP-SGD on the discriminator',
    'mechanism': 'Gaussian noise on per-example clipped gradients of truncated Poisson batches'
    if mechanism.is_private
    else 'none (no privacy)',
    'epsilon': epsilon,
    'noise multiplier': f'{mechanism.noise_multiplier:g}',
    'clip norm': f'{mechanism.l2_clip_norm:g}',
    'batch': f'{mechanism.batch_size} expected, q = {mechanism.sampling_probability:.6g}, '
    f'cap {mechanism.truncated_batch_size}',
    'steps': f'{mechanism.steps} of D, {g_steps} of G '
    f'({mechanism.steps * mechanism.batch_size / planned.spec.num_records:.1f} epochs)',
    'generator': f'{config.generator}, {layers.count_parameters(state.g.params):,} parameters',
    'discriminator': f'{config.discriminator}, '
    f'{layers.count_parameters(state.d_params):,} parameters',
    'noise in D': f'{gan.noise_in_d:.2g} times its longest gradient, between two steps of G',
    'device': f'{_environment.device_name()} x {jax.device_count()}',
    'expected time': f'{_progress.duration(seconds * mechanism.steps)} '
    f'({seconds * 1e3:.1f} ms a step)',
  }
  if planned.budget.beside:
    rows['beside the GAN'] = '; '.join(
      f'{name}: B = {m.batch_size}, sigma = {m.noise_multiplier:.4g}, {m.steps} steps'
      for name, m in planned.budget.beside.items()
    )
  return rows


def measure_step(gan: GAN, data_on: str = 'device') -> float:
  """Seconds per step on this machine, compilation excluded, measured on blank images."""
  mechanism, steps = gan.mechanism, 2 * gan.config.d_steps_per_g_step
  count = mechanism.num_examples
  images = np.broadcast_to(np.uint8(0), (count, *gan.spec.shape))  # takes no memory on the host
  data = images, np.zeros(count, np.int32)
  if data_on == 'host':
    feed = Feed(data, mechanism.sampler, 2 * steps)
    piece = functools.cache(functools.partial(make_chunk, gan))
    take = lambda state: feed.run(state, steps, piece)  # noqa: E731
  else:
    placed, chunk = tuple(map(jnp.asarray, data)), make_chunk(gan, steps)
    take = lambda state: chunk(state, *placed)  # noqa: E731
  state, _ = jax.block_until_ready(take(jax.jit(gan.init)(_keys.from_seed(0))))
  started = time.monotonic()
  jax.block_until_ready(take(state))
  return (time.monotonic() - started) / steps


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again to continue.')
