"""One frozen object from which sampler, clipping, noise and accountant are all derived.

`DPMechanism` holds every number the guarantee depends on, once. Its parts cannot disagree, because
none of them is told these numbers by anybody else:

    sampler  ← N, q, cap          `mechanism.sampler`
    clipping ← C                  `mechanism.clipped_grad(loss)`
    noise    ← σ, C, B            `mechanism.clip_and_noise(key)`, `mechanism.noise_sum(key)`
    ε        ← σ, q, cap, N, T, δ  `mechanism.event(steps)`, `mechanism.epsilon(steps)`

>>> mechanism = DPMechanism.create(
...     num_examples=60_000, batch_size=256, l2_clip_norm=1.0, noise_multiplier=1.0, steps=2_000,
...     delta=1e-5)
>>> round(mechanism.epsilon(), 2), round(mechanism.epsilon(steps=100), 2)
(1.02, 0.29)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import dp_accounting
import jax
import optax

from dpgan_jax import _keys, _records, _validate
from dpgan_jax.privacy import accounting, clipping, sampling, transforms


class BudgetError(_validate.InputError):
  """A step was asked for that the privacy budget does not cover."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMechanism:
  """T steps of DP-SGD: truncated Poisson batches, per-example clipping, Gaussian noise on the sum.

  Build it with `create` (σ and T given), `for_epsilon` (ε and T given) or `for_epsilon_and_noise`
  (ε and σ given).

  Attributes:
    num_examples: N. Public: it enters q, and the accounting of the cut.
    batch_size: B, the expected number of examples per step and the public divisor of the noisy sum.
    sampling_probability: q = B/N, rounded down to a multiple of 2⁻³⁰ (what the sampler really
      does).
    truncated_batch_size: the cap on a batch, its static shape.
    l2_clip_norm: C, the bound on one example's gradient. `inf` only without noise.
    noise_multiplier: σ relative to C. 0 means no privacy, and ε = ∞.
    steps: T, the number of noisy steps the budget covers. The ledger refuses step T + 1.
    delta: δ at which ε is stated.
    neighboring_relation: 'add_or_remove_one' (default), 'replace_one' or 'replace_special'.

  Guarantee: the sequence of all noisy gradients of `steps` steps, and everything computed from it
  and from public data alone, is (ε, δ)-DP with ε = `epsilon()`, for data sets of `num_examples`
  records and their neighbours under `neighboring_relation`. Rounding of the float32 sum is part of
  it (`ghost.sums`). What it does not cover: PRNG imperfections, and anything else computed from the
  data (losses, scores, tuning).

  About the cut: when more than `truncated_batch_size` examples join, one example's presence can
  push another one out, so that branch has sensitivity 2C; `TruncatedSubsampledGaussianDpEvent`
  charges it (arXiv 2508.15089). The argument holds for 'add_or_remove_one' as well: given that at
  least cap other examples joined, the batch with the example is a random cap-subset of the others
  in which the example has replaced at most one, and whether cap others joined does not depend on
  the example. Under 'add_or_remove_one' the event's data set is the larger neighbour, N + 1.

  Keys: sampler and noise may be given one key, and so may several mechanisms: each part draws from
  a stream of its own, which belongs to its purpose and to all fields above. The same mechanism with
  the same key draws the same again, for whatever data: a key serves one data set.

  Schedules: σ and C are the same in all T steps. To change them, use one mechanism for each value,
  each for its own steps, and account for
  `dp_accounting.ComposedDpEvent([m.event() for m in mechanisms])` (`accounting.epsilon`).
  """

  num_examples: int
  batch_size: int
  sampling_probability: float
  truncated_batch_size: int
  l2_clip_norm: float
  noise_multiplier: float
  steps: int
  delta: float
  neighboring_relation: str = 'add_or_remove_one'

  def __post_init__(self) -> None:
    _validate.integer('num_examples', self.num_examples, minimum=1, maximum=2**31 - 1)
    _validate.integer('batch_size', self.batch_size, minimum=1)
    if self.batch_size > self.num_examples:
      raise _validate.InputError(
        f'expected batch_size <= {self.num_examples}, the number of examples, got {self.batch_size}'
      )
    if self.sampling_probability != _probability(self.num_examples, self.batch_size):
      raise _validate.InputError(
        f'expected sampling_probability = batch_size/num_examples = '
        f'{_probability(self.num_examples, self.batch_size)!r}, got {self.sampling_probability!r}'
      )
    # One more than N is allowed: at q = 1 the larger neighbour, N + 1, must not be cut either.
    _validate.integer(
      'truncated_batch_size', self.truncated_batch_size, minimum=1, maximum=self.num_examples + 1
    )
    transforms.require_constant('l2_clip_norm', self.l2_clip_norm)
    transforms.require_constant('noise_multiplier', self.noise_multiplier)
    _validate.positive('l2_clip_norm', self.l2_clip_norm, allow_inf=True)
    _validate.non_negative('noise_multiplier', self.noise_multiplier)
    if self.noise_multiplier > 0 and math.isinf(self.l2_clip_norm):
      raise _validate.InputError(
        'expected a finite l2_clip_norm with noise_multiplier > 0, got inf: no finite noise '
        'covers it'
      )
    _validate.integer('steps', self.steps, minimum=1, maximum=2**31 - 1)  # numbers are int32
    _validate.fraction('delta', self.delta)
    _validate.one_of('neighboring_relation', self.neighboring_relation, accounting.RELATIONS)

  @classmethod
  def create(
    cls,
    *,
    num_examples: int,
    batch_size: int,
    l2_clip_norm: float,
    noise_multiplier: float,
    steps: int,
    delta: float,
    truncated_batch_size: int | None = None,
    neighboring_relation: str = 'add_or_remove_one',
  ) -> DPMechanism:
    """A mechanism from σ and T; q and, unless given, the cap follow from N and B."""
    _validate.integer('num_examples', num_examples, minimum=1)
    _validate.integer('batch_size', batch_size, minimum=1)
    if batch_size > num_examples:
      raise _validate.InputError(
        f'expected batch_size <= {num_examples}, the number of examples, got {batch_size}'
      )
    probability = _probability(num_examples, batch_size)
    if truncated_batch_size is None:
      truncated_batch_size = sampling.default_truncation(num_examples, probability)
    return cls(
      num_examples=num_examples,
      batch_size=batch_size,
      sampling_probability=probability,
      truncated_batch_size=truncated_batch_size,
      l2_clip_norm=l2_clip_norm,
      noise_multiplier=noise_multiplier,
      steps=steps,
      delta=delta,
      neighboring_relation=neighboring_relation,
    )

  @classmethod
  def for_epsilon(cls, target_epsilon: float, *, steps: int, **others: Any) -> DPMechanism:
    """The mechanism of least noise whose T steps stay within `target_epsilon`.

    Args:
      target_epsilon: ε > 0; `inf` gives σ = 0 and C = ∞, ordinary training through the same code.
      steps: T.
      **others: the remaining arguments of `create`.

    Raises:
      InputError: the target is out of reach.
    """
    if target_epsilon == math.inf:
      return cls.create(**{**others, 'l2_clip_norm': math.inf}, noise_multiplier=0.0, steps=steps)
    base = cls.create(**others, noise_multiplier=1.0, steps=steps)
    sigma = accounting.calibrate_noise_multiplier(
      lambda s: dataclasses.replace(base, noise_multiplier=s).event(),
      target_epsilon=_validate.positive('target_epsilon', target_epsilon),
      delta=base.delta,
      neighboring_relation=base.neighboring_relation,
    )
    return dataclasses.replace(base, noise_multiplier=sigma)

  @classmethod
  def for_epsilon_and_noise(
    cls, target_epsilon: float, *, noise_multiplier: float, **others: Any
  ) -> DPMechanism:
    """The mechanism with the most steps of noise σ that stay within `target_epsilon`."""
    _validate.positive('noise_multiplier', noise_multiplier)
    base = cls.create(**others, noise_multiplier=noise_multiplier, steps=1)
    steps = accounting.calibrate_steps(
      base.event,
      target_epsilon=_validate.positive('target_epsilon', target_epsilon),
      delta=base.delta,
      neighboring_relation=base.neighboring_relation,
    )
    return dataclasses.replace(base, steps=steps)

  # --- the parts -------------------------------------------------------------------------------

  @property
  def sampler(self) -> sampling.TruncatedPoissonSampler:
    """Draws this mechanism's batches from (key, step)."""
    return sampling.TruncatedPoissonSampler(
      num_examples=self.num_examples,
      sampling_probability=self.sampling_probability,
      truncated_batch_size=min(self.truncated_batch_size, self.num_examples),
      stream=self._stream,
    )

  @property
  def _stream(self) -> int:
    """What sets this mechanism's draws apart from those of another with the same key."""
    fields = dataclasses.fields(DPMechanism)
    return _keys.number('mechanism', *(getattr(self, field.name) for field in fields))

  def clipped_grad(
    self,
    loss_fn: Callable[..., jax.Array],
    *,
    strategy: clipping.Strategy = 'auto',
    microbatch_size: int | None = None,
    axis_name: str | None = None,
  ) -> Callable[..., clipping.ClippedGrad]:
    """`clipping.clipped_grad` at this mechanism's clip norm."""
    return clipping.clipped_grad(
      loss_fn,
      l2_clip_norm=self.l2_clip_norm,
      strategy=strategy,
      microbatch_size=microbatch_size,
      axis_name=axis_name,
      count_rounding=self.is_private,
    )

  def clip_and_noise(self, key: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """`transforms.clip_and_noise` of this mechanism: from per-example gradients."""
    return transforms.clip_and_noise(
      self.l2_clip_norm, self.noise_multiplier, self.batch_size, key, self._stream
    )

  def noise_sum(self, key: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """`transforms.noise_sum` of this mechanism: from the sum that `clipped_grad` returns."""
    return transforms.noise_sum(
      self.l2_clip_norm, self.noise_multiplier, self.batch_size, key, self._stream
    )

  # --- accounting ------------------------------------------------------------------------------

  def event(self, steps: int | None = None) -> dp_accounting.DpEvent:
    """What `steps` steps (default: all T) do, for dp-accounting."""
    count = self.steps if steps is None else _validate.integer('steps', steps, minimum=0)
    if count == 0:
      return dp_accounting.NoOpDpEvent()
    if self.noise_multiplier == 0:
      return dp_accounting.NonPrivateDpEvent()
    larger_neighbour = self.num_examples + (self.neighboring_relation == 'add_or_remove_one')
    step = dp_accounting.TruncatedSubsampledGaussianDpEvent(
      dataset_size=larger_neighbour,
      sampling_probability=self.sampling_probability,
      truncated_batch_size=self.truncated_batch_size,
      noise_multiplier=self.noise_multiplier,
    )
    return dp_accounting.SelfComposedDpEvent(step, count)

  def epsilon(self, steps: int | None = None, delta: float | None = None) -> float:
    """ε spent by `steps` steps (default: all T) at `delta` (default: this mechanism's δ)."""
    return accounting.epsilon(
      self.event(steps),
      delta=self.delta if delta is None else delta,
      neighboring_relation=self.neighboring_relation,
    )

  @property
  def is_private(self) -> bool:
    """Whether there is any guarantee at all (σ > 0)."""
    return self.noise_multiplier > 0

  # --- records ---------------------------------------------------------------------------------

  def to_dict(self) -> dict[str, Any]:
    """Every field, JSON-ready (`inf` as the string 'inf')."""
    return _records.to_dict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> DPMechanism:
    """The inverse of `to_dict`."""
    return _records.from_dict(cls, fields, 'mechanism fields')


def _probability(num_examples: int, batch_size: int) -> float:
  return sampling.exact_probability(batch_size / num_examples)
