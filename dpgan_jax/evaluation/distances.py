"""Distances between two sets of points: FID, KID, precision to coverage, memorisation.

Pure functions of feature arrays, in float64 and on the host: they know nothing of images, networks
or privacy. Which features are compared is `features` and `judges`; what with what, `evaluation`.
Distances are computed a block of rows at a time, so that memory stays below 200 MB beside the
inputs.

>>> rng = np.random.default_rng(0)
>>> real, fake = rng.normal(size=(4000, 4)), rng.normal(size=(4000, 4)) + [2, 0, 0, 0]
>>> print(f'{fid(real, fake):.1f}')  # equal covariances: the squared distance of the means
4.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.stats

from dpgan_jax import _validate

_BLOCK_BYTES = 16 * 2**20


class PRDC(NamedTuple):
  """Precision, recall (Kynkäänniemi et al. 2019), density, coverage (Naeem et al. 2020).

  Precision and density ask whether fakes lie among the real points (density is not bounded by 1),
  recall and coverage whether the real points are all met.
  """

  precision: float
  recall: float
  density: float
  coverage: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorisation:
  """How much nearer generated points lie to the training points than they should.

  One rule decides about the alarm, and one sentence says what it decided, both from the numbers
  here. *Near* is as near to a training point as only 1 % of held-out points are. The alarm rings
  where both hold, each by exact binomial intervals of 95 %:

  * more samples are near to a training point than held-out points are;
  * of the samples that are so near to a point of either kind, more than chance has it (n of n + m)
    are nearest to a training point. Plain or blurred samples are near to both kinds.

  Attributes:
    closer_to_train: share of generated points whose nearest of n training points is nearer than
      their nearest of n held-out points; 0.5 where nothing is memorised, 1 for copies.
    copy_share: share of generated points that are near: about 0.01 for fresh real points, 1 for
      copies, 0 for points far from all.
    copy_interval: 95 % interval of `copy_share`.
    fresh_interval: the same of held-out points.
    near_train_share: of samples near to a point of either kind, the share whose nearest is of
      training.
    near_train_interval: its 95 % interval; (0, 1) where no sample is near.
    near_train_chance: n / (n + m).
    z_score: Mann-Whitney statistic of the distances to training points, generated against
      held-out, standardised (Meehan et al. 2020, section 4). Far below 0: nearer than fresh points,
      as copies are, and plain samples. Far above 0: the fakes lie further off than real points do.
    median_to_train, median_to_held_out: of the n and n points of `closer_to_train`.
    median_held_out_to_train: what a fresh real point has (all training points).
    median_generated_to_train: the same of generated points.
    queries: generated points asked about.
    references: n of `closer_to_train`.
  """

  closer_to_train: float
  copy_share: float
  copy_interval: tuple[float, float]
  fresh_interval: tuple[float, float]
  near_train_share: float
  near_train_interval: tuple[float, float]
  near_train_chance: float
  z_score: float
  median_to_train: float
  median_to_held_out: float
  median_held_out_to_train: float
  median_generated_to_train: float
  queries: int
  references: int

  @property
  def many_near(self) -> bool:
    """Whether more samples are near than held-out points."""
    return self.copy_interval[0] > self.fresh_interval[1]

  @property
  def alarm(self) -> bool:
    """Whether samples are copies of training points, as far as these numbers can tell."""
    return self.many_near and self.near_train_interval[0] > self.near_train_chance

  @property
  def sentence(self) -> str:
    """What is to be said of it, for people."""
    low, high = self.copy_interval
    near = (
      f'{self.copy_share:.1%} of samples (95 % interval {low:.1%} to {high:.1%}) lie as near to a '
      f'training image as 1 % of held-out real images do (at most {self.fresh_interval[1]:.1%})'
    )
    low, high = self.near_train_interval
    side = (
      f'of those so near to a real image of either kind, {self.near_train_share:.1%} ({low:.1%} to '
      f'{high:.1%}) are nearest to one of training, {self.near_train_chance:.1%} by chance'
    )
    if self.alarm:
      return f'ALARM, copies of training images: {near}; {side}.'
    if self.many_near:
      return f'No sign of copies: {near}; but {side}.'
    return f'No sign of copies: {near}.'


# --- Fréchet distance ----------------------------------------------------------------------------


def fid(real: np.ndarray, fake: np.ndarray) -> float:
  """Fréchet distance of two sets of features, seen as Gaussians (Heusel et al. 2017, section 2).

  It is biased upwards by about 1/n: compare only figures of one n (Bińkowski et al. 2018).

  Args:
    real: [n, d], n > d.
    fake: [m, d], m > d.

  Raises:
    InputError: NaN or infinite features, differing d, or too few points for a covariance.
  """
  real, fake = _pair(real, fake)
  for name, points in (('real', real), ('fake', fake)):
    if len(points) <= points.shape[1]:
      raise _validate.InputError(
        f'expected more {name} points than their {points.shape[1]} features (a covariance needs '
        f'that many), got {len(points)}'
      )
  means = [points.mean(axis=0) for points in (real, fake)]
  covariances = [np.atleast_2d(np.cov(points, rowvar=False)) for points in (real, fake)]
  return frechet_distance(means[0], covariances[0], means[1], covariances[1])


def frechet_distance(
  mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
  """‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½), for means [d] and covariances [d, d].

  Singular covariances (a feature that never fires) are fine. The trace of the root is the sum of
  the singular values of C_a^½ C_b^½, which needs no root of a matrix that is not symmetric: that is
  where other implementations meet complex numbers and add a small constant.
  """
  difference = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
  product = _psd_root(covariance_a) @ _psd_root(covariance_b)
  cross = np.linalg.svd(product, compute_uv=False).sum()
  total = difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
  return max(float(total), 0.0)  # rounding can leave it a hair below


def _psd_root(matrix: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
  return (vectors * np.sqrt(values.clip(0))) @ vectors.T


# --- kernel distance -----------------------------------------------------------------------------


def kid(real: np.ndarray, fake: np.ndarray) -> float:
  """Squared maximum mean discrepancy with the kernel (x·y/d + 1)³ (Bińkowski et al. 2018).

  The unbiased estimate over all pairs, which is the mean of what random subsets would give and
  depends on no draw. Being unbiased it can be a little below 0 where the sets are alike.

  Args:
    real: [n, d], n ≥ 2.
    fake: [m, d], m ≥ 2.
  """
  real, fake = _pair(real, fake)
  n, m = len(real), len(fake)
  if min(n, m) < 2:
    raise _validate.InputError(f'expected at least 2 points of each kind, got {n} and {m}')
  within_real = (_kernel_sum(real, real) - _self_kernels(real)) / (n * (n - 1))
  within_fake = (_kernel_sum(fake, fake) - _self_kernels(fake)) / (m * (m - 1))
  return float(within_real + within_fake - 2 * _kernel_sum(real, fake) / (n * m))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
  total = 0.0
  for rows in _blocks(len(a), len(b), 8):
    base = a[rows] @ b.T
    base /= a.shape[1]
    base += 1
    total += float(np.vdot(base * base, base))
  return total


def _self_kernels(points: np.ndarray) -> float:
  return float(((np.sum(points**2, axis=1) / points.shape[1] + 1) ** 3).sum())


# --- precision, recall, density, coverage --------------------------------------------------------


def prdc(real: np.ndarray, fake: np.ndarray, *, nearest_k: int = 5) -> PRDC:
  """Whether fakes lie within the balls around real points, and real ones within those around fakes.

  A point's ball reaches to its `nearest_k`-th neighbour of its own kind. All four depend on n and
  m: compare only figures of one size.

  Args:
    real: [n, d], n > nearest_k.
    fake: [m, d], m > nearest_k.
    nearest_k: 5, as Naeem et al. (2020) recommend.

  Raises:
    InputError: fewer points than that, NaN, differing d.
  """
  real, fake = _pair(real, fake)
  nearest_k = _validate.integer('nearest_k', nearest_k, minimum=1)
  if min(len(real), len(fake)) <= nearest_k:
    raise _validate.InputError(
      f'expected more than nearest_k = {nearest_k} points of each kind, got {len(real)} real and '
      f'{len(fake)} fake'
    )
  centre = real.mean(axis=0)  # distances stay, rounding errors shrink
  real, fake = real - centre, fake - centre
  real_radius, fake_radius = _radii(real, nearest_k), _radii(fake, nearest_k)
  inside = np.zeros(len(fake), np.int64)  # in how many real balls a fake lies
  recalled = np.zeros(len(real), bool)
  covered = np.zeros(len(real), bool)
  for rows in _blocks(len(real), len(fake), 8):
    distances = _squared_distances(real[rows], fake)
    within = distances < real_radius[rows, np.newaxis]
    inside += within.sum(axis=0)
    covered[rows] = within.any(axis=1)
    recalled[rows] = (distances < fake_radius).any(axis=1)
  return PRDC(
    precision=float((inside > 0).mean()),
    recall=float(recalled.mean()),
    density=float(inside.mean() / nearest_k),
    coverage=float(covered.mean()),
  )


def _radii(points: np.ndarray, nearest_k: int) -> np.ndarray:
  """Squared distance of every point to its `nearest_k`-th neighbour, itself not counted."""
  radii = np.empty(len(points))
  for rows in _blocks(len(points), len(points), 8):
    distances = _squared_distances(points[rows], points)
    distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = 0
    radii[rows] = np.partition(distances, nearest_k, axis=1)[:, nearest_k]
  return radii


# --- memorisation --------------------------------------------------------------------------------


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Euclidean distance [n] to the nearest reference of every query, and its index [n].

  Args:
    queries: [n, d].
    references: [m, d], m ≥ 1.
  """
  if not len(references):
    raise _validate.InputError('expected at least one reference point, got none')
  # The search in float32 (d is large here), the distance it finds in float64: a copy is at 0.
  queries, references = np.asarray(queries, np.float32), np.asarray(references, np.float32)
  norms = np.einsum('ij,ij->i', references, references)
  index = np.empty(len(queries), np.int64)
  distance = np.empty(len(queries))
  for rows in _blocks(len(queries), len(references), 4):
    products = queries[rows] @ references.T
    products *= -2
    products += norms
    index[rows] = products.argmin(axis=1)
    difference = queries[rows].astype(np.float64) - references[index[rows]]
    distance[rows] = np.linalg.norm(difference, axis=1)
  return distance, index


