"""A release of moments of a table of which bounds and categories are found first, as a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.settings import MEANS, SCHEMA, SECONDS, Moments
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.releases.selection import SelectionMechanism

# Of δ, what goes to naming categories: so little that ε is hardly more for it, at a thousandth of δ
# too; the threshold is higher by a fifth than for a tenth of δ.
_NAMED = 2.0**-12


@dataclasses.dataclass(frozen=True)
class OpenMoments:
  """All mechanisms of the run, of a schema that is not known yet.

  Attributes:
    config: the settings.
    spec: what is public before anything is released.
    stages: the mechanisms `SCHEMA`, `MEANS` and `SECONDS`.

  Raises:
    InputError: other stages, or a schema of which nothing is open.
  """

  config: TrainConfig
  spec: Spec
  stages: Mapping[str, DPMechanism]

  def __post_init__(self) -> None:
    if set(self.stages) != {SCHEMA, MEANS, SECONDS}:
      raise _validate.InputError(f'expected the stages of a schema and moments, got {self.stages}')
    if self.spec.kind != 'table' or self.spec.schema is None or not settings.is_found(self.spec):
      raise _validate.InputError(
        f'expected schema_epsilon with a table of which a draft says what to find, got {self.spec}'
      )

  @property
  def mechanism(self) -> SelectionMechanism:
    """Of the stage that finds the schema."""
    mechanism = self.stages[SCHEMA]
    assert isinstance(mechanism, SelectionMechanism)
    return mechanism

  @property
  def budget(self) -> Budget:
    """All three."""
    return settings.budget_of(self.stages)

  def to_record(self) -> dict[str, Any]:
    """What `read` makes it of again, beside the description of the data; JSON-ready."""
    stages = {name: m.to_dict() for name, m in self.stages.items()}
    return {'config': self.config.to_dict(), 'stages': stages}

  def closed(self, schema: Schema) -> Moments:
    """The rest of the run, once the schema is found."""
    spec = Spec.of_schema(schema, num_records=self.spec.num_records, name=self.spec.name)
    detail = settings.detail_of(self.config, spec, self.stages)
    return Moments(self.config, spec, detail, self.stages)


def make(config: TrainConfig, spec: Spec) -> OpenMoments:
  """What the settings ask for: `schema_epsilon` for the schema, what is left for moments.

  Raises:
    InputError: an ε that no noise reaches, or data that describe themselves.
  """
  assert config.schema_epsilon is not None
  base = DPMechanism.for_epsilon(
    config.schema_epsilon, steps=1, num_examples=spec.num_records, batch_size=spec.num_records,
    l2_clip_norm=1.0, delta=config.delta * (1 - 2 * _NAMED),
    neighboring_relation=config.neighboring_relation,
  )  # fmt: skip
  schema = SelectionMechanism.from_dict(
    {**base.to_dict(), 'delta': config.delta, 'selection_delta': config.delta * _NAMED}
  )
  stages = settings.mechanisms(config, spec, {SCHEMA: schema})
  return OpenMoments(config, spec, stages)


def read(saved: Mapping[str, Any], spec: Spec) -> OpenMoments:
  """The inverse of `OpenMoments.to_record`; raises as `settings.read`."""
  config = TrainConfig.from_dict(saved['config'])
  return OpenMoments(config, spec, settings.read_stages(saved['stages']))
