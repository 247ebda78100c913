"""What a DpEvent did, as independent steps, for the second opinion on ε (`cross_check`).

Nothing here is taken from dp-accounting but the names of events.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import dp_accounting
import numpy as np
import scipy.special
import scipy.stats

from dpgan_jax.privacy import accounting

ORDERS = 1 + np.geomspace(0.04, 400, 100)
_NODES_PER_SIGMA = 12  # of the integrals over x: analytic integrands, the error is below 1e-12
_LOSS_NODES_PER_SIGMA = 400  # of the distribution of x, whose losses are then put on a grid
_TAIL = 9.5  # standard deviations; the mass beyond is 1e-21


@dataclasses.dataclass(frozen=True)
class Pair:
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
    """Rényi divergences of `ORDERS`, of P from Q and of Q from P."""
    found = np.array([self._renyi(order) for order in ORDERS]).T
    return np.maximum(found[0], 0), np.maximum(found[1], 0)

  def _renyi(self, order: float) -> tuple[float, float]:
    reach = (order + 1) * self.shift + _TAIL * self.sigma * 2
    count = 2 * math.ceil(reach / self.sigma * _NODES_PER_SIGMA) + 1
    x, spacing = np.linspace(-reach, reach, count, retstep=True)
    log_noise = scipy.stats.norm.logpdf(x, scale=self.sigma) + math.log(spacing)
    p, q = self.log_ratios(x)
    moments = (log_noise + order * a + (1 - order) * b for a, b in ((p, q), (q, p)))
    sums = (float(np.asarray(scipy.special.logsumexp(m))) for m in moments)
    forward, backward = (each / (order - 1) for each in sums)
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
class Step:
  """`count` steps of one kind; with probability `cut`, independently of the record, the batch is
  full without it, and `when_cut` takes the place of `usual`."""

  count: int
  usual: Pair
  cut: float = 0.0
  when_cut: Pair | None = None

  def alone(self) -> Step:
    """The same where all other records contribute zeros, and a cut can only lose the record."""
    if self.when_cut is None:
      return self
    joins = (1 - self.cut) * self.usual.q + self.cut * self.when_cut.q
    return Step(self.count, dataclasses.replace(self.usual, q=joins))

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


def steps_of(event: dp_accounting.DpEvent, relation: str, count: int = 1) -> list[Step] | None:
  """The event as independent steps; None if something in it has no guarantee."""
  both = relation == 'replace_one'
  match event:
    case dp_accounting.NoOpDpEvent() | accounting.FailureDpEvent():  # `failures_of` has its δ
      return []
    case dp_accounting.NonPrivateDpEvent():
      return None
    case dp_accounting.SelfComposedDpEvent():
      return steps_of(event.event, relation, count * event.count) if event.count else []
    case dp_accounting.ComposedDpEvent():
      parts = [steps_of(part, relation, count) for part in event.events]
      return None if None in parts else [step for part in parts for step in part or ()]
    case dp_accounting.GaussianDpEvent():
      return [Step(count, Pair(event.noise_multiplier, 1.0, 1.0, both))]
    case dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma)):
      return [Step(count, Pair(sigma, q, 1.0, both))]
    case dp_accounting.TruncatedSubsampledGaussianDpEvent():
      return [_truncated(event, count, both)]
  raise TypeError(f'no second opinion on {event!r}')


def failures_of(event: dp_accounting.DpEvent) -> float:
  """δ of all parts that give a record away with some probability, and do nothing else."""
  match event:
    case dp_accounting.SelfComposedDpEvent():
      return event.count * failures_of(event.event)
    case dp_accounting.ComposedDpEvent():
      return sum(map(failures_of, event.events))
  return event.delta if isinstance(event, accounting.FailureDpEvent) else 0.0


def _truncated(
  event: dp_accounting.TruncatedSubsampledGaussianDpEvent, count: int, both: bool
) -> Step:
  others, q, cap = event.dataset_size - 1, event.sampling_probability, event.truncated_batch_size
  usual = Pair(event.noise_multiplier, q, 1.0, both)
  cut = float(scipy.stats.binom.sf(cap - 1, others, q))
  if cut == 0:
    return Step(count, usual)
  # Kept is one of cap out of m + 1, given that m >= cap others joined. The event's accounting lets
  # the record and the one that it displaces differ in both data sets, as if it were replaced.
  m = np.arange(cap, others + 1)
  weights = scipy.stats.binom.pmf(m, others, q)
  kept = q * float(np.sum(weights * (cap / (m + 1)))) / float(weights.sum() or 1.0)
  return Step(count, usual, cut, Pair(event.noise_multiplier, min(kept, q), 2.0, True))
