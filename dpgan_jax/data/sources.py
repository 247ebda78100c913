"""Where the records of a run come from, and which of them it never sees.

Which are held out is a function of each record alone: a hash of it with a public key says it. One
record more or less then moves no other to the other side, so that a guarantee for what is trained
on is one for the whole (BUILD.md says more). Copies of an image stay together. Rows of a table are
often alike: the hash is of a row and of how many like it came before. Of a person with several rows
it is of the name alone.

>>> share(10_000, 60_000), share(0.2, 60_000)
(0.171875, 0.2)
>>> images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
>>> bool((chosen(images, 0.5)[1:] == chosen(images[1:], 0.5)).all())
True
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any, TypeVar

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data import datasets, readers
from dpgan_jax.data.images import folder as image_folder
from dpgan_jax.data.images.dataset import ENOUGH, ImageDataset
from dpgan_jax.data.series.read import declared
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files.open import OpenTable, read_open
from dpgan_jax.data.tables.schema import Schema

Dataset = ImageDataset | TableDataset | OpenTable
T = TypeVar('T', ImageDataset, TableDataset, OpenTable)

DEFAULT = 0.1
"""The share of one's own records that is held out where there are none for testing. It does not
depend on their number, so that one record less changes it for no other."""

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


def chosen(records: np.ndarray, share: float) -> np.ndarray:
  """Which of `records` [n, ...] are held out, bool [n]; on average `share` of them."""
  return np.array([_place(record) < share for record in records])


def _place(record: np.ndarray) -> float:
  """Where the hash puts a record in [0, 1): anywhere, and always there."""
  about = repr(record.shape).encode()
  digest = hashlib.blake2b(about + record.tobytes(), digest_size=6, key=_KEY).digest()
  return int.from_bytes(digest, 'big') / 2**48


def hold_out(dataset: T, held: float) -> tuple[T, T]:
  """A data set without some of its examples, and these, as `chosen` chooses them.

  What is chosen by scores on the second is chosen on private data, if the data are private.

  Args:
    dataset: the whole.
    held: a share in (0, 1), or a whole number: about so many.

  Returns:
    The rest and what is held out, each in the order of `dataset`.

  Raises:
    InputError: as many examples or more; a class of which all are held out; none that are.
  """
  aside = chosen(dataset.content, share(held, dataset.spec.num_records))
  gone = np.setdiff1d(dataset.labels, dataset.labels[~aside])
  if len(gone) or not aside.any():
    unit = dataset.unit
    what = f'all {unit}s of class {dataset.class_names[gone[0]]!r}' if len(gone) else f'no {unit}'
    raise _validate.InputError(
      f'{dataset.name}: with holdout={held:g} {what} would be held out; expected another holdout, '
      'or 0 for none'
    )
  return dataset.part(~aside, partial=dataset.partial), dataset.part(aside, partial=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """A data set by name, where it is, what is done to its images, and how many are held out.

  Attributes:
    dataset: as `datasets.load_dataset` knows it; so are `data_dir`, `labels_csv`, `image_size`,
      `channels`, `schema`, `unit_column` and `max_rows_per_unit`.
    holdout: the share of the records never trained on, in the place of the test split; None or 0:
      none, and the test split is the data set's own.
    schema_epsilon: of a table of which the run finds bounds and categories; None: all are given.
    found: what it has found, if it has.
  """

  dataset: str
  data_dir: str | None = None
  labels_csv: str | None = None
  image_size: str | None = None
  channels: int | None = None
  schema: str | None = None
  unit_column: str | None = None
  max_rows_per_unit: int | None = None
  holdout: float | None = None
  schema_epsilon: float | None = None
  found: Schema | None = None

  @classmethod
  def of(cls, settings: Any, *, dataset: str | None = None, **where: Any) -> Source:
    """Of the settings of a run; `dataset` in the place of theirs.

    Args:
      settings, dataset: as the fields.
      **where: fields that no settings have, where they are given.
    """
    names = ('image_size', 'channels', 'holdout', 'schema_epsilon')
    of_settings = {name: getattr(settings, name, None) for name in names}
    return cls(dataset=dataset or settings.dataset, **of_settings, **where)

  def settled(self) -> Source:
    """With the hold-out that a run records: the default, where nothing is asked for; None for none.

    Raises:
      InputError: no such data.
    """
    holdout = self.holdout
    if holdout is None and not self._has_test_split():
      holdout = DEFAULT
    return dataclasses.replace(self, holdout=holdout or None)

  def _has_test_split(self) -> bool:
    if self.dataset in ('table', 'series'):
      return False
    if self.data_dir is None:
      return True
    if self.dataset == 'npz':
      listed = readers.npz_names(self.data_dir)
      return readers.npz_members(listed, 'test')['x'] in listed
    if self.dataset == 'idx':
      try:
        return bool(datasets.find_idx(self.data_dir, ('t10k', 'test'), ('images',)))
      except _validate.InputError:
        return False
    return self.dataset != 'png' or image_folder.has_test_split(self.data_dir)

  def load(self, split: str = 'train') -> Dataset:
    """Loads a split: 'train', what a run may see, or 'test', what it never does.

    Raises:
      InputError: as `datasets.load_dataset` and `hold_out`.
    """
    if not self.holdout:
      return self._closed(self._load(split))
    train, test = map(self._closed, hold_out(self._load('train'), self.holdout))
    count = test.spec.num_records
    note = f'{count:,} {test.unit}s are held out, never trained on: for dpgan_jax.evaluate'
    if count < ENOUGH:
      note += f', which needs {ENOUGH}: a larger --holdout gives more'
    return dataclasses.replace(train if split == 'train' else test, notes=(*train.notes, note))

  def _load(self, split: str) -> Any:
    apart = {'dataset', 'holdout', 'schema_epsilon', 'found'}
    fields = (f.name for f in dataclasses.fields(self) if f.name not in apart)
    options = {name: getattr(self, name) for name in fields}
    if self.schema_epsilon is None:
      return datasets.load_dataset(self.dataset, split=split, **options)
    if self.dataset != 'table' or self.data_dir is None:
      raise _validate.InputError(
        'expected schema_epsilon only with table and data_dir: others describe themselves, or have '
        f'to be described; got {self.dataset}'
      )
    persons = self.unit_column, self.max_rows_per_unit
    return read_open(self.data_dir, declared(self.data_dir, self.schema, 'table', split, *persons))

  def _closed(self, part: T) -> T | TableDataset:
    if isinstance(part, OpenTable) and self.found is not None:
      return part.closed(self.found)
    return part

  def load_images(self, split: str = 'train') -> ImageDataset:
    """`load` of images, for what is of images only.

    Raises:
      InputError: as `load`, or it is a table or series.
    """
    if self.dataset in datasets.WITH_SCHEMA:
      of_series = self.dataset in ('vitals', 'series')
      kind, kinds = ('series', 'series') if of_series else ('table', 'tables')
      raise _validate.InputError(
        f'expected images, got the {kind} {self.dataset}: of {kinds} there are '
        'dpgan_jax.train, sample, report, evaluate, release and sweep'
      )
    found = self.load(split)
    assert isinstance(found, ImageDataset)
    return found
