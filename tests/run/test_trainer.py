"""A run in its directory: charged before it is taken, resumed bit for bit, refused when it is
another's.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings

import jax
import numpy as np
import pytest

from dpgan_jax import _state_leaves, _validate
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GANState
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import (
  generator_file,
  loop,
  metrics,
  plan,
  stages,
  trainer,
)
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.secrets import Secret
from dpgan_jax.run.stages import GANStage, make_chunk
from tests.support import nets

CONFIG = TrainConfig(
  dataset='digits',
  **nets.SMALLEST,
  noise_multiplier=4.0,
  steps=12,
  batch_size=24,
  delta=1e-4,
  steps_per_report=3,
  d_steps_per_g_step=2,
  g_mixture=2,
  num_samples=20,
  seed=7,
)
FLAGS = [f'--{name}={value}' for name, value in CONFIG.to_dict().items() if value is not None]


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


@pytest.fixture(scope='module')
def finished(digits, tmp_path_factory) -> pathlib.Path:
  """An uninterrupted run."""
  path = tmp_path_factory.mktemp('runs') / 'finished'
  trainer.train(CONFIG, digits, path, progress=False)
  return path


@pytest.fixture
def copy(finished, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(finished, tmp_path / 'copy'))


def final(path: pathlib.Path) -> GANState:
  """The last checkpoint."""
  run = RunDir.open(path, create=False)
  gan = plan.read(run.load_config(), run.config).gan
  with Checkpoints(path / 'checkpoints') as checkpoints:
    return checkpoints.restore_latest(jax.eval_shape(gan.init, jax.random.key(0)))[1]


def final_state(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Every leaf of the last checkpoint, keys included, by name."""
  leaves = {}
  for name, leaf in jax.tree_util.tree_leaves_with_path(final(path)):
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


