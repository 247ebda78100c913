"""The scattering transform against its definition, written out as sums over pixels in NumPy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.networks import scattering
from dpgan_jax.networks.scattering import Scattering, filter_bank, most_scales, of_images

KYMATIO = {
  (0, 0, 0): 0.831034,
  (0, 3, 4): 0.686975,
  (1, 3, 3): 0.029718,
  (4, 1, 5): 0.081462,
  (9, 6, 2): 0.034793,
  (14, 3, 3): 0.031153,
  (17, 2, 2): 0.000653,
  (20, 3, 3): 0.002967,
  (45, 5, 1): 0.000634,
  (80, 6, 6): 0.001295,
}
KYMATIO_ENERGY = 15.900751364515287


# --- the definition, in the pixel domain, with loops and without any FFT --------------------------


def gabor(size, sigma, angle, wave_number, slant):
  """A sampled Gabor function on a torus of `size`², wrapped around: complex [size, size]."""
  cos, sin = math.cos(angle), math.sin(angle)
  total = np.zeros((size, size), complex)
  for a in range(-3, 4):
    for b in range(-3, 4):
      u, v = np.mgrid[a * size : (a + 1) * size, b * size : (b + 1) * size].astype(float)
      along, across = u * cos + v * sin, v * cos - u * sin
      envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
      total += envelope * np.exp(1j * wave_number * along)
  return total * slant / (2 * math.pi * sigma**2)


def morlet(size, sigma, angle, wave_number, slant):
  wave = gabor(size, sigma, angle, wave_number, slant)
  envelope = gabor(size, sigma, angle, 0.0, slant)
  return wave - wave.sum() / envelope.sum() * envelope


def convolve(x, kernel):
  """Circular convolution, one shift of the image for each entry of the kernel."""
  result = np.zeros(x.shape, complex)
  for i in range(x.shape[0]):
    for j in range(x.shape[1]):
      if abs(kernel[i, j]) > 1e-13:
        result += kernel[i, j] * np.roll(x, (i, j), axis=(0, 1))
  return result


def direct(image, scales, angles):
  """S of one square image [s, s], nothing subsampled on the way: [channels, h', w']."""
  size = image.shape[0]
  padded = (size // 2**scales + 2) * 2**scales
  before = (padded - size) // 2
  x = np.pad(image, (before, padded - size - before), mode='reflect')
  phi = gabor(padded, 0.8 * 2 ** (scales - 1), 0.0, 0.0, 1.0)
  first, wave = (angles // 2 - 1) * math.pi / angles, 0.75 * math.pi
  psi = {
    (j, k): morlet(padded, 0.8 * 2**j, first - k * math.pi / angles, wave / 2**j, 4 / angles)
    for j in range(scales)
    for k in range(angles)
  }

  def average(u):
    return convolve(u, phi).real[:: 2**scales, :: 2**scales][1:-1, 1:-1]

  one = {w: np.abs(convolve(x, psi[w])) for w in psi}
  two = [np.abs(convolve(one[w], psi[v])) for w in psi for v in psi if v[0] > w[0]]
  return np.stack([average(x), *(average(u) for u in one.values()), *map(average, two)])


@pytest.mark.parametrize(('size', 'scales', 'angles'), [
  pytest.param(8, 2, 4, marks=pytest.mark.slow), (9, 2, 3), (8, 1, 8),
])  # fmt: skip
def test_it_is_the_definition(size, scales, angles):
  image = np.random.default_rng(size).random((size, size))
  wanted = direct(image, scales, angles)
  exact = Scattering(size, size, scales, angles, oversampling=scales)
  got = np.asarray(exact(jnp.asarray(image[None], jnp.float32)))[0]
  assert got.shape == wanted.shape == exact.output_shape
  np.testing.assert_allclose(got, wanted, atol=2e-6)
  # Subsampling on the way keeps all but what aliases around the edge of the coarser grid.
  quick = Scattering(size, size, scales, angles)
  got = np.asarray(quick(jnp.asarray(image[None], jnp.float32)))[0]
  assert np.linalg.norm(got - wanted) < 0.01 * np.linalg.norm(wanted)


def test_the_oracle_notices_a_wrong_filter(monkeypatch):
  """A wave number off by a tenth is far outside the tolerance above."""
  image = np.random.default_rng(0).random((8, 8))
  right = scattering._morlet

  def wrong(height, width, sigma, angle, wave_number, slant):
    return right(height, width, sigma, angle, 1.1 * wave_number, slant)

  monkeypatch.setattr(scattering, '_morlet', wrong)
  got = np.asarray(Scattering(8, 8, 1, 4)(jnp.asarray(image[None], jnp.float32)))[0]
  assert np.abs(got - direct(image, 1, 4)).max() > 1e-3


def test_it_is_kymatio():
  """Figures of kymatio 0.3.0 (NumPy frontend, J = 2, L = 8) for an image that a formula gives."""
  u, v = np.mgrid[0:28, 0:28]
  image = (0.5 + 0.5 * np.sin(0.7 * u + 0.2 * v) * np.cos(0.05 * u * v)).astype(np.float32)
  s = np.asarray(Scattering(28, 28)(jnp.asarray(image[None])))[0]
  for (channel, row, column), value in KYMATIO.items():
    assert s[channel, row, column] == pytest.approx(
      value, rel=1e-4, abs=2e-6
    )  # its filters are float32
  assert float(np.square(s, dtype=np.float64).sum()) == pytest.approx(KYMATIO_ENERGY, rel=1e-4)


def test_channels_and_paths():
  transform = Scattering(28, 28)
  assert transform.output_shape == (81, 7, 7)
  assert transform(jnp.zeros((2, 28, 28))).shape == (2, 81, 7, 7)
  assert len(transform.paths) == 81
  assert transform.paths[0] == ()
  assert transform.paths[9] == ((1, 0),)
  assert transform.paths[17] == ((0, 0), (1, 0))
  assert transform.paths[26] == ((0, 1), (1, 1))
  assert Scattering(28, 28, 3).output_shape == (217, 3, 3)
  assert Scattering(28, 20, order=1).output_shape == (17, 7, 5)
  assert Scattering(8, 8, order=0)(jnp.ones((1, 8, 8))).shape == (1, 1, 2, 2)


def test_each_channel_belongs_to_its_path():
  """A plane wave at a wavelet's own frequency answers loudest in that wavelet's channel."""
  transform = Scattering(32, 32, order=1)
  for channel in (1, 4, 6, 9, 13):
    ((j, k),) = transform.paths[channel]
    angle, wave_number = (3 - k) * math.pi / 8, 0.75 * math.pi / 2**j
    u, v = np.mgrid[0:32, 0:32]
    wave = np.cos(wave_number * (u * math.cos(angle) + v * math.sin(angle)))
    energy = np.square(np.asarray(transform(jnp.asarray(wave[None], jnp.float32)))[0]).sum((1, 2))
    assert np.argmax(energy[1:]) + 1 == channel


@pytest.mark.parametrize(
  ('scales', 'angles', 'upper'),
  [(1, 8, 1.0001), (2, 4, 1.0), (2, 8, 1.0), (3, 8, 1.02), (3, 6, 1.0)],
)
def test_littlewood_paley(scales, angles, upper):
  """A ≤ |φ̂|² + ½·Σ(|ψ̂(ω)|² + |ψ̂(-ω)|²) ≤ B with A > 0 and B = 1, or a little above.

  No image is lost, and none gains energy: these filters, Kymatio's, are a frame, not a tight one.
  """
  psi, phi = filter_bank(40, 40, scales, angles)
  power = np.square(psi).sum(axis=(0, 1))
  mirrored = np.roll(power[::-1, ::-1], 1, axis=(0, 1))
  frame = np.square(phi) + 0.5 * (power + mirrored)
  assert frame.max() <= upper + 1e-9
  assert frame.min() > 0.02
  assert np.abs(psi[:, :, 0, 0]).max() < 1e-12  # wavelets have mean zero
  assert phi[0, 0] == pytest.approx(1, abs=1e-4)  # more is aliasing, at J = 1


def test_it_does_not_expand_distances():
  """‖Sx - Sy‖ ≤ ‖x - y‖ (Bruna & Mallat 2013, section 2.3), each sample weighing 2²ᴶ pixels.

  Images are zero near the border, so that padding adds nothing. Every 2ᴶ-th sample holds at most
  the energy of all of them times the largest sum of φ̂² over its aliases.
  """
  transform = Scattering(28, 28, oversampling=2)
  phi = np.square(scattering.low_pass(36, 2)).reshape(4, 9).sum(axis=0).max()
  rng = np.random.default_rng(3)
  x, y = np.zeros((2, 20, 28, 28), np.float32)
  x[:, 9:19, 9:19], y[:, 9:19, 9:19] = rng.random((2, 20, 10, 10))
  sx, sy = transform(jnp.asarray(x)), transform(jnp.asarray(y))
  moved = 4 * np.linalg.norm(np.asarray(sx - sy).reshape(20, -1), axis=1) / phi
  assert (moved <= np.linalg.norm((x - y).reshape(20, -1), axis=1)).all()
  kept = 4 * np.linalg.norm(np.asarray(sx).reshape(20, -1), axis=1)
  size = np.linalg.norm(x.reshape(20, -1), axis=1)
  assert (kept <= size * phi).all()
  assert (kept > 0.5 * size).all()  # two orders hold most of the energy


@pytest.mark.slow
def test_a_shift_moves_it_less_than_the_pixels():
  rng = np.random.default_rng(4)
  images = np.zeros((10, 28, 28), np.float32)
  images[:, 8:20, 8:20] = rng.random((10, 12, 12))
  shifted = np.roll(images, 1, axis=2)
  transform = Scattering(28, 28, 2, 4)

  def change(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(a)))

  small = change(transform(jnp.asarray(images)), transform(jnp.asarray(shifted)))
  assert small < 0.3
  assert change(images, shifted) > 2 * small
  coarser = Scattering(28, 28, 3, 4)
  assert change(coarser(jnp.asarray(images)), coarser(jnp.asarray(shifted))) < small


def test_gradients_are_finite_and_right():
  transform = Scattering(8, 8, 1, 4)

  def f(x):
    return jnp.sum(jnp.square(transform(x[None])))

  assert np.isfinite(np.asarray(jax.grad(f)(jnp.zeros((8, 8))))).all()
  x, direction = jax.random.uniform(jax.random.key(0), (2, 8, 8))
  slope = float(jnp.vdot(jax.grad(f)(x), direction))
  numeric = float(f(x + 1e-2 * direction) - f(x - 1e-2 * direction)) / 2e-2
  assert slope == pytest.approx(numeric, rel=1e-3)


def test_each_image_alone():
  """What makes it free: features i are the same whatever other images there are."""
  images = np.random.default_rng(5).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
  transform = Scattering(8, 8)
  all_of_them = of_images(transform, images)
  images[1:] = 255 - images[1:]
  np.testing.assert_allclose(of_images(transform, images)[0], all_of_them[0], atol=1e-6)


def test_small_images_get_fewer_scales():
  assert most_scales(28, 28, at_most=3) == 3
  assert most_scales(28, 28, at_most=2) == 2
  assert most_scales(8, 8, at_most=3) == 2
  assert Scattering(8, 8, scales=2).output_shape[1:] == (2, 2)
  with pytest.raises(_validate.InputError, match=r'images large enough .* got 1×28'):
    most_scales(1, 28, at_most=3)


@pytest.mark.parametrize('order', [*(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2)), 1])
def test_usual_sizes_of_channels(order):
  """Public, the same inside of a program, and about what strokes of any kind give."""
  transform = Scattering(28, 28, order=order)
  usual = transform.usual
  inside = jax.jit(lambda x: x * Scattering(28, 28, order=order).usual)(jnp.ones(()))
  np.testing.assert_allclose(np.asarray(inside), usual, rtol=1e-6)
  rng = np.random.default_rng(0)
  y, x = np.mgrid[0:28, 0:28] - 13.5
  strokes = []
  for _ in range(200):
    angle, curl, shift = rng.uniform(0, math.pi), rng.uniform(-0.05, 0.05), rng.uniform(-5, 5)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x - curl * along**2 - shift
    strokes.append((np.abs(across) < 1.5) & (np.abs(along) < 8))
  found = np.std(transform(jnp.asarray(np.array(strokes), jnp.float32)), axis=(0, 2, 3))
  assert len(found) == len(transform.paths) == len(usual)
  assert (found / usual > 0.5).all()
  assert (found / usual < 4).all()


def test_blocks_change_nothing(monkeypatch):
  images = np.random.default_rng(6).integers(0, 256, (7, 9, 8, 3)).astype(np.uint8)
  transform = Scattering(9, 8, 1, 4)
  whole = of_images(transform, images)
  assert whole.shape == (7, *transform.output_shape[1:], 3 * 5)
  monkeypatch.setattr(scattering, '_FLOATS_AT_ONCE_ON_CPU', 20_000)  # blocks of a few images
  np.testing.assert_allclose(of_images(transform, images), whole, atol=1e-6)
  grey = transform(jnp.asarray(images[..., 1], jnp.float32) / 255)
  np.testing.assert_allclose(whole[..., 5:10], np.moveaxis(grey, 1, -1), atol=1e-6)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Scattering(28, 28, 0), 'expected scales >= 1, got 0'),
    (lambda: Scattering(28, 28, order=3), r'expected order in \[0, 2\], got 3'),
    (lambda: Scattering(8, 8, 3), 'use fewer scales'),
    (lambda: Scattering(8, 8)(jnp.zeros((1, 9, 8))), r'expected images \[n, 8, 8\]'),
    (lambda: of_images(Scattering(8, 8), np.zeros((1, 8, 8, 1))), 'expected uint8 images'),
  ],
)
def test_bad_arguments(make, message):
  with pytest.raises(_validate.InputError, match=message):
    make()
