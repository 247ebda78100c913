"""How a parameter meets an example: the products whose per-example gradient need not be formed.

A layer that multiplies T rows of inputs A [T, K] by a weight [K, C] has, for one example, the
gradient AᵀD, where D [T, C] is the gradient of the loss by the layer's output. Its norm follows
from A and D alone, and so does a weighted sum over examples. Three primitives of JAX come down to
this: a matrix product (`dot_general`), a convolution of any stride, padding, dilation and grouping
(`conv_general_dilated`: A holds the patches), and a table lookup (`gather`: A is one-hot). The
transposed convolution of the neural-network libraries is the second of these.

`match` recognises the three. A `Form` is what it gets from one batch: A and D of every example.
Its three ways to the norm:

* outer: T = 1, so ‖AᵀD‖ = ‖A‖·‖D‖ (Goodfellow 2015, arXiv 1510.01799);
* gram: ‖AᵀD‖² = ⟨AAᵀ, DDᵀ⟩, T²·(K + C) products, memory T² (Li et al. 2022, arXiv 2110.05679,
  section 4; Bu et al. 2022, arXiv 2205.10683, for convolutions);
* direct: forms AᵀD of each example, memory K·C, from which norm and sum are then read (the
  "book-keeping" of Bu et al. 2023, arXiv 2210.00038, keeps it when it is small).

Rounding. 'gram' and 'outer' infer a norm from factors, and must never infer too small a one. Rows
that nearly cancel would make the gram sum mostly rounding error, so the norm is taken as at least
2⁻⁵ of what it would be without any cancellation, Σₜ‖aₜ‖‖dₜ‖; every product that may have
underflowed is counted as the smallest normal number. Both only ever clip more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Method = Literal['outer', 'gram', 'direct']
Preference = Literal['time', 'memory']
Step = tuple[Literal['reshape', 'transpose', 'flip'], tuple[int, ...]]

_CANCELLATION = 2.0**-10  # (2⁻⁵)², on the square of the norm
_TINY = float(np.finfo(np.float32).tiny)
_FLOPS_PER_FLOAT_MOVED = 16
_FLOPS_PER_FLOAT_MOVED_ON_CPU = 6
"""What moving one float32 costs in multiply-adds. On a CPU a part of a batch is in its caches
(`clipping.fast_microbatch`), and what is moved comes from there."""


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
    rows: (operand, gradient of output), of one example → (A [G, T, K] or ids [T], D [G, T, C]).
    to_weight: rearranges [G, C, K] into the shape of the operand that holds the parameter.
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

  def rows(ids: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    ids, d = ids.reshape(times), d.reshape(1, times, width)
    if mode == kinds.FILL_OR_DROP:  # an id out of range reads no row, and gives none a gradient
      inside = (ids >= 0) & (ids < vocabulary)
      d = jnp.where(inside[None, :, None], d, jnp.zeros((), d.dtype))
    return jnp.clip(ids, 0, vocabulary - 1), d

  to_weight: tuple[Step, ...] = (('transpose', (0, 2, 1)), ('reshape', table.shape))
  return Site(1, rows, to_weight, True, (1, times, vocabulary, width))


_RULES: dict[str, Callable[[Any, int], Site | None]] = {
  'dot_general': _dot_general,
  'conv_general_dilated': _conv,
  'gather': _gather,
}


def cheapest(shape: tuple[int, int, int, int], preference: Preference) -> Method:
  """Which way to the norm costs least, from (G, T, K, C) and the kind of the device alone.

  The sum costs T·K·C products on either way; 'direct' reads it off the gradients it holds.
  """
  groups, times, inputs, outputs = shape
  if times * groups == 1:
    return 'outer'
  direct, gram = inputs * outputs, times * times
  if preference == 'time':
    on_cpu = jax.default_backend() == 'cpu'
    moved = _FLOPS_PER_FLOAT_MOVED_ON_CPU if on_cpu else _FLOPS_PER_FLOAT_MOVED
    direct = 3 * moved * direct
    gram = times * times * (inputs + outputs) + 6 * moved * gram
  return 'gram' if gram < direct else 'direct'


def wide(x: jax.Array) -> jax.Array:
  """float32 for narrower floats, wider ones as they are."""
  return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Products in full float32: TF32 or bfloat16 passes would loosen the bound on the sum."""
  if x.dtype != y.dtype:
    x, y = wide(x), wide(y)
  return jnp.einsum(
    spec,
    x,
    y,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )


def _square(x: jax.Array) -> jax.Array:
  """‖row‖² along the last axis, or more: entries' squares may underflow, their bound must not."""
  x = wide(x)
  return jnp.sum(x * x, axis=-1) + x.shape[-1] * _TINY


