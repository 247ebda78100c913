"""dp-accounting's privacy losses in a fraction of the time, for tests that plan many runs.

dp-accounting finds the outcome at which a privacy loss is reached for one loss after the other, and
walks down from the largest loss to find ε, in Python: half of what tests of runs would take. Here
all losses are looked at as arrays, by the same formulas in the same order: every number is
dp-accounting's, to the last bit (tests/privacy/test_accounting.py). The package itself calls
dp-accounting, and so do the processes that tests start.
"""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting.pld import common, pld_pmf, privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

# dp-accounting's own, which `install` replaces.
truncated = privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism
epsilon_for_delta = PrivacyLossDistribution.get_epsilon_for_delta

_REPLACE_ONE = dp_accounting.NeighboringRelation.REPLACE_ONE
_PART = 2**16  # losses looked at together


def _unsampled(losses: np.ndarray, q: float) -> np.ndarray:
  """log(1 + (e^l - 1)/q): a record's loss, were it in every batch. Above log(1 - q)."""
  a, c = 1 / q, 1 - 1 / q
  with np.errstate(invalid='ignore', divide='ignore'):  # where it ends, which is looked at below
    scaled = losses + np.log(a)
    found = scaled + np.log1p(-np.exp(np.log(-c) - scaled))
  found = np.where(losses == 0, np.log(a + c), found)
  if len(losses):
    nearest = int(losses.argmin())
    if math.isclose(losses[nearest], math.log(1 - q)):
      found[nearest] = -math.inf
  return found


def _of_replaced(losses: np.ndarray, sigma: float, q: float) -> np.ndarray:
  """The outcome at which each loss is reached, of records that replace each other."""
  if q == 1:
    return -losses * sigma**2 / 1 / 2
  log_alpha = 0.5 * (1 / sigma) ** 2 + math.log1p(-q) - math.log(q)
  log_sinh = np.array([log_alpha + common.log_sinh(loss / 2) for loss in np.abs(losses).tolist()])
  asinh = np.logaddexp(0.5 * np.logaddexp(0, 2 * log_sinh), log_sinh)
  found = sigma**2 / 1 * (np.where(losses >= 0, -1.0, 1.0) * asinh - losses / 2)
  return np.where(losses == 0, 0.0, found)


def _deltas(loss: GaussianPrivacyLoss, sigma: float, losses: np.ndarray) -> np.ndarray:
  """δ at each ε of `losses`: `loss.get_delta_for_epsilon`."""
  q, kind = loss.sampling_prob, loss.adjacency_type
  deltas = np.zeros_like(losses)
  reached = np.full_like(losses, True, dtype=bool)
  if q < 1 and kind == AdjacencyType.ADD:
    reached = losses < -math.log1p(-q)
  elif q < 1 and kind == AdjacencyType.REMOVE:
    reached = losses > math.log1p(-q)
    deltas[~reached] = -np.expm1(losses[~reached])
  at = losses[reached]
  if kind == AdjacencyType.REPLACE:
    outcomes = _of_replaced(at, sigma, q)
  elif kind == AdjacencyType.REMOVE:
    outcomes = -0.5 - (at if q == 1 else _unsampled(at, q)) * sigma**2
  else:
    outcomes = 1 + (-0.5 - (at if q == 1 else -_unsampled(-at, q)) * sigma**2)
  deltas[reached] = loss.mu_upper_cdf(outcomes) - np.exp(at + loss.mu_lower_log_cdf(outcomes))
  return np.clip(deltas, 0, 1)


def _gaussian(
  sigma: float, q: float, grid: float, relation: dp_accounting.NeighboringRelation
) -> PrivacyLossDistribution:
  """`privacy_loss_distribution.from_gaussian_mechanism`."""

  def one(kind: AdjacencyType) -> pld_pmf.PLDPmf:
    loss = GaussianPrivacyLoss(sigma, sampling_prob=q, adjacency_type=kind)
    bounds = loss.connect_dots_bounds()
    low = math.floor(bounds.epsilon_lower / grid)  # pyright: ignore[reportOptionalOperand]
    high = math.ceil(bounds.epsilon_upper / grid)  # pyright: ignore[reportOptionalOperand]
    deltas = _deltas(loss, sigma, np.arange(low, high + 1) * grid)
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, low, high, deltas)

  if relation == _REPLACE_ONE:
    return PrivacyLossDistribution(one(AdjacencyType.REPLACE))
  remove = one(AdjacencyType.REMOVE)
  return PrivacyLossDistribution(remove, None if q == 1 else one(AdjacencyType.ADD))


