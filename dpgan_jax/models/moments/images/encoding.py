"""Images as vectors of their lowest frequencies, whose moments are released.

The type-2 discrete cosine transform of each channel, colour as luminance and two chroma channels,
whose frequencies count double, as in JPEG. What is left out is what noise would drown. Each class
becomes a Gaussian.

The first release is two Gaussian mechanisms, which together cost what one does (`divided`). The
first is of all images together: their mean, and how far they are from it, root mean square. By
these the second
bounds what an image adds to the sums of its class: it is pulled in to so many of those distances
from the common mean, instead of to the farthest corner of what pixels can be. The covariances,
released last, are bounded likewise. What tells classes apart is then weighed against its noise, and
samples are stretched to the released distance again.

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

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from dpgan_jax import _validate
from dpgan_jax.models.moments import denoise
from dpgan_jax.models.moments.encoding import ByClass, Means, digest, divided, weights
from dpgan_jax.models.moments.images.cells import ROUNDS, cell_of, release_cells
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.releases import second_moments

# Rows are orthonormal: luminance, then blue-yellow and red-green differences.
COLOURS = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
_CHROMA = 2.0  # the frequency of a chroma coefficient counts as so many of luminance
# Both chosen on held-out training images: experiments/results/OWN_DATA.md, its table of defaults.
_CENTRE_SHARE = 0.125
_IN_SQUARES = 0.3  # of an image's vector in the first mechanism, the part that tells the distance
_ROUND_SHARE = 0.12  # a guess
_CELL_REACH = 1.2  # as `reach`, from a cell's mean, in units of how far codes usually are from it
_LEAST_SCALE = 0.03  # a guess, of the range of pixels: nearly all are farther from each other


@dataclasses.dataclass(frozen=True)
class ImageEncoding(ByClass):
  """The `dim` lowest frequencies of images uint8 [n, H, W, C], C = 1 or 3.

  Attributes:
    shape: (H, W, C).
    dim: d ≤ H·W·C.
    reach: how many of the released distances an image may be from the common mean, or its class's,
      before it is pulled in.
    pooled: whether covariances are released once of all classes together, around their own means,
      where so few images of each would say nothing of their own.
    cells: C, how many Gaussians a class is made of; a power of two.

  Raises:
    InputError: more coefficients than an image has.
  """

  shape: tuple[int, int, int]
  dim: int
  reach: float = 1.0
  pooled: bool = False
  cells: int = 1

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

  def bound(self, scale: float) -> float:
    """The longest an image counts, from the common mean or its class's."""
    return self.reach * scale

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

  def second_groups(self, classes: int) -> int:
    return 1 if self.pooled else classes * self.cells

  def second_group(self, codes: np.ndarray, labels: np.ndarray, means: Means) -> np.ndarray:
    return labels if means.cells is None else cell_of(codes, labels, means.cells)

  def release_means(
    self, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """The common mean and distance, then sums of each class around that mean, as they are about
    zero; then the cells of each."""
    of_all, *of_rounds, of_classes = self._divided(noise_multiplier)
    released = self.release_centre(
      codes, noise_multiplier=of_all, secret=secret, purpose=f'centre, {purpose}'
    )
    centre, scale = self.centre_of(released, of_all)

    def release_sums(
      sigma: float, own: np.ndarray, group: np.ndarray, centres: np.ndarray, of_what: str
    ) -> tuple[np.ndarray, np.ndarray]:
      follows = digest(scale, centres)
      found = [
        self.release_sums(
          own[group == g], scale, noise_multiplier=sigma, secret=secret,
          purpose=f'{purpose} of {of_what} {g}, {follows}',
        )
        for g in range(len(centres))
      ]  # fmt: skip
      return np.array([count for count, _ in found]), np.stack([sums for _, sums in found])

    around_centre = np.broadcast_to(centre, (classes, self.dim))
    counts, around = release_sums(of_classes, codes - centre, labels, around_centre, 'class')
    means = Means(counts, around + np.maximum(counts, 1.0)[:, np.newaxis] * centre, scale)
    if self.cells == 1:
      return means

    def release_round(
      number: int, own: np.ndarray, cell: np.ndarray, centres: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
      return release_sums(of_rounds[number], own, cell, centres, f'round {number}, cell')

    found = release_cells(
      codes, labels, self.centres(means), self.cells, release_round,
      noise=self._noise_of_sums(of_rounds[0], scale), distance=scale,
    )  # fmt: skip
    return dataclasses.replace(means, cells=found)

  def release_centre(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> np.ndarray:
    """Noisy Σ (√(1-c²)·(a·x/R, b), c·‖x‖²/R²) of `weights`, float64 [d + 2]: sensitivity 1, as
    ‖x‖ ≤ R.
    """
    in_sum, in_count = (part * math.sqrt(1 - _IN_SQUARES**2) for part in weights(self.dim))
    own = codes / self.radius
    squares = _IN_SQUARES * np.square(own).sum(axis=1, keepdims=True)
    vectors = np.concatenate([own * in_sum, np.full((len(own), 1), in_count), squares], axis=1)
    return exact_noise.release_sum(
      vectors, l2_sensitivity=1.0, noise_multiplier=noise_multiplier, secret=secret,
      purpose=purpose,
    )  # fmt: skip

  def centre_of(self, released: np.ndarray, noise_multiplier: float) -> tuple[np.ndarray, float]:
    """The common mean float64 [d] and the root mean square distance from it, by `release_centre`.
    """
    in_sum, in_count = (part * math.sqrt(1 - _IN_SQUARES**2) for part in weights(self.dim))
    count = max(released[-2] / in_count, 1.0)
    centre = released[:-2] / in_sum / count
    of_noise = self.dim * (noise_multiplier / in_sum / count) ** 2  # in the square of its length
    variance = released[-1] / _IN_SQUARES / count - max(centre @ centre - of_noise, 0.0)
    variance = max(variance, noise_multiplier / _IN_SQUARES / count)  # less would be a guess
    scale = math.sqrt(min(variance, 1.0)) * self.radius
    scale = max(scale, _LEAST_SCALE * math.sqrt(math.prod(self.shape)))
    centre *= self.radius / max(1.0, float(np.linalg.norm(centre)))
    return centre, float(np.float32(scale))  # as a run keeps it, also after an interruption

  def release_sums(
    self, codes: np.ndarray, scale: float, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """(count, sums float64 [d]) of codes around the centre, pulled in to ρ = `bound(scale)`.

    Sensitivity 1: a record's vector is (a·x/ρ, b) of `weights`, and ‖x‖ ≤ ρ.
    """
    in_sum, in_count = weights(self.dim)
    bound = self.bound(scale)
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    own = codes * (in_sum / np.maximum(lengths, bound))
    vectors = np.concatenate([own, np.full((len(own), 1), in_count)], axis=1)
    released = exact_noise.release_sum(
      vectors, l2_sensitivity=1.0, noise_multiplier=noise_multiplier, secret=secret,
      purpose=purpose,
    )  # fmt: skip
    return released[-1] / in_count, released[:-1] * (bound / in_sum)

  def noise(self, noise_multiplier: float, scale: float = 1.0) -> tuple[float, float]:
    return self._noise_of_sums(self._divided(noise_multiplier)[-1], scale)

  def _noise_of_sums(self, noise_multiplier: float, scale: float) -> tuple[float, float]:
    """Deviations of it in what `release_sums` gives."""
    in_sum, in_count = weights(self.dim)
    return noise_multiplier / in_count, noise_multiplier * self.bound(scale) / in_sum

  def _divided(self, noise_multiplier: float) -> tuple[float, ...]:
    """σ of the common mean, of each round of cells, and of the sums of each class."""
    rounds = ROUNDS if self.cells > 1 else 0
    return divided(noise_multiplier, _CENTRE_SHARE, *rounds * (_ROUND_SHARE,))

  def release_products(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Of codes around their class's or cell's mean as released, pulled in to `bound`."""
    centres = self._groups(means)[1][self.second_group(codes, labels, means)]
    return second_moments.release_second_moments(
      codes - centres, l2_bound=self.bound_of_products(means), noise_multiplier=noise_multiplier,
      secret=secret, purpose=f'{purpose}, {means.digest}',
    )

  def bound_of_products(self, means: Means) -> float:
    """The longest a code counts in covariances, from its class's or cell's mean."""
    usual = self.bound(means.scale)
    return usual if means.cells is None else min(usual, _CELL_REACH * float(means.cells.distance))

  def _groups(self, means: Means) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of records [G], mean codes [G, d]) of classes, or of their cells: G = K·C."""
    if means.cells is None:
      return means.counts, self.centres(means)
    counts, centres = (np.asarray(a, np.float64) for a in means.cells[:2])
    return counts.ravel(), centres.reshape(-1, self.dim)

  def centres(self, means: Means) -> np.ndarray:
    """The mean code of each class, no longer than a code can be: float64 [K, d]."""
    centres = means.sums / np.maximum(means.counts, 1.0)[:, np.newaxis]
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    return centres * np.minimum(1, self.radius / np.maximum(lengths, 1e-300))

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    total = np.maximum(means.counts, 1.0).sum()
    within = np.maximum(np.diagonal(seconds.sum(axis=0)) / total, 0)
    if means.cells is None:
      return within
    counts, centres = self._groups(means)
    away = np.square(centres - np.repeat(self.centres(means), self.cells, axis=0))
    return within + counts @ away / counts.sum()

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Gaussians:
    deviation = noise_multipliers[1] * self.bound_of_products(means) ** 2
    counts, centres = self._groups(means)
    numbers = counts.sum(keepdims=True) if self.pooled else counts
    found = denoise.covariances(numbers, seconds, deviation, self.spectrum, self.cells)
    values, vectors = np.linalg.eigh(found)
    factors = vectors * np.sqrt(np.maximum(values, 0))[:, np.newaxis]
    factors = np.broadcast_to(factors, (len(counts), *factors.shape[1:]))
    if means.cells is None:  # cells are where noise in centres is little
      centres = self._denoised(means, noise_multipliers[0], found.mean(axis=0))
    sizes = np.ones_like(counts) if means.cells is None else counts
    sizes = sizes.reshape(-1, self.cells)
    return Gaussians(self, *self._stretched(means, centres, factors), sizes)

  def _denoised(
    self, means: Means, noise_multiplier: float, covariance: np.ndarray
  ) -> np.ndarray:
    """Class means, whose differences from the common mean keep what is likely to be signal.

    Classes differ most where images do. So along each axis of `covariance` [d, d] differences are
    guessed to be as large as all of them are as released, times the root of the variance there
    (between what images do and what noise does), and Wiener-filtered: they keep signal/(signal +
    noise). What a class keeps best it keeps whole: how far it is stays about as released, and only
    the direction is mended.
    """
    centres, counts = self.centres(means), np.maximum(means.counts, 1.0)
    common = counts / counts.sum() @ centres
    variances, axes = np.linalg.eigh(covariance)
    shape = np.sqrt(np.maximum(variances, 1e-12 * variances[-1] + 1e-200))
    differences = (centres - common) @ axes
    noise = (self.noise(noise_multiplier, means.scale)[1] / counts[:, np.newaxis]) ** 2
    signal = np.square(differences).mean() - noise.mean()
    signal = max(signal, 1e-3 * noise.mean(), 1e-100) * shape / shape.mean()
    kept = signal / (signal + noise)
    return common + differences * (kept / kept.max(axis=1, keepdims=True)) @ axes.T

  def _stretched(
    self, means: Means, centres: np.ndarray, factors: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Means and factors of all classes, as far from the common mean as the release says that images
    are: pulled in, they were nearer by one factor or less. Of cells factors alone.
    """
    if means.cells is not None:
      sizes = self._groups(means)[0]
      within = math.sqrt(sizes @ np.square(factors).sum(axis=(1, 2)) / sizes.sum())
      stretch = float(means.cells.distance) / max(within, 1e-300)
      return centres, min(max(stretch, 1.0), _CELL_REACH) * factors
    shares = np.maximum(means.counts, 1.0)
    shares /= shares.sum()
    common = shares @ centres
    squares = np.square(centres - common).sum(axis=1) + np.square(factors).sum(axis=(1, 2))
    stretch = means.scale / math.sqrt(max(float(shares @ squares), 1e-300))
    stretch = min(max(stretch, 1.0), max(1.0, 1 / self.reach))
    return common + stretch * (centres - common), stretch * factors

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """Codes [n, d] → the nearest images uint8 [n, H, W, C]."""
    return np.round(np.clip(self.pixels(codes) + 0.5, 0, 1) * 255).astype(np.uint8)

  @property
  def basis(self) -> np.ndarray:
    """Pixels in [-1/2, 1/2] of codes: their product with it, float64 [d, H·W·C]. Public."""
    return self.pixels(np.eye(self.dim)).reshape(self.dim, -1)

  def pixels(self, codes: np.ndarray) -> np.ndarray:
    """Codes [n, d] → pixels in [-1/2, 1/2] or beyond, float64 [n, H, W, C]."""
    full = np.zeros((len(codes), math.prod(self.shape)))
    full[:, self._kept[0]] = codes
    shaped = full.reshape(-1, *self.shape)
    turned = np.asarray(scipy.fft.idctn(shaped, axes=(1, 2), norm='ortho'))
    return turned @ COLOURS if self.shape[2] == 3 else turned

  def _turned(self, pixels: np.ndarray) -> np.ndarray:
    return pixels @ COLOURS.T if self.shape[2] == 3 else pixels

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
    means: float64 [K·C, d], of C cells of each class.
    factors: float64 [K·C, d, d]; z ↦ mean + factor·z has the cell's covariance.
    sizes: float64 [K, C], in what proportions cells are drawn, up to a factor of each class.
  """

  encoding: ImageEncoding
  means: np.ndarray
  factors: np.ndarray
  sizes: np.ndarray

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Images uint8 [n, H, W, C]."""
    normals = np.asarray(jax.random.normal(key, (len(labels), self.encoding.dim)), np.float64)
    drawn = np.asarray(drawn_cell(jnp.asarray(labels), jnp.asarray(self.ends, np.float32), key))
    codes = self.means[drawn]
    for g in np.unique(drawn):
      own = np.flatnonzero(drawn == g)
      codes[own] += normals[own] @ self.factors[g].T
    return self.encoding.decode(codes)

  @property
  def ends(self) -> np.ndarray:
    """Of cells within [0, 1], one after the other, in each class: float64 [K, C]."""
    return np.cumsum(self.sizes, axis=1) / self.sizes.sum(axis=1, keepdims=True)


def noise_of_cells(dim: int, noise_multiplier: float) -> float:
  """Deviation in the count of a cell in one round, of a first release of σ without a draft."""
  return noise_multiplier / math.sqrt(_ROUND_SHARE) / weights(dim)[1]


def drawn_cell(labels: jax.Array, ends: jax.Array, key: jax.Array) -> jax.Array:
  """A cell of each class, by its place among all: int [n].

  Args:
    labels: int [n] in [0, K).
    ends: [K, C], of `Gaussians`.
    key: of the draw; normal numbers of the same key are another.
  """
  places = jax.random.uniform(jax.random.fold_in(key, 1), (len(labels), 1))
  within = (places >= ends[labels, :-1]).sum(axis=1)
  return labels * ends.shape[1] + within
