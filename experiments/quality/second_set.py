"""A second data set of MNIST's shape and size: do settings chosen on MNIST hold elsewhere?

    ./run.sh python -m experiments.quality.second_set --out=runs/distorted_digits
    ./run.sh python -m dpgan_jax.train --flagfile=experiments/eps1.flags --dataset=idx \\
        --data_dir=runs/distorted_digits --run_dir=runs/distorted_digits_eps1 --seed=0
    ./run.sh python -m dpgan_jax.evaluate --run_dir=runs/distorted_digits_eps1 \\
        --data_dir=runs/distorted_digits --tasks=tstr_cnn,ceiling_cnn,features,secondary
    ./run.sh python -m experiments.quality.make_quality --elsewhere=runs/distorted_digits_eps1 \\
        --data_name='scikit-learn digits, distorted (second_set.py)'

The handwritten digits embedded in scikit-learn (other writers, another scanner, 8×8), each drawn
many times at 28×28: turned, slanted, scaled, shifted and thickened at random. Training and test
images come from different originals. It needs no network. Every distorted image counts as a record:
what is measured here is how useful samples are, not anybody's privacy. A minute.
"""

from __future__ import annotations

import numpy as np
from absl import flags
from scipy import ndimage

from dpgan_jax import _cli
from dpgan_jax.data import datasets, writers

FLAGS = flags.FLAGS
SIDE = 28
SIZES = {'train': 60_000, 'test': 10_000}


def distorted(images: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Images uint8 [n, h, w, 1], each the one that `which` [n] names, distorted: [n, 28, 28, 1]."""
  side = images.shape[1]
  out = np.zeros((len(which), SIDE, SIDE, 1), np.uint8)
  angles = rng.normal(0, np.radians(8), len(which))
  slants = rng.normal(0, 0.15, len(which))
  scales = rng.normal(1, 0.07, (len(which), 2))
  shifts = rng.normal(0, 1.0, (len(which), 2))  # pixels of the result
  powers = rng.uniform(0.6, 1.4, len(which))  # below 1: thicker strokes
  margin = 0.75 * SIDE / side  # as MNIST: a digit fills about three quarters of its image
  for i, original in enumerate(which):
    turn = np.array(
      [[np.cos(angles[i]), -np.sin(angles[i])], [np.sin(angles[i]), np.cos(angles[i])]]
    )
    matrix = turn @ np.array([[1, 0], [slants[i], 1]]) / margin * scales[i]
    centre, middle = (side - 1) / 2, (SIDE - 1) / 2 + shifts[i]
    drawn = ndimage.affine_transform(
      images[original, ..., 0] / 255, matrix, centre - matrix @ middle, (SIDE, SIDE), order=3
    )
    out[i, ..., 0] = np.rint(255 * np.clip(drawn, 0, 1) ** powers[i])
  return out


def main() -> None:
  rng = np.random.default_rng(0)
  for split, size in SIZES.items():
    originals = datasets.load_dataset('digits', split=split)
    which = rng.integers(0, len(originals), size)
    images = distorted(originals.images, which, rng)
    labels = originals.labels[which]
    writers.export(FLAGS.out, images, labels, format='idx', split=split, num_classes=10)
  print(f'{SIZES["train"]:,} training images and {SIZES["test"]:,} test images: {FLAGS.out}')


if __name__ == '__main__':
  flags.DEFINE_string('out', None, 'Folder of the data set.', required=True)
  _cli.run(main)
