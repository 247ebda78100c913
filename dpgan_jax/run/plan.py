"""What a run is going to do, from its settings and the public facts about its data; as a record."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dpgan_jax import _keys, _plugins, _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import labelling
from dpgan_jax.models.classifier import STAGE, Classifier
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.domains import plan as domains
from dpgan_jax.models.domains.plan import OpenMoments
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gans import refining
from dpgan_jax.models.moments import settings, verdict
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.networks import discriminators
from dpgan_jax.privacy import independence
from dpgan_jax.privacy.mechanism import DPMechanism

NOISY = 3.0  # of `GAN.noise_in_d`
LONG = 0.1  # d_learning_rate of sgd without clipping, for D on wavelet features; 0.15 was too much

_BEFORE, _AFTER, _MOMENTS = 'labelling', 'label_cnn', 'moments'  # in a record


@dataclasses.dataclass(frozen=True)
class GANPlan:
  """The parts of a run of a GAN, in the order in which they are trained.

  Attributes:
    before: what labels samples, trained before the GAN.
    gan: the GAN.
    after: what labels samples too, trained after the GAN.
    moments: what the generator refines draws of, released before the GAN.
  """

  gan: GAN
  before: tuple[Classifier, ...] = ()
  after: tuple[Classifier, ...] = ()
  moments: Moments | None = None

  @property
  def config(self) -> TrainConfig:
    """The settings."""
    return self.gan.config

  @property
  def spec(self) -> Spec:
    """What is public of the data."""
    return self.gan.spec

  @property
  def budget(self) -> Budget:
    """All that the run may do with the private data."""
    labelled = labelling.stages(*self.before, *self.after)
    return Budget(self.gan.mechanism, {**refining.stages(self.config, self.moments), **labelled})

  def to_record(self) -> dict[str, Any]:
    """What `read` makes a plan of again, beside the description of the data; JSON-ready."""
    record: dict[str, Any] = {
      'config': self.gan.config.to_dict(),
      'mechanism': self.gan.mechanism.to_dict(),
      # Chosen by the memory of this machine, and a resumed run must add in the same order.
      'microbatch_size': self.gan.examples_at_once,
    }
    for name, classifiers in ((_BEFORE, self.before), (_AFTER, self.after)):
      for classifier in classifiers:  # at most one today
        record[name] = labelling.to_record(classifier)
    return record if self.moments is None else {**record, _MOMENTS: self.moments.to_record()}


Plan = GANPlan | Moments | OpenMoments


def make(config: TrainConfig, spec: Spec) -> Plan:
  """The plan that the settings ask for; warns of one that is likely to learn nothing.

  Raises:
    InputError: settings that no mechanism satisfies, or that do not fit the data.
  """
  if config.delta >= 1 / spec.num_records:
    warnings.warn(
      f'delta={config.delta:g} is not below 1/N = {1 / spec.num_records:.3g}: a mechanism that '
      'publishes one record at random would satisfy it; choose a smaller delta',
      stacklevel=2,
    )
  if config.method != 'moments':
    if spec.kind != 'image':
      raise _validate.InputError(
        f'expected method=moments with a {spec.kind}, got {config.method}: GANs here are of images'
      )
    if config.wants_recipe:
      raise _validate.InputError(
        'expected steps (or epochs) beside target_epsilon: only dpgan_jax.train, dpgan_jax.sweep '
        'and DPGAN.fit choose them'
      )
    return _make_gan(config, spec)
  if config.schema_epsilon is not None:
    return domains.make(config, spec)
  moments = settings.make(config, spec)
  if (level := verdict.expected(moments)) in ('useless', 'poor'):
    warnings.warn(f'samples are likely to be {level}: {verdict.advice(moments)}', stacklevel=2)
  return moments


def _make_gan(config: TrainConfig, spec: Spec) -> GANPlan:
  before, after = labelling.before_gan(config, spec), labelling.after_gan(config, spec)
  moments = refining.moments_before(config, spec)
  beside = {**refining.stages(config, moments), **labelling.stages(*before, *after)}
  stages = make_budget(config, spec.num_records, beside)
  gan = GAN(config, stages.mechanism, spec)
  _require_independent(gan)
  if gan.noise_in_d > NOISY:
    warnings.warn(
      f'between two generator steps D gets noise {gan.noise_in_d:.2g} times as long as its longest '
      f'gradient: above {NOISY:g} images are likely to get worse with training. Fewer steps, more '
      'd_steps_per_g_step, a larger batch or epsilon, or a smaller discriminator give less',
      stacklevel=3,
    )
  unclipped = math.isinf(stages.mechanism.l2_clip_norm)
  sgd = config.d_optimizer == 'sgd' and config.d_learning_rate >= LONG
  if unclipped and sgd and config.discriminator in discriminators.SCATTERED:
    warnings.warn(
      f'nothing is clipped, and at d_learning_rate={config.d_learning_rate:g} sgd then takes steps '
      'so long that this discriminator has been seen to die: use discriminator=report, as '
      'experiments/no_privacy.flags do, adam, or a smaller rate',
      stacklevel=3,
    )
  return GANPlan(gan, before, after, moments)


def _require_independent(gan: GAN) -> None:
  """Refuses a plugin's discriminator or loss under which a record's gradient depends on others.

  `GAN` refuses what mixes records by name and by outputs, which suffices for this package's own: of
  them tests know the rest. A plugin's gradients are looked at too; that compiles two programs.
  """
  config, shape = gan.config, gan.spec.shape
  chosen = (('discriminator', config.discriminator), ('loss', config.loss))
  if not any(_plugins.origin(kind, name) for kind, name in chosen):
    return
  each = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
  example = (each(jnp.uint8, *shape), each(jnp.int32))
  if config.gradient_penalty:
    example += (each(jnp.float32, *shape), each(jnp.float32))
  params = jax.eval_shape(gan.init, _keys.from_seed(0)).d_params
  values = jax.tree.map(lambda x: x / math.sqrt(x.size), independence.random_like(params))
  independence.require_independent(gan._real_loss, values, example)


def read(saved: Mapping[str, Any], where: object) -> Plan:
  """The plan in a run's config.json.

  Args:
    saved: its content: what `Plan.to_record` gave, and 'data', the description of the data.
    where: what to call it in messages.

  Raises:
    InputError: it is not the record of a run.
  """
  try:
    config = TrainConfig.from_dict(saved['config'])
    if config.method == 'moments':
      read = settings.read if config.schema_epsilon is None else domains.read
      return read(saved, Spec.from_record(saved['data']))
    mechanism = DPMechanism.from_dict(saved['mechanism'])
    spec = _read_spec(saved['data'], config)
    at_once = saved.get('microbatch_size')  # None in runs of version 0.1
    if at_once is not None:
      _validate.integer('microbatch_size', at_once, minimum=1)
    gan = GAN(config, mechanism, spec, at_once)
    classifiers: dict[str, tuple[Classifier, ...]] = {}
    for name, share, stage in (
      (_BEFORE, config.label_share, STAGE), (_AFTER, config.label_cnn_share, labelling.CNN_STAGE)
    ):  # fmt: skip
      if (name in saved) != (share is not None):
        raise KeyError(name)
      classifiers[name] = ()
      if name in saved:
        classifiers[name] = (labelling.from_record(saved[name], spec, config.seed, stage),)
    if (_MOMENTS in saved) != (config.moments_share is not None):
      raise KeyError(_MOMENTS)
    moments = settings.read(saved[_MOMENTS], spec) if _MOMENTS in saved else None
  except _validate.InputError:
    raise
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _validate.InputError(f'{where} is not the record of a run: {error!r}') from None
  return GANPlan(gan, classifiers[_BEFORE], classifiers[_AFTER], moments)


def _read_spec(record: Mapping[str, Any], config: TrainConfig) -> Spec:
  if 'kind' in record:
    return Spec.from_record(record)
  return Spec.from_record(  # of version 0.1
    {
      'kind': 'image',
      'num_records': record['num_examples'],
      'shape': record['image_shape'],
      'class_names': record['class_names'],
      'name': config.dataset,
    }
  )


def make_budget(
  config: TrainConfig, num_examples: int, beside: Mapping[str, DPMechanism] | None = None
) -> Budget:
  """The budget that the settings ask for: two of ε, σ and T give the third.

  Args:
    config: the settings.
    num_examples: N.
    beside: other stages, if any; the GAN gets what they leave of `target_epsilon`.

  Raises:
    InputError: a combination that no mechanism satisfies.
  """
  beside = beside or {}
  for name in ('label_share', 'moments_share'):
    if getattr(config, name) is not None and not beside:
      raise _validate.InputError(
        f'expected no {name} here: a GAN is looked at without the stages beside it'
      )
  common: dict[str, Any] = {
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
    base = DPMechanism.create(noise_multiplier=1.0, steps=steps, **common)
    return Budget.of_least_noise(config.target_epsilon, base, beside)
  if steps is None:
    assert config.target_epsilon is not None
    assert config.noise_multiplier is not None
    mechanism = DPMechanism.for_epsilon_and_noise(
      config.target_epsilon, noise_multiplier=config.noise_multiplier, **common
    )
  elif config.noise_multiplier is not None:
    mechanism = DPMechanism.create(noise_multiplier=config.noise_multiplier, steps=steps, **common)
  else:
    assert config.target_epsilon is not None
    mechanism = DPMechanism.for_epsilon(config.target_epsilon, steps=steps, **common)
  return Budget(mechanism, beside)
