"""Makes SERIES.md of what `measure` has found."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _cli
from experiments import pages

RECORD, PAGE = pages.RESULTS / 'series.json', pages.RESULTS / 'SERIES.md'
_COMMAND = './run.sh python -m experiments.series.measure --data=FOLDER_OF_HOURLY'
_SCORES = (
  'auroc', 'logistic', 'boosting', 'recurrent', 'hourly_means', 'hourly_rates', 'predictive',
  'discriminative',
)  # fmt: skip
_CALLED = {
  'real': 'training stays themselves', 'permuted': 'training stays, outcome shuffled',
  'independent': 'every hour of every channel shuffled by itself', 'moments': 'dpgan_jax',
  'rcgan': 'RCGAN, DP-SGD',
}  # fmt: skip
# (name, what is reached, bound by ε, whether it is the least that is wanted)
_GOALS = (
  ('share', 'AUROC: (ours - 0.5) ÷ (real - 0.5)', {1.0: 0.70, 10.0: 0.90}, True),
  ('ratio', 'error of the next value ÷ that of real stays', {1.0: 1.25, 10.0: 1.10}, False),
  ('hourly_means', 'error of hourly means, in spreads', {1.0: 0.10}, False),
  ('hourly_rates', 'error of hourly rates, in spreads', {1.0: 0.10}, False),
)


def page(record: Mapping[str, Any]) -> str:
  """The Markdown of what `measure` has found."""
  releases, ends = pages.by_kind(record['rows'])
  real = ends['real'][0]
  for row in record['rows']:
    row['share'] = (row['auroc'] - 0.5) / (real['auroc'] - 0.5)
    row['ratio'] = row['predictive'] / real['predictive']
  header = (
    'ε', 'by', 'releases', 'AUROC, death', 'logistic', 'boosting', 'recurrent', 'hourly means',
    'hourly rates', 'next value', 'telling apart', 'CPU seconds', 'expected / verdict',
  )  # fmt: skip
  return pages.join(
    '# Series: what ε alone gives',
    f'PhysioNet 2012, {record["train"]:,} intensive-care stays (sets a and b) of 48 hours and 37 '
    'measurements, four fifths of them missing, with age, sex, height, unit and outcome; δ = '
    f'{record["delta"]:g}, nothing chosen but ε. Scores are on the {record["test"]:,} stays of set '
    'c; the method and its constants were chosen on generated stays and on a held-out quarter of '
    'sets a and b. AUROC for death in hospital of the best of logistic regression and boosting on '
    'simple summaries and a small recurrent network, trained on synthetic stays. Errors are means '
    'over channels and hours in units of the spread; the next value is found by ridge regression, '
    'trained on synthetic stays; telling apart is the accuracy of boosting at telling real from '
    'synthetic, less a half. RCGAN is the recurrent GAN of Esteban, Hyland & Rätsch 2017, whose '
    "discriminator learns by this package's DP-SGD, at the same ε. Mean ± standard deviation over "
    'releases. Made by '
    f'`{_COMMAND}`; at most {record["peak_gib"]:g} GiB of memory.',
    pages.table(header, [_row(*key, rows) for key, rows in releases.items()]),
    '## What was to be reached',
    pages.table(('what', 'ε', 'wanted', 'found', ''), _goals(releases, ends['independent'])),
    '## What is best and worst possible',
    pages.table(
      ('stays', *header[3:11]),
      [(_CALLED[kind], *(pages.mean_of(rows, name) for name in _SCORES)) for kind, rows in
       ends.items()],
    ),
    'Set c is not quite like sets a and b: training stays themselves miss its hourly means by '
    f'{real["hourly_means"]:.3f} spreads, and boosting tells them from it by '
    f'{real["discriminative"]:.3f}.',
    *(f'![Real and synthetic stays, ε = {epsilon:g}](series/eps{epsilon:g}.png)'
      for epsilon, kind in releases if kind == 'moments'),
  )  # fmt: skip


def _goals(
  releases: Mapping[tuple[float, str], Sequence[Mapping[str, Any]]],
  baseline: Sequence[Mapping[str, Any]],
) -> list[tuple[str, ...]]:
  """What was wanted and what was found; `baseline` are independent values, RCGAN is a release."""
  found = []
  for name, said, bounds, least in _GOALS:
    for epsilon, bound in bounds.items():
      own = releases[epsilon, 'moments']
      value = statistics.fmean(row[name] for row in own)
      found.append(pages.goal(said, epsilon, value, bound, least=least))
  for name, said, best in (
    ('auroc', 'AUROC, beside the better baseline', max),
    ('discriminative', 'telling apart, beside the better baseline', min),
  ):
    for (epsilon, kind), rows in releases.items():
      others = [*releases.get((epsilon, 'rcgan'), ()), *baseline]
      if kind == 'moments':
        own = statistics.fmean(row[name] for row in rows)
        bound = best(row[name] for row in others)
        found.append(pages.goal(said, epsilon, own, bound, least=best is max))
  return found


def _row(epsilon: float, kind: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
  said = {f'{row["expected"]} / {row["verdict"]}' for row in rows if 'verdict' in row}
  seconds = statistics.fmean(row['cpu_seconds'] for row in rows)
  return (
    f'{epsilon:g}', _CALLED[kind], str(len(rows)), *(pages.mean_of(rows, name) for name in _SCORES),
    f'{seconds:.0f}', '; '.join(sorted(said)) or '–',
  )  # fmt: skip


def main() -> None:
  pages.write(pathlib.Path(PAGE), page(pages.read_json(RECORD)))


if __name__ == '__main__':
  _cli.run(main)
