"""Rows that move: to the two-way counts that were asked for, and to no other relation.

Draws have fixed seeds.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax.models.moments.tables import mixture, pairwise
from dpgan_jax.models.moments.tables.pairwise import Pairwise

SIZES, CLASSES, ROWS = (2, 3, 2), 2, 3000
ENDS = np.cumsum((0, *SIZES))
OF = np.repeat(np.arange(len(SIZES)), SIZES)
BETWEEN = OF[:, np.newaxis] != OF
EVERY = np.array(list(itertools.product(*map(range, SIZES))))


def _hot(rows: np.ndarray) -> np.ndarray:
  hot = np.zeros((len(rows), sum(SIZES)))
  np.put_along_axis(hot, rows + ENDS[:-1], 1.0, axis=1)
  return hot


def _counts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Of the rows [K, S, C] of each class."""
  hot = np.stack([_hot(own) for own in rows])
  return hot.sum(axis=1), hot.mT @ hot * BETWEEN


def _model() -> Pairwise:
  """Two classes of their own."""
  rng = np.random.default_rng(4)
  upper = np.triu(rng.normal(0, 1, (CLASSES, sum(SIZES), sum(SIZES)))) * BETWEEN
  ones = rng.normal(0, 0.5, (CLASSES, sum(SIZES)))
  return Pairwise(jnp.asarray(ones, jnp.float32), jnp.asarray(upper + upper.mT, jnp.float32))


def _known(sizes=SIZES, groups: int = CLASSES) -> np.ndarray:
  """All pairs, of each class."""
  return np.full((groups, len(sizes), len(sizes)), True)


def _shares(model: Pairwise) -> np.ndarray:
  """Of every row that there can be, in each class: float64 [K, rows]."""
  hot, (ones, pairs) = _hot(EVERY), (np.asarray(each, np.float64) for each in model)
  likely = np.exp(hot @ ones.T + np.einsum('nd,kde,ne->nk', hot, pairs, hot) / 2).T
  return likely / likely.sum(axis=1, keepdims=True)


def _found(rows: np.ndarray) -> np.ndarray:
  """Shares of every row that there can be."""
  places = np.ravel_multi_index(tuple(rows.T), SIZES)
  return np.bincount(places, minlength=len(EVERY)) / len(rows)


def test_moved_rows_have_the_distribution_of_their_class():
  """Wherever they begin: far closer than the classes are to each other."""
  labels = np.arange(2 * ROWS) % CLASSES
  begun = np.zeros((2 * ROWS, len(SIZES)), np.int64)
  moved = pairwise.move(_model(), SIZES, begun, labels, np.random.default_rng(0))
  assert moved.dtype == begun.dtype
  shares = _shares(_model())
  assert np.abs(shares[0] - shares[1]).sum() / 2 > 0.2
  for k, wanted in enumerate(shares):
    assert np.abs(_found(moved[labels == k]) - wanted).sum() / 2 < 0.04


@pytest.mark.parametrize('num', [0, 257])
def test_any_number_of_rows_moves_and_given_columns_stay(num):
  rng = np.random.default_rng(1)
  begun = np.stack([rng.integers(0, size, num) for size in SIZES], axis=1)
  labels = rng.integers(0, CLASSES, num)
  moved = pairwise.move(_model(), SIZES, begun, labels, rng, fixed={1})
  assert moved.shape == begun.shape
  assert (moved[:, 1] == begun[:, 1]).all()
  assert ((moved >= 0) & (moved < SIZES)).all()
  assert num < 257 or (moved != begun).any()


def test_rows_of_a_block_are_as_many_as_their_shares_say():
  """Of 256 rows with columns that tell nothing of each other, within one; else within about 15."""
  model = _model()._replace(pairs=jnp.zeros_like(_model().pairs))
  zeros = np.zeros(256, np.int64)
  begun = np.zeros((256, len(SIZES)), np.int64)
  moved = pairwise.move(model, SIZES, begun, zeros, np.random.default_rng(7))
  ends = np.cumsum((0, *SIZES))
  for column, (start, end) in enumerate(itertools.pairwise(ends)):
    shares = np.exp(np.asarray(model.ones[0, start:end], np.float64))
    found = np.bincount(moved[:, column], minlength=end - start)
    assert np.abs(found - 256 * shares / shares.sum()).max() < 2


def test_given_columns_are_what_the_others_follow():
  """Rows of one given cell have the conditional distribution."""
  begun = np.zeros((ROWS, len(SIZES)), np.int64)
  begun[:, 1] = 2
  labels = np.zeros(ROWS, np.int64)
  moved = pairwise.move(_model(), SIZES, begun, labels, np.random.default_rng(2), fixed={1})
  wanted = _shares(_model())[0] * (EVERY[:, 1] == 2)
  assert np.abs(_found(moved) - wanted / wanted.sum()).sum() / 2 < 0.04


