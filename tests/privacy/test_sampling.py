"""dpgan_jax.privacy.sampling: batches are what the accountant charges, Poisson draws with a cut.

The statistical tests have fixed keys, so they pass or fail the same way every time; their false
alarm is the probability that a correct sampler fails under a key drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import sampling
from experiments.trust import statistical_checks as statistics
from tests.support import draws

ALARM = 1e-4
N, STEPS = 50, 10_000
KEY = jax.random.key(0)


def make(num: int, probability: float, cap: int | None = None) -> sampling.TruncatedPoissonSampler:
  return sampling.TruncatedPoissonSampler(
    num_examples=num,
    sampling_probability=sampling.exact_probability(probability),
    truncated_batch_size=num if cap is None else cap,
  )


def kept(sampler: sampling.TruncatedPoissonSampler, steps: int, seed: int = 0) -> np.ndarray:
  """bool[steps, N]: which examples the batches of `steps` steps really hold."""
  key = jax.random.key(seed)

  def one(step: jax.Array) -> jax.Array:
    batch = sampler(key, step)
    return jnp.zeros(sampler.num_examples, int).at[batch.indices].add(batch.mask)

  counts = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(steps)))
  assert counts.max() <= 1  # nobody is in a batch twice
  return counts.astype(bool)


@pytest.fixture(scope='module')
def joined() -> np.ndarray:
  return kept(make(N, 0.2), STEPS)


class TestDistribution:
  def test_total_inclusion_rate(self, joined):
    """Binomial test of all 500,000 draws. False alarm 1e-4; q off by 2%: power 99.9%."""
    statistics.inclusion_rate_is(joined, make(N, 0.2).sampling_probability, alarm=ALARM)

  def test_inclusion_rate_of_every_example(self, joined):
    """Binomial test per example, Bonferroni. False alarm 1e-4; one at 1.2·q: power 99.9%."""
    statistics.everybody_joins_alike(joined, make(N, 0.2).sampling_probability, alarm=ALARM)

  def test_pairs_are_independent(self, joined):
    """χ² over the covariances of all 1,225 pairs. False alarm 1e-4.

    A batch of fixed size (a correlation of -1/(N-1) in every pair) multiplies the statistic by
    five: power > 99.99%.
    """
    statistics.pairs_are_independent(joined, 0.2, alarm=ALARM)

  def test_batch_size_is_binomial(self, joined):
    """χ² of the variance of batch sizes. False alarm 1e-4; variance off by 10%: power 99%."""
    statistics.batch_size_is_binomial(joined, 0.2, alarm=ALARM)

  @pytest.mark.parametrize('lag', [1, 2, 4])
  def test_steps_are_independent(self, joined, lag):
    """χ² over each example's autocovariance. False alarm 1e-4 per lag.

    Shuffled epochs of 1/q = 5 batches correlate neighbouring steps by -0.2, twenty standard
    deviations for each example; repeated batches by 1. Power > 99.99%.
    """
    statistics.steps_are_independent(joined, 0.2, lag=lag, alarm=ALARM)

  def test_the_cut_drops_a_uniformly_random_subset(self):
    """χ² over examples, cap 5 where 25 join on average. False alarm 1e-4.

    Kept are 5 of 50 without replacement, so counts have variance Sp(1-p) and covariance
    -Sp(1-p)/(N-1), which the factor (N-1)/N accounts for. One half of the examples kept 10%
    more often than the other is found with power 99.9%; "the first to join are kept" always.
    """
    statistics.cut_is_uniform(kept(make(N, 0.5, cap=5), STEPS), 5, alarm=ALARM)

  def test_a_rare_cut_changes_only_the_batches_it_touches(self):
    # The accountant charges the cut as: all who joined, or, beyond the cap, `cap` of them.
    sampler = make(N, 0.2, cap=12)
    key = jax.random.key(0)
    full = np.asarray(jax.vmap(lambda s: sampler.inclusion_mask(key, s))(jnp.arange(500)))
    held = kept(sampler, 500)
    assert (held <= full).all()
    np.testing.assert_array_equal(held.sum(1), np.minimum(full.sum(1), 12))
    assert 0 < (full.sum(1) > 12).sum() < 500


MANY = make(1000, 0.01, cap=15)  # 10 join on average; where a count is drawn


@pytest.fixture(scope='class')
def counted() -> Iterator[None]:
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sampling, '_MANY', MANY.num_examples)
    assert MANY.draws_a_count
    yield


@pytest.fixture(scope='class')
def few(counted) -> np.ndarray:
  return kept(MANY, STEPS)


class TestCounts:
  """A count, and then so many examples: the distribution is that of a number for each."""

  def test_counts_are_binomial_and_cut(self, few):
    """χ² over the 16 sizes. False alarm 1e-4; a rate off by 3%: power 99.9%."""
    sizes = np.bincount(few.sum(axis=1), minlength=16)
    p = scipy.stats.binom.pmf(np.arange(15), 1000, MANY.sampling_probability)
    assert sizes[15] > 300  # of 10,000, most of them cut
    p = np.append(p, 1 - p.sum())
    assert scipy.stats.chisquare(sizes[1:], p[1:] / p[1:].sum() * sizes[1:].sum()).pvalue > ALARM

  def test_everybody_joins_alike(self, few):
    """Binomial test per example, Bonferroni. False alarm 1e-4; one at 2·q: power 99%."""
    statistics.everybody_joins_alike(few, few.mean(), alarm=ALARM)

  def test_pairs_and_steps_are_independent(self, few):
    """As above, of batches that are seldom cut. False alarm 1e-4 each."""
    statistics.cut_is_uniform(few[few.sum(axis=1) == 15], 15, alarm=ALARM)
    for lag in (1, 2):
      statistics.steps_are_independent(few, few.mean(), lag=lag, alarm=ALARM)

  def test_nobody_is_in_two_places_of_a_batch(self, counted):
    """Fifteen of a thousand are different with probability 0.9: 500 batches would say so."""
    batches = jax.vmap(lambda step: MANY(jax.random.key(0), step).indices)(jnp.arange(500))
    ordered = np.sort(batches, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all()
    assert ordered.min() >= 0
    assert ordered.max() < 1000

  @pytest.mark.parametrize(('num', 'q', 'cap'), [(9, 0.3, 9), (2**31 - 1, 2**-24, 200)])
  def test_distribution_function(self, num, q, cap):
    """To the last of 96 bits where fractions are at hand, to SciPy's where not."""
    sampler = make(num, q, cap)
    words = sampler._distribution.astype(object)
    got = words @ [2**64, 2**32, 1]
    p = Fraction(sampler._threshold, 2**30)
    if num < 100:
      mass = [math.comb(num, k) * p**k * (1 - p) ** (num - k) for k in range(cap)]
      assert got.tolist() == [int(sum(mass[: k + 1]) * 2**96) for k in range(cap)]
    want = scipy.stats.binom.cdf(np.arange(cap), num, float(p))
    np.testing.assert_allclose(got.astype(float) / 2.0**96, want, rtol=1e-9, atol=2.0**-96)

  @pytest.mark.parametrize(
    ('bits', 'count'), [((0, 0, 0), 0), ((2**32 - 1,) * 3, 9), ('edge', 4), ('below', 3)]
  )
  def test_a_count_is_where_its_bits_are(self, counted, monkeypatch, bits, count):
    """Off by one at an edge is a matter of 2⁻⁹⁶."""
    sampler = make(1000, 0.004, cap=9)
    edge = sum(int(word) << 32 * (2 - i) for i, word in enumerate(sampler._distribution[3]))
    if isinstance(bits, str):
      value = edge - (bits == 'below')
      bits = tuple(value >> 32 * (2 - i) & 0xFFFFFFFF for i in range(3))
    draw = jax.random.bits
    monkeypatch.setattr(
      jax.random, 'bits',
      lambda key, shape, dtype: jnp.array(bits, dtype) if shape == (3,) else draw(key, shape, dtype)
    )  # fmt: skip
    assert int(sampler(jax.random.key(0), 0).mask.sum()) == count

  @pytest.mark.parametrize('num', [1000, 2**31 - 1, 1_431_655_766])
  def test_every_example_has_as_many_words(self, counted, monkeypatch, num):
    """The words beyond the last full turn stand for nobody."""
    sampler = make(num, 2**-28 if num > 1000 else 0.004, cap=9)
    turns = 2**32 // num
    words = [turns * num, 5, turns * num - 1, 5, num + 5, 2**32 - 1, *range(10, 20)]
    length = sampler._draws_of_few
    words = jnp.array((words * length)[:length], jnp.uint32)
    monkeypatch.setattr(
      jax.random, 'bits',
      lambda key, shape, dtype: jnp.zeros(3, dtype) if shape == (3,) else words
    )  # fmt: skip
    batch = sampler(jax.random.key(0), 0)
    last = [] if turns * num == 2**32 else [num - 1]
    assert sorted(batch.indices.tolist()) == sorted([5, *last, *range(10, 17)])

  def test_draws_suffice(self):
    """Also where batches take a 64th of all examples, and where a third of the words are lost."""
    for num, cap in ((2**17, 2**11), (1_431_655_766, 1000), (10_000_000, 344)):
      draws = make(num, 1e-6, cap)._draws_of_few
      p = (2**32 // num * num / 2**32) * (1 - draws / num)
      assert scipy.stats.binom.logcdf(cap - 1, draws, p) < -100 * math.log(2)
      assert draws < 2 * cap + 200

  def test_where_draws_do_not_suffice_fewer_join(self, counted, monkeypatch):
    """All draws are one example, and as many as there are places would join."""
    monkeypatch.setattr(
      jax.random, 'bits', lambda key, shape, dtype: jnp.full(shape, 2**32 - 297, dtype)
    )
    batch = MANY(jax.random.key(0), 0)
    assert batch.indices[batch.mask].tolist() == [(2**32 - 297) % 1000]

  def test_every_draw_has_a_key_of_its_own(self, counted):
    """Count, examples and places: that two of them share bits is nothing that statistics see."""
    keys = draws.keys_of(lambda key: MANY(key, 3), jax.random.key(0))(jax.random.key(0))
    assert len(keys) >= 3
    assert len(np.unique(keys, axis=0)) == len(keys)

  def test_mask_form(self, counted):
    batch, mask = (f(jax.random.key(3), 7) for f in (MANY, MANY.inclusion_mask))
    assert np.flatnonzero(mask).tolist() == sorted(batch.indices[batch.mask].tolist())

  @pytest.mark.usefixtures('strict_dtypes', 'counted')
  def test_strict_promotion_and_wide_numbers(self):
    want = MANY(jax.random.key(0), jnp.int32(1))
    with jax.enable_x64(True):
      got = MANY(jax.random.key(0), jnp.int32(1))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_who_is_told_by_a_count():
  assert make(2**17, 0.001, 2**11).draws_a_count
  assert not make(2**17 - 1, 0.001, 2**10).draws_a_count
  assert not make(2**17, 0.001, 2**11 + 1).draws_a_count
  assert not make(2**20, 0.6, 2**11).draws_a_count  # all but certainly cut


def test_numbers_drawn_together_are_few(monkeypatch):
  """However many records there are: batches of half of them are drawn one at a time."""
  monkeypatch.setattr(sampling, '_NUMBERS_AT_ONCE', 3000)
  drawn = lambda sampler: str(jax.make_jaxpr(lambda: sampler.ahead(KEY, jnp.int32(0), 20))())  # noqa: E731
  assert 'u32[3,1000]' in drawn(make(1000, 0.5))
  assert 'u32[1,2000]' in drawn(make(2000, 0.5))


@pytest.mark.parametrize('many', [2**17, 0])
def test_batches_drawn_ahead_are_those_of_each_step(monkeypatch, many):
  monkeypatch.setattr(sampling, '_MANY', many)
  key = jax.random.key(0)
  ahead = jax.jit(lambda: MANY.ahead(key, jnp.int32(3), 20))()
  assert ahead.step.tolist() == list(range(3, 23))
  for i in (0, 15, 16, 19):
    got = jax.tree.map(lambda x, i=i: x[i], ahead.batch)
    jax.tree.map(np.testing.assert_array_equal, got, MANY(key, 3 + i))


class TestBatch:
  @hypothesis.given(
    size=st.sampled_from([(1, 1), (7, 1), (7, 5), (40, 13), (40, 40)]),  # each is compiled anew
    probability=st.floats(0.01, 1), step=st.integers(0, 2**31 - 1), seed=st.integers(0, 99),
  )  # fmt: skip
  def test_mask_and_indices_agree_with_the_mask_form(self, size, probability, step, seed):
    num, cap = size
    sampler = make(num, probability, cap)
    key = jax.random.key(seed)
    batch = sampler(key, step)
    indices, mask = np.asarray(batch.indices), np.asarray(batch.mask)
    members = np.flatnonzero(sampler.inclusion_mask(key, step))
    assert indices.shape == mask.shape == (cap,)
    assert (indices.dtype, mask.dtype) == (np.int32, np.bool_)
    assert len(set(indices.tolist())) == cap
    assert indices.min() >= 0
    assert indices.max() < num
    assert mask.sum() == min(len(members), cap)
    assert set(indices[mask].tolist()) <= set(members.tolist())
    if len(members) <= cap:
      assert sorted(indices[mask].tolist()) == members.tolist()

  def test_is_a_function_of_key_and_step_alone(self):
    sampler, key = make(N, 0.3, 20), jax.random.key(7)
    eager = [sampler(key, step) for step in range(5)]
    sampler(jax.random.key(8), 3)  # no state: what was drawn before does not matter
    jitted = jax.jit(make(N, 0.3, 20))
    _, scanned = jax.lax.scan(lambda c, step: (c, sampler(key, step)), None, jnp.arange(5))
    for step in (4, 2, 0, 1, 3):
      for other in (sampler(key, step), jitted(key, jnp.int32(step)),
                    jax.tree.map(lambda x, step=step: x[step], scanned)):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, eager[step], other)
    batches = [*eager, sampler(jax.random.key(8), 0)]
    assert len({tuple(np.asarray(b.indices).tolist()) for b in batches}) == 6

  def test_q_one_takes_everybody_always(self):
    sampler = make(7, 1.0)
    assert sampler.sampling_probability == 1.0
    assert kept(sampler, 200).all()
    assert kept(make(7, 1.0, cap=3), 200).sum(1).tolist() == [3] * 200

  def test_a_single_example(self):
    """Binomial test of N = 1, q = 0.5. False alarm 1e-4; a rate of 0.55: power 99.9%."""
    held = kept(make(1, 0.5), STEPS)
    assert scipy.stats.binomtest(int(held.sum()), STEPS, 0.5).pvalue > ALARM
    assert kept(make(1, 1.0), 10).all()

  @pytest.mark.usefixtures('strict_dtypes')
  def test_strict_promotion(self):
    assert make(5, 0.5)(jax.random.key(0), jnp.int32(1)).mask.shape == (5,)


