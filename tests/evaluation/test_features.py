"""The fixed features: which ones when, the bundled file, wavelets of any size, Inception."""

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
from dpgan_jax.data.spec import Spec
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


@pytest.mark.parametrize(
  ('name', 'shape', 'expected'),
  [
    ('mnist', (28, 28, 1), features.MNIST),
    ('emnist_digits', (28, 28, 1), features.MNIST),
    ('mnist', (28, 28, 3), features.SCATTERING),
    ('digits', (8, 8, 1), features.SCATTERING),
    ('fashion_mnist', (28, 28, 1), features.SCATTERING),
    ('emnist', (28, 28, 1), features.SCATTERING),
    ('idx', (28, 28, 1), features.SCATTERING),
    ('png', (32, 32, 3), features.SCATTERING),
  ],
)
def test_features_of_digits_are_for_digits_only(name, shape, expected):
  spec = Spec(num_records=9, shape=shape, class_names=('0', '1'), name=name)
  assert features.choose(spec) == expected


def test_features_off_their_ground_say_so():
  assert features.off_ground(features.MNIST, (28, 28, 1)) is None
  assert features.off_ground(features.SCATTERING, (8, 64, 3)) is None
  assert 'enlarged to 8 pixels' in str(features.off_ground(features.SCATTERING, (5, 9, 1)))
  assert 'reduced to 64 pixels' in str(features.off_ground(features.SCATTERING, (64, 65, 1)))
  assert 'photographs of 299×299' in str(features.off_ground('inception', (28, 28, 1)))


@pytest.mark.parametrize('shape', [
  (8, 9, 3), pytest.param((32, 32, 1), marks=pytest.mark.slow), (1, 1, 1),
  pytest.param((70, 20, 3), marks=pytest.mark.slow),
])  # fmt: skip
def test_wavelets_are_taken_of_any_size(shape):
  images = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)
  points = features.extract(images, features.SCATTERING)
  assert (points.shape, points.dtype) == ((4, 64), np.float32)
  assert np.isfinite(points).all()
  assert np.linalg.norm(points[0] - points[1]) > 0.01


def test_wavelets_see_colour():
  """Two colours of one luminance: alike to eyes that see grey only."""
  red, green = np.zeros((2, 1, 16, 16, 3), np.uint8)
  red[..., 0], green[..., 1] = 196, 100  # 0.299 · 196 = 0.587 · 100
  grey = np.full((1, 16, 16, 3), 59, np.uint8)
  points = [features.extract(x, features.SCATTERING) for x in (red, green, grey)]
  for one, other in ((0, 1), (0, 2), (1, 2)):
    assert np.linalg.norm(points[one] - points[other]) > 0.3


def test_wavelets_of_grey_images_are_those_of_grey_colour_images():
  """Black and white differ in luminance alone, whichever way they are stored."""
  grey = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1)).astype(np.uint8)
  one = features.extract(grey, features.SCATTERING)
  coloured = features.extract(np.repeat(grey, 3, axis=3), features.SCATTERING)
  for a, b in ((0, 1), (1, 2)):
    np.testing.assert_allclose(one[a] - one[b], coloured[a] - coloured[b], atol=0.02)


def test_the_directions_are_a_public_constant():
  """Another sign, and scores of two versions would not compare although they have one name."""
  signs = features._signs(0, 2000)
  assert hashlib.sha256(signs.tobytes()).hexdigest().startswith('31282a8a6a09ece8')
  np.testing.assert_array_equal(features._signs(700, 300), signs[700:1000])
  assert abs(signs.mean()) < 0.02
  gram = signs.T @ signs / len(signs)
  assert abs(gram - np.eye(64)).max() < 0.12


def test_mnist_is_known(mnist_dir):
  test = datasets.load_dataset('mnist', data_dir=str(mnist_dir), split='test')
  params, _ = features._weights()
  images, labels = test.images[:1000], test.labels[:1000]
  logits = fitting.forward(features.Network(), params, images)
  assert (logits.argmax(axis=1) == labels).mean() > 0.97
  points = features.extract(images, features.MNIST)
  assert np.var(points, axis=0).mean() == pytest.approx(1, abs=0.15)
  # Real against real is near, noise is far.
  assert distances.fid(points[:500], points[500:]) < 5
  noise = np.random.default_rng(0).integers(0, 256, (500, 28, 28, 1)).astype(np.uint8)
  assert distances.fid(points, features.extract(noise, features.MNIST)) > 30


@pytest.mark.parametrize('name', [features.MNIST, features.SCATTERING])
def test_features_depend_on_the_image_alone(name):
  images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1)).astype(np.uint8)
  points = features.extract(images, name)
  assert (points.shape, points.dtype) == ((7, features.NUM_FEATURES), np.float32)
  order = [3, 0, 6]
  again = features.extract(images[order], name)
  np.testing.assert_allclose(again, points[order], rtol=1e-4, atol=1e-4)


def test_features_of_digits_refuse_other_sizes():
  with pytest.raises(InputError, match=r'28×28×1 for mnist_features_v1, got \(8, 8, 1\)'):
    features.extract(np.zeros((2, 8, 8, 1), np.uint8), features.MNIST)


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
    features.extract(images, features.SCATTERING)


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