@dataclasses.dataclass(frozen=True)
class Form:
  """A and D of every example of a batch, for one parameter.

  Attributes:
    a: [n, G, T, K], or ids int [n, T] for a lookup.
    d: [n, G, T, C].
    vocabulary: K of a lookup, else None.
    method: the way to the norm.
    gradients: float32 [n, G, C, K] with method 'direct', else None.
  """

  a: jax.Array
  d: jax.Array
  vocabulary: int | None
  method: Method
  gradients: jax.Array | None

  @classmethod
  def make(cls, a: jax.Array, d: jax.Array, vocabulary: int | None, preference: Preference) -> Form:
    """Chooses the way to the norm, and goes the part of it that the sum shares."""
    groups, times, outputs = d.shape[1:]
    inputs = a.shape[-1] if vocabulary is None else vocabulary
    method = cheapest((groups, times, inputs, outputs), preference)
    gradients = None
    if method == 'direct':
      if vocabulary is None:
        gradients = _einsum('ngtc,ngtk->ngck', d, a)
      else:
        table = jnp.zeros((d.shape[0], vocabulary, outputs), wide(d).dtype)
        one = jnp.arange(d.shape[0])[:, None]
        gradients = table.at[one, a].add(wide(d[:, 0])).transpose(0, 2, 1)[:, None]
    return cls(a, d, vocabulary, method, gradients)

  def squared_norms(self) -> jax.Array:
    """‖AᵀD‖² of each example, or a little more; float32[n]."""
    if self.gradients is not None:
      return jnp.sum(self.gradients * self.gradients, axis=(1, 2, 3))
    d_squares = _square(self.d)  # [n, G, T]
    a_squares = jnp.ones(()) if self.vocabulary is not None else _square(self.a)
    uncancelled = jnp.sum(jnp.sqrt(a_squares) * jnp.sqrt(d_squares), axis=-1) ** 2
    if self.method == 'outer':
      return jnp.sum(uncancelled, axis=-1)
    d_gram = _einsum('ngtc,ngsc->ngts', self.d, self.d)
    if self.vocabulary is not None:
      a_gram = (self.a[:, None, :, None] == self.a[:, None, None, :]).astype(jnp.float32)
    else:
      a_gram = _einsum('ngtk,ngsk->ngts', self.a, self.a)
    gram = jnp.sum(a_gram * d_gram, axis=(-2, -1))
    # Each entry of a gram matrix has lost up to K (or C) times the smallest normal number.
    lost = self.d.shape[-1] * jnp.sum(jnp.sqrt(a_squares) * jnp.ones_like(d_squares), axis=-1) ** 2
    if self.vocabulary is None:
      lost = lost + self.a.shape[-1] * jnp.sum(jnp.sqrt(d_squares), axis=-1) ** 2
    # NaN must stay NaN (maximum does that): the example is then left out.
    return jnp.sum(jnp.maximum(gram, _CANCELLATION * uncancelled) + _TINY * lost, axis=-1)

  def weighted_sum(self, factors: jax.Array, usable: jax.Array | None) -> jax.Array:
    """Σᵢ factorᵢ·gradientᵢ, float32 [G, C, K].

    Args:
      factors: float32[n].
      usable: bool[n], examples to leave out though they hold NaN or infinities; None if none does.
    """
    if self.gradients is not None:
      return weighted_sum(self.gradients, factors, usable)
    scaled = _like(factors, self.d) * wide(_keep(self.d, usable))
    if self.vocabulary is not None:
      total = jnp.zeros((self.vocabulary, self.d.shape[-1]), scaled.dtype)
      return total.at[self.a.reshape(-1)].add(scaled.reshape(-1, self.d.shape[-1])).T[None]
    return _einsum('ngtc,ngtk->gck', scaled, wide(_keep(self.a, usable)))


def weighted_sum(gradients: jax.Array, factors: jax.Array, usable: jax.Array | None) -> jax.Array:
  """Σᵢ factorᵢ·gradientᵢ for gradients [n, ...] and factors [n]; see `Form.weighted_sum`.

  As a product of a vector with a matrix, which reads the gradients once; written as a sum of
  products, XLA:CPU walks down the columns and takes tens of times longer.
  """
  n = gradients.shape[0]
  flat = wide(_keep(gradients, usable)).reshape(n, math.prod(gradients.shape[1:]))
  return _einsum('n,nz->z', factors, flat).reshape(gradients.shape[1:])


def _keep(x: jax.Array, usable: jax.Array | None) -> jax.Array:
  """`x` [n, ...] with zeros for the examples that are not usable."""
  return x if usable is None else jnp.where(_like(usable, x), x, jnp.zeros((), x.dtype))


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
  """[n] shaped to broadcast against [n, ...]."""
  return vector.reshape((-1,) + (1,) * (x.ndim - 1))
