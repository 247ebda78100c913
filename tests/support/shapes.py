"""Small pictures of shapes, grey or coloured, and planted failures: samples of a known worth.

>>> shapes(9, channels=3, seed=0).images.shape
(9, 16, 16, 3)
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dpgan_jax.data.images.dataset import ImageDataset

NAMES = ('disc', 'frame', 'cross')


def shapes(
  num: int, *, channels: int, seed: int, side: int = 16, shares: tuple[float, ...] = (1, 1, 1)
) -> ImageDataset:
  """Shapes of three classes, of random place, size and brightness or colour, softly drawn.

  Args:
    num: how many.
    channels: 1 for grey, 3 for a colour of each shape and of its background.
    seed: of everything.
    side: of an image in pixels.
    shares: how common each class is, beside the others.
  """
  rng = np.random.default_rng(seed)
  counts = np.maximum(np.array(shares) / sum(shares) * num, 1).astype(int)
  counts[0] += num - counts.sum()
  labels = rng.permutation(np.repeat(np.arange(3), counts)).astype(np.int32)
  y, x = np.mgrid[:side, :side] / side - 0.5
  images = np.empty((num, side, side, channels), np.uint8)
  for image, label in zip(images, labels, strict=True):
    dy, dx = rng.uniform(-0.1, 0.1, 2)
    size, soft = rng.uniform(0.25, 0.36), 1.2 / side
    disc = np.hypot(y - dy, x - dx)
    square = np.maximum(abs(y - dy), abs(x - dx))
    cross = np.minimum(abs(y - dy), abs(x - dx)) + 0.15 * (square > size)
    edge = (size - disc, 0.06 - abs(square - size), 0.06 - cross)[label]
    inside = (1 / (1 + np.exp(-4 * edge / soft)))[..., np.newaxis]
    paper, ink = rng.uniform(0, 0.3, channels), rng.uniform(0.6, 1, channels)
    drawn = paper + inside * (ink - paper) + rng.normal(0, 0.02, image.shape)
    image[:] = np.rint(255 * drawn.clip(0, 1))
  return ImageDataset(images=images, labels=labels, num_classes=3, name='shapes', class_names=NAMES)


def planted(real: ImageDataset, fresh: ImageDataset, *, seed: int) -> dict[str, ImageDataset]:
  """Samples by what is wrong with them; as many as there are `fresh` images.

  Args:
    real: what the samples stand for.
    fresh: more of the same, for samples that are as good as can be.
    seed: of everything.
  """
  rng = np.random.default_rng(seed)
  images, labels = fresh.images, fresh.labels
  means = np.stack([real.images[real.labels == k].mean(axis=0) for k in range(real.num_classes)])
  blurred = means[labels] + rng.normal(0, 4, images.shape)
  uniform = rng.integers(0, 256, images.shape)
  grey = np.repeat(rng.integers(0, 256, (*images.shape[:3], 1)), images.shape[3], axis=3)
  gaussian = rng.normal(real.images.mean(), real.images.std(), images.shape)
  kept = rng.integers(0, len(real), len(fresh))

  def made(pixels: np.ndarray, classes: np.ndarray = labels) -> ImageDataset:
    whole = np.ascontiguousarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
    return dataclasses.replace(fresh, images=whole, labels=classes)

  return {
    'real': fresh,
    'copies': made(real.images[kept], real.labels[kept]),
    'means': made(blurred),
    'shuffled labels': made(images, rng.permutation(labels)),
    'one image': made(np.broadcast_to(images[:1], images.shape)),
    'static': made(uniform),
    'grey static': made(grey),
    'gaussian static': made(gaussian),
  }
