"""The networks that judge samples: real-or-fake judges, and classifiers trained on samples.

None of them is private: they are trained in the ordinary way, and what they say of real images is a
reading of those images. `evaluation` decides what they are given and marks what comes out.

`fit` trains any of them in compiled scans over minibatches of images that stay on the device, and
keeps the epoch that is best on a hold-out, if one is given.

>>> rng = np.random.default_rng(0)
>>> dark, bright = (rng.integers(low, low + 99, (300, 8, 8, 1), np.uint8) for low in (0, 150))
>>> judge = real_or_fake(Secondary(), dark[:200], bright[:200], dark[200:], bright[200:], epochs=50)
>>> judge.accuracy
1.0
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _keys, _validate, data, layers

Params = Any
Progress = Callable[[float], None]
"""Is told the share of the work that is done, in [0, 1]."""

_PREDICT_AT_ONCE = 500


def _pool(x: jax.Array) -> jax.Array:
  """Halves an image, as long as there is something to halve."""
  return layers.max_pool(x, 2, 2) if min(x.shape[1:3]) >= 2 else x


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
      x = _pool(nn.relu(layers.Conv(features, (3, 3), padding=padding)(x)))
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


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
  'cnn': CNN,
  'mlp': MLP,
  'lr': LogisticRegression,
}

# --- training ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A trained network.

  Attributes:
    module: one of the above; a single output is the logit of "real".
    params: its parameters.
    hold_out_accuracy: at the epoch that was kept; None without a hold-out.
    epoch: the one that was kept, from 1.
  """

  module: nn.Module
  params: Params
  hold_out_accuracy: float | None
  epoch: int

  def predict(self, images: np.ndarray) -> np.ndarray:
    """Classes int [n] of uint8 images [n, h, w, c]; of a single output, 1 where it says real."""
    return _classes(forward(self.module, self.params, images))


def fit(
  module: nn.Module,
  images: np.ndarray,
  targets: np.ndarray,
  *,
  epochs: int,
  seed: int,
  hold_out: tuple[np.ndarray, np.ndarray] | None = None,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  progress: Progress | None = None,
) -> Fitted:
  """Trains with Adam, its rate falling to 0 by half a cosine; deterministic on one machine.

  Args:
    module: gets images in [-1, 1] and `train`.
    images: uint8 [n, h, w, c].
    targets: classes [n]; 0 or 1 for a single output.
    epochs: how often every image is seen (up to one batch in an epoch is left out, another each
      time).
    seed: of the start, the order and the dropout.
    hold_out: images and targets that choose the epoch; without them the last one is kept.
    batch_size: as many as there are images, if there are fewer.
    learning_rate: at the start.
    progress: is told how far it is, several times an epoch.

  Raises:
    InputError: no images, as many targets or epochs.
  """
  _validate.integer('epochs', epochs, minimum=1)
  if not len(images) or len(images) != len(targets):
    raise _validate.InputError(
      f'expected as many targets as images, at least one, got {len(images)} images and '
      f'{len(targets)} targets'
    )
  batch_size = min(batch_size, len(images))
  steps = len(images) // batch_size
  chunks = -(-steps // _STEPS_AT_ONCE)
  chunk = steps // chunks  # all chunks alike: one compilation
  init_key, dropout_key = jax.random.split(_keys.from_seed(seed))
  blank = jnp.zeros((1, *images.shape[1:]), jnp.float32)
  params = jax.jit(module.init)(init_key, blank)
  moments = _ADAM.init(params)
  on_device, labels = jnp.asarray(images), jnp.asarray(targets, jnp.int32)
  total = epochs * chunks * chunk
  rng = np.random.default_rng(seed)
  best = Fitted(module, params, None, 0)
  taken = 0
  for epoch in range(1, epochs + 1):
    order = rng.permutation(len(images))[: chunks * chunk * batch_size].astype(np.int32)
    for part in order.reshape(chunks, chunk, batch_size):
      params, moments = _train_chunk(
        module, params, moments, on_device, labels, jnp.asarray(part), dropout_key,
        jnp.int32(taken), jnp.float32(total), jnp.float32(learning_rate),
      )  # fmt: skip
      taken += chunk
      if progress is not None:
        jax.block_until_ready(params)
        progress(taken / total)
    accuracy = None
    if hold_out is not None:
      predicted = _classes(forward(module, params, hold_out[0]))
      accuracy = float((predicted == hold_out[1]).mean())
    if accuracy is None or accuracy >= (best.hold_out_accuracy or 0.0):
      best = Fitted(module, params, accuracy, epoch)
  return best


_STEPS_AT_ONCE = 50  # between two signs of progress, and between two chances to be interrupted
_ADAM = optax.scale_by_adam()


@functools.partial(jax.jit, static_argnums=0)
def _train_chunk(
  module: nn.Module,
  params: Params,
  moments: optax.OptState,
  images: jax.Array,
  targets: jax.Array,
  order: jax.Array,
  key: jax.Array,
  first: jax.Array,
  total: jax.Array,
  learning_rate: jax.Array,
) -> tuple[Params, optax.OptState]:
  """Takes one step per row of `order` [steps, batch]; `first` of `total` are taken already."""

  def step(carry: tuple[Params, optax.OptState], batch: tuple[jax.Array, jax.Array]) -> Any:
    params, moments = carry
    number, indices = batch
    dropout = {'dropout': jax.random.fold_in(key, number)}
    x = data.to_model_range(images[indices])

    def loss(params: Params) -> jax.Array:
      logits: Any = module.apply(params, x, train=True, rngs=dropout)
      return _losses(logits, targets[indices]).mean()

    updates, moments = _ADAM.update(jax.grad(loss)(params), moments, params)
    rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * number / total))
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return (params, moments), None

  numbers = first + jnp.arange(len(order))
  carry, _ = jax.lax.scan(step, (params, moments), (numbers, order))
  return carry


