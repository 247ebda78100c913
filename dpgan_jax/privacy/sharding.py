"""One step on several devices: each clips its share of the batch, and the sums are added up.

A compiled program of one device becomes one of n by `over`: all of its arguments and results are
the same on every device, and what it computes is computed everywhere, alike, but for what
`Split.rows` divides and `Split.total` adds up again. So the batch is drawn once for all (the same
key gives every device the same indices), the noise is added once, to the sum over all devices, and
neither depends on how many there are. What does: which examples' float32 gradients are added up in
one group (`ghost.sums`).

In loops of other projects: `clipped_grad` and the noise work inside `jax.jit` whatever the
shardings of their inputs are, since a sharded array means the same numbers. Inside
`jax.shard_map` a device has a part of the batch, and its clipped sum is one of a part:
`require_same` refuses to add noise before the sums are added up, by the types that `shard_map`
gives to values that vary (`check_vma`, which is on by default).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpgan_jax import _validate

PyTree = Any
AXIS = 'devices'


@dataclasses.dataclass(frozen=True)
class Split:
  """How the examples of a step are divided.

  Attributes:
    axis: a mesh axis of the `shard_map` around; None where there is one device.
    count: its devices.
  """

  axis: str | None = None
  count: int = 1

  def rows(self, tree: PyTree) -> PyTree:
    """This device's rows of arrays [n, ...]: ⌈n/count⌉ of them, all if there is one device.

    What is missing to a multiple of the devices is filled up with row 0, and not `present`.
    """
    if self.axis is None:
      return tree
    own, present = self._own(jax.tree.leaves(tree)[0].shape[0])
    own = jnp.where(present, own, 0)
    return jax.tree.map(lambda x: x[own], tree)

  def present(self, length: int, mask: jax.Array | None = None) -> jax.Array | None:
    """The mask of `rows`, where that of all is `mask` bool[length] (None: all are there)."""
    if self.axis is None:
      return mask
    present = self._own(length)[1]
    return present if mask is None else present & self.rows(mask)

  def _own(self, length: int) -> tuple[jax.Array, jax.Array]:
    """Numbers of this device's rows, and which of them are within `length`."""
    assert self.axis is not None
    share = -(-length // self.count)
    own = jax.lax.axis_index(self.axis) * share + jnp.arange(share)
    return own, own < length

  def part_of_mean(self, values: jax.Array, length: int) -> jax.Array:
    """What `total` makes `mean` of."""
    if self.axis is None:
      return jnp.mean(values)
    return jnp.sum(jnp.where(self._own(length)[1], values, 0.0)) / length

  def mean(self, values: jax.Array, length: int) -> jax.Array:
    """The mean of `length` values of which this device has `rows`."""
    return self.total(self.part_of_mean(values, length))

  def masked_mean(self, values: jax.Array, mask: jax.Array | None, count: jax.Array) -> jax.Array:
    """The mean of those `values` of all devices that `mask` lets count, `count` of them."""
    assert mask is not None
    return self.total(jnp.sum(jnp.where(mask, values, 0.0))) / jnp.maximum(count, 1.0)

  def total(self, tree: PyTree) -> PyTree:
    """The sum over all devices, of arrays that each has its part of."""
    return tree if self.axis is None else jax.lax.psum(tree, self.axis)

  def own(self, tree: PyTree) -> PyTree:
    """The same numbers, as each device's own: their gradients are then those of its share alone."""
    return tree if self.axis is None else alike((tree, jax.lax.axis_index(self.axis)))[0]


WHOLE = Split()


def here() -> Split:
  """How the program that is being traced is divided: as `over` does it, or not at all."""
  mesh = jax.sharding.get_abstract_mesh()
  return Split(AXIS, mesh.shape[AXIS]) if AXIS in mesh.manual_axes else WHOLE


def mesh_of(devices: int) -> Mesh | None:
  """A mesh of the first `devices` devices, of all processes; None for one device.

  Raises:
    InputError: there are fewer, or there are several processes and others would be left out.
  """
  there = jax.devices()
  _validate.integer('devices', devices, minimum=1, maximum=len(there))
  if jax.process_count() > 1 and devices != len(there):
    raise _validate.InputError(
      f'expected devices=all, {len(there)}, of {jax.process_count()} processes, got {devices}'
    )
  if devices == 1:
    return None
  return jax.make_mesh((devices,), (AXIS,), (AxisType.Auto,), devices=there[:devices])


def over(mesh: Mesh | None, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
  """`fn` on every device of a mesh, all arguments and results the same everywhere.

  `shard_map` proves from the program that results do not differ between devices (`check_vma`):
  what a device has computed of its own share reaches them by `Split.total` only.
  """
  if mesh is None:
    return fn
  return jax.shard_map(fn, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """Arrays of this process, equal in all processes, on every device of a mesh."""
  if mesh is None:
    return tree
  everywhere = NamedSharding(mesh, PartitionSpec())

  def put(leaf: Any) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.make_array_from_process_local_data(everywhere, np.asarray(leaf))
    wrap = functools.partial(jax.random.wrap_key_data, impl=str(jax.random.key_impl(leaf)))
    return jax.jit(wrap)(put(jax.random.key_data(leaf)))

  return jax.tree.map(put, tree)


def gather(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """The inverse of `replicate`: arrays of one device of this process."""
  if mesh is None:
    return tree

  def get(leaf: jax.Array) -> jax.Array:
    return leaf.addressable_data(0)

  return jax.tree.map(get, tree)


# --- inside `shard_map` ---------------------------------------------------------------------------


def varying(tree: PyTree) -> frozenset[str]:
  """Mesh axes of a `shard_map` around, along which some leaf differs, as far as types tell."""
  found: frozenset[str] = frozenset()
  for leaf in jax.tree.leaves(tree):
    found |= frozenset(jax.typeof(leaf).manual_axis_type.varying)
  return found


def alike(tree: PyTree, axes: frozenset[str] | None = None) -> PyTree:
  """Leaves that all count as varying where one does, or along `axes`.

  A gradient by a value that is the same everywhere is added up over devices by `shard_map`; that
  of one example must not be. Outside of `shard_map` nothing varies, and this changes nothing.
  """
  axes = varying(tree) if axes is None else axes
  if not axes:
    return tree

  def vary(leaf: Any) -> Any:
    missing = tuple(sorted(axes - varying(leaf)))
    return jax.lax.pcast(leaf, missing, to='varying') if missing else leaf

  return jax.tree.map(vary, tree)


def require_same(what: str, tree: PyTree) -> None:
  """Refuses what differs between devices, or may, where it must be the same on all of them.

  Raises:
    InputError: inside `shard_map` or `pmap`, and types do not show that it is the same.
  """
  manual = jax.sharding.get_abstract_mesh().manual_axes
  if not manual:
    return
  unseen = [a for a in manual if a not in varying(jax.lax.axis_index(a))]
  if unseen:
    raise _validate.InputError(
      f'expected the noise outside of pmap, and of shard_map(check_vma=False) over {unseen[0]!r}: '
      'there nothing shows whether the clipped sums of all devices were added up before it'
    )
  if axes := sorted(varying(tree)):
    raise _validate.InputError(
      f'expected {what} to be the same on all devices, got one that differs along {axes[0]!r}: '
      f'add up the clipped sums of all devices first, jax.lax.psum(sum, {axes[0]!r}), and give '
      'every device the same key'
    )
