"""Public encodings of records as vectors whose moments are released.

An encoding is a function of one record at a time and of public numbers only, so it costs no
privacy. Two releases are made of each class: sums, from which means follow, and then second moments
of scores, which the means have a part in. `Encoding` says what both are of.

Images are encoded by their lowest spatial frequencies: the type-2 discrete cosine transform of each
channel, colour as luminance and two chroma channels, whose frequencies count double, as in JPEG.
What is left out is what noise would drown. Their scores are codes around their class's mean.

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

import numpy as np
import scipy.fft

from dpgan_jax import _validate
from dpgan_jax.privacy import exact_noise

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
    sums: float64 [K, d], noisy sums of what the encoding says a record adds.
  """

  counts: np.ndarray
  sums: np.ndarray


class Scores(Protocol):
  """What the second release is of, once the first is known; all of it follows from that.

  Attributes:
    dim: s, the length of a record's scores.
    spread: what scores are clipped to; public.
    spectrum: float64 [s], a public guess of their variances, up to a factor.
    centres: float64 [K, d], what a record of each class adds to the first release on average.
  """

  @property
  def dim(self) -> int: ...

  @property
  def spread(self) -> float: ...

  @property
  def spectrum(self) -> np.ndarray: ...

  @property
  def centres(self) -> np.ndarray: ...

  def of(self, codes: np.ndarray, label: int) -> np.ndarray:
    """Codes of records of one class → scores float64 [n, s], about 0 on average."""
    ...

  def variances(self, covariance: np.ndarray) -> np.ndarray:
    """Of what a record adds to the first release, within classes, float64 [d].

    Args:
      covariance: float64 [s, s], of the scores of all classes, as released.
    """
    ...

  def factor(self, covariance: np.ndarray, label: int) -> np.ndarray:
    """A matrix float64 [s, s] that turns standard normals into what `decode` takes.

    Args:
      covariance: float64 [s, s], of the scores of this class, without noise as well as can be.
      label: the class.
    """
    ...

  def decode(self, draws: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draws [n, s] of the classes `labels` [n] → records [n, ...]."""
    ...


class Encoding(Protocol):
  """What a kind of records has to say for its moments to be released.

  Attributes:
    dim: d, how many sums are released of a class.
    scores: s, how many scores a record has in the second release.
    prefixes: of the sums, how many of the first say most of what tells classes apart, in several
      guesses; the last is d.
  """

  @property
  def dim(self) -> int: ...

  @property
  def scores(self) -> int: ...

  @property
  def prefixes(self) -> tuple[int, ...]: ...

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Records [n, ...] → codes [n, ...], each by itself, by public constants."""
    ...

  def release(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """(count, sums float64 [d]) of records of one class: one Gaussian mechanism together."""
    ...

  def noise(self, noise_multiplier: float) -> tuple[float, float]:
    """Standard deviations of the noise in a count, and in each sum."""
    ...

  def fitted(self, means: Means, noise_multiplier: float) -> Scores:
    """What the second release is of, after a first one with this noise."""
    ...


def weights(dim: int) -> tuple[float, float]:
  """(a, b), a² + b² = 1, of a vector (a·x, b) whose sum gives a mean of x, ‖x‖ ≤ 1.

  The error of a mean that comes of noise in the sum has d coordinates, that of noise in the count
  one, and b² = 1/(1 + √d) makes their sum least.
  """
  in_count = 1 / math.sqrt(1 + math.sqrt(dim))
  return math.sqrt(1 - in_count**2), in_count


@dataclasses.dataclass(frozen=True)
class ImageEncoding:
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
  def scores(self) -> int:
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

  def release(
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

  def fitted(self, means: Means, noise_multiplier: float) -> ImageScores:
    """The distance from the class's mean, which is no longer than a code can be."""
    del noise_multiplier
    centres = means.sums / np.maximum(means.counts, 1.0)[:, np.newaxis]
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    return ImageScores(self, centres * np.minimum(1, self.radius / np.maximum(lengths, 1e-300)))

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
class ImageScores:
  """Codes of images around the means of their classes.

  Attributes:
    encoding: of the images.
    centres: float64 [K, d].
  """

  encoding: ImageEncoding
  centres: np.ndarray

  @property
  def dim(self) -> int:
    """As many as coefficients."""
    return self.encoding.dim

  @property
  def spread(self) -> float:
    """A quarter of the range in every pixel."""
    return self.encoding.spread

  @property
  def spectrum(self) -> np.ndarray:
    """That of images."""
    return self.encoding.spectrum

  def of(self, codes: np.ndarray, label: int) -> np.ndarray:
    return codes - self.centres[label]

  def variances(self, covariance: np.ndarray) -> np.ndarray:
    return np.maximum(np.diagonal(covariance), 0)

  def factor(self, covariance: np.ndarray, label: int) -> np.ndarray:
    del label
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))

  def decode(self, draws: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return self.encoding.decode(self.centres[labels] + draws)
