"""The study page: what the report of 2020 found beside what this package finds.

Every number and every sentence about a result is made from the records (`study_records`); what is
written here is what the report said and did, with the place where it says so. What has no record is
listed as not measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import study_records

from dpgan_jax import _files
from dpgan_jax.evaluation import curves, scores
from dpgan_jax.evaluation.curves import Series
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.run import plan
from dpgan_jax.search import sweep_table

Record = dict[str, Any]

VARIANTS = {
  'dcgan_no_privacy': 'chapter 5: a plain DCGAN without privacy, 10 epochs: where it began',
  'dense_1to1': 'chapter 5: two dense layers in D, one D step per G step (figure 5.2)',
  'dense_5to1': 'chapter 5: the same, five D steps per G step (figure 5.4: some digits legible)',
  'report_eps9': 'chapter 5: the final architecture, batch 120, 30 epochs, 1:1 (figure 6.2)',
  'report_eps1.5': 'the same at ε = 1.5 (figure 6.3)',
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


@dataclasses.dataclass(frozen=True)
class Study:
  """All records: the sweep's table, runs by name, private classifiers; None or empty if absent."""

  sweep: Record | None
  runs: Mapping[str, Record]
  classifiers: Sequence[Record]

  @classmethod
  def read(cls, results: pathlib.Path) -> Study:
    """Reads the records in `results`: of sweeps, of single runs and of private classifiers."""
    runs = {p.stem: study_records.read_json(p) for p in sorted(results.glob('study/runs/*.json'))}
    return cls(
      study_records.read_json(results / 'sweep' / 'sweep.json'),
      runs,
      study_records.read_json(results / 'classifier.json') or [],
    )


def make(study: Study, page: pathlib.Path, results: pathlib.Path, command: str) -> list[str]:
  """Writes the page and its figures; returns what is not measured yet.

  Args:
    study: the records.
    page: the Markdown file.
    results: folder of the figures, at or below the page's.
    command: how the page is made, for its head.
  """
  within = results.relative_to(page.parent).as_posix()
  missing: list[str] = []
  lines = [
    '# The study of the 2020 report, reproduced', '',
    f'Made by `{command}` from the JSON files in [{within}]({within}), [sweep](sweep) and '
    '[classifier.json](classifier.json); nothing on this page is written by hand but what the '
    'report (S. Wincott, *Generating Differentially Private Datasets Using Deep Learning*, 2020) '
    f'says. {curves.PUBLIC} What real images get in the place of samples is given as '
    '*real*.',
  ]  # fmt: skip
  parts: list[Callable[..., list[str]]] = [_findings, _sweep, _variants, _problem]
  for part in parts:
    lines += ['', *part(study, results, within, missing)]
  lines += ['', '## Not measured yet', '']
  lines += [f'- {what}' for what in missing] or ['Nothing is missing.']
  with _files.atomic_write(page) as file:
    file.write('\n'.join(lines) + '\n')
  return missing


# --- what the report found -----------------------------------------------------------------------


def _findings(study: Study, results: pathlib.Path, within: str, missing: list[str]) -> list[str]:
  del results, within
  rows = [
    ('A private classifier of 95 % at ε = 1.18 (chapter 5)', _classifiers(study, missing)),
    ('Images get better with ε; low ε gives noise (figure 6.1)', _over_epsilon(study, 'tstr_cnn')),
    (
      'The secondary network tells samples from real images less often as ε grows (figure 6.4; '
      'ideal 50 %)',
      _over_epsilon(study, 'secondary_accuracy'),
    ),
    (
      "FID on the secondary network's activations falls with ε, over a wider range (figure 6.5)",
      _over_epsilon(study, 'secondary_fid'),
    ),
    ('At ε = 9 images improve with every epoch (figure 6.2)', _course(study, 'report_eps9')),
    (
      'At ε = 1.5 images get worse after epoch 10; not solved (figure 6.3)',
      _course_and_cures(study),
    ),
  ]
  table = [f'| {said} | {found} |' for said, found in rows]
  return ['## What the report found, and what is found here', '', '| report | here |',
          '| --- | --- |', *table]  # fmt: skip


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
    (_number(group['target_epsilon']), group['scores'][name]['mean'])
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
  best = min(series, key=lambda step: series[step])
  last = max(series)
  per_epoch = study.runs[name]['steps_per_epoch']
  text = f'FID best at epoch {best / per_epoch:.0f} ({series[best]:.4g}), '
  if best == last:
    return text + 'which is the end: better to the last'
  return (
    text
    + f'{series[last]:.4g} at the end (epoch {last / per_epoch:.0f}): '
    + (f'{series[last] / series[best]:.2f} times as far')
  )


