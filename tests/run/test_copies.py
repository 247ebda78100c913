"""A run that was copied and finished twice is one release: one draw of batches and of noise."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dpgan_jax.data import datasets
from dpgan_jax.models import labelling
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import generator_file, trainer
from tests.support import interruptions

CONFIG = TrainConfig(
  dataset='digits', target_epsilon=1.0, label_share=0.3, label_cnn_share=0.3, steps=4,
  batch_size=64, delta=1e-4, generator='report', discriminator='report', latent_dim=8,
  steps_per_report=2, num_samples=40,
)  # fmt: skip


# `test_labelling` interrupts a run in each stage and goes on; the two ends are compared here.
@pytest.mark.slow
def test_copies_that_are_finished_too_are_the_same_release(tmp_path, monkeypatch):
  """Copied when stopped in one stage, with the later ones yet to begin, and in the next; keys are
  from the operating system.
  """
  monkeypatch.setattr(labelling, '_MOST_SAMPLES', 500)
  monkeypatch.setattr(labelling, '_CNN_STEPS', 10)
  digits, path = datasets.load_dataset('digits'), tmp_path / 'run'
  copies = []
  for stage, step in (('classifier', 70), ('dp_sgd', 4)):
    with interruptions.interrupted(stage, step):
      trainer.train(CONFIG, digits, path, progress=False)
    copies.append(shutil.copytree(path, tmp_path / f'stopped in {stage}'))
  files = []
  for each in (path, *copies):
    model = trainer.train(CONFIG, digits, each, progress=False).model
    assert len(model.labellers) == 2
    generator_file.save(model, tmp_path / 'model')  # generator, both labellers, centre
    files.append([(each / 'samples.npz').read_bytes(), (tmp_path / 'model').read_bytes()])
  assert files[0] == files[1] == files[2]
  with np.load(path / 'samples.npz') as samples:
    assert len(samples['x']) == 40
