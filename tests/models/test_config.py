"""Settings: contradictions are refused by name, and JSON keeps every field."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.models import config as config_lib
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks import discriminators, generators
from dpgan_jax.privacy import accounting


def make(**settings) -> TrainConfig:
  return TrainConfig(**{'noise_multiplier': 1.0, 'steps': 100} | settings)


def refused(**settings) -> str:
  """The message with which `TrainConfig(**settings)` is refused."""
  with pytest.raises(_validate.InputError) as caught:
    TrainConfig(**settings)
  assert '\n' not in str(caught.value)
  return str(caught.value)


# --- what contradicts itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
  'settings',
  [
    {'target_epsilon': 2.0, 'steps': 100},
    {'target_epsilon': 2.0, 'epochs': 1.5},
    {'noise_multiplier': 1.0, 'steps': 100},
    {'noise_multiplier': 1.0, 'epochs': 3},
    {'target_epsilon': 2.0, 'noise_multiplier': 1.0},
    {'target_epsilon': math.inf, 'steps': 100},
    {'noise_multiplier': 0.0, 'steps': 100},
  ],
  ids=str,
)
def test_two_of_three_determine_the_third(settings):
  assert {k: getattr(TrainConfig(**settings), k) for k in settings} == settings


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (
      {'steps': 5, 'epochs': 2.0, 'noise_multiplier': 1.0},
      'expected steps or epochs, not both: got steps=5 and epochs=2.0',
    ),
    ({}, 'expected target_epsilon, which is all that moments need'),
    ({'steps': 5}, 'expected target_epsilon or noise_multiplier'),
    (
      {'target_epsilon': 1.0, 'noise_multiplier': 1.0, 'steps': 5},
      'target_epsilon, noise_multiplier and steps were all given',
    ),
    (
      {'target_epsilon': 1.0, 'noise_multiplier': 1.0, 'epochs': 5},
      'target_epsilon, noise_multiplier and steps were all given',
    ),
    ({'noise_multiplier': 1.0}, 'expected steps (or epochs), or both'),
    ({'target_epsilon': math.inf, 'noise_multiplier': 1.0}, 'expected steps (or epochs), or both'),
    ({'target_epsilon': 1.0, 'noise_multiplier': 0.0}, 'expected steps (or epochs), or both'),
    ({'method': 'gan', 'target_epsilon': math.inf}, 'expected steps (or epochs), or both'),
  ],
  ids=str,
)
def test_contradictory_budgets_are_refused(settings, message):
  assert message in refused(**settings)


@pytest.mark.parametrize('name', ['d_learning_rate_end', 'g_learning_rate_end'])
def test_learning_rate_end_needs_a_schedule_and_a_schedule_needs_an_end(name):
  budget = {'noise_multiplier': 1.0, 'steps': 5}
  message = refused(**budget, **{name: 1e-4})
  assert message.startswith(f'{name} was given but learning_rate_schedule is constant')
  for schedule in set(config_lib.SCHEDULES) - {'constant'}:
    message = refused(**budget, learning_rate_schedule=schedule)
    assert message.startswith(f'learning_rate_schedule={schedule} needs d_learning_rate_end or')
    assert getattr(make(learning_rate_schedule=schedule, **{name: 1e-4}), name) == 1e-4


def test_adaptive_n_d_refuses_a_schedule_over_a_number_of_steps_that_nobody_knows():
  ends = {'learning_rate_schedule': 'linear', 'g_learning_rate_end': 1e-5}
  message = refused(noise_multiplier=1.0, steps=5, n_d_threshold=0.6, **ends)
  assert message.startswith('expected no g_learning_rate_end with n_d_threshold')
  assert make(n_d_threshold=0.6, learning_rate_schedule='linear', d_learning_rate_end=1e-5)


@pytest.mark.parametrize(
  ('generator', 'discriminator'),
  [(g, d) for g in generators.GENERATORS for d in discriminators.DISCRIMINATORS],
)
def test_generator_and_discriminator_are_both_told_the_class_or_neither(generator, discriminator):
  names = {'generator': generator, 'discriminator': discriminator}
  epsilon = math.inf if discriminator in discriminators.UNACCOUNTED else 1.0
  budget: dict[str, Any] = {'target_epsilon': epsilon, 'steps': 5}
  if generator in generators.REFINERS:
    budget['moments_share'] = 0.5
  if (generator in generators.UNCONDITIONAL) == (discriminator in discriminators.UNCONDITIONAL):
    assert TrainConfig(**budget, **names).generator == generator
  else:
    message = refused(**budget, **names)
    assert f'generator={generator} with discriminator={discriminator}' in message


# --- what is out of range ------------------------------------------------------------------------

_WHOLE = [
  'steps', 'truncated_batch_size', 'fake_batch_size', 'g_batch_size', 'microbatch_size',
  'steps_per_report', 'reports_per_snapshot', 'moments_coefficients', 'moments_cells',
  'matching_steps', 'batch_size', 'latent_dim', 'd_steps_per_g_step', 'n_d_patience',
  'reports_per_checkpoint', 'reports_per_grid', 'num_samples',
]  # fmt: skip
_POSITIVE = [
  'd_learning_rate', 'g_learning_rate', 'd_learning_rate_end', 'g_learning_rate_end',
  'gradient_penalty', 'd_weight_clip', 'memory_budget_gib',
]  # fmt: skip
_FRACTIONS = ['adam_b1', 'adam_b2', 'g_ema_decay']
_CHOICES = [
  'loss', 'd_optimizer', 'g_optimizer', 'learning_rate_schedule', 'fake_gradient', 'generator',
  'discriminator', 'neighboring_relation', 'clipping_strategy', 'compute_dtype', 'method',
]  # fmt: skip
_OUT_OF_RANGE = {
  **dict.fromkeys(_WHOLE, (0, -1, 1.5, '1', True)),
  **dict.fromkeys(_POSITIVE, (0.0, -1.0, math.inf, math.nan, '1')),
  **dict.fromkeys(_FRACTIONS, (-0.1, 1.0, math.nan, 'x')),
  **dict.fromkeys(_CHOICES, ('x', 1)),
  'moments_means_share': [0.0, 1.0, math.nan],
  'g_mixture': [0, -1, 1.5, '1', True, 101],
  'epochs': [0.0, -1.0, math.inf, math.nan],
  'target_epsilon': [0.0, -1.0, math.nan, 'inf'],
  'schema_epsilon': [0.0, -1.0, math.inf, math.nan, '1'],
  'noise_multiplier': [-1.0, math.inf, math.nan],
  'l2_clip_norm': [0.0, -1.0, math.nan, None],
  'n_d_threshold': [0.0, 1.0, math.nan],
  'label_share': [0.0, 1.0, math.nan],
  'moments_share': [0.0, 1.0, math.nan],
  'label_cnn_share': [0.0, 1.0, math.nan],
  'delta': [0.0, 1.0, -1e-5, math.nan, None],
  'seed': [-1, 2**32, 0.5],
  'image_size': ['x', '0', '28x', '28x28x1', '1025', '-3', 0, 1.5, True],
  'channels': [0, 2, 4, '1', True],
  'holdout': [-0.1, 1, 1.0, math.nan, '0.1'],
}


def test_every_field_has_its_out_of_range_values_below():
  assert {f.name for f in dataclasses.fields(TrainConfig)} - set(_OUT_OF_RANGE) == {'dataset'}


@pytest.mark.parametrize(
  ('name', 'value'),
  [(name, value) for name, values in _OUT_OF_RANGE.items() for value in values],
  ids=repr,
)
def test_values_out_of_range_are_refused_with_field_and_value(name, value):
  message = refused(**{'noise_multiplier': 1.0, 'steps': 5} | {name: value})
  assert name in message
  assert repr(value) in message


@pytest.mark.parametrize('name', _WHOLE[_WHOLE.index('batch_size') :])
def test_fields_without_an_optional_default_cannot_be_none(name):
  assert f'expected {name} to be a whole number >= 1, got None' in refused(
    noise_multiplier=1.0, steps=5, **{name: None}
  )


def test_the_help_of_every_field_is_one_line():
  for field in dataclasses.fields(TrainConfig):
    assert field.metadata['help'].endswith('.'), field.name
    assert '\n' not in field.metadata['help'], field.name


# --- records -------------------------------------------------------------------------------------


@st.composite
def configs(draw):
  positive = st.floats(1e-6, 1e3)
  optional = st.none() | st.integers(1, 2**31)
  schedule = draw(st.sampled_from(config_lib.SCHEDULES))
  ends = st.just(None) if schedule == 'constant' else positive
  name = draw(st.sampled_from(sorted(set(generators.GENERATORS) - generators.REFINERS)))
  length = draw(st.sampled_from(['steps', 'epochs']))
  budget = draw(
    st.one_of(
      st.fixed_dictionaries({'target_epsilon': st.just(math.inf) | positive}),
      st.fixed_dictionaries({'noise_multiplier': st.just(0.0) | positive}),
    )
  )
  return TrainConfig(
    dataset=draw(st.sampled_from(['mnist', 'arrays', 'png'])),
    **budget,
    **{length: draw(st.integers(1, 10**6))},
    delta=draw(st.floats(1e-12, 0.5)),
    l2_clip_norm=draw(positive | st.just(math.inf)),
    truncated_batch_size=draw(optional),
    neighboring_relation=draw(st.sampled_from(sorted(accounting.RELATIONS))),
    generator=name,
    discriminator=name,
    fake_batch_size=draw(optional),
    learning_rate_schedule=schedule,
    d_learning_rate_end=draw(ends),
    g_learning_rate_end=draw(ends),
    loss=draw(st.sampled_from(sorted(config_lib.LOSSES))),
    gradient_penalty=draw(st.none() | positive),
    d_weight_clip=draw(st.none() | positive),
    reports_per_snapshot=draw(optional),
    microbatch_size=draw(optional),
    memory_budget_gib=draw(st.none() | positive),
    compute_dtype=draw(st.sampled_from(config_lib.COMPUTE_DTYPES)),
    seed=draw(st.none() | st.integers(0, 2**32 - 1)),
  )


@hypothesis.given(configs())
def test_json_keeps_every_field(config):
  text = json.dumps(config.to_dict(), allow_nan=False)
  assert TrainConfig.from_dict(json.loads(text)) == config


def test_a_seed_gives_what_it_gave_before_there_were_later_settings():
  """Keys of a fixed seed follow from the record of the settings, names included."""
  assert not make().to_dict().keys() & {'schema_epsilon', 'moments_share'}


def test_infinity_is_written_as_a_string():
  config = TrainConfig(target_epsilon=math.inf, steps=3, l2_clip_norm=math.inf)
  fields = config.to_dict()
  assert (fields['target_epsilon'], fields['l2_clip_norm']) == ('inf', 'inf')
  assert TrainConfig.from_dict(fields) == config


def test_numpy_numbers_become_pythons_and_can_be_written():
  config = make(
    steps=np.int64(7), seed=np.uint32(3), batch_size=np.int32(5), d_learning_rate=np.float32(0.5)
  )
  assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
  assert [type(x) for x in (config.steps, config.seed, config.batch_size)] == [int] * 3
  assert type(config.d_learning_rate) is float


def test_unknown_fields_are_refused_by_name():
  fields = make().to_dict() | {'epsilon': 2.0, 'batchsize': 3}
  with pytest.raises(_validate.InputError, match=r'unknown settings: batchsize, epsilon$'):
    TrainConfig.from_dict(fields)


def test_replace_validates_anew():
  assert make().replace(steps=9).steps == 9
  with pytest.raises(_validate.InputError, match='expected steps >= 1, got 0'):
    make().replace(steps=0)


def test_settings_do_not_change():
  with pytest.raises(dataclasses.FrozenInstanceError):
    make().steps = 3
