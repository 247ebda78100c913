"""Norms and weighted sums of per-example gradients AᵀD, from A and D of every example.

`product` and `lookup` make a form from what one backward pass over a batch leaves behind (see
`rules`). A form knows every example's squared norm, and adds up gradients times factors.
The ways to the norm of a product:

* outer: T = 1, so ‖AᵀD‖ = ‖A‖·‖D‖ (Goodfellow 2015, arXiv 1510.01799);
* gram: ‖AᵀD‖² = ⟨AAᵀ, DDᵀ⟩, T²·(K + C) products, memory T² (Li et al. 2022, arXiv 2110.05679,
  section 4; Bu et al. 2022, arXiv 2205.10683, for convolutions);
* direct: forms AᵀD of each example, memory K·C, from which norm and sum are then read (the
  "book-keeping" of Bu et al. 2023, arXiv 2210.00038, keeps it when it is small).

Rounding. What a form adds to the sum for one example at factor 1 is never longer than its norm
says, whatever the example holds: the norm is raised by a bound on all rounding in between
(`norms`, `_gram_squares`). Where rows cancel so far that the bound would count (`_LOOSE`), the
example's gradient is formed after all, one example at a time. What additions to other examples'
terms round is bounded by `sums`: every `weighted_sum` here is in whole numbers of a `sums.Grid`, or
in plain floats without one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from dpgan_jax.privacy.ghost import sums
from dpgan_jax.privacy.ghost.norms import gamma, root, squares, tiny, two_stages, wide

Sum = jax.Array | sums.Whole
Method = Literal['outer', 'gram', 'direct']
Preference = Literal['time', 'memory']

_LOOSE = 2.0**-9
"""How far the norm of the gram way may lie above the true one, at most."""
_NOTHING = 2.0**-80
"""A squared norm that clips nothing."""
_FLOPS_PER_FLOAT_MOVED = 16
_FLOPS_PER_FLOAT_MOVED_ON_CPU = 6
"""What moving one float32 costs in multiply-adds. On a CPU a part of a batch is in its caches
(`clipping.fast_microbatch`), and what is moved comes from there."""


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


def _einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Products in full float32: TF32 or bfloat16 passes would loosen the bounds."""
  if x.dtype != y.dtype:
    x, y = wide(x), wide(y)
  return jnp.einsum(
    spec,
    x,
    y,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )


@dataclasses.dataclass(frozen=True)
class Direct:
  """A parameter whose gradients are formed: norm and sum read the same numbers.

  Attributes:
    gradients: [n, G, C, K].
    squared: [n], at least ‖gradientᵢ‖².
  """

  gradients: jax.Array
  squared: jax.Array

  positions = 1  # in a sum over examples

  def weighted_sum(
    self, factors: jax.Array, usable: jax.Array | None, grid: sums.Grid | None
  ) -> Sum:
    """Σᵢ factorᵢ·gradientᵢ [G, C, K], whole numbers of `grid`, or float32 or wider without one.

    Args:
      factors: float32[n].
      usable: bool[n], examples to leave out though they hold NaN or infinities; None if none does.
      grid: what the sum is rounded to.
    """
    return weighted_sum(self.gradients, factors, usable, grid)


