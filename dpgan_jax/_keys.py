"""Keys: one generator whatever the process is set to, and a stream of its own for every purpose.

Every key that this package makes or takes is a typed key of threefry2x32. Under 'rbg', the usual
other choice, what `jax.vmap` over keys gives one example depends on which others are in the batch:
a clipped sum would have no known sensitivity. `JAX_DEFAULT_PRNG_IMPL` therefore changes nothing
here, and keys of other generators are refused by name.

A key is spent for a purpose: `for_purpose(key, 'noise', ...)` folds in a number that belongs to the
purpose and its public settings. So one key handed to sampler and noise, or to two mechanisms, gives
each of them numbers that have nothing to do with the other's.

>>> same = from_seed(7)
>>> one, other = for_purpose(same, 'batches', 100), for_purpose(same, 'noise', 1.0)
>>> bool((jax.random.key_data(one) == jax.random.key_data(other)).all())
False
"""

from __future__ import annotations

import hashlib
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate

IMPLEMENTATION = 'threefry2x32'
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
DTYPE = 'key<fry>'  # how JAX writes the dtype of such keys


def from_words(words: np.ndarray) -> jax.Array:
  """The key whose two words are uint32[2] `words`."""
  return jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32), impl=IMPLEMENTATION)


def from_seed(seed: int) -> jax.Array:
  """`jax.random.key(seed)` of threefry2x32, under every setting of JAX.

  `jax.random.key` follows the default generator, the x64 mode (from 2³² on) and a seed offset.

  Raises:
    InputError: not a whole number in [0, 2⁶⁴).
  """
  number = _validate.integer('seed', seed, minimum=0, maximum=2**64 - 1)
  return from_words(np.array([number >> 32, number & 0xFFFFFFFF], np.uint32))


def require(name: str, key: Any) -> jax.Array:
  """Returns `key` if it is one typed threefry2x32 key; `name` is what the message calls it."""
  wanted = f"expected {name} to be one typed key, jax.random.key(seed, impl='{IMPLEMENTATION}')"
  dtype = getattr(key, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape:
    raise _validate.InputError(f'{wanted}, got {type(key).__name__} of dtype {dtype}')
  if (found := jax.random.key_impl(key)) != IMPLEMENTATION:
    raise _validate.InputError(
      f'{wanted}, got a key of {found}: under vmap its numbers would depend on the whole batch'
    )
  return key


def own(key: jax.Array) -> jax.Array:
  """A copy of a key, so that donating what holds it cannot delete the caller's."""
  data = jnp.array(jax.random.key_data(key), copy=True)
  return jax.random.wrap_key_data(data, impl=IMPLEMENTATION)


def number(purpose: str, *settings: Any) -> int:
  """32 bits that stand for a purpose under public settings (numbers, strings, tuples of them)."""
  digest = hashlib.sha256(repr((purpose, *map(_plain, settings))).encode()).digest()
  return int.from_bytes(digest[:4], 'big')


def _plain(value: Any) -> Any:
  """One form for 1, 1.0 and NumPy's: settings read back from a record stand for the same key."""
  if isinstance(value, tuple):
    return tuple(map(_plain, value))
  return float(value) if isinstance(value, numbers.Real) else str(value)


def for_purpose(key: jax.Array, purpose: str, *settings: Any) -> jax.Array:
  """The key of a purpose; for no two purposes or settings the same (but for 1 in 2³²)."""
  return jax.random.fold_in(key, number(purpose, *settings))


def at_step(key: jax.Array, step: jax.Array | int) -> jax.Array:
  """The key of step `step`.

  Raises:
    InputError: a step that is not a whole number, or so narrow that it would soon begin anew.
  """
  dtype = getattr(step, 'dtype', None)
  if dtype is None:
    return jax.random.fold_in(key, _validate.integer('step', step, minimum=0, maximum=2**32 - 1))
  if not jnp.issubdtype(dtype, jnp.integer) or dtype.itemsize < 4 or jnp.shape(step):
    raise _validate.InputError(
      f'expected step to be one whole number of at least 32 bits, got {dtype}{jnp.shape(step)}: a '
      'number that wraps around would draw the same again'
    )
  return jax.random.fold_in(key, step)


@jax.jit
def threefry2x32(
  first: jax.Array, second: jax.Array, high: jax.Array, low: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The block cipher by itself: two random words of a key's two words and of a counter's two.

  The same as that of `jax.random`, which on a CPU runs it as a loop over whole arrays: here its 20
  rounds are plain operations, which XLA fuses with whatever uses the words.

  Args:
    first, second: uint32[...], the words of a key.
    high, low: uint32[...], the words of the counter.

  Source: Salmon et al. 2011.
  """
  keys = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
  x, y = high + keys[0], low + keys[1]
  for part in range(5):
    for distance in _ROTATIONS[part % 2]:
      x = x + y
      y = x ^ (y << distance | y >> 32 - distance)
    x = x + keys[(part + 1) % 3]
    y = y + keys[(part + 2) % 3] + jnp.uint32(part + 1)
  return x, y
