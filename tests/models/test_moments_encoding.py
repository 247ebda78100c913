"""Codes of images: bounded, invertible, of one image at a time."""

from __future__ import annotations

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.models.moments import denoise
from dpgan_jax.models.moments.encoding import Gaussians, ImageEncoding

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


# --- what is drawn --------------------------------------------------------------------------------


def test_laws_before_the_cut_have_the_wanted_moments_after_it():
  """Their moments are found by integration here, by a table there."""
  means, deviations = (a.ravel() for a in np.meshgrid([0.03, 0.2, 0.5, 0.9], [0.03, 0.1, 0.2]))
  possible = deviations**2 < 0.9 * means * (1 - means)
  means, deviations = means[possible], deviations[possible]
  before = denoise.before_cut(means, deviations)
  normals = np.linspace(-8, 8, 20_001)
  weights = np.exp(-(normals**2) / 2)
  weights /= weights.sum()
  cut = np.clip(before[0][:, np.newaxis] + before[1][:, np.newaxis] * normals, 0, 1)
  np.testing.assert_allclose(cut @ weights, means, atol=0.003)
  variances = ((cut - (cut @ weights)[:, np.newaxis]) ** 2) @ weights
  np.testing.assert_allclose(np.sqrt(variances), deviations, atol=0.005)


def test_impossible_and_narrow_laws_stay_finite():
  means, deviations = np.array([-0.5, 0.0, 1.2, 0.5, 0.5]), np.array([0.3, 0.0, 0.4, 3.0, 0.001])
  found = denoise.before_cut(means, deviations)
  assert np.isfinite(found).all()
  assert (found[0][[1, 4]] == [0, 0.5]).all()  # narrow ones are left alone
  assert (found[1][[1, 4]] == [0, 0.001]).all()


def test_a_dark_ground_stays_dark_where_moments_are_trusted():
  """Half of the pixels are nearly black in all images, as the ground of a digit is."""
  encoding = ImageEncoding((8, 8, 1), 64)
  rng = np.random.default_rng(0)
  images = rng.choice([0, 0, 0, 255], (4000, 8, 8, 1)).astype(np.uint8)
  codes = encoding.encode(images)
  factor = np.linalg.cholesky(np.cov(codes.T) + 1e-9 * np.eye(64))[np.newaxis]
  errors = []
  for trust in (0.0, 0.5, 1.0):
    model = Gaussians(encoding, codes.mean(axis=0)[np.newaxis], factor, np.array([trust]))
    drawn = model.draw(np.zeros(4000, int), jax.random.key(0)) / 255
    errors.append(abs(drawn.mean() - images.mean() / 255))
  assert errors[0] > 0.03
  assert errors[1] < errors[0]
  assert errors[2] < 0.005


def test_one_colour_image_is_drawn_as_it_is():
  """No spread at all: nothing to match, and nothing divided by zero."""
  encoding = ImageEncoding((6, 6, 3), 108)
  image = _images((6, 6, 3), 1)
  model = Gaussians(encoding, encoding.encode(image), np.zeros((1, 108, 108)), np.ones(1))
  assert (model.draw(np.zeros(3, int), jax.random.key(0)) == image).all()
