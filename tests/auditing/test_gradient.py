"""dpgan_jax.auditing.gradient: bounds that stay below the accounted ε, and exceed it under a fault.

Every audit here is at 95 % confidence, so that one of a correct mechanism may refute it in one case
of twenty; keys are fixed, so that what passes once passes always. Power: see `POWER`, and the
faults, each of which must be seen.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from dpgan_jax._validate import InputError
from dpgan_jax.auditing import gradient
from dpgan_jax.auditing.gradient import Parts, gradient_bound
from dpgan_jax.privacy import clipping, sampling
from dpgan_jax.privacy.mechanism import DPMechanism

TRIALS = 8000
POWER = 0.6  # of the accounted ε, which the family's bound reaches with so few runs


def make(**changes) -> DPMechanism:
  settings = {
    'num_examples': 4, 'batch_size': 4, 'l2_clip_norm': 1.5, 'noise_multiplier': 1.5, 'steps': 2,
    'delta': 1e-2,
  }  # fmt: skip
  return DPMechanism.create(**{**settings, **changes})


FULL, SAMPLED = make(), make(batch_size=2, noise_multiplier=1.0)
MECHANISMS = {'all records in': FULL, 'Poisson': SAMPLED}


@functools.cache
def audit_of(mechanism: DPMechanism, key: int = 0):
  return gradient_bound(mechanism, trials=TRIALS, key=jax.random.key(key))


def with_noise(mechanism: DPMechanism, change) -> Parts:
  """The mechanism's parts, with noise that is `change(real transform, update, mask)`."""

  def noise(key):
    real = mechanism.noise_sum(key)

    def update(updates, state, params=None, *, mask, **extra):
      return change(real, updates, state, mask)

    return optax.GradientTransformationExtraArgs(real.init, update)

  return dataclasses.replace(Parts.of(mechanism), noise=noise)


# --- faults, each as it has been seen in a library ------------------------------------------------


def half_noise(m):
  return Parts.of(dataclasses.replace(m, noise_multiplier=m.noise_multiplier / 2))


def realised_count(m):
  def change(real, updates, state, mask):
    update, state = real.update(updates, state)
    count = jnp.maximum(jnp.sum(mask), 1)
    return jax.tree.map(lambda u: u * m.batch_size / count, update), state

  return with_noise(m, change)


def no_clip(m):
  def clip(grads, mask):
    return jax.tree.map(lambda g: jnp.sum(jnp.where(mask[:, None], g, 0.0), axis=0), grads)

  return dataclasses.replace(Parts.of(m), clip=clip)


def clip_by_leaf(m):
  def clip(grads, mask):
    one = lambda g: clipping.clipped_sum(g, l2_clip_norm=m.l2_clip_norm, mask=mask).sum  # noqa: E731
    return jax.tree.map(one, grads)

  return dataclasses.replace(Parts.of(m), clip=clip)


def same_noise_every_step(m):
  return with_noise(m, lambda real, updates, state, mask: (real.update(updates, state)[0], state))


def same_noise_in_both_leaves(m):
  def change(real, updates, state, mask):
    parts = {name: real.update({name: leaf}, state) for name, leaf in updates.items()}
    return {name: part[0][name] for name, part in parts.items()}, parts['a'][1]

  return with_noise(m, change)


def same_batch_every_step(m):
  return dataclasses.replace(Parts.of(m), sampler=lambda key, step: m.sampler(key, 0 * step))


def shuffled(m):
  def sampler(key, step):
    order = jax.random.permutation(jax.random.fold_in(key, 0), m.num_examples).astype(jnp.int32)
    size = m.batch_size
    return sampling.PoissonBatch(
      jax.lax.dynamic_slice(order, (step * size,), (size,)), jnp.ones(size, bool)
    )

  return dataclasses.replace(Parts.of(m), sampler=sampler)


@pytest.mark.parametrize(
  'mechanism',
  [pytest.param(FULL, marks=pytest.mark.slow), SAMPLED],
  ids=MECHANISMS,
)
def test_a_correct_mechanism_stays_below_and_comes_close(mechanism):
  audit = audit_of(mechanism)
  assert not audit.refuted
  assert 0 < audit.lower_bound <= audit.accounted_epsilon
  assert POWER * audit.accounted_epsilon < audit.family_bound <= audit.accounted_epsilon
  assert audit.statistic == audit.family_statistic == 'likelihood'
  assert audit.accounted_epsilon == mechanism.epsilon()
  # Half of the runs of each kind count.
  assert audit.errors.num_in == audit.errors.num_out == TRIALS // 4


