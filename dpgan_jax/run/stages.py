"""What reads private records, as stages that the one loop (`loop`) carries out.

`Stage` says what a stage has to be. `GANStage` and `ClassifierStage` are those of a run; an audit
has one of its own. A new idea is a new stage, and never a new copy of the order of events.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpgan_jax import _figures, _keys
from dpgan_jax.budget.budget import STAGE
from dpgan_jax.data import datasets
from dpgan_jax.data.datasets import ImageDataset
from dpgan_jax.data.sources import Dataset
from dpgan_jax.models.classifier import CENTRE, Classifier, ClassifierState
from dpgan_jax.models.classifier_inputs import prepare
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GANState, GeneratorState
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.models.moments import release
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.settings import SECONDS, Moments
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir

State = Any  # a NamedTuple of arrays, `step` among them
ModelOf = Callable[[GeneratorState, int], GANSynthesizer]
"""(generator, step) → the publishable model."""
_GRID_KEY = 0  # sample grids use one public key, so that successive grids show the same z


class Stage(abc.ABC):
  """What reads private records, one mechanism at a time.

  Attributes:
    name: of its steps in the ledger.
    mechanisms: all that it charges by name: its steps, and what it releases once before them.
    stride: steps between two records.
    folder: of its metrics and checkpoints within the run's directory.
  """

  name: str
  mechanisms: Mapping[str, DPMechanism]
  stride: int
  folder: str = '.'

  @property
  def mechanism(self) -> DPMechanism:
    """That of its steps."""
    return self.mechanisms[self.name]

  @abc.abstractmethod
  def init(self, key: jax.Array) -> State:
    """The state before anything is read; `key` is this stage's own. A pure function."""

  @abc.abstractmethod
  def data(self) -> tuple[Any, ...]:
    """The private records as arrays; called only where there are steps to take."""

  @abc.abstractmethod
  def chunk(self, length: int) -> Callable[..., tuple[State, Any]]:
    """What takes `length` steps: `chunk(state, *data) -> (state, metrics)`."""

  def prepare(self, state: State) -> State:
    """What a new state becomes before it is kept; no private record has a part in it."""
    return state

  def release(self, state: State, data: tuple[Any, ...], secret: bytes) -> State:
    """Makes the releases before the first step, charged already; the same again when resumed.

    Args:
      state: the state before the first step.
      data: the private records.
      secret: 32 bytes that the noise of these releases, and nothing else, follows from.
    """
    del data, secret
    return state

  def wants_checkpoint(self, step: int) -> bool:
    """Whether the state after `step` is saved."""
    del step
    return True

  def wants_state(self, step: int) -> bool:
    """Whether `write` needs the whole state after `step`."""
    del step
    return False

  def keep(self, step: int, state: State) -> Any:
    """Sets aside, on the device, what `write` needs besides; it must only enqueue work."""
    del step, state

  def write(self, step: int, kept: Any, state: State | None, epsilon: float) -> None:
    """Writes what this kind of stage leaves beside metrics and checkpoints, such as pictures."""
    del step, kept, state, epsilon

  def shown(self, means: Mapping[str, float]) -> Mapping[str, float]:
    """The few numbers that the progress bar shows."""
    del means
    return {}


class CompiledStage(Stage):
  """A stage whose steps are one compiled loop on the device, or on those of `mesh`, in step."""

  mesh: Mesh | None = None

  @abc.abstractmethod
  def step(self, state: State, *data: jax.Array) -> tuple[State, Any]:
    """One step of the mechanism: the state after, and metrics (a NamedTuple of scalars). Pure."""

  def chunk(self, length: int) -> Callable[..., tuple[State, Any]]:
    return make_chunk(self, length)


def make_chunk(stage: Any, length: int) -> Callable[..., tuple[State, Any]]:
  """Compiles `length` steps into one call: `chunk(state, *data) -> (state, metrics)`.

  Each metric is [length]. The state passed in is donated: its memory is reused, and it must not be
  touched afterwards. The host is not involved until the call ends.

  Args:
    stage: has `step(state, *data)`, and `mesh` if it is to run on the devices of one.
    length: steps.
  """
  def chunk(state: State, *data: jax.Array) -> tuple[State, Any]:
    return jax.lax.scan(lambda carry, _: stage.step(carry, *data), state, None, length=length)

  return jax.jit(sharding.over(getattr(stage, 'mesh', None), chunk), donate_argnums=0)


# --- the GAN --------------------------------------------------------------------------------------


