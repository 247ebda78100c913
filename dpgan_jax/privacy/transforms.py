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
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpgan_jax import _validate
from dpgan_jax.privacy import clipping, step_noise

PyTree = Any


class PrivatizerState(NamedTuple):
  """`key` is the noise key of the whole run, `count` int32 how many updates have been made.

  Whoever holds the key can remove the noise: it is as private as the data, until it is destroyed.
  """

  key: jax.Array
  count: jax.Array


def _own_key(key: jax.Array) -> jax.Array:
  """A copy of a typed key, so that donating the optimizer's state cannot delete the caller's."""
  dtype = getattr(key, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape:
    raise _validate.InputError(
      f'expected key to be one typed key, jax.random.key(seed), got {type(key).__name__} of dtype '
      f'{dtype}'
    )
  data = jnp.array(jax.random.key_data(key), copy=True)
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def noise_sum(
  l2_sensitivity: float, noise_multiplier: float, expected_batch_size: float, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
  """Adds Gaussian noise to a clipped sum, divides by the expected batch size, adds public
  gradients.

  `update(clipped_sum, state, params=None, *, public_grads=None)` returns
  (clipped_sum + σ·Δ·z) / B + public_grads, z standard normal, the numerator on a public grid
  (`step_noise`).

  Args:
    l2_sensitivity: Δ, the L2 sensitivity of the sum to adding or removing one example; the clip
      norm of the clipping that made it. Take it from there (`DPMechanism` does), do not type it
      twice.
    noise_multiplier: σ ≥ 0, relative to Δ.
    expected_batch_size: B > 0, a public constant; never the number of examples that came.
    key: a typed PRNG key that nothing else uses. Step t uses `fold_in(key, t)`.

  Guarantee: each update is a Gaussian mechanism of noise multiplier σ with respect to the sum.
  `public_grads` is added after the noise and is not protected: it must not depend on private data.

  Raises:
    InputError: an argument out of range, an untyped key, Δ = ∞ with σ > 0.
  """
  _validate.positive('l2_sensitivity', l2_sensitivity, allow_inf=True)
  _validate.non_negative('noise_multiplier', noise_multiplier)
  _validate.positive('expected_batch_size', expected_batch_size)
  if l2_sensitivity == float('inf') and noise_multiplier > 0:
    raise _validate.InputError(
      'expected a finite l2_clip_norm with noise_multiplier > 0, got inf: no finite noise covers it'
    )
  if noise_multiplier > 0:
    step_noise.grid_of(noise_multiplier * l2_sensitivity)  # refuses what float32 has no room for
  own_key = _own_key(key)

  def init(params: PyTree) -> PrivatizerState:
    del params
    return PrivatizerState(_own_key(own_key), jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: Any,  # PrivatizerState; optax types every state alike
    params: PyTree | None = None,
    *,
    public_grads: PyTree | None = None,
    **extra: Any,
  ) -> tuple[PyTree, Any]:
    del params, extra
    if noise_multiplier > 0:
      step_key = jax.random.fold_in(state.key, state.count)
      updates = step_noise.add_gaussian(step_key, updates, l2_sensitivity, noise_multiplier)
    updates = jax.tree.map(lambda u: u / expected_batch_size, updates)
    if public_grads is not None:
      updates = jax.tree.map(lambda u, p: u + p.astype(u.dtype), updates, public_grads)
    return updates, PrivatizerState(state.key, jnp.asarray(optax.safe_increment(state.count)))

  return optax.GradientTransformationExtraArgs(init, update)


def clip_and_noise(
  l2_clip_norm: float, noise_multiplier: float, expected_batch_size: float, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
  """The DP-SGD gradient as an optax transform, from per-example gradients.

  `update(per_example_grads, state, params=None, *, mask=None, public_grads=None)` returns
  (Σᵢ maskᵢ·clip(gᵢ, C) + σ·C·z) / B + public_grads, with z standard normal.

  Args:
    l2_clip_norm: C > 0, the L2 bound on each example's gradient over all leaves together.
    noise_multiplier: σ ≥ 0, relative to C.
    expected_batch_size: B > 0, public: q·N under Poisson sampling.
    key: a typed PRNG key that nothing else uses.

  In `update`, every leaf of `per_example_grads` is [n, *parameter shape], n may be 0; `mask` is
  bool[n] (False: padding); `public_grads` has the parameters' shapes and must not depend on private
  data.

  Guarantee: with batches that are Poisson samples of rate q, T updates are (ε, δ)-DP as
  `DPMechanism.epsilon` computes, under adding or removing one example.

  Raises:
    InputError: an argument out of range; in `update`, a leaf without an example axis (batch-mean
      gradients, when `params` is given), a mask that is not bool[n].

  Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1, with a public divisor.
  """
  _validate.positive('l2_clip_norm', l2_clip_norm, allow_inf=True)
  noise = noise_sum(l2_clip_norm, noise_multiplier, expected_batch_size, key)

  def update(
    updates: PyTree,
    state: Any,  # PrivatizerState; optax types every state alike
    params: PyTree | None = None,
    *,
    mask: jax.Array | None = None,
    public_grads: PyTree | None = None,
    **extra: Any,
  ) -> tuple[PyTree, Any]:
    if params is not None:
      _check_example_axis(updates, params)
    total = clipping.clipped_sum(updates, l2_clip_norm=l2_clip_norm, mask=mask).sum
    return noise.update(total, state, params, public_grads=public_grads, **extra)

  return optax.GradientTransformationExtraArgs(noise.init, update)


def _check_example_axis(per_example_grads: PyTree, params: PyTree) -> None:
  """Refuses gradients that were averaged already: clipping their sum would protect nobody."""

  def check(path: Any, grad: jax.Array, param: jax.Array) -> None:
    if grad.shape[1:] != jnp.shape(param) or grad.ndim != jnp.ndim(param) + 1:
      raise _validate.InputError(
        f'expected per-example gradients [n, {", ".join(map(str, jnp.shape(param)))}] for '
        f'{jax.tree_util.keystr(path) or "the parameter"}, got shape {grad.shape}'
      )

  jax.tree_util.tree_map_with_path(check, per_example_grads, params)
