"""The reader of folders of images: by class, flat, or with a table of labels.

It is as distrustful as `readers`, and forgiving: what is wrong is told all at once, with what would
help. `file` reads the single one.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data import naming, readers
from dpgan_jax.data.images import file as image_file
from dpgan_jax.data.spec import Preparation

_SPLIT_FOLDERS = {'train': ('train', 'training'), 'test': ('test', 'testing')}
# Beside classes these are other parts of the data, and their images would become a class.
_OTHER_SPLITS = (*_SPLIT_FOLDERS['train'], *_SPLIT_FOLDERS['test'], 'val', 'valid', 'validation')
_JUNK = ('thumbs.db', 'desktop.ini', '__macosx')  # of Windows and macOS; .DS_Store is hidden
_SHOWN, _LONGEST_LIST = 10, 1800  # names of each kind of problem; characters of all of them
_MOST_TABLE_BYTES = 2**28
_COLUMNS = ('file', 'label')

T = TypeVar('T')


class Found(NamedTuple):
  """What a folder holds.

  Attributes:
    images: uint8 [N, H, W, C].
    labels: int32 [N].
    class_names: one for each class.
    notes: what was skipped and changed, as lines for the owner: counts of private data.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  notes: tuple[str, ...]


def read_image_folder(
  path: readers.PathLike,
  *,
  split: str = 'train',
  preparation: Preparation | None = None,
  labels_csv: readers.PathLike | None = None,
) -> Found:
  """Reads `<path>/<split>/<class>/<image>`; for training also without the folder of the split.

  Without folders of classes the images are one class, called 'unlabelled'; with `labels_csv` it
  says the class of each, wherever it lies. The folder of a split may be called training or testing
  too, in any case. Classes and files are taken in the order of their names, as numbers where all
  are numbers; where `class_names.json` is there (`export` writes it), it gives names and order. The
  classes of the test split are those of the training split, by name. What is hidden and what
  Windows and macOS leave behind is skipped, and counted in a note.

  Args:
    path: the folder.
    split: 'train' or 'test'.
    preparation: what is done to each image; default: nothing.
    labels_csv: a table with the columns `file` (relative to the folder) and `label`.

  Raises:
    InputError: everything that is wrong with the files in one list, ten of each kind by name, with
      what would help; or folders that cannot be understood, more than `readers.MAX_BYTES`.
  """
  root = readers.existing_folder(path)
  folder = _Folder(root, root.resolve())
  bases = {name: _split_folder(root, name) for name in _SPLIT_FOLDERS}
  if bases[split] is None and (split == 'test' or bases['test'] is not None):
    raise InputError(
      f'{root}: expected a folder {split}/ that holds images, or <class>/<image> (where there is '
      'none for testing, train with --holdout)'
    )
  base = bases[split] or root
  if labels_csv is not None:
    files, names = _by_table(folder, base, pathlib.Path(labels_csv))
  else:
    files, names = _by_class(folder, base, split, bases['train'])
  images, changes = _read_all(folder, files, preparation or Preparation())
  folder.refuse_problems(len(files))
  number = {name: i for i, name in enumerate(names)}
  labels = np.array([number[label] for _, label in files], np.int32)
  return Found(images, labels, names, (*folder.notes(), *change_notes(changes, len(files))))


def has_test_split(path: readers.PathLike) -> bool:
  """Whether a folder has images for testing of its own."""
  return _split_folder(readers.existing_folder(path), 'test') is not None


def change_notes(changes: Counter[str], count: int) -> list[str]:
  """What was done to how many of the images, as a line for their owner."""
  done = ', '.join(f'{n:,} {change}' for change, n in sorted(changes.items()))
  return [f'of {count:,} images: {done}'] if done else []


