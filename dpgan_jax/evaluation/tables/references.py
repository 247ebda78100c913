"""Tables that are worth nothing, made of real training rows: below them no score should fall.

* `permuted`: real rows whose classes are shuffled, so that nothing tells of the target;
* `independent`: every column shuffled by itself, which keeps one-way marginals and nothing else;
* `static`: every value drawn evenly from its public domain, which keeps nothing at all.

Above them all stand real training rows, in the place of the synthetic ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.tables.constraints.system import on_grid
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column

NOISES = ('permuted', 'independent', 'static')


def noise(kind: str, real: TableDataset, *, seed: int) -> TableDataset:
  """A worthless table of as many rows; `permuted` and `independent` read private data.

  Args:
    kind: one of `NOISES`.
    real: what it is made of; of `static` only its schema and its number of rows.
    seed: of the draw.
  """
  _validate.one_of('kind', kind, NOISES)
  rng = np.random.default_rng([seed, NOISES.index(kind)])
  records, labels = real.records, real.labels
  if kind == 'permuted':
    labels = rng.permutation(labels)
  elif kind == 'independent':
    records, labels = rng.permuted(records, axis=0), rng.permutation(labels)
  else:
    columns = [_even(column, len(real), rng) for column in real.schema.modelled]
    records = np.stack(columns, axis=1)
    labels = rng.integers(0, real.num_classes, len(real)).astype(np.int32)
  return dataclasses.replace(real, records=records, labels=labels, name=kind, partial=True)


def _even(column: Column, count: int, rng: np.random.Generator) -> np.ndarray:
  """Values [count], each as likely as another; one in as many as there are categories missing."""
  if column.is_category:
    values = rng.integers(0, len(column.categories), count).astype(np.float64)
    rare = 1 / (len(column.categories) + 1)
  else:
    values = on_grid(column, rng.uniform(*column.bounds, count))
    rare = 1 / 20
  if column.nullable:
    values[rng.random(count) < rare] = np.nan
  return values
