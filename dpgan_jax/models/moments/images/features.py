"""Features of images: low frequencies, and scattering coefficients of order 1.

Frequencies say where an image is bright. Scattering coefficients say as well which strokes and
edges go through each place, and tell classes apart better. No formula leads back from such features
to an image: a generator learns to (`models.moments.images.matching`).

They are in an orthonormal basis that is written down beforehand: cosines over rows and columns of
the image and of the coefficients, waves over their directions, cosines over their scales. How much
frequencies weigh beside coefficients, and which are looked at where there are many, follows from
random ellipses that hide one another, a model of what images have in common. So all of it is
public.

Sources: Bruna & Mallat 2013 (arXiv 1203.1513) for the features; Lee, Mumford & Huang 2001,
"Occlusion models for natural images", for the ellipses ("dead leaves").
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from dpgan_jax.models.moments.images.encoding import COLOURS
from dpgan_jax.networks import scattering
from dpgan_jax.networks.scattering import Scattering

_MOST = 1024
_SCALES, _ANGLES = 2, 8
_FEWEST_FREQUENCIES = 14  # in each direction, where an image has them; else half of what it has
_OF_FREQUENCIES = 1.75  # the variance of frequencies in all, over that of scattering features
_ELLIPSES, _MOST_ELLIPSES = 500, 3
_GREY = 0.25  # the deviation of ellipses' colours from grey
_AT_ONCE = 500
_STEP = 2.0**-16  # of features of records


@dataclasses.dataclass(frozen=True)
class Features:
  """The features of images uint8 [n, H, W, C], C = 1 or 3, that vary most in ellipses, at most
  1,024.

  Attributes:
    shape: (H, W, C).

  Raises:
    InputError: an image too small for any, when they are asked for.
  """

  shape: tuple[int, int, int]

  @property
  def count(self) -> int:
    """D."""
    rows, columns = _frequencies(self.shape)
    channels, *places = _transform(self.shape).output_shape
    return min(_MOST, self.shape[2] * (rows * columns + (channels - 1) * math.prod(places)))

  @property
  def digest(self) -> str:
    """Of which features they are, in which order."""
    chosen = _public(self.shape).order[: self.count]
    return hashlib.sha256(np.asarray(chosen, np.int64).tobytes()).hexdigest()[:16]

  def __call__(self, pixels: jax.Array) -> jax.Array:
    """Features float32 [n, D] of pixels in [0, 1], [n, H, W, C]; can be differentiated."""
    return self._chosen(_features(pixels, self.shape))

  def of_records(self, records: np.ndarray) -> np.ndarray:
    """Features float32 [n, D] of images uint8, whole multiples of 2⁻¹⁶.

    Every image is computed by the same program: to the last bit, its features follow from no other
    image, nor from its place among them.
    """
    found = np.zeros((len(records), self.count), np.float32)
    for start in range(0, len(records), _AT_ONCE):
      part = np.asarray(records[start : start + _AT_ONCE])
      padded = np.zeros((_AT_ONCE, *self.shape), np.float32)  # one shape, one compilation
      padded[: len(part)] = part
      features = self._chosen(_one_by_one(jnp.asarray(padded) / 255, self.shape))
      found[start : start + _AT_ONCE] = np.round(np.asarray(features)[: len(part)] / _STEP) * _STEP
    return found

  def pixels(self, features: np.ndarray) -> np.ndarray:
    """What frequencies among the features [n, D] show: pixels in [-1/2, 1/2] [n, H, W, C]."""
    public, (height, width, channels) = _public(self.shape), self.shape
    chosen = public.order[: self.count]
    every = np.broadcast_to(public.centre, (len(features), len(public.centre))).copy()
    every[:, chosen] += features / public.weights[chosen]
    rows, columns = _frequencies(self.shape)
    full = np.zeros((len(features), height, width, channels))
    full[:, :rows, :columns] = every[:, : rows * columns * channels].reshape(
      -1, rows, columns, channels
    )
    turned = np.asarray(scipy.fft.idctn(full, axes=(1, 2), norm='ortho'))
    return (turned @ COLOURS if channels == 3 else turned) - 0.5

  def _chosen(self, features: jax.Array) -> jax.Array:
    public = _public(self.shape)
    chosen = public.order[: self.count]
    centre, weights = (jnp.asarray(a[chosen])[jnp.newaxis] for a in public[1:])
    return (features[:, chosen] - centre) * weights


class _Public(NamedTuple):
  """What ellipses say of all features."""

  order: np.ndarray
  centre: np.ndarray
  weights: np.ndarray


@functools.cache
def _public(shape: tuple[int, int, int]) -> _Public:
  ellipses = _dead_leaves(shape)
  with jax.ensure_compile_time_eval():  # also where this is asked for inside of jit
    features = np.asarray(_one_by_one(jnp.asarray(ellipses), shape), np.float64)
  centre, variances = features.mean(axis=0), features.var(axis=0)
  frequencies = math.prod(_frequencies(shape)) * shape[2]
  weights = np.ones(len(centre))
  of_scattering = variances[frequencies:].sum()
  weights[:frequencies] = math.sqrt(_OF_FREQUENCIES * of_scattering / variances[:frequencies].sum())
  weights *= math.sqrt(ellipses.var(axis=0).sum() / (variances * weights**2).sum())
  variances *= weights**2
  # Rounded, so that the last digits of another machine do not change the order.
  order = np.argsort(-np.round(4 * np.log2(np.maximum(variances, 1e-12))), kind='stable')
  return _Public(order, centre.astype(np.float32), weights.astype(np.float32))


@functools.partial(jax.jit, static_argnums=1)
def _one_by_one(pixels: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  return jax.lax.map(lambda image: _features(image[jnp.newaxis], shape)[0], pixels)


def _features(pixels: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """All features [n, D] of pixels in [0, 1]: frequencies, then coefficients of order 1."""
  height, width, channels = shape
  x = pixels.astype(jnp.float32)
  if channels == 3:
    x = jnp.matmul(x, jnp.asarray(COLOURS.T, jnp.float32), precision='highest')
  rows, columns = _frequencies(shape)
  down, across = _cosines(height)[:rows], _cosines(width)[:columns]
  low = jnp.einsum('ai,nijc,bj->nabc', down, x, across, precision='highest')
  transform = _transform(shape)
  planes = x.transpose(0, 3, 1, 2).reshape(-1, height, width)
  y = (transform(planes) / transform.usual[None, :, None, None])[:, 1:]
  y = y.reshape(-1, transform.scales, _ANGLES, *y.shape[2:])
  bases = _cosines(transform.scales), _waves(), _cosines(y.shape[3]), _cosines(y.shape[4])
  y = jnp.einsum('xs,ya,zi,wj,nsaij->nxyzw', *bases, y, precision='highest')
  return jnp.concatenate([low.reshape(len(x), -1), y.reshape(len(x), -1)], axis=1)


def _transform(shape: tuple[int, int, int]) -> Scattering:
  scales = scattering.most_scales(*shape[:2], at_most=_SCALES)
  return Scattering(*shape[:2], scales=scales, angles=_ANGLES, order=1)


def _frequencies(shape: tuple[int, int, int]) -> tuple[int, int]:
  """How many of them in either direction are looked at."""
  rows, columns = (min(size, max(_FEWEST_FREQUENCIES, size // 2)) for size in shape[:2])
  return rows, columns


def _cosines(size: int) -> np.ndarray:
  """The orthonormal discrete cosine transform of type 2, float32 [size, size]."""
  return np.asarray(scipy.fft.dct(np.eye(size), axis=0, norm='ortho'), np.float32)


def _waves() -> np.ndarray:
  """An orthonormal Fourier basis over directions, which close into a circle: float32 [L, L]."""
  angles = 2 * math.pi * np.arange(_ANGLES) / _ANGLES
  rows = [np.ones(_ANGLES)]
  for k in range(1, _ANGLES // 2):
    rows += [math.sqrt(2) * np.cos(k * angles), math.sqrt(2) * np.sin(k * angles)]
  rows.append(np.cos(_ANGLES // 2 * angles))
  return np.array(rows, np.float32) / math.sqrt(_ANGLES)


def _dead_leaves(shape: tuple[int, int, int]) -> np.ndarray:
  """Images [n, H, W, C] in [0, 1] of one to three ellipses, the last before the others."""
  height, width, channels = shape
  rng, n = np.random.default_rng(0), _ELLIPSES
  y, x = (np.arange(size, dtype=np.float32) for size in (height, width))

  def uniform(low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

  def colour() -> np.ndarray:
    grey = rng.random((n, 1, 1, 1)) + (channels > 1) * _GREY * rng.normal(size=(n, 1, 1, channels))
    return np.clip(grey, 0, 1).astype(np.float32)

  images = np.broadcast_to(colour(), (n, *shape)).copy()
  for i in range(_MOST_ELLIPSES):
    size = min(height, width) * np.exp(uniform(math.log(0.04), math.log(0.6)))
    stretch, turn = np.exp(uniform(0, math.log(5) / 2)), uniform(0, math.pi)
    down, across = y[:, np.newaxis] - uniform(0, height), x - uniform(0, width)
    along = np.cos(turn) * across + np.sin(turn) * down
    beside = np.cos(turn) * down - np.sin(turn) * across
    distance = np.hypot(along / (size * stretch), beside / (size / stretch))
    inside = np.clip((1 - distance) * size + 0.5, 0, 1)[..., np.newaxis]
    inside *= rng.random((n, 1, 1, 1)) < 1 - i / _MOST_ELLIPSES
    images += inside * (colour() - images)
  return images