def memorisation(
  generated: np.ndarray, train: np.ndarray, held_out: np.ndarray, *, seed: int = 0
) -> Memorisation:
  """Compares the nearest neighbours of generated points among training and held-out points.

  Args:
    generated: [g, d].
    train: [n, d], what the generator was trained on.
    held_out: [m, d], of the same source and never trained on.
    seed: draws the min(n, m) training points that stand against as many held-out ones.

  Raises:
    InputError: NaN, differing d, or an empty set.
  """
  generated, train = _pair(generated, train, dtype=np.float32)
  held_out, _ = _pair(held_out, train, dtype=np.float32)
  rng = np.random.default_rng(seed)
  n = min(len(train), len(held_out))
  some_train = train[np.sort(rng.permutation(len(train))[:n])]
  some_held_out = held_out[np.sort(rng.permutation(len(held_out))[:n])]
  to_some_train, _ = nearest(generated, some_train)
  to_held_out, _ = nearest(generated, some_held_out)
  to_any_held_out = to_held_out if n == len(held_out) else nearest(generated, held_out)[0]
  to_train, _ = nearest(generated, train)
  fresh, _ = nearest(held_out, train)
  closer = (to_some_train < to_held_out) + 0.5 * (to_some_train == to_held_out)
  threshold = np.quantile(fresh, 0.01)
  near = to_train <= threshold
  # Of both kinds, as chance would not be n of n + m among those that are near to training points.
  # Ties are no evidence: a point that is in both sets is nobody's copy.
  near_any = np.minimum(to_train, to_any_held_out) <= threshold
  near_train = int((near_any & (to_train < to_any_held_out)).sum()), int(near_any.sum())
  return Memorisation(
    closer_to_train=float(closer.mean()),
    copy_share=float(near.mean()),
    copy_interval=interval(int(near.sum()), len(near)),
    fresh_interval=interval(int((fresh <= threshold).sum()), len(fresh)),
    near_train_share=near_train[0] / max(near_train[1], 1),
    near_train_interval=interval(*near_train),
    near_train_chance=len(train) / (len(train) + len(held_out)),
    z_score=_mann_whitney_z(to_train, fresh),
    median_to_train=float(np.median(to_some_train)),
    median_to_held_out=float(np.median(to_held_out)),
    median_held_out_to_train=float(np.median(fresh)),
    median_generated_to_train=float(np.median(to_train)),
    queries=len(generated),
    references=n,
  )


