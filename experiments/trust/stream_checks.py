"""Checks that no two draws of a run share random numbers: between steps, purposes and stages.

Looking at a few steps does not see numbers that come again after 256 of them. So these look at a
thousand in a row, and at the steps 2^k and their neighbours up to the last one there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.privacy import transforms
from dpgan_jax.privacy.mechanism import DPMechanism
from experiments.trust import statistical_checks as statistics
from experiments.trust import taint_checks
from experiments.trust.statistical_checks import Violation
from tests.support import draws, nets

LAST = 2**31 - 2  # steps are int32
STEPS = np.unique(
  [*range(1024), *(2**k + d for k in range(10, 31) for d in (-1, 0, 1)), LAST]
).astype(np.int32)


def no_two_steps_share_noise() -> None:
  """Correlations of 256 entries of noise between all pairs of the steps above."""
  transform = transforms.noise_sum(1.0, 1.0, 1.0, jax.random.key(5))
  start = transform.init(jnp.zeros(256))

  def noise(step: jax.Array) -> jax.Array:
    return transform.update(jnp.zeros(256), start._replace(count=step))[0]

  statistics.noise_is_unshared(np.asarray(jax.jit(jax.vmap(noise))(jnp.asarray(STEPS))))


def no_two_steps_share_a_batch() -> None:
  """Correlations of who of 512 joins, each with q = 1/2, between all pairs of the steps above."""
  mechanism = DPMechanism.create(
    num_examples=512, batch_size=256, l2_clip_norm=1.0, noise_multiplier=1.0, steps=LAST, delta=1e-3
  )
  sampler = dataclasses.replace(mechanism, truncated_batch_size=512).sampler

  def joined(step: jax.Array) -> jax.Array:
    batch = sampler(jax.random.key(5), step)
    return jnp.zeros(512).at[batch.indices].add(batch.mask)

  statistics.noise_is_unshared(np.asarray(jax.jit(jax.vmap(joined))(jnp.asarray(STEPS))))


def _keys(model: Any, state: Any, *data: Any) -> Callable[[jax.Array], jax.Array]:
  """step ↦ the keys of all that a step draws; the counts of the state stand at that step."""
  keys = draws.keys_of(model.step, state, *data)
  zeros = [jnp.zeros(x.shape, x.dtype) for x in data]

  def at(step: jax.Array) -> jax.Array:
    def moved(path: Any, leaf: jax.Array) -> jax.Array:
      name = jax.tree_util.keystr(path)
      counts = leaf.dtype == jnp.int32 and leaf.shape == () and ('step' in name or 'count' in name)
      return step if counts and '.pace' not in name else leaf

    return keys(jax.tree_util.tree_map_with_path(moved, state), *zeros)

  return at


def every_draw_of_a_run_has_a_key_of_its_own() -> None:
  """Batches, noise, D's fakes and G's fakes, as many as a step draws, over the steps above."""
  gan = taint_checks.make_gan(**nets.SMALLEST)
  state = jax.jit(lambda key: gan.init(key))(jax.random.key(3))
  images = jax.ShapeDtypeStruct((taint_checks.N, *taint_checks.SHAPE), jnp.uint8)
  at = _keys(gan, state, images, jax.ShapeDtypeStruct((taint_checks.N,), jnp.int32))
  found = np.asarray(jax.jit(jax.vmap(at))(jnp.asarray(STEPS)))
  if found.shape[1] < 6:  # batch, noise, and z and labels of both halves
    raise Violation(f'{found.shape[1]} draws in a step: the check would miss some')
  flat = found.reshape(-1, found.shape[-1])
  if twice := len(flat) - len(np.unique(flat, axis=0)):
    raise Violation(f'{twice} of {len(flat)} keys are used twice')
