"""How a parameter meets an example: the products whose per-example gradient need not be formed.

A layer that multiplies T rows of inputs A [T, K] by a weight [K, C] has, for one example, the
gradient AᵀD, where D [T, C] is the gradient of the loss by the layer's output. Its norm follows
from A and D alone, and so does a weighted sum over examples (`ghost.forms`). Three primitives of
JAX come down to this: a matrix product (`dot_general`), a convolution of any stride, padding,
dilation and grouping (`conv_general_dilated`: A holds the patches), and a table lookup (`gather`: A
is one-hot). The transposed convolution of the neural-network libraries is the second of these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Step = tuple[Literal['reshape', 'transpose', 'flip'], tuple[int, ...]]


def apply_steps(steps: tuple[Step, ...], x: jax.Array) -> jax.Array:
  """Runs reshapes, transpositions and flips in order."""
  for kind, how in steps:
    match kind:
      case 'reshape':
        x = x.reshape(how)
      case 'transpose':
        x = x.transpose(how)
      case 'flip':
        x = jnp.flip(x, how)
  return x


def invert_view(eqn: Any) -> Step | None:
  """The step that undoes a rearrangement, or None if `eqn` is not one.

  A rearrangement holds every entry of its operand once: the norm of a gradient is the same on both
  sides. Casts count as one, since the gradient is kept in float32.
  """
  before, after = eqn.invars[0].aval, eqn.outvars[0].aval
  match eqn.primitive.name:
    case 'transpose':
      return 'transpose', tuple(int(i) for i in np.argsort(eqn.params['permutation']))
    case 'rev':
      return 'flip', tuple(eqn.params['dimensions'])
    case 'reshape' if eqn.params.get('dimensions') is None:
      return 'reshape', before.shape
    case 'squeeze' | 'expand_dims' | 'copy' | 'copy_p':
      return 'reshape', before.shape
    case 'broadcast_in_dim' if before.size == after.size:
      return 'reshape', before.shape
    case 'convert_element_type' if jnp.issubdtype(after.dtype, jnp.floating):
      return 'reshape', before.shape
  return None


@dataclasses.dataclass(frozen=True)
class Site:
  """One use of a parameter by a product.

  Attributes:
    other: index of the operand that the parameter is multiplied with.
    rows: (operand, gradient of output), of one example → (A [G, T, K], D [G, T, C]) of a product,
      (ids int32 [T], D [T, C]) of a lookup.
    to_weight: rearranges [G, C, K], or [K, C] of a lookup, into the shape of the operand that holds
      the parameter.
    is_lookup: whether `rows` gives ids.
    shape: (G, T, K, C).
  """

  other: int
  rows: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
  to_weight: tuple[Step, ...]
  is_lookup: bool
  shape: tuple[int, int, int, int]


def match(eqn: Any, operand: int) -> Site | None:
  """The site at which `eqn` uses its `operand`-th operand as a weight, or None."""
  rule = _RULES.get(eqn.primitive.name)
  if rule is None or not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
    return None
  return rule(eqn, operand)


def _dot_general(eqn: Any, operand: int) -> Site:
  contract, batch = eqn.params['dimension_numbers']
  weight, other = eqn.invars[operand].aval, eqn.invars[1 - operand].aval
  w_contract, w_batch = tuple(contract[operand]), tuple(batch[operand])
  x_contract, x_batch = tuple(contract[1 - operand]), tuple(batch[1 - operand])
  w_free = tuple(i for i in range(weight.ndim) if i not in w_contract + w_batch)
  x_free = tuple(i for i in range(other.ndim) if i not in x_contract + x_batch)
  groups = math.prod(weight.shape[i] for i in w_batch)
  inputs = math.prod(weight.shape[i] for i in w_contract)
  outputs = math.prod(weight.shape[i] for i in w_free)
  times = math.prod(other.shape[i] for i in x_free)

  def rows(x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    a = x.transpose(x_batch + x_free + x_contract).reshape(groups, times, inputs)
    if operand == 1:  # the output is [batch, free of x, free of weight]
      return a, d.reshape(groups, times, outputs)
    return a, d.reshape(groups, outputs, times).transpose(0, 2, 1)

  order = w_batch + w_free + w_contract  # axes of the weight as they come in [G, C, K]
  to_weight: tuple[Step, ...] = (
    ('reshape', tuple(weight.shape[i] for i in order)),
    ('transpose', tuple(int(i) for i in np.argsort(order))),
  )
  return Site(1 - operand, rows, to_weight, False, (groups, times, inputs, outputs))


def _conv(eqn: Any, operand: int) -> Site | None:
  p = eqn.params
  if operand != 1 or p['batch_group_count'] != 1:
    return None
  lhs_spec, rhs_spec, out_spec = p['dimension_numbers']
  image, kernel, out = (v.aval for v in (*eqn.invars, eqn.outvars[0]))
  groups = p['feature_group_count']
  spatial = len(p['window_strides'])
  taps = tuple(kernel.shape[i] for i in rhs_spec[2:])
  per_group = kernel.shape[rhs_spec[1]]  # input channels of a group
  outputs = kernel.shape[rhs_spec[0]] // groups
  out_sizes = tuple(out.shape[i] for i in out_spec[2:])
  examples = image.shape[lhs_spec[0]]  # 1, unless the loss itself looks at several images
  times = examples * math.prod(out_sizes)
  inputs = math.prod(taps) * per_group

  def rows(x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.transpose((lhs_spec[0], *lhs_spec[2:], lhs_spec[1]))  # [b, spatial..., channels]
    edges = [
      (low, high, dilation - 1)
      for (low, high), dilation in zip(p['padding'], p['lhs_dilation'], strict=True)
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    shifted = []
    for tap in np.ndindex(*taps):
      starts = [t * r for t, r in zip(tap, p['rhs_dilation'], strict=True)]
      stops = [
        start + (size - 1) * stride + 1
        for start, size, stride in zip(starts, out_sizes, p['window_strides'], strict=True)
      ]
      shifted.append(
        jax.lax.slice(
          x, (0, *starts, 0), (examples, *stops, x.shape[-1]), (1, *p['window_strides'], 1)
        )
      )
    a = jnp.stack(shifted, axis=-2)  # [b, out sizes..., taps, channels]
    a = a.reshape(times, math.prod(taps), groups, per_group).transpose(2, 0, 1, 3)
    d = d.transpose((out_spec[0], *out_spec[2:], out_spec[1]))
    d = d.reshape(times, groups, outputs).transpose(1, 0, 2)
    return a.reshape(groups, times, inputs), d

  # [G, C, K] → [G, C, taps..., inputs] → [outputs, inputs, taps...] → the kernel's own order.
  to_weight: tuple[Step, ...] = (
    ('reshape', (groups * outputs, *taps, per_group)),
    ('transpose', (0, 1 + spatial, *range(1, 1 + spatial))),
    ('transpose', tuple(int(i) for i in np.argsort(rhs_spec))),
  )
  return Site(0, rows, to_weight, False, (groups, times, inputs, outputs))


def _gather(eqn: Any, operand: int) -> Site | None:
  numbers, mode = eqn.params['dimension_numbers'], eqn.params['mode']
  table, indices, out = (v.aval for v in (*eqn.invars, eqn.outvars[0]))
  whole_rows = (
    operand == 0
    and numbers.collapsed_slice_dims == (0,)
    and numbers.start_index_map == (0,)
    and not numbers.operand_batching_dims
    and tuple(eqn.params['slice_sizes']) == (1, *table.shape[1:])
    and numbers.offset_dims == tuple(range(out.ndim - table.ndim + 1, out.ndim))
  )
  kinds = jax.lax.GatherScatterMode
  if not whole_rows or mode not in (kinds.FILL_OR_DROP, kinds.CLIP, kinds.PROMISE_IN_BOUNDS):
    return None
  vocabulary, width = table.shape[0], math.prod(table.shape[1:])
  times = math.prod(indices.shape[:-1])
  if not 0 < vocabulary <= np.iinfo(np.int32).max or times == 0:
    return None
  # In the ids' own dtype, in which the number of rows may have no place (256 of uint8).
  last = np.asarray(min(vocabulary - 1, int(jnp.iinfo(indices.dtype).max)), indices.dtype)

  def rows(ids: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    ids, d = ids.reshape(times), d.reshape(times, width)
    if mode != kinds.CLIP:  # an id out of range gives no row a gradient, whatever it reads
      inside = (ids >= 0) & (ids <= last)
      d = jnp.where(inside[:, None], d, jnp.zeros((), d.dtype))
    return jnp.clip(ids, np.zeros((), ids.dtype), last).astype(jnp.int32), d

  return Site(1, rows, (('reshape', table.shape),), True, (1, times, vocabulary, width))


_RULES: dict[str, Callable[[Any, int], Site | None]] = {
  'dot_general': _dot_general,
  'conv_general_dilated': _conv,
  'gather': _gather,
}
