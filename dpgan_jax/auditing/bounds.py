"""From the mistakes of a test to a lower bound on ε: the statistics of privacy audits.

Whoever can tell two neighbouring data sets apart from a mechanism's output refutes small ε. A test
that calls "in" what is "out" with probability FPR, and misses what is in with probability FNR,
shows for every δ (Kairouz et al. 2015, arXiv 1311.0776, theorem 2.1)

    ε  ≥  log((1 − δ − FPR) / FNR)    and    ε  ≥  log((1 − δ − FNR) / FPR).

The rates are never known, only counted: all bounds here use Clopper and Pearson's exact limits, so
that they hold with the stated confidence for any number of runs. Nothing here knows of gradients,
images or JAX.

>>> result = Errors(false_positives=10, num_out=1000, false_negatives=20, num_in=1000)
>>> round(result.epsilon(delta=1e-5, confidence=0.95), 2)
3.97
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import dp_accounting
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from dp_accounting import pld

from dpgan_jax import _validate
from dpgan_jax.privacy import accounting

_CURVE_POINTS = 400
_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of the canaries that are called in, and as many out. All are tried, and each is held to a fifth
of the failure probability."""


def upper_limit(count: np.ndarray | int, trials: int, failure: float) -> np.ndarray:
  """The one-sided upper Clopper-Pearson limit of a probability seen `count` times in `trials`.

  It is below the true probability in at most a share `failure` of all experiments.

  Source: Clopper and Pearson 1934, Biometrika 26(4).
  """
  count = np.asarray(count)
  limit = scipy.special.betaincinv(count + 1, np.maximum(trials - count, 1), 1 - failure)
  return np.where(count < trials, limit, 1.0)


def lower_limit(count: np.ndarray | int, trials: int, failure: float) -> np.ndarray:
  """The one-sided lower limit; the mirror image of `upper_limit`."""
  return 1 - upper_limit(trials - np.asarray(count), trials, failure)


