"""Per-example gradients → a clipped sum whose sensitivity is known.

`clipped_sum` takes gradients that carry a leading example axis; `clipped_grad` takes a loss, and
finds norms and sum without forming the gradients of large layers (`ghost`). Adding or removing one
example changes the sum by at most `l2_clip_norm` in the L2 norm over all parameters together,
whatever that example holds:

* an example whose gradient norm exceeds C is scaled down to norm C, or a little less: its
  contribution is at most C in exact arithmetic, whatever was rounded on the way; the others are
  left as they are;
* an example with a NaN or infinite entry, or a norm beyond float32, contributes exactly zero,
  whole;
* an example outside the mask contributes exactly zero;
* norms and scaling are in float32 (or wider), whatever the dtype of the gradients, and what the sum
  rounds is part of the bound (`sums`): examples are clipped a little shorter than C, by 5·10⁻⁴ in
  batches of a few hundred.

>>> import jax.numpy as jnp
>>> grads = {'w': jnp.array([[6.0, 8.0], [0.5, 0.25], [jnp.nan, 0.0]])}
>>> clipped_sum(grads, l2_clip_norm=5.0).sum['w'].round(4)
Array([3.5 , 4.25], dtype=float32)

Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from dpgan_jax import _dtypes, _validate
from dpgan_jax.privacy import memory, sharding
from dpgan_jax.privacy.ghost import forms, ghost, sums
from dpgan_jax.privacy.ghost.sums import clip_factors

PyTree = Any
Strategy = Literal['auto', 'ghost', 'vmap']
STRATEGIES: tuple[Strategy, ...] = ('auto', 'ghost', 'vmap')

_CACHE_BYTES = 2**24
"""What a CPU should work with at once: about what its cores find in their caches. A constant, so
that the order of additions does not depend on the processor."""
_PASSES_OVER_PARAMETERS = 8
"""Every part of a batch reads and writes the parameters and their sums: its own work should be as
many times larger. Measured with 0.03 M and 1.7 M parameters (experiments/results/microbatch.md)."""


class ClippedSum(NamedTuple):
  """What `clipped_sum` returns.

  Attributes:
    sum: pytree of parameters' shapes, the sum of the clipped gradients. Only this is bounded; it
      still needs noise before it may leave.
    norms: float32[n], the norm of each example's gradient before clipping: never less, and more by
      rounding only (`norms`). Private, unbounded.
  """

  sum: PyTree
  norms: jax.Array


class ClippedGrad(NamedTuple):
  """What a function made by `clipped_grad` returns: a `ClippedSum` and the private losses
  float32[n].
  """

  sum: PyTree
  norms: jax.Array
  losses: jax.Array


def num_examples(
  per_example: PyTree, mask: jax.Array | None = None, what: str = 'per-example gradients'
) -> int:
  """Returns the length of the leading example axis that all leaves share.

  Raises:
    InputError: there is no leaf, a leaf has no example axis, or the lengths differ.
  """
  leaves = jax.tree_util.tree_leaves_with_path(per_example)
  if not leaves:
    raise _validate.InputError(f'expected {what}, got a pytree without arrays')
  lengths = {}
  for path, leaf in leaves:
    name = jax.tree_util.keystr(path) or 'gradient'
    if jnp.ndim(leaf) < 1:
      advice = f'pass {what}'
      if what == 'per-example gradients':
        advice += ', jax.vmap(jax.grad(loss), (None, 0))'
      raise _validate.InputError(
        f'expected a leading example axis on every leaf, but {name} is a scalar: {advice}'
      )
    lengths[name] = leaf.shape[0]
  if mask is not None:
    dtype = getattr(mask, 'dtype', type(mask).__name__)
    if dtype != jnp.bool_:
      raise _validate.InputError(
        f'expected mask of dtype bool (weights would change the sensitivity), got {dtype}'
      )
    if mask.ndim != 1:
      raise _validate.InputError(f'expected mask of shape [examples], got shape {mask.shape}')
    lengths['mask'] = mask.shape[0]
  if len(set(lengths.values())) > 1:
    raise _validate.InputError(f'expected one number of examples, got {lengths}')
  return next(iter(lengths.values()))


def per_example_norms(per_example_grads: PyTree) -> jax.Array:
  """The L2 norm of each example's gradient over all leaves together, float32[n] (or wider)."""
  squares = [ghost.squares(leaf) for leaf in jax.tree.leaves(per_example_grads)]
  with jax.numpy_dtype_promotion('standard'):  # float32 beside float64
    return ghost.length(squares)


