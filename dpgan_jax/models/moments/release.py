"""The private part: what is released of each class, under which mechanisms.

Two one-shot releases. `MEANS`: of each class, sums and the number of records. `SECONDS`: of each
class, or of each cell of one, sums of products. A record is in one class, and in one of its cells,
so what is released of one is the mechanism's one use of it: they compose in parallel. Rows of a
person may be in several, and pairs of columns may be counted of all classes: then the sensitivity
is that of all together (`privacy.releases`). Noise is exact (`privacy.exact_noise`), in units of
what a record adds at most, which the encoding of its kind bounds.
"""

from __future__ import annotations

import numpy as np

from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments


def release_means(codes: np.ndarray, labels: np.ndarray, moments: Moments, secret: bytes) -> Means:
  """Releases `MEANS`, which must be charged before.

  Args:
    codes: as `Encoding.encode` makes them, [N, ...].
    labels: int [N] in [0, K).
    moments: encoding and mechanisms.
    secret: 32 bytes that the noise follows from.
  """
  return moments.encoding.release_means(
    codes, labels, moments.spec.num_classes, secret=secret, purpose=MEANS,
    noise_multiplier=moments.stages[MEANS].noise_multiplier,
  )  # fmt: skip


def release_seconds(
  codes: np.ndarray, labels: np.ndarray, means: Means, moments: Moments, secret: bytes
) -> np.ndarray:
  """Releases `SECONDS`, which must be charged before: float64 [L, s, s].

  Args:
    codes: as `Encoding.encode` makes them, [N, ...].
    labels: int [N] in [0, K).
    means: the first release; all that one release knows of the other.
    moments: encoding and mechanisms.
    secret: 32 bytes that the noise follows from.
  """
  return moments.encoding.release_seconds(
    codes, labels, means, moments.spec.num_classes, secret=secret, purpose=SECONDS,
    noise_multiplier=moments.stages[SECONDS].noise_multiplier,
  )  # fmt: skip


def release_both(
  codes: np.ndarray, labels: np.ndarray, moments: Moments, secret: bytes
) -> tuple[Means, np.ndarray]:
  """`release_means`, and `release_seconds` after it: for audits and measurements, which charge
  nothing. A run charges each before it is released (`run/releases/moments`).
  """
  means = release_means(codes, labels, moments, secret)
  return means, release_seconds(codes, labels, means, moments, secret)
