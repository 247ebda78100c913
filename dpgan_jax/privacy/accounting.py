"""ε of a DpEvent, and the noise or the number of steps that a target ε allows.

All arithmetic is dp-accounting's, by privacy loss distributions (PLD): tight, and the only
accountant that knows truncated Poisson sampling. Releases that every record takes part in are
Gaussian mechanisms, which compose to one; its ε has a formula (Balle & Wang 2018, arXiv
1805.06530), which dp-accounting solves. What this module adds is the search around it, and one
rule: a calibrated answer never exceeds its target.

>>> event = dp_accounting.GaussianDpEvent(noise_multiplier=3.0)
>>> round(epsilon(event, delta=1e-5), 2)
1.2
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import pld

from dpgan_jax import _validate

RELATIONS = {
  'add_or_remove_one': dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
  'replace_one': dp_accounting.NeighboringRelation.REPLACE_ONE,
  'replace_special': dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
}
"""Neighbouring relations by name; one is carried through sampler, clipping, noise and accountant.
"""

_FINE_GRID = 1e-4  # dp-accounting's default spacing of the discretised privacy loss
_COARSE_GRID = 1e-3  # ten times faster, and still an upper bound
_FINE_UP_TO = 20.0  # beyond this ε the coarse grid's few per cent do not matter, and its speed does
_MOST_POINTS = 2**22  # of a grid, for one step or for all: half a minute of dp-accounting
_MOST_NOISE = 1e8  # more is counted as this much: its square is still a number
_ROOT = 1e-9  # how far above the solution of a formula an ε may be
_TAIL = 1e-15  # of a composition, cut off by dp-accounting


@dataclasses.dataclass(frozen=True)
class FailureDpEvent(dp_accounting.DpEvent):
  """With probability `delta` at most, and independently of all else, a record is given away: a
  (0, δ)-DP mechanism, such as the threshold of `releases.selection`.

  dp-accounting has no such event; `epsilon` and the second opinion know it.
  """

  delta: float

  def __post_init__(self) -> None:
    _validate.fraction('delta', self.delta)


def without_failures(event: dp_accounting.DpEvent) -> tuple[dp_accounting.DpEvent, float]:
  """What is left of an event, and the δ of its failures: what is left at δ, and they, are together
  at most at the sum of both.
  """
  match event:
    case FailureDpEvent(delta=delta):
      return dp_accounting.NoOpDpEvent(), delta
    case dp_accounting.SelfComposedDpEvent(event=inner, count=count):
      rest, delta = without_failures(inner)
      if delta:
        is_all = isinstance(rest, dp_accounting.NoOpDpEvent)
        return rest if is_all else dp_accounting.SelfComposedDpEvent(rest, count), count * delta
    case dp_accounting.ComposedDpEvent(events=events):
      parts = [without_failures(part) for part in events]
      if delta := math.fsum(delta for _, delta in parts):
        rest = [part for part, _ in parts if not isinstance(part, dp_accounting.NoOpDpEvent)]
        return hashable(dp_accounting.ComposedDpEvent(rest)), delta
  return event, 0.0


class _TooLargeGrid(Exception):
  """The privacy loss would take more points than are looked at; nothing was computed."""


def _require_points(count: float) -> None:
  if not count <= _MOST_POINTS:  # written so that NaN is refused too
    raise _TooLargeGrid


@functools.lru_cache(maxsize=64)
def _step_pld(
  event: dp_accounting.TruncatedSubsampledGaussianDpEvent, relation: str, grid: float
) -> pld.privacy_loss_distribution.PrivacyLossDistribution:
  """The distribution of one step, which `PLDAccountant` would compute anew for every count."""
  # Losses of records 2C apart, whose noise lies within 10 σ: known before anything is computed.
  sigma = max(event.noise_multiplier, 1e-100)
  _require_points(2 * (2 / sigma + 20) / sigma / grid)
  return pld.privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
    dataset_size=event.dataset_size,
    sampling_probability=event.sampling_probability,
    truncated_batch_size=event.truncated_batch_size,
    noise_multiplier=min(event.noise_multiplier, _MOST_NOISE),
    value_discretization_interval=grid,
    neighboring_relation=RELATIONS[relation],
  )


def _self_composed(
  step: pld.privacy_loss_distribution.PrivacyLossDistribution, count: int
) -> pld.privacy_loss_distribution.PrivacyLossDistribution:
  """`step.self_compose(count)`, having asked how many points that takes."""
  for pmf in (step._pmf_remove, step._pmf_add):
    if (pmf.size - 1) * count > _MOST_POINTS:  # without what dp-accounting cuts off
      probabilities = pmf.to_dense_pmf()._probs  # pyright: ignore[reportAttributeAccessIssue]
      low, high = pld.common.compute_self_convolve_bounds(list(probabilities), count, _TAIL)
      _require_points(high - low)
  return step.self_compose(count)


@functools.lru_cache(maxsize=64)
def _composed_pld(
  event: dp_accounting.DpEvent, relation: str, grid: float
) -> pld.privacy_loss_distribution.PrivacyLossDistribution | None:
  """The distribution of what a `DPMechanism` does, or of several of them; None for other events."""
  match event:
    case dp_accounting.SelfComposedDpEvent(
      event=dp_accounting.TruncatedSubsampledGaussianDpEvent() as step, count=count
    ):
      return _self_composed(_step_pld(step, relation, grid), count)
    case dp_accounting.ComposedDpEvent(events=[_, *_] as events):
      parts = [_composed_pld(part, relation, grid) for part in events]
      known = [part for part in parts if part is not None]
      if len(known) == len(parts):
        _require_points(sum(part._pmf_remove.size for part in known))
        return functools.reduce(lambda a, b: a.compose(b), known)
  return None


def gaussian_noise(
  event: dp_accounting.DpEvent, relation: str = 'add_or_remove_one'
) -> float | None:
  """σ of the one Gaussian mechanism that an event is as private as; None where it is no such event.

  That is what Gaussian noise on sums of all records composes to: 1/σ² is the sum of theirs. Under
  'replace_one' a sum moves by twice as much.
  """
  match event:
    case dp_accounting.GaussianDpEvent(noise_multiplier=sigma):
      return sigma / 2 if relation == 'replace_one' else sigma
    case dp_accounting.TruncatedSubsampledGaussianDpEvent() as step:
      if step.sampling_probability == 1 and step.dataset_size <= step.truncated_batch_size:
        return gaussian_noise(dp_accounting.GaussianDpEvent(step.noise_multiplier), relation)
    case dp_accounting.SelfComposedDpEvent(event=inner, count=count):
      sigma = gaussian_noise(inner, relation)
      return None if sigma is None else sigma / math.sqrt(count)
    case dp_accounting.ComposedDpEvent(events=[_, *_] as events):
      sigmas = [gaussian_noise(part, relation) for part in events]
      known = [sigma for sigma in sigmas if sigma]
      if len(known) == len(sigmas):
        return 1 / math.sqrt(math.fsum(sigma**-2.0 for sigma in known))
  return None


@functools.lru_cache(maxsize=1024)
def _epsilon(event: dp_accounting.DpEvent, delta: float, relation: str, grid: float) -> float:
  event, failures = without_failures(event)
  if failures:
    # Rounded against the user: a difference of two floats is off by less than a part in 2⁵⁰ of δ.
    left = delta - failures - delta * 2.0**-50
    return _epsilon(event, left, relation, grid) if left > 0 else math.inf
  if sigma := gaussian_noise(event, relation):
    found = float(dp_accounting.get_epsilon_gaussian(sigma, delta, _ROOT / 2))
    return found + _ROOT if found > 0 else 0.0
  try:
    if (total := _composed_pld(event, relation, grid)) is not None:
      return float(total.get_epsilon_for_delta(delta))
  except _TooLargeGrid:
    return math.inf
  accountant = pld.PLDAccountant(RELATIONS[relation], value_discretization_interval=grid)
  return float(accountant.compose(event).get_epsilon(delta))


def hashable(event: dp_accounting.DpEvent) -> dp_accounting.DpEvent:
  """The same event as a key of the caches: `ComposedDpEvent` is usually built with a list."""
  if isinstance(event, dp_accounting.ComposedDpEvent):
    events: Any = tuple(map(hashable, event.events))
    return dp_accounting.ComposedDpEvent(events)
  if isinstance(event, dp_accounting.SelfComposedDpEvent):
    return dp_accounting.SelfComposedDpEvent(hashable(event.event), event.count)
  return event


def epsilon(
  event: dp_accounting.DpEvent,
  *,
  delta: float,
  neighboring_relation: str = 'add_or_remove_one',
) -> float:
  """The smallest ε (an upper bound on it) for which `event` is (ε, δ)-DP; `inf` if there is none.

  Args:
    event: what was done, e.g. `DPMechanism.event(steps)`.
    delta: δ in (0, 1).
    neighboring_relation: a key of `RELATIONS`.

  Gaussian mechanisms on all records have a formula. Otherwise the privacy loss is discretised at
  1e-4, or at 1e-3 where ε > 20; both round against the user.
  Where even the coarse grid would be too long (σ < 0.036, or losses in the thousands), nothing is
  computed: ε is `inf` then, which is an upper bound too, and what such a mechanism is worth.
  """
  _validate.fraction('delta', delta)
  _validate.one_of('neighboring_relation', neighboring_relation, RELATIONS)
  event = hashable(event)
  coarse = _epsilon(event, delta, neighboring_relation, _COARSE_GRID)
  if coarse > _FINE_UP_TO:
    return coarse
  return min(coarse, _epsilon(event, delta, neighboring_relation, _FINE_GRID))


def quick_epsilon(
  event: dp_accounting.DpEvent,
  *,
  delta: float,
  neighboring_relation: str = 'add_or_remove_one',
) -> float:
  """An upper bound on ε in a tenth of the time: for progress, which is shown again and again.

  As `epsilon`, but the privacy loss is discretised at 1e-3 whatever it comes to. That rounds
  against the user too: by about 0.01 % where a step's privacy loss is large, up to 5 % where it is
  hardly larger than the grid (ε < 0.5 by thousands of steps).
  """
  _validate.fraction('delta', delta)
  _validate.one_of('neighboring_relation', neighboring_relation, RELATIONS)
  return _epsilon(hashable(event), delta, neighboring_relation, _COARSE_GRID)


def grid(epsilon: float) -> float:
  """The spacing of the privacy losses that an ε, as `epsilon` gives it, was computed on."""
  return _COARSE_GRID if epsilon > _FINE_UP_TO else _FINE_GRID


def calibrate_noise_multiplier(
  make_event: Callable[[float], dp_accounting.DpEvent],
  *,
  target_epsilon: float,
  delta: float,
  neighboring_relation: str = 'add_or_remove_one',
  relative_tolerance: float = 2e-3,
  maximum: float = 1e4,
) -> float:
  """A noise multiplier σ whose ε does not exceed the target and comes within a tolerance of it.

  Args:
    make_event: σ ↦ what a run with that σ does.
    target_epsilon: ε > 0.
    delta: δ in (0, 1).
    neighboring_relation: a key of `RELATIONS`.
    relative_tolerance: ε(σ) is at least (1 - tolerance)·target, unless σ reached its lower end.
    maximum: the largest σ tried.

  Returns:
    σ with ε(σ) ≤ `target_epsilon`.

  Raises:
    InputError: even `maximum` noise does not reach the target.
  """
  _validate.positive('target_epsilon', target_epsilon)
  minimum = 0.05  # less noise than this is no protection worth the name

  def spent(sigma: float) -> float:  # an upper bound, in a tenth of the time
    return _epsilon(hashable(make_event(sigma)), delta, neighboring_relation, _COARSE_GRID)

  def up(sigma: float) -> float:  # to a number people can read, by a small part of the tolerance
    digits = max(5, 2 - math.floor(math.log10(relative_tolerance)))
    scale = 10 ** (digits - 1 - math.floor(math.log10(sigma)))
    return math.ceil(sigma * scale) / scale

  # A coarse search brackets the answer ...
  too_little, enough = minimum, 1.0
  while spent(enough) > target_epsilon:
    too_little, enough = enough, enough * 2
    if enough > maximum:
      raise _validate.InputError(
        f'target_epsilon={target_epsilon} at delta={delta} is out of reach: even '
        f'noise_multiplier={maximum:g} spends more; take fewer steps, a smaller batch_size or a '
        'larger target_epsilon'
      )
  if spent(enough) == 0:  # δ alone covers it: there is no ε to follow to the target
    return enough
  if too_little == minimum:  # start near 1 and walk down: tiny σ are slow to account for
    while enough > minimum and spent(enough / 1.5) <= target_epsilon:
      enough /= 1.5
    if enough <= minimum:
      return enough
    too_little = enough / 1.5

  # ... the line between the ends closes in on it, as log ε(log σ) is nearly straight ...
  least = target_epsilon * (1 - relative_tolerance)
  aim = math.log(target_epsilon * (1 - relative_tolerance / 2))
  for turn in range(60):
    if spent(enough) >= least:
      break
    part = 0.5
    if turn % 3 < 2 and math.isfinite(spent(too_little)):
      part = math.log(spent(too_little)) - aim
      part /= math.log(spent(too_little) / spent(enough))
    middle = too_little * (enough / too_little) ** part
    if spent(middle) > target_epsilon:
      too_little = middle
    else:
      enough = middle

  # ... and the fine grid is looked at there: it says less of the same σ, with the same slope.
  slope = math.log(spent(too_little) / spent(enough)) / math.log(enough / too_little)
  sigma, best = up(enough), enough
  for _ in range(8):
    reached = epsilon(make_event(sigma), delta=delta, neighboring_relation=neighboring_relation)
    if reached <= target_epsilon:
      best = min(best, sigma) if reached < least else sigma
    if reached == 0 or least <= reached <= target_epsilon:
      break
    sigma = up(sigma * math.exp((math.log(reached) - aim) / slope))
  return best


def calibrate_steps(
  make_event: Callable[[int], dp_accounting.DpEvent],
  *,
  target_epsilon: float,
  delta: float,
  neighboring_relation: str = 'add_or_remove_one',
  maximum: int = 10_000_000,
) -> int:
  """The largest number of steps T whose ε does not exceed the target.

  Args:
    make_event: T ↦ what T steps do.
    target_epsilon: ε > 0.
    delta: δ in (0, 1).
    neighboring_relation: a key of `RELATIONS`.
    maximum: the largest T tried; the answer if even that many steps stay within the target.

  Raises:
    InputError: a single step already exceeds the target.
  """
  _validate.positive('target_epsilon', target_epsilon)

  def within(steps: int) -> bool:
    event = make_event(steps)
    return any(  # the quick one is never below the other
      spent(event, delta=delta, neighboring_relation=neighboring_relation) <= target_epsilon
      for spent in (quick_epsilon, epsilon)
    )

  if not within(1):
    raise _validate.InputError(
      f'target_epsilon={target_epsilon} at delta={delta} is out of reach: a single step spends '
      'more; raise noise_multiplier or lower batch_size'
    )
  low, high = 1, 2
  while high <= maximum and within(high):
    low, high = high, high * 2
  high = min(high, maximum + 1)
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if within(middle) else (low, middle)
  return low


def log_spaced_deltas(delta: float, count: int = 13) -> list[float]:
  """δ values for an ε(δ) curve: three decades either side of `delta`, within (0, 1)."""
  exponents = np.linspace(-3, 3, count) + math.log10(delta)
  return [float(10**e) for e in exponents if e < -0.5]


def show_epsilon(epsilon: float) -> str:
  """ε in four digits, rounded up: what is said is never less than what was spent.

  >>> show_epsilon(1.23401), show_epsilon(2.0), show_epsilon(math.inf)
  ('1.235', '2', '∞')
  """
  return infinity(rounded_up(epsilon), '.4g')


def rounded_up(value: float) -> float:
  return float(decimal.Context(4, decimal.ROUND_CEILING).create_decimal(repr(value)))


def rounded_down(value: float) -> float:
  return float(decimal.Context(4, decimal.ROUND_FLOOR).create_decimal(repr(value)))


def infinity(value: float, form: str = '') -> str:
  return '∞' if value == math.inf else format(value, form)
