"""Checks of what a run keeps, charges and divides by: the centre, the first charge, a sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
from typing import Any
from unittest import mock

import jax
import numpy as np

from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import plan, trainer
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search import sweep_table
from experiments.trust import gan_checks, taint_checks
from experiments.trust.statistical_checks import Stop, Violation
from tests.support import nets


def the_centre_is_divided_by_the_public_number() -> None:
  """Of N = 60 records that were announced, 53 and 60 come: the centre is their sum over 60."""
  model = taint_checks.make_classifier(**taint_checks.CLASSIFIERS['labeller'], noise_multiplier=0.0)
  state = jax.jit(lambda key: model.init(key))(jax.random.key(0))
  rows = np.random.default_rng(0).standard_normal((taint_checks.N, *model.input_shape))
  rows /= np.linalg.norm(rows.reshape(len(rows), -1), axis=1).reshape(-1, 1, 1, 1) * 1.01
  for count in (53, taint_checks.N):
    centre = model.release_centre(state, rows[:count].astype(np.float32), bytes(32)).centre
    want = rows[:count].reshape(count, -1).sum(axis=0) / taint_checks.N
    if not np.allclose(centre, want, atol=1e-4):
      share = float(np.vdot(centre, want) / np.vdot(want, want))
      raise Violation(f'of {count} records the centre is {share:.3f} times their sum over N')


CONFIG = TrainConfig(
  dataset='digits', noise_multiplier=6.0, steps=6, batch_size=32, num_samples=20, delta=1e-4,
  **nets.SMALLEST,
)  # fmt: skip


def keys_are_on_the_disk_before_the_first_charge() -> None:
  """A run that loses its machine at its first charge has a state to go on from, with its keys."""
  gan = plan.make(CONFIG, gan_checks.DIGITS).gan

  def charge(self: Ledger, *_: Any) -> None:
    with contextlib.suppress(FileNotFoundError):  # of what is on the disk now, the rest is lost
      shutil.copytree(folder / 'run' / 'checkpoints', folder / 'then')
    raise Stop

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    with mock.patch.object(Ledger, 'charge', charge), contextlib.suppress(Stop):
      trainer.train(CONFIG, datasets.load_dataset('digits'), folder / 'run', progress=False)
    with Checkpoints(folder / 'then') as checkpoints:
      restored = checkpoints.restore_latest(jax.eval_shape(gan.init, jax.random.key(0)))
  if restored is None or restored[0] != 0:
    raise Violation('when the first steps are charged there is no state on the disk to start from')


def failed_runs_count_in_a_sweep() -> None:
  """Two runs of one mechanism, of which one failed after 25 of its 40 steps: 65 are spent."""
  config = TrainConfig(noise_multiplier=10.0, steps=40, batch_size=32, delta=1e-4, seed=0)
  planned = plan.make(config, gan_checks.DIGITS)
  mechanism = planned.gan.mechanism
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    about = {'format': sweep_table.FORMAT, 'settings': {'delta': 1e-4}, 'data': {}}
    RunDir(folder).save_config(about)
    for seed, charged in enumerate((40, 25)):
      gan_checks.begun(folder / 'eps1' / f'seed_{seed}', planned, charged)
    table = sweep_table.read(folder, {'eps1/seed_1': 'the disk was full'})
  spent = table.spent_together[0]
  if not spent >= (expected := dataclasses.replace(mechanism, steps=65).epsilon()):
    raise Violation(f'65 steps spend epsilon {expected:.4g} and the sweep says {spent:.4g}')
