"""Constraints from the schema file to samples: of a model, of classes, of given values."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from dpgan_jax import DPGAN
from dpgan_jax._validate import InputError

# tests/data/tables/test_constraints.py has every constraint without fitting a model.
pytestmark = pytest.mark.slow

_COLUMNS = [
  {'name': 'start', 'kind': 'date', 'lower': '2020-01-01', 'upper': '2020-12-31'},
  {'name': 'end', 'kind': 'date', 'lower': '2020-01-01', 'upper': '2021-12-31', 'nullable': True},
  {'name': 'days', 'kind': 'integer', 'lower': 0, 'upper': 730, 'nullable': True},
  {'name': 'city', 'kind': 'categorical', 'categories': ['Lyon', 'Paris', 'Rome']},
  {'name': 'land', 'kind': 'categorical', 'categories': ['F', 'I']},
]
_CONSTRAINTS = [
  {'kind': 'inequality', 'low': 'start', 'high': 'end'},
  {'kind': 'derived', 'column': 'days', 'terms': {'end': 1, 'start': -1}},
  {'kind': 'fixed_combinations', 'columns': ['city', 'land'],
   'combinations': [['Lyon', 'F'], ['Paris', 'F'], ['Rome', 'I']]},
]  # fmt: skip


@pytest.fixture(scope='module')
def fitted(tmp_path_factory) -> DPGAN:
  folder = tmp_path_factory.mktemp('constraints')
  path = folder / 'stays.schema.json'
  record = {
    'format': 'dpgan_jax table 1', 'target': 'land', 'columns': _COLUMNS,
    'constraints': _CONSTRAINTS,
  }  # fmt: skip
  path.write_text(json.dumps(record))
  rng = np.random.default_rng(0)
  start = rng.integers(0, 366, 800)
  days = rng.integers(0, 365, 800)
  city = rng.integers(0, 3, 800)
  first, gone = np.datetime64('2020-01-01'), rng.random(800) < 0.1
  frame = pa.table(
    {
      'start': pa.array(first + start),
      'end': pa.array(first + start + days, mask=gone),
      'days': pa.array(days, mask=gone),
      'city': [_COLUMNS[3]['categories'][c] for c in city],
      'land': ['I' if c == 2 else 'F' for c in city],
    }
  )
  model = DPGAN(target_epsilon=4.0, delta=1e-4, num_samples=50)
  return model.fit(frame, schema=path, run_dir=folder / 'run', progress=False)


def _rows(frame) -> list[dict]:
  rows = (frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame)).to_pylist()
  for row in rows:
    if row['end'] is None or row['days'] is None:
      assert row['end'] is row['days'] is None
    else:
      assert row['start'] <= row['end']
      assert (row['end'] - row['start']).days == row['days']
    assert (row['city'], row['land']) in {('Lyon', 'F'), ('Paris', 'F'), ('Rome', 'I')}
  return rows


def test_every_sample_satisfies_them_and_what_is_derived_is_computed(fitted, tmp_path):
  rows = _rows(fitted.sample(1500, seed=1))
  assert list(rows[0]) == [column['name'] for column in _COLUMNS]
  assert len({row['days'] for row in rows}) > 100
  assert 0.02 < np.mean([row['end'] is None for row in rows]) < 0.3
  assert 0.2 < np.mean([row['land'] == 'I' for row in rows]) < 0.5
  fitted.save(tmp_path / 'model.safetensors')
  assert _rows(DPGAN.load(tmp_path / 'model.safetensors').sample(1500, seed=1)) == rows


def test_classes_and_values_that_are_asked_for_stay(fitted):
  rows = _rows(fitted.sample(60, labels=np.resize([1, 0, 0], 60), seed=2))
  assert [row['land'] for row in rows] == ['I', 'F', 'F'] * 20
  given = {'end': '2020-01-10', 'land': 'I'}
  rows = _rows(fitted.sample(60, given=given, seed=3))
  assert {(str(row['end'])[:10], row['land'], row['city']) for row in rows} == {
    ('2020-01-10', 'I', 'Rome')
  }
  assert {row['end'] for row in _rows(fitted.sample(20, given={'end': ''}))} == {None}


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'start': '2020-06-01', 'end': '2020-05-01'}, 'satisfy start <= end'),
    ({'city': 'Rome', 'land': 'F'}, 'fixed combinations of city, land'),
    ({'days': 3}, "not derived, got 'days'"),
  ],
)
def test_given_values_that_break_them_are_refused(fitted, given, message):
  with pytest.raises(InputError, match=message):
    fitted.sample(5, given=given)
