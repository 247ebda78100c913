"""What a release of moments can be good for: from noise alone beforehand, from the release after.

Free of privacy cost: everything here follows from public numbers and from what was released.

A classifier learns from samples what tells classes apart, and a release knows that as far as class
means stand out of their noise. Of the lowest m frequencies, for several m, the squares of the
means' distances from their common mean, each in units of its error (of noise, and of what so few
records would differ by anyway), add up to a χ² of (K - 1)·m degrees where classes do not differ.
The largest of their standard scores is the `signal`.

The bounds between levels were found on MNIST's training images and the digits of scikit-learn; what
they say of these and of other sets, of shuffled labels and of static, is in
experiments/results/OWN_DATA.md.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.images.scattering_encoding import ScatteringEncoding
from dpgan_jax.models.moments.series.encoding import SeriesEncoding
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments, rows_over_noise

LEVELS = ('useless', 'poor', 'usable', 'good')
COLOURS = {'useless': 'red', 'poor': 'orange', 'usable': 'yellow', 'good': 'green'}
_SIGNALS = (3.0, 14.0, 30.0)  # from which the next level begins
_NOISES = (0.2, 0.09, 0.045)  # below which the next level is likely
# Of a table, from which the next level begins. How far marginals are then from real ones, and what
# classifiers learn, is in experiments/results/TABLES.md, its last table.
_ROWS = (5.6, 33.5, 224.0)
# Of series, the error of a mean score of a class below which the next level is likely: found on
# generated stays and on PhysioNet's sets a and b.
_ERRORS = (0.25, 0.05, 0.012)
_ALIKE = 1.5  # frequencies of few records deviate together, more than if each did by itself
_SMALL = 3.0  # a class whose count is below so many deviations of its noise is too small


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What samples of a release can be good for.

  Attributes:
    level: one of `LEVELS`.
    signal: how far class means stand out of their errors, a standard score.
    small_classes: names of classes that are too small to have been learnt.
    sentence: all of it for people, with the next thing to do.
  """

  level: str
  signal: float
  small_classes: tuple[str, ...]
  sentence: str

  @property
  def colour(self) -> str:
    return COLOURS[self.level]


def expected(moments: Moments) -> str:
  """The level that N, K and ε let expect, before anything is read: for classes of equal size."""
  if isinstance(moments.encoding, SeriesEncoding):
    return LEVELS[sum(_error(moments) < bound for bound in _ERRORS)]
  if moments.spec.schema is not None:
    return LEVELS[sum(_rows_over_noise(moments) >= bound for bound in _ROWS)]
  of_a_class = moments.spec.num_records / moments.spec.num_classes
  noise = moments.stages[MEANS].noise_multiplier / of_a_class
  return LEVELS[sum(noise < bound for bound in _NOISES)]


def advice(moments: Moments) -> str:
  """What would let expect more, in numbers that are all public."""
  spec, noise = moments.spec, moments.stages[MEANS].noise_multiplier
  wanted = noise * spec.num_classes / _NOISES[-1]
  if isinstance(moments.encoding, SeriesEncoding):
    wanted = spec.num_records * _error(moments) / _ERRORS[-1]
  elif spec.schema is not None:
    wanted = spec.num_records * _ROWS[-1] / _rows_over_noise(moments)
  wanted = math.ceil(wanted / 100) * 100
  return (
    f'{spec.num_records} records {_in_classes(spec)} are few at epsilon = '
    f'{moments.config.target_epsilon:g}: about {wanted} would make good samples, or a larger '
    'epsilon, or fewer classes'
  )


def too_small(moments: Moments, counts: np.ndarray) -> tuple[str, ...]:
  """Names of the classes whose `counts` [K], noisy or not, noise makes hard to tell from none."""
  limit = _SMALL * moments.encoding.noise(moments.stages[MEANS].noise_multiplier)[0]
  names = zip(moments.spec.class_names, counts, strict=True)
  return tuple(name for name, count in names if count < limit)


def _rows_over_noise(moments: Moments) -> float:
  return rows_over_noise(moments.spec, moments.noise_multiplier)


