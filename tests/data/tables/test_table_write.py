"""tables.files.write: what comes out is what went in, in both formats, whole or not."""

from __future__ import annotations

import csv
import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pyarrow import parquet

from dpgan_jax.data.tables import generated
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read, write
from dpgan_jax.data.tables.schema import Column, Schema
from tests.support.images import refused
from tests.support.random_tables import SCHEMA, tables

RECORDS = np.array([[0, 41, 0.5], [1, np.nan, -0.3]])
LABELS = np.array([1, 0])


@pytest.mark.parametrize('format', write.FORMATS)
@settings(max_examples=60)
@given(table=tables())
def test_what_is_written_is_read_again(format: str, table: TableDataset):
  labels = None if table.schema.target is None else table.labels
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, f't.{format}')
    write.export(path, table.schema, table.records, labels, format=format)
    again = read.read_table(path, table.schema)
    if format == 'csv':  # and a reader of other people finds as many rows and columns
      with path.open(newline='', encoding='utf-8-sig') as file:
        rows = list(csv.reader(file))
      assert rows[0] == [column.name for column in table.schema.columns]
      assert [len(row) for row in rows[1:]] == [len(rows[0])] * len(table)
  np.testing.assert_array_equal(again.records, table.records)
  np.testing.assert_array_equal(again.labels, table.labels)
  assert again.notes == ()


def test_csv_by_hand(tmp_path):
  path = write.export(tmp_path / 'new' / 's.csv', SCHEMA, RECORDS, LABELS)
  assert path.read_bytes() == (b'id,plz,age,x,ill\n1,01067,41,0.5,true\n2,50667,,-0.3,false\n')
  assert [p.name for p in path.parent.iterdir()] == ['s.csv']


def test_parquet_has_types(tmp_path):
  people = generated.people('test')
  path = write.export(
    tmp_path / 's.parquet', people.schema, people.records, people.labels, format='parquet'
  )
  types = {field.name: str(field.type) for field in parquet.read_schema(path)}
  assert types == {
    'id': 'int64', 'age': 'int64', 'sex': 'string', 'region': 'string', 'education': 'string',
    'hours': 'double', 'income': 'double', 'since': 'date32[day]', 'last_seen': 'timestamp[us]',
    'smoker': 'string', 'lab': 'double', 'outcome': 'string',
  }  # fmt: skip
  table = parquet.read_table(path)
  assert table['lab'].null_count == int(np.isnan(people.records[:, -1]).sum()) > 0
  assert table['id'].to_pylist() == list(range(1, 2001))
  assert set(table['region'].to_pylist()) <= set(people.schema.modelled[2].categories)
  income = table['income'].to_numpy()
  np.testing.assert_array_equal(income, np.round(income, 2))  # 0.15, not 0.15000000000000002


@pytest.mark.parametrize(
  ('categories', 'type'),
  [(('false', 'true'), 'bool'), (('False', 'True'), 'bool'), (('0', '1'), 'int64'),
   (('no', 'yes'), 'string'), (('true', 'false'), 'string')],
)  # fmt: skip
def test_booleans_of_parquet(tmp_path, categories, type):
  schema = Schema(columns=(Column(name='b', kind='boolean', categories=categories, nullable=True),))
  records = np.array([[0.0], [1.0], [np.nan], [1.0]])
  path = write.export(tmp_path / 'b', schema, records, None, format='parquet')
  table = parquet.read_table(path)
  assert str(table.schema.field('b').type) == type
  assert [str(v).lower() for v in table['b'].to_pylist()] == [
    categories[0].lower(), categories[1].lower(), 'none', categories[1].lower()
  ]  # fmt: skip
  np.testing.assert_array_equal(read.read_table(path, schema).records, records)


def test_the_same_records_give_the_same_bytes(tmp_path):
  for format in write.FORMATS:
    one, two = (
      write.export(tmp_path / f'{n}.{format}', SCHEMA, RECORDS, LABELS, format=format)
      for n in (1, 2)
    )
    assert one.read_bytes() == two.read_bytes()


def test_more_rows_than_are_written_at_once_stay_in_order(tmp_path, monkeypatch):
  monkeypatch.setattr(write, '_ROWS', 7)
  people = generated.people('test')
  path = write.export(tmp_path / 's.csv', people.schema, people.records, people.labels)
  again = read.read_table(path, people.schema)
  np.testing.assert_array_equal(again.records, people.records)


def test_nothing_is_replaced_unasked_and_nothing_is_half_written(tmp_path, monkeypatch):
  path = tmp_path / 's.csv'
  path.write_text('mine')
  refused(lambda: write.export(path, SCHEMA, RECORDS, LABELS), 'exists already')
  with monkeypatch.context() as patch:
    patch.setattr(write, '_text', lambda column, value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      write.export(path, SCHEMA, RECORDS, LABELS, overwrite=True)
  assert path.read_text() == 'mine'
  assert [p.name for p in tmp_path.iterdir()] == ['s.csv']
  write.export(path, SCHEMA, RECORDS, LABELS, overwrite=True)
  assert path.read_text().startswith('id,plz')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'format': 'xlsx'}, 'csv, parquet'),
    ({'labels': None}, 'expected labels with a schema that has a target'),
    ({'labels': np.array([0.0, 1.0])}, 'expected labels to be whole numbers'),
    ({'labels': np.array([0, 2])}, 'expected labels in [0, 2)'),
    ({'labels': np.array([0])}, 'expected labels to be int32 [2]'),
    ({'records': RECORDS[:, :2]}, 'expected records to be float64 [N, 3]'),
    ({'records': RECORDS[:0], 'labels': LABELS[:0]}, 'at least one record'),
    ({'records': RECORDS + np.array([3, 0, 0])}, "column 'plz' are out of its domain"),
    ({'records': RECORDS + np.array([0, 0, np.nan])}, "column 'x' are out of its domain"),
  ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, change, words):
  given = {'records': RECORDS, 'labels': LABELS, 'format': 'csv', **change}
  refused(lambda: write.export(tmp_path / 's', SCHEMA, **given), words)
  assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path):
  refused(lambda: write.export(tmp_path, SCHEMA, RECORDS, LABELS, overwrite=True), 'is a folder')


def test_a_frame_reads_as_its_file_does(tmp_path):
  people = generated.people('test')
  path = write.export(
    tmp_path / 's', people.schema, people.records, people.labels, format='parquet'
  )
  frame = parquet.read_table(path)
  for source in (frame, {name: frame[name].to_pylist() for name in frame.column_names}):
    again = read.read_table(source, people.schema, name='people')
    np.testing.assert_array_equal(again.records, people.records)
    assert again.name == 'people'
  assert isinstance(frame, pa.Table)


def test_parquet_says_what_was_spent(tmp_path):
  path = write.export(
    tmp_path / 's.parquet', SCHEMA, RECORDS, LABELS, format='parquet', guarantee='epsilon 1'
  )
  assert parquet.read_schema(path).metadata[b'guarantee'] == b'epsilon 1'
