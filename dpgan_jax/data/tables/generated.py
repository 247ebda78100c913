"""A generated table that anyone may have: people, of every kind of column, from a fixed seed.

It stands in for a private table in tests and in the quickstart. The schema is declared, not read:
hours may be 80, although nobody has them. A logistic regression finds `outcome` with an AUROC of
about 0.87, by the lab value, region, age, income and education; part of it goes with both smoking
and hours, which it does not see, and a missing lab value tells something too.

>>> table = people('test')
>>> len(table), len(table.schema.columns), table.class_names
(2000, 12, ('low', 'high'))
"""

from __future__ import annotations

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.tables.constraints.system import on_grid
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema

SIZES = {'train': 5000, 'test': 2000}
_SEED = 20_22

PEOPLE = Schema(
  columns=(
    Column(name='id', kind='id'),
    Column(name='age', kind='integer', lower=18, upper=95),
    Column(name='sex', kind='categorical', categories=('female', 'male')),
    Column(
      name='region',
      kind='categorical',
      categories=('01', '02', '03', '05', '07', '08', '11', '12'),
    ),
    Column(
      name='education',
      kind='ordinal',
      categories=('none', 'primary', 'secondary', 'bachelor', 'master', 'doctorate'),
    ),
    Column(name='hours', kind='real', lower=0, upper=80, resolution=0.5),
    Column(name='income', kind='real', lower=0, upper=500_000, resolution=0.01),
    Column(name='since', kind='date', lower='1990-01-01', upper='2024-12-31'),
    Column(name='last_seen', kind='datetime', lower='2024-01-01', upper='2024-12-31T23:59:59'),
    Column(name='smoker', kind='boolean', categories=('no', 'yes')),
    Column(name='lab', kind='real', lower=0, upper=20, resolution=0.1, nullable=True, missing='NA'),
    Column(name='outcome', kind='categorical', categories=('low', 'high')),
  ),
  target='outcome',
)
"""Of the table; nothing in it was read from data."""


def people(split: str = 'train') -> TableDataset:
  """5,000 rows for training, or 2,000 others for testing; always the same.

  Raises:
    InputError: another split.
  """
  _validate.one_of('split', split, tuple(SIZES))
  rng = np.random.default_rng([_SEED, list(SIZES).index(split)])
  n = SIZES[split]
  sex = rng.integers(0, 2, n)
  age = np.clip(np.rint(18 + rng.gamma(3.2, 8.5, n)), 18, 95)
  region = rng.choice(8, n, p=[0.24, 0.19, 0.15, 0.13, 0.11, 0.09, 0.06, 0.03])
  wealth = np.array([0.4, -0.3, 0.6, -0.6, 0.0, 0.9, -0.9, 0.2])[region]  # of no order
  talent = rng.normal(size=n) + 0.5 * wealth
  education = np.clip(np.floor(2.4 + 1.1 * talent - 0.01 * (age - 40)), 0, 5)
  retired = age > 66
  at_work = ~retired & (rng.random(n) < 0.86 + 0.02 * education - 0.06 * sex)
  hours = np.where(at_work, rng.normal(36 + 3 * sex + education, 9, n), 0).clip(0, 80)
  hours = np.rint(hours * 2) / 2
  level = 9.1 + 0.22 * education + 0.3 * wealth + 0.012 * np.minimum(age, 60) + 0.1 * sex
  income = np.where(hours > 0, np.exp(level + 0.45 * rng.normal(size=n)) * (hours / 38), 0)
  income = np.round(income.clip(0, 500_000), 2)
  smoker = (rng.random(n) < _sigmoid(-0.7 - 0.4 * talent + 0.3 * sex)).astype(float)
  strain = 0.015 * (age - 45) + 0.7 * smoker + rng.normal(size=n)
  lab = np.where(rng.random(n) < 0.12 + 0.1 * (strain > 1), np.nan, (7 + 1.3 * strain).clip(0, 20))
  lab = np.round(lab, 1)
  days, last = (c.bounds for c in PEOPLE.columns if c.kind in ('date', 'datetime'))
  since = np.rint(days[1] - (days[1] - days[0]) * rng.beta(1.2, 2.5, n) * np.minimum(age / 60, 1))
  seen = np.floor(last[1] - (last[1] - last[0]) * rng.beta(1, 3, n))
  score = (
    0.9 * strain + 0.035 * (age - 45) + 0.3 * (education - 2.5) + 1.2 * wealth
    + np.sqrt(income) / 100 - 0.8 * smoker * (hours > 40)
  )  # fmt: skip
  outcome = rng.random(n) < _sigmoid(1.5 * (score - 1.6))
  columns = (age, sex, region, education, hours, income, since, seen, smoker, lab)
  records = np.stack([np.asarray(c, np.float64) for c in columns], axis=1)
  for number, column in enumerate(PEOPLE.modelled):  # on the grid, as if it had been read
    if column.is_number:
      records[:, number] = on_grid(column, records[:, number])
  return TableDataset(
    records=records, labels=outcome.astype(np.int32), schema=PEOPLE, name='people'
  )


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))
