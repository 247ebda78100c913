"""The estimates of memory, and the ordinary GAN that a private one is compared with."""

from __future__ import annotations

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax.models.config import TrainConfig

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'benchmarks'


def load(name):
  return importlib.import_module(f'experiments.benchmarks.{name}')


def small(**settings) -> TrainConfig:
  return TrainConfig(
    noise_multiplier=1.0, steps=9, batch_size=16, generator='compact', discriminator='compact',
    d_steps_per_g_step=1, **settings,
  )  # fmt: skip


@pytest.mark.slow
def test_an_estimate_stands_beside_the_plan():
  found = load('memory').estimate('dense', {'microbatch_size': 64})
  assert found['estimated_mib'] / 4 < found['planned_mib'] < 1.25 * found['estimated_mib']


@pytest.mark.slow
def test_the_ordinary_gan_takes_the_gradient_of_a_mean():
  """What it is compared with does the same work: D's step is the formula, without clipping."""
  gan = load('ordinary_gan').make_gan(small(), ordinary=True)
  state = gan.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (50, 28, 28, 1), np.uint8))
  labels = jnp.asarray(rng.integers(0, 10, 50, np.int32))
  after, metrics = jax.jit(gan._d_step)(state, images, labels)
  real, real_labels = gan.real_batch(state, images, labels)
  fakes, fake_labels, _ = gan._fakes(state.g, gan._fake_key(state, 0), gan.fake_batch_size)

  def loss(params):
    on_real = gan.logits(params, real, real_labels)
    on_fake = gan.logits(params, fakes, fake_labels)
    return jnp.mean(jax.nn.softplus(-on_real)) + jnp.mean(jax.nn.softplus(on_fake))

  assert float(metrics.d_loss_real) == pytest.approx(float(loss(state.d_params)), rel=1e-5)
  want = gan.take(state, jax.grad(loss)(state.d_params))
  for a, b in zip(jax.tree.leaves(after.d_params), jax.tree.leaves(want.d_params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert int(after.step) == int(after.pace.waited) == 1
