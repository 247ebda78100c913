"""dpgan_jax.privacy.accounting: dp-accounting's numbers, and calibration that never exceeds its
target.
"""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import accounting
from tests.support import losses

DELTA = 1e-3


def step(sigma: float = 4.0, **changes) -> dp_accounting.TruncatedSubsampledGaussianDpEvent:
  fields = {'dataset_size': 501, 'sampling_probability': 0.05, 'truncated_batch_size': 56}
  return dp_accounting.TruncatedSubsampledGaussianDpEvent(
    **{**fields, **changes}, noise_multiplier=sigma
  )


def run(steps: int = 20, sigma: float = 4.0, **changes) -> dp_accounting.DpEvent:
  return dp_accounting.SelfComposedDpEvent(step(sigma, **changes), steps)


def gaussian(sigma: float, steps: int = 1) -> dp_accounting.DpEvent:
  return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(sigma), steps)


def subsampled(sigma: float, steps: int = 1, q: float = 0.05) -> dp_accounting.DpEvent:
  event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
  return dp_accounting.SelfComposedDpEvent(event, steps)


def direct(event: dp_accounting.DpEvent, delta: float = DELTA, relation: str = 'ADD_OR_REMOVE_ONE'):
  accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation[relation])
  return accountant.compose(event).get_epsilon(delta)


