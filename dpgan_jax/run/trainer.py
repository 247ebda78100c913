"""A whole run in its directory: moments, or a GAN and what labels its samples; samples, figures.

Every stage is planned and budgeted before the first one starts, and carried out by the one loop
(`loop`) under one ledger: a release of moments; or a linear classifier or moments before the GAN,
the GAN, and a CNN after it, where they are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any, NamedTuple, get_args

import jax

from dpgan_jax import _figures, _files, _keys, _validate
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.data.sources import Dataset
from dpgan_jax.data.tables.files.open import OpenTable
from dpgan_jax.models import labelling
from dpgan_jax.models.classifier import Classifier
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.domains.plan import OpenMoments
from dpgan_jax.models.gan import GAN, GANState, GeneratorState
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.models.gans import verdict as gan_verdict
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.models.moments.images.encoding import Gaussians
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import generator_file, metrics, plan, samples
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.loop import Run
from dpgan_jax.run.plan import GANPlan
from dpgan_jax.run.releases import schema
from dpgan_jax.run.releases.moments import (
  MomentsStage,
  read_network,
  released,
  restore_moments,
  with_network,
)
from dpgan_jax.run.stages import ClassifierStage, DataOn, GANStage, mixture_steps, steps_per_report

# Folders of what is before the GAN and after it.
MOMENTS, BEFORE, AFTER = 'moments', 'labeller', 'label_cnn'


@dataclasses.dataclass(frozen=True)
class Trained:
  """The end of a run.

  Attributes:
    model: the publishable part: the generator that samples are drawn from, and what it cost.
    run: its private directory.
  """

  model: Synthesizer
  run: RunDir


def train(
  config: TrainConfig,
  dataset: Dataset,
  run_dir: str | os.PathLike[str],
  *,
  progress: bool = True,
  devices: int = 1,
  data_on: str = 'device',
) -> Trained:
  """Makes a model with differential privacy, or continues where an earlier call was interrupted.

  Args:
    config: the settings; those of the earlier call when continuing.
    dataset: the private records.
    run_dir: directory of the run; made where missing.
    progress: show a progress bar on stderr.
    devices: how many compute; a run may go on with another number.
    data_on: where the records of a GAN, and of what labels its samples, are: 'device', or 'host'
      where they do not fit there; the same run either way. Moments read them on the host always,
      and compute scattering features of some hundred at a time.

  Returns:
    The trained generator. The directory then holds samples, figures, metrics, ledger, checkpoints.

  Raises:
    InputError: the directory belongs to another run (naming what differs), is in use, or is
      damaged; settings that do not fit the data.
  """
  where: Any = _validate.one_of('data_on', data_on, get_args(DataOn))
  opened = Run.open(
    run_dir,
    config.to_dict(),
    dataset,
    make=lambda: plan.make(config, dataset.spec),
    read=plan.read,
    progress=progress,
    devices=devices,
  )
  with opened as (planned, run):
    if isinstance(planned, OpenMoments):
      assert isinstance(dataset, OpenTable)  # the plan has refused anything else
      state = run.carry_out(schema.SchemaStage(planned, dataset, run.directory))
      found = schema.found(run.directory, state)
      planned, dataset = planned.closed(found), dataset.closed(found)
    assert not isinstance(dataset, OpenTable)
    if isinstance(planned, Moments):
      state = run.carry_out(MomentsStage(planned, dataset))
      key = jax.random.fold_in(state.sample_key, 2)
      model = with_network(released(planned, state), run.directory, key, progress=progress)
      _leave_samples(model, run.directory, state.sample_key)
    else:
      assert isinstance(dataset, ImageDataset)  # the plan has refused anything else
      model, state = _train_gan(planned, dataset, run, where)
      drawn = _leave_samples(model, run.directory, _samples_key(state, 2))
      _leave_signs(model, state, drawn, run.directory)
  return Trained(model, run.directory)


def _train_gan(
  planned: GANPlan, dataset: ImageDataset, run: Run, data_on: DataOn
) -> tuple[GANSynthesizer, GANState]:
  """The model, and where the GAN's training ended."""
  labellers: tuple[Labeller, ...] = ()
  for classifier in planned.before:
    state = run.carry_out(ClassifierStage(classifier, dataset, folder=BEFORE, data_on=data_on))
    labellers += (Labeller.of_state(classifier, state),)
  of_classes = None
  if planned.moments is not None:
    state = run.carry_out(MomentsStage(planned.moments, dataset, folder=MOMENTS))
    of_classes = released(planned.moments, state).model
    assert isinstance(of_classes, Gaussians)  # of images

  def model_of(generator: GeneratorState, step: int) -> GANSynthesizer:
    return GANSynthesizer(planned.gan, generator, step, labellers, moments=planned.moments)

  stage = GANStage(planned.gan, dataset, run.directory, model_of, data_on, of_classes)
  state = run.carry_out(stage)
  model = model_of(state.g_average, int(state.step))
  model = dataclasses.replace(model, past=_past(planned, run.directory, model.steps))
  for classifier in planned.after:
    taught = functools.partial(
      labelling.taught, classifier, draw=model.draw, key=_samples_key(state, 3)
    )
    stage = ClassifierStage(classifier, dataset, folder=AFTER, taught=taught, data_on=data_on)
    end = run.carry_out(stage)
    added = Labeller.of_state(classifier, end)
    model = dataclasses.replace(model, labellers=(*model.labellers, added))
  _figures.loss_curves(metrics.read_metrics(run.directory.metrics), run.directory.losses_png)
  return model, state


