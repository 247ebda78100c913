"""Tables that other tools make of Adult's training rows, in the cells that scores are computed on.

Two environments take part, since the tools need others than this package. Here, once (of the other
table with --table=flchain):

    ./run.sh python -m experiments.tables.peers --data=FOLDER_OF_ADULT --codes=codes.npz

There, for each tool and ε (`python3 -m venv peers && peers/bin/pip install smartnoise-synth`):

    peers/bin/python experiments/tables/peers.py codes.npz mst 1.0 mst1.npz 30

for 30 minutes at most: that a tool had not ended by then is recorded too. Here again, which makes
values of cells, and `measure --peers=FOLDER --seeds=0` scores them:

    ./run.sh python -m experiments.tables.peers --data=FOLDER_OF_ADULT --made=mst1.npz --out=FOLDER

The tools get the cells as they are, so that they spend nothing on finding bins, and are scored on
the same ones, where a tool that sees numbers has to put them back: a small favour.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import time
from typing import Any

import numpy as np


def within(minutes: float, codes: str, method: str, epsilon: float, out: str) -> None:
  """`make`, if it ends in time; no row, and how long it was waited for, if not."""
  begun = time.time()
  spawn = multiprocessing.get_context('spawn')
  working = spawn.Process(target=make, args=(codes, method, epsilon, out))
  working.start()
  working.join(60 * minutes)
  if working.is_alive():
    working.kill()
    working.join()
    with np.load(codes) as file:
      none = file['codes'][:0]
    _save(out, none, method, epsilon, begun)
  elif working.exitcode:
    sys.exit(working.exitcode)


def make(codes: str, method: str, epsilon: float, out: str) -> None:
  """Runs a synthesizer of smartnoise-synth; in its own environment."""
  import pandas as pd  # type: ignore[import-not-found]
  from snsynth import Synthesizer  # type: ignore[import-not-found]

  with np.load(codes) as file:
    rows = file['codes']
  frame = pd.DataFrame(rows.astype(int), columns=[f'c{i}' for i in range(rows.shape[1])])
  begun = time.time()
  model = Synthesizer.create(method, epsilon=epsilon, delta=1e-5, verbose=True)
  model.fit(frame, preprocessor_eps=0.0, categorical_columns=list(frame.columns))
  model.synthesizer = _mended(model.synthesizer)
  made = model.sample(len(frame)).to_numpy().astype(int)
  _save(out, made, method, epsilon, begun)


def _mended(model: Any) -> Any:
  """A fitted model whose rows have its marginals.

  The tool asks for mbi 1.1.0, whose rows have not: columns of one clique are drawn apart, and those
  that share a parent in the same order (https://github.com/ryan112358/mbi/pull/145, mended in 2.0,
  with which the tool does not run). As there, cliques are the largest ones, ties fall by chance.
  """
  from mbi import junction_tree, markov_random_field  # type: ignore[import-not-found]

  rng = np.random.default_rng()

  class _Numpy:
    def __getattr__(self, name: str) -> Any:
      return getattr(np, name)

    def argsort(self, values: np.ndarray, kind: str) -> np.ndarray:
      return np.lexsort((rng.random(len(values)), values))

  markov_random_field.np = _Numpy()
  tree, _ = junction_tree.make_junction_tree(model.domain, [set(c) for c in model.cliques])
  return dataclasses.replace(model, potentials=model.potentials.expand(list(tree.nodes)))


def _save(out: str, codes: np.ndarray, method: str, epsilon: float, begun: float) -> None:
  name = f'{method.upper()} (smartnoise-synth)'
  np.savez(out, codes=codes, seconds=time.time() - begun, epsilon=epsilon, name=name)


def main() -> None:
  import pathlib

  from absl import flags

  from dpgan_jax.evaluation.tables import cells
  from experiments.tables import measure

  train, _ = measure.TABLES[flags.FLAGS.table](flags.FLAGS.data)
  if flags.FLAGS.codes:
    np.savez(flags.FLAGS.codes, codes=cells.table(train).codes)
    return
  made = pathlib.Path(flags.FLAGS.made)
  with np.load(made) as file:
    codes, about = file['codes'], {k: file[k] for k in ('seconds', 'epsilon', 'name')}
  rng = np.random.default_rng(0)
  columns = train.schema.modelled
  records = np.column_stack(
    [
      cells.of(column).value(codes[:, i], rng.random(len(codes)))
      for i, column in enumerate(columns)
    ]
  )
  np.savez(
    pathlib.Path(flags.FLAGS.out) / made.name, records=records,
    labels=codes[:, len(columns)].astype(np.int32), **about,
  )  # fmt: skip


if __name__ == '__main__':
  if len(sys.argv) == 6 and not sys.argv[1].startswith('-'):
    within(float(sys.argv[5]), sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
  else:
    from absl import flags as _flags

    from dpgan_jax import _cli
    from experiments.tables import measure

    _flags.DEFINE_string('data', None, 'Folder of adult.csv or flchain.csv.', required=True)
    _flags.DEFINE_enum('table', 'adult', list(measure.TABLES), 'Which table.')
    _flags.DEFINE_string('codes', None, 'The rows in cells, to be written.')
    _flags.DEFINE_string('made', None, 'What a tool has made.')
    _flags.DEFINE_string('out', '.', 'Folder of rows with values.')
    _cli.run(main)
