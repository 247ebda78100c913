"""A classifier trained by DP-SGD: on pixels, or on fixed scattering features of them.

The CNN of the TF-Privacy MNIST tutorial, on pixels; or one linear layer on the scattering transform
of the image. The transform, and the scaling of its output (`prepare`), are fixed public functions
of one image at a time and cost no privacy. The mean of the features, which a linear model gains
much from losing, is released by a mechanism of its own (`CENTRE`), with noise, charged to the same
ledger. Directories, checkpoints and the ledger belong to the caller (`run.stages.ClassifierStage`).

>>> import dpgan_jax
>>> from dpgan_jax.models.classifier_inputs import prepare
>>> digits = dpgan_jax.load_dataset('digits')
>>> config = ClassifierConfig(noise_multiplier=4.0, steps=8, batch_size=256, delta=1e-4)
>>> model = Classifier.create(config, digits.spec)
>>> sorted(model.stages)
['classifier']
>>> x, y = jnp.asarray(prepare(config, digits.images)), jnp.asarray(digits.labels)
>>> state, _ = jax.jit(model.step)(model.init(jax.random.key(0)), x, y)
>>> int(state.step)
1

Sources: TF-Privacy's tutorial `mnist_dpsgd_tutorial` (model, learning rate 0.25, σ 1.3, C 1.5, B
256, 15 epochs); Tramèr & Boneh 2021 (arXiv 2011.11660), linear models on scattering features;
Arandjelović & Zisserman 2012, section 2, for square roots before unit norm.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _keys
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.classifier_config import MODELS, ClassifierConfig
from dpgan_jax.models.classifier_inputs import input_shape, seen
from dpgan_jax.networks import per_example
from dpgan_jax.networks.layers import tutorial_features
from dpgan_jax.privacy import exact_noise, sharding
from dpgan_jax.privacy.mechanism import DPMechanism

PyTree = Any

STAGE = 'classifier'
CENTRE = 'classifier_centre'
_ROWS_AT_ONCE = 2000


# --- models ---------------------------------------------------------------------------------------


class Linear(nn.Module):
  """One linear layer, zero at the start: no noise but the mechanism's."""

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)


class TutorialCNN(nn.Module):
  """The tutorial's convolutions, dense 32, dense: 26,010 parameters for MNIST."""

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.relu(nn.Dense(32)(tutorial_features(x)))  # first: files name it Dense_0
    return nn.Dense(self.num_classes)(x)


MODELS.update(linear=Linear, tutorial_cnn=TutorialCNN)


# --- training -------------------------------------------------------------------------------------


def make_stages(
  config: ClassifierConfig, num_examples: int, stage: str = STAGE
) -> dict[str, DPMechanism]:
  """The mechanisms of a run by stage: together they spend `target_epsilon` at most, if given.

  Args:
    config: the settings.
    num_examples: N.
    stage: what the training's is called in a ledger.

  Raises:
    InputError: a combination that no mechanism satisfies.
  """
  steps = config.steps
  if steps is None:
    assert config.epochs is not None
    steps = max(1, round(min(config.epochs * num_examples / config.batch_size, 2**31)))
  settings: dict[str, Any] = {
    'num_examples': num_examples, 'batch_size': config.batch_size, 'delta': config.delta,
    'l2_clip_norm': config.l2_clip_norm, 'steps': steps,
  }  # fmt: skip
  private = config.target_epsilon != math.inf and config.noise_multiplier != 0
  stages = {}
  if config.centre_noise_multiplier is not None:
    stages[CENTRE] = DPMechanism.create(
      num_examples=num_examples,
      batch_size=num_examples,  # q = 1: everybody is in the mean
      l2_clip_norm=1.0,  # what `prepare` scales every example to
      noise_multiplier=config.centre_noise_multiplier if private else 0.0,
      steps=1,
      delta=config.delta,
    )
  if config.noise_multiplier is not None:
    mechanism = DPMechanism.create(noise_multiplier=config.noise_multiplier, **settings)
  elif not stages or not private:
    assert config.target_epsilon is not None
    mechanism = DPMechanism.for_epsilon(config.target_epsilon, **settings)
  else:
    assert config.target_epsilon is not None
    base = DPMechanism.create(noise_multiplier=1.0, **settings)
    mechanism = Budget.of_least_noise(config.target_epsilon, base, stages, stage).mechanism
  stages[stage] = mechanism
  return dict(sorted(stages.items()))  # the order in which JSON gives them back


