"""Sums of clipped gradients in which an example moves no more than what is counted.

A float32 sum rounds, and how the terms of other examples are rounded may follow whether one example
is there: the sum then moves by more than its gradient (Casacuberta et al. 2022, "Widespread
underestimation of sensitivity in differentially private libraries"). Here the examples of a batch
are added up in small groups, in float32 and in any order; a group's sum is rounded to a whole
number of a public unit; and whole numbers are added up exactly, in any order, over groups and over
parts of a batch. So an example in a place of its own (`sampling`: its place does not depend on the
others) changes the sum of one group. How much further than the example's own gradient is long, as a
share of C:

1. A group of g examples whose terms are AᵀD over T positions has g·T products an entry: any order
   of adding them is within γ₍gT₎·Σᵢ fᵢ·sᵢ of the sum, sᵢ = Σₜ‖aₜ‖‖dₜ‖ (`norms`). Where a gradient
   is formed before, T = 1 and s = ‖g‖. A form sees to it that sᵢ ≤ R·‖gᵢ‖, so fᵢ·sᵢ ≤ R·C. With
   the example and without it: 2·g·R·γ. For leaves together, the largest of all.
2. Rounding to the unit: half a unit an entry, with and without: √d·unit for d parameters. Units are
   held in two numbers of 32 bits, so that they are no larger than C·n²·2⁻⁵⁶: next to nothing.
3. Whole numbers become floats again at the end: half a unit in the last place of a sum of at most
   n·C, with and without: 2·n·u.
4. Over devices, the sums of each are added up in one number of 32 bits, whose unit takes 2⁻⁸. What
   does not fit is cut off, which moves neighbours no further apart: entries that are, on the mean
   of a device's examples, above 3 % of C at n = 65,536 and d = 1.6 million.

Examples are clipped to C less the sum of these, so that the sum moves by at most C, rounding
included.

What this takes for granted: that the same operations on the same numbers round alike, and that the
numbers of one row of a batch do not follow what stands in the others. It is about float32; sums in
float64 are plain, and 2⁻²⁹ times as rough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpgan_jax import _dtypes, _validate
from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.ghost.norms import divisor, gamma

PyTree = Any
Whole = tuple[jax.Array, jax.Array]
"""int32 and int32: so many units, and so many of the parts into which a unit is divided."""
GROUP = 64
"""How many formed gradients are added up in float32, at most."""
_SHARE = 2.0**-8
"""What the rounding of a group may take of C where gradients are not formed: it sets the group; and
what rounding to the unit of devices may take."""
_OF_NOTHING = 2.0**-30
"""More than a group of examples rounds whose norms are below 2⁻⁴⁰ and are not told apart."""
_MOST_LOST = 1 / 8
_SLACK = 10 * 2.0**-24
"""Ten roundings in float32, of C, of a factor and of the products it is in."""


@dataclasses.dataclass(frozen=True)
class Grid:
  """The whole numbers in which a sum over n examples is held.

  Attributes:
    unit: a power of two, at least C·n·2⁻²⁹, so that no sum leaves 32 bits.
    parts: a power of two: how many parts a unit has.
  """

  unit: float
  parts: float

  def whole(self, x: jax.Array) -> Whole:
    """Sums of some contributions, rounded to parts of a unit."""
    scaled = x.astype(jnp.float32) * (1 / self.unit)
    units = jnp.round(scaled)  # what is left is a float, exactly
    parts = jnp.round((scaled - units) * self.parts)
    return units.astype(jnp.int32), parts.astype(jnp.int32)

  def value(self, whole: Whole) -> jax.Array:
    """float32; rounded once."""
    units, parts = whole
    most = units.astype(jnp.float32)
    rest = (units - most.astype(jnp.int32)).astype(jnp.float32)
    return (most + (rest + parts.astype(jnp.float32) / self.parts)) * self.unit


@dataclasses.dataclass(frozen=True)
class Grids:
  """How the sums of one batch are added up.

  Attributes:
    l2_clip_norm: C; `inf` for plain sums.
    examples: n, of all parts and devices.
    shapes: of the leaves.
    dtypes: of each leaf's sum, at the end.
    leaves: the grid of each leaf; None for one that is added up in floats.
    devices: how many add up their sums.
    of_units: what 2 to 4 of the module take, as a share of C.
  """

  l2_clip_norm: float
  examples: int
  shapes: tuple[tuple[int, ...], ...]
  dtypes: tuple[Any, ...]
  leaves: tuple[Grid | None, ...]
  devices: int
  of_units: float

  def lost_in(self, positions: Collection[int]) -> float:
    """What rounding takes of C in all, for leaves whose forms have so many positions.

    Raises:
      InputError: a C so small that forms do not tell norms apart.
    """
    if not any(self.leaves):
      return 0.0
    lost = self.of_units + max(of_group(self.examples, times) for times in positions)
    if max(positions) > 1:
      lost += _OF_NOTHING / self.l2_clip_norm
      if lost > 2 * _MOST_LOST:
        raise _validate.InputError(
          f'expected l2_clip_norm >= {4 * _OF_NOTHING:.2g} for sums over positions, got '
          f'{self.l2_clip_norm:.3g}'
        )
    return lost

  def whole(self, total: Sequence[Any]) -> list[Any]:
    """Whole numbers of all leaves that have a grid."""
    pairs = zip(total, self.leaves, strict=True)
    return [t if grid is None or isinstance(t, tuple) else grid.whole(t) for t, grid in pairs]

  def alike(self, total: Sequence[Any]) -> list[Any]:
    """Whole numbers as they are; others in the leaf's dtype, whatever else was wider."""
    pairs = zip(total, self.dtypes, strict=True)
    return [t if isinstance(t, tuple) else t.astype(dtype) for t, dtype in pairs]

  def zeros(self) -> list[Any]:
    leaves = zip(self.shapes, self.dtypes, self.leaves, strict=True)
    whole = lambda shape: (jnp.zeros(shape, jnp.int32),) * 2  # noqa: E731
    return [whole(shape) if grid else jnp.zeros(shape, dtype) for shape, dtype, grid in leaves]

  def values(self, total: Sequence[Any], axis_name: str | None = None) -> list[jax.Array]:
    """float32 or wider; added up over the devices of a mesh axis, if one is named."""
    pairs = zip(total, self.leaves, strict=True)
    found = [grid.value(t) if grid and isinstance(t, tuple) else t for t, grid in pairs]
    if axis_name is None:
      return found
    if math.isinf(self.l2_clip_norm):
      return jax.lax.psum(found, axis_name)
    most, units = self._of_devices()
    whole = [
      t if grid is None else jnp.clip(jnp.round(t / unit), -most, most).astype(jnp.int32)
      for t, grid, unit in zip(found, self.leaves, units, strict=True)
    ]
    whole = jax.lax.psum(whole, axis_name)
    return [
      t if grid is None else t.astype(jnp.float32) * unit
      for t, grid, unit in zip(whole, self.leaves, units, strict=True)
    ]

  def _of_devices(self) -> tuple[float, list[float]]:
    """What one of them may add, in units, and the unit of each leaf, a power of two."""
    most = 2**31 // (self.devices + 1)
    most = float(most - most % 2 ** max(0, most.bit_length() - 24))  # as float32 knows it
    fine = 2.0 ** math.ceil(math.log2(self.l2_clip_norm * self.examples / self.devices / most))
    share = _SHARE * self.l2_clip_norm / math.sqrt(max(len(self.shapes), 1))
    sizes = [max(math.prod(shape), 1) for shape in self.shapes]
    return most, [min(fine, 2.0 ** math.floor(math.log2(share / math.sqrt(d)))) for d in sizes]