def interval(count: int, trials: int) -> tuple[float, float]:
  """The exact 95 % interval of a share (Clopper and Pearson 1934); all of [0, 1] of no trials."""
  if not trials:
    return 0.0, 1.0
  found = scipy.stats.binomtest(count, trials).proportion_ci(0.95)
  return float(found.low), float(found.high)


def _mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
  """Below 0 where values of `a` tend to be smaller than those of `b`; normal if they do not."""
  n, m = len(a), len(b)
  ranks = scipy.stats.rankdata(np.concatenate([a, b]))
  u = ranks[:n].sum() - n * (n + 1) / 2
  return float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


# --- shared --------------------------------------------------------------------------------------


def _pair(
  a: np.ndarray, b: np.ndarray, dtype: type[np.floating] = np.float64
) -> tuple[np.ndarray, np.ndarray]:
  """Both as float [n, d] and [m, d], or what is wrong with them."""
  a, b = np.asarray(a, dtype), np.asarray(b, dtype)
  for points in (a, b):
    if points.ndim != 2 or 0 in points.shape:
      raise _validate.InputError(f'expected features [n, d], none of them 0, got {points.shape}')
    if not np.isfinite(points).all():
      raise _validate.InputError('expected finite features, got NaN or infinity')
  if a.shape[1] != b.shape[1]:
    raise _validate.InputError(
      f'expected as many features in both sets, got {a.shape[1]} and {b.shape[1]}'
    )
  return a, b


def _blocks(rows: int, columns: int, itemsize: int) -> Iterator[slice]:
  """Slices of rows such that a block of a rows × columns matrix stays small."""
  step = max(1, _BLOCK_BYTES // (columns * itemsize))
  for start in range(0, rows, step):
    yield slice(start, min(start + step, rows))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  distances = a @ b.T
  distances *= -2
  distances += np.einsum('ij,ij->i', a, a)[:, np.newaxis]
  distances += np.einsum('ij,ij->i', b, b)
  return distances.clip(0, out=distances)
