"""PhysioNet 2012 with its schema, declared by hand: what each measurement may be, and usually is.

`hourly.npz` has 12,000 stays of 48 hours and 37 measurements. Bounds are round numbers that hold
for any patient, the typical range what an intensive-care unit sees of nearly all; values outside
the bounds, which are errors of typing, are moved to them. Channels without a step of their own are
charted in whole numbers. Sets a and b are for training, c for scores.
"""

from __future__ import annotations

import pathlib

import numpy as np

from dpgan_jax.data.series import read
from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column

# (lower, upper, from, to) of values, the last two typical.
_RANGES = {
  'ALP': (0, 5000, 20, 400), 'ALT': (0, 20_000, 0, 500), 'AST': (0, 40_000, 0, 600),
  'Albumin': (0, 10, 1, 5), 'BUN': (0, 300, 0, 100), 'Bilirubin': (0, 100, 0, 12),
  'Cholesterol': (0, 600, 60, 300), 'Creatinine': (0, 30, 0, 6), 'DiasABP': (0, 300, 30, 110),
  'FiO2': (0, 1, 0.2, 1), 'GCS': (3, 15, 3, 15), 'Glucose': (0, 2000, 50, 350),
  'HCO3': (0, 60, 8, 42), 'HCT': (0, 80, 18, 48), 'HR': (0, 300, 40, 150), 'K': (0, 25, 2.5, 6.5),
  'Lactate': (0, 40, 0, 12), 'MAP': (0, 300, 40, 140), 'MechVent': (0, 1, 0, 1),
  'Mg': (0, 40, 1, 3.5), 'NIDiasABP': (0, 300, 20, 110), 'NIMAP': (0, 300, 40, 140),
  'NISysABP': (0, 300, 60, 200), 'Na': (80, 200, 120, 155), 'PaCO2': (0, 150, 20, 80),
  'PaO2': (0, 600, 40, 400), 'Platelets': (0, 2500, 0, 600), 'RespRate': (0, 100, 8, 40),
  'SaO2': (0, 100, 85, 100), 'SysABP': (0, 300, 60, 200), 'Temp': (25, 45, 34, 40),
  'TroponinI': (0, 60, 0, 30), 'TroponinT': (0, 40, 0, 10), 'Urine': (0, 12_000, 0, 500),
  'WBC': (0, 500, 0, 40), 'Weight': (0, 500, 40, 160), 'pH': (6.5, 8, 7, 7.7),
}  # fmt: skip
# As they are charted; hourly means of several values are moved to the nearest such one.
_STEPS = {
  'Albumin': 0.1, 'Bilirubin': 0.1, 'Creatinine': 0.1, 'FiO2': 0.01, 'HCT': 0.1, 'K': 0.1,
  'Lactate': 0.1, 'Mg': 0.1, 'Temp': 0.1, 'TroponinI': 0.1, 'TroponinT': 0.01, 'Urine': 5,
  'WBC': 0.1, 'Weight': 0.1, 'pH': 0.01,
}  # fmt: skip


def schema(names: list[str]) -> SeriesSchema:
  """Of the stays; `names` are those of the channels, in their order."""
  return SeriesSchema(
    columns=(
      Column(name='Age', kind='integer', lower=0, upper=100),
      Column(name='Gender', kind='boolean', categories=('0', '1'), nullable=True),
      Column(name='Height', kind='real', lower=100, upper=220, resolution=0.1, nullable=True,
             outside='clip'),
      Column(name='ICUType', kind='categorical', categories=('1', '2', '3', '4')),
      Column(name='died', kind='boolean', categories=('0', '1')),
    ),
    channels=tuple(
      Channel(name=name, kind='real', lower=low, upper=high, typical=(a, b), nullable=True,
              outside='clip', resolution=_STEPS.get(name, 1))
      for name, (low, high, a, b) in ((name, _RANGES[name]) for name in names)
    ),
    grid=Grid(steps=48), target='died', declared_public=True,
  )  # fmt: skip


def load(folder: str) -> tuple[TableDataset, TableDataset]:
  """(sets a and b, set c). The weight at admission, a static column, is left to its channel."""
  with np.load(pathlib.Path(folder) / 'hourly.npz') as file:
    names, sets = [str(name) for name in file['variables']], file['set']
    static = dict(zip(file['static_names'].tolist(), file['static'].T.astype(float), strict=True))
    about, parts = schema(names), []
    for chosen, called in ((sets != 'c', 'physionet'), (sets == 'c', 'physionet, set c')):
      arrays = {'x': file['x'][chosen], 'y': file['in_hospital_death'][chosen]}
      for column in about.static:
        values = np.round(static[column.name][chosen], 1)
        low, high = (100, 220) if column.name == 'Height' else (0, 1000)
        arrays[column.name] = np.where(np.isnan(values), np.nan, np.clip(values, low, high))
      parts.append(read.read_series(arrays, about, name=called))
  return parts[0], parts[1]
