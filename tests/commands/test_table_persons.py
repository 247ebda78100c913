"""Persons with several rows, from the flags to what is published."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest

from dpgan_jax import DPGAN, sample
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.files import read, schema_file, write
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import trainer
from tests.support.commands import Command
from tests.support.tables import visits

pytestmark = [pytest.mark.usefixtures('short_curve'), pytest.mark.slow]

UNIT = 'one person with up to 3 rows'
FLAGS = ('--unit_column=person', '--max_rows_per_unit=3', '--dataset=table', '--target_epsilon=4',
         '--delta=1e-4', '--num_samples=50', '--moments_coefficients=2')  # fmt: skip


@pytest.fixture(scope='module')
def frame():
  """400 persons with up to 5 rows, each under a name of their own."""
  table = visits(400, most=5, seed=2)
  found = write.to_arrow(table).to_pydict()
  names = {name: f'p{i}' for i, name in enumerate(dict.fromkeys(map(bytes, table.persons)))}
  found['person'] = [names[bytes(each)] for each in table.persons]
  return found


@pytest.fixture(scope='module')
def plain():
  """The schema, before anybody says that a person has several rows."""
  return dataclasses.replace(
    visits(1, most=5, seed=2).schema, unit_column=None, max_rows_per_unit=None
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory, frame, plain):
  """The directory of a run by the command, beside its data and its schema."""
  folder = tmp_path_factory.mktemp('persons')
  rows = zip(*frame.values(), strict=True)
  lines = [','.join(frame), *(','.join(map(str, row)) for row in rows)]
  (folder / 'visits.csv').write_text('\n'.join(lines) + '\n')
  schema_file.write_schema(folder / 'schema.json', plain)
  with contextlib.closing(Command('dpgan_jax.train')) as train:
    about = (f'--data={folder}/visits.csv', f'--schema={folder}/schema.json')
    done = train(*about, *FLAGS, f'--run_dir={folder}/run')
    assert done.status == 0, done.err
    assert 'persons with up to 3 rows each' in done.out
    assert f'one record = {UNIT}' in done.out
    other = train(*about, *FLAGS, '--max_rows_per_unit=2', f'--run_dir={folder}/run')
    assert other.status != 0  # another sensitivity is another run
    alone = train(*about, *FLAGS[1:], f'--run_dir={folder}/alone')
    assert 'expected unit_column and max_rows_per_unit together' in alone.err
    assert not (folder / 'alone').exists()
  return folder / 'run'


def test_what_is_counted_recorded_and_published_is_persons(run, frame):
  config = json.loads((run / 'config.json').read_text())
  count = config['data']['num_records']
  assert 320 < count < 400  # a tenth is held out, of 400 persons with about 1,200 rows
  assert config['data']['schema']['unit_column'] == 'person'
  assert all(m['num_examples'] == count for m in config['stages'].values())
  statement = run_statement.build(trainer.restore_model(run).run)
  facts = statement.to_json()
  assert facts['guarantee']['unit_of_privacy'] == f'one record: {UNIT}'
  assert f'one record: {UNIT}' in statement.guarantee()
  page = statement.to_markdown()
  assert 'Of a person at most 3 rows count' in page
  assert 'A person with k records' not in page
  assert 'is protected less' not in page
  assert 'a certain person with up to 3 rows was used' in page
  assert not any(name in page for name in frame['person'][:1])


def test_as_many_rows_are_drawn_as_the_counts_say(run, own_flags, tmp_path, capsys):
  model = trainer.restore_model(run).model
  assert isinstance(model, MomentsSynthesizer)
  rows = model.usual_num
  assert 1.5 * model.spec.num_records < rows < 3 * model.spec.num_records
  sample.define_flags()
  own_flags(['', f'--run_dir={run}', f'--out={tmp_path}/s.csv'])
  sample.main()
  assert f'{rows} synthetic rows' in capsys.readouterr().out
  # Every row is of somebody else: nothing says whose.
  assert len(read.read_table(tmp_path / 's.csv', model.spec.schema).notes) == 0


def test_from_python(frame, plain, tmp_path):
  model = DPGAN(target_epsilon=4.0, delta=1e-4, num_samples=20, moments_coefficients=2)
  model.fit(
    frame, schema=plain, unit_column='person', max_rows_per_unit=3, run_dir=tmp_path / 'run',
    progress=False,
  )  # fmt: skip
  assert model.mechanism.num_examples == 400
  assert model._fitted.spec.unit == UNIT
  drawn = write.to_arrow(read.read_table(model.sample(30), plain))
  assert drawn.num_rows == 30
  with pytest.raises(InputError, match='together'):
    model.fit(frame, schema=plain, unit_column='person', run_dir=tmp_path / 'other')
  with pytest.raises(InputError, match='beside a schema'):
    model.fit(np.zeros((2, 8, 8), np.uint8), unit_column='person', run_dir=tmp_path / 'other')
  assert not (tmp_path / 'other').exists()
