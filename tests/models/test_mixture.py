"""Mixtures of products: what they are fitted to, what noise does to them, and what is drawn."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpgan_jax.models.moments.tables import mixture
from dpgan_jax.models.moments.tables.mixture import Counts, Mixture

SIZES = (3, 4, 2, 5)
N, CLASSES = 2000, 2
STEPS = mixture.STEPS


def _across(sizes=SIZES) -> np.ndarray:
  of = np.repeat(np.arange(len(sizes)), sizes)
  return of[:, np.newaxis] != of


def _counts(rows: np.ndarray, labels: np.ndarray, sizes=SIZES, classes=CLASSES) -> Counts:
  """Exact counts of rows [n, C]."""
  starts = np.cumsum([0, *sizes])[:-1]
  hot = np.zeros((len(rows), sum(sizes)))
  np.put_along_axis(hot, rows + starts, 1.0, axis=1)
  own = [hot[labels == k] for k in range(classes)]
  two = np.stack([(each.T @ each) * _across(sizes) for each in own])
  return Counts(sizes, np.stack([each.sum(axis=0) for each in own]), two, 0.0, 0.0)


def _noisy(counts: Counts, sigma: float, seed: int = 0) -> Counts:
  """Counts with noise of deviation σ in each."""
  rng = np.random.default_rng(seed)
  upper = np.triu(rng.normal(0, sigma, counts.two_way.shape))
  noise = (upper + upper.transpose(0, 2, 1)) * _across(counts.sizes)
  one_way = counts.one_way + rng.normal(0, sigma, counts.one_way.shape)
  return Counts(counts.sizes, one_way, counts.two_way + noise, sigma, sigma)


def _truth() -> Mixture:
  """Three components: two of the first class, one of the second."""
  rng = np.random.default_rng(3)
  cells = [rng.dirichlet(np.full(size, 0.4), 3) for size in SIZES]
  weights = np.array([[0.5, 0.0], [0.2, 0.0], [0.0, 0.3]])
  return Mixture(jnp.asarray(weights), jnp.asarray(np.concatenate(cells, axis=1)))


@pytest.fixture(scope='module')
def counted() -> Counts:
  """Exact counts of `N` rows of `_truth`."""
  labels = np.repeat([0, 1], (1400, 600))
  rows = mixture.draw(_truth(), SIZES, labels, np.random.default_rng(0))
  return _counts(rows, labels)


@pytest.fixture(scope='module')
def fitted(counted) -> Mixture:
  return mixture.fit(counted, 10, STEPS)


def _implied(found: Mixture, total: float = N) -> tuple[np.ndarray, np.ndarray]:
  """One-way and two-way counts that a mixture stands for, without its own code."""
  weights, cells = (np.asarray(each, np.float64) for each in found)
  one = np.einsum('mk,md->kd', weights, cells)
  two = np.einsum('mk,md,me->kde', weights, cells, cells) * _across()
  return total * one, total * two


def _check_is_one(found: Mixture, sizes: tuple[int, ...]) -> None:
  weights, cells = (np.asarray(each) for each in found)
  assert np.isfinite(weights).all()
  assert (weights >= 0).all()
  assert weights.sum() == pytest.approx(1, abs=1e-4)
  assert np.isfinite(cells).all()
  assert (cells >= 0).all()
  for column in np.split(cells, np.cumsum(sizes)[:-1], axis=1):
    np.testing.assert_allclose(column.sum(axis=1), 1, atol=1e-4)


def test_it_reproduces_exact_counts(counted, fitted):
  """Of 2,000 rows no count of a cell is off by more than 10, and on average by 3."""
  one, two = _implied(fitted)
  _check_is_one(fitted, SIZES)
  for found, real in ((one, counted.one_way), (two, counted.two_way)):
    off = np.abs(found - real)
    assert off.max() < 10
    assert np.sqrt(np.mean(off**2)) < 3
  independent = counted.one_way[:, :, np.newaxis] * counted.one_way[:, np.newaxis] * _across()
  independent /= counted.one_way.sum(axis=1)[:, np.newaxis, np.newaxis] / len(SIZES)
  assert np.abs(independent - counted.two_way).max() > 100  # columns are not independent here


def test_it_is_nearer_to_the_truth_than_what_it_was_fitted_to(counted):
  """Noise in some two hundred counts is fitted by far fewer parameters that have to be shares."""
  noisy = _noisy(counted, 40.0)
  _, two = _implied(mixture.fit(noisy, 10, STEPS), noisy.total)
  rms = lambda x: np.sqrt(np.mean((x - counted.two_way)[:, _across()] ** 2))  # noqa: E731
  assert rms(noisy.two_way) == pytest.approx(40, rel=0.1)
  assert rms(two) < 0.6 * 40


def test_precise_one_way_counts_are_met_where_two_way_counts_contradict_them(counted):
  """Two-way counts of other data, of noise; their deviations say which is to be believed."""
  shifted = np.roll(counted.two_way, 1, axis=0)
  off = {}
  for deviation in (1000.0, 10.0):
    both = Counts(SIZES, counted.one_way, shifted, np.full(sum(SIZES), deviation), 100.0)
    one, _ = _implied(mixture.fit(both, 10, STEPS))
    off[deviation] = np.abs(one - counted.one_way).max()
  assert off[10.0] < 0.2 * off[1000.0]


def test_what_is_known_of_all_classes_together_is_met_too(counted):
  """With one-way counts of each class, and nothing else of pairs."""
  together = counted.two_way.sum(axis=0, keepdims=True)
  groups = np.concatenate([np.zeros_like(counted.two_way), together])
  noise = np.full(groups.shape, math.inf)
  noise[-1] = 1.0
  found = mixture.fit(Counts(SIZES, counted.one_way, groups, 1.0, noise), 10, STEPS)
  one, two = _implied(found)
  assert np.sqrt(np.mean((one - counted.one_way) ** 2)) < 3
  assert np.sqrt(np.mean((two.sum(axis=0) - together[0]) ** 2)) < 3
  ones, implied = mixture.marginals(found, SIZES)
  np.testing.assert_allclose(N * ones, one, atol=1e-2)
  np.testing.assert_allclose(N * implied, [*two, two.sum(axis=0)], atol=1e-2)


def test_the_same_counts_give_the_same_parameters(counted, fitted):
  for one, other in zip(mixture.fit(counted, 10, STEPS), fitted, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  ('sizes', 'classes'), [((1,), 1), ((4,), 2), ((1, 3), 1), ((1, 1, 1), 2), ((2, 1, 3), 3)]
)
def test_small_tables(sizes, classes):
  """One column, one class, columns of one cell."""
  rng = np.random.default_rng(1)
  rows = rng.integers(0, sizes, (300, len(sizes)))
  labels = np.arange(300) % classes
  counts = _counts(rows, labels, sizes, classes)
  found = mixture.fit(counts, 4, 300)
  _check_is_one(found, sizes)
  weights, cells = (np.asarray(each) for each in found)
  one = 300 * np.einsum('mk,md->kd', weights, cells)
  np.testing.assert_allclose(one, counts.one_way, atol=6)
  drawn = mixture.draw(found, sizes, labels, rng)
  assert drawn.shape == rows.shape
  assert ((drawn >= 0) & (drawn < sizes)).all()


@pytest.mark.parametrize('kind', ['zero', 'negative', 'noise', 'huge', 'one_cell'])
def test_counts_that_no_table_has(kind):
  """What noise makes of few rows, and worse: a mixture all the same."""
  rng = np.random.default_rng(2)
  sizes, dim = (3, 4), 7
  noise = rng.normal(0, 1000, (2, dim, dim))
  one_way = {
    'zero': np.zeros((2, dim)), 'negative': np.full((2, dim), -50.0),
    'noise': rng.normal(0, 1000, (2, dim)), 'huge': rng.normal(0, 1e12, (2, dim)),
    'one_cell': np.eye(2, dim) * 1e6,
  }[kind]  # fmt: skip
  two_way = {'zero': np.zeros_like(noise), 'huge': noise * 1e9}.get(kind, noise + noise.mT)
  found = mixture.fit(Counts(sizes, one_way, two_way * _across(sizes), 1000.0, 1000.0), 10, 200)
  _check_is_one(found, sizes)
  drawn = mixture.draw(found, sizes, np.arange(50) % 2, rng)
  assert ((drawn >= 0) & (drawn < sizes)).all()


@pytest.mark.parametrize('scale', [100.0, 1e4, 1e30])
def test_extreme_logits_are_a_mixture(counted, scale):
  """Exponents far beyond float32's: a share that is none is 0, and no column is left empty."""
  rng = np.random.default_rng(0)
  of = jnp.asarray(np.repeat(np.arange(len(SIZES)), SIZES))
  logits = (
    jnp.asarray(rng.normal(0, scale, (10, CLASSES)), jnp.float32),
    jnp.asarray(rng.choice([-1, 1], (10, sum(SIZES))) * scale, jnp.float32),
  )
  found = mixture._fit(
    logits, jnp.asarray(counted.one_way / N, jnp.float32),
    jnp.asarray(counted.two_way / N, jnp.float32), of, jnp.ones(counted.one_way.shape),
    jnp.ones(counted.two_way.shape),
    columns=len(SIZES), steps=3,
  )  # fmt: skip
  _check_is_one(found, SIZES)


