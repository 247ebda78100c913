"""dpgan_jax.budget.cross_check: bounds that contain ε, and an
accountant's mistake that they refuse.
"""

from __future__ import annotations

import json
import math
import pathlib

import dp_accounting
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from dp_accounting import rdp

from dpgan_jax._validate import InputError
from dpgan_jax.budget import cross_check, noisy_steps
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import DPMechanism
from experiments.trust import second_opinions

truncated = second_opinions.truncated
DELTA = 1e-5


def gaussian(sigma: float, steps: int = 1) -> dp_accounting.DpEvent:
  return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(sigma), steps)


def subsampled(q: float, sigma: float, steps: int) -> dp_accounting.DpEvent:
  return second_opinions.poisson(q, sigma, steps)


def mechanism(sigma: float = 1.0, steps: int = 6, **changes) -> DPMechanism:
  settings = {'num_examples': 1440, 'batch_size': 32, 'l2_clip_norm': 1.0, 'delta': DELTA}
  return DPMechanism.create(noise_multiplier=sigma, steps=steps, **(settings | changes))


def coarse(event: dp_accounting.DpEvent, delta: float = DELTA, relation='add_or_remove_one'):
  """The accountant on its coarse grid: an upper bound too, and ten times cheaper."""
  return accounting._epsilon(accounting.hashable(event), delta, relation, 1e-3)


