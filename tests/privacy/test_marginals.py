"""Noisy one-way and two-way counts: what is counted, how far a row moves it, and the noise.

Which pairs are counted, and scores that say so, are in `test_pairs`.
"""

from __future__ import annotations

import itertools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.privacy.exact_noise import new_secret
from dpgan_jax.privacy.releases import marginals, pairs

SECRET = bytes(range(32))
SIZES = (3, 1, 4)


def _one(cells, sizes=SIZES, **settings):
  settings = {'noise_multiplier': 0.0, 'secret': SECRET, 'purpose': 'test', **settings}
  return marginals.release_one_way(cells, sizes, **settings)


def _two(cells, sizes=SIZES, *, noise_multiplier=0.0, labels=None, classes=1, **settings):
  """Of all pairs, of each class; of a single class float64 [D, D]."""
  settings = {'secret': SECRET, 'purpose': 'test', **settings}
  labels = np.zeros(np.shape(cells)[:1], int) if labels is None else labels
  rows = pairs.TwoWay(cells, labels, classes, sizes, **settings)
  every = ~np.tri(len(sizes), dtype=bool)
  counts = rows.release_counts(~every & every, every, noise_multiplier=noise_multiplier)
  return counts[0] if classes == 1 else counts


def _nothing(sizes=SIZES) -> np.ndarray:
  return np.zeros((0, len(sizes)), np.int64)


def _across(sizes) -> tuple[np.ndarray, np.ndarray]:
  """Where the pairs of cells of two columns are, each pair once."""
  of = np.repeat(np.arange(len(sizes)), sizes)
  return np.nonzero(of[:, np.newaxis] < of)


@st.composite
def tables(draw: st.DrawFn, rows: st.SearchStrategy[int]) -> tuple[np.ndarray, tuple[int, ...]]:
  """Cells of a few rows, and how many each column has."""
  sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
  codes = draw(hnp.arrays(np.int64, (draw(rows), len(sizes)), elements=st.integers(0, 59)))
  return codes % sizes, sizes


@hypothesis.given(tables(st.integers(0, 12)), st.sampled_from((2, 3, 4096)))
def test_without_noise_they_are_counts(table, at_once):
  cells, sizes = table
  starts = np.cumsum([0, *sizes])
  one, two = np.zeros(starts[-1]), np.zeros((starts[-1],) * 2)
  for row in cells:
    for c, cell in enumerate(row):
      one[starts[c] + cell] += 1
      for d, other in enumerate(row):
        two[starts[c] + cell, starts[d] + other] += c != d
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(pairs, '_ROWS_AT_ONCE', at_once)  # rows are counted part by part
    np.testing.assert_array_equal(_two(cells, sizes), two)
  np.testing.assert_array_equal(_one(cells, sizes), one)


@hypothesis.given(tables(st.integers(1, 8)))
def test_one_row_moves_them_by_exactly_the_sensitivity(table):
  """Whatever the row, whatever the others: √C, and of each pair once √(C(C - 1)/2)."""
  cells, sizes = table
  columns = len(sizes)
  moved = _one(cells, sizes) - _one(cells[1:], sizes)
  assert np.linalg.norm(moved) == pytest.approx(math.sqrt(columns))
  moved = (_two(cells, sizes) - _two(cells[1:], sizes))[_across(sizes)]
  assert np.linalg.norm(moved) == pytest.approx(math.sqrt(columns * (columns - 1) / 2))


@hypothesis.given(tables(st.integers(0, 6)), st.floats(0.01, 30.0))
def test_noise_does_not_depend_on_what_is_counted(table, sigma):
  """What a row changes is the counts, and not the noise that hides it."""
  cells, sizes = table
  for release in (_one, _two):
    noise = release(_nothing(sizes), sizes, noise_multiplier=sigma)
    noisy = release(cells, sizes, noise_multiplier=sigma)
    np.testing.assert_array_equal(noisy - noise, release(cells, sizes))


