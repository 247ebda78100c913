"""Tables whose bounds and categories are open: nothing that a draft has read is left in them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import sources
from dpgan_jax.data.tables.constraints.forms import from_records
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files.open import opened, read_open
from dpgan_jax.data.tables.schema import Column, Schema

FRAME = {
  'age': ['41', '57', '?', '987654'], 'plz': ['01067', '50667', '01067', ''],
  'height': ['1.71', '1.8', '', '2'], 'born': ['1980-01-02', '1990-05-06', '', '1999-12-31'],
  'ill': ['no', 'yes', 'no', 'no'], 'sex': ['f', 'm', 'f', 'f'],
}  # fmt: skip


@pytest.fixture
def written(tmp_path):
  """Writes a frame of texts as CSV; its path."""

  def write(frame: dict[str, list[str]]) -> str:
    rows = [list(frame), *zip(*frame.values(), strict=True)]
    path = tmp_path / f'{len(list(tmp_path.iterdir()))}.csv'
    path.write_text('\n'.join(','.join(row) for row in rows) + '\n')
    return str(path)

  return write


def test_nothing_that_was_read_is_left(written):
  drafted, _ = draft_schema(written(FRAME), target='ill')
  text = json.dumps(opened(drafted).to_record())
  for value in ('41', '57', '987654', '01067', '50667', '1.71', '1980', '1999', '?', '0.01'):
    assert value not in text
  # Of other data of the same kinds it is the same.
  others = {
    'age': ['1', '2'], 'plz': ['00', '01'], 'height': ['1.5', '2.5'],
    'born': ['2000-01-01', '2001-01-01'], 'ill': ['n', 'y'], 'sex': ['p', 'q'],
  }  # fmt: skip
  assert opened(draft_schema(written(others), target='ill')[0]) == opened(drafted)


def test_what_was_confirmed_stays():
  age = Column(
    name='age', kind='integer', lower=0, upper=987, nullable=True, missing='?',
    drafted=('upper', 'nullable', 'missing'),
  )  # fmt: skip
  town = Column(name='town', kind='categorical', categories=('a', 'b'), drafted=('nullable',))
  kept = Column(name='kept', kind='categorical', categories=('x', 'y'))
  found = opened(Schema(columns=(age, town, kept)))
  assert found.columns[0].lower == 0
  assert found.columns[0].upper == 2.0**52
  assert found.columns[0].missing == ''
  assert found.columns[1].categories == ('a', 'b')
  assert found.columns[1].found == ('nullable', 'missing')
  assert found.columns[2] == kept
  assert not found.unconfirmed()


def test_there_has_to_be_something_to_find():
  schema = Schema(columns=(Column(name='a', kind='integer', lower=0, upper=9),))
  with pytest.raises(InputError, match='leave schema_epsilon out'):
    opened(schema)
  drafted = draft_schema({'a': [1, 2], 'b': [3, 4]})[0]
  with pytest.raises(InputError, match='leave schema_epsilon out'):
    opened(dataclasses.replace(drafted, declared_public=True))
  constraints = from_records([{'kind': 'inequality', 'low': 'a', 'high': 'b'}])
  with pytest.raises(InputError, match='no constraints with schema_epsilon'):
    opened(dataclasses.replace(drafted, constraints=constraints))


def test_values_are_checked_before_anything_is_spent(written):
  drafted = draft_schema(written(FRAME), target='ill')[0]
  table = read_open(written(FRAME), drafted)
  assert len(table) == 4
  assert table.text('age').codes[2] == -1
  assert np.isnan(table.numbers('born')[2])
  for changes, words in (
    ({'age': ['41', 'x', '2', '3']}, "'age', row 2: expected a number"),
    ({'ill': ['no', 'yes', 'maybe', 'no']}, 'at most two values of a boolean'),
    ({'born': ['1980-02-30', '', '', '']}, "'born', row 1: expected YYYY-MM-DD"),
  ):
    with pytest.raises(InputError, match=words):
      read_open(written({**FRAME, **changes}), drafted)


def test_values_beyond_what_is_found_are_clipped_other_or_the_first(written):
  table = read_open(written(FRAME), draft_schema(written(FRAME), target='ill')[0])
  by = {column.name: column for column in table.schema.columns}
  columns = (
    dataclasses.replace(by['age'], lower=50, upper=60, nullable=False),
    dataclasses.replace(by['plz'], categories=('01067', 'other')),
    dataclasses.replace(by['height'], lower=1.0, upper=1.9, resolution=0.1),
    dataclasses.replace(by['born'], lower='1985-01-01', upper='1995-01-01'),
    dataclasses.replace(by['ill'], categories=('no', 'yes')),
    dataclasses.replace(by['sex'], kind='categorical', categories=('f',), outside='refuse',
                        nullable=False),
  )  # fmt: skip
  closed = table.closed(dataclasses.replace(table.schema, columns=columns))
  age, plz, height, _, sex = closed.records.T
  assert age.tolist() == [50, 57, 55, 60]
  np.testing.assert_array_equal(plz, [0, 1, 0, np.nan])
  np.testing.assert_allclose(height, [1.7, 1.8, np.nan, 1.9])
  assert sex.tolist() == [0, 0, 0, 0]
  assert closed.labels.tolist() == [0, 1, 0, 0]


def test_one_row_more_holds_out_no_other():
  rng = np.random.default_rng(0)
  frame = {'a': rng.integers(0, 99, 300).tolist(), 'b': rng.choice(['x', 'y'], 300).tolist()}
  more = {'a': [10**6, *frame['a']], 'b': ['new', *frame['b']]}
  drafted = draft_schema(more)[0]
  one, other = (read_open(each, drafted).content for each in (frame, more))
  np.testing.assert_array_equal(sources.chosen(one, 0.2), sources.chosen(other, 0.2)[1:])


def test_of_a_person_one_row_counts():
  frame = {'who': list('aaaabb'), 'x': [1, 2, 3, 4, 5, 6]}
  drafted = draft_schema(frame, unit_column='who', max_rows_per_unit=3)[0]
  table = read_open(frame, drafted)
  assert len(table) == 5
  assert table.spec.num_records == 2
  assert table.first_rows.sum() == 2
