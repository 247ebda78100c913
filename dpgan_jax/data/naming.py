"""Names of classes: checked, as the names of folders, and in a file beside the data.

>>> folders(['T-shirt/top', 'Köln'])
('T-shirt%2Ftop', 'Köln')
"""

from __future__ import annotations

import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpgan_jax import _json
from dpgan_jax._validate import InputError

FILE = 'class_names.json'
MOST, LONGEST = 2**16, 1000  # classes; characters in the name of one
_SURROGATE = re.compile('[\ud800-\udfff]')  # half a character: no text can hold it
UNLABELLED = 'unlabelled'  # the folder of images without a class


def folders(names: Sequence[str]) -> tuple[str, ...]:
  """The folder of each class: its name, as far as a file system takes it.

  Numbers are padded with zeros to one width. What file systems refuse is written as %XX;
  names that differ by case alone, or are too long, get their number before them, or in their place.

  >>> folders(['T-shirt/top', 'Köln'])
  ('T-shirt%2Ftop', 'Köln')
  >>> folders(['a', 'A']), folders([str(n) for n in range(11)])[:2]
  (('0_a', '1_A'), ('00', '01'))
  """
  width = len(str(len(names) - 1))
  numbers = tuple(f'{i:0{width}}' for i in range(len(names)))
  if unnamed(names):
    return numbers
  safe = [re.sub(r'[\x00-\x1f\x7f"%*/:<>?\\|]|^[. ]|[. ]$', _quoted, n) for n in names]
  longest = max(len(name.encode('utf-8', 'replace')) for name in safe)
  if longest > 200 or UNLABELLED in safe:
    return tuple(f'class_{number}' for number in numbers)
  if len({name.casefold() for name in safe}) < len(safe):
    return tuple(f'{number}_{name}' for number, name in zip(numbers, safe, strict=True))
  return tuple(safe)


def _quoted(found: re.Match[str]) -> str:
  return f'%{ord(found[0]):02X}'


def to_disk(name: str) -> str:
  """The name of a folder as the system takes it: UTF-8 on the disk whatever the locale (LANG=C)."""
  return os.fsdecode(name.encode('utf-8', 'surrogateescape'))


def from_disk(name: str) -> str:
  """The inverse of `to_disk`, for names that the system has given."""
  return os.fsencode(name).decode('utf-8', 'surrogateescape')


def unnamed(names: Sequence[str]) -> bool:
  """Whether classes are called 0, 1, 2, ...: by their numbers, as where nobody has named them."""
  return tuple(names) == tuple(map(str, range(len(names))))


def read(folder: str | os.PathLike[str]) -> tuple[str, ...] | None:
  """The names in `class_names.json`, a JSON list; None where there is no such file.

  Raises:
    InputError: something else than a list of different names.
  """
  path = pathlib.Path(folder) / FILE
  if not os.path.lexists(path):
    return None
  try:
    names = _json.read(path)
  except ValueError as error:
    raise InputError(f'{path}: expected a JSON list of names, got: {error}') from None
  return checked(f'{path}', names)


def checked(where: str, names: Any) -> tuple[str, ...]:
  """Returns `names` as a tuple in Unicode's form C, or refuses them as those of `where`."""
  if not isinstance(names, list | tuple) or not 0 < len(names) <= MOST:
    raise InputError(f'{where}: expected a list of 1 to {MOST} names of classes')
  for name in names:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST or _SURROGATE.search(name):
      raise InputError(
        f'{where}: expected names of 1 to {LONGEST} characters, got {str(name)[:100]!r}'
      )
  found = tuple(unicodedata.normalize('NFC', name) for name in names)
  if len(set(found)) < len(found):
    twice = next(name for name in found if found.count(name) > 1)
    raise InputError(f'{where}: expected different names, got {twice!r} twice')
  return found


def of_labels(
  name: str, labels: np.ndarray, num_classes: int | None, names: tuple[str, ...] | None
) -> tuple[str, ...]:
  """The classes of `labels`: their `names`, or as many numbers as are said or as occur.

  Raises:
    InputError: labels that are not of these classes, or that leave some empty.
  """
  if names is not None:
    if num_classes not in (None, len(names)):
      raise InputError(f'{name}: expected num_classes={len(names)}, as many as have names there')
    check_labels(name, labels, len(names))
    return names
  if num_classes is None:
    num_classes = int(labels.max(initial=-1)) + 1
    if num_classes > len(labels):  # also keeps a stray 2^31 from making as many names
      raise InputError(
        f'{name}: label {num_classes - 1} among {len(labels)} labels leaves classes empty; '
        'expected labels 0, 1, ... without gaps'
      )
  check_labels(name, labels, num_classes)
  return tuple(map(str, range(num_classes)))


def check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
  """Refuses labels outside [0, num_classes), naming the first."""
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if len(wrong):
    raise InputError(
      f'{name}: expected labels in [0, {num_classes}), got {int(labels[wrong[0]])} at index '
      f'{wrong[0]}'
    )


def require_same(what: str, here: Sequence[str], there: Sequence[str], whose: str) -> None:
  """Refuses classes `here`, of `what`, that are not those `there`: they would be mixed up.

  Numbers are no names: where one of the two has nothing else, only how many there are is compared.

  Raises:
    InputError: naming `whose` the others are and the first that differs.
  """
  here, there = tuple(here), tuple(there)
  if len(there) != len(here):
    raise InputError(f'{what}: has {len(here)} classes and {whose} {len(there)}; expected the same')
  if there == here or unnamed(there) or unnamed(here):
    return
  number = next(i for i, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
  raise InputError(
    f'{what}: class {number} is {here[number]!r} and of {whose} {there[number]!r}; expected the '
    'same classes in the same order'
  )
