"""A whole training run in its directory: planned, charged, interruptible, resumed bit for bit.

The order of events is what makes a crash harmless:

1. The state before the first step, which holds the keys, is saved and on the disk.
2. A chunk of steps is charged in the ledger, and the charge is on the disk.
3. The chunk runs.
4. Its metrics are written, then a checkpoint.

A run killed anywhere in between continues at its last checkpoint and takes the same steps again,
with the same batches and the same noise. They were charged before; nothing is charged twice, and
nothing is ever taken uncharged.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import dpgan_jax
from dpgan_jax import _validate, data, export, figures, metrics, model_file, models
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN, GANState, GeneratorState
from dpgan_jax.ledger import Ledger
from dpgan_jax.loop import make_chunk
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.run_dir import RunDir

State = TypeVar('State')
STAGE = 'dp_sgd'
PACKAGES = ('dp-accounting', 'flax', 'jax', 'jaxlib', 'numpy', 'optax', 'scipy')
_GRID_KEY = 0  # sample grids use one public key, so that successive grids show the same z


def make_mechanism(config: TrainConfig, num_examples: int) -> DPMechanism:
  """The mechanism that the settings ask for: two of ε, σ and T give the third.

  Args:
    config: the settings.
    num_examples: N.

  Raises:
    InputError: a combination that no mechanism satisfies. Warns if δ ≥ 1/N.
  """
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
    steps = max(1, round(config.epochs * num_examples / config.batch_size))
  if steps is None:
    # TrainConfig has checked that two of the three are given.
    assert config.target_epsilon is not None
    assert config.noise_multiplier is not None
    return DPMechanism.for_epsilon_and_noise(
      config.target_epsilon, noise_multiplier=config.noise_multiplier, **settings
    )
  if config.noise_multiplier is not None:
    return DPMechanism.create(noise_multiplier=config.noise_multiplier, steps=steps, **settings)
  assert config.target_epsilon is not None
  return DPMechanism.for_epsilon(config.target_epsilon, steps=steps, **settings)


def root_key(seed: int | None) -> jax.Array:
  """The key of a run: from `seed`, or with every bit from the operating system.

  A threefry key has 64 bits. `jax.random.key(seed)` of a small seed could be found by trying seeds,
  and the noise with it; that is for reproducing experiments, not for releases.
  """
  if seed is not None:
    return jax.random.key(seed)
  words = np.frombuffer(os.urandom(8), np.uint32).copy()
  return jax.random.wrap_key_data(jnp.asarray(words), impl='threefry2x32')


def steps_per_report(config: TrainConfig, mechanism: DPMechanism) -> int:
  """Steps between metric lines: as set, else an epoch, or a thirtieth of the run if that is
  shorter.

  A number near it that divides the run is preferred: the compiled loop then has one length only.
  """
  if config.steps_per_report is not None:
    return min(config.steps_per_report, mechanism.steps)
  epoch = max(1, mechanism.num_examples // mechanism.batch_size)
  wanted = max(1, min(epoch, mechanism.steps // 30))
  nearby = [n for n in range(wanted, wanted * 3 // 2 + 1) if mechanism.steps % n == 0]
  return nearby[0] if nearby else wanted


@dataclasses.dataclass(frozen=True)
class Trained:
  """The end of a run: the generator samples are drawn from, and the ε it cost.

  Attributes:
    model: the publishable part.
    run: its private directory.
  """

  model: model_file.Model
  run: RunDir


def train(
  config: TrainConfig,
  dataset: data.ImageDataset,
  run_dir: str | os.PathLike[str],
  *,
  progress: bool = True,
) -> Trained:
  """Trains a GAN with differential privacy, or continues where an earlier call was interrupted.

  Args:
    config: the settings; those of the earlier call when continuing.
    dataset: the private images.
    run_dir: directory of the run; made where missing.
    progress: show a progress bar on stderr.

  Returns:
    The trained generator. The directory then holds samples, figures, metrics, ledger, checkpoints.

  Raises:
    InputError: the directory belongs to another run (naming what differs), is in use, or is
      damaged; settings that do not fit the data.
  """
  existed = os.path.lexists(run_dir)
  run = RunDir.open(run_dir, create=True)
  with run.lock():
    try:
      gan = _plan(config, dataset, run)
    except BaseException:
      if not existed:  # settings that do not fit leave nothing behind, not even an empty directory
        shutil.rmtree(run.path, ignore_errors=True)
      raise
    ledger = Ledger.open(
      run.ledger, stages={STAGE: gan.mechanism}, data_fingerprint=dataset.fingerprint()
    )
    with Checkpoints(run.checkpoints) as checkpoints:
      state = start_or_resume(gan.init, config.seed, ledger, checkpoints)
      ledger.require_covers(int(state.step))
      if run.metrics.is_file():  # a line is written after its steps were taken
        for record in metrics.read_metrics(run.metrics)[-1:]:
          ledger.require_covers(record['step'])
      state = _take_steps(gan, dataset, run, ledger, checkpoints, state, progress)
    model = _model(gan, state.g_average, int(state.step), dataset)
    _leave_samples(model, run, state)
  return Trained(model, run)


def _model(
  gan: GAN, generator: GeneratorState, step: int, dataset: data.ImageDataset
) -> model_file.Model:
  """What may be published of a run."""
  return model_file.Model(
    gan=gan,
    generator=generator,
    steps=step,
    class_names=dataset.class_names,
    dataset=dataset.name,
  )


def _plan(config: TrainConfig, dataset: data.ImageDataset, run: RunDir) -> GAN:
  """Settings, mechanism and models; written to the run directory, or checked against it."""
  about = {
    'num_examples': len(dataset),
    'image_shape': list(dataset.image_shape),
    'num_classes': dataset.num_classes,
    'class_names': list(dataset.class_names),
  }
  if run.config.is_file():
    saved = run.load_config()
    run.check_same_config(saved.get('config', {}), config.to_dict())
    run.check_same_config(saved.get('data', {}), about)
    mechanism = DPMechanism.from_dict(saved['mechanism'])
    return GAN(config, mechanism, dataset.image_shape, dataset.num_classes)
  mechanism = make_mechanism(config, len(dataset))
  gan = GAN(config, mechanism, dataset.image_shape, dataset.num_classes)
  run.save_config(
    {
      'config': config.to_dict(),
      'mechanism': mechanism.to_dict(),
      'data': about,
      'environment': environment(),
    }
  )
  return gan


def start_or_resume(
  init: Callable[[jax.Array], State],
  seed: int | None,
  ledger: Ledger,
  checkpoints: Checkpoints,
) -> State:
  """The state of the latest checkpoint; without one, `init` of a new key, saved before use.

  Raises:
    InputError: steps are charged but there is no checkpoint to continue from.
  """
  key = root_key(seed)
  restored = checkpoints.restore_latest(jax.eval_shape(init, key))
  if restored is not None:
    return restored[1]
  if charged := sum(ledger.charged_steps(stage) for stage in ledger.stages):
    raise _validate.InputError(
      f'the ledger charges {charged} steps but there is no checkpoint to continue from: a new '
      'start would be a second release; use another run directory, which spends a budget of its '
      'own'
    )
  state = jax.jit(init)(key)
  checkpoints.save(0, state, {})
  checkpoints.wait()  # the keys must be on the disk before anything is charged
  return state


def _take_steps(
  gan: GAN,
  dataset: data.ImageDataset,
  run: RunDir,
  ledger: Ledger,
  checkpoints: Checkpoints,
  state: GANState,
  progress: bool,
) -> GANState:
  config, mechanism = gan.config, gan.mechanism
  step, total = int(state.step), mechanism.steps
  with metrics.MetricsWriter(run.path, resume_step=step if step else None) as writer:
    if step == total:
      return state
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    stride = steps_per_report(config, mechanism)
    chunks: dict[int, Any] = {}
    grid = _GridMaker(gan, run)
    budget = mechanism.epsilon()
    bar = metrics.Progress(total, step, budget, device_name()) if progress else None
    while step < total:
      length = min(stride - step % stride, total - step)
      is_new = length not in chunks
      if is_new:
        chunks[length] = make_chunk(gan, length)
      ledger.charge(step + length, STAGE)
      started = time.monotonic()
      state, history = chunks[length](state, images, labels)
      if is_new and bar:  # a first call compiles, then returns while the device works
        bar.note(f'compiled {length} steps in {time.monotonic() - started:.1f} s')
        started = time.monotonic()
      step += length
      epsilon = budget if step == total else mechanism.epsilon(step)  # while the device works
      _wait_interruptibly(history)
      means = {name: _mean(values) for name, values in history._asdict().items()}
      speed = {'steps_per_second': length / (time.monotonic() - started)}
      writer.write(step, {'epsilon': epsilon, **means}, clock=speed)
      if bar:
        bar.update(step, epsilon, d=means['d_loss_real'] + means['d_loss_fake'], g=means['g_loss'])
      report = -(-step // stride)
      if report % config.reports_per_grid == 0 or step == total:
        grid.draw(state.g_average, step, epsilon)
      if config.reports_per_snapshot and (
        report % config.reports_per_snapshot == 0 or step == total
      ):
        name = f'step_{step:08d}.safetensors'
        _model(gan, state.g_average, step, dataset).save(run.snapshots / name)
        if config.g_ema_decay:
          _model(gan, state.g, step, dataset).save(run.snapshots / 'as_trained' / name)
      if report % config.reports_per_checkpoint == 0 or step == total:
        checkpoints.save(step, state, {'epsilon': epsilon if np.isfinite(epsilon) else 'inf'})
    checkpoints.wait()
    if bar:
      bar.close()
  return state


def _wait_interruptibly(history: Any) -> None:
  """Waits for the device without holding up Ctrl-C, which Python handles between bytecodes only."""
  while not all(leaf.is_ready() for leaf in jax.tree.leaves(history)):
    time.sleep(0.02)


def _mean(values: jax.Array) -> float:
  array = np.asarray(values, np.float64)
  array = array[~np.isnan(array)]
  return float(array.mean()) if array.size else float('nan')


class _GridMaker:
  """Draws the same hundred z as a picture whenever asked: progress one can see."""

  def __init__(self, gan: GAN, run: RunDir) -> None:
    self._run = run
    self._image_shape = gan.image_shape
    classes = min(gan.num_classes, 10)
    self._labels = np.repeat(np.arange(classes, dtype=np.int32), 10)
    self._conditional = gan.config.generator not in models.UNCONDITIONAL
    self._generate = jax.jit(
      lambda g: gan.generate(g, jax.random.key(_GRID_KEY), jnp.asarray(self._labels))
    )

  def draw(self, g: GeneratorState, step: int, epsilon: float) -> None:
    spent = f'epsilon {epsilon:.3g}' if np.isfinite(epsilon) else 'no privacy'
    figures.sample_grid(
      data.to_uint8(np.asarray(self._generate(g))),
      self._run.grids / f'step_{step:08d}.png',
      labels=self._labels if self._conditional else None,
      scale=picture_scale(self._image_shape),
      title=f'step {step}, {spent}',
    )


def picture_scale(image_shape: tuple[int, ...]) -> int:
  """Screen pixels per pixel: small images are shown about as large as those of MNIST."""
  return max(1, round(56 / image_shape[0]))


def _leave_samples(model: model_file.Model, run: RunDir, state: GANState) -> None:
  """Samples, their picture and the loss curves; drawn from the state, so the same every time."""
  key = jax.random.fold_in(jax.random.fold_in(state.fake_key, state.step), 2)
  images, labels = model.sample(model.gan.config.num_samples, key=key)
  export.export(run.samples_npz, images, labels, format='npz', overwrite=True)
  classes = min(model.gan.num_classes, 10)
  shown = np.repeat(np.arange(classes, dtype=np.int32), 10)
  images, labels = model.sample(
    len(shown), labels=shown if model.is_conditional else None, key=jax.random.fold_in(key, 1)
  )
  scale = picture_scale(model.gan.image_shape)
  figures.sample_grid(images, run.samples_png, labels=labels, scale=scale)
  figures.loss_curves(metrics.read_metrics(run.metrics), run.losses_png)


def environment() -> Mapping[str, Any]:
  """Software and hardware at hand; results are bit-identical on the same only."""
  devices = jax.devices()
  versions = {name.replace('-', '_'): importlib.metadata.version(name) for name in PACKAGES}
  return {
    'dpgan_jax': dpgan_jax.__version__,
    'python': platform.python_version(),
    **versions,
    'backend': devices[0].platform,
    'device': devices[0].device_kind,
    'devices': len(devices),
  }


def device_name() -> str:
  """The device that computes, for people: 'cpu', or the accelerator's name."""
  device = jax.devices()[0]
  return device.platform if device.platform == device.device_kind else device.device_kind


