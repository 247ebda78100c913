"""Public cells: every value of a domain is in one of them, and values that it gives are in it.

`tests/evaluation/tables/test_table_cells.py` says where particular values lie.
"""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.schema import Column
from tests.support import random_tables

_columns = random_tables.columns('c')
_bins = st.integers(1, 12)


@st.composite
def _filled(draw: st.DrawFn) -> tuple[Cells, np.ndarray]:
  """Cells of a random column, and values that it may hold, its bounds among them."""
  column = draw(_columns)
  values = draw(st.lists(random_tables.values(column), min_size=1, max_size=20))
  if column.is_number:
    values += column.bounds
  return Cells(column, draw(_bins)), np.array(values)


@hypothesis.given(_filled())
@hypothesis.settings(max_examples=150)
def test_every_value_has_one_cell_and_the_missing_one_its_own(case):
  cells, values = case
  found = cells.of(values)
  assert found.dtype == np.int64
  assert len(cells.names) == cells.count > found.max()
  assert found.min() >= 0
  assert ((found == 0) == np.isnan(values)).all() or not cells.column.nullable
  assert cells.names[0] == 'missing' or not cells.column.nullable
  # Where a value lies does not depend on the others.
  np.testing.assert_array_equal([cells.of(np.array([v]))[0] for v in values], found)


def test_a_bound_that_is_near_zero_beside_the_range_stays():
  cells = Cells(Column(name='c', kind='integer', lower=-2, upper=2 * 10**9 - 1), 1)
  values = np.array([-2.0, -1.0, 0.0, 1.0])
  assert (np.diff(cells.of(values)) > 0).all()
  np.testing.assert_array_equal(cells.value(cells.of(values[:3]), np.full(3, 0.5)), values[:3])


@hypothesis.given(_filled())
@hypothesis.settings(max_examples=150)
def test_numbers_lie_between_the_ends_of_their_cell(case):
  """Single numbers in cells of their own; and larger numbers in later cells."""
  cells, values = case
  column = cells.column
  if not column.is_number:
    return
  low, high = cells._ends
  present = np.sort(values[~np.isnan(values)])
  found = cells.of(present) - int(column.nullable)
  assert (np.diff(found) >= 0).all()
  off = (column.step or 0) / 2 + 1e-9 * (column.bounds[1] - column.bounds[0] + 1)
  assert (low[found] - off <= present).all()
  assert (present <= high[found] + off).all()
  inside = low[found] < high[found]
  at_a_number = np.isin(low[found], low[low == high])
  assert (low[found] < present)[inside & at_a_number].all()  # what heaps up there is not inside
  assert low[0] == column.bounds[0]
  assert high[-1] == column.bounds[1]
  assert not inside[present == column.bounds[0]].any()
  assert not inside[present == column.bounds[1]].any()
  if column.kind in ('integer', 'real') and column.bounds[0] < 0 < column.bounds[1]:
    assert not inside[present == 0].any()
  # What was in a cell of its own comes back.
  back = cells.value(cells.of(present), np.full(len(present), 0.5))
  on_grid = np.array([column.rounded(value) == value for value in present])
  np.testing.assert_allclose(
    back[~inside & on_grid], present[~inside & on_grid], rtol=1e-12, atol=1e-9
  )


@hypothesis.given(_columns, _bins, st.lists(st.floats(0, 1), min_size=2, max_size=6))
@hypothesis.settings(max_examples=150)
def test_values_of_a_cell_are_in_the_domain_and_in_the_cell(column, bins, places):
  """Of an interval they lie between its ends, rounded to the resolution; all else comes back."""
  cells = Cells(column, bins)
  places = np.array([0.0, 1.0, *places])
  for cell in range(cells.count):
    values = cells.value(np.full(len(places), cell), places)
    assert values.dtype == np.float64
    if column.nullable and cell == 0:
      assert np.isnan(values).all()
      assert (cells.of(values) == 0).all()
      continue
    assert not np.isnan(values).any()
    if column.is_category:
      assert (values == cell - int(column.nullable)).all()
      assert (cells.of(values) == cell).all()
      continue
    lower, upper = column.bounds
    assert (lower <= values).all()
    assert (values <= upper).all()
    low, high = (ends[cell - int(column.nullable)] for ends in cells._ends)
    slack = (column.step or 0) / 2 + 1e-9 * (upper - lower + 1)  # an end may lie off the grid
    assert (low - slack <= values).all()
    assert (values <= high + slack).all()
    if low == high:
      assert (values == values[0]).all()
    elif column.step is not None and column.step < high - low:
      assert (cells.of(values) == cell).all()
    if column.step is not None and cells._points is None:
      steps = (values - lower) / column.step
      near = np.abs(steps - np.rint(steps)) < 1e-6 + 1e-15 * max(abs(lower), abs(upper)) / (
        column.step
      )
      assert (near | (values == upper)).all()


