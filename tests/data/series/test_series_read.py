"""Series in and out: the grid, every refusal in one line, and shapes that come back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, sources
from dpgan_jax.data.series import draft, read, write
from dpgan_jax.data.series.generated import VITALS, vitals
from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.spec import Spec, schema_of
from dpgan_jax.data.tables.files import schema_file
from dpgan_jax.data.tables.schema import Column

PULSE = Channel(name='pulse', kind='integer', lower=0, upper=300, nullable=True)
ONE = SeriesSchema(
  columns=(Column(name='sex', kind='boolean', categories=('f', 'm')),),
  channels=(PULSE,), grid=Grid(steps=3, start=1.0, step=0.5), target='sex',
)  # fmt: skip
LONG = {'id': ['b', 'b', 'a', 'b'], 'time': [1.0, 1.2, 2.0, 2.4], 'pulse': [60, 71, 80, None],
        'sex': ['m', 'm', 'f', 'm']}  # fmt: skip
FEW = vitals('test').part(np.arange(1500) < 60, partial=True)


def test_a_long_table_is_put_on_the_grid():
  found = read.read_series(LONG, ONE)
  # Half a beat is rounded to the channel's resolution; records come as they are first seen.
  np.testing.assert_array_equal(found.records, [[66, np.nan, np.nan], [np.nan, np.nan, 80]])
  assert found.labels.tolist() == [1, 0]
  last = dataclasses.replace(ONE, grid=dataclasses.replace(ONE.grid, within='last'))
  assert read.read_series(LONG, last).records[0, 0] == 71
  grid = dataclasses.replace(ONE.grid, steps=2, outside='drop')
  short = dataclasses.replace(ONE, grid=grid)
  with pytest.raises(InputError, match='outside'):
    read.read_series(LONG, dataclasses.replace(ONE, grid=Grid(steps=2, start=1.0, step=0.5)))
  more = {**LONG, 'time': [1.0, 1.2, 1.6, 2.4]}
  assert read.read_series(more, short).records.tolist()[1][1] == 80


def arrays(**changes):
  return {'x': np.full((3, 3, 1), 60.0), 'sex': ['f', 'm', 'm']} | changes


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ({**LONG, 'time': [1.0, 1.0, 2.0, 2.4]}, "row 2: the time 1 of id 'b' is repeated"),
    ({**LONG, 'time': [1.2, 1.0, 2.0, 2.4]}, "row 2: the time 1 of id 'b' is out of order"),
    ({**LONG, 'time': [1.0, 1.2, 2.0, 9.0]}, r'expected times in \[1, 2.5\), got 9'),
    ({**LONG, 'sex': ['m', 'f', 'f', 'm']}, "'sex' changes within id 'b'"),
    ({**LONG, 'pulse': [60, 71, 800, None]}, r"row 3: expected a value in \[0, 300"),
    ({**LONG, 'breath': [1, 1, 1, 1]}, "'breath' is neither channel nor static column"),
    ({n: v for n, v in LONG.items() if n != 'pulse'}, "column 'pulse' of the schema is not there"),
    ({**LONG, 'pulse': [None] * 4}, "'pulse' is missing everywhere"),
    ({**LONG, 'id': ['a'] * 4, 'sex': ['f'] * 4}, 'at least 2 records, got 1'),
    (arrays(x=np.full((3, 4, 1), 60.0)), r'expected x to be numbers \[N, 3, 1\].*unequal lengths'),
    (arrays(x=np.full((3, 3, 1), 600.0)), r'values in \[0, 300\], got 600'),
    (arrays(x=np.full((3, 3, 1), np.inf)), 'finite numbers or NaN'),
    (arrays(x=np.full((3, 3, 1), np.nan)), 'missing everywhere'),
    (arrays(x=np.full((1, 3, 1), 60.0), sex=['f']), 'at least 2 records'),
    (arrays(sex=['f', 'm']), r"expected an array \[3\] of the static column 'sex', got \[2\]"),
    (arrays(sex=['f', 'm', 'x']), "'sex', record 3: expected one of its 2 categories, got 'x'"),
    (arrays(channels=['breath']), "channels of the schema.*'breath' is in one of them only"),
    ('nothing.npz', 'got nothing of the name'),
    ({**LONG, 'id': ['b', 'b', '', 'b']}, "'id', row 3: expected every row to name its sequence"),
    ({**LONG, 'id': ['b', 'b', None, 'b']}, "'id', row 3: expected every row to name its sequence"),
  ],
)  # fmt: skip
def test_bad_input_is_one_line(source, message):
  with pytest.raises(InputError, match=message) as caught:
    read.read_series(source, ONE)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'grid': {'steps': 1}}, 'steps >= 2 of a grid, got 1: records of one time are a table'),
    ({'channels': []}, '1 to 500 channels, got 0'),
    ({'channels': [{'name': 'id', 'kind': 'real', 'lower': 0, 'upper': 1}]}, "got 'id' twice"),
    ({'channels': [{'name': 'p', 'kind': 'real', 'lower': 0, 'upper': 1, 'typical': [0, 2]}]},
     'typical to be a range within the bounds'),
    ({'channels': [{'name': 'p', 'kind': 'categorical', 'categories': ['a']}]}, 'of a channel'),
    ({'grid': {'steps': 9, 'tick': 1}}, 'expected a grid of steps'),
    ({'rows': []}, 'expected a schema of channels and a grid'),
  ],
)  # fmt: skip
def test_a_schema_that_is_none_is_refused(change, message):
  with pytest.raises(InputError, match=message):
    schema_of({**ONE.to_record(), **change})


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'id': ['id']}, "id to be the name of a column, got \\['id'\\]"),
    ({'time': None}, 'time to be the name of a column, got None'),
    ({'grid': {'steps': 3, 'drafted': 5}}, 'drafted to be a list, got 5'),
    ({'grid': {'steps': 3, 'drafted': 'step'}}, "drafted to be a list, got 'step'"),
    ({'grid': {'steps': 3, 'start': True}}, 'start to be a number, got True'),
    ({'grid': {'steps': 3, 'start': 1e308, 'step': 1e308}}, 'within 2\\^53'),
    ({'grid': {'steps': 3, 'start': 1e9, 'step': 1e-9}}, '2\\^53 steps of zero'),
    ({'channels': [{'name': 'p', 'kind': 'real', 'lower': 0, 'upper': 9, 'unit': '\ud800'}]},
     'unit to be text'),
  ],
)  # fmt: skip
def test_a_hostile_schema_is_refused_in_a_line(change, message):
  with pytest.raises(InputError, match=message) as caught:
    schema_of({**ONE.to_record(), **change})
  assert '\n' not in str(caught.value)


def test_what_a_mask_hides_is_missing():
  x = np.ma.masked_equal(np.array([[[60], [70], [80]], [[60], [61], [62]]]), 70)
  found = read.read_series({'x': x, 'sex': ['f', 'm']}, ONE)
  np.testing.assert_array_equal(found.records, [[60, np.nan, 80], [60, 61, 62]])


def test_arrays_that_the_schema_does_not_know_are_named():
  found = read.read_series({'x': np.full((2, 3, 1), 60), 'sex': ['f', 'm'], 'age': [1, 2]}, ONE)
  assert found.notes == ("the array 'age' is not in the schema, and left out",)
  plain = dataclasses.replace(ONE, columns=(), target=None)
  assert "'y'" in read.read_series({'x': np.full((2, 3, 1), 60), 'y': [0, 1]}, plain).notes[0]


def test_an_identifier_is_one_however_unicode_writes_it():
  same = {**LONG, 'id': ['K\xf6', 'Ko\u0308', 'a', 'K\xf6']}
  np.testing.assert_array_equal(
    read.read_series(same, ONE).records, read.read_series(LONG, ONE).records
  )


def test_schemas_come_back():
  record = json.loads(json.dumps(VITALS.to_record()))
  assert schema_of(record) == VITALS
  spec = FEW.spec
  assert spec.kind == 'series'
  assert Spec.from_record(json.loads(json.dumps(spec.to_record()))) == spec


@pytest.mark.parametrize('format', write.FORMATS)
def test_what_is_written_is_read_again(tmp_path, format):
  path = write.export(tmp_path / 's', VITALS, FEW.records, FEW.labels, format=format)
  found = read.read_series(path, VITALS)
  np.testing.assert_allclose(found.records, FEW.records, atol=1e-9)
  assert found.labels.tolist() == FEW.labels.tolist()
  with pytest.raises(InputError, match='exists already'):
    write.export(path, VITALS, FEW.records, FEW.labels, format=format)


def test_a_record_with_nothing_measured_is_kept(tmp_path):
  records = FEW.records.copy()
  schema = dataclasses.replace(VITALS, channels=VITALS.channels[:4])
  records = schema.join(VITALS.split(records)[0], VITALS.split(records)[1][:, :, :4])
  records[7, len(schema.static) :] = np.nan
  path = write.export(tmp_path / 's.csv', schema, records, FEW.labels, format='csv')
  np.testing.assert_allclose(read.read_series(path, schema).records, records, atol=1e-9)


@pytest.mark.parametrize('format', ['npz', 'csv'])
def test_a_draft_is_refused_until_it_is_confirmed(tmp_path, format):
  path = write.export(tmp_path / f's.{format}', VITALS, FEW.records, FEW.labels, format=format)
  drafted, notes = draft.draft_series(path, target='ill')
  assert [c.name for c in drafted.channels] == [c.name for c in VITALS.channels]
  assert drafted.class_names == ('no', 'yes')
  assert any('typical' in note for note in notes)
  assert draft.describe(drafted)[0].startswith('grid: 24 steps')
  assert all(c.drafted for c in drafted.channels)
  about = schema_file.write_schema(tmp_path / 's.json', drafted)
  files = {'data_dir': str(path), 'schema': str(about)}
  with pytest.raises(InputError, match='were read from private data'):
    datasets.load_dataset('series', **files)
  with pytest.raises(InputError, match='were read from private data'):
    Spec.of_schema(drafted, num_records=60, name='drafted')
  sure, _ = draft.draft_series(path, target='ill', declare_public=True)
  schema_file.write_schema(about, sure, overwrite=True)
  found = datasets.load_dataset('series', **files)
  assert found.unit == 'sequence'
  with pytest.raises(InputError, match='schema of a table, got one of a series'):
    datasets.load_dataset('table', **files)
  source = sources.Source(dataset='series', **files).settled()
  assert source.holdout == sources.DEFAULT
  train, test = (source.load(split) for split in datasets.SPLITS)
  assert len(train) + len(test) == 60


def test_one_sequence_less_moves_no_other_to_the_other_side():
  aside = sources.chosen(FEW.content, 0.3)
  np.testing.assert_array_equal(sources.chosen(FEW.content[1:], 0.3), aside[1:])
  assert 0 < aside.sum() < 60


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'id': 'who'}, "column 'who' is not there"),
    ({'target': 'pulse'}, "target to be a static column, got 'pulse'"),
  ],
)
def test_a_draft_of_what_is_not_there_is_refused(arguments, message):
  with pytest.raises(InputError, match=message):
    draft.draft_series(LONG, **arguments)
