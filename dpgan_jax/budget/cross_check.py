"""A second opinion on ε: bounds from below and above that share no arithmetic with the accountant.

`accounting` takes ε from dp-accounting's privacy loss distributions. A report must not rest on one
program, so every ε in it is recomputed here, with NumPy and SciPy only and by two methods that
fail in different ways, and a report whose ε does not lie between the two is refused:

* from above by Rényi divergences (Mironov 2017, arXiv 1702.07476; conversion to (ε, δ): Canonne,
  Kamath & Steinke 2020, arXiv 2004.00010, proposition 12), integrated numerically. A cut at the
  batch cap has such large divergences that one Rényi bound over everything would say nothing;
  instead δ is summed over how many of the steps were cut (`_upper_delta`);
* from below by the distribution of the summed privacy loss on a grid, each loss shared between its
  two grid points so that its mean is kept, convolved by FFT (Gopi, Lee & Wutschitz 2021,
  arXiv 2106.02848, with the error bound of their section 5).

    below ≤ exact ε of the event ≤ accounted ε ≤ above

The accounted ε is an upper bound of the exact one since dp-accounting rounds against the user, and
stays under the Rényi bound, which is the looser one, but for that rounding (`rounding`), which is
large beside a small ε of very many steps. What is checked is arithmetic: that the event describes
the mechanism is argued at `DPMechanism` and tested by the audit. Where batches are often cut, the
event costs more than the mechanism can: a lower bound on its ε is none on that of the mechanism.

>>> import dp_accounting
>>> event = dp_accounting.SelfComposedDpEvent(dp_accounting.PoissonSampledDpEvent(
...     0.01, dp_accounting.GaussianDpEvent(1.0)), 1000)
>>> found = require_agreement(event, {1e-5: accounting.epsilon(event, delta=1e-5)})
>>> [round(x, 2) for x in found[1e-5]]
[1.82, 2.11]
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import dp_accounting
import numpy as np
import scipy.signal
import scipy.special
import scipy.stats

from dpgan_jax import _validate
from dpgan_jax.privacy import accounting

ROUNDING = 0.02
"""Share of the bound from above by which the accountant may exceed it; see `rounding`."""

METHODS = {
  'lower': 'summed privacy loss on a grid that keeps its mean, by FFT (Gopi et al. 2021)',
  'upper': 'Rényi divergences, δ summed over the number of cut batches (Mironov 2017; Canonne et '
  'al. 2020)',
}
_ORDERS = 1 + np.geomspace(0.04, 400, 100)
_NODES_PER_SIGMA = 12  # of the integrals over x: analytic integrands, the error is below 1e-12
_LOSS_NODES_PER_SIGMA = 400  # of the distribution of x, whose losses are then put on a grid
_TAIL = 9.5  # standard deviations; the mass beyond is 1e-21
_LEAST_GRID, _LARGEST_GRID = 2**14, 2**22
_LEAST_NOISE = 0.03  # less has an accounted ε of infinity, and orders that take nodes without end


class Interval(NamedTuple):
  """ε of an event is at least `lower` and at most `upper`."""

  lower: float
  upper: float


@dataclasses.dataclass(frozen=True)
class _Pair:
  """Two one-dimensional output distributions that are as far apart as a step's can be.

  With probability q the record is in the batch and shifts the sum by up to `shift`; under
  'replace_one' the other record shifts it as far in the opposite direction.

  Attributes:
    sigma: standard deviation of the noise, in units of the clip norm.
    q: probability that the record is in the batch.
    shift: 1, or 2 where one record may push out another.
    both: whether the other data set has a record in its place.
  """

  sigma: float
  q: float
  shift: float
  both: bool

  def log_ratios(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log P/φ and log Q/φ at x, φ the density without the record."""
    one = self._log_mixture(x)
    return one, self._log_mixture(-x) if self.both else np.zeros_like(x)

  def _log_mixture(self, x: np.ndarray) -> np.ndarray:
    exponent = (2 * x * self.shift - self.shift**2) / (2 * self.sigma**2)
    if self.q >= 1:
      return exponent
    return np.logaddexp(math.log1p(-self.q), math.log(self.q) + exponent)

  @functools.cached_property
  def renyi(self) -> tuple[np.ndarray, np.ndarray]:
    """Rényi divergences of `_ORDERS`, of P from Q and of Q from P."""
    found = np.array([self._renyi(order) for order in _ORDERS]).T
    return np.maximum(found[0], 0), np.maximum(found[1], 0)

  def _renyi(self, order: float) -> tuple[float, float]:
    reach = (order + 1) * self.shift + _TAIL * self.sigma * 2
    count = 2 * math.ceil(reach / self.sigma * _NODES_PER_SIGMA) + 1
    x, spacing = np.linspace(-reach, reach, count, retstep=True)
    log_noise = scipy.stats.norm.logpdf(x, scale=self.sigma) + math.log(spacing)
    p, q = self.log_ratios(x)
    moments = (log_noise + order * a + (1 - order) * b for a, b in ((p, q), (q, p)))
    forward, backward = (float(scipy.special.logsumexp(m)) / (order - 1) for m in moments)
    return forward, backward

  def losses(self) -> tuple[np.ndarray, np.ndarray]:
    """log P/Q at x, and the probability of x under P."""
    low, high = -_TAIL * self.sigma, self.shift + _TAIL * self.sigma
    count = math.ceil((high - low) / self.sigma * _LOSS_NODES_PER_SIGMA) + 1
    x, spacing = np.linspace(low, high, count, retstep=True)
    p, q = self.log_ratios(x)
    mass = np.exp(p + scipy.stats.norm.logpdf(x, scale=self.sigma)) * spacing
    return p - q, mass / mass.sum()


