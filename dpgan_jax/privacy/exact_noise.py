"""Sums of private records with exact discrete Gaussian noise, for what is released once.

Floating-point noise on a floating-point sum tells the sum by its low bits (Mironov 2012), and the
sum itself may move by more than its sensitivity (Casacuberta et al. 2022). Here nothing is rounded
after it was counted: every record becomes a vector of whole numbers of a bounded norm, whole
numbers are added, and whole-number noise of the exact law is added to that.

>>> import numpy as np
>>> secret = new_secret()
>>> sums = release_sum(np.ones((1000, 3)) / 2, l2_sensitivity=1.0, noise_multiplier=2.0,
...                    secret=secret, purpose='example')
>>> bool(np.all(np.abs(sums - 500) < 40))
True

Why the accounting of the continuous Gaussian (its PLD at the same σ) holds. Let s be the standard
deviation σΔ in units of the grid, X ~ N(x, s²) the continuous mechanism on whole numbers x, and let
Y be drawn, given X, from the discrete Gaussian of variance 4 around X. Y is post-processing of X.
By Poisson summation, Σₖ exp(-(k - c)²/8) is the same for every real c within a factor 1 ± η, η =
2.01·exp(-8π²) < 2e-34 (Micciancio & Regev 2007, section 3; Peikert 2010, theorem 3.1). So the law
of Y is that of the discrete Gaussian N_Z(x, s² + 4) within a factor (1 ± η)² in each coordinate.
Hence `release_sum`, which draws from N_Z(x, ⌈s²⌉ + 4), is (ε + 8dη, δ·(1 + 8dη))-DP in d dimensions
wherever the continuous mechanism is (ε, δ)-DP. 8dη is below 1e-24 for d < 10⁸, far less than the
accountant rounds ε up by, and is not added. The cost is in the 4: with the default grid, 2⁻⁵⁸ of
the variance. (By itself N_Z(x, s²) satisfies the Gaussian's concentrated DP, Canonne, Kamath &
Steinke 2020, section 2.3; but that is less than what the PLD of the Gaussian says.)

What it takes: that SHAKE-256 with a secret of at least 128 bits cannot be told from random. Not
covered: how long it takes (the number of draws depends on the noise, not on the data).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from dpgan_jax import _validate

_GRID_BITS = 30  # the default grid has 2³⁰ to 2³¹ units in a standard deviation
_SMOOTHING = 4  # variance in units of the grid, beyond that of the continuous Gaussian
_ROWS_AT_ONCE = 2000
_BLOCK = 2**20
_SHORTEST_SECRET = 16
SECRET_BYTES = 32
_SMALLEST, _LARGEST = 2.0**-300, 2.0**300
_WORD = 2**64

Coin = Callable[[np.ndarray], np.ndarray]
"""Places int [m] of coins ↦ whether each comes up, bool [m]; anew in every call."""


def new_secret() -> bytes:
  """256 bits from the operating system."""
  return os.urandom(SECRET_BYTES)


def default_grid(standard_deviation: float) -> float:
  """The power of two of which `standard_deviation` has between 2³⁰ and 2³¹."""
  return math.ldexp(1.0, math.frexp(standard_deviation)[1] - 1 - _GRID_BITS)


def release_sum(
  contributions: np.ndarray,
  *,
  l2_sensitivity: float,
  noise_multiplier: float,
  secret: bytes,
  purpose: str,
  grid: float | None = None,
) -> np.ndarray:
  """The sum of the records' vectors with discrete Gaussian noise, in multiples of a public grid.

  The same arguments give the same result, on every machine: a release that is made again after an
  interruption is no second release. Charge it before it is made.

  Args:
    contributions: real [n, ...], one vector for each record; n may be 0. A record's vector is
      scaled down to norm Δ if it is longer, counts as zero if it holds a NaN or an infinity or its
      norm is beyond float64, and is cut towards zero to multiples of the grid: its norm is ≤ Δ
      after that, exactly.
    l2_sensitivity: Δ > 0, the bound on one record's norm.
    noise_multiplier: σ ≥ 0, relative to Δ; 0 releases the sum as it is.
    secret: at least 16 bytes (128 bits) that nobody else knows: `new_secret`, kept until the
      release is final. Whoever has it can take the noise away.
    purpose: what is released, and of what: with the numbers above it makes the noise. Two releases
      with one secret need two purposes; the same noise on two sums tells their difference.
    grid: its unit, > 0; public, so it must not come from the data. By default `default_grid(σ·Δ)`,
      so fine that cutting n records moves a sum by less than n/2³⁰ of the noise.

  Returns:
    float64 [...], a whole number times `grid` in every entry, rounded to float64.

  Guarantee: one Gaussian mechanism of noise multiplier σ, under adding or removing one record (2Δ
    for replacing one), as the module explains.

  Raises:
    InputError: an argument out of range, or a grid so fine that the sum could leave 63 bits.

  Source: Canonne, Kamath & Steinke 2020 (arXiv 2004.00010), algorithms 1 to 3.
  """
  _validate.positive('l2_sensitivity', l2_sensitivity)
  _validate.non_negative('noise_multiplier', noise_multiplier)
  _check_secret(secret)
  contributions = np.asarray(contributions)
  if contributions.dtype.kind not in 'fiub' or contributions.ndim < 1:
    raise _validate.InputError(
      f'expected contributions to be real numbers [n, ...], got {contributions.dtype} '
      f'{contributions.shape}'
    )
  if grid is None:
    grid = default_grid(noise_multiplier * l2_sensitivity or l2_sensitivity)
  _validate.positive('grid', grid)
  for name, value in (('l2_sensitivity', l2_sensitivity), ('grid', grid)):
    if not _SMALLEST <= value <= _LARGEST:
      raise _validate.InputError(f'expected {name} within 2^-300 and 2^300, got {value!r}')
  largest = Fraction(l2_sensitivity) / Fraction(grid)
  if (len(contributions) + 1) * largest + 64 * noise_multiplier * largest >= 2**62:
    least = l2_sensitivity * (len(contributions) + 64 * noise_multiplier) / 2**61
    raise _validate.InputError(
      f'expected grid >= {least:.3g}, so that {len(contributions)} records fit into 63 bits, got '
      f'{grid!r}'
    )
  total = _whole_sum(contributions, l2_sensitivity, grid)
  if noise_multiplier > 0:
    variance = (Fraction(noise_multiplier) * largest) ** 2
    made_of = (purpose, contributions.shape[1:], noise_multiplier, l2_sensitivity, grid)
    bits = RandomBits(secret, repr(made_of))
    total = total + draw_at_least(variance, total.size, bits)
  return (total.astype(np.float64) * grid).reshape(contributions.shape[1:])


def to_grid(rows: np.ndarray, l2_sensitivity: float, grid: float) -> np.ndarray:
  """Whole multiples of the grid, int64 [n, d], each of norm ≤ Δ/grid exactly.

  Args:
    rows: real [n, d].
    l2_sensitivity: Δ, at most 2⁶²·grid.
    grid: its unit.
  """
  x = np.asarray(rows, np.float64)
  # Squares, their sum, a root, quotients and products are each rounded by 2⁻⁵³ at most.
  shrink = 1 - (x.shape[1] + 16) * 2.0**-52
  with np.errstate(over='ignore', invalid='ignore'):
    norms = np.sqrt(np.einsum('nd,nd->n', x, x))
  usable = np.isfinite(norms)
  x = np.where(usable[:, np.newaxis], x, 0.0)
  norms = np.where(usable, norms, 0.0)
  factors = l2_sensitivity / np.maximum(norms, l2_sensitivity)
  whole = _cut(x, factors, grid)
  close = np.flatnonzero(norms > l2_sensitivity * shrink)  # the others are surely no longer
  limit = (Fraction(l2_sensitivity) / Fraction(grid)) ** 2
  if limit < 2**62:  # squares fit: keep what is exactly of norm Δ, such as a count of one
    squares = np.einsum('nd,nd->n', whole[close], whole[close])
    close = close[squares > math.floor(limit)]
  whole[close] = _cut(x[close], factors[close] * shrink, grid)
  return whole


def _cut(x: np.ndarray, factors: np.ndarray, grid: float) -> np.ndarray:
  return np.trunc(x * factors[:, np.newaxis] / grid).astype(np.int64)


def _whole_sum(contributions: np.ndarray, l2_sensitivity: float, grid: float) -> np.ndarray:
  total = np.zeros(math.prod(contributions.shape[1:]), np.int64)
  for start in range(0, len(contributions), _ROWS_AT_ONCE):
    rows = contributions[start : start + _ROWS_AT_ONCE]
    total += to_grid(rows.reshape(len(rows), -1), l2_sensitivity, grid).sum(axis=0)
  return total


# --- random bits ----------------------------------------------------------------------------------


def _check_secret(secret: bytes) -> None:
  if not isinstance(secret, bytes) or len(secret) < _SHORTEST_SECRET:
    got = f'{len(secret)} bytes' if isinstance(secret, bytes) else type(secret).__name__
    raise _validate.InputError(
      f'expected secret to be at least {_SHORTEST_SECRET} bytes (128 bits), got {got}'
    )


class RandomBits:
  """A stream of uniform 64-bit words: SHAKE-256 of a secret, a purpose and a counter.

  Args:
    secret: at least 16 bytes.
    purpose: names the stream; streams of different purposes are independent.
  """

  def __init__(self, secret: bytes, purpose: str) -> None:
    _check_secret(secret)
    name = len(secret).to_bytes(8, 'little') + secret + b'dpgan_jax release ' + purpose.encode()
    self._key = hashlib.sha3_512(name).digest()
    self._blocks = 0
    self._left = np.zeros(0, np.uint64)

  def words(self, count: int) -> np.ndarray:
    """The next `count` words, uint64."""
    parts, found = [self._left], len(self._left)
    if count <= found:
      drawn, self._left = self._left[:count], self._left[count:]
      return drawn
    while found < count:
      block = hashlib.shake_256(self._key + self._blocks.to_bytes(8, 'little')).digest(_BLOCK)
      self._blocks += 1
      parts.append(np.frombuffer(block, '<u8'))
      found += len(parts[-1])
    all_words = np.concatenate(parts)
    self._left = all_words[count:]
    return all_words[:count]


# --- exact sampling -------------------------------------------------------------------------------


def draw_at_least(variance: Fraction, size: int, bits: RandomBits) -> np.ndarray:
  """Noise that hides at least what a continuous Gaussian of `variance` does, int64 [size]."""
  return discrete_gaussian(math.ceil(variance) + _SMOOTHING, size, bits)


def discrete_gaussian(variance: int, size: int, bits: RandomBits) -> np.ndarray:
  """Independent whole numbers k with probability ∝ exp(-k²/(2·variance)), int64 [size], exactly.

  Every decision compares random bits with a rational number, bit by bit for as long as it takes.

  Args:
    variance: of the law's formula, a whole number from 1 to below 2¹¹⁰.
    size: how many.
    bits: where randomness comes from.

  Source: Canonne, Kamath & Steinke 2020, algorithms 2 and 3.
  """
  if not 1 <= variance < 2**110:
    raise _validate.InputError(f'expected variance within 1 and 2^110, got {variance!r}')
  scale = math.isqrt(variance) + 1
  found = np.zeros(size, np.int64)
  left = np.arange(size)
  while len(left):
    k = _discrete_laplace(scale, len(left), bits)
    # exp(-(|k| - variance/scale)²/(2·variance)), in whole numbers.
    squares = [(abs(j) * scale - variance) ** 2 for j in k.tolist()]
    taken = _bernoulli_exp(squares, 2 * variance * scale**2, bits)
    found[left[taken]] = k[taken]
    left = left[~taken]
  return found


def _discrete_laplace(scale: int, size: int, bits: RandomBits) -> np.ndarray:
  """P(k) ∝ exp(-|k|/scale), int64 [size]; algorithm 2."""
  found = np.zeros(size, np.int64)
  left = np.arange(size)
  while len(left):
    start = _uniform(scale, len(left), bits)
    kept = _bernoulli_exp(start.tolist(), scale, bits)
    left_now, start = left[kept], start[kept]
    whole = np.zeros(len(left_now), np.int64)
    running = np.arange(len(left_now))
    while len(running):
      running = running[_bernoulli_exp_1(len(running), bits)]
      whole[running] += 1
    k = start + scale * whole
    negative = (bits.words(len(k)) >> np.uint64(63)).astype(bool)
    twice = negative & (k == 0)  # 0 would be drawn with both signs
    found[left_now[~twice]] = np.where(negative, -k, k)[~twice]
    left = np.concatenate([left[~kept], left_now[twice]])
  return found


def _uniform(below: int, size: int, bits: RandomBits) -> np.ndarray:
  """Uniform whole numbers 0 ... below - 1, int64 [size], below ≤ 2⁶³."""
  found = np.zeros(size, np.int64)
  if below == 1:
    return found
  shift = np.uint64(64 - (below - 1).bit_length())
  left = np.arange(size)
  while len(left):
    drawn = bits.words(len(left)) >> shift
    good = drawn < np.uint64(below)
    found[left[good]] = drawn[good].astype(np.int64)
    left = left[~good]
  return found


def _coin(numerators: Sequence[int], denominator: int, bits: RandomBits) -> Coin:
  """Tosses that come up with probability numerator/denominator ∈ [0, 1] each: exactly.

  64 bits of a uniform real number are compared with the fraction's, and where they agree 64 more.
  """
  quotients, rests = zip(*(divmod(n << 64, denominator) for n in numerators), strict=True)
  sure = np.array([q == _WORD for q in quotients])  # the fraction is 1
  wanted = np.array([q % _WORD for q in quotients], np.uint64)

  def toss(which: np.ndarray) -> np.ndarray:
    drawn = bits.words(len(which))
    result = sure[which] | (drawn < wanted[which])
    for i in np.flatnonzero(~sure[which] & (drawn == wanted[which])):
      if rest := rests[which[i]]:
        result[i] = _coin([rest], denominator, bits)(np.zeros(1, int))[0]
    return result

  return toss


def _bernoulli_exp(numerators: Sequence[int], denominator: int, bits: RandomBits) -> np.ndarray:
  """True with probability exp(-numerator/denominator), bool [n]; algorithm 1."""
  whole, rest = zip(*(divmod(n, denominator) for n in numerators), strict=True)
  result = _odd_rounds(_coin(rest, denominator, bits), len(rest), bits)
  counts = np.array(whole, dtype=object)
  ones = 0
  while len(left := np.flatnonzero(result & (counts > ones))):
    result[left] = _bernoulli_exp_1(len(left), bits)
    ones += 1
  return result


def _bernoulli_exp_1(size: int, bits: RandomBits) -> np.ndarray:
  """True with probability exp(-1), bool [size]."""
  return _odd_rounds(lambda left: np.ones(len(left), bool), size, bits)


def _odd_rounds(coin: Coin, size: int, bits: RandomBits) -> np.ndarray:
  """True with probability exp(-γ) where coin(indices) is true with probability γ ≤ 1, bool [size].

  Round k goes on with probability γ/k, that of a coin and of 0 among k numbers.
  """
  result = np.zeros(size, bool)
  left, k = np.arange(size), 1
  while len(left):
    goes_on = coin(left) & (_uniform(k, len(left), bits) == 0)
    result[left[~goes_on]] = k % 2 == 1
    left, k = left[goes_on], k + 1
  return result
