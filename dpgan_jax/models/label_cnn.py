"""A small CNN that names samples together with the linear classifier of `labelling`.

That classifier is nearly always right about real images, but a generator draws some that are on no
class's side, and there a linear classifier draws other borders than a convolutional network, which
is what most users train. So, after the GAN, a CNN learns from samples and the linear classifier's
names for them (free: post-processing), and a short DP-SGD on the private records corrects what it
has learnt. Begun so, it gets far more right for the same ε than from random weights. The
log-probabilities of the two are added.

The stage is planned with the others and its cost is part of every ε of the run from the start.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dpgan_jax.models import fitting
from dpgan_jax.models.classifier import Classifier, ClassifierState, TutorialCNN
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.config import TrainConfig

STAGE = 'label_cnn'

_KEY = 0x6C636E6E  # 'lcnn': its keys are none of those that the other stages' are split from
_MOST_SAMPLES, _SAMPLES_PER_RECORD, _EPOCHS = 60_000, 10, 4
_STEPS, _BATCH_SHARE, _CLIP_NORM = 200, 2048 / 50_000, 0.5
_LARGEST_RATE, _MOST_NOISE = 8.0, 0.0033  # the latter: added to a weight in a step, on average

Draw = Callable[[int, jax.Array], tuple[np.ndarray, np.ndarray]]
"""(number, key) → samples uint8 [n, H, W, C] and the linear classifier's names int [n]."""


def make_classifier(
  config: TrainConfig, image_shape: tuple[int, int, int], num_classes: int, num_examples: int
) -> Classifier | None:
  """The CNN that `label_cnn_share` asks for, with its mechanism; None if it asks for none.

  Raises:
    InputError: no mechanism satisfies what is left to it.
  """
  if config.label_cnn_share is None:
    return None
  assert config.target_epsilon is not None  # TrainConfig has checked it
  epsilon = config.label_cnn_share * config.target_epsilon
  finite = math.isfinite(epsilon)
  noise: dict[str, Any] = {'target_epsilon': epsilon} if finite else {'noise_multiplier': 0.0}
  classifier_config = ClassifierConfig(
    dataset=config.dataset, seed=config.seed, delta=config.delta, model='tutorial_cnn',
    features='pixels', steps=_STEPS, batch_size=max(1, round(_BATCH_SHARE * num_examples)),
    l2_clip_norm=_CLIP_NORM, learning_rate=_LARGEST_RATE, average_from=1 / 2, **noise,
  )  # fmt: skip
  made = Classifier.create(classifier_config, image_shape, num_classes, num_examples, STAGE)
  # Few records or a small ε mean much noise, in which long steps would undo what samples taught.
  # Both bounds were chosen on held-out training images of MNIST: accuracy there, and that of
  # classifiers trained on samples with these names, at ε = 0.3 and 3 for this stage.
  noise_of_a_step = made.mechanism.noise_multiplier * _CLIP_NORM / made.mechanism.batch_size
  rate = min(_LARGEST_RATE, _MOST_NOISE / noise_of_a_step) if noise_of_a_step else _LARGEST_RATE
  return dataclasses.replace(made, config=dataclasses.replace(made.config, learning_rate=rate))


class Taught(nn.Module):
  """The CNN as `fitting.fit` calls one: images in [-1, 1]."""

  num_classes: int

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    del train  # nothing in it is random
    return TutorialCNN(self.num_classes, name='cnn')((images + 1) / 2)


def init(classifier: Classifier, key: jax.Array) -> ClassifierState:
  """The state before it is taught, from the root key of the run, as the other stages' is."""
  return classifier.init(jax.random.fold_in(key, _KEY))


def taught(
  classifier: Classifier, state: ClassifierState, draw: Draw, key: jax.Array, num_examples: int
) -> ClassifierState:
  """The state after learning from labelled samples, before any step on the records: free of cost.

  Args:
    classifier: from `make_classifier`.
    state: as `init` made it.
    draw: draws samples and their labels.
    key: what they are drawn with; nothing private comes of it.
    num_examples: N.
  """
  draw_key, seed_key = jax.random.split(key)
  num = min(_MOST_SAMPLES, _SAMPLES_PER_RECORD * num_examples)
  images, names = draw(num, draw_key)
  fitted = fitting.fit(
    Taught(classifier.num_classes), images, names, epochs=_EPOCHS,
    seed=int(jax.random.bits(seed_key)), batch_size=256,
  )  # fmt: skip
  params = fitted.params['params']['cnn']
  # Donated state must not hold a buffer twice.
  return state._replace(params=params, average=jax.tree.map(jax.numpy.copy, params))
