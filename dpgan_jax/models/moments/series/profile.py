"""When each channel of series is measured, and how high it is then, over time: alike for all.

Of each record and channel these are the lowest cosines over time of *measured or not*, and of the
values where they were measured, u in [0, 1]: its traits, by public rules. What is released are the
sums of two vectors a record: traits less what is expected, in units in which all channels are about
as long, so that rare ones do not drown. First rates, in units that follow from the counts of cells,
which know rare channels hardly; then values, in units that follow from the released rates. `Scale`
makes vectors of traits, and of their sums what they say; all its numbers follow from what was
released before.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from dpgan_jax.data.series.schema import SeriesSchema

_OFTEN, _HIGH = 16, 5  # cosines of the rate and of the mean over time, the constant among them
_OF_LASTING = 0.3  # weight in a vector, beside that of values
# Deviations of a cosine's weight over its frequency, guesses for all: in the mean, in spreads; in
# the rate p, in p·√(1 - p).
_LIKELY, _LIKELY_RATE = 0.2, 0.4
_LEAST_RATE = 0.1  # of the mean rate, at any step
_USUAL_NOISE, _REACH = 0.016, (1.0, 6.0)
_CLEAR = 3.0  # deviations of its noise, from which on a cosine of the rate is no longer doubted


class Profile(NamedTuple):
  """What records have in common.

  Attributes:
    rate: float64 [C, T], how many of all records are measured at a step.
    mean: float64 [C, T], of those, in u.
    lasting: float64 [C], the correlation of a deviation with that of the step before.
  """

  rate: np.ndarray
  mean: np.ndarray
  lasting: np.ndarray


def cosines(steps: int, count: int) -> np.ndarray:
  """float64 [min(count, steps), steps]: a constant 1, then of mean 0 and mean square 1 each."""
  found = np.arange(min(count, steps))[:, np.newaxis] * (np.arange(steps) + 0.5) * (np.pi / steps)
  return np.where(found[:, :1] == found[:, -1:], 1.0, np.sqrt(2) * np.cos(found))


@dataclasses.dataclass(frozen=True)
class Traits:
  """Of series of a schema: C channels, A cosines of the rate and B ≤ A of values.

  Attributes:
    schema: public.
  """

  schema: SeriesSchema

  @functools.cached_property
  def often(self) -> np.ndarray:
    """float64 [A, T]."""
    return cosines(self.schema.grid.steps, _OFTEN)

  @property
  def high(self) -> np.ndarray:
    """float64 [B, T]."""
    return self.often[:_HIGH]

  @property
  def sizes(self) -> tuple[int, int, int]:
    """Of a channel: rates, values, and the two of how long deviations last."""
    return len(self.often), len(self.high), 2

  @property
  def dims(self) -> tuple[int, int]:
    """How long the traits of a record are that rates follow from, and the others."""
    channels, (often, *others) = len(self.schema.channels), self.sizes
    return channels * often, channels * sum(others)

  @property
  def dim(self) -> int:
    """How long all are."""
    return sum(self.dims)

  def of(self, u: np.ndarray, mask: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """float64 [n, dim], each row of its record alone.

    Args:
      u: values in [0, 1], 0 where there is none, float64 [n, C, T].
      mask: 1 where there is one.
      apart: how far each is from what the record's own summaries say, 0 where there is none.
    """
    steps, lasting = mask.shape[2], _lasting(apart, mask)
    return self.joined(mask @ self.often.T / steps, u @ self.high.T / steps, lasting)

  def parts(self, traits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of traits [..., dim]: rates [..., C, A], values [..., C, B], lasting [..., C, 2]."""
    often, others = np.split(traits, self.dims[:1], axis=-1)
    a, b, c = self.sizes
    shape = *traits.shape[:-1], len(self.schema.channels)
    high, lasting = np.split(others.reshape(*shape, b + c), [b], axis=-1)
    return often.reshape(*shape, a), high, lasting

  def joined(self, often: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The inverse of `parts`."""
    each = often, np.concatenate(others, axis=-1)
    flat = [x.reshape(*x.shape[:-2], n) for x, n in zip(each, self.dims, strict=True)]
    return np.concatenate(flat, axis=-1)


def _lasting(apart: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """(the correlation of a deviation with the one before, whether it is known), [n, C, 2]."""
  pairs = mask[..., 1:] * mask[..., :-1]
  products = (apart[..., 1:] * apart[..., :-1]).sum(axis=2)
  squares = ((np.square(apart[..., 1:]) + np.square(apart[..., :-1])) * pairs / 2).sum(axis=2)
  known = (pairs.sum(axis=2) >= 3) & (squares > 1e-9)
  correlation = np.where(known, products / np.maximum(squares, 1e-9), 0)
  return np.stack([np.clip(correlation, -1, 1), known], axis=2)


def reach(noise_multiplier: float, dim: int, count: float, usual: float) -> float:
  """How long a vector may be, in units of how long they usually are.

  Who has what is rare has long vectors, and what is high makes them longer: means of vectors that
  are cut are too low. The less noise there is, the less is cut.

  Args:
    noise_multiplier: of the sum of vectors.
    dim: of a vector.
    count: how many records there are, ≥ 1.
    usual: what is returned where the noise in a mean vector is about a sixtieth.
  """
  noise = noise_multiplier * np.sqrt(dim) / count
  return float(np.clip(usual * np.cbrt(_USUAL_NOISE / max(noise, 1e-9)), *_REACH))


@dataclasses.dataclass(frozen=True)
class Scale:
  """What traits are compared with, all from what was released before; float64 [C] each.

  Attributes:
    traits: of the series.
    rate: the mean share of steps at which a channel is measured.
    squared: the mean square of that share.
    level: the mean of a record's mean value, in u.
    spread: the deviation of values.
    doubt: the error of `rate`.
    reaches: how long a vector of rates, and one of values, may be, in units of how long they
      usually are (`reach`).
  """

  traits: Traits
  rate: np.ndarray
  squared: np.ndarray
  level: np.ndarray
  spread: np.ndarray
  doubt: np.ndarray
  reaches: tuple[float, float]

  @property
  def _varies(self) -> np.ndarray:
    """Rates are divided by it, [C, 1]: the error of one counts in units of √(p(1 - p))."""
    return np.sqrt(np.maximum(self.rate * (1 - self.rate), 1e-3))[:, np.newaxis]

  @property
  def _size(self) -> np.ndarray:
    """The mean square of a record's values over their squared spread, [C].

    Of a record that is measured seldom all cosines are about as large.
    """
    steps = self.traits.schema.grid.steps
    return self.squared + (self.traits.sizes[1] - 1) * self.rate / steps

  @property
  def _rare(self) -> np.ndarray:
    """Values are divided by it, [C, 1].

    The error of a mean is the noise over the rate, and rare channels have short vectors: with the
    third root of size and rate the sum of errors is least.
    """
    return (np.cbrt(self._size * self.rate) * self.spread)[:, np.newaxis]

  @property
  def radii(self) -> tuple[float, float]:
    """Of rates and of all else; longer vectors are scaled down to it."""
    share = self.traits.sizes[0] / self.traits.schema.grid.steps
    varying = np.maximum(self.squared - self.rate**2, 0) + self.rate * (1 - self.rate) * share
    values = self._size * np.square(self.spread / self._rare[:, 0])
    of_rates = np.sqrt((np.maximum(varying, 1e-4) / np.square(self._varies[:, 0])).sum())
    of_values = np.sqrt((values + _OF_LASTING**2).sum())
    return self.reaches[0] * float(of_rates), self.reaches[1] * float(of_values)

  def vectors_of_rates(self, traits: np.ndarray) -> np.ndarray:
    """float64 [n, dims[0]] of traits [n, dim]."""
    often, _, _ = self.traits.parts(traits)
    expected = np.zeros(often.shape[1:])
    expected[:, 0] = self.rate
    return ((often - expected) / self._varies).reshape(len(often), self.traits.dims[0])

  def vectors_of_values(self, traits: np.ndarray) -> np.ndarray:
    """float64 [n, dims[1]] of traits [n, dim]."""
    often, high, lasting = self.traits.parts(traits)
    high = (high - self.level[:, np.newaxis] * often[..., : high.shape[-1]]) / self._rare
    found = np.concatenate([high, _OF_LASTING * lasting], axis=-1)
    return found.reshape(len(often), self.traits.dims[1])

  def rates(self, total: np.ndarray, count: float, deviation: float) -> np.ndarray:
    """How many are measured at each step, float64 [C, T], by the sum of vectors of rates.

    Args:
      total: float64 [dims[0]], with noise.
      count: how many records there are, ≥ 1.
      deviation: of the noise in each entry.
    """
    apart = total.reshape(len(self.rate), -1) / count * self._varies
    noise = deviation / count * self._varies
    # What may be noise is drawn to zero.
    usual = self._varies**2
    apart[:, :1] *= usual / (usual + noise**2)
    mean = np.clip(self.rate[:, np.newaxis] + apart[:, :1], 1e-3, 1)
    likely = _LIKELY_RATE * mean * np.sqrt(1 - mean) / np.arange(1, apart.shape[1])
    clear = 1 - np.square(_CLEAR * noise) / np.maximum(np.square(apart[:, 1:]), 1e-18)
    apart[:, 1:] *= np.maximum(likely**2 / (likely**2 + noise**2 + 1e-18), clear)
    rate = mean + apart[:, 1:] @ self.traits.often[1:]
    rate = np.clip(rate, _LEAST_RATE * mean, 1)
    rate = np.minimum(rate * mean / rate.mean(axis=1, keepdims=True), 1)
    return np.where(self.traits.schema.nullable[:, np.newaxis], rate, 1.0)

  def knowing(self, rates: np.ndarray, count: float, deviation: float) -> Scale:
    """With what `rates` has found, and about the error of that."""
    doubt = deviation / count * self._varies[:, 0] * self.traits.schema.nullable
    rate = np.clip(rates.mean(axis=1), np.minimum(doubt, 1), 1)
    squared = np.clip(self.squared * rate / np.maximum(self.rate, 1e-9), rate**2, rate)
    return dataclasses.replace(self, rate=rate, squared=squared, doubt=doubt)

  def profile(
    self, rates: np.ndarray, total: np.ndarray, count: float, deviation: float, guess: np.ndarray
  ) -> Profile:
    """What the sum of vectors of values says.

    Args:
      rates: float64 [C, T].
      total: float64 [dims[1]], with noise.
      count: how many records there are, ≥ 1.
      deviation: of the noise in each entry.
      guess: float64 [C], about the mean of each channel, in u.
    """
    each = total.reshape(len(self.rate), -1) / count
    high, lasting = np.split(each, self.traits.sizes[1:2], axis=1)
    noise = deviation / count
    weights = self._weights(high * self._rare, rates, noise * self._rare, guess)
    mean = self.level[:, np.newaxis] + weights @ self.traits.high
    known = np.maximum(lasting[:, 1], 0.02 * _OF_LASTING)
    return Profile(rates, mean, np.clip(lasting[:, 0] / known, -0.9, 0.95))

  def _weights(
    self, high: np.ndarray, rate: np.ndarray, noise: np.ndarray, guess: np.ndarray
  ) -> np.ndarray:
    """Of cosines in the mean over time less `level`, float64 [C, B], most likely with a prior.

    Args:
      high: float64 [C, B], of values less `level` where they are known, cosines over time.
      rate: float64 [C, T].
      noise: float64 [C, 1], its deviation in `high`.
      guess: float64 [C], as of `profile`.
    """
    basis = self.traits.high
    gram = np.einsum('ct,kt,lt->ckl', rate, basis, basis, optimize=True) / basis.shape[1]
    likely = _LIKELY / np.maximum(np.arange(len(basis)), 0.2)
    prior = np.square(noise / np.maximum(self.spread[:, np.newaxis], 1e-6) / likely) + 1e-9
    prior = prior + np.square(self.doubt[:, np.newaxis])
    lhs = gram @ gram + prior[:, :, np.newaxis] * np.eye(len(basis))
    rhs = np.einsum('ckl,cl->ck', gram, high)
    rhs[:, 0] += prior[:, 0] * (guess - self.level)
    return np.linalg.solve(lhs, rhs[..., np.newaxis])[..., 0]
