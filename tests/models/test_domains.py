"""Bounds, categories and resolutions that are found from noisy counts.

What they cost, and that faults in it are seen: `experiments/trust/schema_checks`, which
`tests/experiments/test_planted_faults` runs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files.open import read_open
from dpgan_jax.data.tables.schema import Column
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.domains import grid, plan, search
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.settings import MEANS, SCHEMA, SECONDS
from dpgan_jax.run import plan as run_plan

SECRET = bytes(range(32))
WIDE = dict(lower=-(2.0**52), upper=2.0**52)
CONFIG = TrainConfig(target_epsilon=4.0, schema_epsilon=2.0, delta=1e-5, dataset='table')


@pytest.mark.parametrize('kind', ['integer', 'real', 'date'])
def test_cells_of_numbers_cover_the_column_once(kind):
  ends = dict(lower='0001-01-01', upper='9999-12-31') if kind == 'date' else WIDE
  column = Column(name='x', kind=kind, **ends)
  edges = grid.first_edges(column)
  assert (np.diff(edges) > 0).all()
  low, high = column.bounds
  assert edges[0] == low
  assert edges[-1] > high
  values = np.array([low, high, 0.0, 1.0, -1.0, 17.0, 1e5])
  found = grid.cells(values, edges)
  assert ((edges[found] <= values) & (values < edges[found + 1])).all()
  assert grid.cells(np.array([np.nan]), edges).tolist() == [len(edges) - 1]
  # Cells do not depend on what is in the column: another's are the same.
  assert grid.cells(values[:1], edges)[0] == found[0]


def test_zero_is_a_cell_of_real_numbers():
  edges = grid.first_edges(Column(name='x', kind='real', **WIDE))
  zero, tiny, small = grid.cells(np.array([0.0, 1e-12, 1e-3]), edges)
  assert zero == tiny != small
  assert edges[zero + 1] == 2.0**-30


def test_bounds_that_are_known_limit_the_cells():
  edges = grid.first_edges(Column(name='x', kind='integer', lower=0, upper=2.0**52))
  assert edges[0] == 0.0


def test_nothing_is_found_in_noise():
  """600 cells of noise, twenty times, from a fixed seed."""
  rng = np.random.default_rng(0)
  assert sum(grid.occupied(rng.normal(0, 1, 600), 1.0) is not None for _ in range(20)) == 0


def test_what_stands_out_is_found_and_little_more():
  rng = np.random.default_rng(1)
  for _ in range(20):
    counts = rng.normal(0, 10, 600)
    counts[300:310] += 200
    first, last = grid.occupied(counts, 10.0) or (0, 0)
    assert 296 <= first <= 300
    assert 309 <= last <= 313


def test_ends_of_noise_are_cut_off_and_no_more():
  counts = np.array([3.0, -2, 1, 500, 400, 300, 2, -1])
  assert grid.trimmed(counts, 2.0) == (3, 5)
  assert grid.trimmed(counts, 400.0) == (0, 7)  # a twentieth may be in any cell


def people(n: int, seed: int = 0) -> dict[str, list]:
  rng = np.random.default_rng(seed)
  return {
    'age': rng.integers(17, 91, n).tolist(),
    'weight': rng.normal(70, 12, n).round(1).tolist(),
    'year': rng.integers(1995, 2004, n).tolist(),
    'seen': (np.datetime64('2015-01-01') + rng.integers(0, 1800, n)).tolist(),
    'town': rng.choice(['Ulm', 'Köln', 'Bonn', ''], n, p=[0.5, 0.3, 0.1, 0.1]).tolist(),
    'rare': [*['common'] * (n - 3), 'a', 'b', 'c'],
    'smoker': rng.choice(['no', 'yes'], n).tolist(),
    'ill': rng.choice(['no', 'yes'], n).tolist(),
  }


@pytest.fixture(scope='module')
def found():
  """Schema and open table of 20,000 people, ε = 2."""
  data = people(20_000)
  table = read_open(data, draft_schema(data, target='ill')[0])
  planned = plan.make(CONFIG, table.spec)
  return search.find(table, planned.mechanism, SECRET), table, planned


def test_what_is_found_is_about_what_there_is(found):
  schema, table, _ = found
  by = {column.name: column for column in schema.columns}
  assert 15 <= by['age'].bounds[0] <= 18
  assert 89 <= by['age'].bounds[1] <= 96
  assert 10 <= by['weight'].bounds[0] <= 45
  assert 95 <= by['weight'].bounds[1] <= 140
  assert by['weight'].resolution == 0.1
  assert 1984 <= by['year'].bounds[0] <= 1995
  assert 2003 <= by['year'].bounds[1] <= 2015
  assert '2013' < by['seen'].lower <= '2015-01-10'
  assert '2019-11' < by['seen'].upper < '2022'
  assert by['town'].categories == ('Bonn', 'Köln', 'Ulm')
  assert by['town'].nullable
  assert by['rare'].categories[0] == 'common'
  assert by['smoker'].kind == 'boolean'
  assert by['smoker'].categories == ('no', 'yes')
  assert schema.class_names == ('no', 'yes')
  assert not any(by[name].nullable for name in ('rare', 'ill'))
  closed = table.closed(schema)
  assert len(closed) == 20_000
  assert closed.records.shape[1] == 7


def test_what_is_found_is_the_same_again_and_other_with_another_secret(found):
  schema, table, planned = found
  assert search.find(table, planned.mechanism, SECRET) == schema
  assert search.find(table, planned.mechanism, bytes(32)) != schema


def test_of_little_nothing_is_known_and_nothing_breaks():
  """Twelve rows at ε = 0.01: bounds and categories of noise, whatever comes."""
  data = people(12)
  table = read_open(data, draft_schema(data, target='ill')[0])
  mechanism = plan.make(CONFIG.replace(schema_epsilon=0.01), table.spec).mechanism
  for number in range(5):
    schema = search.find(table, mechanism, number.to_bytes(32, 'big'))
    assert schema.target is None  # a class that nobody can know is none
    assert len(table.closed(schema)) == 12
    town = next(c for c in schema.columns if c.name == 'town')
    assert town.categories == ('other',)


def test_mechanisms_share_epsilon(found):
  _, table, planned = found
  assert set(planned.stages) == {SCHEMA, MEANS, SECONDS}
  assert planned.mechanism.epsilon() <= 2.0
  assert 3.9 < planned.budget.epsilon() <= 4.0
  alone = settings.mechanisms(TrainConfig(target_epsilon=4.0), table.spec)
  assert planned.stages[MEANS].noise_multiplier > alone[MEANS].noise_multiplier
  record = {**planned.to_record(), 'data': table.spec.to_record()}
  again = run_plan.read(record, 'here')
  assert again == planned
  with pytest.raises(InputError, match='stages of a schema'):
    plan.OpenMoments(CONFIG, table.spec, {n: planned.stages[n] for n in (MEANS, SECONDS)})


def test_a_schema_that_another_run_found_is_not_free(found):
  schema, table, planned = found
  closed = planned.closed(schema)
  assert closed.budget.epsilon() == planned.budget.epsilon()
  with pytest.raises(InputError, match='what that cost counts too'):
    settings.make(TrainConfig(target_epsilon=4.0), table.closed(schema).spec)
  stages = {n: m for n, m in closed.stages.items() if n != SCHEMA}
  with pytest.raises(InputError, match='what that cost counts too'):
    dataclasses.replace(closed, stages=stages)


@pytest.mark.parametrize(('changes', 'words'), [
  ({'schema_epsilon': 4.0}, 'schema_epsilon < 4'),
  ({'schema_epsilon': 5.0}, 'schema_epsilon < 4'),
  ({'method': 'gan', 'steps': 10}, 'no schema_epsilon'),
])  # fmt: skip
def test_settings_that_do_not_fit(changes, words):
  with pytest.raises(InputError, match=words):
    CONFIG.replace(**changes)


def test_settings_without_it_are_written_as_before():
  assert 'schema_epsilon' not in TrainConfig(target_epsilon=1.0).to_dict()
  assert TrainConfig.from_dict(CONFIG.to_dict()) == CONFIG


def test_the_least_count_of_a_category_is_public(found):
  _, table, planned = found
  least = search.least(table.schema, planned.mechanism)
  noise = planned.mechanism.noise_multiplier * math.sqrt(search.squared_sensitivity(table.schema))
  assert 5 * noise < least < 8 * noise
