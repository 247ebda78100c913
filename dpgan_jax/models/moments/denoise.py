"""From noisy second moments to the covariance of each class: post-processing, free of privacy cost.

The covariance of a class is its noisy second moment where that stands out of the noise, and what is
known anyway elsewhere. Noise on a symmetric matrix has eigenvalues up to an edge that is known
beforehand (Wigner's semicircle). What lies above is signal, and is longer than it should be by an
amount that is known too (Benaych-Georges & Nadakuditi 2011, theorem 2.1 and section 3.1). Below the
edge the covariance pooled over all classes takes its place, which has K times the records; and
below its edge the encoding's public spectrum. What is filled in is scaled so that the trace, which
noise hardly touches, stays as released.
"""

from __future__ import annotations

import math

import numpy as np

_LEAST_FILL = 0.02  # of the trace, that directions below the edge keep


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