class GANStage(CompiledStage):
  """Steps of the discriminator by DP-SGD, with those of the generator between them."""

  name = STAGE

  def __init__(self, gan: GAN, dataset: ImageDataset, directory: RunDir, model_of: ModelOf) -> None:
    """Reads and writes nothing yet.

    Args:
      gan: the mathematics.
      dataset: the private images.
      directory: where pictures and snapshots go.
      model_of: makes the publishable model of a generator and its step.
    """
    self._gan, self._dataset, self._directory, self._model_of = gan, dataset, directory, model_of
    self._config, self._total = gan.config, gan.mechanism.steps
    self.mechanisms = {STAGE: gan.mechanism}
    self.stride = steps_per_report(gan.config, gan.mechanism)
    self._mixture = mixture_steps(self._config, self._total, self.stride)[:-1]
    self._generate = grid_program(gan)

  def init(self, key: jax.Array) -> GANState:
    return self._gan.init(key)

  def data(self) -> tuple[jax.Array, ...]:
    return jnp.asarray(self._dataset.images), jnp.asarray(self._dataset.labels)

  def step(self, state: GANState, *data: jax.Array) -> tuple[GANState, Any]:
    return self._gan.step(state, *data)

  def wants_checkpoint(self, step: int) -> bool:
    return self._is_due(step, self._config.reports_per_checkpoint)

  def wants_state(self, step: int) -> bool:
    return step in self._mixture or self._is_due(step, self._config.reports_per_snapshot)

  def keep(self, step: int, state: GANState) -> jax.Array | None:
    due = self._is_due(step, self._config.reports_per_grid)
    return self._generate(state.g_average) if due else None

  def write(self, step: int, kept: Any, state: GANState | None, epsilon: float) -> None:
    if kept is not None:
      self._draw_grid(kept, step, epsilon)
    if state is not None:
      path, run = self._directory.snapshot(step), self._directory.identity()
      generator_file.save(self._model_of(state.g_average, step), path, run=run)
      if self._config.g_ema_decay and self._is_due(step, self._config.reports_per_snapshot):
        as_trained = path.parent / 'as_trained' / path.name
        generator_file.save(self._model_of(state.g, step), as_trained, run=run)

  def shown(self, means: Mapping[str, float]) -> Mapping[str, float]:
    return {'d': means['d_loss_real'] + means['d_loss_fake'], 'g': means['g_loss']}

  def _is_due(self, step: int, every: int | None) -> bool:
    report = -(-step // self.stride)
    return bool(every) and (step == self._total or report % every == 0)

  def _draw_grid(self, pictures: jax.Array, step: int, epsilon: float) -> None:
    spent = f'epsilon {epsilon:.3g}' if np.isfinite(epsilon) else 'no privacy'
    _figures.sample_grid(
      datasets.to_uint8(np.asarray(pictures)),
      self._directory.grids / f'step_{step:08d}.png',
      labels=_grid_labels(self._gan) if self._gan.is_conditional else None,
      class_names=self._gan.spec.class_names,
      scale=_figures.scale_of(self._gan.spec.shape),
      title=f'step {step}, {spent}',
    )


def steps_per_report(config: TrainConfig, mechanism: DPMechanism) -> int:
  """Steps between metric lines: as set, else an epoch, or a thirtieth of the run if shorter.

  A number near it that divides the run is preferred: the compiled loop then has one length only.
  """
  if config.steps_per_report is not None:
    return min(config.steps_per_report, mechanism.steps)
  epoch = max(1, mechanism.num_examples // mechanism.batch_size)
  wanted = max(1, min(epoch, mechanism.steps // 30))
  nearby = [n for n in range(wanted, wanted * 3 // 2 + 1) if mechanism.steps % n == 0]
  return nearby[0] if nearby else wanted


def mixture_steps(config: TrainConfig, total: int, stride: int) -> tuple[int, ...]:
  """The steps whose generators samples are drawn from: the last one, and those of the reports
  nearest to even spaces over the second half of the run.

  Generators of one run wander about what they could draw, so that several of them draw more of it
  than the last one does (self-ensembles: Wang et al. 2016, arXiv 1612.00991). All are functions of
  what the last step has cost: together they are as private as the last one.

  Args:
    config: says how many.
    total: steps of the run.
    stride: steps between reports.

  Returns:
    Steps in ascending order, as many as were asked for or as there are reports, if those are fewer.
  """
  count = config.g_mixture or 1
  wanted = (total - i * total / (2 * count) for i in range(1, count))
  reports = {max(1, round(step / stride)) * stride for step in wanted}
  return (*sorted(step for step in reports if step < total), total)


def _grid_labels(gan: GAN) -> np.ndarray:
  return np.repeat(np.arange(min(gan.spec.num_classes, 10), dtype=np.int32), 10)


def grid_program(gan: GAN) -> Callable[[GeneratorState], jax.Array]:
  """The compiled function that makes the images of a sample grid, float32 [n, H, W, C]."""
  labels = _grid_labels(gan)
  return jax.jit(lambda g: gan.generate(g, _keys.from_seed(_GRID_KEY), jnp.asarray(labels)))


# --- moments --------------------------------------------------------------------------------------


class MomentsState(NamedTuple):
  """What a release of moments has given so far; covered by the guarantee but for the key.

  Attributes:
    step: int32; 1 when everything is released.
    counts: float32 [K].
    sums: float32 [K, d].
    seconds: float32 [K, s, s].
    sample_key: what the run's own samples are drawn with.
  """

  step: jax.Array
  counts: jax.Array
  sums: jax.Array
  seconds: jax.Array
  sample_key: jax.Array


class NoMetrics(NamedTuple):
  """Of a step in which nothing is measured."""


class MomentsStage(Stage):
  """Two releases on the host: class means before the one step, covariances in it."""

  name, stride = SECONDS, 1

  def __init__(self, moments: Moments, dataset: Dataset) -> None:
    """Reads and writes nothing yet."""
    self._moments, self._dataset, self.mechanisms = moments, dataset, moments.stages
    self._secret = b''

  def init(self, key: jax.Array) -> MomentsState:
    return nothing_released(self._moments, key)

  def data(self) -> tuple[np.ndarray, ...]:
    return self._moments.encoding.encode(self._dataset.records), self._dataset.labels

  def release(self, state: MomentsState, data: tuple[Any, ...], secret: bytes) -> MomentsState:
    self._secret = secret
    codes, labels = data
    means = release.release_means(codes, labels, self._moments, secret)
    return state._replace(counts=jnp.asarray(means.counts), sums=jnp.asarray(means.sums))

  def chunk(self, length: int) -> Callable[..., tuple[State, Any]]:
    del length  # there is one step

    def take(
      state: MomentsState, codes: np.ndarray, labels: np.ndarray
    ) -> tuple[MomentsState, NoMetrics]:
      assert self._secret  # `release` came first
      means = means_of(state)
      seconds = release.release_seconds(codes, labels, means, self._moments, self._secret)
      return state._replace(step=state.step + 1, seconds=jnp.asarray(seconds)), NoMetrics()

    return take


def nothing_released(moments: Moments, key: jax.Array) -> MomentsState:
  """The state before anything is read."""
  shapes = ((), (moments.dim,), (moments.encoding.second_dim,) * 2)
  counts, sums, seconds = (jnp.zeros((moments.spec.num_classes, *shape)) for shape in shapes)
  return MomentsState(jnp.zeros((), jnp.int32), counts, sums, seconds, key)


def means_of(state: MomentsState) -> Means:
  """The first release."""
  return Means(np.asarray(state.counts, np.float64), np.asarray(state.sums, np.float64))


def released(moments: Moments, state: MomentsState) -> MomentsSynthesizer:
  """The model that a finished stage leaves."""
  return MomentsSynthesizer(moments, means_of(state), np.asarray(state.seconds, np.float64))


def restore_moments(moments: Moments, run: RunDir) -> MomentsSynthesizer | None:
  """What a run has released; None where it has not yet."""
  with Checkpoints(run.checkpoints, identity=run.identity()) as checkpoints:
    abstract = jax.eval_shape(lambda: nothing_released(moments, _keys.from_seed(0)))
    restored = checkpoints.restore_latest(abstract)
  return released(moments, restored[1]) if restored and restored[0] else None


# --- a private classifier -------------------------------------------------------------------------


class ClassifierStage(CompiledStage):
  """A classifier's steps of DP-SGD, after the release of its features' mean, if it wants that."""

  def __init__(
    self,
    classifier: Classifier,
    dataset: ImageDataset,
    *,
    folder: str = '.',
    taught: Callable[[ClassifierState], ClassifierState] | None = None,
    inputs: np.ndarray | None = None,
  ) -> None:
    """Reads and writes nothing yet.

    Args:
      classifier: the mathematics.
      dataset: the private images and their classes.
      folder: of metrics and checkpoints within the run's directory.
      taught: what a new state becomes before the first step; no private record has a part in it.
      inputs: what `prepare` makes of the images, where that is at hand.
    """
    self._classifier, self._dataset = classifier, dataset
    self._taught, self._inputs = taught, inputs
    self.name, self.mechanisms, self.folder = classifier.stage, classifier.stages, folder
    total = classifier.mechanism.steps
    self.stride = classifier.config.steps_per_report or max(1, total // 20)

  def init(self, key: jax.Array) -> ClassifierState:
    return self._classifier.init(key)

  def prepare(self, state: ClassifierState) -> ClassifierState:
    return state if self._taught is None else self._taught(state)

  def data(self) -> tuple[jax.Array, ...]:
    inputs = self._inputs
    if inputs is None:
      inputs = prepare(self._classifier.config, self._dataset.images)
    return jnp.asarray(inputs), jnp.asarray(self._dataset.labels)

  def release(
    self, state: ClassifierState, data: tuple[jax.Array, ...], secret: bytes
  ) -> ClassifierState:
    if CENTRE not in self.mechanisms:
      return state
    return self._classifier.release_centre(state, data[0], secret)

  def step(self, state: ClassifierState, *data: jax.Array) -> tuple[ClassifierState, Any]:
    return self._classifier.step(state, *data)

  def shown(self, means: Mapping[str, float]) -> Mapping[str, float]:
    return {'loss': means['loss']}
