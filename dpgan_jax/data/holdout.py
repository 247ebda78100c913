"""Which examples are held out: a function of each example alone, and of nothing else.

A keyed hash of the pixels says it, so that one record more or less moves no other to the other
side: a guarantee for what is trained on is then one for the whole. (A permutation of N records
moves a fifth of them when N changes by one.) Copies of an image stay together, whatever their
labels; a copy among what is scored would be scored on what was learnt. How many are held out is
therefore known only about.

>>> share(10_000, 60_000), share(0.2, 60_000)
(0.171875, 0.2)
>>> images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
>>> bool((chosen(images, 0.5)[1:] == chosen(images[1:], 0.5)).all())
True
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from dpgan_jax import _validate

_KEY = b'dpgan_jax hold-out'  # public, and the same for every choice: they are compared


def share(held: float, count: int) -> float:
  """The share that is held out.

  Args:
    held: the share itself, in (0, 1), or a whole number ≥ 1: about so many of `count`.
    count: N, public. Of held/N four binary digits are kept: one record less leaves the share as it
      is, unless it lies at an edge. Where that is too much to ask of luck, give the share.

  Raises:
    InputError: as many or more.
  """
  if held < 1:
    return _validate.fraction('holdout', held)
  digits = 2 ** (3 - math.floor(math.log2(held / count)))
  rounded = round(held / count * digits) / digits
  if rounded >= 1:
    raise _validate.InputError(
      f'expected holdout < {count}, the number of training examples, got {held}'
    )
  return rounded


def chosen(images: np.ndarray, share: float) -> np.ndarray:
  """Which of `images` [n, ...] are held out, bool [n]; on average `share` of them."""
  return np.array([_place(image) < share for image in images])


def _place(image: np.ndarray) -> float:
  """Where the hash puts an image in [0, 1): anywhere, and always there."""
  about = repr(image.shape).encode()
  digest = hashlib.blake2b(about + image.tobytes(), digest_size=6, key=_KEY).digest()
  return int.from_bytes(digest, 'big') / 2**48
