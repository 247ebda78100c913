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

import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import dp_accounting
import numpy as np
import scipy.signal
import scipy.stats

from dpgan_jax import _validate
from dpgan_jax.budget.noisy_steps import ORDERS, Step, failures_of, steps_of
from dpgan_jax.privacy import accounting

ROUNDING = 0.02
"""Share of the bound from above by which the accountant may exceed it; see `rounding`."""

METHODS = {
  'lower': 'summed privacy loss on a grid that keeps its mean, by FFT (Gopi et al. 2021)',
  'upper': 'Rényi divergences, δ summed over the number of cut batches (Mironov 2017; Canonne et '
  'al. 2020)',
}
_LEAST_GRID, _LARGEST_GRID = 2**14, 2**22
_LEAST_NOISE = 0.03  # less has an accounted ε of infinity, and orders that take nodes without end


class Interval(NamedTuple):
  """ε of an event is at least `lower` and at most `upper`."""

  lower: float
  upper: float


# --- from above -----------------------------------------------------------------------------------


def _cut_counts(steps: Iterable[Step], negligible: float) -> tuple[np.ndarray, np.ndarray]:
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


def _upper_delta(steps: list[Step], epsilons: np.ndarray, negligible: float) -> np.ndarray:
  """An upper bound on δ at each of `epsilons`.

  Let it be known which steps were cut, which does not depend on the record. Then δ is the mean of
  δ given that K steps were cut, and that is at most 1, and at most what the Rényi divergences of
  all usual steps and K cut ones imply.
  """
  cuts, probabilities = _cut_counts(steps, negligible)
  found = np.zeros_like(epsilons)
  for direction in (0, 1):
    usual = sum((s.count * s.usual.renyi[direction] for s in steps), np.zeros_like(ORDERS))
    rare = [s.when_cut.renyi[direction] for s in steps if s.when_cut is not None]
    worst = np.max(rare, axis=0) if rare else np.zeros_like(ORDERS)
    divergence = usual + cuts[:, np.newaxis] * worst
    shrink = np.log1p(-1 / ORDERS)
    for i, epsilon in enumerate(epsilons):
      logs = (ORDERS - 1) * (divergence - epsilon + shrink) - np.log(ORDERS)
      delta = float(probabilities @ np.exp(np.minimum(logs.min(axis=1), 0.0)))
      found[i] = max(found[i], delta + negligible * len(steps))
  return found


def _upper(steps: list[Step], delta: float, negligible: float) -> float:
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


def _lower(steps: list[Step], deltas: Iterable[float], upper: float, reach: float) -> list[float]:
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
  steps = steps_of(event, relation)
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
    event: Gaussian steps, Poisson-sampled, truncated or not, and failures, composed in any way.
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
  event, relation = accounting.hashable(event), neighboring_relation
  failures = failures_of(event)
  if not failures:
    return list(_intervals(event, deltas, relation, attained))
  # Whoever is given away with probability F has δ = F + (1 - F)·δ' by the rest, F at most their
  # sum, and less by its square at most. Data sets that exist may be given away more rarely.
  least = {d: d - failures for d in deltas if d * (1 - 2**-40) > failures}
  most = {d: (left + failures**2) / (1 - failures) for d, left in least.items()}
  above = _intervals(event, tuple(least.values()), relation) if least else ()
  upper = dict(zip(least, (each.upper for each in above), strict=True))
  deltas_below = tuple(d if attained else most.get(d, d) for d in deltas)
  below = _intervals(event, deltas_below, relation, attained)
  return [
    Interval(each.lower, upper.get(d, math.inf)) for d, each in zip(deltas, below, strict=True)
  ]


def rounding(event: dp_accounting.DpEvent, upper: float, *, grid: float) -> float:
  """By how much the accountant may exceed the bound from above, as it rounds against the user.

  On a grid of privacy losses it adds a variance of grid²/4 at most to every step, and so a standard
  deviation of grid·√T/2 to their sum; six of these are allowed, and a fiftieth of the bound.

  Args:
    event: what was done, with a guarantee.
    upper: the bound.
    grid: spacing of the accountant's privacy losses.
  """
  steps = steps_of(accounting.hashable(event), 'add_or_remove_one') or []
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