# --- drawing --------------------------------------------------------------------------------------


def test_rows_are_drawn_as_the_parameters_say():
  """χ² of all 2·120 combinations of class and cells, 40,000 rows of each class. A share that is
  off by a tenth in a tenth of the rows adds 40 to it, about two of its standard deviations.
  """
  truth, rng = _truth(), np.random.default_rng(5)
  weights, cells = (np.asarray(each, np.float64) for each in truth)
  columns = np.split(cells, np.cumsum(SIZES)[:-1], axis=1)
  combinations = np.array(list(itertools.product(*map(range, SIZES))))
  for k in range(CLASSES):
    drawn = mixture.draw(truth, SIZES, np.full(40_000, k), rng)
    seen = np.bincount(np.ravel_multi_index(tuple(drawn.T), SIZES), minlength=len(combinations))
    each = np.prod([c[:, v] for c, v in zip(columns, combinations.T, strict=True)], axis=0)
    expected = 40_000 * (weights[:, k] / weights[:, k].sum()) @ each
    many = expected >= 5
    observed = np.append(seen[many], seen[~many].sum())
    wanted = np.append(expected[many], max(expected[~many].sum(), 1e-9))
    assert scipy.stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-4


def test_a_cell_without_a_share_is_never_drawn():
  shares = jnp.asarray([[0.0, 1.0, 0.0, 0.0, 0.5, 0.5, 0.0]])
  drawn = mixture.draw(
    Mixture(jnp.ones((1, 1)), shares), (3, 4), np.zeros(5000, np.int64), np.random.default_rng(0)
  )
  assert (drawn[:, 0] == 1).all()
  assert np.unique(drawn[:, 1]).tolist() == [1, 2]


