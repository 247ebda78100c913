"""Generators kept along the way, found and drawn."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from dpgan_jax._validate import InputError
from dpgan_jax.data.spec import Spec
from dpgan_jax.evaluation import snapshots
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file
from dpgan_jax.run.directory import RunDir


@pytest.fixture(scope='module')
def model() -> GANSynthesizer:
  mechanism = DPMechanism.create(
    num_examples=100, batch_size=10, l2_clip_norm=1.0, noise_multiplier=0.0, steps=30, delta=1e-3
  )
  config = TrainConfig(
    generator='compact', noise_multiplier=0.0, steps=30, batch_size=10, delta=1e-3
  )
  spec = Spec(num_records=100, shape=(8, 8, 1), class_names=('0', '1', '2'), name='digits')
  gan = GAN(config, mechanism, spec)
  generator = jax.jit(lambda key: gan.init(key).g_average)(jax.random.key(0))
  return GANSynthesizer(gan, generator, 30)


@pytest.fixture
def run(tmp_path) -> RunDir:
  run = RunDir.open(tmp_path / 'run', create=True)
  run.snapshots.mkdir()
  return run


def test_snapshots_are_found_in_order_and_the_last_is_always_there(run):
  for step in (30, 5, 100, 20, 10):
    (run.snapshots / f'step_{step:08d}.safetensors').touch()
  (run.snapshots / '.step_00000040.safetensors.0.tmp').touch()  # a crash left it

  def steps(at_most=None):
    return [int(path.stem[5:]) for path in snapshots.paths(run, at_most)]

  assert steps() == steps(5) == steps(9) == [5, 10, 20, 30, 100]
  assert steps(1) == [100]
  assert steps(2) == [20, 100]
  assert len(set(steps(4))) == 4
  with pytest.raises(InputError, match='expected at_most >= 1, got 0'):
    steps(0)


def test_a_run_without_any_is_told_how_to_have_them(run):
  with pytest.raises(InputError, match='--reports_per_snapshot=N'):
    snapshots.paths(run)


def test_generators_as_trained_are_found_beside_their_averages(run):
  with pytest.raises(InputError, match=r'no snapshots as trained: .* --g_ema_decay > 0'):
    snapshots.paths(run, as_trained=True)
  folder = run.snapshots / 'as_trained'
  folder.mkdir()
  for kept in (folder, run.snapshots):
    (kept / 'step_00000500.safetensors').write_bytes(b'')
  assert snapshots.paths(run, as_trained=True) == [folder / 'step_00000500.safetensors']
  assert snapshots.paths(run) == [run.snapshots / 'step_00000500.safetensors']


def test_a_row_for_each_step(run, model, tmp_path):
  for step in (10, 20, 30):
    saved = dataclasses.replace(model, steps=step)
    generator_file.save(saved, run.snapshot(step))
  sizes = []
  for rows in (3, 1):
    path = tmp_path / f'{rows}.png'
    snapshots.picture_over_steps(run, path, title='over training', at_most=rows)
    with Image.open(path) as picture:
      sizes.append(picture.size)
  assert sizes[0][0] == sizes[1][0]
  assert sizes[0][1] - sizes[1][1] == 2 * (7 * 8 + 1)


def test_rows_show_the_same_z(model, tmp_path):
  """Two copies of one generator, without names before them: their rows are alike."""
  models = [('', model), ('', dataclasses.replace(model, steps=10))]
  path = snapshots.picture(models, tmp_path / 'a.png', title='')
  with Image.open(path) as picture:
    pixels = np.asarray(picture)
  one, other = pixels[1:57], pixels[58:114]
  assert np.ptp(one) > 100
  np.testing.assert_array_equal(one, other)
  again = snapshots.picture(models, tmp_path / 'b.png', title='')
  assert again.read_bytes() == path.read_bytes()
