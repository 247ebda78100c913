"""How many discriminator steps a generator step waits for: n_D, fixed or adaptive.

At one D step per G step a noisy D cannot keep up: it stops telling fakes from real images, and G
follows noise. The right n_D grows as training goes on. 'adaptive' finds it by D's accuracy on the
fakes that G is about to learn from, a function of D and of fakes that costs no privacy: when its
average has sunk to a threshold, n_D moves up a ladder, and never down; a rung is kept for some G
steps at least.

Source: Bie, Kamath & Zhang 2023, "Private GANs, Revisited" (arXiv 2302.02936), section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

LADDER = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_DECAY = 0.99  # of the average of D's accuracy on fakes


class Pace(NamedTuple):
  """Where the schedule stands; public, as it depends on D and fakes only.

  Attributes:
    n_d: int32, D steps that the next G step waits for.
    waited: int32, D steps since the last G step.
    g_steps: int32, G steps taken.
    on_rung: int32, G steps taken at this `n_d`.
    fake_accuracy: float32, average share of fakes that D recognises.
  """

  n_d: jax.Array
  waited: jax.Array
  g_steps: jax.Array
  on_rung: jax.Array
  fake_accuracy: jax.Array


def start(n_d: int) -> Pace:
  """The schedule before the first step."""
  zero = jnp.zeros((), jnp.int32)
  return Pace(jnp.asarray(n_d, jnp.int32), zero, zero, zero, jnp.ones((), jnp.float32))


def after_d_step(pace: Pace) -> Pace:
  """One more D step was taken."""
  return pace._replace(waited=pace.waited + 1)


def is_due(pace: Pace) -> jax.Array:
  """bool: whether a G step comes next."""
  return pace.waited >= pace.n_d


def after_g_step(
  pace: Pace, fake_accuracy: jax.Array, *, threshold: float | None, patience: int
) -> Pace:
  """A G step was taken.

  Args:
    pace: the schedule before it.
    fake_accuracy: the share of its fakes, drawn before the step, that D recognised.
    threshold: n_D rises when the average has sunk to this; None keeps n_D as it is.
    patience: G steps for which a rung is kept at least.
  """
  first = pace.g_steps == 0
  average = _DECAY * pace.fake_accuracy + (1 - _DECAY) * fake_accuracy
  average = jnp.where(first, fake_accuracy, average)
  on_rung = pace.on_rung + 1
  n_d = pace.n_d
  if threshold is not None:
    ladder = jnp.asarray(LADDER, jnp.int32)
    next_rung = jnp.min(jnp.where(ladder > n_d, ladder, jnp.maximum(n_d, LADDER[-1])))
    climbs = (on_rung >= patience) & (average <= threshold)
    n_d = jnp.where(climbs, next_rung, n_d)
    on_rung = jnp.where(climbs, 0, on_rung)
  zero = jnp.zeros_like(pace.waited)
  return Pace(n_d, zero, pace.g_steps + 1, on_rung, average)
