"""The optax transforms that make a gradient private.

`clip_and_noise` is the whole Gaussian mechanism as one `optax.GradientTransformationExtraArgs`: it
takes per-example gradients, so it stands in a chain where
`optax.contrib.differentially_private_aggregate` stands today:

>>> import jax, jax.numpy as jnp, optax
>>> optimizer = optax.chain(
...     clip_and_noise(l2_clip_norm=1.0, noise_multiplier=1.1, expected_batch_size=4,
...                    key=jax.random.key(0)),
...     optax.adam(1e-3))
>>> params = {'w': jnp.zeros(3)}
>>> state = optimizer.init(params)
>>> loss = lambda p, x: jnp.sum(p['w'] * x)
>>> grads = jax.vmap(jax.grad(loss), (None, 0))(params, jnp.ones((5, 3)))
>>> mask = jnp.array([True, True, True, True, False])  # a Poisson batch, padded to 5
>>> updates, state = optimizer.update(grads, state, params, mask=mask)
>>> updates['w'].shape
(3,)

`noise_sum` is its second half, for callers who hold a clipped sum already
(`clipping.clipped_grad`).

What differs from optax's own transform, each for a reason that has bitten somebody: the sum is
divided by the public expected batch size, not by the realised one; padding is masked; one NaN
example does not become a NaN step; an empty batch still takes its noisy step; there is no default
key; gradients of public data (a GAN's fakes) have a place of their own, after the noise.

Where it stands: first in `optax.chain`, once for each charged batch, on the whole gradient. What
decides whether, how often or on which part of the gradient the noise is added must stand behind it:

    optax.chain(noise, optax.MultiSteps(optax.adam(1e-3), 4))         noisy steps, averaged: right
    optax.MultiSteps(optax.chain(noise, optax.adam(1e-3)), 4)         refused, and so on for
    apply_if_finite, conditionally_*, masked, multi_transform, galore, sam, mechanize, lookahead
    with resets, and all of optax that is not known to be right

Gradients of one large batch in parts: add up the clipped sums of all parts, then one update with
the expected size of the whole batch (or leave the parts to `clipped_grad(microbatch_size=...)`).
On several devices: add up clipped sums first (`clipped_grad(axis_name=...)` does, exactly), then
noise once, with the same key everywhere; a mean taken after the noise has the noise of one device
and 1/devices of the signal. Inside `jax.shard_map` another order is refused
(`sharding.require_same`).

What stands behind the noise must not look around it either: `update` takes no value, gradient or
function of the loss for it (line searches, Polyak steps, `reduce_on_plateau`), since these follow
private data without noise. Where they follow public data, update what stands behind by itself.

Optax's own wrappers, and its transforms before the noise in a chain, are seen on Python's stack;
several sums under one `jax.vmap` that share a key, by its rule for batches. What cannot be seen:
wrappers of others, and a `cond` or a loop of your own that skips the update or repeats it with one
state, which draws the same noise again.

Dtypes: sums and noise are float32 or wider. The update gets the dtype of the parameters at the very
end, after the noise, where rounding is post-processing: so an optimizer's moments keep the dtype in
which `init` made them, in `jax.lax.scan` too. Without `params` it stays float32.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _dtypes, _keys, _validate
from dpgan_jax.privacy import clipping, sharding, step_noise

PyTree = Any

_WRAPPERS = {
  'MultiSteps': "adds the noise once for several batches, or a batch's noise several times",
  'apply_if_finite': 'skips steps by looking at private gradients',
  'conditionally_mask': 'skips steps',
  'conditionally_transform': 'lets gradients pass without noise',
  'galore': 'looks at private gradients before the noise',
  'masked': 'lets the rest of the gradient pass without noise',
  'mechanize': 'looks at private gradients beside the noise',
  'partition': 'clips and noises each part by itself',
  'process': 'works on single examples',
  'sam': 'uses several gradients for one update',
  'scale_by_galore': 'looks at private gradients before the noise',
}
"""Functions and classes of optax that must not hold the noise, and what they would do."""
_HOLDERS = frozenset({
  'chain', 'flatten', 'inject_hyperparams', 'inject_stateful_hyperparams', 'lookahead',
  'named_chain', 'schedule_free', 'split_real_and_imaginary', 'with_extra_args_support',
})  # fmt: skip
"""Those that hand the whole gradient to the noise once a step, and see nothing of it but what comes
back; all others are refused."""


class PrivatizerState(NamedTuple):
  """`key` is the noise key of the whole run, `count` int32 how many updates have been made.

  Whoever holds the key can remove the noise: it is as private as the data, until it is destroyed.

  Saving: pickle and orbax take the typed key as it is. `flax.serialization`, and all else that
  writes plain arrays, takes `state._replace(key=jax.random.key_data(state.key))`; back with
  `jax.random.wrap_key_data(words, impl='threefry2x32')`.
  """

  key: jax.Array
  count: jax.Array


def step_key(state: PrivatizerState, updates: PyTree, *settings: float) -> jax.Array:
  """The noise key of the next update: of the run's key, the sum's names and shapes, Δ, σ, B and
  stream (`settings`), and the step.

  Another sum, or another mechanism, thus gets other noise from the same key.
  """
  leaves = jax.tree_util.tree_leaves_with_path(updates)
  names = tuple((jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in leaves)
  key = _keys.for_purpose(_keys.require('state.key', state.key), 'noise', names, *settings)
  return _keys.at_step(key, state.count)


def require_constant(name: str, value: Any) -> None:
  """Refuses what may change from step to step: every step is charged the same."""
  if callable(value) or isinstance(value, jax.Array | np.ndarray):
    raise _validate.InputError(
      f'expected {name} to be one number for all steps, got {type(value).__name__}: for a schedule '
      'use one DPMechanism for each value, and account for '
      'dp_accounting.ComposedDpEvent([m.event() for m in mechanisms])'
    )


def noise_sum(
  l2_sensitivity: float,
  noise_multiplier: float,
  expected_batch_size: float,
  key: jax.Array | None = None,
  stream: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Adds Gaussian noise to a clipped sum, divides by the expected batch size, adds public
  gradients.

  `update(clipped_sum, state, params=None, *, public_grads=None)` returns
  (clipped_sum + σ·Δ·z) / B + public_grads, z standard normal, the numerator on a public grid
  (`step_noise`), the result in the dtypes of `params`. The `mask` of `clip_and_noise` may be given
  too, so that a loop can call either, and is not looked at.

  Args:
    l2_sensitivity: Δ, the L2 sensitivity of the sum to adding or removing one example; the clip
      norm of the clipping that made it. Take it from there (`DPMechanism` does), do not type it
      twice.
    noise_multiplier: σ ≥ 0, relative to Δ.
    expected_batch_size: B > 0, a public constant; never the number of examples that came.
    key: a typed threefry2x32 key of this run. It may be the sampler's, whose numbers are
      independent of the noise. None for a transform that only updates: the key of a run is in its
      state, put there by `init`, which needs one.
    stream: separates noises that are otherwise alike; `DPMechanism` gives each of its own.

  Guarantee: each update is a Gaussian mechanism of noise multiplier σ with respect to the sum.
  `public_grads` is added after the noise and is not protected: it must not depend on private data.

  Raises:
    InputError: an argument out of range or a schedule, another key, Δ = ∞ with σ > 0; in `init`
      and `update`, a wrapper of optax that must not hold the noise, a leaf that is no real float;
      in `update`, shapes that differ.
  """
  require_constant('l2_sensitivity', l2_sensitivity)
  require_constant('noise_multiplier', noise_multiplier)
  require_constant('expected_batch_size', expected_batch_size)
  # Python's own floats: one of NumPy's would widen float32 sums under x64.
  l2_sensitivity = _validate.positive('l2_sensitivity', l2_sensitivity, allow_inf=True)
  noise_multiplier = _validate.non_negative('noise_multiplier', noise_multiplier)
  expected_batch_size = _validate.positive('expected_batch_size', expected_batch_size)
  settings = l2_sensitivity, noise_multiplier, expected_batch_size, stream
  if l2_sensitivity == float('inf') and noise_multiplier > 0:
    raise _validate.InputError(
      'expected a finite l2_clip_norm with noise_multiplier > 0, got inf: no finite noise covers it'
    )
  if noise_multiplier > 0:
    step_noise.grid_of(noise_multiplier * l2_sensitivity)  # refuses what float32 has no room for
  own_key = None if key is None else _keys.own(_keys.require('key', key))

  def init(params: PyTree) -> PrivatizerState:
    _require_whole(params, starting=True)
    _dtypes.real_floats('params', params)
    return PrivatizerState(_keys.own(_keys.require('key', own_key)), jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: Any,  # PrivatizerState; optax types every state alike
    params: PyTree | None = None,
    *,
    mask: jax.Array | None = None,
    public_grads: PyTree | None = None,
    **extra: Any,
  ) -> tuple[PyTree, Any]:
    del mask  # the sum is masked already
    _require_whole(updates)
    _refuse_around(extra)
    updates = _dtypes.real_floats('sum', updates)
    sharding.require_same('the sum', updates)
    sharding.require_same('state.key', state)
    updates = jax.tree.map(lambda u: u.astype(_dtypes.accumulation_dtype(u.dtype)), updates)
    if noise_multiplier > 0 and jax.tree.leaves(updates):
      key = step_key(state, updates, *settings)
      updates = _own_noise(key, updates)
      updates = step_noise.add_gaussian(key, updates, l2_sensitivity, noise_multiplier)
    updates = jax.tree.map(lambda u: u / expected_batch_size, updates)
    if public_grads is not None:
      public = _like('public_grads', public_grads, updates)
      updates = jax.tree.map(lambda u, p: u + p.astype(u.dtype), updates, public)
    if params is not None:
      params = _like('params', params, updates)
      updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
    return updates, PrivatizerState(state.key, jnp.asarray(optax.safe_increment(state.count)))

  return optax.GradientTransformationExtraArgs(init, update)


