r"""What synthetic tables are worth: Adult, ε against utility, beside real rows and worthless ones.

    ./run.sh python -m experiments.tables.measure --data=FOLDER_OF_ADULT
    ./run.sh python -m experiments.tables.measure --table=flchain --data=FOLDER --epsilons=1 \
      --out=experiments/results/tables_flchain.json
    ./run.sh python -m experiments.tables.make_page

Each release is trained on the 32,561 training rows with nothing chosen but ε, and scored on the
16,281 test rows: total variation of marginals, and the AUROC of three classifiers for income. With
--peers=FOLDER, tables that others have made of the same rows (`peers.py`) are scored in the same
way. What is not measured anew stays in the record: peers without --peers, releases and real rows
with --seeds=0. A quarter of an hour on 2 cores.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import flags

from dpgan_jax import _cli, _keys
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.tables import cells, marginals, references, tstr
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from experiments import pages
from experiments.tables import adult, flchain

FLAGS = flags.FLAGS
REFERENCES = 'real rows', 'permuted', 'independent'
TABLES = {'adult': adult.load, 'flchain': flchain.load}


def made(
  train: TableDataset, epsilon: float, seed: int, **changes: Any
) -> tuple[TableDataset, dict[str, Any]]:
  """As many rows, or sequences, as were trained on, of one release; and what it took.

  `changes` are of the settings that are defaults otherwise.
  """
  begun, cpu = time.monotonic(), time.process_time()
  moments = settings.make(TrainConfig(target_epsilon=epsilon, **changes), train.spec)
  codes, secret = moments.encoding.encode(train.records), os.urandom(32)
  means, seconds = release.release_both(codes, train.labels, moments, secret)
  model = MomentsSynthesizer(moments, means, seconds)
  records, labels = model.sample(len(train), key=_keys.from_seed(seed))
  found = verdict.judge(means, seconds, moments)
  return table(train, records, labels, f'moments, ε = {epsilon:g}'), {
    'seconds': round(time.monotonic() - begun, 1),
    'cpu_seconds': round(time.process_time() - cpu, 1),
    'expected': verdict.expected(moments),
    'verdict': None if found is None else found.level,
  }


def table(
  train: TableDataset, records: np.ndarray, labels: np.ndarray | None, name: str
) -> TableDataset:
  """Synthetic rows of the schema of the training rows."""
  labels = np.zeros(len(records), np.int32) if labels is None else labels.astype(np.int32)
  return TableDataset(
    records=records, labels=labels, schema=train.schema, name=name, partial=True
  )


def scored(synthetic: TableDataset, test: TableDataset, *, columns: bool) -> dict[str, Any]:
  """Distances from test rows, and what classifiers learn; of every column where `columns`."""
  compared = marginals.compare(cells.table(test), cells.table(synthetic))
  effort = tstr.Effort()
  target = tstr.target(synthetic, test, effort)
  row = {
    **{name: compared[name] for name in ('one_way', 'two_way', 'three_way')},
    'auroc': target['auroc'], 'best': target['best'],
    **{name: each['auroc'] for name, each in target['classifiers'].items()},
  }  # fmt: skip
  if columns:
    row['every_column'] = tstr.every_column(synthetic, test, effort)['auroc']
  return row


def not_anew(rows: Iterable[dict[str, Any]], *, ours: bool, peers: bool) -> list[dict[str, Any]]:
  """Rows of a record that stay in it: not those of releases and real rows, or of other tools."""
  return [row for row in rows if not (ours if row['kind'] in ('moments', *REFERENCES) else peers)]


def main() -> None:
  train, test = TABLES[FLAGS.table](FLAGS.data)
  known = pages.read_json(pathlib.Path(FLAGS.out)) or {'rows': []}
  kept = not_anew(known['rows'], ours=FLAGS.seeds > 0, peers=bool(FLAGS.peers))
  rows = pages.Rows(
    FLAGS.out, kept, data=FLAGS.table, train=len(train), test=len(test), delta=1e-5,
    peak_gib=0 if FLAGS.seeds else known.get('peak_gib', 0),
  )  # fmt: skip

  def add(kind: str, synthetic: TableDataset, *, columns: bool = True, **about: Any) -> None:
    rows.add(kind=kind, **about, **scored(synthetic, test, columns=columns))

  if FLAGS.seeds:
    add(REFERENCES[0], train)
    for kind in REFERENCES[1:]:
      add(kind, references.noise(kind, train, seed=0))
  for path in sorted(pathlib.Path(FLAGS.peers).glob('*.npz')) if FLAGS.peers else ():
    with np.load(path) as file:
      name, about = str(file['name']), {k: file[k].item() for k in ('epsilon', 'seconds')}
      records, labels = file['records'], file['labels']
    if len(records):
      add(name, table(train, records, labels, name), seed=0, **about)
    else:  # it had not ended: there is nothing to score
      rows.add(kind=name, seed=0, **about)
  for seed in range(FLAGS.seeds):
    for epsilon in map(float, FLAGS.epsilons):
      synthetic, about = made(train, epsilon, seed)
      add('moments', synthetic, columns=seed == 0, epsilon=epsilon, seed=seed, **about)


if __name__ == '__main__':
  flags.DEFINE_string('data', None, 'Folder of adult.csv or flchain.csv.', required=True)
  flags.DEFINE_enum('table', 'adult', list(TABLES), 'Which table.')
  flags.DEFINE_list('epsilons', ['0.2', '1', '10'], 'ε of the releases.')
  flags.DEFINE_string('peers', None, 'Folder of tables that peers.py has made.')
  flags.DEFINE_integer('seeds', 5, 'Releases at each ε; 0: peers alone.', lower_bound=0)
  flags.DEFINE_string('out', str(pages.RESULTS / 'tables.json'), 'The record.')
  _cli.run(main)
