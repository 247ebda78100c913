"""Small GANs on small images of noise, and their steps, each compiled once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.privacy import transforms
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run.stages import make_chunk
from tests.support import nets

N, SHAPE, CLASSES = 60, (8, 8, 1), 3
SPEC = Spec(num_records=N, shape=SHAPE, class_names=('a', 'b', 'c'), name='noise')


def make_gan(*, sigma=1.0, clip=1.0, batch=12, cap=None, **settings) -> GAN:
  settings = {
    'd_steps_per_g_step': 2,
  } | nets.SMALLEST | settings
  config = TrainConfig(
    noise_multiplier=sigma, steps=40, batch_size=batch, l2_clip_norm=clip, delta=1e-3, **settings
  )
  mechanism = DPMechanism.create(
    num_examples=N,
    batch_size=batch,
    truncated_batch_size=cap,
    l2_clip_norm=clip,
    noise_multiplier=sigma,
    steps=40,
    delta=1e-3,
  )
  return GAN(config, mechanism, SPEC)


@functools.cache
def make_dataset():
  """Images of noise and their classes, on the device."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (N, *SHAPE)).astype(np.uint8))
  return images, jnp.asarray((np.arange(N) % CLASSES).astype(np.int32))


def run(gan, dataset, steps, key=0):
  return chunk_of(gan, steps)(init(gan, jax.random.key(key)), *dataset)


@functools.cache
def jitted_init(gan):
  return jax.jit(gan.init)


def init(gan, key):
  return jitted_init(gan)(key)


@functools.cache
def chunk_of(gan, steps):
  return make_chunk(gan, steps)


@functools.cache
def jitted(gan):
  return jax.jit(gan.step)


# D takes plain steps, and none is followed by one of G: tests that look at D share this program.
PLAIN = {
  'sigma': 0.7, 'clip': 0.1, 'd_optimizer': 'sgd', 'd_learning_rate': 1.0, 'd_steps_per_g_step': 9,
}  # fmt: skip


def take_step(gan, state, images, labels):
  return jitted(gan)(state, images, labels)


def max_difference(a, b) -> float:
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(float(jnp.max(jnp.abs(x - y))) for x, y in leaves)


def noise_key(gan, state, step):
  """The key of D's noise at a step."""
  m, now = gan.mechanism, state.d_opt_state[0]._replace(count=jnp.int32(step))
  settings = m.l2_clip_norm, m.noise_multiplier, m.batch_size, m._stream
  return transforms.step_key(now, state.d_params, *settings)
