"""The classifier's command and its run directory: charged first, resumed bit for bit, honest."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import re
import shutil
import typing
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import safetensors.numpy

from dpgan_jax import _validate, classify
from dpgan_jax.budget.budget import Budget
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.models.classifier import CENTRE, STAGE, make_stages
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.run.directory import RunDir
from tests.support import commands

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ClassifierConfig(
  noise_multiplier=4.0,
  steps=6,
  batch_size=200,
  delta=1e-4,
  angles=2,
  learning_rate=100.0,
  momentum=0.9,
  centre_noise_multiplier=20.0,
  steps_per_report=2,
  seed=7,
)


@pytest.fixture(scope='module')
def split() -> classify.Split:
  return classify.load(CONFIG, None)


@pytest.fixture(scope='module')
def finished(split, tmp_path_factory) -> pathlib.Path:
  """An uninterrupted run."""
  path = tmp_path_factory.mktemp('runs') / 'finished'
  classify.run(CONFIG, split, path, progress=False)
  return path


@pytest.fixture
def copy(finished, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(finished, tmp_path / 'copy'))


def assert_same_end(one: pathlib.Path, two: pathlib.Path) -> None:
  for name in ('metrics.jsonl', classify.RESULT, classify.WEIGHTS):
    assert (one / name).read_bytes() == (two / name).read_bytes(), name


def charges_of(path: pathlib.Path) -> list[dict]:
  """All that a ledger says but the hashes and whose it is, which no two runs share."""
  lines = map(json.loads, (path / 'ledger.jsonl').read_text().splitlines())
  return [{k: v for k, v in line.items() if k not in ('hash', 'run')} for line in lines]


def ledger_of(path: pathlib.Path, split: classify.Split) -> Ledger:
  return Ledger.open(
    path / 'ledger.jsonl',
    stages=make_stages(CONFIG, len(split.train)),
    data_fingerprint=split.train.fingerprint(),
    identity=RunDir(path).identity(),
  )


def test_run_leaves_what_it_promises(finished, split):
  result = json.loads((finished / classify.RESULT).read_text())
  assert result['accuracy'] > 30
  assert result['accuracy_computed_on'] == '357 test examples, looked at only here'
  assert result['accuracy_is_private'] is False
  stages = make_stages(CONFIG, 1440)
  assert result['stages'] == {name: m.to_dict() for name, m in stages.items()}
  ledger = ledger_of(finished, split)
  assert ledger.epsilon() <= result['epsilon'] <= ledger.epsilon() * 1.001
  assert ledger.charged_steps(STAGE) == 6
  assert ledger.charged_steps(CENTRE) == 1
  assert 'not private against those who know the seed' in result['seed']
  lines = [json.loads(line) for line in (finished / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [2, 4, 6]
  assert lines[-1]['epsilon'] == pytest.approx(ledger.epsilon())


def test_weights_hold_no_seed_and_no_key(finished):
  """Checklist 20: what may be published does not tell the noise."""
  raw = (finished / classify.WEIGHTS).read_bytes()
  tensors = safetensors.numpy.load(raw)
  assert set(tensors) == {'centre', 'params/Dense_0/kernel', 'params/Dense_0/bias'}
  header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], 'little')])
  record = json.loads(header['__metadata__']['dpgan_jax'])
  assert record['config']['seed'] is None
  assert json.loads((finished / classify.RESULT).read_text())['config']['seed'] is None
  assert record['steps'] == 6


def test_an_epsilon_that_a_second_computation_contradicts_is_not_written(copy, split, monkeypatch):
  """Centre and training composed; an accountant that forgets the centre."""
  (copy / classify.RESULT).unlink()
  forgetful = lambda self, steps=None: self.mechanism.epsilon(steps)  # noqa: E731
  with monkeypatch.context() as patch:
    patch.setattr(Budget, 'epsilon', forgetful)
    with pytest.raises(_validate.InputError, match='contradicted by a second computation'):
      classify.run(CONFIG, split, copy, progress=False)
  assert not (copy / classify.RESULT).exists()
  classify.run(CONFIG, split, copy, progress=False)


class Killed(BaseException):
  pass


@pytest.mark.parametrize('charges', [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_after_a_charge_and_resumed_it_ends_in_the_same_bits(
  charges, finished, split, tmp_path, monkeypatch
):
  """Checklist 22: after the centre's charge, after the first steps' and after the second's."""
  path, count = tmp_path / 'killed', itertools.count(1)
  charge = Ledger.charge

  def dying(ledger, up_to_step, stage=STAGE):
    charge(ledger, up_to_step, stage)
    if next(count) == charges:
      raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(Ledger, 'charge', dying)
    with pytest.raises(Killed):
      classify.run(CONFIG, split, path, progress=False)
  ledger = ledger_of(path, split)
  assert ledger.charged_steps(CENTRE) == 1
  assert ledger.charged_steps(STAGE) == [0, 2, 4][charges - 1]
  classify.run(CONFIG, split, path, progress=False)
  assert_same_end(finished, path)
  assert charges_of(path) == charges_of(finished)


