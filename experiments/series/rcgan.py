"""The baseline: a recurrent conditional GAN, its discriminator trained by DP-SGD.

Esteban, Hyland & Rätsch 2017 (arXiv 1706.02633): LSTMs of 100 units, a fresh z at every step, the
class given to both at every step, a discriminator that judges every step, SGD for it and Adam for
the generator. Their series have no gaps and nothing beside them. Here a step says of each channel
whether it was measured too, drawn by a straight-through estimator, and static columns are means
over steps of further outputs. Classes have their shares in the records, which costs nothing here:
in the baseline's favour. Clipping, noise, batches and ε are the package's.
"""

from __future__ import annotations

import math
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import DPMechanism
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from experiments import pages
from experiments.series.codes import Codes
from experiments.tables.measure import table

UNITS, Z, BATCH, STEPS, CLIP = 100, 10, 128, 2000, 1.0
D_RATE, G_RATE = 0.1, 1e-3
_AT_ONCE = 100  # steps of one compiled program
_DRAWN = 1000


class Recurrent(nn.Module):
  """An LSTM and a linear layer at every step: [T, a] → [T, outputs]."""

  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    states: Any = nn.RNN(nn.OptimizedLSTMCell(UNITS))(x)
    return nn.Dense(self.outputs)(states)


class Networks:
  """Generator and discriminator for series of a schema, and their losses on one stay."""

  def __init__(self, codes: Codes, classes: int):
    self.g, self.d = Recurrent(codes.size), Recurrent(1)
    self._steps, self._ends = codes.schema.grid.steps, np.cumsum([codes.channels] * 2).tolist()
    self._size, self._classes = codes.size, classes

  def init(self, key: jax.Array) -> tuple[Any, Any]:
    """Parameters of both."""
    of_g, of_d = jax.random.split(key)
    z, stay = (jnp.zeros((self._steps, n + self._classes)) for n in (Z, self._size))
    return self.g.init(of_g, z), self.d.init(of_d, stay)

  def _given(self, x: jax.Array, label: jax.Array) -> jax.Array:
    """The class beside every step."""
    given = jnp.broadcast_to(jax.nn.one_hot(label, self._classes), (len(x), self._classes))
    return jnp.concatenate([x, given], axis=1)

  def fake(self, params: Any, key: jax.Array, label: jax.Array) -> jax.Array:
    """A stay [T, P] of this class."""
    of_z, of_mask = jax.random.split(key)
    z = jax.random.normal(of_z, (self._steps, Z))
    out: Any = self.g.apply(params, self._given(z, label))
    values, chance, static = jnp.split(out, self._ends, axis=1)
    soft = jax.nn.sigmoid((chance + jax.random.logistic(of_mask, chance.shape)) / 0.5)
    mask = soft + jax.lax.stop_gradient((soft > 0.5) - soft)  # straight through
    same = jnp.broadcast_to(jax.nn.sigmoid(static.mean(axis=0)), static.shape)
    return jnp.concatenate([(jax.nn.sigmoid(values) - 0.5) * mask, mask, same], axis=1)

  def loss(self, params: Any, stay: jax.Array, label: jax.Array, said: float) -> jax.Array:
    """Of D on one stay that is said to be real (1) or not (0): the mean over steps."""
    logits: Any = self.d.apply(params, self._given(stay, label))
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, said)).mean()


def made(
  train: TableDataset, epsilon: float, seed: int, steps: int = STEPS
) -> tuple[TableDataset, dict[str, Any]]:
  """As many stays as were trained on, and what it took."""
  begun, cpu = time.monotonic(), time.process_time()
  assert isinstance(train.schema, SeriesSchema)
  codes = Codes(train.schema)
  networks = Networks(codes, train.num_classes)
  x, y = jnp.asarray(codes.encode(train.records)), jnp.asarray(train.labels)
  mechanism = DPMechanism.for_epsilon(
    epsilon, num_examples=len(x), batch_size=BATCH, l2_clip_norm=CLIP, steps=steps, delta=1e-5
  )
  # The data are public: a fixed seed does no harm.
  of_init, of_noise, of_batches, of_fakes, of_draws = jax.random.split(jax.random.key(seed), 5)
  clipped_grad = mechanism.clipped_grad(lambda d, stay, label: networks.loss(d, stay, label, 1.0))
  d_optimizer = optax.chain(mechanism.noise_sum(of_noise), optax.sgd(D_RATE))
  g_optimizer = optax.adam(G_RATE, b1=0.5)
  fakes = jax.vmap(networks.fake, (None, 0, 0))

  def mean(params: Any, stays: jax.Array, labels: jax.Array, said: float) -> jax.Array:
    return jax.vmap(networks.loss, (None, 0, 0, None))(params, stays, labels, said).mean()

  def step(carry: Any, t: jax.Array) -> Any:
    d, d_state, g, g_state = carry
    key, of_labels = jax.random.split(jax.random.fold_in(of_fakes, t))
    drawn, labels = jax.random.split(key, BATCH), jax.random.choice(of_labels, y, (BATCH,))
    batch = mechanism.sampler(of_batches, t)
    clipped = clipped_grad(d, x[batch.indices], y[batch.indices], mask=batch.mask)
    public = jax.grad(mean)(d, fakes(g, drawn, labels), labels, 0.0)
    updates, d_state = d_optimizer.update(clipped.sum, d_state, d, public_grads=public)
    d = optax.apply_updates(d, updates)
    again = jax.random.clone(drawn)  # the same stays for G
    of_g = jax.grad(lambda g: mean(d, fakes(g, again, labels), labels, 1.0))(g)
    updates, g_state = g_optimizer.update(of_g, g_state, g)
    return (d, d_state, optax.apply_updates(g, updates), g_state), None

  g, d = networks.init(of_init)
  carry = d, d_optimizer.init(d), g, g_optimizer.init(g)
  at_once = math.gcd(_AT_ONCE, steps)
  chunk = jax.jit(lambda carry, first: jax.lax.scan(step, carry, first + jnp.arange(at_once))[0])
  for first in range(0, steps, at_once):
    carry = chunk(carry, first)
  labels = np.random.default_rng(seed).permutation(train.labels)
  draw = jax.jit(lambda keys, labels: fakes(carry[2], keys, labels))
  stays = [
    np.asarray(draw(jax.random.split(jax.random.fold_in(of_draws, start), len(own)), own))
    for start in range(0, len(labels), _DRAWN)
    for own in [labels[start : start + _DRAWN]]
  ]
  return table(train, codes.decode(np.concatenate(stays)), labels, f'RCGAN, ε = {epsilon:g}'), {
    'seconds': round(time.monotonic() - begun, 1),
    'cpu_seconds': round(time.process_time() - cpu, 1),
    'noise_multiplier': round(mechanism.noise_multiplier, 3),
    'spent': pages.epsilon(mechanism.epsilon()),
    'steps': steps,
  }