@dataclasses.dataclass
class _Folder:
  """A folder that is read: what was skipped in it, and what is wrong."""

  root: pathlib.Path
  home: pathlib.Path  # the same place without links
  skipped: Counter[str] = dataclasses.field(default_factory=Counter)
  problems: dict[tuple[str, str], list[str]] = dataclasses.field(default_factory=dict)
  dark: bool = False

  def entries(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """What is in a folder within, sorted; without what is skipped by its name."""
    kept = []
    for entry in folder.iterdir():
      hidden = entry.name.startswith('.')
      if hidden or entry.name.casefold() in _JUNK:
        self.skipped['hidden' if hidden and entry.name != '.DS_Store' else entry.name] += 1
      else:
        kept.append(entry)
    return _in_order(kept, lambda path: path.name, lambda path: path.stem)

  def add(self, what: str, remedy: str, where: object, detail: str = '') -> None:
    """Notes a problem; `where` is a path within, or a line of the table."""
    name = str(where.relative_to(self.root)) if isinstance(where, pathlib.Path) else str(where)
    name = f'{name[:28]}...{name[-28:]}' if len(name) > 60 else name
    found = self.problems.setdefault((what, remedy), [])
    found.append(f'{name} ({detail})' if detail and len(found) < _SHOWN else name)

  def leads_out(self, path: pathlib.Path) -> bool:
    """Whether a path is a link out of the folder: nothing behind it is read or listed."""
    outside = not pathlib.Path(os.path.realpath(path)).is_relative_to(self.home)
    if outside:
      self.add('link to a place outside the folder', 'copy what it leads to', path)
    return outside

  def refuse_problems(self, count: int) -> None:
    """Raises InputError with all problems, as many names of each kind as a line takes."""
    if not self.problems:
      return
    text = ''
    for shown in range(_SHOWN, -1, -1):
      parts = []
      for (what, remedy), names in self.problems.items():
        listed = ', '.join(names[:shown]) + (', ...' if len(names) > shown else '')
        parts.append(f'{len(names):,} × {what} ({remedy}): {listed}')
      text = '; '.join(parts)
      if len(text) <= _LONGEST_LIST:
        break
    raise InputError(f'{self.root}: of {count:,} images not all can be taken: {text}')

  def notes(self) -> list[str]:
    """What was skipped, and a warning of images that will be black."""
    lines = []
    if self.skipped:
      names = ', '.join(f'{n:,} {name}' for name, n in sorted(self.skipped.items()))
      lines.append(f'skipped {self.skipped.total():,} files or folders that are no images: {names}')
    if self.dark:
      lines.append(
        'no value of the images of 16 bits is above an eighth of the range: they are nearly black; '
        'scale their values before (by a constant, not by their own)'
      )
    return lines


def _by_class(
  folder: _Folder, base: pathlib.Path, split: str, train: pathlib.Path | None
) -> tuple[list[tuple[pathlib.Path, str]], tuple[str, ...]]:
  """Images with the names of their classes, in order, and all classes."""
  given = naming.read(folder.root)
  classes, loose = _class_folders_of(folder, base)
  if classes:
    for path in loose:
      folder.add('image beside the folders of classes', 'move it into one', path)
    names = tuple(classes)
  else:
    classes, names = {naming.UNLABELLED: base}, (naming.UNLABELLED,)
  known, what = None, f'the classes in {naming.FILE}'
  if given is not None:
    known = dict(zip(naming.folders(given), given, strict=True))
  elif split == 'test' and train is not None:
    known = {name: name for name in _class_folders_of(folder, train)[0] or names}
    what = f'the classes of training, in {train.name}/'
  if known is not None:
    for name in (n for n in classes if n not in known):
      shown = ', '.join(map(repr, list(known)[:_SHOWN])) + ', ...' * (len(known) > _SHOWN)
      folder.add(f'folder of none of {what}', f'expected {shown}', classes[name])
    classes = {known[name]: classes[name] for name in known if name in classes}
    names = tuple(known.values())
  files = []
  for name in (n for n in names if n in classes):
    if classes[name] != base and folder.leads_out(classes[name]):
      continue
    members = loose if classes[name] == base else folder.entries(classes[name])
    if not members:
      folder.add('empty class', 'remove it, or put its images there', classes[name])
    files += [(member, name) for member in members]
  return files, names


def _by_table(
  folder: _Folder, base: pathlib.Path, table: pathlib.Path
) -> tuple[list[tuple[pathlib.Path, str]], tuple[str, ...]]:
  """The same with classes out of a table; its files are all images of `base`, at any depth."""
  rows = _read_table(folder, table)
  start = '' if base == folder.root else f'{base.name}/'
  files, waiting = [], [base]
  while waiting:
    place = waiting.pop()
    if folder.leads_out(place):
      continue
    for entry in folder.entries(place):
      if entry.is_dir():
        if entry.is_symlink():
          folder.add('link to a folder', 'copy the folder', entry)
        else:
          waiting.append(entry)
      elif entry.suffix.lower() in image_file.SUFFIXES:
        name = _normal(entry.relative_to(folder.root).as_posix())
        if name in rows:
          files.append((entry, rows[name]))
        else:
          folder.add(f'image in no row of {table.name}', 'add a row, or remove it', entry)
      elif not os.path.lexists(table) or not entry.exists() or not entry.samefile(table):
        folder.skipped[entry.name] += 1
  present = {_normal(file.relative_to(folder.root).as_posix()) for file, _ in files}
  for name in rows.keys() - present:
    if name.startswith(start):
      folder.add(f'row of {table.name} without an image', 'file is relative to the folder', name)
  if not files and not folder.problems:
    raise InputError(f'{base}: expected images, got none')
  labels = _in_order(set(rows.values()), str, str)
  names = naming.checked(f'{table}: label', labels) if labels else ()
  given = naming.read(folder.root)
  if given is not None:
    for name in (n for n in names if n not in given):
      folder.add(f'label that is none of {naming.FILE}', 'add it there', name)
    names = tuple(dict.fromkeys((*given, *names)))
  return sorted(files), names


def _read_table(folder: _Folder, table: pathlib.Path) -> dict[str, str]:
  """Labels by file, relative to the folder."""
  table = readers.regular_file(table)
  if table.stat().st_size > _MOST_TABLE_BYTES:
    raise InputError(f'{table}: expected at most {_MOST_TABLE_BYTES} bytes')
  rows: dict[str, str] = {}
  try:
    text = table.read_bytes().decode('utf-8-sig')
    head = text.partition('\n')[0]
    lines = csv.reader(io.StringIO(text), delimiter=';' if ';' in head and ',' not in head else ',')
    header = [name.strip().lower() for name in next(lines, [])]
    if any(header.count(column) != 1 for column in _COLUMNS):
      shown = ', '.join(repr(name[:40]) for name in header[:_SHOWN]) or 'nothing'
      raise InputError(f'{table}: expected a header with the columns file and label, got {shown}')
    places = [header.index(column) for column in _COLUMNS]
    for line in lines:
      if not line:
        continue
      file, label = (line[i].strip() if i < len(line) else '' for i in places)
      file = _normal(file.replace('\\', '/').removeprefix('./'))
      if not file or not label:
        where = f'line {lines.line_num}'
        folder.add(f'row of {table.name} without a file or a label', 'fill it in', where)
      elif rows.setdefault(file, unicodedata.normalize('NFC', label)) != label:
        folder.add(f'file with two labels in {table.name}', 'keep one', file)
  except UnicodeDecodeError:
    raise InputError(f'{table}: expected UTF-8 text') from None
  except csv.Error as error:
    raise InputError(f'{table}: expected a table of comma-separated values: {error}') from None
  return rows


def _read_all(
  folder: _Folder, files: Sequence[tuple[pathlib.Path, str]], preparation: Preparation
) -> tuple[np.ndarray, Counter[str]]:
  """All images in one array; what cannot be among them becomes a problem of the folder."""
  images = np.empty((0, 1, 1, 1), np.uint8)
  changes: Counter[str] = Counter()
  shapes: dict[tuple[int, ...], list[pathlib.Path]] = {}
  brightest = 0
  for i, (file, _) in enumerate(files):
    if file.is_dir():
      folder.add('folder within a class', 'put its images into the class', file)
      continue
    if file.suffix.lower() not in image_file.SUFFIXES:
      folder.add(f'file of another name than *{", *".join(image_file.SUFFIXES)}', 'remove it', file)
      continue
    if folder.leads_out(file):
      continue
    try:
      pixels, done = image_file.read(file, preparation)
    except image_file.Unfit as error:
      folder.add(error.what, error.remedy, file, error.detail)
      continue
    changes.update(done)
    if image_file.DEEP in done:
      brightest = max(brightest, int(pixels.max()))
    if not shapes:
      image_file.require_room(folder.root, len(files), pixels)
      images = np.empty((len(files), *pixels.shape), np.uint8)
    shapes.setdefault(pixels.shape, []).append(file)
    if pixels.shape == images.shape[1:]:
      images[i] = pixels
  folder.dark = bool(changes[image_file.DEEP]) and brightest < 32
  usual = max(shapes, key=lambda shape: len(shapes[shape]), default=(0, 0, 0))
  for shape, those in shapes.items():
    for file in those:
      if shape[:2] != usual[:2]:
        folder.add(f'image of another size than {usual[0]}×{usual[1]}',
                   '--image_size=28 makes all alike', file, f'{shape[0]}×{shape[1]}')  # fmt: skip
      if shape[2] != usual[2]:
        what = 'colour image among grey ones' if usual[2] == 1 else 'grey image among colour ones'
        folder.add(what, '--channels=1 or --channels=3 makes all alike', file)
  return images, changes


def _split_folder(root: pathlib.Path, split: str) -> pathlib.Path | None:
  """The folder of a split, by any of its names; None if there is none."""
  folders = [e for e in root.iterdir() if e.name.casefold() in _SPLIT_FOLDERS[split] and e.is_dir()]
  if len(folders) > 1:
    both = ' and '.join(sorted(folder.name for folder in folders))
    raise InputError(f'{root}: holds {both}; expected one folder of the {split} split')
  return folders[0] if folders else None


def _class_folders_of(
  folder: _Folder, base: pathlib.Path
) -> tuple[dict[str, pathlib.Path], list[pathlib.Path]]:
  """The folders of classes by name, in order, and the images beside them."""
  if not pathlib.Path(os.path.realpath(base)).is_relative_to(folder.home):
    raise InputError(f'{base}: links to a place outside {folder.root}; expected files within it')
  found: dict[str, pathlib.Path] = {}
  loose = []
  for entry in folder.entries(base):
    if not entry.is_dir():
      if entry.suffix.lower() in image_file.SUFFIXES:
        loose.append(entry)
      elif entry.name != naming.FILE:
        folder.skipped[entry.name] += 1
      continue
    if base == folder.root and entry.name.casefold() in _OTHER_SPLITS:
      raise InputError(
        f'{entry}: looks like a part of a data set, not like a class; expected {base}/train and '
        f'{base}/test, or classes alone'
      )
    name = _normal(entry.name)
    if name in found:
      raise InputError(f'{base}: holds two folders {name!r}, which only spell it otherwise')
    found[name] = entry
  if not found and not loose:
    raise InputError(f'{base}: expected <class>/<image>, or images alone, got neither')
  return found, loose


def _normal(name: str) -> str:
  return unicodedata.normalize('NFC', naming.from_disk(name))


def _in_order(items: Iterable[T], name: Callable[[T], str], number: Callable[[T], str]) -> list[T]:
  """Sorts by name, or by number where every item has one."""
  found = sorted(items, key=name)
  if all(number(item).isascii() and number(item).isdecimal() for item in found):
    # By length first without leading zeros: int() refuses names of thousands of digits.
    found.sort(key=lambda item: (len(number(item).lstrip('0')), number(item).lstrip('0')))
  return found
