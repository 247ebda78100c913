"""dpgan_jax.data.tables.schema and schema_file: what may be said of a column, and its text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpgan_jax.data.tables import generated
from dpgan_jax.data.tables.files.schema_file import read_schema, write_schema
from dpgan_jax.data.tables.schema import Column, Schema
from tests.support.images import refused
from tests.support.random_tables import SCHEMA, columns, tables, values

CODE = {'name': 'c', 'kind': 'categorical', 'categories': ('a', 'b')}
AGE = {'name': 'n', 'kind': 'integer', 'lower': 0, 'upper': 120}
X = {**AGE, 'kind': 'real'}


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({**CODE, 'name': ''}, 'expected names of columns to have 1 to 1000 characters'),
    ({**CODE, 'name': ' '}, 'expected names of columns to have 1 to 1000 characters'),
    ({**CODE, 'name': 3}, 'expected names of columns'),
    ({**CODE, 'kind': 'number'}, "column 'c': expected kind to be one of categorical"),
    ({**CODE, 'categories': ()}, 'expected 1 to 10000 categories, got 0'),
    ({**CODE, 'categories': tuple(map(str, range(10_001)))}, 'an identifier is of the kind id'),
    ({**CODE, 'categories': ('a', 'b', 'a')}, "got 'a' twice"),
    ({**CODE, 'categories': ('a', 1)}, 'expected categories to be text'),
    ({**CODE, 'categories': ('a', '\0')}, 'expected categories to be text'),
    ({**CODE, 'categories': ('a', '\ud800')}, 'expected categories to be text'),
    ({**CODE, 'categories': 'ab'}, 'expected categories to be a list'),
    ({**CODE, 'kind': 'boolean', 'categories': ('a',)}, 'expected two categories of a boolean'),
    ({**CODE, 'lower': 0}, 'expected bounds only of integer'),
    ({**CODE, 'nullable': True, 'missing': 'a'}, "expected 'a' to be missing or a category"),
    ({**CODE, 'nullable': 1}, 'expected nullable to be true or false'),
    ({**CODE, 'missing': None}, 'expected missing to be text'),
    ({**CODE, 'outside': 'clip'}, 'expected outside=refuse'),
    ({**CODE, 'outside': 'other'}, 'beside a category of that name'),
    ({**CODE, 'drafted': ('kind',)}, 'expected drafted to be one of categories, lower'),
    ({**CODE, 'drafted': 'categories'}, 'expected drafted to be a list'),
    ({**AGE, 'categories': ('a',)}, 'expected categories only of categorical'),
    ({**AGE, 'upper': None}, 'expected the bounds lower and upper'),
    ({**AGE, 'lower': 121}, 'expected lower <= upper, got 121 and 120'),
    ({**AGE, 'lower': 0.5}, 'expected a whole number'),
    ({**AGE, 'upper': True}, 'expected a number, got True'),
    ({**AGE, 'upper': (1,)}, 'expected a number, got (1,)'),
    ({**AGE, 'upper': 2**53 + 1}, 'expected a whole number within 2^53'),
    ({**AGE, 'lower': -5, 'upper': 2**53}, 'expected bounds at most 2^53'),
    ({**AGE, 'resolution': 0.5}, 'expected resolution to be a whole number'),
    ({**AGE, 'outside': 'other'}, 'expected outside=refuse or outside=clip of numbers'),
    ({**AGE, 'nullable': True, 'missing': '99'}, 'as no value within the bounds'),
    ({**X, 'upper': math.inf}, 'expected a finite number'),
    ({**X, 'upper': 1e300}, 'expected bounds within 2^53'),
    ({**X, 'resolution': 0}, 'expected resolution > 0'),
    ({**X, 'resolution': 1e-15}, '2^53 steps apart'),
    ({**AGE, 'kind': 'date'}, 'expected YYYY-MM-DD, got 0'),
    ({**AGE, 'kind': 'id'}, 'expected bounds only of'),
  ],
)
def test_columns_that_make_no_sense_are_refused(fields, words):
  refused(lambda: Column(**fields), words)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'columns': ()}, 'expected 1 to 2000 columns, got 0'),
    ({'columns': (Column(**CODE), Column(**CODE))}, "got 'c' twice"),
    ({'target': 'nobody'}, "got 'nobody'"),
    ({'target': 'age'}, 'expected target to be a column of categories'),
    ({'columns': (Column(**CODE),), 'target': 'c'}, 'at least one column beside identifiers'),
  ],
)
def test_schemas_that_make_no_sense_are_refused(change, words):
  refused(lambda: Schema(**{'columns': SCHEMA.columns, 'target': 'ill', **change}), words)


@pytest.mark.parametrize(
  ('kind', 'text', 'value'),
  [
    ('integer', '41', 41.0), ('integer', ' +7 ', 7.0), ('integer', '1e2', 100.0),
    ('integer', '4.0', 4.0), ('integer', '4.5', 'whole number'), ('integer', '1_0', 'a number'),
    ('integer', '9007199254740993', 'within 2^53'), ('integer', '', "a number, got ''"),
    ('integer', '１２', 'a number'), ('real', 'inf', 'finite'), ('real', '-Infinity', 'finite'),
    ('real', 'nan', 'finite'), ('real', '1e999', 'finite'), ('real', '.5', 0.5),
    ('real', '1,5', 'decimal comma has to be a point'), ('real', '1.2.3', 'a number'),
    ('real', '0x10', 'a number'), ('real', '121', 'a value in [0, 120]'), ('real', '-0', 0.0),
  ],
)  # fmt: skip
def test_numbers(kind, text, value):
  column = Column(**{**AGE, 'kind': kind})
  if isinstance(value, str):
    assert value in refused(lambda: column.parse(text), 'expected')
  else:
    assert column.parse(text) == value
    assert math.copysign(1, column.parse(text)) == 1


@pytest.mark.parametrize(
  ('kind', 'text', 'written'),
  [
    ('date', '2020-02-29', '2020-02-29'), ('date', '2020-02-30', None), ('date', '1.2.20', None),
    ('date', '2020-02-29T10:00', None), ('date', '2031-01-01', 'outside'),
    ('datetime', '2020-02-29 10:30', '2020-02-29T10:30:00'),
    ('datetime', '2020-02-29T10:30:00Z', '2020-02-29T10:30:00'),
    ('datetime', '2020-02-29T10:30:00+02:00', '2020-02-29T08:30:00'),
    ('datetime', '2020-02-29T25:00', None),
  ],
)  # fmt: skip
def test_dates(kind, text, written):
  column = Column(name='d', kind=kind, lower='1970-01-01', upper='2030-12-31')
  if written is None:
    refused(lambda: column.parse(text), 'expected YYYY-MM-DD')
  elif written == 'outside':
    refused(lambda: column.parse(text), 'expected a value in [1970-01-01, 2030-12-31]')
  else:
    assert column.format(column.parse(text)) == written


def test_what_is_outside_is_refused_clipped_or_other():
  clip = Column(**AGE, outside='clip')
  assert [clip.parse(t) for t in ('-3', '41', '999')] == [0.0, 41.0, 120.0]
  other = Column(**{**CODE, 'categories': ('a', 'other')}, outside='other')
  assert [other.parse(t) for t in ('a', 'other', 'zzz', '')] == [0.0, 1.0, 1.0, 1.0]
  refused(lambda: Column(**CODE).parse('zzz'), "one of its 2 categories, got 'zzz'")
  refused(lambda: Column(**CODE).parse(''), "got ''")


def test_codes_are_text():
  column = Column(name='plz', kind='categorical', categories=('1067', '01067'))
  assert [column.parse(t) for t in ('01067', '1067')] == [1.0, 0.0]
  assert column.format(1.0) == '01067'


@given(st.data())
def test_text_of_a_value_is_that_value(data):
  column = data.draw(columns('c'))
  value = data.draw(values(column))
  text = column.format(value)
  again = column.parse(text)
  assert again == value or (math.isnan(again) and math.isnan(value))
  assert column.format(again) == text


# --- files ----------------------------------------------------------------------------------------


@given(tables())
def test_a_schema_is_what_its_record_says(table):
  record = json.loads(json.dumps(table.schema.to_record()))
  assert Schema.from_record(record) == table.schema


def test_a_schema_file_is_for_people(tmp_path):
  path = write_schema(tmp_path / 's.json', generated.PEOPLE)
  assert read_schema(path) == generated.PEOPLE
  text = path.read_text('utf-8')
  assert '\n    {\n      "name": "age",\n      "kind": "integer",\n      "lower": 18,' in text
  refused(lambda: write_schema(path, SCHEMA), 'exists already')
  assert read_schema(write_schema(path, SCHEMA, overwrite=True)) == SCHEMA
  refused(lambda: write_schema(tmp_path, SCHEMA, overwrite=True), 'is a folder')


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('', 'expected a schema in JSON'),
    ('{"format": "dpgan_jax table 1", ', 'expected a schema in JSON'),
    ('[]', 'expected a schema with "format"'),
    ('{"columns": []}', 'expected a schema with "format"'),
    ('{"format": "dpgan_jax table 1"}', 'no columns'),
    ('{"format": "dpgan_jax table 1", "columns": [], "colour": 1}', 'colour'),
    ('{"format": "dpgan_jax table 1", "columns": []}', 'expected 1 to 2000 columns'),
    ('{"format": "dpgan_jax table 1", "columns": [3]}', 'expected a column to be described'),
    ('{"format": "dpgan_jax table 1", "columns": [{"name": "a"}]}', 'described by name, kind'),
    ('{"format": "dpgan_jax table 1", "columns": [{"name": "a", "kind": "id", "b": 3}]}', "'b': 3"),
    ('{"format": "dpgan_jax table 1", "columns": [{"name": "a", "kind": []}]}', "column 'a'"),
    ('{"format": "dpgan_jax table 1", "columns": [{"name": "a", "kind": "real", "lower": {}, '
     '"upper": 1}]}', "column 'a': expected a number"),
    ('{"format": "dpgan_jax table 1", "columns": [], "columns": []}', 'occurs twice'),
    ('{"format": "dpgan_jax table 1", "columns": [{"name": "a", "kind": "real", "lower": NaN, '
     '"upper": 1}]}', 'finite'),
  ],
)  # fmt: skip
def test_files_that_are_no_schema(tmp_path, text, words):
  path = tmp_path / 's.json'
  path.write_text(text)
  refused(lambda: read_schema(path), str(path), words)


def test_no_file(tmp_path):
  refused(lambda: read_schema(tmp_path / 'none.json'), 'cannot read schema')
  refused(lambda: read_schema(tmp_path), 'expected a schema in JSON')
