"""Trains a private classifier: `python -m dpgan_jax.classify
--flagfile=experiments/classifiers/classifier_eps1.flags`.

Leaves `classifier.safetensors` (weights, and the public record of how they came about) and
`classify.json` (accuracy, ε and what it covers) in the run directory. Running the same command
again continues an interrupted run, bit for bit. The test set is scored once, at the end; settings
are chosen with `--holdout=10000`, which scores a part of the training set (about so many: a hash
of each image says which) and leaves the test set alone. `--seeds=3` repeats the run for the spread,
`--results=FILE` collects what was measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpgan_jax import _cli, _devices, _files, _settings, _shared_flags, _tensor_file, _validate
from dpgan_jax.budget import cross_check
from dpgan_jax.data import datasets, naming, sources
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import labelling
from dpgan_jax.models.classifier import Classifier, ClassifierState
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.classifier_inputs import prepare
from dpgan_jax.networks import layers
from dpgan_jax.privacy import accounting
from dpgan_jax.run import secrets
from dpgan_jax.run.loop import Run
from dpgan_jax.run.stages import ClassifierStage, DataOn

RESULT, WEIGHTS = 'classify.json', 'classifier.safetensors'
_FORMAT = 'dpgan_jax classifier 1'


@dataclasses.dataclass(frozen=True)
class Split:
  """Prepared inputs and labels of what is trained on and what is scored.

  Attributes:
    train: the private data set that the guarantee is about.
    inputs: of `train`, prepared.
    scored_inputs, scored_labels: what accuracy is computed on.
    scored_on: what that is, in words.
  """

  train: datasets.ImageDataset
  inputs: np.ndarray
  scored_inputs: np.ndarray
  scored_labels: np.ndarray
  scored_on: str


def load(config: ClassifierConfig, data_dir: str | None, labels_csv: str | None = None) -> Split:
  """Reads and prepares the data; with `holdout`, the test set is not even read.

  Raises:
    InputError: data that are missing or damaged, or fewer examples than are to be held out.
  """
  source = sources.Source.of(
    dataclasses.replace(config, holdout=0), data_dir=data_dir, labels_csv=labels_csv
  )
  whole = source.load_images()
  if not config.holdout:
    test = source.load_images('test')
    if test.spec.shape != whole.spec.shape or test.num_classes != whole.num_classes:
      raise _validate.InputError(
        f'expected test images like those for training, {whole.spec.shape} of '
        f'{whole.num_classes} classes, got {test.spec.shape} of {test.num_classes}'
      )
    naming.require_same(test.name, test.class_names, whole.class_names, 'training')
    where = f'{len(test)} test examples, looked at only here'
    inputs = prepare(config, whole.images)
    return Split(whole, inputs, prepare(config, test.images), test.labels, where)
  train, aside = sources.hold_out(whole, config.holdout)
  where = f'{len(aside)} held-out training examples'
  return Split(
    train, prepare(config, train.images), prepare(config, aside.images), aside.labels, where
  )


def classifier_of(saved: Mapping[str, Any], where: object, spec: Spec) -> Classifier:
  """The classifier of a run's config.json.

  Raises:
    InputError: it is not the record of a classifier.
  """
  try:
    return labelling.from_record(saved, spec, saved['config']['seed'])
  except (KeyError, TypeError, AttributeError) as error:
    raise _validate.InputError(f'{where} is not the record of a classifier: {error!r}') from None


def run(
  config: ClassifierConfig,
  split: Split,
  run_dir: str | os.PathLike[str],
  *,
  progress: bool = True,
  devices: int = 1,
  data_on: DataOn = 'device',
) -> dict[str, Any]:
  """Trains in a run directory, or continues there; returns what `classify.json` then holds.

  Args:
    config: the settings; those of the earlier call when continuing.
    split: the data.
    run_dir: directory of the run; made where missing.
    progress: show a progress bar on stderr.
    devices: how many compute; a run may go on with another number.
    data_on: where the prepared inputs are; the same run either way.

  Raises:
    InputError: the directory belongs to another run (naming what differs), is in use, or is
      damaged; settings that do not fit the data; an ε that a second computation contradicts.
  """
  opened = Run.open(
    run_dir,
    config.to_dict(),
    split.train,
    make=lambda: Classifier.create(config, split.train.spec),
    read=lambda saved, where: classifier_of(saved, where, split.train.spec),
    progress=progress,
    devices=devices,
  )
  with opened as (classifier, run):
    stage = ClassifierStage(classifier, split.train, inputs=split.inputs, data_on=data_on)
    state = run.carry_out(stage)
    save_weights(run.directory.path / WEIGHTS, classifier, state)
    result = _result(classifier, state, split)
    _files.write_json(run.directory.path / RESULT, result)
  return result


# --- what is left behind --------------------------------------------------------------------------


def save_weights(
  path: str | os.PathLike[str], classifier: Classifier, state: ClassifierState
) -> None:
  """Writes weights and centre (safetensors) with their public record; no key, no seed."""
  record = {
    'format': _FORMAT,
    **labelling.to_record(classifier),
    'data': classifier.spec.to_record(),
    'steps': int(state.step),
  }
  leaves = jax.tree_util.tree_leaves_with_path({'params': state.average, 'centre': state.centre})
  tensors = {jax.tree_util.keystr(p, simple=True, separator='/'): leaf for p, leaf in leaves}
  _tensor_file.write(path, tensors, record)


def _result(classifier: Classifier, state: ClassifierState, split: Split) -> dict[str, Any]:
  config, m = classifier.config, classifier.mechanism
  correct = classifier.predict(state, split.scored_inputs) == split.scored_labels
  budget = classifier.budget
  epsilon = budget.epsilon()
  cross_check.require_agreement(
    budget.event(), {m.delta: epsilon}, neighboring_relation=m.neighboring_relation
  )
  # The people in a test set of one's own are not protected by this ε either.
  private = bool(config.holdout) or split.train.name not in datasets.PUBLIC
  return {
    'accuracy': round(100 * float(np.mean(correct)), 4),
    'accuracy_computed_on': split.scored_on,
    'accuracy_is_private': private,
    'epsilon': accounting.rounded_up(epsilon),
    'delta': m.delta,
    'neighboring_relation': m.neighboring_relation,
    'stages': {name: stage.to_dict() for name, stage in classifier.stages.items()},
    'config': dataclasses.replace(config, seed=None).to_dict(),
    'parameters': layers.count_parameters(state.params),
    'seed': secrets.describe(config.seed),
    'covered': 'classifier.safetensors and predictions of it; epsilon is for one run',
    'not_covered': 'metrics.jsonl, checkpoints, ledger.jsonl'
    + (', this accuracy: keep private, or count the choice made by it' if private else ''),
  }


def record(path: pathlib.Path, results: list[dict[str, Any]]) -> None:
  """Adds runs of one setting to a JSON list of such, or puts them in the place of older ones."""
  first = results[0]
  scores = [r['accuracy'] for r in results]
  entry = {
    **{k: v for k, v in first.items() if k not in ('accuracy', 'covered', 'not_covered')},
    'accuracies': scores,
    'accuracy_mean': round(statistics.mean(scores), 3),
    'accuracy_standard_deviation': round(statistics.stdev(scores), 3) if scores[1:] else None,
    'note': 'epsilon is for each run; the runs together spend more. Settings were chosen on '
    'held-out training data of a public data set; a choice on private data has to be counted.',
  }
  try:
    entries = json.loads(path.read_bytes()) if path.exists() else []
    entries = [e for e in entries if e['config'] != entry['config']]
  except (ValueError, TypeError, KeyError):
    raise _validate.InputError(f'expected {path} to hold results of this command') from None
  _files.write_json(path, [*entries, entry])


# --- the command ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(_shared_flags.DataOptions, _shared_flags.ProcessOptions):
  """Flags of this command beside the settings of a classifier."""

  run_dir: str | None = _settings.field(
    None, 'Directory of the run; of one per seed with --seeds.', group='records', common=True
  )
  seeds: int | None = _settings.field(
    None, 'Train this many times, with the fixed seeds 0, 1, ..., in RUN_DIR/seed_<n>.', minimum=1,
    group='records', common=True,
  )
  results: str | None = _settings.field(
    None, 'JSON list of measured settings to add these runs to.', group='records'
  )


def define_flags() -> None:
  _cli.define_flags(ClassifierConfig, Options)


def main() -> None:
  config = _cli.config_from_flags(ClassifierConfig)
  options = _cli.config_from_flags(Options)
  devices = options.start_devices()
  where: Any = options.data_on
  say = print if _devices.is_owner() else lambda _: None
  if not options.run_dir:
    raise _validate.InputError('expected --run_dir=DIRECTORY, where weights and accuracy go')
  runs = {pathlib.Path(options.run_dir): config}
  if options.seeds is not None:
    if config.seed is not None:
      raise _validate.InputError('expected --seed or --seeds, not both')
    runs = {
      pathlib.Path(options.run_dir) / f'seed_{n}': dataclasses.replace(config, seed=n)
      for n in range(options.seeds)
    }
  split = load(config, options.data_dir, options.labels_csv)
  say(f'{config.dataset}: {len(split.train)} images, inputs {split.inputs.shape[1:]}')
  results = []
  for path, each in runs.items():
    results.append(run(each, split, path, devices=devices, data_on=where))
    r = results[-1]
    say(
      f'{path}: accuracy {r["accuracy"]:.2f} % on {r["accuracy_computed_on"]}; '
      f'epsilon {r["epsilon"]} at delta {r["delta"]:g}; seed {r["seed"].split(":")[0]}'
    )
  if options.results and _devices.is_owner():
    record(pathlib.Path(options.results), results)


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again to continue.')