def _error(moments: Moments) -> float:
  """Of a mean score of a class of N/K series, that comes of noise."""
  assert isinstance(moments.encoding, SeriesEncoding)
  noise = moments.encoding.noise_of_scores(moments.stages[SECONDS].noise_multiplier)
  return noise * moments.spec.num_classes / moments.spec.num_records


def _in_classes(spec: Spec) -> str:
  schema = spec.schema if spec.kind == 'table' else None
  columns = '' if schema is None else f'of {len(schema.modelled)} columns '
  return f'{columns}in {spec.num_classes} classes'


def judge(means: Means, seconds: np.ndarray, moments: Moments) -> Verdict | None:
  """The verdict on a release; None of images without classes, which nothing is said of."""
  of_table, encoding = moments.spec.schema is not None, moments.encoding
  if moments.spec.num_classes < 2 and not of_table:
    return None
  signal, level, factor = math.inf, LEVELS[-1], 1.0
  if moments.spec.num_classes > 1:
    if isinstance(encoding, SeriesEncoding):
      signal = encoding.signal(means, seconds, moments.stages[SECONDS].noise_multiplier)
    else:
      signal = _signal(means, seconds, moments)
    level = LEVELS[sum(signal >= bound for bound in _SIGNALS)]
    # The signal grows with the square of what N and ε make of the noise.
    factor = math.sqrt(_SIGNALS[-1] / max(signal, 1.0))
  if of_table:  # which are asked for more than their classes
    level = min(level, expected(moments), key=LEVELS.index)
    of_size = _ROWS[-1] / _rows_over_noise(moments)
    if isinstance(encoding, SeriesEncoding):
      of_size = _error(moments) / _ERRORS[-1]
    factor = max(factor, of_size)
  small = too_small(moments, means.counts)
  sentence = ' '.join(filter(None, (_sentence(level, factor, small), of_matching(moments))))
  return Verdict(level, signal, small, sentence)


def of_matching(moments: Moments) -> str:
  """What few records mean for a generator that matches moments; '' where they are enough."""
  encoding = moments.encoding
  if not isinstance(encoding, ScatteringEncoding) or not encoding.pooled:
    return ''
  return 'Of so few records images that match moments look better, and teach a classifier less.'


def _signal(means: Means, seconds: np.ndarray, moments: Moments) -> float:
  counts = np.maximum(means.counts, 1.0)[:, np.newaxis]
  centres = means.sums / counts
  of_counts, of_sums = moments.encoding.noise(moments.stages[MEANS].noise_multiplier, means.scale)
  within = moments.encoding.variances(means, seconds)
  common = means.sums.sum(axis=0) / counts.sum()
  # Sums of images are around their common mean: a wrong count leaves classes that are alike alike.
  moved = common if moments.spec.schema is not None else centres - common
  noise = (of_sums / counts) ** 2 + (moved * of_counts / counts) ** 2
  weights = 1 / np.maximum(noise + _ALIKE * within / counts, 1e-12)
  common = (weights * centres).sum(axis=0) / weights.sum(axis=0)
  squares = (weights * (centres - common) ** 2).sum(axis=0)  # of each sum
  lengths = np.array(moments.encoding.prefixes)
  degrees = lengths * (len(counts) - 1)
  return float(((np.cumsum(squares)[lengths - 1] - degrees) / np.sqrt(2 * degrees)).max())


_SAYS = {
  'good': 'a classifier trained on the samples should come close to one trained on real records',
  'usable': 'samples carry most of what tells the classes apart, and visible noise',
  'poor': 'samples carry some of what tells the classes apart, under much noise',
  'useless': 'the classes do not stand out of the noise: do not expect a classifier to learn them',
}


def named(small: tuple[str, ...]) -> str:
  """The first ten of them, and how many more there are."""
  return ', '.join(small[:10]) + (f' and {len(small) - 10} more' if len(small) > 10 else '')


def _sentence(level: str, factor: float, small: tuple[str, ...]) -> str:
  parts = [f'{level.capitalize()} ({COLOURS[level]}): {_SAYS[level]}.']
  if level != 'good':
    parts.append(
      f'About {factor:.1f} times as many records, an ε larger by as much, or fewer classes would '
      'make it good.'
    )
  if small:
    said = f'Too small to be learnt at this ε: {named(small)}. Merge them, or leave them out.'
    parts.append(said)
  return ' '.join(parts)
