"""Values that are named from private counts: the threshold, the event, and its ε computed twice."""

from __future__ import annotations

import math
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.budget import cross_check
from dpgan_jax.budget.budget import Budget
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.accounting import FailureDpEvent
from dpgan_jax.privacy.releases import marginals, selection
from dpgan_jax.privacy.releases.selection import SelectionMechanism

SECRET = bytes(32)
GAUSSIAN = dp_accounting.GaussianDpEvent(3.0)


def mechanism(**changes) -> SelectionMechanism:
  fields = dict(
    num_examples=100, batch_size=100, l2_clip_norm=1.0, noise_multiplier=3.0, steps=1, delta=1e-5
  )
  base = selection.DPMechanism.create(**fields).to_dict()
  return SelectionMechanism.from_dict({**base, 'selection_delta': 1e-8, **changes})


def tail(threshold: float, sigma: float, squared: int) -> float:
  """P(1 + noise ≥ threshold), the law of the noise summed term by term."""
  variance = math.ceil((Fraction(sigma) * marginals.UNITS) ** 2 * squared) + 4
  far = 12 * math.isqrt(variance)
  k = np.arange(-far, far + 1, dtype=np.float64)
  law = np.exp(-(k**2) / (2 * variance))
  least = math.ceil((threshold - 1) * marginals.UNITS)
  return float(law[k >= least].sum() / law.sum())


@pytest.mark.parametrize(('sigma', 'squared', 'delta', 'columns'), [
  (0.5, 1, 1e-3, 1), (2.0, 3, 1e-8, 4), (1.0, 20, 1e-5, 12), (0.01, 1, 1e-6, 1),
])  # fmt: skip
def test_a_value_of_one_record_is_named_as_rarely_as_is_charged(sigma, squared, delta, columns):
  found = selection.threshold(sigma, squared, delta, columns)
  chance = columns * tail(found, sigma, squared)
  assert chance <= delta
  # No higher than it has to be: a hundredth of a deviation, and two units of the noise, less.
  less = found - 0.01 * sigma * math.sqrt(squared) - 3 / marginals.UNITS
  assert columns * tail(less, sigma, squared) > delta


def named(codes, mechanism):
  return selection.release_named(
    codes, 4000, mechanism=mechanism, squared_sensitivity=4, columns=2, secret=SECRET, purpose='x'
  )


def test_what_is_named_is_what_reaches_the_threshold():
  codes, m = np.repeat(np.arange(5), [300, 200, 1, 100, 0]), mechanism()
  least = selection.threshold(m.noise_multiplier, 4, m.selection_delta, 2)
  assert 30 < least < 40  # 100 is eleven deviations above, 1 is as charged below
  found = named(codes, m)
  assert set(found) == {0, 1, 3}
  assert all(abs(found[c] - n) < 60 for c, n in ((0, 300), (1, 200)))  # ten deviations
  assert found == named(codes, m)
  assert named(codes[:0], m) == {}  # a value that nobody has gets no count


def test_the_threshold_is_that_of_what_is_charged(monkeypatch):
  asked = []
  monkeypatch.setattr(selection, 'threshold', lambda *of: asked.append(of) or math.inf)
  m = mechanism(selection_delta=1e-12)
  assert named(np.zeros(50, int), m) == {}
  assert asked == [(m.noise_multiplier, 4, 1e-12, 2)]


def test_of_many_values_of_one_record_as_many_are_named_as_the_law_says(monkeypatch):
  """At a threshold that some of them reach; 4,000 values, so 5 deviations are 0.03."""
  m = mechanism()
  monkeypatch.setattr(selection, 'threshold', lambda *_: 1.0 + 2 * m.noise_multiplier)
  assert len(named(np.arange(4000), m)) / 4000 == pytest.approx(0.1587, abs=0.03)


def test_the_event_is_a_gaussian_and_a_failure():
  m = mechanism()
  rest, failures = accounting.without_failures(m.event())
  assert failures == 1e-8
  assert accounting.gaussian_noise(rest) == 3.0
  plain = accounting.epsilon(GAUSSIAN, delta=1e-5 - 1e-8)
  assert plain <= m.epsilon() <= plain * (1 + 1e-6)
  assert math.isinf(m.epsilon(delta=1e-8))
  assert m.epsilon(0) == 0
  # Of three uses, as of three runs of a sweep, three failures count.
  rest, failures = accounting.without_failures(m.event(3))
  assert failures == pytest.approx(3e-8)
  assert accounting.gaussian_noise(rest) == pytest.approx(math.sqrt(3.0))
  assert SelectionMechanism.from_dict(m.to_dict()) == m


def test_composed_failures_add_up():
  event = dp_accounting.ComposedDpEvent(
    [GAUSSIAN, dp_accounting.SelfComposedDpEvent(FailureDpEvent(2e-6), 3), FailureDpEvent(1e-6)]
  )
  assert accounting.without_failures(event)[1] == pytest.approx(7e-6)
  assert accounting.epsilon(event, delta=1e-5) == pytest.approx(
    accounting.epsilon(GAUSSIAN, delta=3e-6), rel=1e-6
  )
  assert math.isinf(accounting.quick_epsilon(event, delta=7e-6))


@pytest.mark.parametrize('relation', ['add_or_remove_one', 'replace_one'])
def test_the_second_opinion_knows_failures(relation):
  m = mechanism(selection_delta=5e-6, neighboring_relation=relation)
  budget = Budget(mechanism(neighboring_relation=relation), {'schema': m}, 'moments')
  spent = {d: budget.epsilon(delta=d) for d in (1e-6, 1e-5, 1e-3)}
  found = cross_check.require_agreement(budget.event(), spent, neighboring_relation=relation)
  assert math.isinf(spent[1e-6])
  assert found[1e-3].lower > 0
  # Nearly all of δ goes to failures, which an accountant that knows none does not see.
  plain = mechanism(neighboring_relation=relation)
  without = dp_accounting.ComposedDpEvent([GAUSSIAN, GAUSSIAN])
  too_little = accounting.epsilon(without, delta=5.1e-6, neighboring_relation=relation)
  assert too_little > plain.epsilon()
  with pytest.raises(InputError, match='contradicted'):
    cross_check.require_agreement(
      budget.event(), {5.1e-6: too_little}, neighboring_relation=relation
    )


@pytest.mark.parametrize('bad', [0.0, 1e-5, 2e-5, 1.5, float('nan')])
def test_a_failure_is_a_part_of_delta(bad):
  with pytest.raises(InputError, match='selection_delta'):
    mechanism(selection_delta=bad)