def clipped_sum(
  per_example_grads: PyTree,
  *,
  l2_clip_norm: float,
  mask: jax.Array | None = None,
  count_rounding: bool = True,
) -> ClippedSum:
  """Clips each example's gradient to L2 norm C over all leaves, and sums over examples.

  Args:
    per_example_grads: pytree whose leaves are [n, *parameter shape]; n may be 0.
    l2_clip_norm: C > 0; `inf` clips nothing (no guarantee, but NaN examples still drop out).
    mask: bool[n]; False excludes an example.
    count_rounding: True makes rounding part of the sensitivity: examples are clipped a little
      shorter than C, and entries are whole multiples of a unit of at most C·n²·2⁻⁵⁶. False is for
      sums that get no noise.

  Returns:
    A `ClippedSum`. L2 sensitivity to an example in the place of one that is masked: C; to replacing
    one: 2C.

  Raises:
    InputError: C ≤ 0, a mask that is not bool[n], leaves whose example axes differ or that are no
      real floats of 16 to 64 bits.
  """
  l2_clip_norm = _validate.positive('l2_clip_norm', l2_clip_norm, allow_inf=True)
  per_example_grads = _dtypes.real_floats('gradient', per_example_grads)
  num_examples(per_example_grads, mask)
  # One copy for norms and sum (see `ghost.backward`).
  per_example_grads = jax.tree.map(jax.lax.optimization_barrier, per_example_grads)
  leaves, structure = jax.tree.flatten(per_example_grads)
  shapes = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
  grids = sums.grids(l2_clip_norm if count_rounding else math.inf, leaves[0].shape[0], shapes)
  norms = per_example_norms(per_example_grads)

  def weighted_sum(factors: jax.Array, usable: jax.Array | None) -> list[forms.Sum]:
    pairs = zip(leaves, grids.leaves, strict=True)
    with jax.numpy_dtype_promotion('standard'):
      return grids.alike([forms.weighted_sum(leaf, factors, usable, grid) for leaf, grid in pairs])

  factors = clip_factors(norms, l2_clip_norm * (1 - grids.lost_in({1})), mask)
  total = _sum(weighted_sum, norms, factors)
  return ClippedSum(structure.unflatten(grids.values(total)), norms)


def _sum(
  weighted_sum: Callable[[jax.Array, jax.Array | None], list[forms.Sum]],
  norms: jax.Array,
  factors: jax.Array,
) -> list[forms.Sum]:
  """Σ factorᵢ·gradientᵢ, leaving out the examples whose norm is not finite."""
  finite = jnp.isfinite(norms)
  # A factor of zero is not enough: 0·NaN is NaN, and one bad example would take the whole step with
  # it. Blanking it out reads and writes every gradient once more, so it is done when there is one.
  return jax.lax.cond(
    jnp.all(finite),
    lambda: weighted_sum(factors, None),
    lambda: weighted_sum(factors, finite),
  )


