"""Public encodings of records as vectors whose moments are released.

An encoding is a function of one record at a time and of public numbers only, so it costs no
privacy. Two releases are made of each class: sums, and then sums of products, which the first may
have a part in. `Encoding` says what both are of, and what follows from them.

Images are encoded by their lowest spatial frequencies: the type-2 discrete cosine transform of each
channel, colour as luminance and two chroma channels, whose frequencies count double, as in JPEG.
What is left out is what noise would drown. Each class becomes a Gaussian.

>>> import numpy as np
>>> encoding = ImageEncoding((8, 8, 1), 64)
>>> images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
>>> codes = encoding.encode(images)
>>> codes.shape, bool((encoding.decode(codes) == images).all())
((1, 64), True)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Protocol

import jax
import numpy as np
import scipy.fft

from dpgan_jax import _validate
from dpgan_jax.models.moments import denoise
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.releases import second_moments

# Rows are orthonormal: luminance, then blue-yellow and red-green differences.
_COLOURS = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
_CHROMA = 2.0  # the frequency of a chroma coefficient counts as so many of luminance
# A guess, for all data alike, of how far a pixel is from its class's mean, as a share of the range.
# An image that is farther in all is pulled in; a larger one means more noise for everybody.
_SPREAD = 0.25


@dataclasses.dataclass(frozen=True)
class Means:
  """What the first release gives.

  Attributes:
    counts: float64 [K], noisy numbers of records.
    sums: float64 [G, d], noisy sums of what the encoding says a record adds: of each class, or
      of all together.
  """

  counts: np.ndarray
  sums: np.ndarray


class Model(Protocol):
  """What records are drawn from, once both releases are known; it follows from them alone."""

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Records [n, ...] of the classes `labels` int64 [n]."""
    ...


class Encoding(Protocol):
  """What a kind of records has to say for its moments to be released.

  Attributes:
    dim: d, how many sums the first release has of a class, or of all.
    second_dim: s, of the s × s sums of products that the second has.
    prefixes: of the d sums, how many of the first say most of what tells classes apart, in several
      guesses; the last is d.
  """

  @property
  def dim(self) -> int: ...

  @property
  def second_dim(self) -> int: ...

  @property
  def prefixes(self) -> tuple[int, ...]: ...

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Records [n, ...] → codes [n, ...], each by itself, by public constants."""
    ...

  def groups(self, classes: int) -> int:
    """G, how many times d sums the first release has: of each class, or once of all of them."""
    ...

  def release_means(
    self, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """The first release, one Gaussian mechanism together."""
    ...

  def release_products(
    self, codes: np.ndarray, label: int, means: Means, *, noise_multiplier: float, secret: bytes,
    purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Sums of products, float64 [s, s], of records of one class, after the first release."""
    ...

  def noise(self, noise_multiplier: float) -> tuple[float, float]:
    """Standard deviations of the noise in a count, and in each sum."""
    ...

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    """Of what a record adds to the sums, within its class, float64 [d]."""
    ...

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Model:
    """What the releases say: seconds float64 [K, s, s], and σ of the first and the second."""
    ...


