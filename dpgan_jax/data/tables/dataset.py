"""A table in memory: a checked matrix of records, their classes, and the schema of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.spec import ALL_ROWS, Spec, fingerprint
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.schema import Schema


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TableDataset:
  """A table that has passed every check.

  Attributes:
    records: float64 [N, C], of the columns `schema.modelled`; NaN is missing.
    labels: int32 [N], of the target in [0, K); zeros without one.
    schema: public.
    name: what the data are called in messages and reports.
    persons: whose each row is, as `persons.digests`, [N]; of a schema with persons, and None of
      synthetic rows, which are nobody's.
    partial: a part held out, which may happen to have no record of a class.
    notes: what the reader changed, in words for the owner: counts of private data.

  Raises:
    InputError: arrays that do not fit the schema.
  """

  records: np.ndarray = dataclasses.field(repr=False)
  labels: np.ndarray = dataclasses.field(repr=False)
  schema: Schema
  name: str
  persons: np.ndarray | None = dataclasses.field(default=None, repr=False)
  partial: bool = False
  notes: tuple[str, ...] = dataclasses.field(default=(), repr=False)

  def __post_init__(self) -> None:
    count, columns = len(self.records), self.schema.modelled
    if self.records.dtype != np.float64 or self.records.shape != (count, len(columns)):
      raise InputError(
        f'{self.name}: expected records to be float64 [N, {len(columns)}], got '
        f'{self.records.dtype} {self.records.shape}'
      )
    if self.labels.dtype != np.int32 or self.labels.shape != (count,) or not count:
      raise InputError(
        f'{self.name}: expected labels to be int32 [{count}] of at least one record, got '
        f'{self.labels.dtype} {self.labels.shape}'
      )
    if self.labels.min() < 0 or self.labels.max() >= self.num_classes:
      raise InputError(f'{self.name}: expected labels in [0, {self.num_classes})')
    for column, values in zip(columns, self.records.T, strict=True):
      low, high = (0, len(column.categories) - 1) if column.is_category else column.bounds
      with np.errstate(invalid='ignore'):
        outside = (values < low) | (values > high)
      if outside.any() or (np.isnan(values).any() and not column.nullable):
        raise InputError(f'{self.name}: values of column {column.name!r} are out of its domain')
    self._check_persons()

  def _check_persons(self) -> None:
    if self.persons is None:
      return
    most = self.schema.max_rows_per_unit
    if most is None or self.persons.shape != (len(self),) or self.persons.dtype != persons.DTYPE:
      raise InputError(f'{self.name}: expected persons only with unit_column, one for each row')
    if (persons.ordinals(self.persons) >= most).any():
      raise InputError(f'{self.name}: expected at most {most} rows of each person')

  def __len__(self) -> int:
    return len(self.records)

  @property
  def unit(self) -> str:
    """What a record is called."""
    return self.schema.unit

  @property
  def content(self) -> np.ndarray:
    """[N, ...], by which `sources` tells records apart.

    Persons alone, where there are persons: all rows of one are on one side. Else whole rows, the
    target included, and of rows that are alike the first, the second, ...: one row more adds one
    and changes no other.
    """
    if self.persons is not None:
      return self.persons
    rows = np.column_stack([self.records, self.labels])
    return np.column_stack([rows, persons.ordinals(persons.keys(rows))])

  def part(self, chosen: np.ndarray, *, partial: bool) -> TableDataset:
    """The rows where `chosen`, bool [N], is true; or those of these numbers, int [n]."""
    return dataclasses.replace(
      self, records=self.records[chosen], labels=self.labels[chosen], partial=partial,
      persons=None if self.persons is None else self.persons[chosen],
    )  # fmt: skip

  @property
  def spec(self) -> Spec:
    """What is public of this table.

    Raises:
      InputError: the schema is not confirmed, or it has persons and nobody says whose the rows are.
    """
    count = len(self)
    if self.schema.unit_column is not None:
      if self.persons is None:
        raise InputError(f'{self.name}: expected persons, as the schema has {self.schema.unit}s')
      count = persons.count(self.persons)
    return Spec.of_schema(self.schema, num_records=count, name=self.name)

  def fingerprint(self) -> str:
    """A private hash of rows, classes and persons (`spec.fingerprint`)."""
    whose = () if self.persons is None else (self.persons,)
    return fingerprint(self.records, self.labels, *whose)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of the target; a single one without a target."""
    return self.schema.class_names or ALL_ROWS

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.class_names)


def parse_given(schema: Schema, given: Mapping[str, Any]) -> tuple[int | None, dict[int, float]]:
  """(class, values by the number of their column in the matrix) of values as they are written.

  Raises:
    InputError: no such column, or a value outside its domain.
  """
  label, found = None, {}
  places = {column.name: i for i, column in enumerate(schema.modelled)}
  columns = {column.name: column for column in schema.columns if column.kind != 'id'}
  for name, value in given.items():
    if not columns:
      raise InputError(f'expected no given values of {schema.unit}s without columns, got {name!r}')
    if name not in columns:
      raise InputError(f'expected a column among {", ".join(columns)}; got {name!r}')
    if name in schema.system.derived:
      raise InputError(f'expected given values of columns that are not derived, got {name!r}')
    try:
      parsed = columns[name].parse(str(value))
    except InputError as error:
      raise InputError(f'column {name!r}: {error}') from None
    if name == schema.target:
      label = int(parsed)
    else:
      found[places[name]] = parsed
  return label, found