@pytest.mark.parametrize(
  ('column', 'bins', 'names'),
  [
    (Column(name='n', kind='integer', lower=0, upper=9), 8, tuple('0123456789')),
    (Column(name='n', kind='integer', lower=0, upper=10), 5,
     ('0', '0 to 2', '2 to 4', '4 to 6', '6 to 8', '8 to 10', '10')),
    (Column(name='x', kind='real', lower=-1, upper=1), 2, ('-1.0', '-1.0 to 0.0', '0.0',
                                                        '0.0 to 1.0', '1.0')),
    (Column(name='x', kind='real', lower=-1, upper=3), 1, ('-1.0', '-1.0 to 0.0', '0.0',
                                                        '0.0 to 3.0', '3.0')),
    (Column(name='d', kind='date', lower='1969-12-01', upper='1970-02-01'), 1,
     ('1969-12-01', '1969-12-01 to 1970-02-01', '1970-02-01')),
    (Column(name='a', kind='ordinal', categories=('b', 'a'), nullable=True, missing='?'), 3,
     ('missing', 'b', 'a')),
  ],
)  # fmt: skip
def test_which_cells_there_are(column, bins, names):
  assert Cells(column, bins).names == names


def test_cells_are_of_the_column_alone():
  """The same cells whatever was counted before: bounds of the data are nobody's to know."""
  column = Column(name='x', kind='real', lower=0, upper=100)
  one, other = Cells(column, 4), Cells(column, 4)
  one.of(np.array([40.0, 41.0]))
  other.of(np.array([0.0, 100.0]))
  assert one.names == other.names == ('0.0', '0.0 to 25.0', '25.0 to 50.0', '50.0 to 75.0',
                                      '75.0 to 100.0', '100.0')  # fmt: skip


def test_places_are_even_within_an_interval():
  """The mean of a uniform number of 10,000 is off by 1/√(12·10,000): five of these are allowed."""
  cells = Cells(Column(name='x', kind='real', lower=0, upper=8), 4)
  values = cells.value(np.full(10_000, 2), np.random.default_rng(0).random(10_000))
  assert values.mean() == pytest.approx(3.0, abs=2 * 5 / math.sqrt(12 * 10_000))
  assert values.min() < 2.01
  assert values.max() > 3.99


def test_each_number_of_an_interval_is_as_likely_as_another():
  """41 does not get a part of the rows with 40; a count of 2,000 varies by 45, five are allowed."""
  cells = Cells(Column(name='hours', kind='integer', lower=0, upper=99), 60)
  numbers = np.arange(100.0)
  of_each = cells.of(numbers)
  for cell in range(cells.count):
    own = numbers[of_each == cell]
    places = np.random.default_rng(cell).random(2000 * len(own))
    drawn = cells.value(np.full(len(places), cell), places)
    found, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(found, own)
    assert np.abs(counts - 2000).max() < 5 * 45


@hypothesis.given(
  step=st.sampled_from((0.1, 0.01, 0.05, 1e-3)), below=st.integers(15, 3000),
  above=st.integers(15, 3000),
)  # fmt: skip
def test_zero_and_the_bounds_are_met_although_steps_are_no_floats(step, below, above):
  """-0.3 + 3·0.1 is not 0, and values that are 0 are many."""
  column = Column(
    name='x', kind='real', lower=round(-below * step, 4), upper=round(above * step, 4),
    resolution=step,
  )  # fmt: skip
  cells = Cells(column, 5)
  read = np.array([column.parse(str(value)) for value in (*column.bounds, 0.0)])
  low, high = (ends[cells.of(read)] for ends in cells._ends)
  np.testing.assert_array_equal(low, high)
  np.testing.assert_allclose(low, (*column.bounds, 0.0))
