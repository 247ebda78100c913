"""Code from outside takes part, is recorded, and is refused where it mixes records."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import flax.linen as nn
import jax
import numpy as np
import pytest

from dpgan_jax import _plugins, _validate
from dpgan_jax.data.datasets import DATASETS, PUBLIC, load_dataset
from dpgan_jax.data.sources import Source
from dpgan_jax.evaluation import judges, tasks
from dpgan_jax.models.classifier import Classifier
from dpgan_jax.models.classifier_config import MODELS, ClassifierConfig
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks.discriminators import DISCRIMINATORS
from dpgan_jax.networks.generators import GENERATORS, UNCONDITIONAL
from dpgan_jax.networks.losses import LOSSES
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import generator_file, trainer
from dpgan_jax.run.directory import RunDir

pytestmark = pytest.mark.usefixtures('short_curve')
EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'examples' / 'plugins'
REGISTRIES = (DATASETS, judges.CLASSIFIERS, MODELS, DISCRIMINATORS, GENERATORS, LOSSES)


@pytest.fixture(scope='module', autouse=True)
def nothing_stays() -> Iterator[None]:
  """What plugins add belongs to the process: other tests must not see it."""
  marks = [m for registry in REGISTRIES for m in registry._marks.values()]
  states = [*REGISTRIES, _plugins._LOADED, _plugins._ORIGINS]
  dicts, sets = [dict(s) for s in states], [set(m) for m in marks]
  modules = set(sys.modules)
  yield
  for state, before in zip(states, dicts, strict=True):
    state.clear()
    state.update(before)
  for mark, names in zip(marks, sets, strict=True):
    mark.intersection_update(names)
  for name in set(sys.modules) - modules:
    if name.startswith('own_'):
      del sys.modules[name]


@pytest.fixture(scope='module')
def examples(nothing_stays: None) -> list[str]:
  """All examples, loaded by their files."""
  files = sorted(EXAMPLES.glob('own_*.py'))
  for file in files:
    _plugins.load_plugin(str(file))
  return [file.stem for file in files]


CONFIG = {
  'dataset': 'stripes', 'discriminator': 'tiny', 'generator': 'affine', 'loss': 'least_squares',
  'target_epsilon': 1.0, 'steps': 4, 'batch_size': 20, 'd_steps_per_g_step': 2, 'delta': 1e-4,
  'num_samples': 20, 'seed': 3,
}  # fmt: skip


@pytest.fixture(scope='module')
def trained(examples: list[str], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A run of a discriminator, a generator, a loss and a data set from outside."""
  folder = tmp_path_factory.mktemp('own') / 'run'
  trainer.train(TrainConfig(**CONFIG), load_dataset('stripes'), folder, progress=False)
  generator_file.save(trainer.restore_model(folder).model, folder / 'g.safetensors')
  return folder


@pytest.mark.slow
def test_a_run_says_what_took_part(trained, examples):
  recorded = json.loads((trained / 'config.json').read_text())['environment']['plugins']
  assert recorded == _plugins.loaded()
  assert set(recorded) == set(examples)
  assert all(source.startswith('sha256 ') for source in recorded.values())
  statement = run_statement.build(RunDir.open(trained, create=False))
  assert statement.to_json()['environment']['at_start']['plugins'] == recorded
  first = statement.caveats()[0]
  assert first.startswith('Code from outside dpgan_jax took part')
  assert all(f'{name} ({source})' in first for name, source in recorded.items())
  assert first in statement.to_markdown()


@pytest.mark.slow
def test_nothing_is_read_without_the_same_code(trained, examples, monkeypatch):
  file = trained / 'g.safetensors'
  assert generator_file.load(file).sample(3, key=jax.random.key(1))[0].shape == (3, 8, 8, 1)
  whole = _plugins.loaded()
  go_on = lambda: trainer.train(  # noqa: E731
    TrainConfig(**CONFIG), load_dataset('stripes'), trained, progress=False
  )
  read = (lambda: generator_file.load(file), lambda: trainer.restore_model(trained), go_on)

  def refused(loaded: dict[str, str], match: str, reads=read) -> None:
    monkeypatch.setattr(_plugins, '_LOADED', loaded)
    for each in reads:
      with pytest.raises(_validate.InputError, match=match):
        each()

  refused({}, f'--plugin={",".join(examples)} ')
  refused({**whole, 'own_loss': 'sha256 0'}, 'own_loss .* which is sha256 0 now')
  more = {**whole, 'another': 'sha256 1'}
  refused(more, r'without the plugin another \(sha256 1\)', (go_on,))
  assert trainer.restore_model(trained)  # a judge may be added to what is only read


class Normalised(nn.Module):
  @nn.compact
  def __call__(self, images, labels):
    x = nn.Dense(4)(images.reshape(len(images), -1))
    return nn.Dense(1)(nn.BatchNorm(use_running_average=False)(x))[:, 0]


class Centred(nn.Module):
  """No layer's name tells that it looks at the other records."""

  @nn.compact
  def __call__(self, images, labels):
    x = nn.Dense(4)(images.reshape(len(images), -1))
    return nn.Dense(1)(x - x.mean(0, keepdims=True))[:, 0]


@pytest.mark.parametrize(
  ('module', 'match'), [(Normalised, 'BatchNorm'), (Centred, 'treats each example alone')]
)
def test_a_discriminator_that_mixes_records_is_refused(module, match, examples, tmp_path):
  name = f'bad_{module.__name__}'
  DISCRIMINATORS.register(name)(lambda shape, classes: module())
  config = TrainConfig(**{**CONFIG, 'discriminator': name})
  with pytest.raises(_validate.InputError, match=match):
    trainer.train(config, load_dataset('stripes'), tmp_path / 'run', progress=False)
  assert list(tmp_path.iterdir()) == []
  del DISCRIMINATORS[name]


