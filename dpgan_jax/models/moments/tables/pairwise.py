"""Rows with given two-way counts, and no relation of three columns that these do not imply.

A mixture of few products that has the wanted two-way counts has relations of three columns too,
which nothing that was released says. Of all distributions with these counts, that of most entropy
is P(x) ∝ exp(Σc b[xc] + Σc<d θ[xc, xd]), in each class. Rows that move find b and θ: in a sweep
each column of each row is drawn anew given the others, and after it θ rises where too few rows are,
as in iterative proportional fitting. Rows of a mixture, moved so a few times, have these counts.
All of it follows from what was released, free of cost.

Sources: Tieleman 2008 (persistent contrastive divergence); Deming & Stephan 1940; Polyak & Juditsky
1992 (the mean over the second half of all steps).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.csgraph
import scipy.special

from dpgan_jax import _keys
from dpgan_jax.models.moments.tables.shrinkage import slices

STEPS, _SWEEPS, _BLOCK = 100, 10, 256
# Fewer where cells are very many: products of numbers in all steps, and of one row in all sweeps.
_FEWEST_STEPS, _MOST_WORK, _FEWEST_SWEEPS, _MOST_OF_A_ROW = 20, 1e12, 3, 2e7
_RATE_OF_ONES, _RATE_OF_PAIRS, _MOST_AT_ONCE, _LARGEST = 0.5, 0.3, 4.0, 1.0
_SEEN = 3.0  # rows that a count needs for its logarithm to say something
# Rows of some kinds never become others in a few sweeps, and parameters would drift under them: so
# rows begin again after so many times what a draw has, which are as far as that on average.
_AGAIN = 2
_KEY = 21  # public: the same release gives the same model


class Pairwise(NamedTuple):
  """The parameters.

  Attributes:
    ones: float32 [K, D], b of each class.
    pairs: float32 [K, D, D], θ: symmetric, zero within a column, and where nothing is known.
  """

  ones: jax.Array
  pairs: jax.Array


def fit(
  one_way: np.ndarray, two_way: np.ndarray, known: np.ndarray, sizes: Sequence[int],
  rows: np.ndarray, steps: int | None = None,
) -> Pairwise | None:  # fmt: skip
  """The distribution with these counts; None where cells are so many that rows cannot be moved.

  Args:
    one_way: float64 [K, D], of each class, cell after cell.
    two_way: float64 [L, D, D], symmetric, zero within a column: of each class, and of all of them
      together if L = K + 1.
    known: bool [L, C, C], the pairs of columns that it says something of; θ of others is 0, and θ
      of pairs that are known of all classes together is the same in each.
    sizes: [C], cells of each column.
    rows: int64 [K, S, C], where the rows of each class begin, as cells.
    steps: sweeps; default: `STEPS`, or fewer where there are very many cells.
  """
  if _work(sizes) > _MOST_OF_A_ROW:
    return None
  if steps is None:
    affordable = _MOST_WORK / (_work(sizes) * rows.shape[0] * rows.shape[1])
    steps = int(np.clip(affordable, _FEWEST_STEPS, STEPS))
  totals = np.maximum(one_way.sum(axis=1) / len(sizes), 1.0)
  of_groups = np.append(totals, totals.sum())[: len(two_way), np.newaxis, np.newaxis]
  of = np.repeat(np.arange(len(sizes)), sizes)
  cells = (known & ~np.eye(len(sizes), dtype=bool))[:, of[:, np.newaxis], of]
  counts = np.maximum(two_way, 0) * cells
  tree = strongest_pairs(counts.sum(axis=0), sizes)
  return Pairwise(
    *_fit(
      jnp.asarray(np.maximum(one_way, 0) / totals[:, np.newaxis], jnp.float32),
      jnp.asarray(counts / of_groups, jnp.float32), jnp.asarray(cells), jnp.asarray(tree),
      jnp.asarray(totals / totals.sum(), jnp.float32), jnp.asarray(rows, jnp.int32),
      _keys.from_seed(_KEY), sizes=tuple(sizes), steps=steps, sweeps=_sweeps(sizes),
    )
  )  # fmt: skip


def move(
  model: Pairwise | None, sizes: Sequence[int], cells: np.ndarray, labels: np.ndarray,
  rng: np.random.Generator, fixed: Collection[int] = (),
) -> np.ndarray:  # fmt: skip
  """Rows, as cells int64 [n, C], of the classes `labels` [n], after a few sweeps.

  Args:
    model: the parameters; rows stay as they are without.
    sizes: [C], cells of each column.
    cells: int64 [n, C], where rows begin.
    labels: int64 [n].
    rng: of the draws.
    fixed: columns that stay as they are.
  """
  if model is None:
    return cells
  parts = [
    own[start : start + _BLOCK]
    for own in (np.flatnonzero(labels == k) for k in range(len(model.ones)))
    for start in range(0, len(own), _BLOCK)
  ]
  if not parts:
    return cells
  # Powers of two, so that few programs are compiled; blocks of no row are passed over.
  places = np.zeros((1 << max((len(parts) - 1).bit_length(), 3), _BLOCK), np.int64)
  for block, part in zip(places, parts, strict=False):
    block[:] = np.resize(part, _BLOCK)
  free = ~np.isin(np.arange(len(sizes)), list(fixed))
  moved = _move(
    model, jnp.asarray(cells[places], jnp.int32), jnp.asarray(labels[places[:, 0]], jnp.int32),
    jnp.asarray(len(parts)), jnp.asarray(free), _keys.from_seed(int(rng.integers(2**31))),
    sizes=tuple(sizes),
    sweeps=_sweeps(sizes),
  )  # fmt: skip
  found = np.empty_like(cells)
  found[places[: len(parts)].ravel()] = np.asarray(moved)[: len(parts)].reshape(-1, len(sizes))
  return found


def strongest_pairs(pairs: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
  """Where pairs of cells belong to the tree of columns that tells most, bool [D, D].

  Of all trees, that whose pairs have most mutual information together (Chow & Liu 1968).

  Args:
    pairs: float64 [D, D], two-way counts ≥ 0.
    sizes: [C], cells of each column.
  """
  columns = slices(sizes)
  told = np.zeros((len(sizes), len(sizes)))
  for i, a in enumerate(columns):
    for j, b in enumerate(columns[:i]):
      told[i, j] = _mutual_information(pairs[a, b])
  tree = scipy.sparse.csgraph.minimum_spanning_tree(-told - 1e-9 * (told > 0)).toarray() < 0
  of = np.repeat(np.arange(len(sizes)), sizes)
  return (tree | tree.T)[of[:, np.newaxis], of]


def _mutual_information(counts: np.ndarray) -> float:
  """Of two columns with these counts, in nats."""
  shares = counts / max(counts.sum(), 1e-300)
  independent = shares.sum(axis=1, keepdims=True) * shares.sum(axis=0, keepdims=True)
  return float(scipy.special.rel_entr(shares, independent).sum())


@functools.partial(jax.jit, static_argnames=('sizes', 'steps', 'sweeps'))
def _fit(
  ones: jax.Array, pairs: jax.Array, known: jax.Array, tree: jax.Array, shares: jax.Array,
  cells: jax.Array, key: jax.Array, *, sizes: tuple[int, ...], steps: int, sweeps: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  classes, dim = ones.shape
  every = jnp.ones(len(sizes), bool)
  least = _SEEN / cells.shape[1]
  of_groups = np.full((len(pairs), 1, 1), least, np.float32)
  of_groups[classes:] /= classes  # all together have more rows
  # All pairs of a column move its cells together, and must not overshoot together.
  rate = min(_RATE_OF_PAIRS, _MOST_AT_ONCE / max(len(sizes) - 1, 1))

  def grouped(of_classes: jax.Array) -> jax.Array:
    """The same with what all classes are together, if that is a group: [L, ...]."""
    of_all = jnp.einsum('k,k...->...', shares, of_classes)[jnp.newaxis]
    return jnp.concatenate([of_classes, of_all])[: len(pairs)]

  def of_each(groups: jax.Array) -> jax.Array:
    """[L, D, D] → [K, D, D], of each class what its own group says, and that of all."""
    return groups[:classes] + groups[classes:].sum(axis=0, keepdims=True)

  def step(carry: tuple, number: jax.Array, key: jax.Array) -> tuple[tuple, tuple]:
    hot, (b, theta) = carry
    hot = jnp.where(number % (_AGAIN * sweeps) == 0, begun, hot)
    keys = jax.random.split(key, classes)

    def moved(own: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
      hot, b, theta, key = own
      hot = _sweep(hot, b, theta, every, jax.random.uniform(key, (len(sizes), len(hot))), sizes)
      rows = hot[:, :dim]
      return hot, rows.mean(axis=0), rows.T @ rows / len(rows)

    hot, have, together = jax.lax.map(moved, (hot, b, theta, keys))
    wanted = (ones + least) / (have + least)
    # What one-way counts are off by is theirs to mend.
    together = grouped(together * wanted[:, :, jnp.newaxis] * wanted[:, jnp.newaxis])
    rise = jnp.log((pairs + of_groups) / (together + of_groups)).clip(-_LARGEST, _LARGEST)
    sure = jnp.minimum(1, jnp.sqrt((pairs + together) / (8 * of_groups)))
    b = b + _RATE_OF_ONES * jnp.log(wanted)
    theta = theta + rate * of_each(jnp.where(known, sure * rise, 0))
    return (hot, (b, theta)), (b, theta)

  def half(carry: tuple, keys: jax.Array) -> tuple[tuple, tuple]:
    """So many steps, and the mean of what they found."""

    def add(both: tuple, now: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
      carry, total = both
      carry, found = step(carry, *now)
      return (carry, jax.tree.map(jnp.add, total, found)), None

    nothing = jax.tree.map(jnp.zeros_like, carry[1])
    (carry, total), _ = jax.lax.scan(add, (carry, nothing), (jnp.arange(len(keys)), keys))
    return carry, jax.tree.map(lambda x: x / len(keys), total)

  first, second = (jax.random.split(own, steps // 2) for own in jax.random.split(key))
  # Of a tree the parameters are known: what two cells have together, more than by chance.
  of_all = grouped(ones)
  alone = of_all[:, :, jnp.newaxis] * of_all[:, jnp.newaxis]
  together = jnp.log((pairs + of_groups) / (alone + of_groups))
  together = of_each(jnp.where(known & tree[jnp.newaxis], together, 0))
  begun = jax.lax.map(lambda own: _hot(own, sizes), cells)
  start = begun, (jnp.log(ones + 1e-4), together)
  return half(half(start, first)[0], second)[1]


@functools.partial(jax.jit, static_argnames=('sizes', 'sweeps'))
def _move(
  model: Pairwise, cells: jax.Array, labels: jax.Array, count: jax.Array, free: jax.Array,
  key: jax.Array, *, sizes: tuple[int, ...], sweeps: int,
) -> jax.Array:  # fmt: skip
  # What turns a row of zeros and ones into cells: whole numbers, exact in float32.
  numbers = np.zeros((sum(sizes), len(sizes)), np.float32)
  columns = np.repeat(np.arange(len(sizes)), sizes)
  numbers[np.arange(len(columns)), columns] = np.concatenate([np.arange(s) for s in sizes])

  def block(i: jax.Array, cells: jax.Array) -> jax.Array:
    b, theta = model.ones[labels[i]], model.pairs[labels[i]]
    chance, order = jax.random.split(jax.random.fold_in(key, i))
    places = jax.random.uniform(chance, (sweeps, len(sizes), _BLOCK))
    # In the last sweep one in each part of [0, 1), in any order: counts vary less than by chance.
    parts = jnp.tile(jnp.arange(_BLOCK), (len(sizes), 1))
    parts = jax.random.permutation(order, parts, axis=1, independent=True)
    places = places.at[-1].set((0.999 * places[-1] + parts) / _BLOCK)
    hot, _ = jax.lax.scan(
      lambda hot, places: (_sweep(hot, b, theta, free, places, sizes), None),
      _hot(cells[i], sizes), places,
    )  # fmt: skip
    found = jnp.matmul(hot[:, : len(numbers)], numbers, precision='highest')
    return cells.at[i].set(jnp.rint(found).astype(jnp.int32))

  return jax.lax.fori_loop(0, count, block, cells)


def _sweeps(sizes: Sequence[int]) -> int:
  """How often every column of a row is drawn anew."""
  return int(np.clip(_MOST_OF_A_ROW / _work(sizes), _FEWEST_SWEEPS, _SWEEPS))


def _work(sizes: Sequence[int]) -> int:
  """Products of numbers that a row takes in a sweep."""
  return sum(sizes) * sum(_widths(sizes))


def _widths(sizes: Sequence[int]) -> list[int]:
  """Of each column, the power of two that its cells are computed in: few, so that compiling is."""
  return [1 << max((size - 1).bit_length(), 3) for size in sizes]


def _hot(cells: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
  """float32 [n, D + width]: 1 at the cell of each column; room for the widest at the end."""
  starts = jnp.asarray(np.cumsum((0, *sizes))[:-1], jnp.int32)
  empty = jnp.zeros((len(cells), sum(sizes) + max(_widths(sizes))), jnp.float32)
  return empty.at[jnp.arange(len(cells))[:, jnp.newaxis], cells + starts[jnp.newaxis]].set(1)


def _sweep(
  hot: jax.Array, b: jax.Array, theta: jax.Array, free: jax.Array, places: jax.Array,
  sizes: tuple[int, ...],
) -> jax.Array:  # fmt: skip
  """Every free column once, one after the other, given all others; places in [0, 1) [C, n]."""
  widths = _widths(sizes)
  kinds, room = sorted(set(widths)), max(widths)
  kind = jnp.asarray([kinds.index(width) for width in widths])
  begins, many = jnp.asarray(np.cumsum((0, *sizes))[:-1]), jnp.asarray(sizes)
  b, theta = jnp.pad(b, (0, room)), jnp.pad(theta, ((0, room), (0, room)))

  def of_width(width: int) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    def column(hot: jax.Array, c: jax.Array, place: jax.Array) -> jax.Array:
      at = (0, begins[c])
      number = jnp.arange(width)[jnp.newaxis]
      logits = hot @ jax.lax.dynamic_slice(theta, at, (len(theta), width))
      logits += jax.lax.dynamic_slice(b, at[1:], (width,))[jnp.newaxis]
      logits = jnp.where(number < many[c], logits, -jnp.inf)
      ends = jnp.cumsum(jnp.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
      new = (ends <= place[:, jnp.newaxis] * ends[:, -1:]).sum(axis=1, keepdims=True)
      old = jax.lax.dynamic_slice(hot, at, (len(hot), width))
      mine = (number < many[c]) & free[c]  # what lies behind is the next column's
      new = (number == jnp.minimum(new, many[c] - 1)).astype(hot.dtype)
      return jax.lax.dynamic_update_slice(hot, jnp.where(mine, new, old), at)

    return column

  columns = [of_width(width) for width in kinds]
  return jax.lax.fori_loop(
    0, len(sizes),
    lambda c, hot: jax.lax.switch(kind[c], columns, hot, c, places[c]), hot,
  )  # fmt: skip
