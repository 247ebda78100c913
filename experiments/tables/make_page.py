"""Makes TABLES.md of what `measure` and `choose` have found."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _cli
from experiments import pages

RECORD, PAGE = pages.RESULTS / 'tables.json', pages.RESULTS / 'TABLES.md'
CHOICE, SMALL = pages.RESULTS / 'tables_choice.json', pages.RESULTS / 'tables_small.json'
SECOND, WIDE = pages.RESULTS / 'tables_flchain.json', pages.RESULTS / 'tables_wide.json'
RECORDS = RECORD, CHOICE, SECOND, SMALL, WIDE
_COMMAND = './run.sh python -m experiments.tables.measure --data=FOLDER_OF_ADULT'
_SCORES = ('one_way', 'two_way', 'three_way', 'auroc', 'every_column')
_GOALS = {0.2: 0.89, 1.0: 0.905, 10.0: 0.915}  # AUROC for income
_TIMES = 5.0  # AIM's time over ours
_CALLED = {
  'real rows': 'training rows themselves', 'permuted': 'training rows, target shuffled',
  'independent': 'every column shuffled by itself', 'moments': 'dpgan_jax',
}  # fmt: skip


def page(
  record: Mapping[str, Any], choice: Mapping[str, Any], second: Mapping[str, Any] | None = None,
  small: Mapping[str, Any] | None = None, wide: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
  """The Markdown of what `measure` has found, of Adult and of a second table, `choose`, `wide`."""
  releases, ends = pages.by_kind(record['rows'])
  return pages.join(
    '# Tables: what ε alone gives',
    f'UCI Adult, {record["train"]:,} training rows of 14 columns and the target income, δ = '
    f'{record["delta"]:g}, nothing chosen but ε. Scores are on {record["test"]:,} test rows; '
    'settings were chosen on held-out training rows, the kind of model (mixtures in the place of '
    'a copula) after a look at test scores too. Total variation of marginals (0 is the same), and '
    'the AUROC for income of the best of logistic regression, forest and boosting, trained on '
    'synthetic rows. "Others" is the mean AUROC for every other column, made binary. Mean ± '
    f'standard deviation over releases. Made by `{_COMMAND}`; at most {record["peak_gib"]:g} GiB '
    'of memory. Other tools see the cells that scores are computed on, a small favour '
    '(`experiments/tables/peers.py`). Their rows are drawn as mbi 2.0 draws them: mbi 1.1, which '
    'smartnoise-synth asks for, draws rows with other marginals than the model has '
    '([its fault](https://github.com/ryan112358/mbi/pull/145)), and AIM and MST seem worse than '
    'they are. All ran while other programs did, so seconds are too many.',
    pages.table(_header('income'), [_row(key, rows) for key, rows in releases.items()]),
    '## What was to be reached',
    pages.table(('what', 'ε', 'wanted', 'found', ''), _goals(releases, _GOALS)),
    '## What is best and worst possible',
    _ends(ends, 'income'),
    'AUROC by classifier, mean over releases:',
    pages.table(
      ('ε', 'by', 'logistic', 'forest', 'boosting'),
      [
        (f'{epsilon:g}', _CALLED.get(kind, kind),
         *(pages.mean_of(rows, name) for name in ('logistic', 'forest', 'boosting')))
        for (epsilon, kind), rows in releases.items() if 'auroc' in rows[0]
      ],
    ),
    *(_second(second) if second else ()),
    *(_wide(wide) if wide else ()),
    '## How the defaults were chosen, and the levels of the verdict',
    'One release each of some training rows, scored on 7,561 others. What classifiers learn stands '
    'beside what they learn from as many real rows. Made by '
    '`./run.sh python -m experiments.tables.choose --data=FOLDER_OF_ADULT`; of 5,000 and 2,000 '
    'rows with `--sizes=5000,2000 --out=experiments/results/tables_small.json`.',
    pages.table(_CHOICES, _choices([*choice['rows'], *(small['rows'] if small else ())])),
  )  # fmt: skip


def _goals(
  releases: Mapping[tuple[float, str], Sequence[Mapping[str, Any]]], aurocs: Mapping[float, float]
) -> list[tuple[str, ...]]:
  """What was wanted and what was found: beside one release of the best other tool that ended."""
  found = []
  for (epsilon, kind), own in releases.items():
    if kind != 'moments':
      continue
    others = {k: rows[0] for (e, k), rows in releases.items() if e == epsilon and k != kind}
    ended = {k: row for k, row in others.items() if 'auroc' in row}
    if epsilon in aurocs:
      found.append(pages.goal('AUROC', epsilon, _mean(own, 'auroc'), aurocs[epsilon], least=True))
    for name, said, least in (
      ('two_way', 'two-way', False), ('three_way', 'three-way', False), ('auroc', 'AUROC', True),
      ('every_column', 'others', True),
    ):  # fmt: skip
      if ended:
        by_score = {row[name]: k.partition(' ')[0] for k, row in ended.items()}
        bound = max(by_score) if least else min(by_score)
        about = f'{said}, beside {by_score[bound]}'
        found.append(pages.goal(about, epsilon, _mean(own, name), bound, least=least))
    for kind, row in others.items():
      times = row['seconds'] / _mean(own, 'seconds')
      if kind.startswith('AIM') and aurocs and (kind in ended or times >= _TIMES):
        said = "AIM's time ÷ ours" + ('' if kind in ended else ', at least')
        found.append(pages.goal(said, epsilon, times, _TIMES, least=True))
  return found


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
  return statistics.fmean(row[name] for row in rows if name in row)


_CHOICES = 'rows', 'ε', 'setting', 'value', 'two-way', 'AUROC, income', 'of real rows', 'expected'


def _header(target: str) -> tuple[str, ...]:
  return (
    'ε', 'by', 'releases', 'one-way', 'two-way', 'three-way', f'AUROC, {target}', 'best', 'others',
    'seconds', 'expected / verdict',
  )  # fmt: skip


def _ends(ends: Mapping[str, Sequence[Mapping[str, Any]]], target: str) -> str:
  return pages.table(
    ('rows', 'one-way', 'two-way', 'three-way', f'AUROC, {target}', 'others'),
    [
      (_CALLED[kind], *(pages.mean_of(rows, name) for name in _SCORES))
      for kind, rows in ends.items()
    ],
  )


def _second(record: Mapping[str, Any]) -> tuple[str, ...]:
  releases, ends = pages.by_kind(record['rows'])
  return (
    '## A second table',
    f'Free light chains and who died (`flchain`, {record["train"]:,} training and '
    f'{record["test"]:,} test rows of 9 columns and the target), with the schema as it is drafted '
    'from the file and declared public, and the defaults that were chosen on Adult. `chapter`, the '
    'cause of death, is left out. Made by `./run.sh python -m experiments.tables.measure '
    '--table=flchain --data=FOLDER --epsilons=1 --seeds=3 '
    '--out=experiments/results/tables_flchain.json`, while other programs ran.',
    pages.table(_header('death'), [_row(key, rows) for key, rows in releases.items()]),
    pages.table(('what', 'ε', 'wanted', 'found', ''), _goals(releases, {})),
    _ends(ends, 'death'),
  )


def _wide(record: Mapping[str, Any]) -> tuple[str, ...]:
  names = 'neighbours', 'strangers', 'one_way', 'two_way', 'auroc'
  return (
    '## A wide table',
    f'{record["columns"]} generated columns of known dependence, {record["rows"]:,} rows, ε = '
    f'{record["epsilon"]:g}: training took {record["minutes"]:g} minutes from the file on, '
    f'{record["cpu_minutes"]:g} of a core, drawing {record["tables"]["synthetic rows"]["num"]:,} '
    f'rows {record["minutes_to_draw"]:g}, and the larger of both {record["peak_gib"]:g} GiB, while '
    'other programs ran. Relations are mean values of Cramér\'s V. Made by '
    f'`./run.sh python -m experiments.tables.wide --rows={record["rows"]} '
    f'--columns={record["columns"]}`.',
    pages.table(
      ('rows', 'neighbours in a block', 'columns of two blocks', 'one-way', 'two-way', 'AUROC'),
      [
        (name, *(f'{found[each]:.3f}' for each in names))
        for name, found in record['tables'].items()
      ],
    ),
  )


def _choices(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
  real = {row['num_records']: row['auroc'] for row in rows if row['setting'] == 'real rows'}
  return [
    (
      f'{row["num_records"]:,}', f'{row["epsilon"]:g}' if 'epsilon' in row else '',
      row['setting'], '' if row.get('value') is None else f'{row["value"]:g}',
      f'{row["two_way"]:.3f}', f'{row["auroc"]:.3f}',
      f'{row["auroc"] / real[row["num_records"]]:.2f}', row.get('expected', ''),
    )
    for row in rows
  ]  # fmt: skip


def _row(key: tuple[float, str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
  epsilon, kind = key
  said = {f'{r["expected"]} / {r["verdict"]}' for r in rows if 'verdict' in r}
  said |= {'had not ended' for r in rows if 'auroc' not in r}
  return (
    f'{epsilon:g}', _CALLED.get(kind, kind), str(len(rows)),
    *(pages.mean_of(rows, name) for name in ('one_way', 'two_way', 'three_way', 'auroc')),
    ', '.join(sorted({r['best'] for r in rows if 'best' in r})),
    pages.mean_of(rows, 'every_column'),
    f'{statistics.fmean(r["seconds"] for r in rows):.0f}', '; '.join(sorted(said)),
  )  # fmt: skip


def main() -> None:
  pages.write(pathlib.Path(PAGE), page(*map(pages.read_json, RECORDS)))


if __name__ == '__main__':
  _cli.run(main)
