"""The leaves of a state by name: copied to the host, digested, and placed on the device again.

>>> import jax.numpy as jnp
>>> state = {'params': jnp.ones((2, 3)), 'key': jax.random.key(0)}
>>> leaves, arrays = to_host(state)
>>> print(*(f'{leaf.name} {leaf}' for leaf in leaves))
state['key'] key<fry>[] state['params'] float32[2,3]
>>> digest(leaves, arrays) == state_digest(state)
True
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
  """What identifies one leaf; `key_impl` names the generator of a typed key, else None."""

  name: str
  dtype: str
  shape: tuple[int, ...]
  key_impl: str | None = None

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.shape))}]'


def is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def named_leaves(state: PyTree) -> list[tuple[str, Any]]:
  """Returns (name, leaf) in the order of `jax.tree.leaves`, e.g. ("state.params['dense']", ...)."""
  leaves = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    name = 'state' + jax.tree_util.keystr(path)
    if not hasattr(leaf, 'dtype') or not hasattr(leaf, 'shape'):
      raise TypeError(f'expected {name} to be an array, got {type(leaf).__name__}')
    leaves.append((name, leaf))
  if len({name for name, _ in leaves}) != len(leaves):
    raise ValueError('expected the leaves of the state to have different paths')
  return leaves


def describe(name: str, leaf: Any) -> Leaf:
  return Leaf(name=name, dtype=str(leaf.dtype), shape=tuple(leaf.shape))


def to_host(state: PyTree) -> tuple[list[Leaf], dict[str, np.ndarray]]:
  """Copies every leaf to memory of its own on the host; a typed key as its uint32 words."""
  leaves, arrays = [], {}
  for name, leaf in named_leaves(state):
    described = describe(name, leaf)
    if leaf.size == 0:  # orbax cannot save it, and fails only after it has begun
      raise ValueError(f'expected {name} to have elements, got {described}')
    if is_key(leaf):
      described = dataclasses.replace(described, key_impl=str(jax.random.key_impl(leaf)))
      leaf = jax.random.key_data(leaf)
    leaves.append(described)
    # np.array copies. On a CPU np.asarray would return a view of the device's own buffer, and a
    # buffer that is viewed is refused for donation: the next step would need the memory twice.
    arrays[name] = np.array(leaf)
  return leaves, arrays


def digest(leaves: Iterable[Leaf], arrays: dict[str, np.ndarray]) -> str:
  """Returns the SHA-256 over path, dtype, shape and bytes of every leaf, as hexadecimal digits."""
  sha256 = hashlib.sha256()
  for leaf in leaves:
    sha256.update(json.dumps(dataclasses.astuple(leaf)).encode())
    array = arrays[leaf.name]
    sha256.update(json.dumps([str(array.dtype), array.shape]).encode())
    sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return sha256.hexdigest()


def state_digest(state: PyTree) -> str:
  """The digest of a state on the device: two states have the same one if they agree bit for bit."""
  return digest(*to_host(state))


def place(array: np.ndarray, saved: Leaf, abstract: Any) -> Any:
  """Returns the leaf in the form of `abstract`, in memory that the caller may donate."""
  if isinstance(abstract, np.ndarray | np.generic):
    return array
  leaf = jnp.array(array)
  if saved.key_impl is not None:
    leaf = jax.random.wrap_key_data(leaf, impl=saved.key_impl)
  # An array that was never placed explicitly is not pinned to its device; neither is its successor.
  if getattr(abstract, 'sharding', None) is None or not getattr(abstract, 'committed', True):
    return leaf
  return jax.device_put(leaf, abstract.sharding)
