"""Checkpoints, generators, samples and data are read without pickle: nothing in them can run."""

from __future__ import annotations

import pathlib
import pickle
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax.data import readers, writers
from dpgan_jax.data.spec import Spec
from dpgan_jax.evaluation import scoring
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file
from dpgan_jax.run.checkpoint import Checkpoints

_imported: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
  if _imported is not None and event == 'pickle.find_class':
    _imported.append(repr(arguments))


@pytest.fixture(scope='module', autouse=True)
def audited() -> None:
  sys.addaudithook(_hook)  # it stays for good, and does nothing outside of these tests


@pytest.fixture
def no_pickle(monkeypatch) -> Iterator[None]:
  """Fails where anything unpickles: by name, or behind our back in a C extension."""
  global _imported

  def refuse(*_: object, **__: object) -> None:
    raise AssertionError('unpickled')

  for name in ('load', 'loads', 'Unpickler', '_Unpickler', '_load', '_loads'):
    monkeypatch.setattr(pickle, name, refuse)
  _imported = []
  yield
  found, _imported = _imported, None
  assert not found


STATE = {'w': jnp.arange(6.0).reshape(2, 3), 'key': jax.random.key(7), 'step': jnp.int32(3)}


def test_checkpoints(tmp_path, no_pickle):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, STATE, {'epsilon': 1.5})
    checkpoints.wait()
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(lambda: STATE))
  assert restored is not None
  np.testing.assert_array_equal(restored[1]['w'], STATE['w'])
  assert restored[2] == {'epsilon': 1.5}


def test_generators(tmp_path, no_pickle):
  config = TrainConfig(
    noise_multiplier=10.0, steps=4, batch_size=8, delta=1e-3, latent_dim=4, generator='compact',
    discriminator='compact',
  )  # fmt: skip
  mechanism = DPMechanism.create(
    num_examples=64, batch_size=8, l2_clip_norm=1.0, noise_multiplier=10.0, steps=4, delta=1e-3
  )
  spec = Spec(num_records=64, shape=(8, 8, 1), class_names=('a', 'b', 'c'), name='x')
  gan = GAN(config, mechanism, spec)
  zeros = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(gan.init, jax.random.key(0)).g_average,
  )
  generator_file.save(GANSynthesizer(gan, zeros, 3), tmp_path / 'g')
  assert generator_file.load(tmp_path / 'g').steps == 3


@pytest.mark.parametrize('labelled', [True, False])
def test_samples_and_data(tmp_path, no_pickle, labelled):
  images = np.arange(96, dtype=np.uint8).reshape(6, 4, 4)
  labels = np.arange(6) % 2 if labelled else None
  path = writers.export(tmp_path / 'a.npz', images, labels, format='npz')
  read, of_file = scoring.read_samples(str(path))
  np.testing.assert_array_equal(read[..., 0], images)
  assert (of_file is not None) == labelled
  with np.load(path, allow_pickle=False) as file:
    np.testing.assert_array_equal(file['x'], images)
  writers.export(tmp_path / 'idx', images, labels, format='idx')
  np.testing.assert_array_equal(
    readers.read_idx(tmp_path / 'idx' / 'train-images-idx3-ubyte.gz'), images
  )


class Exploding:
  def __init__(self, path: pathlib.Path) -> None:
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def test_the_watch_sees_what_unpickles(tmp_path):
  """Both ways: a call of pickle's, and a C extension that has its own name for it."""
  global _imported
  target = tmp_path / 'exploded'
  np.save(tmp_path / 'a.npy', np.array([Exploding(target)]), allow_pickle=True)
  _imported = []
  np.load(tmp_path / 'a.npy', allow_pickle=True)
  found, _imported = _imported, None
  assert any('touch' in arguments or 'getattr' in arguments for arguments in found)
  assert target.exists()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pickle, 'load', lambda *_, **__: pytest.fail('unpickled'))
    with pytest.raises(pytest.fail.Exception):
      np.load(tmp_path / 'a.npy', allow_pickle=True)
