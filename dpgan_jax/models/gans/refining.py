"""Moments before a GAN: what they are made by, and what they cost.

The generator (`networks.refiner`) draws of a Gaussian of each class that was released for
`moments_share` of ε, and learns to make images of such draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from dpgan_jax import _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.networks.refiner import TEXTURE
from dpgan_jax.privacy.mechanism import DPMechanism


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
      moments_cells=1, neighboring_relation=config.neighboring_relation,
    ),
    spec,
  )  # fmt: skip


def stages(config: TrainConfig, moments: Moments | None) -> Mapping[str, DPMechanism]:
  """The mechanisms of what a generator refines, by name; none of one that refines nothing.

  Raises:
    InputError: the generator refines moments and they are not here, or the other way round: its ε
      would be too small.
  """
  if (moments is None) != (config.moments_share is None):
    raise _validate.InputError(
      f'expected the moments of a generator that refines them, and none of another; got '
      f'{"none" if moments is None else "some"} with moments_share={config.moments_share}'
    )
  return moments.stages if moments else {}
