"""What a loop of one's own puts around the noise: it must see noisy gradients alone, one draw each.

The rows of the table put something else in the place of the two functions below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax.privacy import transforms
from experiments.trust.statistical_checks import Violation


def held(noise: Any) -> Any:
  """The noise, and what is done with what comes out of it."""
  return optax.chain(noise, optax.sgd(1.0))


def mechanized(noise: Any) -> Any:
  """Its step sizes follow products with the sum as it was before the noise."""
  return optax.contrib.mechanize(optax.chain(noise, optax.sgd(1.0)))


def accumulated(noise: Any) -> Any:
  """One draw for four batches, or four for one."""
  return optax.MultiSteps(optax.chain(noise, optax.sgd(1.0)), 4)


def around(optimizer: Any) -> dict[str, Any]:
  """What a step hands to the optimizer beside the sum."""
  del optimizer
  return {}


def loss_of_the_records(optimizer: Any) -> dict[str, Any]:
  """As `optax.contrib.reduce_on_plateau`, Polyak steps and line searches want it."""
  del optimizer
  return {'value': jnp.float32(1.0)}


def each(update: Callable[..., jax.Array], sums: jax.Array) -> jax.Array:
  """One update after the other, each from the state that the last one left."""
  return jnp.stack([update(total, step) for step, total in enumerate(sums)])


def all_at_once(update: Callable[..., jax.Array], sums: jax.Array) -> jax.Array:
  """The parts of a batch under `jax.vmap`, from one state."""
  return jax.vmap(lambda total: update(total, 0))(sums)


def optimizers_see_noisy_sums_alone() -> None:
  """One step of an optimizer around the noise."""
  params = jnp.zeros(4)
  optimizer = held(transforms.noise_sum(1.0, 1.0, 4, jax.random.key(0)))
  state = optimizer.init(params)
  optimizer.update(jnp.ones(4), state, params, **around(optimizer))


def sums_of_one_key_have_noise_of_their_own() -> None:
  """The updates of equal sums differ."""
  noise = transforms.noise_sum(1.0, 1.0, 4, jax.random.key(0))
  state: Any = noise.init(jnp.zeros(64))

  def update(total: jax.Array, step: int) -> Any:
    return noise.update(total, state._replace(count=jnp.int32(step)))[0]

  first, second = np.asarray(each(update, jnp.zeros((2, 64))))
  if (first == second).any():
    raise Violation('two sums got the same noise')
