"""Small generators that nobody has trained, with the record of a run."""

from __future__ import annotations

import dataclasses

import jax

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.mechanism import DPMechanism

SHAPE, CLASSES = (6, 5, 1), 3
SPEC = Spec(num_records=64, shape=SHAPE, class_names=('cat', 'dog', 'eel'), name='pets')
SEED = 1_234_567_891  # recognisable in a file


def make_mixed() -> GANSynthesizer:
  """Drawn from three generators, of which the middle one draws nothing but grey."""
  one, two = make_model('compact', g_mixture=3), make_model('compact', seed=SEED + 1)
  grey = jax.tree.map(jax.numpy.zeros_like, one.generator)
  return dataclasses.replace(one, past={1: two.generator, 2: grey})


def make_model(name: str, seed: int = SEED, **settings) -> GANSynthesizer:
  config = TrainConfig(
    noise_multiplier=10.0,
    steps=4,
    batch_size=8,
    delta=1e-3,
    latent_dim=4,
    generator=name,
    discriminator=name,
    seed=SEED,
    **settings,
  )
  mechanism = DPMechanism.create(
    num_examples=64, batch_size=8, l2_clip_norm=1.0, noise_multiplier=10.0, steps=4, delta=1e-3
  )
  gan = GAN(config, mechanism, SPEC)
  state = jax.jit(gan.init)(jax.random.key(seed))
  return GANSynthesizer(gan, state.g_average, 3)
