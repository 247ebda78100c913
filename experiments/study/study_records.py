"""What the study page is made from: one JSON per run, taken from run directories, and pictures.

A record holds numbers that were computed from real images (scores, metrics of D on real examples).
That is no harm where the data are public, and no use of this for others: runs of any other data set
are refused.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
from typing import Any

from dpgan_jax import _files, _validate
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import snapshots
from dpgan_jax.evaluation.over_steps import JSON as STEPS
from dpgan_jax.evaluation.over_steps import JSON_AS_TRAINED as STEPS_AS_TRAINED
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import metrics, plan
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search.sweep_table import EVALUATION

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from keep_sweep import read_json, write_json

FORMAT = 'dpgan_jax study record 1'
_METRICS = ('n_d', 'd_real_accuracy', 'd_fake_accuracy', 'clipped_fraction')
AS_TRAINED = '_as_trained'


def collect_run(path: pathlib.Path, results: pathlib.Path) -> list[pathlib.Path]:
  """Writes RESULTS/runs/<name>.json, and pictures beside it; returns the file.

  A run whose generators as trained were scored (`evaluate --over_steps --as_trained`) gives a
  second record, <name>_as_trained: they are those of the same run without an average, which feeds
  nothing back.

  Args:
    path: a run directory, finished or not, evaluated or not; its name is the record's.
    results: folder of the study's records.

  Raises:
    InputError: not a run, damaged, or of data that are not public.
  """
  run = RunDir.open(path, create=False)
  saved = run.load_config()
  settings = saved.get('config', {})
  _check_public(settings.get('dataset'), path)
  statement = run_statement.build(run)
  facts = statement.to_json()
  name = path.resolve().name
  evaluation, steps = read_json(path / EVALUATION) or {}, read_json(path / STEPS) or {}
  pictures = {}
  if run.samples_png.is_file():
    pictures['samples'] = f'{name}_samples.png'
    _copy(run.samples_png, results / 'runs' / pictures['samples'])
  if run.snapshots.is_dir():
    pictures['steps'] = _picture_of_steps(run, name, results)
  mechanism = statement.mechanism

  def record(name: str, **changed: Any) -> pathlib.Path:
    file = results / 'runs' / f'{name}.json'
    write_json(file, {'format': FORMAT, 'name': name, **facts_of_run, **changed})
    return file

  facts_of_run = {
    'settings': {**settings, 'seed': None},
    'seed_fixed': facts['randomness']['seed_fixed'],
    'finished': statement.finished,
    'epsilon': facts['guarantee']['epsilon'],
    'delta': mechanism.delta,
    'noise_multiplier': mechanism.noise_multiplier,
    'noise_in_d': plan.read(saved, run.config).gan.noise_in_d,
    'steps': statement.steps_taken,
    'steps_planned': mechanism.steps,
    'steps_per_epoch': mechanism.num_examples / mechanism.batch_size,
    'evaluation': {
      'amount': evaluation.get('about', {}).get('amount'),
      'scores': _brief(evaluation.get('scores', [])),
    },
    'over_steps': _brief_steps(steps),
    'metrics': [
      {'step': line['step'], **{n: line[n] for n in _METRICS if line.get(n) is not None}}
      for line in _thinned(metrics.read_metrics(run.metrics))
    ],
    'pictures': pictures,
  }
  files = [record(name)]
  as_trained = read_json(path / STEPS_AS_TRAINED)
  if as_trained is not None:
    name += AS_TRAINED
    files.append(
      record(
        name,
        settings={**settings, 'seed': None, 'g_ema_decay': 0.0},
        over_steps=_brief_steps(as_trained),
        evaluation={'amount': None, 'scores': {}},
        pictures={'steps': _picture_of_steps(run, name, results, as_trained=True)},
      )
    )
  return files


def _picture_of_steps(
  run: RunDir, name: str, results: pathlib.Path, *, as_trained: bool = False
) -> str:
  picture = f'{name}_steps.png'
  snapshots.picture_over_steps(run, results / 'runs' / picture, title=name, as_trained=as_trained)
  return picture


def _brief_steps(record: dict[str, Any]) -> list[dict[str, Any]]:
  return [
    {'step': s['step'], 'epsilon': s['epsilon'], 'scores': _brief(s['scores'])}
    for s in record.get('steps', [])
  ]


def _check_public(dataset: Any, path: pathlib.Path) -> None:
  if dataset not in datasets.PUBLIC:
    raise _validate.InputError(
      f'expected runs of a public data set ({", ".join(datasets.PUBLIC)}), as the page shows scores on '
      f'real images; {path} is of {dataset}'
    )


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  with _files.atomic_write(target, 'wb') as file, source.open('rb') as content:
    shutil.copyfileobj(content, file)


def _brief(scores: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  return {s['name']: {'value': s['value'], 'reference': s['reference']} for s in scores}


def _thinned(lines: list[dict[str, Any]], at_most: int = 60) -> list[dict[str, Any]]:
  """Every so many-th of the lines, the last one among them."""
  stride = -(-len(lines) // at_most) if lines else 1
  return lines[::-1][::stride][::-1]
