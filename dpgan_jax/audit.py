"""Attacks a run, or the mechanism, and says what ε that proves: `python -m dpgan_jax.audit
--flagfile=experiments/audits/audit_one_step.flags`.

Prints a lower bound on ε with its confidence beside the accounted ε, and writes audit.json. A bound
above the accounted ε means that the guarantee is false; one below it proves nothing more than
itself. Four modes:

* `--mode=gradient`: many short runs of the mechanism's own parts in their worst case. No data, no
  training; comes close to the accounted ε. Settings: `--num_examples`, `--batch_size`,
  `--noise_multiplier`, `--steps`, `--delta`, ... as for training.
* `--mode=table`: many releases of counts of a table with one person and without. No data either:
  `--schema`, `--num_examples` and the settings of training.
* `--mode=one_run`: trains once, with the settings of any flag file, with canaries planted. It is a
  release of its own: on private data it spends the run's ε again.
* `--mode=samples`: membership attacks on the samples of `--run_dir`, or on `--samples=FILE.npz`. It
  reads the training images: its figures are for the data owner.

From Python, `gradient_bound` is the first of them, for any mechanism and any parts put in the place
of its own: what a table of planted faults calls.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import pathlib
import shlex
import sys
import time
from typing import Any

from absl import flags

from dpgan_jax import _cli, _files, _progress, _settings, _shared_flags, _validate
from dpgan_jax.auditing import gradient, modes
from dpgan_jax.auditing.canaries import KINDS
from dpgan_jax.auditing.gradient import GradientAudit, Parts, gradient_bound
from dpgan_jax.models.config import TrainConfig

__all__ = ['GradientAudit', 'Parts', 'gradient_bound', 'main']

FLAGS = flags.FLAGS
MODES = ('gradient', 'table', 'one_run', 'samples')
RESULT = 'audit.json'


_audit, _gradient, _one_run, _samples = (
  functools.partial(_settings.field, group=group)
  for group in ('audit', '--mode=gradient', '--mode=one_run', '--mode=samples')
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(_shared_flags.DataOptions):
  """Flags of this command beside the settings of what is attacked."""

  mode: str | None = _audit(None, 'What is attacked.', choices=MODES, common=True)
  name: str | None = _audit(None, 'What the audit is called in audit.json; default: the mode.')
  out: str | None = _audit(
    None, 'Directory of the audit, where audit.json goes; default: runs/audit/<name>.', common=True
  )
  results: str | None = _audit(None, 'Another file to write what audit.json holds to.')
  confidence: float = _audit(0.95, 'Of each bound.', above=0, below=1, common=True)
  audit_seed: int = _audit(
    0, 'Seed of simulated runs, canaries and coins.', minimum=0, maximum=_settings.MOST_SEED
  )
  num_examples: int | None = _gradient(
    None, 'N of the mechanism; tens are as good. Of a table: how many it has.', minimum=1,
    common=True,
  )
  trials: int | None = _gradient(
    None, 'Runs, half of them with the canary; default: 200,000, of tables 4,000.',
    minimum=gradient.LEAST_TRIALS, common=True,
  )
  dimension: int = _gradient(
    32, 'Entries of the gradient, an even number.', minimum=gradient.LEAST_DIMENSION
  )
  data_on: str = _one_run(
    'device', 'Where the records are: all on the device, since the adversary looks at any of them.',
    choices=('device',),
  )
  canaries: int = _one_run(
    1000, 'Records planted, each in the data set with probability 1/2.', minimum=1, common=True
  )
  canary_kind: str = _one_run(
    'coordinates', 'coordinates are gradients, the others are images.', choices=KINDS
  )
  run_dir: str | None = _samples(None, 'Directory of the run that is attacked.', common=True)
  samples: str | None = _samples(
    None, 'Instead of run_dir, an .npz file of images x. Needs --dataset.', common=True
  )
  candidates: int = _samples(5000, 'Images of each kind that are asked about.', minimum=1)


def define_flags() -> None:
  _cli.define_flags(Options, TrainConfig, rare=('schema_epsilon',))


def main() -> None:
  options = _cli.config_from_flags(Options)
  if options.mode is None:
    raise _validate.InputError(f'expected --mode, one of {", ".join(MODES)}')
  name = options.name or options.mode
  if not name.replace('_', '').replace('-', '').replace('.', '').isalnum():
    raise _validate.InputError(f'expected name of letters, digits and _-., got {name!r}')
  out = _files.require_folder(options.out or f'runs/audit/{name}')
  started = time.monotonic()
  found = _attack(options, out)
  record = {
    'name': name,
    'mode': options.mode,
    'confidence': options.confidence,
    **found,
    'audit_seed': options.audit_seed,
    'command': shlex.join(['python', '-m', 'dpgan_jax.audit', *sys.argv[1:]]),
    'dpgan_jax': importlib.metadata.version('dpgan_jax'),
  }
  written = [out / RESULT, *([pathlib.Path(options.results)] if options.results else [])]
  for path in written:
    _files.write_json(path, record)
  print(modes.summary(record))
  took = _progress.duration(time.monotonic() - started)
  print(f'{" and ".join(map(str, written))}: the record of one audit, which took {took}')


def _settings_of_gan() -> TrainConfig:
  config = _cli.config_from_flags(TrainConfig)
  if config.method != 'gan':
    raise _validate.InputError(
      f'expected settings of a GAN, two of target_epsilon, noise_multiplier and steps; got '
      f'those of {config.method}, which --mode=samples can attack, and of tables --mode=table'
    )
  return config


def _attack(options: Options, out: pathlib.Path) -> dict[str, Any]:
  about: dict[str, Any] = {'confidence': options.confidence, 'seed': options.audit_seed}
  match options.mode:
    case 'samples':
      return modes.samples_attack(
        run_dir=options.run_dir,
        samples=options.samples,
        source=options.source(FLAGS),
        other_data=bool(FLAGS['dataset'].present),
        delta=FLAGS.delta,
        candidates=options.candidates,
        **about,
      )
    case 'table':
      config = _cli.config_from_flags(TrainConfig)
      if config.method != 'moments':
        raise _validate.InputError('expected target_epsilon alone: tables are released by moments')
      return modes.table(
        config,
        schema=options.schema,
        num_examples=options.num_examples,
        trials=options.trials or 4000,
        **about,
      )
    case 'gradient':
      return modes.gradient(
        _settings_of_gan(),
        num_examples=options.num_examples,
        trials=options.trials or 200_000,
        dimension=options.dimension,
        **about,
      )
    case _:
      config, source = options.settled(_settings_of_gan())
      return modes.one_real_run(
        config,
        out,
        num_canaries=options.canaries,
        canary_kind=options.canary_kind,
        source=source,
        **about,
      )


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again: a run with canaries continues.')
