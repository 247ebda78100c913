"""The files of a sweep: its table as JSON and as a page, samples and scores over ε as figures."""

from __future__ import annotations

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _files, _validate
from dpgan_jax.evaluation import curves as draw
from dpgan_jax.evaluation import scoring, snapshots
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.run import generator_file
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search import sweep_table

_FIGURES: tuple[tuple[str, str, str, dict[str, str], dict[str, Any]], ...] = (
  ('tstr.png', 'TSTR: classifiers trained on samples, tested on real images', 'accuracy',
   {'tstr_cnn': 'CNN', 'tstr_mlp': 'MLP', 'tstr_lr': 'logistic regression'}, {}),
  ('secondary_accuracy.png', 'How often a network tells samples from real images', 'accuracy',
   {'secondary_accuracy': "the report's secondary network", 'conv_judge_accuracy': 'convolutional'},
   {'ideal': (0.5, 'ideal: 0.5, a guess')}),
  ('fid.png', 'FID on fixed features', 'FID', {'fid': 'FID'}, {}),
  ('secondary_fid.png', "The report's FID: activations of its secondary network", 'FID',
   {'secondary_fid': 'FID'}, {}),
  ('tstr_auroc.png', 'TSTR: classifiers trained on synthetic records, tested on real ones', 'AUROC',
   {'tstr_auroc': 'target', 'every_column_auroc': 'every other column, made binary'}, {}),
  ('marginals.png', 'How far marginals are from those of held-out records', 'total variation',
   {'one_way': 'one-way', 'two_way': 'two-way', 'three_way': 'three-way'}, {}),
)  # fmt: skip


def draw_groups(
  groups: Mapping[float, Sequence[Mapping[str, Mapping[str, Any]]]],
  folder: pathlib.Path,
  *,
  note: str = draw.PRIVATE,
) -> list[str]:
  """The same of ε ↦ the scores of each run; `note` stands below each figure."""
  made = []
  for file, title, ylabel, wanted, options in _FIGURES:
    series = []
    for name, label in wanted.items():
      points = {e: [r[name]['value'] for r in runs if name in r] for e, runs in groups.items()}
      points = {e: values for e, values in points.items() if values}
      references = [r[name]['reference'] for runs in groups.values() for r in runs if name in r]
      known = [r for r in references if r is not None]
      if points:
        series.append(draw.Series(label, points, statistics.fmean(known) if known else None))
    if series:
      draw.over_epsilon(series, folder / file, title=title, ylabel=ylabel, note=note, **options)
      made.append(file)
  return made


def write(table: sweep_table.Table, folder: pathlib.Path) -> list[str]:
  """Writes sweep.json, sweep.md and the figures; returns what to tell the user."""
  made, left_out = draw_figures(table, folder)
  _files.write_json(folder / 'sweep.json', sweep_table.to_json(table))
  text = sweep_table.to_markdown(table, made, left_out)
  with _files.atomic_write(folder / 'sweep.md') as file:
    file.write(text)
  pictures = {name: _described(name) for name in made}
  scoring.write_page(text, None, folder, pictures, name='sweep.html')
  said = sweep_table.spending(*table.spent_together, table)
  return [said, f'Table and figures: {folder / "sweep.md"}']


def draw_figures(table: sweep_table.Table, folder: pathlib.Path) -> tuple[list[str], list[str]]:
  """Draws what there is to draw; returns the names of the files, and why others are left out."""
  made, left_out = [], []
  first: dict[float, sweep_table.Run] = {}
  of_images = table.data.get('kind', 'image') == 'image'
  for run in table.runs:
    if run.finished and of_images:
      first.setdefault(run.target_epsilon, run)
  if first:
    models = [
      (f'ε = {show_epsilon(e)}', generator_file.load(folder / run.name / sweep_table.GENERATOR))
      for e, run in first.items()
    ]
    snapshots.picture(models, folder / 'samples.png', title='samples over ε; none was chosen')
    made.append('samples.png')
  for epsilon, run in first.items():
    name = f'steps_{run.name.split("/")[0]}.png'
    try:
      title = f'samples over training, {run_of(epsilon)}'
      snapshots.picture_over_steps(RunDir.open(folder / run.name, create=False), folder / name,
                                   title=title)  # fmt: skip
      made.append(name)
    except _validate.InputError as error:
      left_out.append(f'{name}: {error}'.replace(f'{folder}/', ''))
  return [*made, *draw_scores(table, folder)], left_out


def _described(name: str) -> tuple[str, str]:
  """What a figure shows, and what stands below it."""
  if name == 'samples.png':
    return 'A row of samples for each ε, all of the same noise.', 'Samples over ε; none was chosen.'
  if name.startswith('steps_'):
    return f'Rows of samples over the steps of training: {name}.', 'Samples over training.'
  title = next(title for file, title, *_ in _FIGURES if file == name)
  return f'Curves over ε: {title}.', f'{title}; reads private data.'


def run_of(epsilon: float) -> str:
  """What kind of run it is, for titles."""
  return 'a run without privacy' if math.isinf(epsilon) else f'a run of ε = {show_epsilon(epsilon)}'


def draw_scores(table: sweep_table.Table, folder: pathlib.Path) -> list[str]:
  """Draws scores over ε, each figure whose scores are there; returns their file names."""
  return draw_groups(
    {target: [run.scores for run in runs] for target, runs in table.by_epsilon().items()}, folder
  )
