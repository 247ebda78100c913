"""What distorting samples (`sample --distort`) gains, and what it costs in likeness.

    ./run.sh python experiments/quality/distorted.py --run_dir=runs/sweep/eps10/seed_1 \\
        --name=eps10 [--data_dir=…] [--scores_dir=runs/sweep/evaluation_scores]

The samples of a run are scored as they are drawn and distorted, by the same classifiers and judges.
The real images are read without noise: for public data only. Whether to distort, and by how much,
is chosen on held-out training images, as everything is (see split.py): then with
--dataset=idx --data_dir=runs/mnist_split, and fewer samples. It writes
experiments/results/quality/distorted/NAME.json; make_quality.py shows it. Ten minutes on one core.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys

import jax
import numpy as np
from absl import flags

from dpgan_jax import _validate, cli, data, distort, evaluate, evaluation, resume, scores, trainer
from dpgan_jax.statement import rounded_up

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keep_sweep

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results' / 'quality' / 'distorted'
TASKS = ('features', 'secondary', 'tstr_cnn')
SHOWN = ('tstr_cnn', 'secondary_accuracy', 'fid', 'coverage')


def measure(
  images: np.ndarray,
  names: np.ndarray,
  key: jax.Array,
  real: tuple[data.ImageDataset, data.ImageDataset],
  settings: evaluation.Settings,
  store: scores.Store | None = None,
  shown: tuple[str, ...] = SHOWN,
) -> dict[str, dict[str, float | None]]:
  """The scores called `shown` of images uint8 [n, h, w, c] with `names` [n], drawn and distorted.

  Args:
    images: samples as they are drawn.
    names: their classes; those of the distorted ones too.
    key: what they are distorted with.
    real: training and test images.
    settings: how much is done, and what.
    store: where finished scores are kept and found.
    shown: which scores.
  """
  found: dict[str, dict[str, float | None]] = {}
  for how, which in (('drawn', images), ('distorted', distort.distort(images, key))):
    show = evaluate.Progress()
    result = evaluation.evaluate(which, names, *real, settings, store=store, progress=show.update)
    show.close()
    found[how] = {score: result[score].value for score in shown}
  return found


def main() -> None:
  if FLAGS.run_dir is None or FLAGS.name is None:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run and --name=NAME of a record')
  amount = evaluate.amount_from_flags()
  settings = dataclasses.replace(amount.settings, tasks=TASKS)
  model = trainer.restore_model(FLAGS.run_dir).model
  train, test = evaluate.load_real(FLAGS.dataset or model.dataset, FLAGS.data_dir)
  key = resume.root_key(settings.seed)
  images, names = model.sample(amount.num, key=key)
  if names is None:
    raise _validate.InputError('expected a run whose samples have classes')
  store = scores.Store(pathlib.Path(FLAGS.scores_dir)) if FLAGS.scores_dir else None
  found = measure(images, names, key, (train, test), settings, store)
  epsilon = model.epsilon()
  path = RESULTS / f'{FLAGS.name}.json'
  keep_sweep.write_json(path, {
    'epsilon': 'inf' if math.isinf(epsilon) else rounded_up(epsilon),
    'steps': model.steps,
    'samples': amount.num,
    'real_data': f'{train.name}, {len(train):,} for training and {len(test):,} for testing',
    'by_at_most': {k: getattr(distort, k.upper()) for k in ('turn', 'shift', 'scale', 'shear')},
    'scores': found,
  })  # fmt: skip
  print(f'written: {path.name}')


if __name__ == '__main__':
  flags.DEFINE_string('run_dir', None, 'Directory of a run.')
  flags.DEFINE_string('name', None, 'Name of the record.')
  flags.DEFINE_string('dataset', None, 'The real data; default: what the run was trained on.')
  flags.DEFINE_string('data_dir', None, 'Folder of the real data; default: download by name.')
  flags.DEFINE_string('scores_dir', None, 'Where finished scores are kept.')
  evaluate.define_amount_flags()
  cli.run(main)
