"""What is of series alone: each step's means and rates, the next value, telling real from made.

Linear models and boosting stand for recurrent networks, which would take most of the time.
"""

from __future__ import annotations

import numpy as np

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.series import summaries
from dpgan_jax.evaluation.tables import tstr

_LEAST_SPREAD = 0.01  # of a channel, in its public range: nearly constant ones have no spread
_FEWEST = 20  # values of a step, below which its mean says little
_RIDGE = 10.0
_MOST_RECORDS = 3000


def hourly(real: TableDataset, made: TableDataset) -> tuple[float, float]:
  """(of means, of rates): the mean absolute error over channels and steps, in spreads.

  The spread of a channel's values is their deviation over all real records and steps, that of being
  measured √(p(1 - p)), p the share of all. Steps at which few real values are known are left out.
  """
  schema = real.schema
  assert isinstance(schema, SeriesSchema)
  a, b = (summaries.scaled(schema, data.records) for data in (real, made))
  there = [~np.isnan(x) for x in (a, b)]
  number = [x.sum(axis=0) for x in there]
  means = [np.nansum(x, axis=0) / np.maximum(n, 1) for x, n in zip((a, b), number, strict=True)]
  spread = np.maximum(np.nanstd(a, axis=(0, 1)), _LEAST_SPREAD)
  kept = number[0] >= _FEWEST
  # A step at which nothing was made has the mean of the middle of the range.
  other = np.where(number[1] > 0, means[1], 0.5)
  of_means = np.abs(means[0] - other) / spread
  rate = there[0].mean(axis=(0, 1))
  of_rates = np.abs(there[0].mean(axis=0) - there[1].mean(axis=0))
  varying = schema.nullable & (rate > 0) & (rate < 1)
  of_rates = of_rates[:, varying] / np.sqrt(rate * (1 - rate))[varying]
  return float(of_means[kept].mean()) if kept.any() else 0.0, (
    float(of_rates.mean()) if varying.any() else 0.0
  )


def predictive(learnt_from: TableDataset, real: TableDataset) -> float:
  """The error of the next value, one step ahead: learnt from one set, tested on the other.

  Of each channel by ridge regression on the last known value of every channel and on which are
  known; the mean absolute error in spreads, its mean over channels. Values are never said to lie
  outside the public range.
  """
  schema = real.schema
  assert isinstance(schema, SeriesSchema)
  (x, y), (tested, wanted) = (
    _pairs(summaries.scaled(schema, data.records[:_MOST_RECORDS])) for data in (learnt_from, real)
  )
  errors = []
  for c in range(y.shape[1]):
    known, asked = ~np.isnan(y[:, c]), ~np.isnan(wanted[:, c])
    if asked.sum() < _FEWEST:
      continue
    spread = max(float(np.std(wanted[asked, c])), _LEAST_SPREAD)
    said = np.full(int(asked.sum()), 0.5)
    if known.any():
      own = x[known]
      gram = own.T @ own + _RIDGE * np.eye(own.shape[1])
      said = np.clip(tested[asked] @ np.linalg.solve(gram, own.T @ y[known, c]), 0, 1)
    errors.append(np.abs(said - wanted[asked, c]).mean() / spread)
  return float(np.mean(errors)) if errors else 0.0


def _pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(features [n·(T - 1), 2C + 1], the values of the step after [n·(T - 1), C])."""
  before = summaries.filled(values)[:, :-1].reshape(-1, values.shape[2])
  known = ~np.isnan(before)
  features = np.concatenate(
    [np.where(known, before - 0.5, 0), known, np.ones((len(known), 1))], axis=1
  )
  return features, values[:, 1:].reshape(-1, values.shape[2])


def discriminative(real: TableDataset, made: TableDataset, effort: tstr.Effort) -> float:
  """How far from a guess boosting gets at telling real records from made ones, in [0, 0.5].

  By simple summaries, classes included; as many of both, half of them to learn from: the balanced
  accuracy on the rest less a half.
  """
  tables = [summaries.table(data) for data in (real, made)]
  count = min(*map(len, tables), effort.rows)
  rng = np.random.default_rng(effort.seed)
  columns = tables[0].schema.columns
  rows = []
  for data in tables:
    chosen = rng.permutation(len(data))[:count]
    classes = [data.labels[chosen, np.newaxis]] if data.schema.target is not None else []
    rows.append(np.concatenate([data.records[chosen], *classes], axis=1))
  half = count // 2
  parts = slice(half), slice(half, None)
  train, test = (np.concatenate([r[part] for r in rows]) for part in parts)
  labels = [np.repeat([0, 1], n) for n in (half, count - half)]
  found = tstr.train_and_test('boosting', columns, (train, labels[0]), (test, labels[1]), 2, effort)
  return max(0.0, found['balanced'] - 0.5)
