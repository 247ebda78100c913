"""Makes experiments/results/STUDY.md, which sets the 2020 report beside what this package finds.

    ./run.sh python -m experiments.study_2020.make_study \\
        --runs=runs/dcgan_no_privacy,runs/dense_1to1,runs/dense_5to1,runs/report_eps9

Takes what the page needs of runs (evaluated, `--over_steps` too) into experiments/results/study/,
and makes the page of all that is there, and of the sweeps that quality/keep_sweep.py has kept;
without flags, only the page. Every number and every sentence about a result is made from records;
what is written here is what the report said and did, with the place where it says so. What has no
record is listed as not measured. Seconds, and a few more for pictures of each run's snapshots.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.evaluation import curves, scores
from dpgan_jax.evaluation.curves import Series
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.run import plan
from dpgan_jax.search import sweep_table
from experiments import pages
from experiments.pages import number
from experiments.study_2020 import study_records

FLAGS = flags.FLAGS
Record = dict[str, Any]

VARIANTS = {
  'dcgan_no_privacy': 'chapter 5: a plain DCGAN without privacy, 10 epochs: where it began',
  'dense_1to1': 'chapter 5: two dense layers in D, one D step per G step (figure 5.2)',
  'dense_5to1': 'chapter 5: the same, five D steps per G step (figure 5.4: some digits legible)',
  'report_eps9': 'chapter 5: the final architecture, batch 120, 30 epochs, 1:1 (figure 6.2)',
  'report_eps1.5': 'the same at ε = 1.5 (figure 6.3)',
  'noisy_activations': "section 3.3: the report's GAN with noise on D's activations instead of its "
    'gradients (Triastcyn & Faltings 2018); it states no (ε, δ)',
  'wasserstein_clip': 'chapter 7: Wasserstein loss, weights clipped',
  'wasserstein_gp': 'chapter 7: Wasserstein loss, gradient penalty in the clipped loss',
  'hinge': 'chapter 7: hinge loss',
  'conditional': 'the loss that the report had (BCE), all else as in the three above',
}
"""Runs by name, and what each stands for."""
PROBLEM = 'report_eps1.5'
"""Runs whose names begin with this are the report's open problem, and cures of it."""
_MORE_NOISE = 'report_eps0.3'  # likewise: the same with a smaller ε
_AS_TRAINED = study_records.AS_TRAINED
_BASE = f'{PROBLEM}{_AS_TRAINED}'  # the report drew samples from G as trained
_WORSE = 1.5  # FID at the end, relative to the best: a run that got worse
_EPOCHS = (5, 10, 20, 30)  # those that figure 6.3 shows
_COLUMNS = ('fid', 'coverage', 'secondary_accuracy', 'secondary_fid', 'conv_judge_accuracy',
            'tstr_cnn')  # fmt: skip
_METRICS = {'n_D': 'n_d', 'right on real': 'd_real_accuracy', 'right on fakes': 'd_fake_accuracy',
            'share of real gradients clipped': 'clipped_fraction'}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
  """All records: the sweep's table, runs by name, private classifiers; None or empty if absent."""

  sweep: Record | None
  runs: Mapping[str, Record]
  classifiers: Sequence[Record]

  @classmethod
  def read(cls, results: pathlib.Path) -> Study:
    """Reads the records in `results`: of sweeps, of single runs and of private classifiers."""
    return cls(
      pages.read_json(results / 'sweep' / 'sweep.json'),
      {run['name']: run for run in pages.read_all(results / 'study' / 'runs')},
      pages.read_json(results / 'classifier.json') or [],
    )


def make(study: Study, page: pathlib.Path, figures: pathlib.Path) -> list[str]:
  """Writes the page and, into a folder below the page's, its figures; returns what is missing."""
  within = figures.relative_to(page.parent).as_posix()
  missing: list[str] = []
  parts = [
    '# The study of the 2020 report, reproduced',
    'Made by `python -m experiments.study_2020.make_study` from the JSON files in '
    f'[{within}]({within}), [sweep](sweep) and '
    '[classifier.json](classifier.json); nothing on this page is written by hand but what the '
    'report (S. Wincott, *Generating Differentially Private Datasets Using Deep Learning*, 2020) '
    f'says. {curves.PUBLIC} What real images get in the place of samples is given as '
    '*real*.',
    *_findings(study, missing),
    *_sweep(study, missing),
    *_variants(study, within, missing),
    *_problem(study, figures, within, missing),
    '## Not measured yet',
  ]
  parts.append('\n'.join(f'- {what}' for what in missing) or 'Nothing is missing.')
  pages.write(page, pages.join(*parts))
  return missing


# --- what the report found -----------------------------------------------------------------------


