"""What reads private records, as stages that the one loop (`loop`) carries out.

`releases.stage.Stage` says what a stage has to be. `GANStage` and `ClassifierStage` are those of a
run, and so are those in `releases`; an audit has one of its own. A new idea is a new stage, and
never a new copy of the order of events.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpgan_jax import _figures, _keys
from dpgan_jax.budget.budget import STAGE
from dpgan_jax.data.images.dataset import ImageDataset, to_uint8
from dpgan_jax.models.classifier import CENTRE, Classifier, ClassifierState
from dpgan_jax.models.classifier_inputs import prepare
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GANState, GeneratorState
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.models.moments.images.encoding import Gaussians
from dpgan_jax.networks.refiner import RELEASED
from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.sampling import Drawn
from dpgan_jax.run import generator_file
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.host.feed import Feed
from dpgan_jax.run.releases.stage import Stage, State

DataOn = Literal['device', 'host']
ModelOf = Callable[[GeneratorState, int], GANSynthesizer]
"""(generator, step) → the publishable model."""
_MOST_AHEAD = 2**22
"""Places in the batches of a chunk that are drawn before it: 20 MB of indices and masks."""
_GRID_KEY = 0  # sample grids use one public key, so that successive grids show the same z


class CompiledStage(Stage):
  """A stage whose steps are one compiled loop on the device, or on those of `mesh`, in step; its
  records are there too, or `data_on` the host, which hands over the batches."""

  mesh: Mesh | None = None
  data_on: DataOn = 'device'
  reads_batches_alone = True
  """Whether a step looks at no other record than those of its batch."""

  @abc.abstractmethod
  def step(self, state: State, *data: jax.Array) -> tuple[State, Any]:
    """One step of the mechanism: the state after, and metrics (a NamedTuple of scalars). Pure."""

  def placed(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
    if self.data_on == 'host':
      return (Feed(data, self.mechanism.sampler, self.mechanism.steps, self.mesh),)
    return sharding.replicate(data, self.mesh) if self.mesh else tuple(map(jnp.asarray, data))

  def chunk(self, length: int) -> Callable[..., tuple[State, Any]]:
    if self.data_on == 'device':
      return make_chunk(self, length)
    piece = functools.cache(lambda count: make_chunk(self, count))
    return lambda state, feed: feed.run(state, length, piece)


def make_chunk(stage: Any, length: int) -> Callable[..., tuple[State, Any]]:
  """Compiles `length` steps into one call: `chunk(state, *data) -> (state, metrics)`.

  Each metric is [length]. The state passed in is donated: its memory is reused, and it must not be
  touched afterwards. The host is not involved until the call ends. `data` is all records, or one
  `Drawn` of the batches of these steps; without it, all batches are drawn before the first step.

  Args:
    stage: a `CompiledStage`, or what has `mechanism` and `step(state, *data)`.
    length: steps.
  """
  sampler = stage.mechanism.sampler
  draws_ahead = length * sampler.truncated_batch_size <= _MOST_AHEAD
  draws_ahead &= getattr(stage, 'reads_batches_alone', True)

  def chunk(state: State, *data: Any) -> tuple[State, Any]:
    drawn, records = None, data
    if isinstance(data[0], Drawn):
      drawn, records = data[0], data[1:]
    elif draws_ahead:
      drawn = sampler.ahead(state.batch_key, state.step, length)

    def step(carry: State, batch: Drawn | None) -> tuple[State, Any]:
      return stage.step(carry, *(records if batch is None else (batch, *records)))

    return jax.lax.scan(step, state, drawn, length=length)

  return jax.jit(sharding.over(getattr(stage, 'mesh', None), chunk), donate_argnums=0)


# --- the GAN --------------------------------------------------------------------------------------


class GANStage(CompiledStage):
  """Steps of the discriminator by DP-SGD, with those of the generator between them."""

  name = STAGE

  def __init__(
    self,
    gan: GAN,
    dataset: ImageDataset,
    directory: RunDir,
    model_of: ModelOf,
    data_on: DataOn = 'device',
    released: Gaussians | None = None,
  ) -> None:
    """Reads and writes nothing yet.

    Args:
      gan: the mathematics.
      dataset: the private images.
      directory: where pictures and snapshots go.
      model_of: makes the publishable model of a generator and its step.
      data_on: where the images are.
      released: the moments whose draws the generator refines, if it does.
    """
    self.data_on: DataOn = data_on
    self._released = released
    self._gan, self._dataset, self._directory, self._model_of = gan, dataset, directory, model_of
    self._config, self._total = gan.config, gan.mechanism.steps
    self.mechanisms = {STAGE: gan.mechanism}
    self.stride = steps_per_report(gan.config, gan.mechanism)
    self._mixture = mixture_steps(self._config, self._total, self.stride)[:-1]
    labels = np.repeat(np.arange(min(gan.spec.num_classes, 10), dtype=np.int32), 10)
    self._grid_labels = labels if gan.is_conditional else None
    self._grid = jax.jit(
      lambda g: gan.generate(g, _keys.from_seed(_GRID_KEY), jnp.asarray(labels))
    )

  def init(self, key: jax.Array) -> GANState:
    return self._gan.init(key)

  def prepare(self, state: GANState) -> GANState:
    return state if self._released is None else _refining(state, self._released)

  def data(self) -> tuple[np.ndarray, ...]:
    return self._dataset.images, self._dataset.labels

  def step(self, state: GANState, *data: jax.Array) -> tuple[GANState, Any]:
    return self._gan.step(state, *data)

  def wants_checkpoint(self, step: int) -> bool:
    return self._is_due(step, self._config.reports_per_checkpoint)

  def wants_state(self, step: int) -> bool:
    return step in self._mixture or self._is_due(step, self._config.reports_per_snapshot)

  def keep(self, step: int, state: GANState) -> jax.Array | None:
    due = self._is_due(step, self._config.reports_per_grid)
    return self._grid(state.g_average) if due else None

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
    shown = {'d': means['d_loss_real'] + means['d_loss_fake'], 'g': means['g_loss']}
    if np.isnan(shown['g']):  # no step of G was among these
      del shown['g']
    return shown

  def _is_due(self, step: int, every: int | None) -> bool:
    report = -(-step // self.stride)
    return bool(every) and (step == self._total or report % every == 0)

  def _draw_grid(self, pictures: jax.Array, step: int, epsilon: float) -> None:
    spent = f'epsilon {epsilon:.3g}' if np.isfinite(epsilon) else 'no privacy'
    _figures.sample_grid(
      to_uint8(np.asarray(pictures)),
      self._directory.grids / f'step_{step:08d}.png',
      labels=self._grid_labels,
      class_names=self._gan.spec.class_names,
      scale=_figures.scale_of(self._gan.spec.shape),
      title=f'step {step}, {spent}',
    )


def _refining(state: GANState, released: Gaussians) -> GANState:
  """The state before the first step, its generator knowing what was released: post-processing."""
  arrays = released.means, released.factors, released.encoding.basis

  def known(g: GeneratorState) -> GeneratorState:
    own = {n: jnp.array(a, jnp.float32) for n, a in zip(RELEASED, arrays, strict=True)}
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, g.batch_stats)
    return g._replace(batch_stats=own)

  return state._replace(g=known(state.g), g_average=known(state.g_average))


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
    data_on: DataOn = 'device',
  ) -> None:
    """Reads and writes nothing yet.

    Args:
      classifier: the mathematics.
      dataset: the private images and their classes.
      folder: of metrics and checkpoints within the run's directory.
      taught: what a new state becomes before the first step; no private record has a part in it.
      inputs: what `prepare` makes of the images, where that is at hand.
      data_on: where what `prepare` makes is.
    """
    self.data_on: DataOn = data_on
    self._classifier, self._dataset = classifier, dataset
    self._taught, self._inputs = taught, inputs
    self.name, self.mechanisms, self.folder = classifier.stage, classifier.stages, folder
    total = classifier.mechanism.steps
    self.stride = classifier.config.steps_per_report or max(1, total // 20)

  def init(self, key: jax.Array) -> ClassifierState:
    return self._classifier.init(key)

  def prepare(self, state: ClassifierState) -> ClassifierState:
    return state if self._taught is None else self._taught(state)

  def data(self) -> tuple[np.ndarray, ...]:
    inputs = self._inputs
    if inputs is None:
      inputs = prepare(self._classifier.config, self._dataset.images)
    return inputs, self._dataset.labels

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
