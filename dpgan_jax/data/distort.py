"""Samples turned, shifted, scaled and sheared a little at random: more varied, each less like a
real image.

A private generator draws fewer ways of writing a digit than people have. Small changes of geometry
that do not change what an image shows add some of what it lacks, so that classifiers trained on
the samples get more real images right. It looks at samples only: post-processing, at no privacy
cost. How much it helps, and what it costs in likeness, is in experiments/results/QUALITY.md.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _keys, _validate

TURN, SHIFT, SCALE, SHEAR = 12.0, 1.5 / 28, 0.12, 0.15
"""The most of each: degrees, of the image's side, relative, relative. Small enough for any class of
images that is recognised upright; chosen on held-out training images of MNIST."""

_FINER = 3  # times; linear interpolation between an image's own pixels would blur it
_AT_ONCE, _BYTES = 2_000, 2**28
_KEY = 0x64697374  # 'dist': no part of the key that the images may have been drawn with


def distort(images: np.ndarray, key: jax.Array) -> np.ndarray:
  """Distorts every image in its own way, uniformly up to the above; what leaves it is lost, and
  what enters continues its border.

  Args:
    images: uint8 [n, H, W, C].
    key: a typed key; the same one distorts the same images in the same way.

  Returns:
    uint8 [n, H, W, C].
  """
  if images.ndim != 4:
    raise _validate.InputError('expected images to distort, got rows of a table')
  parts, key = [], jax.random.fold_in(_keys.require('key', key), _KEY)
  bytes_of_one = 4 * _FINER**2 * math.prod(images.shape[1:])
  at_once = max(1, min(_AT_ONCE, _BYTES // bytes_of_one))
  for start in range(0, len(images), at_once):
    part = images[start : start + at_once]
    filled = np.zeros((at_once, *images.shape[1:]), np.uint8)  # one shape, one compilation
    filled[: len(part)] = part
    moved = _distort(jnp.asarray(filled), jax.random.fold_in(key, start))
    parts.append(np.asarray(moved)[: len(part)])
  return np.concatenate(parts) if parts else images.copy()


@jax.jit
def _distort(images: jax.Array, key: jax.Array) -> jax.Array:
  n, height, width, channels = images.shape
  turn, scale, shear, down, right = jax.random.uniform(key, (5, n), minval=-1.0, maxval=1.0)
  middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
  rows, columns = jnp.meshgrid(
    jnp.arange(height) - middle_row, jnp.arange(width) - middle_column, indexing='ij'
  )

  def one(image, turn, scale, shear, down, right):
    # Each place in the new image gets the brightness of a place in the old one.
    angle, shrink = jnp.deg2rad(TURN * turn), 1 / (1 + SCALE * scale)
    slanted = columns + SHEAR * shear * rows  # as handwriting is
    old_rows = shrink * (jnp.cos(angle) * rows - jnp.sin(angle) * slanted)
    old_columns = shrink * (jnp.sin(angle) * rows + jnp.cos(angle) * slanted)
    finer = jax.image.resize(
      image.astype(jnp.float32), (_FINER * height, _FINER * width, channels), 'cubic'
    )
    places = [  # in the finer image, whose pixels begin where the image's do
      _FINER * (old_rows + middle_row + SHIFT * height * down + 0.5) - 0.5,
      _FINER * (old_columns + middle_column + SHIFT * width * right + 0.5) - 0.5,
    ]
    look = functools.partial(
      jax.scipy.ndimage.map_coordinates, coordinates=places, order=1, mode='nearest'
    )
    return jax.vmap(look, in_axes=-1, out_axes=-1)(jnp.clip(finer, 0, 255))

  moved = jax.vmap(one)(images, turn, scale, shear, down, right)
  return jnp.clip(jnp.round(moved), 0, 255).astype(jnp.uint8)
