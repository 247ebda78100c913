"""An evaluation of a table as a page, and from records to the files that hold its scores."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dpgan_jax import _files, _markdown, _progress
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation import scores, scoring
from dpgan_jax.evaluation.scores import number
from dpgan_jax.evaluation.tables import cells, marginals, pictures, verdict
from dpgan_jax.evaluation.tables.scores import score, without_target

RECORD, PAGE = 'evaluation.json', 'evaluation.md'
MARGINALS, RELATIONS = 'evaluation.png', 'evaluation_relations.png'
TITLES = {
  'hourly_means': 'error of means at each step, in spreads',
  'hourly_rates': 'error of rates at each step, in spreads',
  'predictive': 'error of the next value, in spreads (TSTR)',
  'discriminative': 'telling real from synthetic, accuracy above a guess',
  'tstr_auroc': 'TSTR, AUROC, best of three classifiers',
  'tstr_balanced': 'TSTR, balanced accuracy of the same classifier',
  'auroc_logistic': 'TSTR, AUROC, logistic regression',
  'auroc_forest': 'TSTR, AUROC, random forest',
  'auroc_boosting': 'TSTR, AUROC, gradient boosting',
  'balanced_logistic': 'TSTR, balanced accuracy, logistic regression',
  'balanced_forest': 'TSTR, balanced accuracy, random forest',
  'balanced_boosting': 'TSTR, balanced accuracy, gradient boosting',
  'every_column_auroc': 'TSTR, AUROC, mean over every other column made binary',
  'one_way': 'total variation of one-way marginals, mean',
  'two_way': 'total variation of two-way marginals, mean',
  'three_way': 'total variation of three-way marginals, mean',
  'one_way_worst': 'total variation of one-way marginals, worst column',
  'two_way_worst': 'total variation of two-way marginals, worst pair',
  'relations': "difference of Cramér's V, mean over pairs",
  'near_share': 'share of rows near to a training row',
  'equal_share': 'share of rows equal to a training row',
  'distinct_rows': 'share of distinct rows',
}
"""Names of scores for people."""
_PRIVACY = scores.PRIVACY.replace('real images', 'real rows')
_NOTES = (
  '*Real* is what real training rows get in the place of synthetic ones: the ceiling of an AUROC, '
  'the floor of a distance. Of rows near or equal to a training row, it is what held-out rows get.',
  '*Noise* is what the worthless table gets that looks better: with the target shuffled (eight '
  'times, for the best AUROC), with every column shuffled by itself, or drawn evenly from the '
  'public domain (static; alone for one-way marginals, which shuffling keeps). A score that likes '
  'noise about as well as real rows **says nothing here**, whatever synthetic rows get.',
  'TSTR: classifiers trained on synthetic rows and tested on held-out real ones. Of every other '
  'column: numbers above the median of held-out rows or not, categories the commonest or not; the '
  'better of logistic regression and gradient boosting. The target of the schema is not one of '
  'them.',
  'Total variation is half the sum of |p - q| over public cells: a category each, '
  f'{cells.BINS} bins of equal width between the bounds of numbers, with the bounds and zero as '
  f'cells of their own (numbers of at most {cells.BINS + 2} values: a cell each), and what is '
  f'missing. The target counts as a column. At most {marginals.MOST_PAIRS:,} pairs and '
  f'{marginals.TRIPLES} sets of three columns are drawn where there are more. It grows as rows '
  'become fewer, for real rows too.',
  'Copies: rows are compared by Gower\'s distance. The alarm follows from the share of near rows '
  'and its interval, and from whether the real rows that near ones are nearest to are of training '
  'more often than chance has it.',
  verdict.RULE,
)  # fmt: skip


def evaluate_run(
  train: TableDataset,
  test: TableDataset,
  records: np.ndarray,
  labels: np.ndarray | None,
  out: str | pathlib.Path,
  *,
  quick: bool = False,
  seed: int = 0,
  source: str = 'samples',
  scores_dir: str | pathlib.Path | None = None,
) -> dict[str, Any]:
  """Scores what a model has sampled, showing progress, and writes record, page and pictures.

  Args:
    train, test: the real rows.
    records: float64 [n, C], of the columns that the schema models.
    labels: classes [n] of the target; None leaves it out of every score.
    out: folder of the results; made where missing.
    quick, seed: as of `scores.score`.
    source: what the rows are called, such as 'run at step 2,000'.
    scores_dir: where finished scores are kept; default: as for images, in `out`.

  Returns:
    the record; `summary` says it in a few lines.

  Raises:
    InputError: rows that cannot be scored, or `out` is a file.
  """
  out = _files.require_folder(out)
  if labels is None:
    if train.schema.target is not None:
      train, test = without_target(train), without_target(test)
    labels = np.zeros(len(records), np.int32)
  synthetic = TableDataset(
    records=records, labels=_classes(labels), schema=train.schema, name=source, partial=True
  )
  show = _progress.WorkProgress()
  store = scores.Store(pathlib.Path(scores_dir or out / scoring.KEPT))
  record = score(train, test, synthetic, quick=quick, seed=seed, store=store, progress=show.update)
  show.close()
  pictures.one_way(test, synthetic, out / MARGINALS)
  pictures.relations(test, synthetic, out / RELATIONS)
  write(record, to_markdown(record), out, {
    MARGINALS: ('Bar charts: shares of the values of each column, of held-out and synthetic rows.',
                'Bars that are alike are what a good synthetic table has.'),
    RELATIONS: ("Three grids of Cramér's V of every two columns: of held-out rows, of synthetic "
                'rows, and the difference.',
                'How much columns depend on each other. A white third grid is best.'),
  })  # fmt: skip
  return record


def write(
  record: dict[str, Any], text: str, out: pathlib.Path, shown: Mapping[str, tuple[str, str]]
) -> None:
  """Writes what an evaluation found: the record, a page as Markdown, and one with its pictures.

  Args:
    record: of `scores.score`.
    text: the page.
    out: the folder, which has the pictures.
    shown: what each picture shows, for who cannot see it, and a line below it, by its file's name.
  """
  _files.write_json(out / RECORD, record)
  listed = ''.join(
    f'![{shows.partition(":")[0]}]({name})\n\n' for name, (shows, _) in shown.items()
  )
  with _files.atomic_write(out / PAGE) as file:
    file.write(f'{text.rstrip()}\n\n{listed}The pictures read private data: **yes**.\n')
  scoring.write_page(text, record['verdict']['colour'], out, shown)


def summary(record: Mapping[str, Any], out: str | pathlib.Path) -> list[str]:
  """What a command prints of it: the sentences, the three scores that matter, and the files."""
  found = {one['name']: one for one in record['scores']}
  lines = [record['sentence'], record['copies']['sentence']]
  for name in ('tstr_auroc', 'every_column_auroc', 'two_way'):
    if name in found:
      one = found[name]
      beside = [f'{w}: {number(one[k])}' for w, k in (('real rows', 'reference'),
                ('noise', 'static')) if one[k] is not None]  # fmt: skip
      known = f' ({", ".join(beside)})' if beside else ''
      lines.append(f'{name}: {number(one["value"])}{known}')
  lines += [f'{name} left out: {reason}' for name, reason in record['skipped'].items()]
  lines.append(
    f'{pathlib.Path(out) / PAGE} (and .html, .json, .png): {len(found)} scores; those that read '
    'private data are marked'
  )
  return lines


def to_markdown(record: Mapping[str, Any]) -> str:
  """The record of `scores.score` for people."""
  own = ['', '## By column (reads private data: **yes**)', '', _by_column(record['columns'])]
  if record['worst_pairs']:
    pairs = (
      (_cell(' and '.join(p['names'])), number(p['two_way']), number(p['two_way_real']))
      for p in record['worst_pairs']
    )
    own += ['', '## Pairs furthest from held-out rows (reads private data: **yes**)', '']
    own += [_markdown.table(('columns', 'total variation', 'real rows'), pairs)]
  shown = {
    'sentences': (record['sentence'], record['copies']['sentence']),
    'next_step': record['verdict']['next_step'],
    'about': {n: _cell(value) for n, value in record['about'].items() if value is not None},
    'privacy': _PRIVACY, 'skipped': record['skipped'],
  }  # fmt: skip
  return scores.page(
    'Evaluation of a synthetic table', shown, ('synthetic', 'noise'), TITLES, record['scores'], own,
    _NOTES,
  )  # fmt: skip


def _by_column(columns: Iterable[Mapping[str, Any]]) -> str:
  header = ('column', 'total variation', 'real rows', 'TSTR AUROC as a target', 'real rows')
  keys = ('one_way', 'one_way_real', 'auroc', 'auroc_real')
  return _markdown.table(
    header, ((_cell(one['name']), *(number(one[k]) or '–' for k in keys)) for one in columns)
  )


def _classes(labels: np.ndarray) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.dtype.kind not in 'iu':
    raise InputError(f'expected labels to be whole numbers, got {labels.dtype}')
  return labels.astype(np.int32)


def _cell(text: Any) -> str:
  """One line that neither ends a cell nor begins one of Markdown's own marks."""
  text = ' '.join(str(text).split())
  return ''.join(f'\\{c}' if c in '*_`[]<' else c for c in text).replace('|', '/')
