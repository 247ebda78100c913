"""From noisy second moments to the covariance of each class: post-processing, free of privacy cost.

The covariance of a class is its noisy second moment where that stands out of the noise, and what is
known anyway elsewhere. Noise on a symmetric matrix has eigenvalues up to an edge that is known
beforehand (Wigner's semicircle). What lies above is signal, and is longer than it should be by an
amount that is known too (Benaych-Georges & Nadakuditi 2011, theorem 2.1 and section 3.1). Below the
edge the covariance pooled over all classes takes its place, which has K times the records; and
below its edge the encoding's public spectrum. Cells of a class have that of the class first. What
is filled in is scaled so that the trace, which noise hardly touches, stays as released.
"""

from __future__ import annotations

import math

import numpy as np

_LEAST_FILL = 0.02  # of the trace, that directions below the edge keep


def covariances(
  counts: np.ndarray, seconds: np.ndarray, deviation: float, spectrum: np.ndarray, cells: int = 1
) -> np.ndarray:
  """The covariance of each class or cell, as well as noise lets one know it: float64 [G, s, s].

  Args:
    counts: float64 [G], noisy numbers of records.
    seconds: float64 [G, s, s], noisy sums of z·zᵀ.
    deviation: standard deviation of the noise on the diagonal of each; off it, it is 1/√2 of that.
    spectrum: float64 [s], a public guess of the scores' variances, up to a factor.
    cells: of each class; G is a multiple of them.
  """
  counts = np.maximum(counts, 0)

  def pooled(some: slice, known: np.ndarray) -> np.ndarray:
    number = max(counts[some].sum(), 1.0)
    noise = deviation * math.sqrt(len(counts[some])) / number
    return _fill(seconds[some].sum(axis=0) / number, noise, known)

  groups = len(counts)
  of_all = pooled(slice(None), np.diag(spectrum))
  of_classes = [of_all] * groups
  if cells > 1:
    of_classes = [pooled(slice(g - g % cells, g - g % cells + cells), of_all)
                  for g in range(groups)]  # fmt: skip
  return np.stack([pooled(slice(g, g + 1), of_classes[g]) for g in range(groups)])


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
