"""Copies what may be published of a run into experiments/results/.

    ./run.sh python -m experiments.quality.make_results --run_dir=runs/eps1 --name=eps1

Only files that the run's own report allows to leave are taken, so that nothing of the private
directory (checkpoints, ledger, metrics on real data) can slip in.
"""

from __future__ import annotations

import shutil

from absl import flags

from dpgan_jax import _validate, cli, report
from dpgan_jax.run_dir import RunDir
from experiments import pages

FLAGS = flags.FLAGS
WANTED = ('samples.png', 'report.md', 'report.json', 'epsilon_delta.png')


def main() -> None:
  if FLAGS.run_dir is None or FLAGS.name is None:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run and --name=NAME of a result')
  run = RunDir.open(FLAGS.run_dir, create=False)
  statement = report.write(run)
  allowed = {
    name for row in statement.files() if row['publish'] != 'no' for name in row['file'].split(', ')
  }
  target = pages.RESULTS / FLAGS.name
  target.mkdir(parents=True, exist_ok=True)
  for name in WANTED:
    if name not in allowed:
      raise _validate.InputError(
        f'{name} of this run may not be published: see {run.report_markdown}'
      )
    shutil.copyfile(run.path / name, target / name)
  print(f'{len(WANTED)} files in {target}')


if __name__ == '__main__':
  flags.DEFINE_string('run_dir', None, 'Directory of a finished run.')
  flags.DEFINE_string('name', None, 'Name of the folder under experiments/results/.')
  cli.run(main)
