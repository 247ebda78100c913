"""Classes of images in parts, each with a mean and a covariance of its own.

One Gaussian is a poor likeness of the images of a class, and several are a better one where they
are many enough for their noise. A class begins in parts by the signs of its codes' first numbers,
around the class mean that was released. Three times the sum and the number of codes in each part
are released, and codes go to the nearest of the centres that follow: k-means, as far as noise lets
one know it. An image is in one part of one class each time, so each is the mechanism's one use of
it.

Source: Blum, Dwork, McSherry & Nissim 2005, "Practical privacy: the SuLQ framework", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dpgan_jax.models.moments.encoding import Cells

ROUNDS = 3
_SMALLEST = 5.0  # a cell whose count is below so many deviations of its noise is none
_LEAST_WITHIN = 0.2  # of how far codes are from the common mean, that stays within cells

Release = Callable[[int, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(round, codes around the centres that are theirs [n, d], cell [n], these centres [K·C, d])
→ counts [K·C], sums [K·C, d], of one Gaussian mechanism."""


def release_cells(
  codes: np.ndarray, labels: np.ndarray, centres: np.ndarray, count: int, release_sums: Release,
  *, noise: tuple[float, float], distance: float,
) -> Cells:  # fmt: skip
  """Releases the cells of all classes, by `ROUNDS` uses of `release_sums`.

  Args:
    codes: float64 [n, d].
    labels: int [n] in [0, K).
    centres: float64 [K, d], of classes, as released.
    count: C, a power of two, of each class.
    release_sums: the mechanism.
    noise: standard deviations, in a count and in each sum.
    distance: of codes from the common mean, root mean square, as released.
  """
  classes, dim = centres.shape
  signs = codes[:, : count.bit_length() - 1] > centres[labels, : count.bit_length() - 1]
  cell = labels * count + signs @ (1 << np.arange(signs.shape[1]))
  found, counts = np.repeat(centres, count, axis=0), np.zeros(classes * count)
  for number in range(ROUNDS):
    counts, sums = release_sums(number, codes - found[cell], cell, found)
    known = counts >= max(_SMALLEST * noise[0], 0.5)  # noise would move the others
    found = found + sums * (known / np.maximum(counts, 1.0))[:, np.newaxis]
    found = found.astype(np.float32).astype(np.float64)  # as a run keeps them
    counts = _without_smallest(*(a.reshape(classes, count) for a in (counts, known))).ravel()
    cell = _nearest(codes, labels, counts.reshape(classes, -1), found.reshape(classes, -1, dim))
  shares = known * counts / max(known @ counts, 1.0)
  of_noise = shares @ (dim * (noise[1] / np.maximum(counts, 1.0)) ** 2)
  between = shares @ np.square(found - shares @ found).sum(axis=1) - of_noise
  within = math.sqrt(max(distance**2 - max(between, 0.0), (_LEAST_WITHIN * distance) ** 2))
  released = counts.reshape(classes, -1), found.reshape(classes, -1, dim), np.array(within)
  return Cells(*(array.astype(np.float32) for array in released))


def cell_of(codes: np.ndarray, labels: np.ndarray, cells: Cells) -> np.ndarray:
  """The place of each code's cell among all K·C: int [n]; codes float64 [n, d]."""
  return _nearest(codes, labels, cells.counts, np.asarray(cells.centres, np.float64))


def _nearest(
  codes: np.ndarray, labels: np.ndarray, counts: np.ndarray, centres: np.ndarray
) -> np.ndarray:
  classes, count = counts.shape
  found = np.zeros(len(codes), np.int64)
  for k in range(classes):
    own = np.flatnonzero(labels == k)
    away = [np.square(codes[own] - centre).sum(axis=1) for centre in centres[k]]
    away = np.where(counts[k] > 0, np.stack(away, axis=1), np.inf)
    found[own] = k * count + away.argmin(axis=1)
  return found


def _without_smallest(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Counts [K, C], 0 where a cell is too small; the largest of a class stays, and is at least 1."""
  largest = counts.argmax(axis=1)[:, np.newaxis] == np.arange(counts.shape[1])
  return np.where(known | largest, np.maximum(counts, 1.0), 0.0)
