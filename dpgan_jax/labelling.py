"""Classes for the samples of a generator that knows none: a private classifier says them.

A discriminator that is told the class has to learn, through the noise, what images of each class
look like. Here it only learns what images look like; a linear classifier on scattering features
(`classifier`), which needs far less of a budget to be right about classes, then names what the
generator draws. Both are trained on the same private records, one after the other, under one
ledger; their costs compose (`budget`). Naming samples is post-processing and free.

Sources: Tramèr & Boneh 2021 (arXiv 2011.11660) for private linear models on scattering features;
Polyak & Juditsky 1992 for the average of the iterates.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpgan_jax import _keys, _validate, classifier_run, data
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.classifier import STAGE, Classifier, ClassifierState
from dpgan_jax.classifier_config import ClassifierConfig
from dpgan_jax.classifier_inputs import prepare
from dpgan_jax.config import TrainConfig
from dpgan_jax.ledger import Ledger
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.run_dir import RunDir
from dpgan_jax.scattering import most_scales

PyTree = Any
_KEY = 0x6C61626C  # 'labl': the classifier's keys are none of those that the GAN's are split from
_CENTRE_SHARE = 0.2  # of the classifier's ε, for the mean of the features
_BATCH_SHARE = 8192 / 60_000
_RATE_PER_EPSILON, _LARGEST_RATE = 250.0, 150.0


@dataclasses.dataclass(frozen=True)
class Labeller:
  """A trained classifier that names samples; there is nothing private in it.

  Attributes:
    classifier: settings, stages, shapes.
    params: the average of the model's parameters.
    centre: float32 [features], the noisy mean that is subtracted from the features.
    cnn: a second one that has a say (`label_cnn`), if there is one.
  """

  classifier: Classifier
  params: PyTree
  centre: jax.Array
  cnn: Labeller | None = None

  def label(self, images: np.ndarray) -> np.ndarray:
    """The class of each image: uint8 [n, H, W, C] → int64 [n]."""
    return self.log_probabilities(images).argmax(axis=-1)

  def log_probabilities(self, images: np.ndarray) -> np.ndarray:
    """Of each class, up to a constant of each image: uint8 [n, H, W, C] → float32 [n, K]."""
    inputs = prepare(self.classifier.config, images)
    logits = self.classifier.logits(self.params, self.centre, inputs)
    own = np.asarray(jax.nn.log_softmax(logits))
    return own if self.cnn is None else own + self.cnn.log_probabilities(images)

  @property
  def stages(self) -> dict[str, DPMechanism]:
    """The mechanisms of all that it is made of."""
    return {**self.classifier.stages, **({} if self.cnn is None else self.cnn.stages)}

  @property
  def arrays(self) -> dict[str, PyTree]:
    """What a file of it holds beside settings and stages."""
    own = {'params': self.params, 'centre': self.centre}
    return own if self.cnn is None else {**own, 'cnn': self.cnn.arrays}

  @property
  def abstract_arrays(self) -> dict[str, PyTree]:
    """Shapes and dtypes of `arrays`, from settings alone."""
    state = jax.eval_shape(self.classifier.init, _keys.from_seed(0))
    own = of_state(self.classifier, state).arrays
    return own if self.cnn is None else {**own, 'cnn': self.cnn.abstract_arrays}

  def with_arrays(self, arrays: Mapping[str, PyTree]) -> Labeller:
    """The same with other `arrays`."""
    cnn = None if self.cnn is None else self.cnn.with_arrays(arrays['cnn'])
    return dataclasses.replace(self, params=arrays['params'], centre=arrays['centre'], cnn=cnn)


def make_classifier(
  config: TrainConfig, image_shape: tuple[int, int, int], num_classes: int, num_examples: int
) -> Classifier | None:
  """The classifier that `label_share` asks for, with its mechanisms; None if it asks for none.

  Raises:
    InputError: fewer than two classes, or images too small for the scattering transform.
  """
  if config.label_share is None:
    return None
  if num_classes < 2:
    raise _validate.InputError(
      f'expected at least two classes with label_share, got {num_classes}: leave it out'
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
      _CENTRE_SHARE * epsilon, steps=1, num_examples=num_examples, batch_size=num_examples,
      l2_clip_norm=1.0, delta=config.delta,
    )  # fmt: skip
    noise = {'target_epsilon': epsilon, 'centre_noise_multiplier': centre.noise_multiplier}
  classifier_config = ClassifierConfig(
    dataset=config.dataset, seed=config.seed, delta=config.delta, model='linear',
    features='scattering', scales=most_scales(*image_shape[:2], at_most=3), steps=150,
    batch_size=max(1, round(_BATCH_SHARE * num_examples)), l2_clip_norm=0.1, learning_rate=rate,
    momentum=0.9, average_from=1 / 3, **noise,
  )  # fmt: skip
  return Classifier.create(classifier_config, image_shape, num_classes, num_examples)


def train(
  classifier: Classifier,
  dataset: data.ImageDataset,
  directory: RunDir,
  ledger: Ledger,
  *,
  progress: bool = True,
) -> Labeller:
  """Trains the labeller of a run in `directory`, or continues, or finds it finished.

  Args:
    classifier: from `make_classifier`.
    dataset: the private images and their classes.
    directory: where its checkpoints and metrics go; private as a whole.
    ledger: the run's.
    progress: show a progress bar on stderr.
  """
  state = classifier_run.train(
    classifier,
    lambda key: init(classifier, key),
    lambda: prepare(classifier.config, dataset.images),
    dataset.labels,
    directory,
    ledger,
    progress=progress,
  )
  return of_state(classifier, state)


def restore(classifier: Classifier, directory: pathlib.Path, *, paid: bool) -> Labeller | None:
  """The labeller of a run as it is at its end, or None where it is not there yet.

  Args:
    classifier: what it was made from.
    directory: where its checkpoints are.
    paid: whether all its steps are charged, so that it has to be there.

  Raises:
    InputError: it is paid for and not there.
  """
  with Checkpoints(RunDir(directory).checkpoints) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(classifier.init, _keys.from_seed(0)))
  if restored is not None and restored[0] == classifier.mechanism.steps:
    return of_state(classifier, restored[1])
  if paid:
    raise _validate.InputError(
      f'{directory} has no finished classifier to name samples: let dpgan_jax.train run'
    )
  return None


def init(classifier: Classifier, key: jax.Array) -> ClassifierState:
  """The state before the first step, from the root key of the run, which the GAN has too."""
  return classifier.init(jax.random.fold_in(key, _KEY))


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


def of_state(classifier: Classifier, state: ClassifierState) -> Labeller:
  """What of a state names samples."""
  return Labeller(classifier, state.average, state.centre)


# --- as a record ---------------------------------------------------------------------------------


def to_record(classifier: Classifier) -> dict[str, Any]:
  """Settings without the seed, and stages: JSON-ready, public."""
  return {
    'config': dataclasses.replace(classifier.config, seed=None).to_dict(),
    'stages': {name: m.to_dict() for name, m in classifier.stages.items()},
  }


def from_record(
  record: Mapping[str, Any],
  image_shape: tuple[int, int, int],
  num_classes: int,
  seed: int | None,
  stage: str = STAGE,
) -> Classifier:
  """The inverse of `to_record`.

  Raises:
    InputError: settings or mechanisms that do not validate.
  """
  config = dataclasses.replace(ClassifierConfig.from_dict(record['config']), seed=seed)
  stages = {str(name): DPMechanism.from_dict(m) for name, m in record['stages'].items()}
  if stage not in stages:
    raise KeyError(stage)
  return Classifier(config, stages, image_shape, num_classes, stage)
