"""The constraints of a schema, checked against its columns and ready to be looked up.

Numbers are compared as they are written: 0.30000000000000004 of a column of tenths is 0.3. So what
holds here holds in the file too.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.constraints import feasible, forms
from dpgan_jax.data.tables.constraints.feasible import Bound, Grid
from dpgan_jax.data.tables.constraints.forms import (
  Constraint,
  Derived,
  FixedCombinations,
  Inequality,
  OneHot,
)

_ROUNDING, _OF_TERMS = 1e-9, 1e-13  # what sums may be off by: of a step, of how large terms can be

Domain = Any
"""A column: `schema.Column`, which stands on this file."""


def written(column: Domain, values: np.ndarray) -> np.ndarray:
  """Numbers as text has them."""
  return values if column.digits is None else np.round(values, column.digits)


def on_grid(column: Domain, values: np.ndarray) -> np.ndarray:
  """The nearest numbers of a column, within its bounds; as `schema.Column.rounded`."""
  low, high = column.bounds
  if column.step is not None:
    values = low + np.rint((values - low) / column.step) * column.step
  return np.clip(values, low, high) + 0.0


@dataclasses.dataclass(frozen=True)
class Sum:
  """Σ weights·column + plus.

  Attributes:
    weights: by number of the column.
    plus: a constant.
    column: what it is written as, if that is rounded.
  """

  weights: Mapping[int, float]
  plus: float = 0.0
  column: Domain | None = None

  def of(self, table: np.ndarray) -> np.ndarray:
    """[n], of a table as it is written; NaN where something is missing."""
    total = np.full(len(table), float(self.plus))
    for number, weight in self.weights.items():
      total += weight * table[:, number]
    return total if self.column is None else self.written(on_grid(self.column, total))

  def written(self, values: np.ndarray) -> np.ndarray:
    """Numbers as the text of its column has them."""
    return values if self.column is None else written(self.column, values)


@dataclasses.dataclass(frozen=True)
class Order:
  """low ≤ high, or low < high; rounding may be off by `slack`."""

  low: Sum
  high: Sum
  source: str
  strict: bool = False
  slack: float = 0.0

  def holds(self, table: np.ndarray) -> np.ndarray:
    """bool [n], of a table as it is written."""
    low, high = self.low.of(table), self.high.of(table) + self.slack
    right = low < high if self.strict else low <= high
    return right | np.isnan(low) | np.isnan(high)

  def bound(self, columns: Sequence[Domain], *, rounding: bool) -> Bound:
    """The same as a linear bound; with room for the rounding of what is derived, or without."""
    weights = dict(self.low.weights)
    for number, weight in self.high.weights.items():
      weights[number] = weights.get(number, 0.0) - weight
    weights = {number: weight for number, weight in weights.items() if weight}
    rounded = [s.column for s in (self.low, self.high) if s.column is not None]
    gap = sum(0.5 * (c.step or 0) for c in rounded) if rounding else 0.0
    if self.strict:
      steps = [columns[n].step for n in weights]
      spans = [columns[n].bounds[1] - columns[n].bounds[0] for n in weights]
      known = [s for s in steps if s is not None]
      gap += min(known) if len(known) == len(steps) and known else 1e-6 * max(spans, default=1.0)
    return Bound(weights, self.high.plus - self.low.plus - gap, self.source)


@dataclasses.dataclass(frozen=True)
class Group:
  """Inequalities that have columns in common, with values that satisfy them all."""

  orders: tuple[Order, ...]
  numbers: tuple[int, ...]
  witness: Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Listed:
  """Combinations of categories.

  Attributes:
    numbers: of the columns, [c].
    rows: int64 [m, c], the combinations; -1 is missing.
    source: in words.
  """

  numbers: tuple[int, ...]
  rows: np.ndarray
  source: str

  def codes(self, table: np.ndarray) -> np.ndarray:
    """int64 [n, c]."""
    found = table[:, self.numbers]
    return np.where(np.isnan(found), -1, found).astype(np.int64)

  def holds(self, table: np.ndarray) -> np.ndarray:
    """bool [n]."""
    return np.array([row.tobytes() in self._known for row in self.codes(table)], bool)

  @functools.cached_property
  def _known(self) -> frozenset[bytes]:
    return frozenset(row.tobytes() for row in self.rows)


@dataclasses.dataclass(frozen=True)
class System:
  """Constraints of a table [n, C + 1], whose last column is the target, or nothing.

  Attributes:
    columns: of the matrix, and the target if there is one.
    groups: inequalities, bounds of derived columns among them.
    lists: combinations.
    derived: what is computed, by name.
  """

  columns: tuple[Domain, ...]
  groups: tuple[Group, ...]
  lists: tuple[Listed, ...]
  derived: Mapping[str, Sum]

  @classmethod
  def of(
    cls, constraints: Sequence[Constraint], columns: Sequence[Domain], target: str | None
  ) -> System:
    """Of the columns of a schema that are no identifiers, in its order.

    Raises:
      InputError: what cannot be satisfied, or is of columns that there are not, naming it.
    """
    computed = {c.column: c for c in constraints if isinstance(c, Derived)}
    if len(computed) < sum(isinstance(c, Derived) for c in constraints):
      raise InputError('expected a column to be derived once, got one twice')
    by_name = {column.name: column for column in columns}
    kept = [c for c in columns if c.name not in computed and c.name != target]
    kept += [c for c in columns if c.name == target]
    place = {column.name: number for number, column in enumerate(kept)}
    derived = {n: _sum(c, by_name, place, target) for n, c in computed.items()}
    orders = [o for n, s in derived.items() for o in _within(computed[n], s, by_name[n], kept)]
    lists: list[Listed] = []
    for one in constraints:
      if isinstance(one, Inequality):
        orders += _orders(one, by_name, place, derived)
      elif isinstance(one, FixedCombinations | OneHot):
        lists.append(_listed(one, by_name, place, target))
    forms.require_one_way(constraints)
    _require_apart(lists, kept)
    return cls(tuple(kept), _groups(orders, kept), tuple(lists), derived)

  def joined(self, records: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The table [n, C + 1] of records [n, C] and their classes."""
    return np.column_stack([records, labels]).astype(np.float64)

  def as_written(self, table: np.ndarray) -> np.ndarray:
    """Its numbers as text has them."""
    table = table.copy()
    for number, column in enumerate(self.columns):
      if column.is_number:
        table[:, number] = written(column, table[:, number])
    return table

  def failing(self, table: np.ndarray) -> dict[str, np.ndarray]:
    """By constraint, in words: bool [n], where it does not hold."""
    table, found = self.as_written(table), {}
    for part in (*(o for g in self.groups for o in g.orders), *self.lists):
      wrong = ~part.holds(table)
      found[part.source] = found.get(part.source, np.zeros(len(table), bool)) | wrong
    return found

  def holds(self, table: np.ndarray) -> np.ndarray:
    """bool [n], where all of them do."""
    wrong = self.failing(table).values()
    return ~np.any(list(wrong), axis=0) if wrong else np.ones(len(table), bool)

  def derived_of(self, records: np.ndarray) -> dict[str, np.ndarray]:
    """The derived columns of records [n, C], float64 [n] by name."""
    table = self.as_written(self.joined(records, np.zeros(len(records))))
    return {name: each.of(table) for name, each in self.derived.items()}


