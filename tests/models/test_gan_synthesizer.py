"""What a generator draws: as many as wanted, of the classes asked for, with labels or without."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.models import gan_synthesizer
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from tests.support.synthesizers import CLASSES, SHAPE, make_mixed, make_model


@pytest.fixture(scope='module')
def model() -> GANSynthesizer:
  return make_model('compact')


@pytest.fixture(scope='module')
def report_model() -> GANSynthesizer:
  """Without classes, and with batch-norm averages among its arrays."""
  return make_model('report')


@pytest.fixture(scope='module')
def mixed() -> GANSynthesizer:
  return make_mixed()


def test_samples_are_images_with_balanced_labels_in_random_order(model):
  images, labels = model.sample(20, key=jax.random.key(0))
  assert (images.shape, images.dtype) == ((20, *SHAPE), np.uint8)
  assert (labels.shape, labels.dtype) == ((20,), np.int64)
  assert sorted(np.bincount(labels, minlength=CLASSES)) == [6, 7, 7]
  assert list(labels) != sorted(labels)
  assert len({image.tobytes() for image in images}) == 20


def test_same_key_same_samples_and_another_key_others(model):
  one, two, other = (model.sample(9, key=jax.random.key(seed)) for seed in (5, 5, 6))
  np.testing.assert_array_equal(one[0], two[0])
  np.testing.assert_array_equal(one[1], two[1])
  assert not np.array_equal(one[0], other[0])


def test_no_two_samples_share_noise_across_internal_batches(model, monkeypatch):
  monkeypatch.setattr(gan_synthesizer, '_SAMPLES_AT_ONCE', 8)
  images, labels = model.sample(20, labels=np.zeros(20, int), key=jax.random.key(0))
  assert len({image.tobytes() for image in images}) == len(labels) == 20


def test_images_are_of_the_classes_asked_for(model):
  wanted = np.array([2, 0, 1, 1], np.uint8)
  images, labels = model.sample(4, labels=wanted, key=jax.random.key(1))
  np.testing.assert_array_equal(labels, wanted)
  others, _ = model.sample(4, labels=(wanted + 1) % 3, key=jax.random.key(1))
  assert all(not np.array_equal(a, b) for a, b in zip(images, others, strict=True))


def is_grey(images: np.ndarray) -> np.ndarray:
  return (images == images[:, :1, :1]).all(axis=(1, 2, 3))


def test_every_generator_of_several_draws_as_many_in_random_order(mixed, model):
  images, labels = mixed.sample(2000, key=jax.random.key(0))
  grey = is_grey(images)
  # Twice 334 draws for each of three, of which two are left over; and one of them all is never so.
  assert 665 <= grey.sum() <= 668
  assert 60 < grey[:300].sum() < 140  # 5.8 standard deviations of a fair draw
  assert len({image.tobytes() for image in images[~grey]}) == (~grey).sum()
  np.testing.assert_array_equal(np.bincount(labels), [667, 667, 666])
  for of_class in (0, 1, 2):
    assert 150 < grey[labels == of_class].sum() < 295  # 222 expected; 6 standard deviations
  alone = dataclasses.replace(mixed, past={})
  for one, two in zip(
    alone.sample(9, key=jax.random.key(1)), model.sample(9, key=jax.random.key(1)), strict=True
  ):
    np.testing.assert_array_equal(one, two)


def test_several_generators_draw_the_classes_asked_for(mixed, monkeypatch):
  def generate(generator, key, labels):
    del generator, key
    return jax.numpy.broadcast_to(labels[:, None, None, None] / 10, (len(labels), *SHAPE))

  monkeypatch.setitem(mixed.__dict__, '_generate', generate)
  wanted = np.arange(1500) % 3
  images, _ = mixed.sample(1500, labels=wanted, key=jax.random.key(0))
  drawn = images[:, 0, 0, 0]
  of_class = [np.unique(drawn[wanted == k]) for k in range(3)]
  assert [len(found) for found in of_class] == [1, 1, 1]
  assert len({int(found[0]) for found in of_class}) == 3


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    ([0, 1], r'expected labels to be 3 whole numbers, got int64 \(2,\)'),
    ([[0], [1], [2]], r'expected labels to be 3 whole numbers, got int64 \(3, 1\)'),
    ([0.0, 1.0, 2.0], r'expected labels to be 3 whole numbers, got float64 \(3,\)'),
    ([True, False, True], r'expected labels to be 3 whole numbers, got bool \(3,\)'),
    ([0, 1, 3], r'expected labels in \[0, 2\], got 3'),
    ([0, -1, 2], r'expected labels in \[0, 2\], got -1'),
  ],
)
def test_wrong_labels_are_refused(model, labels, message):
  with pytest.raises(_validate.InputError, match=message):
    model.sample(3, labels=np.array(labels), key=jax.random.key(0))


@pytest.mark.parametrize('num', [0, -1, 2.0])
def test_wrong_counts_are_refused(model, num):
  with pytest.raises(_validate.InputError, match=f'expected num .*>= 1, got {num}'):
    model.sample(num, key=jax.random.key(0))


def test_unconditional_samples_have_no_labels(report_model, model):
  assert (report_model.is_conditional, model.is_conditional) == (False, True)
  images, labels = report_model.sample(5, key=jax.random.key(0))
  assert images.shape == (5, *SHAPE)
  assert labels is None
  with pytest.raises(_validate.InputError, match='expected no labels: generator report is not'):
    report_model.sample(5, labels=np.zeros(5, int), key=jax.random.key(0))


def test_epsilon_is_that_of_the_steps_taken(model):
  mechanism = model.gan.mechanism
  assert model.epsilon() == mechanism.epsilon(3) < mechanism.epsilon()
  assert model.epsilon(delta=1e-6) == mechanism.epsilon(3, 1e-6) > model.epsilon()