@pytest.mark.slow  # test_host_data has the same loop
def test_inputs_on_the_host_give_the_same_bits(finished, split, tmp_path):
  classify.run(CONFIG, split, tmp_path / 'run', progress=False, data_on='host')
  assert_same_end(finished, tmp_path / 'run')


@pytest.mark.slow  # test_devices runs a classifier on eight
@pytest.mark.skipif(jax.device_count() < 2, reason='needs 2 devices')
def test_two_devices_take_the_same_batches(finished, split, tmp_path):
  classify.run(CONFIG, split, tmp_path / 'run', progress=False, devices=2)
  one, two = (
    [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
    for path in (finished, tmp_path / 'run')
  )
  for name in ('step', 'epsilon', 'realised_batch'):
    assert [line[name] for line in one] == [line[name] for line in two]
  weights = (safetensors.numpy.load_file(path / classify.WEIGHTS) for path in
             (finished, tmp_path / 'run'))  # fmt: skip
  a, b = weights
  np.testing.assert_array_equal(a['centre'], b['centre'])
  np.testing.assert_allclose(a['params/Dense_0/kernel'], b['params/Dense_0/kernel'], 0, 1e-2)


def test_running_again_changes_nothing(finished, copy, split):
  classify.run(CONFIG, split, copy, progress=False)
  assert_same_end(finished, copy)
  assert (finished / 'ledger.jsonl').read_bytes() == (copy / 'ledger.jsonl').read_bytes()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'noise_multiplier': 3.0}, 'noise_multiplier is 4.0 there and 3.0 now'),
    ({'centre_noise_multiplier': 30.0}, 'centre_noise_multiplier is 20.0 there and 30.0 now'),
    ({'learning_rate': 1.0}, 'learning_rate is 100.0 there and 1.0 now'),
  ],
)
def test_another_runs_directory_is_refused(copy, split, change, message):
  """Checklist 24."""
  with pytest.raises(_validate.InputError, match=message):
    classify.run(dataclasses.replace(CONFIG, **change), split, copy, progress=False)


def test_other_data_and_lost_checkpoints_are_refused(copy, split):
  labels = split.train.labels.copy()
  labels[:2] = labels[1::-1]
  other = dataclasses.replace(split, train=dataclasses.replace(split.train, labels=labels))
  with pytest.raises(_validate.InputError, match='same size but other contents'):
    classify.run(CONFIG, other, copy, progress=False)
  whole = (copy / 'ledger.jsonl').read_bytes()
  (copy / 'ledger.jsonl').write_bytes(b''.join(whole.splitlines(keepends=True)[:-1]))
  with pytest.raises(_validate.InputError, match='the ledger has lost entries'):
    classify.run(CONFIG, split, copy, progress=False)
  (copy / 'ledger.jsonl').write_bytes(whole)
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(_validate.InputError, match='no checkpoint to continue from'):
    classify.run(CONFIG, split, copy, progress=False)


def test_holdout_is_apart_from_training_and_leaves_the_test_set_alone(monkeypatch, tmp_path):
  read = []
  original = classify.datasets.load_dataset

  def spying(name, *, split='train', **others):
    read.append(split)
    return original(name, split=split, **others)

  monkeypatch.setattr(classify.datasets, 'load_dataset', spying)
  split = classify.load(dataclasses.replace(CONFIG, holdout=300), None)
  assert read == ['train']
  assert len(split.train) == len(split.inputs)
  held = len(split.scored_inputs)
  assert held == len(split.scored_labels) == 1440 - len(split.train)
  assert 250 < held < 350
  rows = np.concatenate([split.inputs, split.scored_inputs]).reshape(1440, -1)
  everything = classify.load(CONFIG, None).inputs.reshape(1440, -1)
  np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(everything[:, 0]))
  result = classify.run(
    dataclasses.replace(CONFIG, holdout=300, steps=2), split, tmp_path / 'run', progress=False
  )
  assert result['accuracy_computed_on'] == f'{held} held-out training examples'
  assert result['accuracy_is_private'] is True
  assert 'this accuracy' in result['not_covered']
  with pytest.raises(_validate.InputError, match='expected holdout < 1440'):
    classify.load(dataclasses.replace(CONFIG, holdout=1440), None)


def test_accuracy_on_test_images_of_one_s_own_is_private(split, tmp_path):
  """The people in them are protected by no ε of this run."""
  own = dataclasses.replace(split, train=dataclasses.replace(split.train, name='npz'))
  config = dataclasses.replace(CONFIG, steps=2)
  result = classify.run(config, own, tmp_path / 'run', progress=False)
  assert result['accuracy_is_private'] is True
  assert 'this accuracy: keep private' in result['not_covered']


