"""Trains the classifier whose features FID and KID are computed on
(dpgan_jax/evaluation/features.py).

    ./run.sh python -m experiments.classifiers.train_features --data_dir=mnist \\
        --out=features.safetensors

Two to four minutes on 2 cores. This is done once per version of the features: another file means
another `features.MNIST` and another checksum, because scores on it do not compare with older ones.
MNIST is public; nothing here is private.
"""

from __future__ import annotations

import hashlib
import math
import pathlib

import numpy as np
from absl import flags

from dpgan_jax import _cli, _files
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import features
from dpgan_jax.models import fitting

FLAGS = flags.FLAGS


def main() -> None:
  train, test = (
    datasets.load_dataset('mnist', data_dir=FLAGS.data_dir, split=split)
    for split in datasets.SPLITS
  )
  done = 0.0

  def progress(share: float) -> None:
    nonlocal done
    if share >= done + 0.1 or share == 1:
      done = share
      print(f'{share:.0%}', flush=True)

  network = features.Network()
  fitted = fitting.fit(
    network, train.images, train.labels, epochs=FLAGS.epochs, seed=FLAGS.seed, progress=progress
  )
  activations = fitting.forward(network, fitted.params, train.images, method='activations')
  scale = 1 / math.sqrt(np.var(activations, axis=0, dtype=np.float64).mean())
  raw = features.save(fitted.params, scale)
  with _files.atomic_write(pathlib.Path(FLAGS.out), 'wb') as file:
    file.write(raw)
  digest = hashlib.sha256(raw).hexdigest()
  params, _ = features.load(pathlib.Path(FLAGS.out), digest)
  right = fitting.forward(network, params, test.images).argmax(axis=1) == test.labels
  print(f'test accuracy {right.mean():.4f}, {len(raw)} bytes, SHA-256 {digest}')


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', None, 'Folder of the MNIST files; default: download.')
  flags.DEFINE_string('out', None, 'The file to write.', required=True)
  flags.DEFINE_integer('epochs', 8, 'Passes over the 60,000 images.')
  flags.DEFINE_integer('seed', 0, 'Seed.')
  _cli.run(main)