def clip_and_noise(
  l2_clip_norm: float,
  noise_multiplier: float,
  expected_batch_size: float,
  key: jax.Array | None = None,
  stream: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """The DP-SGD gradient as an optax transform, from per-example gradients.

  `update(per_example_grads, state, params=None, *, mask=None, public_grads=None)` returns
  (Σᵢ maskᵢ·clip(gᵢ, C) + σ·C·z) / B + public_grads, with z standard normal, in the dtypes of
  `params`.

  Args:
    l2_clip_norm: C > 0, the L2 bound on each example's gradient over all leaves together.
    noise_multiplier: σ ≥ 0, relative to C.
    expected_batch_size: B > 0, public: q·N under Poisson sampling.
    key: a typed threefry2x32 key of this run, or None, as for `noise_sum`.
    stream: as for `noise_sum`.

  In `update`, every leaf of `per_example_grads` is [n, *parameter shape], n may be 0; `mask` is
  bool[n] (False: padding); `public_grads` has the parameters' shapes and must not depend on private
  data.

  Guarantee: with batches that are Poisson samples of rate q, T updates are (ε, δ)-DP as
  `DPMechanism.epsilon` computes, under adding or removing one example.

  Raises:
    InputError: as for `noise_sum`; in `update`, a leaf without an example axis (batch-mean
      gradients, when `params` is given), a mask that is not bool[n].

  Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1, with a public divisor.
  """
  require_constant('l2_clip_norm', l2_clip_norm)
  _validate.positive('l2_clip_norm', l2_clip_norm, allow_inf=True)
  stream = _keys.number('clip_and_noise', stream)
  noise = noise_sum(l2_clip_norm, noise_multiplier, expected_batch_size, key, stream)

  def update(
    updates: PyTree,
    state: Any,  # PrivatizerState; optax types every state alike
    params: PyTree | None = None,
    *,
    mask: jax.Array | None = None,
    public_grads: PyTree | None = None,
    **extra: Any,
  ) -> tuple[PyTree, Any]:
    _require_whole(updates)
    if params is not None:
      _check_example_axis(updates, params)
    total = clipping.clipped_sum(
      updates, l2_clip_norm=l2_clip_norm, mask=mask, count_rounding=noise_multiplier > 0
    ).sum
    return noise.update(total, state, params, public_grads=public_grads, **extra)

  return optax.GradientTransformationExtraArgs(noise.init, update)


def _check_example_axis(per_example_grads: PyTree, params: PyTree) -> None:
  """Refuses gradients that were averaged already: clipping their sum would protect nobody."""
  leaves = jax.tree.leaves(params)
  grads = jax.tree_util.tree_leaves_with_path(per_example_grads)
  if len(grads) != len(leaves):
    raise _validate.InputError(
      f'expected per-example gradients of {len(leaves)} parameters, got {len(grads)}'
    )
  for (path, grad), param in zip(grads, leaves, strict=True):
    if jnp.shape(grad)[1:] != jnp.shape(param) or jnp.ndim(grad) != jnp.ndim(param) + 1:
      raise _validate.InputError(
        f'expected per-example gradients [n, {", ".join(map(str, jnp.shape(param)))}] for '
        f'{jax.tree_util.keystr(path) or "the parameter"}, got shape {jnp.shape(grad)}'
      )


def _like(what: str, tree: PyTree, updates: PyTree) -> PyTree:
  """`tree` in the structure of `updates`, if its leaves are real floats of the same shapes."""
  leaves = jax.tree.leaves(_dtypes.real_floats(what, tree))
  shapes = [leaf.shape for leaf in leaves]
  if shapes != [u.shape for u in jax.tree.leaves(updates)]:
    raise _validate.InputError(
      f'expected {what} of the shapes of the sum, {jax.tree.map(jnp.shape, updates)}, got '
      f'{jax.tree.map(jnp.shape, tree)}'
    )
  return jax.tree.unflatten(jax.tree.structure(updates), leaves)


def _require_whole(tree: PyTree, *, starting: bool = False) -> None:
  """Refuses to stand in a wrapper of optax that makes something else of the noise than is charged.

  Such a wrapper leaves no trace in what it hands on, but it is on Python's stack, both when it runs
  and when JAX traces it.
  """
  found = None
  if any(_is_masked(leaf) for leaf in jax.tree.leaves(tree, is_leaf=_is_masked)):
    found = 'masked', _WRAPPERS['masked']
  frame = sys._getframe(1)
  while frame is not None:
    if str(frame.f_globals.get('__name__')).startswith('optax.'):
      name, *inner = frame.f_code.co_qualname.split('.')
      if name in ('chain', 'named_chain') and (before := frame.f_locals.get('new_state')):
        raise _validate.InputError(
          f'expected the noise first in optax.{name}, got {len(before)} before it: what scales, '
          'adds up or remembers sums changes what an example can do to them'
        )
      if name not in _HOLDERS:  # the outermost has the name that the caller wrote
        found = name, _WRAPPERS.get(name, 'may skip, repeat or look around it')
      elif starting and inner and inner[-1].startswith('update'):
        found = name, 'starts the noise anew, to be drawn again'
    frame = frame.f_back
  if found is not None:
    name, does = 'multi_transform' if found[0] == 'partition' else found[0], found[1]
    raise _validate.InputError(
      f'expected the noise outside of optax.{name}, which {does}: write '
      f'optax.chain(noise, optax.{name}(...)), and for one update from several batches add up '
      'their clipped sums before it'
    )


def _refuse_around(extra: dict[str, Any]) -> None:
  """Refuses what a chain would hand to the transforms behind the noise, around it."""
  if given := sorted(name for name, value in extra.items() if value is not None):
    raise _validate.InputError(
      f'expected no {given[0]} in the update: it would reach what stands behind the noise, and '
      'follows private data without noise; if it follows public data alone, update what stands '
      f'behind by itself: rest.update(noisy, rest_state, params, {given[0]}=...)'
    )


@jax.custom_batching.custom_vmap
def _own_noise(key: jax.Array, updates: PyTree) -> PyTree:
  """The updates, unless `jax.vmap` makes several of them to which one key would add one noise."""
  del key
  return updates


@_own_noise.def_vmap
def _(size: int, batched: tuple[bool, PyTree], key: jax.Array, updates: PyTree) -> Any:
  if any(jax.tree.leaves(batched[1])) and not batched[0]:
    raise _validate.InputError(
      f'expected a state of its own for each of {size} sums under jax.vmap, got one: all would get '
      'the same noise, and their differences none; add up the sums first, or make the states by '
      'jax.vmap as well, from different keys'
    )
  return _own_noise(key, updates), batched[1]


def _is_masked(leaf: Any) -> bool:
  return isinstance(leaf, optax.MaskedNode)
