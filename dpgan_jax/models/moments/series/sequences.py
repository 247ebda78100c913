"""Sequences of a release of moments of series: a Gaussian of scores for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import scipy.special

from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.models.moments.series.scores import Scores
from dpgan_jax.models.moments.series.summaries import Course, Summaries
from dpgan_jax.models.moments.tables import mixture

_TRIED = 4  # times as many as are drawn, of each class, where values are given
_LEAST_VARIANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Sequences:
  """What sequences are drawn from.

  Attributes:
    summaries: what a sequence is made of.
    cells: of each summary.
    scores: what these mean.
    course: what sequences are made by; None until it is known.
    shares: of each class among all, float64 [K], their sum 1.
    centres: float64 [K, D].
    factors: float64 [K, D, D]; ε ↦ centre + factor·ε.
  """

  summaries: Summaries
  cells: tuple[Cells, ...]
  scores: Scores
  course: Course | None
  shares: np.ndarray
  centres: np.ndarray
  factors: np.ndarray

  def draw(self, labels: np.ndarray, key: jax.Array) -> np.ndarray:
    """Records float64 [n, S + T·C]."""
    assert self.course is not None
    rng = mixture.generator(key)
    return self.summaries.decode(self.rows(labels, rng), self.course, rng)

  def draw_given(
    self, num: int, given: Mapping[int, float], label: int | None, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray]:
    """Records float64 [num, S + T·C] that have some static values, and their classes int64 [num].

    Scores of given values are drawn one after the other, each within its cell, and as often as that
    is likely (Geweke 1991, Hajivassiliou & Keane); all others follow from them.

    Args:
      num: how many.
      given: the value of a static column, by its number.
      label: the class, if it is given.
      key: a typed key.
    """
    assert self.course is not None
    rng = mixture.generator(key)
    classes = np.arange(len(self.shares)) if label is None else np.array([label])
    labels = np.repeat(classes, _TRIED * num)
    # What is missing says nothing of the others.
    known = {c: v for c, v in given.items() if not np.isnan(v)}
    z, likely = self._within(known, labels, rng)
    ends = np.cumsum(likely * self.shares[labels])
    chosen = np.searchsorted(ends, ends[-1] * rng.random(num), side='right').clip(max=len(ends) - 1)
    z, labels = z[chosen], labels[chosen]
    rows = self._rows(scipy.special.ndtr(self._completed(list(known), z, labels, rng)), rng)
    rows[:, list(given)] = list(given.values())
    return self.summaries.decode(rows, self.course, rng), labels

  def _within(
    self, given: Mapping[int, float], labels: np.ndarray, rng: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray]:
    """(scores of given values, float64 [n, G], how likely a class has them, float64 [n])."""
    places = list(given)
    z, likely = np.empty((len(labels), len(places))), np.ones(len(labels))
    for g, (place, value) in enumerate(given.items()):
      first = int(self.cells[place].column.nullable)
      ends = np.cumsum(self.scores.shares[place][first:])
      ends = np.append(0, ends / ends[-1]) if ends[-1] > 0 else np.linspace(0, 1, len(ends) + 1)
      cell = int(self.cells[place].of(np.array([value]))[0]) - first
      between = scipy.special.ndtri(ends[cell : cell + 2])
      for k in np.unique(labels):
        own = labels == k
        mean, deviation = self._following(k, places[:g], z[own, :g], place)
        low, high = scipy.special.ndtr((between - mean[:, np.newaxis]) / deviation).T
        at = low + (high - low) * rng.random(len(mean))
        score = mean + deviation * scipy.special.ndtri(np.clip(at, 1e-12, 1 - 1e-12))
        z[own, g] = np.clip(score, *np.clip(between, -9, 9))
        likely[own] *= np.maximum(high - low, 1e-12)
    return z, likely

  def _following(
    self, k: int, places: list[int], z: np.ndarray, place: int
  ) -> tuple[np.ndarray, float]:
    """(mean float64 [n], deviation) of one score, of records of class k that have the others."""
    covariance = self.factors[k] @ self.factors[k].T
    gain = _gain(covariance, places)
    mean = self.centres[k, place] + (z - self.centres[k, places]) @ gain[:, place]
    left = covariance[place, place] - covariance[place, places] @ gain[:, place]
    return mean, float(np.sqrt(max(left, _LEAST_VARIANCE)))

  def _completed(
    self, places: list[int], z: np.ndarray, labels: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """Scores float64 [n, D] of which these are known, float64 [n, G]."""
    found = self._scores(labels, rng)
    for k in np.unique(labels):
      own = labels == k
      gain = _gain(self.factors[k] @ self.factors[k].T, places)
      found[own] += (z[own] - found[own][:, places]) @ gain
    found[:, places] = z
    return found

  def _scores(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of these classes, float64 [n, D]."""
    z = self.centres[labels]
    for k in np.unique(labels):
      own = np.flatnonzero(labels == k)
      z[own] += rng.normal(size=(len(own), z.shape[1])) @ self.factors[k].T
    return z

  def rows(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of summaries of these classes, float64 [n, D]."""
    return self._rows(scipy.special.ndtr(self._scores(labels, rng)), rng)

  def _rows(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of summaries at these places of their distributions, float64 [n, D] in (0, 1)."""
    rows, static = np.empty(places.shape), len(self.summaries.schema.static)
    for i, column in enumerate(self.summaries.table.columns):
      share, first = self.scores.shares[i], int(column.nullable)
      known = np.cumsum(share[first:])
      if known[-1] <= 0:
        known = np.arange(1.0, len(known) + 1)
      cells = np.searchsorted(known, places[:, i] * known[-1], side='right')
      cells = np.minimum(cells, len(known) - 1) + first
      if i < static and column.nullable:
        cells = np.where(rng.random(len(cells)) < share[0], 0, cells)
      rows[:, i] = self.cells[i].value(cells, rng.random(len(cells)))
    return rows


def _gain(covariance: np.ndarray, places: list[int]) -> np.ndarray:
  """What all scores follow from some by, float64 [G, D]: regression."""
  own = covariance[np.ix_(places, places)] + _LEAST_VARIANCE * np.eye(len(places))
  return np.linalg.solve(own, covariance[places])
