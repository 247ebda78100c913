"""Keeps what the result pages need of a sweep, in experiments/results/sweep/.

    ./run.sh python -m experiments.quality.keep_sweep --sweep_dir=runs/sweep

A sweep of many runs is made in parts, on several days or machines (`sweep --first_seed`,
`--epsilons`), and its directories hold gigabytes that nobody wants in a repository. So each run
leaves a record there: its plan, what it spent, its scores, how long it took on which machine, and a
row of samples. The table and the figures are made of all records, whichever directory they came
from. make_study.py and make_quality.py show them. Without --sweep_dir they are only made anew. A
minute.

Records hold scores on real images without noise: runs of data that are not public are refused. So
are runs of secret keys, of which two with one name would be two runs, both of which spend, and runs
that another record of the same name contradicts or has more of.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from dpgan_jax import _cli, _figures, _files, _validate
from dpgan_jax.evaluation import curves, snapshots
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.run import generator_file, plan
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search import sweep_figures
from dpgan_jax.search import sweep_table as tables
from experiments import pages
from experiments.benchmarks import machine

FLAGS = flags.FLAGS
RESULTS = pages.RESULTS / 'sweep'
FORMAT = 'dpgan_jax sweep record 1'
# What differs between machines, or when a run is begun anew: nothing that its plan promises.
_NOT_PLANNED = ('run_id', 'microbatch_size', 'jax_settings')


def minutes(run: RunDir) -> float:
  """From the settings, the first file of a run, to its last checkpoint, or the generator that
  matches what was released, pauses included.

  Samples are drawn anew when a finished run is asked for again; checkpoints stay as they are.
  """
  last = [*run.path.glob('**/checkpoints/*'), *run.path.glob(run.matched.name)]
  ends = [path.stat().st_mtime for path in last]
  return round((max(ends) - run.config.stat().st_mtime) / 60, 1)


# --- from the directory of a sweep ---------------------------------------------------------------


def keep(sweep_dir: pathlib.Path, results: pathlib.Path) -> list[str]:
  """Writes a record of every run of a sweep, and takes pictures; returns the runs' names.

  Raises:
    InputError: no sweep, or one that may not or cannot stand beside what is kept.
  """
  table = tables.read(sweep_dir, {})
  pages.check_public(table.settings.get('dataset'), f'sweep {sweep_dir}')
  secret = [run.name for run in table.runs if not run.seed_fixed]
  if secret:
    raise _validate.InputError(
      f'expected runs of fixed seeds (--seeds), so that a name stands for one run; {secret[0]} has '
      'a secret key'
    )
  shared = {'settings': dict(table.settings), 'data': dict(table.data)}
  known = pages.read_json(results / 'shared.json') or shared
  for what, now in shared.items():
    differs = sorted(k for k in {*now, *known[what]} if now.get(k) != known[what].get(k))
    if differs:
      raise _validate.InputError(
        f'expected a sweep of the same {what} as the records in {results.name}/; '
        f'{", ".join(differs)} differ'
      )
  records = [_record(run, sweep_dir / run.name) for run in table.runs]
  for record in records:
    before = pages.read_json(_file(results, record['run']))
    if before is not None and before['plan'] != record['plan']:
      raise _validate.InputError(
        f'expected {record["run"]} to be the run of that name in {results.name}/, which has other '
        'settings; remove its record to replace it'
      )
    scored = [bool(r and r['evaluation']['scores']) for r in (before, record)]
    if before is not None and (before['finished'], scored[0]) > (record['finished'], scored[1]):
      raise _validate.InputError(
        f'expected {record["run"]} to be finished and evaluated, as the run of that name in '
        f'{results.name}/ is; let the sweep do so, or remove the run from {sweep_dir.name}/'
      )
  pages.write_json(results / 'shared.json', shared)
  for record in records:
    pages.write_json(_file(results, record['run']), record)
  for run in table.runs:
    if run.finished:
      _take_pictures(run, sweep_dir / run.name, results)
  return [record['run'] for record in records]


def _record(run: tables.Run, path: pathlib.Path) -> dict[str, Any]:
  directory = RunDir.open(path, create=False)
  saved = directory.load_config()
  environment = saved.pop('environment')
  on_cpu = environment['backend'] == 'cpu'  # of this machine then
  saved = {k: v for k, v in saved.items() if k not in _NOT_PLANNED}
  evaluation = pages.read_json(path / tables.EVALUATION) or {}
  return {
    'format': FORMAT,
    'run': run.name,
    'plan': saved,
    'charged': run.charged,
    'finished': run.finished,
    'reason': run.reason,
    'evaluation': {
      'about': {'amount': evaluation.get('about', {}).get('amount')},
      'scores': evaluation.get('scores', []),
    },
    'minutes': minutes(directory) if run.finished else None,
    'machine': machine.describe() if on_cpu else {'device': environment['device']},
  }


def _take_pictures(run: tables.Run, path: pathlib.Path, results: pathlib.Path) -> None:
  """A row of samples of a finished run, and its snapshots, if no other run of this ε has them."""
  images = snapshots.samples(generator_file.load(path / tables.GENERATOR))
  strip = np.concatenate(list(images[..., 0]), axis=1)  # public data sets here are grey
  with _files.atomic_write(_file(results, run.name).with_suffix('.png'), 'wb') as file:
    Image.fromarray(strip).save(file, 'PNG')
  steps = results / _steps_picture(run.name)
  directory = RunDir.open(path, create=False)
  if directory.snapshots.is_dir() and not steps.exists():
    title = f'samples over training, {sweep_figures.run_of(run.target_epsilon)}'
    snapshots.picture_over_steps(directory, steps, title=title)


# --- the table of all records --------------------------------------------------------------------


def read(results: pathlib.Path) -> tuple[tables.Table, list[dict[str, Any]]]:
  """All records as a table, and the records, both by ε and name.

  Raises:
    InputError: a file that is no record.
  """
  shared = pages.read_json(results / 'shared.json')
  if shared is None:
    raise _validate.InputError(f'expected records in {results}: give --sweep_dir')
  pairs = []
  for file in sorted((results / 'runs').glob('*.json')):
    record = pages.read_json(file)
    if record is None or record.get('format') != FORMAT:
      raise _validate.InputError(f'expected {file.name} to be a record of a run ({FORMAT})')
    run = tables.make_run(
      record['run'], plan.read(record['plan'], file), charged=record['charged'],
      finished=record['finished'], evaluation=record['evaluation'], reason=record['reason'],
    )  # fmt: skip
    pairs.append((run, record))
  pairs.sort(key=lambda pair: (pair[0].target_epsilon, pair[0].name))
  runs, records = (list(column) for column in zip(*pairs, strict=True)) if pairs else ([], [])
  return tables.Table(shared['settings'], shared['data'], tuple(runs)), records


def make(results: pathlib.Path) -> None:
  """Makes sweep.json and the figures of all records."""
  table, records = read(results)
  groups = {e: [run.scores for run in runs] for e, runs in table.by_epsilon().items()}
  pictures = _draw_samples(table, results)
  steps = dict.fromkeys(_steps_picture(run.name) for run in table.runs)
  pictures += [name for name in steps if (results / name).is_file()]
  pictures += sweep_figures.draw_groups(groups, results, note=curves.PUBLIC)
  own = {r['run']: {'minutes': r['minutes'], 'machine': r['machine']} for r in records}
  sweep = tables.to_json(table)
  sweep['runs'] = [run | own[run['run']] for run in sweep['runs']]
  pages.write_json(results / 'sweep.json', sweep | {'pictures': pictures})


def _draw_samples(table: tables.Table, results: pathlib.Path) -> list[str]:
  """Figure 6.1: a row for each ε, of the first run that has one."""
  rows: dict[float, np.ndarray] = {}
  for run in table.runs:
    strip = _file(results, run.name).with_suffix('.png')
    if strip.is_file() and run.target_epsilon not in rows:
      images = np.asarray(Image.open(strip))
      rows[run.target_epsilon] = np.stack(np.split(images, images.shape[1] // len(images), axis=1))
  if not rows:
    return []
  named = [(f'ε = {show_epsilon(epsilon)}', images) for epsilon, images in rows.items()]
  scale = max(1, round(56 / named[0][1].shape[1]))
  _figures.image_rows(
    named, results / 'samples.png', scale=scale, title='samples over ε; none was chosen'
  )
  return ['samples.png']


def _file(results: pathlib.Path, run: str) -> pathlib.Path:
  return results / 'runs' / f'{run.replace("/", "_")}.json'


def _steps_picture(run: str) -> str:
  return f'steps_{run.split("/")[0]}.png'


def main() -> None:
  results = pathlib.Path(FLAGS.results).resolve()
  if FLAGS.sweep_dir:
    print(f'kept: {", ".join(keep(pathlib.Path(FLAGS.sweep_dir), results))}')
  make(results)
  print(f'Table: {results / "sweep.json"}')


if __name__ == '__main__':
  flags.DEFINE_string('sweep_dir', None, 'Directory of a sweep, to be taken into the records.')
  flags.DEFINE_string('results', str(RESULTS), 'Folder of the records.')
  _cli.run(main)
