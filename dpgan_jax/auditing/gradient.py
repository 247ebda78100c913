"""The gradient audit: many cheap runs of a mechanism's own parts, where they leak the most.

One record, the canary, has a gradient beyond the clip norm in a direction of its own; all others'
are zero. A run takes a few steps with the real sampler, the real clipping and the real noise, with
the canary in the data set or not, and the adversary sees every noisy gradient. Nobody can do better
than compare likelihoods, so that for a correct mechanism the bound comes close to the accounted ε;
it exceeds it when a part does less than was accounted for.

`gradient_bound` is also what a table of planted faults calls: give it the mechanism that is claimed
and, in `parts`, what is done instead.

>>> from dpgan_jax.privacy.mechanism import DPMechanism
>>> mechanism = DPMechanism.create(num_examples=10, batch_size=10, l2_clip_norm=1.0,
...                                noise_multiplier=2.0, steps=1, delta=1e-2)
>>> audit = gradient_bound(mechanism, trials=2000, key=jax.random.key(0))
>>> 0 < audit.lower_bound < audit.accounted_epsilon, audit.refuted
(True, False)

Source: Nasr et al. 2021 (arXiv 2101.04535), section 4.5; Nasr et al. 2023 (arXiv 2302.07956),
sections 3 and 4 for bounds within a family of mechanisms.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _keys, _validate
from dpgan_jax.auditing import bounds
from dpgan_jax.auditing.bounds import Errors, PrivacyCurve, Threshold
from dpgan_jax.privacy import sampling
from dpgan_jax.privacy.mechanism import DPMechanism

PyTree = Any

# The canary's direction has unequal shares in two leaves: clipping each leaf for itself would let
# more than C through, and noise that two leaves share would cancel in a difference that shows it.
_SHARES = (0.8, 0.6)
_TIMES_CLIP_NORM = 10.0  # of the canary's raw gradient: a skipped clip lets it through
_CHUNK_BYTES = 64 * 2**20
LEAST_TRIALS, LEAST_DIMENSION = 400, 4

STATISTICS = ('likelihood', 'scale', 'minus_scale', 'spread', 'contrast')
"""What the adversary may look at. `likelihood` is optimal against a correct mechanism; the others
are blind there and see, in turn: noise whose scale depends on the data (twice), noise that repeats
from step to step, noise that two leaves share."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """What is run: a mechanism's parts, or, to plant a fault, something else in the place of one.

  Attributes:
    sampler: (key, step) → `PoissonBatch` of indices into the data set; record 0 is the canary.
    clip: (per-example gradients [n, ...] in each leaf, mask bool[n]) → their clipped sum.
    noise: key → an optax transform of the clipped sum. Its `update` is also given `mask`, which a
      correct one ignores.
  """

  sampler: Callable[[jax.Array, jax.Array], sampling.PoissonBatch]
  clip: Callable[[PyTree, jax.Array], PyTree]
  noise: Callable[[jax.Array], optax.GradientTransformationExtraArgs]

  @classmethod
  def of(cls, mechanism: DPMechanism) -> Parts:
    """The parts that training with `mechanism` uses."""

    def linear(params: PyTree, gradient: PyTree) -> jax.Array:
      products = jax.tree.map(jnp.vdot, params, gradient)
      return jax.tree.reduce(jnp.add, products)

    def clip(gradients: PyTree, mask: jax.Array) -> PyTree:
      params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), gradients)
      return mechanism.clipped_grad(linear)(params, gradients, mask=mask).sum

    return cls(sampler=mechanism.sampler, clip=clip, noise=mechanism.noise_sum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientAudit:
  """What came of an audit.

  Attributes:
    accounted_epsilon: what the accountant says of `steps` steps at `delta`.
    delta: δ.
    lower_bound: ε of the runs is at least this, whatever the mechanism is, with `confidence`.
    family_bound: the same if the mechanism is what it claims to be but for its noise multiplier:
      the ε of the largest one that the runs do not refute, with `confidence`. It is closer because
      errors that are common enough to count say what the rare ones must be.
    refuted: the runs contradict the accountant at some δ, with `confidence`.
    confidence: of each of these three statements.
    trials: runs altogether, half of them with the canary; half of each chose the tests, the other
      half counts.
    steps: steps of each run.
    statistic, family_statistic: what the tests of `lower_bound` and of the other two looked at.
    errors, family_errors: what those tests got wrong on fresh runs.
  """

  accounted_epsilon: float
  delta: float
  lower_bound: float
  family_bound: float
  refuted: bool
  confidence: float
  trials: int
  steps: int
  statistic: str
  errors: Errors
  family_statistic: str
  family_errors: Errors


def gradient_bound(
  mechanism: DPMechanism,
  *,
  trials: int = 200_000,
  steps: int | None = None,
  key: jax.Array,
  parts: Parts | None = None,
  confidence: float = 0.95,
  dimension: int = 32,
  progress: Callable[[float], None] | None = None,
) -> GradientAudit:
  """Lower bounds on the ε of what `parts` do, beside the ε accounted for `mechanism`.

  Args:
    mechanism: what is claimed: N, B, cap, C, σ, δ and the neighbouring relation are taken from it.
      Runs with a small N (tens) are as telling as with a large one, and far cheaper.
    trials: runs altogether, at least 400.
    steps: steps of each run; default: all T of the mechanism.
    key: a typed key; the audit is a function of it.
    parts: what is run; default: the mechanism's own parts, which is the audit of this package.
      A planted fault replaces one: `dataclasses.replace(Parts.of(mechanism), noise=...)`, or
      `Parts.of(dataclasses.replace(mechanism, noise_multiplier=...))`.
    confidence: of each statement.
    dimension: entries of the gradient, an even number ≥ 4.
    progress: is told the share of runs that is done.

  Guarantee: if `parts` are (ε, δ)-DP, `lower_bound` exceeds ε with probability at most
  1 − `confidence`. Test and threshold are chosen on one half of the runs and used on the other.

  Raises:
    InputError: arguments out of range, a mechanism without noise.

  The neighbours: with 'add_or_remove_one' the canary is in the data set or absent, with
  'replace_special' its gradient is zero instead, with 'replace_one' the opposite one.
  """
  _keys.require('key', key)
  check(mechanism, trials, confidence)
  if _validate.integer('dimension', dimension, minimum=LEAST_DIMENSION) % 2:
    raise _validate.InputError(f'expected dimension to be even, got {dimension}')
  count = mechanism.steps if steps is None else _validate.integer('steps', steps, minimum=1)
  run = _make_run(mechanism, parts or Parts.of(mechanism), count, dimension)
  each = trials // 2
  cap = mechanism.sampler.truncated_batch_size
  size = int(np.clip(_CHUNK_BYTES // (4 * cap * dimension + 4 * mechanism.num_examples), 1, 2000))
  scores = {}
  for world, present in enumerate((False, True)):
    collected = []
    for start, keys in _key_chunks(jax.random.fold_in(key, world), each, size):
      collected.append(np.asarray(run(keys, present)))
      if progress is not None:
        progress((world + min((start + size) / each, 1.0)) / 2)
    scores[present] = np.concatenate(collected)[:each]
  return judge(mechanism, count, scores[True], scores[False], confidence, STATISTICS)


def check(mechanism: DPMechanism, trials: int, confidence: float) -> None:
  """Refuses what no audit of many runs can be made of.

  Raises:
    InputError: a mechanism without noise, too few trials, a confidence out of range.
  """
  _validate.integer('trials', trials, minimum=LEAST_TRIALS)
  _validate.fraction('confidence', confidence)
  if not mechanism.is_private:
    raise _validate.InputError(
      'expected a mechanism with noise_multiplier > 0 to audit, got 0: its epsilon is infinite'
    )


def _key_chunks(key: jax.Array, total: int, size: int) -> Iterator[tuple[int, jax.Array]]:
  """Keys of `total` runs, rounded up to whole chunks: one shape, compiled once."""
  size = min(size, total)
  for number, start in enumerate(range(0, total, size)):
    yield start, jax.random.split(jax.random.fold_in(key, number), size)


# --- the runs ------------------------------------------------------------------------------------


def _make_run(
  mechanism: DPMechanism, parts: Parts, steps: int, dimension: int
) -> Callable[[jax.Array, bool], jax.Array]:
  """Compiles (keys [n], canary present or not) → statistics float32[n, len(STATISTICS)]."""
  clip_norm, relation = mechanism.l2_clip_norm, mechanism.neighboring_relation
  half = dimension // 2
  canary = {
    name: jnp.zeros(half).at[0].set(share * _TIMES_CLIP_NORM * clip_norm)
    for name, share in zip('ab', _SHARES, strict=True)
  }
  params = jax.tree.map(jnp.zeros_like, canary)

  def one(key: jax.Array, present: jax.Array) -> jax.Array:
    batch_key, noise_key = jax.random.split(key)
    noise = parts.noise(noise_key)
    absent = -1.0 if relation == 'replace_one' else 0.0
    sign = jnp.where(present, 1.0, absent)

    def step(state: Any, number: jax.Array) -> tuple[Any, jax.Array]:
      batch = parts.sampler(batch_key, number)
      is_canary = batch.indices == 0
      gradients = jax.tree.map(lambda g: sign * is_canary[:, None] * g[None], canary)
      mask = batch.mask
      if relation == 'add_or_remove_one':
        # A removed record is one that never joins. (In a batch that is cut it still takes a place,
        # which can only hide the canary: it pushes nobody out in one world and not in the other.)
        mask = mask & (present | ~is_canary)
      total = parts.clip(gradients, mask)
      update: Any
      update, state = noise.update(total, state, params, mask=mask)
      a, b = (update[name] * (mechanism.batch_size / clip_norm) for name in 'ab')
      off = (jnp.sum(a[1:] ** 2) + jnp.sum(b[1:] ** 2)) / (dimension - 2)
      return state, jnp.stack([_SHARES[0] * a[0] + _SHARES[1] * b[0], a[0] - b[0], off])

    _, seen = jax.lax.scan(step, noise.init(params), jnp.arange(steps, dtype=jnp.int32))
    along, between, off = seen.T
    scale = jnp.mean(off)
    spread = jnp.std(along)
    likelihood = jnp.sum(_log_likelihood_ratio(along, mechanism))
    return jnp.stack([likelihood, scale, -scale, spread, jnp.sum(between)])

  return jax.jit(jax.vmap(one, in_axes=(0, None)))


def _log_likelihood_ratio(x: jax.Array, mechanism: DPMechanism) -> jax.Array:
  """log p(x | canary in) − log p(x | out) of one step's projection, in units of C.

  A batch holds the canary with probability q: (1 − q)·N(0, σ²) + q·N(±1, σ²). The cut at the cap,
  which makes q a trifle smaller, is left out: it matters to the choice of a test, not to a bound.
  """
  q, variance = mechanism.sampling_probability, mechanism.noise_multiplier**2
  log_out = math.log1p(-q) if q < 1 else -math.inf

  def mixture(mean: float) -> jax.Array:
    return jnp.logaddexp(log_out, math.log(q) + (2 * mean * x - 1) / (2 * variance))

  if mechanism.neighboring_relation == 'replace_one':
    return mixture(1.0) - mixture(-1.0)
  return mixture(1.0)


# --- the judgement -------------------------------------------------------------------------------


def judge(
  mechanism: DPMechanism,
  steps: int,
  scores_in: np.ndarray,
  scores_out: np.ndarray,
  confidence: float,
  statistics: Sequence[str],
) -> GradientAudit:
  """Chooses tests on the first half of the runs, counts their errors on the second.

  Args:
    mechanism: what is claimed of `steps` steps.
    steps: of each run.
    scores_in, scores_out: float [n, len(statistics)], with the canary and without.
    confidence: of each statement.
    statistics: what the scores are called.
  """
  half = len(scores_in) // 2
  tests, rates = [], []
  for column in range(len(statistics)):
    a, b = scores_in[:half, column], scores_out[:half, column]
    thresholds = bounds.candidate_thresholds(a, b)
    tests += [(column, Threshold(float(value))) for value in thresholds]
    # Wider limits than asked for: the best of a thousand thresholds is often one that was lucky,
    # and luck is largest where errors are rare.
    cautious = 1 - (1 - confidence) / 100
    rates.append(np.stack(bounds.rates_at(thresholds, a, b, cautious)))
  fpr, fnr = np.concatenate(rates, axis=1)

  def fresh(index: int) -> tuple[str, Errors]:
    column, test = tests[index]
    return statistics[int(column)], test.errors(scores_in[half:, column], scores_out[half:, column])

  at_delta = int(np.argmax(bounds.epsilon_of_rates(fpr, fnr, mechanism.delta)))
  statistic, errors = fresh(at_delta)
  # The choice may be rough; what is said may not.
  rough, in_family = _least_refuted_noise(mechanism, steps, fpr, fnr, tolerance=1.02, grid=5e-3)
  family_statistic, family_errors = fresh(in_family)
  found = family_errors.rates(confidence)
  sigma, _ = _least_refuted_noise(mechanism, steps, *map(np.atleast_1d, found), start=rough)
  return GradientAudit(
    accounted_epsilon=mechanism.epsilon(steps),
    delta=mechanism.delta,
    lower_bound=errors.epsilon(delta=mechanism.delta, confidence=confidence),
    family_bound=_with_noise(mechanism, sigma).epsilon(steps) if sigma < math.inf else 0.0,
    refuted=bool(_curve(mechanism, steps, 1e-3).margin(*found) > 0),
    confidence=confidence,
    trials=len(scores_in) + len(scores_out),
    steps=steps,
    statistic=statistic,
    errors=errors,
    family_statistic=family_statistic,
    family_errors=family_errors,
  )


def _with_noise(mechanism: DPMechanism, sigma: float) -> DPMechanism:
  return dataclasses.replace(mechanism, noise_multiplier=sigma)


@functools.lru_cache(maxsize=64)
def _curve(mechanism: DPMechanism, steps: int, grid: float) -> PrivacyCurve:
  return PrivacyCurve.of(mechanism.event(steps), mechanism.neighboring_relation, grid=grid)


def _least_refuted_noise(
  mechanism: DPMechanism,
  steps: int,
  fpr: np.ndarray,
  fnr: np.ndarray,
  *,
  start: float = math.inf,
  tolerance: float = 1.002,
  grid: float = 1e-3,
) -> tuple[float, int]:
  """The least σ for which some test of these error rates [n] cannot exist, and which test that is.

  With that noise, or more, no test errs so rarely: the real noise must be less. `inf` (and test 0)
  if not even a thousand times the claimed σ is refuted. No less than a quarter of it is tried: by
  then there is nothing left to prove, and ε of tiny σ are slow to compute.

  Args:
    mechanism: what is claimed; all but its noise is believed.
    steps: of each run.
    fpr, fnr: upper limits of the error rates of n tests.
    start: a guess at the answer, if there is one.
    tolerance: the answer is at most this factor too large.
    grid: of the accountant.
  """
  claimed = mechanism.noise_multiplier
  factor = 1.5 if math.isinf(start) else 1.1

  def margins(sigma: float) -> np.ndarray:
    return _curve(_with_noise(mechanism, sigma), steps, grid).margin(fpr, fnr)

  low = high = claimed if math.isinf(start) else start
  if margins(high).max() > 0:
    while low > claimed / 4:
      low /= factor
      if margins(low).max() <= 0:
        break
      high = low
  else:
    while margins(high).max() <= 0:
      low, high, factor = high, high * factor, min(factor**2, 1.5)
      if high > 1000 * claimed:
        return math.inf, 0
  while low < high and high / low > tolerance:
    middle = math.sqrt(low * high)
    low, high = (low, middle) if margins(middle).max() > 0 else (middle, high)
  return high, int(np.argmax(margins(high)))