@dataclasses.dataclass(frozen=True)
class _Step:
  """`count` steps of one kind; with probability `cut`, independently of the record, the batch is
  full without it, and `when_cut` takes the place of `usual`."""

  count: int
  usual: _Pair
  cut: float = 0.0
  when_cut: _Pair | None = None

  def alone(self) -> _Step:
    """The same where all other records contribute zeros, and a cut can only lose the record."""
    if self.when_cut is None:
      return self
    joins = (1 - self.cut) * self.usual.q + self.cut * self.when_cut.q
    return _Step(self.count, dataclasses.replace(self.usual, q=joins))

  def grid(self, spacing: float, size: int) -> np.ndarray:
    """The probabilities of one step's loss on a circular grid, float64[size]."""
    found = _on_grid(*self.usual.losses(), spacing, size)
    if self.when_cut is not None:
      rare = _on_grid(*self.when_cut.losses(), spacing, size)
      found = (1 - self.cut) * found + self.cut * rare
    return found


def _on_grid(losses: np.ndarray, mass: np.ndarray, spacing: float, size: int) -> np.ndarray:
  edge = (size // 2 - 2) * spacing
  position = np.clip(losses, -edge, edge) / spacing
  below = np.floor(position)
  share = position - below  # the mean of every single loss is kept: rounding adds up like a walk
  below = below.astype(np.int64)
  total = np.bincount(below % size, (1 - share) * mass, size)
  return total + np.bincount((below + 1) % size, share * mass, size)


# --- what was done, as steps ----------------------------------------------------------------------


def _steps(event: dp_accounting.DpEvent, relation: str, count: int = 1) -> list[_Step] | None:
  """The event as independent steps; None if something in it has no guarantee."""
  both = relation == 'replace_one'
  match event:
    case dp_accounting.NoOpDpEvent():
      return []
    case dp_accounting.NonPrivateDpEvent():
      return None
    case dp_accounting.SelfComposedDpEvent():
      return _steps(event.event, relation, count * event.count) if event.count else []
    case dp_accounting.ComposedDpEvent():
      parts = [_steps(part, relation, count) for part in event.events]
      return None if None in parts else [step for part in parts for step in part or ()]
    case dp_accounting.GaussianDpEvent():
      return [_Step(count, _Pair(event.noise_multiplier, 1.0, 1.0, both))]
    case dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma)):
      return [_Step(count, _Pair(sigma, q, 1.0, both))]
    case dp_accounting.TruncatedSubsampledGaussianDpEvent():
      return [_truncated(event, count, both)]
  raise TypeError(f'no second opinion on {event!r}')


def _truncated(
  event: dp_accounting.TruncatedSubsampledGaussianDpEvent, count: int, both: bool
) -> _Step:
  others, q, cap = event.dataset_size - 1, event.sampling_probability, event.truncated_batch_size
  usual = _Pair(event.noise_multiplier, q, 1.0, both)
  cut = float(scipy.stats.binom.sf(cap - 1, others, q))
  if cut == 0:
    return _Step(count, usual)
  # Kept is one of cap out of m + 1, given that m >= cap others joined. The event's accounting lets
  # the record and the one that it displaces differ in both data sets, as if it were replaced.
  m = np.arange(cap, others + 1)
  weights = scipy.stats.binom.pmf(m, others, q)
  kept = q * float(np.sum(weights * (cap / (m + 1)))) / float(weights.sum() or 1.0)
  return _Step(count, usual, cut, _Pair(event.noise_multiplier, min(kept, q), 2.0, True))


# --- from above -----------------------------------------------------------------------------------


