"""JSON out of files that anybody may have written: bounded before it is parsed, strict, finite.

>>> loads('{"steps": 3}')
{'steps': 3}
>>> loads('{"sigma": 1.0, "sigma": 0.1}')
Traceback (most recent call last):
    ...
ValueError: the name 'sigma' occurs twice
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from typing import Any

MOST_BYTES = 2**20
"""Of a record, by default: those of real runs have some ten thousand."""


def read(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> Any:
  """Returns what the JSON file at `path` holds, as `loads`.

  Raises:
    ValueError: more than `most_bytes`, no regular file, or as `loads`.
    OSError: the file cannot be read.
  """
  path = pathlib.Path(path)
  size = path.stat().st_size
  if not path.is_file():  # a pipe or a device would be read without end
    raise ValueError('expected a regular file')
  if size > most_bytes:
    raise ValueError(f'expected at most {most_bytes} bytes, got {size}')
  return loads(path.read_bytes(), most_bytes)


def loads(text: str | bytes, most_bytes: int = MOST_BYTES) -> Any:
  """Returns what JSON text says; every number in it is finite, and whole ones fit 64 bits.

  Raises:
    ValueError: longer than `most_bytes`, no JSON, nested without end, a name twice in one object,
      NaN, an infinite or a longer number.
  """
  if len(text) > most_bytes:
    raise ValueError(f'expected at most {most_bytes} bytes of JSON, got {len(text)}')
  try:
    return json.loads(
      text, parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_once
    )
  except RecursionError:
    raise ValueError('nested too deeply') from None


def _whole(text: str) -> int:
  if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
    raise ValueError(f'expected whole numbers of 64 bits, got {text[:40]}')
  return number


def _finite(text: str) -> float:
  if not math.isfinite(number := float(text)):
    raise ValueError(f'expected finite numbers, got {text[:40]}')
  return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'the name {twice[:40]!r} occurs twice')
  return found