@dataclasses.dataclass(frozen=True)
class Lookup:
  """The rows of a table that an example reads, each once, with the whole gradient of the row.

  Attributes:
    ids: int32 [n, S], without repetition but for padding, whose gradient is zero.
    gradients: float32 [n, S, C].
    rows: the number of rows of the table.
    squared: [n], at least ‖gradientᵢ‖².
  """

  ids: jax.Array
  gradients: jax.Array
  rows: int
  squared: jax.Array

  positions = 1

  def weighted_sum(
    self, factors: jax.Array, usable: jax.Array | None, grid: sums.Grid | None
  ) -> Sum:
    """[rows, C]; see `Direct.weighted_sum`. Of a large table, floats of whole numbers."""
    factors = factors.astype(self.gradients.dtype)
    scaled = _like(factors, self.gradients) * _keep(self.gradients, usable)
    ids, width = self.ids.reshape(-1), scaled.shape[-1]

    def total(x: jax.Array, at: jax.Array, rows: int) -> jax.Array:
      return jnp.zeros((rows, width), x.dtype).at[at].add(x.reshape(-1, width))

    if grid is None:
      return total(scaled, ids, self.rows)
    whole = grid.whole(scaled)
    if self.rows <= ids.size:
      return jax.tree.map(lambda x: total(x, ids, self.rows), whole)
    # Only the rows that are read are held as whole numbers; not many of a large table are.
    slots, names = _distinct(ids[None], self.rows)
    rows = jax.tree.map(lambda x: total(x, slots[0], ids.size), whole)
    return total(grid.value(rows), names[0], self.rows)


@dataclasses.dataclass(frozen=True)
class Factors:
  """A and D of every example, for a parameter whose gradients AᵀD are not formed.

  Attributes:
    a: [n, G, T, K].
    d: [n, G, T, C].
    squared: [n], at least the square of the norm of what `weighted_sum` adds for an example at
      factor 1, rounding included.
    formed: bool[n], the examples whose gradient is formed after all; None where T·G = 1.
  """

  a: jax.Array
  d: jax.Array
  squared: jax.Array
  formed: jax.Array | None

  @property
  def positions(self) -> int:
    return self.d.shape[2]

  def weighted_sum(
    self, factors: jax.Array, usable: jax.Array | None, grid: sums.Grid | None
  ) -> Sum:
    """[G, C, K]; see `Direct.weighted_sum`."""
    a, d = wide(_keep(self.a, usable)), wide(_keep(self.d, usable))
    factors = factors.astype(d.dtype)
    if self.formed is None:
      return self._total(a, _like(factors, d) * d, grid)
    zero = jnp.zeros((), d.dtype)
    total = self._total(a, _like(jnp.where(self.formed, zero, factors), d) * d, grid)

    def add(total: Sum, one: tuple[jax.Array, ...]) -> tuple[Sum, None]:
      factor, squared, a, d = one

      def more() -> Sum:
        # Formed anew, perhaps rounded otherwise: it may not be longer than what was counted.
        gradient = _gradient(a, d)
        shorter = jnp.minimum(1, jnp.sqrt(squared / squares(gradient, 0)))
        clipped = factor * shorter * gradient
        whole = clipped if grid is None else grid.whole(clipped)
        return jax.tree.map(jnp.add, total, whole)

      return jax.lax.cond(factor > 0, more, lambda: total), None

    alone = jnp.where(self.formed, factors, zero)
    rest = (alone, self.squared.astype(d.dtype), self.a, self.d)
    return jax.lax.cond(
      jnp.any(alone > 0), lambda: jax.lax.scan(add, total, rest)[0], lambda: total
    )

  def _total(self, a: jax.Array, d: jax.Array, grid: sums.Grid | None) -> Sum:
    if grid is None:
      return _einsum('ngtc,ngtk->gck', d, a)
    _, _, times, inputs = a.shape
    outputs = d.shape[-1]
    # Sums of groups may take as much memory as A and D. A CPU's caches hold one at a time better.
    at_once = d.shape[0] * times * (inputs + outputs) // (inputs * outputs)
    if times > 1 and jax.default_backend() == 'cpu':
      at_once = 1
    contract = lambda a, d: _einsum('pngtc,pngtk->pgck', d, a)  # noqa: E731
    return sums.over_groups(contract, (a, d), grid, sums.group_of(times), at_once)


Form = Direct | Lookup | Factors


