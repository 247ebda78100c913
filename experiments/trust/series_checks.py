"""Checks of releases of series: how far a sequence moves what is released, and by what noise."""

from __future__ import annotations

import functools
import math

import numpy as np

from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.schema import Column
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.series_encoding import SeriesEncoding
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from experiments.trust.statistical_checks import Violation

_SCHEMA = SeriesSchema(
  columns=(
    Column(name='age', kind='integer', lower=0, upper=120),
    Column(name='ill', kind='boolean', categories=('no', 'yes')),
  ),
  channels=tuple(
    Channel(name=name, kind='real', lower=0, upper=100, typical=(20, 60), nullable=True)
    for name in 'abc'
  ),
  grid=Grid(steps=8), target='ill',
)  # fmt: skip
_N, _DRAWS = 60, 40
_SHARE = 0.2  # of 1/σ² of the first release, that patterns have: said here once more, by hand


@functools.cache
def _moments(epsilon: float) -> Moments:
  spec = Spec.of_schema(_SCHEMA, num_records=_N, name='made')
  config = TrainConfig(target_epsilon=epsilon, delta=1e-5, moments_coefficients=1)
  return settings.make(config, spec)


def _encoding(moments: Moments) -> SeriesEncoding:
  assert isinstance(moments.encoding, SeriesEncoding)
  return moments.encoding


def _records(n: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(n)
  values = rng.uniform(30, 50, (n, 8, 3))
  values[rng.random(values.shape) < 0.5] = np.nan
  return _SCHEMA.join(rng.integers(30, 61, (n, 1)).astype(float), values), np.arange(n) % 2


def _released(
  records: np.ndarray, labels: np.ndarray, moments: Moments, number: int = 0
) -> tuple[Means, np.ndarray]:
  secret = number.to_bytes(32, 'big')
  codes = moments.encoding.encode(records)
  means = release.release_means(codes, labels, moments, secret)
  return means, release.release_seconds(codes, labels, means, moments, secret)


def _nothing() -> tuple[np.ndarray, np.ndarray]:
  return np.zeros((0, len(_SCHEMA.modelled))), np.zeros(0, int)


def noise_of_series_is_charged() -> None:
  """Of no sequences at all, counts, patterns and products have the noise that is accounted for.

  Counts of D columns move by √D, patterns by their radius, products by the squared bound; the first
  two share the first release's 1/σ². A deviation of n draws is off by 1/√(2n): 40 draws of 36
  patterns in 2 classes, so that a tenth is seven of that.
  """
  moments = _moments(1.0)
  encoding = _encoding(moments)
  first, second = (moments.stages[name].noise_multiplier for name in (MEANS, SECONDS))
  cells, found = encoding.counted.dim, {'counts': [], 'patterns': [], 'products': []}
  for number in range(_DRAWS):
    means, seconds = _released(*_nothing(), moments, number)
    counts = first / math.sqrt(1 - _SHARE) * math.sqrt(encoding.columns)
    patterns = first / math.sqrt(_SHARE) * encoding.summaries.pattern_radius
    found['counts'].append(means.sums[:, :cells].ravel() / counts)
    found['patterns'].append(means.sums[:, cells:].ravel() / patterns)
    bound = encoding.scores(means).bound
    above = np.triu_indices(encoding.second_dim, 1)
    found['products'].append(
      (seconds[:, above[0], above[1]] / (second * bound**2 / math.sqrt(2))).ravel()
    )
  for name, draws in found.items():
    deviation = float(np.std(draws))
    if not abs(deviation - 1) < 0.1:
      raise Violation(f'noise of {name} is {deviation:.3g} times what is accounted for')


def parts_have_noise_of_their_own() -> None:
  """Two classes of no sequences: what is released of them is not the same."""
  means, seconds = _released(*_nothing(), _moments(1.0))
  for name, sums in (('sums', means.sums), ('products', seconds)):
    if (sums[0] == sums[1]).all():
      raise Violation(f'{name} of two classes got the same noise: their difference is free')


def one_sequence_moves_sums_by_one() -> None:
  """Any sequence more, of any class, in units of the sensitivity of each mechanism."""
  moments, (records, labels) = _moments(math.inf), _records(_N)
  encoding = _encoding(moments)
  cells = encoding.counted.dim
  codes = moments.encoding.encode(records)
  without = release.release_means(codes, labels, moments, bytes(32))
  scores = encoding.scores(without)
  products = release.release_seconds(codes, labels, without, moments, bytes(32))
  alternating = np.tile([20.0, 60.0], 4)[:, np.newaxis].repeat(3, axis=1)
  half = np.where(np.arange(8)[:, np.newaxis] < 4, 60.0, np.nan).repeat(3, axis=1)
  for values in (alternating, half, np.full((8, 3), np.nan), np.full((8, 3), 100.0)):
    row = _SCHEMA.join(np.array([[120.0]]), values[np.newaxis])
    more = encoding.encode(np.vstack([records, row])), np.append(labels, 1)
    means = release.release_means(*more, moments, bytes(32))
    moved = means.sums - without.sums
    both = release.release_seconds(*more, without, moments, bytes(32))
    for name, by in (
      ('counts', np.linalg.norm(moved[:, :cells]) / math.sqrt(encoding.columns)),
      ('patterns', np.linalg.norm(moved[:, cells:]) / encoding.summaries.pattern_radius),
      ('products', np.linalg.norm(both - products) / scores.bound**2),
    ):
      if not by <= 1 + 1e-6:
        raise Violation(f'one sequence moves {name} by {by:.4g} of their sensitivity')


def scores_follow_from_the_release() -> None:
  """Normal scores are those of the noisy counts; of the real ones they would tell of a record."""
  moments, (records, labels) = _moments(1.0), _records(_N)
  encoding = _encoding(moments)
  nothing = Means(np.zeros(2), np.zeros((2, encoding.dim)))
  codes = moments.encoding.encode(records)[labels == 0]
  released = encoding.release_products(
    codes, 0, nothing, noise_multiplier=0.0, secret=bytes(32), purpose='check'
  )
  vectors = encoding.scores(nothing).of(codes[:, : encoding.columns].astype(int))
  # Each entry is cut to a grid of 2⁻¹³ of the bound.
  if not np.allclose(released, vectors.T @ vectors, atol=len(codes) * 2e-3 * vectors.max() ** 2):
    raise Violation('products are of other scores than those that the first release gives')


def summaries_are_public() -> None:
  """The code of a sequence is the same whoever else is in the data."""
  encoding, (records, _) = _moments(1.0).encoding, _records(_N)
  more = np.vstack([records, _SCHEMA.join(np.array([[119.0]]), np.full((1, 8, 3), 100.0))])
  if (encoding.encode(more)[:-1] != encoding.encode(records)).any():
    raise Violation('one sequence more changes the codes of others: a range is read from the data')