def _losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
  if logits.shape[-1] == 1:
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], targets.astype(logits.dtype))
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _classes(logits: np.ndarray) -> np.ndarray:
  return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


def forward(
  module: nn.Module, params: Params, images: np.ndarray, *, method: str | None = None
) -> np.ndarray:
  """What the network makes of uint8 images [n, h, w, c]: float32 [n, outputs].

  Args:
    module: one of this file, or another that takes images in [-1, 1].
    params: its parameters.
    images: any number of them; they are taken some hundred at a time.
    method: another method of the module than its call, such as 'activations'.
  """
  parts = []
  for start in range(0, len(images), _PREDICT_AT_ONCE):
    part = images[start : start + _PREDICT_AT_ONCE]
    padded = np.zeros((_PREDICT_AT_ONCE, *images.shape[1:]), np.uint8)  # one shape, one compilation
    padded[: len(part)] = part
    parts.append(np.asarray(_apply(module, method, params, jnp.asarray(padded)))[: len(part)])
  return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module: nn.Module, method: str | None, params: Params, images: jax.Array) -> Any:
  return module.apply(params, data.to_model_range(images), method=method)


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
  judge: Fitted


def real_or_fake(
  module: nn.Module,
  real: np.ndarray,
  fake: np.ndarray,
  unseen_real: np.ndarray,
  unseen_fake: np.ndarray,
  *,
  epochs: int,
  seed: int = 0,
  progress: Progress | None = None,
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
  judge = fit(module, both, targets, epochs=epochs, seed=seed, progress=progress)
  on_real = float((judge.predict(unseen_real) == 1).mean())
  on_fake = float((judge.predict(unseen_fake) == 0).mean())
  accuracy = (on_real + on_fake) / 2
  return Judged(accuracy=accuracy, on_real=on_real, on_fake=on_fake, judge=judge)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified:
  """How well a classifier does on test images.

  Attributes:
    accuracy: share of test images that it gets right.
    per_class: the same by class, None where the test images have none of it.
    hold_out_accuracy: on the part of its own training set that chose the epoch.
    epoch: the one chosen.
  """

  accuracy: float
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
  progress: Progress | None = None,
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
  fitted = fit(
    CLASSIFIERS[classifier](num_classes), images[used], labels[used],
    epochs=epochs, seed=seed, hold_out=(images[held], labels[held]), progress=progress,
    **(PACE[classifier] if pace is None else pace),
  )  # fmt: skip
  right = fitted.predict(test_images) == test_labels
  per_class = [right[test_labels == k] for k in range(num_classes)]
  return Classified(
    accuracy=float(right.mean()),
    per_class=tuple(float(r.mean()) if len(r) else None for r in per_class),
    hold_out_accuracy=fitted.hold_out_accuracy or 0.0,
    epoch=fitted.epoch,
  )
