"""Which pairs of columns are counted: what stands out of chance, and as many as noise lets pay."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.models.moments.tables.choice import choose
from dpgan_jax.privacy.releases import pairs

SIZES = (4,) * 5
NUMBER = math.comb(5, 2)
ONE_WAY = np.full((2, 20), 1000 / 4)  # 1,000 rows of each class, in columns without preference
ALONE = np.array([True, False, False, True, False])


def _scores(**found: float) -> tuple[np.ndarray, np.ndarray]:
  """Of independent columns, but for pairs that are named: t01=500 is 500 off together."""
  scores = {'t': np.full(NUMBER, 140.0), 'a': np.full(NUMBER, 50.0)}  # about what chance makes
  places = {(i, j): n for n, (i, j) in enumerate(zip(*np.triu_indices(5, 1), strict=True))}
  for name, value in found.items():
    scores[name[0]][places[int(name[1]), int(name[2])]] += value
  return scores['t'], scores['a']


def _chosen(found: np.ndarray) -> set[tuple[int, int]]:
  return {(int(i), int(j)) for i, j in np.argwhere(found) if i != j}


def test_what_goes_together_is_counted_and_nothing_else():
  together, apart = choose(_scores(t01=900, t24=700), ONE_WAY, SIZES, 2.0, ALONE)
  assert _chosen(together) == {(0, 1), (2, 4)}
  assert not _chosen(apart)
  assert np.diagonal(apart).tolist() == ALONE.tolist()


def test_classes_that_differ_are_counted_by_themselves():
  """By so much that twice the cells are worth it; with more noise they are not."""
  scores = _scores(t01=900, t24=900, a24=150)
  together, apart = choose(scores, ONE_WAY, SIZES, 2.0, ALONE)
  assert (_chosen(together), _chosen(apart)) == ({(0, 1)}, {(2, 4)})
  together, apart = choose(scores, ONE_WAY, SIZES, 20.0, ALONE)
  assert not _chosen(apart)
  assert _chosen(together) == {(0, 1), (2, 4)}


def test_classes_may_differ_in_what_they_do_not_have_together():
  _, apart = choose(_scores(a13=900), ONE_WAY, SIZES, 2.0, ALONE)
  assert (1, 3) in _chosen(apart)


def test_the_more_noise_the_fewer_pairs():
  scores = _scores(t01=900, t02=600, t03=400, t12=250, t13=150, t14=100)
  number = [
    len(_chosen(choose(scores, ONE_WAY, SIZES, noise, ALONE)[0] | choose(
      scores, ONE_WAY, SIZES, noise, ALONE)[1]))
    for noise in (0.01, 2.0, 8.0, 16.0, 100.0)
  ]  # fmt: skip
  assert number == sorted(number, reverse=True)
  assert number[0] >= 6
  assert number[-1] == 1  # never nothing: what is best is tried


def test_of_a_single_class_pairs_are_its_own():
  scores = _scores(t01=900)[0], np.zeros(NUMBER)
  together, apart = choose(scores, ONE_WAY.sum(axis=0, keepdims=True), SIZES, 2.0, ALONE)
  assert not together.any()
  assert _chosen(apart) == {(0, 1)}


def test_a_single_column_is_counted_alone():
  nothing = np.zeros(0), np.zeros(0)
  together, apart = choose(nothing, np.ones((2, 7)), (7,), 1.0, np.array([True]))
  assert (together.tolist(), apart.tolist()) == ([[False]], [[True]])


@hypothesis.given(
  sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), classes=st.integers(1, 3),
  noise=st.floats(0, 1e4), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_whatever_scores_say_pairs_are_counted_in_one_way(sizes, classes, noise, seed):
  """Noise makes scores of anything, below zero too; what is chosen can be counted."""
  rng = np.random.default_rng(seed)
  number, alone = math.comb(len(sizes), 2), rng.random(len(sizes)) < 0.5
  scores = rng.normal(0, 100, number), rng.normal(0, 100, number) * (classes > 1)
  chosen = choose(scores, rng.exponential(9, (classes, sum(sizes))), sizes, noise, alone)
  rows = pairs.TwoWay(
    np.zeros((0, len(sizes)), int), np.zeros(0, int), classes, sizes, secret=bytes(32), purpose='t'
  )
  assert not rows.release_counts(*chosen, noise_multiplier=0.0).any()
  assert (np.diagonal(chosen[1]) == alone).all()
  assert not np.tril(chosen[0]).any()
  assert not np.tril(chosen[1], -1).any()


@pytest.mark.parametrize('columns', [300])
def test_a_wide_table_is_looked_at_in_seconds(columns):
  """All 44,850 pairs: by few numbers of pairs, and not by all of them."""
  rng, number = np.random.default_rng(0), math.comb(columns, 2)
  scores = rng.exponential(100, number), rng.exponential(50, number)
  one_way = np.full((2, columns * 5), 1e5 / 5)
  together, apart = choose(scores, one_way, (5,) * columns, 5.0, np.full(columns, False))
  assert 1 <= together.sum() + apart.sum() <= number
