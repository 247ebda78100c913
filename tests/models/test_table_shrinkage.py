"""What is known of two columns: never far worse than independent, and all of it where noise is low.

Noise is drawn with fixed seeds.
"""

from __future__ import annotations

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.models.moments.tables import mixture, partition
from dpgan_jax.models.moments.tables.mixture import Counts
from dpgan_jax.models.moments.tables.shrinkage import clear, corrected, counted, nearest, shrunk

SIZES, CLASSES = (6, 8, 5), 2
ENDS = np.cumsum((0, *SIZES))
OF = np.repeat(np.arange(len(SIZES)), SIZES)
BETWEEN = OF[:, np.newaxis] != OF


def _counts(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  hot = np.zeros((len(rows), sum(SIZES)))
  np.put_along_axis(hot, rows + ENDS[:-1], 1.0, axis=1)
  own = [hot[labels == k] for k in range(CLASSES)]
  return np.stack([h.sum(axis=0) for h in own]), np.stack([h.T @ h * BETWEEN for h in own])


def _noisy(one: np.ndarray, two: np.ndarray, sigma: float, seed: int = 0):
  rng = np.random.default_rng(seed)
  upper = np.triu(rng.normal(0, sigma, two.shape))
  return one + rng.normal(0, sigma, one.shape), two + (upper + upper.mT) * BETWEEN


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(values[:, BETWEEN]))))


def _product(one: np.ndarray) -> np.ndarray:
  totals = one[:, : SIZES[0]].sum(axis=1)
  return one[:, :, np.newaxis] * one[:, np.newaxis] / totals[:, np.newaxis, np.newaxis] * BETWEEN


@pytest.fixture(scope='module')
def independent() -> tuple[np.ndarray, np.ndarray]:
  """Exact counts of 3,000 rows of columns that have nothing to do with each other."""
  rng = np.random.default_rng(1)
  rows = np.stack([np.minimum(rng.geometric(0.4, 3000), size) - 1 for size in SIZES], axis=1)
  return _counts(rows, rng.integers(0, CLASSES, 3000))


@pytest.fixture(scope='module')
def dependent() -> tuple[np.ndarray, np.ndarray]:
  """The first two columns go together in both classes, the last two in one of them."""
  rng = np.random.default_rng(2)
  labels = rng.integers(0, CLASSES, 3000)
  first = rng.integers(0, SIZES[0], 3000)
  second = np.where(rng.random(3000) < 0.7, first, rng.integers(0, SIZES[1], 3000))
  alike = (rng.random(3000) < 0.7) & (labels == 1)
  third = np.where(alike, second % SIZES[2], rng.integers(0, SIZES[2], 3000))
  return _counts(np.stack([first, second, third], axis=1), labels)


@pytest.mark.parametrize('sigma', [20.0, 60.0, 200.0])
def test_independent_columns_stay_so(independent, sigma):
  """The error is that of independent columns with the same noisy one-way counts, or little more:
  of 30 cells or more, in which noise is kept by a tenth or so.
  """
  for seed in range(5):
    one, two = _noisy(*independent, sigma, seed)
    ones, found = shrunk(one, two, SIZES, np.full(19, sigma), sigma)
    of_product = _rms(_product(ones) - independent[1])
    assert _rms(found - independent[1]) < of_product + 0.25 * sigma
    assert _rms(found - independent[1]) < 0.6 * _rms(two - independent[1])


@pytest.mark.parametrize('sigma', [1.0, 5.0, 20.0, 60.0])
def test_dependence_is_kept_as_far_as_it_stands_out(dependent, sigma):
  """Hardly worse than what was released, nor than independent columns beyond a quarter of σ."""
  for seed in range(5):
    one, two = _noisy(*dependent, sigma, seed)
    ones, found = shrunk(one, two, SIZES, np.full(19, sigma), sigma)
    off = _rms(found - dependent[1])
    assert off < 1.1 * _rms(two - dependent[1])
    assert off < _rms(_product(ones) - dependent[1]) + 0.25 * sigma


def test_what_classes_have_in_common_has_the_noise_of_all_of_them(dependent):
  """Of noise that hides each class: the first pair of columns is still known to go together."""
  one, two = _noisy(*dependent, 25.0)
  ones, found = shrunk(one, two, SIZES, np.full(19, 25.0), 25.0)
  pair = np.s_[:, : SIZES[0], SIZES[0] : ENDS[2]]
  truth = dependent[1][pair] - _product(dependent[0])[pair]
  kept = (found - _product(ones))[pair]
  assert np.corrcoef(kept.ravel(), truth.ravel())[0, 1] > 0.85
  assert np.linalg.norm(kept) > 0.6 * np.linalg.norm(truth)


@pytest.mark.parametrize('shape', [(2, 2), (3, 9), (12, 12), (2, 40)])
def test_of_noise_alone_hardly_anything_is_clear(shape):
  """In one matrix of twelve at most, of 400."""
  rng = np.random.default_rng(5)
  found = [bool(clear(rng.normal(0, 7.0, shape), 7.0).any()) for _ in range(400)]
  assert np.mean(found) < 1 / 12


