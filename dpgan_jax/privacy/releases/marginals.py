"""One-way counts of private rows with exact discrete Gaussian noise, released once.

A record has at most k rows; k is 1 unless persons have several. A row is in one cell of each of C
columns. It adds 1 to C counts, whatever the number of cells, so it moves them by √C in Euclidean
norm, and a record moves them by k times as much (`squared_sensitivity`). Counts are whole numbers
and so is the noise, in fractions of 1/1024 that make it as good as continuous; `exact_noise`
explains why the accounting of the Gaussian mechanism holds.

>>> import numpy as np
>>> from dpgan_jax.privacy import exact_noise
>>> cells, secret = np.tile([[1, 0]], (1000, 1)), exact_noise.new_secret()
>>> one = release_one_way(cells, (2, 3), noise_multiplier=1.0, secret=secret, purpose='example')
>>> bool(np.all(np.abs(one - [0, 1000, 1000, 0, 0]) < 20))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.privacy import exact_noise

UNITS = 2**10  # of a count: the discrete noise is wider than the continuous by 4 squares of one
_DRAWS_AT_ONCE = 2**18


def squared_sensitivity(of_a_row: int, rows_per_record: int = 1) -> int:
  """Square of the Euclidean distance that one record moves counts by.

  Proof that k rows move them by k times as much as one. Put the counts of all classes end to end,
  as one vector. A row adds e(r), with a 1 in each of P places and 0 elsewhere: ‖e(r)‖ = √P. A
  record of m ≤ k rows, whatever their cells and classes, adds Σ e(rᵢ), and ‖Σ e(rᵢ)‖ ≤ Σ ‖e(rᵢ)‖ =
  m√P ≤ k√P. Rows that are all alike attain k√P, so no smaller number holds. Rows in k different
  classes add only √(kP), but a person may have them in one: classes of persons do not compose in
  parallel. Noise of deviation σk√P in every count of every class, drawn independently, is therefore
  one Gaussian mechanism of multiplier σ on the whole vector. Replacing a record moves it by 2k√P at
  most, which the accountant of that relation takes. What a row moves by at most 1 in each of P
  places (`pairs`) is moved by k√P at most for the same reason.

  Args:
    of_a_row: P ≥ 0, how many counts a row moves.
    rows_per_record: k ≥ 1.
  """
  _validate.integer('rows_per_record', rows_per_record, minimum=1)
  return rows_per_record**2 * of_a_row


def release_one_way(
  cells: np.ndarray, sizes: Sequence[int], *, noise_multiplier: float, secret: bytes, purpose: str,
  rows_per_record: int = 1,
) -> np.ndarray:  # fmt: skip
  """How many rows are in each cell of each column, with noise of deviation σk√C.

  Args:
    cells: int [n, C], of each row its cell in each column, in [0, sizes[c]); n may be 0.
    sizes: [C], how many cells each column has; public.
    noise_multiplier: σ ≥ 0, relative to the sensitivity; 0 releases the counts as they are.
    secret: as of `exact_noise.release_sum`.
    purpose: what is released, and of what; no two releases with one secret may share it.
    rows_per_record: k, how many rows a record has at most, of this and all other classes.

  Returns:
    float64 [sum of sizes], column after column.

  Guarantee: one Gaussian mechanism of noise multiplier σ under adding or removing one record, for
    all classes together, if each is released with noise of its own.

  Raises:
    InputError: an argument out of range.
  """
  _validate.non_negative('noise_multiplier', noise_multiplier)
  cells = checked(cells, sizes)
  starts = np.cumsum([0, *sizes])
  counts = np.bincount((cells + starts[:-1]).ravel(), minlength=int(starts[-1]))
  squared = squared_sensitivity(len(sizes), rows_per_record)
  about = f'one-way {described(purpose, sizes, noise_multiplier, rows_per_record)}'
  return with_noise(counts, noise_multiplier, squared, secret, about)


def described(
  purpose: str, sizes: Sequence[int], noise_multiplier: float, rows_per_record: int
) -> str:
  """What the noise is made of."""
  several = (rows_per_record,) if rows_per_record > 1 else ()
  return repr((purpose, tuple(sizes), noise_multiplier, *several))


def checked(cells: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
  """Cells int64 [n, C], each in [0, sizes[c])."""
  for size in sizes:
    _validate.integer('sizes', size, minimum=1)
  cells = np.asarray(cells)
  if cells.shape[1:] != (len(sizes),) or cells.dtype.kind not in 'iu' or not len(sizes):
    raise _validate.InputError(
      f'expected cells to be whole numbers [n, {len(sizes) or "C >= 1"}], got {cells.dtype} '
      f'{cells.shape}'
    )
  if cells.size and (cells.min() < 0 or (cells >= np.asarray(sizes)).any()):
    raise _validate.InputError('expected cells in [0, sizes)')
  return cells.astype(np.int64)


def with_noise(
  counts: np.ndarray, noise_multiplier: float, squared_sensitivity: int, secret: bytes, about: str
) -> np.ndarray:
  """Counts [n] with noise of deviation σΔ, Δ² whole; float64 [n].

  Args:
    counts: what is released: whole, or whole multiples of 1/`UNITS`.
    noise_multiplier: σ ≥ 0; 0 releases the counts as they are.
    squared_sensitivity: Δ², the square of the Euclidean distance that a record moves them by.
    secret: as of `exact_noise.release_sum`.
    about: names the noise: no two releases with one secret may share it.
  """
  units = np.rint(counts * UNITS).astype(np.int64)  # exact up to 2⁴³ rows
  if noise_multiplier > 0 and len(units):
    variance = (Fraction(noise_multiplier) * UNITS) ** 2 * squared_sensitivity
    bits = exact_noise.RandomBits(secret, about)
    for start in range(0, len(units), _DRAWS_AT_ONCE):
      part = units[start : start + _DRAWS_AT_ONCE]
      part += exact_noise.draw_at_least(variance, len(part), bits)
  return units / UNITS
