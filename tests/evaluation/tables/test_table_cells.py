"""Public cells: where each value lies, whatever else is in the table."""

from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.evaluation.tables import cells
from tests.support.tables import PEOPLE, people, some

NAN = float('nan')


@pytest.mark.parametrize(
  ('column', 'values', 'expected', 'count'),
  [
    (Column(name='c', kind='categorical', categories=('a', 'b', 'c'), nullable=True),
     [0, 2, NAN], [1, 3, 0], 4),
    (Column(name='n', kind='integer', lower=3, upper=7), [3, 5, 7], [0, 2, 4], 5),
    (Column(name='one', kind='real', lower=2, upper=2), [2.0], [0], 1),
    # A bound off the grid is a value of its own: 0, 2, 4, 5.
    (Column(name='g', kind='integer', lower=0, upper=5, resolution=2), [0, 2, 4, 5],
     [0, 1, 2, 3], 4),
    (Column(name='r', kind='real', lower=-8, upper=8, nullable=True),
     [-8, -7.99, -0.5, 0, 0.5, 7.99, 8, NAN], [1, 2, 10, 11, 12, 20, 21, 0], 22),
    (Column(name='d', kind='date', lower='1970-01-01', upper='1970-01-03'), [0, 1, 2],
     [0, 1, 2], 3),
  ],
)  # fmt: skip
def test_where_values_lie(column, values, expected, count):
  found = cells.of(column)
  assert found.of(np.array(values, np.float64)).tolist() == expected
  assert found.count == count == len(found.names)


def test_a_table_has_its_target_last():
  data = people(50, seed=0)
  table = cells.table(data)
  assert table.names == ('age', 'weight', 'town', 'school', 'smokes', 'since', 'costs', 'ill')
  assert table.codes.shape == (50, 8)
  assert table.codes[:, -1].tolist() == data.labels.tolist()
  assert table.sizes.tolist() == [20, 21, 4, 4, 2, 20, 20, 2]


@hypothesis.given(seed=st.integers(0, 99), kept=st.integers(1, 60))
def test_cells_do_not_depend_on_other_rows(seed, kept):
  data = people(60, seed=seed)
  alone = cells.table(some(data, slice(0, kept)))
  table = cells.table(data)
  np.testing.assert_array_equal(alone.codes, table.codes[:kept])
  assert (table.codes >= 0).all()
  assert (table.codes < table.sizes).all()


def test_other_columns_are_refused_by_name():
  data = people(30, seed=0)
  age, *others = PEOPLE.columns[1:]
  wider = Schema(columns=(dataclasses.replace(age, upper=200), *others), target='ill')
  swapped = Schema(columns=(others[0], age, *others[1:]), target='ill')
  cells.require_same(data, data)
  with pytest.raises(InputError, match="those of people: 'age' differs"):
    cells.require_same(data, dataclasses.replace(data, schema=wider))
  order = [1, 0, 2, 3, 4, 5, 6]
  with pytest.raises(InputError, match='in the order of people'):
    cells.require_same(
      data,
      dataclasses.replace(
        data, schema=swapped, records=np.ascontiguousarray(data.records[:, order])
      ),
    )
