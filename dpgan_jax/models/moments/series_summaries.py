"""Sequences as rows of summaries, by public rules, and sequences of such rows.

Values of a channel become u in [0, 1] by its public range. Of each record and channel there are
then: the share of steps at which it was measured (rate), the mean of what was (level), the weights
of the lowest cosines over time that fit what was (shapes), and how far it is from that fit
(spread). With the static columns these are the columns of a table. What varies within a record and
is alike for all, the `pattern`, is a vector a record whose sum says: when a channel is measured,
when it is high, and how long a deviation lasts.

>>> from dpgan_jax.data.series.generated import VITALS, vitals
>>> summaries = Summaries(VITALS, 3)
>>> rows = summaries.of(vitals('test').records)
>>> rows.shape[1] == len(summaries.table.columns)
True
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from dpgan_jax.data.series.schema import Channel, SeriesSchema
from dpgan_jax.data.tables.schema import Column, Schema

PROFILE = 6
"""Cosines of the rate and of the mean over time, that are alike for all records."""
_RIDGE = 0.3  # of a shape: its prior precision, in measurements, times the square of its frequency
_OF_VALUES, _OF_LASTING = 4.0, 0.3  # weights of parts of a pattern, beside the rate's 1
_TOGETHER = 0.5  # how much of when a channel is measured it shares with others: a guess for all
_LEAST_RATE = 0.05  # of the mean rate, at any step
_RECORDS_AT_ONCE = 2000


class Pattern(NamedTuple):
  """What records have in common.

  Attributes:
    rate: float64 [C, T], how likely a channel is measured at a step, beside other steps.
    shape: float64 [C, T], of u, added to each record's own.
    lasting: float64 [C], the correlation of a deviation with that of the step before.
  """

  rate: np.ndarray
  shape: np.ndarray
  lasting: np.ndarray


@dataclasses.dataclass(frozen=True)
class Summaries:
  """Of the series of a schema.

  Attributes:
    schema: public.
    shapes: K, how many cosines of its own a record has in each channel, the level not counted.
  """

  schema: SeriesSchema
  shapes: int

  @functools.cached_property
  def table(self) -> Schema:
    """Of the rows: static columns, then those of each channel."""
    columns = [c for channel in self.schema.channels for c in self._of_channel(channel)]
    return Schema(columns=(*self.schema.static, *columns), declared_public=True)

  def _of_channel(self, channel: Channel) -> list[Column]:
    def column(what: str, lower: float) -> Column:
      rate = what == 'rate'
      return Column(
        name=f'{channel.name} ({what})', kind='real', lower=lower, upper=1,
        nullable=channel.nullable and not rate,
      )  # fmt: skip

    return [
      *([column('rate', 0)] if channel.nullable else []), column('level', 0),
      *(column(f'shape {k + 1}', -1) for k in range(self.shapes)), column('spread', 0),
    ]  # fmt: skip

  @functools.cached_property
  def cosines(self) -> np.ndarray:
    """float64 [max(K, PROFILE), T], of mean 0 and mean square 1 each."""
    steps = self.schema.grid.steps
    most = min(max(self.shapes, PROFILE), steps - 1)
    found = np.arange(1, most + 1)[:, np.newaxis] * (np.arange(steps) + 0.5) * (np.pi / steps)
    return np.sqrt(2) * np.cos(found)

  @property
  def profile(self) -> np.ndarray:
    """Those of what is alike for all, [P, T]."""
    return self.cosines[:PROFILE]

  @property
  def pattern_dim(self) -> int:
    """How long the vector is that a record adds to the pattern."""
    return len(self.schema.channels) * (2 * len(self.profile) + 2)

  @property
  def pattern_radius(self) -> float:
    """Longer vectors are scaled down to it."""
    return 0.5 * float(np.sqrt(len(self.schema.channels)))

  def of(self, records: np.ndarray) -> np.ndarray:
    """Rows float64 [n, D] of `table`, each of its record alone."""
    return self.encode(records)[0]

  def encode(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows float64 [n, D], patterns float64 [n, P]), each of its record alone."""
    parts = [
      self._encode(records[start : start + _RECORDS_AT_ONCE])
      for start in range(0, max(len(records), 1), _RECORDS_AT_ONCE)
    ]
    rows, patterns = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(patterns)

  def _encode(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    static, values = self.schema.split(records)
    values = values.swapaxes(1, 2)  # [n, C, T]
    there = ~np.isnan(values)
    u = np.where(there, self._scaled(values), 0)
    mask = there.astype(np.float64)
    number = mask.sum(axis=2)
    level = u.sum(axis=2) / np.maximum(number, 1)
    apart = (u - level[..., np.newaxis]) * mask
    shape = self._shapes(apart, mask)
    apart = (apart - shape @ self.cosines[: self.shapes]) * mask
    spread = np.sqrt(np.square(apart).sum(axis=2) / np.maximum(number, 1))
    few = number < 2
    columns = [static]
    for c, channel in enumerate(self.schema.channels):
      gone = number[:, c] == 0
      own = [
        np.where(gone, np.nan, level[:, c]),
        *(np.where(gone, np.nan, _root(shape[:, c, k])) for k in range(self.shapes)),
        np.where(few[:, c] & channel.nullable, np.nan, _root(spread[:, c])),
      ]
      rate = [_root(number[:, c] / values.shape[2])] if channel.nullable else []
      columns.append(np.clip(np.stack([*rate, *own], axis=1), -1, 1))
    return np.concatenate(columns, axis=1), self._pattern(mask, apart)

  def _scaled(self, values: np.ndarray) -> np.ndarray:
    low, high = self._ranges
    return np.clip((values - low) / (high - low), 0, 1)

  @functools.cached_property
  def _ranges(self) -> np.ndarray:
    """float64 [2, C, 1]."""
    return np.array([channel.range for channel in self.schema.channels]).T[..., np.newaxis]

  def _shapes(self, apart: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """float64 [n, C, K]: least squares, drawn to zero where little was measured."""
    basis = self.cosines[: self.shapes]
    gram = np.einsum('nct,kt,lt->nckl', mask, basis, basis, optimize=True)
    gram += np.diag(_RIDGE * np.arange(1, len(basis) + 1.0) ** 2)
    return np.linalg.solve(gram, (apart @ basis.T)[..., np.newaxis])[..., 0]

  def _pattern(self, mask: np.ndarray, apart: np.ndarray) -> np.ndarray:
    steps = mask.shape[2]
    rate = mask @ self.profile.T / steps
    shape = _OF_VALUES * (apart @ self.profile.T) / steps
    pairs = mask[..., 1:] * mask[..., :-1]
    products = (apart[..., 1:] * apart[..., :-1]).sum(axis=2)
    squares = (np.square(apart[..., 1:]) + np.square(apart[..., :-1])) * pairs / 2
    known = (pairs.sum(axis=2) >= 3) & (squares.sum(axis=2) > 1e-9)
    correlation = np.where(known, products / np.maximum(squares.sum(axis=2), 1e-9), 0)
    lasting = _OF_LASTING * np.stack([np.clip(correlation, -1, 1), known], axis=2)
    return np.concatenate([rate, shape, lasting], axis=2).reshape(len(mask), self.pattern_dim)

  def pattern(
    self, sums: np.ndarray, rates: np.ndarray, total: float, deviation: float
  ) -> Pattern:
    """What the sum of all vectors says.

    Args:
      sums: float64 [P], of all records.
      rates: float64 [C], the share of steps at which a channel is measured.
      total: how many records there are, ≥ 1.
      deviation: of the noise in each sum: what does not stand out of it is drawn to zero.
    """
    size = len(self.profile)
    of = sums.reshape(len(rates), -1)
    kept = np.maximum(0, 1 - deviation**2 / np.maximum(np.square(of[:, : 2 * size]), 1e-12))
    of = np.concatenate([of[:, : 2 * size] * kept, of[:, 2 * size :]], axis=1)
    rate = rates[:, np.newaxis] + of[:, :size] / total @ self.profile
    rate = np.maximum(rate, _LEAST_RATE * np.maximum(rates, 1e-3)[:, np.newaxis])
    shape = of[:, size : 2 * size] / (_OF_VALUES * total) @ self.profile
    shape = shape / np.maximum(rate, 0.02)
    lasting = of[:, -2] / np.maximum(of[:, -1], 0.02 * total * _OF_LASTING)
    return Pattern(rate, shape, np.clip(lasting, -0.9, 0.95))

  def decode(self, rows: np.ndarray, pattern: Pattern, rng: np.random.Generator) -> np.ndarray:
    """Records float64 [n, S + T·C] that have the summaries `rows`."""
    static = rows[:, : len(self.schema.static)]
    steps, place = self.schema.grid.steps, len(self.schema.static)
    together = rng.gumbel(size=(len(rows), steps))
    values = np.empty((len(rows), steps, len(self.schema.channels)))
    for c, channel in enumerate(self.schema.channels):
      number = np.full(len(rows), steps)
      if channel.nullable:
        number = np.rint(np.square(rows[:, place]) * steps)
        number = np.maximum(number, rows[:, place] > 0)
        place += 1
      # Of one value there is no spread, and of none no level.
      level, *shape, spread = np.nan_to_num(rows[:, place : place + 2 + self.shapes]).T
      place += 2 + self.shapes
      weights = np.sign(np.array(shape)) * np.square(np.array(shape))
      u = level[:, np.newaxis] + weights.T @ self.cosines[: self.shapes] + pattern.shape[c]
      u += np.square(spread)[:, np.newaxis] * _lasting(pattern.lasting[c], len(rows), steps, rng)
      low, high = channel.range
      own = np.clip(low + (high - low) * u, *channel.bounds)
      if channel.step is not None:
        bottom, top = channel.bounds
        own = np.minimum(bottom + np.rint((own - bottom) / channel.step) * channel.step, top)
      if channel.nullable:
        likely = np.log(pattern.rate[c]) + _TOGETHER * together
        likely = likely + (1 - _TOGETHER) * rng.gumbel(size=likely.shape)
        order = np.argsort(np.argsort(-likely, axis=1), axis=1)
        own = np.where(order < number[:, np.newaxis], own, np.nan)
      values[:, :, c] = own + 0.0
    return self.schema.join(static, values)


def _root(x: np.ndarray) -> np.ndarray:
  """Small values are many: their differences count for more. `np.sign(y)·y²` is the inverse."""
  return np.sign(x) * np.sqrt(np.abs(x))


def _lasting(correlation: float, count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
  """An autoregression of order 1 and variance 1, float64 [count, steps]."""
  fresh = rng.normal(size=(count, steps))
  for t in range(1, steps):
    fresh[:, t] = correlation * fresh[:, t - 1] + np.sqrt(1 - correlation**2) * fresh[:, t]
  return fresh