def _findings(study: Study, missing: list[str]) -> list[str]:
  rows = {
    'A private classifier of 95 % at ε = 1.18 (chapter 5)': _classifiers(study, missing),
    'Images get better with ε; low ε gives noise (figure 6.1)': _over_epsilon(study, 'tstr_cnn'),
    'The secondary network tells samples from real images less often as ε grows (figure 6.4; '
    'ideal 50 %)': _over_epsilon(study, 'secondary_accuracy'),
    "FID on the secondary network's activations falls with ε, over a wider range (figure 6.5)":
      _over_epsilon(study, 'secondary_fid'),
    'At ε = 9 images improve with every epoch (figure 6.2)': _course(study, 'report_eps9'),
    'At ε = 1.5 images get worse after epoch 10; not solved (figure 6.3)':
      _course_and_cures(study),
  }  # fmt: skip
  return ['## What the report found, and what is found here',
          pages.table(('report', 'here'), rows.items())]  # fmt: skip


def _classifiers(study: Study, missing: list[str]) -> str:
  if not study.classifiers:
    missing.append('private classifiers (dpgan_jax.classify --results)')
    return 'not measured'
  cells = []
  for entry in sorted(study.classifiers, key=lambda e: (e['config']['model'], e['epsilon'])):
    spread = entry['accuracy_standard_deviation']
    cells.append(
      f'{entry["accuracy_mean"]:.2f}' + (f' ± {spread:.2f}' if spread is not None else '')
      + f' % at ε = {show_epsilon(entry["epsilon"])} ({entry["config"]["model"]} on '
      f'{entry["config"]["features"]}, {len(entry["accuracies"])} seeds)'
    )  # fmt: skip
  return '; '.join(cells)


def _over_epsilon(study: Study, name: str) -> str:
  """How a score goes with ε in the sweep: its means at the ends, and how often it rises."""
  means = [
    (float(group['target_epsilon']), group['scores'][name]['mean'])
    for group in (study.sweep or {}).get('by_epsilon', [])
    if name in group['scores']
  ]
  finite = [(e, m) for e, m in means if math.isfinite(e)]
  if len(finite) < 2:
    return 'not measured'
  (low, first), (high, last) = finite[0], finite[-1]
  pairs = [(a, b) for (_, a), (_, b) in itertools.pairwise(finite)]
  rises, falls = (sum(f(a, b) for a, b in pairs) for f in (operator.lt, operator.gt))
  text = (
    f'{scores.TITLES[name]}: {first:.4g} at ε = {show_epsilon(low)}, {last:.4g} at ε = '
    f'{show_epsilon(high)}; rises {rises} times and falls {falls} times from one ε to the next'
  )
  return text + ''.join(f'; {m:.4g} without privacy' for e, m in means if math.isinf(e))


def _course(study: Study, name: str) -> str:
  """How the FID of a run went: best step, end."""
  series = _series(study.runs.get(name), 'fid')
  if len(series) < 2:
    return 'not measured'
  best, last = min(series, key=lambda step: series[step]), max(series)
  per_epoch = study.runs[name]['steps_per_epoch']
  text = f'FID best at epoch {best / per_epoch:.0f} ({series[best]:.4g}), '
  if best == last:
    return text + 'which is the end: better to the last'
  return text + (
    f'{series[last]:.4g} at the end (epoch {last / per_epoch:.0f}): '
    f'{series[last] / series[best]:.2f} times as far'
  )


def _course_and_cures(study: Study) -> str:
  """How the FID of the open problem went, and how with one thing changed."""
  name = _BASE if _BASE in study.runs else PROBLEM
  text = _course(study, name)
  for other, run in _one_change_each(study.runs).items():
    if other != name and len(_series(run, 'fid')) > 1:
      text += f'. With {_changed(run, study.runs.get(name))}: {_course(study, other)}'
  return text


def _one_change_each(runs: Mapping[str, Record]) -> dict[str, Record]:
  """Those of the open problem; averages only where that is all that was changed."""
  return {
    name: run
    for name, run in runs.items()
    if name.startswith((PROBLEM, _MORE_NOISE))
    and (name == PROBLEM or f'{name}{_AS_TRAINED}' not in runs)
  }


# --- figures 6.1, 6.2, 6.4, 6.5 ------------------------------------------------------------------