class TestBounds:
  @pytest.mark.parametrize(('sigma', 'steps'), [(0.5, 1), (3.0, 1), (20.0, 100)])
  def test_of_the_gaussian_mechanism_contain_its_closed_form(self, sigma, steps):
    """Balle & Wang 2018 (arXiv 1805.06530), theorem 8."""
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
      tails = scipy.stats.norm.cdf([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu])
      return tails[0] - math.exp(epsilon) * tails[1] - DELTA

    exact = scipy.optimize.brentq(excess, 0, 100)
    (found,) = cross_check.bounds(gaussian(sigma, steps), [DELTA])
    assert exact * 0.99 < found.lower <= exact <= found.upper < exact * 1.15

  @pytest.mark.parametrize(('q', 'sigma'), [(0.01, 1.0), (0.3, 0.6), (1.0, 2.0), (0.001, 8.0)])
  def test_divergences_are_those_of_closed_sums_and_of_another_quadrature(self, q, sigma):
    """Integer orders: dp-accounting's sums (Mironov, Talwar & Zhang 2019, arXiv 1908.10530).

    Its series for the others stops early (4 % above, at order 1.5 of the first pair), so there
    SciPy's adaptive quadrature.
    """
    pair, orders = noisy_steps.Pair(sigma, q, 1.0, False), [2, 3, 8, 32]
    accountant = rdp.RdpAccountant(orders=orders).compose(subsampled(q, sigma, 1))
    found = [pair._renyi(order)[0] for order in orders]
    np.testing.assert_allclose(found, accountant.rdp, rtol=1e-7)

    def integrand(x: float, order: float) -> float:
      mixture = 1 - q + q * math.exp((2 * x - 1) / (2 * sigma**2))
      return mixture**order * scipy.stats.norm.pdf(x, scale=sigma)

    ends = (-12 * sigma, 12 * sigma + 2)
    integral, _ = scipy.integrate.quad(integrand, *ends, args=(1.5,), epsrel=1e-12, limit=500)
    assert pair._renyi(1.5)[0] == pytest.approx(math.log(integral) / 0.5, rel=1e-5)
    # The other direction is the smaller one: the theorem that lets others leave it out.
    forward, backward = pair.renyi
    assert (backward <= forward * (1 + 1e-9)).all()

  @pytest.mark.parametrize(
    ('q', 'sigma', 'steps', 'published'),
    [
      (0.01, 4.0, 10_000, 1.26),  # Abadi et al. 2016 (arXiv 1607.00133), section 3.2
      (256 / 60_000, 1.3, 20 * 60_000 // 256, 1.34),  # Bu et al. 2020, HDSR 2(3), figure 4
      (256 / 60_000, 0.7, 70 * 60_000 // 256, 8.68),  # the same figure
    ],
  )
  def test_published_values_of_the_moments_accountant(self, q, sigma, steps, published):
    """With the conversion of that time (Mironov 2017, proposition 3) the printed digits come out,
    to 1 in the last one; today's conversion, and the exact value, are smaller."""
    forward, _ = noisy_steps.Pair(sigma, q, 1.0, False).renyi
    orders = noisy_steps.ORDERS
    then = np.min(steps * forward + math.log(1 / DELTA) / (orders - 1))
    assert then == pytest.approx(published, abs=0.0125)
    (found,) = cross_check.bounds(subsampled(q, sigma, steps), [DELTA])
    assert found.lower < found.upper < then

  @pytest.mark.parametrize(
    ('batch', 'steps', 'sigma', 'renyi', 'pld'),
    [
      (128, 450_000, 1.0, 9.970, 9.279),
      (512, 174_000, 2.0, 10.079, 9.386),
      (128, 325_000, 5.0, 0.9941, 0.9139),
      (512, 165_000, 14.0, 1.0036, 0.9204),
    ],
  )
  def test_runs_of_private_gans_revisited(self, batch, steps, sigma, renyi, pld):
    """The four runs of Bie, Kamath & Zhang 2023 (arXiv 2302.02936), published as ε = 10 and 1 by
    Rényi accounting; digits by dp-accounting 0.6.0, Rényi and PLD, N = 60,000, no cut.
    """
    (found,) = cross_check.bounds(subsampled(batch / 60_000, sigma, steps), [DELTA])
    assert found.upper == pytest.approx(renyi, rel=1e-3)
    assert round(found.upper) == round(renyi)
    assert 0.975 * pld < found.lower <= pld

  @pytest.mark.parametrize(
    ('cap', 'pld'), [(256, 7.47), (280, 4.73), (300, 2.96), (320, 1.077), (340, 1.0165)]
  )
  def test_cut_batches(self, cap, pld):
    """N = 60,000, B = 256, T = 2,000, σ = 1; digits by dp-accounting 0.6.0, data set of N."""
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(60_000, 256 / 60_000, cap, 1.0)
    event = dp_accounting.SelfComposedDpEvent(event, 2000)
    (found,) = cross_check.bounds(event, [DELTA])
    assert 0.99 * pld < found.lower < pld * 1.001
    assert pld < found.upper < (1.6 if cap != 320 else 3) * pld

  @pytest.mark.parametrize('case', second_opinions.SMALL[:2], ids=lambda case: case.name)
  def test_by_monte_carlo(self, case):
    """500,000 draws of the summed loss; false alarm 1e-6 on either side. δ at a fixed ε is then
    known to 12 %, and ε to 3 %: noise a twentieth larger, or cuts forgotten, fall outside.
    """
    epsilon = case.monte_carlo_at
    drawn = second_opinions.monte_carlo_delta(case.event, epsilon, draws=500_000)
    assert drawn.high - drawn.low < 0.25 * drawn.value
    at_most, at_least = cross_check.bounds(case.event, [drawn.low, drawn.high])
    assert at_least.lower <= epsilon <= at_most.upper
    assert coarse(case.event, drawn.low) >= epsilon
    assert coarse(case.event, drawn.high) <= epsilon * 1.02
    # Power: what another event is accounted for is refuted by the draws of this one.
    step = case.event.event
    others = [truncated(201, 10, 201, 1.5, 10)] if hasattr(step, 'truncated_batch_size') else []
    for other in [*others, subsampled(10 / 201, 1.5 * 1.05, 10)]:
      assert coarse(other, drawn.low) < epsilon

  @pytest.mark.parametrize('relation', sorted(accounting.RELATIONS))
  def test_contain_the_accounted_epsilon_under_every_relation(self, relation):
    for cap in (None, 36):
      m = mechanism(truncated_batch_size=cap, neighboring_relation=relation)
      epsilon = coarse(m.event(), relation=relation)
      (found,) = cross_check.bounds(m.event(), [DELTA], neighboring_relation=relation)
      assert found.lower <= epsilon <= found.upper
      assert found.lower > 0.97 * epsilon

  @pytest.mark.parametrize('sigma', [2.0, 4.0])
  def test_where_batches_are_always_cut_the_events_lower_end_is_none_of_the_mechanism(self, sigma):
    """N = 2, cap 1, q = 1, one step. Two data sets differ in what one of three records does, which
    is kept with probability 1/3. By joint convexity (Balle, Barthe & Gaboardi 2018, arXiv
    1807.01647, theorem 2) no two are further apart than the Gaussian of sensitivity 2 is, sampled
    with that probability.
    """
    m = mechanism(sigma, 1, num_examples=2, batch_size=2, truncated_batch_size=1)
    kept, mu = 1 / 3, 2 / sigma

    def excess(epsilon: float) -> float:
      tails = scipy.stats.norm.cdf([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu])
      return kept * (tails[0] - math.exp(epsilon) * tails[1]) - DELTA

    at_most = math.log1p(kept * math.expm1(scipy.optimize.brentq(excess, 0, 100)))
    (of_event,) = cross_check.bounds(m.event(), [DELTA])
    assert of_event.lower > at_most  # true of the event, false of the mechanism
    (attained,) = cross_check.bounds(m.event(), [DELTA], attained=True)
    assert 0 < attained.lower <= attained.upper < at_most
    # What is attained: the record alone, kept with that probability.
    (alone,) = cross_check.bounds(subsampled(kept, sigma, 1), [DELTA])
    np.testing.assert_allclose(attained, alone, rtol=1e-9)

  def test_where_batches_are_hardly_ever_cut_the_event_is_attained(self):
    m = mechanism()
    found, attained = (
      cross_check.bounds(m.event(), [DELTA], attained=which)[0] for which in (False, True)
    )
    assert 0.99 * found.lower < attained.lower <= found.lower * (1 + 1e-6)
    without = subsampled(m.sampling_probability, 1.0, 6)
    assert attained.lower == pytest.approx(cross_check.bounds(without, [DELTA])[0].lower, rel=1e-3)

  def test_of_composed_stages(self):
    """A classifier's centre and its training, in either order; and one stage in two parts."""
    centre = mechanism(10.0, 1, batch_size=1440).event()
    training = mechanism(1.5, 40).event()
    both = [
      cross_check.bounds(dp_accounting.ComposedDpEvent(order), [DELTA])[0]
      for order in ([centre, training], [training, centre])
    ]
    np.testing.assert_allclose(*both, rtol=1e-4)
    epsilon = coarse(dp_accounting.ComposedDpEvent([centre, training]))
    assert both[0].lower <= epsilon <= both[0].upper
    assert both[0].lower > 0.97 * epsilon
    parts = dp_accounting.ComposedDpEvent([mechanism(1.5, 15).event(), mechanism(1.5, 25).event()])
    np.testing.assert_allclose(*cross_check.bounds(parts, [DELTA]),
                               *cross_check.bounds(training, [DELTA]), rtol=5e-3)  # fmt: skip

  def test_of_nothing_and_of_what_is_not_private(self):
    assert cross_check.bounds(dp_accounting.NoOpDpEvent(), [DELTA]) == [(0.0, 0.0)]
    assert cross_check.bounds(mechanism().event(0), [DELTA]) == [(0.0, 0.0)]
    without = dp_accounting.ComposedDpEvent([dp_accounting.NonPrivateDpEvent(), gaussian(1.0)])
    assert cross_check.bounds(without, [DELTA]) == [(math.inf, math.inf)]
    # q below δ: the record is never drawn, with probability 1 - δ.
    assert cross_check.bounds(subsampled(1e-6, 1.0, 1), [DELTA])[0].lower == 0

  def test_of_an_unknown_event_are_not_invented(self):
    with pytest.raises(TypeError, match='no second opinion on LaplaceDpEvent'):
      cross_check.bounds(dp_accounting.LaplaceDpEvent(1.0), [DELTA])

  @pytest.mark.slow
  def test_contain_the_accounted_epsilon_of_mechanisms_drawn_at_random(self):
    rng = np.random.default_rng(1)
    for _ in range(150):
      num = int(10 ** rng.uniform(2, 5))
      batch = max(1, int(num ** rng.uniform(0.2, 1)))
      relation = str(rng.choice(sorted(accounting.RELATIONS)))
      cap = int(batch + rng.integers(1, 8) * math.sqrt(batch)) + 1 if rng.random() < 0.5 else None
      m = mechanism(
        float(10 ** rng.uniform(-0.5, 1.2)), int(10 ** rng.uniform(0, 4.5)), num_examples=num,
        batch_size=batch, truncated_batch_size=cap and min(cap, num), neighboring_relation=relation,
      )  # fmt: skip
      deltas = [1e-8, 1e-5, 1e-3]
      for delta, found in zip(
        deltas, cross_check.bounds(m.event(), deltas, neighboring_relation=relation), strict=True
      ):
        epsilon = coarse(m.event(), delta, relation)
        if math.isinf(epsilon):  # beyond the accountant's arithmetic; it then promises nothing
          assert found.lower > 500
          continue
        most = found.upper + cross_check.rounding(m.event(), found.upper, grid=1e-3)
        assert found.lower <= epsilon <= most, (m, delta, epsilon, found)


class TestRequireAgreement:
  def test_returns_the_intervals(self):
    m = mechanism()
    epsilons = {d: coarse(m.event(), d) for d in (1e-6, 1e-5, 1e-3)}
    found = cross_check.require_agreement(m.event(), epsilons)
    assert list(found) == list(epsilons)
    assert all(found[d].lower <= epsilons[d] <= found[d].upper for d in epsilons)

  @pytest.mark.parametrize(
    ('claimed', 'relation'),
    [
      (mechanism(1.05), 'add_or_remove_one'),  # noise 5 % larger than was added
      (mechanism(steps=5), 'add_or_remove_one'),  # one of six steps not charged
      (mechanism(batch_size=31), 'add_or_remove_one'),  # another sampling rate
      (mechanism(neighboring_relation='replace_special'), 'replace_one'),  # the weaker relation
      (mechanism(truncated_batch_size=1440), 'cap'),  # the cut left out
    ],
  )
  def test_refuses_an_accountant_that_promises_too_much(self, claimed, relation):
    done = mechanism(
      truncated_batch_size=40 if relation == 'cap' else None,
      neighboring_relation='add_or_remove_one' if relation == 'cap' else relation,
    )
    named = claimed.neighboring_relation
    epsilon = coarse(claimed.event(), relation=named)
    with pytest.raises(InputError, match=f'accounted epsilon={epsilon!r} at delta=1e-05') as caught:
      cross_check.require_agreement(
        done.event(), {DELTA: epsilon}, neighboring_relation=done.neighboring_relation
      )
    assert '\n' not in str(caught.value)

  def test_refuses_an_accountant_that_is_far_off_to_the_safe_side(self):
    m = mechanism(steps=500)
    with pytest.raises(InputError, match='contradicted'):
      cross_check.require_agreement(m.event(), {DELTA: 2 * coarse(m.event())})

  def test_a_small_epsilon_of_many_steps_may_be_rounded_up(self):
    """A loss far below the grid in each of 14,385 steps: the grid, not the noise, makes most of the
    accounted ε, which is harmless and must not forbid a report."""
    m = mechanism(7.6, 14_385, num_examples=31_570, batch_size=12)
    delta = 1e-8
    (found,) = cross_check.bounds(m.event(), [delta])
    on_coarse_grid = coarse(m.event(), delta)
    assert on_coarse_grid > found.upper * (1 + cross_check.ROUNDING)
    assert on_coarse_grid <= found.upper + cross_check.rounding(m.event(), found.upper, grid=1e-3)
    cross_check.require_agreement(m.event(), {delta: m.epsilon(delta=delta)})
    with pytest.raises(InputError, match='contradicted'):
      cross_check.require_agreement(m.event(), {delta: found.upper + 0.05})

  def test_an_infinite_epsilon_claims_nothing(self):
    cross_check.require_agreement(mechanism().event(), {DELTA: math.inf})

  def test_refuses_arguments(self):
    for delta in (0.0, 1.0, math.nan):
      with pytest.raises(InputError, match='delta in'):
        cross_check.bounds(gaussian(1.0), [delta])
    with pytest.raises(InputError, match='neighboring_relation'):
      cross_check.bounds(gaussian(1.0), [DELTA], neighboring_relation='swap')


def test_the_committed_table():
  """Bounds contain the accounted ε, and what is accounted at the drawn limits of δ contains ε."""
  path = pathlib.Path(__file__).resolve().parents[2] / 'experiments/results/trust/accounting.json'
  rows = {row['name']: row for row in json.loads(path.read_text('utf-8'))['rows']}
  cases = (*second_opinions.PUBLISHED, *second_opinions.CUT, *second_opinions.SMALL)
  assert rows.keys() == {case.name for case in (*cases, *second_opinions.of_reports())}
  for row in rows.values():
    assert row['at_least'] <= row['accounted'] <= row['at_most'] * (1 + cross_check.ROUNDING)
    if drawn := row.get('monte_carlo'):
      low, high = drawn['accounted_epsilon_there']
      assert low <= drawn['epsilon'] <= high
  for case in second_opinions.of_reports():
    assert rows[case.name]['accounted'] == pytest.approx(float(case.published), abs=1e-4)
