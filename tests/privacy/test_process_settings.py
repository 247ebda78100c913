"""A run does not follow settings of the process that its report knows nothing of."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Trains GAN and labeller on two ways through the data, samples, and samples again from the run's
# directory as it stands on the disk.
PROGRAM = """
import sys
import jax, numpy as np
from dpgan_jax import _keys
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import trainer
config = TrainConfig(
  dataset='digits', generator='compact', discriminator='compact', loss='wasserstein',
  gradient_penalty=1.0, noise_multiplier=6.0, steps=4, batch_size=32, steps_per_report=2,
  d_steps_per_g_step=2, num_samples=10, delta=1e-4, seed=3)
trained = trainer.train(config, datasets.load_dataset('digits'), sys.argv[1], progress=False)
for model in (trained.model, trainer.restore_model(sys.argv[1]).model):
  print(np.asarray(model.sample(10, key=_keys.from_seed(1))[0]).sum(axis=(1, 2, 3)).tolist())
"""


@pytest.mark.slow
def test_generator_width_and_seed_offset_of_the_process_change_nothing(tmp_path):
  """Runs of one seed: by default, under `rbg` (with a gradient penalty, whose partners are drawn
  for each example), with 64-bit numbers that are never
  promoted, and a seed offset."""
  settings = (
    {}, {'JAX_DEFAULT_PRNG_IMPL': 'rbg'}, {'JAX_DEFAULT_PRNG_IMPL': 'unsafe_rbg'},
    {
      'JAX_ENABLE_X64': '1', 'JAX_NUMPY_DTYPE_PROMOTION': 'strict', 'JAX_RANDOM_SEED_OFFSET': '9',
    },
  )  # fmt: skip
  found = set()
  for number, setting in enumerate(settings):
    ran = subprocess.run(
      [sys.executable, '-W', 'ignore', '-c', PROGRAM, str(tmp_path / str(number))],
      env=os.environ | setting, check=False, text=True, capture_output=True, timeout=1800,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    found |= set(ran.stdout.splitlines())
  assert len(found) == 1