def test_test_images_of_other_classes_are_refused(tmp_path):
  digits = classify.datasets.load_dataset('digits')
  arrays = {'x': digits.images[:20, :, :, 0], 'y': digits.labels[:20] % 3}
  np.savez(tmp_path / 'a.npz', **arrays, x_test=arrays['x'][:9], y_test=arrays['y'][:9] % 2)
  with pytest.raises(_validate.InputError, match=r"class 2 \('2'\) has no images"):
    classify.load(dataclasses.replace(CONFIG, dataset='npz'), str(tmp_path / 'a.npz'))


@pytest.mark.parametrize('holdout', [1.5, -1, float('nan'), float('inf')])
def test_a_part_that_is_none_is_refused(holdout):
  with pytest.raises(_validate.InputError, match='expected holdout'):
    dataclasses.replace(CONFIG, holdout=holdout)


def test_results_are_collected_and_replaced(finished, tmp_path):
  result = json.loads((finished / classify.RESULT).read_text())
  path = tmp_path / 'deep' / 'results.json'
  other = {**result, 'config': {**result['config'], 'momentum': 0.5}}
  for results in ([result], [other], [result, {**result, 'accuracy': result['accuracy'] + 2}]):
    classify.record(path, results)
  first, second = json.loads(path.read_text())
  assert first['config']['momentum'] == 0.5
  assert first['accuracy_standard_deviation'] is None
  assert second['accuracy_mean'] == pytest.approx(result['accuracy'] + 1, abs=1e-3)
  assert second['accuracy_standard_deviation'] == pytest.approx(2**0.5, abs=1e-3)
  path.write_text('{"a": 1}')
  with pytest.raises(_validate.InputError, match='to hold results'):
    classify.record(path, [result])


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def command() -> Iterator[commands.Command]:
  running = commands.Command('dpgan_jax.classify')
  yield running
  running.close()


@pytest.mark.slow
def test_the_command_trains_on_embedded_digits(command, tmp_path):
  settings = {k: v for k, v in CONFIG.to_dict().items() if v is not None and k != 'seed'}
  flags = [f'--{name}={value}' for name, value in {**settings, 'model': 'tutorial_cnn'}.items()]
  flags = [f for f in flags if not f.startswith(('--centre', '--features', '--learning'))]
  results = tmp_path / 'results.json'
  end = command(
    *flags,
    '--features=pixels',
    '--data_on=host',
    '--seeds=1',
    f'--run_dir={tmp_path / "run"}',
    f'--results={results}',
  )
  assert end.status == 0, end.err
  assert 'digits: 1440 images, inputs (8, 8, 1)' in end.out
  assert end.out.count('accuracy ') == 1
  assert 'seed fixed' in end.out
  assert 'ε=' in end.err
  (entry,) = json.loads(results.read_text())
  assert len(entry['accuracies']) == 1
  assert (tmp_path / 'run' / 'seed_0' / classify.WEIGHTS).is_file()


BAD = {
  'no directory': (['--noise_multiplier=1', '--steps=1'], '--run_dir=DIRECTORY'),
  'seeds': (
    ['--run_dir=x', '--noise_multiplier=1', '--steps=1', '--seed=1', '--seeds=3'],
    '--seed or --seeds',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_gets_one_line_and_status_2(command, case):
  flags, wanted = BAD[case]
  end = command(*flags)
  assert end.status == 2, end.err
  (line,) = [line for line in end.err.splitlines() if line.strip()]
  assert line.startswith('error: ')
  assert wanted in line


@pytest.mark.parametrize('name', ['classifier_eps1', 'scatternet_eps1', 'scatternet_eps0.5'])
def test_flag_files_are_whole_settings(name):
  """Each parses and validates, and names everything but the folder of the data."""
  text = (ROOT / 'experiments' / 'classifiers' / f'{name}.flags').read_text()
  given = dict(re.findall(r'^--(\w+)=(.*)$', text, flags=re.MULTILINE))
  assert given.pop('run_dir') == f'runs/{name}'
  hints = typing.get_type_hints(ClassifierConfig)
  parsed = {}
  for key, value in given.items():
    (kind,) = {*(typing.get_args(hints[key]) or (hints[key],))} - {type(None)}
    parsed[key] = kind(value)
  config = ClassifierConfig(**parsed)
  assert config.target_epsilon is not None
  assert config.target_epsilon <= 1.18
  assert config.delta == 1e-5
  assert config.seed is None
  assert not config.holdout


def test_real_mnist_is_what_the_flag_files_expect(mnist_dir):
  config = dataclasses.replace(
    CONFIG, dataset='mnist', features='pixels', centre_noise_multiplier=None
  )
  split = classify.load(config, str(mnist_dir))
  assert split.inputs.shape == (60_000, 28, 28, 1)
  assert split.scored_inputs.shape == (10_000, 28, 28, 1)
  assert split.scored_on == '10000 test examples, looked at only here'
