"""The reader of folders of PNG images, a folder for each class: as distrustful as `readers`."""

from __future__ import annotations

import io
import os
import pathlib
import unicodedata
import warnings
from collections.abc import Iterable

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data import naming, readers

_SPLIT_FOLDERS = {'train': ('train', 'training'), 'test': ('test', 'testing')}
# Beside classes these are other parts of the data, and their images would become a class.
_OTHER_SPLITS = (*_SPLIT_FOLDERS['train'], *_SPLIT_FOLDERS['test'], 'val', 'valid', 'validation')
_USUAL_GAMMA, _ORIENTATION = 45455, 0x112  # of PNG: 1/2.2 in units of 1e-5; the Exif tag


def read_png_folder(
  path: readers.PathLike, *, split: str = 'train'
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Reads `<path>/<split>/<class>/*.png`, or `<path>/<class>/*.png` (train only).

  The folder of a split may be called training or testing too, in any case. Classes and files are
  taken in the order of their names, as numbers where all are numbers; where `class_names.json` is
  there (`export` writes it), it gives names and order. The classes of the test split are those of
  the training split, by name. Names that begin with a dot are ignored.

  Returns:
    images uint8 [N, H, W] or [N, H, W, 3], labels int32 [N], class names (in Unicode's form C).

  Raises:
    InputError: a file that is not a grey or RGB PNG of at most 8 bits (named), or whose pixels mean
      something else than they say (gamma, a transparent colour, ...), images of differing size or
      mode, an empty class, a class of the test split that is none of training, folders that are
      splits rather than classes, a link that leads out of the folder, more than
      `readers.MAX_BYTES` of pixels.
  """
  root = readers.existing_folder(path)
  home = root.resolve()
  bases = {name: _split_folder(root, name) for name in _SPLIT_FOLDERS}
  if bases[split] is None and (split == 'test' or bases['test'] is not None):
    raise InputError(f'{root}: expected a folder {split}/ that holds <class>/*.png')
  base = bases[split] or root
  classes = _class_folders_of(base, root, home)
  names = tuple(classes)
  if (given := naming.read(root)) is not None:
    wanted = dict(zip(naming.folders(given), given, strict=True))
    _refuse_others(base, classes, wanted, f'the classes in {naming.FILE}')
    classes = {name: classes[folder] for folder, name in wanted.items() if folder in classes}
    names = given
  elif split == 'test' and bases['train'] is not None:
    names = tuple(_class_folders_of(bases['train'], root, home))
    _refuse_others(base, classes, names, f'the classes of training, in {bases["train"].name}/')
  files: list[tuple[pathlib.Path, int]] = []
  for label, folder in ((i, classes[name]) for i, name in enumerate(names) if name in classes):
    _refuse_outside(folder, root, home)
    members = _by_name(folder.iterdir())
    if not members:
      raise InputError(f'{folder}: class {label} ({folder.name!r}) is empty; expected PNG files')
    files += [(member, label) for member in members]
  images: np.ndarray | None = None
  for i, (file, _) in enumerate(files):
    _refuse_outside(file, root, home)
    pixels = _read_png(file)
    if images is None:
      if pixels.nbytes * len(files) > readers.MAX_BYTES:
        raise InputError(
          f'{root}: {len(files)} images of {pixels.shape}; expected at most '
          f'{readers.MAX_BYTES} bytes'
        )
      images = np.empty((len(files), *pixels.shape), np.uint8)
    if pixels.shape != images.shape[1:]:
      raise InputError(
        f'{file}: expected the size of the first image {files[0][0].name}, {images.shape[1:]}, got '
        f'{pixels.shape}'
      )
    images[i] = pixels
  assert images is not None
  labels = np.array([label for _, label in files], np.int32)
  return images, labels, names


def _split_folder(root: pathlib.Path, split: str) -> pathlib.Path | None:
  """The folder of a split, by any of its names; None if there is none."""
  folders = [e for e in root.iterdir() if e.name.casefold() in _SPLIT_FOLDERS[split] and e.is_dir()]
  if len(folders) > 1:
    both = ' and '.join(sorted(folder.name for folder in folders))
    raise InputError(f'{root}: holds {both}; expected one folder of the {split} split')
  return folders[0] if folders else None


def _class_folders_of(
  base: pathlib.Path, root: pathlib.Path, home: pathlib.Path
) -> dict[str, pathlib.Path]:
  """The folders of classes by name, in order."""
  _refuse_outside(base, root, home)
  found: dict[str, pathlib.Path] = {}
  for folder in _by_name(entry for entry in base.iterdir() if entry.is_dir()):
    if base == root and folder.name.casefold() in _OTHER_SPLITS:
      raise InputError(
        f'{folder}: looks like a part of a data set, not like a class; expected {root}/train and '
        f'{root}/test, or classes alone'
      )
    name = unicodedata.normalize('NFC', naming.from_disk(folder.name))
    if name in found:
      raise InputError(f'{base}: holds two folders {name!r}, which only spell it otherwise')
    found[name] = folder
  if not found:
    raise InputError(f'{base}: expected <class>/*.png, got no folder')
  return found


def _refuse_others(
  base: pathlib.Path, classes: Iterable[str], wanted: Iterable[str], what: str
) -> None:
  """Refuses folders that are none of the classes `wanted`: another order would go unnoticed."""
  wanted = tuple(wanted)
  for name in classes:
    if name not in wanted:
      shown = ', '.join(repr(each) for each in wanted[:10]) + (', ...' if wanted[10:] else '')
      raise InputError(f'{base / name}: is none of {what}; expected {shown}')


def _refuse_outside(path: pathlib.Path, root: pathlib.Path, home: pathlib.Path) -> None:
  """Refuses a link out of the folder, before a file behind it is read or a folder listed."""
  if not pathlib.Path(os.path.realpath(path)).is_relative_to(home):
    raise InputError(f'{path}: links to a place outside {root}; expected files within it')


def _read_png(path: pathlib.Path) -> np.ndarray:
  from PIL import Image  # here, as most runs read no PNG

  if path.suffix.lower() != '.png':
    raise InputError(f'{path}: expected only PNG files in a class folder')
  path = readers.regular_file(path)
  if path.stat().st_size > readers.MAX_BYTES:
    raise InputError(f'{path}: expected at most {readers.MAX_BYTES} bytes')
  data = path.read_bytes()
  try:
    with warnings.catch_warnings():
      # Pillow warns from 89 million pixels and fails from twice as many; here both are refused.
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data), formats=['PNG']) as image:
        if image.mode not in ('L', 'RGB'):
          raise InputError(f'{path}: expected 8-bit grey (L) or RGB, got mode {image.mode}')
        if what := _lost_in_png(data):
          raise InputError(
            f'{path}: {what}; expected pixels of at most 8 bits that mean what they say: convert '
            'the image to 8-bit grey or sRGB'
          )
        if image.getexif().get(_ORIENTATION, 1) != 1:
          raise InputError(f'{path}: is to be shown turned (Exif); expected it upright as stored')
        return np.array(image)
  except (Image.DecompressionBombWarning, Image.DecompressionBombError):
    raise InputError(
      f'{path}: expected at most {Image.MAX_IMAGE_PIXELS} pixels (decompression bomb?)'
    ) from None
  except InputError:
    raise
  # Pillow's decoders raise SyntaxError, struct.error, OSError, ... on damage; the bytes are in
  # memory already, so none of these can be the file system's.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise InputError(f'{path}: expected an undamaged PNG image, got: {reason}') from None


def _lost_in_png(data: bytes) -> str | None:
  """What of a PNG file its decoded 8-bit pixels would not show; None if they show all.

  Grey of 1 to 4 bits is spread over 0 to 255 exactly, and interlacing is only an order of rows.
  """
  if data[12:16] != b'IHDR':
    return 'does not begin with its header'
  if data[24] > 8:  # the depth
    return f'has {data[24]} bits a channel, of which the lower ones would be lost'
  found = {}
  place = 8
  while place + 8 <= len(data) and (kind := data[place + 4 : place + 8]) not in (b'IDAT', b'IEND'):
    length = int.from_bytes(data[place : place + 4], 'big')
    found[kind] = data[place + 8 : place + 8 + length]
    place += 12 + length
  if b'tRNS' in found:
    return 'has a transparent colour, which would be shown'
  if b'acTL' in found:
    return 'is an animation, of which one image would be taken'
  gamma = int.from_bytes(found.get(b'gAMA', b''), 'big') or _USUAL_GAMMA
  if b'sRGB' not in found and abs(gamma - _USUAL_GAMMA) > _USUAL_GAMMA / 20:
    return f'has gamma {gamma / 1e5:g} (not {_USUAL_GAMMA / 1e5:g}, as sRGB has)'
  return None


def _by_name(entries: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """Sorts by name, numerically where every stem is a number; leaves hidden entries out."""
  paths = sorted((p for p in entries if not p.name.startswith('.')), key=lambda p: p.name)
  if all(p.stem.isascii() and p.stem.isdecimal() for p in paths):
    # By length first without leading zeros: int() refuses names of thousands of digits.
    paths.sort(key=lambda p: (len(p.stem.lstrip('0')), p.stem.lstrip('0')))
  return paths
