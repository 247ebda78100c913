"""Truncated Poisson batches with a static shape, drawn on the device from (key, step).

Every example joins the batch independently with probability q. A compiled step needs a fixed shape,
so at most `truncated_batch_size` of the examples that joined are kept, a uniformly random subset of
them; the rest of the fixed shape is padding that the mask excludes. The accountant knows about the
cut (`DPMechanism.event`), so sampling as run is sampling as accounted.

Both ways to draw are in integers, with q a multiple of 2⁻³⁰ (`exact_probability`) that the
accountant also uses. N and the cap say which is taken:

* Every example receives a 30-bit number and joins if it is below q·2³⁰. The numbers, read as
  ordered floats, are sorted just far enough to find the smallest `truncated_batch_size` of them:
  all that joined or, if there were too many, a random subset of them. (Two equal numbers at the
  very edge of a cut, a 2⁻³⁰ matter inside a branch of probability ~10⁻⁷, are ordered by index.)
* Of many examples so few join that a number for each would be most of a step's work. There the
  number of those that join is drawn first, binomial, and then so many different examples, all
  equally likely (`_few`): the same distribution, at a cost that follows the cap and not N.

Examples are then put in random places among the padding. So a batch with one example more can be
seen as the same batch in which that example stands in one place of the padding, and all others
where they were: what they add up to rounds as before (`ghost.sums`).

>>> import jax
>>> sampler = TruncatedPoissonSampler(
...     num_examples=1000, sampling_probability=exact_probability(0.1), truncated_batch_size=150)
>>> batch = sampler(jax.random.key(0), step=3)
>>> batch.indices.shape, batch.mask.shape
((150,), (150,))
>>> int(batch.mask.sum()) == int(sampler.inclusion_mask(jax.random.key(0), step=3).sum())
True

Source: Poisson sampling in DP-SGD, Abadi et al. 2016 (arXiv 1607.00133), section 3.1; truncated
Poisson sampling and its accounting, arXiv 2508.15089.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _keys, _validate
from dpgan_jax.privacy import sharding

_BITS = 30  # ordered normal float32 patterns hold a little more than 30 bits
_MANY, _MANY_PER_PLACE = 2**17, 64
"""So many examples, and so many for each place in a batch, are not given a number each."""
_WORDS = 3
"""Of 32 bits each, in which a binomial count is drawn: a key itself has two."""
_BATCHES_AT_ONCE, _NUMBERS_AT_ONCE = 16, 2**22
"""How many are drawn together, at most: 16 MiB of numbers."""
_NEVER = 100 * math.log(2)
"""−log of how likely it is that the draws of `_few` do not suffice, at most."""


class PoissonBatch(NamedTuple):
  """One batch: `indices` int32[cap] into the data set, `mask` bool[cap], False for padding."""

  indices: jax.Array
  mask: jax.Array


class Drawn(NamedTuple):
  """The batch of `step`, drawn before; with its records, arrays [cap, ...], where all others are
  elsewhere, else with none."""

  step: jax.Array
  batch: PoissonBatch
  rows: tuple[jax.Array, ...] = ()


class Taken(NamedTuple):
  """A device's share of a batch: records, where they lie, mask; and the realised size of all."""

  rows: tuple[jax.Array, ...]
  indices: jax.Array
  mask: jax.Array
  realised: jax.Array


def exact_probability(probability: float) -> float:
  """Returns the largest multiple of 2⁻³⁰ that is ≤ `probability`: what the sampler really does.

  Raises:
    InputError: `probability` is not in (0, 1], or is so small that it would round to zero.
  """
  _validate.fraction('sampling_probability', probability, open_right=False)
  threshold = math.floor(probability * 2**_BITS)
  if threshold == 0:
    raise _validate.InputError(
      f'expected sampling_probability >= 2**-{_BITS}, got {probability!r}: no example '
      'would be drawn'
    )
  return threshold / 2**_BITS