def ledger_of(path: pathlib.Path, digits: datasets.ImageDataset) -> Ledger:
  return Ledger.open(
    path / 'ledger.jsonl',
    stages=plan.make(CONFIG, digits.spec).budget.stages,
    data_fingerprint=digits.fingerprint(),
    identity=RunDir.open(path, create=False).identity(),
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
  whole = plan.make_budget(CONFIG, 1440)
  assert [line['step'] for line in lines] == [3, 6, 9, 12]
  spent = [whole.epsilon_so_far({'dp_sgd': step}) for step in (3, 6, 9, 12)]
  assert [line['epsilon'] for line in lines] == spent
  assert lines[-1]['epsilon'] == whole.mechanism.epsilon()


@pytest.mark.slow
def test_snapshots_are_publishable_generators_of_their_step(digits, tmp_path):
  """The last one draws the samples that the run leaves; each holds the average, and G as trained.
  """
  path = tmp_path / 'run'
  config = CONFIG.replace(reports_per_snapshot=2, g_ema_decay=0.9, g_mixture=None)
  trained = trainer.train(config, digits, path, progress=False)
  names = ['step_00000006.safetensors', 'step_00000012.safetensors']
  for folder in (path / 'snapshots', path / 'snapshots' / 'as_trained'):
    assert sorted(p.name for p in folder.glob('*.safetensors')) == names
  first, last = (generator_file.load(path / 'snapshots' / name) for name in names)
  assert (first.steps, last.steps) == (6, 12)
  draw = lambda model: model.sample(5, key=jax.random.key(1))[0]  # noqa: E731
  np.testing.assert_array_equal(draw(last), draw(trained.model))
  as_trained = generator_file.load(path / 'snapshots' / 'as_trained' / names[1])
  assert not np.array_equal(draw(as_trained), draw(last))
  assert not np.array_equal(draw(first), draw(last))


def test_samples_are_of_the_generators_of_several_steps(finished, copy):
  model = trainer.restore_model(finished).model
  name = 'step_00000009.safetensors'
  (kept,) = (finished / 'snapshots').iterdir()  # the last one is in the checkpoint
  assert kept.name == name
  past = model.past[9]
  jax.tree.map(np.testing.assert_array_equal, past, generator_file.load(kept).generator)
  key = trainer._samples_key(final(finished), 2)
  with np.load(finished / 'samples.npz') as samples:
    np.testing.assert_array_equal(samples['x'], model.sample(20, key=key)[0][..., 0])
  (copy / 'snapshots' / name).unlink()
  with pytest.raises(_validate.InputError, match=rf'expected a generator at .*{name}, found none'):
    trainer.restore_model(copy)


# The command, which knows the smallest networks and waits after each metric line: a signal that is
# sent when a line is there comes long before the next, and before the end.
PROGRAM = """
import runpy, time
import tests.support.nets
from dpgan_jax.run.metrics import MetricsWriter
write = MetricsWriter.write
def slowly(*args, **options):
  write(*args, **options)
  time.sleep(1)
MetricsWriter.write = slowly
runpy.run_module('dpgan_jax.train', run_name='__main__', alter_sys=True)
"""


def start(run_dir: pathlib.Path) -> subprocess.Popen:
  command = [sys.executable, '-c', PROGRAM, *FLAGS, f'--run_dir={run_dir}']
  environment = {**os.environ, 'JAX_NUMPY_RANK_PROMOTION': 'raise'}  # a setting of the run
  return subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def lines_of(path: pathlib.Path) -> int:
  return path.read_bytes().count(b'\n') if path.is_file() else 0


def changed_at(path: pathlib.Path) -> int:
  return path.stat().st_mtime_ns if path.is_file() else 0


def test_ended_and_resumed_in_another_process_is_bit_identical(finished, tmp_path, digits):
  """Killed after the first metric line, told to stop after the second; then finished in this one.

  Other moments are the next tests', in one process; `test_kills` kills at every one, but is slow.
  """
  path = tmp_path / 'killed'
  lines = path / 'metrics.jsonl'
  for wanted, number in ((1, signal.SIGKILL), (2, signal.SIGTERM)):
    before = changed_at(lines)  # a signal that comes before this process writes proves nothing
    process = start(path)
    while process.poll() is None and (changed_at(lines) == before or lines_of(lines) < wanted):
      time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate()
    if number == signal.SIGTERM:
      assert process.returncode == 143, errors
      assert re.fullmatch(
        r'error: terminated at steps \d+ to \d+ of 12 \(dp_sgd\)\. '
        'Run the same command again to continue.',
        errors.strip().splitlines()[-1],
      )
    taken = [int(p.name) for p in (path / 'checkpoints').iterdir() if p.name.isdigit()]
    assert ledger_of(path, digits).charged_steps() >= max(taken, default=0)
  trainer.train(CONFIG, digits, path, progress=False)
  assert_same_end(finished, path)
  assert ledger_of(path, digits).charged_steps() == CONFIG.steps


class Watched:
  """A run in which everything is due at every report: what happened, in order.

  Attributes:
    events: (what, step) in order.
    charged: what the ledger file charged at each start of a chunk, by its last step.
    copies: live copies of the state at each event, beside the one that is trained.
    speeds: steps per second of each metric line, by a clock on which a call of a chunk takes 1 s
      (100 s where it compiles), a metric line 5 s, and waiting for the device 3 s.
  """

  def __init__(self, path: pathlib.Path, digits: datasets.ImageDataset) -> None:
    self.path, self.digits = path, digits
    self.events: list[tuple[str, int]] = []
    self.charged: dict[int, int] = {}
    self.copies: list[int] = []
    self.speeds: list[float] = []
    self._leaves = -1
    self._clock = 0.0

  def note(self, what: str, step: int) -> None:
    self.events.append((what, step))
    shape = (74, 8)  # of a kernel of D that its parameters and both moments of Adam have
    alive = sum(x.shape == shape for x in jax.live_arrays())
    if self._leaves < 0:
      self._leaves = alive
    self.copies.append((alive - self._leaves) // 3)

  def watch(self, patch: pytest.MonkeyPatch) -> None:
    wait, charge = loop._wait_interruptibly, Ledger.charge
    write, save, save_model = metrics.MetricsWriter.write, Checkpoints.save, generator_file.save
    draw = GANStage._draw_grid

    def make(stage, length):
      chunk, calls = make_chunk(stage, length), []

      def call(state, *rest):
        end = int(state.step) + length
        self.note('start', end)
        self.charged[end] = ledger_of(self.path, self.digits).charged_steps()
        self._clock += 1 if calls else 100
        calls.append(end)
        return chunk(state, *rest)

      return call

    def waiting(history, since):
      wait(history, since)
      self.note('ended', max(self.charged))
      self._clock += 3

    def writing(writer, step, scalars, *, clock):
      self.note('line', step)
      self.speeds.append(clock['steps_per_second'])
      self._clock += 5
      write(writer, step, scalars, clock=clock)

    def spying(what, original, step_of):
      def call(*args, **options):
        self.note(what, step_of(*args, **options))
        return original(*args, **options)

      return call

    patch.setattr(stages, 'make_chunk', make)
    patch.setattr(loop, '_wait_interruptibly', waiting)
    patch.setattr(metrics.MetricsWriter, 'write', writing)
    patch.setattr(Checkpoints, 'save', spying('save', save, lambda _, step, *rest: step))
    patch.setattr(Ledger, 'charge', spying('charge', charge, lambda _, step, *rest: step))
    patch.setattr(
      generator_file, 'save', spying('snapshot', save_model, lambda model, *_, **__: model.steps)
    )
    patch.setattr(GANStage, '_draw_grid', spying('grid', draw, lambda *args: args[2]))
    patch.setattr(
      loop, 'time', types.SimpleNamespace(monotonic=lambda: self._clock, sleep=time.sleep)
    )


@pytest.fixture(scope='module')
def watched(digits, tmp_path_factory) -> Watched:
  found = Watched(tmp_path_factory.mktemp('runs') / 'watched', digits)
  with pytest.MonkeyPatch.context() as patch:
    found.watch(patch)
    trainer.train(CONFIG.replace(reports_per_snapshot=1), digits, found.path, progress=False)
  return found


def test_the_charge_is_on_disk_before_the_steps(watched):
  """Checklist 22: when a chunk starts, the ledger file charges its last step, and no other."""
  assert watched.charged == {3: 3, 6: 6, 9: 9, 12: 12}


def test_records_are_written_and_charges_made_while_the_next_chunk_runs(watched):
  record = ['line', 'grid', 'snapshot', 'snapshot', 'save']  # the average, and G as trained
  expected = [('save', 0), ('charge', 3), ('start', 3), ('charge', 6), ('ended', 3)]
  for step in (3, 6, 9):  # whose records are written while the device is at the next chunk
    expected += [('start', step + 3), *((what, step) for what in record)]
    expected += [('charge', step + 6)] if step + 6 <= 12 else []
    expected += [('ended', step + 3)]
  expected += [(what, 12) for what in record]
  assert watched.events == expected


def test_there_is_one_copy_of_the_state_at_most_and_none_once_it_is_written(watched):
  copies = dict(zip(watched.events, watched.copies, strict=True))
  assert max(copies.values()) == copies['save', 3] == copies['start', 6] == 1
  assert [copies['charge', step] for step in (6, 9, 12)] == [0, 0, 0]


def test_speed_is_from_end_to_end_without_compiling(watched):
  """A chunk of 3 steps: 3 s of waiting, from the second on 1 s of a call and 5 s of a line too."""
  assert watched.speeds == [1.0, 3 / 9, 3 / 9, 3 / 9]


def test_records_hold_the_state_of_their_step(watched, digits):
  """Checkpoints and snapshots, compared with the steps taken one chunk at a time."""
  gan = plan.make(CONFIG, digits.spec).gan
  images, labels = jax.numpy.asarray(digits.images), jax.numpy.asarray(digits.labels)
  chunk = make_chunk(gan, 3)
  state = jax.jit(gan.init)(Secret.load(watched.path / 'secret.json').key('dp_sgd'))
  checkpoints = Checkpoints(watched.path / 'checkpoints')
  assert checkpoints.steps() == [6, 9, 12]
  for step in (3, 6, 9, 12):
    state, _ = chunk(state, images, labels)
    if step > 3:  # the oldest is gone
      assert checkpoints.digest(step) == _state_leaves.state_digest(state)
    for folder, generator in (('.', state.g_average), ('as_trained', state.g)):
      path = watched.path / 'snapshots' / folder / f'step_{step:08d}.safetensors'
      saved = generator_file.load(path).generator
      assert _state_leaves.state_digest(saved) == _state_leaves.state_digest(generator)


class _Stop(BaseException):
  pass


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['waits', 'saves'])
def test_stopped_while_it_does_two_things_it_charges_nothing_more_and_resumes(
  finished, digits, tmp_path, moment
):
  """Ctrl-C during the second chunk, with the third charged; an error in the record of step 6."""
  path = tmp_path / 'run'
  wait, save, waits = loop._wait_interruptibly, Checkpoints.save, []

  def waiting(*args):
    waits.append(1)
    if moment == 'waits' and len(waits) == 2:
      raise _Stop
    wait(*args)

  def saving(self, step, *rest):
    if moment == 'saves' and step == 6:
      raise _Stop
    save(self, step, *rest)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, '_wait_interruptibly', waiting)
    patch.setattr(Checkpoints, 'save', saving)
    with pytest.raises(_Stop):
      trainer.train(CONFIG, digits, path, progress=False)
  lines = [line['step'] for line in metrics.read_metrics(path / 'metrics.jsonl')]
  assert lines == {'waits': [3], 'saves': [3, 6]}[moment]
  assert Checkpoints(path / 'checkpoints').steps() == [0, 3]
  assert ledger_of(path, digits).charged_steps() == 9
  trainer.train(CONFIG, digits, path, progress=False)
  assert_same_end(finished, path)


