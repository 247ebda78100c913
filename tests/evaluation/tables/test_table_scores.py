"""All scores of a table: beside real rows and noise, and what comes of planted failures."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.evaluation.scores import Store
from dpgan_jax.evaluation.tables import pages, references, scores, tstr
from tests.support.tables import coins, people, some, visits

TRAIN, TEST, FRESH = (people(n, seed=seed) for seed, n in enumerate((1000, 800, 900)))


@pytest.fixture(autouse=True)
def light(monkeypatch):
  """What is scored here is small: so is the effort."""
  few = tstr.Effort(rows=1000, column_rows=300, columns=3, trees=30)
  settings = scores.Settings(effort=few, queries=300, marginal_rows=10_000)
  monkeypatch.setattr(
    scores.Settings,
    'of',
    lambda quick, seed: dataclasses.replace(settings, effort=dataclasses.replace(few, seed=seed)),
  )


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  """What real rows and noise get is computed once for all tests."""
  return Store(tmp_path_factory.mktemp('scores'))


def scored(synthetic: TableDataset, store: Store | None, **kwargs):
  record = scores.score(TRAIN, TEST, synthetic, quick=True, store=store, **kwargs)
  return record, {one['name']: one for one in record['scores']}


def test_fresh_rows_of_the_same_people_are_good(store):
  record, found = scored(FRESH, store)
  assert record['verdict']['level'] == 'good'
  assert record['sentence'] == record['verdict']['sentence']
  assert not record['copies']['alarm']
  for name in ('tstr_auroc', 'every_column_auroc'):
    assert found[name]['value'] == pytest.approx(found[name]['reference'], abs=0.04)
    assert found[name]['static'] < 0.7
  for name in ('two_way', 'three_way', 'relations', 'one_way'):
    one = found[name]
    assert one['value'] < 1.4 * one['reference'] < one['static']
  strict = json.dumps(record, allow_nan=False)
  assert json.loads(strict) == record


@pytest.mark.parametrize('kind', references.NOISES)
def test_noise_never_looks_good(store, kind):
  record, found = scored(references.noise(kind, TRAIN, seed=7), store)
  # By luck a direction learnt from noise may tell a little: `poor` is the most that it is called.
  assert record['verdict']['level'] in ('useless', 'poor')
  assert record['verdict']['usefulness'] < 0.4
  if kind == 'static':
    assert record['verdict']['level'] == 'useless'
    assert found['two_way']['value'] > 0.3
    assert found['one_way']['value'] == pytest.approx(found['one_way']['static'], abs=0.05)


def test_training_rows_raise_the_alarm(store):
  record, found = scored(some(TRAIN, slice(0, 900)), store)
  assert record['copies']['alarm']
  assert found['equal_share']['value'] == 1
  assert found['equal_share']['reference'] == 0
  assert found['near_share']['value'] == 1
  assert found['tstr_auroc']['value'] > 0.8


def test_what_read_private_data_is_marked(store):
  record, found = scored(FRESH, store)
  assert not found['distinct_rows']['reads_private_data']
  assert all(s['reads_private_data'] for n, s in found.items() if n != 'distinct_rows')
  assert record['verdict']['reads_private_data']
  assert record['copies']['reads_private_data']


def test_finished_results_are_found_and_no_others(store, monkeypatch):
  first, _ = scored(FRESH, store)
  run = []
  pieces = scores._Work.pieces

  def counted(self):
    return [
      dataclasses.replace(p, run=lambda tell, p=p: (run.append(p.name), p.run(tell))[1])
      for p in pieces(self)
    ]

  monkeypatch.setattr(scores._Work, 'pieces', counted)
  assert scored(FRESH, store)[0] == first
  assert run == []
  scored(some(FRESH, slice(0, 400)), store)
  assert sorted(run) == ['columns', 'copies', 'marginals', 'target']
  run.clear()
  work = scores._Work(TRAIN, TEST, FRESH, scores.Settings.of(quick=True, seed=0))
  other = scores._Work(some(TRAIN, slice(1, None)), TEST, FRESH, work.settings)
  seeded = scores._Work(TRAIN, TEST, FRESH, scores.Settings.of(quick=True, seed=1))
  for same in zip(*(w.pieces() for w in (work, other, seeded)), strict=True):
    assert len({piece.key for piece in same}) == 3


def test_a_table_without_a_target_is_scored_by_its_columns(store):
  plain = [scores.without_target(some(t, slice(0, 600))) for t in (TRAIN, TEST, FRESH)]
  record = scores.score(*plain, quick=True)
  names = [one['name'] for one in record['scores']]
  assert 'tstr_auroc' not in names
  assert 'tstr_auroc' in record['skipped']
  assert record['verdict']['usefulness'] > 0.7
  assert record['about']['target'] is None
  assert 'ill' not in {one['name'] for one in record['columns']}
  pages.to_markdown(record)


def test_rows_of_persons_lose_their_persons_with_the_target():
  of_persons = visits(20, most=3, seed=0)
  plain = scores.without_target(of_persons)
  assert plain.persons is None
  assert plain.schema.target is None
  np.testing.assert_array_equal(plain.records, of_persons.records)


def test_worst_pairs_and_columns_are_named(store):
  records = FRESH.records.copy()
  records[:, 2] = 3.0  # everybody lives in the west
  record, found = scored(dataclasses.replace(FRESH, records=records), store)
  assert all('town' in pair['names'] for pair in record['worst_pairs'][:6])
  worst = max(record['columns'], key=lambda one: one['one_way'])
  assert worst['name'] == 'town'
  assert found['one_way_worst']['value'] == worst['one_way'] > 0.9


@pytest.mark.parametrize('target', [True, False])
@pytest.mark.parametrize('columns', [1, 2, 3])
def test_narrow_and_constant_tables_are_scored(columns, target):
  if columns == 1 and target:
    pytest.skip('a target needs a column beside it')
  rng = np.random.default_rng(0)
  rows = rng.integers(0, 2, (60, columns))
  constant = np.zeros((30, columns), int)
  for train, test, made in ((rows, rows, constant), (constant, constant, rows), (constant,) * 3):
    tables = (coins(t, target=target) for t in (train, test, made))
    record = scores.score(*tables, quick=True)
    assert all(math.isfinite(one['value']) for one in record['scores'])
    assert record['verdict']['level'] != 'good'
    assert pages.to_markdown(record).startswith('# Evaluation of a synthetic table')


def test_missing_everywhere_is_scored():
  schema = Schema(columns=tuple(
    Column(name=n, kind='real', lower=0, upper=1, nullable=True) for n in 'ab'
  ))  # fmt: skip
  nothing = TableDataset(
    records=np.full((30, 2), np.nan), labels=np.zeros(30, np.int32), schema=schema, name='nothing'
  )
  record = scores.score(nothing, nothing, nothing, quick=True)
  assert record['verdict']['level'] in ('unknown', 'usable')


def test_few_rows_are_refused():
  with pytest.raises(InputError, match='at least 20 synthetic rows, got 19'):
    scores.score(TRAIN, TEST, some(FRESH, slice(0, 19)))
