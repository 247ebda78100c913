"""Scores of pairs of columns, and counts of some: what they are, how far rows move them, noise."""

from __future__ import annotations

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.privacy.releases import marginals, pairs

SECRET = bytes(range(32))
SIZES = (3, 2, 4)
ONE_WAY = np.array([[30.0, 20, 10, 40, 20, 15, 15, 15, 15], [5, 5, 5, 0, 15, 15, 0, 0, 0]])


def _rows(cells, labels, sizes=SIZES, classes=2, **changes) -> pairs.TwoWay:
  settings = {'secret': SECRET, 'purpose': 'test', **changes}
  return pairs.TwoWay(np.asarray(cells), np.asarray(labels), classes, sizes, **settings)


def _nobody(sizes=SIZES, classes=2, **changes) -> pairs.TwoWay:
  return _rows(np.zeros((0, len(sizes)), int), np.zeros(0, int), sizes, classes, **changes)


def _some(num=60, seed=0, sizes=SIZES, classes=2) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  return rng.integers(0, sizes, (num, len(sizes))), rng.integers(0, classes, num)


def _chosen(columns: int, *wanted: tuple[int, int]) -> np.ndarray:
  found = np.zeros((columns, columns), bool)
  for pair in wanted:
    found[pair] = True
  return found


def _by_hand(cells, labels, one_way, sizes) -> np.ndarray:
  """Both scores of each pair by their definition, without any rounding."""
  found, columns = [], np.split(np.asarray(one_way, float), np.cumsum(sizes)[:-1], axis=1)
  for i, j in itertools.combinations(range(len(sizes)), 2):
    real = np.zeros((len(one_way), sizes[i], sizes[j]))
    np.add.at(real, (labels, cells[:, i], cells[:, j]), 1)
    base = np.stack([
      np.outer(a, b) / max(one_way[k].sum() / len(sizes), 1e-300)
      for k, (a, b) in enumerate(zip(columns[i], columns[j], strict=True))
    ])  # fmt: skip
    share = base / np.maximum(base.sum(axis=0), 1e-300)
    together = np.abs(real.sum(axis=0) - base.sum(axis=0)).sum()
    found.append((together, np.abs(real - share * real.sum(axis=0)).sum() / 2))
  return np.array(found).T


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_distances_from_independence():
  """Shares are rounded to 1/512: of 60 rows that is at most 0.06 in each of two classes."""
  cells, labels = _some()
  found = _rows(cells, labels).release_scores(ONE_WAY, noise_multiplier=0.0)
  by_hand = _by_hand(cells, labels, ONE_WAY, SIZES)
  np.testing.assert_allclose(found[0], by_hand[0], atol=12 / 2048)
  np.testing.assert_allclose(found[1], by_hand[1], atol=0.15)
  assert by_hand.min() > 5


def test_columns_that_go_together_and_classes_that_differ_stand_out():
  """The first two columns are alike in each row; the second and third in one class only."""
  rng = np.random.default_rng(0)
  labels, cells = np.repeat([0, 1], 500), rng.integers(0, 2, (1000, 4))
  cells[:, 1] = cells[:, 0]
  cells[500:, 2] = cells[500:, 3]
  of_classes = [cells[labels == k] for k in (0, 1)]
  one_way = [np.concatenate([np.bincount(c, minlength=2) for c in each.T]) for each in of_classes]
  rows = _rows(cells, labels, (2,) * 4)
  together, apart = rows.release_scores(np.array(one_way, float), noise_multiplier=0.0)
  assert together.argsort()[::-1][:2].tolist() == [0, 5]
  assert together[0] == pytest.approx(1000, rel=0.05)
  assert together[5] == pytest.approx(500, rel=0.1)
  assert apart.argmax() == 5
  assert apart[5] > 100 > 3 * np.delete(apart, 5).max()


