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

import dataclasses
import difflib
import math
import numbers
from collections.abc import Collection
from typing import Any

_LONGEST_MESSAGE = 2000
_LONGEST_NAME = 100  # that is compared with others, which takes its square


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


@dataclasses.dataclass(frozen=True)
class Range:
  """The numbers from `minimum` to `maximum`; an end that is open is not one of them.

  >>> print(Range(0, 1, open_right=True), Range(1), Range(0, open_left=True), sep='; ')
  in [0, 1); >= 1; > 0
  """

  minimum: float
  maximum: float = math.inf
  open_left: bool = False
  open_right: bool = False

  def __contains__(self, number: Any) -> bool:
    above = number > self.minimum if self.open_left else number >= self.minimum
    return above and (number < self.maximum if self.open_right else number <= self.maximum)

  def __str__(self) -> str:
    if self.maximum == math.inf:
      return f'{">" if self.open_left else ">="} {self.minimum}'
    left, right = '(' if self.open_left else '[', ')' if self.open_right else ']'
    return f'in {left}{self.minimum}, {self.maximum}{right}'


def number(name: str, value: Any, wanted: Range) -> float:
  """Returns `value` as a float if it is a number within the range `wanted`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise InputError(f'expected {name} to be a number {wanted}, got {value!r}')
  if math.isnan(value):
    raise InputError(f'expected {name} {wanted}, got nan')
  if value not in wanted:
    finite = ' and finite' if value == wanted.maximum == math.inf else ''
    raise InputError(f'expected {name} {wanted}{finite}, got {value!r}')
  return float(value)


def positive(name: str, value: Any, *, allow_inf: bool = False) -> float:
  """Returns `value` as a float if it is > 0 (and finite unless `allow_inf`)."""
  return number(name, value, Range(0, open_left=True, open_right=not allow_inf))


def non_negative(name: str, value: Any) -> float:
  """Returns `value` as a float if it is ≥ 0 and finite."""
  return number(name, value, Range(0, open_right=True))


def fraction(name: str, value: Any, *, open_right: bool = True, open_left: bool = True) -> float:
  """Returns `value` as a float if it lies between 0 and 1, the ends open or closed as named."""
  return number(name, value, Range(0, 1, open_left, open_right))


def integer(name: str, value: Any, *, minimum: float, maximum: float = math.inf) -> int:
  """Returns `value` as an int if it is a whole number within [minimum, maximum]."""
  wanted = Range(minimum, maximum)
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise InputError(f'expected {name} to be a whole number {wanted}, got {value!r}')
  if int(value) not in wanted:
    raise InputError(f'expected {name} {wanted}, got {value!r}')
  return int(value)


def one_of(name: str, value: Any, choices: Collection[Any]) -> Any:
  """Returns `value` if it is one of `choices`."""
  if value not in choices:
    listed = ', '.join(repr(c) if not isinstance(c, str) else c for c in choices)
    hint = nearest(value, choices)
    raise InputError(f'expected {name} to be one of {listed}; got {value!r}{hint}')
  return value


def nearest(value: Any, choices: Collection[Any]) -> str:
  """` (did you mean mnist?)`, the choice that looks most like `value`; empty where none does.

  >>> nearest('mnits', ['mnist', 'digits']), nearest('x', ['mnist'])
  (' (did you mean mnist?)', '')
  """
  known = [choice for choice in choices if isinstance(choice, str)]
  close = difflib.get_close_matches(str(value)[:_LONGEST_NAME], known, n=1, cutoff=0.5)
  return f' (did you mean {close[0]}?)' if close else ''
