"""What a run is going to do, from its settings and the public facts about its data; as a record."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _validate, budget, label_cnn, labelling, naming
from dpgan_jax.budget import Budget
from dpgan_jax.classifier import Classifier
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN
from dpgan_jax.mechanism import DPMechanism

NOISY = 3.0  # of `GAN.noise_in_d`
LONG = 0.1  # d_learning_rate of sgd without clipping, for D on wavelet features; 0.15 was too much

_LABELLING, _LABEL_CNN = 'labelling', 'label_cnn'
# Of images; the models here are for far smaller ones. The filters of a scattering transform take
# thousands of times the memory of an image: a gigabyte for 512 × 512 pixels.
LARGEST_SIDE, LARGEST_SCATTERED, MOST_CHANNELS = 1024, 256, 4


@dataclasses.dataclass(frozen=True)
class Plan:
  """The parts of a run.

  Attributes:
    gan: the GAN.
    classifier: names its samples (`labelling`); None where nothing does.
    cnn: has a say in it after the GAN is trained (`label_cnn`); None where there is none.
  """

  gan: GAN
  classifier: Classifier | None = None
  cnn: Classifier | None = None

  @property
  def budget(self) -> Budget:
    """All that the run may do with the private data."""
    return Budget(self.gan.mechanism, _stages(self.classifier, self.cnn))

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
    if self.cnn is not None:
      record[_LABEL_CNN] = labelling.to_record(self.cnn)
    return record


def _stages(*classifiers: Classifier | None) -> dict[str, DPMechanism]:
  return {name: m for c in classifiers if c is not None for name, m in c.stages.items()}


def check_image_shape(config: TrainConfig, shape: Sequence[Any]) -> tuple[int, int, int]:
  """Returns (H, W, C) if the models of `config` can be built for such images, in bounded memory.

  Raises:
    InputError: no such shape, or larger images.
  """
  if len(shape) != 3:
    raise _validate.InputError(f'expected image_shape to be (H, W, C), got {shape!r}')
  most = LARGEST_SIDE if config.discriminator != 'scattering' else LARGEST_SCATTERED
  for size, maximum in zip(shape, (most, most, MOST_CHANNELS), strict=True):
    _validate.integer('image_shape', size, minimum=1, maximum=maximum)
  return shape[0], shape[1], shape[2]


def make(
  config: TrainConfig, num_examples: int, image_shape: tuple[int, int, int], num_classes: int
) -> Plan:
  """The plan that the settings ask for; warns of one in which D is likely to learn nothing.

  Raises:
    InputError: settings that no mechanism satisfies, or that do not fit the data.
  """
  check_image_shape(config, image_shape)
  classifier = labelling.make_classifier(config, image_shape, num_classes, num_examples)
  cnn = label_cnn.make_classifier(config, image_shape, num_classes, num_examples)
  stages = budget.make(config, num_examples, _stages(classifier, cnn))
  gan = GAN(config, stages.mechanism, image_shape, num_classes)
  if gan.noise_in_d > NOISY:
    warnings.warn(
      f'between two generator steps D gets noise {gan.noise_in_d:.2g} times as long as its longest '
      f'gradient: above {NOISY:g} images are likely to get worse with training. Fewer steps, more '
      'd_steps_per_g_step, a larger batch or epsilon, or a smaller discriminator give less',
      stacklevel=2,
    )
  unclipped = math.isinf(stages.mechanism.l2_clip_norm)
  sgd = config.d_optimizer == 'sgd' and config.d_learning_rate >= LONG
  if unclipped and sgd and config.discriminator == 'scattering':
    warnings.warn(
      f'nothing is clipped, and at d_learning_rate={config.d_learning_rate:g} sgd then takes steps '
      'so long that this discriminator has been seen to die: use discriminator=report, as '
      'experiments/no_privacy.flags do, adam, or a smaller rate',
      stacklevel=2,
    )
  return Plan(gan, classifier, cnn)


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
    image_shape = check_image_shape(config, saved['data']['image_shape'])
    num_classes = _validate.integer(
      'num_classes', saved['data']['num_classes'], minimum=1, maximum=naming.MOST
    )
    at_once = saved.get('microbatch_size')  # None in runs of version 0.1
    if at_once is not None:
      _validate.integer('microbatch_size', at_once, minimum=1)
    gan = GAN(config, mechanism, image_shape, num_classes, at_once)
    shares = {_LABELLING: config.label_share, _LABEL_CNN: config.label_cnn_share}
    for name, share in shares.items():
      if (name in saved) != (share is not None):
        raise KeyError(name)
    about = (gan.image_shape, num_classes, config.seed)
    classifier = cnn = None
    if _LABELLING in saved:
      classifier = labelling.from_record(saved[_LABELLING], *about)
    if _LABEL_CNN in saved:
      cnn = labelling.from_record(saved[_LABEL_CNN], *about, label_cnn.STAGE)
  except _validate.InputError:
    raise
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _validate.InputError(f'{where} is not the record of a run: {error!r}') from None
  return Plan(gan, classifier, cnn)
