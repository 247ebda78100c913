"""A run in its directory: charged before it is taken, resumed bit for bit, refused when it is
another's.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest

from dpgan_jax import _validate, budget, data, model_file, resume, trainer
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN
from dpgan_jax.ledger import Ledger
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.run_dir import RunDir

CONFIG = TrainConfig(
  dataset='digits',
  generator='compact',
  noise_multiplier=1.0,
  steps=12,
  batch_size=24,
  delta=1e-4,
  steps_per_report=3,
  d_steps_per_g_step=2,
  num_samples=20,
  seed=7,
)
FLAGS = [f'--{name}={value}' for name, value in CONFIG.to_dict().items() if value is not None]


@pytest.fixture(scope='module')
def digits() -> data.ImageDataset:
  return data.load_dataset('digits')


@pytest.fixture(scope='module')
def finished(digits, tmp_path_factory) -> pathlib.Path:
  """An uninterrupted run."""
  path = tmp_path_factory.mktemp('runs') / 'finished'
  trainer.train(CONFIG, digits, path, progress=False)
  return path


@pytest.fixture
def copy(finished, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(finished, tmp_path / 'copy'))


def final_state(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Every leaf of the last checkpoint, keys included, by name."""
  config = json.loads((path / 'config.json').read_text())
  gan = GAN(
    TrainConfig.from_dict(config['config']),
    DPMechanism.from_dict(config['mechanism']),
    tuple(config['data']['image_shape']),
    config['data']['num_classes'],
  )
  with Checkpoints(path / 'checkpoints') as checkpoints:
    _, state, _ = checkpoints.restore_latest(jax.eval_shape(gan.init, jax.random.key(0)))
  leaves = {}
  for name, leaf in jax.tree_util.tree_leaves_with_path(state):
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    leaves[jax.tree_util.keystr(name)] = np.asarray(leaf)
  return leaves


def assert_same_end(one: pathlib.Path, two: pathlib.Path) -> None:
  """Bit-identical state, metrics, samples and pictures."""
  a, b = final_state(one), final_state(two)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  for name in ('metrics.jsonl', 'samples.npz', 'samples.png', 'losses.png'):
    assert (one / name).read_bytes() == (two / name).read_bytes(), name


def ledger_of(path: pathlib.Path, digits: data.ImageDataset) -> Ledger:
  mechanism = budget.make(CONFIG, len(digits)).mechanism
  return Ledger.open(
    path / 'ledger.jsonl',
    stages={trainer.STAGE: mechanism},
    data_fingerprint=digits.fingerprint(),
  )


def test_run_leaves_what_it_promises(finished):
  with np.load(finished / 'samples.npz') as samples:
    assert samples['x'].shape == (20, 8, 8)
    assert samples['x'].dtype == np.uint8
    assert np.bincount(samples['y']).tolist() == [2] * 10
  for name in ('samples.png', 'losses.png', 'metrics.jsonl', 'ledger.jsonl', 'config.json'):
    assert (finished / name).stat().st_size > 0
  assert sorted(p.name for p in (finished / 'grids').iterdir()) == [
    f'step_{step:08d}.png' for step in (3, 6, 9, 12)
  ]
  lines = [json.loads(line) for line in (finished / 'metrics.jsonl').read_text().splitlines()]
  mechanism = budget.make(CONFIG, 1440).mechanism
  assert [line['step'] for line in lines] == [3, 6, 9, 12]
  assert [line['epsilon'] for line in lines] == [mechanism.epsilon(s) for s in (3, 6, 9, 12)]


def test_snapshots_are_publishable_generators_of_their_step(digits, tmp_path):
  """The last one draws the samples that the run leaves; each holds the average, and G as trained.
  """
  path = tmp_path / 'run'
  config = CONFIG.replace(reports_per_snapshot=2, g_ema_decay=0.9)
  trained = trainer.train(config, digits, path, progress=False)
  names = ['step_00000006.safetensors', 'step_00000012.safetensors']
  for folder in (path / 'snapshots', path / 'snapshots' / 'as_trained'):
    assert sorted(p.name for p in folder.glob('*.safetensors')) == names
  first, last = (model_file.load(path / 'snapshots' / name) for name in names)
  assert (first.steps, last.steps) == (6, 12)
  draw = lambda model: model.sample(5, key=jax.random.key(1))[0]  # noqa: E731
  np.testing.assert_array_equal(draw(last), draw(trained.model))
  as_trained = model_file.load(path / 'snapshots' / 'as_trained' / names[1])
  assert not np.array_equal(draw(as_trained), draw(last))
  assert not np.array_equal(draw(first), draw(last))


def start(run_dir: pathlib.Path) -> subprocess.Popen:
  command = [sys.executable, '-m', 'dpgan_jax.train', *FLAGS, f'--run_dir={run_dir}']
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(path: pathlib.Path) -> int:
  return path.read_bytes().count(b'\n') if path.is_file() else 0


