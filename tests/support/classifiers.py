"""Training of a private classifier in memory, from the start to the end."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.models.classifier import CENTRE, Classifier, ClassifierState


def train_classifier(
  classifier: Classifier,
  inputs: np.ndarray,
  labels: np.ndarray,
  key: jax.Array,
  *,
  charge: Callable[[int, str], None],
) -> ClassifierState:
  """Takes all steps; `charge` is told of each stage before it is taken."""
  state_key, release_key = jax.random.split(key)
  state = classifier.init(state_key)
  x, y = jnp.asarray(inputs), jnp.asarray(labels)
  if CENTRE in classifier.stages:
    charge(1, CENTRE)
    secret = np.asarray(jax.random.key_data(jax.random.split(release_key, 4))).tobytes()
    state = classifier.release_centre(state, inputs, secret)
  steps = classifier.mechanism.steps
  charge(steps, classifier.stage)
  end, _ = jax.jit(
    lambda s: jax.lax.scan(lambda c, _: classifier.step(c, x, y), s, None, length=steps)
  )(state)
  return end
