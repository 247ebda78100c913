"""A generator that refines draws of released moments instead of starting from noise.

A Gaussian of each class (`models.moments`) knows which shapes a class has and in which proportions,
but its draws are blurred. Here the first entries of z make such a draw of the class asked for, and
a few small convolutions, which see only what is near a pixel, make it look like an image. So shape,
class and diversity are those of the release, which cost their ε once, and the discriminator's
noisy steps have texture alone to teach. After an idea of FETA-Pro (2026), whose diffusion model
learns from samples of a cheap private model first.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax.networks.layers import Conv, ImageShape, depth_to_space, one_hot, space_to_depth

TEXTURE = 4
"""Entries at the end of z that are no part of the draw: what texture may follow."""
RELEASED = 'centres', 'factors', 'basis'
"""Arrays that are released before the first step and never trained (`Refiner`)."""
_CONTRAST = 1.5  # of the draw within tanh: what it saturates is what images are saturated at


class Refiner(nn.Module):
  """Draws of a Gaussian of each class, refined by three convolutions at half the size; tanh.

  What is released is in the collection 'batch_stats', of K classes, d coefficients and P = H·W·C
  pixel values: `centres` [K, d] and `factors` [K, d, d] of codes, and `basis` [d, P], which makes
  pixels in [-1/2, 1/2] of them. All are zero until they are released. z is [n, d + TEXTURE].
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 32

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
    del train  # nothing here depends on the batch
    height, width, channels = self.image_shape
    draw = self._drawn(z[:, :-TEXTURE].astype(jnp.float32), labels).astype(z.dtype)
    x = space_to_depth(draw)
    texture = z[:, jnp.newaxis, jnp.newaxis, -TEXTURE:]
    x = jnp.concatenate([x, jnp.broadcast_to(texture, (*x.shape[:3], TEXTURE))], axis=-1)
    for _ in range(2):
      x = nn.leaky_relu(Conv(self.width, (3, 3))(x), 0.2)
    # It begins with draws as they are.
    change = Conv(4 * channels, (1, 1), kernel_init=nn.initializers.zeros)(x)
    return jnp.tanh(_CONTRAST * draw + depth_to_space(change)[:, :height, :width])

  def _drawn(self, normals: jax.Array, labels: jax.Array) -> jax.Array:
    """Images in [-1, 1] of normal numbers [n, d]."""
    count, size = normals.shape[1], self.image_shape
    pixels, classes = size[0] * size[1] * size[2], self.num_classes
    shapes = (classes, count), (classes, count, count), (count, pixels)
    centres, factors, basis = (
      jnp.asarray(self.variable('batch_stats', name, jnp.zeros, shape).value)
      for name, shape in zip(RELEASED, shapes, strict=True)
    )
    hot = one_hot(labels, classes, jnp.float32)
    of_all = jnp.einsum('nd,kcd->nkc', normals, factors)  # faster than a matrix for each image
    codes = jnp.einsum('nk,nkc->nc', hot, of_all) + hot @ centres
    return jnp.clip(2 * (codes @ basis), -1, 1).reshape(-1, *size)
