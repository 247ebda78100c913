"""Gaussian noise for a step of DP-SGD, in the compiled loop: wide tails, and no telling low bits.

Noise that is a float32 normal added to a float32 sum gives records away in two ways. It takes few
values (2²³), so that only the true sum explains all published bits (Mironov 2012); and it is
bounded (5.4 σ), so that large values are impossible without a record. `add_gaussian` has neither:

* 144 random bits for each value, from threefry2x32 by counter, whatever JAX's settings are.
* A Gaussian A, the first of the two of Box and Muller, its radius from 64 bits: |A| up to 9.49
  standard deviations. The ideal Gaussian goes beyond with probability 3e-21, 3e-9 in 10¹² values.
* A triangular dither V, independent of A, of half-width w = 2¹⁶ units, 1/16 to 1/8 of the standard
  deviation. It makes the law of A + V smooth, which that of float32 values is not.
* Whole numbers: the sum is taken in units of a public grid, a power of two that depends on σ·C
  alone, and result = grid·round(sum/grid + A + V). That is exact integer arithmetic, and then one
  rounding of the exact result to float32, which no longer has a part of the sum to tell.

Why the accounted Gaussian bounds it. Were A exactly N(0, (σC)²), all of this would be
post-processing of the Gaussian mechanism: dither and rounding do not look at the data. In truth A
is such a number moved by at most η = 2⁻¹⁹ standard deviations: half a unit of the grid, and the
rounding of float32 logarithm, root and cosine, which a test compares with float64. (Within 0.05 of
the centre of a pair float32 is coarser; what counts there is that the probability of a radius is
off by 2⁻²⁴.) That would show in the law of A itself, but not in that of A + V: its density has a
derivative, which differs from the ideal one only by the mass within η of the three corners of the
dither, relative to the density by 8η/w² ≤ 2⁻⁸. So the privacy loss of an entry that a record moves
by x is off by at most 2⁻⁸·x/σC, in either direction as roundings fall, and its variance by 2⁻¹⁶ of
itself. The variance of the dither, 1/1536 to 1/384 of the noise's, is added, not counted, and more
than makes up for that.

The sum is rounded to 1/256 of a unit before noise is added. This can move apart two sums of
neighbours by grid/256 in each of d coordinates: l2_sensitivity is raised by grid/256·√d, and the
noise with it (at σ = 1 and d = 10⁶, by 4e-6 to 8e-6 of it).

Every value is a function of the key and of its place alone, so that XLA makes each leaf's noise in
one loop with the sum it is added to: no random word is ever written to memory, and a device that
holds a part of a leaf makes that part's noise. That is why the second value of Box and Muller is
not used: to share it would cost more than to draw anew.

What the sum that comes in has lost by rounding while it was added up is within its sensitivity
already (`ghost.sums`). Not covered: that threefry is a generator.

Sources: Box & Muller 1958; Mironov 2012; Salmon et al. 2011 for threefry.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpgan_jax import _dtypes, _keys, _validate

PyTree = Any

REACH = math.sqrt(2 * 65 * math.log(2))
"""The largest |A| in standard deviations: 9.49."""
UNITS = 2**20
"""A standard deviation is between a half of this and this many units of the grid."""
_FRACTION = 2**8  # what a unit is divided into before the dither
_DITHER = 24  # bits of each of its two uniform halves, in those fractions
_SMALLEST, _LARGEST = 2.0**-80, 2.0**80
_MARGIN = 1 + 2.0**-22  # over the relative errors of float32 in radius, cosine and their product


def grid_of(standard_deviation: float) -> float:
  """The unit of the released numbers: the power of two with 2¹⁹ ≤ standard_deviation/unit < 2²⁰.

  >>> grid_of(1.0) == 2.0**-19
  True

  Raises:
    InputError: a standard deviation beyond [2⁻⁸⁰, 2⁸⁰], where float32 has no room for it.
  """
  if not _SMALLEST <= standard_deviation <= _LARGEST:
    raise _validate.InputError(
      'expected noise_multiplier * l2_clip_norm within 2^-80 and 2^80, got '
      f'{standard_deviation!r}'
    )
  return math.ldexp(UNITS / 2, math.frexp(standard_deviation)[1] - 1 - 2 * 19)


def add_gaussian(
  key: jax.Array, tree: PyTree, l2_sensitivity: float, noise_multiplier: float
) -> PyTree:
  """A sum with independent Gaussian noise on every entry, on a public grid.

  Args:
    key: one typed threefry2x32 key for this sum alone.
    tree: pytree of float arrays of any shapes, the sum.
    l2_sensitivity: Δ > 0 of the sum, over all leaves together.
    noise_multiplier: σ > 0.

  Returns:
    The same shapes, float32 or wider. Every entry is a multiple of `grid_of(σ·Δ)` (rounded to the
    dtype): entry + N(0, (σΔ)²), the noise being larger by at most 0.14 % for the dither, and by
    what rounding adds to Δ.

  Guarantee: that of the Gaussian mechanism of noise multiplier σ, as the module says.

  Raises:
    InputError: a key of another generator, or σ·Δ out of range.
  """
  leaves, structure = jax.tree.flatten(tree)
  sizes = [leaf.size for leaf in leaves]
  if not sum(sizes):
    return tree
  if sum(sizes) > 2**32:
    raise _validate.InputError(
      f'expected at most 2^32 parameters, got {sum(sizes)}: the counter of the noise would repeat'
    )
  unit = grid_of(noise_multiplier * l2_sensitivity)
  rounded = l2_sensitivity + unit / _FRACTION * math.sqrt(sum(sizes))
  scale = noise_multiplier * rounded / unit * _MARGIN
  if scale * REACH + 2 ** (_DITHER + 1) / _FRACTION >= 2**24:  # float32 would round the noise
    raise _validate.InputError(
      f'expected noise_multiplier < {noise_multiplier * UNITS / scale:.3g} for {sum(sizes)} '
      f'parameters, got {noise_multiplier!r}: rounding would add too much to the sensitivity'
    )
  starts = itertools.accumulate(sizes, initial=0)
  noisy = [
    _add(leaf, *from_words(_words(key, start, leaf), scale), unit)
    for leaf, start in zip(leaves, starts, strict=False)  # the last start is the end
  ]
  return jax.tree.unflatten(structure, noisy)


def _add(total: jax.Array, whole: jax.Array, dither: jax.Array, unit: float) -> jax.Array:
  """unit·round(total/unit + whole + dither/256), exact but for the last rounding to the dtype."""
  total = total.astype(_dtypes.accumulation_dtype(total.dtype)) * (1 / unit)
  floor = jnp.floor(total)  # what is cut off is a float, exactly
  fraction = jnp.floor((total - floor) * _FRACTION).astype(jnp.int32)
  carry = (fraction + dither + _FRACTION // 2) >> (_FRACTION.bit_length() - 1)
  return (floor + (whole + carry).astype(total.dtype)) * unit


def _words(key: jax.Array, start: int, leaf: jax.Array) -> list[jax.Array]:
  """Five words of the shape of a leaf, each of them random, for values number `start` on."""
  impl = str(jax.random.key_impl(key))
  if impl not in ('fry', 'threefry2x32'):
    raise _validate.InputError(f'expected a key of threefry2x32 for noise, got one of {impl}')
  first, second = jax.random.key_data(key)
  place = jnp.uint32(start)
  for axis in range(leaf.ndim):  # not a reshaped range, which XLA would not split over devices
    index = jax.lax.broadcasted_iota(
      jnp.uint32, leaf.shape, axis, out_sharding=jax.typeof(leaf).sharding
    )
    place = place + index * jnp.uint32(math.prod(leaf.shape[axis + 1 :]))
  blocks = [_keys.threefry2x32(first, second, jnp.uint32(i), place) for i in range(3)]
  return list(itertools.chain(*blocks))[:5]


def from_words(words: Sequence[jax.Array], scale: float) -> tuple[jax.Array, jax.Array]:
  """A value from each five random words.

  Args:
    words: five arrays uint32[...]. Two make the radius, one the angle; of each of the others, 24
      bits go into the dither.
    scale: standard deviation in units of the grid, below 2²⁴/`REACH`.

  Returns:
    (A int32[...] in units, V int32[...] in 1/256 of a unit).
  """
  high, low, turn, one, other = words
  # Above 0: to 2⁻⁶⁵ in the tail, where float32 is as fine as anywhere.
  u = high.astype(jnp.float32) * 2.0**-32 + (low.astype(jnp.float32) + 0.5) * 2.0**-64
  radius = jnp.sqrt(jnp.maximum(-2 * jnp.log(u), 0)) * scale
  # In the first quadrant float32 is four times as fine as at the end of a whole turn.
  cosine = _cosine((turn >> 1).astype(jnp.float32) * 2.0**-31)
  whole = radius * jnp.where(turn & 1, -cosine, cosine)
  halves = ((word >> 8).astype(jnp.int32) for word in (one, other))
  dither = functools.reduce(jnp.add, halves) - (2**_DITHER - 1)
  return jnp.round(whole).astype(jnp.int32), dither


def _cosine(quarters: jax.Array) -> jax.Array:
  """cos(π/2·quarters) for quarters in [0, 1]: Taylor's series, whose rest is below 7e-9.

  XLA compiles `jnp.cos` for any angle, and on a CPU without vectors: far slower than the rest.
  """
  square = quarters * quarters
  terms = [(-1) ** k * (math.pi / 2) ** (2 * k) / math.factorial(2 * k) for k in range(7)]
  return functools.reduce(lambda rest, term: rest * square + term, reversed(terms))