class TestEpsilon:
  @pytest.mark.parametrize('relation', ['add_or_remove_one', 'replace_one', 'replace_special'])
  def test_is_what_dp_accounting_computes(self, relation):
    """The cached self-composition is the accountant's own, under every relation."""
    event = run(20, truncated_batch_size=30)
    got = accounting.epsilon(event, delta=DELTA, neighboring_relation=relation)
    assert got == pytest.approx(direct(event, relation=relation.upper()), rel=1e-6)

  @pytest.mark.parametrize('relation', accounting.RELATIONS.values())
  @pytest.mark.parametrize(
    ('sigma', 'q', 'size', 'cap'),
    [
      (1.0, 24 / 1440, 1440, 56),
      (0.6, 0.01, 10000, 110),  # cut often
      (1.3, 1e-4, 60000, 16),  # never cut
      (1.0, 0.5, 20, 3),  # cut nearly always
      (1.0, 1.0, 100, 100),
      (0.5, 0.999999, 60, 50),
      (0.9, -math.expm1(-0.1), 60, 50),  # the largest loss is a point of the grid
      (3.0, 5 * 2**-30, 10**8, 16),
      (1e8, 0.01, 1000, 30),
    ],
  )
  def test_a_step_has_the_bits_of_dp_accounting(self, sigma, q, size, cap, relation):
    """What other tests compute with (tests/support/losses) changes nothing."""
    got, wanted = (
      distribution(
        size, q, cap, sigma, value_discretization_interval=1e-2, neighboring_relation=relation
      )
      for distribution in (losses.quick_truncated, losses.truncated)
    )
    for name in ('_pmf_remove', '_pmf_add'):
      one, two = (getattr(each, name).to_dense_pmf() for each in (got, wanted))
      np.testing.assert_array_equal(one._probs, two._probs)
      assert one._lower_loss == two._lower_loss
      assert one._infinity_mass == two._infinity_mass

  @pytest.mark.parametrize('relation', ['add_or_remove_one', 'replace_one'])
  @pytest.mark.parametrize(
    ('sigma', 'q', 'steps'), [(0.1, 0.05, 1), (1.0, 0.05, 300), (4.0, 0.9, 12), (1e8, 0.05, 2)]
  )
  def test_epsilon_has_the_bits_of_dp_accounting(self, sigma, q, steps, relation):
    event = step(sigma, sampling_probability=q, truncated_batch_size=30 if q < 0.5 else 480)
    found = accounting._self_composed(accounting._step_pld(event, relation, 1e-2), steps)
    for delta in (0.9, 0.1, 1e-3, 1e-9, 1e-14, 1e-40):
      assert losses.quick_epsilon(found, delta) == losses.epsilon_for_delta(found, delta)

  def test_of_other_events(self):
    for event in (gaussian(3.0), subsampled(1.5, 10), dp_accounting.NoOpDpEvent()):
      assert accounting.epsilon(event, delta=DELTA) == pytest.approx(direct(event), rel=1e-6)
    assert accounting.epsilon(dp_accounting.NonPrivateDpEvent(), delta=DELTA) == math.inf

  def test_of_composed_events(self):
    """Lists in them are no obstacle, and repeating events one by one is the same as the power."""
    whole = dp_accounting.ComposedDpEvent([run(2), dp_accounting.NoOpDpEvent(), run(3)])
    assert accounting.epsilon(whole, delta=DELTA) == pytest.approx(
      accounting.epsilon(run(5), delta=DELTA), rel=1e-3
    )
    nested = dp_accounting.SelfComposedDpEvent(
      dp_accounting.ComposedDpEvent([gaussian(8.0), gaussian(6.0)]), 2
    )
    assert accounting.epsilon(nested, delta=DELTA) == pytest.approx(direct(nested), rel=1e-6)

  def test_the_cut_costs(self):
    untruncated = accounting.epsilon(subsampled(4.0, 20), delta=DELTA)
    generous = accounting.epsilon(run(20), delta=DELTA)
    tight = accounting.epsilon(run(20, truncated_batch_size=30), delta=DELTA)
    assert untruncated <= generous <= untruncated * 1.01
    assert tight > generous * 1.2

  def test_relations_differ(self):
    one, replaced = (
      accounting.epsilon(run(20), delta=DELTA, neighboring_relation=relation)
      for relation in ('add_or_remove_one', 'replace_one')
    )
    assert one * 1.5 < replaced

  def test_grows_with_steps_and_falls_with_sigma_and_delta(self):
    by_steps = [accounting.epsilon(run(t), delta=DELTA) for t in (1, 5, 20, 80)]
    by_sigma = [accounting.epsilon(run(20, s), delta=DELTA) for s in (8.0, 4.0, 3.0)]
    by_delta = [accounting.epsilon(run(20), delta=delta) for delta in (1e-2, 1e-3, 1e-4)]
    for values in (by_steps, by_sigma, by_delta):
      assert values == sorted(values)
      assert len(set(values)) == len(values)
    assert by_steps[2] == by_sigma[1] == by_delta[1]

  @pytest.mark.parametrize('relation', accounting.RELATIONS)
  @pytest.mark.parametrize('delta', [1e-5, 1e-2])
  def test_releases_of_all_records_cost_what_their_loss_distributions_say(self, relation, delta):
    """The formula for what composes to one Gaussian, beside dp-accounting's PLD of the parts."""
    whole = dict(dataset_size=101, sampling_probability=1.0, truncated_batch_size=101)
    parts = [
      dp_accounting.TruncatedSubsampledGaussianDpEvent(noise_multiplier=sigma, **whole)
      for sigma in (4.0, 9.0)
    ]
    event = dp_accounting.ComposedDpEvent(
      [parts[0], dp_accounting.SelfComposedDpEvent(parts[1], 3)]
    )
    accountant = pld.PLDAccountant(accounting.RELATIONS[relation])
    found = accounting.epsilon(event, delta=delta, neighboring_relation=relation)
    assert found == pytest.approx(accountant.compose(event).get_epsilon(delta), rel=1e-4)
    sigma = accounting.gaussian_noise(event, relation)
    assert found >= dp_accounting.get_epsilon_gaussian(sigma, delta)  # never below the formula

  @pytest.mark.parametrize(
    'change', [{'sampling_probability': 0.5}, {'truncated_batch_size': 100}], ids=str
  )
  def test_what_is_sampled_or_cut_is_no_gaussian(self, change):
    whole = dict(dataset_size=101, sampling_probability=1.0, truncated_batch_size=101)
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(
      noise_multiplier=4.0, **{**whole, **change}
    )
    assert accounting.gaussian_noise(event) is None
    both = dp_accounting.ComposedDpEvent([event, dp_accounting.GaussianDpEvent(4.0)])
    assert accounting.gaussian_noise(both) is None

  def test_large_epsilon_is_still_an_upper_bound(self):
    exact = direct(gaussian(0.15))
    assert exact > 20
    assert exact <= accounting.epsilon(gaussian(0.15), delta=DELTA) <= exact * 1.01

  @pytest.mark.parametrize(('event', 'above'), [
    pytest.param(run(200, 0.7), 1.001, marks=pytest.mark.slow), (run(20), 1.05),
  ])  # fmt: skip
  def test_quick_is_little_above(self, event, above):
    exact = accounting.epsilon(event, delta=DELTA)
    assert exact < accounting.quick_epsilon(event, delta=DELTA) < above * exact

  @pytest.mark.parametrize(
    'event',
    [
      *(run(1, sigma) for sigma in (0.03, 0.003, 0.001, 1e-320)),
      run(2**31 - 1, 1.0),
      dp_accounting.ComposedDpEvent([run(1, 0.003), run(1, 4.0)]),
    ],
    ids=str,
  )
  def test_losses_without_end_are_infinite_and_not_computed(self, event):
    # Computed, these take hours, or hundreds of gigabytes.
    assert accounting.epsilon(event, delta=DELTA) == math.inf
    assert accounting.quick_epsilon(event, delta=DELTA) == math.inf

  def test_noise_without_end_costs_nothing(self):
    assert accounting.epsilon(run(1, 1e300), delta=DELTA) == 0

  def test_refuses(self):
    for delta in (0.0, 1.0, -1e-5, math.nan):
      with pytest.raises(InputError, match=f'delta in .0, 1., got {delta}'):
        accounting.epsilon(gaussian(1.0), delta=delta)
    with pytest.raises(InputError, match=r"one of add_or_remove_one, .*; got 'swap'"):
      accounting.epsilon(gaussian(1.0), delta=DELTA, neighboring_relation='swap')


