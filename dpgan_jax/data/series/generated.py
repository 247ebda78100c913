"""Generated series that anyone may have: patients on a ward, from a fixed seed.

They stand in for private series in tests and in the quickstart. The schema is declared, not read.
Who is going to be ill has a faster pulse that rises, a lower pressure, and more lactate, which is
measured more often where it is high; a classifier on means finds them with an AUROC of about 0.85.

>>> series = vitals('test')
>>> len(series), series.class_names, series.schema.grid.steps
(1500, ('no', 'yes'), 24)
"""

from __future__ import annotations

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.tables.constraints.system import on_grid
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column

SIZES = {'train': 4000, 'test': 1500}
_SEED = 20_23

VITALS = SeriesSchema(
  columns=(
    Column(name='age', kind='integer', lower=18, upper=100),
    Column(name='sex', kind='categorical', categories=('female', 'male')),
    Column(name='ward', kind='categorical', categories=('medical', 'surgical', 'trauma'),
           nullable=True, missing='unknown'),
    Column(name='ill', kind='boolean', categories=('no', 'yes')),
  ),
  channels=(
    Channel(name='pulse', kind='integer', lower=0, upper=300, typical=(40, 160), unit='1/min',
            nullable=True),
    Channel(name='pressure', kind='real', lower=0, upper=300, resolution=0.5, typical=(40, 180),
            unit='mmHg', nullable=True),
    Channel(name='temperature', kind='real', lower=25, upper=45, resolution=0.1,
            typical=(34, 41), unit='°C', nullable=True),
    Channel(name='lactate', kind='real', lower=0, upper=40, resolution=0.1, typical=(0, 10),
            unit='mmol/l', nullable=True),
    Channel(name='oxygen', kind='integer', lower=0, upper=100, typical=(80, 100), unit='%'),
  ),
  grid=Grid(steps=24),
  target='ill',
)  # fmt: skip
"""Of the series; nothing in it was read from data."""


def vitals(split: str = 'train') -> TableDataset:
  """4,000 stays for training, or 1,500 others for testing; always the same.

  Raises:
    InputError: another split.
  """
  _validate.one_of('split', split, tuple(SIZES))
  rng = np.random.default_rng([_SEED, list(SIZES).index(split)])
  n, steps = SIZES[split], VITALS.grid.steps
  hours = np.arange(steps)
  age = np.clip(np.rint(rng.normal(62, 17, n)), 18, 100)
  sex = rng.integers(0, 2, n).astype(float)
  ward = rng.choice(3, n, p=[0.5, 0.35, 0.15]).astype(float)
  severity = rng.normal(size=n) + 0.02 * (age - 62) + 0.4 * (ward == 2)
  ill = rng.random(n) < 1 / (1 + np.exp(-(2.2 * severity - 2.2)))
  course = severity[:, np.newaxis] * (hours / steps - 0.3)
  day = np.cos(2 * np.pi * (hours - 16) / 24)

  def noise(lasting: float, size: float) -> np.ndarray:
    found = rng.normal(size=(n, steps))
    for t in range(1, steps):
      found[:, t] = lasting * found[:, t - 1] + np.sqrt(1 - lasting**2) * found[:, t]
    return size * found

  own = rng.normal(size=(n, 5))
  s = severity[:, np.newaxis]
  values = np.stack([
    82 + 9 * own[:, :1] + 8 * s + 10 * course + 4 * day + noise(0.8, 5),
    118 + 12 * own[:, 1:2] - 9 * s - 8 * course + 5 * day + noise(0.6, 9),
    37 + 0.35 * own[:, 2:3] + 0.25 * s + 0.3 * day + noise(0.9, 0.3),
    np.exp(0.5 + 0.35 * own[:, 3:4] + 0.35 * s + noise(0.7, 0.2)),
    97 + own[:, 4:] - 0.8 * s + noise(0.5, 1),
  ], axis=2)  # fmt: skip
  often = 1 / (1 + np.exp(-(s - 1)))
  rates = np.stack([
    np.full((n, steps), 0.92), np.full((n, steps), 0.6) * (0.8 + 0.2 * day),
    np.broadcast_to(np.where(hours % 4 == 0, 0.9, 0.05), (n, steps)),
    0.25 * often * np.where(hours < 12, 1.4, 0.6), np.ones((n, steps)),
  ], axis=2)  # fmt: skip
  values[rng.random(values.shape) >= rates] = np.nan
  for c, channel in enumerate(VITALS.channels):
    values[:, :, c] = on_grid(channel, np.clip(values[:, :, c], *channel.bounds))
  ward[rng.random(n) < 0.05] = np.nan
  return TableDataset(
    records=VITALS.join(np.stack([age, sex, ward], axis=1), values),
    labels=ill.astype(np.int32), schema=VITALS, name='vitals',
  )  # fmt: skip