def grids(
  l2_clip_norm: float, examples: int, params: Sequence[Any], devices: int = 1
) -> Grids:
  """How clipped gradients are added up.

  Args:
    l2_clip_norm: C; `inf` for plain sums, of which nothing is bounded.
    examples: n, at most, of all devices.
    params: arrays or shapes with dtypes, of the leaves.
    devices: how many add up their sums.

  Raises:
    InputError: C beyond [2⁻⁸⁰, 2⁸⁰], or so many examples that rounding could take an eighth of C.
  """
  shapes = tuple(tuple(leaf.shape) for leaf in params)
  dtypes = tuple(_dtypes.accumulation_dtype(leaf.dtype) for leaf in params)
  if math.isinf(l2_clip_norm) or not examples:
    return Grids(math.inf, examples, shapes, dtypes, (None,) * len(shapes), devices, 0.0)
  if not 2.0**-80 <= l2_clip_norm <= 2.0**80:
    raise _validate.InputError(f'expected l2_clip_norm within 2^-80 and 2^80, got {l2_clip_norm!r}')
  # An example whose gradient is formed after all has a place in a group as well: 2·n numbers.
  bits = 30 - math.ceil(math.log2(2 * examples))
  grid = Grid(2.0 ** (math.ceil(math.log2(l2_clip_norm)) - bits), 2.0**bits)
  size = sum(map(math.prod, shapes))
  of_units = math.sqrt(size) * grid.unit / grid.parts / l2_clip_norm
  roundings = 1.01 + (devices > 1) / devices  # of n·C, and of what one device has
  of_units += 2 * roundings * examples * gamma(1, jnp.float32)
  leaves = tuple(None if dtype == jnp.float64 else grid for dtype in dtypes)
  found = Grids(l2_clip_norm, examples, shapes, dtypes, leaves, devices, of_units)
  if devices > 1:
    units = zip(found._of_devices()[1], shapes, strict=True)
    lost = math.sqrt(sum(math.prod(shape) * unit**2 for unit, shape in units))
    found = dataclasses.replace(found, of_units=of_units + lost / l2_clip_norm)
  if found.of_units > _MOST_LOST:
    raise _validate.InputError(
      f'expected fewer than {2**19:,} examples in a batch, got {examples:,}: rounding of their '
      'float32 sum could take an eighth of l2_clip_norm and more'
    )
  return found