def _course_and_cures(study: Study) -> str:
  """How the FID of the open problem went, and how with one thing changed."""
  name = _BASE if _BASE in study.runs else PROBLEM
  text = _course(study, name)
  for other, run in _one_change_each(study.runs).items():
    if other != name and len(_series(run, 'fid')) > 1:
      text += f'. With {_changed(run, study.runs.get(name))}: {_course(study, other)}'
  return text


def _is_of_problem(name: str) -> bool:
  return name.startswith((PROBLEM, _MORE_NOISE))


def _one_change_each(runs: Mapping[str, Record]) -> dict[str, Record]:
  """Those of the open problem; averages only where that is all that was changed."""
  return {
    name: run
    for name, run in runs.items()
    if _is_of_problem(name) and (name == PROBLEM or f'{name}{_AS_TRAINED}' not in runs)
  }


# --- figures 6.1, 6.2, 6.4, 6.5 ------------------------------------------------------------------


def _sweep(study: Study, results: pathlib.Path, within: str, missing: list[str]) -> list[str]:
  del results, within
  lines = ['## Over ε (figures 6.1, 6.2, 6.4, 6.5 and TSTR)', '']
  if study.sweep is None:
    missing.append('the sweep over ε (dpgan_jax.sweep)')
    return [*lines, 'Not measured yet.']
  settings = study.sweep['settings']
  lines += [
    f'Networks: {settings["generator"]} (G) and {settings["discriminator"]} (D); samples of G as '
    f'averaged at {settings.get("g_mixture") or 1} of its steps. What does better: '
    '[QUALITY.md](QUALITY.md).',
    '',
  ]
  made_of = {_number(group['target_epsilon']): group for group in study.sweep['by_epsilon']}
  groups = {epsilon: group['scores'] for epsilon, group in made_of.items()}
  names = [n for n in sweep_table.COLUMNS if any(n in found for found in groups.values())]
  lines += [f'| ε | seeds | steps | {" | ".join(scores.TITLES[n] for n in names)} |',
            '| --- ' * (3 + len(names)) + '|']  # fmt: skip
  for epsilon, found in groups.items():
    group, cells = made_of[epsilon], [_mean(found.get(name)) for name in names]
    steps = ', '.join(f'{n:,}' for n in group['steps'])
    lines.append(f'| {show_epsilon(epsilon)} | {group["runs"]} | {steps} | {" | ".join(cells)} |')
  last = list(groups.values())[-1] if groups else {}
  real = [(last.get(name) or {}).get('reference') for name in names]
  lines.append(f'| real |  |  | {" | ".join("–" if r is None else f"{r:.4g}" for r in real)} |')
  lines += ['', study.sweep['spent_together']['statement'], '']
  return [*lines, *_images(study.sweep['pictures'], 'sweep')]


def _mean(found: Record | None) -> str:
  if not found:
    return '–'
  spread = found['standard_deviation']
  return f'{found["mean"]:.4g}' + ('' if spread is None else f' ± {spread:.2g}')


# --- chapter 5 and chapter 7 ---------------------------------------------------------------------