def test_kill_9_and_resume_in_another_process_is_bit_identical(finished, tmp_path, digits):
  """Killed after the first charge, the second and the third metric line; then finished."""
  path = tmp_path / 'killed'
  for ledger_lines, metric_lines in ((2, 0), (3, 2), (4, 3)):
    process = start(path)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
      if (
        lines_of(path / 'ledger.jsonl') >= ledger_lines
        and lines_of(path / 'metrics.jsonl') >= metric_lines
      ):
        break
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    taken = [int(p.name) for p in (path / 'checkpoints').iterdir() if p.name.isdigit()]
    assert ledger_of(path, digits).charged_steps() >= max(taken, default=0)
  end = start(path)
  _, errors = end.communicate(timeout=300)
  assert end.returncode == 0, errors
  assert_same_end(finished, path)
  assert ledger_of(path, digits).charged_steps() == CONFIG.steps


def test_sigterm_says_how_to_continue(tmp_path):
  path = tmp_path / 'run'
  process = start(path)
  while lines_of(path / 'ledger.jsonl') < 2 and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 143, errors
  assert errors.strip().splitlines()[-1] == (
    'error: terminated. Run the same command again to continue.'
  )


def test_the_charge_is_on_disk_before_the_steps(digits, tmp_path, monkeypatch):
  """Checklist 22: when a chunk starts, the ledger file already charges its last step."""
  seen = []
  original = trainer.make_chunk

  def spying(gan, length):
    chunk = original(gan, length)

    def call(state, images, labels):
      seen.append((int(state.step) + length, ledger_of(tmp_path / 'run', digits).charged_steps()))
      return chunk(state, images, labels)

    return call

  monkeypatch.setattr(trainer, 'make_chunk', spying)
  trainer.train(CONFIG, digits, tmp_path / 'run', progress=False)
  assert [step for step, _ in seen] == [3, 6, 9, 12]
  assert all(charged == step for step, charged in seen)


def test_training_again_changes_nothing(finished, copy, digits):
  trainer.train(CONFIG, digits, copy, progress=False)
  assert_same_end(finished, copy)
  assert (finished / 'ledger.jsonl').read_bytes() == (copy / 'ledger.jsonl').read_bytes()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'noise_multiplier': 0.9}, r'noise_multiplier is 1.0 there and 0.9 now'),
    ({'batch_size': 25}, r'batch_size is 24 there and 25 now'),
    ({'steps': 13}, r'steps is 12 there and 13 now'),
    ({'l2_clip_norm': 2.0}, r'l2_clip_norm is 1.0 there and 2.0 now'),
    ({'g_learning_rate': 0.1}, r'g_learning_rate is .* there and 0.1 now'),
  ],
)
def test_another_runs_directory_is_refused(copy, digits, change, message):
  """Checklist 24."""
  before = {p: p.read_bytes() for p in copy.rglob('*') if p.is_file() and p.name != '.lock'}
  with pytest.raises(_validate.InputError, match=message):
    trainer.train(CONFIG.replace(**change), digits, copy, progress=False)
  assert before == {p: p.read_bytes() for p in copy.rglob('*') if p.is_file() and p.name != '.lock'}


def test_other_data_is_refused(copy, digits):
  """Checklist 24: another size is named; the same size with other contents is noticed too."""
  fewer = data.ImageDataset(
    images=digits.images[:-1],
    labels=digits.labels[:-1],
    num_classes=10,
    name='digits',
    class_names=digits.class_names,
  )
  with pytest.raises(_validate.InputError, match='num_examples is 1440 there and 1439 now'):
    trainer.train(CONFIG, fewer, copy, progress=False)
  changed = digits.images.copy()
  changed[0, 0, 0, 0] ^= 1
  other = data.ImageDataset(
    images=changed,
    labels=digits.labels,
    num_classes=10,
    name='digits',
    class_names=digits.class_names,
  )
  with pytest.raises(_validate.InputError, match='same size but other contents'):
    trainer.train(CONFIG, other, copy, progress=False)


def test_lost_ledger_is_refused(copy, digits):
  """A checkpoint that nobody paid for: the ledger was replaced by an empty one."""
  (copy / 'ledger.jsonl').unlink()
  with pytest.raises(_validate.InputError, match='lost entries'):
    trainer.train(CONFIG, digits, copy, progress=False)


def test_lost_checkpoints_are_refused(copy, digits):
  """Starting anew with other keys would release the same steps a second time, uncharged."""
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(_validate.InputError, match='no checkpoint to continue from'):
    trainer.train(CONFIG, digits, copy, progress=False)


