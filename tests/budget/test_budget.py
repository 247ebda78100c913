"""What a run spends in all: stages compose, nothing is forgotten, the target is kept."""

from __future__ import annotations

import dataclasses
import math

import dp_accounting
import pytest
from dp_accounting import pld

from dpgan_jax._validate import InputError
from dpgan_jax.budget.budget import Budget
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import plan

DELTA = 1e-4


def mechanism(sigma: float, steps: int, batch_size: int = 32) -> DPMechanism:
  return DPMechanism.create(
    num_examples=1440, batch_size=batch_size, l2_clip_norm=1.0, noise_multiplier=sigma, steps=steps,
    delta=DELTA,
  )  # fmt: skip


BEFORE = {'classifier': mechanism(9.0, 20), 'classifier_centre': mechanism(30.0, 1, 1440)}


def by_dp_accounting(*events: dp_accounting.DpEvent) -> float:
  accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
  for event in events:
    accountant.compose(event)
  return accountant.get_epsilon(DELTA)


def test_without_stages_before_it_is_the_mechanism():
  m = mechanism(8.0, 40)
  assert Budget(m).stages == {'dp_sgd': m}
  assert Budget(m).event(7) == m.event(7)
  assert Budget(m).epsilon(7) == m.epsilon(7)
  assert Budget(m).epsilon(0) == 0


@pytest.mark.parametrize('steps', [0, 40])
def test_stages_compose_as_dp_accounting_composes_them(steps):
  whole = Budget(mechanism(8.0, 40), BEFORE)
  events = [m.event() for m in BEFORE.values()]
  events += [whole.mechanism.event(steps)] if steps else []
  assert whole.epsilon(steps) == pytest.approx(by_dp_accounting(*events), rel=1e-6)


def test_what_comes_before_counts_whole_though_no_step_is_taken():
  whole = Budget(mechanism(8.0, 40), BEFORE)
  assert whole.epsilon(0) > max(m.epsilon() for m in BEFORE.values())
  assert list(whole.stages) == ['classifier', 'classifier_centre', 'dp_sgd']


@pytest.mark.parametrize('before', [{}, BEFORE])
def test_epsilon_so_far_is_an_upper_bound_that_grows_to_the_exact_end(before):
  last = 40
  whole = Budget(mechanism(8.0, last), before)
  done = {name: m.steps for name, m in before.items()}
  steps = (0, 1, last // 2, last - 1, last)
  shown = [whole.epsilon_so_far({**done, 'dp_sgd': s}) for s in steps]
  exact = [whole.epsilon(s) for s in steps]
  assert shown == sorted(shown)
  assert all(e <= s <= 1.05 * e + 1e-3 for s, e in zip(shown, exact, strict=True))
  assert shown[-1] == exact[-1]


def test_epsilon_so_far_of_stages_that_have_begun():
  whole = Budget(mechanism(8.0, 40), BEFORE)
  assert whole.epsilon_so_far({}) == 0
  for name, m in BEFORE.items():
    exact = m.epsilon()
    assert exact <= whole.epsilon_so_far({name: m.steps}) <= 1.05 * exact + 1e-3 < whole.epsilon(0)


def test_one_stage_without_noise_is_no_guarantee():
  bare = dataclasses.replace(BEFORE['classifier'], noise_multiplier=0.0)
  for whole in (Budget(mechanism(8.0, 40), {'c': bare}), Budget(mechanism(0.0, 40), BEFORE)):
    assert not whole.is_private
    assert whole.epsilon() == math.inf


@pytest.mark.slow  # test_labelling has the same of a whole plan
def test_the_gan_gets_what_is_left_of_the_target():
  config = TrainConfig(
    target_epsilon=0.4, label_share=0.3, steps=40, batch_size=32, delta=DELTA, generator='report',
    discriminator='report',
  )  # fmt: skip
  whole = plan.make_budget(config, 1440, BEFORE)
  assert 0.4 * 0.995 < whole.epsilon() <= 0.4
  alone = plan.make_budget(dataclasses.replace(config, label_share=None), 1440)
  assert whole.mechanism.noise_multiplier > 1.01 * alone.mechanism.noise_multiplier


@pytest.mark.parametrize('field', ['delta', 'neighboring_relation', 'num_examples'])
def test_stages_that_no_one_epsilon_is_of_are_refused(field):
  value = {'delta': 1e-5, 'neighboring_relation': 'replace_one', 'num_examples': 1500}[field]
  settings = {
    'num_examples': 1440, 'batch_size': 32, 'l2_clip_norm': 1.0, 'noise_multiplier': 2.0,
    'steps': 4, 'delta': DELTA,
  }  # fmt: skip
  with pytest.raises(InputError, match=f'expected one {field} for all stages'):
    Budget(DPMechanism.create(**{**settings, field: value}), BEFORE)


def test_a_share_that_nothing_takes_is_refused():
  config = TrainConfig(
    target_epsilon=4.0, label_share=0.3, steps=40, generator='report', discriminator='report'
  )
  with pytest.raises(InputError, match='expected no label_share here'):
    plan.make_budget(config, 1440)


def test_no_privacy_for_any_stage_or_for_none():
  config = TrainConfig(
    target_epsilon=math.inf, label_share=0.3, steps=4, delta=DELTA, generator='report',
    discriminator='report',
  )  # fmt: skip
  bare = {n: dataclasses.replace(m, noise_multiplier=0.0) for n, m in BEFORE.items()}
  assert plan.make_budget(config, 1440, bare).epsilon() == math.inf