@pytest.mark.slow  # a planted fault is one
def test_a_classifier_that_mixes_records_is_refused(examples):
  class Mixing(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
      return nn.Dense(self.num_classes)(x.reshape(len(x), -1) - x.mean())

  MODELS.register('mixing')(Mixing)
  config = {'dataset': 'stripes', 'features': 'pixels', 'target_epsilon': 1.0, 'steps': 2}
  spec = load_dataset('stripes').spec
  with pytest.raises(_validate.InputError, match='treats each example alone'):
    Classifier.create(ClassifierConfig(model='mixing', **config), spec)
  assert Classifier.create(ClassifierConfig(model='narrow', **config), spec).model.num_classes == 2
  del MODELS['mixing']


@pytest.mark.slow  # a planted fault is one
def test_a_gradient_that_depends_on_others_is_found_by_running(examples, tmp_path, monkeypatch):
  """What no forward pass shows: plans of networks from outside have their gradients compared."""
  from dpgan_jax.privacy import independence
  from dpgan_jax.run import plan

  seen = []
  monkeypatch.setattr(independence, 'require_independent', lambda *a: seen.append(a))
  spec = load_dataset('stripes').spec
  plan.make(TrainConfig(**CONFIG), spec)
  own = {'discriminator': 'compact', 'generator': 'compact', 'loss': 'bce'}
  assert len(seen) == 1
  plan.make(TrainConfig(**{**CONFIG, **own}), spec)
  assert len(seen) == 1
  plan.make(TrainConfig(**{**CONFIG, **own, 'loss': 'least_squares'}), spec)
  assert len(seen) == 2


def test_a_kind_of_file_gets_its_folder(examples, tmp_path):
  for split, n in (('train', 12), ('test', 4)):
    (tmp_path / split).mkdir()
    np.save(tmp_path / split / 'images.npy', np.full((n, 5, 4), 7, np.uint8))
    np.save(tmp_path / split / 'labels.npy', np.arange(n) % 2)
  train, test = (
    Source(dataset='arrays', data_dir=str(tmp_path)).settled().load(split)
    for split in ('train', 'test')
  )  # fmt: skip
  assert (len(train), len(test)) == (12, 4)  # nothing is held out of what has a test part
  assert train.spec.class_names == ('healthy', 'ill')
  assert 'arrays' not in PUBLIC
  np.save(tmp_path / 'train' / 'labels.npy', np.full(12, 2))
  with pytest.raises(_validate.InputError, match='labels'):
    load_dataset('arrays', data_dir=str(tmp_path))


def test_a_judge_is_one_of_the_tasks(examples):
  assert {'tstr_prototypes', 'ceiling_prototypes'} <= set(tasks.TASKS)
  assert len(tasks.TASKS) == len(set(tasks.TASKS)) > 10
  assert 'tstr_no_such' not in tasks.TASKS
  data = load_dataset('stripes')
  found = judges.train_and_test(
    'prototypes', (data.images, data.labels), (data.images[:50], data.labels[:50]),
    num_classes=2, epochs=60,
  )  # fmt: skip
  assert found.accuracy > 0.8


class TestRegistering:
  def test_names_are_new_and_marks_are_known(self):
    registry: _plugins.Registry[int] = _plugins.Registry('thing', {'old': 1}, odd=(odd := set()))
    registry.register('new', odd=True)(3)
    registry.register('even', odd=False)(4)
    assert (registry['new'], odd) == (3, {'new'})
    for name, marks in (('old', {}), ('a b', {}), ('newer', {'green': True})):
      with pytest.raises(_validate.InputError):
        registry.register(name, **marks)
    assert _plugins.origin('thing', 'new')['plugin'].startswith(f'{__name__} (sha256 ')
    assert _plugins.origin('thing', 'old') == {}

  def test_what_takes_a_name_is_told_by_it(self, examples):
    assert 'affine' not in UNCONDITIONAL
    with pytest.raises(_validate.InputError, match='did you mean affine'):
      TrainConfig(**{**CONFIG, 'generator': 'afine'})

  def test_what_is_no_module_is_refused_in_a_line(self, tmp_path, monkeypatch):
    (tmp_path / 'json.py').write_text('')
    (tmp_path / 'own_broken.py').write_text('def')
    monkeypatch.chdir(tmp_path)
    for name in ('no_such', 'no_such.py', 'json.py', 'own_broken.py', 'own_broken'):
      with pytest.raises(_validate.InputError, match='plugin'):
        _plugins.load_plugin(name)
    assert 'own_broken' not in sys.modules

  def test_a_package_is_known_by_all_its_files(self, tmp_path, monkeypatch):
    (tmp_path / 'own_package').mkdir()
    for name in ('__init__', 'inner'):
      (tmp_path / 'own_package' / f'{name}.py').write_text('')
    first = _plugins._digest(tmp_path / 'own_package' / '__init__.py')
    (tmp_path / 'own_package' / 'inner.py').write_text('x = 1\n')
    assert _plugins._digest(tmp_path / 'own_package' / '__init__.py') != first


def test_the_flag_loads_it_before_anything_is_looked_up(tmp_path):
  argv = ('train', f'--plugin={EXAMPLES / "own_data.py"}', '--dataset=stripes', '--dry_run')
  done = subprocess.run(
    [sys.executable, '-m', 'dpgan_jax', *argv, '--target_epsilon=1', '--delta=1e-4'],
    cwd=EXAMPLES.parents[2], env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert 'stripes: 400 images 8×8×1, 2 classes' in done.stdout
  assert np.unique(load_dataset('digits').labels).size == 10  # and nothing else has changed