def test_training_again_changes_nothing(finished, copy, digits):
  trainer.train(CONFIG, digits, copy, progress=False)
  assert_same_end(finished, copy)
  assert (finished / 'ledger.jsonl').read_bytes() == (copy / 'ledger.jsonl').read_bytes()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'noise_multiplier': 0.9}, r'noise_multiplier is 4.0 there and 0.9 now'),
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
  fewer = datasets.ImageDataset(
    images=digits.images[:-1],
    labels=digits.labels[:-1],
    num_classes=10,
    name='digits',
    class_names=digits.class_names,
  )
  with pytest.raises(_validate.InputError, match='num_records is 1440 there and 1439 now'):
    trainer.train(CONFIG, fewer, copy, progress=False)
  changed = digits.images.copy()
  changed[0, 0, 0, 0] ^= 1
  other = datasets.ImageDataset(
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


def test_metrics_know_of_steps_that_a_cut_ledger_forgot(copy, digits):
  """Though no checkpoint is left that says so."""
  shutil.rmtree(copy / 'checkpoints')
  ledger = copy / 'ledger.jsonl'
  ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
  for look in (lambda: trainer.train(CONFIG, digits, copy, progress=False),
               lambda: run_statement.build(RunDir.open(copy, create=False))):  # fmt: skip
    with pytest.raises(_validate.InputError, match='lost entries'):
      look()


def test_a_checkpoint_of_another_run_is_refused(copy, watched, digits):
  """What it has spent is in another ledger."""
  shutil.rmtree(copy / 'checkpoints' / '12')
  shutil.copytree(watched.path / 'checkpoints' / '12', copy / 'checkpoints' / '12')
  for go_on in (lambda: trainer.train(CONFIG, digits, copy, progress=False),
                lambda: trainer.restore_model(copy)):  # fmt: skip
    with pytest.raises(_validate.InputError, match='is of another run'):
      go_on()


def test_a_ledger_of_another_run_is_refused(copy, watched, digits):
  """Of the same settings and the same data, with steps enough for both."""
  shutil.copy(watched.path / 'ledger.jsonl', copy / 'ledger.jsonl')
  with pytest.raises(_validate.InputError, match='ledger of another run'):
    trainer.train(CONFIG, digits, copy, progress=False)
  with pytest.raises(_validate.InputError, match='ledger of another run'):
    run_statement.build(RunDir.open(copy, create=False))


def test_another_secret_is_refused_and_so_is_none(copy, watched, digits):
  """What is drawn again, or still to be drawn, would be a second release under one charge."""
  Secret.from_os().save(copy / 'secret.json')
  with pytest.raises(_validate.InputError, match='came of another secret'):
    trainer.train(CONFIG, digits, copy, progress=False)
  (copy / 'secret.json').unlink()
  with pytest.raises(_validate.InputError, match=r'secret\.json is missing'):
    trainer.train(CONFIG, digits, copy, progress=False)
  assert not (copy / 'secret.json').exists()


def test_a_snapshot_of_another_run_is_no_part_of_the_mixture(copy, watched):
  """Its mechanism is the same; the records would pay for two runs."""
  name = 'snapshots/step_00000009.safetensors'
  shutil.copy(watched.path / name, copy / name)
  with pytest.raises(_validate.InputError, match='is not a generator of this run at step 9'):
    trainer.restore_model(copy)


def test_a_config_without_its_digest_is_refused(copy, digits):
  saved = json.loads((copy / 'config.json').read_text())
  del saved['sha256']
  (copy / 'config.json').write_text(json.dumps(saved))
  for go_on in (lambda: trainer.train(CONFIG, digits, copy, progress=False),
                lambda: trainer.restore_model(copy)):  # fmt: skip
    with pytest.raises(_validate.InputError, match='has changed since it was written'):
      go_on()


def test_steps_that_only_the_metrics_know_of_have_to_be_charged(copy, digits):
  """Ledger cut and checkpoints removed: what was spent would be nothing."""
  ledger = copy / 'ledger.jsonl'
  ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(_validate.InputError, match=r'charges 0 steps but .* taken 12'):
    run_statement.build(RunDir.open(copy, create=False))
  with pytest.raises(_validate.InputError, match=r'charges 0 steps but .* taken 12'):
    trainer.train(CONFIG, digits, copy, progress=False)


@pytest.mark.slow  # test_checkpoint falls back
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
    RunDir.open(copy, create=True).lock(),
    pytest.raises(_validate.InputError, match=f'in use by the process with id {os.getpid()}'),
  ):
    trainer.train(CONFIG, digits, copy, progress=False)