@pytest.fixture(scope='module')
def wanted() -> tuple[np.ndarray, np.ndarray]:
  """Exact counts of `_model`, of 1,000 and 3,000 rows."""
  hot, shares = _hot(EVERY), _shares(_model()) * np.array([[1000.0], [3000.0]])
  return shares @ hot, np.einsum('kn,nd,ne->kde', shares, hot, hot) * BETWEEN


def _independent(ones: np.ndarray) -> np.ndarray:
  """Rows [K, S, C] of each class whose columns have these counts, and nothing to do with others."""
  rng = np.random.default_rng(3)
  columns = [(ones[:, a:b], b - a) for a, b in itertools.pairwise(ENDS)]
  drawn = [
    [rng.choice(size, ROWS, p=own / own.sum()) for own in counts] for counts, size in columns
  ]
  return np.moveaxis(np.array(drawn), 0, 2)


def test_counts_lead_back_to_the_distribution(wanted):
  begun = _independent(wanted[0])
  found = _shares(pairwise.fit(*wanted, _known(), SIZES, begun))
  assert np.abs(found - _shares(_model())).sum(axis=1).max() / 2 < 0.02


def test_no_relation_of_three_columns_is_left():
  """The last column says whether the first two are alike, which no two of them tell: rows that
  begin so do not stay so.
  """
  rng = np.random.default_rng(5)
  rows = np.stack([rng.integers(0, size, (1, ROWS)) for size in SIZES], axis=2)
  rows[..., 2] = rows[..., 0] == (rows[..., 1] == 0)
  rows[..., 2] ^= rng.random((1, ROWS)) < 0.1
  counts = _counts(rows)
  model = pairwise.fit(*counts, _known(groups=1), SIZES, rows)
  moved = pairwise.move(model, SIZES, rows[0], np.zeros(ROWS, np.int64), rng)
  after = _counts(moved[np.newaxis])
  assert np.abs(after[1] - counts[1]).max() < 0.04 * ROWS

  def alike(rows: np.ndarray) -> float:
    return float((rows[:, 2] == (rows[:, 0] == (rows[:, 1] == 0))).mean())

  assert alike(rows[0]) > 0.85
  implied = float(_shares(model)[0] @ (EVERY[:, 2] == (EVERY[:, 0] == (EVERY[:, 1] == 0))))
  assert abs(alike(moved) - implied) < 0.04
  assert alike(moved) < 0.7


def test_pairs_that_are_known_of_all_classes_are_alike_in_each(wanted):
  """θ of the first pair is that of both classes, of the second each its own, of the third nothing;
  rows have the counts that were asked for all the same.
  """
  ones, pairs = wanted
  begun = _independent(ones)
  groups = np.concatenate([pairs, pairs.sum(axis=0, keepdims=True)])
  known = np.full((CLASSES + 1, 3, 3), False)
  known[2, [0, 1], [1, 0]] = known[:2, [1, 2], [2, 1]] = True
  model = pairwise.fit(ones, groups, known, SIZES, begun)
  first, second, third = (slice(a, b) for a, b in itertools.pairwise(ENDS))
  theta = np.asarray(model.pairs)
  np.testing.assert_allclose(theta[0, first, second], theta[1, first, second], atol=1e-6)
  assert np.abs(theta[0, second, third] - theta[1, second, third]).max() > 0.3
  assert not theta[:, first, third].any()
  shares = _shares(model) * np.array([[1000.0], [3000.0]])
  hot = _hot(EVERY)
  found = np.einsum('kn,nd,ne->kde', shares, hot, hot)
  np.testing.assert_allclose(shares @ hot, ones, atol=40)
  np.testing.assert_allclose(found.sum(axis=0)[first, second], groups[2, first, second], atol=60)
  np.testing.assert_allclose(found[:, second, third], pairs[:, second, third], atol=60)


def test_rows_of_kinds_that_never_become_others_keep_their_number():
  """Eight columns that are nearly always alike: no row crosses, and parameters must not drift."""
  sizes, rng = (3,) * 8, np.random.default_rng(0)
  kinds = rng.choice(3, ROWS, p=[0.6, 0.3, 0.1])
  other = rng.integers(0, 3, (ROWS, 8))
  rows = np.where(rng.random((ROWS, 8)) < 0.02, other, kinds[:, np.newaxis])
  hot = np.eye(3)[rows].reshape(ROWS, -1)
  of = np.repeat(np.arange(8), 3)
  pairs = hot.T @ hot * (of[:, np.newaxis] != of)
  counts = hot.sum(axis=0)[np.newaxis], pairs[np.newaxis]
  model = pairwise.fit(*counts, _known(sizes, 1), sizes, rows[np.newaxis])
  moved = pairwise.move(model, sizes, rows, np.zeros(ROWS, np.int64), rng)
  found = np.eye(3)[moved].mean(axis=0)
  assert np.abs(found - np.eye(3)[rows].mean(axis=0)).max() < 0.02


