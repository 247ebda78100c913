"""Counts of values that nobody may know of before: each is named only if noise alone would hardly.

The values of a column of private texts are private themselves. A record has one value in a column;
the count of every value that occurs gets exact discrete Gaussian noise, and only values whose noisy
counts reach a threshold are named (Korolova et al. 2009; Wilkins et al. 2023, arXiv 2202.01100).

Why it is as private as `SelectionMechanism` says. Let D' be D and one record x, and S the values
that occur in D. On S, counts move by x as those of a public domain would: that is the Gaussian
mechanism, and what is below the threshold is left out of its result afterwards. Values outside S
occur in x alone, at most one a column, each once. Each is named with probability at most
P(1 + noise ≥ threshold), independently of all counts on S; `threshold` keeps the sum over columns
below `selection_delta`. So D' is a product of the Gaussian mechanism and of one that says more than
"nothing" with that probability, which `accounting.FailureDpEvent` charges. Where x replaces another
record the same holds of what only one of the two has, and the Gaussian's sensitivity doubles, as
the accountant of that relation takes.

>>> import numpy as np
>>> from dpgan_jax.privacy import exact_noise
>>> codes, secret = np.repeat([0, 1, 2], [500, 400, 1]), exact_noise.new_secret()
>>> mechanism = SelectionMechanism(
...   num_examples=901, batch_size=901, l2_clip_norm=1.0, noise_multiplier=2.0, steps=1, delta=1e-5,
...   sampling_probability=1.0, truncated_batch_size=901, selection_delta=1e-8)
>>> named = release_named(codes, 3, mechanism=mechanism, squared_sensitivity=1, columns=1,
...                       secret=secret, purpose='example')
>>> sorted(named)
[0, 1]
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from fractions import Fraction

import dp_accounting
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.releases import marginals

_SMALLEST_DELTA = 1e-300


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionMechanism(DPMechanism):
  """Counts with Gaussian noise, of which those of private values are named beyond a threshold.

  Attributes:
    selection_delta: of δ, the chance that a value that one record alone has is named.
  """

  selection_delta: float

  def __post_init__(self) -> None:
    super().__post_init__()
    _validate.fraction('selection_delta', self.selection_delta)
    if not _SMALLEST_DELTA <= self.selection_delta < self.delta:
      raise _validate.InputError(
        f'expected selection_delta < delta = {self.delta:g}, got {self.selection_delta!r}'
      )

  def event(self, steps: int | None = None) -> dp_accounting.DpEvent:
    """The Gaussian mechanism and the failure of the threshold, each so many times."""
    counts, times = super().event(steps), self.steps if steps is None else steps
    if times == 0:
      return counts
    failure = accounting.FailureDpEvent(self.selection_delta)
    return dp_accounting.ComposedDpEvent(
      [counts, dp_accounting.SelfComposedDpEvent(failure, times)]
    )


def threshold(
  noise_multiplier: float, squared_sensitivity: int, delta: float, columns: int
) -> float:
  """The least noisy count at which a value is named.

  Of a value that occurs once, in each of so many columns, one is named with probability at most δ.
  The noise is a whole number of 1/`marginals.UNITS`, X, from the discrete Gaussian of the variance
  that `exact_noise.draw_at_least` takes; P(X ≥ m) ≤ P(Y ≥ m - 1), Y the continuous Gaussian of that
  variance (Canonne, Kamath & Steinke 2020, proposition 25).

  Args:
    noise_multiplier: σ > 0.
    squared_sensitivity: Δ², as of `marginals.with_noise`.
    delta: δ of all columns together.
    columns: how many columns of private values a record has one in.
  """
  _validate.positive('noise_multiplier', noise_multiplier)
  share = delta / columns
  score = -statistics.NormalDist().inv_cdf(share)
  while math.erfc(score / math.sqrt(2)) / 2 > share * (1 - 1e-12):
    score += 1e-9
  variance = (Fraction(noise_multiplier) * marginals.UNITS) ** 2 * squared_sensitivity
  deviation = math.sqrt(math.ceil(variance) + 4) * (1 + 1e-12)
  return 1 + (math.ceil(score * deviation) + 1) / marginals.UNITS


def release_named(
  codes: np.ndarray,
  size: int,
  *,
  mechanism: SelectionMechanism,
  squared_sensitivity: int,
  columns: int,
  secret: bytes,
  purpose: str,
) -> dict[int, float]:
  """Which values are named, and their noisy counts.

  Args:
    codes: int [n], the value of each record, in [0, size); one record, one value.
    size: how many values there are: private.
    mechanism: what is charged: noise and threshold follow from it.
    squared_sensitivity: as of `marginals.with_noise`: of all counts that are released under one
      mechanism together.
    columns: as of `threshold`.
    secret: as of `exact_noise.release_sum`.
    purpose: what is released, and of what; no two releases with one secret may share it.

  Guarantee: with the other counts that share the sensitivity, one `SelectionMechanism`.
  """
  counts = np.bincount(codes, minlength=size)
  present = np.flatnonzero(counts)
  sigma = mechanism.noise_multiplier
  about = repr(('named', purpose, sigma, squared_sensitivity))
  noisy = marginals.with_noise(counts[present], sigma, squared_sensitivity, secret, about)
  chosen = noisy >= threshold(sigma, squared_sensitivity, mechanism.selection_delta, columns)
  return {
    int(value): float(count) for value, count in zip(present[chosen], noisy[chosen], strict=True)
  }
