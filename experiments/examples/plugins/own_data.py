"""A data set of one's own: `--plugin=experiments/examples/plugins/own_data.py --dataset=stripes`.

A function of the split ('train' or 'test') and of `--data_dir` (None here) that gives an
`ImageDataset` or a `TableDataset`; both check what they hold. `public=True` is for what anyone may
have: scores on it may then be shown.
"""

import numpy as np

from dpgan_jax.data.datasets import DATASETS, ImageDataset


@DATASETS.register('stripes', public=True)
def load(split, data_dir):
  """Noisy stripes, 8×8 pixels: across or down."""
  del data_dir
  rng = np.random.default_rng(split == 'test')
  labels = np.arange(400, dtype=np.int32) % 2
  images = np.where(np.arange(8)[:, None] % 2, 200, 50) + rng.integers(-40, 40, (400, 8, 8))
  images = np.where(labels[:, None, None], images.swapaxes(1, 2), images)
  return ImageDataset(
    images=images[..., None].astype(np.uint8),
    labels=labels,
    num_classes=2,
    name='stripes',
    class_names=('across', 'down'),
  )
