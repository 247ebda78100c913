"""GAN losses on logits, and the gradient penalty of the Wasserstein loss.

| name          | D on a real  | D on a fake  | G            | source                          |
| ------------- | ------------ | ------------ | ------------ | ------------------------------- |
| `bce`         | softplus(-l) | softplus(l)  | softplus(-l) | Goodfellow et al. 2014          |
| `hinge`       | max(0, 1 - l) | max(0, 1 + l) | -l         | Lim & Ye 2017, 1705.02894       |
| `wasserstein` | -l           | l            | -l           | Arjovsky et al. 2017, 1701.07875 |

The Wasserstein loss needs a D of bounded slope: by clipping its weights after every step
(`d_weight_clip`, which is post-processing), or by the gradient penalty, which looks at private
images and is therefore a part of each example's own loss, clipped and noised with the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

from dpgan_jax import _keys
from dpgan_jax._plugins import Registry


class Losses(NamedTuple):
  """Loss terms on a logit: D on a real example, D on a fake, G on a fake."""

  d_real: Callable[[jax.Array], jax.Array]
  d_fake: Callable[[jax.Array], jax.Array]
  g: Callable[[jax.Array], jax.Array]


_OWN = {
  'bce': Losses(
    d_real=lambda logit: jax.nn.softplus(-logit),
    d_fake=jax.nn.softplus,
    g=lambda logit: jax.nn.softplus(-logit),
  ),
  'hinge': Losses(
    d_real=lambda logit: jax.nn.relu(1 - logit),
    d_fake=lambda logit: jax.nn.relu(1 + logit),
    g=jnp.negative,
  ),
  'wasserstein': Losses(d_real=jnp.negative, d_fake=lambda logit: logit, g=jnp.negative),
}
LOSSES = Registry('loss', _OWN)
"""By name; a plugin registers its own: `LOSSES.register('mine')(Losses(d_real, d_fake, g))`."""


def gradient_penalty(
  logit: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array, share: jax.Array
) -> jax.Array:
  """(‖∇ D(x̂)‖ - 1)² at a point between a real image and a fake, a scalar.

  Args:
    logit: D as a function of one image.
    real, fake: images [H, W, C].
    share: where between them, in [0, 1]; 1 is the real one.

  Source: Gulrajani et al. 2017 (arXiv 1704.00028), algorithm 1.
  """
  slope = jax.grad(logit)(share * real + (1 - share) * fake)
  # The square root has no gradient at 0, where a discriminator is flat.
  return (jnp.sqrt(jnp.sum(slope**2) + 1e-12) - 1) ** 2


class Partners(NamedTuple):
  """For every slot of a batch: which fake its example is paired with, and the share of the real.

  Attributes:
    fake: int32[cap], an index of a fake.
    share: float32[cap], uniform in [0, 1).
  """

  fake: jax.Array
  share: jax.Array


def partners(key: jax.Array, examples: jax.Array, fakes: int) -> Partners:
  """Pairs examples with fakes by who they are, never by their place in the batch.

  An example's place depends on who else was drawn. Paired by place, one person's absence would
  change the loss of everybody behind them, and with it the sum by far more than the clip norm.

  Nor may it depend on them through the generator (under 'rbg', `vmap` over keys does): the numbers
  of example i are the block cipher of the key at i, 64 bits, computed entry by entry.

  Args:
    key: a public threefry2x32 key of this step.
    examples: int32[cap], the examples' numbers in the data set.
    fakes: how many fakes there are.

  Raises:
    InputError: a key of another generator.
  """
  words = jax.random.key_data(_keys.for_purpose(_keys.require('key', key), 'partners'))
  numbers = examples.astype(jnp.uint32)
  first, second = jnp.split(threefry_2x32(words, jnp.concatenate([numbers, 0 * numbers])), 2)
  # A remainder favours the first fakes by at most fakes · 2⁻³², and fakes are public.
  fake = (first % jnp.uint32(fakes)).astype(jnp.int32)
  return Partners(fake, (second >> 8).astype(jnp.float32) * jnp.float32(2**-24))
