"""FID, KID, precision to coverage, memorisation: closed forms, and other implementations."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.linalg

from dpgan_jax._validate import InputError
from dpgan_jax.evaluation import distances

SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = hypothesis.settings(max_examples=25)


def normal(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape)


def covariance(seed: int, d: int) -> np.ndarray:
  root = normal(seed, d, d)
  return root @ root.T / d + 0.1 * np.eye(d)


# --- Fréchet distance ----------------------------------------------------------------------------


def test_gaussians_of_one_covariance_are_as_far_as_their_means():
  c, shift = covariance(0, 5), np.arange(5.0)
  distance = distances.frechet_distance(np.zeros(5), c, shift, c)
  assert distance == pytest.approx(shift @ shift, rel=1e-9)


def test_gaussians_that_commute_have_a_closed_form():
  a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.0])
  distance = distances.frechet_distance(np.zeros(3), np.diag(a), np.ones(3), np.diag(b))
  assert distance == pytest.approx(3 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-9)


def test_a_scaled_gaussian():
  """C_b = s² C_a gives (s − 1)² tr C_a."""
  c = covariance(1, 6)
  distance = distances.frechet_distance(np.zeros(6), c, np.zeros(6), 2.25 * c)
  assert distance == pytest.approx(0.25 * np.trace(c), rel=1e-9)


@EXAMPLES
@hypothesis.given(SEEDS, st.integers(1, 12))
def test_fid_is_that_of_scipys_matrix_root(seed, d):
  real, fake = normal(seed, 60, d) @ normal(seed + 1, d, d), 0.5 + normal(seed + 2, 50, d)
  mean = real.mean(axis=0) - fake.mean(axis=0)
  a, b = (np.cov(x.T).reshape(d, d) for x in (real, fake))
  root = np.real(scipy.linalg.sqrtm(a @ b))
  expected = mean @ mean + np.trace(a + b - 2 * root)
  assert distances.fid(real, fake) == pytest.approx(expected, rel=1e-6, abs=1e-6)
  assert distances.fid(fake, real) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_fid_of_a_set_with_itself_is_zero_with_silent_features_too():
  points = np.maximum(normal(3, 100, 8), 0)
  points[:, 2] = 0.0  # a unit that never fires makes the covariance singular
  assert distances.fid(points, points) == pytest.approx(0, abs=1e-9)
  assert distances.fid(points, points[::-1] + 1) == pytest.approx(8, rel=1e-9)


@pytest.mark.parametrize('n', [1, 7, 8])
def test_too_few_points_for_a_covariance_are_refused(n):
  enough, few = normal(0, 20, 8), normal(1, n, 8)
  for name, pair in (('fake', (enough, few)), ('real', (few, enough))):
    with pytest.raises(InputError, match=f'more {name} points than their 8 features.*got {n}$'):
      distances.fid(*pair)


# --- kernel distance -----------------------------------------------------------------------------


def slow_kid(x: np.ndarray, y: np.ndarray) -> float:
  """The definition, pair by pair."""

  def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
    pairs = [
      (u @ v / len(u) + 1) ** 3
      for i, u in enumerate(a)
      for j, v in enumerate(b)
      if not (same and i == j)
    ]
    return float(np.mean(pairs))

  return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@EXAMPLES
@hypothesis.given(SEEDS, st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))
def test_kid_is_its_definition(seed, n, m, d):
  x, y = normal(seed, n, d), normal(seed + 1, m, d) + 1
  assert distances.kid(x, y) == pytest.approx(slow_kid(x, y), rel=1e-8, abs=1e-8)


def test_kid_of_shifted_gaussians_has_a_closed_form():
  """x ~ N(0, I), y ~ N(m, I): moments of x·x', y·y' and x·y up to the third.

  With s = ‖m‖²: E(x·y)² = d + s, E(y·y') = s, E(y·y')² = d + 2s + s², and E(y·y')³ = s³ + 6s² +
  (3d + 6)s, from the inner product of the third moments of y with themselves. The standard
  error of the estimate is 0.11 (measured over seeds), a sixth of the tolerance.
  """
  d, m = 4, np.array([1.0, 0.5, 0.0, 0.0])
  s = m @ m
  within_x = 1 + 3 * d / d**2
  within_y = (
    1 + 3 * s / d + 3 * (d + 2 * s + s**2) / d**2 + (s**3 + 6 * s**2 + (3 * d + 6) * s) / d**3
  )
  across = 1 + 3 * (d + s) / d**2
  expected = within_x + within_y - 2 * across
  got = distances.kid(normal(0, 2000, d), normal(1, 2000, d) + m)
  assert got == pytest.approx(expected, abs=0.65)
  assert expected > 1


def test_kid_is_unbiased():
  """Its mean over pairs of small samples of one Gaussian is 0, within 5 standard errors."""
  values = [distances.kid(normal(2 * i, 20, 3), normal(2 * i + 1, 20, 3)) for i in range(400)]
  assert abs(np.mean(values)) < 5 * np.std(values) / np.sqrt(len(values))
  assert min(values) < 0


# --- precision to coverage -----------------------------------------------------------------------


def slow_prdc(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
  """The definitions (Naeem et al. 2020, section 3), one point at a time."""

  def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, np.newaxis] - b[np.newaxis]) ** 2).sum(axis=2))

  def radii(points: np.ndarray) -> np.ndarray:
    return np.array(
      [np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(distance(points, points))]
    )

  between, real_radii, fake_radii = distance(real, fake), radii(real), radii(fake)
  n, m = len(real), len(fake)
  precise = sum(any(between[i, j] < real_radii[i] for i in range(n)) for j in range(m)) / m
  recalled = sum(any(between[i, j] < fake_radii[j] for j in range(m)) for i in range(n)) / n
  density = sum(between[i, j] < real_radii[i] for i in range(n) for j in range(m)) / (k * m)
  covered = sum(any(between[i, j] < real_radii[i] for j in range(m)) for i in range(n)) / n
  return precise, recalled, float(density), covered


@EXAMPLES
@hypothesis.given(SEEDS, st.integers(6, 25), st.integers(6, 25), st.integers(1, 5))
def test_prdc_is_its_definition(seed, n, m, k):
  real, fake = normal(seed, n, 3), 1.2 * normal(seed + 1, m, 3) + 0.5
  assert tuple(distances.prdc(real, fake, nearest_k=k)) == pytest.approx(slow_prdc(real, fake, k))


def test_prdc_is_that_of_the_authors_package(capsys):
  package = pytest.importorskip('prdc')
  real, fake = normal(0, 500, 8), normal(1, 400, 8) * 0.8 + 0.3
  expected = package.compute_prdc(real, fake, nearest_k=5)
  assert distances.prdc(real, fake)._asdict() == pytest.approx(expected)


@EXAMPLES
@hypothesis.given(SEEDS)
def test_nothing_depends_on_the_order_of_points(seed):
  rng = np.random.default_rng(seed)
  real, fake = normal(seed, 30, 3), normal(seed + 1, 40, 3) + 0.5
  mixed = rng.permutation(real), rng.permutation(fake)
  assert distances.prdc(*mixed) == distances.prdc(real, fake)
  assert distances.kid(*mixed) == pytest.approx(distances.kid(real, fake), abs=1e-9)
  assert distances.fid(*mixed) == pytest.approx(distances.fid(real, fake), abs=1e-9)


@EXAMPLES
@hypothesis.given(SEEDS, st.floats(0, 3), st.floats(0.1, 3))
def test_scores_stay_in_their_ranges(seed, shift, scale):
  real, fake = normal(seed, 30, 4), scale * normal(seed + 1, 25, 4) + shift
  found = distances.prdc(real, fake)
  assert all(0 <= x <= 1 for x in (found.precision, found.recall, found.coverage))
  assert 0 <= found.density <= len(real) / 5
  assert distances.fid(real, fake) >= 0


def test_blocks_change_nothing(monkeypatch):
  real, fake = normal(0, 70, 5), normal(1, 60, 5) + 0.3
  whole = distances.prdc(real, fake), distances.kid(real, fake), distances.nearest(real, fake)
  monkeypatch.setattr(distances, '_BLOCK_BYTES', 7 * 60 * 8)
  assert distances.prdc(real, fake) == whole[0]
  assert distances.kid(real, fake) == pytest.approx(whole[1], rel=1e-12)
  np.testing.assert_allclose(distances.nearest(real, fake), whole[2], rtol=1e-6)


def clusters(seed: int, which: range) -> np.ndarray:
  centres = 20 * np.eye(8)
  return np.concatenate([centres[k] + normal(seed + k, 50, 8) for k in which])


def test_known_answers():
  real, again = clusters(0, range(8)), clusters(100, range(8))
  same = distances.prdc(real, again)
  assert min(same.precision, same.recall, same.coverage) > 0.85
  assert same.density == pytest.approx(1, abs=0.15)
  noise = distances.prdc(real, 40 * normal(7, 400, 8))
  assert noise.precision == noise.density == noise.coverage == 0
  dropped = distances.prdc(real, np.concatenate([clusters(s, range(2)) for s in (200, 300)]))
  assert dropped.precision > 0.85  # every sample is good, but six of eight modes are missing
  assert dropped.recall <= 0.25
  assert dropped.coverage <= 0.25
  collapsed = distances.prdc(real, real[:1] + 1e-3 * normal(8, 400, 8))
  assert collapsed.precision == 1
  assert collapsed.recall <= 0.01
  assert collapsed.coverage < 0.05
  assert distances.fid(real, again) < 1 < distances.fid(real, clusters(200, range(2)))


# --- memorisation --------------------------------------------------------------------------------


@EXAMPLES
@hypothesis.given(SEEDS, st.integers(1, 20), st.integers(1, 20))
def test_nearest_is_brute_force(seed, n, m):
  queries, references = normal(seed, n, 3), normal(seed + 1, m, 3)
  expected = np.linalg.norm(queries[:, np.newaxis] - references, axis=2)
  got, index = distances.nearest(queries, references)
  np.testing.assert_allclose(got, expected.min(axis=1), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(expected[np.arange(n), index], expected.min(axis=1), atol=1e-5)


def test_copies_are_found_and_fresh_points_are_not():
  train, held_out, fresh = normal(0, 2000, 6), normal(1, 500, 6), normal(2, 500, 6)
  copied = distances.memorisation(train[:300], train, held_out)
  assert copied.copy_share == 1
  assert copied.median_generated_to_train == 0
  assert copied.z_score < -20
  assert (
    copied.closer_to_train > 0.6
  )  # a quarter of the training points stand against held-out ones
  # Standard errors: 0.022 of a share of one half, 0.0045 of one hundredth, 1 of z.
  honest = distances.memorisation(fresh, train, held_out)
  assert honest.closer_to_train == pytest.approx(0.5, abs=0.1)
  assert honest.copy_share < 0.04
  assert abs(honest.z_score) < 4.5
  far = distances.memorisation(fresh + 30, train, held_out)
  assert far.copy_share == 0
  assert far.z_score > 20
  assert (far.queries, far.references) == (500, 500)


def test_half_copies_are_found():
  train, held_out, fresh = normal(0, 500, 6), normal(1, 500, 6), normal(2, 200, 6)
  found = distances.memorisation(np.concatenate([train[:200], fresh]), train, held_out)
  assert found.closer_to_train == pytest.approx(0.75, abs=0.06)
  assert found.copy_share == pytest.approx(0.5, abs=0.05)


def test_the_alarm_rings_for_copies_only():
  train, held_out, fresh = normal(0, 2000, 6), normal(1, 500, 6), normal(2, 500, 6)
  plain = 0.05 * normal(3, 500, 6)  # near to everything, and nobody's copies
  for generated, rings in (
    (train[:300], True),
    (train[:300] + 0.01 * normal(4, 300, 6), True),
    (np.concatenate([train[:50], fresh[:450]]), True),  # one in ten
    (fresh, False),
    (fresh + 30, False),
    (plain, False),
    (held_out, False),  # copies of what nobody was trained on
  ):
    found = distances.memorisation(generated, train, held_out)
    assert found.alarm is rings, found
  found = distances.memorisation(plain, train, held_out)
  assert found.many_near
  assert 'by chance' in found.sentence


def test_duplicates_in_the_data_are_no_copies_of_training_points():
  """Points that training and held-out sets share lie at 0 of both."""
  train, held_out = normal(0, 400, 6), normal(1, 200, 6)
  held_out[:40] = train[:40]
  shared = distances.memorisation(np.repeat(train[:40], 5, axis=0), train, held_out)
  assert shared.many_near
  assert not shared.alarm
  assert distances.memorisation(train[100:300], train, held_out).alarm


def test_the_alarm_is_rarely_false():
  """Each of its two conditions is wrong in at most 1 of 40 cases, and both have to be."""
  honest = ([normal(3 * s + i, n, 4) for i, n in enumerate((90, 240, 80))] for s in range(200))
  found = [distances.memorisation(*points) for points in honest]
  assert sum(one.alarm for one in found) <= 5
  # Of what is near, chance has 240 of 320 nearest to a training point. Standard error 0.04.
  shares = [one.near_train_share for one in found if one.near_train_interval != (0, 1)]
  assert len(shares) > 90
  assert np.mean(shares) == pytest.approx(240 / 320, abs=0.13)


@pytest.mark.parametrize(
  ('copy_interval', 'near_train_interval', 'rings'),
  [
    ((0.05, 0.09), (0.8, 0.9), True),
    ((0.02, 0.09), (0.8, 0.9), False),  # no more than fresh points may be
    ((0.05, 0.09), (0.7, 0.9), False),  # plain, not copied
    ((0.02, 0.09), (0.7, 0.9), False),
  ],
)
def test_the_alarm_needs_both(copy_interval, near_train_interval, rings):
  found = dataclasses.replace(
    distances.memorisation(normal(0, 50, 3), normal(1, 60, 3), normal(2, 20, 3)),
    copy_share=0.06, copy_interval=copy_interval, fresh_interval=(0.0, 0.03),
    near_train_share=0.85, near_train_interval=near_train_interval, near_train_chance=0.75,
  )  # fmt: skip
  assert found.alarm is rings
  assert found.sentence.startswith('ALARM' if rings else 'No sign of copies')


@EXAMPLES
@hypothesis.given(SEEDS, st.integers(30, 90), st.floats(0, 1), st.floats(0, 2))
def test_number_interval_sentence_and_flag_agree(seed, n, share, spread):
  train, held_out = normal(seed, 120, 3), normal(seed + 1, 60, 3)
  copies = train[: round(share * n)]
  generated = np.concatenate([copies, spread * normal(seed + 2, n - len(copies), 3)])
  found = distances.memorisation(generated, train, held_out)
  for value, (low, high) in (
    (found.copy_share, found.copy_interval),
    (found.near_train_share, found.near_train_interval),
  ):
    assert 0 <= low <= value <= high <= 1
  assert found.alarm == found.sentence.startswith('ALARM, copies')
  assert found.alarm != found.sentence.startswith('No sign of copies')
  if found.alarm:
    assert found.copy_interval[0] > found.fresh_interval[1]
    assert found.near_train_interval[0] > found.near_train_chance
  assert f'{found.copy_share:.1%} of samples' in found.sentence
  assert ('{:.1%} to {:.1%})'.format(*found.copy_interval)) in found.sentence


# --- wrong input ---------------------------------------------------------------------------------

GOOD = normal(0, 20, 3)
WITH_NAN = np.where(np.arange(60).reshape(20, 3) == 7, np.nan, GOOD)


@pytest.mark.parametrize('function', [distances.fid, distances.kid, distances.prdc])
@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (WITH_NAN, 'expected finite features, got NaN or infinity'),
    (GOOD[:, :2], 'as many features in both sets, got '),
    (GOOD[0], r'features \[n, d\], none of them 0, got \(3,\)'),
    (GOOD[:0], r'got \(0, 3\)'),
  ],
  ids=['nan', 'width', 'one dimension', 'empty'],
)
def test_wrong_features_are_refused(function, bad, message):
  for pair in ((GOOD, bad), (bad, GOOD)):
    with pytest.raises(InputError, match=message) as caught:
      function(*pair)
    assert '\n' not in str(caught.value)


def test_too_few_points_are_refused():
  with pytest.raises(InputError, match='at least 2 points of each kind, got 1 and 20'):
    distances.kid(GOOD[:1], GOOD)
  with pytest.raises(InputError, match=r'more than nearest_k = 5 points .*got 20 real and 5 fake'):
    distances.prdc(GOOD, GOOD[:5])
  with pytest.raises(InputError, match='expected nearest_k >= 1, got 0'):
    distances.prdc(GOOD, GOOD, nearest_k=0)
  with pytest.raises(InputError, match='at least one reference point'):
    distances.nearest(GOOD, GOOD[:0])
  with pytest.raises(InputError, match='none of them 0'):
    distances.memorisation(GOOD, GOOD, GOOD[:0])
