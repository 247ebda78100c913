"""Ordinary training of a classifier of images, without privacy, in compiled scans.

`fit` trains on images that stay on the device, and keeps the epoch that is best on a hold-out set,
if one is given. What it is given decides whether the result is private: on samples it is
post-processing; on real images it reads private data.
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

from dpgan_jax import _keys, _validate
from dpgan_jax.data.images.dataset import to_model_range

Params = Any
Progress = Callable[[float], None]
"""Is told the share of the work that is done, in [0, 1]."""
_PREDICT_AT_ONCE = 500


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
    x = to_model_range(images[indices])

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
  return module.apply(params, to_model_range(images), method=method)
