"""From noisy moments to the laws that are drawn from: post-processing, free of privacy cost.

The covariance of a class is its noisy second moment where that stands out of the noise, and what is
known anyway elsewhere. Noise on a symmetric matrix has eigenvalues up to an edge that is known
beforehand (Wigner's semicircle). What lies above is signal, and is longer than it should be by an
amount that is known too (Benaych-Georges & Nadakuditi 2011, theorem 2.1 and section 3.1). Below the
edge the covariance pooled over all classes takes its place, which has K times the records; and
below its edge the encoding's public spectrum. What is filled in is scaled so that the trace, which
noise hardly touches, stays as released.

Pixels have ends. `before_cut` finds the normal law that has a wanted mean and variance after its
values are cut to [0, 1] (a censored normal law: Tobin 1958), without which dark grounds come out
grey and strokes pale.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

_LEAST_FILL = 0.02  # of the trace, that directions below the edge keep
_DEVIATIONS = np.geomspace(0.01, 3.0, 64)  # of laws before the cut
_NARROW, _WIDEST = 0.02, 0.9  # a deviation; a share of the largest variance that a mean allows


def covariances(
  counts: np.ndarray, seconds: np.ndarray, deviation: float, spectrum: np.ndarray
) -> np.ndarray:
  """The covariance of each class, as well as noise lets one know it: float64 [K, s, s].

  Args:
    counts: float64 [K], noisy numbers of records.
    seconds: float64 [K, s, s], noisy sums of z·zᵀ.
    deviation: standard deviation of the noise on the diagonal of each; off it, it is 1/√2 of that.
    spectrum: float64 [s], a public guess of the scores' variances, up to a factor.
  """
  counts = np.maximum(counts, 0)
  total, classes = max(counts.sum(), 1.0), len(counts)
  pooled = _fill(
    seconds.sum(axis=0) / total, deviation * math.sqrt(classes) / total, np.diag(spectrum)
  )
  each = zip(np.maximum(counts, 1.0), seconds, strict=True)
  return np.stack([_fill(second / n, deviation / n, pooled) for n, second in each])


def _fill(noisy: np.ndarray, deviation: float, known: np.ndarray) -> np.ndarray:
  """A covariance that is `noisy` where it stands out of its noise and `known` elsewhere.

  Args:
    noisy: float64 [d, d], symmetric, with noise of standard deviation `deviation` on the diagonal
      and of `deviation`/√2 off it.
    deviation: of the noise.
    known: float64 [d, d], a covariance, up to a factor.

  Returns:
    float64 [d, d].
  """
  dim = len(noisy)
  half_edge = deviation * math.sqrt(dim / 2)
  trace = max(float(np.trace(noisy)), deviation * math.sqrt(dim))
  values, vectors = np.linalg.eigh(noisy)
  above = values > 2 * half_edge
  true = (values[above] + np.sqrt(values[above] ** 2 - (2 * half_edge) ** 2)) / 2
  covariance = (vectors[:, above] * true) @ vectors[:, above].T
  below = vectors[:, ~above]
  filled = below @ (below.T @ known @ below) @ below.T
  size = np.trace(filled)
  if size > 0:
    covariance += filled * (max(trace - true.sum(), _LEAST_FILL * trace) / size)
  return covariance


def before_cut(means: np.ndarray, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Means and deviations of normal laws that have the given ones once cut to [0, 1].

  Args:
    means: float64 [n], wanted after the cut; moved into [0.002, 0.998].
    deviations: float64 [n], wanted after the cut, ≥ 0; no larger than a mean allows. Where they are
      below 0.02, the law stays as it is: there is nothing to be gained.

  Returns:
    (means, deviations), float64 [n] each.
  """
  wanted = np.clip(means, 0.002, 0.998)
  variances = np.minimum(deviations**2, _WIDEST * wanted * (1 - wanted))
  # For each deviation before the cut, the mean before it that gives the wanted mean after it; then
  # that deviation of them that gives the wanted variance. Both grow on the way.
  found = np.zeros((len(_DEVIATIONS), len(wanted)))
  after = np.zeros_like(found)
  for i, deviation in enumerate(_DEVIATIONS):
    places = np.linspace(-4 * deviation, 1 + 4 * deviation, 400)
    found[i] = np.interp(wanted, _cut(places, deviation)[0], places)
    after[i] = _cut(found[i], deviation)[1]
  after = np.maximum.accumulate(after, axis=0)
  upper = (after < variances).sum(axis=0).clip(1, len(_DEVIATIONS) - 1)
  lower, columns = upper - 1, np.arange(len(wanted))
  below, above = after[lower, columns], after[upper, columns]
  share = np.clip((variances - below) / np.maximum(above - below, 1e-12), 0, 1)
  mean = found[lower, columns] * (1 - share) + found[upper, columns] * share
  deviation = _DEVIATIONS[lower] * (1 - share) + _DEVIATIONS[upper] * share
  narrow = deviations < _NARROW
  return np.where(narrow, means, mean), np.where(narrow, deviations, deviation)


def _cut(mean: np.ndarray, deviation: float) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance of normal values that are cut to [0, 1]."""
  low, high = -mean / deviation, (1 - mean) / deviation
  within = stats.norm.cdf(high) - stats.norm.cdf(low)
  at_low, at_high, beyond = stats.norm.pdf(low), stats.norm.pdf(high), stats.norm.sf(high)
  first = mean * within + deviation * (at_low - at_high) + beyond
  second = (mean**2 + deviation**2) * within + beyond
  second += deviation * (mean * at_low - (mean + 1) * at_high)
  return first, second - first**2