def test_restored_model_is_the_trained_one(finished, digits):
  model = trainer.restore_model(finished).model
  again = trainer.restore_model(finished).model
  one, two = (m.sample(5, key=jax.random.key(1))[0] for m in (model, again))
  np.testing.assert_array_equal(one, two)
  assert model.steps == 12
  assert model.epsilon() == plan.make_budget(CONFIG, len(digits)).epsilon()


@pytest.mark.slow
def test_unconditional_run_leaves_samples_without_labels(digits, tmp_path):
  """The report's own generator, with batch norm, and SGD with its falling learning rate."""
  config = CONFIG.replace(
    generator='report',
    discriminator=nets.WITHOUT_CLASSES,
    d_optimizer='sgd',
    d_learning_rate=0.15,
    d_learning_rate_end=0.052,
    learning_rate_schedule='exponential',
    steps=4,
    steps_per_report=2,
  )
  trained = trainer.train(config, digits, tmp_path / 'run', progress=False)
  with np.load(tmp_path / 'run' / 'samples.npz') as samples:
    assert samples.files == ['x', 'guarantee']
    assert samples['x'].shape == (20, 8, 8)
  assert trained.model.sample(3, key=jax.random.key(0))[1] is None


HOSTILE = {
  'no data': lambda saved: saved.pop('data'),
  'data is a number': lambda saved: saved.update(data=3),
  'no height': lambda saved: saved['data'].update(shape=[0, 8, 1]),
  'a giant image': lambda saved: saved['data'].update(shape=[10**9, 10**9, 3]),
  'two axes': lambda saved: saved['data'].update(shape=[8, 8]),
  'no classes': lambda saved: saved['data'].update(class_names=[]),
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