def _variants(study: Study, results: pathlib.Path, within: str, missing: list[str]) -> list[str]:
  del results
  lines = ["## The report's GANs, and the losses it named for later", '']
  found = {name: study.runs[name] for name in VARIANTS if name in study.runs}
  missing += [f'{name}: {VARIANTS[name]}' for name in VARIANTS if name not in found]
  if not found:
    return [*lines, 'Not measured yet.']
  titles = [scores.TITLES[name] for name in _COLUMNS]
  lines += [f'| run | what | ε | loss | n_D | {" | ".join(titles)} |',
            '| --- ' * (5 + len(titles)) + '|']  # fmt: skip
  for name, run in found.items():
    s, given = run['settings'], run['evaluation']['scores']
    if not given:
      missing.append(f'evaluation of {name}')
    what = VARIANTS[name] + ('' if run['finished'] else f' (**{_progress(run)}**)')
    n_d = s['d_steps_per_g_step'] if s.get('n_d_threshold') is None else 'adaptive'
    cells = ' | '.join(_value(given.get(column)) for column in _COLUMNS)
    epsilon = show_epsilon(_number(run['epsilon']))
    lines.append(f'| {name} | {what} | {epsilon} | {s["loss"]} | {n_d} | {cells} |')
  amounts = {run['evaluation']['amount'] for run in found.values()} - {None}
  if len(amounts) > 1:
    lines += ['', '**Not all runs were evaluated alike; their scores do not compare.**']
  elif amounts:
    lines += ['', f'Amount of evaluation: {amounts.pop()}.']
  pictures = [
    f'runs/{run["pictures"][kind]}'
    for run in found.values()
    for kind in ('steps', 'samples')
    if kind in run['pictures']
  ]
  return [*lines, '', *_images(pictures, within)]


def _value(found: Record | None) -> str:
  if found is None:
    return '–'
  real = found['reference']
  return f'{found["value"]:.4g}' + ('' if real is None else f' (real {real:.4g})')


def _progress(run: Record) -> str:
  return f'{run["steps"]:,} of {run["steps_planned"]:,} steps'


# --- figure 6.3 ----------------------------------------------------------------------------------


def _problem(study: Study, results: pathlib.Path, within: str, missing: list[str]) -> list[str]:
  lines = [
    '## The open problem (figure 6.3)', '',
    "At ε = 1.5 the report's images got worse after epoch 10, which it could not explain. The runs "
    'below have its settings, and the same with what the second column says changed. Samples of a '
    'run are those of its last step, whatever they score. Noise in D: how long the noise is that '
    'reaches D between two steps of G, relative to its longest gradient (`GAN.noise_in_d`); '
    f'training warns above {plan.NOISY:g}.',
    '',
  ]  # fmt: skip
  runs = {n: r for n, r in study.runs.items() if _is_of_problem(n)}
  scored = {n: r for n, r in runs.items() if len(r['over_steps']) > 1}
  missing += [f'scores of {n} over steps (evaluate --over_steps)' for n in runs if n not in scored]
  if PROBLEM not in scored:
    missing.append('the open problem: a run with the settings of the report, scored over steps')
  if not scored:
    return [*lines, 'Not measured yet.']
  epochs = ' | '.join(f'FID near epoch {e}' for e in _EPOCHS)
  lines += [f'| run | changed | noise in D | {epochs} | best FID (epoch) | last | last / best |',
            '| --- ' * (6 + len(_EPOCHS)) + '|']  # fmt: skip
  base = study.runs.get(_BASE) or study.runs.get(PROBLEM)
  for name, run in scored.items():
    series = _series(run, 'fid')
    best, last = min(series, key=lambda step: series[step]), max(series)
    per_epoch = run['steps_per_epoch']
    cells = []
    for epoch in _EPOCHS:
      step = min(series, key=lambda s: abs(s - epoch * per_epoch))
      near = abs(step - epoch * per_epoch) <= 1.5 * per_epoch
      cells.append(f'{series[step]:.4g}' if near else '–')
    lines.append(
      f'| {name} | {_changed(run, base)} | {_short(run.get("noise_in_d"))} | {" | ".join(cells)} '
      f'| {series[best]:.4g} ({best / per_epoch:.0f}) | {series[last]:.4g} '
      f'| {series[last] / series[best]:.2f} |'
    )
  pictures = []
  shown: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ('fid', 'FID on fixed features', {'log': True}),
    ('secondary_accuracy', 'accuracy of the secondary network', {'ideal': (0.5, 'ideal: 0.5')}),
  )
  for score, label, options in shown:
    wanted = [
      Series(n, {s: [v] for s, v in _series(r, score).items()})
      for n, r in _one_change_each(scored).items()
    ]
    wanted = [s for s in wanted if s.points][:7]
    if wanted:
      pictures.append(f'problem_{score}.png')
      curves.over_steps(wanted, results / pictures[-1], title=f'{label}, over training',
                               ylabel=label, note=curves.PUBLIC, **options)  # fmt: skip
  lines += ['', *_by_noise(scored.values()), *_images(pictures, within), '', *_measured(runs)]
  grids = [f'runs/{r["pictures"]["steps"]}' for n, r in scored.items()
           if 'steps' in r['pictures'] and n not in VARIANTS]  # fmt: skip
  return [*lines, '', *_images(grids, within)]


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
    f'{_WORSE:g} times as far as at their best; with less, {worse[1]} of {len(quiet)}.',
    '',
  ]


