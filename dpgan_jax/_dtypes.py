"""One rule for what numbers a gradient may hold: real floats of 16 to 64 bits, all else refused.

| dtype                        | as parameter, gradient or sum                 | as data of a loss |
| ---------------------------- | --------------------------------------------- | ----------------- |
| float32, float64             | as it is                                      | as it is          |
| float16, bfloat16            | norms, sums and noise in float32              | as it is          |
| complex                      | refused: two real leaves have the same norm   | as it is          |
| integers, bool               | refused: they have no gradient                | as it is          |
| float8, float4, int4, int2   | refused: cast to a wider float                | as it is          |
| keys                         | refused                                       | threefry's only   |
| float0, objects              | refused                                       | refused           |

Refused means `InputError` with the same words everywhere: of `clipped_sum`, of `clipped_grad` with
every strategy, of `noise_sum` and of `clip_and_noise`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _keys, _validate

PyTree = Any
_RIGHT = frozenset({'float16', 'bfloat16', 'float32', 'float64'})


def accumulation_dtype(dtype: Any) -> Any:
  """float32 for narrower floats, the dtype itself for wider ones."""
  return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def real_floats(what: str, tree: PyTree, advice: str | None = None) -> PyTree:
  """Returns `tree` with arrays as leaves, if all of them are real floats of 16 to 64 bits.

  Args:
    what: what the message calls the tree.
    tree: pytree of arrays.
    advice: what to do otherwise; by default what suits a parameter or gradient.

  Raises:
    InputError: another dtype, naming the leaf.
  """

  def check(path: Any, leaf: Any) -> jax.Array:
    leaf = _native(leaf)
    found = _name(leaf)
    if found not in _RIGHT:
      raise _validate.InputError(
        f'expected {what}{jax.tree_util.keystr(path)} to be a float16, bfloat16, float32 or '
        f'float64, got {found}: {advice or _advice(found)}'
      )
    return _array(f'{what}{jax.tree_util.keystr(path)}', leaf)

  return jax.tree_util.tree_map_with_path(check, tree)


def data(tree: PyTree) -> PyTree:
  """Returns the arrays of a batch, of whatever dtype, as JAX's.

  Raises:
    InputError: numbers in lists, objects, masked arrays, what JAX has no dtype for, keys of another
      generator than threefry2x32.
  """

  def check(path: Any, leaf: Any) -> jax.Array:
    leaf = _native(leaf)
    name, found = f'batch{jax.tree_util.keystr(path)}', _name(leaf)
    if not hasattr(leaf, 'dtype') or found in ('object', 'str'):
      raise _validate.InputError(
        f'expected {name} to be an array [n, ...], got {found}: a list is taken for a pytree, so '
        'make it an array first, jnp.asarray(batch)'
      )
    if found.startswith('key<') and (kind := jax.random.key_impl(leaf)) != _keys.IMPLEMENTATION:
      raise _validate.InputError(
        f'expected {name} to hold {_keys.IMPLEMENTATION} keys, got {kind}: under vmap the numbers '
        'of one example would depend on the whole batch'
      )
    return _array(name, leaf)

  return jax.tree_util.tree_map_with_path(check, tree)


def _native(leaf: Any) -> Any:
  """NumPy's numbers in the machine's own order of bytes, the only one that JAX has."""
  if isinstance(leaf, np.ndarray) and leaf.dtype.kind in 'iufc' and not leaf.dtype.isnative:
    return leaf.astype(leaf.dtype.newbyteorder('='))
  return leaf


def _array(name: str, leaf: Any) -> jax.Array:
  if isinstance(leaf, np.ma.MaskedArray):
    raise _validate.InputError(
      f'expected {name} to be an array without a mask, got {type(leaf).__name__}: fill what is '
      'masked, array.filled(0), or leave those examples out by mask='
    )
  try:
    return jnp.asarray(leaf)
  except TypeError:
    raise _validate.InputError(
      f'expected {name} of a dtype that JAX has, got {_name(leaf)}: make numbers of it, such as '
      'array.astype(numpy.float32)'
    ) from None


def real_loss(loss_fn: Callable[..., Any], promotion: Any) -> Callable[..., jax.Array]:
  """The loss under the caller's rules of promotion, refused if it is not one real float."""

  def loss(params: PyTree, *example: PyTree) -> jax.Array:
    with jax.numpy_dtype_promotion(promotion):
      value = loss_fn(params, *example)
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1:
      raise _validate.InputError(
        f'expected loss_fn to return one scalar for one example, got {len(leaves)} arrays: has_aux '
        'is not supported, return the loss alone'
      )
    return real_floats('the loss', leaves[0], 'return one real number')

  return loss


def _name(leaf: Any) -> str:
  """The name of a leaf's dtype, or of its type if it is no number."""
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None:
    if not isinstance(leaf, int | float | complex):
      return type(leaf).__name__
    dtype = np.result_type(leaf)
  if dtype == jax.dtypes.float0:
    return 'float0'
  return 'str' if getattr(dtype, 'kind', None) in ('S', 'U') else str(dtype)


def _advice(found: str) -> str:
  if found.startswith('complex'):
    return 'pass real and imaginary part as two real leaves'
  if found.startswith('float'):
    return 'cast it to float32' if found != 'float0' else 'leave it out, it has no gradient'
  return 'leave out what has no gradient (a loss can close over it)'
