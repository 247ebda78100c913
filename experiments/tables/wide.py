r"""A wide table of known dependence, from its file to synthetic rows: minutes and memory.

    ./run.sh python -m experiments.tables.wide --rows=20000 --out=wide.json
    ./run.sh python -m experiments.tables.wide
    ./run.sh python -m experiments.tables.make_page

Columns come in blocks of ten. In a block each is 0.8 of the one before it and noise; blocks have
nothing to do with each other; what is seen of a column is a category, a whole number or a real one.
The target is told by the first columns of the first five blocks. So neighbours of a block hang
together, columns of two blocks do not, and both are scored, in rows that training has not seen. The
commands are run as an owner runs them, each a process, whose most memory is what the system says.
"""

from __future__ import annotations

import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from dpgan_jax import _cli
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read, schema_file, write
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.evaluation.tables import cells, marginals, tstr
from experiments import pages

FLAGS = flags.FLAGS
_BLOCK, _LIKE, _TOLD, _TEST = 10, 0.8, 5, 10_000


def schema(columns: int) -> Schema:
  """Of so many columns, the last of them the target."""
  kinds = (
    {'kind': 'categorical', 'categories': ('a', 'b', 'c', 'd', 'e')},
    {'kind': 'integer', 'lower': 0, 'upper': 120},
    {'kind': 'real', 'lower': -10, 'upper': 10, 'resolution': 0.01},
  )  # fmt: skip
  found = [Column(name=f'c{i:03}', **kinds[i % len(kinds)]) for i in range(columns - 1)]
  target = Column(name='target', kind='categorical', categories=('no', 'yes'))
  return Schema(columns=(*found, target), target='target', declared_public=True)


def table(num: int, columns: int, seed: int) -> TableDataset:
  """Rows of known dependence, always the same."""
  rng, described = np.random.default_rng(seed), schema(columns)
  records, told, before = np.empty((num, columns - 1)), np.zeros(num), np.zeros(num)
  for i in range(columns - 1):
    new = rng.normal(size=num)
    new = new if i % _BLOCK == 0 else _LIKE * before + np.sqrt(1 - _LIKE**2) * new
    if i % _BLOCK == 0 and i < _BLOCK * _TOLD:
      told += new
    category, whole = np.digitize(new, [-1.2, -0.4, 0.3, 1.1]), np.rint(20 * np.exp(new / 2))
    records[:, i] = (category, whole.clip(0, 120), np.round(new, 2).clip(-10, 10))[i % 3]
    before = new
  labels = (told + rng.normal(size=num) > 1).astype(np.int32)
  return TableDataset(records=records, labels=labels, schema=described, name='wide', partial=True)


def dependence(data: TableDataset) -> dict[str, float]:
  """Mean relation (Cramér's V) of neighbours in blocks, and of columns of two blocks."""
  found, last = cells.table(data), len(data.schema.modelled)
  pairs = {
    'neighbours': [(i - 1, i) for i in range(1, last) if i % _BLOCK],
    'strangers': [(i, i + _BLOCK + 3) for i in range(0, last - _BLOCK - 3, 3)],
  }

  def relation(pair: tuple[int, int]) -> float:
    counts = np.bincount(marginals.joint(found, pair)[0], minlength=found.sizes[list(pair)].prod())
    return marginals.cramers_v(counts.reshape(found.sizes[list(pair)]))

  return {name: round(float(np.mean([*map(relation, own)])), 4) for name, own in pairs.items()}


def scored(data: TableDataset, unseen: TableDataset) -> dict[str, float]:
  """Both relations, one-way and two-way distance, AUROC of the target."""
  compared = marginals.compare(cells.table(unseen), cells.table(data))
  taught = tstr.target(data, unseen, tstr.Effort(rows=10_000), ('logistic', 'boosting'))
  distances = {name: round(compared[name], 4) for name in ('one_way', 'two_way')}
  return {'num': len(data), **dependence(data), **distances, 'auroc': round(taught['auroc'], 4)}


def timed(*arguments: str) -> float:
  """Minutes that a command of this package took."""
  begun = time.monotonic()
  subprocess.run([sys.executable, '-m', *arguments], check=True)
  return round((time.monotonic() - begun) / 60, 2)


def main() -> None:
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    described, file = schema(FLAGS.columns), folder / 'wide.csv'
    schema_file.write_schema(folder / 'schema.json', described)
    records = table(FLAGS.rows, FLAGS.columns, 0)
    write.export(file, described, records.records, records.labels)
    del records
    run = f'--run_dir={folder / "run"}'
    minutes = timed(
      'dpgan_jax.train', '--dataset=table', f'--data={file}', f'--schema={folder}/schema.json',
      f'--target_epsilon={FLAGS.epsilon}', run,
    )  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    drawing = timed('dpgan_jax.sample', run, f'--num={_TEST}', f'--out={folder}/made.csv')
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    made = read.read_table(folder / 'made.csv', described, name='made', partial=True)
  unseen = table(_TEST, FLAGS.columns, 1)
  pages.write_json(pathlib.Path(FLAGS.out), {
    'rows': FLAGS.rows, 'columns': FLAGS.columns, 'epsilon': FLAGS.epsilon,
    'minutes': minutes, 'cpu_minutes': round((used.ru_utime + used.ru_stime) / 60, 2),
    'minutes_to_draw': drawing, 'peak_gib': round(gib, 2),
    'tables': {
      'synthetic rows': scored(made, unseen),
      'as many real rows': scored(table(_TEST, FLAGS.columns, 2), unseen),
    },
  })  # fmt: skip


if __name__ == '__main__':
  flags.DEFINE_integer('rows', 200_000, 'Of the table.', lower_bound=100)
  flags.DEFINE_integer('columns', 300, 'Of the table, the target among them.', lower_bound=20)
  flags.DEFINE_float('epsilon', 1.0, 'Of the release.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'tables_wide.json'), 'The record.')
  _cli.run(main)
