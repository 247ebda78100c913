"""Makes experiments/results/STUDY.md, which sets the 2020 report beside what this package finds.

    ./run.sh python experiments/study/make_study.py \\
        --runs=runs/dcgan_no_privacy,runs/dense_1to1,runs/dense_5to1,runs/report_eps9

Takes what the page needs of runs (evaluated, `--over_steps` too) into experiments/results/study/,
and makes the page of all that is there, and of the sweeps that ../keep_sweep.py has kept; without
flags, only the page.
Seconds, and a few more for pictures of each run's snapshots.
"""

from __future__ import annotations

import pathlib

import study_page
import study_records
from absl import flags

from dpgan_jax import _cli, _validate

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results'
COMMAND = 'experiments/study/make_study.py'


def define_flags() -> None:
  flags.DEFINE_list('runs', [], 'Directories of runs, to be taken into the study.')
  flags.DEFINE_string('results', str(RESULTS), 'Folder of STUDY.md and of study/.')


def main() -> None:
  folder = pathlib.Path(FLAGS.results).resolve()
  study = folder / 'study'
  runs = [pathlib.Path(path.strip()) for path in FLAGS.runs]
  names = [path.resolve().name for path in runs]
  if len(set(names)) < len(names):
    raise _validate.InputError(f'expected runs whose directories have different names, got {names}')
  for path in runs:
    for file in study_records.collect_run(path, study):
      print(f'taken: {file.name}')
  records = study_page.Study.read(folder)
  missing = study_page.make(records, folder / 'STUDY.md', study, COMMAND)
  for what in missing:
    print(f'not measured yet: {what}')
  print(f'Page: {folder / "STUDY.md"}')


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
