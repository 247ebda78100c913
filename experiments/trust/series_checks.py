"""Checks of releases of series: how far a sequence moves what is released, and by what noise."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.schema import Column
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.series.encoding import SeriesEncoding
from dpgan_jax.models.moments.series.profile import Scale
from dpgan_jax.models.moments.series.scores import Scores
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.privacy import exact_noise
from experiments.trust.moments_checks import released, require_charged, require_moved_by_one
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
# Of 1/σ² of the first release: class counts, cells, rates and values over time; said here once
# more, by hand, for channels that all may be missing.
_SHARES = {'classes': 0.04, 'cells': 0.36, 'rates': 0.27, 'values': 0.33}


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
  return released(moments.encoding.encode(records), labels, moments, number)


def _nothing() -> tuple[np.ndarray, np.ndarray]:
  return np.zeros((0, len(_SCHEMA.modelled))), np.zeros(0, int)


def _parts(encoding: SeriesEncoding, means: Means) -> dict[str, np.ndarray]:
  cells, rates = encoding.counted.dim, encoding.summaries.traits.dims[0]
  found = np.split(means.sums[0], [cells, cells + rates])
  return {'classes': means.counts, **dict(zip(('cells', 'rates', 'values'), found, strict=True))}


def _units(encoding: SeriesEncoding, means: Means) -> dict[str, float]:
  """By how much one sequence moves each part."""
  first, then = _scales(encoding, means)
  return {
    'classes': 1.0, 'cells': math.sqrt(encoding.columns), 'rates': first.radii[0],
    'values': then.radii[1],
  }  # fmt: skip


def _scales(encoding: SeriesEncoding, means: Means) -> tuple[Scale, Scale]:
  """Of rates, and of values."""
  first = encoding.scale(encoding.scores(means), means)
  return first, encoding.rates(first, _parts(encoding, means)['rates'], means)[1]


def noise_of_series_is_charged() -> None:
  """Of no sequences at all, counts, profiles and products have the noise that is accounted for.

  Class counts move by 1, counts of D columns by √D, rates and values by their radii, products by
  the squared bound; all but the last share the first release's 1/σ². A deviation of n draws is off
  by 1/√(2n): of 40 draws of 2 classes, less than a quarter in all but one of 600 sets of draws,
  which are the same every time.
  """
  moments = _moments(1.0)
  encoding = _encoding(moments)
  first, second = (moments.stages[name].noise_multiplier for name in (MEANS, SECONDS))
  found = {**{name: [] for name in _SHARES}, 'products': []}
  for number in range(_DRAWS):
    means, seconds = _released(*_nothing(), moments, number)
    bound = encoding.scores(means).bound
    units = _units(encoding, means)
    for name, sums in _parts(encoding, means).items():
      found[name].append(sums / (first / math.sqrt(_SHARES[name]) * units[name]))
    above = np.triu_indices(encoding.second_dim, 1)
    found['products'].append(
      (seconds[:, above[0], above[1]] / (second * bound**2 / math.sqrt(2))).ravel()
    )
  require_charged(found, {name: 0.25 if name == 'classes' else 0.1 for name in found})


def parts_have_noise_of_their_own() -> None:
  """Two classes of no sequences: what is released of them is not the same."""
  means, seconds = _released(*_nothing(), _moments(1.0))
  for name, sums in (('counts', means.counts), ('products', seconds)):
    if (sums[0] == sums[1]).all():
      raise Violation(f'{name} of two classes got the same noise: their difference is free')


def one_sequence_moves_sums_by_one() -> None:
  """Any sequence more, of any class, in units of the sensitivity of each mechanism."""
  moments, (records, labels) = _moments(math.inf), _records(_N)
  encoding = _encoding(moments)
  codes = moments.encoding.encode(records)
  without = release.release_means(codes, labels, moments, bytes(32))
  scores = encoding.scores(without)
  scales = _scales(encoding, without)
  products = release.release_seconds(codes, labels, without, moments, bytes(32))
  alternating = np.tile([20.0, 60.0], 4)[:, np.newaxis].repeat(3, axis=1)
  half = np.where(np.arange(8)[:, np.newaxis] < 4, 60.0, np.nan).repeat(3, axis=1)
  kinds = alternating, half, np.full((8, 3), np.nan), np.full((8, 3), 100.0)
  for values, size in itertools.product(kinds, (1.0, 1e3)):  # beyond what a sequence can be, too
    row = _SCHEMA.join(np.array([[120.0]]), values[np.newaxis])
    more = encoding.encode(np.vstack([records, row])), np.append(labels, 1)
    more[0][-1, encoding.columns :] *= size
    means = release.release_means(*more, moments, bytes(32))
    both = release.release_seconds(*more, without, moments, bytes(32))
    units = _units(encoding, without)
    # The scales follow from what was released: here, before there was one more.
    traits = more[0][:, encoding.columns :]
    before, after = _parts(encoding, without), _parts(encoding, means)
    for name, vectors in (
      ('rates', scales[0].vectors_of_rates(traits)), ('values', scales[1].vectors_of_values(traits))
    ):  # fmt: skip
      after[name] = exact_noise.release_sum(
        vectors, l2_sensitivity=units[name], noise_multiplier=0.0, secret=bytes(32), purpose='one'
      )
    by = {n: float(np.linalg.norm(after[n] - before[n])) / units[n] for n in before}
    by['products'] = float(np.linalg.norm(both - products)) / scores.bound**2
    require_moved_by_one('sequence', by)


def scores_follow_from_the_release() -> None:
  """Normal scores are those of the noisy counts; of the real ones they would tell of a record."""
  moments, (records, labels) = _moments(1.0), _records(_N)
  encoding = _encoding(moments)
  nothing = Means(np.zeros(2), np.zeros((1, encoding.dim)))
  codes = moments.encoding.encode(records)[labels == 0]
  released = encoding.release_products(
    codes, 0, nothing, noise_multiplier=0.0, secret=bytes(32), purpose='check'
  )
  vectors = encoding.scores(nothing).of(codes[:, : encoding.columns].astype(int))
  # Each entry is cut to a grid of 2⁻¹³ of the bound.
  if not np.allclose(released, vectors.T @ vectors, atol=len(codes) * 2e-3 * vectors.max() ** 2):
    raise Violation('products are of other scores than those that the first release gives')


def profiles_follow_from_the_release() -> None:
  """Profiles are scaled by the noisy counts, not by the real ones."""
  moments, (records, labels) = _moments(1.0), _records(_N)
  encoding = _encoding(moments)
  codes = moments.encoding.encode(records)
  given: list[Means] = []

  def scores(self: SeriesEncoding, means: Means) -> Scores:
    given.append(means)
    return SeriesEncoding.scores(self, means)

  class Watched(SeriesEncoding):
    """Remembers what scores, and so all scales, are made of."""

  Watched.scores = scores  # type: ignore[method-assign]
  watched = Watched(encoding.schema, encoding.shapes, encoding.noise_multiplier)
  first = moments.stages[MEANS].noise_multiplier
  means = watched.release_means(
    codes, labels, 2, noise_multiplier=first, secret=bytes(32), purpose='check'
  )
  cells = encoding.counted.dim
  if len(given) != 1 or (given[0].sums[0, :cells] != means.sums[0, :cells]).any():
    raise Violation('profiles are scaled by other counts than those that were released')


def values_follow_from_the_released_rates() -> None:
  """What bounds values over time is the noisy sum of rates, not the real one."""
  moments, (records, labels) = _moments(1.0), _records(_N)
  encoding = _encoding(moments)
  given: list[np.ndarray] = []

  class Watched(SeriesEncoding):
    """Remembers which sums say how rare channels are."""

    def rates(self, scale: Scale, total: np.ndarray, means: Means) -> tuple[np.ndarray, Scale]:
      given.append(total)
      return super().rates(scale, total, means)

  watched = Watched(encoding.schema, encoding.shapes, encoding.noise_multiplier)
  means = watched.release_means(
    moments.encoding.encode(records), labels, 2, secret=bytes(32), purpose='check',
    noise_multiplier=moments.stages[MEANS].noise_multiplier,
  )  # fmt: skip
  if len(given) != 1 or (given[0] != _parts(encoding, means)['rates']).any():
    raise Violation('values are bounded by other rates than those that were released')


def summaries_are_public() -> None:
  """The code of a sequence is the same whoever else is in the data."""
  encoding, (records, _) = _moments(1.0).encoding, _records(_N)
  more = np.vstack([records, _SCHEMA.join(np.array([[119.0]]), np.full((1, 8, 3), 100.0))])
  if (encoding.encode(more)[:-1] != encoding.encode(records)).any():
    raise Violation('one sequence more changes the codes of others: a range is read from the data')
