"""Attacks a run, or the mechanism, and says what ε that proves: `python -m dpgan_jax.audit
--flagfile=experiments/audits/audit_one_step.flags`.

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

import importlib.metadata
import pathlib
import shlex
import sys
import time
import warnings
from typing import Any

from absl import flags

from dpgan_jax import _cli, _files, _progress, _shared_flags, _validate
from dpgan_jax.auditing import modes
from dpgan_jax.auditing.gradient import GradientAudit, Parts, gradient_bound
from dpgan_jax.models.config import TrainConfig

__all__ = ['GradientAudit', 'Parts', 'gradient_bound', 'main']

FLAGS = flags.FLAGS
MODES = ('gradient', 'one_run', 'samples')
RESULT = 'audit.json'


def define_flags() -> None:
  _cli.define_flags(TrainConfig)
  flags.DEFINE_string('mode', None, 'gradient, one_run or samples.')
  flags.DEFINE_string('name', None, 'What the audit is called in audit.json; default: the mode.')
  flags.DEFINE_string(
    'out', None, 'Directory of the audit, where audit.json goes; default: runs/audit/<name>.'
  )
  flags.DEFINE_string('results', None, 'Another file to write what audit.json holds to.')
  flags.DEFINE_float('confidence', 0.95, 'Of each bound.')
  flags.DEFINE_integer('audit_seed', 0, 'Seed of simulated runs, canaries and coins.')
  _shared_flags.define_data_flags()
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
  found = _audit(out)
  record = {
    'name': name,
    'mode': FLAGS.mode,
    'confidence': FLAGS.confidence,
    **found,
    'audit_seed': FLAGS.audit_seed,
    'command': shlex.join(['python', '-m', 'dpgan_jax.audit', *sys.argv[1:]]),
    'dpgan_jax': importlib.metadata.version('dpgan_jax'),
  }
  written = [out / RESULT, *([pathlib.Path(FLAGS.results)] if FLAGS.results else [])]
  for path in written:
    _files.write_json(path, record)
  print(modes.summary(record))
  print(f'{_progress.duration(time.monotonic() - started)}; {written[-1]}')


def _audit(out: pathlib.Path) -> dict[str, Any]:
  about: dict[str, Any] = {'confidence': FLAGS.confidence, 'seed': FLAGS.audit_seed}
  match FLAGS.mode:
    case 'samples':
      return modes.samples_attack(
        run_dir=FLAGS.run_dir,
        samples=FLAGS.samples,
        source=_shared_flags.source(FLAGS),
        other_data=bool(FLAGS['dataset'].present),
        delta=FLAGS.delta,
        candidates=FLAGS.candidates,
        **about,
      )
    case 'gradient':
      return modes.gradient(
        _cli.config_from_flags(TrainConfig),
        num_examples=FLAGS.num_examples,
        trials=FLAGS.trials,
        dimension=FLAGS.dimension,
        **about,
      )
    case _:
      config = _cli.config_from_flags(TrainConfig)
      return modes.one_real_run(
        config,
        out,
        num_canaries=FLAGS.canaries,
        canary_kind=FLAGS.canary_kind,
        source=_shared_flags.source(config),
        **about,
      )


if __name__ == '__main__':
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
  define_flags()
  _cli.run(main, interrupted='Run the same command again: a run with canaries continues.')
