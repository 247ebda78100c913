"""A course over time by which sequences have the profile that was released: free of privacy cost.

Sequences that are made of summaries alone miss the released rates and means over time: cells of
summaries are noisy, few of the measurements that were likely come true, and who is measured often
is high or low. So some are made, and the course is moved by what they miss, several times, with new
draws; the mean of the last courses is taken (Polyak & Juditsky 1992). Each channel is looked at by
itself, on records that have it: of all of them a rare one would hardly have any.
"""

from __future__ import annotations

import numpy as np

from dpgan_jax.models.moments.series.profile import Profile, Scale, cosines
from dpgan_jax.models.moments.series.summaries import Course, OfChannel, Summaries

_STEPS = (1.0, 1.0, 0.7, 0.7, *(0.5,) * 6)
_LAST = 5
_FEW = 3.0  # measurements, beside which others count
_MOST = 3.0  # of how much more each record is measured
_SEQUENCES = 1000  # of a channel, made at each step
_COSINES = 64  # of a shift
_LIKELY = 0.4  # deviation of a cosine's weight in a shift, over its frequency, in spreads


def course(
  summaries: Summaries, scale: Scale, profile: Profile, rows: np.ndarray, doubt: float,
  rng: np.random.Generator,
) -> Course:  # fmt: skip
  """What sequences of the summaries `rows` [n, D] have to be made by to have `profile`.

  `doubt` is about the error of a shape's mean weight in them, that comes of noise.
  """
  channels = range(len(summaries.schema.channels))
  wanted = profile.mean + _finer(summaries, rows, len(scale.traits.high), doubt)
  found = [_of_channel(summaries, c, scale, profile, wanted[c], rows, rng) for c in channels]
  return Course(*(np.array(each) for each in zip(*found, strict=True)))


def _finer(summaries: Summaries, rows: np.ndarray, known: int, doubt: float) -> np.ndarray:
  """What records' own shapes add to means, of cosines that the profile lacks: float64 [C, T]."""
  channels = range(len(summaries.schema.channels))
  weights = np.array([summaries.weights(c, rows).mean(axis=0) for c in channels])
  weights[:, : known - 1] = 0
  weights *= np.maximum(0, 1 - doubt**2 / np.maximum(weights**2, 1e-12))  # may all be noise
  return weights @ summaries.cosines


def _of_channel(
  summaries: Summaries, c: int, scale: Scale, profile: Profile, mean: np.ndarray, rows: np.ndarray,
  rng: np.random.Generator,
) -> OfChannel:  # fmt: skip
  """Of one channel that is to have this mean, float64 [T]."""
  rate, level = profile.rate[c], summaries.levels[c]
  steps = len(rate)
  smooth, basis = scale.traits.often, cosines(steps, _COSINES)
  prior = np.diag(np.square(np.maximum(np.arange(len(basis)), 0.2) / _LIKELY))
  have, share = np.arange(len(rows)), 1.0
  if summaries.schema.channels[c].nullable and (rows[:, level - 1] > 0).any():
    have = np.flatnonzero(rows[:, level - 1] > 0)
    share = len(have) / len(rows)
  lasting = float(profile.lasting[c])
  found, tried = OfChannel(np.log(rate), 0.0, np.zeros(steps), lasting), []
  for step in _STEPS:
    part = rng.choice(have, _SEQUENCES)
    values = summaries.channel(c, rows[part], found, rng.gumbel(size=(len(part), steps)), rng)
    u, mask = summaries.known_of(c, values)
    number = mask.sum(axis=0)
    # Compared as it was released: of rates that jump from step to step some cosines are known.
    own = np.maximum((number @ smooth.T / steps) @ smooth, 0)
    wanted = rate * len(part) / share
    chance = found.chance + step * np.log((wanted + _FEW) / (own + _FEW))
    made = _within(share * float(mask.mean()))
    steep = min(1.0, -np.log(made)) if found.often > 0 else 1.0
    often = found.often + step * np.log(_within(float(rate.mean())) / made) / steep
    apart = number * mean - u.sum(axis=0)
    weights = np.linalg.solve((basis * number) @ basis.T + prior, basis @ apart)
    shift = found.shift + step * weights @ basis
    found = OfChannel(chance, float(np.clip(often, -_MOST, _MOST)), shift, lasting)
    tried.append(found)
  chance, often, shift, _ = (np.mean(last, axis=0) for last in zip(*tried[-_LAST:], strict=True))
  return OfChannel(chance, float(often), shift, lasting)


def _within(rate: float) -> float:
  return min(max(rate, 1e-4), 1 - 1e-4)
