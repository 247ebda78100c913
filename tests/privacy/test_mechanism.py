"""dpgan_jax.privacy.mechanism: its parts use its numbers, and ε is that of what they do."""

from __future__ import annotations

import dataclasses
import json
import math

import dp_accounting
import jax
import jax.numpy as jnp
import pytest
from dp_accounting import pld

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import sampling
from dpgan_jax.privacy.mechanism import DPMechanism

SMALL = {
  'num_examples': 500, 'batch_size': 25, 'l2_clip_norm': 1.5, 'noise_multiplier': 4.0, 'steps': 20,
  'delta': 1e-3,
}  # fmt: skip


def make(**changes) -> DPMechanism:
  return DPMechanism.create(**{**SMALL, **changes})


@pytest.fixture(scope='module')
def mnist_like() -> DPMechanism:
  return DPMechanism.create(
    num_examples=60_000, batch_size=256, l2_clip_norm=1.0, noise_multiplier=1.0, steps=2_000,
    delta=1e-5,
  )  # fmt: skip


def noise_scale(mechanism: DPMechanism) -> float:
  """The standard deviation of an empty batch's update, to within 1.1 % (one of its own)."""
  transform = mechanism.clip_and_noise(jax.random.key(0))
  update, _ = transform.update(jnp.zeros((0, 4000)), transform.init(None))
  return float(update.std())


def clipped_norm(mechanism: DPMechanism) -> float:
  huge = jnp.full((1, 4), 1e6)
  total = mechanism.clipped_grad(lambda w, x: jnp.sum(w * x))(jnp.ones(4), huge).sum
  return float(jnp.linalg.norm(total))


class TestEpsilon:
  def test_golden_values(self, mnist_like):
    """ε of N=60,000, B=256, T=2,000, σ=1, δ=1e-5: 1.016 by untruncated Poisson accounting."""
    assert mnist_like.epsilon() == pytest.approx(1.016, abs=1e-2)
    # A cap of B cuts half of all batches, where one example can push out another.
    tight = dataclasses.replace(mnist_like, truncated_batch_size=256)
    assert tight.epsilon() == pytest.approx(7.47, abs=1e-2)

  @pytest.mark.parametrize('relation', ['add_or_remove_one', 'replace_one', 'replace_special'])
  def test_is_that_of_the_event_under_its_relation(self, relation):
    mechanism = make(neighboring_relation=relation)
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation[relation.upper()])
    accountant.compose(
      dp_accounting.TruncatedSubsampledGaussianDpEvent(
        dataset_size=501 if relation == 'add_or_remove_one' else 500,
        sampling_probability=math.floor(0.05 * 2**30) / 2**30,
        truncated_batch_size=mechanism.truncated_batch_size,
        noise_multiplier=4.0,
      ),
      20,
    )
    assert mechanism.epsilon() == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-6)

  def test_replace_one_costs_more(self):
    assert make(neighboring_relation='replace_one').epsilon() > 1.5 * make().epsilon()

  def test_of_fewer_steps_and_another_delta(self):
    mechanism = make()
    assert 0.0 == mechanism.epsilon(0) < mechanism.epsilon(10) < mechanism.epsilon()
    assert mechanism.epsilon(delta=1e-4) > mechanism.epsilon()
    with pytest.raises(InputError, match='steps >= 0, got -1'):
      mechanism.epsilon(-1)


class TestFromTarget:
  def test_noise(self):
    others = {k: v for k, v in SMALL.items() if k not in ('noise_multiplier', 'steps')}
    mechanism = DPMechanism.for_epsilon(0.2, steps=20, **others)
    assert 0.2 * 0.995 <= mechanism.epsilon() <= 0.2
    assert (mechanism.l2_clip_norm, mechanism.steps) == (1.5, 20)

  def test_infinite_epsilon_is_plain_training(self):
    others = {k: v for k, v in SMALL.items() if k not in ('noise_multiplier', 'steps')}
    mechanism = DPMechanism.for_epsilon(math.inf, steps=20, **others)
    assert (mechanism.noise_multiplier, mechanism.l2_clip_norm) == (0.0, math.inf)
    assert mechanism.epsilon() == math.inf
    assert mechanism.epsilon(0) == 0.0
    assert not mechanism.is_private
    assert noise_scale(mechanism) == 0.0
    assert clipped_norm(mechanism) == pytest.approx(2e6)

  def test_steps(self):
    others = {k: v for k, v in SMALL.items() if k not in ('noise_multiplier', 'steps')}
    mechanism = DPMechanism.for_epsilon_and_noise(0.2, noise_multiplier=4.0, **others)
    assert mechanism.epsilon() <= 0.2 < mechanism.epsilon(mechanism.steps + 1)
    with pytest.raises(InputError, match=r'target_epsilon=1e-06 .* out of reach'):
      DPMechanism.for_epsilon_and_noise(1e-6, noise_multiplier=4.0, **{**others, 'delta': 1e-9})

  @pytest.mark.parametrize('target', [0, -1.0, math.nan])
  def test_refuses_a_target_that_is_none(self, target):
    others = {k: v for k, v in SMALL.items() if k not in ('noise_multiplier', 'steps')}
    with pytest.raises(InputError, match=f'target_epsilon .*got {target}'):
      DPMechanism.for_epsilon(target, steps=20, **others)