def _cut_counts(steps: Iterable[_Step], negligible: float) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of cut steps and probabilities of having at most so many, and more than the one before.

  Steps are cut independently. Beyond the last number lies a probability below `negligible`.
  """
  probabilities = np.ones(1)
  for step in steps:
    if step.when_cut is None:
      continue
    most = int(scipy.stats.binom.isf(negligible, step.count, step.cut)) + 1
    one = scipy.stats.binom.pmf(np.arange(min(most, step.count) + 1), step.count, step.cut)
    probabilities = scipy.signal.convolve(probabilities, one)
  last = len(probabilities) - 1
  # The count of a whole group is taken for the largest in it.
  ends = np.unique(np.concatenate([np.arange(min(last, 64) + 1), np.geomspace(64, last + 64, 200)]))
  ends = np.unique(np.minimum(np.ceil(ends).astype(int), last))
  return ends, np.diff(np.cumsum(probabilities)[ends], prepend=0.0)


def _upper_delta(steps: list[_Step], epsilons: np.ndarray, negligible: float) -> np.ndarray:
  """An upper bound on δ at each of `epsilons`.

  Let it be known which steps were cut, which does not depend on the record. Then δ is the mean of
  δ given that K steps were cut, and that is at most 1, and at most what the Rényi divergences of
  all usual steps and K cut ones imply.
  """
  cuts, probabilities = _cut_counts(steps, negligible)
  found = np.zeros_like(epsilons)
  for direction in (0, 1):
    usual = sum((s.count * s.usual.renyi[direction] for s in steps), np.zeros_like(_ORDERS))
    rare = [s.when_cut.renyi[direction] for s in steps if s.when_cut is not None]
    worst = np.max(rare, axis=0) if rare else np.zeros_like(_ORDERS)
    divergence = usual + cuts[:, np.newaxis] * worst
    shrink = np.log1p(-1 / _ORDERS)
    for i, epsilon in enumerate(epsilons):
      logs = (_ORDERS - 1) * (divergence - epsilon + shrink) - np.log(_ORDERS)
      delta = float(probabilities @ np.exp(np.minimum(logs.min(axis=1), 0.0)))
      found[i] = max(found[i], delta + negligible * len(steps))
  return found


def _upper(steps: list[_Step], delta: float, negligible: float) -> float:
  """The smallest ε at which `_upper_delta` is at most δ, by bisection; rounded up."""

  def enough(epsilon: float) -> bool:
    return bool(_upper_delta(steps, np.array([epsilon]), negligible)[0] <= delta)

  if enough(0.0):
    return 0.0
  low, high = 0.0, 1.0
  while not enough(high):
    low, high = high, high * 2
    if high > 1e7:
      return math.inf
  while high - low > 1e-5 * high:
    middle = (low + high) / 2
    low, high = (low, middle) if enough(middle) else (middle, high)
  return high


# --- from below -----------------------------------------------------------------------------------


def _lower(steps: list[_Step], deltas: Iterable[float], upper: float, reach: float) -> list[float]:
  """Lower bounds on ε at each of `deltas`, of the data set with the record from that without.

  Args:
    steps: what was done.
    deltas: δ.
    upper: an upper bound on ε at the smallest δ; sets how fine the grid has to be.
    reach: an ε whose δ is negligible beside the smallest; the grid ends there.
  """
  deltas = list(deltas)
  negligible = min(deltas) * 1e-2
  # Rounding errors of a step are independent, of mean zero, within one spacing: by Hoeffding's
  # inequality they sum up to more than `walk` spacings with probability `negligible`.
  walk = math.sqrt(sum(s.count for s in steps) / 2 * math.log(1 / negligible))
  reach = max(reach + 1, 1 - math.log(negligible))  # the loss is below -r with P < exp(-r)
  wanted = 2 * reach * walk / max(2e-3 * upper, 1e-3)
  size = 2 ** math.ceil(math.log2(min(max(wanted, _LEAST_GRID), _LARGEST_GRID)))
  spacing = 2 * reach / size
  spectrum = np.ones(size // 2 + 1, complex)
  for step in steps:
    spectrum *= np.fft.rfft(step.grid(spacing, size)) ** step.count
  positive = np.fft.irfft(spectrum, size)[: size // 2]  # losses 0, spacing, 2 spacing, ...
  above = np.cumsum(positive[::-1])[::-1] - positive  # P(loss > k spacing)
  # δ(ε) = E[(1 - e^(ε - loss))+] obeys δ(ε) = e^-h δ(ε + h) + (1 - e^-h) P(loss > ε) on the grid.
  decay = math.exp(-spacing)
  filtered = scipy.signal.lfilter([-math.expm1(-spacing)], [1.0, -decay], above[::-1])
  curve = np.asarray(filtered)[::-1]
  found = []
  for delta in deltas:
    reached = np.flatnonzero(curve >= delta + 2 * negligible)  # the rounding's share, and the tail
    found.append(max(0.0, float(reached[-1] - walk) * spacing) if len(reached) else 0.0)
  return found


# --- the check ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _intervals(
  event: dp_accounting.DpEvent, deltas: tuple[float, ...], relation: str, attained: bool = False
) -> tuple[Interval, ...]:
  steps = _steps(event, relation)
  steps = [step.alone() for step in steps] if attained and steps else steps
  if steps is None:
    return tuple(Interval(math.inf, math.inf) for _ in deltas)
  if not steps:
    return tuple(Interval(0.0, 0.0) for _ in deltas)
  if min(step.usual.sigma for step in steps) < _LEAST_NOISE:
    return tuple(Interval(0.0, math.inf) for _ in deltas)
  negligible = min(deltas) * 1e-3
  upper = [_upper(steps, delta, negligible) for delta in deltas]
  reach = _upper(steps, 10 * negligible, negligible)
  if math.isinf(max(upper)) or math.isinf(reach):
    return tuple(Interval(0.0, math.inf) for _ in deltas)
  lower = _lower(steps, deltas, upper[int(np.argmin(deltas))], reach)
  return tuple(Interval(*pair) for pair in zip(lower, upper, strict=True))


def bounds(
  event: dp_accounting.DpEvent, deltas: Iterable[float], *,
  neighboring_relation: str = 'add_or_remove_one', attained: bool = False,
) -> list[Interval]:  # fmt: skip
  """Bounds on ε of an event at each δ, computed without dp-accounting.

  Args:
    event: Gaussian steps, Poisson-sampled, truncated or not, composed in any way.
    deltas: δ in (0, 1).
    neighboring_relation: a key of `accounting.RELATIONS`.
    attained: of two data sets that exist, in which all records but one contribute zeros. The lower
      end is then one on ε of the mechanism itself, however often its batches are cut.

  Returns:
    For each δ an interval that contains ε of the event, or that of the two data sets. The exact
    value is within 1 % of its lower end, unless ε is below 0.1; the upper end is 5 to 30 % above it
    in ordinary runs, and up to four times it over a few steps, or where cuts decide. [∞, ∞] if the
    event has no guarantee.

  Raises:
    TypeError: the event holds something else than the above.
  """
  deltas = tuple(_validate.fraction('delta', delta) for delta in deltas)
  _validate.one_of('neighboring_relation', neighboring_relation, accounting.RELATIONS)
  return list(_intervals(accounting.hashable(event), deltas, neighboring_relation, attained))


def rounding(event: dp_accounting.DpEvent, upper: float, *, grid: float) -> float:
  """By how much the accountant may exceed the bound from above, as it rounds against the user.

  On a grid of privacy losses it adds a variance of grid²/4 at most to every step, and so a standard
  deviation of grid·√T/2 to their sum; six of these are allowed, and a fiftieth of the bound.

  Args:
    event: what was done, with a guarantee.
    upper: the bound.
    grid: spacing of the accountant's privacy losses.
  """
  steps = _steps(accounting.hashable(event), 'add_or_remove_one') or []
  return ROUNDING * upper + 3 * grid * math.sqrt(sum(step.count for step in steps))


def require_agreement(
  event: dp_accounting.DpEvent, epsilons: Mapping[float, float], *,
  neighboring_relation: str = 'add_or_remove_one',
) -> dict[float, Interval]:  # fmt: skip
  """Refuses accounted ε that do not lie between the bounds of the second opinion.

  Args:
    event: what was done.
    epsilons: δ ↦ accounted ε.
    neighboring_relation: a key of `accounting.RELATIONS`.

  Returns:
    δ ↦ the interval that contains its ε.

  Raises:
    InputError: naming the first δ at which they disagree, with all three numbers.
  """
  found = bounds(event, epsilons, neighboring_relation=neighboring_relation)
  for (delta, epsilon), (lower, upper) in zip(epsilons.items(), found, strict=True):
    # An infinite ε promises nothing, and cannot promise too much.
    most = math.inf
    if math.isfinite(epsilon) and math.isfinite(upper):
      most = upper + rounding(event, upper, grid=accounting.grid(epsilon))
    if not lower <= epsilon <= most:
      raise _validate.InputError(
        f'accounted epsilon={epsilon!r} at delta={delta!r} is contradicted by a second '
        f'computation, which puts it between {lower:.6g} and {upper:.6g}: nothing is reported; '
        'keep the run directory and file an issue'
      )
  return dict(zip(epsilons, found, strict=True))