def test_a_relation_of_one_direction_is_clear_where_its_squares_are_not():
  """Of 245 among squares of noise of 400: kept by their sum, a third would be, and of noise too."""
  rng = np.random.default_rng(6)
  relation = np.outer(*(np.cos(np.arange(20) * k) for k in (0.15, 0.2)))
  relation *= 3.5 * math.sqrt(20) / np.linalg.norm(relation)
  for _ in range(10):
    found = clear(relation + rng.normal(size=(20, 20)), 1.0)
    assert np.vdot(found, relation) > 0.6 * np.square(relation).sum()
    assert np.square(found - relation).sum() < 0.2 * 400


def test_a_direction_is_shrunk_to_the_least_squared_error():
  """A singular value of 2 becomes one of 2.5 by noise, along directions that are off: the cosines
  of both have the product 3/4, so 3/4 of 2 has the least error (Gavish & Donoho 2017).
  """
  rng = np.random.default_rng(10)
  relation = np.outer(*rng.normal(size=(2, 30)))
  relation *= 2 * math.sqrt(30) / np.linalg.norm(relation)
  noisy = [relation + rng.normal(size=(30, 30)) for _ in range(40)]
  size = lambda matrix: np.linalg.norm(matrix, 2) / math.sqrt(30)  # noqa: E731
  assert np.mean([size(each) for each in noisy]) == pytest.approx(2.5, abs=0.06)
  assert np.mean([size(clear(each, 1.0)) for each in noisy]) == pytest.approx(1.5, abs=0.06)


@hypothesis.given(
  shape=st.tuples(st.integers(1, 6), st.integers(1, 6)), scale=st.floats(0.01, 100),
  seed=st.integers(0, 99),
)  # fmt: skip
def test_what_is_clear_is_finite_and_no_larger(shape, scale, seed):
  values = scale * np.random.default_rng(seed).normal(size=shape)
  found = clear(values, 1.0)
  assert found.shape == shape
  assert np.linalg.norm(found) <= np.linalg.norm(values) * (1 + 1e-9)
  np.testing.assert_allclose(clear(values.T, 1.0), found.T, atol=1e-9 * scale)
  assert not clear(np.zeros(shape), 1.0).any()


def test_without_noise_counts_are_what_they_were(dependent):
  ones, found = shrunk(*dependent, SIZES, np.zeros(19), 0.0)
  np.testing.assert_allclose(ones, dependent[0], atol=1e-6)
  np.testing.assert_allclose(found, dependent[1], atol=1e-6)


def _size(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(values))))


def _of_all(one, two, sigma, seed=0):
  """Pairs of the first column counted of all classes together, its own cells of each; no others."""
  rng, groups = np.random.default_rng(seed), np.zeros((len(one) + 1, 19, 19))
  cells = (OF[:, np.newaxis] == 0) & (OF > 0)
  upper = np.where(cells, two.sum(axis=0) + rng.normal(0, sigma, (19, 19)), 0.0)
  groups[-1] = upper + upper.T
  own = np.arange(SIZES[0])
  groups[:-1, own, own] = one[:, own] + rng.normal(0, sigma, (len(one), len(own)))
  return one + rng.normal(0, 4 * sigma, one.shape), groups


def test_pairs_that_all_classes_were_counted_for_have_the_noise_of_one_count(dependent):
  """They come nearer to what is dependent; others are nothing, and stay so."""
  one, groups = _of_all(*dependent, 5.0)
  ones, found = shrunk(one, groups, SIZES, np.full(19, 20.0), 5.0)
  pair = np.s_[-1, : SIZES[0], SIZES[0] : ENDS[2]]
  truth = dependent[1].sum(axis=0)[pair[1:]]
  off = _size(found[pair] - truth)
  assert off < 5.5
  assert off < 0.5 * _size(_product(ones).sum(axis=0)[pair[1:]] - truth)
  np.testing.assert_array_equal(found == 0, groups * (OF[:, np.newaxis] != OF) == 0)
  np.testing.assert_array_equal(found, found.mT)


def test_one_way_counts_are_better_for_all_that_was_counted(dependent):
  """Of the first column, by counts of its own; of others, by sums of pairs over all classes."""
  true, off, alone = dependent[0], [], []
  for seed in range(20):
    one, groups = _of_all(*dependent, 5.0, seed)
    deviations = np.full(19, 20.0)
    off.append(shrunk(one, groups, SIZES, deviations, 5.0)[0] - true)
    alone.append(shrunk(one, np.zeros((2, 19, 19)), SIZES, deviations, 5.0)[0] - true)
  first, others = slice(SIZES[0]), slice(SIZES[0], 19)
  assert _size(np.array(off)[:, :, first]) < 0.4 * _size(np.array(alone)[:, :, first])
  sums = [np.array(each).sum(axis=1)[:, others] for each in (off, alone)]
  assert _size(sums[0]) < 0.75 * _size(sums[1])


