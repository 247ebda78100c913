"""A baseline: the discriminator with noisy activations, which states no (ε, δ).

Triastcyn & Faltings 2018 (arXiv 1803.03148; the report, section 3.3) bound and blur the activations
of the second to last layer of D,

  ã(x) = a(x) / max(‖a(x)‖₂, 1) + N(0, σ²),

and train without noise on gradients. What that is worth in privacy is not accounted here: the noise
of a step is on what D says of an image, while the weights below it follow the image's own gradient,
step after step. So a run with this discriminator has no guarantee, and its report says so.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax import _keys
from dpgan_jax.networks.layers import ImageShape, tutorial_features

WHY_NO_EPSILON = (
  'noise was put on the activations of the discriminator (Triastcyn & Faltings 2018), not on its '
  'gradients. Such noise at training time is not accounted here, so no ε is stated'
)


class NoisyActivations(nn.Module):
  """The report's discriminator, the 32 activations of its dense layer bounded and noisy.

  The noise of an image is drawn from the bits of its pixels and of a bias that every step changes:
  a resumed run draws the same again, and no image's noise depends on the others of its batch.
  """

  image_shape: ImageShape
  num_classes: int
  sigma: float = 1.0

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    del labels
    features = tutorial_features(images)
    bias = self.param('bias', nn.initializers.zeros, (32,), jnp.float32)
    a = nn.relu(nn.Dense(32, use_bias=False)(features) + bias.astype(features.dtype)[None])
    norms = jnp.sqrt(jnp.sum(a * a, axis=-1, keepdims=True) + 1e-12)
    bounded = a / jnp.maximum(norms, 1.0)
    noise = self.sigma * _noise(images, bias, a.shape[1])
    return nn.Dense(1)(bounded + noise.astype(a.dtype))[:, 0]


def _noise(images: jax.Array, bias: jax.Array, width: int) -> jax.Array:
  """Standard normal numbers float32 [n, width], a row for each image."""
  word = _hash(images.reshape(len(images), -1)) + _hash(bias[None])
  root = _keys.from_seed(0)
  return jax.vmap(lambda w: jax.random.normal(jax.random.fold_in(root, w), (width,)))(word)


def _hash(rows: jax.Array) -> jax.Array:
  """A number uint32 [n] of the bits of each row; another place of a value is another number."""
  bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(rows).astype(jnp.float32), jnp.uint32)
  odd = 2 * jnp.arange(rows.shape[1], dtype=jnp.uint32) + 1
  mixed = (bits ^ (bits >> 15)) * (odd * jnp.uint32(2654435761))[None]
  return jnp.sum(mixed ^ (mixed >> 13), axis=1, dtype=jnp.uint32)
