"""Fields that say what they may hold: help, range, choices and group stand where a field does.

A configuration, or the options of a command, is a frozen dataclass of such fields. One loop checks
them, and `_cli` makes the flags and the help pages of them:

>>> @dataclasses.dataclass(frozen=True, kw_only=True)
... class Options:
...   num: int = field(10, 'How many.', minimum=1)
...   share: float | None = field(None, 'Of all; default: not given.', above=0, maximum=1)
...   kind: str = field('npz', 'Of file.', choices=('npz', 'png'))
...   __post_init__ = check
>>> Options(num=3, share=1).share
1.0
>>> Options(kind='jpg')
Traceback (most recent call last):
    ...
dpgan_jax._validate.InputError: expected kind to be one of npz, png; got 'jpg' (did you mean png?)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Iterable
from typing import Any

from dpgan_jax import _validate
from dpgan_jax._plugins import Live, Registry

MOST_SEED = 2**32 - 1  # of every flag that is a seed


@dataclasses.dataclass(frozen=True)
class Setting:
  """A field of a configuration.

  Attributes:
    name, default: of the field.
    kind: int, float, bool, str, or tuple, which is of str.
    optional: whether it may be None.
    help: what it means.
    group: the heading that it stands under in a help page.
    common: whether it is one of the few that a short help page shows.
    choices: all that it may be; empty: anything.
    range: numbers that it may be.
    alias: another name of its flag.
  """

  name: str
  default: Any
  kind: type
  optional: bool
  help: str
  group: str
  common: bool
  choices: Collection[str]
  range: _validate.Range
  alias: str | None

  def check(self, value: Any) -> Any:
    """Returns `value` as Python's own type, which JSON can hold.

    Raises:
      InputError: another type, out of range, or none of the choices.
    """
    if value is None and self.optional:
      return None
    if self.kind is float:
      return _validate.number(self.name, value, self.range)
    if self.kind is int:
      wanted = self.range
      return _validate.integer(self.name, value, minimum=wanted.minimum, maximum=wanted.maximum)
    if self.kind is tuple and value is not None:
      return tuple(_validate.one_of(self.name, each, self.choices) for each in value)
    if self.choices:
      return _validate.one_of(self.name, value, self.choices)
    if not isinstance(value, self.kind):
      wanted = 'text' if self.kind is str else 'true or false'
      raise _validate.InputError(f'expected {self.name} to be {wanted}, got {value!r}')
    return value

  def describe(self) -> str:
    """Its help, then what it may be and what it is unless told otherwise."""
    about = [', '.join(self.choices)] if self.choices else []
    if self.kind in (int, float):
      about.append(f'{"a whole number " if self.kind is int else ""}{self.range}')
    if self.default is not None:
      about.append(f'default: {str(self.default).lower() if self.kind is bool else self.default}')
    return f'{self.help} ({"; ".join(about)})' if about else self.help


def field(
  default: Any,
  text: str,
  *,
  group: str = 'other',
  common: bool = False,
  choices: Iterable[str] = (),
  minimum: float | None = None,
  above: float | None = None,
  maximum: float | None = None,
  below: float | None = None,
  alias: str | None = None,
) -> Any:
  """A field of a dataclass; its type is that of the annotation, and None if that says so.

  Args:
    default: what it is unless told otherwise.
    text: what it means, in sentences.
    group, common, choices: as in `Setting`.
    minimum, above: the smallest number, or one that all are larger than; default: any.
    maximum, below: the largest number, or one that all are smaller than; default: any that is
      finite.
    alias: another name of its flag.
  """
  low = minimum if above is None else above
  high = maximum if below is None else below
  about = {
    'help': text,
    'group': group,
    'common': common,
    # Names of a registry are looked at anew: a plugin adds some.
    'choices': choices if isinstance(choices, Registry | Live) else tuple(choices),
    'range': _validate.Range(
      -math.inf if low is None else low,
      math.inf if high is None else high,
      open_left=minimum is None,
      open_right=maximum is None,
    ),
    'alias': alias,
  }
  return dataclasses.field(default=default, metadata=about)


@functools.cache
def of(cls: type) -> tuple[Setting, ...]:
  """What the fields of a dataclass say, in their order; all are made by `field`."""
  hints, found = typing.get_type_hints(cls), []
  for each in dataclasses.fields(cls):
    hint = hints[each.name]
    kinds = set(typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))
    (kind,) = kinds - {types.NoneType}
    found.append(
      Setting(
        name=each.name,
        default=each.default,
        kind=typing.get_origin(kind) or kind,
        optional=types.NoneType in kinds,
        **each.metadata,
      )
    )
  return tuple(found)


def check(config: Any) -> None:
  """Puts what each field's check returns in its place, also where the dataclass is frozen.

  Raises:
    InputError: a value that a field may not hold.
  """
  for setting in of(type(config)):
    object.__setattr__(config, setting.name, setting.check(getattr(config, setting.name)))
