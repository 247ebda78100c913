"""Constraints as they are written in a schema: small declared forms, and never code.

  {"kind": "inequality", "low": "start", "high": "end", "strict": true}      a column or a constant
  {"kind": "range", "low": 0, "middle": "paid", "high": "price"}             both ends, as above
  {"kind": "fixed_combinations", "columns": ["city", "country"],
   "combinations": [["Paris", "France"], ["Rome", "Italy"]]}                 null: missing
  {"kind": "one_hot", "columns": ["is_red", "is_green"]}                     booleans, one is true
  {"kind": "derived", "column": "days", "terms": {"end": 1, "start": -1}, "plus": 0}

A derived column is the sum of its terms, each a column times a number, and of `plus`, rounded to
its own resolution. It is not modelled: samples have it computed. A row in which a value is missing
satisfies inequalities that it is in, and what is derived of it is missing.

Names and meanings follow SDV's constraints where both have them. Combinations are public, as all of
a schema: they have to come from a register, not from the data.

>>> from_record({'kind': 'inequality', 'low': 'start', 'high': 'end'}).describe()
'start <= end'
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dpgan_jax import _validate
from dpgan_jax._validate import InputError

MOST, MOST_COMBINATIONS = 200, 10_000
Value = float | str
"""A column by name; or a constant: a number, or a date as its column writes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inequality:
  """low ≤ high, or low < high if it is strict."""

  low: Value
  high: Value
  strict: bool = False

  kind: ClassVar = 'inequality'

  def __post_init__(self) -> None:
    for name in ('low', 'high'):
      _value(name, getattr(self, name))
    if not isinstance(self.strict, bool):
      raise InputError(f'expected strict to be true or false, got {self.strict!r}')

  @property
  def chain(self) -> tuple[Value, ...]:
    """From the lowest to the highest."""
    return self.low, self.high

  @property
  def pairs(self) -> tuple[tuple[Value, Value], ...]:
    """Each with the next one."""
    return tuple(itertools.pairwise(self.chain))

  def describe(self) -> str:
    """In a few words, such as 'start < end'."""
    return f' {"<" if self.strict else "<="} '.join(map(str, self.chain))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range(Inequality):
  """low ≤ middle ≤ high, or with < if it is strict."""

  middle: Value

  kind: ClassVar = 'range'

  def __post_init__(self) -> None:
    _value('middle', self.middle)
    super().__post_init__()

  @property
  def chain(self) -> tuple[Value, ...]:
    return self.low, self.middle, self.high


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedCombinations:
  """Values that columns of categories have together; None: missing."""

  columns: tuple[str, ...]
  combinations: tuple[tuple[str | None, ...], ...]

  kind: ClassVar = 'fixed_combinations'

  def __post_init__(self) -> None:
    _names(self.columns)
    if not isinstance(self.combinations, tuple) or not (
      1 <= len(self.combinations) <= MOST_COMBINATIONS
    ):
      raise InputError(f'expected combinations to be a list of 1 to {MOST_COMBINATIONS}')
    for one in self.combinations:
      right = isinstance(one, tuple) and all(v is None or isinstance(v, str) for v in one)
      if not right or len(one) != len(self.columns):
        raise InputError(
          f'expected every combination to hold {len(self.columns)} texts, one for each column, or '
          f'null for a missing one; got {one!r}'
        )

  def describe(self) -> str:
    """In a few words."""
    return f'fixed combinations of {", ".join(self.columns)}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneHot:
  """Booleans of which one is true."""

  columns: tuple[str, ...]

  kind: ClassVar = 'one_hot'

  def __post_init__(self) -> None:
    _names(self.columns)

  def describe(self) -> str:
    """In a few words."""
    return f'one of {", ".join(self.columns)}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derived:
  """column = the sum of terms, each a column times a number, and of `plus`."""

  column: str
  terms: tuple[tuple[str, float], ...]
  plus: float = 0

  kind: ClassVar = 'derived'

  def __post_init__(self) -> None:
    if not isinstance(self.column, str):
      raise InputError(f'expected column to be a name, got {self.column!r}')
    if not isinstance(self.terms, tuple) or not self.terms:
      raise InputError('expected terms as {"a": 1, "b": -1}, a number for each column')
    for name, times in self.terms:
      if not isinstance(name, str) or not _is_number(times) or not times:
        raise InputError(f'expected terms to be numbers other than 0, got {times!r} of {name!r}')
    if not _is_number(self.plus):
      raise InputError(f'expected plus to be a number, got {self.plus!r}')

  def describe(self) -> str:
    """In a few words, such as 'days = end - start + 1'."""
    parts = [(times, name) for name, times in self.terms] + ([(self.plus, '')] * (self.plus != 0))
    said = ''
    for times, name in parts:
      factor = f'{abs(times):g}' if abs(times) != 1 or not name else ''
      size = '·'.join(part for part in (factor, name) if part)
      said += f' {"-" if times < 0 else "+"} {size}' if said else f'{"-" * (times < 0)}{size}'
    return f'{self.column} = {said}'


