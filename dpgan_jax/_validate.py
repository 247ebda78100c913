"""Argument checks whose message gives the name, the value and what would be right.

Every check returns the value it accepted, so that it can stand in an assignment:

>>> positive('l2_clip_norm', 1.5)
1.5
>>> positive('l2_clip_norm', -1.0)
Traceback (most recent call last):
    ...
dpgan_jax._validate.InputError: expected l2_clip_norm > 0, got -1.0
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any

_LONGEST_MESSAGE = 2000


class InputError(ValueError):
  """Something the caller gave cannot be used; the message is one line, whatever it quotes.

  Commands print the message alone (no traceback) and exit with status 2. Any other exception is a
  bug in this package and keeps its traceback.
  """

  def __init__(self, message: str) -> None:
    super().__init__(one_line(message))


def one_line(text: str) -> str:
  r"""Returns `text` as one line of bounded length that gives a terminal no commands.

  Messages quote names out of files, which may hold anything:

  >>> print(one_line('no\nsuch\x1b[2Jfile'))
  no\nsuch\x1b[2Jfile
  """
  if len(text) > _LONGEST_MESSAGE:
    half = _LONGEST_MESSAGE // 2 - 3
    text = f'{text[:half]} ... {text[-half:]}'
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _finite(name: str, value: Any, wanted: str) -> float:
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise InputError(f'expected {name} to be a number {wanted}, got {value!r}')
  if math.isnan(value):
    raise InputError(f'expected {name} {wanted}, got nan')
  return float(value)


def positive(name: str, value: Any, *, allow_inf: bool = False) -> float:
  """Returns `value` as a float if it is > 0 (and finite unless `allow_inf`)."""
  number = _finite(name, value, '> 0')
  if number <= 0 or (math.isinf(number) and not allow_inf):
    wanted = '> 0' if allow_inf else '> 0 and finite'
    raise InputError(f'expected {name} {"> 0" if number <= 0 else wanted}, got {value!r}')
  return number


def non_negative(name: str, value: Any) -> float:
  """Returns `value` as a float if it is ≥ 0 and finite."""
  number = _finite(name, value, '>= 0')
  if number < 0 or math.isinf(number):
    raise InputError(f'expected {name} >= 0 and finite, got {value!r}')
  return number


def fraction(name: str, value: Any, *, open_right: bool = True, open_left: bool = True) -> float:
  """Returns `value` as a float if it lies between 0 and 1, the ends open or closed as named."""
  left, right = '(' if open_left else '[', ')' if open_right else ']'
  number = _finite(name, value, f'in {left}0, 1{right}')
  below = number <= 0 if open_left else number < 0
  above = number >= 1 if open_right else number > 1
  if below or above:
    raise InputError(f'expected {name} in {left}0, 1{right}, got {value!r}')
  return number


def integer(name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
  """Returns `value` as an int if it is a whole number within [minimum, maximum]."""
  wanted = f'>= {minimum}' if maximum is None else f'in [{minimum}, {maximum}]'
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise InputError(f'expected {name} to be a whole number {wanted}, got {value!r}')
  number = int(value)
  if number < minimum or (maximum is not None and number > maximum):
    raise InputError(f'expected {name} {wanted}, got {value!r}')
  return number


def one_of(name: str, value: Any, choices: Collection[Any]) -> Any:
  """Returns `value` if it is one of `choices`."""
  if value not in choices:
    listed = ', '.join(repr(c) if not isinstance(c, str) else c for c in choices)
    raise InputError(f'expected {name} to be one of {listed}; got {value!r}')
  return value
