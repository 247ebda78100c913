"""dpgan_jax.data.tables.draft and the command: what was read from the data is said, all of it."""

from __future__ import annotations

import datetime
import json
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from absl import flags

from dpgan_jax import _cli, schema
from dpgan_jax.data.tables import draft, generated
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files import read, schema_file, write
from dpgan_jax.data.tables.schema import Column
from tests.support.images import refused
from tests.support.random_tables import ROWS


def drafted(folder: pathlib.Path, name: str, values: list[str]) -> Column:
  """The draft of a column of a CSV file, beside another one."""
  path = folder / 't.csv'
  lines = [f'{name},other'] + [f'{value},x' for value in values]
  path.write_text('\n'.join(lines) + '\n', 'utf-8')
  found, _ = draft_schema(path)
  return found.columns[0]


NUMBERS = list(map(str, range(1, 41)))
BOUNDS = ('lower', 'upper')


@pytest.mark.parametrize(
  ('values', 'kind', 'domain', 'read'),
  [
    (['3', '-7', '12'], 'integer', (-7, 12, None), BOUNDS),
    (['0', '2'], 'integer', (0, 2, None), BOUNDS),
    (['1', '1'], 'integer', (1, 1, None), BOUNDS),
    (NUMBERS, 'integer', (1, 40, None), BOUNDS),
    (['007', '012'], 'categorical', ('007', '012'), ('categories',)),
    (['01', '2', '3'], 'categorical', ('01', '2', '3'), ('categories',)),
    (['1.5', '2', '-0.25'], 'real', (-0.25, 2.0, 0.01), (*BOUNDS, 'resolution')),
    (['1.0', '2.0', '3.0'], 'real', (1.0, 3.0, 1.0), (*BOUNDS, 'resolution')),
    (['1e-3', '2.5'], 'real', (0.001, 2.5, None), BOUNDS),
    (['0.12345678', '2.5'], 'real', (0.12345678, 2.5, None), BOUNDS),
    (['2020-02-29', '1999-12-31'], 'date', ('1999-12-31', '2020-02-29', None), BOUNDS),
    (['2020-02-30', '1999-12-31'], 'categorical', ('1999-12-31', '2020-02-30'), ('categories',)),
    (['2020-02-29 10:30', '1999-12-31T23:59:59.5'], 'datetime',
     ('1999-12-31T23:59:59', '2020-02-29T10:30:00', None), BOUNDS),
    (['yes', 'no', 'yes'], 'boolean', ('no', 'yes'), ('categories',)),
    (['True', 'False'], 'boolean', ('False', 'True'), ('categories',)),
    (['1', '0', '1'], 'boolean', ('0', '1'), ('categories',)),
    (['yes', 'Yes', 'no'], 'categorical', ('Yes', 'no', 'yes'), ('categories',)),
    (['yes', 'yes'], 'categorical', ('yes',), ('categories',)),
    (['b', 'a', 'b'], 'categorical', ('a', 'b'), ('categories',)),
    ([f'p{n}' for n in range(40)], 'id', (), ()),
    ([f'p{n}' for n in range(20)], 'categorical', None, ('categories',)),
    ([f'p{n % 30}' for n in range(60)], 'categorical', None, ('categories',)),
    ([f'0{n}' for n in range(40)], 'id', (), ()),
    (['9007199254740993', '1'], 'categorical', ('1', '9007199254740993'), ('categories',)),
    (['inf', '1.5'], 'categorical', ('1.5', 'inf'), ('categories',)),
  ],
)  # fmt: skip
def test_kinds_and_what_was_read(tmp_path, values, kind, domain, read):
  column = drafted(tmp_path, 'a', values)
  assert column.kind == kind
  assert column.drafted == ((*read, 'nullable') if kind != 'id' else ())
  if column.is_category and domain is not None:
    assert column.categories == domain
  elif column.is_number:
    assert (column.lower, column.upper, column.resolution) == domain
  for value in values if kind != 'id' else ():
    if '.5' not in value or kind == 'real':
      assert column.format(column.parse(value)).rstrip('0') in value + ':00.0' or column.is_number