def _sweep(study: Study, missing: list[str]) -> list[str]:
  title = '## Over ε (figures 6.1, 6.2, 6.4, 6.5 and TSTR)'
  if study.sweep is None:
    missing.append('the sweep over ε (dpgan_jax.sweep)')
    return [title, pages.NOT_MEASURED]
  settings, groups = study.sweep['settings'], study.sweep['by_epsilon']
  names = [n for n in sweep_table.COLUMNS if any(n in group['scores'] for group in groups)]
  rows = [
    (show_epsilon(float(group['target_epsilon'])), group['runs'],
     ', '.join(f'{n:,}' for n in group['steps']),
     *(pages.mean(group['scores'].get(name)) for name in names))
    for group in groups
  ]  # fmt: skip
  last = groups[-1]['scores'] if groups else {}
  rows.append(('real', '', '', *(number(last.get(n, {}).get('reference')) for n in names)))
  return [
    title,
    f'Networks: {settings["generator"]} (G) and {settings["discriminator"]} (D); samples of G as '
    f'averaged at {settings.get("g_mixture") or 1} of its steps. What does better: '
    '[QUALITY.md](QUALITY.md).',
    pages.table(('ε', 'seeds', 'steps', *(scores.TITLES[n] for n in names)), rows),
    study.sweep['spent_together']['statement'],
    *pages.pictures('sweep', study.sweep['pictures']),
  ]


# --- chapter 5 and chapter 7 ---------------------------------------------------------------------


def _variants(study: Study, within: str, missing: list[str]) -> list[str]:
  title = "## The report's GANs, and the losses it named for later"
  found = {name: study.runs[name] for name in VARIANTS if name in study.runs}
  missing += [f'{name}: {VARIANTS[name]}' for name in VARIANTS if name not in found]
  missing += [f'evaluation of {n}' for n, run in found.items() if not run['evaluation']['scores']]
  rows = []
  for name, run in found.items():
    s = run['settings']
    progress = f' (**{run["steps"]:,} of {run["steps_planned"]:,} steps**)'
    rows.append((
      name, VARIANTS[name] + progress * (not run['finished']), show_epsilon(float(run['epsilon'])),
      s['loss'], s['d_steps_per_g_step'] if s.get('n_d_threshold') is None else 'adaptive',
      *(pages.beside_real(run['evaluation']['scores'].get(column)) for column in _COLUMNS),
    ))  # fmt: skip
  header = ('run', 'what', 'ε', 'loss', 'n_D', *(scores.TITLES[name] for name in _COLUMNS))
  parts = [title, pages.table(header, rows)]
  amounts = {run['evaluation']['amount'] for run in found.values()} - {None}
  if len(amounts) > 1:
    parts.append('**Not all runs were evaluated alike; their scores do not compare.**')
  elif amounts:
    parts.append(f'Amount of evaluation: {amounts.pop()}.')
  kinds = ('steps', 'samples')
  shown = [r['pictures'][k] for r in found.values() for k in kinds if k in r['pictures']]
  return parts + pages.pictures(within, [f'runs/{name}' for name in shown])


# --- figure 6.3 ----------------------------------------------------------------------------------


def _problem(study: Study, figures: pathlib.Path, within: str, missing: list[str]) -> list[str]:
  parts = [
    '## The open problem (figure 6.3)',
    "At ε = 1.5 the report's images got worse after epoch 10, which it could not explain. The runs "
    'below have its settings, and the same with what the second column says changed. Samples of a '
    'run are those of its last step, whatever they score. Noise in D: how long the noise is that '
    'reaches D between two steps of G, relative to its longest gradient (`GAN.noise_in_d`); '
    f'training warns above {plan.NOISY:g}.',
  ]
  runs = {n: r for n, r in study.runs.items() if n.startswith((PROBLEM, _MORE_NOISE))}
  scored = {n: r for n, r in runs.items() if len(r['over_steps']) > 1}
  missing += [f'scores of {n} over steps (evaluate --over_steps)' for n in runs if n not in scored]
  if PROBLEM not in scored:
    missing.append('the open problem: a run with the settings of the report, scored over steps')
  if not scored:
    return [*parts, pages.NOT_MEASURED]
  header = ('run', 'changed', 'noise in D', *(f'FID near epoch {e}' for e in _EPOCHS),
            'best FID (epoch)', 'last', 'last / best')  # fmt: skip
  base = study.runs.get(_BASE) or study.runs.get(PROBLEM)
  parts.append(pages.table(header, [_course_row(n, r, base) for n, r in scored.items()]))
  parts += _by_noise(scored.values())
  shown: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ('fid', 'FID on fixed features', {'log': True}),
    ('secondary_accuracy', 'accuracy of the secondary network', {'ideal': (0.5, 'ideal: 0.5')}),
  )
  for score, label, options in shown:
    series = {n: _series(r, score) for n, r in _one_change_each(scored).items()}
    lines = [Series(n, {s: [v] for s, v in points.items()}) for n, points in series.items()]
    if lines := [line for line in lines if line.points][:7]:
      picture = f'problem_{score}.png'
      curves.over_steps(lines, figures / picture, title=f'{label}, over training',
                               ylabel=label, note=curves.PUBLIC, **options)  # fmt: skip
      parts += pages.pictures(within, [picture])
  grids = [r['pictures']['steps'] for n, r in scored.items()
           if 'steps' in r['pictures'] and n not in VARIANTS]  # fmt: skip
  return [*parts, *_measured(runs), *pages.pictures(within, [f'runs/{name}' for name in grids])]


