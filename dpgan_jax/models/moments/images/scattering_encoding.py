"""Images as vectors of scattering features, along axes that follow from a draft of the images.

The draft is a Gaussian of the lowest frequencies of all images together, released first, for a
small part of what class means may cost. Images drawn from it look like nothing, but their features
vary much as those of the records do. Codes are along the axes of most variance of such draws'
features: few numbers say most of what images differ in, and noise is less. Class means and
covariances of codes are then released as those of frequencies are (`images.encoding`).

A code does not depend, to the last bit, on the images that it is computed beside: features and axes
are whole multiples of small powers of two, so that sums of their products are exact, in whatever
order they are made.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from dpgan_jax import _keys, _validate
from dpgan_jax.models.moments.encoding import Axes, Means, digest, divided
from dpgan_jax.models.moments.images.encoding import Gaussians, ImageEncoding
from dpgan_jax.models.moments.images.features import Features

# Of the first release, the part that the draft costs; and of that, the part of its mean.
DRAFT_SHARE, _MEAN_SHARE = 0.1, 0.45
_DRAWS = 5000  # of the draft
_STEP = 2.0**-20  # of axes, whose entries are at most 1: products of features are below 2⁵³ steps
_AT_ONCE = 5000


@dataclasses.dataclass(frozen=True)
class ScatteringEncoding(ImageEncoding):
  """`dim` numbers of each image, once its features' axes are known.

  What `encode` gives are features and low frequencies, [n, D + m]: codes follow from these after
  the draft, in `release_means` and later.

  Attributes: as of `ImageEncoding`, and
    draft_dim: m, how many frequencies the draft is of.

  Raises:
    InputError: more numbers than an image has features, or an image too small for any.
  """

  draft_dim: int = 9

  def __post_init__(self) -> None:
    _validate.integer('dim', self.dim, minimum=1, maximum=self.features.count)
    _validate.integer('draft_dim', self.draft_dim, minimum=1)

  @property
  def features(self) -> Features:
    """All of an image."""
    return Features(self.shape)

  @property
  def draft(self) -> ImageEncoding:
    """Of what the draft is."""
    return ImageEncoding(self.shape, self.draft_dim)

  def along(self, axes: Axes | None) -> AxesEncoding:
    """Of codes, once their axes are known."""
    assert axes is not None  # they are released first
    return AxesEncoding(self.shape, self.dim, self.reach, self.pooled, self.cells, axes=axes)

  def second_group(self, codes: np.ndarray, labels: np.ndarray, means: Means) -> np.ndarray:
    if means.cells is None:
      return labels
    own = self.along(means.axes)
    return own.second_group(own.codes_of(codes), labels, means)

  def encode(self, records: np.ndarray) -> np.ndarray:
    low = self.draft.encode(records).astype(np.float32)
    return np.concatenate([self.features.of_records(records), low], axis=1)

  def release_means(
    self, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """The draft, then `ImageEncoding.release_means` of codes along its axes."""
    of_draft, of_means = _parts(noise_multiplier)
    axes = self.release_axes(
      codes, noise_multiplier=of_draft, secret=secret, purpose=f'draft, {purpose}'
    )
    own = self.along(axes)
    means = own.release_means(
      own.codes_of(codes), labels, classes, noise_multiplier=of_means, secret=secret,
      purpose=f'{purpose} along {digest(*axes)}',
    )  # fmt: skip
    return dataclasses.replace(means, axes=axes)

  def release_axes(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> Axes:
    """Releases mean and covariance of all images' low frequencies, and draws of them what axes
    follow from.
    """
    sigmas = divided(noise_multiplier, _MEAN_SHARE)
    low, none = codes[:, -self.draft_dim :].astype(np.float64), np.zeros(len(codes), np.int64)
    means = self.draft.release_means(
      low, none, 1, noise_multiplier=sigmas[0], secret=secret, purpose=f'means, {purpose}'
    )
    seconds = self.draft.release_products(
      low, none, means, noise_multiplier=sigmas[1], secret=secret, purpose=f'products, {purpose}'
    )
    gaussian = self.draft.model(means, seconds[np.newaxis], (sigmas[0], sigmas[1]))
    return self._axes_of(gaussian)

  def _axes_of(self, gaussian: Gaussians) -> Axes:
    draws = gaussian.draw(np.zeros(_DRAWS, np.int64), _keys.from_seed(0))
    features = self.features.of_records(draws).astype(np.float64)
    centre = features.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(features.T))
    most = slice(None, -self.dim - 1, -1)  # descending
    directions = np.round(vectors[:, most] / _STEP) * _STEP
    variances = np.maximum(variances[most], 1e-9 * variances[-1] + 1e-12)
    return Axes(*(array.astype(np.float32) for array in (directions, centre, variances)))

  def release_products(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    own = self.along(means.axes)
    return own.release_products(
      own.codes_of(codes), labels, means, noise_multiplier=noise_multiplier, secret=secret,
      purpose=purpose,
    )  # fmt: skip

  def noise(self, noise_multiplier: float, scale: float = 1.0) -> tuple[float, float]:
    return super().noise(_parts(noise_multiplier)[1], scale)

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Gaussians:
    of_means = _parts(noise_multipliers[0])[1]
    return self.along(means.axes).model(means, seconds, (of_means, noise_multipliers[1]))


@dataclasses.dataclass(frozen=True, eq=False)
class AxesEncoding(ImageEncoding):
  """Codes along axes of features.

  Attributes: as of `ImageEncoding`, and
    axes: the centre and the directions of codes, in features.
  """

  axes: Axes = dataclasses.field(kw_only=True)

  def __post_init__(self) -> None:
    wanted = self.features.count, self.dim
    if self.axes.directions.shape != wanted:
      raise _validate.InputError(
        f'expected axes {list(wanted)}, got {list(self.axes.directions.shape)}'
      )

  @property
  def features(self) -> Features:
    """All of an image."""
    return Features(self.shape)

  @property
  def radius(self) -> float:
    """Features have the unit of pixels in [0, 1], by ellipses; what is longer is pulled in."""
    return math.sqrt(math.prod(self.shape))

  @property
  def spectrum(self) -> np.ndarray:
    """Variances of the draft's draws."""
    return np.asarray(self.axes.variances, np.float64)

  @functools.cached_property
  def offset(self) -> np.ndarray:
    """The centre's place along the axes, float64 [d]."""
    return self.axes.centre.astype(np.float64) @ self.axes.directions.astype(np.float64)

  def encode(self, records: np.ndarray) -> np.ndarray:
    return self.codes_of(self.features.of_records(records))

  def codes_of(self, encoded: np.ndarray) -> np.ndarray:
    """Codes float64 [n, d] of features [n, D] and whatever stands behind them."""
    directions = self.axes.directions.astype(np.float64)
    codes = np.zeros((len(encoded), self.dim))
    for start in range(0, len(encoded), _AT_ONCE):
      part = encoded[start : start + _AT_ONCE, : len(directions)].astype(np.float64)
      codes[start : start + _AT_ONCE] = part @ directions
    codes -= self.offset
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    return codes * (self.radius / np.maximum(lengths, self.radius))

  def pixels(self, codes: np.ndarray) -> np.ndarray:
    """What frequencies among the features show; in [-1/2, 1/2]."""
    return self.features.pixels(self.axes.centre + codes @ self.axes.directions.T)


def _parts(noise_multiplier: float) -> tuple[float, ...]:
  """σ of the draft, and of all that class means are released by."""
  return divided(noise_multiplier, DRAFT_SHARE)