def clipped_grad(
  loss_fn: Callable[..., jax.Array],
  *,
  l2_clip_norm: float,
  strategy: Strategy = 'auto',
  microbatch_size: int | None = None,
  axis_name: str | None = None,
  count_rounding: bool = True,
) -> Callable[..., ClippedGrad]:
  """Turns a loss on one example into the clipped gradient sum over a batch.

  Args:
    loss_fn: `loss_fn(params, *example) -> scalar`, where `example` has no batch axis. Any JAX
      function: Linen, NNX, Equinox or plain.
    l2_clip_norm: C > 0, as in `clipped_sum`.
    strategy: how per-example norms and the sum are found; all agree up to float32 rounding, for
      which a norm is raised by 0.2 % at most.
      'vmap' forms every example's gradient. 'auto' and 'ghost' take one forward and one backward
      pass, and form per-example gradients only of parameters that do not enter by a matrix product,
      convolution or lookup, and of layers where that is cheaper: 'auto' means in time, 'ghost' in
      memory (see `ghost.forms`).
    microbatch_size: how many examples are looked at at once, at most; None for what is fast
      (`fast_microbatch`), however much memory that takes. It changes memory and speed only: the
      result is the same up to the order of float32 additions. `largest_microbatch` finds how many
      fit.
    axis_name: an axis of the `shard_map` around, over whose devices the batch is divided: the sum
      is then that of all of them, added up exactly. (`jax.lax.psum` of their sums would round once
      for each.)
    count_rounding: as in `clipped_sum`.

  Returns:
    `fn(params, *batch, mask=None) -> ClippedGrad`, where each array of `batch` is [n, ...]. Leaves
    of `params` are real floats of 16 to 64 bits; data may be of any dtype. The sum is float32, for
    float64 parameters float64.

  Raises:
    InputError: an argument out of range; in `fn`, parameters of another dtype, a batch that is a
      list of numbers, a loss that is not one real float or draws from another generator than
      threefry2x32 (under vmap one example's numbers would depend on the others).

  >>> import jax.numpy as jnp
  >>> loss = lambda w, x: jnp.sum(w * x)
  >>> fn = clipped_grad(loss, l2_clip_norm=2.5)
  >>> fn(jnp.ones(2), jnp.array([[3.0, 4.0], [0.0, 0.5]])).sum.round(2)
  Array([1.5, 2.5], dtype=float32)
  """
  l2_clip_norm = _validate.positive('l2_clip_norm', l2_clip_norm, allow_inf=True)
  _validate.one_of('strategy', strategy, STRATEGIES)
  if microbatch_size is not None:
    _validate.integer('microbatch_size', microbatch_size, minimum=1)

  def one_pass(
    plan: ghost.Plan, grids: sums.Grids, params: PyTree, batch: tuple[PyTree, ...], mask: jax.Array
  ) -> ClippedGrad:
    """The sum is a list of leaves in whole numbers of their grids, or floats."""
    found = ghost.backward(plan, params, batch, 'memory' if strategy == 'ghost' else 'time')
    bound = l2_clip_norm * (1 - grids.lost_in(found.positions))
    factors = clip_factors(found.norms, bound, mask)

    def weighted_sum(factors: jax.Array, usable: jax.Array | None) -> list[forms.Sum]:
      return grids.alike(found.weighted_sum(factors, usable, grids.leaves))

    total = _sum(weighted_sum, found.norms, factors)
    return ClippedGrad(total, found.norms, found.losses.astype(jnp.float32))

  def in_parts(
    size: int,
    plan: ghost.Plan,
    grids: sums.Grids,
    params: PyTree,
    batch: tuple[PyTree, ...],
    mask: jax.Array,
  ) -> ClippedGrad:
    count = mask.shape[0]
    passes = math.ceil(count / size)
    size = math.ceil(count / passes)  # equal parts: hardly any padding
    padding = passes * size - count

    def split(x: jax.Array) -> jax.Array:
      # Padding repeats example 0 rather than inventing an input; its mask is False.
      padded = jnp.concatenate([x, jnp.repeat(x[:1], padding, axis=0)]) if padding else x
      return padded.reshape((passes, size, *x.shape[1:]))

    mask_parts = split(mask) & (jnp.arange(passes * size) < count).reshape(passes, -1)

    def accumulate(total: PyTree, part: tuple[Any, jax.Array]) -> tuple[PyTree, tuple[Any, Any]]:
      result = one_pass(plan, grids, params, *part)
      whole = grids.whole(result.sum)
      return jax.tree.map(jnp.add, total, whole), (result.norms, result.losses)

    zero = sharding.alike(grids.zeros(), sharding.varying(mask))
    total, (norms, losses) = jax.lax.scan(
      accumulate, zero, (jax.tree.map(split, batch), mask_parts)
    )
    return ClippedGrad(total, norms.reshape(-1)[:count], losses.reshape(-1)[:count])

  def fn(params: PyTree, *batch: PyTree, mask: jax.Array | None = None) -> ClippedGrad:
    promotion = getattr(jax.config, 'jax_numpy_dtype_promotion')  # noqa: B009
    with jax.numpy_dtype_promotion('standard'):  # widening here is meant, also under 'strict'
      return clipped(_dtypes.real_loss(loss_fn, promotion), params, batch, mask)

  def clipped(
    loss: Callable[..., jax.Array], params: PyTree, batch: tuple[PyTree, ...], mask: Any
  ) -> ClippedGrad:
    params, batch = _dtypes.real_floats('params', params), _dtypes.data(batch)
    if not jax.tree.leaves(params):
      raise _validate.InputError('expected params to hold an array, got a pytree without arrays')
    count = num_examples(batch, mask, 'a batch of arrays [n, ...]')
    mask = jnp.ones(count, bool) if mask is None else mask
    params, batch, mask = sharding.alike((params, batch, mask))  # one example's gradient, not n's
    plan = ghost.make_plan(loss, params, batch, cover=strategy != 'vmap')
    leaves, structure = jax.tree.flatten(params)
    bound = l2_clip_norm if count_rounding else math.inf
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    grids = sums.grids(bound, count * devices, leaves, devices)
    whole = functools.partial(one_pass, plan, grids)
    size = microbatch_size or _fast(whole, params, batch, mask)[0]
    if size >= count:
      result = whole(params, batch, mask)
    else:
      result = in_parts(size, plan, grids, params, batch, mask)
    if plan.entangled and count > 1:  # look at each example alone, so that NaN cannot spread
      result = jax.lax.cond(
        jnp.all(jnp.isfinite(result.norms)),
        lambda: result,
        lambda: in_parts(1, plan, grids, params, batch, mask),
      )
    return result._replace(sum=structure.unflatten(grids.values(result.sum, axis_name)))

  return fn


