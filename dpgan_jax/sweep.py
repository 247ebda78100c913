"""Trains and evaluates one GAN per ε: `python -m dpgan_jax.sweep
--flagfile=experiments/mnist.flags --epsilons=0.5,1,1.5,2,4,9,inf --sweep_dir=runs/sweep`.

Every run has a directory of its own, `SWEEP_DIR/eps<ε>/<key>`, is trained as dpgan_jax.train would,
and leaves its report, its generator and its evaluation there; `sweep.md`, `sweep.json` and figures
set them side by side. Running the same command again continues where it was interrupted, and takes
finished runs as they are; another one may add values of ε or seeds.

ε is that of each run. All runs read the same records, so that publishing several of them spends
more: the table says how much.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings

from absl import flags

from dpgan_jax import _cli, _shared_flags, _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.search import sweep_figures, sweep_table, sweeping

FLAGS = flags.FLAGS


def define_flags() -> None:
  _cli.define_flags(TrainConfig)
  flags.DEFINE_string('epsilons', None, 'Privacy budgets of the runs: 0.5,1,2,inf.')
  flags.DEFINE_string(
    'steps_at', None, 'Steps of the runs of some epsilons, EPSILON:STEPS between commas: 10:16000.'
  )
  flags.DEFINE_integer(
    'seeds',
    None,
    'Runs per epsilon, with the fixed seeds 0, 1, ... (reproducible, not private against those who '
    'know them). Default: one run each, of a secret key.',
  )
  flags.DEFINE_integer(
    'first_seed', 0, 'The first of the seeds, in the place of 0: a sweep made in parts.'
  )
  flags.DEFINE_string('sweep_dir', None, 'Directory of the sweep: its runs, table and figures.')
  _shared_flags.define_data_flags()
  flags.DEFINE_bool('evaluate', True, 'Evaluate every run against real images.')
  _shared_flags.define_amount_flags()


def main() -> None:
  settings = {f.name: getattr(FLAGS, f.name) for f in dataclasses.fields(TrainConfig)}
  epsilons = sweeping.parse_epsilons(FLAGS.epsilons)
  steps_at = sweeping.parse_steps_at(FLAGS.steps_at, epsilons)
  runs = sweeping.plan(settings, epsilons, FLAGS.seeds, steps_at, FLAGS.first_seed)
  if not FLAGS.sweep_dir:
    raise _validate.InputError('expected --sweep_dir=DIRECTORY, where runs and table go')
  amount = _shared_flags.amount_from_flags()
  source = _shared_flags.source(runs[0].config).settled()
  settings['holdout'] = source.holdout
  runs = sweeping.plan(settings, epsilons, FLAGS.seeds, steps_at, FLAGS.first_seed)
  dataset = source.load()
  test = source.load('test') if FLAGS.evaluate else None
  _shared_flags.show(dataset)
  print(f'{len(runs)} runs')
  settings = sweeping.plan(settings, epsilons[:1], FLAGS.seeds)[0].config.to_dict()  # as validated
  sweep = sweeping.open_sweep(FLAGS.sweep_dir, settings, dataset)
  with sweep.lock():
    failures = sweeping.make_runs(runs, sweep.path, dataset, test, amount)
    print('table and figures', file=sys.stderr, flush=True)
    table = sweep_table.read(sweep.path, failures)
    for line in sweep_figures.write(table, sweep.path):
      print(line)
  if failures:
    raise _validate.InputError(
      f'{len(failures)} of {len(runs)} runs failed: '
      + '; '.join(f'{name}: {reason}' for name, reason in failures.items())
    )


if __name__ == '__main__':
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
  define_flags()
  _cli.run(main, interrupted='Run the same command again to continue.')
