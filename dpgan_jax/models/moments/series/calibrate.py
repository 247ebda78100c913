"""A course over time by which sequences have the profile that was released: free of privacy cost.

Sequences that are made of summaries alone miss the released rates and means over time, because the
cells of summaries are noisy, and because few of the measurements that were likely come true.
So some are made, their profile is found, and the course is moved by what is missing; several times,
with new draws, and the mean of the last courses is taken (Polyak & Juditsky 1992).
"""

from __future__ import annotations

import numpy as np

from dpgan_jax.models.moments.series.profile import Profile, Scale
from dpgan_jax.models.moments.series.summaries import Course, Summaries

_STEPS = (1.0, 1.0, 0.7, 0.7, *(0.5,) * 6)
_LAST = 5
_MOST = 3.0


def course(
  summaries: Summaries, scale: Scale, profile: Profile, rows: np.ndarray, guess: np.ndarray,
  rng: np.random.Generator,
) -> Course:  # fmt: skip
  """What sequences of the summaries `rows` [n, D] have to be made by to have `profile`.

  `guess` is the one that the profile was found with.
  """
  chance, shift = np.log(profile.rate), profile.mean - guess[:, np.newaxis]
  more = np.zeros(len(chance))
  tried, parts = [], np.array_split(rng.permutation(len(rows)), len(_STEPS))
  wanted = _within(profile.rate.mean(axis=1))
  for step, part in zip(_STEPS, parts, strict=True):
    made = summaries.decode(rows[part], Course(chance, more, shift, profile.lasting), rng)
    u, mask = summaries.known(summaries.schema.split(made)[1])
    often, high, _ = scale.traits.parts(scale.traits.of(u, mask, np.zeros_like(u)).mean(axis=0))
    rate = often @ scale.traits.often
    chance = chance + step * (_logit(profile.rate) - _logit(rate))
    steep = np.where(more > 0, np.minimum(1, -np.log(_within(often[:, 0]))), 1)
    more = more + step * np.log(wanted / _within(often[:, 0])) / steep
    more = np.clip(more, -_MOST, _MOST)
    noise = scale.spread * np.sqrt(scale.squared / len(part))
    high = high - scale.level[:, np.newaxis] * often[:, : high.shape[1]]
    found = scale.weights(high, mask.mean(axis=0), noise[:, np.newaxis], guess)
    shift = shift + step * (profile.mean - scale.level[:, np.newaxis] - found @ scale.traits.high)
    tried.append((chance, more, shift))
  chance, more, shift = (np.mean(last, axis=0) for last in zip(*tried[-_LAST:], strict=True))
  return Course(chance, more, shift, profile.lasting)


def _within(rate: np.ndarray) -> np.ndarray:
  return np.clip(rate, 1e-4, 1 - 1e-4)


def _logit(rate: np.ndarray) -> np.ndarray:
  rate = np.clip(rate, 1e-3, 1 - 1e-3)
  return np.log(rate / (1 - rate))
