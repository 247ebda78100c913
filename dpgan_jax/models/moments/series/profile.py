"""When each channel of series is measured, and how high it is then, over time: alike for all.

Of each record and channel these are the lowest cosines over time of *measured or not*, and of the
values where they were measured, u in [0, 1]: its traits, by public rules. What is released is the
sum of one vector a record: traits less what the counts of cells let expect, in units in which all
channels are about as long, so that rare ones do not drown. `Scale` makes vectors of traits, and of
their sum what it says; all its numbers follow from the counts that were released before.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from dpgan_jax.data.series.schema import SeriesSchema

_OFTEN, _HIGH = 16, 5  # cosines of the rate and of the mean over time, the constant among them
_OF_RATES, _OF_LASTING = 1.0, 0.3  # weights in a vector, beside that of values
_LIKELY = 0.2  # deviation of a cosine's weight, over its frequency, in spreads: a guess for all
_LEAST_RATE = 0.1  # of the mean rate, at any step
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
  def dim(self) -> int:
    """How long the traits of a record are."""
    return len(self.schema.channels) * sum(self.sizes)

  def of(self, u: np.ndarray, mask: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """float64 [n, dim], each row of its record alone.

    Args:
      u: values in [0, 1], 0 where there is none, float64 [n, C, T].
      mask: 1 where there is one.
      apart: how far each is from what the record's own summaries say, 0 where there is none.
    """
    steps = mask.shape[2]
    return np.concatenate(
      [mask @ self.often.T / steps, u @ self.high.T / steps, _lasting(apart, mask)], axis=2
    ).reshape(len(u), self.dim)

  def parts(self, traits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of traits [..., dim]: rates [..., C, A], values [..., C, B], lasting [..., C, 2]."""
    a, b, _ = self.sizes
    each = traits.reshape(*traits.shape[:-1], len(self.schema.channels), sum(self.sizes))
    return each[..., :a], each[..., a : a + b], each[..., a + b :]

  def joined(self, *parts: np.ndarray) -> np.ndarray:
    """The inverse of `parts`."""
    found = np.concatenate(parts, axis=-1)
    return found.reshape(*found.shape[:-2], self.dim)


def _lasting(apart: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """(the correlation of a deviation with the one before, whether it is known), [n, C, 2]."""
  pairs = mask[..., 1:] * mask[..., :-1]
  products = (apart[..., 1:] * apart[..., :-1]).sum(axis=2)
  squares = ((np.square(apart[..., 1:]) + np.square(apart[..., :-1])) * pairs / 2).sum(axis=2)
  known = (pairs.sum(axis=2) >= 3) & (squares > 1e-9)
  correlation = np.where(known, products / np.maximum(squares, 1e-9), 0)
  return np.stack([np.clip(correlation, -1, 1), known], axis=2)


@dataclasses.dataclass(frozen=True)
class Scale:
  """What traits are compared with, all from what was released before; float64 [C] each.

  Attributes:
    traits: of the series.
    rate: the mean share of steps at which a channel is measured.
    squared: the mean square of that share.
    level: the mean of a record's mean value, in u.
    spread: the deviation of values.
  """

  traits: Traits
  rate: np.ndarray
  squared: np.ndarray
  level: np.ndarray
  spread: np.ndarray

  @functools.cached_property
  def units(self) -> tuple[np.ndarray, np.ndarray]:
    """Of rates and of values, [C, 1] each: what vectors are divided by.

    The error of a rate counts in units of √(p(1 - p)). That of a mean is the noise over the rate,
    and rare channels have short vectors: of weights r^(-x), x = 2/3 makes the sum of errors least.
    """
    rare = np.maximum(self.rate, 1e-3) ** (2 / 3)
    varies = np.sqrt(np.maximum(self.rate * (1 - self.rate), 1e-3)) / _OF_RATES
    return varies[:, np.newaxis], (rare * self.spread)[:, np.newaxis]

  @property
  def radius(self) -> float:
    """Longer vectors are scaled down to it."""
    of_rates, of_values = (np.square(unit[:, 0]) for unit in self.units)
    steps = self.traits.schema.grid.steps
    share = len(self.traits.often) / steps
    varying = np.maximum(self.squared - self.rate**2, 0) + self.rate * (1 - self.rate) * share
    square = varying / of_rates + self.squared * self.spread**2 / of_values + _OF_LASTING**2
    return float(np.sqrt(square.sum()))

  def vectors(self, traits: np.ndarray) -> np.ndarray:
    """float64 [n, dim] of traits [n, dim]."""
    often, high, lasting = self.traits.parts(traits)
    of_rates, of_values = self.units
    expected = np.zeros(often.shape[1:])
    expected[:, 0] = self.rate
    high = high - self.level[:, np.newaxis] * often[..., : high.shape[-1]]
    return self.traits.joined(
      (often - expected) / of_rates, high / of_values, _OF_LASTING * lasting
    )

  def profile(
    self, total: np.ndarray, count: float, deviation: float, guess: np.ndarray
  ) -> Profile:
    """What the sum of all vectors says.

    Args:
      total: float64 [dim], with noise.
      count: how many records there are, ≥ 1.
      deviation: of the noise in each entry.
      guess: float64 [C], about the mean of each channel, in u.
    """
    often, high, lasting = self.traits.parts(total)
    of_rates, of_values = self.units
    noise = deviation / count
    rate = self._rate(often / count * of_rates, noise * of_rates)
    weights = self.weights(high / count * of_values, rate, noise * of_values, guess)
    mean = self.level[:, np.newaxis] + weights @ self.traits.high
    known = np.maximum(lasting[:, 1], 0.02 * count * _OF_LASTING)
    return Profile(rate, mean, np.clip(lasting[:, 0] / known, -0.9, 0.95))

  def _rate(self, apart: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """float64 [C, T] of cosines less what was expected; what may be noise is drawn to zero."""
    likely = self.units[0] * _LIKELY / np.maximum(np.arange(apart.shape[1]), 0.2)
    clear = 1 - np.square(_CLEAR * noise) / np.maximum(np.square(apart), 1e-18)
    apart = apart * np.maximum(likely**2 / (likely**2 + noise**2), clear)
    apart[:, 0] += self.rate
    rate, mean = apart @ self.traits.often, np.clip(apart[:, :1], 1e-3, 1)
    rate = np.clip(rate, _LEAST_RATE * mean, 1)
    rate = np.minimum(rate * mean / rate.mean(axis=1, keepdims=True), 1)
    return np.where(self.traits.schema.nullable[:, np.newaxis], rate, 1.0)

  def weights(
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
    lhs = gram @ gram + prior[:, :, np.newaxis] * np.eye(len(basis))
    rhs = np.einsum('ckl,cl->ck', gram, high)
    rhs[:, 0] += prior[:, 0] * (guess - self.level)
    return np.linalg.solve(lhs, rhs[..., np.newaxis])[..., 0]