def _measured(runs: Mapping[str, Record]) -> list[str]:
  """What D made of real and of fake images on the way: the explanation, by measurement."""
  lines = [
    '### How well D does its part', '',
    'Means over the steps before each line. A D that is right about fakes but not about real '
    'images has not learnt the data, and what G learns from it is not the data either.', '',
    '| run | step | n_D | right on real | right on fakes | share of real gradients clipped |',
    '| --- | --- | --- | --- | --- | --- |',
  ]  # fmt: skip
  for name, run in runs.items():
    if name.endswith(_AS_TRAINED) and name.removesuffix(_AS_TRAINED) in runs:
      continue  # the same D
    found = run['metrics']
    chosen = [found[round(i)] for i in (0, (len(found) - 1) / 2, len(found) - 1)] if found else []
    for line in {m['step']: m for m in chosen}.values():
      shown = ('n_d', 'd_real_accuracy', 'd_fake_accuracy', 'clipped_fraction')
      cells = [_short(line.get(n)) for n in shown]
      lines.append(f'| {name} | {line["step"]:,} | {" | ".join(cells)} |')
  fakes = [line.get('d_fake_accuracy') for line in (runs.get(PROBLEM) or {}).get('metrics', [])]
  if fakes and None not in fakes:
    lines += ['', (
      f'In {PROBLEM} D never recognised fewer than {min(fakes):.3g} of the fakes (lowest of the '
      'means). Fakes are all that may be looked at for free, and so all that an adaptive n_D '
      '(--n_d_threshold) goes by: with any threshold below that it stays where it is, and the run '
      'is the same.'
    )]  # fmt: skip
  return lines


def _short(value: float | None) -> str:
  return '–' if value is None else f'{value:.3g}'


def _changed(run: Record, base: Record | None) -> str:
  """Settings that differ from the report's; a step is a step, so records' own settings do not."""
  if base is None or run is base:
    return "the report's settings" if run is base else '?'
  ignored = {
    'seed', 'dataset', 'num_samples', 'microbatch_size', 'memory_budget_gib', 'clipping_strategy',
  }  # fmt: skip
  names = [n for n in run['settings'] if n not in ignored and 'report' not in n]
  changed = [
    f'{n} = {run["settings"][n]} instead of {base["settings"].get(n)}'
    for n in names
    if run['settings'][n] != base['settings'].get(n)
  ]
  return ', '.join(changed) or 'nothing'


def _series(run: Record | None, name: str) -> dict[float, float]:
  return {
    float(s['step']): s['scores'][name]['value']
    for s in (run or {}).get('over_steps', [])
    if name in s['scores']
  }


# --- shared --------------------------------------------------------------------------------------


def _number(epsilon: float | str) -> float:
  return float(epsilon)


def _images(names: Sequence[str], within: str) -> list[str]:
  return [f'![{name}]({within}/{name})\n' for name in names]
