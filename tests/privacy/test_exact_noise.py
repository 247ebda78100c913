"""dpgan_jax.privacy.exact_noise: counted sensitivity, exact noise, and what the accounting
rests on.
"""

from __future__ import annotations

import decimal
import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from hypothesis.extra import numpy as arrays

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.exact_noise import RandomBits, discrete_gaussian, release_sum, to_grid

ALARM = 1e-6
SECRET = bytes(range(32))
quickly = hypothesis.settings(max_examples=30, deadline=None, derandomize=True)


def bits(purpose: str = 'test') -> RandomBits:
  return RandomBits(SECRET, purpose)


def release(contributions, **changes):
  arguments = {'l2_sensitivity': 1.0, 'noise_multiplier': 2.0, 'secret': SECRET, 'purpose': 'test'}
  return release_sum(np.asarray(contributions), **(arguments | changes))


def chi_square(found: np.ndarray, values: np.ndarray, probabilities: np.ndarray) -> float:
  """p-value of the counts of `values` in `found`; rare values and the others are one class."""
  common = probabilities * len(found) > 10
  counts = np.array([(found == value).sum() for value in values[common]])
  wanted = probabilities[common] * len(found)
  rest = (len(found) - counts.sum(), len(found) - wanted.sum())
  if rest[1] > 1:
    counts, wanted = np.append(counts, rest[0]), np.append(wanted, rest[1])
  return float(scipy.stats.chisquare(counts, wanted * counts.sum() / wanted.sum()).pvalue)


# --- the law of the noise -------------------------------------------------------------------------


@pytest.mark.parametrize('variance', [1, 3, 100])
def test_discrete_gaussian_has_its_law(variance):
  """χ² at a false alarm of 1e-6; a variance off by a fifth fails for sure at 30,000 draws."""
  found = discrete_gaussian(variance, 30_000, bits(f'law {variance}'))
  values = np.arange(-12 * math.isqrt(variance), 12 * math.isqrt(variance) + 1)

  def law(v: float) -> np.ndarray:
    weights = np.exp(-(values**2) / (2 * v))
    return weights / weights.sum()

  assert chi_square(found, values, law(variance)) > ALARM
  for wrong in (0.8, 1.25):
    assert chi_square(found, values, law(variance * wrong)) < ALARM


def test_a_wide_discrete_gaussian_is_normal_down_to_its_low_bits():
  found = discrete_gaussian(4**31, 30_000, bits('wide'))
  assert scipy.stats.kstest(found / 2**31, 'norm').pvalue > ALARM
  for wrong in (2 / 3, 3 / 2):
    assert scipy.stats.kstest(found / 2**31 / wrong, 'norm').pvalue < ALARM
  low = np.bincount(found % 64, minlength=64)
  assert scipy.stats.chisquare(low).pvalue > ALARM
  assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize(('numerator', 'denominator'), [(0, 7), (1, 3), (5, 7), (7, 7), (40, 7)])
def test_bernoulli_exp(numerator, denominator):
  found = exact_noise._bernoulli_exp([numerator] * 40_000, denominator, bits(f'{numerator}'))
  probability = math.exp(-numerator / denominator)
  assert scipy.stats.binomtest(int(found.sum()), 40_000, probability).pvalue > ALARM


def test_a_coin_is_exact_where_64_bits_do_not_decide():
  """1/3 is 0x5555... in binary: words equal to it are followed by more until they differ."""

  class Fixed(RandomBits):
    def __init__(self, words):
      self.left = list(words)

    def words(self, count):
      taken, self.left = self.left[:count], self.left[count:]
      return np.array(taken, np.uint64)

  third = int('5' * 16, 16)
  toss = lambda words: exact_noise._coin([1], 3, Fixed(words))(np.zeros(1, int))[0]  # noqa: E731
  assert [toss([third - 1]), toss([third + 1])] == [True, False]
  assert [toss([third, third - 1]), toss([third, third, third + 1])] == [True, False]
  assert not exact_noise._coin([0], 3, Fixed([0, 0]))(np.zeros(1, int))[0]  # 0 < 0 is false
  assert exact_noise._coin([3], 3, Fixed([2**64 - 1]))(np.zeros(1, int))[0]