class ClassifierState(NamedTuple):
  """All that training carries from step to step. `params`, `average` and `centre` are covered by
  the guarantee; the keys (one is in `opt_state`) are private.

  Attributes:
    step: int32, steps taken.
    params: of the model, as trained.
    average: of the model, what predictions are made with: the mean of `params` over the steps since
      `average_from`, which carries less of each step's noise and costs nothing; else `params`.
    opt_state: of noise (with its key) and optimizer.
    centre: float32 [features], subtracted from the features; one zero where nothing is.
    batch_key: key of the Poisson batches.
  """

  step: jax.Array
  params: PyTree
  average: PyTree
  opt_state: PyTree
  centre: jax.Array
  batch_key: jax.Array


class StepMetrics(NamedTuple):
  """Scalars of one step, all computed on private examples outside the guarantee."""

  loss: jax.Array
  accuracy: jax.Array
  clipped_fraction: jax.Array
  realised_batch: jax.Array


@dataclasses.dataclass(frozen=True)
class Classifier:
  """The parts of one run; all methods are pure functions.

  Attributes:
    config: the settings.
    stages: its mechanisms by name, `stage` and perhaps `CENTRE`.
    spec: what is public of the data.
    stage: what its training is called in a ledger.
  """

  config: ClassifierConfig
  stages: Mapping[str, DPMechanism]
  spec: Spec
  stage: str = STAGE

  def __post_init__(self) -> None:
    per_example.require_per_example(self.model, jnp.zeros((2, *self.input_shape)))

  @classmethod
  def create(cls, config: ClassifierConfig, spec: Spec, stage: str = STAGE) -> Classifier:
    """A classifier for a data set as described."""
    return cls(config, make_stages(config, spec.num_records, stage), spec, stage)

  @property
  def model(self) -> nn.Module:
    return MODELS[self.config.model](num_classes=self.spec.num_classes)

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Shape of one example as `prepare` makes it."""
    return input_shape(self.config, self.spec.shape)

  @property
  def mechanism(self) -> DPMechanism:
    """That of training."""
    return self.stages[self.stage]

  @property
  def budget(self) -> Budget:
    """Of training and what is released before it."""
    beside = {name: m for name, m in self.stages.items() if name != self.stage}
    return Budget(self.mechanism, beside, self.stage)

  def to_record(self) -> dict[str, Any]:
    """Settings and mechanisms, JSON-ready."""
    stages = {name: m.to_dict() for name, m in self.stages.items()}
    return {'config': self.config.to_dict(), 'stages': stages}

  def optimizer(self, noise_key: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """Noise, then SGD: the only way from a clipped sum to the parameters; `init` needs the key."""
    sgd = optax.sgd(self.config.learning_rate, momentum=self.config.momentum or None)
    return optax.chain(self.mechanism.noise_sum(noise_key), sgd)

  def init(self, key: jax.Array) -> ClassifierState:
    """The state before anything is released. `key` must be secret if the run is to be private."""
    init_key, noise_key, batch_key = jax.random.split(_keys.require('key', key), 3)
    params = self.model.init(init_key, jnp.zeros((2, *self.input_shape)))['params']
    size = math.prod(self.input_shape) if CENTRE in self.stages else 1
    return ClassifierState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      average=jax.tree.map(jnp.copy, params),  # donated state must not hold a buffer twice
      opt_state=self.optimizer(noise_key).init(params),
      centre=jnp.zeros((size,), jnp.float32),
      batch_key=batch_key,
    )

  def release_centre(
    self, state: ClassifierState, inputs: np.ndarray | jax.Array, secret: bytes
  ) -> ClassifierState:
    """Measures the features' mean once, with noise; the same again from the same secret.

    Args:
      state: as `init` made it.
      inputs: [N, ...], what `prepare` made of the private images.
      secret: at least 16 bytes that nobody else knows and no other release uses.

    Guarantee: one Gaussian mechanism, the stage `CENTRE`: an exact sum of vectors of norm ≤ 1, with
      discrete Gaussian noise (`exact_noise`). Every entry is a multiple of a public power of two.
    """
    mechanism = self.stages[CENTRE]
    records, clip_norm = mechanism.batch_size, mechanism.l2_clip_norm
    unit = exact_noise.default_grid((mechanism.noise_multiplier or 1.0) * clip_norm / records)
    total = exact_noise.release_sum(
      np.asarray(inputs),
      l2_sensitivity=clip_norm,
      noise_multiplier=mechanism.noise_multiplier,
      grid=records * unit,
      secret=secret,
      purpose=f'{CENTRE} of {self.stage}',
    )
    return state._replace(centre=jnp.asarray(total.reshape(-1) / records, jnp.float32))

  def step(self, state: ClassifierState, *data: Any) -> tuple[ClassifierState, StepMetrics]:
    """One step of DP-SGD.

    Args:
      state: the state before.
      *data: [N, ...], what `prepare` made of the private images, and their classes, int32 [N]; or
        what `sampling.Drawn` has of them.

    Guarantee: the state after depends on the data only through the mechanisms' noisy sums.
    """
    mechanism = self.mechanism

    def loss(params: PyTree, x: jax.Array, label: jax.Array) -> jax.Array:
      logits: Any = self.model.apply({'params': params}, x[None])
      return optax.softmax_cross_entropy_with_integer_labels(logits[0], label)

    split = sharding.here()
    batch = mechanism.sampler.take(state.batch_key, state.step, data, split)
    x, y = self._seen(batch.rows[0], state.centre), batch.rows[1]
    grad = mechanism.clipped_grad(
      loss, microbatch_size=self.config.microbatch_size, axis_name=split.axis
    )
    found = grad(state.params, x, y, mask=batch.mask)
    updates, opt_state = self.optimizer().update(found.sum, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)

    mean = functools.partial(split.masked_mean, mask=batch.mask, count=batch.realised)
    sure = math.log(2)  # a loss below it is a probability above one half: correct for certain
    metrics = StepMetrics(
      loss=mean(found.losses),
      accuracy=mean((found.losses < sure).astype(jnp.float32)),
      clipped_fraction=mean((found.norms > mechanism.l2_clip_norm).astype(jnp.float32)),
      realised_batch=batch.realised,
    )
    average = self._averaged(state, params)
    state = state._replace(step=state.step + 1, params=params, average=average, opt_state=opt_state)
    return state, metrics

  def _averaged(self, state: ClassifierState, params: PyTree) -> PyTree:
    if self.config.average_from is None:
      return params
    first = math.ceil(self.config.average_from * self.mechanism.steps)
    weight = 1 / jnp.maximum(state.step + 1 - first, 1).astype(jnp.float32)
    return jax.tree.map(lambda a, p: a + weight * (p - a), state.average, params)

  def _seen(self, inputs: jax.Array, centre: jax.Array) -> jax.Array:
    return seen(inputs, centre if CENTRE in self.stages else None)

  def predict(self, state: ClassifierState, inputs: np.ndarray) -> np.ndarray:
    """The class of each of the prepared inputs, int32 [n]."""
    return self.classes(state.average, state.centre, inputs)

  def classes(self, params: PyTree, centre: jax.Array, inputs: np.ndarray) -> np.ndarray:
    """The same for parameters and centre on their own, without keys: what may be published."""
    return np.argmax(self.logits(params, centre, inputs), axis=-1).astype(np.int32)

  def logits(self, params: PyTree, centre: jax.Array, inputs: np.ndarray) -> np.ndarray:
    """What the model says of each of the prepared inputs, float32 [n, K]."""
    parts = []
    for start in range(0, len(inputs), _ROWS_AT_ONCE):
      part = inputs[start : start + _ROWS_AT_ONCE]
      padded = np.zeros((_ROWS_AT_ONCE, *part.shape[1:]), part.dtype)  # one shape, one compilation
      padded[: len(part)] = part
      parts.append(np.asarray(self._logits(params, centre, padded))[: len(part)])
    return np.concatenate(parts)

  @functools.cached_property
  def _logits(self) -> Callable[..., jax.Array]:
    @jax.jit
    def logits(params: PyTree, centre: jax.Array, part: jax.Array) -> Any:
      return self.model.apply({'params': params}, self._seen(part, centre))

    return logits
