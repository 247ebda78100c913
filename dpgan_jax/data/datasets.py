"""Data sets by name, checked, never trusted; the files themselves are read by `readers`.

Whatever is wrong with a data set becomes a one-line `InputError` that names it.

>>> digits = load_dataset('digits')
>>> len(digits), digits.image_shape, digits.num_classes
(1440, (8, 8, 1), 10)
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dpgan_jax._plugins import Registry
from dpgan_jax._validate import InputError, integer, one_of
from dpgan_jax.data import download, naming
from dpgan_jax.data.images import file as image_file
from dpgan_jax.data.images import folder as image_folder
from dpgan_jax.data.images.dataset import SPLITS, ImageDataset
from dpgan_jax.data.readers import (
  PathLike,
  existing_folder,
  int32_labels,
  npz_class_names,
  npz_members,
  npz_names,
  read_idx,
  read_npz,
)
from dpgan_jax.data.series.generated import vitals
from dpgan_jax.data.series.read import declared, read_records
from dpgan_jax.data.spec import Preparation, require_confirmed
from dpgan_jax.data.tables.generated import people

_DIGITS = tuple('0123456789')
_CLASS_NAMES: dict[str, tuple[str, ...]] = {
  'digits': _DIGITS,
  'mnist': _DIGITS,
  'fashion_mnist': (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat',
    'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
  ),
  'kmnist': ('o', 'ki', 'su', 'tsu', 'na', 'ha', 'ma', 'ya', 're', 'wo'),
  # EMNIST Balanced merges the lower-case letters that look like their capitals (Cohen et al. 2017).
  'emnist': tuple('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'),
  'emnist_digits': _DIGITS,
  'emnist_letters': tuple('abcdefghijklmnopqrstuvwxyz'),
}  # fmt: skip
_EMNIST_PART = {'emnist': 'balanced', 'emnist_digits': 'digits', 'emnist_letters': 'letters'}

PUBLIC = {*_CLASS_NAMES, 'people', 'vitals'}
"""Data sets that anyone may download or make: scores on their records may be shown."""
WITH_SCHEMA = {'people', 'table', 'vitals', 'series'}
_OWN = dict.fromkeys((*_CLASS_NAMES, 'people', 'vitals', 'idx', 'npz', 'png', 'table', 'series'))
DATASETS: Registry[Any] = Registry('data set', _OWN, public=PUBLIC, tables=WITH_SCHEMA)
"""A plugin registers functions of (split, data_dir) that return a data set."""


def load_dataset(
  name: str,
  *,
  data_dir: str | None = None,
  split: str = 'train',
  num_classes: int | None = None,
  labels_csv: str | None = None,
  image_size: str | int | None = None,
  channels: int | None = None,
  schema: str | None = None,
  unit_column: str | None = None,
  max_rows_per_unit: int | None = None,
) -> Any:
  """Loads one split of a data set by name; `sources` holds out a part of it, if that is asked for.

  Args:
    name: one of `DATASETS`. 'digits' comes with scikit-learn (8x8, split fixed by position).
      'mnist', 'fashion_mnist', 'kmnist', 'emnist' (Balanced), 'emnist_digits' and 'emnist_letters'
      are read from `data_dir`, or downloaded into the cache without one. 'idx', 'npz' and 'png' are
      your own files: see `find_idx`, `readers.read_npz`, `image_folder.read_image_folder`. Without
      labels, images of the last two are of one class, called 'unlabelled'. 'people' is a generated
      table, 'vitals' are generated series, 'table' and 'series' your own (`series.read`).
    data_dir: the folder (for 'npz', 'table' and 'series' the file) that holds the data.
    split: 'train' or 'test'. Classes of the test split are those of training, in their order.
    num_classes: for 'idx' and 'npz', the public number of classes. Without it their names (the file
      class_names.json, the array class_names) or the largest training label give it, which is
      harmless only where the set of classes is no secret.
    labels_csv: for 'png', a table of the class of each file.
    image_size, channels: for 'npz' and 'png', what each image is resized to, 28 or '28x32' (height
      by width), and turned into: grey (1) or RGB (3). Without them images are taken as they are.
    schema: for 'table' and 'series', the file that describes them (`tables.schema_file`).
    unit_column, max_rows_per_unit: for 'table', as of `tables.persons.settled`.

  Returns:
    An `ImageDataset`; a `TableDataset` for the names in `WITH_SCHEMA`.

  Raises:
    InputError: an unknown name, or files that are missing, damaged or inconsistent.
  """
  one_of('dataset', name, DATASETS)
  one_of('split', split, SPLITS)
  if num_classes is not None:
    if name not in ('idx', 'npz'):
      raise InputError(f'expected num_classes only with idx or npz; {name} has its own classes')
    integer('num_classes', num_classes, minimum=1)
  preparation = Preparation.of(image_size, channels)
  if preparation != Preparation() and name not in ('npz', 'png'):
    raise InputError(f'expected image_size and channels only with npz or png, got them with {name}')
  if labels_csv is not None and name != 'png':
    raise InputError(f'expected labels_csv only with png; {name} has labels of its own')
  if schema is not None and name not in ('table', 'series'):
    raise InputError(f'expected schema only with table or series; {name} describes itself')
  if name != 'table' and (unit_column, max_rows_per_unit) != (None, None):
    raise InputError(f'expected unit_column and max_rows_per_unit only with table, got {name}')
  if name in ('digits', 'people', 'vitals') and data_dir is not None:
    raise InputError(
      f'expected no data_dir with {name} (built in), got {data_dir!r}; with data of your own, '
      'dataset says how they are read: table, series, png, npz or idx'
    )
  if (plugged := DATASETS[name]) is not None:
    return dataclasses.replace(plugged(split, data_dir), name=name)
  if name in WITH_SCHEMA:
    import pyarrow  # noqa: F401  (what writes samples: if missing, before anything is spent)
  if name in ('people', 'vitals'):
    return people(split) if name == 'people' else vitals(split)
  if name in ('table', 'series'):
    path = _need(name, data_dir)
    found = declared(path, schema, name, split, unit_column, max_rows_per_unit)
    require_confirmed(found, str(schema))
    return read_records(path, found)
  if name == 'digits':
    images, labels = _digits(split)
  elif name == 'png':
    found = image_folder.read_image_folder(
      _need(name, data_dir), split=split, preparation=preparation, labels_csv=labels_csv
    )
    return _assemble(name, *found)
  elif name == 'npz':
    return _load_npz(_need(name, data_dir), split, num_classes, preparation)
  elif name == 'idx':
    folder = _need(name, data_dir)
    images, labels = _read_idx_pair(find_idx(folder, _stems(name, split)))
    named_by, names = labels, naming.read(folder)
    if split == 'test' and num_classes is None and names is None:
      path = find_idx(folder, _stems(name, 'train'), ('labels',))['labels']
      named_by = int32_labels(str(path), read_idx(path, 'labels'))
    return _assemble(name, images, labels, naming.of_labels(name, named_by, num_classes, names))
  else:
    files = download.fetch(name, split) if data_dir is None else find_idx(
      data_dir, _stems(name, split)
    )  # fmt: skip
    images, labels = _read_idx_pair(files)
    if name in _EMNIST_PART:
      images = images.swapaxes(1, 2)  # EMNIST is published with rows and columns exchanged
    if name == 'emnist_letters':
      labels = labels - 1  # published as 1 (a) to 26 (z); a 0 becomes -1 and is refused
  return _assemble(name, images, labels, _CLASS_NAMES[name])


# --- finding, assembling and checking -------------------------------------------------------------


def find_idx(
  folder: PathLike, stems: Iterable[str], kinds: Iterable[str] = ('images', 'labels')
) -> dict[str, pathlib.Path]:
  """Finds the IDX files of one split by their usual names.

  Args:
    folder: where they are.
    stems: what the names may begin with, in order of preference, such as 'train' or 't10k'.
    kinds: 'images' and 'labels', or one of them.

  Returns:
    kind -> path; `train-images-idx3-ubyte` is preferred to `train-images.idx3-ubyte` and to `.gz`.
  """
  folder, stems = existing_folder(folder), tuple(stems)
  found = {}
  for kind in kinds:
    names = [
      f'{stem}-{kind}{dot}idx{ndim}-ubyte{packed}'
      for stem in stems
      for ndim in ('34' if kind == 'images' else '1')
      for packed in ('', '.gz')
      for dot in '-.'
    ]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
      raise InputError(f'{folder}: no {kind} file; expected {names[0]} or {names[0]}.gz')
    found[kind] = path
  return found


def _load_npz(
  file: str, split: str, num_classes: int | None, preparation: Preparation
) -> ImageDataset:
  listed = npz_names(file)
  members = {s: npz_members(listed, s) for s in SPLITS}
  if members['train']['y'] not in listed and members[split]['y'] not in listed:
    (images,) = read_npz(file, split=split, parts=('x',))
    labels = named_by = np.zeros(len(images), np.int32)
    names: tuple[str, ...] | None = (naming.UNLABELLED,)
  else:
    images, labels = read_npz(file, split=split)
    named_by, names = labels, npz_class_names(file)
    if split == 'test' and num_classes is None and names is None:
      named_by = read_npz(file, parts=('y',))[0]
  images, changes = image_file.prepare_all(f'{file}: {members[split]["x"]}', images, preparation)
  notes = image_folder.change_notes(changes, len(images))
  if names == (naming.UNLABELLED,):
    notes.append(f'no {members[split]["y"]} among the arrays {", ".join(listed[:10])}: no classes')
  if 'val_images' in listed and members['test']['x'] != 'val_images':
    notes.append(f'the val_images of {file} are used neither for training nor for testing')
  names = naming.of_labels('npz', named_by, num_classes, names)
  return _assemble('npz', images, labels, names, tuple(notes))


def _read_idx_pair(files: Mapping[str, pathlib.Path]) -> tuple[np.ndarray, np.ndarray]:
  images, labels = read_idx(files['images'], 'images'), read_idx(files['labels'], 'labels')
  if len(images) != len(labels):
    raise InputError(
      f'{files["images"]} has {len(images)} images but {files["labels"]} has {len(labels)} labels; '
      'expected as many of each'
    )
  return images, int32_labels(str(files['labels']), labels)


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
  from sklearn.datasets import load_digits  # a second of import time that other data do without

  bunch: Any = load_digits()
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
  # Every fifth block of ten is for testing. Not every fifth example: many blocks are 0, 1, ..., 9
  # in order, so that would test on two digits above all.
  test = np.arange(len(images)) // 10 % 5 == 4
  chosen = test if split == 'test' else ~test
  return images[chosen], bunch.target[chosen].astype(np.int32)


def _stems(name: str, split: str) -> tuple[str, ...]:
  usual = ('train',) if split == 'train' else ('t10k', 'test')
  part = _EMNIST_PART.get(name)
  return (f'emnist-{part}-{split}', *usual) if part else usual


def _assemble(
  name: str,
  images: np.ndarray,
  labels: np.ndarray,
  class_names: tuple[str, ...],
  notes: tuple[str, ...] = (),
) -> ImageDataset:
  images = np.ascontiguousarray(images if images.ndim == 4 else images[..., np.newaxis])
  return ImageDataset(
    images=images, labels=labels, num_classes=len(class_names), name=name, class_names=class_names,
    notes=notes,
  )  # fmt: skip


def _need(name: str, data_dir: str | None) -> str:
  if data_dir is None:
    files = {'npz': 'an .npz', 'table': 'a CSV or Parquet', 'series': 'an .npz, CSV or Parquet'}
    what = f'{files[name]} file' if name in files else 'a folder'
    raise InputError(f'expected data_dir to name {what} with dataset {name}, got none')
  return data_dir
