"""Moments before a GAN: what they are made by, and how its generator gets what was released.

The generator (`networks.refiner`) draws of a Gaussian of each class that was released for
`moments_share` of ε, and learns to make images of such draws.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GANState, GeneratorState
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.image_encoding import Gaussians
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.networks.refiner import RELEASED, TEXTURE


def moments_before(config: TrainConfig, spec: Spec) -> Moments | None:
  """The release that `moments_share` asks for, with its mechanisms; none without it.

  Raises:
    InputError: a latent_dim that leaves no coefficients, or more than an image has.
  """
  if config.moments_share is None:
    return None
  _validate.integer(
    'latent_dim', config.latent_dim, minimum=TEXTURE + 1, maximum=TEXTURE + math.prod(spec.shape)
  )
  return _made(config, spec, config.moments_share, config.latent_dim - TEXTURE)


def coefficients(config: TrainConfig, spec: Spec, share: float) -> int:
  """How many of an image's coefficients a release for this share of ε can tell of."""
  return _made(config, spec, share, None).detail


def _made(config: TrainConfig, spec: Spec, share: float, count: int | None) -> Moments:
  assert config.target_epsilon is not None  # TrainConfig has checked it
  return settings.make(
    TrainConfig(
      dataset=config.dataset, method='moments', seed=config.seed, delta=config.delta,
      target_epsilon=share * config.target_epsilon, moments_coefficients=count,
      neighboring_relation=config.neighboring_relation,
    ),
    spec,
  )  # fmt: skip


def begun(state: GANState, model: MomentsSynthesizer) -> GANState:
  """The state before the first step, its generator knowing what was released: post-processing."""
  of_classes = model.model
  assert isinstance(of_classes, Gaussians)
  encoding = of_classes.encoding
  arrays = of_classes.means, of_classes.factors, encoding.basis
  known = {n: jnp.asarray(a, jnp.float32) for n, a in zip(RELEASED, arrays, strict=True)}
  same = {n: (a.shape, a.dtype) for n, a in state.g.batch_stats.items()}
  assert same == {n: (a.shape, a.dtype) for n, a in known.items()}
  # Donated state must not hold a buffer twice.
  again = {name: jnp.asarray(np.array(array)) for name, array in known.items()}
  return state._replace(
    g=GeneratorState(state.g.params, known),
    g_average=GeneratorState(state.g_average.params, again),
  )
