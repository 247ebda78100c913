"""The generated table, and tables by name: split, held out, refused while nobody has confirmed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dpgan_jax.data import datasets, sources
from dpgan_jax.data.tables import draft, generated
from dpgan_jax.data.tables.files import schema_file, write
from dpgan_jax.data.tables.schema import KINDS
from tests.support.images import refused


@pytest.fixture(scope='module')
def people():
  return datasets.load_dataset('people')


@pytest.fixture
def files(tmp_path, people) -> dict[str, str]:
  """The table and its schema, as files."""
  data = write.export(tmp_path / 'people.csv', people.schema, people.records, people.labels)
  schema = schema_file.write_schema(tmp_path / 'people.schema.json', people.schema)
  return {'data_dir': str(data), 'schema': str(schema)}


def test_people_are_of_every_kind_and_always_the_same(people):
  assert len(people) == 5000
  assert {column.kind for column in people.schema.columns} == set(KINDS)
  assert people.schema.unconfirmed() == {}
  np.testing.assert_array_equal(generated.people().records, people.records)
  test = datasets.load_dataset('people', split='test')
  assert len(test) == 2000
  rows = {row.tobytes() for row in people.records}
  assert not rows & {row.tobytes() for row in test.records}
  income = people.records[:, 5]
  assert 0.1 < (income == 0).mean() < 0.4
  assert np.mean(income) > 1.15 * np.median(income)  # skewed
  assert 0.05 < np.isnan(people.records[:, -1]).mean() < 0.3
  assert 0.25 < people.labels.mean() < 0.6


def test_the_outcome_of_people_depends_on_many_columns(people):
  test = generated.people('test')

  def features(table, gone=()):
    kept = [n for n in range(10) if n not in (2, *gone)]
    found = np.nan_to_num(table.records[:, kept], nan=7)
    codes = np.eye(8)[table.records[:, 2].astype(int)]
    found = found if 2 in gone else np.hstack([found, codes])
    return (found - found.mean(0)) / found.std(0)

  def auroc(gone=()):
    model = LogisticRegression(max_iter=500).fit(features(people, gone), people.labels)
    return roc_auc_score(test.labels, model.predict_proba(features(test, gone))[:, 1])

  whole = auroc()
  assert 0.85 < whole < 0.9
  assert all(auroc((number,)) < whole - 0.004 for number in (0, 2, 3, 5, 9))


def test_a_table_of_ones_own(files, people):
  table = datasets.load_dataset('table', **files)
  np.testing.assert_array_equal(table.records, people.records)
  np.testing.assert_array_equal(table.labels, people.labels)
  assert table.name == 'table'
  assert len(table.class_names) == 2


def test_a_tenth_is_held_out_by_whole_rows(files, people):
  source = sources.Source(dataset='table', **files).settled()
  assert source.holdout == sources.DEFAULT
  train, test = source.load(), source.load('test')
  assert abs(len(test) - 500) < 4 * 500**0.5
  assert len(train) + len(test) == 5000
  assert (train.partial, test.partial) == (False, True)
  assert f'{len(test):,} rows are held out' in train.notes[-1]
  rows = [{row.tobytes() for row in part.content} for part in (train, test)]
  assert not rows[0] & rows[1]
  assert sources.Source(dataset='people').settled().holdout is None


def test_one_row_less_moves_no_other(people):
  def sides(table):
    parts = enumerate(sources.hold_out(table, 0.2))
    return {row.tobytes(): side for side, part in parts for row in part.content}

  whole = sides(people)
  assert set(whole.values()) == {0, 1}
  kept = np.arange(5000) != 17
  fewer = sides(people.part(kept, partial=False))
  assert all(whole[row] == side for row, side in fewer.items())
  order = np.random.default_rng(0).permutation(5000)
  shuffled = dataclasses.replace(people, records=people.records[order], labels=people.labels[order])
  assert sides(shuffled) == whole


def test_the_target_is_a_part_of_its_row(people):
  other = dataclasses.replace(people, labels=1 - people.labels)
  here, there = (sources.chosen(table.content, 0.5) for table in (people, other))
  assert 0.4 < (here == there).mean() < 0.6


def test_all_rows_of_a_class_are_not_held_out_unsaid(people):
  with_labels = dataclasses.replace(people, labels=np.zeros(5000, np.int32))
  aside = sources.chosen(with_labels.content, 0.1)
  one = int(np.flatnonzero(aside)[0])
  few = with_labels.part(np.isin(np.arange(5000), [one]), partial=False)
  refused(lambda: sources.hold_out(few, 0.1), "all rows of class 'low' would be held out")
  none = with_labels.part(~aside, partial=False)
  refused(lambda: sources.hold_out(none, 0.1), 'no row would be held out')


def test_what_nobody_confirmed_is_refused(files):
  found, _ = draft.draft_schema(files['data_dir'], target='outcome')
  schema_file.write_schema(files['schema'], found, overwrite=True)
  refused(
    lambda: datasets.load_dataset('table', **files),
    'age (lower, upper, nullable), sex (categories, nullable), region (categories, nullable) and 8 '
    'more columns were read from private data',
    'out of "drafted"',
    'python -m dpgan_jax.schema --declare_public',
  )
  confirmed = dataclasses.replace(found, declared_public=True)
  schema_file.write_schema(files['schema'], confirmed, overwrite=True)
  assert len(datasets.load_dataset('table', **files)) == 5000
  confirmed = tuple(dataclasses.replace(c, drafted=()) for c in found.columns)
  confirmed = dataclasses.replace(found, columns=confirmed)
  schema_file.write_schema(files['schema'], confirmed, overwrite=True)
  assert len(datasets.load_dataset('table', **files)) == 5000


@pytest.mark.parametrize(
  ('name', 'options', 'words'),
  [
    ('table', {}, 'expected data_dir to name a CSV or Parquet file with dataset table'),
    ('table', {'data_dir': 'a.csv'}, 'expected schema to name the file that describes a.csv'),
    ('table', {'data_dir': 'a.csv', 'schema': 'none.json'}, 'cannot read schema none.json'),
    ('table', {'data_dir': 'a.csv', 'schema': 's', 'split': 'test'}, 'expected holdout'),
    ('table', {'data_dir': 'a', 'schema': 's', 'channels': 1}, 'channels only with npz or png'),
    ('people', {'data_dir': '.'}, 'expected no data_dir with people (built in)'),
    ('people', {'schema': 's'}, 'expected schema only with table'),
    ('digits', {'schema': 's'}, 'expected schema only with table'),
    ('people', {'split': 'val'}, 'expected split to be one of train, test'),
  ],
)
def test_options_that_do_not_fit(name, options, words):
  refused(lambda: datasets.load_dataset(name, **options), words)