def restore_model(run_dir: str | os.PathLike[str]) -> Trained:
  """The generator of a run's latest good checkpoint; the run may still be training.

  Raises:
    InputError: not a run directory, or no checkpoint in it.
  """
  run = RunDir.open(pathlib.Path(run_dir), create=False)
  saved = run.load_config()
  try:
    config = TrainConfig.from_dict(saved['config'])
    mechanism = DPMechanism.from_dict(saved['mechanism'])
    about = saved['data']
    height, width, channels = (
      _validate.integer('image_shape', size, minimum=1, maximum=4096)
      for size in about['image_shape']
    )
    num_classes = _validate.integer('num_classes', about['num_classes'], minimum=1)
    gan = GAN(config, mechanism, (height, width, channels), num_classes)
    class_names = tuple(about['class_names'])
  except _validate.InputError:
    raise
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise _validate.InputError(f'{run.config} is not the record of a run: {error!r}') from None
  with Checkpoints(run.checkpoints) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(gan.init, jax.random.key(0)))
  if restored is None:
    raise _validate.InputError(f'{run.path} has no checkpoint yet: let dpgan_jax.train run first')
  step, state, _ = restored
  model = model_file.Model(
    gan=gan, generator=state.g_average, steps=step, class_names=class_names, dataset=config.dataset
  )
  return Trained(model, run)