@pytest.mark.parametrize(
  'columns', [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5)), 2]
)
def test_noise_has_the_stated_deviation(columns):
  """The deviation of n independent draws is off by 1/√(2n), their mean by σ/√n: five of these are
  allowed. With n ≥ 8,000 that is 4 %, and one column or pair more or less makes at least 5 %.
  """
  sigma, sizes = 1.7, (40,) * columns
  pairs = columns * (columns - 1) // 2
  draws = {
    math.sqrt(columns): (_one, math.ceil(8_000 / (40 * columns))),
    math.sqrt(pairs): (_two, math.ceil(8_000 / (1600 * pairs)) if pairs else 1),
  }
  for sensitivity, (release, times) in draws.items():
    found = []
    for number in range(times):
      noise = release(_nothing(sizes), sizes, noise_multiplier=sigma, purpose=f'{number}')
      found.append(noise[_across(sizes)] if release is _two else noise)
    values = np.concatenate(found)
    if not sensitivity:
      assert not values.size  # there is no pair
      continue
    assert len(values) >= 8_000
    deviation = sigma * sensitivity
    assert abs(values.std() / deviation - 1) < 5 / math.sqrt(2 * len(values))
    assert abs(values.mean()) < 5 * deviation / math.sqrt(len(values))
    neighbours = np.corrcoef(values[1:], values[:-1])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(len(values))


def test_two_way_counts_are_symmetric_and_zero_within_a_column():
  sizes = (3, 2, 4)
  released = _two(_nothing(sizes), sizes, noise_multiplier=3.0)
  of = np.repeat(np.arange(3), sizes)
  between = of[:, np.newaxis] != of
  assert (released == released.T).all()
  assert (released[~between] == 0).all()
  assert (released[between] != 0).mean() > 0.9


def test_published_bits_explain_any_count():
  """They are whole multiples of 1/1024, odd ones among them, whatever was counted."""
  for release in (_one, _two):
    released = release(np.zeros((5, 3), int), noise_multiplier=1.0) * 1024
    assert (released == np.rint(released)).all()
    assert (released % 2 == 1).any()


def test_the_same_arguments_give_the_same_noise_and_others_another():
  """Two counts of one noise differ by what was counted: that would be published free of it."""
  same = {'noise_multiplier': 2.0}
  for release in (_one, _two):
    first = release(_nothing(), **same)
    np.testing.assert_array_equal(release(_nothing(), **same), first)
    drawn = first != 0
    for other in (
      {'purpose': 'of class 1'}, {'secret': new_secret()}, {'noise_multiplier': 2.0000001},
    ):  # fmt: skip
      assert (release(_nothing(), **{**same, **other}) != first)[drawn].mean() > 0.5


def test_kinds_of_counts_and_forms_of_tables_share_no_noise():
  """With one purpose. Three columns of one cell have as many one-way as two-way counts, of one
  sensitivity: of one stream, they would be the same numbers.
  """
  sizes, other = (1, 1, 1), (2, 1)
  for number in range(20):
    settings = {'noise_multiplier': 2.0 * 6**0.5, 'purpose': f'{number}'}
    one = _one(_nothing(sizes), sizes, **settings)
    two = _two(_nothing(sizes), sizes, **settings)[_across(sizes)]
    settings['noise_multiplier'] *= (3 / 2) ** 0.5
    another = _one(_nothing(other), other, **settings)
    assert len({*one, *two, *another}) == 9


@pytest.mark.parametrize('at_once', [1, 7, 64])
def test_noise_that_is_drawn_in_parts_is_new_in_each(monkeypatch, at_once):
  monkeypatch.setattr(marginals, '_DRAWS_AT_ONCE', at_once)
  noise = _one(_nothing((200,)), (200,), noise_multiplier=5.0)
  assert len(np.unique(noise)) > 190


def test_a_table_in_which_nothing_can_differ_is_counted_too():
  """One column of one cell: all that is to be said is how many rows there are."""
  cells = np.zeros((7, 1), np.uint8)
  assert _one(cells, (1,)).tolist() == [7]
  assert _two(cells, (1,)).tolist() == [[0]]
  assert abs(_one(cells, (1,), noise_multiplier=1.0)[0] - 7) < 10
  assert _two(cells, (1,), noise_multiplier=1.0).tolist() == [[0]]


