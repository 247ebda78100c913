"""Statistics of noise and batches: checks that pass on a correct mechanism and name what is wrong.

Every check is a test at the given false alarm (the probability that a correct mechanism fails
under randomness drawn anew) and states its power against the fault that it is there for; `power.py`
measures both. What does not pass raises `Violation`. The tests of the package and the table of
planted faults use the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

ALARM = 1e-6


class Violation(AssertionError):
  """A check did not pass; the message says what was measured and what was expected."""


class Stop(Exception):
  """Ends a run in the middle, where a check has seen what it wants to see."""


def _require(p_value: float, alarm: float, what: str) -> None:
  if not p_value > alarm:  # NaN fails too
    raise Violation(f'{what}: p = {p_value:.1e}, less than {alarm:.0e}')


# --- noise ----------------------------------------------------------------------------------------


def noise_is_normal(sample: np.ndarray, standard_deviation: float, *, alarm: float = ALARM) -> None:
  """Kolmogorov-Smirnov: `sample` [n] is N(0, standard_deviation²).

  A scale at 2/3 or 3/2 of what is charged moves the distribution function by 0.09. At n = 4,000 and
  a false alarm of 1e-6, 0.043 is enough to be refused: power > 99.9 %. Noise of zero always fails.
  """
  z = np.ravel(sample) / standard_deviation
  p_value = float(scipy.stats.kstest(z, 'norm', method='asymp').pvalue)
  scale = float(np.std(z))
  _require(p_value, alarm, f'noise has {scale:.3g} times the standard deviation that is charged')


def noise_is_unshared(samples: Sequence[np.ndarray], *, alarm: float = ALARM) -> None:
  """Correlations between all pairs of `samples` (leaves, steps, runs), each [n]; Bonferroni.

  The same noise in two places correlates by 1, shared noise of a tenth of the variance by 0.1. At
  n = 10,000, 36 pairs and a false alarm of 1e-6, 0.056 is enough to be refused: power > 99.9 %.
  """
  flat = np.stack([np.ravel(sample) for sample in samples])
  pairs = np.triu_indices(len(flat), 1)
  with np.errstate(invalid='ignore'):  # no noise at all: NaN, which is refused
    correlations = np.abs(np.corrcoef(flat)[pairs])
  bound = scipy.stats.norm.isf(alarm / len(correlations) / 2) / math.sqrt(flat.shape[1])
  if not (correlations < bound).all():
    i = int(np.argmax(np.nan_to_num(correlations, nan=np.inf)))
    raise Violation(
      f'noise {pairs[0][i]} and noise {pairs[1][i]} correlate by {correlations[i]:.3f}, more than '
      f'{bound:.3f}'
    )


def noise_is_white(sample: np.ndarray, lags: Sequence[int], *, alarm: float = ALARM) -> None:
  """Correlation of `sample` [n] with itself, moved by each of `lags`: entries of one leaf differ.

  Power as of `noise_is_unshared`.
  """
  flat = np.ravel(sample)
  bound = scipy.stats.norm.isf(alarm / len(lags) / 2) / math.sqrt(flat.size - max(lags))
  for lag in lags:
    with np.errstate(invalid='ignore'):
      correlation = float(np.corrcoef(flat[lag:], flat[:-lag])[0, 1])
    if not abs(correlation) < bound:
      raise Violation(f'entries {lag} apart correlate by {correlation:.3f}, more than {bound:.3f}')


def key_bits_are_random(keys: np.ndarray, *, alarm: float = ALARM) -> None:
  """Binomial test of every bit of `keys`, uint32[n, words]; Bonferroni.

  A bit that is always the same, as the upper half of a key from a 31-bit seed, is found for sure
  once 2^(1 - n) is below the false alarm by bit (n = 64 is plenty).
  """
  bits = (keys[:, :, np.newaxis] >> np.arange(32, dtype=np.uint32)) & 1
  ones = bits.reshape(len(keys), -1).sum(axis=0)
  p_values = [scipy.stats.binomtest(int(k), len(keys), 0.5).pvalue for k in ones]
  worst = int(np.argmin(p_values))
  what = f'bit {worst} of {len(p_values)} in a key is 1 in {ones[worst]} of {len(keys)} keys'
  _require(p_values[worst], alarm / len(p_values), what)


# --- batches: `joined` is bool[steps, N], whom the batches of those steps hold -------------------


def inclusion_rate_is(joined: np.ndarray, q: float, *, alarm: float = ALARM) -> None:
  """Binomial test of all draws together.

  500,000 draws, q = 0.2, false alarm 1e-4: a rate off by 2 % is found with power 99.9 %.
  """
  p_value = scipy.stats.binomtest(int(joined.sum()), joined.size, q).pvalue
  _require(p_value, alarm, f'examples join at the rate {joined.mean():.4f} instead of {q:.4f}')


def everybody_joins_alike(joined: np.ndarray, q: float, *, alarm: float = ALARM) -> None:
  """Binomial test of every example, Bonferroni.

  10,000 steps, q = 0.2, N = 50, false alarm 1e-4: one example at 1.2·q is found with power 99.9 %.
  """
  counts = joined.sum(axis=0)
  p_values = [scipy.stats.binomtest(int(k), len(joined), q).pvalue for k in counts]
  worst = int(np.argmin(p_values))
  rate = counts[worst] / len(joined)
  what = f'example {worst} joins at the rate {rate:.4f} instead of {q:.4f}'
  _require(p_values[worst], alarm / len(p_values), what)


def pairs_are_independent(joined: np.ndarray, q: float, *, alarm: float = ALARM) -> None:
  """χ² over the covariances of all pairs of examples.

  A batch of fixed size (a correlation of -1/(N-1) in every pair) multiplies the statistic by five
  at N = 50 and 10,000 steps: power > 99.99 %.
  """
  steps, num = joined.shape
  centred = (joined - q) / math.sqrt(q * (1 - q))
  z = (centred.T @ centred)[np.triu_indices(num, 1)] / math.sqrt(steps)
  statistic = float((z**2).sum())
  p_value = float(scipy.stats.chi2.sf(statistic, len(z)))
  _require(p_value, alarm, f'covariances of pairs are {statistic / len(z):.2f} times too large')


def batch_size_is_binomial(joined: np.ndarray, q: float, *, alarm: float = ALARM) -> None:
  """χ² of the variance of batch sizes, two-sided.

  10,000 steps, false alarm 1e-4: a variance off by 10 % is found with power 99 %.
  """
  steps, num = joined.shape
  statistic = float(((joined.sum(axis=1) - num * q) ** 2).sum() / (num * q * (1 - q)))
  distribution = scipy.stats.chi2(steps)
  p_value = 2 * min(distribution.cdf(statistic), distribution.sf(statistic))
  _require(p_value, alarm, f'batch sizes vary {statistic / steps:.3f} times as much as they should')


def steps_are_independent(
  joined: np.ndarray, q: float, *, lag: int = 1, alarm: float = ALARM
) -> None:
  """χ² over each example's autocovariance at `lag` steps.

  Shuffled epochs of 1/q = 5 batches correlate neighbouring steps by -0.2, at 10,000 steps twenty
  standard deviations for each example; a batch that is used twice by 1/2. Power > 99.99 %.
  """
  steps, num = joined.shape
  centred = (joined - q) / math.sqrt(q * (1 - q))
  products = (centred[lag:] * centred[:-lag]).sum(axis=0) / (steps - lag)
  statistic = float((products**2).sum() * (steps - lag))
  p_value = float(scipy.stats.chi2.sf(statistic, num))
  _require(p_value, alarm, f'batches {lag} apart correlate by {products.mean():.3f} on average')


def cut_is_uniform(kept: np.ndarray, cap: int, *, alarm: float = ALARM) -> None:
  """χ² over examples, where every batch is cut: `cap` of N are kept without replacement.

  Counts have variance Sp(1-p) and covariance -Sp(1-p)/(N-1), which the factor (N-1)/N accounts for.
  N = 50, cap 5, 10,000 steps, false alarm 1e-4: one half of the examples kept 10 % more often than
  the other is found with power 99.9 %; "the first to join are kept" always.
  """
  steps, num = kept.shape
  p = cap / num
  counts = kept.sum(axis=0)
  if counts.sum() != cap * steps:
    raise Violation(f'batches hold {counts.sum() / steps:.2f} examples on average, not {cap}')
  statistic = ((counts - steps * p) ** 2).sum() / (steps * p * (1 - p)) * (num - 1) / num
  p_value = float(scipy.stats.chi2.sf(float(statistic), num - 1))
  shares = counts / steps
  what = f'a cut keeps some examples at {shares.min():.3f} and some at {shares.max():.3f}'
  _require(p_value, alarm, f'{what} instead of {p:.3f}')


# --- labels ---------------------------------------------------------------------------------------


def labels_are_uniform(labels: np.ndarray, num_classes: int, *, alarm: float = ALARM) -> None:
  """χ² of the class counts of `labels` [n].

  3,000 labels of 3 classes, false alarm 1e-6: one class drawn half as often again as the others
  is found with power > 99.9 %.
  """
  counts = np.bincount(labels, minlength=num_classes)
  p_value = float(scipy.stats.chisquare(counts).pvalue)
  _require(p_value, alarm, f'class counts are {counts.tolist()}')