@hypothesis.given(
  sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4), classes=st.integers(1, 3),
  k=st.integers(1, 4), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_no_record_moves_a_score_by_more_than_its_rows(sizes, classes, k, seed):
  """Whatever is compared with, whoever else is there: by fractions of 1/1024, exactly."""
  rng = np.random.default_rng(seed)
  one_way = rng.exponential(9, (classes, sum(sizes))) * (rng.random((classes, sum(sizes))) < 0.7)
  others = _some(int(rng.integers(0, 20)), seed, sizes, classes)
  row = np.append(rng.integers(0, sizes), rng.integers(classes))
  own = np.tile(row, (k, 1)) if seed % 2 else np.column_stack(_some(k, seed + 1, sizes, classes))
  more = [np.concatenate([others[0], own[:, :-1]]), np.append(others[1], own[:, -1])]
  before, after = (
    np.array(_rows(*rows, sizes, classes).release_scores(one_way, noise_multiplier=0.0))
    for rows in (others, more)
  )
  moved = (after - before) * marginals.UNITS
  assert (moved == np.rint(moved)).all()
  assert (np.abs(moved) <= k * marginals.UNITS).all()
  number = min(classes, 2) * math.comb(len(sizes), 2)
  limit = math.sqrt(marginals.squared_sensitivity(number, k))
  assert np.linalg.norm(after - before) <= limit * (1 + 1e-12)


def test_some_rows_move_scores_as_far_as_is_stated():
  """Of a class that nothing was expected of, both kinds, in every pair."""
  one_way = np.array([[9.0, 0, 9, 0], [0, 0, 0, 0]])
  before, after = (
    np.array(rows.release_scores(one_way, noise_multiplier=0.0))
    for rows in (_nobody((2, 2)), _rows([[0, 0]], [1], (2, 2)))
  )
  assert np.abs(after - before).tolist() == [[1.0], [1.0]]


def test_shares_of_classes_are_rounded_to_no_more_than_all():
  """Of three classes a third each: rounded to the nearest 1/512 they would be 513, and a row of a
  fourth would move a score by more than it may.
  """
  one_way = np.array([[0.0, 0], [9, 9], [9, 9], [9, 9]])
  before, after = (
    rows.release_scores(one_way, noise_multiplier=0.0)[1][0]
    for rows in (_nobody((1, 1), 4), _rows([[0, 0]], [0], (1, 1), 4))
  )
  assert 0.99 < after - before <= 1


@pytest.mark.parametrize(('classes', 'k'), [(1, 1), (3, 1), (2, 4)])
def test_scores_have_the_stated_noise(classes, k):
  """Of 4,000 draws a deviation is off by 1/√8,000: five of these are 5.6 %."""
  sizes, sigma, found = (1,) * 9, 1.7, []
  for number in range(112 if classes == 1 else 56):
    nobody = _nobody(sizes, classes, purpose=f'{number}', rows_per_record=k)
    scores = nobody.release_scores(np.zeros((classes, 9)), noise_multiplier=sigma)
    assert classes > 1 or not scores[1].any()
    found.extend(scores[: min(classes, 2)])
  drawn = np.concatenate(found)
  assert len(drawn) >= 4000
  stated = sigma * k * math.sqrt(36 * min(classes, 2))
  assert drawn.std() == pytest.approx(stated, rel=0.056)


# --- counts ---------------------------------------------------------------------------------------


def test_counts_are_of_chosen_pairs_alone():
  cells, labels = _some()
  rows = pairs.TwoWay(cells.tolist(), labels.tolist(), 2, SIZES, secret=SECRET, purpose='lists')
  found = rows.release_counts(
    _chosen(3, (0, 2)), _chosen(3, (0, 1), (2, 2)), noise_multiplier=0.0
  )
  wanted, places = np.zeros((3, 9, 9)), cells + np.array([0, 3, 5])
  for (a, b, c), label in zip(places, labels, strict=True):
    wanted[label, a, b] += 1
    wanted[label, b, a] += 1
    wanted[label, c, c] += 1
    wanted[2, a, c] += 1
    wanted[2, c, a] += 1
  np.testing.assert_array_equal(found, wanted)


@hypothesis.given(seed=st.integers(0, 2**31), k=st.integers(1, 3), classes=st.integers(1, 3))
def test_a_row_moves_counts_by_what_their_noise_is_made_for(seed, k, classes):
  rng = np.random.default_rng(seed)
  kinds = rng.integers(0, 3 if classes > 1 else 2, (3, 3))  # of each, none or one way of two
  together, apart = np.triu(kinds == 2, 1), np.triu(kinds == 1)
  row, label = rng.integers(0, SIZES, (1, 3)), rng.integers(0, classes, 1)
  rows = _rows(row.repeat(k, axis=0), label.repeat(k), classes=classes, rows_per_record=k)
  counts = rows.release_counts(together, apart, noise_multiplier=0.0)
  of_a_row = int(together.sum() + apart.sum())
  moved = np.linalg.norm(np.triu(counts))
  assert moved == pytest.approx(math.sqrt(marginals.squared_sensitivity(of_a_row, k)))


