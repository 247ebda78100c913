"""The fixed features: the bundled file, what it knows, other sizes and colours, Inception."""

from __future__ import annotations

import hashlib
import sys
import types
import urllib.error

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import distances, features
from dpgan_jax.models import fitting


def test_the_bundled_file_is_small_and_the_one_that_was_published():
  raw = features.FILE.read_bytes()
  assert len(raw) <= 400_000
  assert hashlib.sha256(raw).hexdigest() == features._SHA256


def test_weights_are_read_as_they_were_saved(tmp_path):
  network = features.Network()
  params = network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
  raw = features.save(params, 0.25)
  (path := tmp_path / 'f.safetensors').write_bytes(raw)
  loaded, scale = features.load(path, hashlib.sha256(raw).hexdigest())
  assert scale == 0.25
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), loaded, params)
  with pytest.raises(InputError, match=r'f.safetensors is damaged or of another version .SHA-256 '):
    features.load(path, '0' * 64)
  path.unlink()
  with pytest.raises(InputError, match=r'f.safetensors is missing; install dpgan_jax again'):
    features.load(path, '0' * 64)


def test_digits_of_another_size_and_source_are_known():
  """sklearn's 8x8 digits, resized: the classifier has seen MNIST only, and still knows most."""
  digits = datasets.load_dataset('digits', split='test')
  params, _ = features._weights()
  logits = fitting.forward(features.Network(), params, features.to_size(digits.images))
  assert (logits.argmax(axis=1) == digits.labels).mean() > 0.5


def test_mnist_is_known(mnist_dir):
  test = datasets.load_dataset('mnist', data_dir=str(mnist_dir), split='test')
  params, _ = features._weights()
  images, labels = test.images[:1000], test.labels[:1000]
  logits = fitting.forward(features.Network(), params, images)
  assert (logits.argmax(axis=1) == labels).mean() > 0.97
  points = features.extract(images)
  assert np.var(points, axis=0).mean() == pytest.approx(1, abs=0.15)
  # Real against real is near, noise is far.
  assert distances.fid(points[:500], points[500:]) < 5
  noise = np.random.default_rng(0).integers(0, 256, (500, 28, 28, 1)).astype(np.uint8)
  assert distances.fid(points, features.extract(noise)) > 30


def test_features_depend_on_the_image_alone():
  images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1)).astype(np.uint8)
  points = features.extract(images)
  assert (points.shape, points.dtype) == ((7, features.NUM_FEATURES), np.float32)
  assert (points >= 0).all()
  order = [3, 0, 6]
  np.testing.assert_allclose(features.extract(images[order]), points[order], rtol=1e-5, atol=1e-5)


def test_images_are_resized_and_greyed():
  images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
  assert features.to_size(images) is images
  grey = np.repeat(images, 3, axis=3)
  np.testing.assert_allclose(features.to_size(grey), images, atol=1)
  flat = np.full((2, 5, 40, 3), 77, np.uint8)
  assert (features.to_size(flat) == 77).all()
  green = np.zeros((1, 28, 28, 3), np.uint8)
  green[..., 1] = 100
  assert (features.to_size(green) == 59).all()


@pytest.mark.parametrize(
  'images',
  [
    np.zeros((2, 28, 28), np.uint8),
    np.zeros((2, 28, 28, 1)),
    np.zeros((0, 28, 28, 1), np.uint8),
    np.zeros((2, 28, 28, 2), np.uint8),
  ],
  ids=['no channel', 'floats', 'none', 'two channels'],
)
def test_other_arrays_are_refused(images):
  with pytest.raises(InputError, match='expected at least one image, uint8'):
    features.extract(images)


def test_inception_says_what_it_needs(monkeypatch):
  monkeypatch.setattr(features.importlib.util, 'find_spec', lambda name: None)
  images = np.zeros((2, 28, 28, 1), np.uint8)
  with pytest.raises(InputError, match=r'torch-fidelity, which is not installed: pip install'):
    features.inception_fid(images, images)


def stand_in(monkeypatch, calculate_metrics) -> None:
  """Puts stand-ins in the place of both packages."""
  torch = types.SimpleNamespace(
    from_numpy=lambda x: x,
    cuda=types.SimpleNamespace(is_available=lambda: False),
    utils=types.SimpleNamespace(data=types.SimpleNamespace(Dataset=object)),
  )
  fake = types.SimpleNamespace(calculate_metrics=calculate_metrics)
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch_fidelity', fake)
  monkeypatch.setattr(features.importlib.util, 'find_spec', lambda name: object())


def test_without_network_one_line_says_where_the_weights_belong(monkeypatch):
  def calculate_metrics(**_):
    raise urllib.error.URLError('[Errno -3] Temporary failure\nin name resolution')

  stand_in(monkeypatch, calculate_metrics)
  images = np.zeros((2, 28, 28, 1), np.uint8)
  with pytest.raises(InputError, match=r'name resolution.*weights-inception-.*pth') as caught:
    features.inception_fid(images, images)
  assert '\n' not in str(caught.value)


def test_inception_hands_over_rgb_images(monkeypatch):
  """What torch-fidelity is given, and what is read of its answer."""

  def calculate_metrics(*, input1, input2, fid, **others):
    del others
    assert fid
    assert (len(input1), len(input2)) == (3, 2)
    assert (input1[0].shape, input1[0].dtype) == ((3, 28, 28), np.uint8)
    assert (input1[1] == 9).all()
    return {'frechet_inception_distance': 12.5}

  stand_in(monkeypatch, calculate_metrics)
  real, samples = np.zeros((2, 28, 28, 1), np.uint8), np.full((3, 28, 28, 1), 9, np.uint8)
  assert features.inception_fid(real, samples) == 12.5
