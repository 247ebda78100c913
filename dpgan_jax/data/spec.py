"""What is public of a data set: its size, and what one record looks like.

A `Spec` travels with the data, is written to a run's config.json and to a generator's file, and is
all that plan, loop, report and bundle know of the data. Everything in it is public by declaration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _validate
from dpgan_jax.data import naming

KINDS = ('image',)
_LARGEST_SIDE, _MOST_CHANNELS = 1024, 4  # of an image; networks here are for far smaller ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """The public description of a data set.

  Attributes:
    kind: what a record is; an 'image' with its label.
    num_records: N.
    shape: of one record: (H, W, C) of an image.
    class_names: one for each class; a single one where records have no classes.
    name: what the data are called in messages and reports.

  Raises:
    InputError: a value out of range.
  """

  kind: str = 'image'
  num_records: int
  shape: tuple[int, ...]
  class_names: tuple[str, ...]
  name: str

  def __post_init__(self) -> None:
    _validate.one_of('kind', self.kind, KINDS)
    _validate.integer('num_records', self.num_records, minimum=1)
    if len(self.shape) != 3:
      raise _validate.InputError(f'expected shape to be (H, W, C) of an image, got {self.shape}')
    for size, most in zip(self.shape, (_LARGEST_SIDE, _LARGEST_SIDE, _MOST_CHANNELS), strict=True):
      _validate.integer('image_shape', size, minimum=1, maximum=most)
    _validate.integer('num_classes', self.num_classes, minimum=1, maximum=naming.MOST)
    for name in (self.name, *self.class_names):
      if not isinstance(name, str) or len(name) > naming.LONGEST:
        raise _validate.InputError(
          f'expected names of at most {naming.LONGEST} characters, got {name!r}'
        )

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.class_names)

  @property
  def unit(self) -> str:
    """What one record is, in words."""
    return 'one labelled image'

  def describe(self) -> str:
    """A line for people, such as 'mnist: 60000 images 28×28×1, 10 classes'."""
    size = '×'.join(map(str, self.shape))
    return f'{self.name}: {self.num_records} images {size}, {self.num_classes} classes'

  def to_record(self) -> dict[str, Any]:
    """JSON-ready."""
    record = dataclasses.asdict(self)
    return {**record, 'shape': list(self.shape), 'class_names': list(self.class_names)}

  @classmethod
  def from_record(cls, record: Mapping[str, Any]) -> Spec:
    """The inverse of `to_record`.

    Raises:
      InputError: a value out of range.
      KeyError, TypeError: not such a record.
    """
    return cls(
      kind=record['kind'],
      num_records=record['num_records'],
      shape=tuple(record['shape']),
      class_names=tuple(record['class_names']),
      name=record['name'],
    )
