"""Classifiers trained on synthetic rows: as good as real ones on real rows, a guess on noise."""

from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.data.tables.schema import Column
from dpgan_jax.evaluation.tables import references, tstr
from tests.support.tables import PEOPLE, coins, people

EFFORT = tstr.Effort(rows=1500, column_rows=500, columns=9, trees=40)
NAN = float('nan')


@pytest.fixture(scope='module')
def tables():
  return people(1500, seed=0), people(1500, seed=1), people(1000, seed=2)


def test_fresh_rows_teach_as_much_as_real_ones_and_shuffled_ones_nothing(tables):
  train, synthetic, test = tables
  real, made = (tstr.target(t, test, EFFORT) for t in (train, synthetic))
  assert real['auroc'] > 0.85
  assert made['auroc'] == pytest.approx(real['auroc'], abs=0.02)
  assert made['auroc'] == max(c['auroc'] for c in made['classifiers'].values())
  assert set(made['classifiers']) == set(tstr.CLASSIFIERS)
  # Far more spread than 0.02, the error of an AUROC of 1,000 rows: a direction that is learnt from
  # noise may well lie along, or against, the one that tells.
  permuted = tstr.target(references.noise('permuted', train, seed=0), test, EFFORT)
  assert all(abs(c['auroc'] - 0.5) < 0.2 for c in permuted['classifiers'].values())
  assert permuted['guess'] == 0.5


def test_the_same_seed_gives_the_same_scores(tables):
  train, _, test = tables
  effort = dataclasses.replace(EFFORT, rows=300)
  first = tstr.target(train, test, effort)
  assert first == tstr.target(train, test, effort)
  assert first['n'] == 300


def test_every_column_in_turn(tables):
  train, synthetic, test = tables
  real, made = (tstr.every_column(t, test, EFFORT) for t in (train, synthetic))
  noise = tstr.every_column(references.noise('independent', train, seed=0), test, EFFORT)
  assert set(real['columns']) == {c.name for c in PEOPLE.modelled}  # not the target
  assert real['columns']['age'] > 0.8  # by weight and illness
  assert real['columns']['costs'] > 0.9  # by the target, which is a feature here
  assert abs(real['columns']['since'] - 0.5) < 0.1  # related to nothing
  assert made['auroc'] == pytest.approx(real['auroc'], abs=0.03)
  assert abs(noise['auroc'] - 0.5) < 0.06
  assert real['auroc'] == pytest.approx(np.mean(list(real['columns'].values())))


def test_few_columns_are_drawn_where_there_are_many(tables):
  train, _, test = tables
  found = tstr.every_column(train, test, tstr.Effort(column_rows=200, columns=2, trees=20))
  assert found['sampled']
  assert len(found['columns']) == 2


def test_a_single_class_is_a_guess_by_definition():
  rng = np.random.default_rng(0)
  test = coins(rng.integers(0, 2, (60, 3)), target=True)
  same = coins(np.zeros((40, 3), int), target=True)
  found = tstr.target(same, test, EFFORT)
  assert (found['auroc'], found['balanced'], found['guess']) == (0.5, 0.5, 0.5)
  assert tstr.every_column(same, test, EFFORT)['auroc'] == 0.5
  # Test rows of one class, or of one value, say nothing.
  assert tstr.target(test, same, EFFORT)['auroc'] == 0.5
  assert tstr.every_column(test, same, EFFORT)['auroc'] is None


def test_more_classes_than_two_count_alike():
  rng = np.random.default_rng(0)
  y = rng.choice(3, 600, p=(0.8, 0.15, 0.05))
  test = coins(np.stack([y, y], axis=1), sides=3, target=True)
  found = tstr.target(test, test, EFFORT)
  assert (found['auroc'], found['balanced']) == (1, 1)
  # Without the rarest, its own area is 0.5; the rest are told apart as before, rare from common.
  fewer = coins(np.stack([y, y], axis=1)[y < 2], sides=3, target=True)
  found = tstr.target(fewer, test, EFFORT)
  assert 2 / 3 <= found['auroc'] < 1
  assert found['balanced'] == pytest.approx(2 / 3)


@hypothesis.given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(rows):
  positive = np.array([p for p, _ in rows])
  scores = np.array([s for _, s in rows], float)
  pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
  found = tstr.auroc(positive, scores)
  assert found is None if not pairs else found == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
  ('column', 'real', 'expected'),
  [
    (Column(name='n', kind='integer', lower=0, upper=9, nullable=True), [1, 2, 3, NAN],
     [0, 0, 1, 0]),
    (Column(name='zeros', kind='real', lower=0, upper=9), [0, 0, 0, 5], [0, 0, 0, 1]),
    (Column(name='ones', kind='real', lower=0, upper=9), [0, 1, 1, 1], [0, 1, 1, 1]),
    (Column(name='c', kind='categorical', categories=('a', 'b', 'c'), nullable=True),
     [2, 2, 0, NAN], [1, 1, 0, 0]),
    (Column(name='none', kind='real', lower=0, upper=9, nullable=True), [NAN, NAN], [0, 0]),
  ],
)  # fmt: skip
def test_two_classes_of_a_column(column, real, expected):
  real = np.array(real, np.float64)
  assert tstr.halves(column, real)(real).tolist() == expected


def test_the_encoding_knows_the_schema_only():
  columns = (
    Column(name='x', kind='real', lower=-10, upper=10, nullable=True),
    Column(name='c', kind='categorical', categories=('a', 'b', 'c'), nullable=True),
    Column(name='b', kind='boolean', categories=('no', 'yes')),
    Column(name='many', kind='categorical', categories=tuple(map(str, range(101)))),
  )
  rows = np.array([[-10, 2, 1, 100], [5, 0, 0, 50], [NAN, NAN, 1, 0]], np.float64)
  expected = [
    [0, 0, 0, 0, 1, 0, 1, 1],
    [0.75, 0, 1, 0, 0, 0, 0, 0.5],
    [0, 1, 0, 0, 0, 1, 1, 0],
  ]
  encode = tstr.Encoder(columns)
  np.testing.assert_array_equal(encode(rows), np.array(expected, np.float32))
  np.testing.assert_array_equal(encode(rows[1:2]), encode(rows)[1:2])


def test_boosting_takes_sets_and_missing_values():
  columns = (
    Column(name='c', kind='categorical', categories=tuple('abcdef'), nullable=True),
    Column(name='x', kind='real', lower=0, upper=1, nullable=True),
  )
  assert tstr.split_sets(columns) == [True, False]
  rng = np.random.default_rng(0)
  x = np.stack([rng.integers(0, 6, 600), rng.random(600)], axis=1).astype(np.float64)
  y = (x[:, 0] % 2).astype(np.int32)  # every other category: no threshold tells
  x[rng.random(600) < 0.2] = NAN
  y[np.isnan(x[:, 0])] = 1
  for name in ('logistic', 'boosting'):
    assert tstr.train_and_test(name, columns, (x, y), (x, y), 2, EFFORT)['auroc'] > 0.999


def test_many_columns_of_many_categories_stay_narrow():
  columns = tuple(
    Column(name=f'c{i}', kind='categorical', categories=tuple(map(str, range(50))))
    for i in range(100)
  )
  assert tstr.Encoder(columns)(np.zeros((2, 100))).shape == (2, 100)
  assert tstr.Encoder(columns[:40])(np.zeros((2, 40))).shape == (2, 2000)
