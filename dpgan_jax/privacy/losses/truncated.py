"""The privacy loss of a truncated, subsampled Gaussian step, as dp-accounting distributes it.

dp-accounting finds the outcome at which a privacy loss is reached for one loss after the other, in
Python, which is most of the time that a plan takes. Here all are found at once, by the same
formulas in the same order: every number is dp-accounting's, to the last bit.
"""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
from dp_accounting.pld import common, pld_pmf, privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

_REPLACE_ONE = dp_accounting.NeighboringRelation.REPLACE_ONE


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


def distribution(
  event: dp_accounting.TruncatedSubsampledGaussianDpEvent,
  sigma: float,
  grid: float,
  relation: dp_accounting.NeighboringRelation,
) -> PrivacyLossDistribution:
  """`privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism`: an upper bound.

  Args:
    event: a step; its noise multiplier is not looked at.
    sigma: the noise multiplier.
    grid: spacing of the losses.
    relation: of neighbouring data sets.
  """
  q, cap, size = event.sampling_probability, event.truncated_batch_size, event.dataset_size
  usual = _gaussian(sigma, q, grid, relation)
  binomial = privacy_loss_distribution.stats.binom
  cut = float(binomial.sf(cap - 1, size - 1, q))  # given that the record is sampled
  if cut == 0:
    return usual
  sampled = float(binomial.sf(cap, size, q)) * cap / cut / size  # given that batches are cut
  return _gaussian(sigma / 2, sampled, grid, _REPLACE_ONE).compute_mixture(usual, cut)
