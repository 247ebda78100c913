"""Series: noisy counts of cells of their summaries, then second moments of normal scores.

A sequence is a row of summaries (`summaries`). First come one-way counts of their cells, as of a
table, of all classes together; the number of records of each class; and what is alike for all over
time (`profile`): the sum of when channels are measured, scaled by what the cells say, and of how
high they are, scaled by what is known of rates by then. These are four Gaussian mechanisms, one
after the other, that together cost what one does. Counts make a normal score of every cell. The
second release is of each class the sum of (z, a)(z, a)ᵀ, z the scores of a record, clipped, and a
constant: sums of scores and of their products at once. A class is then a Gaussian of scores, and a
draw goes back through cells, and to a sequence that has the profile (`calibrate`).

Two-way counts of so many columns would be drowned by noise: one record is in a pair of cells for
each of C(C - 1)/2 pairs of columns, while its scores are one vector.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from dpgan_jax.data.series.schema import Channel, SeriesSchema
from dpgan_jax.models.moments import denoise
from dpgan_jax.models.moments.encoding import ByGroup, Means, divided
from dpgan_jax.models.moments.series import calibrate
from dpgan_jax.models.moments.series.profile import Scale, reach
from dpgan_jax.models.moments.series.scores import CONSTANT, LONGEST, MOST, Scores
from dpgan_jax.models.moments.series.sequences import Sequences
from dpgan_jax.models.moments.series.summaries import Course, Summaries
from dpgan_jax.models.moments.tables.encoding import TableEncoding
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.releases import marginals, second_moments

_CELLS = 16  # that numbers are cut into
_COUNT_SHARE, _PROFILE_SHARE = 0.04, 0.6  # of the first release's 1/σ²
_OF_RATES = 0.45  # of the profile's share, where all channels may be missing
_LEFT_OF_NOISE = 0.15  # in the mean of a shape, once its cells are smoothed; by hand
_REACHES = 1.5, 1.6  # of vectors of rates and of values, where noise is as usual
# Sequences whose summaries are drawn for calibration.
_FEWEST_ROWS, _MOST_ROWS, _MOST_SUMMARIES = 8000, 40_000, 6_000_000
_USUAL_SPREAD = 0.18  # of values in a typical range, a guess for all
_LEAST_WITHIN = 0.3  # of a score's variance, that is not between classes


@dataclasses.dataclass(frozen=True)
class SeriesEncoding(ByGroup):
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
    return TableEncoding(self.summaries.table, _CELLS, _CELLS)

  @property
  def columns(self) -> int:
    """D, of a row of summaries."""
    return len(self.counted.sizes)

  @property
  def dim(self) -> int:
    """Cells of all columns, and what the traits of a record are long."""
    return self.counted.dim + self.summaries.traits.dim

  @property
  def second_dim(self) -> int:
    """Scores, and the constant."""
    return self.columns + 1

  @property
  def prefixes(self) -> tuple[int, ...]:
    """Cells alone: the profile is alike for all."""
    return (self.counted.dim,)

  def groups(self, classes: int) -> int:
    """One, of all classes."""
    del classes
    return 1

  def second_groups(self, classes: int) -> int:
    """One of each class."""
    return classes

  def second_group(self, codes: np.ndarray, labels: np.ndarray, means: Means) -> np.ndarray:
    """A record's class."""
    del codes, means
    return labels

  def encode(self, records: np.ndarray) -> np.ndarray:
    """Cells, as float64, and after them the traits, of each record."""
    rows, traits = self.summaries.encode(records)
    return np.concatenate([self.counted.encode(rows), traits], axis=1)

  def _cells(self, codes: np.ndarray) -> np.ndarray:
    return codes[:, : self.columns].astype(np.int64)

  def release_means(
    self, codes: np.ndarray, labels: np.ndarray, classes: int, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> Means:  # fmt: skip
    """Four mechanisms, one after the other, together one of σ (`divided`)."""
    of_counts, of_cells, of_rates, of_values = self.parts(noise_multiplier)
    counts = marginals.release_one_way(
      labels.astype(np.int64)[:, np.newaxis], (classes,), noise_multiplier=of_counts, secret=secret,
      purpose=f'classes, {purpose}',
    )  # fmt: skip
    _, cells = self.counted.release_sums(
      self._cells(codes), noise_multiplier=of_cells, secret=secret, purpose=f'cells, {purpose}'
    )
    nothing = np.zeros(self.summaries.traits.dim)
    means = Means(counts, np.concatenate([cells, nothing])[np.newaxis])
    traits, scale = codes[:, self.columns :], self.scale(self.scores(means), means)
    rates = np.zeros(self.summaries.traits.dims[0])
    if self.schema.nullable.any():
      rates = exact_noise.release_sum(
        scale.vectors_of_rates(traits), l2_sensitivity=scale.radii[0],
        noise_multiplier=of_rates, secret=secret, purpose=f'rates, {purpose}',
      )  # fmt: skip
    _, scale = self.rates(scale, rates, means)
    values = exact_noise.release_sum(
      scale.vectors_of_values(traits), l2_sensitivity=scale.radii[1],
      noise_multiplier=of_values, secret=secret, purpose=f'values, {purpose}',
    )  # fmt: skip
    return Means(counts, np.concatenate([cells, rates, values])[np.newaxis])

  def rates(self, scale: Scale, total: np.ndarray, means: Means) -> tuple[np.ndarray, Scale]:
    """(how many are measured at each step, float64 [C, T]; the scale of what is released next)."""
    count = max(float(means.counts.sum()), 1.0)
    of_rates = self.parts(self.noise_multiplier)[2]
    deviation = of_rates * scale.radii[0] if self.schema.nullable.any() else 0.0
    found = scale.rates(total, count, deviation)
    return found, scale.knowing(found, count, deviation)

  def parts(self, noise_multiplier: float) -> tuple[float, float, float, float]:
    """σ of class counts, of cells, of rates and of values over time, that cost one σ together.

    Where nothing is ever missing there are no rates: their σ is infinite.
    """
    missing = float(self.schema.nullable.mean())
    of_rates = _PROFILE_SHARE * _OF_RATES * missing / (1 - _OF_RATES + _OF_RATES * missing)
    shares = _COUNT_SHARE, *([of_rates] if missing else []), _PROFILE_SHARE - of_rates
    of_counts, *rates, of_values, of_cells = divided(noise_multiplier, *shares)
    return of_counts, of_cells, rates[0] if rates else math.inf, of_values

  def noise(self, noise_multiplier: float, scale: float = 1.0) -> tuple[float, float]:
    del scale  # all bounds are public
    of_counts, of_cells, *_ = self.parts(noise_multiplier)
    return of_counts, self.counted.noise(of_cells)[1]

  def release_products(
    self, codes: np.ndarray, labels: np.ndarray, means: Means, *, noise_multiplier: float,
    secret: bytes, purpose: str,
  ) -> np.ndarray:  # fmt: skip
    """Of scores as the first release made them, clipped to a bound that follows from it too."""
    del labels
    scores = self.scores(means)
    return second_moments.release_second_moments(
      scores.of(self._cells(codes)), l2_bound=scores.bound, noise_multiplier=noise_multiplier,
      secret=secret, purpose=purpose,
    )  # fmt: skip

  def variances(self, means: Means, seconds: np.ndarray) -> np.ndarray:
    del seconds
    shares = np.clip(means.sums[0, : self.counted.dim] / max(float(means.counts.sum()), 1.0), 0, 1)
    return shares * (1 - shares)

  def scores(self, means: Means) -> Scores:
    """What the first release makes of cells."""
    ends = np.cumsum(self.counted.fine_sizes)
    total = max(float(means.counts.sum()), 1.0)
    deviation = self.noise(self.noise_multiplier)[1]
    return Scores.of_counts(
      self.counted.fine, np.split(means.sums[0, : ends[-1]], ends[:-1]), total, deviation,
      self.summaries.doubted,
    )  # fmt: skip

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
    weights = counts[:, np.newaxis] / total
    between = (weights * np.square(centres - (weights * centres).sum(axis=0))).sum(axis=0)
    within = np.sqrt(np.clip(1 - between, _LEAST_WITHIN, 1))
    correlations = found / deviations[:, :, np.newaxis] / deviations[:, np.newaxis]
    values, vectors = np.linalg.eigh(correlations)
    factors = vectors * np.sqrt(np.maximum(values, 0))[:, np.newaxis]
    shares = np.maximum(means.counts, 1e-9)
    found = Sequences(
      self.summaries, self.counted.fine, scores, None, shares / shares.sum(), centres,
      within[:, np.newaxis] * factors,
    )  # fmt: skip
    return dataclasses.replace(found, course=self._course(found, means))

  def _course(self, sequences: Sequences, means: Means) -> Course:
    """By which sequences have the profile of the first release."""
    total, rng = max(float(means.counts.sum()), 1.0), np.random.default_rng(0)
    count = max(_FEWEST_ROWS, min(_MOST_ROWS, _MOST_SUMMARIES // self.columns))
    rows = sequences.rows(rng.choice(len(sequences.shares), count, p=sequences.shares), rng)
    sums = means.sums[0, self.counted.dim :]
    of_rates, of_values = np.split(sums, self.summaries.traits.dims[:1])
    rates, scale = self.rates(self.scale(sequences.scores, means), of_rates, means)
    deviation = self.parts(self.noise_multiplier)[3] * scale.radii[1]
    guess = self.summaries.mean(rows)
    profile = scale.profile(rates, of_values, total, deviation, guess)
    of_shape = self.counted.fine[self.summaries.levels[0] + 1].middles
    noise = self.noise(self.noise_multiplier)[1] / total
    doubt = _LEFT_OF_NOISE * noise * math.sqrt(np.nansum(of_shape**4))
    return calibrate.course(self.summaries, scale, profile, rows, doubt, rng)

  def centres(self, means: Means, seconds: np.ndarray, sigma: float) -> np.ndarray:
    """Mean scores of each class, of records that have one, float64 [K, D].

    Of all together they are 0 but for the noise in cells, which they tell of. What is no larger
    than its error is drawn to zero, as a garrote does (Breiman 1995): of many columns only few tell
    classes apart.
    """
    apart, errors, common, off = self._apart(means, seconds, sigma)
    centres = _kept(apart, errors) + _kept(common, off)
    return np.clip(centres, -MOST, MOST)

  def _apart(
    self, means: Means, seconds: np.ndarray, sigma: float
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean scores of each class less those of all, float64 [K, D], errors of them; those of all,
    float64 [D], errors of them)."""
    scores, counts = self.scores(means), np.maximum(means.counts, 1.0)[:, np.newaxis]
    of_class = counts * scores.measured
    raw = seconds[:, :-1, -1] / scores.constant / of_class
    common = (raw * counts).sum(axis=0) / counts.sum()
    noise = sigma * scores.bound**2 / math.sqrt(2) / scores.constant
    errors = np.sqrt((noise / of_class) ** 2 + 1 / np.maximum(of_class, 1.0))
    off = noise * math.sqrt(len(counts)) / (counts.sum() * scores.measured)
    return raw - common, errors, common, off

  def noise_of_scores(self, sigma: float) -> float:
    """About the deviation of the noise in a sum of scores, if all have one: public."""
    return sigma * (1 + CONSTANT) * math.sqrt(LONGEST * self.columns / (2 * CONSTANT))

  def signal(self, means: Means, seconds: np.ndarray, sigma: float) -> float:
    """How far mean scores of classes stand out of their errors: a standard score, of a χ²."""
    raw, errors, *_ = self._apart(means, seconds, sigma)
    degrees = raw.shape[1] * (len(raw) - 1)
    return float((np.square(raw / errors).sum() / len(raw) * (len(raw) - 1) - degrees)
                 / math.sqrt(2 * degrees))  # fmt: skip

  def scale(self, scores: Scores, means: Means) -> Scale:
    """What the profile is compared with, of what was released before it."""
    places = {column.name: i for i, column in enumerate(self.summaries.table.columns)}

    def of(channel: Channel, what: str) -> tuple[np.ndarray, np.ndarray]:
      """(shares of cells of records that have one, middles)."""
      place = places[f'{channel.name} ({what})']
      first = int(self.summaries.table.columns[place].nullable)
      share = scores.shares[place][first:]
      return share / max(float(share.sum()), 1e-9), self.counted.fine[place].middles[first:]

    found = []
    for channel in self.schema.channels:
      rates = 1.0, 1.0
      if channel.nullable:  # roots are counted
        share, root = of(channel, 'rate')
        rates = np.clip([share @ root**2, share @ root**4], (1e-3, 1e-6), 1)
      share, middles = of(channel, 'level')
      between = (_quantile(share, middles, 0.84) - _quantile(share, middles, 0.16)) / 2
      roots = [of(channel, w) for w in ('spread', *(f'shape {k + 1}' for k in range(self.shapes)))]
      within = [np.abs(middles) @ (share * np.abs(middles)) for share, middles in roots]
      spread = math.sqrt(_USUAL_SPREAD * max(math.hypot(between, *within), 1e-3))
      found.append((*rates, float(share @ middles), spread))
    count = max(float(means.counts.sum()), 1.0)
    reaches = [
      reach(sigma, dim, count, usual)
      for sigma, dim, usual in zip(
        self.parts(self.noise_multiplier)[2:], self.summaries.traits.dims, _REACHES, strict=True
      )
    ]
    rate, squared, level, spread = np.array(found).T
    return Scale(
      self.summaries.traits, rate, squared, level, spread, np.zeros_like(rate),
      (reaches[0], reaches[1]),
    )  # fmt: skip


def _quantile(share: np.ndarray, middles: np.ndarray, place: float) -> float:
  """Of cells with these shares: what noise adds far away hardly moves it."""
  return float(middles[min(np.searchsorted(np.cumsum(share), place), len(share) - 1)])


def _kept(found: np.ndarray, errors: np.ndarray) -> np.ndarray:
  """What is no larger than its error is drawn to zero."""
  return found * np.maximum(0, 1 - np.square(errors) / np.maximum(np.square(found), 1e-12))

