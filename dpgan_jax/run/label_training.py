"""Training of what labels the samples, in the run's directory and under the run's ledger."""

from __future__ import annotations

import dataclasses
import pathlib

import jax

from dpgan_jax import _validate
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.models import label_cnn, labelling
from dpgan_jax.models.classifier import Classifier
from dpgan_jax.models.classifier_inputs import prepare
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.run import classifier_run
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir


def train_linear(
  classifier: Classifier,
  dataset: datasets.ImageDataset,
  directory: RunDir,
  ledger: Ledger,
  *,
  progress: bool = True,
) -> Labeller:
  """Trains the labeller of a run in `directory`, or continues, or finds it finished.

  Args:
    classifier: from `make_classifier`.
    dataset: the private images and their classes.
    directory: where its checkpoints and metrics go; private as a whole.
    ledger: the run's.
    progress: show a progress bar on stderr.
  """
  state = classifier_run.train(
    classifier,
    lambda root: labelling.init(classifier, root),
    lambda: prepare(classifier.config, dataset.images),
    dataset.labels,
    directory,
    ledger,
    progress=progress,
  )
  return labelling.of_state(classifier, state)


def restore(classifier: Classifier, directory: pathlib.Path, *, paid: bool) -> Labeller | None:
  """The labeller of a run as it is at its end, or None where it is not there yet.

  Args:
    classifier: what it was made from.
    directory: where its checkpoints are.
    paid: whether all its steps are charged, so that it has to be there.

  Raises:
    InputError: it is paid for and not there.
  """
  with Checkpoints(RunDir(directory).checkpoints) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(classifier.init, jax.random.key(0)))
  if restored is not None and restored[0] == classifier.mechanism.steps:
    return labelling.of_state(classifier, restored[1])
  if paid:
    raise _validate.InputError(
      f'{directory} has no finished classifier to name samples: let dpgan_jax.train run'
    )
  return None


def train_cnn(
  classifier: Classifier,
  labeller: Labeller,
  draw: label_cnn.Draw,
  key: jax.Array,
  dataset: datasets.ImageDataset,
  directory: RunDir,
  ledger: Ledger,
  *,
  progress: bool = True,
) -> Labeller:
  """Trains the CNN of a run in `directory`, or continues, or finds it finished.

  Args:
    classifier: from `make_classifier`.
    labeller: names samples so far.
    draw: draws them; only called where nothing has been trained yet.
    key: what they are drawn with; nothing private comes of it.
    dataset: the private images and their classes.
    directory: where its checkpoints and metrics go; private as a whole.
    ledger: the run's.
    progress: show a progress bar on stderr.

  Returns:
    The labeller with the CNN beside it.
  """

  state = classifier_run.train(
    classifier,
    lambda root: label_cnn.init(classifier, root),
    lambda: dataset.images,
    dataset.labels,
    directory,
    ledger,
    first=lambda state: label_cnn.taught(classifier, state, draw, key, len(dataset)),
    progress=progress,
  )
  return dataclasses.replace(labeller, cnn=labelling.of_state(classifier, state))