Constraint = Inequality | Range | FixedCombinations | OneHot | Derived
_FORMS = {form.kind: form for form in (Inequality, Range, FixedCombinations, OneHot, Derived)}


def from_record(record: Any) -> Constraint:
  """What a schema's JSON says.

  Raises:
    InputError: it is no constraint.
  """
  if not isinstance(record, Mapping):
    raise InputError(f'expected a constraint as {{"kind": ...}}, got {record!r}')
  form = _FORMS[_validate.one_of('kind of a constraint', record.get('kind'), tuple(_FORMS))]
  fields = {f.name: f for f in dataclasses.fields(form)}
  given = {name: value for name, value in record.items() if name != 'kind'}
  needed = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
  if not needed <= given.keys() <= fields.keys():
    raise InputError(
      f'expected {form.kind} to be given by {", ".join(fields)}; got '
      f'{", ".join(map(str, given)) or "nothing"}'
    )
  try:
    return form(**{name: _frozen(value) for name, value in given.items()})
  except InputError as error:
    raise InputError(f'{form.kind}: {error}') from None


def from_records(records: Any) -> tuple[Constraint, ...]:
  """All that a schema's JSON says.

  Raises:
    InputError: they are none, or too many.
  """
  if not isinstance(records, list) or len(records) > MOST:
    raise InputError(f'expected constraints to be a list of at most {MOST}')
  return tuple(map(from_record, records))


def to_records(constraints: tuple[Constraint, ...]) -> dict[str, Any]:
  """What a schema's JSON says of them; nothing if there are none."""
  return {'constraints': [to_record(each) for each in constraints]} if constraints else {}


def to_record(constraint: Constraint) -> dict[str, Any]:
  """JSON-ready; the inverse of `from_record`."""
  record = {f.name: getattr(constraint, f.name) for f in dataclasses.fields(constraint)}
  if isinstance(constraint, Derived):
    record['terms'] = dict(constraint.terms)
  return {'kind': constraint.kind, **{name: _thawed(value) for name, value in record.items()}}


def require_one_way(constraints: Sequence[Constraint]) -> None:
  """Refuses inequalities that lead back to where they start.

  Raises:
    InputError: naming what is on the circle.
  """
  edges = {pair for c in constraints if isinstance(c, Inequality) for pair in c.pairs}
  while ends := {high for _, high in edges}:
    found = {(low, high) for low, high in edges if low in ends}
    if found == edges:
      names = sorted({str(name) for edge in edges for name in edge})
      raise InputError(
        f'expected inequalities that go one way, got a circle among {", ".join(names)}'
      )
    edges = found


def _frozen(value: Any) -> Any:
  if isinstance(value, list):
    return tuple(map(_frozen, value))
  return tuple(value.items()) if isinstance(value, Mapping) else value


def _thawed(value: Any) -> Any:
  return [_thawed(each) for each in value] if isinstance(value, tuple) else value


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53


def _value(name: str, value: Any) -> None:
  if not isinstance(value, str) and not _is_number(value):
    raise InputError(f'expected {name} to be a column, a number or a date, got {value!r}')


def _names(columns: Any) -> None:
  right = isinstance(columns, tuple) and all(isinstance(name, str) for name in columns)
  if not right or len(set(columns)) < len(columns) or len(columns) < 2:
    raise InputError(f'expected columns to be 2 or more different names, got {columns!r}')
