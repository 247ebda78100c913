"""dpgan_jax.privacy.step_noise: tails, bits and grid of the noise in a step of DP-SGD."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import step_noise
from experiments.trust import statistical_checks as statistics

ALARM = 1e-6
SCALE = 2.0**19  # units of the grid in a standard deviation, the fewest that there are
add = jax.jit(step_noise.add_gaussian, static_argnums=(2, 3))
from_words = jax.jit(step_noise.from_words, static_argnums=1)


def random_words(n: int, seed: int = 0) -> list[np.ndarray]:
  return list(np.random.default_rng(seed).integers(0, 2**32, (5, n), np.uint32))


def noise(n: int, key: int = 0) -> np.ndarray:
  return np.asarray(add(jax.random.key(key), jnp.zeros(n, jnp.float32), 1.0, 1.0), np.float64)


# --- the law --------------------------------------------------------------------------------------


def test_distribution():
  """Kolmogorov-Smirnov of 10⁶ values at a false alarm of 1e-6: a scale off by 1.5 % is found.

  Such a scale moves the distribution function by 0.0036, and 0.0027 is enough to be refused. The
  dither's 0.13 % is not: it moves it by 0.0003.
  """
  sample = noise(1_000_000)
  statistics.noise_is_normal(sample, 1.0, alarm=ALARM)
  for factor in (2 / 3, 3 / 2, 1 / 1.015, 1.015):
    with pytest.raises(statistics.Violation):
      statistics.noise_is_normal(sample, factor, alarm=ALARM)
  assert sample.std() == pytest.approx(math.sqrt(1 + 1 / 384), abs=5 / math.sqrt(2e6))


def test_tails_of_ordinary_draws():
  """Binomial tests of how many of a million values lie beyond 3 to 5 standard deviations."""
  sample = np.abs(noise(1_000_000, key=1)) / math.sqrt(1 + 1 / 384)
  for bound in (3.0, 4.0, 4.5, 5.0):
    beyond = int((sample > bound).sum())
    wanted = 2 * scipy.stats.norm.sf(bound)
    assert scipy.stats.binomtest(beyond, len(sample), wanted).pvalue > ALARM, bound


def test_the_far_tail_has_its_law_and_its_low_bits():
  """Given a first word of zero, the radius is beyond 6.66, where no float32 normal has ever been:
  R²/2 - 32·log 2 is exponential. KS of 50,000, and χ² of the low 8 bits with their dither."""
  words = random_words(50_000)
  words[0][:] = 0
  words[2] &= 1  # an angle of zero: the radius itself, with either sign
  whole, dither = (np.asarray(part, np.float64) for part in from_words(words, SCALE))
  whole, both = whole / SCALE, whole + np.floor(dither / 256)
  squares = whole**2 / 2 - 32 * math.log(2)
  assert scipy.stats.kstest(squares, 'expon').pvalue > ALARM
  assert scipy.stats.kstest(squares / 1.05, 'expon').pvalue < ALARM
  assert (np.abs(whole) > 6.6).all()
  assert scipy.stats.chisquare(np.bincount(both.astype(int) % 256, minlength=256)).pvalue > ALARM


def test_noise_and_dither_have_words_of_their_own():
  """And each half of the dither one of its own: only their sum has a density without steps, which
  the proof needs.
  """
  words = random_words(1000)
  words[0] &= 15  # so far out that the second word counts
  whole, dither = from_words(words, SCALE)
  for i in range(5):
    others = [word if j != i else word ^ np.uint32(0xFFFFFFFF) for j, word in enumerate(words)]
    other_whole, other_dither = from_words(others, SCALE)
    assert ((other_whole != whole).any(), (other_dither != dither).any()) == (i < 3, i >= 3)
  zero, most = np.zeros(1, np.uint32), np.full(1, 2**32 - 1, np.uint32)
  for halves in ([zero, most], [most, zero]):
    assert from_words([zero] * 3 + halves, SCALE)[1] == 0


def test_reach():
  """What a value can be at most, and how much the ideal Gaussian has beyond in 10¹² values."""
  zero, most = np.zeros(1, np.uint32), np.full(1, 2**32 - 1, np.uint32)
  whole, dither = from_words([zero] * 5, SCALE)
  assert whole[0] / SCALE == pytest.approx(step_noise.REACH, rel=1e-6)
  assert list(dither) == [-(2**24) + 1]
  assert list(from_words([most] * 5, SCALE)[1]) == [2**24 - 1]
  assert np.abs(from_words([most] * 5, SCALE)[0]).max() <= 1  # a radius of zero, not of NaN
  assert 2 * scipy.stats.norm.sf(step_noise.REACH) * 1e12 < 1e-8
  # Nothing on the way leaves the whole numbers that float32 holds.
  assert step_noise.UNITS * step_noise.REACH * 1.001 + 2**17 < 2**24


def test_rounding_moves_a_value_by_less_than_is_claimed():
  """η of the module: against Box and Muller in float64, on random words and on extreme ones."""
  n = 100_000
  words = random_words(n, seed=1)
  words[0][: n // 4] >>= np.random.default_rng(2).integers(0, 32, n // 4).astype(np.uint32)
  words[0][-1000:] = 2**32 - 1 - np.arange(1000, dtype=np.uint32)
  found = np.asarray(from_words(words, SCALE)[0], np.float64) / SCALE
  high, low, turn = (word.astype(np.float64) for word in words[:3])
  u = high * 2.0**-32 + (low + 0.5) * 2.0**-64
  radius, angle = np.sqrt(-2 * np.log(u)), turn // 2 * (math.pi / 2 * 2.0**-31)
  wanted = radius * np.cos(angle) * np.where(turn % 2, -1, 1)
  # Near the centre, where float32 has few numbers below 1, the radius is coarser; few lie there.
  centre = radius < 0.05
  assert np.abs(found - wanted)[~centre].max() <= 2.0**-19
  # Roundings do not shrink the noise by more than the margin on its scale.
  assert abs(np.vdot(found - wanted, wanted) / np.vdot(wanted, wanted)) < step_noise._MARGIN - 1
  # There the distribution function is what matters: of u, off by 2⁻²⁴ at most.
  coarse = np.sqrt(-2 * np.log(np.minimum(u + 2.0**-24, 1)))
  finer = np.sqrt(-2 * np.log(np.maximum(u - 2.0**-24, 2.0**-99)))
  sizes, cosines = np.abs(found[centre]), np.cos(angle[centre])
  assert (sizes >= coarse[centre] * cosines - 2 / SCALE).all()
  assert (sizes <= finer[centre] * cosines + 2 / SCALE).all()


def test_values_are_independent():
  """Of leaves, steps and halves of a leaf, and in size too: noise and its squares.

  False alarm 1e-6 in each; a tenth of the variance shared is found with power > 99.9 %.
  """
  n = 20_000
  tree = {'a': jnp.zeros((n // 2, 2)), 'b': jnp.zeros(n), 'c': jnp.zeros(n)}
  samples = []
  for step in range(3):
    found = add(jax.random.fold_in(jax.random.key(3), step), tree, 1.0, 1.0)
    samples += [np.ravel(leaf) for leaf in found.values()]
  halves = noise(2 * n, key=4).reshape(2, n)
  for values in ([*samples, *halves], [np.square(s) - 1 for s in [*samples, *halves]]):
    statistics.noise_is_unshared(values, alarm=ALARM)
    for value in values:
      statistics.noise_is_white(value, (1, 2, n // 2), alarm=ALARM)


@pytest.mark.parametrize('spec', [('d',), pytest.param((None, 'd'), marks=pytest.mark.slow)])
@pytest.mark.parametrize('kind', list(AxisType)[:2])
def test_devices_that_share_a_leaf_make_the_noise_of_their_parts(kind, spec):
  """The same noise, without words between devices, and without the whole of it anywhere."""
  mesh = jax.make_mesh((8,), ('d',), axis_types=(kind,))
  leaf = jnp.ones((64, 128))
  shared = jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))
  with jax.set_mesh(mesh):
    compiled = add.lower(jax.random.key(0), shared, 1.0, 1.0).compile()
    found = compiled(jax.random.key(0), shared)
  assert not re.findall('all-gather|all-reduce|all-to-all|collective-permute', compiled.as_text())
  assert compiled.memory_analysis().temp_size_in_bytes < leaf.nbytes / 8
  np.testing.assert_array_equal(found, add(jax.random.key(0), leaf, 1.0, 1.0))


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('sensitivity', 'sigma'), [(1.0, 1.0), (0.1, 3.7), (30.0, 0.02)])
def test_results_are_multiples_of_a_public_grid(sensitivity, sigma):
  """Whatever the sum is; and of the multiples that there are, all low bits occur alike."""
  unit = step_noise.grid_of(sigma * sensitivity)
  assert math.frexp(unit)[0] == 0.5  # a power of two
  assert 2**19 <= sigma * sensitivity / unit < 2**20
  rng = np.random.default_rng(0)
  for size in (0, 1e-6, 1, 1e6):
    total = jnp.asarray(size * sensitivity * rng.standard_normal(100_000), jnp.float32)
    found = np.asarray(add(jax.random.key(1), total, sensitivity, sigma), np.float64) / unit
    np.testing.assert_array_equal(found, np.round(found))
    if size * sensitivity < 4 * sigma * sensitivity:  # float32 has all multiples there
      low = np.bincount(found.astype(np.int64) % 256, minlength=256)
      assert scipy.stats.chisquare(low).pvalue > ALARM


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(
  total=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
  whole=st.integers(-9_900_000, 9_900_000),
  dither=st.integers(-(2**24) + 1, 2**24 - 1),
  exponent=st.integers(-60, 20),
)
def test_the_result_is_the_exact_one_rounded_once(total, whole, dither, exponent):
  """In rational arithmetic; the sum is looked at to 1/256 of a unit, and nothing else of it."""
  unit = 2.0**exponent
  total = np.float32(total) * np.float32(unit)
  looked_at = math.floor(Fraction(float(total)) / Fraction(unit) * 256)
  exact = whole + (looked_at + dither + 128) // 256
  found = step_noise._add(jnp.asarray([total]), jnp.asarray([whole]), jnp.asarray([dither]), unit)
  assert np.asarray(found)[0] == np.float32(exact) * np.float32(unit)


def test_what_rounding_adds_to_the_sensitivity_is_in_the_noise():
  """Of a sum of many entries, the noise is larger by √d/256 units: here by 10 %."""
  sigma, d = 50_000.0, 250_000
  unit = step_noise.grid_of(sigma)
  added = unit / 256 * math.sqrt(d)
  assert added > 0.1
  found = np.asarray(add(jax.random.key(5), jnp.zeros(d), 1.0, sigma), np.float64)
  wanted = sigma * math.sqrt((1 + added) ** 2 + (2**16 * unit / sigma) ** 2 / 6)
  assert found.std() == pytest.approx(wanted, rel=4 / math.sqrt(2 * d))
  with pytest.raises(InputError, match=r'expected noise_multiplier < .* for 250000 parameters'):
    add(jax.random.key(5), jnp.zeros(d), 1.0, 1e7)


def test_bits_do_not_depend_on_settings_of_the_process():
  before = noise(1001)
  for setting in (
    jax.threefry_partitionable(False), jax.threefry_partitionable(True), jax.enable_x64(True),
    jax.numpy_dtype_promotion('strict'), jax.default_matmul_precision('bfloat16'),
  ):  # fmt: skip
    with setting:
      np.testing.assert_array_equal(noise(1001), before)


def test_nothing_to_add_to():
  assert step_noise.add_gaussian(jax.random.key(0), {}, 1.0, 1.0) == {}
  assert step_noise.add_gaussian(jax.random.key(0), jnp.zeros((0, 3)), 1.0, 1.0).shape == (0, 3)
  alone = add(jax.random.key(0), jnp.zeros(()), 1.0, 1.0)
  mixed = add(jax.random.key(0), [jnp.zeros((0,)), jnp.zeros(())], 1.0, 1.0)
  assert mixed[0].shape == (0,)
  assert mixed[1] == pytest.approx(float(alone), rel=1e-5)


def test_wide_sums_stay_wide():
  with jax.enable_x64(True):
    total = {'a': jnp.full(2000, 1 / 3, jnp.float64), 'b': jnp.zeros(2000, jnp.bfloat16)}
    found = add(jax.random.key(0), total, 1.0, 1.0)
    assert {k: v.dtype.name for k, v in found.items()} == {'a': 'float64', 'b': 'float32'}
    for value in found.values():
      np.testing.assert_array_equal(value * 2.0**19, jnp.round(value * 2.0**19))
    shift = np.asarray(found['a'], np.float64).mean()
    assert shift == pytest.approx(1 / 3, abs=5 / math.sqrt(2000))


def test_refuses():
  with pytest.raises(InputError, match='expected a key of threefry2x32 for noise, got one of rbg'):
    step_noise.add_gaussian(jax.random.key(0, impl='rbg'), jnp.zeros(3), 1.0, 1.0)
  for sigma in (1e-40, 1e40):
    with pytest.raises(InputError, match=r'expected noise_multiplier \* l2_clip_norm within'):
      step_noise.add_gaussian(jax.random.key(0), jnp.zeros(3), 1.0, sigma)
