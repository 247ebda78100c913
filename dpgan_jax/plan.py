"""What a run is going to do, from its settings and the public facts about its data; as a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _validate, budget, labelling
from dpgan_jax.budget import Budget
from dpgan_jax.classifier import Classifier
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN
from dpgan_jax.mechanism import DPMechanism

_LABELLING = 'labelling'
LARGEST_SIDE = 4096  # of images in a record; the models here are for far smaller ones


@dataclasses.dataclass(frozen=True)
class Plan:
  """The parts of a run.

  Attributes:
    gan: the GAN.
    classifier: names its samples (`labelling`); None where nothing does.
  """

  gan: GAN
  classifier: Classifier | None = None

  @property
  def budget(self) -> Budget:
    """All that the run may do with the private data."""
    return Budget(self.gan.mechanism, {} if self.classifier is None else self.classifier.stages)

  def to_record(self) -> dict[str, Any]:
    """What `read` makes a plan of again, beside the facts about the data; JSON-ready."""
    record: dict[str, Any] = {
      'config': self.gan.config.to_dict(),
      'mechanism': self.gan.mechanism.to_dict(),
      # Chosen by the memory of this machine, and a resumed run must add in the same order.
      'microbatch_size': self.gan.examples_at_once,
    }
    if self.classifier is not None:
      record[_LABELLING] = labelling.to_record(self.classifier)
    return record


def make(
  config: TrainConfig, num_examples: int, image_shape: tuple[int, int, int], num_classes: int
) -> Plan:
  """The plan that the settings ask for.

  Raises:
    InputError: settings that no mechanism satisfies, or that do not fit the data.
  """
  classifier = labelling.make_classifier(config, image_shape, num_classes, num_examples)
  stages = budget.make(config, num_examples, None if classifier is None else classifier.stages)
  return Plan(GAN(config, stages.mechanism, image_shape, num_classes), classifier)


def read(saved: Mapping[str, Any], where: object) -> Plan:
  """The plan in a run's config.json.

  Args:
    saved: its content: what `Plan.to_record` gave, and 'data' with image_shape and num_classes.
    where: what to call it in messages.

  Raises:
    InputError: it is not the record of a run.
  """
  try:
    config = TrainConfig.from_dict(saved['config'])
    mechanism = DPMechanism.from_dict(saved['mechanism'])
    height, width, channels = (
      _validate.integer('image_shape', size, minimum=1, maximum=LARGEST_SIDE)
      for size in saved['data']['image_shape']
    )
    num_classes = _validate.integer('num_classes', saved['data']['num_classes'], minimum=1)
    at_once = saved.get('microbatch_size')  # None in runs of version 0.1
    if at_once is not None:
      _validate.integer('microbatch_size', at_once, minimum=1)
    gan = GAN(config, mechanism, (height, width, channels), num_classes, at_once)
    if (_LABELLING in saved) != (config.label_share is not None):
      raise KeyError(_LABELLING)
    classifier = None
    if _LABELLING in saved:
      record = saved[_LABELLING]
      classifier = labelling.from_record(record, gan.image_shape, num_classes, config.seed)
  except _validate.InputError:
    raise
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise _validate.InputError(f'{where} is not the record of a run: {error!r}') from None
  return Plan(gan, classifier)
