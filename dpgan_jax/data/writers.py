"""Synthetic data sets out: npz, PNG folders, IDX (MNIST's own format) and Parquet.

What is written is whole or absent, and the same images give the same bytes. Nothing here costs
privacy: samples of a differentially private generator are post-processing.

>>> import tempfile
>>> images, labels = np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1])
>>> with tempfile.TemporaryDirectory() as folder:
...   written = export(f'{folder}/synthetic', images, labels, format='png')
...   print(*sorted(p.relative_to(written).as_posix() for p in written.rglob('*.png')))
train/0/0.png train/1/1.png train/1/2.png
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dpgan_jax._files import (
  atomic_directory,
  atomic_write,
  fsync_directory,
  named,
  require_free,
)
from dpgan_jax._validate import InputError, integer, one_of
from dpgan_jax.data import naming
from dpgan_jax.data.images.dataset import SPLITS
from dpgan_jax.data.readers import idx_bytes

FORMATS = ('npz', 'png', 'idx', 'parquet')

_ROWS_PER_GROUP = 1000
_CLASS_FOLDER = f'[0-9]+|{naming.UNLABELLED}'


def export(
  path: str | os.PathLike[str],
  images: np.ndarray,
  labels: np.ndarray | None,
  *,
  format: str,
  split: str = 'train',
  num_classes: int | None = None,
  class_names: Sequence[str] | None = None,
  overwrite: bool = False,
  guarantee: str | None = None,
) -> pathlib.Path:
  """Writes images and labels to `path`, in order, all of it or nothing.

  - 'npz': the file `path` with `x` (uint8 [N, H, W], or [N, H, W, C] where C > 1) and `y` (int64
    [N]).
  - 'png': `path/<split>/<class>/<n>.png`, n being the image's index. Numbers are padded with zeros
    to one width, so that readers that sort names as text find the same order. A class of which
    there is no image gets no folder.
  - 'idx': `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz` in `path` (`t10k-…` for the
    test split); images with C > 1 are 4-dimensional, in `…-images-idx4-ubyte.gz`.
  - 'parquet': the file `path` with the columns `image` (a struct of PNG `bytes` and `path`) and
    `label` (int64), and the schema metadata by which Hugging Face datasets knows an image and its
    classes.

  Names of classes are kept: in the array `class_names` of an npz, in the file `class_names.json` (a
  list) of a folder of PNGs, whose folders are called by them (`naming.folders`), or of IDX files,
  and in Parquet's metadata. This package reads all but the last.

  Without labels (an unconditional generator's images have none) there is no `y`, no file of labels
  and no column `label`, and PNGs are named `path/<split>/unlabelled/<n>.png`.

  Folders ('png' and 'idx') may hold the other split already.

  Args:
    path: a file for 'npz' and 'parquet', a folder for 'png' and 'idx'.
    images: uint8 [N, H, W] or [N, H, W, C], N ≥ 1; C is 1 or 3 for 'png' and 'parquet'.
    labels: whole numbers [N] in [0, num_classes), at most 255 for 'idx'; or None.
    format: one of `FORMATS`.
    split: 'train' or 'test', which names the files in a folder; a single file holds one split, and
      its name is yours.
    num_classes: the number of classes; one more than the largest label if not given. Without
      labels there are none to count: leave it out.
    class_names: one for each class; by default their numbers. Not without labels.
    overwrite: replace what is there. A PNG folder is replaced only if it holds nothing but images
      named as above, in folders of numbers or of the names in its `class_names.json`.
    guarantee: what the images cost, in a line. An npz holds it as the array `guarantee`, each PNG
      as the text `Guarantee`, Parquet in its metadata; IDX has no place for it.

  Returns:
    `path`.

  Raises:
    InputError: arguments that do not fit, or something at `path` already and not `overwrite`.
    OSError: the file system failed (full, not writable); what was there before is still there.
  """
  path = pathlib.Path(path)
  one_of('format', format, FORMATS)
  one_of('split', split, SPLITS)
  images = _checked_images(images, format)
  if labels is not None:
    if num_classes is None and class_names is not None:
      num_classes = len(class_names)
    labels, num_classes = _checked_labels(labels, len(images), num_classes, format)
  elif num_classes is not None or class_names is not None:
    given = 'num_classes' if num_classes is not None else 'class_names'
    raise InputError(f'expected no {given} without labels, got {num_classes or class_names!r}')
  names = None
  if labels is not None and num_classes is not None:
    names = _checked_names(class_names, num_classes)
  if format in ('npz', 'parquet'):
    require_free(path, overwrite, f' for format {format}')
    with atomic_write(path, 'wb') as file:
      if format == 'parquet':
        _write_parquet(file, images, labels, names, guarantee)
      else:
        arrays: dict[str, Any] = {'x': images} if labels is None else {'x': images, 'y': labels}
        if names is not None and not naming.unnamed(names):
          arrays['class_names'] = np.array(names)
        if guarantee is not None:
          arrays['guarantee'] = np.array(guarantee)
        np.savez_compressed(file, **arrays)
    return path
  if os.path.lexists(path) and not path.is_dir():
    raise InputError(f'{path} is not a folder; expected the name of a folder for format {format}')
  if format == 'idx':
    _write_idx(path, images, labels, names, split, overwrite)
  else:
    _write_png_folder(path, images, labels, names, split, overwrite, guarantee)
  return path


def _checked_images(images: Any, format: str) -> np.ndarray:
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim not in (3, 4):
    raise InputError(
      f'expected images to be uint8 [N, H, W] or [N, H, W, C], got {images.dtype} {images.shape}'
    )
  if 0 in images.shape:
    raise InputError(f'expected at least one image of at least one pixel, got {images.shape}')
  if images.ndim == 4 and images.shape[3] == 1:
    images = images[..., 0]
  if format in ('png', 'parquet') and images.ndim == 4 and images.shape[3] != 3:
    raise InputError(
      f'expected 1 (grey) or 3 (RGB) channels for format {format}, got {images.shape[3]}'
    )
  return np.ascontiguousarray(images)


def _checked_labels(
  labels: Any, count: int, num_classes: int | None, format: str
) -> tuple[np.ndarray, int]:
  labels = np.asarray(labels)
  if labels.dtype.kind not in 'iu' or labels.ndim != 1:
    raise InputError(f'expected labels to be whole numbers [N], got {labels.dtype} {labels.shape}')
  if len(labels) != count:
    raise InputError(
      f'expected as many labels as images, got {count} images and {len(labels)} labels'
    )
  # A stray label among the rest must not turn into billions of class names.
  limit = 256 if format == 'idx' else naming.MOST
  if num_classes is not None:
    limit = integer('num_classes', num_classes, minimum=1, maximum=limit)
  wrong = np.flatnonzero((labels < 0) | (labels >= limit))
  if len(wrong):
    raise InputError(
      f'expected labels in [0, {limit}), got {int(labels[wrong[0]])} at index {wrong[0]}'
    )
  return labels.astype(np.int64), num_classes or int(labels.max()) + 1


def _checked_names(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
  names = class_names if class_names is not None else tuple(map(str, range(num_classes)))
  if len(names) != num_classes:
    raise InputError(f'expected {num_classes} class_names, got {len(names)}')
  return naming.checked('class_names', tuple(names))


def _refuse_existing(paths: Iterable[pathlib.Path], overwrite: bool) -> list[pathlib.Path]:
  """Returns those of `paths` that exist; they are to be replaced."""
  existing = [path for path in paths if os.path.lexists(path)]
  if existing and not overwrite:
    raise InputError(f'{existing[0]} exists already; expected a new path, or overwrite')
  return existing


def _names_file(
  folder: pathlib.Path, names: Sequence[str] | None, others: Iterable[pathlib.Path]
) -> tuple[list[pathlib.Path], str | None]:
  """What becomes of `class_names.json`: what is replaced, and what is written.

  Args:
    folder: where it is.
    names: of the classes; None without labels.
    others: files or folders of the other split, which its names are of too.

  Raises:
    InputError: the other split has other names.
  """
  old = naming.read(folder)
  new = None if names is None or naming.unnamed(names) else tuple(names)
  if old == new or names is None:
    return [], None
  if any(os.path.lexists(path) for path in others):
    raise InputError(
      f'{folder} holds the other split, whose classes have other names; expected another folder'
    )
  text = None if new is None else json.dumps(new, ensure_ascii=False) + '\n'
  return [folder / naming.FILE] if old is not None else [], text


@contextlib.contextmanager
def _staged(folder: pathlib.Path, replaced: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
  """Yields an empty folder; its content appears in `folder` if the block ends without an exception.

  Args:
    folder: the final place; created whole where it does not exist.
    replaced: what disappears from `folder` in the same moment. It goes first, so that a power cut
      between the renames leaves a data set incomplete, which every reader notices, and never old
      images beside new labels.
  """
  if not folder.exists():
    with atomic_directory(folder) as staging:
      yield staging
      _flush_everything()
    return
  with tempfile.TemporaryDirectory(dir=folder, prefix='.export.', suffix='.tmp') as room:
    staging, old = pathlib.Path(room, 'new'), pathlib.Path(room, 'old')
    staging.mkdir()
    old.mkdir()
    with named(folder):
      yield staging
    _flush_everything()
    moves = [(path, old / path.name) for path in replaced]
    moves += [(path, folder / path.name) for path in staging.iterdir()]
    done: list[tuple[pathlib.Path, pathlib.Path]] = []
    try:
      for source, target in moves:
        os.rename(source, target)
        done.append((source, target))
    except BaseException:
      for source, target in reversed(done):
        os.rename(target, source)
      raise
    fsync_directory(folder)


def _flush_everything() -> None:
  # One call for a folder of 60,000 files, where as many calls of fsync would take minutes.
  os.sync()


def _write_idx(
  folder: pathlib.Path,
  images: np.ndarray,
  labels: np.ndarray | None,
  names: Sequence[str] | None,
  split: str,
  overwrite: bool,
) -> None:
  stem, other = ('train', 't10k') if split == 'train' else ('t10k', 'train')
  kinds = ('images-idx3', 'images-idx4', 'labels-idx1')
  # Readers take whichever of the names they find first: none may stay behind beside the new ones.
  existing, others = (
    [folder / f'{stem}-{kind}-ubyte{packed}' for kind in kinds for packed in ('', '.gz')]
    for stem in (stem, other)
  )
  existing = _refuse_existing(existing, overwrite)
  replaced, text = _names_file(folder, names, others)
  arrays = {f'{stem}-images-idx{images.ndim}-ubyte.gz': images}
  if labels is not None:
    arrays[f'{stem}-labels-idx1-ubyte.gz'] = labels.astype(np.uint8)
  with _staged(folder, existing + replaced) as staging:
    _write_names(staging, text)
    for name, array in arrays.items():
      # Without mtime=0 the bytes would change with the clock.
      (staging / name).write_bytes(gzip.compress(idx_bytes(array), mtime=0))


def _write_names(folder: pathlib.Path, text: str | None) -> None:
  if text is not None:
    (folder / naming.FILE).write_bytes(text.encode('utf-8', 'surrogatepass'))


def _write_png_folder(
  path: pathlib.Path,
  images: np.ndarray,
  labels: np.ndarray | None,
  names: Sequence[str] | None,
  split: str,
  overwrite: bool,
  guarantee: str | None,
) -> None:
  existing = _refuse_existing([path / split], overwrite)
  for folder in existing:
    _refuse_foreign_files(folder, naming.folders(naming.read(path) or ()))
  replaced, text = _names_file(path, names, [path / next(s for s in SPLITS if s != split)])
  members = {naming.UNLABELLED: np.arange(len(images))}
  if labels is not None and names is not None:
    folders = naming.folders(names)
    members = {folders[label]: np.flatnonzero(labels == label) for label in np.unique(labels)}
  index_width = len(str(len(images) - 1))
  with _staged(path, existing + replaced) as staging:
    _write_names(staging, text)
    for name, indices in members.items():
      folder = staging / split / naming.to_disk(name)
      folder.mkdir(parents=True)
      for n in indices:
        (folder / f'{n:0{index_width}}.png').write_bytes(_png_bytes(images[n], guarantee))


def _refuse_foreign_files(folder: pathlib.Path, classes: Sequence[str]) -> None:
  """Refuses to delete a folder that holds anything but <class>/<n>.png (a path was mistyped).

  Folders with names have to be `classes`: those of a person's own images are not in the file that
  only `export` writes.
  """
  if folder.is_symlink() or not folder.is_dir():
    raise InputError(f'{folder} is not a folder; expected one written by export to overwrite')
  for entry in folder.rglob('*'):
    name = naming.from_disk(entry.relative_to(folder).as_posix())
    own, _, image = name.partition('/')
    is_ours = own in classes or re.fullmatch(_CLASS_FOLDER, own)
    if not is_ours or not (re.fullmatch(r'[0-9]+\.png', image) if image else entry.is_dir()):
      raise InputError(
        f'{entry} was not written by export; expected only <class>/<n>.png to overwrite'
      )


def _png_bytes(image: np.ndarray, guarantee: str | None = None) -> bytes:
  from PIL import Image, PngImagePlugin  # here, as npz and IDX need no Pillow

  buffer, said = io.BytesIO(), PngImagePlugin.PngInfo()
  if guarantee is not None:
    said.add_text('Guarantee', guarantee)
  Image.fromarray(image).save(buffer, format='PNG', pnginfo=said)
  return buffer.getvalue()


def _write_parquet(
  file: Any,
  images: np.ndarray,
  labels: np.ndarray | None,
  names: Sequence[str] | None,
  guarantee: str | None,
) -> None:
  import pyarrow as pa  # here, as importing it takes longer than writing any other format
  from pyarrow import parquet

  # https://huggingface.co/docs/datasets/image_dataset and the files of the hub's own ylecun/mnist.
  columns = [('image', pa.struct([('bytes', pa.binary()), ('path', pa.string())]))]
  features: dict[str, Any] = {'image': {'_type': 'Image'}}
  if labels is not None and names is not None:
    columns.append(('label', pa.int64()))
    features['label'] = {'names': list(names), '_type': 'ClassLabel'}
  metadata = {'huggingface': json.dumps({'info': {'features': features}})}
  if guarantee is not None:
    metadata['guarantee'] = guarantee
  schema = pa.schema(columns, metadata=metadata)
  width = len(str(len(images) - 1))
  with parquet.ParquetWriter(file, schema) as writer:
    for start in range(0, len(images), _ROWS_PER_GROUP):
      chunk = range(start, min(start + _ROWS_PER_GROUP, len(images)))
      rows: dict[str, Any] = {
        'image': [{'bytes': _png_bytes(images[n]), 'path': f'{n:0{width}}.png'} for n in chunk]
      }
      if labels is not None:
        rows['label'] = labels[chunk.start : chunk.stop]
      writer.write_table(pa.table(rows, schema=schema), row_group_size=_ROWS_PER_GROUP)
