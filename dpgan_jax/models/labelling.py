"""Classes for the samples of a generator that knows none: private classifiers label them.

Before the GAN a linear classifier on scattering features is trained. After it, a small CNN may
learn from samples with that one's labels (free: post-processing), then from records by a short
DP-SGD: begun so, it gets far more right for the same ε than from random weights. Log-probabilities
of both are added. All are stages of one ledger, planned together. BUILD.md says why.

Sources: Tramèr & Boneh 2021 (arXiv 2011.11660) for private linear models on scattering features;
Polyak & Juditsky 1992 for the average of the iterates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import fitting
from dpgan_jax.models.classifier import STAGE, Classifier, ClassifierState, TutorialCNN
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.classifier_inputs import prepare
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks.scattering import most_scales
from dpgan_jax.privacy.mechanism import DPMechanism

PyTree = Any
CNN_STAGE = 'label_cnn'

_CENTRE_SHARE = 0.2  # of the linear classifier's ε, for the mean of the features
_BATCH_SHARE = 8192 / 60_000
_RATE_PER_EPSILON, _LARGEST_RATE = 250.0, 150.0

_MOST_SAMPLES, _SAMPLES_PER_RECORD, _EPOCHS = 60_000, 10, 4
_CNN_STEPS, _CNN_BATCH_SHARE, _CNN_CLIP_NORM = 200, 2048 / 50_000, 0.5
_LARGEST_CNN_RATE, _MOST_NOISE = 8.0, 0.0033  # the latter: added to a weight in a step, on average

Draw = Callable[[int, jax.Array], tuple[np.ndarray, np.ndarray]]
"""(number, key) → samples uint8 [n, H, W, C] and their labels so far int [n]."""


@dataclasses.dataclass(frozen=True)
class Labeller:
  """A trained classifier that labels samples; there is nothing private in it.

  Attributes:
    classifier: settings, stages, shapes.
    params: the average of the model's parameters.
    centre: float32 [features], the noisy mean that is subtracted from the features.
  """

  classifier: Classifier
  params: PyTree
  centre: jax.Array

  @classmethod
  def of_state(cls, classifier: Classifier, state: ClassifierState) -> Labeller:
    """What of a state labels samples."""
    return cls(classifier, state.average, state.centre)

  @property
  def arrays(self) -> dict[str, PyTree]:
    """What a file of it holds beside settings and stages."""
    return {'params': self.params, 'centre': self.centre}

  def log_probabilities(self, images: np.ndarray) -> np.ndarray:
    """Of each class: uint8 [n, H, W, C] → float32 [n, K]."""
    inputs = prepare(self.classifier.config, images)
    return np.asarray(jax.nn.log_softmax(self.classifier.logits(self.params, self.centre, inputs)))


def log_probabilities(labellers: Sequence[Labeller], images: np.ndarray) -> np.ndarray:
  """Of each class, all labellers together, up to a constant of each image: float32 [n, K].

  Args:
    labellers: at least one.
    images: uint8 [n, H, W, C].
  """
  first, *others = (labeller.log_probabilities(images) for labeller in labellers)
  return sum(others, first)


def label(labellers: Sequence[Labeller], images: np.ndarray) -> np.ndarray:
  """The class of each image: uint8 [n, H, W, C] → int64 [n]."""
  return log_probabilities(labellers, images).argmax(axis=-1)


def clearest(log_probabilities: np.ndarray, share: float) -> np.ndarray:
  """Which images are the clearest of their class: those whose two likeliest are farthest apart.

  Args:
    log_probabilities: float [n, K], up to a constant of each image; the likeliest is its class.
    share: of every class, in (0, 1]; rounded up, so that no class is lost.

  Returns:
    bool [n].
  """
  two = np.partition(log_probabilities, -2, axis=-1)[:, -2:]
  margins, classes = two[:, 1] - two[:, 0], log_probabilities.argmax(axis=-1)
  kept = np.zeros(len(classes), bool)
  for k in np.unique(classes):
    own = np.flatnonzero(classes == k)
    kept[own[np.argsort(-margins[own], kind='stable')[: math.ceil(share * len(own))]]] = True
  return kept


def stages(*classifiers: Classifier) -> dict[str, DPMechanism]:
  """The mechanisms of several classifiers by name."""
  return {name: m for classifier in classifiers for name, m in classifier.stages.items()}


# --- what settings ask for ------------------------------------------------------------------------


def before_gan(config: TrainConfig, spec: Spec) -> tuple[Classifier, ...]:
  """The linear classifier that `label_share` asks for, with its mechanisms; none without it.

  Raises:
    InputError: fewer than two classes, or images too small for the scattering transform.
  """
  if config.label_share is None:
    return ()
  if spec.num_classes < 2:
    raise _validate.InputError(
      f'expected at least two classes with label_share, got {spec.num_classes}: leave it out'
    )
  assert config.target_epsilon is not None  # TrainConfig has checked it
  epsilon = config.label_share * config.target_epsilon
  # Chosen on held-out training images of MNIST, scored by classifiers trained on labelled fakes:
  # the more noise, the shorter the steps.
  rate = min(_LARGEST_RATE, _RATE_PER_EPSILON * epsilon)
  noise: dict[str, Any] = {'noise_multiplier': 0.0, 'centre_noise_multiplier': 1.0}
  if math.isfinite(epsilon):
    # The mean of all records' features, each of norm 1: every record takes part, once.
    centre = DPMechanism.for_epsilon(
      _CENTRE_SHARE * epsilon, steps=1, num_examples=spec.num_records,
      batch_size=spec.num_records, l2_clip_norm=1.0, delta=config.delta,
    )  # fmt: skip
    noise = {'target_epsilon': epsilon, 'centre_noise_multiplier': centre.noise_multiplier}
  classifier_config = ClassifierConfig(
    dataset=config.dataset, seed=config.seed, delta=config.delta, model='linear',
    features='scattering', scales=most_scales(*spec.shape[:2], at_most=3), steps=150,
    batch_size=max(1, round(_BATCH_SHARE * spec.num_records)), l2_clip_norm=0.1,
    learning_rate=rate, momentum=0.9, average_from=1 / 3, **noise,
  )  # fmt: skip
  return (Classifier.create(classifier_config, spec),)


def after_gan(config: TrainConfig, spec: Spec) -> tuple[Classifier, ...]:
  """The CNN that `label_cnn_share` asks for, with its mechanism; none without it.

  Raises:
    InputError: no mechanism satisfies what is left to it.
  """
  if config.label_cnn_share is None:
    return ()
  assert config.target_epsilon is not None  # TrainConfig has checked it
  epsilon = config.label_cnn_share * config.target_epsilon
  finite = math.isfinite(epsilon)
  noise: dict[str, Any] = {'target_epsilon': epsilon} if finite else {'noise_multiplier': 0.0}
  classifier_config = ClassifierConfig(
    dataset=config.dataset, seed=config.seed, delta=config.delta, model='tutorial_cnn',
    features='pixels', steps=_CNN_STEPS,
    batch_size=max(1, round(_CNN_BATCH_SHARE * spec.num_records)),
    l2_clip_norm=_CNN_CLIP_NORM, learning_rate=_LARGEST_CNN_RATE, average_from=1 / 2, **noise,
  )  # fmt: skip
  made = Classifier.create(classifier_config, spec, CNN_STAGE)
  # Few records or a small ε mean much noise, in which long steps would undo what samples taught.
  # Both bounds were chosen on held-out training images of MNIST: accuracy there, and that of
  # classifiers trained on samples with these labels, at ε = 0.3 and 3 for this stage.
  noise_of_a_step = made.mechanism.noise_multiplier * _CNN_CLIP_NORM / made.mechanism.batch_size
  rate = _LARGEST_CNN_RATE
  if noise_of_a_step:
    rate = min(rate, _MOST_NOISE / noise_of_a_step)
  return (dataclasses.replace(made, config=dataclasses.replace(made.config, learning_rate=rate)),)


# --- the CNN, taught by samples -------------------------------------------------------------------


class Taught(nn.Module):
  """The CNN as `fitting.fit` calls one: images in [-1, 1]."""

  num_classes: int

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    del train  # nothing in it is random
    return TutorialCNN(self.num_classes, name='cnn')((images + 1) / 2)


def taught(
  classifier: Classifier, state: ClassifierState, draw: Draw, key: jax.Array
) -> ClassifierState:
  """The state after learning from labelled samples, before any step on the records: free of cost.

  Args:
    classifier: from `after_gan`.
    state: as its `init` made it.
    draw: draws samples and their labels.
    key: what they are drawn with; nothing private comes of it.
  """
  draw_key, seed_key = jax.random.split(key)
  num = min(_MOST_SAMPLES, _SAMPLES_PER_RECORD * classifier.spec.num_records)
  images, labels = draw(num, draw_key)
  fitted = fitting.fit(
    Taught(classifier.spec.num_classes), images, labels, epochs=_EPOCHS,
    seed=int(jax.random.bits(seed_key)), batch_size=256,
  )  # fmt: skip
  params = fitted.params['params']['cnn']
  # Donated state must not hold a buffer twice.
  return state._replace(params=params, average=jax.tree.map(jax.numpy.copy, params))


# --- as a record ---------------------------------------------------------------------------------


def to_record(classifier: Classifier) -> dict[str, Any]:
  """Settings without the seed, and stages: JSON-ready, public."""
  public = dataclasses.replace(classifier, config=dataclasses.replace(classifier.config, seed=None))
  return public.to_record()


def from_record(
  record: Mapping[str, Any], spec: Spec, seed: int | None, stage: str = STAGE
) -> Classifier:
  """The inverse of `to_record`.

  Raises:
    InputError: settings or mechanisms that do not validate.
    KeyError: it has no stage of that name.
  """
  config = dataclasses.replace(ClassifierConfig.from_dict(record['config']), seed=seed)
  mechanisms = {str(name): DPMechanism.from_dict(m) for name, m in record['stages'].items()}
  if stage not in mechanisms:
    raise KeyError(stage)
  return Classifier(config, mechanisms, spec, stage)
