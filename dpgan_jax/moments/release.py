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
from collections.abc import Mapping

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.moments.encoding import Encoding
from dpgan_jax.privacy import exact_noise, second_moments
from dpgan_jax.privacy.mechanism import DPMechanism

MEANS, SECONDS = 'moments_means', 'moments'
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


def mechanisms(
  num_records: int,
  *,
  noise_multiplier: float,
  means_share: float,
  delta: float,
  neighboring_relation: str = 'add_or_remove_one',
) -> dict[str, DPMechanism]:
  """The two mechanisms, which together cost what one Gaussian release of `noise_multiplier` does.

  Args:
    num_records: N.
    noise_multiplier: σ of both together; 0 for none.
    means_share: of 1/σ² that `MEANS` gets, in (0, 1).
    delta: δ.
    neighboring_relation: as of `DPMechanism`.
  """
  _validate.fraction('means_share', means_share)
  shares = {MEANS: means_share, SECONDS: 1 - means_share}
  return {
    name: DPMechanism.create(
      num_examples=num_records,
      batch_size=num_records,  # everybody takes part, once
      l2_clip_norm=1.0 if noise_multiplier else math.inf,
      noise_multiplier=noise_multiplier / math.sqrt(share),
      steps=1,
      delta=delta,
      neighboring_relation=neighboring_relation,
    )
    for name, share in sorted(shares.items())
  }


def release_means(
  codes: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  encoding: Encoding,
  stages: Mapping[str, DPMechanism],
  secret: bytes,
) -> Means:
  """Charge `MEANS` before. Codes float64 [N, d], labels int [N] in [0, K)."""
  in_sum, in_count = _weights(encoding.dim)
  released = []
  for k in range(num_classes):
    own = codes[labels == k]
    vectors = np.concatenate(
      [own * (in_sum / encoding.radius), np.full((len(own), 1), in_count)], axis=1
    )
    released.append(
      exact_noise.release_sum(
        vectors, l2_sensitivity=1.0, noise_multiplier=stages[MEANS].noise_multiplier,
        secret=secret, purpose=f'{MEANS} of class {k}',
      )
    )  # fmt: skip
  sums = np.stack(released)
  return Means(sums[:, -1] / in_count, sums[:, :-1] * (encoding.radius / in_sum))


def release_seconds(
  codes: np.ndarray,
  labels: np.ndarray,
  centres: np.ndarray,
  encoding: Encoding,
  stages: Mapping[str, DPMechanism],
  secret: bytes,
) -> np.ndarray:
  """The sum over each class of (x - μ)(x - μ)ᵀ, float64 [K, d, d]. Charge `SECONDS` before.

  Args:
    codes: float64 [N, d].
    labels: int [N].
    centres: float64 [K, d], of `Means`; nothing else of the records may be in them.
    encoding: gives the bound.
    stages: the mechanisms.
    secret: 32 bytes that the noise follows from.
  """
  return np.stack(
    [
      second_moments.release_second_moments(
        codes[labels == k] - centre, l2_bound=encoding.spread,
        noise_multiplier=stages[SECONDS].noise_multiplier,
        secret=secret, purpose=f'{SECONDS} of class {k}',
      )
      for k, centre in enumerate(centres)
    ]
  )  # fmt: skip


def count_noise(dim: int, stages: Mapping[str, DPMechanism]) -> float:
  """Standard deviation of the noise in a class's count."""
  return stages[MEANS].noise_multiplier / _weights(dim)[1]


def mean_noise(encoding: Encoding, stages: Mapping[str, DPMechanism]) -> float:
  """Standard deviation of the noise in each coordinate of a class's sum."""
  return stages[MEANS].noise_multiplier * encoding.radius / _weights(encoding.dim)[0]


def _weights(dim: int) -> tuple[float, float]:
  """(a, b) of the module."""
  in_count = 1 / math.sqrt(1 + math.sqrt(dim))
  return math.sqrt(1 - in_count**2), in_count
