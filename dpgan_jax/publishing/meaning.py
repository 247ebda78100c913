"""What ε and δ of a run mean for a person in its data, in plain words with the run's own numbers.

The bound on a guess is that of any (ε, δ)-private mechanism: who weighs two neighbouring data sets
at even chances is right with probability (e^ε + δ) / (e^ε + 1) at most (Kairouz, Oh and Viswanath
2015, from the region of the errors of any test).

>>> f'{guess(0.0, 0.0):.2f} {guess(1.0, 1e-5):.4f}'
'0.50 0.7311'
"""

from __future__ import annotations

import decimal
import math

from dpgan_jax.data.spec import Spec
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.publishing import words

_SEVERAL = (2, 5, 10)  # records of one person
# Ponomareva et al. (2023), "How to DP-fy ML", for learnt models.
_TIERS = ((1.0, 'strong'), (10.0, 'reasonable'), (math.inf, 'weak to none'))
NOTHING = 'Nothing is promised to anybody whose records were used.'


def of(epsilon: float, mechanism: DPMechanism, spec: Spec) -> list[str]:
  """What (ε, δ) of a run says, a sentence or two each.

  Args:
    epsilon: of the steps charged; infinite without a guarantee.
    mechanism: has δ, the neighbouring relation and N.
    spec: of the data.
  """
  if not math.isfinite(epsilon):
    return [NOTHING]
  record, records = words.of(spec).record, words.of(spec).units
  delta = mechanism.delta
  other = 'was used'
  if mechanism.neighboring_relation != 'add_or_remove_one':
    other = 'was used, or another in its place'
  several = ', '.join(
    f'{_percent(guess_of_group(k, epsilon, delta))} with {k}' for k in _SEVERAL
  )
  less = (
    f'A person with several {records} is protected less. That guess is right in at most {several} '
    'of them.'
  )
  if spec.schema is not None and spec.schema.unit_column is not None:
    record = spec.unit.removeprefix('one ')
    less = 'A person with more rows is protected no less: those beyond that number are left out.'
  tier = next(name for limit, name in _TIERS if epsilon <= limit)
  return [
    f'One {record} more or less changes the odds of whatever can be seen or computed by a factor '
    f'of at most e^ε = {_factor(epsilon)}, apart from a chance of δ.',
    f'Who knows all other {records}, and guesses at even chances whether a certain {record} '
    f'{other}, is right in at most {_percent(guess(epsilon, delta))} of such cases, by any method. '
    'A coin is right in 50 %.',
    less,
    f'Ponomareva et al. (2023, arXiv 2303.00654) call ε up to 1 strong, up to 10 reasonable, and '
    f'above weak to none: ε = {show_epsilon(epsilon)} is {tier}. Attacks that are known today '
    'mostly do worse than these bounds.',
    f'δ should be well below 1/N: here δ·N = {delta * mechanism.num_examples:.2g}. It is no limit '
    f'on what is learnt about people in general: that smokers fall ill is learnt whoever takes '
    'part.',
  ]


def guess(epsilon: float, delta: float) -> float:
  """How often a guess between two neighbouring data sets is right at most."""
  return 1.0 if epsilon > 700 else min(1.0, 1 - (1 - delta) / (math.exp(epsilon) + 1))


def guess_of_group(k: int, epsilon: float, delta: float) -> float:
  """The same of data sets that differ in k records, by the bound on groups."""
  if k * epsilon > 700:
    return 1.0
  return guess(k * epsilon, min(1.0, k * math.exp((k - 1) * epsilon) * delta))


def _factor(epsilon: float) -> str:
  return 'more than a million' if epsilon > math.log(1e6) else f'{_up(math.exp(epsilon), 3):,f}'


def _percent(share: float) -> str:
  """A tenth of a percent, rounded up."""
  return f'{math.ceil(share * 1000 - 1e-9) / 10:g} %'


def _up(value: float, digits: int) -> decimal.Decimal:
  found = decimal.Context(digits, decimal.ROUND_CEILING).create_decimal(repr(value))
  return found.quantize(decimal.Decimal(1)) if found > 100 else found
