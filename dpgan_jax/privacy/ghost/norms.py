"""Norms that are never too small: sums in floating point, raised by what rounding can have taken.

Clipping is private only if no example is longer than its norm says. A float sum of n squares may
lose n·u of its value (u = 2⁻²⁴ in float32) where one large square stands before many small ones,
and XLA chooses the order. Here sums are made in stages of at most 64 terms, and what the stages can
have lost is added: 6·10⁻⁶ of a norm of 10⁶ entries, 10⁻⁵ of one of 10⁹.

The bound: any order of adding n numbers gives a result within γₙ·Σ|xᵢ| of the sum, where
γₙ = n·u / (1 − n·u); each product and each root adds one to n; a product below the smallest normal
number may come out as 0 (Higham 2002, "Accuracy and Stability of Numerical Algorithms", 3.1 and
4.2). Fused multiply-adds only round less often.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_STAGE = 64
"""The most terms that are added up in one go."""


def wide(x: jax.Array) -> jax.Array:
  """float32 for narrower floats, wider ones as they are."""
  return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def gamma(n: int, dtype: Any) -> float:
  """γₙ: a bound on the relative error of n roundings in `dtype`."""
  lost = n * float(jnp.finfo(dtype).eps) / 2
  return lost / (1 - lost)


def tiny(dtype: Any) -> float:
  """The smallest normal number: what a product can lose where it underflows."""
  return float(jnp.finfo(dtype).tiny)


def two_stages(x: jax.Array) -> jax.Array:
  """Σ over the last two axes [..., p, q], at most γ₍p+q₎·Σ|x| from the sum.

  What stands between the stages is nothing to the sum, and keeps XLA from making one of them.
  """
  return jnp.sum(jnp.sum(x, axis=-1) + tiny(x.dtype), axis=-1)


def root(x: jax.Array) -> jax.Array:
  """√x, or a little more."""
  return jnp.sqrt(x) * (1 + 2 * float(jnp.finfo(x.dtype).eps))


@functools.partial(jax.jit, static_argnames='axis')
def squares(x: jax.Array, axis: int = 1) -> jax.Array:
  """Σ x² over the axes from `axis` on, float32 or wider; never less, and hardly more.

  Where the stages have m terms in all, the result lies between the sum and (1 + γₘ₊₆)² times it,
  but for underflow. NaN and infinities stay.
  """
  x = wide(x)
  kept, size = x.shape[:axis], math.prod(x.shape[axis:])
  x = x.reshape(*kept, size)
  x, stage = _cut(x)
  total = jnp.sum(x * x, axis=-1) + stage * tiny(x.dtype)
  terms = stage
  while total.shape[-1] > _STAGE:
    total, stage = _cut(total)
    total = jnp.sum(total, axis=-1) + tiny(x.dtype)
    terms += stage
  terms += total.shape[-1]
  return jnp.sum(total, axis=-1) * (1 + gamma(terms + 6, x.dtype))


def divisor(n: int, most: int) -> int:
  """The largest divisor of n up to `most`."""
  return max((q for q in range(1, most + 1) if n % q == 0), default=1)


def _cut(x: jax.Array) -> tuple[jax.Array, int]:
  """[..., size] → [..., stages, stage] with zeros at the end where no stage divides the size."""
  size = x.shape[-1]
  stage = divisor(size, _STAGE)
  if size > _STAGE and 8 * stage < _STAGE:
    stage = _STAGE // 2
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -size % stage)])
  return x.reshape(*x.shape[:-1], x.shape[-1] // stage, stage), stage


def length(squared: Sequence[jax.Array]) -> jax.Array:
  """The root of the sum of squared norms [n]; never less than that of exact arithmetic.

  Below 2⁻⁵⁰ (9·10⁻¹⁶), where it may be all allowance for underflow, it is told as 0: no clip norm
  is that small.
  """
  dtype = functools.reduce(jnp.promote_types, (s.dtype for s in squared))
  total = sum((s.astype(dtype) for s in squared[1:]), squared[0].astype(dtype))
  total = jnp.where(total < 2.0**-100, jnp.zeros((), dtype), total)
  return root(total) * (1 + gamma(len(squared), dtype))
