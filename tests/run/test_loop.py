"""The loop alone, with a stage that is quick; whole runs are in test_trainer.py."""

from __future__ import annotations

import pathlib
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _keys, _validate
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.series.generated import vitals
from dpgan_jax.data.tables.generated import people
from dpgan_jax.models.classifier import CENTRE, STAGE, Classifier
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import encoding, release, settings
from dpgan_jax.models.moments.images import encoding as image_encoding
from dpgan_jax.models.moments.images import scattering_encoding
from dpgan_jax.privacy.ghost.convolutions import inner_programs
from dpgan_jax.privacy.mechanism import BudgetError, DPMechanism
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


def test_a_run_of_the_format_before_is_not_continued(digits, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(loop, 'FORMAT', loop.FORMAT - 1)
    with opened(tmp_path / 'run', digits):
      pass
  again = opened(tmp_path / 'run', digits)
  with pytest.raises(_validate.InputError, match='another version of dpgan_jax'), again:
    pass


def test_what_a_key_stands_for_is_that_of_the_format():
  """If this fails, raise `loop.FORMAT`: steps of an older run that are taken again would have the
  same noise around other sums. Batches of few and of many records, and noise to two decimals.
  """
  key = _keys.from_seed(0)
  found = []
  for records in (50, 2**17):
    mechanism = DPMechanism.create(
      num_examples=records, batch_size=5, l2_clip_norm=1.0, noise_multiplier=1.0, steps=9,
      delta=1e-6,
    )  # fmt: skip
    batch = jax.jit(mechanism.sampler)(key, 3)
    found += [batch.indices[batch.mask].tolist()]
    noise = mechanism.noise_sum(key)
    drawn, _ = jax.jit(noise.update)(jnp.zeros(6), noise.init(jnp.zeros(6)))
    found += [[round(float(x), 2) for x in 5 * drawn]]
  assert (loop.FORMAT, found) == (9, [
    [10, 49, 41, 4, 13], [-0.43, 0.38, 0.63, 1.21, -1.93, -0.36],
    [114108, 50965, 84893, 91401], [0.93, -0.89, 0.98, 0.32, 0.41, -1.0],
  ])  # fmt: skip


@pytest.mark.parametrize(
  ('data', 'steps', 'wanted'),
  [
    (vitals('test'), None, [53393, 51316, 43055, 318608, 339071, 305627]),
    (people('test'), None, [10766.101562, 11041, 8210, 21305.074, 16826.79, 12655.109]),
    (datasets.load_dataset('digits', split='test'), None, [1195, 1004, 1177, 1880, 1533, 1622]),
    (datasets.load_dataset('digits', split='test'), 1, [2411, 2544, 2165, 19003, 17501, 18318]),
  ],
  ids=lambda d: getattr(d, 'name', ''),
)
def test_what_is_released_is_that_of_the_format(data, steps, wanted, monkeypatch):
  """If this fails, raise `loop.FORMAT`: the second release follows from what the first one says,
  and one that is made again would have the same noise around other sums. Sums of thirds of both.
  """
  # Axes differ between machines in their last digits, and noise follows from their digest.
  for module in (encoding, image_encoding, scattering_encoding):
    monkeypatch.setattr(module, 'digest', lambda *_: 'of any machine')
  config = TrainConfig(target_epsilon=0.5, delta=1e-4, matching_steps=steps)
  moments = settings.make(config, data.spec)
  codes = moments.encoding.encode(data.records)
  means, seconds = release.release_both(codes, data.labels, moments, 32 * b'\x06')
  parts = (part for both in (means.sums, seconds) for part in np.array_split(both.ravel(), 3))
  assert loop.FORMAT == 9
  assert [float(np.abs(part).sum()) for part in parts] == pytest.approx(wanted, rel=1e-3)


def test_batches_of_a_chunk_are_drawn_before_its_steps(digits, monkeypatch):
  """But for a stage whose steps look at other records, and where these batches would be many."""

  def draws_in_steps() -> bool:
    classifier = Classifier.create(CONFIG, digits.spec)
    stage = ClassifierStage(classifier, digits)
    state = jax.eval_shape(stage.init, jax.random.key(0))
    program = jax.make_jaxpr(make_chunk(stage, 3))(state, *stage.data())
    loops = [e for e in equations(program.jaxpr) if e.primitive.name == 'scan']
    (steps,) = (e for e in loops if e.params['length'] == 3)
    return any(e.primitive.name == 'top_k' for e in equations(steps.params['jaxpr'].jaxpr))

  assert not draws_in_steps()
  with monkeypatch.context() as patch:
    patch.setattr(ClassifierStage, 'reads_batches_alone', False)
    assert draws_in_steps()
  monkeypatch.setattr(stages, '_MOST_AHEAD', 2)
  assert draws_in_steps()


def equations(program: Any) -> Iterator[Any]:
  for eqn in program.eqns:
    yield eqn
    for inner in inner_programs(eqn):
      yield from equations(inner)


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