def test_what_was_counted_is_told_by_what_is_not_zero():
  sizes, groups = (2, 3), np.zeros((2, 5, 5))
  groups[0, 0, 4] = groups[0, 4, 0] = -0.5
  groups[1, 3, 3] = 2.0
  found = counted(groups, sizes)
  assert found.tolist() == [[[False, True], [True, False]], [[False, False], [False, True]]]


def test_a_single_column_is_left_alone():
  one = np.array([[5.0, -1.0, 3.0]])
  ones, found = shrunk(one, np.zeros((1, 3, 3)), (3,), np.ones(3), 1.0)
  np.testing.assert_allclose(ones, [[4.5, 0, 2.5]])
  assert not found.any()


@hypothesis.given(
  counts=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), total=st.floats(1, 1e6)
)
def test_the_nearest_counts_are_counts(counts, total):
  """By the condition of the minimum: what is above zero was moved by the same number, the rest by
  no more.
  """
  counts = np.array(counts)
  found = nearest(counts, total)
  assert (found >= 0).all()
  np.testing.assert_allclose(found.sum(), total, rtol=1e-6)
  moved = counts - found
  np.testing.assert_allclose(moved[found > 0], moved[found > 0][0], atol=1e-6)
  assert (moved <= moved[found > 0][0] + 1e-6).all()


def test_a_mixture_of_shrunk_counts_has_independent_columns(independent):
  """All the way: two-way shares of the fitted mixture are off by hardly more than those of
  independent columns, where without shrinking noise is half of what is off.
  """
  one, two = _noisy(*independent, 30.0)
  deviations = np.full(19, 30.0)
  off = []
  for counts in ((one, two), shrunk(one, two, SIZES, deviations, 30.0)):
    fitted = mixture.fit(Counts(SIZES, *counts, deviations, 30.0), 30, 600)
    weights, cells = (np.asarray(each) for each in fitted)
    off.append(_rms(3000 * np.einsum('mk,mi,mj->kij', weights, cells, cells) - independent[1]))
  ones, _ = shrunk(one, two, SIZES, deviations, 30.0)
  assert off[1] < 1.25 * _rms(_product(ones) - independent[1])
  assert off[1] < 0.75 * off[0]


# --- cells ----------------------------------------------------------------------------------------


@hypothesis.given(
  counts=st.lists(st.floats(-1e4, 1e6), min_size=1, max_size=40), cells=st.integers(1, 12)
)
def test_every_coarse_cell_has_neighbouring_fine_ones(counts, cells):
  cells = min(cells, len(counts))
  found = partition.into(np.array(counts), cells)
  assert np.unique(found).tolist() == list(range(cells))
  assert np.isin(np.diff(found), (0, 1)).all()


def test_cells_are_narrow_where_rows_are():
  counts = np.concatenate([np.full(20, 400.0), np.zeros(80)])
  found = partition.into(counts, 10)
  assert found[19] >= 8  # one or two cells for the emptiness
  assert np.bincount(found)[:8].max() <= 3


def test_shares_of_a_class_are_those_of_all_where_noise_hides_it():
  within = np.zeros(4, int)
  of_all = np.array([0.7, 0.1, 0.1, 0.1])
  own = np.array([10.0, 70, 10, 10])
  np.testing.assert_allclose(partition.shares_within(own, within, 0.0, of_all), own / 100)
  np.testing.assert_allclose(partition.shares_within(own, within, 1e3, of_all), of_all)


def test_fine_cells_that_are_empty_stay_so():
  """Of a tail of 40 with noise, scaled shares above nothing would have some in every other one."""
  rng = np.random.default_rng(7)
  true = np.append([5000.0, 3000, 500], np.zeros(40))
  noisy = true + rng.normal(0, 30, 43)
  found = partition.shares_within(noisy, np.zeros(43, int), 30.0)
  assert found.sum() == pytest.approx(1)
  np.testing.assert_allclose(found[:3], true[:3] / 8500, atol=0.02)
  scaled = np.maximum(noisy, 0) / np.maximum(noisy, 0).sum()
  assert found[3:].sum() < 0.6 * scaled[3:].sum()


def test_a_model_is_corrected_only_where_counts_stand_out(dependent):
  """Independent columns for a model: dependent pairs move to the counts, others stay."""
  one, two = dependent
  model = _product(one)
  _, noisy = _noisy(one, two, 10.0)
  found = corrected(model, noisy, SIZES, 10.0)
  np.testing.assert_array_equal(found, found.mT)
  assert (found[:, ~BETWEEN] == 0).all()
  first, second, third = (slice(a, b) for a, b in itertools.pairwise(ENDS))
  off = np.abs(found - two)[:, first, second].mean()
  assert off < 0.5 * np.abs(model - two)[:, first, second].mean()
  np.testing.assert_array_equal(found[0, first, third], model[0, first, third])
  np.testing.assert_allclose(corrected(model, two, SIZES, 0.0), two, atol=1e-6)
