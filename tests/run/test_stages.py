"""What is recorded when, of which state, and in which order; whole runs are in test_trainer.py."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st

from dpgan_jax import _state_leaves
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GANState, StepMetrics
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.accounting import rounded_up
from dpgan_jax.run import loop, plan, stages
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.loop import Run
from dpgan_jax.run.secrets import Secret
from dpgan_jax.run.stages import GANStage, mixture_steps
from tests.support import nets

CONFIG = TrainConfig(
  dataset='digits', **nets.SMALLEST, noise_multiplier=4.0, steps=12, batch_size=24,
  delta=1e-4, d_steps_per_g_step=2, steps_per_report=3, reports_per_checkpoint=2,
  reports_per_grid=3, seed=7,
)  # fmt: skip
HISTORY = StepMetrics(*[jnp.array([1.0, math.nan, 3.0])] * len(StepMetrics._fields))


class Notes:
  """Stands for the writer, the checkpoints and the progress bar: what they were told."""

  def __init__(self) -> None:
    self.told: list[tuple[Any, ...]] = []

  def write(self, step, scalars, *, clock):
    self.told.append(('line', step, scalars, clock))

  def update(self, step, epsilon, **scalars):
    self.told.append(('bar', step, epsilon, scalars))

  def save(self, step, state, metadata):
    self.told.append(('save', step, state, metadata))


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


@pytest.fixture(scope='module')
def state(digits) -> GANState:
  return jax.jit(plan.make(CONFIG, digits.spec).gan.init)(jax.random.key(3))


@pytest.fixture
def notes() -> Notes:
  return Notes()


def stage_of(digits, path: pathlib.Path, **changes: Any) -> GANStage:
  gan = plan.make(CONFIG.replace(**changes), digits.spec).gan
  run = RunDir.open(path / 'run', create=True)
  run.save_config({'format': loop.FORMAT})
  return GANStage(gan, digits, run, lambda g, step: GANSynthesizer(gan, g, step))


def write(made: GANStage, notes: Notes, state: GANState, step: int, history=HISTORY) -> None:
  """As the loop does, once a chunk has ended."""
  fakes: Any = (notes, notes, notes)
  budget = plan.make_budget(made._config, 1440)
  run = Run(made._directory, None, budget, Secret(bytes(32)), None, progress=False)
  run._write(made, *fakes, step, made.keep(step, state), state, history, 7.0)


def test_only_what_is_due_is_kept(state, digits, tmp_path):
  """Every third report draws, every second saves, the last does both."""
  made = stage_of(digits, tmp_path)
  reports = (3, 6, 9, 12)
  assert [step for step in reports if made.keep(step, state) is not None] == [9, 12]
  assert [step for step in reports if made.wants_checkpoint(step)] == [6, 12]
  assert not any(map(made.wants_state, reports))


def test_snapshots_are_kept_when_they_are_due(digits, tmp_path):
  made = stage_of(digits, tmp_path, reports_per_checkpoint=9, reports_per_snapshot=1)
  assert made.wants_state(3)
  assert not made.wants_checkpoint(3)


@pytest.mark.parametrize(
  ('count', 'total', 'stride', 'steps'),
  [
    (None, 8000, 500, [8000]),
    (1, 8000, 500, [8000]),
    (8, 8000, 500, [4500, 5000, 5500, 6000, 6500, 7000, 7500, 8000]),
    (4, 16000, 500, [10000, 12000, 14000, 16000]),
    (8, 2000, 500, [1000, 1500, 2000]),  # as many as there are
    (8, 300, 500, [300]),
    (2, 1100, 500, [1000, 1100]),  # the last report may be a short one
  ],
)
def test_samples_are_of_even_steps_of_the_second_half(count, total, stride, steps):
  assert list(mixture_steps(CONFIG.replace(g_mixture=count), total, stride)) == steps


@hypothesis.given(st.integers(1, 50), st.integers(1, 100_000), st.integers(1, 5_000))
def test_the_mixture_is_of_reports_and_ends_with_the_last_step(count, total, stride):
  *early, last = mixture_steps(CONFIG.replace(g_mixture=count), total, stride)
  assert last == total
  assert len(early) < count
  assert early == sorted(set(early))
  assert all(step % stride == 0 and step < total for step in early)
  assert all(step >= min(stride, total / 2 - stride / 2) for step in early)


def test_what_samples_are_drawn_from_is_kept_but_not_as_trained(state, notes, digits, tmp_path):
  made = stage_of(digits, tmp_path, g_mixture=2)
  for step in (6, 9):
    write(made, notes, state, step)
  found = sorted(p.name for p in (tmp_path / 'run' / 'snapshots').rglob('*') if p.is_file())
  assert found == ['step_00000009.safetensors']


def test_what_is_kept_outlives_the_state(state):
  """The state is donated, overwritten and gone; the copy holds what it held, keys included."""
  own = jax.jit(functools.partial(jax.tree.map, jnp.copy))(state)
  before = _state_leaves.state_digest(state)
  kept = loop._copy(own)

  @functools.partial(jax.jit, donate_argnums=0)
  def overwrite(s):
    change = lambda x: jax.random.fold_in(x, 1) if _state_leaves.is_key(x) else x + 1  # noqa: E731
    return jax.tree.map(change, s)

  after = overwrite(own)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(own))
  assert _state_leaves.state_digest(after) != before
  assert _state_leaves.state_digest(kept) == before


def test_metrics_are_written_first_and_the_checkpoint_last(state, notes, digits, tmp_path):
  made = stage_of(digits, tmp_path, reports_per_grid=1, reports_per_snapshot=1)
  write(made, notes, state, 6)
  (line, bar, save), run = notes.told, tmp_path / 'run'
  epsilon = plan.make_budget(CONFIG, 1440).epsilon_so_far({'dp_sgd': 6})
  assert line == ('line', 6, {'epsilon': epsilon, **dict.fromkeys(StepMetrics._fields, 2.0)},
                  {'steps_per_second': 7.0})  # fmt: skip
  assert bar == ('bar', 6, rounded_up(epsilon), {'d': 4.0, 'g': 2.0})
  assert (save[0], save[1], save[3]) == ('save', 6, {'epsilon': epsilon})
  assert _state_leaves.state_digest(save[2]) == _state_leaves.state_digest(state)
  names = ['grids/step_00000006.png', 'snapshots/step_00000006.safetensors',
           'snapshots/as_trained/step_00000006.safetensors']  # fmt: skip
  assert all((run / name).stat().st_size > 0 for name in names)


def test_the_loss_of_a_generator_that_took_no_step_is_not_shown(digits, tmp_path):
  show = stage_of(digits, tmp_path).shown
  means = {'d_loss_real': 1.0, 'd_loss_fake': 0.5, 'g_loss': math.nan}
  assert show(means) == {'d': 1.5}
  assert show({**means, 'g_loss': 2.0}) == {'d': 1.5, 'g': 2.0}


def test_metrics_alone_need_nothing_of_the_device(state, notes, digits, tmp_path):
  write(stage_of(digits, tmp_path), notes, state, 3)
  assert [note[0] for note in notes.told] == ['line', 'bar']
  assert not list((tmp_path / 'run').glob('*/*.*'))


def test_infinite_epsilon_is_written_as_json_can(state, notes, digits, tmp_path):
  made = stage_of(digits, tmp_path, noise_multiplier=None, target_epsilon=math.inf)
  history = HISTORY._replace(g_loss=jnp.full((3,), math.nan))  # no G step among them
  write(made, notes, state, 6, history)
  assert notes.told[-1][3] == {'epsilon': 'inf'}
  assert math.isnan(notes.told[0][2]['g_loss'])


def test_steps_per_report_prefers_a_divisor():
  config = CONFIG.replace(steps=3000, steps_per_report=None)
  stride = stages.steps_per_report(config, plan.make_budget(config, 1440).mechanism)
  assert 3000 % stride == 0
  assert 60 <= stride <= 100
