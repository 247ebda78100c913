"""A whole training run in its directory: planned, charged, interruptible, resumed bit for bit.

The order of events is what makes a crash harmless:

1. The state before the first step, which holds the keys, is saved and on the disk before anything
   is charged.
2. A chunk of steps is charged in the ledger, and the charge is on the disk, before it is started.
3. The chunk runs.
4. When it has ended, and never before, its metrics are written, then a checkpoint.

Host and device work at the same time. While a chunk runs, the host writes what there is to say of
the chunk before it (4) and then charges the one after it (2), which starts as soon as the running
one has ended. So the ledger may be two chunks ahead of the metrics on the disk: by the chunk that
runs, and by the next one. The next is charged only after the record before it was written without
an error; but a run that is interrupted or killed while it waits for the device has charged a chunk
that it did not start. That is harmless: a charge is an upper bound on what was taken, and never
beyond the steps that the run is planned to take. The ε of a metric line is that of the steps whose
metrics it holds, not that of the ledger; along the way an upper bound on it, since its exact value
would take longer than the steps.

A run killed anywhere in between continues at its last checkpoint and takes the same steps again,
with the same batches and the same noise. They were charged before; nothing is charged twice, and
nothing is ever taken uncharged. What names the samples is trained in the same way, under the same
ledger but in directories of its own and a chunk after the other: a linear classifier before the
GAN (`labelling`), a CNN after it (`label_cnn`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpgan_jax import (
  _keys,
  _validate,
  budget,
  data,
  export,
  figures,
  label_cnn,
  labelling,
  metrics,
  model_file,
  plan,
  resume,
)
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GANState, GeneratorState
from dpgan_jax.labelling import Labeller
from dpgan_jax.ledger import Ledger
from dpgan_jax.loop import make_chunk
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.plan import Plan
from dpgan_jax.recorder import ModelOf, Recorder, mixture_steps, picture_scale
from dpgan_jax.run_dir import RunDir

STAGE = budget.STAGE


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
      planned = _plan(config, dataset, run)
    except BaseException:
      if not existed:  # settings that do not fit leave nothing behind, not even an empty directory
        shutil.rmtree(run.path, ignore_errors=True)
      raise
    ledger = Ledger.open(
      run.ledger, stages=planned.budget.stages, data_fingerprint=dataset.fingerprint()
    )
    labeller = _labeller(planned, dataset, run, ledger, progress)

    def model_of(generator: GeneratorState, step: int) -> model_file.Model:
      return model_file.Model(
        planned.gan, generator, step, dataset.class_names, dataset.name, labeller
      )

    with Checkpoints(run.checkpoints) as checkpoints:
      state = resume.start_or_resume(planned.gan.init, config.seed, ledger, checkpoints, (STAGE,))
      ledger.require_covers(int(state.step))
      if run.metrics.is_file():  # a line is written after its steps were taken
        for record in metrics.read_metrics(run.metrics)[-1:]:
          ledger.require_covers(record['step'])
      state = _take_steps(planned, model_of, dataset, run, ledger, checkpoints, state, progress)
    model = model_of(state.g_average, int(state.step))
    model = dataclasses.replace(model, past=_past(planned, run, model.steps))
    model = _with_cnn(model, planned, dataset, run, ledger, state, progress)
    _leave_samples(model, run, state)
  return Trained(model, run)


def _plan(config: TrainConfig, dataset: data.ImageDataset, run: RunDir) -> Plan:
  """What is going to be done; written to the run directory, or checked against it."""
  about = {
    'num_examples': len(dataset),
    'image_shape': list(dataset.image_shape),
    'num_classes': dataset.num_classes,
    'class_names': list(dataset.class_names),
  }
  if run.config.is_file():
    saved = run.load_config()
    planned = plan.read(saved, run.config)
    # As read: a setting that an older version did not know has the value that changes nothing.
    run.check_same_config(planned.gan.config.to_dict(), config.to_dict())
    run.check_same_config(saved.get('data', {}), about)
    return planned
  made = plan.make(config, len(dataset), dataset.image_shape, dataset.num_classes)
  run.save_config({**made.to_record(), 'data': about, 'environment': resume.environment()})
  return made


def _labeller(
  planned: Plan, dataset: data.ImageDataset, run: RunDir, ledger: Ledger, progress: bool
) -> Labeller | None:
  """What names the samples, trained before the GAN's first step; None if nothing does."""
  if planned.classifier is None:
    return None
  run.labeller.mkdir(exist_ok=True)
  return labelling.train(
    planned.classifier, dataset, RunDir(run.labeller), ledger, progress=progress
  )


def _past(planned: Plan, run: RunDir, step: int) -> dict[int, GeneratorState]:
  """The generators of earlier steps that samples are drawn from beside that of `step`."""
  config, mechanism = planned.gan.config, planned.gan.mechanism
  steps = mixture_steps(config, mechanism.steps, steps_per_report(config, mechanism))
  return {s: model_file.load(run.snapshot(s)).generator for s in steps if s < step}


def _with_cnn(
  model: model_file.Model,
  planned: Plan,
  dataset: data.ImageDataset,
  run: RunDir,
  ledger: Ledger,
  state: GANState,
  progress: bool,
) -> model_file.Model:
  """The trained generator, its samples named by the CNN too; as it is if none is planned."""
  if planned.cnn is None:
    return model
  assert model.labeller is not None  # TrainConfig asks for both

  def draw(num: int, key: jax.Array) -> Any:
    return model.sample(num, key=key)

  run.label_cnn.mkdir(exist_ok=True)
  labeller = label_cnn.train(
    planned.cnn, model.labeller, draw, _samples_key(state, 3), dataset, RunDir(run.label_cnn),
    ledger, progress=progress,
  )  # fmt: skip
  return dataclasses.replace(model, labeller=labeller)


