"""What a private classifier sees of an image: a fixed, public function of that image alone.

It is computed once for a whole data set, before training, and costs no privacy. No number in it
comes from the data set: no mean, no variance, no maximum over examples.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.networks import scattering

_ROWS_AT_ONCE = 2000


def input_shape(config: ClassifierConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Shape of one example as `prepare` makes it, from the (H, W, C) of an image."""
  if config.features == 'pixels':
    return shape
  height, width, colours = shape
  transform = scattering.Scattering(height, width, scales=config.scales, angles=config.angles)
  channels, rows, columns = transform.output_shape
  return rows, columns, colours * channels


def prepare(config: ClassifierConfig, images: np.ndarray) -> np.ndarray:
  """The model's inputs: a fixed public function of each image alone, so it costs no privacy.

  Args:
    config: the settings.
    images: uint8 [N, H, W, C].

  Returns:
    uint8 [N, H, W, C] for pixels; float32 [N, height', width', channels], each example of norm 1,
    for scattering.
  """
  if config.alignment == 'deskew':
    images = deskew(images)
  if config.features == 'pixels':
    return images
  height, width = images.shape[1:3]
  transform = scattering.Scattering(height, width, scales=config.scales, angles=config.angles)
  features = scattering.of_images(transform, images)
  for start in range(0, len(features), _ROWS_AT_ONCE):  # in place: a data set's features are large
    part = features[start : start + _ROWS_AT_ONCE]
    part[:] = _root(part)
  return features


def deskew(images: np.ndarray) -> np.ndarray:
  """Shears each image along its rows until its own slant is gone; its centre of mass stays.

  The slant is the regression of column on row, weighted by intensity: image moments of the second
  order (LeCun et al. 1998, section III.A, deslant digits so). At most 45 degrees.

  Args:
    images: uint8 [N, H, W, C], bright on dark.

  Returns:
    uint8 [N, H, W, C], linearly interpolated along rows; zeros come in at the sides.
  """
  parts = [
    _deskew(images[start : start + _ROWS_AT_ONCE]) for start in range(0, len(images), _ROWS_AT_ONCE)
  ]
  return np.concatenate(parts) if parts else images


def _deskew(images: np.ndarray) -> np.ndarray:
  height, width = images.shape[1:3]
  weight = images.sum(axis=-1, dtype=np.float64)
  rows, columns = np.arange(height)[:, None], np.arange(width)
  mass = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1e-9)
  row = rows - (weight * rows).sum(axis=(1, 2), keepdims=True) / mass
  column = columns - (weight * columns).sum(axis=(1, 2), keepdims=True) / mass
  spread = np.maximum((weight * row * row).sum(axis=(1, 2), keepdims=True), 1e-9)
  slant = np.clip((weight * row * column).sum(axis=(1, 2), keepdims=True) / spread, -1, 1)
  source = columns + slant * row  # [n, H, W]: the column that a pixel is taken from
  left = np.floor(source).astype(int)
  fraction = (source - left)[..., None]

  def at(column: np.ndarray) -> np.ndarray:
    inside = (column >= 0) & (column < width)
    taken = np.take_along_axis(images, np.clip(column, 0, width - 1)[..., None], axis=2)
    return np.where(inside[..., None], taken, 0).astype(np.float64)

  return np.rint((1 - fraction) * at(left) + fraction * at(left + 1)).astype(np.uint8)


def _root(x: np.ndarray) -> np.ndarray:
  """Square roots, which even out large and small coefficients, then unit norm; [n, h, w, c]."""
  roots = np.sqrt(np.maximum(x, 0))
  norms = np.sqrt(np.square(roots).sum(axis=(1, 2, 3), keepdims=True))
  return roots / np.maximum(norms, 1e-6)


def seen(inputs: jax.Array, centre: jax.Array | None) -> jax.Array:
  """The model's input, float32, from prepared examples [n, ...]; inside jit.

  Args:
    inputs: uint8 pixels, which are scaled to [0, 1], or features.
    centre: what to subtract from features, flat; they are scaled to norm 1 again after that. It
      must be public or the output of a mechanism.
  """
  if inputs.dtype == jnp.uint8:
    return inputs.astype(jnp.float32) / 255
  if centre is None:
    return inputs
  x = inputs - centre.reshape(1, *inputs.shape[1:])
  norms = jnp.sqrt(jnp.sum(x * x, axis=(1, 2, 3), keepdims=True))
  return x / jnp.maximum(norms, 1e-6)
