"""Public encodings of records as vectors whose moments are released.

An encoding is a function of one record at a time and of public numbers only, so it costs no
privacy. Two releases are made of each class: sums, and then sums of products, which the first may
have a part in. `Encoding` says what both are of, and what follows from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dpgan_jax import _validate


class Axes(NamedTuple):
  """Of scattering features of images, the directions in which codes are: arrays float32."""

  directions: Any  # [D, d], orthonormal
  centre: Any  # [D]
  variances: Any  # [d], what is expected along each, the largest first


class Cells(NamedTuple):
  """Of classes of images, C parts each: arrays float32."""

  counts: Any  # [K, C], noisy numbers of records; 0 of a cell that is none
  centres: Any  # [K, C, d]; a record is in the cell of its class whose centre is nearest
  distance: Any  # [], about how far records are from them, root mean square


@dataclasses.dataclass(frozen=True)
class Means:
  """What the first release gives.

  Attributes:
    counts: float64 [K], noisy numbers of records.
    sums: float64 [G, d], noisy sums of what the encoding says a record adds: of each class, or
      of all together.
    scale: of images, how far codes are from their common mean, as released: bounds on what a
      record adds to later sums follow from it.
    axes: of scattering features of images, by a draft that is part of the first release.
    cells: of images, where classes are released in parts.
  """

  counts: np.ndarray
  sums: np.ndarray
  scale: float = 1.0
  axes: Axes | None = None
  cells: Cells | None = None

  @property
  def digest(self) -> str:
    """`digest` of all of it."""
    return digest(self.counts, self.sums, self.scale, *(self.axes or ()), *(self.cells or ()))


def digest(*released: Any) -> str:
  """Of numbers, which is part of the `purpose` of sums that follow from them.

  Another machine may find others in their last digits. The same noise around sums of codes along
  other axes, or around other centres, would tell the difference of these sums.
  """
  arrays = (np.asarray(array, '<f8').tobytes() for array in released)
  return hashlib.sha256(b''.join(arrays)).hexdigest()


class Model(Protocol):
  """What records are drawn from, once both releases are known; it follows from them alone."""

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Records [n, ...] of the classes `labels` int64 [n]."""
    ...


class Encoding(Protocol):
  """What a kind of records has to say for its moments to be released.

  Attributes:
    dim: d, how many sums the first release has of a class, or of all.
    second_dim: s, of the s × s sums of products that the second has.
    prefixes: of the d sums, how many of the first say most of what tells classes apart, in several
      guesses; the last is d.
  """

  @property
  def dim(self) -> int: ...

  @property
  def second_dim(self) -> int: ...

  @property
  def prefixes(self) -> tuple[int, ...]: ...

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Records [n, ...] → codes [n, ...], each by itself, by public constants."""
    ...

  def groups(self, classes: int) -> int:
    """G, how many times d sums the first release has: of each class, or once of all of them."""
    ...

  def release_means(
    self, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """The first release, one Gaussian mechanism together."""
    ...

  def second_groups(self, classes: int) -> int:
    """L, how many times s × s sums of products the second release has: of each class, or once."""
    ...

  def release_seconds(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, classes: int, *,
    noise_multiplier: float, secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """The second release, one Gaussian mechanism together: float64 [L, s, s]."""
    ...

  def noise(self, noise_multiplier: float, scale: float = 1.0) -> tuple[float, float]:
    """Standard deviations of the noise in a count, and in each sum; scale is that of `Means`."""
    ...

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    """Of what a record adds to the sums, within its class, float64 [d]."""
    ...

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Model:
    """What the releases say: seconds float64 [L, s, s], and σ of the first and the second."""
    ...


class Summing(Protocol):
  """An encoding whose first release is one of each class; a record is in one of them."""

  def release_sums(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """(count, sums float64 [d]) of records of one class: one Gaussian mechanism together."""
    ...


class Multiplying(Protocol):
  """An encoding whose second release is one of each group; a record is in one of them."""

  def second_groups(self, classes: int) -> int: ...

  def second_group(self, codes: np.ndarray, labels: np.ndarray, means: Means) -> np.ndarray:
    """Which of them a record is part of, by the first release: int [n]."""
    ...

  def release_products(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Sums of products, float64 [s, s], of records of one group: one Gaussian mechanism."""
    ...


class ByGroup:
  """What encodings have in common whose second release is one of each group of records."""

  def release_seconds(
    self: Multiplying, codes: np.ndarray, labels: np.ndarray, means: Means, classes: int, *,
    noise_multiplier: float, secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """`release_products` of each group."""
    count, group = self.second_groups(classes), self.second_group(codes, labels, means)
    kind = 'class' if count == classes else 'cell'
    groups = {f'{purpose} of {kind} {g}': group == g for g in range(count)}
    if count == 1:
      groups = {f'{purpose} of all classes': np.full(len(labels), True)}
    return np.stack(
      [
        self.release_products(
          codes[own], labels[own], means, noise_multiplier=noise_multiplier, secret=secret,
          purpose=purpose,
        )
        for purpose, own in groups.items()
      ]
    )  # fmt: skip


class ByClass(ByGroup):
  """What encodings have in common whose groups are classes, in the first release too."""

  def groups(self, classes: int) -> int:
    """One of each class."""
    return classes

  def second_groups(self, classes: int) -> int:
    """One of each class."""
    return classes

  def second_group(self, codes: np.ndarray, labels: np.ndarray, means: Means) -> np.ndarray:
    """A record's class."""
    del codes, means
    return labels

  def release_means(
    self: Summing, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """`release_sums` of each class."""
    found = [
      self.release_sums(
        codes[labels == k], noise_multiplier=noise_multiplier, secret=secret,
        purpose=f'{purpose} of class {k}',
      )
      for k in range(classes)
    ]  # fmt: skip
    counts, sums = zip(*found, strict=True)
    return Means(np.array(counts), np.stack(sums))


def divided(noise_multiplier: float, *shares: float) -> tuple[float, ...]:
  """σ of Gaussian mechanisms, one after the other, that together cost what one of σ does.

  Args:
    noise_multiplier: σ ≥ 0.
    shares: w > 0 of all of them but the last, which gets what is left of 1: so they cannot cost
      more.

  Returns:
    σ/√w of each, the last too.

  Raises:
    InputError: shares that leave nothing, or not above 0.

  Source: Dong, Roth & Su 2022, corollary 3.3; each may depend on what the others released.
  """
  left = 1 - sum(shares)
  if not all(share > 0 for share in (*shares, left)):
    raise _validate.InputError(f'expected shares above 0 that leave some of 1, got {shares}')
  return tuple(noise_multiplier / math.sqrt(share) for share in (*shares, left))


def weights(dim: int) -> tuple[float, float]:
  """(a, b), a² + b² = 1, of a vector (a·x, b) whose sum gives a mean of x, ‖x‖ ≤ 1.

  The error of a mean that comes of noise in the sum has d coordinates, that of noise in the count
  one, and b² = 1/(1 + √d) makes their sum least.
  """
  in_count = 1 / math.sqrt(1 + math.sqrt(dim))
  return math.sqrt(1 - in_count**2), in_count
