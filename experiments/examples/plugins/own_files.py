"""A kind of file of one's own: `--plugin=experiments/examples/plugins/own_files.py
--dataset=arrays --data=FOLDER`.

Two files of NumPy in a folder for each split: `train/images.npy` and `train/labels.npy`, and the
same under `test/`, which a run never looks at. Whatever is read becomes an `ImageDataset` or a
`TableDataset`, which check it; names of classes are public knowledge, so they stand here.
"""

import pathlib

import numpy as np

from dpgan_jax.data.datasets import DATASETS, ImageDataset

CLASS_NAMES = ('healthy', 'ill')


@DATASETS.register('arrays')
def load(split, data_dir):
  """uint8 [N, H, W] and whole numbers [N]; not `public`, so no score on them is shown as such."""
  folder = pathlib.Path(data_dir or '.') / split
  # allow_pickle=False: a pickled array runs code of whoever wrote the file.
  images, labels = (np.load(folder / f'{name}.npy', allow_pickle=False)
                    for name in ('images', 'labels'))  # fmt: skip
  return ImageDataset(
    images=images[..., None],
    labels=labels.astype(np.int32),
    num_classes=len(CLASS_NAMES),
    name='arrays',
    class_names=CLASS_NAMES,
  )
