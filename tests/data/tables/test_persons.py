"""Persons with several rows: which rows count, who is held out, and how many records there are."""

from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax._validate import InputError
from dpgan_jax.data import sources
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files.read import read_table
from dpgan_jax.data.tables.schema import Column, Schema
from tests.support.tables import visits

SCHEMA = Schema(
  columns=(
    Column(name='who', kind='id'),
    Column(name='x', kind='integer', lower=0, upper=9),
    Column(name='ill', kind='boolean', categories=('no', 'yes')),
  ),
  target='ill',
  unit_column='who',
  max_rows_per_unit=2,
)


def _table(whose: list[str], xs: list[int], ill: list[int] | None = None):
  ill = [0] * len(xs) if ill is None else ill
  frame = {'who': whose, 'x': [str(x) for x in xs], 'ill': [('no', 'yes')[i] for i in ill]}
  return read_table(frame, SCHEMA)


def _rows(table) -> list[tuple]:
  whole = zip(table.persons, table.records.tolist(), table.labels.tolist(), strict=True)
  return sorted((bytes(who), tuple(row), label) for who, row, label in whole)


_people = st.lists(
  st.tuples(st.sampled_from('abcde'), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=24
)


@hypothesis.given(_people, st.randoms(use_true_random=False))
@hypothesis.settings(max_examples=60)
def test_what_is_kept_of_a_person_follows_from_that_person_alone(rows, random):
  """Whoever else is there, and in whatever order the file is; at most k rows, and k if they are."""
  whole = _rows(_table(*map(list, zip(*rows, strict=True))))
  random.shuffle(rows)
  assert _rows(_table(*map(list, zip(*rows, strict=True)))) == whole
  for name in {who for who, _, _ in rows}:
    (digest,) = persons.digests([name])
    own = [row for row in rows if row[0] == name]
    alone = _rows(_table(*map(list, zip(*own, strict=True))))
    assert alone == [row for row in whole if row[0] == bytes(digest)]
    assert len(alone) == min(len(own), 2)
    others = [row for row in rows if row[0] != name]
    if others:
      left = _rows(_table(*map(list, zip(*others, strict=True))))
      assert left == [row for row in whole if row[0] != bytes(digest)]


def test_rows_are_kept_whatever_they_hold():
  """Of 3,000 persons with the rows 0 to 3, each value is kept of about a half: five standard errors
  are 0.046. A hash of the row alone would keep the same two of everybody.
  """
  whose = [f'p{i}' for i in range(3000) for _ in range(4)]
  table = _table(whose, [0, 1, 2, 3] * 3000)
  shares = np.bincount(table.records[:, 0].astype(int)) / 3000
  np.testing.assert_allclose(shares, 0.5, atol=0.046)
  assert len(table) == 6000
  assert table.notes == ('6,000 rows are left out: beyond 2 of a person',)


def test_the_record_is_the_person():
  table = visits(40, most=3, seed=0)
  assert table.spec.num_records == 40 < len(table)
  assert table.spec.unit == 'one person with up to 3 rows'
  assert '40 persons with up to 3 rows each' in table.spec.describe()
  assert Spec.from_record(table.spec.to_record()) == table.spec
  assert Schema.from_record(table.schema.to_record()) == table.schema
  others = dataclasses.replace(table, persons=table.persons[::-1].copy())
  assert others.fingerprint() != table.fingerprint()


def test_a_person_is_on_one_side_of_the_holdout_and_nobody_elses_side_changes():
  table = visits(200, most=3, seed=1)
  train, test = sources.hold_out(table, 0.3)
  assert not np.isin(train.persons, test.persons).any()
  assert train.spec.num_records + test.spec.num_records == 200
  assert len(train) + len(test) == len(table)
  assert 30 < test.spec.num_records < 90
  # Without one person, or without some of that person's rows, everybody else stays.
  gone = table.persons == table.persons[0]
  for left in (~gone, ~gone | (np.arange(len(table)) == 0)):
    part, aside = sources.hold_out(table.part(left, partial=False), 0.3)
    for one, other in ((part, train), (aside, test)):
      mine, theirs = (_rows(t.part(t.persons != table.persons[0], partial=True))
                      for t in (one, other))  # fmt: skip
      assert mine == theirs


@pytest.mark.parametrize('nobody', ['', ' ', 'NA', 'null', None])
def test_rows_of_nobody_are_refused(nobody):
  """Several persons would be taken for one."""
  with pytest.raises(InputError, match="'who', row 2: expected every row to name its person"):
    _table(['a', nobody, 'b'], [1, 2, 3])


def test_a_person_is_one_however_unicode_writes_the_name():
  """As where one system writes an umlaut as one character and another as two."""
  found = _table(['J\xf6rg', 'Jo\u0308rg', 'J\xf6rg', 'ann'], [1, 2, 3, 4])
  assert persons.count(found.persons) == 2
  assert len(found) == 3  # two of his


def test_a_table_with_more_rows_of_a_person_is_refused():
  table = _table(['a', 'a', 'b'], [1, 2, 3])
  with pytest.raises(InputError, match='at most 2 rows of each person'):
    dataclasses.replace(table, persons=table.persons[[0, 0, 0]])
  with pytest.raises(InputError, match='one for each row'):
    dataclasses.replace(table, persons=table.persons[:2])
  with pytest.raises(InputError, match='expected persons'):
    dataclasses.replace(table, persons=None).spec  # noqa: B018
  nobodys = dataclasses.replace(SCHEMA, unit_column=None, max_rows_per_unit=None)
  with pytest.raises(InputError, match='only with unit_column'):
    dataclasses.replace(table, schema=nobodys)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'unit_column': 'x'}, "kind id, got 'x'"),
    ({'unit_column': 'nobody'}, "kind id, got 'nobody'"),
    ({'unit_column': None}, 'together'),
    ({'max_rows_per_unit': None}, 'together'),
    ({'max_rows_per_unit': 0}, 'max_rows_per_unit'),
    ({'max_rows_per_unit': 2.5}, 'max_rows_per_unit'),
    ({'max_rows_per_unit': True}, 'max_rows_per_unit'),
  ],
)
def test_persons_that_there_are_not_are_refused(changes, message):
  with pytest.raises(InputError, match=message) as caught:
    dataclasses.replace(SCHEMA, **changes)
  assert '\n' not in str(caught.value)


def test_flags_turn_any_column_into_persons_and_the_target_into_none():
  plain = dataclasses.replace(SCHEMA, unit_column=None, max_rows_per_unit=None)
  numbered = dataclasses.replace(
    plain, columns=(Column(name='who', kind='integer', lower=0, upper=9, drafted=('lower',)),
                    *plain.columns[1:])
  )  # fmt: skip
  assert persons.settled(numbered, 'who', 2) == SCHEMA
  assert persons.settled(plain, None, None) == plain
  assert persons.settled(SCHEMA, None, 5).max_rows_per_unit == 5
  for wrong in (('ill', 2), ('who', None), (None, 2)):
    with pytest.raises(InputError):
      persons.settled(plain, *wrong)


def test_a_draft_does_not_read_the_persons():
  frame = {'patient_id': ['7', '7', '8'], 'x': ['1', '2', '3']}
  schema, _ = draft_schema(frame, unit_column='patient_id', max_rows_per_unit=2)
  assert schema.columns[0] == Column(name='patient_id', kind='id')
  assert (schema.unit_column, schema.max_rows_per_unit) == ('patient_id', 2)
  _, notes = draft_schema(frame)
  assert any('--unit_column=patient_id' in note for note in notes)
