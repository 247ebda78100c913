"""The loop alone, with a stage that is quick; whole runs are in test_trainer.py."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import jax
import pytest

from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.models.classifier import CENTRE, STAGE, Classifier
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.privacy.mechanism import BudgetError
from dpgan_jax.run import loop, stages
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.loop import Run
from dpgan_jax.run.stages import ClassifierStage, make_chunk

CONFIG = ClassifierConfig(
  dataset='digits', noise_multiplier=4.0, steps=12, batch_size=200, delta=1e-4, angles=2,
  learning_rate=1.0, centre_noise_multiplier=20.0, steps_per_report=5, seed=7,
)  # fmt: skip


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


def opened(path: pathlib.Path, data: datasets.ImageDataset) -> Any:
  make = lambda: Classifier.create(CONFIG, data.spec)  # noqa: E731
  return Run.open(path, CONFIG.to_dict(), data, make=make, read=lambda *_: make(), progress=False)


def test_what_is_charged_is_what_is_taken_and_no_more(digits, tmp_path, monkeypatch):
  """Checklist 22 and 23: chunk by chunk, and nothing beyond the budget."""
  charged = []

  def make(stage, length):
    chunk = make_chunk(stage, length)

    def call(state, *data):
      charged.append((int(state.step) + length, run.ledger.charged_steps(STAGE)))
      return chunk(state, *data)

    return call

  monkeypatch.setattr(stages, 'make_chunk', make)
  with opened(tmp_path / 'run', digits) as (classifier, run):
    assert run.ledger.charged_steps(CENTRE) == 0
    state = run.carry_out(ClassifierStage(classifier, digits))
    assert charged == [(5, 5), (10, 10), (12, 12)]
    assert int(state.step) == 12
    assert run.ledger.charged_steps(CENTRE) == 1
    assert run.ledger.epsilon() == pytest.approx(classifier.budget.epsilon())
    with pytest.raises(BudgetError):
      run.ledger.charge(13, STAGE)


def test_a_ledger_that_refuses_stops_the_steps(digits, tmp_path, monkeypatch):
  """Checklist 23: the step beyond the budget is not taken."""

  def refuse(self, step, stage='dp_sgd'):
    if stage == STAGE:
      raise BudgetError('no')

  monkeypatch.setattr(Ledger, 'charge', refuse)
  monkeypatch.setattr(stages, 'make_chunk', lambda *_: pytest.fail('a chunk was made'))
  with opened(tmp_path / 'run', digits) as (classifier, run), pytest.raises(BudgetError):
    run.carry_out(ClassifierStage(classifier, digits))
  assert Checkpoints(tmp_path / 'run' / 'checkpoints').steps() == [0]


def test_dtypes_are_promoted_as_usual_within_a_run(digits, tmp_path):
  """Optax ends in a traceback under x64 and strict promotion."""
  found = []

  def make():
    found.append(jax.config.jax_numpy_dtype_promotion)
    return Classifier.create(CONFIG, digits.spec)

  with (
    jax.numpy_dtype_promotion('strict'),
    Run.open(tmp_path, CONFIG.to_dict(), digits, make=make, read=lambda *_: make()),
  ):
    found.append(jax.config.jax_numpy_dtype_promotion)
  assert found == ['standard', 'standard']


def test_what_a_failed_start_leaves_is_nothing(digits, tmp_path):
  def fail():
    raise ValueError('settings that do not fit')

  with (
    pytest.raises(ValueError, match='do not fit'),
    Run.open(tmp_path / 'run', {}, digits, make=fail, read=lambda *_: None),
  ):
    pass
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('seconds', [0.01, 0.1, 2.0, 100.0])
def test_the_end_of_a_chunk_is_noticed_soon_and_by_few_looks(monkeypatch, seconds):
  clock, looks = [0.0], []

  def sleep(pause):
    clock[0] += pause

  class Leaf:
    def is_ready(self):
      looks.append(clock[0])
      return clock[0] >= seconds

  monkeypatch.setattr(
    loop, 'time', types.SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
  )
  loop._wait_interruptibly([Leaf()], 0.0)
  assert seconds <= clock[0] <= seconds + max(1e-4, min(0.02, seconds / 256)) * 1.01
  assert len(looks) < 1500 + seconds / 0.02