class Summing(Protocol):
  """An encoding whose first release is one of each class; a record is in one of them."""

  def release_sums(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """(count, sums float64 [d]) of records of one class: one Gaussian mechanism together."""
    ...


class ByClass:
  """What `Summing` encodings have in common."""

  def groups(self, classes: int) -> int:
    """One of each class."""
    return classes

  def release_means(
    self: Summing, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """`release_sums` of each class."""
    found = [
      self.release_sums(
        codes[labels == k], noise_multiplier=noise_multiplier, secret=secret,
        purpose=f'{purpose} of class {k}',
      )
      for k in range(classes)
    ]  # fmt: skip
    counts, sums = zip(*found, strict=True)
    return Means(np.array(counts), np.stack(sums))


def weights(dim: int) -> tuple[float, float]:
  """(a, b), a² + b² = 1, of a vector (a·x, b) whose sum gives a mean of x, ‖x‖ ≤ 1.

  The error of a mean that comes of noise in the sum has d coordinates, that of noise in the count
  one, and b² = 1/(1 + √d) makes their sum least.
  """
  in_count = 1 / math.sqrt(1 + math.sqrt(dim))
  return math.sqrt(1 - in_count**2), in_count


@dataclasses.dataclass(frozen=True)
class ImageEncoding(ByClass):
  """The `dim` lowest frequencies of images uint8 [n, H, W, C], C = 1 or 3.

  Attributes:
    shape: (H, W, C).
    dim: d ≤ H·W·C.

  Raises:
    InputError: more coefficients than an image has.
  """

  shape: tuple[int, int, int]
  dim: int

  def __post_init__(self) -> None:
    _validate.integer('dim', self.dim, minimum=1, maximum=math.prod(self.shape))

  @property
  def second_dim(self) -> int:
    """As many as coefficients."""
    return self.dim

  @property
  def prefixes(self) -> tuple[int, ...]:
    """Low frequencies first."""
    return (*(m for m in (4, 8, 16, 32, 64, 128, 256) if m < self.dim), self.dim)

  @property
  def radius(self) -> float:
    """Pixels lie within 1/2 of the centre of their range, so no code is longer than this."""
    return 0.5 * math.sqrt(math.prod(self.shape))

  @property
  def spread(self) -> float:
    """A quarter of the range in every pixel."""
    return _SPREAD * math.sqrt(math.prod(self.shape))

  @property
  def spectrum(self) -> np.ndarray:
    """Falls as 1/f² (Field 1987), for photographs and drawings alike."""
    kept, frequencies = self._kept
    lowest = 0.5 / max(self.shape[:2])
    return 1 / np.maximum(frequencies[kept], lowest) ** 2

  def encode(self, records: np.ndarray) -> np.ndarray:
    pixels = np.asarray(records, np.float64) / 255 - 0.5
    codes = np.asarray(scipy.fft.dctn(self._turned(pixels), axes=(1, 2), norm='ortho'))
    return codes.reshape(len(codes), math.prod(self.shape))[:, self._kept[0]]

  def release_sums(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """Sensitivity 1: a record's vector is (a·x/R, b) of `weights`, and ‖x‖ ≤ R."""
    in_sum, in_count = weights(self.dim)
    own = codes * (in_sum / self.radius)
    vectors = np.concatenate([own, np.full((len(own), 1), in_count)], axis=1)
    released = exact_noise.release_sum(
      vectors, l2_sensitivity=1.0, noise_multiplier=noise_multiplier, secret=secret,
      purpose=purpose,
    )  # fmt: skip
    return released[-1] / in_count, released[:-1] * (self.radius / in_sum)

  def noise(self, noise_multiplier: float) -> tuple[float, float]:
    in_sum, in_count = weights(self.dim)
    return noise_multiplier / in_count, noise_multiplier * self.radius / in_sum

  def release_products(
    self, codes: np.ndarray, label: int, means: Means, *, noise_multiplier: float, secret: bytes,
    purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Of codes around their class's mean as released, clipped to `spread`."""
    return second_moments.release_second_moments(
      codes - self.centres(means)[label], l2_bound=self.spread, noise_multiplier=noise_multiplier,
      secret=secret, purpose=purpose,
    )  # fmt: skip

  def centres(self, means: Means) -> np.ndarray:
    """The mean code of each class, no longer than a code can be: float64 [K, d]."""
    centres = means.sums / np.maximum(means.counts, 1.0)[:, np.newaxis]
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    return centres * np.minimum(1, self.radius / np.maximum(lengths, 1e-300))

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    total = np.maximum(means.counts, 1.0).sum()
    return np.maximum(np.diagonal(seconds.sum(axis=0)) / total, 0)

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Gaussians:
    deviation = noise_multipliers[1] * self.spread**2
    found = denoise.covariances(means.counts, seconds, deviation, self.spectrum)
    values, vectors = np.linalg.eigh(found)
    factors = vectors * np.sqrt(np.maximum(values, 0))[:, np.newaxis]
    return Gaussians(self, self.centres(means), factors)

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """Codes [n, d] → the nearest images uint8 [n, H, W, C]."""
    full = np.zeros((len(codes), math.prod(self.shape)))
    full[:, self._kept[0]] = codes
    shaped = full.reshape(-1, *self.shape)
    turned = np.asarray(scipy.fft.idctn(shaped, axes=(1, 2), norm='ortho'))
    pixels = turned @ _COLOURS if self.shape[2] == 3 else turned
    return np.round(np.clip(pixels + 0.5, 0, 1) * 255).astype(np.uint8)

  def _turned(self, pixels: np.ndarray) -> np.ndarray:
    return pixels @ _COLOURS.T if self.shape[2] == 3 else pixels

  @functools.cached_property
  def _kept(self) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of an image's transform a code has, in order; and the frequency of every entry,
    in cycles a pixel.
    """
    height, width, channels = self.shape
    down, across = np.arange(height) / (2 * height), np.arange(width) / (2 * width)
    radial = np.hypot(down[:, np.newaxis], across)[..., np.newaxis]
    weights = np.ones(channels)
    weights[1:] = _CHROMA
    frequencies = np.maximum(radial, 0.25 / max(height, width)) * weights
    frequencies = frequencies.ravel()
    return np.argsort(frequencies, kind='stable')[: self.dim], frequencies


@dataclasses.dataclass(frozen=True)
class Gaussians:
  """A Gaussian of codes for each class.

  Attributes:
    encoding: of images.
    means: float64 [K, d].
    factors: float64 [K, d, d]; z ↦ mean + factor·z has the class's covariance.
  """

  encoding: ImageEncoding
  means: np.ndarray
  factors: np.ndarray

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Images uint8 [n, H, W, C]."""
    normals = np.asarray(jax.random.normal(key, (len(labels), self.encoding.dim)), np.float64)
    codes = self.means[labels]
    for k in np.unique(labels):
      own = np.flatnonzero(labels == k)
      codes[own] += normals[own] @ self.factors[k].T
    return self.encoding.decode(codes)