def epsilon_of_rates(fpr: np.ndarray | float, fnr: np.ndarray | float, delta: float) -> np.ndarray:
  """The ε that a test of these error rates refutes everything below; 0 if it refutes nothing."""
  fpr, fnr = np.asarray(fpr, float), np.asarray(fnr, float)
  with np.errstate(divide='ignore', invalid='ignore'):
    logs = [np.log(np.maximum(1 - delta - a, 0) / b) for a, b in ((fpr, fnr), (fnr, fpr))]
  return np.maximum(np.fmax(*logs), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
  """What a fixed test got wrong on fresh runs.

  Attributes:
    false_positives: runs without the canary that were called "in".
    num_out: runs without the canary.
    false_negatives: runs with the canary that were called "out".
    num_in: runs with the canary.
  """

  false_positives: int
  num_out: int
  false_negatives: int
  num_in: int

  def __post_init__(self) -> None:
    for name, of in (('false_positives', 'num_out'), ('false_negatives', 'num_in')):
      trials = _validate.integer(of, getattr(self, of), minimum=1)
      _validate.integer(name, getattr(self, name), minimum=0, maximum=trials)

  def rates(self, confidence: float) -> tuple[float, float]:
    """Upper limits of (FPR, FNR), both true at once with probability ≥ `confidence`."""
    failure = (1 - _validate.fraction('confidence', confidence)) / 2
    return (
      float(upper_limit(self.false_positives, self.num_out, failure)),
      float(upper_limit(self.false_negatives, self.num_in, failure)),
    )

  def epsilon(self, *, delta: float, confidence: float) -> float:
    """A lower bound on ε at δ that assumes nothing about the mechanism.

    Guarantee: if the mechanism is (ε, δ)-DP, the value exceeds ε with probability at most
    1 − `confidence`, provided the test was fixed before these runs were looked at.
    """
    _validate.fraction('delta', delta, open_left=False)
    return float(epsilon_of_rates(*self.rates(confidence), delta))


# --- a claim about all δ at once -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PrivacyCurve:
  """A claim: the mechanism is (ε, δ)-DP for each of these pairs.

  Attributes:
    epsilons: float[n].
    deltas: float[n], upper bounds on δ(ε).
  """

  epsilons: np.ndarray
  deltas: np.ndarray

  @classmethod
  def of(
    cls, event: dp_accounting.DpEvent, neighboring_relation: str, *, grid: float = 1e-3
  ) -> PrivacyCurve:
    """What the accountant claims for an event, on a grid of ε from 0 to where δ is 1e-7.

    Args:
      event: what was done.
      neighboring_relation: a key of `accounting.RELATIONS`.
      grid: spacing of the privacy loss. A coarse one is quick, and still an upper bound.
    """
    accountant = pld.PLDAccountant(
      accounting.RELATIONS[neighboring_relation], value_discretization_interval=grid
    )
    accountant.compose(event)
    last = accountant.get_epsilon(1e-7)
    epsilons = np.linspace(0, last if math.isfinite(last) else 50.0, _CURVE_POINTS)
    deltas: Any = accountant.get_delta(epsilons)  # pyright: ignore (takes arrays, is typed float)
    return cls(epsilons, np.asarray(deltas))

  def margin(self, fpr: np.ndarray | float, fnr: np.ndarray | float) -> np.ndarray:
    """How far the error rates of a test lie below what the claim allows; > 0 refutes it.

    (ε, δ)-DP means FNR + e^ε·FPR ≥ 1 − δ and FPR + e^ε·FNR ≥ 1 − δ for every test (Wasserman and
    Zhou 2010, theorem 2.4). The margin is the largest violation over the whole curve.
    """
    fpr, fnr = np.asarray(fpr, float)[..., np.newaxis], np.asarray(fnr, float)[..., np.newaxis]
    floor, factor = 1 - self.deltas, np.exp(self.epsilons)
    return np.max(floor - np.minimum(fnr + factor * fpr, fpr + factor * fnr), axis=-1)


# --- choosing a test -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Threshold:
  """The test that says "in" for scores ≥ `value`."""

  value: float

  def errors(self, scores_in: np.ndarray, scores_out: np.ndarray) -> Errors:
    return Errors(
      false_positives=int(np.sum(scores_out >= self.value)),
      num_out=len(scores_out),
      false_negatives=int(np.sum(scores_in < self.value)),
      num_in=len(scores_in),
    )


def candidate_thresholds(
  scores_in: np.ndarray, scores_out: np.ndarray, most: int = 1000
) -> np.ndarray:
  """At most `most` of the scores, both tails as finely as the middle (the tails decide ε)."""
  pooled = np.unique(np.concatenate([scores_in, scores_out]))
  if len(pooled) <= most:
    return pooled
  tail = np.unique(np.geomspace(1, len(pooled) / 2, most // 2).astype(int)) - 1
  return pooled[np.unique(np.concatenate([tail, len(pooled) - 1 - tail]))]


def rates_at(
  thresholds: np.ndarray, scores_in: np.ndarray, scores_out: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
  """Upper limits of FPR and FNR at each threshold, as `Errors.rates` gives them at one."""
  failure = (1 - confidence) / 2
  below_in = np.searchsorted(np.sort(scores_in), thresholds, side='left')
  below_out = np.searchsorted(np.sort(scores_out), thresholds, side='left')
  fpr = upper_limit(len(scores_out) - below_out, len(scores_out), failure)
  return fpr, upper_limit(below_in, len(scores_in), failure)


# --- many canaries in one run --------------------------------------------------------------------


def one_run_p_value(
  *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
  """The probability, at most, of so many correct guesses if the run is (ε, δ)-DP.

  Each of `canaries` records is in or out by a fair coin of its own; an adversary sees the output
  and says of `guesses` of them whether they are in.

  Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), theorem 5.2 with guesses in
  {−1, 0, 1}: P[correct ≥ v] ≤ β + 2mδ·max_i (P[W ≥ v − i] − β)/i, where W ~ Bin(r, e^ε/(1 + e^ε))
  and β = P[W ≥ v].
  """
  chance = scipy.special.expit(epsilon)
  at_least = lambda v: scipy.stats.binom.sf(v - 1, guesses, chance)  # noqa: E731
  beta = float(at_least(correct))
  if delta == 0 or correct == 0:
    return beta
  i = np.arange(1, correct + 1)  # beyond i = v the probability is 1 and only the divisor grows
  alpha = float(np.max((at_least(correct - i) - beta) / i))
  return min(beta + 2 * canaries * delta * max(alpha, 0.0), 1.0)


def one_run_epsilon(
  *, canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
  """The largest ε refuted by the guesses of one run at `confidence`; 0 if there is none.

  Args:
    canaries: m, all records whose membership was decided by a coin, guessed or not.
    guesses: r ≤ m, fixed before the coins were looked at.
    correct: v ≤ r.
    delta: δ.
    confidence: in (0, 1).

  Guarantee: if the run is (ε, δ)-DP for adding or removing a canary, the value exceeds ε with
  probability at most 1 − `confidence`, over coins and run.
  """
  _validate.integer('canaries', canaries, minimum=1)
  _validate.integer('guesses', guesses, minimum=1, maximum=canaries)
  _validate.integer('correct', correct, minimum=0, maximum=guesses)
  _validate.fraction('delta', delta, open_left=False)
  failure = 1 - _validate.fraction('confidence', confidence)

  def excess(epsilon: float) -> float:
    p = one_run_p_value(
      canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
    )
    return p - failure

  if excess(0.0) >= 0:
    return 0.0
  high = 1.0
  while excess(high) < 0:
    high *= 2
  # The end that is still refuted, not the middle of the bracket.
  root = float(scipy.optimize.brentq(excess, 0.0, high, xtol=1e-9))  # pyright: ignore
  return max(root - 2e-9, 0.0)


# --- how well scores rank ------------------------------------------------------------------------


def auc(
  scores_in: np.ndarray, scores_out: np.ndarray, confidence: float
) -> tuple[float, tuple[float, float]]:
  """The probability that a member outscores a non-member (ties count half), and its interval.

  The interval is DeLong's normal approximation: good for tens of scores and more, and not exact.
  One group without scores, or with one, gives the interval (0, 1).

  Source: DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44(3).
  """
  _validate.fraction('confidence', confidence)
  n, m = len(scores_in), len(scores_out)
  if not n or not m:
    return 0.5, (0.0, 1.0)
  joint = scipy.stats.rankdata(np.concatenate([scores_in, scores_out]))
  share_in = (joint[:n] - scipy.stats.rankdata(scores_in)) / m  # of the others below each member
  share_out = 1 - (joint[n:] - scipy.stats.rankdata(scores_out)) / n
  area = float(np.mean(share_in))
  if n < 2 or m < 2:
    return area, (0.0, 1.0)
  deviation = math.sqrt(np.var(share_in, ddof=1) / n + np.var(share_out, ddof=1) / m)
  reach = float(scipy.stats.norm.ppf((1 + confidence) / 2)) * deviation
  return area, (max(area - reach, 0.0), min(area + reach, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guesses:
  """How well one adversary did.

  Attributes:
    lower_bound: ε of the run is at least this, with the audit's confidence.
    guesses: canaries it said something about, where the bound was highest.
    correct: of those.
    auc: probability that a canary that is in scores above one that is out.
    auc_interval: its confidence interval.
  """

  lower_bound: float
  guesses: int
  correct: int
  auc: float
  auc_interval: tuple[float, float]


def guess(
  scores: np.ndarray,
  present: np.ndarray,
  *,
  delta: float,
  confidence: float,
  shares: Sequence[float] = _SHARES,
) -> Guesses:
  """Calls the highest scores in and the lowest out, and bounds ε by how often that is right.

  Args:
    scores: float[m].
    present: bool[m], independent fair coins.
    delta: δ.
    confidence: of the bound. Every share in `shares` is held to 1 − (1 − confidence)/len(shares),
      so that the best of them may be reported.
    shares: of the canaries that are called in, and as many out.
  """
  order = np.argsort(scores, kind='stable')
  each = 1 - (1 - confidence) / len(shares)
  best = (-1.0, 1, 0)
  for share in shares:
    k = max(1, int(share * len(scores)))
    guessed_in, guessed_out = order[-k:], order[:k]
    correct = int(present[guessed_in].sum() + (~present[guessed_out]).sum())
    bound = one_run_epsilon(
      canaries=len(scores), guesses=2 * k, correct=correct, delta=delta, confidence=each
    )
    if bound > best[0]:
      best = (bound, 2 * k, correct)
  area, interval = auc(scores[present], scores[~present], confidence)
  return Guesses(
    lower_bound=best[0], guesses=best[1], correct=best[2], auc=area, auc_interval=interval
  )