class TestOneSetOfNumbers:
  """Every field is changed alone: what the parts do and what is charged must both follow."""

  def test_as_made(self):
    mechanism = make()
    q = sampling.exact_probability(0.05)
    assert dataclasses.replace(mechanism.sampler, stream=0) == sampling.TruncatedPoissonSampler(
      num_examples=500, sampling_probability=q,
      truncated_batch_size=sampling.default_truncation(500, q),
    )  # fmt: skip
    event = mechanism.event()
    assert (event.count, event.event.sampling_probability) == (20, q)
    assert clipped_norm(mechanism) == pytest.approx(1.5, rel=5e-6)  # norms are raised by rounding
    assert noise_scale(mechanism) == pytest.approx(4.0 * 1.5 / 25, rel=0.05)

  def test_num_examples(self):
    mechanism = make(num_examples=1000)
    assert mechanism.event().event.dataset_size == 1001
    assert mechanism.sampler.num_examples == 1000
    assert mechanism.sampler.sampling_probability == sampling.exact_probability(0.025)
    assert mechanism.event().event.sampling_probability == sampling.exact_probability(0.025)

  def test_batch_size(self):
    mechanism = make(batch_size=50)
    for q in (mechanism.sampler.sampling_probability, mechanism.event().event.sampling_probability):
      assert q == sampling.exact_probability(0.1)
    assert noise_scale(mechanism) == pytest.approx(noise_scale(make()) / 2, rel=0.08)

  def test_truncated_batch_size(self):
    mechanism = dataclasses.replace(make(), truncated_batch_size=31)
    assert mechanism.sampler(jax.random.key(0), 0).indices.shape == (31,)
    assert mechanism.event().event.truncated_batch_size == 31
    assert mechanism.epsilon() > make().epsilon()

  def test_l2_clip_norm(self):
    mechanism = dataclasses.replace(make(), l2_clip_norm=6.0)
    assert clipped_norm(mechanism) == pytest.approx(6.0, rel=5e-6)
    assert noise_scale(mechanism) == pytest.approx(noise_scale(make()) * 4, rel=0.08)
    transform = mechanism.clip_and_noise(jax.random.key(0))
    gradient = jnp.zeros((1, 4000)).at[0, 0].set(1e6)
    state = transform.init(None)
    moved = transform.update(gradient, state)[0] - transform.update(gradient[:0], state)[0]
    assert float(moved[0]) == pytest.approx(6.0 / 25, rel=1e-5)
    assert mechanism.event() == make().event()  # σ is relative to C

  def test_noise_multiplier(self):
    mechanism = dataclasses.replace(make(), noise_multiplier=8.0)
    assert noise_scale(mechanism) == pytest.approx(noise_scale(make()) * 2, rel=0.08)
    assert mechanism.event().event.noise_multiplier == 8.0
    assert mechanism.epsilon() < make().epsilon()

  def test_both_noises_have_one_scale(self):
    mechanism = make()
    half = mechanism.noise_sum(jax.random.key(1))
    update, _ = half.update(jnp.zeros(4000), half.init(None))
    assert float(update.std()) == pytest.approx(noise_scale(mechanism), rel=0.08)

  def test_steps(self):
    mechanism = dataclasses.replace(make(), steps=40)
    assert mechanism.event().count == 40
    assert mechanism.event(7).count == 7
    assert mechanism.epsilon() > make().epsilon()

  def test_delta(self):
    assert dataclasses.replace(make(), delta=1e-4).epsilon() == make().epsilon(delta=1e-4)

  def test_neighboring_relation(self):
    mechanism = dataclasses.replace(make(), neighboring_relation='replace_one')
    assert mechanism.event().event.dataset_size == 500
    assert make().event().event.dataset_size == 501
    assert mechanism.epsilon() != make().epsilon()

  def test_sampling_probability_cannot_be_changed_alone(self):
    with pytest.raises(InputError, match='sampling_probability = batch_size/num_examples'):
      dataclasses.replace(make(), sampling_probability=0.125)


class TestRecords:
  @pytest.mark.parametrize(
    'mechanism',
    [
      make(),
      make(noise_multiplier=0.0, l2_clip_norm=math.inf),
      make(neighboring_relation='replace_one', num_examples=60_000, delta=1e-5),
    ],
  )
  def test_round_trip_through_json(self, mechanism):
    text = json.dumps(mechanism.to_dict(), allow_nan=False)
    assert DPMechanism.from_dict(json.loads(text)) == mechanism

  def test_refuses_unknown_fields(self):
    with pytest.raises(InputError, match='epsilon'):
      DPMechanism.from_dict({**make().to_dict(), 'epsilon': 1.0})


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'batch_size': 501}, ('batch_size <= 500', 'got 501')),
    ({'batch_size': 0}, ('batch_size >= 1', 'got 0')),
    ({'batch_size': 25.0}, ('batch_size', 'whole number', '25.0')),
    ({'num_examples': 0}, ('num_examples', 'got 0')),
    ({'delta': 0.0}, ('delta in (0, 1)', '0.0')),
    ({'delta': 1.5}, ('delta in (0, 1)', '1.5')),
    ({'noise_multiplier': -0.5}, ('noise_multiplier >= 0', '-0.5')),
    ({'noise_multiplier': math.nan}, ('noise_multiplier', 'nan')),
    ({'l2_clip_norm': 0.0}, ('l2_clip_norm > 0', '0.0')),
    ({'l2_clip_norm': -1.0}, ('l2_clip_norm > 0', '-1.0')),
    ({'l2_clip_norm': math.inf}, ('finite l2_clip_norm', 'inf')),
    ({'steps': 0}, ('steps', 'got 0')),
    ({'steps': 2**31}, ('steps', 'got 2147483648')),
    ({'truncated_batch_size': 502}, ('truncated_batch_size', '[1, 501]', '502')),
    ({'neighboring_relation': 'swap'}, ('neighboring_relation', "'swap'")),
  ],
)
def test_refuses(changes, words):
  with pytest.raises(InputError) as caught:
    make(**changes)
  for word in words:
    assert word in str(caught.value)
  assert '\n' not in str(caught.value)
