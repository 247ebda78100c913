"""What a run may spend in all: the GAN's noisy steps, and stages beside them that count whole.

`run.plan` turns settings into it. `Budget` answers for the whole run what a `DPMechanism` answers
for one stage of it.

>>> mechanism = DPMechanism.create(
...   num_examples=1440, batch_size=128, noise_multiplier=2.0, steps=100, l2_clip_norm=1.0,
...   delta=1e-4
... )
>>> budget = Budget(mechanism)
>>> sorted(budget.stages), budget.epsilon() == budget.mechanism.epsilon()
(['dp_sgd'], True)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import dp_accounting

from dpgan_jax import _validate
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import DPMechanism

STAGE = 'dp_sgd'


@dataclasses.dataclass(frozen=True)
class Budget:
  """The stages of a run under one δ and one relation, and what they cost together.

  Attributes:
    mechanism: of the main stage's steps: the GAN's, or a classifier's.
    beside: other mechanisms by name, on the same records. Each counts whole from the start, whether
      its steps are taken before the GAN's or after them.
    stage: name of the main stage.

  Raises:
    InputError: stages of different δ, relation or N.
  """

  mechanism: DPMechanism
  beside: Mapping[str, DPMechanism] = dataclasses.field(default_factory=dict)
  stage: str = STAGE

  def __post_init__(self) -> None:
    check_stages(self.stages)

  @property
  def stages(self) -> dict[str, DPMechanism]:
    """Every stage by name, in the order in which JSON gives them back: what a ledger is for."""
    return dict(sorted({**self.beside, self.stage: self.mechanism}.items()))

  @property
  def is_private(self) -> bool:
    """Whether there is any guarantee at all: noise in every stage."""
    return all(m.is_private for m in self.stages.values())

  def event(self, steps: int | None = None) -> dp_accounting.DpEvent:
    """What `steps` steps of the main stage (default: all) do, and all the stages beside them."""
    own = self.mechanism.event(steps)
    if not self.beside:
      return own
    events = {name: m.event() for name, m in self.beside.items()}
    if steps != 0:
      events[self.stage] = own
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

  def epsilon_so_far(self, steps: Mapping[str, int]) -> float:
    """An upper bound on the ε of so many steps of each stage, in a tenth of the time.

    It never exceeds `epsilon()`, which fewer steps cannot spend, and is that at the end.

    Args:
      steps: by name of the stage; stages that are not named have not begun.
    """
    whole = self.epsilon()
    stages = self.stages
    if not self.is_private or all(steps.get(n, 0) == m.steps for n, m in stages.items()):
      return whole
    events = [m.event(steps[name]) for name, m in stages.items() if steps.get(name)]
    bound = accounting.quick_epsilon(
      events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(events),
      delta=self.mechanism.delta,
      neighboring_relation=self.mechanism.neighboring_relation,
    )
    return min(bound, whole)

  @classmethod
  def of_least_noise(
    cls,
    target_epsilon: float,
    mechanism: DPMechanism,
    beside: Mapping[str, DPMechanism],
    stage: str = STAGE,
  ) -> Budget:
    """The budget of least noise in the main stage that stays within `target_epsilon`.

    Args:
      target_epsilon: ε of all stages together.
      mechanism: of the main stage, with any noise multiplier.
      beside: the other stages.
      stage: name of the main one.

    Raises:
      InputError: the other stages leave nothing.
    """

    def with_noise(sigma: float) -> Budget:
      return cls(dataclasses.replace(mechanism, noise_multiplier=sigma), beside, stage)

    return with_noise(
      accounting.calibrate_noise_multiplier(
        lambda sigma: with_noise(sigma).event(),
        target_epsilon=target_epsilon,
        delta=mechanism.delta,
        neighboring_relation=mechanism.neighboring_relation,
      )
    )


def check_stages(stages: Mapping[str, DPMechanism]) -> None:
  """Refuses mechanisms that one ε cannot be stated of: δ, relation and N must be the same."""
  if not stages:
    raise _validate.InputError('expected at least one stage, got none')
  for field in ('delta', 'neighboring_relation', 'num_examples'):
    values = {name: getattr(m, field) for name, m in stages.items()}
    if len(set(values.values())) > 1:
      raise _validate.InputError(f'expected one {field} for all stages, got {values}')
