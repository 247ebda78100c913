"""Series: noisy counts of cells of their summaries, then second moments of normal scores.

A sequence is a row of summaries (`series_summaries`). One-way counts of their cells come first, as
of a table, with the sum of what varies within a record: two Gaussian mechanisms that together cost
what one does. Counts make a normal score of every cell. The second release is of each class the sum
of (z, a)(z, a)ᵀ, z the scores of a record, clipped, and a constant: sums of scores and of their
products at once. A class is then a Gaussian of scores, and a draw goes back through cells.

Two-way counts of so many columns would be drowned by noise: one record is in a pair of cells for
each of C(C - 1)/2 pairs of columns, while its scores are one vector.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import numpy as np
import scipy.optimize
import scipy.special

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.schema import Column
from dpgan_jax.models.moments import denoise, mixture
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.series_summaries import Pattern, Summaries
from dpgan_jax.models.moments.table_encoding import TableEncoding
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.releases import second_moments

_BINS = 2  # of eight fine cells each
_PATTERN_SHARE = 0.2  # of the first release's 1/σ²
_CONSTANT = 0.3  # a² beside the squared bound of the scores
_LONGEST = 1.2  # the squared bound, beside the mean square
_MOST_SCORE = 2.5
_LEAST_WITHIN = 0.3  # of a score's variance, that is not between classes


@dataclasses.dataclass(frozen=True)
class SeriesEncoding:
  """Cells and patterns of series, float64 [n, S + T·C].

  Attributes:
    schema: public.
    shapes: cosines of its own that a record has in each channel (`Summaries`).
    noise_multiplier: σ of the first release, by which its counts are smoothed; public.
  """

  schema: SeriesSchema
  shapes: int
  noise_multiplier: float

  @functools.cached_property
  def summaries(self) -> Summaries:
    """How a sequence becomes a row, and back."""
    return Summaries(self.schema, self.shapes)

  @functools.cached_property
  def counted(self) -> TableEncoding:
    """Of the rows."""
    return TableEncoding(self.summaries.table, _BINS)

  @property
  def columns(self) -> int:
    """D, of a row of summaries."""
    return len(self.counted.sizes)

  @property
  def dim(self) -> int:
    """Cells of all columns, and what a pattern is long."""
    return self.counted.dim + self.summaries.pattern_dim

  @property
  def second_dim(self) -> int:
    """Scores, and the constant."""
    return self.columns + 1

  @property
  def prefixes(self) -> tuple[int, ...]:
    """Cells alone: patterns are alike for all."""
    return (self.counted.dim,)

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Cells, as float64, and after them the pattern, of each record."""
    rows, patterns = self.summaries.encode(records)
    return np.concatenate([self.counted.encode(rows), patterns], axis=1)

  def _cells(self, codes: np.ndarray) -> np.ndarray:
    return codes[:, : self.columns].astype(np.int64)

  def release_sums(
    self, codes: np.ndarray, *, noise_multiplier: float, secret: bytes, purpose: str
  ) -> tuple[float, np.ndarray]:
    """Two mechanisms of σ/√w each, the w adding up to 1: together one of σ."""
    count, cells = self.counted.release_sums(
      self._cells(codes), noise_multiplier=noise_multiplier / math.sqrt(1 - _PATTERN_SHARE),
      secret=secret, purpose=f'cells, {purpose}',
    )  # fmt: skip
    pattern = exact_noise.release_sum(
      codes[:, self.columns :], l2_sensitivity=self.summaries.pattern_radius,
      noise_multiplier=noise_multiplier / math.sqrt(_PATTERN_SHARE), secret=secret,
      purpose=f'pattern, {purpose}',
    )  # fmt: skip
    return count, np.concatenate([cells, pattern])

  def noise(self, noise_multiplier: float) -> tuple[float, float]:
    return self.counted.noise(noise_multiplier / math.sqrt(1 - _PATTERN_SHARE))

  def release_products(
    self, codes: np.ndarray, label: int, means: Means, *, noise_multiplier: float, secret: bytes,
    purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Of scores as the first release made them, clipped to a bound that follows from it too."""
    del label
    scores = self.scores(means)
    return second_moments.release_second_moments(
      scores.of(self._cells(codes)), l2_bound=scores.bound, noise_multiplier=noise_multiplier,
      secret=secret, purpose=purpose,
    )  # fmt: skip

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    del seconds
    shares = np.clip(means.sums.sum(axis=0) / max(float(means.counts.sum()), 1.0), 0, 1)
    return shares * (1 - shares)

  def scores(self, means: Means) -> Scores:
    """What the first release makes of cells."""
    ends = np.cumsum(self.counted.fine_sizes)
    total = max(float(means.counts.sum()), 1.0)
    shares, normal = [], []
    deviation = self.noise(self.noise_multiplier)[1] * math.sqrt(len(means.counts))
    for column, counts in zip(
      self.summaries.table.columns, np.split(means.sums.sum(axis=0)[: ends[-1]], ends[:-1]),
      strict=True,
    ):  # fmt: skip
      share = _shares(_smooth(counts, column, deviation), total)
      score = np.zeros(len(share))
      first = int(column.nullable)  # what is missing has no score, and the mean in its place
      known = share[first:] / max(share[first:].sum(), 1e-12)
      middle = np.clip(np.cumsum(known) - known / 2, 1e-9, 1 - 1e-9)
      score[first:] = np.clip(scipy.special.ndtri(middle), -_MOST_SCORE, _MOST_SCORE)
      shares.append(share)
      normal.append(score)
    return Scores(tuple(shares), tuple(normal))

  def model(
    self, means: Means, seconds: np.ndarray, noise_multipliers: tuple[float, float]
  ) -> Sequences:
    scores, sigma = self.scores(means), noise_multipliers[1]
    counts = np.maximum(means.counts, 1.0)
    total = counts.sum()
    centres = self.centres(means, seconds, sigma)
    held = scores.measured
    products = seconds[:, :-1, :-1] - counts[:, np.newaxis, np.newaxis] * np.einsum(
      'ki,kj->kij', centres * held, centres * held
    )
    found = denoise.covariances(counts, products, sigma * scores.bound**2, scores.squares)
    deviations = np.sqrt(np.maximum(np.diagonal(found, axis1=1, axis2=2), 1e-9))
    between = (counts[:, np.newaxis] / total * np.square(centres)).sum(axis=0)
    within = np.sqrt(np.clip(1 - between, _LEAST_WITHIN, 1))
    correlations = found / deviations[:, :, np.newaxis] / deviations[:, np.newaxis]
    values, vectors = np.linalg.eigh(correlations)
    factors = vectors * np.sqrt(np.maximum(values, 0))[:, np.newaxis]
    pattern = self.summaries.pattern(
      means.sums.sum(axis=0)[self.counted.dim :], self._rates(scores), total,
      noise_multipliers[0] * self.summaries.pattern_radius
      * math.sqrt(len(counts) / _PATTERN_SHARE),
    )
    return Sequences(self, scores, pattern, centres, within[:, np.newaxis] * factors)

  def centres(self, means: Means, seconds: np.ndarray, sigma: float) -> np.ndarray:
    """Mean scores of each class, of records that have one, less those of all, float64 [K, D].

    A difference that is no larger than its error is drawn to zero, as a garrote does (Breiman
    1995): of many columns only few tell classes apart.
    """
    apart, errors = self._apart(means, seconds, sigma)
    kept = np.maximum(0, 1 - np.square(errors) / np.maximum(np.square(apart), 1e-12))
    return np.clip(apart * kept, -_MOST_SCORE, _MOST_SCORE)

  def _apart(
    self, means: Means, seconds: np.ndarray, sigma: float
  ) -> tuple[np.ndarray, np.ndarray]:
    """(mean scores of each class less those of all, float64 [K, D], errors of them)."""
    scores, counts = self.scores(means), np.maximum(means.counts, 1.0)[:, np.newaxis]
    of_class = counts * scores.measured
    raw = seconds[:, :-1, -1] / scores.constant / of_class
    common = (raw * counts).sum(axis=0) / counts.sum() * (len(counts) > 1)
    noise = sigma * scores.bound**2 / math.sqrt(2) / scores.constant
    errors = np.sqrt((noise / of_class) ** 2 + 1 / np.maximum(of_class, 1.0))
    return raw - common, errors

  def noise_of_scores(self, sigma: float) -> float:
    """About the deviation of the noise in a sum of scores, if all have one: public."""
    return sigma * (1 + _CONSTANT) * math.sqrt(_LONGEST * self.columns / (2 * _CONSTANT))

  def signal(self, means: Means, seconds: np.ndarray, sigma: float) -> float:
    """How far mean scores of classes stand out of their errors: a standard score, of a χ²."""
    raw, errors = self._apart(means, seconds, sigma)
    degrees = raw.shape[1] * (len(raw) - 1)
    return float((np.square(raw / errors).sum() / len(raw) * (len(raw) - 1) - degrees)
                 / math.sqrt(2 * degrees))  # fmt: skip

  def _rates(self, scores: Scores) -> np.ndarray:
    """The mean share of steps at which each channel is measured, float64 [C]."""
    places = {column.name: i for i, column in enumerate(self.summaries.table.columns)}
    rates = []
    for channel in self.schema.channels:
      place = places.get(f'{channel.name} (rate)')
      if place is None:
        rates.append(1.0)
      else:
        rates.append(float(scores.shares[place] @ np.square(self.counted.fine[place].middles)))
    return np.array(rates)


@dataclasses.dataclass(frozen=True)
class Scores:
  """Normal scores of the cells of each column.

  Attributes:
    shares: of each column, what each cell has of all records, their sum 1.
    normal: the score of each cell; 0 of what is missing.
  """

  shares: tuple[np.ndarray, ...]
  normal: tuple[np.ndarray, ...]

  @functools.cached_property
  def squares(self) -> np.ndarray:
    """The mean square of each score, float64 [D]."""
    return np.array([p @ np.square(z) for p, z in zip(self.shares, self.normal, strict=True)])

  @functools.cached_property
  def measured(self) -> np.ndarray:
    """The share of records that have a score, float64 [D]; of few it is not known how few."""
    return np.clip(self.squares, 0.02, 1)

  @property
  def longest(self) -> float:
    """Vectors of scores are scaled down to it."""
    return math.sqrt(_LONGEST * max(float(self.squares.sum()), 1e-3))

  @property
  def constant(self) -> float:
    """a: what makes sums of scores of sums of products."""
    return math.sqrt(_CONSTANT) * self.longest

  @property
  def bound(self) -> float:
    """Of a vector with its constant."""
    return math.hypot(self.longest, self.constant)

  def of(self, cells: np.ndarray) -> np.ndarray:
    """float64 [n, D + 1] of cells int64 [n, D]."""
    found = np.stack([z[c] for z, c in zip(self.normal, cells.T, strict=True)], axis=1)
    lengths = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300)
    found *= np.minimum(1, self.longest / lengths)
    return np.concatenate([found, np.full((len(found), 1), self.constant)], axis=1)


def _smooth(counts: np.ndarray, column: Column, deviation: float) -> np.ndarray:
  """Counts of cells that rise to one top and fall, but for what stands out of their noise.

  Single values (missing, both bounds) are cells of their own, and so are categories. What is left
  of the others beside their fit is kept as far as it is more than noise (James & Stein 1961).
  """
  first = int(column.nullable) + 1  # the lower bound
  inner = counts[first:-1]
  if column.is_category or len(inner) < 3 or not deviation:
    return counts
  best, least = inner, math.inf
  for top in range(len(inner)):
    fit = np.concatenate([
      scipy.optimize.isotonic_regression(inner[: top + 1]).x,
      scipy.optimize.isotonic_regression(inner[top + 1 :], increasing=False).x
      if top + 1 < len(inner) else [],
    ])  # fmt: skip
    error = float(np.square(fit - inner).sum())
    if error < least:
      best, least = fit, error
  kept = max(0.0, 1 - len(inner) * deviation**2 / max(least, 1e-12))
  inner = best + kept * (inner - best)
  found = np.concatenate([counts[:first], np.maximum(inner, 0), counts[-1:]])
  alone = [*range(first), len(found) - 1]
  found[alone] = np.where(found[alone] > deviation, found[alone], 0)
  return found


def _shares(counts: np.ndarray, total: float) -> np.ndarray:
  """The nearest shares ≥ 0 of the sum 1 to noisy counts (Duchi et al. 2008)."""
  found = counts / total
  ordered = np.sort(found)[::-1]
  excess = (np.cumsum(ordered) - 1) / np.arange(1, len(found) + 1)
  last = np.flatnonzero(ordered > excess)[-1]
  return np.maximum(found - excess[last], 0)


@dataclasses.dataclass(frozen=True)
class Sequences:
  """A Gaussian of scores for each class.

  Attributes:
    encoding: of the series.
    scores: what they mean.
    pattern: what sequences have in common.
    centres: float64 [K, D].
    factors: float64 [K, D, D]; ε ↦ centre + factor·ε.
  """

  encoding: SeriesEncoding
  scores: Scores
  pattern: Pattern
  centres: np.ndarray
  factors: np.ndarray

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Records float64 [n, S + T·C]."""
    rng = mixture.generator(key)
    z = self.centres[labels]
    for k in np.unique(labels):
      own = np.flatnonzero(labels == k)
      z[own] += rng.normal(size=(len(own), z.shape[1])) @ self.factors[k].T
    rows = self._rows(scipy.special.ndtr(z), rng)
    return self.encoding.summaries.decode(rows, self.pattern, rng)

  def _rows(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of summaries at these places of their distributions, float64 [n, D] in (0, 1)."""
    rows, static = np.empty(places.shape), len(self.encoding.schema.static)
    for i, column in enumerate(self.encoding.summaries.table.columns):
      share, first = self.scores.shares[i], int(column.nullable)
      known = np.cumsum(share[first:])
      if known[-1] <= 0:
        known = np.arange(1.0, len(known) + 1)
      cells = np.searchsorted(known, places[:, i] * known[-1], side='right')
      cells = np.minimum(cells, len(known) - 1) + first
      if i < static and column.nullable:
        cells = np.where(rng.random(len(cells)) < share[0], 0, cells)
      rows[:, i] = self.encoding.counted.fine[i].value(cells, rng.random(len(cells)))
    return rows
