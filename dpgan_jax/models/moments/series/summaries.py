"""Sequences as rows of summaries, by public rules, and sequences of such rows.

Values of a channel become u in [0, 1] by its public range. Of each record and channel there are
then: the share of steps at which it was measured (rate), the mean of what was (level), the weights
of the lowest cosines over time that fit what was (shapes), and how far it is from that fit
(spread). With the static columns these are the columns of a table. What is alike for all is in a
record's traits (`profile`): when a channel is measured, when it is high, how long deviations last.

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
from dpgan_jax.models.moments.series.profile import Traits, cosines

_RIDGE = 0.3  # of a shape: its prior precision, in measurements, times the square of its frequency
_TOGETHER = 0.5  # how much of when a channel is measured it shares with others: a guess for all
_RECORDS_AT_ONCE = 2000


class OfChannel(NamedTuple):
  """A `Course` of one channel."""

  chance: np.ndarray
  often: float
  shift: np.ndarray
  lasting: float


class Course(NamedTuple):
  """What sequences are made by, beside their summaries.

  Attributes:
    chance: float64 [C, T], the logarithm of how likely a channel is measured at a step.
    often: float64 [C], by how much more each record is measured, as of `oftener`.
    shift: float64 [C, T], of u, added to each record's own.
    lasting: float64 [C], the correlation of a deviation with that of the step before.
  """

  chance: np.ndarray
  often: np.ndarray
  shift: np.ndarray
  lasting: np.ndarray

  def of(self, c: int) -> OfChannel:
    """Of the channel of this number."""
    often, lasting = float(self.often[c]), float(self.lasting[c])
    return OfChannel(self.chance[c], often, self.shift[c], lasting)


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
    """float64 [K, T], of mean 0 and mean square 1 each."""
    return cosines(self.schema.grid.steps, self.shapes + 1)[1:]

  @functools.cached_property
  def levels(self) -> list[int]:
    """The columns of each channel's level."""
    places = {column.name: i for i, column in enumerate(self.table.columns)}
    return [places[f'{channel.name} (level)'] for channel in self.schema.channels]

  @functools.cached_property
  def doubted(self) -> list[bool]:
    """Of each column, whether what is not zero or missing may be noise; rates are known better."""
    rates = {f'{channel.name} (rate)' for channel in self.schema.channels}
    return [column.name not in rates for column in self.table.columns]

  def mean(self, rows: np.ndarray) -> np.ndarray:
    """Of all values of each channel, u float64 [C]: who is measured often counts for more."""
    often = np.stack(
      [
        np.square(rows[:, level - 1]) if channel.nullable else np.ones(len(rows))
        for level, channel in zip(self.levels, self.schema.channels, strict=True)
      ], axis=1,
    )  # fmt: skip
    levels = np.nan_to_num(rows[:, self.levels])
    return (often * levels).sum(axis=0) / np.maximum(often.sum(axis=0), 1e-9)

  @functools.cached_property
  def traits(self) -> Traits:
    """What is alike for all records."""
    return Traits(self.schema)

  def of(self, records: np.ndarray) -> np.ndarray:
    """Rows float64 [n, D] of `table`, each of its record alone."""
    return self.encode(records)[0]

  def encode(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows float64 [n, D], traits float64 [n, P]), each of its record alone."""
    parts = [
      self._encode(records[start : start + _RECORDS_AT_ONCE])
      for start in range(0, max(len(records), 1), _RECORDS_AT_ONCE)
    ]
    rows, traits = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(traits)

  def _encode(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    static, values = self.schema.split(records)
    u, mask = self.known(values)
    number = mask.sum(axis=2)
    level = u.sum(axis=2) / np.maximum(number, 1)
    apart = (u - level[..., np.newaxis]) * mask
    shape = self._shapes(apart, mask)
    apart = (apart - shape @ self.cosines) * mask
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
      rate = [_root(number[:, c] / mask.shape[2])] if channel.nullable else []
      columns.append(np.clip(np.stack([*rate, *own], axis=1), -1, 1))
    return np.concatenate(columns, axis=1), self.traits.of(u, mask, apart)

  def known(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(u, 0 where there is none; 1 where there is one), float64 [n, C, T] of values [n, T, C]."""
    values = values.swapaxes(1, 2)
    there = ~np.isnan(values)
    return np.where(there, self._scaled(values), 0), there.astype(np.float64)

  def _scaled(self, values: np.ndarray) -> np.ndarray:
    low, high = self._ranges
    return np.clip((values - low) / (high - low), 0, 1)

  @functools.cached_property
  def _ranges(self) -> np.ndarray:
    """float64 [2, C, 1]."""
    return np.array([channel.range for channel in self.schema.channels]).T[..., np.newaxis]

  def known_of(self, c: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `known`, float64 [n, T] each, of values [n, T] of one channel."""
    low, high = self.schema.channels[c].range
    there = ~np.isnan(values)
    return np.where(there, np.clip((values - low) / (high - low), 0, 1), 0), there.astype(float)

  def _shapes(self, apart: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """float64 [n, C, K]: least squares, drawn to zero where little was measured."""
    basis = self.cosines
    gram = np.einsum('nct,kt,lt->nckl', mask, basis, basis, optimize=True)
    gram += np.diag(_RIDGE * np.arange(1, len(basis) + 1.0) ** 2)
    return np.linalg.solve(gram, (apart @ basis.T)[..., np.newaxis])[..., 0]

  def decode(self, rows: np.ndarray, course: Course, rng: np.random.Generator) -> np.ndarray:
    """Records float64 [n, S + T·C] that have the summaries `rows`."""
    steps, channels = self.schema.grid.steps, len(self.schema.channels)
    together = rng.gumbel(size=(len(rows), steps))
    values = np.empty((len(rows), steps, channels))
    for c in range(channels):
      values[:, :, c] = self.channel(c, rows, course.of(c), together, rng)
    return self.schema.join(rows[:, : len(self.schema.static)], values)

  def channel(
    self, c: int, rows: np.ndarray, course: OfChannel, together: np.ndarray,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """Values float64 [n, T] of one channel, by the course of it alone.

    Args:
      c: its number.
      rows: as of `decode`.
      course: of this channel.
      together: float64 [n, T], Gumbel's, what makes records measured at the same steps in all.
      rng: for all else.
    """
    channel, place, steps = self.schema.channels[c], self.levels[c], self.schema.grid.steps
    level, spread = (np.nan_to_num(rows[:, p]) for p in (place, place + 1 + self.shapes))
    u = level[:, np.newaxis] + self.weights(c, rows) @ self.cosines + course.shift
    u += np.square(spread)[:, np.newaxis] * _lasting(course.lasting, len(rows), steps, rng)
    low, high = channel.range
    own = np.clip(low + (high - low) * u, *channel.bounds)
    if channel.step is not None:
      bottom, top = channel.bounds
      own = np.minimum(bottom + np.rint((own - bottom) / channel.step) * channel.step, top)
    if channel.nullable:
      number = oftener(np.square(rows[:, place - 1]), course.often) * steps
      number = np.floor(number + rng.random(len(rows)))
      likely = course.chance + _TOGETHER * together
      likely = likely + (1 - _TOGETHER) * rng.gumbel(size=likely.shape)
      order = np.argsort(np.argsort(-likely, axis=1), axis=1)
      own = np.where(order < number[:, np.newaxis], own, np.nan)
    return own + 0.0

  def weights(self, c: int, rows: np.ndarray) -> np.ndarray:
    """Of each cosine in a channel, float64 [n, K]; of no values it is 0."""
    roots = np.nan_to_num(rows[:, self.levels[c] + 1 : self.levels[c] + 1 + self.shapes])
    return np.sign(roots) * np.square(roots)


def oftener(share: np.ndarray, by: float) -> np.ndarray:
  """Shares s in [0, 1], more or less: s·exp(b) for b ≤ 0, s to the power of exp(-b) for b > 0."""
  return share * np.exp(by) if by <= 0 else share ** np.exp(-by)


def _root(x: np.ndarray) -> np.ndarray:
  """Small values are many: their differences count for more. `np.sign(y)·y²` is the inverse."""
  return np.sign(x) * np.sqrt(np.abs(x))


def _lasting(correlation: float, count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
  """An autoregression of order 1 and variance 1, float64 [count, steps]."""
  fresh = rng.normal(size=(count, steps))
  for t in range(1, steps):
    fresh[:, t] = correlation * fresh[:, t - 1] + np.sqrt(1 - correlation**2) * fresh[:, t]
  return fresh
