"""Records on the host, handed over batch by batch: the same run as with all on the device."""

from __future__ import annotations

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _state_leaves, _validate
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.privacy import sampling, sharding
from dpgan_jax.run import stages, trainer
from dpgan_jax.run.host import feed
from experiments.trust import device_checks

STEPS = 7


def run(data_on, chunks, *, devices=1, data=None):
  """State and metrics after chunks of a classifier's steps, one after the other."""
  classifier = device_checks.classifier(STEPS)
  stage = stages.ClassifierStage(classifier, device_checks.data(), data_on=data_on)
  stage.mesh = sharding.mesh_of(devices)
  state = jax.jit(stage.init)(jax.random.key(5))
  state = sharding.replicate(state, stage.mesh)
  placed, histories = stage.placed(data or stage.data()), []
  for length in chunks:
    state, history = stage.chunk(length)(state, *placed)
    histories.append(sharding.gather(history, stage.mesh))
  state = sharding.gather(state, stage.mesh)
  return state, jax.tree.map(lambda *parts: np.concatenate(parts), *histories)


def same(found, expected):
  digests = [[_state_leaves.state_digest(leaf) for leaf in jax.tree.leaves(state)]
             for state, _ in (found, expected)]  # fmt: skip
  assert digests[0] == digests[1]
  jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.fixture(scope='module')
def on_device():
  return run('device', [STEPS])


def test_the_bits_are_those_of_data_on_the_device(on_device, monkeypatch):
  """However the steps are cut into chunks, and chunks into pieces."""
  same(run('host', [STEPS]), on_device)
  row = 4 * 4 * 4 + 4
  cap = device_checks.classifier(STEPS).mechanism.sampler.truncated_batch_size
  monkeypatch.setattr(feed, '_PIECE_BYTES', 2 * cap * row)  # two steps
  same(run('host', [5, 2]), on_device)


def test_records_on_the_disk_are_read_where_they_are_wanted(on_device, tmp_path):
  classifier = device_checks.classifier(STEPS)
  inputs, labels = stages.ClassifierStage(classifier, device_checks.data()).data()
  np.save(tmp_path / 'x.npy', inputs)
  on_disk = np.load(tmp_path / 'x.npy', mmap_mode='r')
  same(run('host', [STEPS], data=(on_disk, labels)), on_device)


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 8, reason='needs 8 devices')
def test_several_devices_are_fed_alike():
  host, device = (run(where, [STEPS], devices=2) for where in ('host', 'device'))
  same(host, device)


def test_the_next_records_are_read_while_a_piece_is_at_work(monkeypatch):
  """A chunk returns although what comes after it cannot be read yet."""
  classifier = device_checks.classifier(STEPS)
  stage = stages.ClassifierStage(classifier, device_checks.data(), data_on='host')
  (fed,) = stage.placed(stage.data())
  read, allowed = fed._read, threading.Semaphore(1)

  def waiting(drawn):
    assert allowed.acquire(timeout=600)
    return read(drawn)

  monkeypatch.setattr(fed, '_read', waiting)
  state = jax.jit(stage.init)(jax.random.key(5))
  take = stage.chunk(2)
  state, _ = take(state, fed)  # steps 3 and 4 are asked for, and not there
  assert int(state.step) == 2
  assert not fed._asked.drawn.done()
  assert fed._asked[:2] == (2, 2)
  allowed.release(2)
  state, _ = take(state, fed)
  assert int(state.step) == 4


def test_the_batch_of_another_step_counts_nothing():
  sampler = device_checks.classifier(STEPS).mechanism.sampler
  key, records = jax.random.key(1), jnp.arange(device_checks.N)
  batch = sampler(key, 3)
  drawn = sampling.Drawn(jnp.int32(3), batch, (records[batch.indices],))
  taken = sampler.take(key, jnp.int32(3), (drawn,))
  expected = sampler.take(key, jnp.int32(3), (records,))
  jax.tree.map(np.testing.assert_array_equal, taken, expected)
  assert taken.realised == taken.mask.sum() > 0
  wrong = sampler.take(key, jnp.int32(4), (drawn,))
  assert not wrong.mask.any()


def test_another_place_is_refused(tmp_path):
  with pytest.raises(_validate.InputError, match='data_on to be one of device, host'):
    trainer.train(TrainConfig(**CONFIG), device_checks.data(), tmp_path / 'x', data_on='disk')
  assert list(tmp_path.iterdir()) == []


CONFIG = {
  'dataset': 'arrays', 'noise_multiplier': 1.0, 'steps': 6, 'batch_size': 8, 'delta': 1e-3,
  'generator': 'compact', 'discriminator': 'compact', 'd_steps_per_g_step': 2, 'num_samples': 9,
  'steps_per_report': 2, 'seed': 4,
}  # fmt: skip


@pytest.mark.slow
def test_a_gan_goes_on_from_either_place(tmp_path, monkeypatch):
  """A run from the device, one from the host, one from both: the same metrics and samples."""
  data = device_checks.data()
  images = np.repeat(np.repeat(data.images, 2, 1), 2, 2)
  data = ImageDataset(
    images=images, labels=data.labels, num_classes=3, name='arrays', class_names=('0', '1', '2')
  )

  def train(name, data_on):
    trainer.train(TrainConfig(**CONFIG), data, tmp_path / name, progress=False, data_on=data_on)
    lines = (tmp_path / name / 'metrics.jsonl').read_text('utf-8').splitlines()
    with np.load(tmp_path / name / 'samples.npz') as archive:
      samples = {k: archive[k] for k in ('x', 'y')}
    return [{k: v for k, v in json.loads(line).items() if k != 'clock'} for line in lines], samples

  class Stopped(Exception):
    pass

  write = stages.GANStage.write

  def stop(self, step, *rest):
    if step > 2:
      raise Stopped
    write(self, step, *rest)

  first, samples = train('device', 'device')
  with monkeypatch.context() as patch:
    patch.setattr(stages.GANStage, 'write', stop)
    with pytest.raises(Stopped):
      train('both', 'device')
  for name in ('host', 'both'):
    found, drawn = train(name, 'host')
    assert len(found) == 3
    for a, b in zip(found, first, strict=True):
      a, b = ({k: v for k, v in x.items() if 'second' not in k} for x in (a, b))
      np.testing.assert_equal(a, b)
    np.testing.assert_array_equal(drawn['x'], samples['x'])