@pytest.mark.parametrize('k', [1, 3])
def test_counts_have_the_stated_noise_in_every_group(k):
  """Of 3,600 draws of a group a deviation is off by 1/√7,200: five of these are 6 %."""
  sizes, sigma = (60, 60, 60), 1.3
  rows = _nobody(sizes, rows_per_record=k)
  found = rows.release_counts(
    _chosen(3, (0, 1)), _chosen(3, (0, 2), (1, 1)), noise_multiplier=sigma
  )
  stated = sigma * k * math.sqrt(3)
  parts = found[0, :60, 120:], found[1, :60, 120:], found[2, :60, 60:120]
  for drawn in parts:
    assert drawn.std() == pytest.approx(stated, rel=0.06)
  for one, other in itertools.combinations(parts, 2):
    assert (one != other).mean() > 0.99
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / 60
  own = np.diagonal(found[:2, 60:120, 60:120], axis1=1, axis2=2)
  assert own.std() == pytest.approx(stated, rel=5 / math.sqrt(240))
  assert (found == found.mT).all()


def test_other_pairs_and_other_kinds_of_release_get_other_noise():
  """Of columns of one size, whose draws would be the same numbers of one stream."""
  sizes, none = (4, 4, 4), _chosen(3)
  nobody = _nobody(sizes)
  ways = [(none, _chosen(3, (0, 1))), (none, _chosen(3, (0, 2))), (_chosen(3, (0, 1)), none)]
  drawn = []
  for way in ways:
    counts = nobody.release_counts(*way, noise_multiplier=2.0)
    np.testing.assert_array_equal(nobody.release_counts(*way, noise_multiplier=2.0), counts)
    drawn.append(np.unique(counts[counts != 0]))
  scores = nobody.release_scores(np.zeros((2, 12)), noise_multiplier=2.0)
  drawn.append(np.ravel(scores))
  for one, other in itertools.combinations(drawn, 2):
    assert len(np.intersect1d(one, other)) <= 1


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'labels': [2]}, r'a class in \[0, 2\) for each row'),
    ({'labels': [-1]}, 'a class in'),
    ({'labels': [0.0]}, 'a class in'),
    ({'labels': [0, 1]}, 'a class in'),
    ({'cells': [[3, 0, 0]]}, r'cells in \[0, sizes\)'),
  ],
)
def test_rows_that_cannot_be_are_refused(change, message):
  with pytest.raises(_validate.InputError, match=message):
    _rows(**{'cells': [[0, 0, 0]], 'labels': [0], **change})


@pytest.mark.parametrize(
  'one_way', [-ONE_WAY, ONE_WAY * math.nan, ONE_WAY * 1e10, ONE_WAY[:1], ONE_WAY[:, :-1]]
)
def test_what_shares_cannot_follow_from_is_refused(one_way):
  """Of a negative count a share would be one, and a row would move its score further."""
  with pytest.raises(_validate.InputError, match=r'one_way >= 0 \[2, 9\]'):
    _nobody().release_scores(one_way, noise_multiplier=1.0)


@pytest.mark.parametrize('sigma', [-1.0, math.nan, math.inf])
def test_noise_that_cannot_be_is_refused(sigma):
  with pytest.raises(_validate.InputError, match='noise_multiplier'):
    _nobody().release_scores(ONE_WAY, noise_multiplier=sigma)
  with pytest.raises(_validate.InputError, match='noise_multiplier'):
    _nobody().release_counts(_chosen(3), _chosen(3, (0, 1)), noise_multiplier=sigma)


@pytest.mark.parametrize('wrong', [_chosen(3).astype(int), _chosen(2), _chosen(4)])
def test_pairs_that_are_no_pairs_of_these_columns_are_refused(wrong):
  """Numbers would say which cells to count, and not whether: a row would move more of them."""
  for ways in ((wrong, _chosen(3)), (_chosen(3), wrong)):
    with pytest.raises(_validate.InputError, match=r'bool \[C, C\]'):
      _nobody().release_counts(*ways, noise_multiplier=1.0)


def test_a_pair_is_counted_in_one_way():
  pair = _chosen(3, (0, 1))
  with pytest.raises(_validate.InputError, match='counted in one way'):
    _nobody().release_counts(pair, pair, noise_multiplier=1.0)
  with pytest.raises(_validate.InputError, match='counted in one way'):
    _nobody(classes=1).release_counts(pair, _chosen(3), noise_multiplier=1.0)