class TestCalibration:
  @pytest.mark.parametrize(
    ('make_event', 'target'),
    [(gaussian, 0.05), (gaussian, 3.0), (lambda s: subsampled(s, 30), 0.5)],
  )
  def test_noise_never_exceeds_the_target_and_comes_within_half_a_percent(self, make_event, target):
    sigma = accounting.calibrate_noise_multiplier(make_event, target_epsilon=target, delta=DELTA)
    # Not `accounting.epsilon`: what it says is what the search looked at.
    assert target * 0.995 <= direct(make_event(sigma)) <= target

  def test_noise_where_delta_covers_everything(self):
    # Nobody is drawn with probability 1 - q > 1 - δ: ε is 0 at any σ, and the search has no slope.
    sigma = accounting.calibrate_noise_multiplier(
      lambda s: subsampled(s, q=1e-4), target_epsilon=1.0, delta=DELTA
    )
    assert direct(subsampled(sigma, q=1e-4)) == 0

  def test_noise_out_of_reach(self):
    with pytest.raises(InputError) as caught:
      accounting.calibrate_noise_multiplier(
        gaussian, target_epsilon=0.01, delta=1e-6, maximum=10
      )
    assert 'target_epsilon=0.01 at delta=1e-06 is out of reach' in str(caught.value)
    assert 'noise_multiplier=10 ' in str(caught.value)

  def test_steps_are_the_most_that_fit(self):
    steps = accounting.calibrate_steps(
      lambda t: subsampled(4.0, t), target_epsilon=0.2, delta=DELTA
    )
    assert direct(subsampled(4.0, steps)) <= 0.2 < direct(subsampled(4.0, steps + 1))

  def test_steps_out_of_reach_and_at_the_maximum(self):
    with pytest.raises(InputError, match=r'target_epsilon=0.5 .* a single step spends more'):
      accounting.calibrate_steps(lambda t: gaussian(0.5, t), target_epsilon=0.5, delta=DELTA)
    most = accounting.calibrate_steps(
      lambda t: gaussian(50.0, t), target_epsilon=5.0, delta=DELTA, maximum=5
    )
    assert most == 5

  @pytest.mark.parametrize('target', [0.0, -1.0, math.inf, math.nan])
  def test_refuses_a_target_that_is_none(self, target):
    for search in (accounting.calibrate_noise_multiplier, accounting.calibrate_steps):
      with pytest.raises(InputError, match=f'target_epsilon .*got {target}'):
        search(gaussian, target_epsilon=target, delta=DELTA)


def test_log_spaced_deltas():
  assert accounting.log_spaced_deltas(1e-5, 3) == pytest.approx([1e-8, 1e-5, 1e-2])
  assert max(accounting.log_spaced_deltas(0.1)) < 1
