"""What version 0.1 left is read and told from what this version writes; README.md in fixtures."""

from __future__ import annotations

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import generator_file, trainer
from dpgan_jax.run.directory import RunDir

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'


@pytest.fixture(scope='module')
def old(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('old')
  with tarfile.open(FIXTURES / 'run_0.1.tar.xz') as archive:
    archive.extractall(path, filter='data')
  return path / 'run_0.1'


@pytest.mark.parametrize('source', [pytest.param('run', marks=pytest.mark.slow), 'file'])
def test_it_draws_what_it_drew(old, source):
  if source == 'run':
    model = trainer.restore_model(old).model
  else:
    model = generator_file.load(FIXTURES / 'generator_3.safetensors')
  assert [each.classifier.stage for each in model.labellers] == ['classifier', 'label_cnn']
  assert (model.spec.num_records, model.spec.shape, model.spec.num_classes) == (1440, (4, 4, 1), 10)
  assert model.steps == 4
  images, labels = model.sample(20, key=jax.random.key(1))
  with np.load(old / 'drawn.npz') as drawn:
    assert np.abs(images.astype(int) - drawn['x']).max() <= 1  # compilers round differently
    np.testing.assert_array_equal(labels, drawn['y'])


@pytest.mark.slow  # the accounting of four stages
def test_its_epsilon_is_what_it_said(old):
  said = json.loads((old / 'report.json').read_text())
  statement = run_statement.build(RunDir.open(old, create=False))
  assert statement.finished
  assert statement.epsilon == said['guarantee']['epsilon']
  model = generator_file.load(FIXTURES / 'generator_3.safetensors')
  assert model.epsilon() == statement.epsilon == trainer.restore_model(old).model.epsilon()


def test_it_is_not_continued_and_nothing_of_it_changes(old):
  saved = json.loads((old / 'config.json').read_text())
  before = {p: p.read_bytes() for p in old.rglob('*') if p.is_file() and p.name != '.lock'}
  config = TrainConfig.from_dict(saved['config'])
  with pytest.raises(InputError, match=r'another version of dpgan_jax.*another --run_dir'):
    trainer.train(config, datasets.load_dataset('digits'), old, progress=False)
  assert before == {p: p.read_bytes() for p in old.rglob('*') if p.is_file() and p.name != '.lock'}