@pytest.mark.parametrize('marker', read.MISSING)
def test_missing_values_are_found_and_said(tmp_path, marker):
  for values, kind in ((['3', '7'], 'integer'), (['b', 'a'], 'categorical')):
    column = drafted(tmp_path, 'a', [*values, marker])
    assert (column.kind, column.nullable, column.missing) == (kind, True, marker)
    assert column.drafted[-2:] == ('nullable', 'missing')
    assert np.isnan(column.parse(marker))


def test_missing_everywhere_and_in_two_ways(tmp_path):
  column = drafted(tmp_path, 'a', ['NA', 'NA'])
  assert (column.kind, column.categories, column.missing) == ('categorical', ('unknown',), 'NA')
  found, notes = draft_schema({'a': ['x', '?', '?', ''], 'b': [1, 2, 3, 4]})
  assert found.columns[0].missing == '?'
  assert found.columns[0].categories == ('', 'x')
  assert 'in several ways' in notes[0]


def test_names_tell_identifiers(tmp_path):
  for name in ('id', 'ID', 'patient_id', 'patientId', 'customer-id'):
    assert drafted(tmp_path, name, NUMBERS).kind == 'id'
    assert drafted(tmp_path, name, [*NUMBERS, '7']).kind == 'integer'  # not one each
  assert drafted(tmp_path, 'paid', NUMBERS).kind == 'integer'


def test_types_of_a_frame_count():
  frame = pa.table(
    {
      'text': ['1', '2'],
      'whole': [1.0, 2.0],
      'flag': [True, True],
      'day': [datetime.date(2020, 1, 1), None],
      'when': [datetime.datetime(2020, 1, 1, 5), datetime.datetime(2021, 1, 1)],
    }
  )
  found, _ = draft_schema(frame)
  assert [c.kind for c in found.columns] == ['categorical', 'real', 'boolean', 'date', 'datetime']
  assert found.columns[3].drafted == ('lower', 'upper', 'nullable')
  assert found.columns[3].nullable
  assert found.columns[4].lower == '2020-01-01T05:00:00'
  read.read_table(frame, found)


def test_nothing_read_from_the_data_is_unsaid():
  """A schema with the confirmed fields alone says the same of any table with these names."""
  people = generated.people('test')
  text = {'age': [str(int(v)) for v in people.records[:, 0]]}
  one, _ = draft_schema(text | {'b': list(map(str, people.records[:, 4]))})
  for column in one.columns:
    said = {'categories', 'lower', 'upper', 'resolution', 'nullable', 'missing'}
    defaults = Column(name='x', kind='id')
    for field in said - set(column.drafted):
      assert getattr(column, field) == getattr(defaults, field)
    assert 'nullable' in column.drafted


@pytest.mark.parametrize('format', write.FORMATS)
def test_people_are_read_by_their_draft(tmp_path, format):
  people = generated.people('test')
  path = write.export(
    tmp_path / f'p.{format}', people.schema, people.records, people.labels, format=format
  )
  found, _ = draft_schema(path, target='outcome')
  kinds = {c.name: c.kind for c in people.schema.columns} | {'education': 'categorical'}
  assert {c.name: c.kind for c in found.columns} == kinds
  assert found.columns[3].categories == people.schema.columns[3].categories  # leading zeros
  table = read.read_table(path, found)
  np.testing.assert_allclose(table.records[:, 0], people.records[:, 0])
  assert table.notes == ()


