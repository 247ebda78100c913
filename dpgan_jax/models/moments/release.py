"""The private part: what is released of each class, under which mechanisms.

Two one-shot releases. `MEANS`: of each class, the sum of the codes and the number of records.
`SECONDS`: of each class, the sum of (x - μ)(x - μ)ᵀ of codes clipped around the mean μ that the
first release gave. A record is in one class, so what is released of one class is the mechanism's
one use of it: classes compose in parallel. Both use the exact noise of `privacy.exact_noise`.

Sensitivity 1 in `MEANS`: a record's vector is (a·x/R, b), a² + b² = 1 and ‖x‖ ≤ R. The error of a
mean that comes of noise in the sum has d coordinates, that of noise in the count one, and b² = 1/(1
+ √d) makes their sum least. Sensitivity 1 in `SECONDS`: ‖x - μ‖² ≤ S² after clipping.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dpgan_jax.models.moments.encoding import Encoding
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.privacy import exact_noise, second_moments

_LEAST_COUNT = 1.0  # of records that a class is taken to have, whatever noise says


@dataclasses.dataclass(frozen=True)
class Means:
  """What `MEANS` releases.

  Attributes:
    counts: float64 [K], noisy numbers of records.
    sums: float64 [K, d], noisy sums of codes.
  """

  counts: np.ndarray
  sums: np.ndarray

  def centres(self, encoding: Encoding) -> np.ndarray:
    """The mean code of each class, no longer than a code can be: float64 [K, d]."""
    means = self.sums / np.maximum(self.counts, _LEAST_COUNT)[:, np.newaxis]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return means * np.minimum(1, encoding.radius / np.maximum(lengths, 1e-300))


def release_means(
  codes: np.ndarray, labels: np.ndarray, moments: Moments, secret: bytes
) -> Means:
  """Releases `MEANS`, which must be charged before.

  Args:
    codes: float64 [N, d].
    labels: int [N] in [0, K).
    moments: encoding and mechanisms.
    secret: 32 bytes that the noise follows from.
  """
  encoding, mechanism = moments.encoding, moments.stages[MEANS]
  in_sum, in_count = _weights(moments.dim)
  released = []
  for k in range(moments.spec.num_classes):
    own = codes[labels == k] * (in_sum / encoding.radius)
    vectors = np.concatenate([own, np.full((len(own), 1), in_count)], axis=1)
    released.append(
      exact_noise.release_sum(
        vectors, l2_sensitivity=mechanism.l2_clip_norm,
        noise_multiplier=mechanism.noise_multiplier, secret=secret, purpose=f'{MEANS} of class {k}',
      )
    )  # fmt: skip
  sums = np.stack(released)
  return Means(sums[:, -1] / in_count, sums[:, :-1] * (encoding.radius / in_sum))


def release_seconds(
  codes: np.ndarray, labels: np.ndarray, means: Means, moments: Moments, secret: bytes
) -> np.ndarray:
  """Releases `SECONDS`, which must be charged before: float64 [K, d, d].

  Args:
    codes: float64 [N, d].
    labels: int [N] in [0, K).
    means: the first release; nothing else of the records is in the centres.
    moments: encoding and mechanisms.
    secret: 32 bytes that the noise follows from.
  """
  encoding = moments.encoding
  return np.stack(
    [
      second_moments.release_second_moments(
        codes[labels == k] - centre, l2_bound=encoding.spread,
        noise_multiplier=moments.stages[SECONDS].noise_multiplier,
        secret=secret, purpose=f'{SECONDS} of class {k}',
      )
      for k, centre in enumerate(means.centres(encoding))
    ]
  )  # fmt: skip


def sum_noise(moments: Moments) -> float:
  """Standard deviation of the noise in each number of a class's sum."""
  deviation = moments.stages[MEANS].noise_multiplier * moments.encoding.radius
  return deviation / _weights(moments.dim)[0]


def count_noise(moments: Moments) -> float:
  """Standard deviation of the noise in a class's number of records."""
  return moments.stages[MEANS].noise_multiplier / _weights(moments.dim)[1]


def _weights(dim: int) -> tuple[float, float]:
  """(a, b) of the module."""
  in_count = 1 / math.sqrt(1 + math.sqrt(dim))
  return math.sqrt(1 - in_count**2), in_count
