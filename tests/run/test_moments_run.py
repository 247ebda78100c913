"""Runs of moments: charged before released, the same again after a crash, readable files."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release
from dpgan_jax.run import generator_file, plan, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases import moments

CONFIG = TrainConfig(dataset='npz', target_epsilon=2.0, delta=1e-4, num_samples=20)


@pytest.fixture(scope='module')
def data() -> ImageDataset:
  rng = np.random.default_rng(0)
  labels = np.arange(60, dtype=np.int32) % 2
  images = rng.integers(0, 150, (60, 6, 6, 1)) + 100 * labels[:, np.newaxis, np.newaxis, np.newaxis]
  return ImageDataset(
    images=images.astype(np.uint8), labels=labels, num_classes=2, name='npz',
    class_names=('dark', 'bright'),
  )  # fmt: skip


def _released(model) -> list[np.ndarray]:
  return [model.means.counts, model.means.sums, model.seconds]


def _same(one, other) -> bool:
  pairs = zip(_released(one), _released(other), strict=True)
  return all((a == b).all() for a, b in pairs)


def test_a_run_leaves_samples_and_a_ledger_of_both_releases(data, tmp_path):
  trained = trainer.train(CONFIG, data, tmp_path / 'run', progress=False)
  with np.load(trained.run.samples()) as file:
    assert file['x'].shape == (20, 6, 6)
  assert trained.run.samples_png.is_file()
  planned = plan.read(trained.run.load_config(), trained.run.config)
  ledger = Ledger.read(
    trained.run.ledger, stages=planned.budget.stages, identity=trained.run.identity()
  )
  assert {s: ledger.charged_steps(s) for s in ledger.stages} == {'moments': 1, 'moments_means': 1}
  assert ledger.epsilon() == trained.model.epsilon() <= 2.0
  assert _same(trainer.restore_model(tmp_path / 'run').model, trained.model)


@pytest.mark.parametrize('fails', ['release_means', 'release_seconds'])
def test_a_crash_between_charge_and_release_costs_nothing(data, tmp_path, monkeypatch, fails):
  """What is released after the crash is what would have been: one release, charged once."""
  made = getattr(release, fails)
  seen = []

  def crash(*arguments):
    seen.append(made(*arguments))
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(release, fails, crash)
    with pytest.raises(KeyboardInterrupt):
      trainer.train(CONFIG, data, tmp_path / 'run', progress=False)
  with pytest.raises(_validate.InputError, match='released nothing yet'):
    trainer.restore_model(tmp_path / 'run')
  model = trainer.train(CONFIG, data, tmp_path / 'run', progress=False).model
  lost = seen[0]
  if fails == 'release_means':
    np.testing.assert_array_equal(model.means.sums, lost.sums.astype(np.float32))
  else:
    np.testing.assert_array_equal(model.seconds, lost.astype(np.float32))
  assert len(RunDir.open(tmp_path / 'run', create=False).ledger.read_bytes().splitlines()) == 3


def test_it_is_charged_before_it_is_released(data, tmp_path, monkeypatch):
  events = []
  charge, means, seconds = Ledger.charge, release.release_means, release.release_seconds
  monkeypatch.setattr(
    Ledger, 'charge', lambda self, n, stage: (events.append(f'pay {stage}'), charge(self, n, stage))
  )
  monkeypatch.setattr(release, 'release_means', lambda *a: (events.append('means'), means(*a))[1])
  monkeypatch.setattr(
    release, 'release_seconds', lambda *a: (events.append('seconds'), seconds(*a))[1]
  )
  trainer.train(CONFIG, data, tmp_path / 'run', progress=False)
  assert events.index('pay moments_means') < events.index('means')
  assert events.index('pay moments') < events.index('seconds')


def test_two_runs_release_other_noise_and_a_seed_the_same(data, tmp_path):
  seeded = CONFIG.replace(seed=7)
  runs = {
    name: trainer.train(config, data, tmp_path / name, progress=False).model
    for name, config in {'a': CONFIG, 'b': CONFIG, 'c': seeded, 'd': seeded}.items()
  }
  assert not _same(runs['a'], runs['b'])
  assert _same(runs['c'], runs['d'])
  # Records in a mapped file: moments read them on the host always.
  np.save(tmp_path / 'x.npy', data.images)
  mapped = dataclasses.replace(data, images=np.load(tmp_path / 'x.npy', mmap_mode='r'))
  for where in ('device', 'host'):
    of_file = trainer.train(seeded, mapped, tmp_path / where, progress=False, data_on=where)
    assert _same(of_file.model, runs['c'])


def test_other_settings_are_not_continued(data, tmp_path):
  trainer.train(CONFIG, data, tmp_path / 'run', progress=False)
  with pytest.raises(_validate.InputError, match='target_epsilon'):
    trainer.train(CONFIG.replace(target_epsilon=3.0), data, tmp_path / 'run', progress=False)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def model(data, tmp_path_factory):
  folder = tmp_path_factory.mktemp('moments') / 'run'
  return trainer.train(CONFIG.replace(seed=99), data, folder, progress=False).model


def test_a_file_draws_the_same_and_holds_no_seed(model, tmp_path):
  generator_file.save(model, tmp_path / 'm.safetensors')
  again = generator_file.load(tmp_path / 'm.safetensors')
  assert _same(again, model)
  assert again.epsilon() == model.epsilon()
  assert again.config.seed is None
  first, second = (m.sample(9, key=jax.random.key(0))[0] for m in (again, model))
  assert (first == second).all()
  with pytest.raises(_validate.InputError, match='of a GAN'):
    generator_file.load_gan(tmp_path / 'm.safetensors')


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (lambda r: r.pop('dim'), 'lacks'),
    (lambda r: r.update(dim=10**9), 'dim'),
    (lambda r: r.update(dim=35), 'expected seconds|expected sums'),
    (lambda r: r.update(stages={}), 'stages'),
    (lambda r: r['stages']['moments'].update(noise_multiplier=1e-9), 'damaged|expected'),
    (lambda r: r['data'].update(num_records=59), 'num_examples|over all 59'),
    (lambda r: r['stages']['moments'].update(steps=2), 'one step'),
    (lambda r: r['stages']['moments'].update(truncated_batch_size=60), 'uncut'),
    (lambda r: r['stages']['moments_means'].update(l2_clip_norm=0.5), 'of sensitivity 1'),
  ],
)
def test_a_file_that_lies_is_refused(model, tmp_path, edit, message):
  path = tmp_path / 'm.safetensors'
  generator_file.save(model, path)
  blob = path.read_bytes()
  length = int.from_bytes(blob[:8], 'little')
  header = json.loads(blob[8 : 8 + length])
  record = json.loads(header['__metadata__']['dpgan_jax'])
  edit(record)
  header['__metadata__']['dpgan_jax'] = json.dumps(record)
  new = json.dumps(header).encode()
  path.write_bytes(len(new).to_bytes(8, 'little') + new + blob[8 + length :])
  if record.get('stages', {}).get('moments', {}).get('noise_multiplier') == 1e-9:
    assert generator_file.load(path).epsilon() > 1e6  # not refused, and worth nothing
    return
  with pytest.raises(_validate.InputError, match=message):
    generator_file.load(path)


def test_numbers_that_are_none_are_refused(model, tmp_path):
  seconds = model.seconds.copy()
  seconds[0, 0, 0] = np.nan
  broken = type(model)(model.moments, model.means, seconds)
  generator_file.save(broken, tmp_path / 'm.safetensors')
  with pytest.raises(_validate.InputError, match='finite'):
    generator_file.load(tmp_path / 'm.safetensors')


def test_the_state_of_a_new_stage_is_empty():
  """So that a checkpoint before the releases holds nothing of the data."""
  from dpgan_jax.data.spec import Spec
  from dpgan_jax.models.moments import settings

  spec = Spec(num_records=60, shape=(6, 6, 1), class_names=('a', 'b'), name='npz')
  state = moments.nothing_released(settings.make(CONFIG, spec), jax.random.key(0))
  assert not any(np.asarray(leaf).any() for leaf in state[:4])
