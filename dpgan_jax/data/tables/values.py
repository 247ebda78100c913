"""Numbers and dates as they are written, as the numbers that stand for them.

>>> parse('integer', '41'), parse('date', '1970-01-03'), parse('datetime', '1970-01-01T00:01')
(41.0, 2.0, 60.0)
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from dpgan_jax._validate import InputError

LARGEST = 2.0**53  # whole numbers beyond it are not all different as float64
EPOCH = datetime.datetime(1970, 1, 1)
_NUMBER = re.compile(r'\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*')


def require_format(record: Any, format: str) -> None:
  """Refuses what is no schema of a format.

  Raises:
    InputError: naming the format.
  """
  if not isinstance(record, Mapping) or record.get('format') != format:
    raise InputError(f'expected a schema with "format": "{format}"; dpgan_jax.schema drafts one')


def parse(kind: str, text: float | str) -> float:
  """The number that stands for a value: of dates days since 1970, of datetimes seconds.

  Args:
    kind: 'integer', 'real', 'date' or 'datetime'.
    text: as it is written; a number may also be one.

  Raises:
    InputError: text that is none of the kind, quoting it.
  """
  if kind in ('date', 'datetime'):
    return _since(kind, text)
  if isinstance(text, str) and _NUMBER.fullmatch(text) is None:
    if text.strip().lstrip('+-').lower() in ('inf', 'infinity', 'nan'):
      raise InputError(f'expected a finite number, got {text!r}')
    hint = '; a decimal comma has to be a point' if re.search('[0-9],[0-9]', text) else ''
    raise InputError(f'expected a number, got {text!r}{hint}')
  if isinstance(text, bool) or not isinstance(text, int | float | str):
    raise InputError(f'expected a number, got {text!r}')
  value = float(text)
  if not math.isfinite(value):
    raise InputError(f'expected a finite number, got {text!r}')
  if kind == 'integer':
    # float('9007199254740993') would be another whole number, and pass.
    whole = isinstance(text, int) or str(text).strip().lstrip('+-').isdigit()
    exact = int(text) if whole else value
    if value != round(value) or abs(exact) > LARGEST:
      raise InputError(f'expected a whole number within 2^53 of zero, got {text!r}')
  return value + 0.0


def _since(kind: str, text: float | str) -> float:
  day = kind == 'date'
  try:
    when = datetime.datetime.fromisoformat(str(text).strip())
    if when.tzinfo is not None:
      when = when.replace(tzinfo=None) - (when.utcoffset() or datetime.timedelta())
  except (ValueError, OverflowError):
    when = None
  if when is None or (day and when.time() != datetime.time()):
    wanted = 'YYYY-MM-DD' if day else 'YYYY-MM-DDTHH:MM:SS'
    raise InputError(f'expected {wanted}, got {text!r}')
  since = when - EPOCH
  return float(since.days if day else since.total_seconds())


def write(kind: str, value: float, digits: int | None) -> str:
  """A value as it is written: the inverse of `parse`.

  Args:
    kind: as of `parse`.
    value: within the bounds of a column.
    digits: of a real number, after the decimal point; None: as many as it has.
  """
  if kind == 'date':
    return (EPOCH + datetime.timedelta(days=round(value))).date().isoformat()
  if kind == 'datetime':
    return (EPOCH + datetime.timedelta(seconds=value)).isoformat()
  if kind == 'integer':
    return str(round(value))
  return repr(float(value)) if digits is None else f'{value:z.{digits}f}'


def digits(*numbers: float) -> int:
  """How many digits after the decimal point write all of them."""
  exponents = [decimal.Decimal(repr(float(n))).normalize().as_tuple().exponent for n in numbers]
  return max(0, *(-e for e in exponents if isinstance(e, int)))


def look_alike(text: str, categories: Iterable[str]) -> str:
  """How a text differs from a category that looks the same, to be added to a message."""
  folded = unicodedata.normalize('NFC', text.strip())
  for category in categories:
    if unicodedata.normalize('NFC', category.strip()) == folded:
      return f', which is written {text!a} and the category {category!a}'
  return ''
