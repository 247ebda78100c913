"""What a run may spend in all: the GAN's noisy steps, and stages beside them that count whole.

`make` turns settings into it. `Budget` then answers for the whole run what a `DPMechanism` answers
for one stage of it.

>>> from dpgan_jax.config import TrainConfig
>>> budget = make(TrainConfig(noise_multiplier=2.0, steps=100, delta=1e-4), 1440)
>>> sorted(budget.stages), budget.epsilon() == budget.mechanism.epsilon()
(['dp_sgd'], True)
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import dp_accounting

from dpgan_jax import _validate, accounting
from dpgan_jax.config import TrainConfig
from dpgan_jax.ledger import check_stages
from dpgan_jax.mechanism import DPMechanism

STAGE = 'dp_sgd'


@dataclasses.dataclass(frozen=True)
class Budget:
  """The stages of a run under one δ and one relation, and what they cost together.

  Attributes:
    mechanism: of the GAN's steps, `STAGE`.
    beside: other mechanisms by name, on the same records. Each counts whole from the start, whether
      its steps are taken before the GAN's or after them.

  Raises:
    InputError: stages of different δ, relation or N.
  """

  mechanism: DPMechanism
  beside: Mapping[str, DPMechanism] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    check_stages(self.stages)

  @property
  def stages(self) -> dict[str, DPMechanism]:
    """Every stage by name, in the order in which JSON gives them back: what a ledger is for."""
    return dict(sorted({**self.beside, STAGE: self.mechanism}.items()))

  @property
  def is_private(self) -> bool:
    """Whether there is any guarantee at all: noise in every stage."""
    return all(m.is_private for m in self.stages.values())

  def event(self, steps: int | None = None) -> dp_accounting.DpEvent:
    """What `steps` steps of the GAN (default: all) do, and all the stages beside them."""
    own = self.mechanism.event(steps)
    if not self.beside:
      return own
    events = {name: m.event() for name, m in self.beside.items()}
    if steps != 0:
      events[STAGE] = own
    # In the order of a ledger's stages: the same rounding, and so the same ε.
    return dp_accounting.ComposedDpEvent([events[name] for name in sorted(events)])

  def epsilon(self, steps: int | None = None, delta: float | None = None) -> float:
    """ε of `event(steps)` at `delta` (default: the mechanisms' δ); `inf` without a guarantee."""
    if not self.is_private:
      return math.inf
    return accounting.epsilon(
      self.event(steps),
      delta=self.mechanism.delta if delta is None else delta,
      neighboring_relation=self.mechanism.neighboring_relation,
    )

  def epsilon_so_far(self, steps: int) -> float:
    """An upper bound on `epsilon(steps)` for progress, in a tenth of the time; exact at the end.

    It never exceeds `epsilon()`, which fewer steps cannot spend.
    """
    whole = self.epsilon()
    if steps == self.mechanism.steps or not self.is_private:
      return whole
    bound = accounting.quick_epsilon(
      self.event(steps),
      delta=self.mechanism.delta,
      neighboring_relation=self.mechanism.neighboring_relation,
    )
    return min(bound, whole)


def make(
  config: TrainConfig, num_examples: int, beside: Mapping[str, DPMechanism] | None = None
) -> Budget:
  """The budget that the settings ask for: two of ε, σ and T give the third.

  Args:
    config: the settings.
    num_examples: N.
    beside: other stages, if any; the GAN gets what they leave of `target_epsilon`.

  Raises:
    InputError: a combination that no mechanism satisfies. Warns if δ ≥ 1/N.
  """
  beside = beside or {}
  if config.label_share is not None and not beside:
    raise _validate.InputError(
      'expected no label_share here: a GAN is looked at without what names its samples'
    )
  if config.delta >= 1 / num_examples:
    warnings.warn(
      f'delta={config.delta:g} is not below 1/N = {1 / num_examples:.3g}: a mechanism that '
      'publishes one record at random would satisfy it; choose a smaller delta',
      stacklevel=2,
    )
  settings: dict[str, Any] = {
    'num_examples': num_examples,
    'batch_size': config.batch_size,
    'truncated_batch_size': config.truncated_batch_size,
    'l2_clip_norm': config.l2_clip_norm,
    'delta': config.delta,
    'neighboring_relation': config.neighboring_relation,
  }
  steps = config.steps
  if config.epochs is not None:
    # No more than a mechanism refuses: infinity has no whole number.
    steps = max(1, round(min(config.epochs * num_examples / config.batch_size, 2**31)))
  # TrainConfig has checked that two of the three are given, and with other stages which.
  if beside and steps is not None and config.target_epsilon not in (None, math.inf):
    return _what_is_left(config.target_epsilon, beside, {**settings, 'steps': steps})
  if steps is None:
    assert config.target_epsilon is not None
    assert config.noise_multiplier is not None
    mechanism = DPMechanism.for_epsilon_and_noise(
      config.target_epsilon, noise_multiplier=config.noise_multiplier, **settings
    )
  elif config.noise_multiplier is not None:
    mechanism = DPMechanism.create(
      noise_multiplier=config.noise_multiplier, steps=steps, **settings
    )
  else:
    assert config.target_epsilon is not None
    mechanism = DPMechanism.for_epsilon(config.target_epsilon, steps=steps, **settings)
  return Budget(mechanism, beside)


def _what_is_left(
  target_epsilon: float, beside: Mapping[str, DPMechanism], settings: Mapping[str, Any]
) -> Budget:
  """The budget of least noise that stays within `target_epsilon` with the stages beside."""
  base = DPMechanism.create(noise_multiplier=1.0, **settings)

  def with_noise(sigma: float) -> Budget:
    return Budget(dataclasses.replace(base, noise_multiplier=sigma), beside)

  return with_noise(
    accounting.calibrate_noise_multiplier(
      lambda sigma: with_noise(sigma).event(),
      target_epsilon=target_epsilon,
      delta=base.delta,
      neighboring_relation=base.neighboring_relation,
    )
  )