def default_truncation(num_examples: int, probability: float) -> int:
  """Returns a batch cap that costs next to nothing in ε: mean + 5.5·√mean, rounded up to 8.

  Measured in PLD accounting (σ = 1, T = 2,000, N = 60,000): ε grows by less than 0.02 % for
  expected batches of 32 to 512; at 4.5·√mean it grows by 0.5 %. At most N + 1, the size of the
  larger
  neighbour: nothing is ever cut then.
  """
  mean = num_examples * probability
  cap = math.ceil((mean + 5.5 * math.sqrt(mean) + 1) / 8) * 8
  return min(cap, num_examples + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedPoissonSampler:
  """Draws `PoissonBatch`es; call it inside jit.

  Attributes:
    num_examples: N, the size of the data set the indices point into.
    sampling_probability: q, a multiple of 2⁻³⁰ (see `exact_probability`).
    truncated_batch_size: the cap, the static first axis of every batch.
    stream: separates samplers that are otherwise alike; `DPMechanism` gives each of its own.

  Guarantee: before the cut each example is in the batch of a step with probability exactly q,
  independently of all other examples and steps (up to the quality of the PRNG; where a count is
  drawn, within a total variation of 2⁻⁹⁶ for each place in a batch, where a key is one of 2⁶⁴). The
  key may be one that other parts of this package are given as well: what they draw from it is
  independent.
  """

  num_examples: int
  sampling_probability: float
  truncated_batch_size: int
  stream: int = 0

  def __post_init__(self) -> None:
    _validate.integer('num_examples', self.num_examples, minimum=1, maximum=2**31 - 1)
    _validate.integer(
      'truncated_batch_size', self.truncated_batch_size, minimum=1, maximum=self.num_examples
    )
    if exact_probability(self.sampling_probability) != self.sampling_probability:
      raise _validate.InputError(
        f'expected sampling_probability to be a multiple of 2**-{_BITS} (use exact_probability), '
        f'got {self.sampling_probability!r}'
      )

  @property
  def _threshold(self) -> int:
    return round(self.sampling_probability * 2**_BITS)

  @property
  def draws_a_count(self) -> bool:
    """Whether the number of those that join is drawn, and then who they are."""
    least = max(_MANY, _MANY_PER_PLACE * self.truncated_batch_size)
    return self.num_examples >= least and self.sampling_probability <= 1 / 2

  def step_key(
    self, key: jax.Array, step: jax.Array | int, purpose: str = 'batches'
  ) -> jax.Array:
    """The key of the draws of step `step`, in which nothing else has a part.

    Raises:
      InputError: not one typed threefry2x32 key, not a whole number of at least 32 bits.
    """
    settings = (self.num_examples, self._threshold, self.truncated_batch_size, self.stream)
    return _keys.at_step(_keys.for_purpose(_keys.require('key', key), purpose, *settings), step)

  def _draws(self, key: jax.Array, step: jax.Array | int) -> jax.Array:
    """One uniform 30-bit number per example, uint32[N]."""
    bits = jax.random.bits(self.step_key(key, step), (self.num_examples,), jnp.uint32)
    return bits >> (32 - _BITS)

  def inclusion_mask(self, key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The mask form before the cut: bool[N], True for every example that joined step `step`.

    Where a count is drawn, nobody beyond the cap is: it is the mask after the cut.
    """
    if self.draws_a_count:
      batch = self(key, step)
      return jnp.zeros(self.num_examples, bool).at[batch.indices].set(batch.mask)
    return self._draws(key, step) < jnp.uint32(self._threshold)

  def take(
    self,
    key: jax.Array,
    step: jax.Array,
    data: tuple[jax.Array | Drawn, ...],
    split: sharding.Split = sharding.WHOLE,
  ) -> Taken:
    """The records of step `step`'s batch, of which this device takes its share.

    Args:
      key: of the batches.
      step: the number of the step.
      data: all records, arrays [N, ...]; or before them, or instead of them, the batch drawn by
        `self(key, step)`.
      split: how the batch is divided.
    """
    first, *rest = data
    drawn = first if isinstance(first, Drawn) else Drawn(step, self(key, step))
    records = rest if first is drawn else data
    indices = split.rows(drawn.batch.indices)
    mask = drawn.batch.mask & (drawn.step == step)  # the batch of another step counts nothing
    rows = split.rows(drawn.rows) if drawn.rows else tuple(of_all[indices] for of_all in records)
    own = split.present(mask.shape[0], mask)
    assert own is not None
    return Taken(rows, indices, own, jnp.sum(mask).astype(jnp.float32))

  def ahead(self, key: jax.Array, step: jax.Array, count: int) -> Drawn:
    """The batches of `count` steps from `step` on, [count, ...] each: fewer and larger operations
    than one at a time."""
    numbers = self._draws_of_few if self.draws_a_count else self.num_examples
    together = max(1, min(_BATCHES_AT_ONCE, _NUMBERS_AT_ONCE // numbers))
    steps = step + jnp.arange(count, dtype=jnp.int32)
    return Drawn(steps, jax.lax.map(lambda at: self(key, at), steps, batch_size=together))

  def __call__(self, key: jax.Array, step: jax.Array | int) -> PoissonBatch:
    """The batch of step `step`: the same for the same (key, step), independent between steps."""
    indices, joined = (self._few if self.draws_a_count else self._smallest)(key, step)
    places = self.step_key(key, step, 'places')
    place = jax.random.permutation(places, self.truncated_batch_size)
    return PoissonBatch(indices[place], joined[place])

  def _smallest(self, key: jax.Array, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The examples with the smallest numbers, in their order, and which of them joined."""
    draws = self._draws(key, step)
    # Adding the smallest normal number's bit pattern makes every draw the pattern of a positive
    # normal float32, and such patterns are ordered as their floats: XLA's top_k is fast on floats.
    as_float = jax.lax.bitcast_convert_type(draws + jnp.uint32(0x00800000), jnp.float32)
    _, indices = jax.lax.top_k(-as_float, self.truncated_batch_size)
    return indices, draws[indices] < jnp.uint32(self._threshold)

  def _few(self, key: jax.Array, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Different examples, each as likely as any other, and as many of the first as joined.

    The count is min(K, cap), K binomial: 96 random bits against its distribution function, each
    value of which is rounded by less than 2⁻⁹⁶; fewer bits than these make up a key. The examples
    are the first different ones among uniform draws, of which there are so many that they do not
    suffice with probability 2⁻¹⁰⁰ at most; then fewer join.
    """
    cap, size = self.truncated_batch_size, self.num_examples
    bits = jax.random.bits(self.step_key(key, step, 'counts'), (_WORDS,), jnp.uint32)
    below = jnp.zeros(cap, bool)  # whether the bits are below P(K ≤ k)
    for word, edge in zip(bits[::-1], self._distribution.T[::-1], strict=True):
      below = (word < edge) | ((word == edge) & below)
    count = jnp.sum(~below, dtype=jnp.int32)

    draws = self._draws_of_few
    words = jax.random.bits(self.step_key(key, step), (draws,), jnp.uint32)
    # As many words stand for each example; the rest of them stand for none.
    last = np.uint32(2**32 // size * size - 1)
    drawn = jnp.where(words <= last, words % np.uint32(size), np.uint32(2**32 - 1))
    order = jnp.argsort(drawn, stable=True)
    ordered = drawn[order]
    first = jnp.append(True, ordered[1:] != ordered[:-1]) & (ordered < np.uint32(size))
    is_first = jnp.zeros(draws, bool).at[order].set(first)
    number = jnp.cumsum(is_first, dtype=jnp.int32)
    at = jnp.where(is_first, number - 1, draws)  # beyond the batch: dropped
    indices = jnp.zeros(cap, jnp.int32).at[at].set(drawn.astype(jnp.int32), mode='drop')
    return indices, jnp.arange(cap, dtype=jnp.int32) < jnp.minimum(count, number[-1])

  @functools.cached_property
  def _distribution(self) -> np.ndarray:
    """P(K ≤ k)·2⁹⁶ for k below the cap, rounded down: uint32[cap, 3], the highest word first."""
    context = decimal.Context(prec=80, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
    with decimal.localcontext(context):
      odds = decimal.Decimal(self._threshold) / (2**_BITS - self._threshold)
      mass = (decimal.Decimal(2**_BITS - self._threshold) / 2**_BITS) ** self.num_examples
      total, edges = decimal.Decimal(0), []
      for k in range(self.truncated_batch_size):
        total += mass
        edges.append(int(total * 2 ** (32 * _WORDS)))
        mass *= odds * (self.num_examples - k) / (k + 1)
    words = [[edge >> 32 * i & 0xFFFFFFFF for i in reversed(range(_WORDS))] for edge in edges]
    return np.array(words, np.uint32)

  @functools.cached_property
  def _draws_of_few(self) -> int:
    """How many uniform draws hold `truncated_batch_size` different examples, almost surely.

    A draw is a new example with probability p or more whatever was drawn before it. Chernoff: of m
    draws, fewer than `cap` are with probability exp(−m·KL(cap/m ‖ p)) at most.
    """
    cap, size = self.truncated_batch_size, self.num_examples
    draws = cap
    while True:
      draws += max(1, cap // 100)
      p, share = (2**32 // size * size / 2**32) * (1 - draws / size), cap / draws
      if share < p:
        apart = share * math.log(share / p) + (1 - share) * math.log((1 - share) / (1 - p))
        if draws * apart >= _NEVER:
          return draws
