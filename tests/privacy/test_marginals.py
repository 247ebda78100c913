"""Noisy one-way and two-way counts: what is counted, how far a row moves it, and the noise."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.privacy.exact_noise import new_secret
from dpgan_jax.privacy.releases import marginals

SECRET = bytes(range(32))
SIZES = (3, 1, 4)


def _one(cells, sizes=SIZES, **settings):
  settings = {'noise_multiplier': 0.0, 'secret': SECRET, 'purpose': 'test', **settings}
  return marginals.release_one_way(cells, sizes, **settings)


def _two(cells, sizes=SIZES, **settings):
  settings = {'noise_multiplier': 0.0, 'secret': SECRET, 'purpose': 'test', **settings}
  return marginals.release_two_way(cells, sizes, **settings)


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
    patched.setattr(marginals, '_ROWS_AT_ONCE', at_once)  # rows are counted part by part
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


@pytest.mark.parametrize('columns', [1, 2, 5])
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
