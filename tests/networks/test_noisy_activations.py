"""dpgan_jax.networks.noisy_activations: the formula, noise of an image alone, and no ε anywhere."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks import discriminators, noisy_activations, per_example
from dpgan_jax.networks.noisy_activations import NoisyActivations

SHAPE = (8, 8, 1)
IMAGES = jax.random.uniform(jax.random.key(0), (1000, *SHAPE), minval=-1)
LABELS = jnp.zeros(len(IMAGES), jnp.int32)


def logits_of(module, params, images=IMAGES):
  return jax.jit(module.apply)(params, images, LABELS[: len(images)])


def test_activations_are_bounded_then_noised():
  quiet, noisy = NoisyActivations(SHAPE, 10, sigma=0.0), NoisyActivations(SHAPE, 10, sigma=2.0)
  params = quiet.init(jax.random.key(1), IMAGES[:2], LABELS[:2])
  # Activations of any length give a logit no longer than the last kernel.
  large = jax.tree.map(lambda p: 100 * p, params)
  kernel = large['params']['Dense_1']['kernel']
  assert float(jnp.abs(logits_of(quiet, large)).max()) <= float(jnp.linalg.norm(kernel))
  added = np.asarray(logits_of(noisy, params) - logits_of(quiet, params))
  wanted = 2.0 * float(jnp.linalg.norm(params['params']['Dense_1']['kernel']))
  # 1,000 draws: the deviation is known to 2.2 %, the mean to 0.032 of it (one standard error).
  assert added.std() == pytest.approx(wanted, rel=0.12)
  assert abs(added.mean()) < 0.16 * wanted


@pytest.mark.slow  # test_networks looks at each image alone
def test_noise_is_of_one_image_and_of_the_weights():
  module = NoisyActivations(SHAPE, 10)
  params = module.init(jax.random.key(1), IMAGES[:2], LABELS[:2])
  alone = logits_of(module, params, IMAGES[:1])
  among = logits_of(module, params, IMAGES[:50])[:1]
  np.testing.assert_allclose(alone, among, rtol=1e-5)
  per_example.require_per_example(module, IMAGES[:2], LABELS[:2])
  stepped = jax.tree.map(lambda p: p + 1e-6, params)
  noise = jax.jit(lambda p: noisy_activations._noise(IMAGES, p['params']['bias'], 32))
  correlation = np.corrcoef(noise(params).ravel(), noise(stepped).ravel())[0, 1]
  assert abs(correlation) < 5 / math.sqrt(32 * len(IMAGES))


@pytest.mark.parametrize('budget', [{'target_epsilon': 2.0}, {'noise_multiplier': 1.0}])
def test_no_budget_can_be_asked_for(budget):
  with pytest.raises(InputError, match=r'expected target_epsilon=inf .* not accounted here'):
    TrainConfig(generator='report', discriminator='noisy_activations', steps=10, **budget)


def test_its_runs_say_why_there_is_no_epsilon():
  assert 'no ε is stated' in discriminators.UNACCOUNTED['noisy_activations']
