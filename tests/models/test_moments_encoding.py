"""Codes of images: bounded, invertible, of one image at a time."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.images.encoding import ImageEncoding

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))


def _images(shape, n=6, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


@hypothesis.given(SHAPES)
@hypothesis.settings(max_examples=50, deadline=None)
def test_all_frequencies_give_the_image_back(shape):
  images = _images(shape)
  encoding = ImageEncoding(shape, int(np.prod(shape)))
  assert (encoding.decode(encoding.encode(images)) == images).all()


@hypothesis.given(SHAPES, st.data())
@hypothesis.settings(max_examples=50, deadline=None)
def test_no_code_is_longer_than_the_radius(shape, data):
  size = int(np.prod(shape))
  encoding = ImageEncoding(shape, data.draw(st.integers(1, size)))
  images = np.concatenate(
    [_images(shape), _images(shape) // 128 * 255, np.zeros((1, *shape), np.uint8)]
  )
  lengths = np.linalg.norm(encoding.encode(images), axis=1)
  assert lengths.max() <= encoding.radius * (1 + 1e-12)
  whole = ImageEncoding(shape, size)
  assert np.linalg.norm(whole.encode(images), axis=1).max() == pytest.approx(whole.radius)


def test_a_code_is_of_one_image_alone():
  encoding, images = ImageEncoding((6, 7, 3), 50), _images((6, 7, 3))
  together = encoding.encode(images)
  alone = np.concatenate([encoding.encode(images[i : i + 1]) for i in range(len(images))])
  np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


def test_few_coefficients_are_the_smoothest():
  ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, np.newaxis, np.newaxis], (1, 16, 1))
  encoding = ImageEncoding((16, 16, 1), 40)
  error = encoding.decode(encoding.encode(ramp[np.newaxis])).astype(int) - ramp
  assert np.abs(error).max() <= 5
  assert (np.diff(encoding.spectrum) <= 0).all()  # in the order of the frequencies


def test_grey_is_kept_grey_when_chroma_is_cut():
  grey = np.repeat(_images((8, 8, 1)), 3, axis=-1)
  encoding = ImageEncoding((8, 8, 3), 40)
  decoded = encoding.decode(encoding.encode(grey)).astype(int)
  assert np.abs(decoded - decoded.mean(axis=-1, keepdims=True)).max() <= 1


@pytest.mark.parametrize('dim', [0, 65])
def test_a_length_that_no_code_has_is_refused(dim):
  with pytest.raises(_validate.InputError, match='dim'):
    ImageEncoding((8, 8, 1), dim)


@pytest.mark.parametrize('sizes', [(100, 100, 100), (20, 100, 300)])
def test_class_means_are_weighed_against_their_noise(sizes):
  """Where differences of classes are as images vary, and noise is not, they come nearer to the true
  ones; without noise, nothing changes; little noise changes little.
  """
  encoding, counts = ImageEncoding((8, 8, 1), 64), np.array(sizes, np.float64)
  rng = np.random.default_rng(0)
  in_sums = encoding.noise(1.0, 1.0)[1]
  for sigma, factor in ((0.0, 0.0), (0.05, 1.01), (20.0, 0.7)):
    worse, better = 0.0, 0.0
    for _ in range(50):
      true = rng.normal(size=(3, 64)) * np.sqrt(encoding.spectrum / encoding.spectrum.max()) / 2
      noisy = true + rng.normal(size=(3, 64)) * sigma * in_sums / counts[:, np.newaxis]
      means = Means(counts, noisy * counts[:, np.newaxis], 1.0)
      seconds = counts[:, np.newaxis, np.newaxis] * np.diag(encoding.spectrum) / 100
      found = encoding.model(means, seconds, (sigma, 0.0)).means
      worse += np.square(noisy - true)[0].sum()
      better += np.square(found - true)[0].sum()
      if sigma == 0:
        np.testing.assert_allclose(found, encoding.centres(means), rtol=1e-12)
    assert better <= factor * worse + 1e-20, (sigma, better, worse)


def test_class_means_of_nothing_but_noise_stay_finite():
  encoding = ImageEncoding((8, 8, 1), 64)
  for counts in (np.array([5.0]), np.array([-3.0, 0.0, 7.0])):
    means = Means(counts, np.random.default_rng(1).normal(size=(len(counts), 64)), 1.0)
    for sigma, covariance in ((50.0, np.eye(64) / 64), (0.0, np.zeros((64, 64)))):
      assert np.isfinite(encoding._denoised(means, sigma, covariance)).all()