def _fast(
  whole: Callable[..., ClippedGrad], params: PyTree, batch: tuple[PyTree, ...], mask: Any
) -> tuple[int, int | None]:
  """How many examples to look at at once; if that was needed, the working bytes of all."""
  count = mask.shape[0]
  if jax.default_backend() != 'cpu':
    return count, None  # the more at once, the better an accelerator is used
  own = sum(math.prod(jnp.shape(p)) * jnp.result_type(p).itemsize for p in jax.tree.leaves(params))
  wanted = max(_CACHE_BYTES, _PASSES_OVER_PARAMETERS * own)
  needed = memory.working_bytes(whole, params, batch, mask)
  if needed <= 2 * wanted:  # two halves would gain no more than the second start costs
    return count, needed
  return math.ceil(count / math.ceil(needed / wanted)), needed


def fast_microbatch(
  loss_fn: Callable[..., jax.Array],
  params: PyTree,
  batch: tuple[PyTree, ...],
  *,
  strategy: Strategy = 'auto',
) -> int:
  """How many examples `clipped_grad` looks at at once if nothing else is asked for.

  On a CPU, parts whose working memory stays in the caches: a layer's output is still there when the
  next layer, or the backward pass, reads it. Elsewhere all examples. It depends on shapes only.

  Args:
    loss_fn: the loss on one example, as for `clipped_grad`.
    params: pytree of arrays or shapes.
    batch: pytrees of arrays or shapes [n, ...], n ≥ 1.
    strategy: as for `clipped_grad`.
  """
  return _fast_of(loss_fn, params, batch, strategy)[0]


def _fast_of(loss_fn: Any, params: PyTree, batch: Any, strategy: Any) -> tuple[int, int | None]:
  mask = jax.ShapeDtypeStruct((jax.tree.leaves(batch)[0].shape[0],), jnp.bool_)
  # The clip norm does not change what is held in memory.
  whole = clipped_grad(loss_fn, l2_clip_norm=1.0, strategy=strategy, microbatch_size=mask.shape[0])
  return _fast(lambda p, b, m: whole(p, *b, mask=m), params, batch, mask)


def largest_microbatch(
  loss_fn: Callable[..., jax.Array],
  params: PyTree,
  batch: tuple[PyTree, ...],
  *,
  budget: int,
  strategy: Strategy = 'auto',
) -> int:
  """The most examples that `clipped_grad` should look at at once, within `budget` bytes.

  Args:
    loss_fn: the loss on one example, as for `clipped_grad`.
    params: pytree of arrays or shapes.
    batch: pytrees of arrays or shapes [n, ...], n ≥ 1.
    budget: bytes, for the working memory of one call.
    strategy: as for `clipped_grad`.

  Returns:
    `fast_microbatch` where that fits; otherwise its number of parts times the smallest power of two
    that fits: few different programs.

  Raises:
    InputError: a single example needs more than `budget`.
  """
  fast, needed = _fast_of(loss_fn, params, batch, strategy)
  parts = math.ceil((count := jax.tree.leaves(batch)[0].shape[0]) / fast)
  while True:
    size = math.ceil(count / parts)
    if size < count or needed is None:  # else all are looked at, whose trace is there already
      fn = clipped_grad(loss_fn, l2_clip_norm=1.0, strategy=strategy, microbatch_size=size)
      needed = memory.working_bytes(fn, params, *batch)
    if needed <= budget:
      return size
    if size == 1:
      raise _validate.InputError(
        f'expected memory_budget_gib >= {needed / memory.GIB:.3g}, what the gradient of a single '
        f'example takes, got {budget / memory.GIB:.3g}'
      )
    # Memory falls at most as fast as the number of examples: fewer parts cannot be enough.
    parts *= 1 << max(1, math.ceil(math.log2(needed / budget)))
