"""Histograms of many columns of private records with exact discrete Gaussian noise, released once.

As `exact_noise.release_sum` of vectors with a one for the cell of each column, without forming
them: a record adds 1 to exactly C counts, one a column, so it moves them by √C in Euclidean norm
whatever the number of cells.

>>> import numpy as np
>>> from dpgan_jax.privacy import exact_noise
>>> cells = np.tile([[0, 2]], (1000, 1))
>>> counts = release_histograms(cells, num_cells=4, noise_multiplier=1.0,
...                             secret=exact_noise.new_secret(), purpose='example')
>>> counts.shape, bool(np.all(np.abs(counts - [1000, 0, 1000, 0]) < 20))
((4,), True)
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.privacy import exact_noise

_UNITS = 2**10  # of a count: the discrete noise is wider than the continuous by 4 squares of one


def release_histograms(
  cells: np.ndarray, *, num_cells: int, noise_multiplier: float, secret: bytes, purpose: str
) -> np.ndarray:
  """How many records are in each cell, with discrete Gaussian noise of deviation σ·√C.

  Args:
    cells: int [n, C], C ≥ 1, the C cells of each record, all different, each in [0, num_cells); n
      may be 0.
    num_cells: of all columns together, public.
    noise_multiplier: σ ≥ 0, relative to the sensitivity √C; 0 releases the counts as they are.
    secret: as of `exact_noise.release_sum`.
    purpose: what is released, and of what; no two releases with one secret may share it.

  Returns:
    float64 [num_cells].

  Guarantee: one Gaussian mechanism of noise multiplier σ under adding or removing one record.

  Raises:
    InputError: an argument out of range; two cells of one record that are the same.
  """
  _validate.non_negative('noise_multiplier', noise_multiplier)
  _validate.integer('num_cells', num_cells, minimum=1)
  cells = np.asarray(cells)
  if cells.ndim != 2 or cells.dtype.kind not in 'iu' or not cells.shape[1]:
    raise _validate.InputError(
      f'expected cells to be whole numbers [n, C], C >= 1, got {cells.dtype} {cells.shape}'
    )
  if cells.size and (cells.min() < 0 or cells.max() >= num_cells):
    raise _validate.InputError(f'expected cells in [0, {num_cells})')
  ordered = np.sort(cells, axis=1)
  if (ordered[:, 1:] == ordered[:, :-1]).any():  # it would count twice: a norm above √C
    raise _validate.InputError('expected the cells of a record to be all different')
  columns = cells.shape[1]
  counts = np.bincount(cells.ravel(), minlength=num_cells).astype(np.int64) * _UNITS
  if noise_multiplier > 0:
    made_of = (purpose, num_cells, columns, noise_multiplier)
    bits = exact_noise.RandomBits(secret, f'histograms {made_of!r}')
    variance = (Fraction(noise_multiplier) * _UNITS) ** 2 * columns
    counts += exact_noise.draw_at_least(variance, num_cells, bits)
  return counts / _UNITS
