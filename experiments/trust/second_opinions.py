r"""Accounted ε beside bounds by two other methods and a Monte Carlo estimate, for a table.

    ./run.sh python -m experiments.trust.second_opinions \
      --out=experiments/results/trust/accounting.json

Rows are runs that others have published, with what they printed; batches cut at several caps; and
the committed reports of this repository. In small cases the summed privacy loss is also drawn at
random.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import dp_accounting
import numpy as np
from absl import flags

from dpgan_jax import _cli
from dpgan_jax.budget import cross_check, noisy_steps
from dpgan_jax.budget.budget import Budget
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import DPMechanism
from experiments import pages

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parents[2]
MNIST = 60_000
DELTA = 1e-5
Event = dp_accounting.DpEvent


class Case(NamedTuple):
  """A row: what is done, and what others say of it (`published`, by `source`)."""

  name: str
  event: Event
  published: str = ''
  source: str = ''
  delta: float = DELTA
  monte_carlo_at: float | None = None


def poisson(q: float, sigma: float, steps: int) -> Event:
  step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
  return dp_accounting.SelfComposedDpEvent(step, steps)


def truncated(num: int, batch: int, cap: int, sigma: float, steps: int) -> Event:
  step = dp_accounting.TruncatedSubsampledGaussianDpEvent(num, batch / num, cap, sigma)
  return dp_accounting.SelfComposedDpEvent(step, steps)


class Estimate(NamedTuple):
  """δ is `value`; outside [`low`, `high`] with probability 2e-6 at most."""

  value: float
  low: float
  high: float


def monte_carlo_delta(event: Event, epsilon: float, *, draws: int) -> Estimate:
  """δ(ε) of a self-composed event under 'add_or_remove_one', by drawing the summed privacy loss.

  δ is the mean of (1 - e^(ε - loss))+, a variable in [0, 1]; its limits are those of the empirical
  Bernstein bound (Audibert, Munos & Szepesvári 2009, theorem 1), 1e-6 on either side.
  """
  (step,) = noisy_steps.steps_of(event, 'add_or_remove_one')
  rng = np.random.default_rng(0)
  losses = np.zeros(draws)
  for _ in range(step.count):
    is_cut = rng.random(draws) < step.cut
    for chosen, pair in ((~is_cut, step.usual), (is_cut, step.when_cut)):
      if pair is None:
        continue
      size = int(chosen.sum())
      joined = rng.random(size) < pair.q
      x = pair.sigma * rng.standard_normal(size) + pair.shift * joined
      losses[chosen] += np.subtract(*pair.log_ratios(x))
  gains = np.maximum(0.0, -np.expm1(epsilon - losses))
  log = math.log(3 / 1e-6)
  slack = math.sqrt(2 * float(gains.var()) * log / draws) + 3 * log / draws
  mean = float(gains.mean())
  return Estimate(mean, max(mean - slack, 0.0), mean + slack)


GANS_REVISITED = 'Bie, Kamath & Zhang 2023 (arXiv 2302.02936), by Rényi accounting'
MOMENTS = 'Abadi et al. 2016 (arXiv 1607.00133), section 3.2, moments accountant'
CLT = 'Bu, Dong, Long & Su 2020 (HDSR 2(3)), figure 4, moments accountant'
PUBLISHED = (
  Case('B 128, σ 1, T 450,000', poisson(128 / MNIST, 1.0, 450_000), '10', GANS_REVISITED),
  Case('B 512, σ 2, T 174,000', poisson(512 / MNIST, 2.0, 174_000), '10', GANS_REVISITED),
  Case('B 128, σ 5, T 325,000', poisson(128 / MNIST, 5.0, 325_000), '1', GANS_REVISITED),
  Case('B 512, σ 14, T 165,000', poisson(512 / MNIST, 14.0, 165_000), '1', GANS_REVISITED),
  Case('q 0.01, σ 4, T 10,000', poisson(0.01, 4.0, 10_000), '1.26', MOMENTS),
  Case('B 256, σ 1.3, 20 epochs', poisson(256 / MNIST, 1.3, 20 * MNIST // 256), '1.34', CLT),
  Case('B 256, σ 0.7, 70 epochs', poisson(256 / MNIST, 0.7, 70 * MNIST // 256), '8.68', CLT),
)
CUT = tuple(
  Case(f'B 256, σ 1, T 2,000, cut at {cap}', truncated(MNIST, 256, cap, 1.0, 2000))
  for cap in (256, 280, 300, 320, 340)
)
SMALL = (
  Case('q 0.05, σ 1.5, T 10, never cut', poisson(0.05, 1.5, 10), delta=1e-2, monte_carlo_at=0.15),
  Case('N 201, B 10, σ 1.5, T 10, cut at 14', truncated(201, 10, 14, 1.5, 10), delta=1e-2,
       monte_carlo_at=0.4),
  Case('N 201, B 201, σ 8, T 10', poisson(1.0, 8.0, 10), delta=1e-3, monte_carlo_at=1.0),
)  # fmt: skip


def of_reports() -> list[Case]:
  """The committed reports of this repository, and what they say."""
  cases = []
  for path in sorted((ROOT / 'experiments' / 'results').glob('*/report.json')):
    facts = json.loads(path.read_text('utf-8'))
    mechanism = _mechanism(facts['mechanism'])
    stages = facts.get('mechanisms_beside', facts.get('mechanisms_before', {}))
    beside = {name: _mechanism(m) for name, m in stages.items()}
    epsilon = facts['guarantee']['epsilon']
    spent = Budget(mechanism, beside)
    event = spent.event(facts['progress']['steps_charged'])
    source = path.relative_to(ROOT).as_posix()
    if spent.is_private and mechanism.neighboring_relation == 'add_or_remove_one':
      cases.append(Case(path.parent.name, event, f'{epsilon:.6g}', source, mechanism.delta))
  return cases


def _mechanism(facts: Mapping[str, Any]) -> DPMechanism:
  names = {field.name for field in dataclasses.fields(DPMechanism)}
  return DPMechanism.from_dict({name: value for name, value in facts.items() if name in names})


def row(case: Case) -> dict[str, Any]:
  """The ε of a case three ways.

  Raises:
    InputError: they disagree.
  """
  accounted = accounting.epsilon(case.event, delta=case.delta)
  found = cross_check.require_agreement(case.event, {case.delta: accounted})[case.delta]
  result: dict[str, Any] = {
    'name': case.name,
    'delta': case.delta,
    'at_least': round(found.lower, 4),
    'accounted': round(accounted, 4),
    'at_most': round(found.upper, 4),
  }
  if case.published:
    result |= {'published': case.published, 'source': case.source}
  if case.monte_carlo_at is not None:
    drawn = monte_carlo_delta(case.event, case.monte_carlo_at, draws=FLAGS.draws)
    result['monte_carlo'] = {
      'epsilon': case.monte_carlo_at,
      'delta': float(f'{drawn.value:.4g}'),
      'delta_limits': [float(f'{drawn.low:.4g}'), float(f'{drawn.high:.4g}')],
      # Accounted at the limits of δ: this has to contain `epsilon`.
      'accounted_epsilon_there': [
        round(accounting.epsilon(case.event, delta=d), 4) for d in (drawn.high, drawn.low)
      ],
      'draws': FLAGS.draws,
    }
  return result


def main() -> None:
  cases = [*PUBLISHED, *CUT, *SMALL, *of_reports()]
  rows, started = [], time.monotonic()
  for number, case in enumerate(cases, start=1):
    rows.append(row(case))
    left = (time.monotonic() - started) / number * (len(cases) - number)
    print(f'{number}/{len(cases)} {case.name} ({left:.0f} s left)', file=sys.stderr)
    r = rows[-1]
    print(f'{r["name"]}: {r["at_least"]} <= {r["accounted"]} <= {r["at_most"]}')
  if FLAGS.out:
    result = {
      'command': 'python -m experiments.trust.second_opinions --out=FILE',
      'methods': cross_check.METHODS,
      'rows': rows,
    }
    pages.write_json(pathlib.Path(FLAGS.out), result, indent=2)


if __name__ == '__main__':
  flags.DEFINE_integer('draws', 500_000, 'Draws of the privacy loss in small cases.')
  flags.DEFINE_string('out', None, 'JSON file of the results.')
  _cli.run(main)
