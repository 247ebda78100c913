"""What a run records of its steps: metrics, progress, sample grids, snapshots, checkpoints.

In two halves, so that the device need not wait for the host. `Recorder.keep` sets aside, on the
device and before the state is donated to the next steps, what the record will need; it only
enqueues work. `Recorder.write` does what takes time on the host (formatting, drawing, the disk),
while the device is at the next steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _keys, data, figures, metrics, model_file
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN, GANState, GeneratorState, StepMetrics
from dpgan_jax.plan import Plan
from dpgan_jax.run_dir import RunDir

ModelOf = Callable[[GeneratorState, int], model_file.Model]
_GRID_KEY = 0  # sample grids use one public key, so that successive grids show the same z


@dataclasses.dataclass(frozen=True)
class Kept:
  """What the record of a step needs of the device, in memory that no later step reuses.

  Attributes:
    step: the step that was reached.
    pictures: float32 [n, H, W, C] for the grid; None where none is due.
    state: the whole state after the step; None where neither snapshot nor checkpoint is due.
  """

  step: int
  pictures: jax.Array | None
  state: GANState | None


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


# `jnp.copy` is an operation of the compiled program, so that its outputs have memory of their own
# by more than JAX's present habit of not handing a program's arguments back as its results.
copy_state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


class Recorder:
  """Writes the records of one run, in the order of its steps."""

  def __init__(
    self,
    planned: Plan,
    model_of: ModelOf,
    run: RunDir,
    writer: metrics.MetricsWriter,
    checkpoints: Checkpoints,
    bar: metrics.Progress | None,
    stride: int,
  ) -> None:
    """Writes nothing yet.

    Args:
      planned: what the run does.
      model_of: makes the publishable model of a generator and its step.
      run: its directory.
      writer: of its metrics.
      checkpoints: of its states.
      bar: the progress bar; None for none.
      stride: steps between reports.
    """
    self._planned, self._model_of, self._run = planned, model_of, run
    self._writer, self._checkpoints, self._bar = writer, checkpoints, bar
    self._config, self._total = planned.gan.config, planned.gan.mechanism.steps
    self._stride = stride
    self._mixture = mixture_steps(self._config, self._total, stride)[:-1]
    self._grid = _GridMaker(planned.gan, run)

  def keep(self, step: int, state: GANState) -> Kept:
    """Sets aside what `write` will need; returns at once, the device does it when `state` is there.

    Args:
      step: the step that `state` belongs to.
      state: not donated yet. It may be afterwards, unless this is the run's last step, whose state
        is not copied. The copy is the one extra state in memory: let go of an earlier `Kept` first.
    """
    grid = self._is_due(step, self._config.reports_per_grid)
    whole = self._has_snapshot(step) or self._has_checkpoint(step)
    return Kept(
      step,
      self._grid.generate(state.g_average) if grid else None,
      (state if step == self._total else copy_state(state)) if whole else None,
    )

  def write(self, kept: Kept, history: StepMetrics, steps_per_second: float) -> None:
    """Writes what there is to say of a step that was taken: its metrics first, a checkpoint last.

    Args:
      kept: of the step, from `keep`.
      history: metrics of the steps since the record before, float32 [steps] each.
      steps_per_second: how fast these were.

    Raises:
      OSError: the disk is full, or an earlier checkpoint could not be written in the background.
    """
    step = kept.step
    # Its exact value takes a second, more than all the rest; reports of the run state that one.
    epsilon = self._planned.budget.epsilon_so_far(step)
    means = {name: _mean(values) for name, values in history._asdict().items()}
    speed = {'steps_per_second': steps_per_second}
    self._writer.write(step, {'epsilon': epsilon, **means}, clock=speed)
    if self._bar:
      d_loss = means['d_loss_real'] + means['d_loss_fake']
      self._bar.update(step, epsilon, d=d_loss, g=means['g_loss'])
    if kept.pictures is not None:
      self._grid.draw(kept.pictures, step, epsilon)
    if kept.state is not None and self._has_snapshot(step):
      path = self._run.snapshot(step)
      self._model_of(kept.state.g_average, step).save(path)
      if self._config.g_ema_decay and self._is_due(step, self._config.reports_per_snapshot):
        self._model_of(kept.state.g, step).save(path.parent / 'as_trained' / path.name)
    if kept.state is not None and self._has_checkpoint(step):
      spent = epsilon if np.isfinite(epsilon) else 'inf'
      self._checkpoints.save(step, kept.state, {'epsilon': spent})

  def _is_due(self, step: int, every: int | None) -> bool:
    report = -(-step // self._stride)
    return bool(every) and (step == self._total or report % every == 0)

  def _has_snapshot(self, step: int) -> bool:
    return step in self._mixture or self._is_due(step, self._config.reports_per_snapshot)

  def _has_checkpoint(self, step: int) -> bool:
    return self._is_due(step, self._config.reports_per_checkpoint)


def _mean(values: jax.Array) -> float:
  array = np.asarray(values, np.float64)
  array = array[~np.isnan(array)]
  return float(array.mean()) if array.size else float('nan')


def _grid_labels(gan: GAN) -> np.ndarray:
  return np.repeat(np.arange(min(gan.num_classes, 10), dtype=np.int32), 10)


def grid_program(gan: GAN) -> Callable[[GeneratorState], jax.Array]:
  """The compiled function that makes the images of a sample grid, float32 [n, H, W, C]."""
  labels = _grid_labels(gan)
  return jax.jit(lambda g: gan.generate(g, _keys.from_seed(_GRID_KEY), jnp.asarray(labels)))


class _GridMaker:
  """Draws the same hundred z as a picture whenever asked: progress one can see."""

  def __init__(self, gan: GAN, run: RunDir) -> None:
    self._run = run
    self._image_shape = gan.image_shape
    self._labels = _grid_labels(gan)
    self._conditional = gan.is_conditional
    self.generate = grid_program(gan)

  def draw(self, pictures: jax.Array, step: int, epsilon: float) -> None:
    spent = f'epsilon {epsilon:.3g}' if np.isfinite(epsilon) else 'no privacy'
    figures.sample_grid(
      data.to_uint8(np.asarray(pictures)),
      self._run.grids / f'step_{step:08d}.png',
      labels=self._labels if self._conditional else None,
      scale=picture_scale(self._image_shape),
      title=f'step {step}, {spent}',
    )


def picture_scale(image_shape: tuple[int, ...]) -> int:
  """Screen pixels per pixel: small images are shown about as large as those of MNIST."""
  return max(1, round(56 / image_shape[0]))
