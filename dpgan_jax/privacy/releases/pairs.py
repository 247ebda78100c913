"""Two-way counts of private rows: scores that say which pairs of columns to count, and counts.

A row is in one class and in one cell of each of C columns, so it adds 1 to one count of each of
C(C - 1)/2 pairs of columns. Noise grows with the root of how many pairs are counted, so few are.
Which ones, a first release says: of each pair, how far its counts are from those that given
one-way counts imply for independent columns. Both releases have exact discrete Gaussian noise, as
`marginals` have.

>>> import numpy as np
>>> from dpgan_jax.privacy import exact_noise
>>> cells, labels = np.tile([[1, 0], [0, 2]], (500, 1)), np.zeros(1000, int)
>>> rows = TwoWay(cells, labels, 1, (2, 3), secret=exact_noise.new_secret(), purpose='example')
>>> independent = np.array([[500.0, 500, 500, 0, 500]])
>>> together, apart = rows.release_scores(independent, noise_multiplier=1.0)
>>> bool(abs(together[0] - 1000) < 20), apart.tolist()
(True, [0.0])
>>> none, all_pairs = np.zeros((2, 2), bool), np.array([[False, True], [False, False]])
>>> counts = rows.release_counts(none, all_pairs, noise_multiplier=1.0)
>>> counts.shape, bool(abs(counts[0, 1, 2] - 500) < 20), bool((counts[0] == counts[0].T).all())
((1, 5, 5), True, True)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.privacy.releases import marginals

_ROWS_AT_ONCE = 4096  # exact in float32, whose whole numbers go to 2²⁴
_HALF = marginals.UNITS // 2
MOST_ROWS = 2**36  # that a class may be said to have: sums in float64 are exact in units of scores


@dataclasses.dataclass(frozen=True)
class TwoWay:
  """Private rows, whose pairs of columns are counted.

  Attributes:
    cells: int [n, C], of each row its cell in each column, in [0, sizes[c]); n may be 0.
    labels: int [n], its class, in [0, K).
    classes: K.
    sizes: [C], how many cells each column has; public.
    secret: as of `exact_noise.release_sum`.
    purpose: what is released, and of what; no two objects with one secret may share it.
    rows_per_record: k, how many rows a record has at most, of all classes together.

  Raises:
    InputError: an attribute out of range.
  """

  cells: np.ndarray
  labels: np.ndarray
  classes: int
  sizes: Sequence[int]
  _: dataclasses.KW_ONLY
  secret: bytes
  purpose: str
  rows_per_record: int = 1

  def __post_init__(self) -> None:
    object.__setattr__(self, 'cells', marginals.checked(self.cells, self.sizes))
    labels = np.asarray(self.labels)
    whole = labels.dtype.kind in 'iu' and labels.shape == self.cells.shape[:1]
    if not whole or (labels.size and (labels.min() < 0 or labels.max() >= self.classes)):
      raise _validate.InputError(f'expected a class in [0, {self.classes}) for each row')
    object.__setattr__(self, 'labels', labels)

  @functools.cached_property
  def _exact(self) -> np.ndarray:
    """Without noise, float32 [K, D, D], or float64 where that is not exact."""
    starts = np.cumsum([0, *self.sizes])
    dtype = np.float32 if len(self.cells) < 2**24 else np.float64
    total = np.zeros((self.classes, starts[-1], starts[-1]), dtype)
    for k, counts in enumerate(total):
      own = self.cells[self.labels == k]
      for start in range(0, len(own), _ROWS_AT_ONCE):
        part = own[start : start + _ROWS_AT_ONCE] + starts[:-1]
        in_cell = np.zeros((len(part), starts[-1]), np.float32)
        np.put_along_axis(in_cell, part, 1.0, axis=1)
        counts += in_cell.T @ in_cell
    return total

  def release_scores(
    self, one_way: np.ndarray, *, noise_multiplier: float
  ) -> tuple[np.ndarray, np.ndarray]:
    """How far pairs of columns are from independence, with noise of deviation σk√P.

    With E[k] the counts of a pair in class k and B[k] what one-way counts imply for it, `together`
    is Σ |Σₖ E[k] - B[k]|, over its cells, and `apart` is half of Σₖ Σ |E[k] - r[k] Σⱼ E[j]|, where
    r[k] is what B[k] has of Σⱼ B[j]: how far classes are from depending alike. A row more moves
    both by 1 at most: it adds 1 to one cell, and there |E[k] - r[k] ΣE| moves by 1 - r[k] of its
    own class and by r[j] of others, together 2(1 - r[k]). B and r are rounded, to 1/1024 and down
    to 1/512, so that scores are whole multiples of 1/1024.

    Args:
      one_way: float64 [K, D] ≥ 0, what pairs are compared with; public.
      noise_multiplier: σ ≥ 0, relative to the sensitivity; 0 releases the scores as they are.

    Returns:
      (together, apart), float64 [C(C - 1)/2], pairs in the order of `numpy.triu_indices(C, 1)`;
      apart is 0 of a single class.

    Guarantee: one Gaussian mechanism of noise multiplier σ under adding or removing one record; P
      is the number of scores.

    Raises:
      InputError: an argument out of range.
    """
    _validate.non_negative('noise_multiplier', noise_multiplier)
    shape = self.classes, sum(self.sizes)
    if one_way.shape != shape or not ((one_way >= 0) & (one_way <= MOST_ROWS)).all():
      raise _validate.InputError(
        f'expected one_way >= 0 [{shape[0]}, {shape[1]}], at most {MOST_ROWS}, got {one_way.shape}'
      )
    found = []
    for place, first, others, base in independent(one_way, self.sizes):
      real = self._exact[:, first, others].astype(np.float64)
      both, all_of_base = real.sum(axis=0), base.sum(axis=0)
      implied = np.rint(all_of_base * marginals.UNITS) / marginals.UNITS
      share = np.floor(_HALF * base / np.maximum(all_of_base, 1e-300))
      off = np.abs(both - implied), np.abs(real - share / _HALF * both).sum(axis=0) / 2
      found.append([over_cells(each, self.sizes[place + 1 :]) for each in off])
    columns = len(self.sizes)
    scores = np.concatenate(found, axis=1) if columns > 1 else np.zeros((2, 0))
    kinds = min(self.classes, 2)
    result = np.zeros(scores.shape)
    result[:kinds] = self._noisy(
      scores[:kinds].ravel(), kinds * scores.shape[1], noise_multiplier, 'scores of pairs'
    ).reshape(kinds, -1)
    return result[0], result[1]

  def release_counts(
    self, together: np.ndarray, apart: np.ndarray, *, noise_multiplier: float
  ) -> np.ndarray:
    """How many rows are in each pair of cells of some pairs of columns, with noise of deviation
    σk√P, if P counts are what a row adds 1 to.

    Args:
      together: bool [C, C], pairs that are counted once, of all classes; the upper triangle.
      apart: bool [C, C], pairs that are counted of each class; on the diagonal columns that are
        counted by themselves.
      noise_multiplier: σ ≥ 0, relative to the sensitivity; 0 releases the counts as they are.

    Returns:
      float64 [L, D, D], symmetric, D the sum of sizes: of each class, and of all if there are
      several; 0 where nothing was counted.

    Guarantee: one Gaussian mechanism of noise multiplier σ under adding or removing one record.

    Raises:
      InputError: an argument out of range, pairs that are counted twice.
    """
    _validate.non_negative('noise_multiplier', noise_multiplier)
    if any(m.shape != 2 * (len(self.sizes),) or m.dtype != bool for m in (together, apart)):
      raise _validate.InputError('expected pairs to be bool [C, C], of all columns')
    together, apart = np.triu(together, 1), np.triu(apart)
    if (together & apart).any() or (together.any() and self.classes == 1):
      raise _validate.InputError('expected each pair to be counted in one way, got one in two')
    of_a_row = int(together.sum() + apart.sum())
    of = np.repeat(np.arange(len(self.sizes)), self.sizes)
    wanted = [apart] * self.classes + [together] * (groups(self.classes) - self.classes)
    # Other pairs get other noise.
    which = hashlib.sha256(np.stack([together, apart]).tobytes()).hexdigest()
    result = np.zeros((len(wanted), len(of), len(of)))
    for group, (counts, chosen) in enumerate(zip(result, wanted, strict=True)):
      exact = self._exact[group] if group < self.classes else self._exact.sum(axis=0)
      cells = chosen[of[:, np.newaxis], of]
      cells &= (of[:, np.newaxis] != of) | np.eye(len(of), dtype=bool)
      kind = f'of class {group}' if group < self.classes else 'of all classes'
      noisy = self._noisy(exact[cells], of_a_row, noise_multiplier, f'pairs {which} {kind}')
      counts[cells] = noisy
      counts += np.triu(counts, 1).T
    return result

  def _noisy(
    self, counts: np.ndarray, of_a_row: int, noise_multiplier: float, kind: str
  ) -> np.ndarray:
    squared = marginals.squared_sensitivity(of_a_row, self.rows_per_record)
    about = marginals.described(self.purpose, self.sizes, noise_multiplier, self.rows_per_record)
    about = f'{kind}, {of_a_row} of a row, {about}'
    return marginals.with_noise(
      counts.astype(np.float64), noise_multiplier, squared, self.secret, about
    )


def groups(classes: int) -> int:
  """L, how many tables of counts K classes have: of each, and of all if they are several."""
  return classes + (classes > 1)


def independent(
  one_way: np.ndarray, sizes: Sequence[int]
) -> Iterator[tuple[int, slice, slice, np.ndarray]]:
  """Of each column but the last, two-way counts with all later ones if they were independent.

  Yields:
    its number, the slices of its cells and of theirs, and the counts, float64 [K, cells, cells].
  """
  ends = np.cumsum(sizes)
  totals = np.maximum(one_way.sum(axis=1) / len(sizes), 1e-300)[:, np.newaxis, np.newaxis]
  for place, (size, end) in enumerate(zip(sizes[:-1], ends, strict=False)):
    own, others = slice(end - size, end), slice(end, ends[-1])
    yield place, own, others, one_way[:, own, np.newaxis] * one_way[:, np.newaxis, others] / totals


def over_cells(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
  """Sums over the cells of a column and of each later one: [cells, D] → [columns]."""
  starts = np.cumsum([0, *sizes[:-1]])
  return np.add.reduceat(values.sum(axis=0), starts)
