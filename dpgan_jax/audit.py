"""Attacks a run, or the mechanism, and says what ε that proves: `python -m dpgan_jax.audit
--flagfile=experiments/audit_one_step.flags`.

Prints a lower bound on ε with its confidence beside the accounted ε, and writes audit.json. A bound
above the accounted ε means that the guarantee is false; one below it proves nothing more than
itself. Three modes:

* `--mode=gradient`: many short runs of the mechanism's own parts in their worst case. No data, no
  training; comes close to the accounted ε. Settings: `--num_examples`, `--batch_size`,
  `--noise_multiplier`, `--steps`, `--delta`, ... as for training.
* `--mode=one_run`: trains once, with the settings of any flag file, with canaries planted. It is a
  release of its own: on private data it spends the run's ε again.
* `--mode=samples`: membership attacks on the samples of `--run_dir`, or on `--samples=FILE.npz`. It
  reads the training images: its figures are for the data owner.

From Python, `gradient_bound` is the first of them, for any mechanism and any parts put in the place
of its own: what a table of planted faults calls.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shlex
import sys
import time
import warnings
from typing import Any

import numpy as np
from absl import flags

import dpgan_jax
from dpgan_jax import (
  _files,
  _keys,
  _validate,
  audit_run,
  budget,
  canaries,
  cli,
  data,
  evaluate,
  membership,
  trainer,
)
from dpgan_jax.audit_gradient import GradientAudit, Parts, gradient_bound
from dpgan_jax.config import TrainConfig

__all__ = ['GradientAudit', 'Parts', 'gradient_bound', 'main']

FLAGS = flags.FLAGS
MODES = ('gradient', 'one_run', 'samples')
RESULT = 'audit.json'


def define_flags() -> None:
  cli.define_flags(TrainConfig)
  flags.DEFINE_string('mode', None, 'gradient, one_run or samples.')
  flags.DEFINE_string('name', None, 'What the audit is called in audit.json; default: the mode.')
  flags.DEFINE_string(
    'out', None, 'Directory of the audit, where audit.json goes; default: runs/audit/<name>.'
  )
  flags.DEFINE_string('results', None, 'Another file to write what audit.json holds to.')
  flags.DEFINE_float('confidence', 0.95, 'Of each bound.')
  flags.DEFINE_integer('audit_seed', 0, 'Seed of simulated runs, canaries and coins.')
  flags.DEFINE_string(
    'data_dir', None, 'Folder (or .npz file) of the data; default: download by name.'
  )
  flags.DEFINE_integer('num_examples', None, 'gradient: N of the mechanism; tens are as good.')
  flags.DEFINE_integer('trials', 200_000, 'gradient: runs, half of them with the canary.')
  flags.DEFINE_integer('dimension', 32, 'gradient: entries of the gradient.')
  flags.DEFINE_integer(
    'canaries', 1000, 'one_run: records planted, each in the data set with probability 1/2.'
  )
  flags.DEFINE_string(
    'canary_kind',
    'coordinates',
    'one_run: coordinates (gradients), random_pixels or mislabelled (test images).',
  )
  flags.DEFINE_string('run_dir', None, 'samples: directory of the run that is attacked.')
  flags.DEFINE_string(
    'samples', None, 'samples: instead of run_dir, an .npz file of images x. Needs --dataset.'
  )
  flags.DEFINE_integer('candidates', 5000, 'samples: images of each kind that are asked about.')


# --- the modes -----------------------------------------------------------------------------------


def gradient(config: TrainConfig) -> dict[str, Any]:
  if FLAGS.num_examples is None:
    raise _validate.InputError('expected --num_examples=N, the N of the mechanism (tens will do)')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # δ ≥ 1/N is no concern where there are no data
    mechanism = budget.make(config, FLAGS.num_examples).mechanism
  show = evaluate.Progress()
  found = gradient_bound(
    mechanism,
    trials=FLAGS.trials,
    key=_keys.from_seed(FLAGS.audit_seed),
    confidence=FLAGS.confidence,
    dimension=FLAGS.dimension,
    progress=lambda share: show.update('simulated runs', share),
  )
  show.close()
  return {
    'steps': found.steps,
    'accounted_epsilon': found.accounted_epsilon,
    'delta': found.delta,
    'lower_bound': found.lower_bound,
    'family_bound': found.family_bound,
    'refuted': found.refuted or found.lower_bound > found.accounted_epsilon,
    'trials': found.trials,
    'tests': {
      'lower_bound': {'statistic': found.statistic, **dataclasses.asdict(found.errors)},
      'family_bound': {
        'statistic': found.family_statistic, **dataclasses.asdict(found.family_errors),
      },
    },
    'mechanism': mechanism.to_dict(),
    'says': 'lower_bound assumes nothing. family_bound takes the mechanism to be what it claims '
    'but for its noise multiplier. refuted: the runs contradict the accountant at some delta. '
    'Each with the confidence given. No data were read.',
  }  # fmt: skip


def one_run(config: TrainConfig, out: pathlib.Path) -> dict[str, Any]:
  _validate.integer('canaries', FLAGS.canaries, minimum=1)
  _validate.one_of('canary_kind', FLAGS.canary_kind, canaries.KINDS)
  dataset = data.load_dataset(config.dataset, data_dir=FLAGS.data_dir)
  others = None
  if FLAGS.canary_kind == 'mislabelled':
    others = data.load_dataset(config.dataset, data_dir=FLAGS.data_dir, split='test')
  planted = canaries.make_canaries(
    FLAGS.canary_kind,
    FLAGS.canaries,
    image_shape=dataset.image_shape,
    num_classes=dataset.num_classes,
    others=others,
    parameters=audit_run.count_parameters(config, dataset),
    seed=FLAGS.audit_seed,
  )
  about = {'canary_kind': FLAGS.canary_kind, 'audit_seed': FLAGS.audit_seed}
  found = audit_run.audit_run(
    config, dataset, planted, out, confidence=FLAGS.confidence, about=about
  )
  strongest = found.by['gradient']  # named before anything was measured
  m = found.mechanism
  return {
    'steps': m.steps,
    'accounted_epsilon': found.accounted_epsilon,
    'delta': m.delta,
    'lower_bound': strongest.lower_bound,
    'refuted': strongest.lower_bound > found.accounted_epsilon,
    'trials': 1,
    'canaries': found.canaries,
    'canaries_present': found.present,
    'canary_kind': FLAGS.canary_kind,
    'adversaries': {name: dataclasses.asdict(guesses) for name, guesses in found.by.items()},
    'mechanism': m.to_dict(),
    'config': dataclasses.replace(config, seed=None).to_dict(),
    'seed': 'fixed: reproducible, not private against those who know the seed'
    if config.seed is not None
    else 'secret: 64 bits from the operating system',
    'says': f'The data set has N = {m.num_examples} records: {len(dataset)} of {dataset.name} and '
    f'{found.canaries} canaries; epsilon is for adding or removing one of them. lower_bound is '
    'that of the adversary who sees every noisy gradient; loss sees the discriminator, samples '
    'only what is published, and both need canaries that are images. Each adversary has the '
    'confidence given to itself. This run is a release of its own: it spent its epsilon on the '
    'data.',
  }


def samples_attack() -> dict[str, Any]:
  if (FLAGS.run_dir is None) == (FLAGS.samples is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them')
  accounted, delta, steps = None, FLAGS.delta, None
  if FLAGS.samples is not None:
    if not FLAGS['dataset'].present:
      raise _validate.InputError('expected --dataset=NAME of the training images beside --samples')
    dataset, source = FLAGS.dataset, pathlib.Path(FLAGS.samples).name
    images, _ = evaluate.read_samples(FLAGS.samples)
  else:
    trained = trainer.restore_model(FLAGS.run_dir)
    model = trained.model
    dataset = FLAGS.dataset if FLAGS['dataset'].present else model.dataset
    accounted, delta, steps = model.epsilon(), model.gan.mechanism.delta, model.steps
    source = f'run at step {model.steps:,}'
    images, _ = model.sample(model.gan.config.num_samples, key=_keys.from_seed(FLAGS.audit_seed))
  train, test = (
    data.load_dataset(dataset, data_dir=FLAGS.data_dir, split=split) for split in data.SPLITS
  )
  show = evaluate.Progress()
  found = membership.attack(
    np.asarray(images),
    train.images,
    test.images,
    delta=delta,
    confidence=FLAGS.confidence,
    most=FLAGS.candidates,
    seed=FLAGS.audit_seed,
    progress=lambda share: show.update('attacks', share),
  )
  show.close()
  named = found['density_ratio']  # before anything was measured
  return {
    'steps': steps,
    'accounted_epsilon': accounted,
    'delta': delta,
    'lower_bound': named.guesses.lower_bound,
    'refuted': accounted is not None and named.guesses.lower_bound > accounted,
    'trials': 1,
    'candidates': 2 * min(FLAGS.candidates, len(train), len(test) // 2),
    'attacked': f'{len(images):,} samples, {source}',
    'attacks': {name: dataclasses.asdict(each) for name, each in found.items()},
    'says': f'Members are training images of {dataset}, non-members test images. The bounds hold '
    'if membership was decided by fair coins among the candidates; a split that differs in more '
    'than chance looks like a leak. Computed from training images: private.',
  }


# --- the command ---------------------------------------------------------------------------------


def main() -> None:
  if FLAGS.mode is None:
    raise _validate.InputError(f'expected --mode, one of {", ".join(MODES)}')
  _validate.one_of('mode', FLAGS.mode, MODES)
  _validate.fraction('confidence', FLAGS.confidence)
  _validate.integer('audit_seed', FLAGS.audit_seed, minimum=0, maximum=2**32 - 1)
  name = FLAGS.name or FLAGS.mode
  if not name.replace('_', '').replace('-', '').replace('.', '').isalnum():
    raise _validate.InputError(f'expected name of letters, digits and _-., got {name!r}')
  out = pathlib.Path(FLAGS.out or f'runs/audit/{name}')
  if out.exists() and not out.is_dir():
    raise _validate.InputError(f'expected out to be a directory, got the file {out}')
  started = time.monotonic()
  if FLAGS.mode == 'samples':
    found = samples_attack()
  else:
    config = cli.config_from_flags(TrainConfig)
    found = gradient(config) if FLAGS.mode == 'gradient' else one_run(config, out)
  record = {
    'name': name,
    'mode': FLAGS.mode,
    'confidence': FLAGS.confidence,
    **found,
    'audit_seed': FLAGS.audit_seed,
    'command': shlex.join(['python', '-m', 'dpgan_jax.audit', *sys.argv[1:]]),
    'dpgan_jax': dpgan_jax.__version__,
  }
  written = [out / RESULT, *([pathlib.Path(FLAGS.results)] if FLAGS.results else [])]
  for path in written:
    write(path, record)
  print(summary(record))
  print(f'{cli.duration(time.monotonic() - started)}; {written[-1]}')


def write(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
  """Writes a record as strict JSON; the file is whole or absent."""

  def finite(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
      return [finite(v) for v in value]
    return 'inf' if isinstance(value, float) and math.isinf(value) else value

  text = json.dumps(finite(record), indent=2, ensure_ascii=False, allow_nan=False)
  with _files.atomic_write(path) as file:
    file.write(f'{text}\n')


def summary(record: dict[str, Any]) -> str:
  """The lines that the command prints."""
  accounted = record['accounted_epsilon']
  against = 'no accounted epsilon is known for it' if accounted is None else (
    f'accounted: {accounted:.4g}'
  )  # fmt: skip
  lines = [
    f'{record["name"]}: epsilon >= {record["lower_bound"]:.4g} with '
    f'{100 * record["confidence"]:.4g} % confidence at delta {record["delta"]:g}; {against}'
  ]
  if 'family_bound' in record:
    lines.append(f'  if only the noise could be another: epsilon >= {record["family_bound"]:.4g}')
  for name, each in record.get('adversaries', {}).items():
    lines.append(f'  {name}: {_ranked(each)}')
  for name, each in record.get('attacks', {}).items():
    lines.append(f'  {name}: {_ranked(each["guesses"])}')
  if record['refuted']:
    lines.append('  REFUTED: the runs contradict the accounted guarantee')
  return '\n'.join(lines)


def _ranked(guesses: dict[str, Any]) -> str:
  low, high = guesses['auc_interval']
  return (
    f'epsilon >= {guesses["lower_bound"]:.3g}, {guesses["correct"]} of {guesses["guesses"]} '
    f'guesses right; area under the curve {guesses["auc"]:.3f} ({low:.3f} to {high:.3f})'
  )


if __name__ == '__main__':
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
  define_flags()
  cli.run(main, interrupted='Run the same command again: a run with canaries continues.')
