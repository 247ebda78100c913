"""All scores of a synthetic table: what is computed, kept and set beside real rows and noise.

Real training rows are private, and real test rows are somebody's too: a score that read either is
not covered by the ε of a run, whoever computed it, and is marked.

Results that are done are kept in a `evaluation.scores.Store`, by a digest of all that they depend
on, so that several synthetic tables share what real rows and worthless tables get.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.evaluation import scores
from dpgan_jax.evaluation.tables import cells, copies, marginals, references, tstr, verdict

FORMAT = 'dpgan_jax evaluation of tables 1'
VERSION = 1
"""Raised whenever a score changes its meaning: what an older version kept is not used."""
LEAST_ROWS, SHUFFLED = 20, 8
_BOTH = ('train', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How much is done; the numbers are upper limits, as the data may be fewer.

  Attributes:
    effort: of classifiers.
    queries: synthetic rows whose nearest real rows are looked for.
    marginal_rows: of each table, for marginals; total variation grows as rows become fewer.
  """

  effort: tstr.Effort
  queries: int
  marginal_rows: int

  @classmethod
  def of(cls, *, quick: bool, seed: int) -> Settings:
    """The default, or a first impression whose scores do not compare with those of the default."""
    if quick:
      effort = tstr.Effort(rows=5000, column_rows=1500, columns=8, seed=seed)
      return cls(effort=effort, queries=500, marginal_rows=10_000)
    return cls(effort=tstr.Effort(seed=seed), queries=3000, marginal_rows=1_000_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(scores.Score):
  """One number, and what real rows (`reference`) and worthless tables (`static`) get there."""

  @property
  def separates(self) -> bool | None:
    """Whether it tells worthless tables from real rows here; None where that is not known."""
    if self.reference is None or self.static is None:
      return None
    if self.best == 'low':
      return self.static > verdict.LEAST_APART * self.reference
    return self.reference - self.static >= verdict.LEAST_TO_LEARN

  @property
  def remark(self) -> str:
    """What a reader has to know of it, for people."""
    said = ['**says nothing here**: noise gets as much'] if self.separates is False else []
    return '; '.join([*said, *([self.detail['remark']] if 'remark' in self.detail else [])])


def score(
  train: TableDataset,
  test: TableDataset,
  synthetic: TableDataset,
  *,
  quick: bool = False,
  seed: int = 0,
  store: scores.Store | None = None,
  progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
  """Scores a synthetic table against the real one that it stands for; strict JSON, sentence first.

  Args:
    train: what it was made from.
    test: real rows that were never trained on.
    synthetic: of the same schema.
    quick: a first impression only.
    seed: of every draw and classifier; the same one gives the same record.
    store: where finished results are kept and found.
    progress: is told what is being done and the share of all work that is done.

  Raises:
    InputError: tables that cannot be compared; one line says why.
  """
  cells.require_same(train, test, synthetic)
  for data, what in ((train, 'training'), (test, 'test'), (synthetic, 'synthetic')):
    if len(data) < LEAST_ROWS:
      raise InputError(f'expected at least {LEAST_ROWS} {what} rows, got {len(data)}')
  work = _Work(train, test, synthetic, Settings.of(quick=quick, seed=seed))
  results = scores.results(work.pieces(), store, progress)
  return _record(results, train, test, synthetic, quick=quick, seed=seed)


def without_target(data: TableDataset) -> TableDataset:
  """The same rows without the target: what a synthetic table without classes is compared with."""
  schema = Schema(columns=data.schema.modelled, declared_public=data.schema.declared_public)
  none = np.zeros_like(data.labels)
  return dataclasses.replace(data, labels=none, schema=schema, persons=None)


class _Work:
  """The pieces of one evaluation, by name; `_real` and the names of noises end those of references.

  Each returns plain numbers, which is what the store keeps.
  """

  def __init__(
    self, train: TableDataset, test: TableDataset, synthetic: TableDataset, settings: Settings
  ):
    self.train, self.test, self.synthetic, self.settings = train, test, synthetic, settings

  def pieces(self) -> list[scores.Piece]:
    """What is done, in this order, with its cost beside the others."""
    effort, size = self.settings.effort, len(self.train.schema.modelled)
    target = self.train.schema.target is not None
    noises = [n for n in references.NOISES if target or n != 'permuted']
    tables = {'': self.synthetic, '_real': self.train}
    found: list[scores.Piece] = []

    def table(suffix: str) -> TableDataset:
      return tables[suffix] if suffix in tables else self.noise(suffix[1:])

    def keep(name: str, cost: float, run: Callable[[], Any]) -> None:
      found.append(scores.Piece(name, self._key(name), cost, lambda _: run()))

    def add(name: str, suffix: str, cost: float, run: Callable[[TableDataset], Any]) -> None:
      keep(name + suffix, cost, lambda: run(table(suffix)))

    for suffix in ('', '_real', *(f'_{n}' for n in noises if n != 'permuted')):
      add('marginals', suffix, min(size**2, 4000) / 1000, self.compared)
    if target:
      for suffix in ('', '_real'):
        add('target', suffix, 8, lambda t: tstr.target(t, self.test, effort))
      keep('target_permuted', 10, self.guessed)
    for suffix in ('', '_real', '_independent') if size > 1 or target else ():
      cost = min(size, effort.columns)
      add('columns', suffix, cost, lambda t: tstr.every_column(t, self.test, effort))
    keep('copies', 5, self.copied)
    return found

  def _key(self, name: str) -> str:
    """A digest of all that a result follows from."""
    alone = '_' in name
    about = [
      VERSION, name, dataclasses.asdict(self.settings), self._digests[:2],
      None if alone else self._digests[2],
    ]  # fmt: skip
    return scores.digest(about)

  @functools.cached_property
  def _digests(self) -> list[str]:
    found = []
    for data in (self.train, self.test, self.synthetic):
      schema = json.dumps(data.schema.to_record(), sort_keys=True).encode()
      digest = hashlib.sha256(schema)
      for array in (data.records, data.labels):
        digest.update(np.ascontiguousarray(array).data)
      found.append(digest.hexdigest())
    return found

  def noise(self, kind: str) -> TableDataset:
    return references.noise(kind, self.train, seed=self.settings.effort.seed)

  def _cells(self, data: TableDataset) -> cells.Table:
    most, seed = self.settings.marginal_rows, self.settings.effort.seed
    found = cells.table(data)
    if len(data) <= most:
      return found
    chosen = np.random.default_rng([seed, 2]).permutation(len(data))[:most]
    return found._replace(codes=found.codes[chosen])

  @functools.cached_property
  def _test_cells(self) -> cells.Table:
    return self._cells(self.test)

  def compared(self, data: TableDataset) -> dict[str, Any]:
    seed = self.settings.effort.seed
    return marginals.compare(self._test_cells, self._cells(data), seed=seed)

  def guessed(self) -> dict[str, Any]:
    """As `tstr.target`, of shuffled targets: `auroc` is the highest, `aurocs` are all of them.

    One shuffle says little: a direction that is learnt from noise may lie along the one that tells,
    or against it. The linear classifier is the one that varies most, and is quick.
    """
    seed, effort = self.settings.effort.seed, self.settings.effort
    tables = (references.noise('permuted', self.train, seed=seed + i) for i in range(SHUFFLED))
    first = tstr.target(next(tables), self.test, effort)
    others = [tstr.target(t, self.test, effort, ('logistic',))['auroc'] for t in tables]
    aurocs = [first['auroc'], *others]
    return {**first, 'auroc': max(aurocs), 'aurocs': aurocs}

  def copied(self) -> dict[str, Any]:
    seed = self.settings.effort.seed
    queries = self.settings.queries
    return copies.look(self.synthetic, self.train, self.test, queries=queries, seed=seed).to_json()


def _record(
  results: Mapping[str, Any],
  train: TableDataset,
  test: TableDataset,
  synthetic: TableDataset,
  *,
  quick: bool,
  seed: int,
) -> dict[str, Any]:
  """Names every number and sets it beside what real rows and worthless tables get."""
  found: list[Score] = []

  def add(
    name: str,
    best: str,
    n: int,
    get: Callable[[Any], Any],
    piece: str,
    noises: tuple[str, ...],
    **detail: Any,
  ) -> None:
    if (value := get(results[piece])) is None:
      return
    by_noise = {k: get(results[f'{piece}_{k}']) for k in noises if f'{piece}_{k}' in results}
    looks_better = max if best == 'high' else min
    found.append(Score(
      name=name, value=value, best=best, reads=_BOTH, n=n, reference=get(results[f'{piece}_real']),
      static=looks_better(by_noise.values(), default=None), detail={'static': by_noise, **detail},
    ))  # fmt: skip

  rows = len(synthetic)
  if target := results.get('target'):
    guess, best, real_best = ('permuted',), target['best'], results['target_real']['best']
    add('tstr_auroc', 'high', target['n'], lambda r: r['auroc'], 'target', guess,
        classifier=best, remark=f'{best}; trained on real rows {real_best}')  # fmt: skip
    add('tstr_balanced', 'high', target['n'], lambda r: r['balanced'], 'target', guess)
    for name in target['classifiers']:
      for measure in ('auroc', 'balanced'):
        add(f'{measure}_{name}', 'high', target['n'],
            lambda r, n=name, m=measure: r['classifiers'][n][m], 'target', guess)  # fmt: skip
  if columns := results.get('columns'):
    add('every_column_auroc', 'high', columns['n'], lambda r: r['auroc'], 'columns',
        ('independent',), remark=f'{len(columns["columns"])} columns')  # fmt: skip
  pairs = len(results['marginals']['pairs'])
  drawn = 'pairs, drawn' if results['marginals']['sampled'] else 'pairs'
  for name, noises, remark in (
    ('one_way', ('static',), None), ('two_way', ('independent', 'static'), f'{pairs} {drawn}'),
    ('three_way', ('independent', 'static'), None),
    ('relations', ('independent', 'static'), f'{pairs} {drawn}'),
    ('one_way_worst', ('static',), None), ('two_way_worst', ('independent', 'static'), None),
  ):  # fmt: skip
    detail = {} if remark is None else {'remark': remark}
    add(name, 'low', rows, lambda r, n=name: r[n], 'marginals', noises, **detail)
  looked = results['copies']
  near = {'remark': 'what the sentence on copies says decides', 'alarm': looked['alarm'],
          'interval': looked['near_interval']}  # fmt: skip
  found += [
    Score(name='near_share', value=looked['near_share'], best='low', reads=_BOTH,
          n=looked['queries'], reference=looked['fresh_share'], detail=near),
    Score(name='equal_share', value=looked['equal_share'], best='low', reads=_BOTH, n=rows,
          reference=looked['held_out_equal_share'],
          detail={'remark': 'equal to a training row in every column'}),
    Score(name='distinct_rows', value=looked['distinct_share'], best='high', reads=(), n=rows),
  ]  # fmt: skip
  judged = _judge(results)
  columns = len(train.schema.modelled) + (train.schema.target is not None)
  skipped = {} if target else {'tstr_auroc': 'no target that both tables have'}
  return {
    'format': FORMAT,
    'sentence': judged.sentence,
    'about': {
      'samples': f'{synthetic.name}, {rows:,} rows of {columns} columns',
      'real_data': f'{train.name}, {len(train):,} for training and {len(test):,} for testing',
      'target': train.schema.target,
      'amount': 'quick: compares with no full evaluation' if quick else 'full',
      'eval_seed': seed,
    },
    'privacy': scores.PRIVACY.replace('real images', 'real rows').replace('*', ''),
    'verdict': verdict.to_json(judged),
    'copies': looked,
    'class_names': list(train.class_names),
    'scores': [one.to_json() | {'remark': one.remark.replace('*', '')} for one in found],
    'columns': _by_column(results),
    'worst_pairs': _worst_pairs(results, cells.table(test).names),
    'skipped': skipped,
  }


def _judge(results: Mapping[str, Any]) -> verdict.Verdict:
  piece = 'target' if 'target' in results else 'columns'
  names = f'{piece}_real', piece, f'{piece}_{"permuted" if piece == "target" else "independent"}'
  aurocs = [results.get(name, {}).get('auroc') for name in names]
  noises = ('independent', 'static')
  real, made, *worthless = (
    results[f'marginals{suffix}']['two_way'] for suffix in ('_real', '', *(f'_{n}' for n in noises))
  )
  return verdict.judge(
    None if None in aurocs else (aurocs[0], aurocs[1], max(aurocs[2], 0.5)),
    None if real is None else (real, made, dict(zip(noises, worthless, strict=True))),
  )


def _by_column(results: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Of each column its one-way total variation and its AUROC as a target; all read private data."""
  found = []
  for name, value in results['marginals']['columns'].items():
    areas = [results.get(p, {}).get('columns', {}).get(name) for p in ('columns', 'columns_real')]
    found.append({
      'name': name, 'one_way': value, 'one_way_real': results['marginals_real']['columns'][name],
      'auroc': areas[0], 'auroc_real': areas[1],
    })  # fmt: skip
  return found


def _worst_pairs(results: Mapping[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
  """The ten pairs that are furthest from those of held-out rows."""
  real = {(i, j): value for i, j, value in results['marginals_real']['pairs']}
  pairs = sorted(results['marginals']['pairs'], key=lambda pair: -pair[2])[:10]
  return [
    {'names': [names[i], names[j]], 'two_way': value, 'two_way_real': real[i, j]}
    for i, j, value in pairs
  ]