@pytest.mark.parametrize(
  ('fault', 'statistic'),
  [
    pytest.param(half_noise, 'likelihood', marks=pytest.mark.slow),
    (realised_count, 'minus_scale'),
    (no_clip, 'likelihood'),
  ],
)
def test_sees(fault, statistic):
  audit = gradient_bound(FULL, trials=TRIALS, key=jax.random.key(1), parts=fault(FULL))
  assert audit.refuted
  assert audit.family_bound > audit.accounted_epsilon
  assert audit.family_statistic == statistic
  if fault is not realised_count:  # seen at other δ first, with so few runs
    assert audit.lower_bound > audit.accounted_epsilon


@pytest.mark.slow
@pytest.mark.parametrize(
  ('fault', 'mechanism', 'statistic'),
  [
    (half_noise, SAMPLED, 'likelihood'),
    (no_clip, SAMPLED, 'likelihood'),
    (clip_by_leaf, FULL, 'likelihood'),
    (clip_by_leaf, SAMPLED, 'likelihood'),
    (same_noise_every_step, SAMPLED, 'spread'),
    (same_noise_in_both_leaves, FULL, 'contrast'),
    (same_noise_in_both_leaves, SAMPLED, 'contrast'),
    (same_batch_every_step, make(batch_size=1, steps=4, noise_multiplier=0.7), 'likelihood'),
    (shuffled, make(batch_size=1, steps=4, noise_multiplier=0.7), 'likelihood'),
  ],
)
def test_sees_also(fault, mechanism, statistic):
  audit = gradient_bound(mechanism, trials=20_000, key=jax.random.key(2), parts=fault(mechanism))
  assert audit.refuted
  assert audit.family_statistic == statistic


@pytest.mark.slow
@pytest.mark.parametrize('relation', ['replace_special', 'replace_one'])
@pytest.mark.parametrize('batch_size', [2, 4])
def test_other_relations(relation, batch_size):
  mechanism = make(neighboring_relation=relation, batch_size=batch_size, noise_multiplier=2.0)
  audit = gradient_bound(mechanism, trials=20_000, key=jax.random.key(3))
  assert not audit.refuted
  assert POWER * audit.accounted_epsilon < audit.family_bound <= audit.accounted_epsilon
  halved = gradient_bound(
    mechanism, trials=20_000, key=jax.random.key(3), parts=half_noise(mechanism)
  )
  assert halved.refuted


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_promised():
  """At most 10 % each of 40 audits may exceed ε: 13 or more have a probability below 2e-4."""
  audits = [
    gradient_bound(SAMPLED, trials=1000, key=jax.random.key(100 + n), confidence=0.9)
    for n in range(40)
  ]
  assert sum(a.refuted for a in audits) < 13
  assert sum(a.lower_bound > a.accounted_epsilon for a in audits) < 13


class TestLikelihood:
  @pytest.mark.parametrize('relation', ['add_or_remove_one', 'replace_one'])
  def test_is_that_of_the_mixtures(self, relation):
    mechanism = make(batch_size=1, neighboring_relation=relation)
    x = np.linspace(-4, 9, 12).astype(np.float32)
    q, sigma = 0.25, 1.5
    other = -1.0 if relation == 'replace_one' else 0.0
    inside, outside = (
      (1 - q) * scipy.stats.norm.pdf(x, 0, sigma) + q * scipy.stats.norm.pdf(x, mean, sigma)
      for mean in (1.0, other)
    )
    found = gradient._log_likelihood_ratio(jnp.asarray(x), mechanism)
    np.testing.assert_allclose(found, np.log(inside / outside), rtol=1e-4, atol=1e-4)


class TestArguments:
  @pytest.mark.slow
  def test_a_key_gives_the_same_audit_and_another_key_another(self):
    told = []
    first, again, other = (
      gradient_bound(FULL, trials=400, steps=1, key=jax.random.key(k), progress=told.append)
      for k in (0, 0, 1)
    )
    assert first == again
    assert first.errors != other.errors
    assert first.accounted_epsilon == FULL.epsilon(1)
    assert told == [0.5, 1.0] * 3

  @pytest.mark.parametrize(
    ('changes', 'words'),
    [
      ({'trials': 399}, 'trials >= 400, got 399'),
      ({'dimension': 5}, 'dimension to be even, got 5'),
      ({'dimension': 2}, 'dimension >= 4, got 2'),
      ({'confidence': 1.0}, r'confidence in \(0, 1\), got 1'),
      ({'steps': 0}, 'steps >= 1, got 0'),
    ],
  )
  def test_refuses(self, changes, words):
    with pytest.raises(InputError, match=words):
      gradient_bound(FULL, **{'trials': 400, 'key': jax.random.key(0), **changes})

  def test_refuses_a_mechanism_without_noise(self):
    with pytest.raises(InputError, match='noise_multiplier > 0 to audit, got 0'):
      gradient_bound(make(noise_multiplier=0.0), trials=400, key=jax.random.key(0))
