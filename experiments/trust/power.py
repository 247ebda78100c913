"""Measures how often the statistical checks are wrong: on correct randomness, and on each fault.

    ./run.sh python -m experiments.trust.power --out=experiments/results/trust/statistics.json

For every check, randomness is drawn anew many times, by NumPy and not by the package, so that what
is measured is the check alone. On correct randomness the check must not raise; the level at which
that can be seen is 1 %, so that the test statistic is checked for being distributed as it should
be. On a fault it must raise, at the level in use. Both are given with 95 % Clopper-Pearson limits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from absl import flags

from dpgan_jax import _cli, _validate
from experiments import pages
from experiments.trust import statistical_checks as checks

FLAGS = flags.FLAGS
N, Q, STEPS = 50, 0.2, 10_000
LEVEL = 0.01
Draw = Callable[[np.random.Generator], Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """A check, correct randomness for it, and faulty randomness.

  Attributes:
    check: (sample, alarm=…) → None, or raises `Violation`.
    setting: sizes, for people.
    alarm: the false alarm in use.
    correct: what it must accept.
    faults: what it must refuse, by name.
    exact: whether its p-value is continuous, so that it is below the level as often as the level
      says; otherwise at most as often.
  """

  check: functools.partial[None]
  setting: str
  alarm: float
  correct: Draw
  faults: dict[str, Draw]
  exact: bool = True


def _normal(scale: float) -> Draw:
  return lambda rng: scale * rng.standard_normal(5000)


def _shared(share: float) -> Draw:
  """Nine samples, two of which have a share of their variance in common."""

  def draw(rng: np.random.Generator) -> np.ndarray:
    samples = rng.standard_normal((9, 10_000))
    samples[1] = math.sqrt(share) * samples[0] + math.sqrt(1 - share) * samples[1]
    return samples

  return draw


def _repeated_rows(rng: np.random.Generator) -> np.ndarray:
  return np.tile(rng.standard_normal(50), 100)


def _keys(bits: int) -> Draw:
  def draw(rng: np.random.Generator) -> np.ndarray:
    words = rng.integers(0, 2**32, (64, 2), np.uint32)
    return words if bits == 64 else np.stack([0 * words[:, 0], words[:, 1] >> 1], axis=1)

  return draw


def _joined(rates: Any, steps: int = STEPS) -> Draw:
  return lambda rng: rng.random((steps, N), np.float32) < np.float32(rates)


def _one_more_often(factor: float) -> Draw:
  rates = np.full(N, Q)
  rates[7] *= factor
  return _joined(rates)


def _fixed_size(rng: np.random.Generator) -> np.ndarray:
  order = rng.random((STEPS, N), np.float32).argsort(axis=1)
  return order < round(N * Q)


def _shuffled_epochs(rng: np.random.Generator) -> np.ndarray:
  per_epoch = round(1 / Q)
  batch_of = rng.random((STEPS // per_epoch, N), np.float32).argsort(axis=1) % per_epoch
  return (batch_of[:, np.newaxis] == np.arange(per_epoch)[:, np.newaxis]).reshape(-1, N)


def _clumped(rng: np.random.Generator) -> np.ndarray:
  """The rate of a whole step is 9 % higher or lower: sizes vary a tenth more than they should."""
  factor = 1 + 0.09 * rng.choice([-1, 1], (STEPS, 1))
  return rng.random((STEPS, N), np.float32) < (Q * factor).astype(np.float32)


def _used_twice(rng: np.random.Generator) -> np.ndarray:
  return np.repeat(_joined(Q, STEPS // 2)(rng), 2, axis=0)


def _cut(weights: np.ndarray) -> Draw:
  """Five of fifty kept, an example by `weights` more often than others (Efraimidis & Spirakis)."""

  def draw(rng: np.random.Generator) -> np.ndarray:
    keys = rng.standard_exponential((STEPS, N), np.float32) / weights.astype(np.float32)
    return keys <= np.partition(keys, 4, axis=1)[:, 4:5]

  return draw


def _labels(shares: list[float]) -> Draw:
  return lambda rng: rng.choice(len(shares), 3000, p=np.array(shares) / sum(shares))


_half = np.where(np.arange(N) < N // 2, 1.1, 1.0)
CASES = (
  Case(
    functools.partial(checks.noise_is_normal, standard_deviation=1.0), 'n = 5,000', checks.ALARM,
    _normal(1.0), {'σ at 2/3': _normal(2 / 3), 'σ at 3/2': _normal(1.5)},
  ),
  Case(
    functools.partial(checks.noise_is_unshared), '9 samples of n = 10,000',
    checks.ALARM, _shared(0.0), {'the same noise twice': _shared(1.0),
                                 'a tenth of the variance shared': _shared(0.1)}, exact=False,
  ),
  Case(
    functools.partial(checks.noise_is_white, lags=(1, 50)), 'n = 5,000', checks.ALARM,
    lambda rng: rng.standard_normal(5000), {'one row in all rows': _repeated_rows}, exact=False,
  ),
  Case(
    functools.partial(checks.key_bits_are_random), '64 keys', checks.ALARM, _keys(64),
    {'seeds of 31 bits': _keys(31)}, exact=False,
  ),
  Case(
    functools.partial(checks.inclusion_rate_is, q=Q), 'N = 50, 10,000 steps', 1e-4,
    _joined(Q), {'q off by 2 %': _joined(1.02 * Q)}, exact=False,
  ),
  Case(
    functools.partial(checks.everybody_joins_alike, q=Q), 'N = 50, 10,000 steps', 1e-4,
    _joined(Q), {'one example at 1.2 q': _one_more_often(1.2)}, exact=False,
  ),
  Case(
    functools.partial(checks.pairs_are_independent, q=Q), 'N = 50, 10,000 steps', 1e-4,
    _joined(Q), {'batches of fixed size': _fixed_size},
  ),
  Case(
    functools.partial(checks.batch_size_is_binomial, q=Q), 'N = 50, 10,000 steps', 1e-4,
    _joined(Q), {'variance up by 10 %': _clumped, 'batches of fixed size': _fixed_size},
  ),
  Case(
    functools.partial(checks.steps_are_independent, q=Q), 'N = 50, 10,000 steps', 1e-4,
    _joined(Q), {'shuffled epochs': _shuffled_epochs, 'every batch used twice': _used_twice},
  ),
  Case(
    functools.partial(checks.cut_is_uniform, cap=5), 'N = 50, cap 5, 10,000 steps', 1e-4,
    _cut(np.ones(N)), {'half of the examples kept 10 % more often': _cut(_half)},
  ),
  Case(
    functools.partial(checks.labels_are_uniform, num_classes=3), '3,000 labels of 3 classes',
    checks.ALARM, _labels([1, 1, 1]), {'one class half as often again': _labels([3, 2, 2])},
  ),
)  # fmt: skip


def _refused(case: Case, sample: Any, alarm: float) -> bool:
  try:
    case.check(sample, alarm=alarm)
  except checks.Violation:
    return True
  return False


def _limits(count: int, of: int) -> list[float]:
  interval = scipy.stats.binomtest(count, of).proportion_ci(0.95, method='exact')
  return [round(interval.low, 5), round(interval.high, 5)]


def measure(case: Case, repeats: int, seed: int = 0) -> dict[str, Any]:
  """Counts refusals among `repeats` draws of correct and of faulty randomness."""
  rng = np.random.default_rng(seed)
  at_level = at_alarm = 0
  for _ in range(repeats):
    sample = case.correct(rng)
    at_level += _refused(case, sample, LEVEL)
    at_alarm += _refused(case, sample, case.alarm)
  faults = {}
  for name, draw in case.faults.items():
    caught = sum(_refused(case, draw(rng), case.alarm) for _ in range(repeats))
    faults[name] = {'refused': caught, 'of': repeats, 'power': _limits(caught, repeats)}
  return {
    'check': case.check.func.__name__,
    'setting': case.setting,
    'false_alarm': case.alarm,
    'correct': {
      'refused_at_false_alarm': at_alarm,
      f'refused_at_{LEVEL:g}': at_level,
      'of': repeats,
      'rate': _limits(at_level, repeats),
      'expected': f'{LEVEL:g}' if case.exact else f'at most {LEVEL:g}',
    },
    'faults': faults,
  }


def main() -> None:
  repeats = _validate.integer('repeats', FLAGS.repeats, minimum=10)
  rows, started = [], time.monotonic()
  for number, case in enumerate(CASES, start=1):
    rows.append(measure(case, repeats))
    left = (time.monotonic() - started) / number * (len(CASES) - number)
    print(f'{number}/{len(CASES)} {rows[-1]["check"]} ({left:.0f} s left)', file=sys.stderr)
  if FLAGS.out:
    result = {'command': f'python -m experiments.trust.power --repeats={repeats}', 'rows': rows}
    pages.write_json(pathlib.Path(FLAGS.out), result, indent=2)
  for row in rows:
    shown = ', '.join(f'{n}: {f["refused"]}/{f["of"]}' for n, f in row['faults'].items())
    print(f'{row["check"]}: correct refused {row["correct"]["refused_at_false_alarm"]}; {shown}')


if __name__ == '__main__':
  flags.DEFINE_integer('repeats', 400, 'How often randomness is drawn anew for each number.')
  flags.DEFINE_string('out', None, 'JSON file of the results.')
  _cli.run(main)