def test_laplace_and_uniform():
  found = exact_noise._discrete_laplace(3, 40_000, bits('laplace'))
  values = np.arange(-60, 61)
  weights = np.exp(-np.abs(values) / 3)
  assert chi_square(found, values, weights / weights.sum()) > ALARM
  drawn = np.bincount(exact_noise._uniform(13, 40_000, bits('uniform')), minlength=13)
  assert len(drawn) == 13
  assert scipy.stats.chisquare(drawn).pvalue > ALARM
  assert exact_noise._uniform(2**63, 100, bits()).min() >= 0


# --- why the continuous Gaussian's accounting holds -----------------------------------------------


def test_smoothing_is_what_the_docstring_says():
  """Σₖ exp(-(k - c)²/(2·4)) over the centres c differs by less than 2.01·exp(-8π²) each way."""
  with decimal.localcontext(prec=60):
    sums = [
      sum((-(decimal.Decimal(k) - c) ** 2 / 8).exp() for k in range(-40, 42))
      for c in map(decimal.Decimal, ('0', '0.25', '0.5'))
    ]
    eta = float(sums[0] / sums[1] - 1)
    assert 0.99 * 2 * math.exp(-8 * math.pi**2) < eta < 2.01 * math.exp(-8 * math.pi**2) < 2e-34
    assert abs(float(sums[2] / sums[1] - 1) / eta + 1) < 1e-3


@pytest.mark.parametrize('s', [1.0, 2.0, 5.0])
def test_delta_is_at_most_that_of_the_continuous_gaussian(s):
  """One coordinate, Δ = 1 unit, at noise so coarse that a fault in the argument would show."""
  values = np.arange(-400, 401)

  def delta(variance: float, epsilon: float, shift: int) -> float:
    p, q = (np.exp(-((values - c) ** 2) / (2 * variance)) for c in (shift, 0))
    return float(np.maximum(p / p.sum() - math.exp(epsilon) * q / q.sum(), 0).sum())

  def gaussian(epsilon: float, shift: int) -> float:
    a, b = shift / (2 * s), epsilon * s / shift
    norm = scipy.stats.norm
    return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b))

  grid = [(e, d) for e in np.linspace(0, 4, 41) for d in (1, 2, 3)]
  assert all(delta(s * s + 4, e, d) <= gaussian(e, d) + 1e-13 for e, d in grid)
  # Without the 4 it would not be true.
  assert any(delta(s * s, e, d) > gaussian(e, d) + 1e-6 for e, d in grid) or s > 2


# --- sensitivity ----------------------------------------------------------------------------------


def exact_norm_squared(row: np.ndarray) -> int:
  return sum(int(z) ** 2 for z in row)


@quickly
@hypothesis.given(
  rows=arrays.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 7)),
    elements=st.floats(allow_nan=True, allow_infinity=True, width=64),
  ),
  sensitivity=st.sampled_from([1.0, 0.3, 1e-3, 77.7]),
  bits_per_unit=st.integers(0, 40),
)  # fmt: skip
def test_no_record_is_longer_than_the_sensitivity(rows, sensitivity, bits_per_unit):
  """In exact arithmetic, for any floats, at coarse and fine grids; bad records count as nothing."""
  grid = sensitivity / (3 << bits_per_unit)
  for row, whole in zip(rows, to_grid(rows, sensitivity, grid), strict=True):
    assert Fraction(grid) ** 2 * exact_norm_squared(whole) <= Fraction(sensitivity) ** 2
    if not np.isfinite(row).all():
      assert not whole.any()


@quickly
@hypothesis.given(
  d=st.integers(1, 300), seed=st.integers(0, 2**32), exponent=st.integers(-9, 9),
  grid_bits=st.integers(8, 45),
)  # fmt: skip
def test_nor_where_rounding_decides(d, seed, exponent, grid_bits):
  """Vectors of norm Δ but for their last bits: the search for a sum that rounding lengthens."""
  x = np.random.default_rng(seed).standard_normal((20, d))
  x /= np.sqrt((x**2).sum(axis=1, keepdims=True))
  x *= 1 + exponent * 2.0**-53
  grid = 2.0**-grid_bits
  whole = to_grid(x, 1.0, grid)
  assert all(exact_norm_squared(row) <= 4**grid_bits for row in whole)
  assert np.abs(whole * grid - x).max() <= grid + (d + 20) * 2.0**-51  # and nothing else is lost


