"""Small generated tables of every kind of column, whose relations are known.

>>> data = people(9, seed=0)
>>> data.records.shape, data.schema.target, data.class_names
((9, 7), 'ill', ('no', 'yes'))
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema

PEOPLE = Schema(
  columns=(
    Column(name='person', kind='id'),
    Column(name='age', kind='integer', lower=0, upper=120),
    Column(name='weight', kind='real', lower=0, upper=250, resolution=0.1, nullable=True),
    Column(name='town', kind='categorical', categories=('north', 'east', 'south', 'west')),
    Column(
      name='school', kind='ordinal', categories=('none', 'low', 'high'), nullable=True, missing='?'
    ),
    Column(name='smokes', kind='boolean', categories=('false', 'true')),
    Column(name='since', kind='date', lower='2000-01-01', upper='2019-12-31'),
    Column(name='costs', kind='real', lower=0, upper=1e6),
    Column(name='ill', kind='categorical', categories=('no', 'yes')),
  ),
  target='ill',
  declared_public=True,
)


def people(num: int, *, seed: int) -> TableDataset:
  """Records of people: the old weigh more, smoke less and are ill more often; costs are of the ill.

  Args:
    num: how many.
    seed: of everything.
  """
  rng = np.random.default_rng(seed)
  age = np.clip(np.rint(rng.normal(45, 20, num)), 0, 120)
  weight = np.clip(np.round(60 + age / 4 + rng.normal(0, 8, num), 1), 0, 250)
  weight[rng.random(num) < 0.1] = np.nan
  town = rng.choice(4, num, p=(0.5, 0.3, 0.15, 0.05)).astype(float)
  school = np.clip(np.rint(town / 2 + rng.normal(0.3, 0.5, num)), 0, 2)
  school[rng.random(num) < 0.05] = np.nan
  smokes = (rng.random(num) < 0.6 - age / 200).astype(float)
  low, high = PEOPLE.modelled[5].bounds
  since = np.rint(rng.uniform(low, high, num))
  ill = rng.random(num) < 1 / (1 + np.exp((60 - age) / 6 - 2 * smokes))
  costs = np.where(ill, np.minimum(rng.lognormal(8, 1.5, num), 1e6), 0.0)
  return TableDataset(
    records=np.stack([age, weight, town, school, smokes, since, costs], axis=1),
    labels=(ill ^ (rng.random(num) < 0.05)).astype(np.int32),
    schema=PEOPLE,
    name='people',
    partial=True,
  )


def coins(rows: np.ndarray, *, sides: int = 2, target: bool = False) -> TableDataset:
  """A table of categories from codes [n, C]; the last column is the target, if there is one."""
  sizes = tuple(str(k) for k in range(sides))
  columns = tuple(
    Column(name=f'c{i}', kind='categorical', categories=sizes) for i in range(rows.shape[1])
  )
  schema = Schema(columns=columns, target=columns[-1].name if target else None)
  rows = np.asarray(rows, np.float64)
  labels = rows[:, -1].astype(np.int32) if target else np.zeros(len(rows), np.int32)
  records = rows[:, :-1] if target else rows
  return TableDataset(
    records=np.ascontiguousarray(records), labels=labels, schema=schema, name='coins', partial=True
  )


def some(data: TableDataset, rows: np.ndarray | slice) -> TableDataset:
  """Rows of a table."""
  return dataclasses.replace(
    data, records=data.records[rows], labels=data.labels[rows], partial=True
  )


def visits(num: int, *, most: int, seed: int) -> TableDataset:
  """Visits of so many persons, 1 to `most` each: who is ill often is so at most visits."""
  rng = np.random.default_rng(seed)
  counts = rng.integers(1, most + 1, num)
  whose = np.repeat(np.arange(num), counts)
  ill = rng.random(len(whose)) < np.where(rng.random(num) < 0.4, 0.8, 0.1)[whose]
  town = rng.choice(3, num).astype(float)[whose]
  fever = np.clip(np.rint(rng.normal(2 + 4 * ill, 1.5)), 0, 9)
  schema = Schema(
    columns=(
      Column(name='person', kind='id'),
      Column(name='town', kind='categorical', categories=('north', 'east', 'south')),
      Column(name='fever', kind='integer', lower=0, upper=9),
      Column(name='ill', kind='boolean', categories=('no', 'yes')),
    ),
    target='ill', unit_column='person', max_rows_per_unit=most,
  )  # fmt: skip
  return TableDataset(
    records=np.stack([town, fever], axis=1), labels=ill.astype(np.int32), schema=schema,
    name='visits', persons=persons.digests(f'p{i}' for i in whose),
  )  # fmt: skip
