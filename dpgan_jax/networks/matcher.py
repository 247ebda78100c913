"""A generator that makes images of codes with released moments (`models.moments.images.matching`).

A code says which low frequencies and which scattering features an image should have. The image of
its low frequencies alone is blurred. Dense layers, which see the whole code, and small
convolutions, which see that image too, make it sharp.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax.networks.layers import Conv, ImageShape, depth_to_space, one_hot, space_to_depth

TEXTURE = 8
"""Normal numbers of each image that are no part of its code."""
_CONTRAST = 1.5  # of the blurred image within tanh: what it saturates is what images saturate at


class Matcher(nn.Module):
  """codes [n, d], labels int32 [n], texture [n, TEXTURE], blurred [n, H·W·C] → images [n, H, W, C],
  all pixels in [-1, 1].
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 16
  hidden: int = 512

  @nn.compact
  def __call__(
    self, codes: jax.Array, labels: jax.Array, texture: jax.Array, blurred: jax.Array
  ) -> jax.Array:
    height, width, channels = self.image_shape
    blurred = blurred.reshape(-1, height, width, channels)
    halved = space_to_depth(blurred)
    rows, columns = halved.shape[1:3]
    hot = one_hot(labels, self.num_classes, codes.dtype)
    x = jnp.concatenate([codes, texture, hot], axis=-1)
    x = nn.LayerNorm()(nn.leaky_relu(nn.Dense(self.hidden)(x), 0.2))
    x = nn.LayerNorm()(x + nn.leaky_relu(nn.Dense(self.hidden)(x), 0.2))
    x = nn.Dense(rows * columns * 4 * channels)(x).reshape(halved.shape)
    x = jnp.concatenate([halved, x], axis=-1)
    for _ in range(2):
      x = nn.leaky_relu(Conv(self.width, (3, 3))(x), 0.2)
    # It begins with what is blurred as it is.
    change = Conv(4 * channels, (3, 3), kernel_init=nn.initializers.zeros)(x)
    return jnp.tanh(_CONTRAST * blurred + depth_to_space(change)[:, :height, :width])
