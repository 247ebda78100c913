"""Sums of x·xᵀ over private records with exact discrete Gaussian noise, released once.

As `exact_noise.release_sum`, for the symmetric matrix Σ x·xᵀ of records x of a bounded norm R. One
record's matrix has Frobenius norm ‖x‖² ≤ R², whatever its dimension, and is found as one exact
product of whole numbers instead of n matrices.

>>> import numpy as np
>>> from dpgan_jax.privacy import exact_noise
>>> matrix = release_second_moments(np.ones((1000, 3)), l2_bound=2.0, noise_multiplier=1.0,
...                                 secret=exact_noise.new_secret(), purpose='example')
>>> matrix.shape, bool((matrix == matrix.T).all()), bool(np.all(np.abs(matrix - 1000) < 40))
((3, 3), True, True)

Why the accounting holds. The matrix is the vector of its diagonal and of √2 times its upper
triangle, whose Euclidean norm is the Frobenius norm. Noise of deviation σR² on every entry of that
vector is noise of deviation σR² on the diagonal and σR²/√2 above it. Each entry is drawn from the
discrete Gaussian of that variance, in whole units, plus 4, so that `exact_noise` explains why it
costs no more than the continuous one.

Source: Dwork, Talwar, Thakurta & Zhang 2014, "Analyze Gauss", algorithm 1, with the entries above
the diagonal of half the variance, as the sensitivity in the Frobenius norm allows.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.privacy import exact_noise

_GRID_BITS = 13  # the bound has 2¹³ units: cutting moves an entry by at most R/8192
_ROWS_AT_ONCE = 8192


def release_second_moments(
  rows: np.ndarray, *, l2_bound: float, noise_multiplier: float, secret: bytes, purpose: str
) -> np.ndarray:
  """Σ x·xᵀ with discrete Gaussian noise; the same arguments give the same result everywhere.

  Args:
    rows: real [n, d], one for each record; n may be 0. A row is scaled down to norm R if it is
      longer, counts as zero if it is not finite, and is cut towards zero to multiples of R/8192:
      its norm is ≤ R after that, exactly.
    l2_bound: R > 0, public.
    noise_multiplier: σ ≥ 0, relative to the sensitivity R²; 0 releases the sum as it is.
    secret: as of `exact_noise.release_sum`.
    purpose: what is released, and of what; no two releases with one secret may share it.

  Returns:
    float64 [d, d], symmetric.

  Guarantee: one Gaussian mechanism of noise multiplier σ under adding or removing one record.

  Raises:
    InputError: an argument out of range.
  """
  _validate.positive('l2_bound', l2_bound)
  _validate.non_negative('noise_multiplier', noise_multiplier)
  rows = np.asarray(rows)
  if rows.ndim != 2 or rows.dtype.kind not in 'fiub':
    raise _validate.InputError(
      f'expected rows to be real numbers [n, d], got {rows.dtype} {rows.shape}'
    )
  if len(rows) >= 2 ** (53 - 2 * _GRID_BITS):
    raise _validate.InputError(f'expected fewer than 2^{53 - 2 * _GRID_BITS} rows, got {len(rows)}')
  grid = math.ldexp(l2_bound, -_GRID_BITS)
  total = np.zeros((rows.shape[1],) * 2)
  for start in range(0, len(rows), _ROWS_AT_ONCE):
    whole = exact_noise.to_grid(rows[start : start + _ROWS_AT_ONCE], l2_bound, grid)
    # Exact in any order of adding: every partial sum is a whole number below 2⁵³.
    part = whole.astype(np.float64)
    total += part.T @ part
  upper = np.triu_indices(rows.shape[1])
  entries = total[upper].astype(np.int64)
  if noise_multiplier > 0:
    made_of = (purpose, rows.shape[1], noise_multiplier, l2_bound)
    bits = exact_noise.RandomBits(secret, f'second moments {made_of!r}')
    variance = (Fraction(noise_multiplier) * 4**_GRID_BITS) ** 2
    diagonal = upper[0] == upper[1]
    for which, share in ((diagonal, 1), (~diagonal, 2)):
      size = int(which.sum())
      entries[which] += exact_noise.draw_at_least(variance / share, size, bits)
  matrix = np.zeros_like(total)
  matrix[upper] = entries.astype(np.float64) * grid**2
  return matrix + np.triu(matrix, 1).T
