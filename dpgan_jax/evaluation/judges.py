"""The networks that judge samples: real-or-fake judges, and classifiers trained on samples.

None of them is private: `models.fitting` trains them in the ordinary way, and what they say of real
images is a reading of those images.

>>> rng = np.random.default_rng(0)
>>> dark, bright = (rng.integers(low, low + 99, (300, 8, 8, 1), np.uint8) for low in (0, 150))
>>> judge = real_or_fake(Secondary(), dark[:200], bright[:200], dark[200:], bright[200:], epochs=50)
>>> judge.accuracy
1.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax._plugins import Registry
from dpgan_jax.models import fitting
from dpgan_jax.networks import layers


class Secondary(nn.Module):
  """The report's secondary network (chapter 6): one dense layer of 10 units and an output.

  The report does not name the activation; ReLU was the default of its time. The 10 activations are
  the features of its modified FID.
  """

  outputs: int = 1

  def setup(self) -> None:
    self.hidden, self.output = nn.Dense(10), nn.Dense(self.outputs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    del train
    return self.output(self.activations(x))

  def activations(self, x: jax.Array) -> jax.Array:
    """[n, h, w, c] → [n, 10]."""
    return nn.relu(self.hidden(x.reshape(len(x), -1)))


class ConvJudge(nn.Module):
  """A judge that is harder to fool: two strided convolutions, which see strokes, not pixels."""

  outputs: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    for features in (32, 64):
      x = nn.relu(layers.Conv(features, (4, 4), stride=2)(x))
    x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.25, deterministic=not train)(x)
    return nn.Dense(self.outputs)(x)


class CNN(nn.Module):
  """The classifier that the field scores samples with: 3×3 convolutions of 32, 64, 128 channels."""

  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    # Unpadded, as the field has it, where three rounds leave something: 28 → 13 → 5 → 1.
    padding = 'VALID' if min(x.shape[1:3]) >= 22 else 'SAME'
    for features in (32, 64, 128):
      x = nn.relu(layers.Conv(features, (3, 3), padding=padding)(x))
      if min(x.shape[1:3]) >= 2:  # there is something to halve
        x = layers.max_pool(x, 2, 2)
    x = nn.Dropout(0.25, deterministic=not train)(x.reshape(len(x), -1))
    x = nn.relu(nn.Dense(128)(x))
    return nn.Dense(self.outputs)(x)


class MLP(nn.Module):
  """One hidden layer of 256 units."""

  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.25, deterministic=not train)(x)
    return nn.Dense(self.outputs)(x)


class LogisticRegression(nn.Module):
  """A linear classifier."""

  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    del train
    return nn.Dense(self.outputs)(x.reshape(len(x), -1))


_OWN: dict[str, Callable[[int], nn.Module]] = {'cnn': CNN, 'mlp': MLP, 'lr': LogisticRegression}
CLASSIFIERS = Registry('judge', _OWN)
"""Functions of the number of classes by name; a plugin registers its own, called with `train`."""

# --- what is asked of them -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """How well a judge tells real from fake images that it has not seen.

  Attributes:
    accuracy: on the unseen images; 0.5 is a judge that guesses.
    on_real, on_fake: the same on each half.
    judge: the trained network.
  """

  accuracy: float
  on_real: float
  on_fake: float
  judge: fitting.Fitted


def real_or_fake(
  module: nn.Module,
  real: np.ndarray,
  fake: np.ndarray,
  unseen_real: np.ndarray,
  unseen_fake: np.ndarray,
  *,
  epochs: int,
  seed: int = 0,
  progress: fitting.Progress | None = None,
) -> Judged:
  """Trains a judge on real (1) and fake (0) images and tests it on others (the report, chapter 6).

  Args:
    module: with one output.
    real, fake: uint8 [n, h, w, c] each, for training; as many of one as of the other, or always
      giving the commoner answer would be better than guessing.
    unseen_real, unseen_fake: uint8 [m, h, w, c] each, for the test.
    epochs, seed, progress: as in `fit`.

  Raises:
    InputError: more of one kind than of the other.
  """
  for name, a, b in (('', real, fake), ('unseen ', unseen_real, unseen_fake)):
    if len(a) != len(b):
      raise _validate.InputError(
        f'expected as many {name}real as fake images, got {len(a)} and {len(b)}'
      )
  targets = np.repeat(np.array([1, 0], np.int32), len(real))
  both = np.concatenate([real, fake])
  judge = fitting.fit(module, both, targets, epochs=epochs, seed=seed, progress=progress)
  on_real = float((judge.predict(unseen_real) == 1).mean())
  on_fake = float((judge.predict(unseen_fake) == 0).mean())
  accuracy = (on_real + on_fake) / 2
  return Judged(accuracy=accuracy, on_real=on_real, on_fake=on_fake, judge=judge)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified:
  """How well a classifier does on test images.

  Attributes:
    accuracy: share of test images that it gets right.
    balanced_accuracy: mean over the classes of the test images, each counting the same.
    per_class: the same by class, None where the test images have none of it.
    hold_out_accuracy: on the part of its own training set that chose the epoch.
    epoch: the one chosen.
  """

  accuracy: float
  balanced_accuracy: float
  per_class: tuple[float | None, ...]
  hold_out_accuracy: float
  epoch: int


# What few epochs need: the best of experiments/results/judge_pace.json, scored on held-out training
# images of MNIST. (That the CNN has one dropout and not two was settled before that, on its test
# images.) No sample of any generator was looked at.
PACE: dict[str, Any] = {
  'cnn': {'batch_size': 64, 'learning_rate': 1.5e-3},
  'mlp': {'batch_size': 128, 'learning_rate': 1.5e-3},
  'lr': {'batch_size': 64, 'learning_rate': 5e-3},
}


def train_and_test(
  classifier: str,
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  *,
  num_classes: int,
  epochs: int,
  seed: int = 0,
  pace: dict[str, Any] | None = None,
  progress: fitting.Progress | None = None,
) -> Classified:
  """Trains a classifier on one set and tests it on another (TSTR, where the first is synthetic).

  A tenth of the training set is held out and chooses the epoch. The test set is looked at once.

  Args:
    classifier: one of `CLASSIFIERS`.
    train: images uint8 [n, h, w, c] and classes [n], n ≥ 10.
    test: the same.
    num_classes: of both.
    pace: `batch_size` and `learning_rate` of `fit`; default: the classifier's own.
    epochs, seed, progress: as in `fit`.
  """
  _validate.one_of('classifier', classifier, CLASSIFIERS)
  (images, labels), (test_images, test_labels) = train, test
  if len(images) < 10:
    raise _validate.InputError(
      f'expected at least 10 images, a tenth of them to hold out, got {len(images)}'
    )
  order = np.random.default_rng(seed).permutation(len(images))
  held, used = np.split(order, [len(images) // 10])
  fitted = fitting.fit(
    CLASSIFIERS[classifier](num_classes), images[used], labels[used],
    epochs=epochs, seed=seed, hold_out=(images[held], labels[held]), progress=progress,
    **(PACE.get(classifier, PACE['mlp']) if pace is None else pace),
  )  # fmt: skip
  right = fitted.predict(test_images) == test_labels
  per_class = [right[test_labels == k] for k in range(num_classes)]
  return Classified(
    accuracy=float(right.mean()),
    balanced_accuracy=float(np.mean([r.mean() for r in per_class if len(r)])),
    per_class=tuple(float(r.mean()) if len(r) else None for r in per_class),
    hold_out_accuracy=fitted.hold_out_accuracy or 0.0,
    epoch=fitted.epoch,
  )