def test_the_same_counts_give_the_same_model(wanted):
  begun = np.zeros((CLASSES, 200, len(SIZES)), np.int64)
  first, second = (pairwise.fit(*wanted, _known(), SIZES, begun, steps=4) for _ in range(2))
  assert all(bool((a == b).all()) for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_many_columns_do_not_overshoot_together():
  """Each of forty moves the cells of all others: rows still have the counts of the mixture."""
  sizes, num, rng = (4,) * 40, 400, np.random.default_rng(6)
  cells = np.concatenate([rng.dirichlet(np.ones(4), 5) for _ in sizes], axis=1)
  five = mixture.Mixture(jnp.full((5, 1), 0.2), jnp.asarray(cells))
  ones, pairs = mixture.marginals(five, sizes)
  begun = mixture.draw(five, sizes, np.zeros(num, np.int64), rng)
  model = pairwise.fit(ones * num, pairs * num, _known(sizes, 1), sizes, begun[np.newaxis])
  labels = np.zeros(2000, np.int64)
  moved = pairwise.move(model, sizes, mixture.draw(five, sizes, labels, rng), labels, rng)
  hot = np.zeros((len(moved), 4 * len(sizes)))
  np.put_along_axis(hot, moved + 4 * np.arange(len(sizes)), 1.0, axis=1)
  assert np.abs(hot.mean(axis=0) - ones[0]).mean() < 0.02
  together = (hot.T @ hot / len(hot)) * (pairs[0] > 0)
  assert np.abs(together - pairs[0]).mean() < 0.15 * pairs.mean()


def test_rows_of_very_many_cells_stay_those_of_the_mixture():
  """A column of thousands of categories would take minutes and gigabytes to move."""
  sizes, cells = (6000, 2), np.zeros((3, 2), np.int64)
  nothing = np.empty((1, 0)), np.empty((1, 0, 0))
  assert pairwise.fit(*nothing, _known(sizes, 1), sizes, cells[np.newaxis]) is None
  rng = np.random.default_rng(0)
  assert pairwise.move(None, sizes, cells, np.zeros(3, np.int64), rng) is cells


def _chain(columns: int, rows: int) -> np.ndarray:
  """Each column of three cells mostly as the one before."""
  rng = np.random.default_rng(8)
  found = rng.integers(0, 3, (rows, columns))
  for i in range(1, columns):
    found[:, i] = np.where(rng.random(rows) < 0.7, found[:, i - 1], found[:, i])
  return found


def test_the_tree_that_tells_most_is_found():
  rows, sizes = _chain(6, 2000)[:, [3, 0, 5, 1, 4, 2]], (3,) * 6
  hot = np.eye(3)[rows].reshape(len(rows), -1)
  of = np.repeat(np.arange(6), 3)
  tree = pairwise.strongest_pairs(hot.T @ hot * (of[:, np.newaxis] != of), sizes)
  assert (tree == tree.T).all()
  place = {true: i for i, true in enumerate([3, 0, 5, 1, 4, 2])}
  wanted = {tuple(sorted((place[i], place[i + 1]))) for i in range(5)}
  found = {tuple(sorted((int(of[i]), int(of[j])))) for i, j in np.argwhere(tree)}
  assert found == wanted


def test_relations_of_many_columns_are_there_after_few_steps():
  """Of 60 columns each moves by so little in a step that 20 of them would leave no relation."""
  rows, sizes = _chain(60, 3000), (3,) * 60
  hot = np.eye(3)[rows].reshape(len(rows), -1)
  of = np.repeat(np.arange(60), 3)
  pairs = hot.T @ hot * (of[:, np.newaxis] != of)
  rng = np.random.default_rng(9)
  begun = np.stack([rng.permutation(column) for column in rows.T], axis=1)
  counts = hot.sum(axis=0)[np.newaxis], pairs[np.newaxis]
  model = pairwise.fit(*counts, _known(sizes, 1), sizes, begun[np.newaxis], 20)
  moved = pairwise.move(model, sizes, begun, np.zeros(len(begun), int), rng)
  alike = lambda rows: (rows[:, 1:] == rows[:, :-1]).mean()  # noqa: E731
  assert alike(begun) < 0.4
  assert alike(moved) == pytest.approx(alike(rows), abs=0.06)  # 0.8 of it
