"""Mixtures of products, fitted to noisy one-way and two-way counts of a table: free of cost.

A row comes of one of M components, in each of which columns are independent: P(x, k) =
Σₘ w[m, k] Πc p[m, c, xc]. Two-way counts are then N·Σₘ w p pᵀ, and parameters are found that come
nearest to all released counts, each weighed by its noise, by gradient descent. Counts that no
distribution has, and most of the noise, are not within reach of so few components.

Sources: Liu, Vietri & Wu 2021 (arXiv 2106.07153, GEM); Aydore et al. 2021 (arXiv 2103.06641).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _keys

STEPS, _LEARNING_RATE = 1500, 0.2
_FEWEST_STEPS, _MOST_WORK = 400, 1e12  # numbers of components, classes and pairs, in all steps
_CHANCE = 0.1
_KEY = 20  # of the start; public, so that the same release gives the same model


@dataclasses.dataclass(frozen=True)
class Counts:
  """What was released of a table, as it is fitted.

  Attributes:
    sizes: [C], cells of each column.
    one_way: float64 [K, D], of each class, cell after cell.
    two_way: float64 [L, D, D], symmetric, zero within a column: of each class, and of all of them
      together if L = K + 1.
    deviations: of the noise of one-way counts; one number, or [D].
    of_pairs: the same of two-way counts; one number, or [L, D, D], infinite of what is not known.
  """

  sizes: tuple[int, ...]
  one_way: np.ndarray
  two_way: np.ndarray
  deviations: np.ndarray | float
  of_pairs: np.ndarray | float

  @property
  def total(self) -> float:
    """About how many rows there are: ≥ 1."""
    return max(float(self.one_way.sum()) / len(self.sizes), 1.0)


class Mixture(NamedTuple):
  """The parameters.

  Attributes:
    weights: float32 [M, K], ≥ 0, their sum 1.
    cells: float32 [M, D], of each component the share of each cell of its column.
  """

  weights: jax.Array
  cells: jax.Array


def fit(counts: Counts, components: int, steps: int | None = None) -> Mixture:
  """The mixture that comes nearest to the counts.

  Args:
    counts: released.
    components: M.
    steps: of Adam; default: `STEPS`, or fewer where there are very many cells.
  """
  classes, dim = counts.one_way.shape
  if steps is None:
    affordable = _MOST_WORK / (components * classes * dim**2)
    steps = int(np.clip(affordable, _FEWEST_STEPS, STEPS))
  of = np.repeat(np.arange(len(counts.sizes)), counts.sizes)
  shares = np.maximum(counts.one_way.sum(axis=0) / counts.total, 1e-4)
  start_key, weight_key = jax.random.split(_keys.from_seed(_KEY))
  logits = (
    jax.random.normal(weight_key, (components, classes), jnp.float32),
    jnp.log(jnp.asarray(shares, jnp.float32))[jnp.newaxis]
    + jax.random.normal(start_key, (components, dim), jnp.float32),
  )
  # How far a count may be off: by its noise, and by what chance there is in who is in the table.
  ones, pairs = (
    counts.total / (np.square(noise) + _CHANCE * np.maximum(each, 1.0))
    for noise, each in ((counts.deviations, counts.one_way), (counts.of_pairs, counts.two_way))
  )
  between = of[:, np.newaxis] != of[np.newaxis]
  with jax.numpy_dtype_promotion('standard'):  # optax's own schedules need it under x64
    return _fit(
      logits, jnp.asarray(counts.one_way / counts.total, jnp.float32),
      jnp.asarray(counts.two_way / counts.total, jnp.float32), jnp.asarray(of),
      jnp.asarray(ones, jnp.float32), jnp.asarray(pairs * between, jnp.float32),
      columns=len(counts.sizes), steps=steps,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=('columns', 'steps'))
def _fit(
  logits: tuple[jax.Array, jax.Array],
  one_way: jax.Array,
  two_way: jax.Array,
  of: jax.Array,
  of_ones: jax.Array,
  of_pairs: jax.Array,
  *,
  columns: int,
  steps: int,
) -> Mixture:
  of_column = jax.nn.one_hot(of, columns, dtype=jnp.float32)

  def mixture(logits: tuple[jax.Array, jax.Array]) -> Mixture:
    weights, cells = logits
    largest = jax.lax.stop_gradient(jax.ops.segment_max(cells.T, of, columns))
    powers = jnp.exp(cells - largest[of].T)
    cells = powers / ((powers @ of_column) @ of_column.T)
    return Mixture(jax.nn.softmax(weights.ravel()).reshape(weights.shape), cells)

  def distance(logits: tuple[jax.Array, jax.Array]) -> jax.Array:
    weights, cells = mixture(logits)
    of_one = weights.T @ cells - one_way

    def of_two(carry: tuple, k: jax.Array) -> tuple[tuple, None]:
      total, together = carry
      found = (cells * weights[:, k, jnp.newaxis]).T @ cells
      total += (of_pairs[k] * jnp.square(found - two_way[k])).sum()
      return (total, together + found), None

    classes, nothing = len(one_way), jnp.zeros_like(two_way[0])
    carry = jnp.zeros((), jnp.float32), nothing
    (pairs, together), _ = jax.lax.scan(of_two, carry, jnp.arange(classes))
    if len(two_way) > classes:
      pairs += (of_pairs[-1] * jnp.square(together - two_way[-1])).sum()
    return pairs / 2 + (of_ones * jnp.square(of_one)).sum()

  optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))

  def step(carry: tuple, _: None) -> tuple[tuple, None]:
    logits, state = carry
    updates, state = optimizer.update(jax.grad(distance)(logits), state)
    return (optax.apply_updates(logits, updates), state), None

  (logits, _), _ = jax.lax.scan(step, (logits, optimizer.init(logits)), None, length=steps)
  return mixture(logits)


def marginals(mixture: Mixture, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Shares of all rows: one-way float64 [K, D], and two-way [L, D, D], of all rows at the end."""
  weights, cells = (np.asarray(each, np.float64) for each in mixture)
  of = np.repeat(np.arange(len(sizes)), sizes)
  between = of[:, np.newaxis] != of
  groups = [*weights.T, weights.sum(axis=1)] if weights.shape[1] > 1 else weights.T
  return weights.T @ cells, np.stack([(cells.T * each) @ cells * between for each in groups])


