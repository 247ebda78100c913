"""A generator that learns, from released moments alone, to make images that have them.

Codes are drawn of the Gaussians of each class, and the generator (`networks.matcher`) makes images
of them. Two things are asked of it: that the code of an image is near the code that it was made of,
so that images are as different as codes are; and that means and covariances of the images' codes,
class by class, are those released. Not every code is that of an image: the second mends what the
first cannot reach. No record has a part in it: it is post-processing, however many steps it takes.

Of what the generator's images have now, against what was released, an average over some steps
before the present one is kept. The gradient of Σ_k ‖mean_k - m_k‖² + ‖covariance_k - S_k‖² is made
with it: averages of the same batch would ask it, besides, to make batches that are alike.

Of what is drawn, an image whose own code is likelier in another class is drawn again, where the
code that it was made of is not: what classes have in common, they keep.

Sources: Li, Swersky & Zemel 2015 (arXiv 1502.02761) for generators that match moments; dos Santos
et al. 2019 (arXiv 1904.02762) for those of fixed features and for the moving averages; Harder et
al. 2021 (arXiv 2002.11603) for doing it with what was released once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _keys
from dpgan_jax.models.moments.images.encoding import Gaussians, ImageEncoding, drawn_cell
from dpgan_jax.models.moments.images.features import Features
from dpgan_jax.models.moments.images.scattering_encoding import AxesEncoding
from dpgan_jax.networks.matcher import TEXTURE, Matcher

Params = Any
# Of these only `_NEARNESS` was compared with others, on held-out training images of MNIST.
_BATCH = 200  # or two of each class
_LEARNING_RATE = 4e-3  # of Adam, falling to 0 by half a cosine
_NEARNESS = 0.6  # the weight of an image's own code, beside that of moments
_REACH = 1.2  # lengths are measured in units of so many root mean squares of them
_SHARPNESS = 0.25  # of a code's places, as the generator sees them, when all vary alike
_KEPT = 0.8  # of the average of moments, from one step to the next
_OF_PARAMS = 0.005  # what a step adds to the average of parameters, which images are made by
_BEFORE_AVERAGING = 200
_AGAIN = 4  # times an image is drawn anew, at most, which seems to be of another class
_MOST_STRAYING = 0.1  # where more are, likelihoods are no guide, and all stay as they are
_SMOOTHED = 0.2  # of a covariance's mean eigenvalue, what is added to all for likelihoods
_STEPS_AT_ONCE = 50  # between two signs of progress, and between two chances to be interrupted


@dataclasses.dataclass(frozen=True)
class Matched:
  """Draws of Gaussians made to images.

  Attributes:
    gaussians: of codes along axes of features, a class each.
    params: of the generator.
  """

  gaussians: Gaussians
  params: Params

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Images uint8 [n, H, W, C]."""
    with jax.numpy_dtype_promotion('standard'):  # features need it
      return self._images(labels, key)

  def _images(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    encoding = self.gaussians.encoding
    assert isinstance(encoding, AxesEncoding)

    def drawn(number: int) -> tuple[np.ndarray, np.ndarray]:
      images, strayed = _judged(
        _module(self.gaussians), encoding.features, self.params, self._arrays,
        jnp.asarray(labels, jnp.int32), jax.random.fold_in(key, number),
      )  # fmt: skip
      return np.array(jnp.round((images + 1) * 127.5), np.uint8), ~np.asarray(strayed)

    images, right = drawn(0)
    for again in range(1, _AGAIN + 1):
      if right.all() or self._strays > _MOST_STRAYING:
        break
      others, fit = drawn(again)
      images[~right] = others[~right]
      right |= fit
    return images

  @functools.cached_property
  def _arrays(self) -> _Arrays:
    return _arrays(self.gaussians)

  @functools.cached_property
  def _strays(self) -> float:
    """The share of 1,000 images that are of another class than their codes."""
    encoding = self.gaussians.encoding
    assert isinstance(encoding, AxesEncoding)
    labels = jnp.arange(1000) % len(self.gaussians.sizes)
    _, strayed = _judged(
      _module(self.gaussians), encoding.features, self.params, self._arrays, labels,
      _keys.from_seed(0),
    )  # fmt: skip
    return float(strayed.mean())


class _Arrays(NamedTuple):
  """What the generator needs of a release; float32."""

  centres: jax.Array  # [K·C, d]: means of cells
  factors: jax.Array  # [K·C, d, d]
  ends: jax.Array  # [K, C], of `Gaussians`
  means: jax.Array  # [K, d], of classes
  covariances: jax.Array  # [K, d, d]
  common: jax.Array  # [d]
  spread: jax.Array  # []: the root mean square distance from it
  directions: jax.Array  # [D, d]
  offset: jax.Array  # [d]
  basis: jax.Array  # [d, H·W·C]: pixels of frequencies
  blank: jax.Array  # [H·W·C]: pixels of the code 0
  whitening: jax.Array  # [K, d, d]: by it, codes of a class vary alike in all directions
  volumes: jax.Array  # [K]: half the logarithm of each covariance's determinant


class _State(NamedTuple):
  params: Params
  average: Params
  adam: Any
  means: jax.Array  # [K, d]: averages of what images have more than was released
  covariances: jax.Array  # [K, d, d]


def abstract_params(encoding: ImageEncoding, classes: int) -> Params:
  """Shapes and dtypes of the generator's parameters."""
  return jax.eval_shape(lambda: _init(_of(encoding, classes), encoding, _keys.from_seed(0)))


def fit(
  gaussians: Gaussians, *, steps: int, key: jax.Array,
  progress: Callable[[float], None] | None = None,
) -> Matched:  # fmt: skip
  """Teaches a generator; deterministic on one machine.

  Args:
    gaussians: of an `AxesEncoding`.
    steps: of Adam, at least 1.
    key: of the start and the draws.
    progress: is told the share that is done, every 50 steps.
  """
  encoding, module, arrays = gaussians.encoding, _module(gaussians), _arrays(gaussians)
  assert isinstance(encoding, AxesEncoding)
  params = jax.jit(_init, static_argnums=(0, 1))(module, encoding, key)
  zeros = jnp.zeros_like(arrays.means), jnp.zeros_like(arrays.covariances)
  state = _State(params, params, _ADAM.init(params), *zeros)
  for first in range(0, steps, _STEPS_AT_ONCE):
    numbers = jnp.arange(first, min(first + _STEPS_AT_ONCE, steps))
    state = _taught(module, encoding.features, state, arrays, numbers, jnp.float32(steps), key)
    if progress is not None:
      jax.block_until_ready(state.params)
      progress((first + len(numbers)) / steps)
  return Matched(gaussians, state.average)


_ADAM = optax.scale_by_adam()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _taught(
  module: Matcher, features: Features, state: _State, arrays: _Arrays,
  numbers: jax.Array, steps: jax.Array, key: jax.Array,
) -> _State:  # fmt: skip
  classes, dim = arrays.means.shape
  each = max(2, _BATCH // classes)
  labels = jnp.repeat(jnp.arange(classes), each)
  unit = _REACH * arrays.spread
  common = arrays.common[jnp.newaxis]
  wanted_means = (arrays.means - common) / unit
  wanted = arrays.covariances / unit**2

  def step(state: _State, number: jax.Array) -> tuple[_State, None]:
    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
      own = jax.random.fold_in(key, number)
      images, asked = _drawn(module, params, arrays, labels, own)
      codes = _codes(features, arrays, images)
      near = jnp.square((codes - asked) / unit).sum(axis=1).mean()
      codes = ((codes - common) / unit).reshape(classes, each, dim)
      means = codes.mean(axis=1)
      around = codes - wanted_means[:, jnp.newaxis]
      covariances = jnp.einsum('kni,knj->kij', around, around) / each
      matched = (state.means * means).sum() + (state.covariances * covariances).sum()
      return 2 * matched + _NEARNESS * near, (means - wanted_means, covariances - wanted)

    gradient, more = jax.grad(loss, has_aux=True)(state.params)
    updates, adam = _ADAM.update(gradient, state.adam)
    rate = _LEARNING_RATE * 0.5 * (1 + jnp.cos(jnp.pi * number / steps))
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    part = jnp.where(number < jnp.minimum(_BEFORE_AVERAGING, steps / 2), 1.0, _OF_PARAMS)
    average = jax.tree.map(lambda a, p: a + part * (p - a), state.average, params)
    means, covariances = (
      _KEPT * old + (1 - _KEPT) * new
      for old, new in zip((state.means, state.covariances), more, strict=True)
    )
    return _State(params, average, adam, means, covariances), None

  return jax.lax.scan(step, state, numbers)[0]


@functools.partial(jax.jit, static_argnums=0)
def _drawn(
  module: Matcher, params: Params, arrays: _Arrays, labels: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Images in [-1, 1] of drawn codes, and the codes [n, d]."""
  dim = arrays.means.shape[1]
  normals = jax.random.normal(key, (len(labels), dim + TEXTURE))
  cell = drawn_cell(labels, arrays.ends, key)
  around = jnp.einsum('nd,ncd->nc', normals[:, :dim], arrays.factors[cell])
  codes = around + arrays.centres[cell]
  seen = (codes - arrays.common[jnp.newaxis]) / arrays.spread * (_SHARPNESS * dim**0.5)
  blurred = jnp.clip(2 * (codes @ arrays.basis + arrays.blank[jnp.newaxis]), -1, 1)
  images: Any = module.apply(params, seen, labels, normals[:, dim:], blurred)
  return images, codes


@functools.partial(jax.jit, static_argnums=(0, 1))
def _judged(
  module: Matcher, features: Features, params: Params, arrays: _Arrays, labels: jax.Array,
  key: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """Images of drawn codes; and which of them are of another class, by likelihoods, though the code
  that they were made of is not: bool [n].
  """
  images, asked = _drawn(module, params, arrays, labels, key)

  def likeliest(codes: jax.Array) -> jax.Array:
    away = codes[:, jnp.newaxis] - arrays.means[jnp.newaxis]
    squares = jnp.square(jnp.einsum('nkd,kde->nke', away, arrays.whitening)).sum(axis=2)
    return jnp.argmax(-squares / 2 - arrays.volumes[jnp.newaxis], axis=1)

  found = likeliest(_codes(features, arrays, images))
  return images, (found != labels) & (likeliest(asked) == labels)


def _codes(features: Features, arrays: _Arrays, images: jax.Array) -> jax.Array:
  """Codes [n, d] of images in [-1, 1]."""
  return features((images + 1) / 2) @ arrays.directions - arrays.offset[jnp.newaxis]


def _arrays(gaussians: Gaussians) -> _Arrays:
  encoding, dim = gaussians.encoding, gaussians.means.shape[1]
  assert isinstance(encoding, AxesEncoding)
  shares = gaussians.sizes / gaussians.sizes.sum(axis=1, keepdims=True)
  cells = gaussians.means.reshape(*shares.shape, dim)
  means = np.einsum('kc,kcd->kd', shares, cells)
  within = gaussians.factors @ gaussians.factors.swapaxes(1, 2)
  covariances = np.einsum('kc,kcij->kij', shares, within.reshape(*shares.shape, dim, dim))
  away = cells - means[:, np.newaxis]
  covariances += np.einsum('kc,kci,kcj->kij', shares, away, away)
  common = means.mean(axis=0)
  squares = np.square(means - common).sum(axis=1) + np.trace(covariances, axis1=1, axis2=2)
  spread = max(math.sqrt(squares.mean()), 1e-6 * encoding.radius)  # records may be all alike
  blank = encoding.pixels(np.zeros((1, dim))).ravel()
  basis = encoding.pixels(np.eye(dim)).reshape(dim, -1) - blank
  values, vectors = np.linalg.eigh(covariances)
  values = np.maximum(values, 0)
  values += _SMOOTHED * values.mean(axis=1, keepdims=True) + 1e-9 * spread**2
  found = (
    gaussians.means, gaussians.factors, gaussians.ends, means, covariances, common, spread,
    encoding.axes.directions, encoding.offset, basis, blank,
    vectors / np.sqrt(values)[:, np.newaxis], np.log(values).sum(axis=1) / 2,
  )  # fmt: skip
  return _Arrays(*(jnp.asarray(array, jnp.float32) for array in found))


def _module(gaussians: Gaussians) -> Matcher:
  return _of(gaussians.encoding, len(gaussians.sizes))


def _of(encoding: Any, classes: int) -> Matcher:
  return Matcher(encoding.shape, classes)


def _init(module: Matcher, encoding: ImageEncoding, key: jax.Array) -> Params:
  none = (
    jnp.zeros((1, encoding.dim)), jnp.zeros(1, jnp.int32), jnp.zeros((1, TEXTURE)),
    jnp.zeros((1, math.prod(encoding.shape))),
  )  # fmt: skip
  return module.init(key, *none)
