"""The ε at which a distribution of privacy losses leaves a given δ, as dp-accounting finds it.

dp-accounting walks down from the largest loss in Python, a million steps and half a second for each
δ. Here parts of the distribution are looked at as arrays; sums are taken in the same order, so that
every ε is dp-accounting's, to the last bit.
"""

from __future__ import annotations

import math

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

_PART = 2**16  # losses looked at together


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


def epsilon(losses: PrivacyLossDistribution, delta: float) -> float:
  """`losses.get_epsilon_for_delta(delta)`: the smallest ε, ∞ if there is none."""
  parts = [losses._pmf_remove] if losses._symmetric else [losses._pmf_remove, losses._pmf_add]
  return max(_of_one(part, delta) for part in parts)
