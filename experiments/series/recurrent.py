"""A small recurrent network that foretells the outcome: learnt from some stays, tested on others.

A GRU of 32 units, its last state through a linear layer. It sees the order of values, which
summaries lose.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.tables import tstr
from experiments.series.codes import Codes

_UNITS, _EPOCHS, _BATCH, _RATE = 32, 8, 64, 3e-3
_AT_ONCE = 1000


class Outcome(nn.Module):
  """[n, T, P] → logits [n]."""

  @nn.compact
  def __call__(self, stays: jax.Array) -> jax.Array:
    last: Any = nn.RNN(nn.GRUCell(_UNITS))(stays)
    return nn.Dense(1)(last[:, -1])[:, 0]


def auroc(learnt_from: TableDataset, test: TableDataset) -> float:
  """Of two classes, 1 the one that is foretold; 0.5 where only one is learnt from."""
  schema, rng = test.schema, np.random.default_rng(0)
  assert isinstance(schema, SeriesSchema)
  codes, module = Codes(schema), Outcome()
  x, y = jnp.asarray(codes.encode(learnt_from.records)), jnp.asarray(learnt_from.labels)
  per_epoch = len(x) // _BATCH
  optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, _EPOCHS * per_epoch))

  def step(carry: Any, chosen: jax.Array) -> Any:
    params, state = carry

    def loss(params: Any) -> jax.Array:
      logits: Any = module.apply(params, x[chosen])
      return optax.sigmoid_binary_cross_entropy(logits, y[chosen].astype(logits.dtype)).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  params = module.init(jax.random.key(0), x[:1])
  carry, epoch = (params, optimizer.init(params)), jax.jit(lambda *a: jax.lax.scan(step, *a)[0])
  for _ in range(_EPOCHS):
    order = rng.permutation(len(x))[: per_epoch * _BATCH].reshape(per_epoch, _BATCH)
    carry = epoch(carry, jnp.asarray(order))
  forward = jax.jit(module.apply)
  logits = [
    np.asarray(forward(carry[0], jnp.asarray(codes.encode(test.records[start : start + _AT_ONCE]))))
    for start in range(0, len(test), _AT_ONCE)
  ]
  found = tstr.auroc(test.labels == 1, np.concatenate(logits))
  return 0.5 if found is None else found
