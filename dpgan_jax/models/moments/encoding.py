"""Public, invertible encodings of records as vectors whose moments are released.

An encoding is a function of one record at a time and of public numbers only, so it costs no
privacy. Images are encoded by their lowest spatial frequencies: the type-2 discrete cosine
transform of each channel, colour as luminance and two chroma channels, whose frequencies count
double, as in JPEG. What is left out is what noise would drown.

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

# Rows are orthonormal: luminance, then blue-yellow and red-green differences.
_COLOURS = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
_CHROMA = 2.0  # the frequency of a chroma coefficient counts as so many of luminance
# A guess, for all data alike, of how far a pixel is from its class's mean, as a share of the range.
# An image that is farther in all is pulled in; a larger one means more noise for everybody.
_SPREAD = 0.25


class Encoding(Protocol):
  """What a kind of records has to say for its moments to be released.

  Attributes:
    dim: d, the length of a code.
    radius: a bound on the norm of every code, by construction.
    spread: what codes are clipped to around their class's mean; public.
    spectrum: float64 [d], a public guess of the codes' variances, up to a factor.
  """

  @property
  def dim(self) -> int: ...

  @property
  def radius(self) -> float: ...

  @property
  def spread(self) -> float: ...

  @property
  def spectrum(self) -> np.ndarray: ...

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Records [n, ...] → codes float64 [n, d]."""
    ...

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """Codes [n, d] → the nearest records [n, ...]."""
    ...


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

  def decode(self, codes: np.ndarray) -> np.ndarray:
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