class TestProbability:
  @hypothesis.given(st.floats(2**-30, 1))
  def test_is_rounded_down_to_a_multiple_of_2_to_the_minus_30(self, probability):
    exact = sampling.exact_probability(probability)
    assert exact <= probability < exact + 2**-30
    assert (exact * 2**30).is_integer()
    assert sampling.exact_probability(exact) == exact
    assert make(3, probability)._threshold == exact * 2**30

  def test_the_draw_has_exactly_that_probability(self, monkeypatch):
    # Off by one is a matter of 2⁻³⁰ that no statistics can find, so the bits are chosen.
    sampler = make(4, 0.3)
    edge = int(sampler.sampling_probability * 2**30)
    bits = jnp.array([(edge - 1) << 2 | 3, edge << 2, 0, 2**32 - 1], jnp.uint32)
    monkeypatch.setattr(jax.random, 'bits', lambda *_: bits)
    assert sampler.inclusion_mask(jax.random.key(0), 0).tolist() == [True, False, True, False]
    batch = sampler(jax.random.key(0), 0)
    assert batch.indices.tolist() == [2, 0, 1, 3]
    assert batch.mask.tolist() == [True, True, False, False]
    assert make(4, 1.0).inclusion_mask(jax.random.key(0), 0).all()

  @pytest.mark.parametrize('num', [1, 60, 60_000, 10_000_000])
  @pytest.mark.parametrize('batch', [1, 32, 256])
  def test_default_cap(self, num, batch):
    """A binomial batch exceeds the cap with probability below 1e-5."""
    if batch > num:
      return
    cap = sampling.default_truncation(num, batch / num)
    assert 1 <= cap <= num + 1  # N + 1: nothing is cut, in the larger neighbour either
    assert scipy.stats.binom.sf(cap, num, batch / num) < 1e-5


@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (lambda: sampling.exact_probability(0.0), ('(0, 1]', '0.0')),
    (lambda: sampling.exact_probability(1.5), ('(0, 1]', '1.5')),
    (lambda: sampling.exact_probability(1e-10), ('2**-30', '1e-10')),
    (lambda: make(0, 0.5), ('num_examples', '[1, ', 'got 0')),
    (lambda: make(5, 0.5, 6), ('truncated_batch_size', '[1, 5]', 'got 6')),
    (lambda: make(5, 0.5, 0), ('truncated_batch_size', 'got 0')),
    (
      lambda: sampling.TruncatedPoissonSampler(
        num_examples=5, sampling_probability=0.1, truncated_batch_size=5
      ),
      ('multiple of 2**-30', 'exact_probability', '0.1'),
    ),
  ],
)
def test_refuses(call, words):
  with pytest.raises(InputError) as caught:
    call()
  for word in words:
    assert word in str(caught.value)
