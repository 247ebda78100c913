"""Distortions: where a dot goes, what they leave alone, and that a key settles all of it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dpgan_jax.data.distort import SCALE, SHEAR, SHIFT, TURN, distort

MANY = 2_500  # more than are distorted at once


def centres(images: np.ndarray) -> np.ndarray:
  """Of brightness: uint8 [n, h, w, 1] → float64 [n, 2], from the middle of the image."""
  weights = images[..., 0].astype(np.float64)
  places = np.indices(images.shape[1:3]).reshape(2, -1) - np.reshape(images.shape[1:3], (2, 1)) / 2
  flat = weights.reshape(len(images), -1)
  return flat @ (places.T + 0.5) / flat.sum(axis=1, keepdims=True)


def dot(row: int, column: int) -> np.ndarray:
  """`MANY` images of a dot of 3×3 pixels, that far from the middle of 29×29 pixels."""
  images = np.zeros((MANY, 29, 29, 1), np.uint8)
  images[:, 13 + row : 16 + row, 13 + column : 16 + column] = 200
  return images


def test_a_dot_in_the_middle_is_only_shifted_both_ways_as_far_as_it_may_be():
  moved = centres(distort(dot(0, 0), jax.random.key(0)))
  most = SHIFT * 29 * (1 + SCALE) * (1 + SHEAR)  # the shift is that of the picture before it grows
  assert np.abs(moved).max() < most + 0.05
  # 2,500 uniform draws: the extremes of each kind fall short of 0.85 of the most with a chance
  # below 1e-80, and their mean is off by more than 5 standard errors with one below 1e-6.
  assert (moved.max(axis=0) > 0.85 * SHIFT * 29).all()
  assert (moved.min(axis=0) < -0.85 * SHIFT * 29).all()
  assert np.abs(moved.mean(axis=0)).max() < 5 * SHIFT * 29 / np.sqrt(3 * MANY)
  assert abs(np.corrcoef(moved.T)[0, 1]) < 5 / np.sqrt(MANY)


def test_a_dot_beside_the_middle_turns_shears_and_scales():
  key, far = jax.random.key(1), 8
  # The same shifts: what is left is what a dot does because it is off the middle.
  right = centres(distort(dot(0, far), key)) - centres(distort(dot(0, 0), key)) - (0, far)
  up = centres(distort(dot(-far, 0), key)) - centres(distort(dot(0, 0), key)) - (-far, 0)
  turn = far * np.sin(np.deg2rad(TURN))
  assert 0.85 * turn < np.abs(right[:, 0]).max() < turn * (1 + SCALE) + 0.1
  assert 0.85 * SCALE * far < np.abs(right[:, 1]).max() < 1.3 * SCALE * far + 0.2
  # Turned and scaled alone it would come no farther than 1.1 times that.
  assert 1.25 * turn < np.abs(up[:, 1]).max() < (turn + SHEAR * far) * (1 + SCALE) + 0.2
  for moved in (right, up):
    assert np.abs(moved.mean(axis=0)).max() < 0.1  # no direction is preferred


def test_nothing_comes_in_from_outside():
  flat = np.full((3, 12, 10, 3), 77, np.uint8) * np.arange(1, 4, dtype=np.uint8)
  np.testing.assert_array_equal(distort(flat, jax.random.key(0)), flat)


def test_colours_move_together():
  grey = np.random.default_rng(0).integers(0, 256, (4, 9, 11, 1)).astype(np.uint8)
  moved = distort(np.repeat(grey, 3, axis=-1), jax.random.key(2))
  np.testing.assert_array_equal(moved, np.repeat(moved[..., :1], 3, axis=-1))
  assert (moved[..., :1] != grey).mean() > 0.5


@pytest.mark.parametrize('n', [*(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1)), 7])
def test_an_image_is_distorted_alike_among_few_and_among_many(n):
  images = np.random.default_rng(0).integers(0, 256, (MANY, 8, 8, 1)).astype(np.uint8)
  key = jax.random.key(3)
  many = distort(images, key)
  assert many.shape == images.shape
  assert many.dtype == np.uint8
  np.testing.assert_array_equal(distort(images[:n], key), many[:n])
  assert (distort(images[:7], jax.random.key(4)) != many[:7]).any()


def test_strokes_stay_sharp():
  stroke = np.zeros((MANY, 29, 29, 1), np.uint8)
  stroke[:, 5:24, 13:15] = 200

  def steepness(images: np.ndarray) -> float:
    return float(np.square(np.diff(images.astype(np.float64), axis=2)).sum())

  # Interpolated between its own pixels it keeps 0.65 of this, between finer ones 0.75.
  assert steepness(distort(stroke, jax.random.key(5))) > 0.7 * steepness(stroke)


def test_large_images_are_distorted_in_parts_that_fit_into_memory(monkeypatch):
  monkeypatch.setattr(
    'dpgan_jax.data.distort._BYTES', 9 * 4 * 8 * 8 * 3
  )
  images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1)).astype(np.uint8)
  moved = distort(images, jax.random.key(6))
  np.testing.assert_array_equal(distort(images[:3], jax.random.key(6)), moved[:3])
  assert (distort(np.repeat(images[:1], 7, axis=0), jax.random.key(6))[0] == moved[0]).all()
