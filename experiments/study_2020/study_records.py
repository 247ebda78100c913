"""What the study page is made from: one JSON per run, taken from run directories, and pictures.

A record holds numbers that were computed from real images (scores, metrics of D on real examples).
That is no harm where the data are public, and no use of this for others: runs of any other data set
are refused.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from dpgan_jax import _files
from dpgan_jax.evaluation import snapshots
from dpgan_jax.evaluation.snapshots import STEPS_JSON as STEPS
from dpgan_jax.evaluation.snapshots import STEPS_JSON_AS_TRAINED as STEPS_AS_TRAINED
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import metrics, plan
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search.sweep_table import EVALUATION
from experiments import pages

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
  run, folder = RunDir.open(path, create=False), results / 'runs'
  saved = run.load_config()
  settings = {**saved.get('config', {}), 'seed': None}
  pages.check_public(settings.get('dataset'), f'run {path}')
  statement = run_statement.build(run)
  facts, mechanism = statement.to_json(), statement.mechanism
  name = path.resolve().name
  evaluation = pages.read_json(path / EVALUATION) or {}
  lines = metrics.read_metrics(run.metrics)
  stride = -(-len(lines) // 60) or 1  # at most 60 of them, the last one among these
  record = {
    'format': FORMAT,
    'name': name,
    'settings': settings,
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
    'over_steps': _brief_steps(path / STEPS),
    'metrics': [
      {'step': line['step'], **{n: line[n] for n in _METRICS if line.get(n) is not None}}
      for line in lines[::-1][::stride][::-1]
    ],
    'pictures': _pictures(run, name, folder),
  }
  records = [record]
  if (path / STEPS_AS_TRAINED).is_file():
    name += AS_TRAINED
    records.append({
      **record,
      'name': name,
      'settings': {**settings, 'g_ema_decay': 0.0},
      'over_steps': _brief_steps(path / STEPS_AS_TRAINED),
      'evaluation': {'amount': None, 'scores': {}},
      'pictures': {'steps': _picture_of_steps(run, name, folder, as_trained=True)},
    })  # fmt: skip
  files = [folder / f'{record["name"]}.json' for record in records]
  for file, content in zip(files, records, strict=True):
    pages.write_json(file, content)
  return files


def _pictures(run: RunDir, name: str, folder: pathlib.Path) -> dict[str, str]:
  found = {}
  if run.samples_png.is_file():
    found['samples'] = f'{name}_samples.png'
    target = folder / found['samples']
    with _files.atomic_write(target, 'wb') as file, run.samples_png.open('rb') as content:
      shutil.copyfileobj(content, file)
  if run.snapshots.is_dir():
    found['steps'] = _picture_of_steps(run, name, folder)
  return found


def _picture_of_steps(
  run: RunDir, name: str, folder: pathlib.Path, *, as_trained: bool = False
) -> str:
  picture = f'{name}_steps.png'
  snapshots.picture_over_steps(run, folder / picture, title=name, as_trained=as_trained)
  return picture


def _brief_steps(path: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {'step': s['step'], 'epsilon': s['epsilon'], 'scores': _brief(s['scores'])}
    for s in (pages.read_json(path) or {}).get('steps', [])
  ]


def _brief(scores: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  return {s['name']: {'value': s['value'], 'reference': s['reference']} for s in scores}
