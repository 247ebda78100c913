"""dpgan_jax.auditing.one_run: canaries are found where the noise is small, and not where it is
large.
"""

from __future__ import annotations

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.auditing import one_run
from dpgan_jax.auditing.canaries import make_canaries
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import stages

CONFIG = TrainConfig(
  noise_multiplier=0.4, steps=40, batch_size=40, delta=1e-3, generator='compact', seed=0,
  d_steps_per_g_step=20, fake_batch_size=8, g_batch_size=8, num_samples=30, steps_per_report=20,
)  # fmt: skip


@pytest.fixture(scope='module')
def dataset():
  digits = datasets.load_dataset('digits')
  return datasets.ImageDataset(
    images=digits.images[:60], labels=digits.labels[:60], num_classes=10, name='digits',
    class_names=digits.class_names,
  )  # fmt: skip


def plant(dataset, kind='coordinates', count=100):
  return make_canaries(
    kind, count, spec=dataset.spec, seed=1,
    parameters=one_run.count_parameters(CONFIG, dataset),
  )  # fmt: skip


def audit(dataset, run_dir, canaries=None, config=CONFIG):
  canaries = canaries or plant(dataset)
  return one_run.audit_run(config, dataset, canaries, run_dir, progress=False)


@pytest.fixture(scope='module')
def loud(dataset, tmp_path_factory):
  run_dir = tmp_path_factory.mktemp('audit') / 'run'
  return audit(dataset, run_dir), run_dir


@pytest.mark.slow  # test_gradient has an audit that is seen to find
def test_finds_canaries_in_little_noise(loud, dataset):
  """Each canary is in a fifth of 40 steps or more, at noise 0.4: they are told apart nearly all."""
  found, _ = loud
  assert found.canaries == 100
  assert found.mechanism.num_examples == 160
  assert found.accounted_epsilon == found.mechanism.epsilon()
  assert set(found.by) == {'gradient'}
  guesses = found.by['gradient']
  assert guesses.auc > 0.97
  assert 1 < guesses.lower_bound < found.accounted_epsilon
  assert found.present == plant(dataset).present.sum()


@pytest.mark.slow
def test_a_finished_audit_is_read_again_and_another_refused(loud, dataset, monkeypatch):
  found, run_dir = loud
  monkeypatch.setattr(stages, 'make_chunk', None)  # no step may be taken
  assert audit(dataset, run_dir) == found
  with pytest.raises(InputError, match='another run: steps is 40 there and 41 now'):
    audit(dataset, run_dir, config=CONFIG.replace(steps=41))
  with pytest.raises(InputError, match='another run: canaries is 100 there and 99 now'):
    audit(dataset, run_dir, canaries=plant(dataset, count=99))


@pytest.mark.slow
def test_an_interrupted_audit_ends_the_same(loud, dataset, tmp_path, monkeypatch):
  real = Ledger.charge

  def stop(self, up_to_step, stage):
    if up_to_step > 20:
      raise KeyboardInterrupt
    real(self, up_to_step, stage)

  monkeypatch.setattr(Ledger, 'charge', stop)
  with pytest.raises(KeyboardInterrupt):
    audit(dataset, tmp_path / 'run')
  monkeypatch.setattr(Ledger, 'charge', real)
  assert audit(dataset, tmp_path / 'run') == loud[0]


@pytest.mark.slow
def test_finds_nothing_in_much_noise(dataset, tmp_path):
  found = audit(dataset, tmp_path / 'run', config=CONFIG.replace(noise_multiplier=100.0))
  low, high = found.by['gradient'].auc_interval
  assert low < 0.5 < high
  assert found.by['gradient'].lower_bound == 0


@pytest.mark.slow
def test_images_as_canaries(dataset, tmp_path):
  found = audit(dataset, tmp_path / 'run', canaries=plant(dataset, 'random_pixels'))
  assert set(found.by) == {'gradient', 'loss', 'samples'}
  assert found.by['gradient'].auc > 0.8
  for guesses in found.by.values():
    assert np.isfinite(guesses.lower_bound)
    assert guesses.lower_bound <= found.accounted_epsilon