def test_rows_are_as_many_as_their_shares_say():
  """Of 1,000 rows, within one of what is expected; by chance it would be within about 15."""
  shares = np.array([[0.5, 0.2, 0.29, 0.01]])
  found = mixture.pick(shares[0], 1000, np.random.default_rng(0))
  assert np.abs(np.bincount(found, minlength=4) - 1000 * shares[0]).max() <= 1
  assert np.abs(np.bincount(found[:500], minlength=4) - 500 * shares[0]).max() > 1  # any order


def test_places_at_the_ends_are_within_a_row_of_shares():
  """A uniform number that is 0, or rounds to 1."""

  class Ends:
    def random(self, size):
      return np.where(np.arange(size) % 2, np.nextafter(1.0, 0.0), 0.0)

    def permutation(self, size):
      return np.arange(size)

  shares = np.array([[0.0, 0.3, 0.1, 0.0]])
  assert mixture.pick_in(shares, np.zeros(2, np.int64), Ends()).tolist() == [1, 2]


def test_a_class_of_no_component_is_drawn_all_the_same(counted):
  """As one that noise has made smaller than nothing."""
  empty = counted.one_way * [[1], [0]], counted.two_way * [[[1]], [[0]]]
  found = mixture.fit(Counts(SIZES, *empty, 0.0, 0.0), 10, STEPS)
  assert np.asarray(found.weights)[:, 1].sum() < 0.01
  drawn = mixture.draw(found, SIZES, np.ones(100, np.int64), np.random.default_rng(0))
  assert ((drawn >= 0) & (drawn < SIZES)).all()
  nothing = Mixture(jnp.array([[1.0, 0.0]]), found.cells[:1])  # underflow
  drawn = mixture.draw(nothing, SIZES, np.ones(10, np.int64), np.random.default_rng(0))
  assert drawn.shape == (10, len(SIZES))


def test_other_numbers_draw_other_rows(fitted):
  labels = np.zeros(100, np.int64)
  first, again, other = (
    mixture.draw(fitted, SIZES, labels, np.random.default_rng(seed)) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_each_row_is_of_the_class_that_was_asked_for():
  """A class that is all of one cell, in any order of classes; columns of a row go together."""
  cells = jnp.asarray([[1.0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]])
  weights = jnp.asarray([[0.2, 0], [0, 0.4], [0, 0.4]])
  labels = np.random.default_rng(0).integers(0, 2, 500)
  drawn = mixture.draw(Mixture(weights, cells), (2, 3), labels, np.random.default_rng(1))
  np.testing.assert_array_equal(drawn[:, 0], labels)
  np.testing.assert_array_equal(drawn[:, 1] > 0, labels)


def test_what_is_given_conditions_components_and_classes():
  """Bayes by hand, for all that may be given."""
  truth = _truth()
  weights, cells = (np.asarray(each, np.float64) for each in truth)
  found = mixture.condition(truth, SIZES, {0: 2, 3: 1}, None)
  np.testing.assert_allclose(found, weights * (cells[:, 2] * cells[:, 10])[:, np.newaxis])
  found = mixture.condition(truth, SIZES, {1: 3}, 0)
  np.testing.assert_allclose(found, weights * cells[:, [6]] * [1, 0])
  np.testing.assert_allclose(mixture.condition(truth, SIZES, {}, None), weights)


def test_settings_of_the_process_change_nothing():
  """x64 and strict promotion are the caller's; a run is charged before its model is fitted."""
  rng = np.random.default_rng(0)
  rows = np.stack([rng.integers(0, size, 60) for size in SIZES], axis=1)
  counts = _counts(rows, rng.integers(0, CLASSES, 60))
  plain = mixture.fit(counts, 3, steps=2)
  with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
    other = mixture.fit(counts, 3, steps=2)
  for ours, theirs in zip(plain, other, strict=True):
    assert theirs.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
