"""The public description of a table: what each column may hold, declared by whoever owns it.

A table is a matrix, float64 [N, C], of one row a record and one column for each that is modelled:
the index of a category, a number, or a count of days or seconds since 1970. What is missing is NaN.
A schema says how that reads as text, and back; it is public, so nothing in it may have been read
from private data without the owner's word (`drafted`).

>>> schema = Schema(columns=(
...   Column(name='sex', kind='categorical', categories=('female', 'male')),
...   Column(name='age', kind='integer', lower=0, upper=120),
... ))
>>> schema.columns[1].parse('41'), schema.columns[1].format(41.0), schema.columns[0].parse('male')
(41.0, '41', 1.0)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from dpgan_jax import _validate
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables import values
from dpgan_jax.data.tables.constraints import forms
from dpgan_jax.data.tables.constraints.system import System

CATEGORIES = ('categorical', 'ordinal', 'boolean')
NUMBERS = ('integer', 'real', 'date', 'datetime')
KINDS = (*CATEGORIES, *NUMBERS, 'id')
DRAFTED = ('categories', 'lower', 'upper', 'resolution', 'nullable', 'missing')
MOST_COLUMNS, MOST_CATEGORIES, LONGEST = 2000, 10_000, 1000
MOST_ROWS_PER_UNIT = 2**20
_PERSONS = ('unit_column', 'max_rows_per_unit')
_ENTRIES = {'format', 'target', 'declared_public', 'columns', 'constraints', *_PERSONS}
_NO_TEXT = re.compile('[\x00\ud800-\udfff]')  # what no file of UTF-8 text holds


def is_text(value: Any) -> bool:
  return isinstance(value, str) and len(value) <= LONGEST and _NO_TEXT.search(value) is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
  """What a column holds.

  Attributes:
    name: of the column.
    kind: 'categorical', 'ordinal' (categories in their order), 'boolean' (two of them, the false
      one first), 'integer', 'real', 'date', 'datetime'; or 'id', a free identifier, which is never
      read and is made afresh in samples.
    categories: as they are written; of the first three kinds.
    lower, upper: bounds of numbers; of dates as 'YYYY-MM-DD', with 'THH:MM:SS' for datetimes.
    resolution: the step between numbers: 1 of integers by default, days of dates, seconds of
      datetimes; None: real numbers of any value.
    nullable: whether a value may be missing.
    missing: how a missing value is written.
    outside: what becomes of a value out of the domain: 'refuse', 'clip' (numbers: the nearest
      bound) or 'other' (the category of that name).
    drafted: names of the fields above that were read from the data, and are not confirmed yet;
      the kind is not among them.
    found: names of those that a run finds itself, with privacy (`schema_epsilon`).

  Raises:
    InputError: fields that do not fit each other, naming the column.
  """

  name: str
  kind: str
  categories: tuple[str, ...] = ()
  lower: float | str | None = None
  upper: float | str | None = None
  resolution: float | None = None
  nullable: bool = False
  missing: str = ''
  outside: str = 'refuse'
  drafted: tuple[str, ...] = ()
  found: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if not is_text(self.name) or not self.name.strip():
      raise InputError(
        f'expected names of columns to have 1 to {LONGEST} characters, got {self.name!r}'
      )
    try:
      self._check()
    except InputError as error:
      raise InputError(f'column {self.name!r}: {error}') from None

  def _check(self) -> None:
    _validate.one_of('kind', self.kind, KINDS)
    _validate.one_of('outside', self.outside, ('refuse', 'clip', 'other'))
    if not isinstance(self.nullable, bool):
      raise InputError(f'expected nullable to be true or false, got {self.nullable!r}')
    if not is_text(self.missing):
      raise InputError(f'expected missing to be text, got {self.missing!r}')
    for field in ('categories', 'drafted', 'found'):
      if not isinstance(getattr(self, field), tuple):
        raise InputError(f'expected {field} to be a list, got {getattr(self, field)!r}')
    for field in (*self.drafted, *self.found):
      _validate.one_of('drafted', field, DRAFTED)
    if self.is_category:
      self._check_categories()
    elif self.categories:
      raise InputError(f'expected categories only of {", ".join(CATEGORIES)}, not of {self.kind}')
    if self.is_number:
      self._check_bounds()
    elif (self.lower, self.upper, self.resolution) != (None, None, None):
      raise InputError(f'expected bounds only of {", ".join(NUMBERS)}, not of {self.kind}')

  def _check_categories(self) -> None:
    if self.kind == 'boolean' and len(self.categories) != 2:
      raise InputError(f'expected two categories of a boolean, got {len(self.categories)}')
    if not 1 <= len(self.categories) <= MOST_CATEGORIES:
      raise InputError(
        f'expected 1 to {MOST_CATEGORIES} categories, got {len(self.categories)}: an identifier is '
        'of the kind id'
      )
    for category in self.categories:
      if not is_text(category):
        raise InputError(
          f'expected categories to be text of at most {LONGEST} characters, got {category!r}'
        )
    if len(set(self.categories)) < len(self.categories):
      twice = next(c for c in self.categories if self.categories.count(c) > 1)
      raise InputError(f'expected categories that differ, got {twice!r} twice')
    if self.nullable and self.missing in self.categories:
      raise InputError(f'expected {self.missing!r} to be missing or a category, not both')
    if self.outside == 'clip' or (self.outside == 'other' and 'other' not in self.categories):
      raise InputError(
        'expected outside=refuse, or outside=other beside a category of that name, got '
        f'outside={self.outside}'
      )

  def _check_bounds(self) -> None:
    if self.lower is None or self.upper is None:
      raise InputError('expected the bounds lower and upper')
    if self.outside == 'other':
      raise InputError('expected outside=refuse or outside=clip of numbers, got outside=other')
    low, high = self.bounds
    if not low <= high:
      raise InputError(f'expected lower <= upper, got {self.lower!r} and {self.upper!r}')
    if max(abs(low), abs(high)) > values.LARGEST:
      raise InputError(f'expected bounds within 2^53 of zero, got {self.lower!r}, {self.upper!r}')
    if self.kind != 'real' and self.resolution is not None:
      _validate.integer('resolution', self.resolution, minimum=1)
    if self.resolution is not None:
      _validate.positive('resolution', self.resolution)
    if self.step is not None and high - low > values.LARGEST * min(self.step, 1):
      raise InputError(
        f'expected bounds at most 2^53 and 2^53 steps apart, got {self.lower!r} and {self.upper!r}'
      )
    if self.nullable and self._holds(self.missing):
      raise InputError(
        f'expected missing to be written as no value within the bounds, got {self.missing!r}'
      )

  def _holds(self, text: str) -> bool:
    low, high = self.bounds
    try:
      return low <= self.number(text) <= high
    except InputError:
      return False

  @property
  def is_category(self) -> bool:
    """Whether its values are indices of categories."""
    return self.kind in CATEGORIES

  @property
  def is_number(self) -> bool:
    """Whether its values are numbers, dates among them."""
    return self.kind in NUMBERS

  @property
  def is_ordered(self) -> bool:
    """Whether larger values mean more of something."""
    return self.is_number or self.kind in ('ordinal', 'boolean')

  @functools.cached_property
  def bounds(self) -> tuple[float, float]:
    """(lower, upper) as numbers."""
    assert self.lower is not None, 'it is checked'
    assert self.upper is not None
    return self.number(self.lower), self.number(self.upper)

  @property
  def step(self) -> float | None:
    """The resolution as a number; None: any value."""
    return self.resolution if self.kind == 'real' else self.resolution or 1

  # --- text --------------------------------------------------------------------------------------

  def parse(self, text: str) -> float:
    """The number that stands for a value as it is written; NaN for a missing one.

    Raises:
      InputError: a value outside the domain, quoting it.
    """
    if text == self.missing and self.nullable:
      return math.nan
    if self.is_category:
      other = self._indices['other'] if self.outside == 'other' else None
      index = self._indices.get(text, other)
      if index is None:
        got = f'{text!r}{values.look_alike(text, self.categories)}'
        raise InputError(f'expected one of its {len(self.categories)} categories, got {got}')
      return float(index)
    value = self.number(text)
    low, high = self.bounds
    if not low <= value <= high:
      if self.outside != 'clip':
        raise InputError(f'expected a value in [{self.lower}, {self.upper}], got {text!r}')
      value = min(max(value, low), high)
    return self.rounded(value)

  def rounded(self, value: float) -> float:
    """The nearest number of the column's resolution, within its bounds."""
    low, high = self.bounds
    if self.step is None:
      return value
    return min(low + round((value - low) / self.step) * self.step, high) + 0.0

  def format(self, value: float) -> str:
    """A value as it is written: the inverse of `parse`."""
    if math.isnan(value):
      return self.missing
    if self.is_category:
      return self.categories[int(value)]
    return values.write(self.kind, value, self.digits)

  def number(self, text: float | str) -> float:
    """What a number or a date counts as, within the bounds or not.

    Raises:
      InputError: text that is none, quoting it.
    """
    return values.parse(self.kind, text)

  @functools.cached_property
  def digits(self) -> int | None:
    """How many decimals values have; None: as many as it takes."""
    # Those of the lower bound too: values are whole steps from it.
    return None if self.step is None else values.digits(self.step, *self.bounds)

  @functools.cached_property
  def _indices(self) -> dict[str, int]:
    return {category: index for index, category in enumerate(self.categories)}

  # --- records -----------------------------------------------------------------------------------

  def to_record(self) -> dict[str, Any]:
    """JSON-ready, without what is as by default."""
    fields = {f.name: f.default for f in dataclasses.fields(self)}
    record = {name: getattr(self, name) for name in fields}
    record = {name: value for name, value in record.items() if value != fields[name]}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in record.items()}

  @classmethod
  def from_record(cls, record: Any) -> Self:
    """The inverse of `to_record`.

    Raises:
      InputError: it is none.
    """
    names = {f.name for f in dataclasses.fields(cls)}
    if not isinstance(record, Mapping) or not {'name', 'kind'} <= record.keys() <= names:
      raise InputError(
        f'expected a column to be described by name, kind and, where they apply, '
        f'{", ".join(sorted(names - {"name", "kind"}))}; got {record!r}'
      )
    lists = {n: tuple(v) for n, v in record.items() if isinstance(v, list)}
    return cls(**{**record, **lists})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
  """The columns of a table, in its order.

  Attributes:
    columns: all of them.
    target: the name of a column of categories whose values are the classes of records; None: none.
    declared_public: whether the owner has confirmed every entry at once.
    unit_column: the identifier that says whose each row is; a record is then a person with all
      their rows. None: a record is a row.
    max_rows_per_unit: k ≥ 1, of a person the rows that count; further ones are dropped (`persons`).
    constraints: what every sample satisfies.

  Raises:
    InputError: names that occur twice, a target or persons that there are not, or constraints that
      contradict each other.
  """

  columns: tuple[Column, ...]
  target: str | None = None
  declared_public: bool = False
  unit_column: str | None = None
  max_rows_per_unit: int | None = None
  constraints: tuple[forms.Constraint, ...] = ()

  kind: ClassVar = 'table'
  format: ClassVar = 'dpgan_jax table 1'

  def __post_init__(self) -> None:
    names = [column.name for column in self.columns]
    if len(names) > MOST_COLUMNS or not (names or self.modelled):
      raise InputError(f'expected 1 to {MOST_COLUMNS} columns, got {len(names)}')
    if len(set(names)) < len(names):
      twice = next(name for name in names if names.count(name) > 1)
      raise InputError(f'expected names of columns that differ, got {twice!r} twice')
    if self.target is not None:
      found = [c for c in self.columns if c.name == self.target]
      if not found or not found[0].is_category or found[0].nullable:
        raise InputError(
          f'expected target to be a column of categories that are never missing, got '
          f'{self.target!r}'
        )
      if len(found[0].categories) < 2:
        raise InputError(
          f'expected target to have at least 2 categories, got {len(found[0].categories)} for '
          f'{self.target!r}: leave target out'
        )
    if not self.modelled:
      raise InputError('expected at least one column beside identifiers and the target')
    self._check_persons()
    _ = self.system  # its making checks them

  def _check_persons(self) -> None:
    name, most = self.unit_column, self.max_rows_per_unit
    if (name is None) != (most is None):
      both = f'{name!r} and {most!r}'
      raise InputError(f'expected unit_column and max_rows_per_unit together, got {both}')
    if name is not None:
      _validate.integer('max_rows_per_unit', most, minimum=1, maximum=MOST_ROWS_PER_UNIT)
      if not any(c.name == name and c.kind == 'id' for c in self.columns):
        raise InputError(f'expected unit_column to be a column of the kind id, got {name!r}')

  @functools.cached_property
  def system(self) -> System:
    """The constraints, ready to be looked up."""
    return System.of(self.constraints, [c for c in self.columns if c.kind != 'id'], self.target)

  @functools.cached_property
  def modelled(self) -> tuple[Column, ...]:
    """The columns of the matrix: all but identifiers, the target and what is derived."""
    apart = {self.target, *(c.column for c in self.constraints if isinstance(c, forms.Derived))}
    return tuple(c for c in self.columns if c.kind != 'id' and c.name not in apart)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of the target; empty without one."""
    return next((c.categories for c in self.columns if c.name == self.target), ())

  @property
  def rows_per_unit(self) -> int:
    """k, the most rows of one record."""
    return self.max_rows_per_unit or 1

  @property
  def unit(self) -> str:
    """What a record is called."""
    return 'row' if self.unit_column is None else 'person'

  def unconfirmed(self) -> dict[str, tuple[str, ...]]:
    """What was read from the data and nobody has confirmed: fields of columns by name."""
    return {c.name: c.drafted for c in self.columns if c.drafted and not self.declared_public}

  def to_record(self) -> dict[str, Any]:
    """JSON-ready."""
    persons = {name: getattr(self, name) for name in _PERSONS} if self.unit_column else {}
    return {
      'format': self.format, 'target': self.target, 'declared_public': self.declared_public,
      **persons,
      'columns': [column.to_record() for column in self.columns],
      **forms.to_records(self.constraints),
    }  # fmt: skip

  @classmethod
  def from_record(cls, record: Any) -> Schema:
    """The inverse of `to_record`.

    Raises:
      InputError: it is none, naming the column.
    """
    values.require_format(record, cls.format)
    unknown = sorted(record.keys() - _ENTRIES)
    if unknown or not isinstance(record.get('columns'), list):
      raise InputError(f'expected a schema of columns and target, got {unknown or "no columns"}')
    return cls(
      columns=tuple(Column.from_record(each) for each in record['columns']),
      target=record.get('target'),
      declared_public=_validate.one_of(
        'declared_public', record.get('declared_public', False), (True, False)
      ),
      **{name: record.get(name) for name in _PERSONS},
      constraints=forms.from_records(record.get('constraints', [])),
    )
