"""Trained on synthetic rows, tested on real ones (TSTR): what a table is worth to a classifier.

Three classifiers of scikit-learn see rows by the schema alone. Logistic regression and the forest:
categories one-hot (as a code in [0, 1] where there are many), numbers in [0, 1] by their public
bounds, and whether a value is missing. Boosting splits sets of categories and takes missing values
as they are, which is the same knowledge in a tenth of the columns, and a tenth of the time.
Of each the area under the ROC curve (AUROC: 0.5 is a guess, the mean over classes against the rest
where there are more than two) and the balanced accuracy. A table with a single class teaches
nothing: 0.5 and a guess, by definition.

Without a target, or beside it, every other column is made a target of two classes in turn: numbers
above the median of the real test rows or not (at the median or below, where nothing lies above),
categories the commonest of the real test rows or not. None of these is the target of the schema.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
import threadpoolctl

from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column

CLASSIFIERS = ('logistic', 'forest', 'boosting')
_QUICK_TO_TRAIN = ('logistic', 'boosting')  # of every column: a forest would take most of the time
MOST_ONE_HOT, _MOST_FEATURES = 50, 2000
_MOST_SPLIT = 255  # categories, which is what scikit-learn has
_MOST_BOOSTED = 20  # classes: boosting grows a tree for each of them at every step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
  """How much is done; the numbers are upper limits.

  Attributes:
    rows: of a table, for the target of the schema.
    column_rows: the same for every other column.
    columns: how many other columns are made targets; drawn if there are more.
    trees: of the forest, and steps of boosting.
    seed: of what is drawn, and of classifiers.
  """

  rows: int = 30_000
  column_rows: int = 8_000
  columns: int = 20
  trees: int = 100
  seed: int = 0


def target(
  learnt_from: TableDataset,
  test: TableDataset,
  effort: Effort,
  names: tuple[str, ...] = CLASSIFIERS,
) -> dict[str, Any]:
  """TSTR of the target of the schema, by classifiers of these names; JSON-ready.

  Returns:
    `auroc`, of the classifier with the highest, `best`, its name, `balanced`, its balanced
    accuracy, `guess`, that of a guess, `n`, rows learnt from, and `classifiers`: both by name.
  """
  rows, tested = _some(learnt_from, effort.rows, effort), _some(test, effort.rows, effort)
  if test.num_classes > _MOST_BOOSTED:
    names = tuple(name for name in names if name != 'boosting')
  found = {
    name: train_and_test(
      name, test.schema.modelled, (rows.records, rows.labels), (tested.records, tested.labels),
      test.num_classes, effort,
    )
    for name in names
  }  # fmt: skip
  best = max(found, key=lambda name: found[name]['auroc'])
  return {
    **found[best], 'best': best, 'classifiers': found, 'n': len(rows),
    'guess': 1 / len(np.unique(tested.labels)),
  }  # fmt: skip


def every_column(learnt_from: TableDataset, test: TableDataset, effort: Effort) -> dict[str, Any]:
  """Mean AUROC over the other columns, each made a target of two classes; JSON-ready.

  Returns:
    `auroc`, the mean, None where no column has two classes among test rows; `columns`: the higher
    of two classifiers' AUROC by name; `n`: rows learnt from; `sampled`: whether columns were drawn.
  """
  rows = _some(learnt_from, effort.column_rows, effort)
  tested = _some(test, effort.column_rows, effort)
  columns, target_name = test.schema.modelled, test.schema.target
  order = np.arange(len(columns))
  if len(columns) > effort.columns:
    order = np.sort(np.random.default_rng(effort.seed).permutation(order)[: effort.columns])
  aurocs: dict[str, float] = {}
  seen = [*columns, *(c for c in test.schema.columns if c.name == target_name)]
  x, tested_x = (
    np.column_stack([t.records, *([t.labels] if target_name is not None else [])])
    for t in (rows, tested)
  )
  for c in order if len(seen) > 1 else ():
    split = halves(columns[c], test.records[:, c])
    y, tested_y = split(x[:, c]), split(tested_x[:, c])
    if len(np.unique(tested_y)) > 1:
      others = [i for i in range(len(seen)) if i != c]
      found = [
        train_and_test(
          name, tuple(seen[i] for i in others), (x[:, others], y), (tested_x[:, others], tested_y),
          2, effort,
        )
        for name in _QUICK_TO_TRAIN
      ]  # fmt: skip
      aurocs[columns[c].name] = max(one['auroc'] for one in found)
  return {
    'auroc': float(np.mean(list(aurocs.values()))) if aurocs else None,
    'columns': aurocs, 'n': len(rows), 'sampled': len(columns) > effort.columns,
  }  # fmt: skip


def halves(column: Column, real: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """The rule that makes two classes of a column, by real test values [m]; a missing one is 0."""
  known = real[~np.isnan(real)]
  if not len(known):
    return lambda values: np.zeros(len(values), np.int32)
  if column.is_category:
    commonest = np.bincount(known.astype(np.int64)).argmax()
    return lambda values: (values == commonest).astype(np.int32)
  middle = np.median(known)
  if (known > middle).any():
    return lambda values: (values > middle).astype(np.int32)
  return lambda values: (values >= middle).astype(np.int32)


# --- encoding ------------------------------------------------------------------------------------


class Encoder:
  """Turns records into features, by the schema alone: float64 [n, C] → float32 [n, F]."""

  def __init__(self, columns: tuple[Column, ...]):
    self.columns = columns
    self.most = MOST_ONE_HOT
    while self.most > 2 and sum(map(self._width, columns)) > _MOST_FEATURES:
      self.most //= 2

  def _width(self, column: Column) -> int:
    known = len(column.categories) if self._spread(column) else 1
    return known + column.nullable

  def _spread(self, column: Column) -> bool:
    return column.is_category and 2 < len(column.categories) <= self.most

  def __call__(self, records: np.ndarray) -> np.ndarray:
    features = np.zeros((len(records), sum(map(self._width, self.columns))), np.float32)
    start = 0
    for column, values in zip(self.columns, records.T, strict=True):
      missing = np.isnan(values)
      if self._spread(column):
        rows = np.flatnonzero(~missing)
        features[rows, start + values[rows].astype(np.int64)] = 1
      else:
        low, high = (0, len(column.categories) - 1) if column.is_category else column.bounds
        known = np.where(missing, low, values)
        features[:, start] = (known - low) / max(high - low, np.finfo(np.float64).tiny)
      start += self._width(column)
      if column.nullable:
        features[:, start - 1] = missing
    return features


# --- classifiers ---------------------------------------------------------------------------------


def train_and_test(
  name: str,
  columns: tuple[Column, ...],
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  num_classes: int,
  effort: Effort,
) -> dict[str, float]:
  """Trains one of `CLASSIFIERS` on some rows and tests it on others.

  Args:
    name: of the classifier.
    columns: D of them.
    train, test: records float64 [n, D], NaN where a value is missing, and classes [n].
    num_classes: K.
    effort: what counts of it is the number of trees and the seed.

  Returns:
    `auroc` and `balanced`.
  """
  (records, y), (tested, tested_y) = train, test
  shares = np.zeros((len(tested), num_classes))
  known = np.unique(y)
  if len(known) < 2:
    shares[:, known] = 1.0
  else:
    # Threads of small matrices wait for each other: thirty times as long on a machine at work.
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
      warnings.simplefilter('ignore')  # that a fit has not converged is its score's business
      model, encode = _classifier(name, columns, effort)
      features, asked = encode(records), encode(tested)
      nothing = np.isnan(features).all(axis=0)  # which boosting cannot cut into bins
      features, asked = (np.where(nothing, 0, part) for part in (features, asked))
      model.fit(features, y)
      shares[:, known] = model.predict_proba(asked)
  guessed = shares.argmax(axis=1)
  present = [k for k in range(num_classes) if (tested_y == k).any()]
  areas = [auroc(tested_y == k, shares[:, k]) for k in (present if num_classes > 2 else (1,))]
  return {
    'auroc': float(np.mean([0.5 if area is None else area for area in areas])),
    'balanced': float(np.mean([(guessed[tested_y == k] == k).mean() for k in present])),
  }


def auroc(positive: np.ndarray, scores: np.ndarray) -> float | None:
  """Area under the ROC curve (Mann and Whitney's statistic); None of one kind of rows only."""
  n, m = int(positive.sum()), int((~positive).sum())
  if not n or not m:
    return None
  ranks = scipy.stats.rankdata(scores)
  return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _classifier(
  name: str, columns: tuple[Column, ...], effort: Effort
) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
  """A classifier that is not trained yet, and what makes its features of records."""
  # A second of import time that other commands do without.
  from sklearn import ensemble, linear_model

  if name == 'boosting':
    settings: dict[str, Any] = {
      'categorical_features': split_sets(columns), 'early_stopping': False,
      'max_iter': effort.trees, 'random_state': effort.seed,
    }  # fmt: skip
    model = ensemble.HistGradientBoostingClassifier(**settings)
    return model, lambda records: records
  if name == 'forest':
    model = ensemble.RandomForestClassifier(
      effort.trees, min_samples_leaf=5, n_jobs=-1, random_state=effort.seed
    )
  else:
    model = linear_model.LogisticRegression(max_iter=300)
  return model, Encoder(columns)


def split_sets(columns: tuple[Column, ...]) -> list[bool]:
  """Of which columns boosting splits sets of values; where there are more, they are numbers."""
  return [c.is_category and 2 < len(c.categories) <= _MOST_SPLIT for c in columns]


def _some(data: TableDataset, most: int, effort: Effort) -> TableDataset:
  """At most so many rows, drawn."""
  if len(data) <= most:
    return data
  chosen = np.sort(np.random.default_rng([effort.seed, 1]).permutation(len(data))[:most])
  return data.part(chosen, partial=True)
