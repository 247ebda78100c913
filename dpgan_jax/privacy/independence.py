"""Whether examples are treated alone, found by running: one example by itself, and among others.

Clipping bounds what an example does through its own gradient. What it does to the gradients of
others is bounded by nothing: a layer that looks across the batch, a compiler that reads beside an
array (`convolutions`). Both show when the same random example is computed in two ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.privacy import clipping

PyTree = Any

_COUNT = 3
_TOLERANCE = 1e-3  # rounding stays far below it, in float32


def random_like(shapes: PyTree) -> PyTree:
  """Random arrays of the shapes and dtypes of a pytree: normal floats, integers 0 and 1."""
  rng = np.random.default_rng(0)

  def draw(like: Any) -> np.ndarray:
    if jnp.issubdtype(like.dtype, jnp.floating):
      return rng.standard_normal(like.shape).astype(like.dtype)
    return rng.integers(0, 2, like.shape).astype(like.dtype)

  return jax.tree.map(draw, shapes)


def random_batch(example: PyTree) -> PyTree:
  """Random examples like `example` (arrays or shapes), [3, ...]."""
  several = lambda x: jax.ShapeDtypeStruct((_COUNT, *x.shape), x.dtype)  # noqa: E731
  return random_like(jax.tree.map(several, example))


def require_independent_outputs(fn: Callable[..., PyTree], batch: tuple[PyTree, ...]) -> None:
  """Refuses `fn(*batch)` whose outputs [n, ...] for one example change with the other examples.

  Raises:
    InputError: naming by how much they change.
  """
  fn = jax.jit(fn)
  together = fn(*batch)
  for i in range(_COUNT):
    _compare('outputs', _only(i, together), fn(*_only(i, batch)))


def require_independent(
  loss_fn: Callable[..., jax.Array], params: PyTree, example: tuple[PyTree, ...]
) -> None:
  """Refuses a loss whose gradient for one example changes with the other examples of a batch.

  For whoever hands `loss_fn` to `clipping.clipped_grad`: worth calling once for a new model or a
  new version of XLA. It compiles the clipped sum twice, for three random examples and for one.

  Args:
    loss_fn: the loss on one example, as for `clipped_grad`.
    params: pytree of arrays; initial parameters will do.
    example: pytrees of arrays or `jax.ShapeDtypeStruct`s, one example. Only shapes matter.

  Raises:
    InputError: naming what changes, and by how much.
  """
  batch = random_batch(example)
  fn = jax.jit(clipping.clipped_grad(loss_fn, l2_clip_norm=float('inf'), microbatch_size=_COUNT))
  for i in range(_COUNT):
    together = fn(params, *batch, mask=jnp.arange(_COUNT) == i)
    alone = fn(params, *_only(i, batch), mask=jnp.ones(1, bool))
    _compare('losses', together.losses[i], alone.losses[0])
    _compare('gradients', together.sum, alone.sum)


def _only(i: int, batch: PyTree) -> PyTree:
  """The batch of example i alone."""
  return jax.tree.map(lambda x: np.asarray(x)[i : i + 1], batch)


def _compare(what: str, together: PyTree, alone: PyTree) -> None:
  flat = [
    np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])
    for tree in (together, alone)
  ]
  size = max(np.abs(flat[1]).max(initial=0.0), 1e-6)
  change = np.abs(flat[0] - flat[1]).max(initial=0.0) / size
  if not change <= _TOLERANCE:
    raise _validate.InputError(
      f'expected a model that treats each example alone, but its {what} for one of {_COUNT} random '
      f'examples change by {change:.2g} of their size when the others are left out'
    )
