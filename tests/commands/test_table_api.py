"""Tables from Python: a frame goes in, a frame of the same columns comes out."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from dpgan_jax import DPGAN, load_dataset
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables import generated
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import schema_file, write

PEOPLE = generated.people()
FRAME = write.to_arrow(PEOPLE.part(np.arange(len(PEOPLE)) < 800, partial=True))


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
  run = tmp_path_factory.mktemp('table') / 'run'
  model = DPGAN(target_epsilon=8.0, delta=1e-4, num_samples=50)
  return model.fit(FRAME, schema=PEOPLE.schema, run_dir=run, progress=False)


def as_arrow(frame) -> pa.Table:
  return frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame)


def test_a_frame_has_the_columns_and_types_that_went_in(fitted):
  drawn = as_arrow(fitted.sample(30, seed=1))
  assert drawn.schema.names == FRAME.schema.names
  assert drawn.schema.types == FRAME.schema.types
  assert drawn.num_rows == 30
  assert drawn.equals(as_arrow(fitted.sample(30, seed=1)))
  assert 7.9 < fitted.epsilon <= 8.0


def test_values_can_be_given(fitted):
  drawn = as_arrow(fitted.sample(40, given={'sex': 'female', 'age': 41, 'outcome': 'high'}))
  assert set(drawn['sex'].to_pylist()) == {'female'}
  assert set(drawn['age'].to_pylist()) == {41}
  assert set(drawn['outcome'].to_pylist()) == {'high'}
  assert len(set(drawn['region'].to_pylist())) > 1
  # Without the target among them, it is drawn as it goes with what is given.
  shares = [
    np.mean([v == 'high' for v in as_arrow(fitted.sample(600, given=g, seed=0))['outcome']
             .to_pylist()])
    for g in ({'education': 'none'}, {'education': 'master'})
  ]  # fmt: skip
  assert 0 < min(shares) < max(shares) < 1


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'seks': 'female'}, "expected a column among age, sex, .*; got 'seks'"),
    ({'sex': 'femal'}, "column 'sex': expected one of its 2 categories, got 'femal'"),
    ({'age': 400}, "column 'age': expected a value in "),
    ({'person': '3'}, 'expected a column among'),
  ],
)
def test_values_that_there_are_not_are_refused(fitted, given, message):
  with pytest.raises(InputError, match=message):
    fitted.sample(5, given=given)


@pytest.mark.slow  # test_table_moments draws from a file
def test_it_is_loaded_without_the_data(fitted, tmp_path):
  fitted.save(tmp_path / 'model.safetensors')
  again = DPGAN.load(tmp_path / 'model.safetensors')
  assert as_arrow(again.sample(20, seed=3)).equals(as_arrow(fitted.sample(20, seed=3)))
  assert again.epsilon == fitted.epsilon


def test_what_nobody_has_confirmed_is_refused(tmp_path):
  record = PEOPLE.schema.to_record()
  record['declared_public'] = False
  record['columns'][1]['drafted'] = ['lower', 'upper']
  path = tmp_path / 'schema.json'
  path.write_text(json.dumps(record))
  drafted = schema_file.read_schema(path)
  model = DPGAN(target_epsilon=8.0, delta=1e-4)
  # As a file, as an object, and in a data set that is at hand: no way leads around it.
  for records, schema in ((FRAME, path), (FRAME, drafted), (_with_schema(drafted), None)):
    with pytest.raises(InputError, match=r'age \(lower, upper\) were read .* is a leak'):
      model.fit(records, schema=schema, run_dir=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def _with_schema(schema) -> TableDataset:
  return dataclasses.replace(PEOPLE, schema=schema)


def test_images_have_no_given_values_and_tables_no_labels(fitted, tmp_path):
  with pytest.raises(InputError, match='no labels or num_classes'):
    DPGAN(target_epsilon=8.0).fit(
      FRAME, np.zeros(800, int), schema=PEOPLE.schema, run_dir=tmp_path / 'run'
    )
  with pytest.raises(InputError, match='no labels beside given values'):
    fitted.sample(5, labels=np.zeros(5, int), given={'sex': 'female'})
  digits = load_dataset('digits', split='test')
  images = DPGAN(target_epsilon=8.0, delta=1e-4, num_samples=20)
  images.fit(digits, run_dir=tmp_path / 'images', progress=False)
  with pytest.raises(InputError, match='given values only of a table'):
    images.sample(5, given={'sex': 'female'})


def test_a_table_without_a_schema_is_told_what_it_lacks(tmp_path):
  for table in (FRAME, 'people.csv', tmp_path / 'people.csv'):
    with pytest.raises(InputError, match='expected a schema beside a table'):
      DPGAN(target_epsilon=8.0).fit(table, run_dir=tmp_path / 'run')