def product(a: jax.Array, d: jax.Array, preference: Preference) -> Direct | Factors:
  """The form of a parameter whose gradients are AᵀD, from A [n, G, T, K] and D [n, G, T, C]."""
  groups, times, outputs = d.shape[1:]
  method = cheapest((groups, times, a.shape[-1], outputs), preference)
  if method == 'direct':
    # Norm and sum must read one copy: made twice, cancelling products need not round alike.
    gradients = jax.lax.optimization_barrier(_einsum('ngtc,ngtk->ngck', d, a))
    return Direct(gradients, squares(gradients))
  if method == 'outer':
    lengths = root(squares(a, 2)) * root(squares(d, 2))
    return Factors(a, d, (lengths * lengths)[:, 0] * (1 + gamma(4, lengths.dtype)), None)
  squared, formed = _gram_squares(a, d)

  def one(_: None, example: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
    is_formed, inferred, a, d = example
    exact = lambda: squares(_gradient(a, d), 0).astype(inferred.dtype)  # noqa: E731
    return None, jax.lax.cond(is_formed, exact, lambda: inferred)

  squared = jax.lax.cond(
    jnp.any(formed), lambda: jax.lax.scan(one, None, (formed, squared, a, d))[1], lambda: squared
  )
  return Factors(a, d, squared, formed)


def lookup(ids: jax.Array, d: jax.Array, rows: int) -> Lookup:
  """The form of a table of `rows` rows, from int32 ids [n, T] and gradients D [n, T, C].

  Positions that read the same row are added up first, so that T·C numbers an example are enough
  however large the table is.
  """
  n, _, outputs = d.shape
  slots, names = _distinct(ids, rows)
  d = wide(d)
  gradients = jnp.zeros((n, names.shape[1], outputs), d.dtype)
  gradients = gradients.at[jnp.arange(n)[:, None], slots].add(d)
  gradients = jax.lax.optimization_barrier(gradients)
  return Lookup(names, gradients, rows, squares(gradients))


def _distinct(ids: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
  """For ids [n, T]: each one's number among the distinct ones of its line; and those, then 0."""
  n, times = ids.shape
  if rows <= times:
    return ids, jnp.broadcast_to(jnp.arange(rows, dtype=ids.dtype), (n, rows))
  order = jnp.argsort(ids, axis=1)
  ordered = jnp.take_along_axis(ids, order, axis=1)
  is_new = jnp.diff(ordered, axis=1, prepend=ordered[:, :1]) != 0
  numbers = jnp.cumsum(is_new, axis=1, dtype=ids.dtype)
  at = jnp.arange(n)[:, None]
  slots = jnp.zeros_like(ids).at[at, order].set(numbers)
  return slots, jnp.zeros_like(ids).at[at, slots].set(ids)


def _gradient(a: jax.Array, d: jax.Array) -> jax.Array:
  """AᵀD of one example, [G, C, K]."""
  return jax.lax.optimization_barrier(_einsum('gtc,gtk->gck', d, a))


def _gram_squares(a: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A bound on the squared norm of each example, and whether it is too loose to be used.

  Write P = AAᵀ, Q = DDᵀ and S = Σₜₛ PₜₛQₜₛ = ‖AᵀD‖²; P̂, Q̂ and Ŝ are what is computed.

  1. |P̂ₜₛ − Pₜₛ| ≤ γₖ‖aₜ‖‖aₛ‖ by the bound on a sum of K products and Cauchy-Schwarz; so for Q.
  2. P̂Q̂ − PQ = P̂(Q̂ − Q) + (P̂ − P)Q, and |Q| ≤ |Q̂| + γ꜀‖dₜ‖‖dₛ‖. With the error of adding up
     T rows of T terms, |Ŝ − S| ≤ E = Σₜₛ |P̂|·γ꜀‖dₜ‖‖dₛ‖ + γₖ‖aₜ‖‖aₛ‖·(|Q̂| + γ꜀‖dₜ‖‖dₛ‖)
     + γ₂ₜ|P̂Q̂|.
  3. `Factors.weighted_sum` rounds as well: what it adds for an example is at most
     γₜ·Σₜ‖aₜ‖‖dₜ‖ from f·AᵀD.

  So √(Ŝ + E) + γₜ·Σₜ‖aₜ‖‖dₜ‖ is never less than the norm of what is added at factor 1, and the
  gradient itself is never shorter than √(Ŝ − E). If these are more than `_LOOSE` apart, cancelling
  rows have made Ŝ useless and the gradient is formed; so it is where Σₜ‖aₜ‖‖dₜ‖ is more than
  `sums.excess` times as long. What underflows is counted as the smallest normal number. Norms
  below 2⁻⁴⁰ need not be told apart.
  """
  groups, times, outputs = d.shape[1:]
  inputs = a.shape[-1]
  alpha, delta = root(squares(a, 3)), root(squares(d, 3))  # [n, G, T]
  aa = alpha[..., :, None] * alpha[..., None, :]
  dd = delta[..., :, None] * delta[..., None, :]
  p, q = _einsum('ngtk,ngsk->ngts', a, a), _einsum('ngtc,ngsc->ngts', d, d)
  dtype = p.dtype
  of_a, of_d = gamma(inputs + 4, dtype), gamma(outputs + 4, dtype)
  loose = jnp.abs(p) * (of_d * dd) + (of_a * aa) * (jnp.abs(q) + of_d * dd)
  loose += gamma(2 * times + 4, dtype) * jnp.abs(p * q)
  least = math.sqrt(4 * tiny(dtype))
  lost = (math.sqrt(outputs) * least * jnp.sum(alpha, -1)) ** 2
  lost += (math.sqrt(inputs) * least * jnp.sum(delta, -1)) ** 2
  error = 1.01 * (two_stages(loose) + lost) + 8 * times**2 * tiny(dtype)
  gram = two_stages(p * q)
  terms = jnp.sum(alpha * delta, axis=-1) * 1.01
  in_sum = gamma(times + 6, dtype) * terms
  upper = root(jnp.maximum(gram + error, 0)) + in_sum
  most = jnp.sum(upper * upper, axis=-1) * (1 + gamma(groups + 4, dtype))
  least_of_all = jnp.sum(jnp.maximum(gram - error, 0), axis=-1)
  tight = most <= (1 + _LOOSE) ** 2 * least_of_all
  if times > 1:  # else they are equal
    tight &= jnp.sum(terms * terms, axis=-1) <= sums.excess(times) ** 2 * least_of_all
  tight |= most <= _NOTHING
  return most, ~(tight & jnp.isfinite(most))


def weighted_sum(
  gradients: jax.Array,
  factors: jax.Array,
  usable: jax.Array | None,
  grid: sums.Grid | None,
) -> Sum:
  """Σᵢ factorᵢ·gradientᵢ for gradients [n, ...] and factors [n]; see `Direct.weighted_sum`.

  As a product of a vector with a matrix, which reads the gradients once; written as a sum of
  products, XLA:CPU walks down the columns and takes tens of times longer.
  """
  n = gradients.shape[0]
  flat = wide(_keep(gradients, usable)).reshape(n, math.prod(gradients.shape[1:]))
  factors = factors.astype(flat.dtype)
  if grid is None:
    total = _einsum('n,nz->z', factors, flat)
  else:
    contract = lambda f, x: _einsum('pn,pnz->pz', f, x)  # noqa: E731
    total = sums.over_groups(contract, (factors, flat), grid, sums.GROUP, n)
  return jax.tree.map(lambda t: t.reshape(gradients.shape[1:]), total)


def _keep(x: jax.Array, usable: jax.Array | None) -> jax.Array:
  """`x` [n, ...] with zeros for the examples that are not usable."""
  return x if usable is None else jnp.where(_like(usable, x), x, jnp.zeros((), x.dtype))


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
  """[n] shaped to broadcast against [n, ...]."""
  return vector.reshape((-1,) + (1,) * (x.ndim - 1))
