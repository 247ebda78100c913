"""Splits MNIST's training set for choosing settings: a sixth of it, about 10,000, is held out.

    ./run.sh python -m experiments.quality.split --out=runs/mnist_split [--data_dir=…]

The folder then is a data set of its own (--dataset=idx --data_dir=runs/mnist_split), whose test
set is the held-out part. The real test set is not read. What an idea does is measured there:

    ./run.sh python -m dpgan_jax.train --flagfile=experiments/eps1.flags --dataset=idx \\
        --data_dir=runs/mnist_split --run_dir=runs/screen/NAME --seed=0 [--SETTING=VALUE …]
    ./run.sh python -m dpgan_jax.evaluate --run_dir=runs/screen/NAME --data_dir=runs/mnist_split \\
        --tasks=tstr_cnn,features,secondary --num=20000 --cnn_epochs=6 \\
        --scores_dir=runs/screen/scores
"""

from __future__ import annotations

from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.data import datasets, sources, writers

FLAGS = flags.FLAGS


def main() -> None:
  _validate.integer('hold_out', FLAGS.hold_out, minimum=1)
  whole = datasets.load_dataset('mnist', data_dir=FLAGS.data_dir)
  kept, aside = sources.hold_out(whole, FLAGS.hold_out)
  for split, part in (('train', kept), ('test', aside)):
    writers.export(
      FLAGS.out, part.images, part.labels, format='idx', split=split, num_classes=part.num_classes
    )
  print(f'{len(kept)} images to train on, {len(aside)} held out: {FLAGS.out}')


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', None, 'Folder of the MNIST files; default: download.')
  flags.DEFINE_string('out', None, 'Folder of the split.', required=True)
  flags.DEFINE_integer('hold_out', 10_000, 'Training images held out: about so many.')
  _cli.run(main)
