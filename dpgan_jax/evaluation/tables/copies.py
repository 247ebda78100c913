"""Whether synthetic rows are copies of training rows: nearest real rows, training against held-out.

The distance of two rows is Gower's (1971, "A general coefficient of similarity and some of its
properties"), the mean over columns of: 0 or 1 for categories, |a - b| by the public range for
numbers; a missing value is at 0 from another missing one and at 1 from any other.

Tables repeat themselves, where images do not: a row that equals a training row may well be nobody's
copy. So the evidence is a count of real rows. Training and held-out rows are pooled in a random
order, and each synthetic row that is near any of them points at the nearest, of equals the first.
Had the generator seen none of them, the rows that are pointed at, each counted once however many
point at it, would be of training as often as any n of n + m are: that is exact whatever synthetic
rows look like, for then nothing tells the two kinds apart.

>>> from dpgan_jax.data.tables.schema import Column
>>> columns = (Column(name='x', kind='real', lower=0, upper=10),
...            Column(name='c', kind='categorical', categories=('a', 'b')))
>>> nearest(np.array([[1.0, 0.0]]), np.array([[6.0, 0.0], [1.0, 1.0]]), columns)
(array([0.25]), array([0]))
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
from scipy.spatial import distance

from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column
from dpgan_jax.evaluation.distances import interval

_WORK = 4e9  # pairs of rows times columns of all that is compared: some 10 seconds
_AT_ONCE = 2**23  # distances


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copies:
  """What nearest rows say; distances are Gower's, and the target is a column like others.

  Attributes:
    equal_share: of all synthetic rows, those that equal a training row in every column.
    held_out_equal_share: the same of held-out rows: what a fresh real row has.
    distinct_share: different rows, of all synthetic rows.
    threshold: a row is near at this distance or less; 1 % of held-out rows are so near to a
      training row, or more where rows repeat themselves.
    near_share: of synthetic rows, those near to a training row, beside
    near_interval: its 95 % interval, and
    fresh_share, fresh_interval: the same of held-out rows.
    pointed_at: real rows of either kind that near synthetic rows point at.
    train_share: of these, the share of training rows, beside
    train_interval: its 95 % interval; (0, 1) where there are none.
    train_chance: n / (n + m), what it is if nothing was copied.
    median_to_train, median_to_held_out: of synthetic rows, to n and m rows.
    median_fresh_to_train: of held-out rows.
    queries, train_rows, held_out_rows: how many were compared; drawn, where there are more.
  """

  equal_share: float
  held_out_equal_share: float
  distinct_share: float
  threshold: float
  near_share: float
  near_interval: tuple[float, float]
  fresh_share: float
  fresh_interval: tuple[float, float]
  pointed_at: int
  train_share: float
  train_interval: tuple[float, float]
  train_chance: float
  median_to_train: float
  median_to_held_out: float
  median_fresh_to_train: float
  queries: int
  train_rows: int
  held_out_rows: int

  @property
  def many_near(self) -> bool:
    """Whether more synthetic rows are near than held-out ones."""
    return self.near_interval[0] > self.fresh_interval[1]

  @property
  def alarm(self) -> bool:
    """Whether synthetic rows are copies of training rows, as far as these numbers can tell."""
    return self.many_near and self.train_interval[0] > self.train_chance

  @property
  def sentence(self) -> str:
    """What is to be said of it, for people."""
    low, high = self.near_interval
    near = (
      f'{self.near_share:.1%} of synthetic rows (95 % interval {low:.1%} to {high:.1%}) lie as '
      f'near to a training row as at most {self.fresh_interval[1]:.1%} of held-out rows do'
    )
    low, high = self.train_interval
    side = (
      f'of the {self.pointed_at:,} real rows that they are nearest to, {self.train_share:.1%} '
      f'({low:.1%} to {high:.1%}) are of training, {self.train_chance:.1%} by chance'
    )
    if self.alarm:
      return f'ALARM, copies of training rows: {near}; {side}.'
    return f'No sign of copies: {near}; but {side}.' if self.many_near else (
      f'No sign of copies: {near}.'
    )  # fmt: skip

  def to_json(self) -> dict[str, Any]:
    """JSON-ready, with what it comes to."""
    intervals = {n: list(v) for n, v in vars(self).items() if isinstance(v, tuple)}
    return {
      **dataclasses.asdict(self), **intervals, 'many_near': self.many_near, 'alarm': self.alarm,
      'sentence': self.sentence, 'reads_private_data': True,
    }  # fmt: skip


def look(
  synthetic: TableDataset,
  train: TableDataset,
  held_out: TableDataset,
  *,
  queries: int = 3000,
  seed: int = 0,
) -> Copies:
  """Looks for copies among synthetic rows.

  Args:
    synthetic, train, held_out: of one schema.
    queries: synthetic rows, and held-out ones, whose nearest rows are looked for.
    seed: of what is drawn.
  """
  rng = np.random.default_rng(seed)
  columns = synthetic.schema.modelled
  if synthetic.schema.target is not None:
    target = next(c for c in synthetic.schema.columns if c.name == synthetic.schema.target)
    columns = (*columns, target)
  made, old, fresh = (_rows(data) for data in (synthetic, train, held_out))
  digests = [_digests(rows) for rows in (made, fresh, old)]
  equal = set(digests[2])
  shares = [float(np.mean([row in equal for row in rows])) for rows in digests[:2]]
  distinct = len(set(digests[0])) / len(made)

  asked = min(queries, len(made))
  # Synthetic rows are compared with both kinds, held-out ones with training: at most so many.
  most = max(1000, int(_WORK / (2 * asked * len(columns))))
  kept = min(1.0, most / (len(old) + len(fresh)))
  old, fresh = (rng.permutation(x)[: max(1, round(kept * len(x)))] for x in (old, fresh))
  made = rng.permutation(made)[:asked]

  order = rng.permutation(len(old) + len(fresh))
  pool, of_training = np.concatenate([old, fresh])[order], order < len(old)
  to_fresh_train = nearest(fresh[:queries], old, columns)[0]
  to_train, old_index = nearest(made, pool[of_training], columns)
  to_fresh, fresh_index = nearest(made, pool[~of_training], columns)
  # Places in the pool: of rows that are as near as each other the first counts.
  old_place = np.flatnonzero(of_training)[old_index]
  fresh_place = np.flatnonzero(~of_training)[fresh_index]
  first = (to_train < to_fresh) | ((to_train == to_fresh) & (old_place < fresh_place))
  place = np.where(first, old_place, fresh_place)

  threshold = float(np.quantile(to_fresh_train, 0.01))
  near = to_train <= threshold
  pointed = np.unique(place[np.minimum(to_train, to_fresh) <= threshold])
  trained = int(of_training[pointed].sum())
  return Copies(
    equal_share=shares[0],
    held_out_equal_share=shares[1],
    distinct_share=distinct,
    threshold=threshold,
    near_share=float(near.mean()),
    near_interval=interval(int(near.sum()), len(near)),
    fresh_share=float((to_fresh_train <= threshold).mean()),
    fresh_interval=interval(int((to_fresh_train <= threshold).sum()), len(to_fresh_train)),
    pointed_at=len(pointed),
    train_share=trained / max(len(pointed), 1),
    train_interval=interval(trained, len(pointed)),
    train_chance=len(old) / (len(old) + len(fresh)),
    median_to_train=float(np.median(to_train)),
    median_to_held_out=float(np.median(to_fresh)),
    median_fresh_to_train=float(np.median(to_fresh_train)),
    queries=len(made),
    train_rows=len(old),
    held_out_rows=len(fresh),
  )


def nearest(
  rows: np.ndarray, others: np.ndarray, columns: tuple[Column, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Gower's distance [n] of each row to the nearest of others, and the index [n] of the first.

  Args:
    rows, others: float64 [n, D] and [m, D], m ≥ 1; NaN is missing.
    columns: D of them.
  """
  a, b = (_codes_and_numbers(x, columns) for x in (rows, others))
  found, index = np.empty(len(rows)), np.empty(len(rows), np.int64)
  at_once = max(1, _AT_ONCE // len(others))
  for start in range(0, len(rows), at_once):
    part = slice(start, start + at_once)
    total = np.zeros((len(rows[part]), len(others)))
    for (x, y), metric, weight in zip(
      zip(a, b, strict=True), ('hamming', 'cityblock'), (a[0].shape[1], 0.5), strict=True
    ):
      if x.shape[1]:
        total += weight * distance.cdist(x[part], y, metric)
    # Sums of tenths: equal distances should be equal, whatever the order of the sum.
    total = np.round(total / len(columns), 12)
    index[part] = total.argmin(axis=1)
    found[part] = total.min(axis=1)
  return found, index


def _codes_and_numbers(
  rows: np.ndarray, columns: tuple[Column, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Categories, -1 for a missing one; and numbers in three places each, by half their city block.

  A number v in [0, 1] is (v, 1 - v, 0), a missing one (0, 0, 1): at 2 from any number.
  """
  categories = [c.is_category for c in columns]
  codes = np.nan_to_num(rows[:, categories], nan=-1.0)
  places = []
  for column, values in zip(columns, rows.T, strict=True):
    if column.is_number:
      low, high = column.bounds
      share = (values - low) / max(high - low, np.finfo(np.float64).tiny)
      missing = np.isnan(values)
      places += [np.where(missing, 0, share), np.where(missing, 0, 1 - share), missing]
  return codes, np.array(places, np.float64).T.reshape(len(rows), len(places))


def _rows(data: TableDataset) -> np.ndarray:
  """Records and classes, float64 [N, D]: every missing value and zero in one form."""
  rows = data.records
  if data.schema.target is not None:
    rows = np.concatenate([rows, data.labels[:, np.newaxis]], axis=1)
  return np.ascontiguousarray(np.where(np.isnan(rows), np.nan, rows + 0.0))


def _digests(rows: np.ndarray) -> list[bytes]:
  """Sixteen bytes that stand for each row: rows themselves would take far more memory."""
  return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]