def test_counts_stay_whole():
  counts = np.eye(5)[np.arange(100) % 5]
  np.testing.assert_array_equal(to_grid(counts, 1.0, 1.0), counts)
  np.testing.assert_array_equal(release(counts, noise_multiplier=0.0), np.full(5, 20.0))
  noisy = release(counts, grid=1.0)
  np.testing.assert_array_equal(noisy, np.round(noisy))


def test_the_sum_is_exact_in_any_order_and_moves_by_one_record():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3000, 4, 3)) * rng.lognormal(sigma=4, size=(3000, 1, 1))
  whole = release(x, grid=2.0**-30)
  np.testing.assert_array_equal(release(x[rng.permutation(3000)], grid=2.0**-30), whole)
  assert whole.shape == (4, 3)
  for i in (0, 1999, 2000, 2999):
    moved = release(np.delete(x, i, axis=0), grid=2.0**-30) - whole  # the same noise
    own = to_grid(x[i].reshape(1, -1), 1.0, 2.0**-30)[0].reshape(4, 3) * 2.0**-30
    np.testing.assert_array_equal(moved, -own)
  assert np.isfinite(release(np.full((2, 3), np.nan))).all()
  assert release(np.zeros((0, 3))).shape == (3,)


# --- the release ----------------------------------------------------------------------------------


def test_noise_has_the_scale_that_is_charged():
  noise = release(np.zeros((0, 20_000)), noise_multiplier=3.0, l2_sensitivity=0.7)
  assert scipy.stats.kstest(noise / 2.1, 'norm').pvalue > ALARM
  for wrong in (2 / 3, 3 / 2):
    assert scipy.stats.kstest(noise / 2.1 / wrong, 'norm').pvalue < ALARM
  grid = exact_noise.default_grid(2.1)
  np.testing.assert_array_equal(noise / grid, np.round(noise / grid))
  assert 2**30 <= 2.1 / grid < 2**31


def test_the_same_again_and_another_for_another_purpose():
  x = np.ones((3, 50))
  first = release(x)
  np.testing.assert_array_equal(first, release(x))
  for change in ({'purpose': 'b'}, {'secret': SECRET[::-1]}, {'noise_multiplier': 2.1},
                 {'l2_sensitivity': 1.1}, {'grid': 2.0**-28}):  # fmt: skip
    assert (release(x, **change) != first).all()
  assert len(exact_noise.new_secret()) == 32
  assert exact_noise.new_secret() != exact_noise.new_secret()


def test_a_release_is_the_same_on_every_machine():
  """Whole numbers and SHA-3 all the way: a known answer."""
  found = release(np.ones((3, 3)), grid=2.0**-20)
  np.testing.assert_array_equal(found * 2**20, KNOWN)


KNOWN = [3254906, 2702001, 351977]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'l2_sensitivity': 0.0}, 'expected l2_sensitivity > 0, got 0.0'),
    ({'l2_sensitivity': math.inf}, 'expected l2_sensitivity'),
    ({'noise_multiplier': -1.0}, 'expected noise_multiplier >= 0'),
    ({'noise_multiplier': math.nan}, 'expected noise_multiplier'),
    ({'secret': b'short'}, r'at least 16 bytes \(128 bits\), got 5 bytes'),
    ({'secret': 12345}, 'at least 16 bytes .* got int'),
    ({'grid': 0.0}, 'expected grid > 0'),
    ({'grid': 2.0**-70}, r'expected grid >= .* so that 2 records fit into 63 bits'),
    ({'grid': 1e200}, 'expected grid within'),
    ({'contributions': np.ones((2, 2), complex)}, 'real numbers .* complex128'),
    ({'contributions': np.float64(3)}, r'real numbers \[n, ...\]'),
  ],
)
def test_refuses(changes, message):
  arguments = {'contributions': np.ones((2, 3)), **changes}
  with pytest.raises(InputError, match=message):
    release(arguments.pop('contributions'), **arguments)
