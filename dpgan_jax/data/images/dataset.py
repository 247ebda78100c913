"""Labelled images that have passed every check, and their pixels as networks see them.

Pixels are scaled by public constants only (`to_model_range`). Scaling by the data's own minimum,
mean or deviation would be a query on private images that no ledger has charged.

>>> pixels = np.array([[[[0], [127], [255]]]], np.uint8)
>>> x = to_model_range(pixels)
>>> float(x.min()), float(x.max())
(-1.0, 1.0)
>>> bool((to_uint8(x) == pixels).all())
True
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from dpgan_jax._validate import InputError, integer
from dpgan_jax.data import naming
from dpgan_jax.data.readers import describe
from dpgan_jax.data.spec import Spec, fingerprint

SPLITS = ('train', 'test')
ENOUGH = 30
"""Held-out images, below which dpgan_jax.evaluate cannot score."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
  """Labelled images that have passed every check.

  Attributes:
    images: uint8 [N, H, W, C], C-contiguous, C = 1 (grey) or 3 (RGB).
    labels: int32 [N], each in [0, num_classes); every class occurs, but in `partial` data.
    num_classes: number of classes, taken to be public knowledge.
    name: what the data are called in messages and reports.
    class_names: one public name per class.
    partial: a part held out, which may happen to have no image of a class.
    notes: what the reader skipped and changed, in words for the owner: counts of private data.

  Raises:
    InputError: any of the above does not hold.
  """

  # Out of the repr: an example printed into a log or a traceback is an example published.
  images: np.ndarray = dataclasses.field(repr=False)
  labels: np.ndarray = dataclasses.field(repr=False)
  num_classes: int
  name: str
  class_names: tuple[str, ...]
  partial: bool = False
  notes: tuple[str, ...] = dataclasses.field(default=(), repr=False)

  unit: ClassVar = 'image'

  def __post_init__(self) -> None:
    name, images, labels = self.name, self.images, self.labels
    for what, array, dtype, ndim in (
      ('images', images, np.uint8, 4), ('labels', labels, np.int32, 1)
    ):  # fmt: skip
      if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        raise InputError(
          f'{name}: expected {what} to be a {np.dtype(dtype)} array of {ndim} dimensions, '
          f'got {describe(array)}'
        )
    if images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
      raise InputError(
        f'{name}: expected images [N, H, W, C] with H, W >= 1 and C = 1 or 3, got {images.shape}'
      )
    if not images.flags.c_contiguous:
      raise InputError(f'{name}: expected images to be C-contiguous (np.ascontiguousarray)')
    if len(images) != len(labels):
      raise InputError(
        f'{name}: expected as many labels as images, got {len(images)} images and '
        f'{len(labels)} labels'
      )
    if not len(images):
      raise InputError(f'{name}: expected at least one image, got none')
    integer('num_classes', self.num_classes, minimum=1)
    if len(self.class_names) != self.num_classes:
      raise InputError(
        f'{name}: expected {self.num_classes} class names, got {len(self.class_names)}'
      )
    naming.check_labels(name, labels, self.num_classes)
    empty = np.flatnonzero(np.bincount(labels, minlength=self.num_classes) == 0)
    if len(empty) and not self.partial:
      raise InputError(
        f'{name}: class {empty[0]} ({self.class_names[empty[0]]!r}) has no images; expected at '
        f'least one of each of the {self.num_classes} classes'
      )

  def __len__(self) -> int:
    return len(self.images)

  @property
  def records(self) -> np.ndarray:
    """The images."""
    return self.images

  @property
  def content(self) -> np.ndarray:
    """[N, ...], by which `sources` tells records apart: pixels, whatever their labels."""
    return self.images

  def part(self, chosen: np.ndarray, *, partial: bool) -> ImageDataset:
    """The images where `chosen`, bool [N], is true."""
    images, labels = self.images[chosen], self.labels[chosen]
    return dataclasses.replace(self, images=images, labels=labels, partial=partial)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of every image."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  @property
  def spec(self) -> Spec:
    """What is public of this data set."""
    return Spec(
      num_records=len(self), shape=self.image_shape, class_names=self.class_names, name=self.name
    )

  def fingerprint(self) -> str:
    """A private hash of images and labels (`spec.fingerprint`)."""
    return fingerprint(self.images, self.labels)


def to_model_range(images: Any) -> Any:
  """Scales uint8 pixels (numpy or jax, any shape, inside jit too) to float32 in [-1, 1].

  The constants are public and fixed: x / 127.5 - 1.
  """
  if images.dtype != np.uint8:
    raise InputError(f'expected uint8 pixels, got {images.dtype}')
  scaled = images.astype(np.float32) / 127.5 - 1
  # Inside jit XLA multiplies by 1/127.5 instead, which would put white at 1.0000001.
  return scaled.clip(-1, 1)


def to_uint8(x: Any) -> np.ndarray:
  """Inverse of `to_model_range`, on the host: float [-1, 1] to uint8, clipped, rounded to nearest.

  Args:
    x: float array of any shape, numpy or jax (not a tracer: the check for NaN needs the values).

  Raises:
    InputError: x holds a NaN, or is not of a floating dtype.
  """
  array = np.asarray(x)
  if array.dtype.kind in 'biu':
    raise InputError(f'expected floats in [-1, 1], got {array.dtype}')
  array = array.astype(np.float32)
  if np.isnan(array).any():
    raise InputError(f'expected pixels in [-1, 1], got {int(np.isnan(array).sum())} NaN')
  return np.rint((np.clip(array, -1, 1) + 1) * 127.5).astype(np.uint8)