def _family(column: Domain) -> str:
  return 'number' if column.kind in ('integer', 'real') else column.kind


def _known(source: str, name: str, columns: Mapping[str, Domain], what: str) -> Domain:
  column = columns.get(name)
  if column is None:
    raise InputError(f'{source}: expected columns of the table, no identifiers; got {name!r}')
  right = column.is_number if what == 'numbers' else column.is_category
  if not right:
    raise InputError(f'{source}: expected columns of {what}, got {name!r} of {column.kind}')
  return column


def _sum(
  one: Derived, columns: Mapping[str, Domain], place: Mapping[str, int], target: str | None
) -> Sum:
  source, own = one.describe(), _known(one.describe(), one.column, columns, 'numbers')
  if one.column == target:
    raise InputError(f'{source}: expected no target that is derived')
  parts = [_known(source, name, columns, 'numbers') for name, _ in one.terms]
  for part in parts:
    if part.name not in place:
      raise InputError(f'{source}: expected terms that are not derived themselves: {part.name!r}')
    if part.nullable and not own.nullable:
      raise InputError(
        f'{source}: {part.name!r} may be missing, and then it is too: expected "nullable": true'
      )
  families = {_family(c) for c in (own, *parts)} - {'number'}
  if len(families) > 1:
    raise InputError(f'{source}: expected days or seconds, not both')
  weights: dict[int, float] = {}
  for name, times in one.terms:
    weights[place[name]] = weights.get(place[name], 0.0) + times
  return Sum(weights, one.plus, own)


def _within(one: Derived, total: Sum, own: Domain, columns: Sequence[Domain]) -> list[Order]:
  low, high = own.bounds
  sizes = [abs(w) * max(map(abs, columns[n].bounds)) for n, w in total.weights.items()]
  slack = _ROUNDING * (own.step or 0) + _OF_TERMS * (abs(total.plus) + sum(sizes))
  exact, source = Sum(total.weights, total.plus), f'{one.describe()} in [{low:g}, {high:g}]'
  ends = Sum({}, low), Sum({}, high)
  return [Order(ends[0], exact, source, slack=slack), Order(exact, ends[1], source, slack=slack)]


