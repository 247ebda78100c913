"""A run that was copied and finished twice is one release: one draw of batches and of noise."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.models import labelling
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import generator_file, trainer

CONFIG = TrainConfig(
  dataset='digits', target_epsilon=1.0, label_share=0.3, label_cnn_share=0.3, steps=4,
  batch_size=64, delta=1e-4, generator='report', discriminator='report', latent_dim=8,
  steps_per_report=2, num_samples=40,
)  # fmt: skip


class _Stop(BaseException):
  pass


@pytest.mark.parametrize(('stage', 'step'), [('classifier', 70), ('dp_sgd', 4)])
def test_a_copy_that_is_finished_too_is_the_same_release(stage, step, tmp_path, monkeypatch):
  """Stopped in one stage, with the later ones yet to begin; keys are from the operating system."""
  monkeypatch.setattr(labelling, '_MOST_SAMPLES', 500)
  monkeypatch.setattr(labelling, '_CNN_STEPS', 10)
  digits, one, two = datasets.load_dataset('digits'), tmp_path / 'one', tmp_path / 'two'
  charge = Ledger.charge

  def stopping(self, up_to_step, name='dp_sgd'):
    charge(self, up_to_step, name)
    if name == stage and up_to_step >= step:
      raise _Stop  # charged and not taken

  with monkeypatch.context() as patch:
    patch.setattr(Ledger, 'charge', stopping)
    with pytest.raises(_Stop):
      trainer.train(CONFIG, digits, one, progress=False)
  shutil.copytree(one, two)
  files = []
  for path in (one, two):
    model = trainer.train(CONFIG, digits, path, progress=False).model
    assert len(model.labellers) == 2
    generator_file.save(model, tmp_path / 'model')  # generator, both labellers, centre
    files.append([(path / 'samples.npz').read_bytes(), (tmp_path / 'model').read_bytes()])
  assert files[0] == files[1]
  with np.load(one / 'samples.npz') as samples:
    assert len(samples['x']) == 40