def excess(positions: int) -> float:
  """R: how far Σₜ‖aₜ‖‖dₜ‖ may exceed ‖AᵀD‖ where AᵀD is not formed.

  Positions that have nothing to do with each other give √T. At most so far that one example's own
  sum takes `_SHARE`.
  """
  if positions == 1:
    return 1.0
  return min(8 * math.sqrt(positions), _SHARE / 2 / gamma(positions + 4, jnp.float32))


def group_of(positions: int) -> int:
  """The most examples that a form of T positions adds up in float32."""
  return GROUP if positions == 1 else max(1, math.isqrt(int(_SHARE / _rounding(1, positions))))


def of_group(examples: int, positions: int) -> float:
  """What a group's float32 sum takes, as a share of C, in a batch of `examples`."""
  return _rounding(min(examples, group_of(positions)), positions)


def _rounding(group: int, positions: int) -> float:
  """2·g·R·γ (1 of the module)."""
  return 2 * group * excess(positions) * gamma(group * positions, jnp.float32)


def over_groups(
  contract: Callable[..., jax.Array],
  arrays: tuple[jax.Array, ...],
  grid: Grid,
  group: int,
  at_once: int,
) -> Whole:
  """Σ over examples, in whole numbers.

  Args:
    contract: sums [p, ...] of p groups, from arrays [p, g, ...].
    arrays: [n, ...].
    grid: what groups are rounded to.
    group: g, at most; less where that divides n.
    at_once: p, at most: how many groups' sums are held in memory.
  """
  n = arrays[0].shape[0]
  group = min(group, n)
  size = divisor(n, group)
  if size * 4 < group:  # pad: such small groups would hold nearly every gradient
    size = group
    arrays = tuple(jnp.pad(x, [(0, -n % size)] + [(0, 0)] * (x.ndim - 1)) for x in arrays)
  groups = arrays[0].shape[0] // size
  several = divisor(groups, min(groups, max(1, at_once)))
  arrays = tuple(x.reshape(groups // several, several, size, *x.shape[1:]) for x in arrays)

  def total(*part: jax.Array) -> Whole:
    units, parts = grid.whole(contract(*part))
    return jnp.sum(units, axis=0, dtype=jnp.int32), jnp.sum(parts, axis=0, dtype=jnp.int32)

  first = tuple(x[0] for x in arrays)
  if groups == several:
    return total(*first)
  add = lambda sum_, part: (jax.tree.map(jnp.add, sum_, total(*part)), None)  # noqa: E731
  zero = (jnp.zeros(jax.eval_shape(total, *first)[0].shape, jnp.int32),) * 2
  zero = sharding.alike(zero, sharding.varying(arrays))
  return jax.lax.scan(add, zero, arrays)[0]


def clip_factors(norms: jax.Array, l2_clip_norm: float, mask: jax.Array | None = None) -> jax.Array:
  """The factor in [0, 1] for each example: min(1, C/‖g‖), and 0 if masked out or not finite.

  C/‖g‖ is taken 6·10⁻⁷ smaller, for the rounding of C, of the quotient and of the products to come.
  """
  safe = jnp.where(norms > 0, norms, 1.0)  # a zero gradient keeps the factor 1
  factors = jnp.minimum(1.0, l2_clip_norm * (1 - _SLACK) / safe)
  usable = jnp.isfinite(norms) if mask is None else jnp.isfinite(norms) & mask
  return jnp.where(usable, factors, 0.0)
