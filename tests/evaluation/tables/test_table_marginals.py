"""Total variation and relations, against tables whose marginals are known by hand."""

from __future__ import annotations

import collections
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.evaluation.tables import cells, marginals
from tests.support.tables import coins, people

CODES = st.lists(st.integers(0, 5), min_size=1, max_size=40).map(np.array)


def compared(a: np.ndarray, b: np.ndarray, **kwargs):
  real, other = (cells.table(coins(np.array(rows), **kwargs)) for rows in (a, b))
  return marginals.compare(real, other)


def test_exact_against_marginals_known_by_hand():
  # Two fair coins that always agree, against two that never do, and a third that is always 0.
  agree = [[0, 0, 0], [1, 1, 0]]
  differ = [[0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
  found = compared(agree, differ)
  assert found['columns'] == {'c0': 0, 'c1': 0, 'c2': 0}
  assert found['pairs'] == [[0, 1, 1.0], [0, 2, 0.0], [1, 2, 0.0]]
  assert found['two_way'] == pytest.approx(1 / 3)
  assert found['three_way'] == found['two_way_worst'] == 1
  assert found['one_way'] == found['one_way_worst'] == 0


def test_exact_of_shares():
  # 0: 3/4 against 1/2; the pair (0, 0), (0, 1), (1, 1): 1/2, 1/4, 1/4 against 1/2, 0, 1/2.
  found = compared([[0, 0], [0, 0], [0, 1], [1, 1]], [[0, 0], [1, 1]], target=True)
  assert found['columns'] == {'c0': 0.25, 'c1': 0.0}
  assert found['two_way'] == 0.25
  assert found['three_way'] is None
  assert compared([[0, 1]], [[1, 0]])['two_way'] == 1


@hypothesis.given(seed=st.integers(0, 50))
@hypothesis.settings(max_examples=10)
def test_exact_of_every_pair_counted_one_by_one(seed):
  a, b = (cells.table(people(n, seed=seed + n)) for n in (30, 45))
  for i, j, value in marginals.compare(a, b)['pairs']:
    p, q = (collections.Counter(map(tuple, t.codes[:, [i, j]].tolist())) for t in (a, b))
    naive = sum(abs(p[cell] / 30 - q[cell] / 45) for cell in p | q) / 2
    assert value == pytest.approx(naive, abs=1e-12)


def test_one_column_has_no_pairs():
  found = compared([[0], [1]], [[0], [0]])
  assert (found['one_way'], found['two_way'], found['relations']) == (0.5, None, None)


@hypothesis.given(a=CODES, b=CODES)
def test_total_variation_is_a_distance_in_0_to_1(a, b):
  found = marginals.total_variation(a, b, 6)
  assert 0 <= found <= 1
  assert found == pytest.approx(marginals.total_variation(b, a, 6), abs=1e-12)
  assert marginals.total_variation(a, np.repeat(a, 3), 6) == pytest.approx(0, abs=1e-12)
  # As it is defined, a cell at a time.
  naive = sum(abs((a == k).mean() - (b == k).mean()) for k in range(6)) / 2
  assert found == pytest.approx(naive, abs=1e-12)
  # Far more cells than rows are counted another way.
  assert found == pytest.approx(marginals.total_variation(a * 10**9, b * 10**9, 10**10), abs=1e-12)


@hypothesis.given(seed=st.integers(0, 50))
def test_two_tables_compare_the_same_either_way(seed):
  a, b = (cells.table(people(40 + 9 * k, seed=seed + k)) for k in (0, 1))
  forth, back, same = (marginals.compare(*pair) for pair in ((a, b), (b, a), (a, a)))
  for name in ('one_way', 'two_way', 'three_way', 'relations'):
    assert 0 <= forth[name] <= 1
    assert forth[name] == pytest.approx(back[name])
    assert same[name] == 0
  assert forth['one_way'] <= forth['two_way'] <= forth['three_way']


def test_sets_of_columns():
  assert marginals.sets(4, 2, 6) == list(itertools.combinations(range(4), 2))
  drawn = marginals.sets(80, 2, 2000)
  assert len(set(drawn)) == len(drawn) == 2000
  assert all(i < j < 80 for i, j in drawn)
  assert drawn == marginals.sets(80, 2, 2000)
  assert drawn != marginals.sets(80, 2, 2000, seed=1)
  assert len(marginals.sets(300, 3, 128)) == 128


def test_many_columns_say_that_pairs_were_drawn():
  rng = np.random.default_rng(0)
  rows = rng.integers(0, 2, (30, 70))
  found = compared(rows, rows[:20])
  assert found['sampled']
  assert len(found['pairs']) == marginals.MOST_PAIRS
  assert not compared(rows[:, :9], rows[:, :9])['sampled']


def test_cramers_v_of_known_tables():
  assert marginals.cramers_v(np.array([[500, 0], [0, 500]])) == pytest.approx(1, abs=1e-3)
  assert marginals.cramers_v(np.array([[25, 25], [25, 25]])) == 0
  assert marginals.cramers_v(np.array([[25, 25], [0, 0]])) == 0
  # By hand: phi² = 0.36, corrected 0.36 - 1/99 and 2 - 1/99.
  expected = np.sqrt((0.36 - 1 / 99) / (1 - 1 / 99))
  assert marginals.cramers_v(np.array([[40, 10], [10, 40]])) == pytest.approx(expected)


def test_independent_columns_have_no_relation():
  rng = np.random.default_rng(1)
  a = rng.integers(0, 6, 4000)
  rows = np.stack([a, rng.integers(0, 6, 4000), (a + 1) % 6], axis=1)
  found = marginals.relations(cells.table(coins(rows, sides=6)))
  np.testing.assert_array_equal(found, found.T)
  np.testing.assert_array_equal(np.diag(found), 1)
  assert found[0, 1] < 0.05
  assert found[0, 2] > 0.99


def test_a_matrix_of_pairs():
  found = marginals.pair_matrix([[0, 2, 0.5]], 3)
  assert found[0, 2] == found[2, 0] == 0.5
  assert np.isnan(found).sum() == 7


def test_agrees_with_sdmetrics():
  pytest.importorskip('sdmetrics')
  import pandas as pd
  from sdmetrics.column_pairs import ContingencySimilarity
  from sdmetrics.single_column import TVComplement

  rng = np.random.default_rng(2)
  a, b = (rng.integers(0, 4, (n, 2)) for n in (200, 300))
  found = compared(a, b, sides=4)
  frames = [pd.DataFrame(rows.astype(str), columns=['c0', 'c1']) for rows in (a, b)]
  theirs = TVComplement.compute(frames[0]['c0'], frames[1]['c0'])
  assert found['columns']['c0'] == pytest.approx(1 - theirs)
  assert found['two_way'] == pytest.approx(1 - ContingencySimilarity.compute(*frames))
