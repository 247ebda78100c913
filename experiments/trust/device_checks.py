"""Checks that steps on several devices are those of one: batches, noise and ε, and the sums but for
the order of additions. As in `mechanism_checks`: functions without arguments that pass, or raise.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.models.classifier import Classifier, ClassifierState
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.privacy import sharding
from dpgan_jax.run import stages
from experiments.trust.statistical_checks import Violation

N, STEPS, TOLERANCE = 90, 3, 1e-5


@functools.cache
def data() -> ImageDataset:
  """Images of noise."""
  rng = np.random.default_rng(0)
  return ImageDataset(
    images=rng.integers(0, 256, (N, 4, 4, 1)).astype(np.uint8), class_names=('a', 'b', 'c'),
    labels=(np.arange(N) % 3).astype(np.int32), num_classes=3, name='noise',
  )  # fmt: skip


def classifier(steps: int = STEPS, **settings: Any) -> Classifier:
  """A linear one: every parameter is seen in every sum."""
  config = ClassifierConfig(
    features='pixels', noise_multiplier=1.0, steps=steps, batch_size=21, delta=1e-3,
    l2_clip_norm=0.5, learning_rate=1.0, **settings,
  )  # fmt: skip
  return Classifier.create(config, data().spec)


def steps_on(devices: int) -> tuple[ClassifierState, Any]:
  """State and metrics after some steps of the package's own compiled loop."""
  stage = stages.ClassifierStage(classifier(), data())
  stage.mesh = sharding.mesh_of(devices)
  state = jax.jit(lambda key: stage.init(key))(jax.random.key(5))
  state, *arrays = sharding.replicate((state, *stage.data()), stage.mesh)
  try:
    end = stage.chunk(STEPS)(state, *arrays)
  except _validate.InputError:
    raise
  except (TypeError, ValueError) as error:  # of shard_map, and of a loop in it
    raise Violation(f'what a step leaves differs between devices: {error}'[:200]) from None
  return sharding.gather(end, stage.mesh)


def require_alike(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
  """Two runs of equal batches and noise.

  Raises:
    Violation: realised batches differ, or parameters by more than additions in another order.
  """
  (state, metrics), (state_of_one, metrics_of_one) = found, expected
  if not np.array_equal(metrics.realised_batch, metrics_of_one.realised_batch):
    raise Violation(
      f'batches of {metrics.realised_batch} examples, on one device {metrics_of_one.realised_batch}'
    )
  for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state_of_one.params), strict=True):
    if (difference := float(np.max(np.abs(np.asarray(a) - np.asarray(b))))) > TOLERANCE:
      raise Violation(f'parameters differ by {difference:.2g} from those of one device')


def steps_are_those_of_one_device() -> None:
  """Steps on two devices, and on one."""
  require_alike(steps_on(2), steps_on(1))
