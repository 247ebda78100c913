"""The 2-D scattering transform: fixed, published features of images, in JAX.

A scattering network cascades wavelet transforms and moduli, and averages at the end:

    S₀x = x ⋆ φ_J      S₁x = |x ⋆ ψ_λ| ⋆ φ_J      S₂x = ||x ⋆ ψ_λ| ⋆ ψ_μ| ⋆ φ_J

where wavelet μ is of a larger scale than λ. Nothing in it is learnt: it is one public function of
one image. Applied to private images it is a change of representation, like dividing by 255, and
costs no privacy: features i depend on image i alone, so neighbouring data sets stay neighbours.

Filters (J scales j, L angles θ): Morlet wavelets with σ = 0.8·2ʲ, wave number 3π/4·2⁻ʲ and slant
4/L (the envelope is longer across the wave than along it), and a Gaussian φ_J with σ = 0.8·2ᴶ⁻¹.
They are written down in the frequency domain, where a Gaussian envelope is a Gaussian again:

    ψ̂(ω) = G(ω - ξ) - κ·G(ω),   φ̂(ω) = exp(-σ²|ω|²/2),   κ such that ψ̂(0) = 0,

summed over the period 2π of sampled signals. Images are padded by reflection, convolved on the
torus, each wavelet's output kept at every 2ʲ-th pixel only, the averages at every 2ᴶ-th. The
Littlewood-Paley sum of the filters is at most 1 (J = 2, L = 8; at most 1.02 for others): on the
torus no layer takes two images further apart.

>>> scattering = Scattering(28, 28)
>>> scattering(jnp.zeros((3, 28, 28))).shape
(3, 81, 7, 7)
>>> scattering.paths[1], scattering.paths[20]
(((0, 0),), ((0, 0), (1, 3)))

Sources: Bruna & Mallat 2013 (arXiv 1203.1513), sections 2-3, for the transform; Andreux et al. 2018
(Kymatio, arXiv 1812.11214) for the filters' parameters, the padding, the order of the channels.
Kymatio 0.3 gives the same numbers (tests/test_scattering.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate

Path = tuple[tuple[int, int], ...]
"""The wavelets (j, θ) on the way to one channel: none, one or two of them."""

_PERIODS = 3  # periods of 2π over which a sampled filter's spectrum is summed; beyond: < 1e-12
# Of intermediates, 128 MiB; on a CPU 8 MiB, which its caches hold: a third faster there.
_FLOATS_AT_ONCE, _FLOATS_AT_ONCE_ON_CPU = 2**25, 2**21


@dataclasses.dataclass(frozen=True)
class Scattering:
  """The scattering transform for images of one size; call it inside jit, differentiate it.

  Attributes:
    height, width: size of the images.
    scales: J ≥ 1. Averages reach over about 2ᴶ pixels, and one in 2ᴶ is kept.
    angles: L ≥ 1, spread over half a turn: real images look the same from behind.
    order: 0, 1 or 2 wavelets on a path. The channels are 1, + J·L, + L²·J·(J-1)/2.
    oversampling: 0 keeps intermediate images at the coarsest grid that holds them; each step more
      doubles that grid (`scales` or more: never subsampled), for the last digits of accuracy.

  Raises:
    InputError: an argument out of range, images too small for the padding.
  """

  height: int
  width: int
  scales: int = 2
  angles: int = 8
  order: int = 2
  oversampling: int = 0

  def __post_init__(self) -> None:
    for name, minimum in (('height', 1), ('width', 1), ('scales', 1), ('angles', 1), ('order', 0)):
      _validate.integer(name, getattr(self, name), minimum=minimum)
    _validate.integer('order', self.order, minimum=0, maximum=2)
    _validate.integer('oversampling', self.oversampling, minimum=0)
    for name, size in (('height', self.height), ('width', self.width)):
      after = _padded(size, self.scales) - size - _before(size, self.scales)
      if after >= size:
        raise _validate.InputError(
          f'expected {name} > {after} to pad by reflection at scales={self.scales}, got {size}: '
          'use fewer scales'
        )

  def __call__(self, images: jax.Array) -> jax.Array:
    """Scattering coefficients, float32 [n, channels, height', width'].

    Args:
      images: float32 [n, height, width].
    """
    if images.shape[1:] != (self.height, self.width):
      raise _validate.InputError(
        f'expected images [n, {self.height}, {self.width}], got {images.shape}'
      )
    pads = [
      (_before(s, self.scales), _padded(s, self.scales) - s - _before(s, self.scales))
      for s in (self.height, self.width)
    ]
    x = jnp.pad(images, ((0, 0), *pads), mode='reflect')
    zero, one, two = [self._average(x[:, None], 0)], [], []
    spectrum = jnp.fft.fft2(x)[:, None]
    for j in range(self.scales if self.order > 0 else 0):
      u, grid = self._wavelet(spectrum, 0, j)  # [n, θ, ...]
      one.append(self._average(u, grid))
      if self.order < 2 or j + 1 == self.scales:
        continue
      spectra = jnp.fft.fft2(u)[:, :, None]
      deeper = []
      for k in range(j + 1, self.scales):
        v, coarser = self._wavelet(spectra, grid, k)  # [n, θ, θ', ...]
        deeper.append(self._average(v, coarser))
      of_one = jnp.concatenate(deeper, axis=2)  # the second wavelet varies fastest
      two.append(of_one.reshape(of_one.shape[0], -1, *of_one.shape[3:]))
    return jnp.concatenate([*zero, *one, *two], axis=1)

  def _wavelet(self, spectrum: jax.Array, grid: int, scale: int) -> tuple[jax.Array, int]:
    """|u ⋆ ψ_{scale, θ}| for all θ, from û on the grid of step 2^grid, on that of step 2^new."""
    new = max(grid, scale - self.oversampling)
    filters = jnp.asarray(_cropped(self._bank[0][scale], grid), jnp.float32)
    product = spectrum * filters.reshape((1,) * (spectrum.ndim - 3) + filters.shape)
    return jnp.abs(jnp.fft.ifft2(_decimated(product, 2 ** (new - grid)))), new

  def _average(self, u: jax.Array, grid: int) -> jax.Array:
    """(u ⋆ φ_J) at every 2ᴶ-th pixel without the border: two small matrices, φ_J is separable."""
    rows, columns = (self._averaging(size, grid) for size in (self.height, self.width))
    return jnp.einsum('ai,...ij,bj->...ab', rows, u, columns, precision='highest')

  def _averaging(self, size: int, grid: int) -> jax.Array:
    m = _padded(size, self.scales) >> grid
    spectrum = np.broadcast_to(low_pass(_padded(size, self.scales), self.scales), (1, m << grid))
    kernel = np.fft.ifft(_cropped(spectrum, grid, axes=1)[0]).real
    step = 2 ** (self.scales - grid)
    centres = np.arange(step, m - step, step)
    return jnp.asarray(kernel[(centres[:, None] - np.arange(m)) % m], jnp.float32)

  @functools.cached_property
  def _bank(self) -> tuple[np.ndarray, np.ndarray]:
    return filter_bank(
      _padded(self.height, self.scales), _padded(self.width, self.scales), self.scales, self.angles
    )

  @property
  def paths(self) -> tuple[Path, ...]:
    """The path of each channel: order 0, then 1, then 2; the last wavelet varies fastest."""
    wavelets = list(itertools.product(range(self.scales), range(self.angles)))
    one = [(w,) for w in wavelets] if self.order > 0 else []
    two = [(w, v) for w in wavelets for v in wavelets if v[0] > w[0]] if self.order > 1 else []
    return ((), *one, *two)

  @property
  def output_shape(self) -> tuple[int, int, int]:
    """(channels, height', width')."""
    height, width = (
      (_padded(size, self.scales) >> self.scales) - 2 for size in (self.height, self.width)
    )
    return len(self.paths), height, width

  @functools.cached_property
  def usual(self) -> np.ndarray:
    """How much each channel varies, float32 [channels]: its deviation over bars of all directions.

    Divided by it, channels of all orders and scales are of one size. Public: no data are read.
    """
    y, x = (np.arange(size) - (size - 1) / 2 for size in (self.height, self.width))
    size = min(self.height, self.width)
    bars = []
    for angle in np.arange(16) * math.pi / 16:
      across = math.cos(angle) * y[:, None] + math.sin(angle) * x
      along = math.cos(angle) * x - math.sin(angle) * y[:, None]
      bars.append(np.exp(-0.5 * (across / size * 24) ** 2) * (np.abs(along) < size / 3))
    with jax.ensure_compile_time_eval():  # also where this is asked for inside of jit
      coefficients = self(jnp.asarray(np.array(bars), jnp.float32))
      return np.asarray(jnp.std(coefficients, axis=(0, 2, 3)))


def most_scales(height: int, width: int, *, at_most: int) -> int:
  """The largest J, up to `at_most`, of a transform that images of this size have room for.

  Raises:
    InputError: too small even for one scale.
  """
  for scales in range(at_most, 0, -1):
    try:
      if min(Scattering(height, width, scales=scales).output_shape) >= 1:
        return scales
    except _validate.InputError:
      continue
  raise _validate.InputError(
    f'expected images large enough for the scattering transform, got {height}×{width}: use neither '
    'label_share, discriminator=scattering nor matching_steps'
  )


def of_images(scattering: Scattering, images: np.ndarray | jax.Array) -> np.ndarray:
  """Scattering coefficients of a data set, computed in blocks of bounded memory.

  Args:
    scattering: the transform.
    images: uint8 [N, H, W, C], scaled to [0, 1] by the public constant 255.

  Returns:
    float32 [N, height', width', C·channels], the image's own channels varying slowest: what a
    convolution or a linear layer takes.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8:
    raise _validate.InputError(
      f'expected uint8 images [N, H, W, C], got {images.dtype} {list(images.shape)}'
    )
  n, height, width, colours = images.shape
  channels, rows, columns = scattering.output_shape
  # The largest intermediates are complex and exist twice: L images of the full size, and L² of half
  # the size.
  area = math.prod(_padded(size, scattering.scales) for size in (height, width))
  largest = 4 * area * max(scattering.angles, scattering.angles**2 // 4)
  at_once = _FLOATS_AT_ONCE_ON_CPU if jax.default_backend() == 'cpu' else _FLOATS_AT_ONCE
  block = max(1, min(n, at_once // (largest * colours)))

  result = np.empty((n, rows, columns, colours * channels), np.float32)
  for start in range(0, n, block):
    part = images[start : start + block]
    padding = block - len(part)  # one shape, one compilation
    if padding:
      part = np.concatenate([part, np.zeros((padding, *part.shape[1:]), np.uint8)])
    result[start : start + block] = np.asarray(_of_block(scattering, part))[: block - padding]
  return result


@functools.partial(jax.jit, static_argnums=0)
def _of_block(scattering: Scattering, images: jax.Array) -> jax.Array:
  """`of_images` of as many as fit; compiled once for each transform and number of them."""
  n, height, width, _ = images.shape
  _, rows, columns = scattering.output_shape
  planes = (images.astype(jnp.float32) / 255).transpose(0, 3, 1, 2)
  coefficients = scattering(planes.reshape(-1, height, width))
  return coefficients.reshape(n, -1, rows, columns).transpose(0, 2, 3, 1)


# --- filters, on the host in float64 --------------------------------------------------------------


def filter_bank(height: int, width: int, scales: int, angles: int) -> tuple[np.ndarray, np.ndarray]:
  """The filters' spectra on a torus, all real: ψ̂ [J, L, height, width] and φ̂ [height, width].

  Args:
    height, width: of the torus, in pixels.
    scales: J.
    angles: L.
  """
  psi = np.empty((scales, angles, height, width))
  for j, k in itertools.product(range(scales), range(angles)):
    angle = (angles // 2 - 1 - k) * math.pi / angles
    psi[j, k] = _morlet(height, width, 0.8 * 2**j, angle, 0.75 * math.pi / 2**j, 4 / angles)
  phi = low_pass(height, scales)[:, None] * low_pass(width, scales)
  return psi, phi


def low_pass(size: int, scales: int) -> np.ndarray:
  """The spectrum of φ_J along one axis of a torus, [size]; φ̂(0) is 1 up to aliasing."""
  omega = _frequencies(size)[:, None] + 2 * math.pi * np.arange(-_PERIODS, _PERIODS + 1)
  sigma = 0.8 * 2 ** (scales - 1)
  return np.exp(-0.5 * (sigma * omega) ** 2).sum(axis=1)


def _morlet(
  height: int, width: int, sigma: float, angle: float, wave_number: float, slant: float
) -> np.ndarray:
  """The spectrum of a Morlet wavelet: a Gaussian around ξ, less one around 0 for zero mean."""
  cos, sin = math.cos(angle), math.sin(angle)
  periods = 2 * math.pi * np.arange(-_PERIODS, _PERIODS + 1)
  rows = (_frequencies(height)[:, None] + periods)[:, None, :, None]
  columns = (_frequencies(width)[:, None] + periods)[None, :, None, :]
  along, across = rows * cos + columns * sin, columns * cos - rows * sin

  def gaussian(centre: float) -> np.ndarray:
    exponent = (sigma * (along - centre)) ** 2 + (sigma / slant * across) ** 2
    return np.exp(-0.5 * exponent).sum(axis=(2, 3))

  wave, envelope = gaussian(wave_number), gaussian(0.0)
  return wave - wave[0, 0] / envelope[0, 0] * envelope


def _frequencies(size: int) -> np.ndarray:
  return 2 * math.pi * np.arange(size) / size


def _cropped(spectra: np.ndarray, grid: int, axes: int = 2) -> np.ndarray:
  """The low frequencies [-m/2, m/2) of spectra, for a grid of step 2^grid with m points."""
  for axis in range(spectra.ndim - axes, spectra.ndim):
    m = spectra.shape[axis] >> grid
    kept = np.r_[0 : (m + 1) // 2, spectra.shape[axis] - m // 2 : spectra.shape[axis]]
    spectra = spectra.take(kept, axis)
  return spectra


def _decimated(spectra: jax.Array, step: int) -> jax.Array:
  """The spectra [..., h, w] of what is left of signals when every `step`-th pixel is kept."""
  *lead, height, width = spectra.shape
  return spectra.reshape(*lead, step, height // step, step, width // step).mean(axis=(-4, -2))


def _padded(size: int, scales: int) -> int:
  """A multiple of 2ᴶ with at least 2ᴶ pixels more than `size`."""
  return ((size + 2**scales) // 2**scales + 1) * 2**scales


def _before(size: int, scales: int) -> int:
  """Pixels that padding puts before the first."""
  return (_padded(size, scales) - size) // 2
