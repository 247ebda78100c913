"""Chooses the pace of the TSTR classifiers on real MNIST, without its test images.

    ./run.sh python -m experiments.classifiers.choose_judge --data_dir=mnist \\
        --out=experiments/results/judge_pace.json

Each classifier is trained on 50,000 training images (a tenth of them chooses the epoch, as in an
evaluation) and scored on the other 10,000; the test set is not read. `judges.PACE` takes the best.
MNIST is public, so nothing here is private. About half an hour on 2 cores.
"""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
from absl import flags

from dpgan_jax import _cli
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import judges, tasks
from experiments import pages

FLAGS = flags.FLAGS
BATCH_SIZES = (64, 128)
LEARNING_RATES = (1e-3, 1.5e-3, 5e-3)


def main() -> None:
  whole = datasets.load_dataset('mnist', data_dir=FLAGS.data_dir)
  order = np.random.default_rng(FLAGS.seed).permutation(len(whole))
  used, aside = np.split(order, [len(whole) - 10_000])
  tried = []
  for name in judges.CLASSIFIERS:
    epochs = tasks.Settings().epochs(name, len(used))
    for batch_size, rate in itertools.product(BATCH_SIZES, LEARNING_RATES):
      pace = {'batch_size': batch_size, 'learning_rate': rate}
      found = judges.train_and_test(
        name,
        (whole.images[used], whole.labels[used]),
        (whole.images[aside], whole.labels[aside]),
        num_classes=whole.num_classes,
        epochs=epochs,
        seed=FLAGS.seed,
        pace=pace,
      )
      tried.append({'classifier': name, **pace, 'epochs': epochs, 'accuracy': found.accuracy})
      print(tried[-1], flush=True)
  record = {'scored_on': '10,000 held-out training images of MNIST', 'tried': tried}
  pages.write_json(pathlib.Path(FLAGS.out), record)


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', None, 'Folder of the MNIST files; default: download.')
  flags.DEFINE_string('out', None, 'The file to write.', required=True)
  flags.DEFINE_integer('seed', 0, 'Seed of the split and of training.')
  _cli.run(main)