def test_damaged_newest_checkpoint_falls_back_and_ends_the_same(finished, copy, digits):
  newest = copy / 'checkpoints' / '12'
  largest = max((p for p in newest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  with open(largest, 'r+b') as file:
    file.truncate(largest.stat().st_size // 2)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    trainer.train(CONFIG, digits, copy, progress=False)
  assert_same_end(finished, copy)


def test_directory_in_use_is_refused(copy, digits):
  with (
    trainer.RunDir.open(copy, create=True).lock(),
    pytest.raises(_validate.InputError, match=f'in use by the process with id {os.getpid()}'),
  ):
    trainer.train(CONFIG, digits, copy, progress=False)


def test_os_keys_differ_and_use_all_bits():
  """Checklist 20: 64 bits from the operating system; the high word is not zero as with a small
  seed.
  """
  words = np.stack([np.asarray(jax.random.key_data(resume.root_key(None))) for _ in range(32)])
  assert len(np.unique(words, axis=0)) == 32
  assert (words[:, 0] != 0).any()
  assert (np.bitwise_or.reduce(words) == np.uint32(0xFFFFFFFF)).all()
  fixed = [np.asarray(jax.random.key_data(resume.root_key(3))) for _ in range(2)]
  np.testing.assert_array_equal(*fixed)


def test_delta_not_below_one_over_n_warns():
  with pytest.warns(UserWarning, match='not below 1/N'):
    budget.make(CONFIG.replace(delta=1e-2), 100)


def test_two_of_three_give_the_third():
  by_epsilon = TrainConfig(target_epsilon=3.0, steps=30, batch_size=20, delta=1e-3)
  mechanism = budget.make(by_epsilon, 400).mechanism
  assert 3.0 * 0.995 < mechanism.epsilon() <= 3.0
  by_both = TrainConfig(
    target_epsilon=3.0, noise_multiplier=mechanism.noise_multiplier, batch_size=20, delta=1e-3
  )
  assert budget.make(by_both, 400).mechanism.steps >= 30
  by_epochs = TrainConfig(noise_multiplier=1.0, epochs=2.5, batch_size=20, delta=1e-3)
  assert budget.make(by_epochs, 400).mechanism.steps == 50
  free = budget.make(
    TrainConfig(target_epsilon=float('inf'), steps=5, batch_size=2), 400
  ).mechanism
  assert (free.noise_multiplier, free.l2_clip_norm, free.epsilon()) == (0, np.inf, np.inf)


def test_restored_model_is_the_trained_one(finished, digits):
  model = trainer.restore_model(finished).model
  again = trainer.restore_model(finished).model
  one, two = (m.sample(5, key=jax.random.key(1))[0] for m in (model, again))
  np.testing.assert_array_equal(one, two)
  assert model.steps == 12
  assert model.epsilon() == budget.make(CONFIG, len(digits)).mechanism.epsilon()


def test_unconditional_run_leaves_samples_without_labels(digits, tmp_path):
  """The report's own models, batch norm in G, SGD with its falling learning rate."""
  config = CONFIG.replace(
    generator='report',
    discriminator='report',
    d_optimizer='sgd',
    d_learning_rate=0.15,
    d_learning_rate_end=0.052,
    learning_rate_schedule='exponential',
    steps=4,
    steps_per_report=2,
  )
  trained = trainer.train(config, digits, tmp_path / 'run', progress=False)
  with np.load(tmp_path / 'run' / 'samples.npz') as samples:
    assert samples.files == ['x']
    assert samples['x'].shape == (20, 8, 8)
  assert trained.model.sample(3, key=jax.random.key(0))[1] is None


def test_steps_per_report_prefers_a_divisor():
  mechanism = budget.make(CONFIG.replace(steps=3000, steps_per_report=None), 1440).mechanism
  stride = trainer.steps_per_report(CONFIG.replace(steps=3000, steps_per_report=None), mechanism)
  assert 3000 % stride == 0
  assert 60 <= stride <= 100


HOSTILE = {
  'no data': lambda saved: saved.pop('data'),
  'data is a number': lambda saved: saved.update(data=3),
  'no height': lambda saved: saved['data'].update(image_shape=[0, 8, 1]),
  'a giant image': lambda saved: saved['data'].update(image_shape=[10**9, 10**9, 3]),
  'two axes': lambda saved: saved['data'].update(image_shape=[8, 8]),
  'no classes': lambda saved: saved['data'].update(num_classes=0),
  'names are a number': lambda saved: saved['data'].update(class_names=7),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_a_record_that_nobody_wrote_is_refused_in_one_line(case, copy):
  run = RunDir.open(copy, create=False)
  saved = run.load_config()
  HOSTILE[case](saved)
  run.save_config(saved)
  with pytest.raises(_validate.InputError) as caught:
    trainer.restore_model(copy)
  assert '\n' not in str(caught.value)


def test_a_record_nested_without_end_is_refused(copy):
  (copy / 'config.json').write_text('[' * 100_000)
  with pytest.raises(_validate.InputError, match='to be JSON'):
    trainer.restore_model(copy)