def _past(planned: GANPlan, run: RunDir, step: int) -> dict[int, GeneratorState]:
  """The generators of earlier steps that samples are drawn from beside that of `step`."""
  config, mechanism = planned.gan.config, planned.gan.mechanism
  steps = mixture_steps(config, mechanism.steps, steps_per_report(config, mechanism))
  past = {}
  for earlier in (s for s in steps if s < step):
    path = run.snapshot(earlier)
    model = generator_file.load_gan(path)
    settings = (model.gan.mechanism, model.spec, model.steps)
    # Equal settings are not enough: generators of two runs cost twice as much.
    own = settings == (mechanism, planned.gan.spec, earlier)
    if not own or generator_file.run_of(path) != run.identity():
      raise _validate.InputError(
        f'{path} is not a generator of this run at step {earlier}: restore it from a backup'
      )
    past[earlier] = model.generator
  return past


def _leave_samples(model: Synthesizer, run: RunDir, key: jax.Array) -> samples.Samples:
  """Samples and their picture; by a key of the run, so the same every time."""
  drawn = model.sample(model.config.num_samples, key=key)
  samples.write(model, *drawn, run.samples(model.spec.kind), overwrite=True)
  shown = samples.for_picture(model, drawn, jax.random.fold_in(key, 1))
  samples.picture_of(model.spec, *shown, run.samples_png)
  return drawn


def _leave_signs(
  model: GANSynthesizer, state: GANState, drawn: samples.Samples, run: RunDir
) -> None:
  """What the verdict on a GAN follows from, of its samples; of more of them if these are few."""
  if len(drawn[0]) < gan_verdict.LOOKED_AT:
    drawn = model.sample(gan_verdict.LOOKED_AT, key=_samples_key(state, 4))
  signs = gan_verdict.look(model, state.d_params, int(state.pace.g_steps), *drawn)
  _files.write_json(run.signs, dataclasses.asdict(signs))


def _samples_key(state: GANState, purpose: int) -> jax.Array:
  """A key for samples at this step; the GAN itself draws nothing for it."""
  return jax.random.fold_in(jax.random.fold_in(state.fake_key, state.step), purpose)


# --- reading a run --------------------------------------------------------------------------------


def restore_model(run_dir: str | os.PathLike[str]) -> Trained:
  """The generator of a run's latest good checkpoint; the run may still be training.

  Raises:
    InputError: not a run directory, no checkpoint in it, or what labels its samples is lost.
  """
  run = RunDir.open(pathlib.Path(run_dir), create=False)
  planned = schema.settled(plan.read(run.load_config(), run.config), run)
  if isinstance(planned, Moments | OpenMoments):
    model = restore_moments(planned, run) if isinstance(planned, Moments) else None
    if model is None:
      raise _validate.InputError(f'{run.path} has released nothing yet: let dpgan_jax.train run')
    return Trained(read_network(model, run), run)
  restored = _latest(planned.gan, run.path, run.identity())
  if restored is None:
    raise _validate.InputError(f'{run.path} has no checkpoint yet: let dpgan_jax.train run first')
  step, state = restored
  labellers = tuple(_finished(c, run, BEFORE) for c in planned.before)
  if step == planned.gan.mechanism.steps:
    ledger = Ledger.read(run.ledger, stages=planned.budget.stages, identity=run.identity())
    for classifier in planned.after:
      if ledger.charged_steps(classifier.stage) == classifier.mechanism.steps:
        labellers += (_finished(classifier, run, AFTER),)
  past = _past(planned, run, step)
  model = GANSynthesizer(planned.gan, state.g_average, step, labellers, past, planned.moments)
  return Trained(model, run)


def _finished(classifier: Classifier, run: RunDir, folder: str) -> Labeller:
  restored = _latest(classifier, run.path / folder, run.identity())
  if restored is None or restored[0] != classifier.mechanism.steps:
    raise _validate.InputError(
      f'{run.path / folder} has no finished classifier to label samples: let dpgan_jax.train run'
    )
  return Labeller.of_state(classifier, restored[1])


class _StateOf01(NamedTuple):
  """A classifier's state in checkpoints of version 0.1: `ClassifierState` and one key more."""

  step: Any
  params: Any
  average: Any
  opt_state: Any
  centre: Any
  batch_key: Any
  centre_key: Any


def _latest(
  model: Classifier | GAN, folder: pathlib.Path, identity: str | None
) -> tuple[int, Any] | None:
  """Step and state of the latest good checkpoint in a folder of a run."""
  with Checkpoints(RunDir(folder).checkpoints, identity=identity) as checkpoints:
    key = _keys.from_seed(0)
    abstract = jax.eval_shape(model.init, key)
    if identity is None and isinstance(model, Classifier):
      abstract = _StateOf01(*abstract, centre_key=jax.eval_shape(lambda: key))
    restored = checkpoints.restore_latest(abstract)
  return None if restored is None else restored[:2]