def _course_row(name: str, run: Record, base: Record | None) -> tuple[str, ...]:
  """The FID of a run of the open problem over its steps."""
  series, per_epoch = _series(run, 'fid'), run['steps_per_epoch']
  best, last = min(series, key=lambda step: series[step]), max(series)
  cells = []
  for epoch in _EPOCHS:
    step = min(series, key=lambda s: abs(s - epoch * per_epoch))
    near = abs(step - epoch * per_epoch) <= 1.5 * per_epoch
    cells.append(number(series[step] if near else None))
  return (
    name, _changed(run, base), number(run.get('noise_in_d'), '.3g'), *cells,
    f'{series[best]:.4g} ({best / per_epoch:.0f})', number(series[last]),
    f'{series[last] / series[best]:.2f}',
  )  # fmt: skip


def _by_noise(scored: Iterable[Record]) -> list[str]:
  """The explanation, counted: who got worse, of those with much noise in D and of the others."""
  ends: dict[bool, list[float]] = {True: [], False: []}
  for run in scored:
    if run.get('noise_in_d') is not None:
      series = _series(run, 'fid')
      ends[run['noise_in_d'] > plan.NOISY].append(series[max(series)] / min(series.values()))
  if not all(ends.values()):
    return []
  loud, quiet = ends[True], ends[False]
  worse = [sum(end > _WORSE for end in found) for found in (loud, quiet)]
  return [
    f'With noise in D above {plan.NOISY:g}, {worse[0]} of {len(loud)} runs end more than '
    f'{_WORSE:g} times as far as at their best; with less, {worse[1]} of {len(quiet)}.'
  ]


def _measured(runs: Mapping[str, Record]) -> list[str]:
  """What D made of real and of fake images on the way: the explanation, by measurement."""
  rows = []
  for name, run in runs.items():
    if name.endswith(_AS_TRAINED) and name.removesuffix(_AS_TRAINED) in runs:
      continue  # the same D
    found = run['metrics']
    chosen = [found[round(i)] for i in (0, (len(found) - 1) / 2, len(found) - 1)] if found else []
    for line in {m['step']: m for m in chosen}.values():
      cells = (number(line.get(metric), '.3g') for metric in _METRICS.values())
      rows.append((name, f'{line["step"]:,}', *cells))
  parts = [
    '### How well D does its part',
    'Means over the steps before each line. A D that is right about fakes but not about real '
    'images has not learnt the data, and what G learns from it is not the data either.',
    pages.table(('run', 'step', *_METRICS), rows),
  ]
  fakes = [line.get('d_fake_accuracy') for line in (runs.get(PROBLEM) or {}).get('metrics', [])]
  if fakes and None not in fakes:
    parts.append(
      f'In {PROBLEM} D never recognised fewer than {min(fakes):.3g} of the fakes (lowest of the '
      'means). Fakes are all that may be looked at for free, and so all that an adaptive n_D '
      '(--n_d_threshold) goes by: with any threshold below that it stays where it is, and the run '
      'is the same.'
    )
  return parts


def _changed(run: Record, base: Record | None) -> str:
  """Settings that differ from the report's; a step is a step, so records' own settings do not."""
  if base is None or run is base:
    return "the report's settings" if run is base else '?'
  ignored = {
    'seed', 'dataset', 'num_samples', 'microbatch_size', 'memory_budget_gib', 'clipping_strategy',
  }  # fmt: skip
  changed = [
    f'{name} = {value} instead of {base["settings"].get(name)}'
    for name, value in run['settings'].items()
    if name not in ignored and 'report' not in name and value != base['settings'].get(name)
  ]
  return ', '.join(changed) or 'nothing'


def _series(run: Record | None, name: str) -> dict[float, float]:
  return {
    float(s['step']): s['scores'][name]['value']
    for s in (run or {}).get('over_steps', [])
    if name in s['scores']
  }


# --- the command ---------------------------------------------------------------------------------


def define_flags() -> None:
  flags.DEFINE_list('runs', [], 'Directories of runs, to be taken into the study.')
  flags.DEFINE_string('results', str(pages.RESULTS), 'Folder of STUDY.md and of study/.')


def main() -> None:
  folder = pathlib.Path(FLAGS.results).resolve()
  runs = [pathlib.Path(path.strip()) for path in FLAGS.runs]
  names = [path.resolve().name for path in runs]
  if len(set(names)) < len(names):
    raise _validate.InputError(f'expected runs whose directories have different names, got {names}')
  for path in runs:
    for file in study_records.collect_run(path, folder / 'study'):
      print(f'taken: {file.name}')
  for what in make(Study.read(folder), folder / 'STUDY.md', folder / 'study'):
    print(f'not measured yet: {what}')
  print(f'Page: {folder / "STUDY.md"}')


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
