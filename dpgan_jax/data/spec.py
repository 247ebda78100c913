"""What is public of a data set: its size, what one record looks like, what was done to each image.

A `Spec` travels with the data, is written to a run's config.json and to a generator's file, and is
all that plan, loop, report and bundle know of the data. Everything in it is public by declaration,
and so is a `Preparation`, which the settings of a run hold.

>>> Preparation.of('28x32', 1).size, Preparation.of('28', None).image_size
((28, 32), '28x28')
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data import naming
from dpgan_jax.data.tables.schema import Schema

KINDS = ('image', 'table', 'series')
ALL_ROWS = ('rows',)  # the one class of a table without a target
LARGEST_SIDE, _MOST_CHANNELS = 1024, 4  # of an image; networks here are for far smaller ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """The public description of a data set.

  Attributes:
    kind: what a record is: an 'image' with its label, a row of a 'table', or one of the 'series'.
    num_records: N; of a table with persons, how many persons.
    shape: of one record: (H, W, C) of an image; (C,) of a row, or of a series as a row.
    class_names: one for each class; a single one where records have no classes.
    name: what the data are called in messages and reports.
    schema: of a table or of series, what is public of their columns.

  Raises:
    InputError: a value out of range.
  """

  kind: str = 'image'
  num_records: int
  shape: tuple[int, ...]
  class_names: tuple[str, ...]
  name: str
  schema: Schema | None = None

  def __post_init__(self) -> None:
    _validate.one_of('kind', self.kind, KINDS)
    _validate.integer('num_records', self.num_records, minimum=1)
    if self.kind != ('image' if self.schema is None else self.schema.kind):
      raise _validate.InputError('expected a schema of a table or of series, and of nothing else')
    if self.schema is None:
      self._check_image_shape()
    else:
      require_confirmed(self.schema, f'the schema of {self.name}')
      public = (len(self.schema.modelled),), self.schema.class_names or ALL_ROWS
      if (self.shape, self.class_names) != public:
        raise _validate.InputError(
          f'expected shape and classes of a {self.kind} to be those of its schema, {public}, got '
          f'{(self.shape, self.class_names)}'
        )
    _validate.integer('num_classes', self.num_classes, minimum=1, maximum=naming.MOST)
    for name in (self.name, *self.class_names):
      if not isinstance(name, str) or len(name) > naming.LONGEST:
        raise _validate.InputError(
          f'expected names of at most {naming.LONGEST} characters, got {name!r}'
        )

  def _check_image_shape(self) -> None:
    if len(self.shape) != 3:
      raise _validate.InputError(f'expected shape to be (H, W, C) of an image, got {self.shape}')
    for size, most in zip(self.shape, (LARGEST_SIDE, LARGEST_SIDE, _MOST_CHANNELS), strict=True):
      _validate.integer('image_shape', size, minimum=1, maximum=most)

  @classmethod
  def of_schema(cls, schema: Schema, *, num_records: int, name: str) -> Spec:
    """What is public of a table, or of series."""
    return cls(
      kind=schema.kind, num_records=num_records, shape=(len(schema.modelled),),
      class_names=schema.class_names or ALL_ROWS, name=name, schema=schema,
    )  # fmt: skip

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.class_names)

  @property
  def unit(self) -> str:
    """What one record is, in words."""
    if self.schema is not None:
      k = self.schema.rows_per_unit
      several = f' with up to {k} row{"s" if k > 1 else ""}' if self.schema.unit_column else ''
      return f'one {self.schema.unit}{several}'
    return 'one labelled image' if self.num_classes > 1 else 'one image'

  def describe(self) -> str:
    """A line for people, such as 'mnist: 60000 images 28×28×1, 10 classes'."""
    if self.schema is not None:
      target = f', target {self.schema.target}' if self.schema.target else ''
      records, k = f'{self.schema.unit}s', self.schema.rows_per_unit
      several = f' with up to {k} rows each,' if self.schema.unit_column is not None else ''
      of = f'{records}{several} of {len(self.schema.columns)} columns'
      of = of if self.kind == 'table' else str(self.schema)
      return f'{self.name}: {self.num_records} {of}{target}'
    size = '×'.join(map(str, self.shape))
    classes = f'{self.num_classes} classes' if self.num_classes > 1 else 'without classes'
    return f'{self.name}: {self.num_records} images {size}, {classes}'

  def to_record(self) -> dict[str, Any]:
    """JSON-ready."""
    record = {
      'kind': self.kind, 'num_records': self.num_records, 'shape': list(self.shape),
      'class_names': list(self.class_names), 'name': self.name,
    }  # fmt: skip
    return record if self.schema is None else {**record, 'schema': self.schema.to_record()}

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
      schema=schema_of(record['schema']) if 'schema' in record else None,
    )


def schema_of(record: Any) -> Schema:
  """A schema of the kind that its format names (a table's, if it names none that is known).

  Raises:
    InputError: as of the kind.
  """
  kinds = {kind.format: kind for kind in Schema.__subclasses__()}
  named = record.get('format') if isinstance(record, Mapping) else None
  return kinds.get(str(named), Schema).from_record(record)


def require_confirmed(schema: Schema, where: str) -> None:
  """Refuses a schema with entries that were read from the data and nobody has confirmed.

  No `Spec` is made of one, and nothing is planned, charged or released without a `Spec`.

  Raises:
    InputError: naming the first such columns of `where`.
  """
  waiting = [f'{name} ({", ".join(fields)})' for name, fields in schema.unconfirmed().items()]
  if waiting:
    more = f' and {len(waiting) - 3} more columns' if len(waiting) > 3 else ''
    raise _validate.InputError(
      f'{where}: {", ".join(waiting[:3])}{more} were read from private data, which is a leak '
      'unless they are public; correct them and take them out of "drafted", or confirm all: set '
      '"declared_public" to true, or draft it with python -m dpgan_jax.schema --declare_public; or '
      'have the run find them, with privacy: --schema_epsilon=0.1'
    )


def fingerprint(*arrays: np.ndarray) -> str:
  """The SHA-256 (hex) of shapes, dtypes and contents, to refuse resuming on other data.

  It is private: whoever holds a guess at the data set can confirm it, one person's presence
  included, by comparing hashes. Keep it beside the ledger; never publish it with a report or a
  model.
  """
  digest = hashlib.sha256()
  for array in map(np.ascontiguousarray, arrays):
    digest.update(repr((array.shape, array.dtype.str)).encode())
    digest.update(array.data)
  return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
  """What is done to each image before anything else: the same to all, by public constants alone.

  Attributes:
    size: (H, W) that each is resized to; None: all have one size already.
    channels: 1 (grey) or 3 (RGB), which each is turned into; None: all are plain 8-bit images of
      one of the two already.
  """

  size: tuple[int, int] | None = None
  channels: int | None = None

  @classmethod
  def of(cls, image_size: str | int | None, channels: int | None) -> Preparation:
    """What `--image_size=28` (or `28x32`: height by width) and `--channels=1` ask for.

    Raises:
      InputError: another form, or a size or number of channels that no image here has.
    """
    size = None
    if image_size is not None:
      found = re.fullmatch('([0-9]{1,9})(?:[x×]([0-9]{1,9}))?', str(image_size))
      size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
      if not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
        raise _validate.InputError(
          f'expected image_size as 28, or 28x32 (height by width), of 1 to {LARGEST_SIDE} pixels, '
          f'got {image_size!r}'
        )
    if channels is not None:
      channels = _validate.integer('channels', channels, minimum=1, maximum=3)
      _validate.one_of('channels', channels, (1, 3))
    return cls(size=size, channels=channels)

  @property
  def image_size(self) -> str | None:
    """The size as a flag has it, in one way of several: 28x28."""
    return None if self.size is None else f'{self.size[0]}x{self.size[1]}'

  def describe(self) -> str:
    """What is done, for a report: a part of a sentence; empty if nothing is."""
    done = []
    if self.channels is not None:
      done.append(
        f'turned into 8-bit {"grey" if self.channels == 1 else "RGB"} (palettes are looked up, '
        'transparent parts laid on black, of deeper values the upper 8 bits kept, colours weighed '
        'by ITU-R 601 where grey is made of them)'
      )
    if self.size is not None:
      done.append(
        f'turned upright as its Exif data say and resized to {self.size[0]}×{self.size[1]} '
        'whatever its proportions (bicubic, with antialiasing)'
      )
    return ', '.join(done)
