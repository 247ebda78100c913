"""What samples are measured against: noise that has what it should have, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import references, tasks
from tests.support.shapes import shapes


@pytest.mark.parametrize('channels', [1, 3])
def test_static_has_mean_and_variance_of_each_colour(channels):
  real = shapes(300, channels=channels, seed=0).images
  made = references.noise('static', real, 600, seed=1)
  assert (made.shape, made.dtype) == ((600, *real.shape[1:]), np.uint8)
  for c in range(channels):
    assert made[..., c].mean() == pytest.approx(real[..., c].mean(), abs=1)
    assert made[..., c].std() == pytest.approx(real[..., c].std(), rel=0.02)
  flat = made.reshape(600, -1).astype(float)
  assert abs(np.corrcoef(flat[:, :40].T) - np.eye(40)).max() < 0.25  # six standard errors


def test_pixels_keep_their_own_distribution_and_colours():
  real = shapes(300, channels=3, seed=0).images
  made = references.noise('pixels', real, 400, seed=1)
  np.testing.assert_allclose(made.mean(axis=0), real.mean(axis=0), atol=25)
  colours = {tuple(p) for p in real[:, 3, 5]}
  assert {tuple(p) for p in made[:, 3, 5]} <= colours
  flat = made.reshape(400, -1).astype(float)
  one, next_one = flat[:, 8 * 48 + 21], flat[:, 8 * 48 + 24]
  assert abs(np.corrcoef(one, next_one)[0, 1]) < 0.3
  real_flat = real.reshape(300, -1).astype(float)
  assert np.corrcoef(real_flat[:, 8 * 48 + 21], real_flat[:, 8 * 48 + 24])[0, 1] > 0.6


@pytest.mark.parametrize('kind', references.NOISES)
@pytest.mark.parametrize('value', [0, 128, 255])
def test_blank_images_have_noise_too(kind, value):
  made = references.noise(kind, np.full((9, 4, 4, 1), value, np.uint8), 50, seed=0)
  assert abs(made.astype(int) - value).mean() < 2


def test_noise_of_black_and_white_is_black_and_white():
  """The largest variance that there is: nothing lies between."""
  real = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (50, 4, 4, 3), p=(0.8, 0.2))
  made = references.noise('static', real, 300, seed=0)
  assert np.isin(made, (0, 255)).mean() > 0.95
  assert made.mean() == pytest.approx(real.mean(), abs=8)


def test_noise_is_the_same_for_a_seed_and_refused_by_another_name():
  real = shapes(20, channels=1, seed=0).images
  one, same, other = (references.noise('static', real, 9, seed=s) for s in (1, 1, 2))
  np.testing.assert_array_equal(one, same)
  assert (one != other).any()
  with pytest.raises(InputError, match="kind to be one of static, pixels; got 'snow'"):
    references.noise('snow', real, 9, seed=0)


def evaluated(shares):
  train, test, fresh = (
    shapes(n, channels=1, seed=s, shares=shares) for n, s in ((400, 0), (300, 1), (300, 2))
  )
  settings = tasks.Settings.quick(tasks=('tstr_lr', 'ceiling_lr'))
  return tasks.evaluate(fresh.images, fresh.labels, train, test, settings)


def test_balanced_accuracy_stands_beside_where_classes_are_uneven():
  """One class in ten is a cross; a guess is right about eight of ten, and about a third of each."""
  found = evaluated((8, 1, 1))
  tstr, balanced = found['tstr_lr'], found['balanced_lr']
  assert tstr.static == pytest.approx(0.8, abs=0.01)
  assert balanced.static == pytest.approx(1 / 3)
  assert balanced.value == pytest.approx(np.mean(tstr.detail['per_class']))
  assert balanced.value < tstr.value
  assert balanced.reads_private_data
  names = [score.name for score in evaluated((1, 1, 1)).scores]
  assert names == ['tstr_lr', 'hold_out_lr']


def enlarged(split: str) -> datasets.ImageDataset:
  """The digits of scikit-learn in MNIST's size and under its name."""
  digits = datasets.load_dataset('digits', split=split)
  large = np.kron(digits.images, np.ones((1, 3, 3, 1), np.uint8))
  padded = np.ascontiguousarray(np.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0))))
  return dataclasses.replace(digits, images=padded, name='mnist')


@pytest.mark.slow
def test_digits_under_mnists_name_keep_the_numbers_of_version_1():
  """What the code before references and wavelets gave for the same images, seeds and settings."""
  train, test = enlarged('train'), enlarged('test')
  mirrored = train.images[:420][:, :, ::-1].copy()
  settings = tasks.Settings.quick(
    tasks=('features', 'memorisation', 'tstr_lr', 'ceiling_lr', 'distinct')
  )
  found = tasks.evaluate(mirrored, train.labels[:420].astype(np.int64), train, test, settings)
  assert found['fid'].features == 'mnist_features_v1'
  for name, value, reference in (
    ('tstr_lr', 0.39216, 0.91877), ('fid', 5.77964, 0.59626), ('kid', 0.20735, 0.006929),
    ('precision', 0.61667, 0.94762), ('recall', 0.42381, 0.98095), ('density', 0.31476, 0.94381),
    ('coverage', 0.33333, 0.96429), ('closer_to_train', 0.46779, 0.5), ('copy_share', 0.0, 0.01),
  ):  # fmt: skip
    assert found[name].value == pytest.approx(value, abs=0.004), name
    assert found[name].reference == pytest.approx(reference, abs=0.004), name
  assert found['fid'].separates