_FINE = np.zeros((2, 3), np.int64)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'cells': _FINE + np.array([[3, 0, 0]])}, r'expected cells in \[0, sizes\)'),
    ({'cells': _FINE + np.array([[0, 1, 0]])}, r'expected cells in \[0, sizes\)'),
    ({'cells': _FINE - np.array([[0, 0, 1]])}, r'expected cells in \[0, sizes\)'),
    ({'cells': _FINE.astype(np.uint64) + np.uint64(2**63)}, r'expected cells in \[0, sizes\)'),
    ({'cells': _FINE[:, :2]}, r'whole numbers \[n, 3\], got int64 \(2, 2\)'),
    ({'cells': _FINE[0]}, r'whole numbers \[n, 3\], got int64 \(3,\)'),
    ({'cells': _FINE[:, :, np.newaxis]}, r'whole numbers \[n, 3\]'),
    ({'cells': _FINE.astype(float)}, r'whole numbers \[n, 3\], got float64'),
    ({'cells': _FINE.astype(bool)}, r'whole numbers \[n, 3\], got bool'),
    ({'cells': _FINE[:, :0], 'sizes': ()}, r'whole numbers \[n, C >= 1\]'),
    ({'sizes': (3, 0, 4)}, 'sizes'),
    ({'sizes': (3, 1.5, 4)}, 'sizes'),
    ({'noise_multiplier': -1.0}, 'noise_multiplier'),
    ({'noise_multiplier': math.nan}, 'noise_multiplier'),
    ({'noise_multiplier': math.inf}, 'noise_multiplier'),
    ({'noise_multiplier': 1.0, 'secret': b'short'}, '128 bits'),
  ],
)
def test_what_cannot_be_is_refused(change, message):
  for release in (_one, _two):
    with pytest.raises(_validate.InputError, match=message):
      release(**{'cells': _FINE, **change})


# --- persons with several rows --------------------------------------------------------------------


def _moved_by(rows, sizes, classes: int) -> tuple[float, float]:
  """How far a person with these rows (cells, then the class) moves all counts of all classes."""
  rows = np.asarray(rows, np.int64).reshape(-1, len(sizes) + 1)
  one = [_one(rows[rows[:, -1] == k, :-1], sizes) for k in range(classes)]
  two = np.atleast_3d(_two(rows[:, :-1], sizes, labels=rows[:, -1], classes=classes).T).T
  return float(np.linalg.norm(one)), float(np.linalg.norm(two[:, *_across(sizes)]))


def _limits(columns: int, k: int) -> np.ndarray:
  of_a_row = columns, math.comb(columns, 2)
  return np.sqrt([marginals.squared_sensitivity(each, k) for each in of_a_row])


def test_no_person_moves_counts_further_than_stated_and_some_do_as_far():
  """Every person of up to 3 rows of 2 × 2 cells in 2 classes, 164 of them."""
  sizes, classes = (2, 2), 2
  kinds = list(itertools.product(range(2), range(2), range(classes)))
  for k in (1, 2, 3):
    people = [p for m in range(1, k + 1) for p in itertools.combinations_with_replacement(kinds, m)]
    moved = np.array([_moved_by(person, sizes, classes) for person in people])
    stated = _limits(2, k)
    np.testing.assert_allclose(moved.max(axis=0), stated)
    # In as many classes as rows they move counts less: taking classes for parallel would be wrong
    # only for those whose rows are of one class.
    alike = [p for p in people if len(p) == k and len(set(p)) == 1]
    for person in alike:
      np.testing.assert_allclose(_moved_by(person, sizes, classes), stated)


@hypothesis.given(
  sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), classes=st.integers(1, 4),
  k=st.integers(1, 6), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_any_person_moves_counts_by_at_most_the_sensitivity(sizes, classes, k, seed):
  """Rows that are nearly alike are the hardest."""
  rng = np.random.default_rng(seed)
  row = np.append(rng.integers(0, sizes), rng.integers(classes))
  other = np.column_stack([rng.integers(0, sizes, (k, len(sizes))), rng.integers(0, classes, k)])
  rows = np.where(rng.random((k, len(row))) < 0.2, other, row)
  limits = _limits(len(sizes), k)
  assert (np.array(_moved_by(rows, sizes, classes)) <= limits * (1 + 1e-12)).all()


def test_noise_of_persons_is_k_times_as_wide():
  """Of 8,000 draws a deviation is off by 1/√16,000: five of these are 4 %."""
  sizes, sigma = (50,) * 4, 1.3
  how = {'noise_multiplier': sigma, 'rows_per_record': 5}
  one = [_one(_nothing(sizes), sizes, purpose=f'{i}', **how) for i in range(40)]
  two = _two(_nothing(sizes), sizes, **how)[_across(sizes)]
  for drawn, columns in ((np.concatenate(one), 4), (two, 6)):
    assert len(drawn) >= 8_000
    assert drawn.std() == pytest.approx(sigma * 5 * math.sqrt(columns), rel=0.04)


@pytest.mark.parametrize('wrong', [0, -1, 1.5, True])
def test_impossible_numbers_of_rows_are_refused(wrong):
  for release in (_one, _two):
    with pytest.raises(_validate.InputError, match='rows_per_record'):
      release(_nothing(), rows_per_record=wrong)