def _orders(
  one: Inequality,
  columns: Mapping[str, Domain],
  place: Mapping[str, int],
  derived: Mapping[str, Sum],
) -> list[Order]:
  source = one.describe()
  named = [_known(source, str(v), columns, 'numbers') for v in one.chain if v in columns]
  if not named:
    raise InputError(f'{source}: expected a column, got constants alone')
  if len({_family(c) for c in named}) > 1:
    kinds = ', '.join(f'{c.name} is {c.kind}' for c in named)
    raise InputError(f'{source}: expected numbers, or dates, or datetimes: {kinds}')
  if len({c.name for c in named}) < len(named):
    raise InputError(f'{source}: expected columns that differ')
  sums = []
  for value in one.chain:
    if isinstance(value, str) and value in derived:
      sums.append(derived[value])
    elif isinstance(value, str) and value in place:
      sums.append(Sum({place[value]: 1.0}))
    elif isinstance(value, str) and _family(named[0]) == 'number':
      raise InputError(f'{source}: expected columns or numbers, got {value!r}')
    else:
      constant = float(value) if _family(named[0]) == 'number' else _date(source, named[0], value)
      sums.append(Sum({}, constant))
  pairs = itertools.pairwise(sums)
  return [Order(low, high, source, one.strict) for low, high in pairs]


def _date(source: str, column: Domain, value: Any) -> float:
  try:
    return column.number(value)
  except InputError as error:
    raise InputError(f'{source}: {error}, or a column') from None


def _listed(
  one: FixedCombinations | OneHot,
  columns: Mapping[str, Domain],
  place: Mapping[str, int],
  target: str | None,
) -> Listed:
  source = one.describe()
  found = [_known(source, name, columns, 'categories') for name in one.columns]
  numbers = tuple(place[c.name] for c in found)
  if isinstance(one, OneHot):
    for column in found:
      if column.kind != 'boolean' or column.nullable:
        raise InputError(f'{source}: expected booleans, never missing; got {column.name!r}')
    return Listed(numbers, np.eye(len(found), dtype=np.int64), source)
  rows = [
    [_code(source, c, v) for c, v in zip(found, values, strict=True)] for values in one.combinations
  ]
  if len(set(map(tuple, rows))) < len(rows):
    raise InputError(f'{source}: expected combinations that differ, got one twice')
  for column in found:
    seen = {row[found.index(column)] for row in rows}
    gone = [c for i, c in enumerate(column.categories) if i not in seen]
    if column.name == target and gone:
      raise InputError(f'{source}: expected every class in a combination, got none of {gone[0]!r}')
  return Listed(numbers, np.array(rows, np.int64), source)


def _code(source: str, column: Domain, value: str | None) -> int:
  if value is None and column.nullable:
    return -1
  if value is None or value not in column.categories:
    raise InputError(
      f'{source}: expected one of the {len(column.categories)} categories of {column.name!r}, got '
      f'{"a missing one" if value is None else repr(value)}'
    )
  return column.categories.index(value)


def _require_apart(lists: Sequence[Listed], columns: Sequence[Domain]) -> None:
  seen: dict[int, str] = {}
  for one in lists:
    for number in one.numbers:
      if number in seen:
        raise InputError(
          f'expected {columns[number].name!r} in one constraint of categories, got it in '
          f'{seen[number]} and in {one.source}: make them one'
        )
      seen[number] = one.source


def _groups(orders: Sequence[Order], columns: Sequence[Domain]) -> tuple[Group, ...]:
  """Orders by the columns they share; each group with its witness."""
  parts: list[tuple[set[int], list[Order]]] = []
  for order in orders:
    own, together = {*order.low.weights, *order.high.weights}, [order]
    apart = []
    for numbers, others in parts:
      if numbers & own:
        own |= numbers
        together = [*others, *together]
      else:
        apart.append((numbers, others))
    parts = [*apart, (own, together)]
  return tuple(
    Group(tuple(part), tuple(sorted(numbers)), witness_of(part, sorted(numbers), columns, {}))
    for numbers, part in parts
  )


def witness_of(
  orders: Sequence[Order],
  numbers: Sequence[int],
  columns: Sequence[Domain],
  fixed: Mapping[int, float],
) -> dict[int, float]:
  """Values of these columns that satisfy the orders, with some of them given.

  Raises:
    InputError: there are none, naming the constraints that contradict each other.
  """
  ends = {n: columns[n].bounds for n in numbers}
  grids = {n: Grid(low, high, columns[n].step) for n, (low, high) in ends.items()}
  given = {n: v for n, v in fixed.items() if n in grids}
  bounds, found = [], None
  for rounding in (True, False):
    bounds = [order.bound(columns, rounding=rounding) for order in orders]
    found = feasible.solve(bounds, grids, given)
    row = np.full((1, len(columns)), np.nan)
    for number, value in {**(found or {}), **given}.items():
      column = columns[number]
      row[0, number] = written(column, on_grid(column, np.array(value)))
    if found is not None and all(order.holds(row)[0] for order in orders):
      return {number: float(row[0, number]) for number in numbers}
  names = list(dict.fromkeys(order.source for order in orders))
  if found is None:
    names = feasible.contradiction(bounds, grids, given)
  said = [f'{columns[n].name} = {v:g}' for n, v in given.items()]
  raise InputError(
    f'expected constraints that can hold together; no values within the bounds satisfy '
    f'{" and ".join([*names, *said])}'
  )