def test_a_target_is_of_categories(tmp_path):
  path = tmp_path / 't.csv'
  path.write_text('y,x\n' + ''.join(f'{n % 3 * 5},{n}\n' for n in range(30)))
  found, _ = draft_schema(path, target='y')
  assert found.class_names == ('0', '5', '10')
  refused(
    lambda: draft_schema(path, target='z'), "expected target to be one of its columns, got 'z'"
  )
  path.write_text('y,x\n1.5,1\n2.5,2\n')
  refused(lambda: draft_schema(path, target='y'), 'expected target to be a column of categories')
  path.write_text('y,x\na,1\na,2\n')
  refused(lambda: draft_schema(path, target='y'), 'expected target to have at least 2 categories')


def test_what_cannot_be_drafted(tmp_path):
  path = tmp_path / 't.csv'
  path.write_text('a;b\n1,5;x\n2;y\n')
  refused(
    lambda: draft_schema(path), "column 'a': expected numbers with a decimal point, got '1,5'"
  )
  path.write_text('id,b\n' + ''.join(f'{n},p{n}\n' for n in range(30)))
  refused(lambda: draft_schema(path), 'at least one column beside identifiers')
  path.write_text('1,2\n3,4\n5,6\n')
  assert 'does the first line hold names' in draft_schema(path)[1][0]


def test_a_column_of_too_many_codes_is_an_identifier():
  codes = [str(n % 10_001) for n in range(20_002)]
  found, notes = draft_schema({'a': codes, 'b': [1] * 20_002})
  assert found.columns[0].kind == 'id'
  assert 'taken for an identifier' in notes[0]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run(own_flags: flags.FlagValues, capsys: pytest.CaptureFixture[str]):
  """`python -m dpgan_jax.schema ARGUMENTS`, and what it printed."""

  def run(*arguments: object) -> str:
    for name in list(own_flags):
      delattr(own_flags, name)
    schema.define_flags()
    _cli.parse(['schema', *map(str, arguments)], 'data_dir')
    schema.main()
    return capsys.readouterr().out

  return run


def test_the_command(run, tmp_path):
  data, out = tmp_path / 'people.csv', tmp_path / 'people.schema.json'
  data.write_text(ROWS + ROWS.partition('\n')[2] * 30)
  shown = run(data, f'--out={out}', '--target=ill')
  assert 'plz     categorical  01067, 50667' in shown
  assert 'categories, nullable' in shown
  assert 'is a leak unless it is public' in shown
  found = schema_file.read_schema(out)
  assert found.target == 'ill'
  assert found.unconfirmed()['age'] == ('lower', 'upper', 'nullable', 'missing')
  assert json.loads(out.read_text())['declared_public'] is False
  refused(lambda: run(data, f'--out={out}'), 'exists already')
  for arguments in ((f'--data={data}',), (f'--data_dir={data}',), ('--data', data), (data,)):
    shown = run('--declare_public', *arguments, f'--out={out}', '--overwrite')
    assert 'Every entry is declared public' in shown
    found = schema_file.read_schema(out)
    assert found.declared_public
    assert found.unconfirmed() == {}
    assert found.columns[1].drafted == ('categories', 'nullable')  # it stays known what was read


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ((), 'expected the file of a table and --out=FILE'),
    (('people.csv',), 'expected the file of a table and --out=FILE'),
    (('people.csv', 'more.csv', '--out=x'), "expected flags only (--name=value), got 'people.csv'"),
    (('none.csv', '--out=x'), 'none.csv: expected a CSV or Parquet file, got nothing'),
    (('a.csv', '--data=b.csv', '--out=x'), "expected flags only (--name=value), got 'a.csv'"),
  ],
)
def test_wrong_commands_are_one_line(run, tmp_path, monkeypatch, arguments, words):
  monkeypatch.chdir(tmp_path)
  refused(lambda: run(*arguments), words)
  assert list(tmp_path.iterdir()) == []


def test_wide_tables_are_described_in_part():
  found, _ = draft_schema({f'c{n}': [1, 2] for n in range(50)})
  lines = draft.describe(found)
  assert len(lines) == 42
  assert lines[-1] == '... and 10 more columns'