def quick_truncated(
  dataset_size: int, sampling_probability: float, truncated_batch_size: int,
  noise_multiplier: float, value_discretization_interval: float,
  neighboring_relation: dp_accounting.NeighboringRelation, **others: Any,
) -> PrivacyLossDistribution:  # fmt: skip
  """`truncated`, of the arguments that the package gives."""
  assert not others, others
  q, cap, size = sampling_probability, truncated_batch_size, dataset_size
  sigma, grid = noise_multiplier, value_discretization_interval
  usual = _gaussian(sigma, q, grid, neighboring_relation)
  binomial = privacy_loss_distribution.stats.binom
  cut = float(binomial.sf(cap - 1, size - 1, q))  # given that the record is sampled
  if cut == 0:
    return usual
  sampled = float(binomial.sf(cap, size, q)) * cap / cut / size  # given that batches are cut
  return _gaussian(sigma / 2, sampled, grid, _REPLACE_ONE).compute_mixture(usual, cut)


def _sums(start: float, terms: np.ndarray) -> np.ndarray:
  """`start` and what it becomes as one term after the other is added."""
  return np.cumsum(np.concatenate([[start], terms]))


def _of_one(pmf: pld_pmf.PLDPmf, delta: float) -> float:
  """`pmf.get_epsilon_for_delta(delta)`."""
  dense = pmf.to_dense_pmf()
  upper, lower = dense._infinity_mass, 0.0  # of losses so far: their δ, and that times e^-loss
  if upper > delta:
    return math.inf
  downwards: np.ndarray = np.flip(dense._probs)  # pyright: ignore[reportAttributeAccessIssue]
  step = -dense._discretization
  loss = (dense._lower_loss + len(downwards) - 1) * dense._discretization  # pyright: ignore
  for start in range(0, len(downwards), _PART):
    probs = downwards[start : start + _PART]
    losses = _sums(loss, np.full(len(probs), step))
    exponents = np.minimum(-losses[:-1], 700).tolist()  # more lies below every ε
    weights = np.fromiter(map(math.exp, exponents), float, len(probs))
    uppers, lowers = _sums(upper, probs), _sums(lower, weights * probs)
    with np.errstate(divide='ignore', invalid='ignore'):
      near = np.log((uppers - delta) / lowers)[:-1] >= losses[:-1] - 1e-9  # bits may differ
    ends = (uppers[:-1] > delta) & (lowers[:-1] > 0) & near
    for i in np.flatnonzero(ends | ((uppers[1:] >= delta) & (lowers[1:] == 0))):
      if ends[i] and (found := math.log((uppers[i] - delta) / lowers[i])) >= losses[i]:
        return 0.0 if uppers[i] <= lowers[i] + delta else found
      if uppers[i + 1] >= delta and lowers[i + 1] == 0:  # e^-loss is no number any more
        return max(0.0, float(losses[i]))
    loss, upper, lower = losses[-1], uppers[-1], lowers[-1]
  return 0.0 if upper <= lower + delta else math.log((upper - delta) / lower)


def quick_epsilon(losses: PrivacyLossDistribution, delta: Any) -> Any:
  """`epsilon_for_delta`."""
  if np.ndim(delta):
    return epsilon_for_delta(losses, delta)
  parts = [losses._pmf_remove] if losses._symmetric else [losses._pmf_remove, losses._pmf_add]
  return max(_of_one(part, delta) for part in parts)


def install() -> None:
  """From now on dp-accounting computes so in this process."""
  privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism = quick_truncated
  PrivacyLossDistribution.get_epsilon_for_delta = quick_epsilon