def _take_steps(
  planned: Plan,
  model_of: ModelOf,
  dataset: data.ImageDataset,
  run: RunDir,
  ledger: Ledger,
  checkpoints: Checkpoints,
  state: GANState,
  progress: bool,
) -> GANState:
  gan, config, mechanism = planned.gan, planned.gan.config, planned.gan.mechanism
  step, total = int(state.step), mechanism.steps
  with metrics.MetricsWriter(run.path, resume_step=step if step else None) as writer:
    if step == total:
      return state
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    stride = steps_per_report(config, mechanism)
    bar = None
    if progress:
      bar = metrics.Progress(total, step, planned.budget.epsilon(), resume.device_name())
    recorder = Recorder(planned, model_of, run, writer, checkpoints, bar, stride)
    chunks: dict[int, Any] = {}
    waiting: Callable[[], None] | None = None  # writes the record of the chunk that ended last
    ended = 0.0
    end = _end_of_chunk(step, stride, total)
    ledger.charge(end, STAGE)
    while step < total:
      length = end - step
      is_new = length not in chunks
      if is_new:
        chunks[length] = make_chunk(gan, length)
      called = time.monotonic()
      state, history = chunks[length](state, images, labels)
      started = time.monotonic()
      if is_new and bar:  # a first call compiles, then returns while the device works
        bar.note(f'compiled {length} steps in {started - called:.1f} s')
      step = end
      # The device is at work; what follows until `_wait_interruptibly` does not hold it up.
      if waiting is not None:
        waiting()
        waiting = None  # and with it the copy of the state, before `keep` makes the next
      if step < total:
        end = _end_of_chunk(step, stride, total)
        ledger.charge(end, STAGE)
      kept = recorder.keep(step, state)
      _wait_interruptibly(history, started)
      # From end to end, whatever the device did in between; but compiling is no step.
      since, ended = started if is_new else ended, time.monotonic()
      waiting = functools.partial(recorder.write, kept, history, length / (ended - since))
      del kept
    assert waiting is not None
    waiting()
    checkpoints.wait()
    if bar:
      bar.close()
  return state


def _end_of_chunk(step: int, stride: int, total: int) -> int:
  """The step that the chunk after `step` ends at: the next to be reported, or the last."""
  return min(step - step % stride + stride, total)


def _wait_interruptibly(history: Any, since: float) -> None:
  """Waits for the device without holding up Ctrl-C, which Python handles between bytecodes only.

  It looks again after 1/256 of the time since the start, so that the end of a chunk is noticed
  within 0.4 % of its time, at the price of a few looks.
  """
  leaves = jax.tree.leaves(history)
  while not all(leaf.is_ready() for leaf in leaves):
    time.sleep(min(max((time.monotonic() - since) / 256, 1e-4), 0.02))


def _leave_samples(model: model_file.Model, run: RunDir, state: GANState) -> None:
  """Samples, their picture and the loss curves; drawn from the state, so the same every time."""
  key = _samples_key(state, 2)
  images, labels = model.sample(model.gan.config.num_samples, key=key)
  export.export(run.samples_npz, images, labels, format='npz', overwrite=True)
  num = 10 * min(model.gan.num_classes, 10)
  images, labels = model.sample_for_picture(num, jax.random.fold_in(key, 1))
  scale = picture_scale(model.gan.image_shape)
  figures.sample_grid(images, run.samples_png, labels=labels, scale=scale)
  figures.loss_curves(metrics.read_metrics(run.metrics), run.losses_png)


def _samples_key(state: GANState, purpose: int) -> jax.Array:
  """A key for samples at this step; the GAN itself draws nothing for it."""
  return jax.random.fold_in(jax.random.fold_in(state.fake_key, state.step), purpose)


def restore_model(run_dir: str | os.PathLike[str]) -> Trained:
  """The generator of a run's latest good checkpoint; the run may still be training.

  Raises:
    InputError: not a run directory, no checkpoint in it, or what names its samples is lost.
  """
  run = RunDir.open(pathlib.Path(run_dir), create=False)
  saved = run.load_config()
  planned = plan.read(saved, run.config)
  try:
    class_names = tuple(map(str, saved['data']['class_names']))
  except (KeyError, TypeError) as error:
    raise _validate.InputError(f'{run.config} is not the record of a run: {error!r}') from None
  with Checkpoints(run.checkpoints) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(planned.gan.init, _keys.from_seed(0)))
  if restored is None:
    raise _validate.InputError(f'{run.path} has no checkpoint yet: let dpgan_jax.train run first')
  step, state, _ = restored
  config = planned.gan.config
  labeller = None
  if planned.classifier is not None:
    labeller = labelling.restore(planned.classifier, run.labeller, paid=True)
  if planned.cnn is not None and labeller is not None and step == planned.gan.mechanism.steps:
    ledger = Ledger.read(run.ledger, stages=planned.budget.stages)
    paid = ledger.charged_steps(label_cnn.STAGE) == planned.cnn.mechanism.steps
    cnn = labelling.restore(planned.cnn, run.label_cnn, paid=paid)
    labeller = dataclasses.replace(labeller, cnn=cnn)
  model = model_file.Model(
    planned.gan, state.g_average, step, class_names, config.dataset, labeller,
    _past(planned, run, step),
  )  # fmt: skip
  return Trained(model, run)
