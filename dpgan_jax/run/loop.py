"""Many training steps in one compiled call."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from dpgan_jax.models.gan import GAN, GANState, StepMetrics

Chunk = Callable[[GANState, jax.Array, jax.Array], tuple[GANState, StepMetrics]]


def make_chunk(gan: GAN, length: int) -> Chunk:
  """Compiles `length` steps into one call.

  Returns:
    `chunk(state, images, labels) -> (state, metrics)`, where each metric is float32[length]. The
    state passed in is donated: its memory is reused, and it must not be touched afterwards. The
    host is not involved until the call ends.
  """

  @functools.partial(jax.jit, donate_argnums=0)
  def chunk(state: GANState, images: jax.Array, labels: jax.Array) -> tuple[GANState, StepMetrics]:
    def step(carry: GANState, _: None) -> tuple[GANState, StepMetrics]:
      return gan.step(carry, images, labels)

    return jax.lax.scan(step, state, None, length=length)

  return chunk