def draw(
  mixture: Mixture, sizes: tuple[int, ...], labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Rows of the classes `labels` [n], as cells int64 [n, C]."""
  weights = np.asarray(mixture.weights, np.float64)
  component = np.empty(len(labels), np.int64)
  for k in np.unique(labels):
    own = np.flatnonzero(labels == k)
    component[own] = pick(weights[:, k], len(own), rng)
  return draw_cells(mixture, sizes, component, rng)


def pick(shares: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
  """So many of the numbers 0 ..., with probabilities in proportion to `shares`, int64 [num]."""
  return pick_in(shares[np.newaxis], np.zeros(num, np.int64), rng)


def condition(
  mixture: Mixture, sizes: tuple[int, ...], given: Mapping[int, int], label: int | None
) -> np.ndarray:
  """How likely each component and class is where some cells are given, float64 [M, K], unscaled.

  Args:
    mixture: the parameters.
    sizes: [C], cells of each column.
    given: the cell of a column, by its number.
    label: the class, if it is given.
  """
  weights, cells = (np.asarray(each, np.float64) for each in mixture)
  starts = np.cumsum([0, *sizes])
  for column, cell in given.items():
    weights = weights * cells[:, starts[column] + cell, np.newaxis]
  if label is not None:
    weights = weights * (np.arange(weights.shape[1]) == label)
  return weights


def draw_cells(
  mixture: Mixture, sizes: tuple[int, ...], component: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Rows of the components int64 [n], as cells int64 [n, C]."""
  cells, ends = np.asarray(mixture.cells, np.float64), np.cumsum(sizes)
  return np.stack(
    [
      pick_in(cells[:, end - size : end], component, rng)
      for size, end in zip(sizes, ends, strict=True)
    ],
    axis=1,
  )


def pick_in(shares: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A column for each of `rows` [n], with probabilities in proportion to `shares` [m, columns].

  Levels are one of each n-th part of [0, 1], in any order: counts vary less than by chance.
  """
  ends = np.cumsum(shares, axis=1)
  levels = (rng.permutation(len(rows)) + rng.random(len(rows))) / max(len(rows), 1)
  levels = np.minimum(levels, np.nextafter(1.0, 0.0)) * ends[rows, -1]
  return np.minimum((ends[rows] <= levels[:, np.newaxis]).sum(axis=1), shares.shape[1] - 1)


def generator(key: jax.Array) -> np.random.Generator:
  """Numpy's draws, which follow from a key."""
  return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
