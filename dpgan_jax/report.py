"""The statement that goes out with a model: `python -m dpgan_jax.report --run_dir=runs/eps2`.

It says what is guaranteed and for whom, how, what of a run directory may be published, and what no
number here covers. Everything in it follows from the run directory: settings and mechanism
(config.json), the steps paid for (the ledger), the steps taken (the checkpoints); these are only
read. It holds no path, no time, nothing computed from private data, no fingerprint of them and no
seed, so that the statement itself may be published. The same run gives the same bytes.
"""

from __future__ import annotations

import os

from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.publishing import run_statement
from dpgan_jax.run.directory import RunDir

FLAGS = flags.FLAGS

def define_flags() -> None:
  flags.DEFINE_string('run_dir', None, 'Directory of a run, finished or not.')
  flags.DEFINE_string(
    'tuning_note',
    None,
    'How the settings were chosen, for the report; kept when it is written again, "" takes it '
    'back.',
  )


def main() -> None:
  if FLAGS.run_dir is None:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run')
  # Only the name of the device is wanted; its memory may belong to the run that is training.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  run = RunDir.open(FLAGS.run_dir, create=False)
  statement = run_statement.write(run, tuning_note=FLAGS.tuning_note)
  print(statement.summary())
  print(f'Report: {run.report_markdown}')


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
