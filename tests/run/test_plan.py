"""What a run is going to do, from its settings and what is public of its data; and as a record."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import plan

CONFIG = TrainConfig(
  dataset='digits', generator='compact', noise_multiplier=8.0, steps=12, batch_size=24, delta=1e-4,
  seed=7,
)  # fmt: skip
SPEC = Spec(num_records=1000, shape=(8, 8, 1), class_names=tuple('0123456789'), name='digits')


def test_a_plan_is_read_back_from_its_record():
  made = plan.make(CONFIG, SPEC)
  saved = json.loads(json.dumps({**made.to_record(), 'data': SPEC.to_record()}))
  again = plan.read(saved, 'config.json')
  assert again.to_record() == made.to_record()
  assert again.gan.spec == SPEC
  assert again.config.seed == 7
  assert again.budget.epsilon() == made.budget.epsilon()
  del saved['mechanism']
  with pytest.raises(InputError, match='is not the record of a run'):
    plan.read(saved, 'config.json')


def test_a_record_of_version_0_1_is_read():
  made = plan.make(CONFIG, SPEC)
  data = {
    'num_examples': 1000, 'image_shape': [8, 8, 1], 'num_classes': 10,
    'class_names': list('0123456789'),
  }  # fmt: skip
  record = made.to_record()
  del record['microbatch_size']
  again = plan.read({**record, 'data': data}, 'config.json')
  assert again.gan.spec == SPEC
  assert again.gan.mechanism == made.gan.mechanism


def test_delta_not_below_one_over_n_warns():
  with pytest.warns(UserWarning, match='not below 1/N'):
    plan.make(CONFIG.replace(delta=1e-2), SPEC)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('changes', 'warned'),
  [
    ({}, True),
    ({'target_epsilon': None, 'noise_multiplier': 8.0}, False),  # clipped
    ({'d_learning_rate': 0.05}, False),
    ({'d_optimizer': 'adam'}, False),
    ({'discriminator': 'report'}, False),
  ],
)
def test_steps_too_long_for_a_discriminator_are_warned_of(changes, warned):
  config = TrainConfig(
    target_epsilon=math.inf, steps=4, batch_size=400, delta=1e-4, generator='report',
    discriminator='scattering', d_optimizer='sgd', d_learning_rate=0.15,
  ).replace(**changes)  # fmt: skip
  with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    plan.make(config, SPEC)
  assert any('has been seen to die' in str(w.message) for w in seen) == warned


@pytest.mark.slow
def test_two_of_three_give_the_third():
  by_epsilon = TrainConfig(target_epsilon=0.5, steps=30, batch_size=20, delta=1e-3)
  mechanism = plan.make_budget(by_epsilon, 400).mechanism
  assert 0.5 * 0.995 < mechanism.epsilon() <= 0.5
  by_both = TrainConfig(
    target_epsilon=0.5, noise_multiplier=mechanism.noise_multiplier, batch_size=20, delta=1e-3
  )
  assert plan.make_budget(by_both, 400).mechanism.steps >= 30
  by_epochs = TrainConfig(noise_multiplier=1.0, epochs=2.5, batch_size=20, delta=1e-3)
  assert plan.make_budget(by_epochs, 400).mechanism.steps == 50
  free = plan.make_budget(
    TrainConfig(target_epsilon=float('inf'), steps=5, batch_size=2), 400
  ).mechanism
  assert (free.noise_multiplier, free.l2_clip_norm, free.epsilon()) == (0, np.inf, np.inf)
