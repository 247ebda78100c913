"""tables.files.read: what a table holds is read exactly, or refused by row and column."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.files import csv_file, read
from dpgan_jax.data.tables.files.read import read_table
from dpgan_jax.data.tables.schema import Column, Schema
from tests.support.images import refused
from tests.support.random_tables import ROWS, SCHEMA, columns

WANTED = np.array([[0, 41, 0.5], [1, np.nan, -0.3]])


def changed(name: str, **fields: object) -> Schema:
  """`SCHEMA` with a column that differs."""
  found = [dataclasses.replace(c, **fields) if c.name == name else c for c in SCHEMA.columns]
  return dataclasses.replace(SCHEMA, columns=tuple(found))


def written(folder: pathlib.Path, content: str | bytes) -> pathlib.Path:
  path = folder / 'people.csv'
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return path


@pytest.mark.parametrize(
  'content',
  [
    ROWS,
    ROWS.rstrip('\n'),
    '\ufeff' + ROWS,
    ROWS.replace('\n', '\r\n'),
    ROWS.replace('\n', '\r'),
    ROWS.replace(',', ';'),
    ROWS.replace(',', '\t'),
    ROWS.replace('\n', '\n\n') + '\n\n',
    '\ufeff"id","plz","age","x","ill"\r\n"A,1\n\n","01067","41","0.5","true"\r\n'
    '"A""2","50667","","-0.3","false"\r\n',
    'ill,x,id,age,plz\ntrue,0.50,A1,41.0,01067\nfalse,-3e-1,A2,,50667\n',  # in any order
  ],
)
def test_the_same_table_in_many_ways(tmp_path, content):
  table = read_table(written(tmp_path, content), SCHEMA, name='mine')
  np.testing.assert_allclose(table.records, WANTED, rtol=1e-15)
  assert table.labels.tolist() == [1, 0]
  assert (table.name, table.partial, table.notes) == ('mine', False, ())


ROW = 'B,01067,41,0.5,true\n'


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    (ROWS + 'A,1067,4,0,true\n', "column 'plz', row 3: expected one of its 3 categories"),
    (ROWS + ROW.replace('41', '121'), "'age', row 3: expected a value in [0, 120], got '121'"),
    (ROWS + 3 * ROW + ROW.replace('41', '-1'), "column 'age', row 6"),
    ('id,plz,age,x,ill\n"a\n\nb",01067,4,0,true\n\nA,01067,x,0,true\n', "column 'age', row 2"),
    (ROWS + ROW.replace('41', '4.5'), 'row 3: expected a whole number'),
    (ROWS + ROW.replace('41', '9007199254740993'), 'row 3: expected a whole number within 2^53'),
    (ROWS + ROW.replace('0.5', '"0,5"'), "got '0,5'; a decimal comma has to be a point"),
    (ROWS.replace(',', ';').replace('0.5', '0,5'), "column 'x', row 1: expected a number"),
    (ROWS + ROW.replace('0.5', 'inf'), "column 'x', row 3: expected a finite number, got 'inf'"),
    (ROWS + ROW.replace('0.5', '1e999'), 'expected a finite number'),
    (ROWS + ROW.replace('0.5', ''), 'a missing value? Then the schema has to say "nullable"'),
    (ROWS + ROW.replace('41', 'NA'), '"nullable": true and "missing": "NA"'),
    (ROWS + ROW.replace('true', ''), "column 'ill', row 3"),
    (ROWS + 'A,01067,41,0.5\n', 'row 3 has 4 values; expected 5'),
    (ROWS + 'A,01067,41,0,5,true\n', 'row 3 has 6 values; expected 5'),
    ('id,plz,age,x,ill\n"a\nb",01067,4,0,true\n\n1,2\n', 'row 2 has 2 values; expected 5'),
    (ROWS.replace('age', 'Age'), "column 'age' of the schema is not there and column 'Age'"),
    (ROWS.replace('age', 'Age'), "(is 'Age' meant to be 'age'?)"),
    ('id,plz\n1,2\n', "column 'age', 'x', 'ill' of the schema is not there;"),
    (ROWS.replace('id,', 'id,z,').replace('A', '1,A'), "csv: column 'z' is not in the schema"),
    (ROWS.replace('id,', 'age,'), "expected names of columns that differ, got 'age' twice"),
    (ROWS.replace('id,', ','), "got '' for column 1"),
    (ROWS.replace('id,', ' ,'), "got ' ' for column 1"),
    (ROWS[:17], 'expected rows below the header, got none'),
    (ROWS[:16], 'expected rows below the header, got none'),
    ('', 'expected a table, got an empty file'),
    ('\n\n', 'expected a line of names and rows below it'),
    (ROWS.replace('A1', 'Köln').encode('latin-1'), 'line 2 is not UTF-8 (byte 0xf6)'),
    (('"Ä\nä",' + ROWS).encode()[:-1] + b'\xc3', 'line 4 is not UTF-8 (byte 0xc3)'),
    (ROWS.encode('utf-16'), 'is UTF-16 text; expected UTF-8'),
    (b'\0\1\2' * 100, 'holds bytes of zero; expected a table'),
    (b'PK\x03\x04' + bytes(50), 'is a zip or Excel file; save the sheet as CSV'),
    (b'\x1f\x8b' + bytes(50), 'is a gzip file; unpack it first'),
    (b'PAR1' + bytes(50), 'begins as a Parquet file and is none'),
  ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, content, words):
  path = written(tmp_path, content)
  refused(lambda: read_table(path, SCHEMA), str(path), words)


def test_what_is_no_file(tmp_path):
  refused(lambda: read_table(tmp_path, SCHEMA), 'expected a CSV or Parquet file, got a folder')
  refused(lambda: read_table(tmp_path / 'none', SCHEMA), 'got nothing')
  refused(lambda: read_table('/dev/null', SCHEMA), 'got no regular file')
  refused(lambda: read_table(3, SCHEMA), 'expected a file or a frame of columns, got int')


def test_a_row_longer_than_a_block(tmp_path, monkeypatch):
  monkeypatch.setattr(csv_file, '_BLOCK', 1000)
  path = written(tmp_path, ROWS + '"' + 'a\n' * 2000)
  refused(lambda: read_table(path, SCHEMA), 'a quote that is never closed?')


def test_too_large_a_file(tmp_path, monkeypatch):
  path = written(tmp_path, ROWS)
  monkeypatch.setattr(csv_file._files, 'MAX_BYTES', 10)
  refused(lambda: read_table(path, SCHEMA), 'expected at most 10')


def test_rows_are_counted_over_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(csv_file, '_BLOCK', 1000)
  path = written(tmp_path, ROWS + 500 * ROW + ROW.replace('41', 'x'))
  refused(lambda: read_table(path, SCHEMA), "column 'age', row 503: expected a number, got 'x'")
  path = written(tmp_path, ROWS + 500 * ROW + 'x\n')
  refused(lambda: read_table(path, SCHEMA), 'row 503 has 1 values')
  table = read_table(written(tmp_path, ROWS + 500 * ROW), SCHEMA)
  np.testing.assert_array_equal(table.records[2:], [[0, 41, 0.5]] * 500)


def test_what_is_outside_is_counted(tmp_path):
  path = written(tmp_path, ROWS + 2 * ROW.replace('41', '200') + ROW.replace('41', '-7'))
  table = read_table(path, changed('age', outside='clip'))
  assert table.records[2:, 1].tolist() == [120, 120, 0]
  assert table.notes == ("3 values of column 'age' moved to its bounds or its resolution",)
  path = written(tmp_path, ROWS + ROW.replace('0.5', '0.549') + ROW.replace('0.5', '0.50000'))
  table = read_table(path, SCHEMA)
  np.testing.assert_allclose(table.records[2:, 2], [0.5, 0.5])
  assert table.notes == ("1 values of column 'x' moved to its bounds or its resolution",)
  path = written(tmp_path, ROWS + ROW.replace('01067', 'x') + ROW.replace('01067', 'other'))
  table = read_table(path, changed('plz', outside='other'))
  assert table.records[2:, 0].tolist() == [2, 2]
  assert table.notes == ("1 values of column 'plz' became other",)


def test_missing_is_what_the_column_says(tmp_path):
  schema = changed('age', missing='-1')
  path = written(tmp_path, ROWS.replace('01067,41', '01067,-1').replace('50667,', '50667,7'))
  np.testing.assert_array_equal(read_table(path, schema).records[:, 1], [np.nan, 7])
  refused(lambda: read_table(written(tmp_path, ROWS), schema), "got ''; a missing value?")


def test_identifiers_are_never_read(tmp_path, monkeypatch):
  """Whatever an identifier holds, nothing that is made of the table depends on it."""
  secret = 'Ursula-4711'
  path = written(tmp_path, ROWS.replace('A1', secret))
  seen = []
  as_text = csv_file.read_columns

  def spied(*args):
    found = as_text(*args)
    seen.extend(found)
    return found

  monkeypatch.setattr(csv_file, 'read_columns', spied)
  table = read_table(path, SCHEMA)
  assert seen == ['plz', 'age', 'x', 'ill']
  np.testing.assert_array_equal(table.records, read_table(written(tmp_path, ROWS), SCHEMA).records)
  assert secret not in repr(table)
  frame = {'id': [object(), object()], 'plz': ['01067'] * 2}
  frame = pa.table({'id': pa.array([[1], [2]]), 'plz': frame['plz']})
  schema = Schema(columns=SCHEMA.columns[:2])
  parquet.write_table(frame, tmp_path / 't.parquet')
  for source in (frame, tmp_path / 't.parquet'):
    assert read_table(source, schema).records.tolist() == [[0.0], [0.0]]


def test_small_and_strange_tables(tmp_path):
  one = Schema(columns=(Column(name='a', kind='integer', lower=5, upper=5, nullable=True),))
  assert read_table(written(tmp_path, 'a\n5\n'), one).records.tolist() == [[5.0]]
  table = read_table(written(tmp_path, 'a\n""\n""\n'), one)
  assert np.isnan(table.records).tolist() == [[True], [True]]
  many = tuple(f'{n:05d}' for n in range(10_000))
  codes = Schema(columns=(Column(name='a', kind='categorical', categories=many),))
  table = read_table(written(tmp_path, 'a\n' + '\n'.join(reversed(many))), codes)
  assert table.records[:, 0].tolist() == list(range(9999, -1, -1))


@given(st.data())
def test_many_numbers_at_once_are_read_as_one_by_one(data):
  column = data.draw(columns('c').filter(lambda column: column.is_number))
  column = dataclasses.replace(column, outside='clip')
  plain = st.one_of(
    st.integers(-(10**16), 10**16).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.floats(*column.bounds).map(column.rounded).map(column.format),
    st.sampled_from(['', 'x', '1,5', '1e3', '-0', '+4', 'NA', '007', '1.', '.5', '2020-01-01']),
  )
  texts = data.draw(st.lists(plain, min_size=1, max_size=8))
  schema = Schema(columns=(column,))
  try:
    wanted = [[column.parse(text)] for text in texts]
  except read.InputError:
    bad = next(n for n, text in enumerate(texts) if not _parses(column, text))
    refused(lambda: read_table({'c': texts}, schema), f'row {bad + 1}: ')
  else:
    np.testing.assert_array_equal(read_table({'c': texts}, schema).records, wanted)


def _parses(column: Column, text: str) -> bool:
  try:
    column.parse(text)
  except read.InputError:
    return False
  return True


# --- typed tables ---------------------------------------------------------------------------------


def only(kind: str, **fields: object) -> Schema:
  return Schema(columns=(Column(name='a', kind=kind, **fields),))


NUMBERS = {'lower': -100, 'upper': 100, 'nullable': True}
DAYS = {'lower': '2000-01-01', 'upper': '2030-01-01', 'nullable': True}


@pytest.mark.parametrize(
  ('schema', 'array', 'wanted'),
  [
    (only('integer', **NUMBERS), pa.array([1, None, -3], pa.int8()), [1, np.nan, -3]),
    (only('integer', **NUMBERS), pa.array([1.0, np.nan, None]), [1, np.nan, np.nan]),
    (only('real', **NUMBERS), pa.array([0.1, 1e-7, None], pa.float32()), [0.1, 1e-7, np.nan]),
    (only('real', **NUMBERS), pa.array([1, 2, 3], pa.uint64()), [1, 2, 3]),
    (only('real', **NUMBERS), pa.array([1, 2], pa.decimal128(5, 2)), [1, 2]),
    (only('boolean', categories=('no', 'yes'), nullable=True), pa.array([True, False, None]),
     [1, 0, np.nan]),
    (only('categorical', categories=('true', 'false')), pa.array([True, False]), [0, 1]),
    (only('categorical', categories=('1', '2')), pa.array([2, 1, 2]), [1, 0, 1]),
    (only('categorical', categories=('1', '2'), nullable=True), pa.array([2.0, None]), [1, np.nan]),
    (only('categorical', categories=('b', 'a')), pa.array(['a', 'b']).dictionary_encode(), [1, 0]),
    (only('categorical', categories=('b', 'a')), pa.array(['a', 'b'], pa.large_string()), [1, 0]),
    (only('date', **DAYS), pa.array([datetime.date(2020, 2, 29), None]), [18321, np.nan]),
    (only('date', **DAYS), pa.array([datetime.datetime(2020, 2, 29)]), [18321]),
    (only('datetime', **DAYS), pa.array([datetime.datetime(2020, 2, 29, 1)], pa.timestamp('ns')),
     [1582938000]),
    (only('datetime', **DAYS), pa.array([1582938000], pa.timestamp('s', 'Europe/Berlin')),
     [1582938000]),
    (only('real', **NUMBERS), pa.nulls(2), [np.nan, np.nan]),
    (only('real', **NUMBERS), pa.chunked_array([[1.5, 2.5], [], [1.5]]), [1.5, 2.5, 1.5]),
  ],
)  # fmt: skip
def test_types_of_parquet(tmp_path, schema, array, wanted):
  table = pa.table({'a': array})
  parquet.write_table(table, tmp_path / 't')
  for source in (table, str(tmp_path / 't')):
    np.testing.assert_array_equal(read_table(source, schema).records[:, 0], wanted)


@pytest.mark.parametrize(
  ('schema', 'array', 'words'),
  [
    (only('integer', **NUMBERS), pa.array([1, 2, 101]), "column 'a', row 3: expected a value in"),
    (only('integer', **NUMBERS), pa.array([1.0, 1.5]), 'row 2: expected a whole number'),
    (only('real', **NUMBERS), pa.array([1.0, np.inf]), 'row 2: expected a finite number'),
    (only('integer', lower=0, upper=2**53), pa.array([2**53 + 1]), 'within 2^53'),
    (only('real', lower=0, upper=1), pa.array([1.0, None]), 'row 2: expected a value, got none'),
    (only('real', lower=0, upper=1), pa.array([1.0, np.nan]), 'row 2: expected a value, got none'),
    (only('date', **DAYS), pa.array([datetime.datetime(2020, 1, 1, 5)]), 'expected YYYY-MM-DD'),
    (only('real', **NUMBERS), pa.array([[1.0]]), "column 'a' cannot be read as text"),
    (only('real', **NUMBERS), pa.array([b'x']), 'it is of the type binary'),
    (only('real', **NUMBERS), pa.array([], pa.float64()), 'expected at least one row, got none'),
  ],
)
def test_bad_values_of_parquet(schema, array, words):
  refused(lambda: read_table(pa.table({'a': array}), schema), words)


def test_a_damaged_parquet_file(tmp_path):
  path = tmp_path / 't'
  parquet.write_table(pa.table({'a': np.arange(1e4)}), path, compression='none')
  content = bytearray(path.read_bytes())
  content[4:2000] = bytes(1996)
  path.write_bytes(content)
  refused(lambda: read_table(path, only('real', lower=0, upper=1e4)), str(path))


@pytest.mark.parametrize('other', ['Ko\u0308ln', 'K\xf6ln '])
def test_a_text_that_looks_like_a_category_is_told_apart(other):
  right = 'K\xf6ln'
  city = Column(name='city', kind='categorical', categories=(right, 'Ulm'))
  schema = Schema(columns=(city,))
  told = f'which is written {other!a} and the category {right!a}'
  with pytest.raises(InputError, match=re.escape(told)):
    read_table({'city': ['Ulm', other]}, schema)


@pytest.mark.parametrize('kind', ['csv', 'parquet'])
def test_a_file_whose_name_is_no_utf8(tmp_path, kind):
  path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b'/r\xf6hren.' + kind.encode()))
  if kind == 'csv':
    path.write_text('n\n1\n2\n')
  else:
    with path.open('wb') as file:
      parquet.write_table(pa.table({'n': [1, 2]}), file)
  schema = Schema(columns=(Column(name='n', kind='integer', lower=0, upper=9),))
  assert read_table(path, schema).records.tolist() == [[1], [2]]
