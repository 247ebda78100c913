"""Rows that satisfy their constraints, from any way to draw rows: post-processing, free of cost.

Rows that break a constraint are drawn again, whole, `TRIES` times at most: what is kept then is
what the model says, given the constraints. The few that are left are repaired. Categories become
the listed combination that changes least; numbers move, by as little as does, along the line to
values that satisfy every constraint (`feasible`), which the line ends in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.constraints.system import Group, Listed, System, on_grid, witness_of

TRIES = 50
_STEPS = 64  # on the way to values that satisfy all

Draw = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(which rows, int64 [n]) → records [n, C] and their classes [n], drawn anew."""


def drawn(
  system: System, draw: Draw, num: int, fixed: Collection[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """`num` records and their classes, all of which satisfy the constraints.

  Args:
    system: the constraints.
    draw: whatever draws rows.
    num: how many.
    fixed: columns by number, the target being the last, whose values are given: they stay.
    rng: of repairs.

  Raises:
    InputError: given values that no row satisfies the constraints with.
  """
  records, labels = draw(np.arange(num))
  bad = np.flatnonzero(~system.holds(system.joined(records, labels)))
  for _ in range(TRIES):
    if not len(bad):
      return records, labels
    records[bad], labels[bad] = draw(bad)
    bad = bad[~system.holds(system.joined(records[bad], labels[bad]))]
  if len(bad):
    table = repaired(system, system.joined(records[bad], labels[bad]), fixed, rng)
    records[bad], labels[bad] = table[:, :-1], table[:, -1].astype(labels.dtype)
  return records, labels


def repaired(
  system: System, table: np.ndarray, fixed: Collection[int], rng: np.random.Generator
) -> np.ndarray:
  """A table [n, C + 1] with each row changed until it satisfies all constraints.

  Raises:
    InputError: values of `fixed` columns that nothing else fits.
  """
  table = table.copy()
  for listed in system.lists:
    _relist(listed, table, fixed, rng)
  for group in system.groups:
    _move(system, group, table, fixed)
  return table


def _relist(
  listed: Listed, table: np.ndarray, fixed: Collection[int], rng: np.random.Generator
) -> None:
  bad = np.flatnonzero(~listed.holds(table))
  kept = [i for i, number in enumerate(listed.numbers) if number in fixed]
  for row, codes in zip(bad, listed.codes(table[bad]), strict=True):
    apart = (listed.rows != codes).sum(axis=1) + 0.5 * rng.random(len(listed.rows))
    apart[(listed.rows[:, kept] != codes[kept]).any(axis=1)] = np.inf
    nearest = int(apart.argmin())
    if np.isinf(apart[nearest]):
      raise InputError(f'expected given values that go with others, got none of {listed.source}')
    new = listed.rows[nearest].astype(np.float64)
    table[row, listed.numbers] = np.where(new < 0, np.nan, new)


def _move(system: System, group: Group, table: np.ndarray, fixed: Collection[int]) -> None:
  rows = np.flatnonzero(~_holds(system, group, table))
  given = [number for number in group.numbers if number in fixed]
  if not len(rows):
    return
  witness = group.witness
  if given:  # the same in every row
    values = {n: float(table[rows[0], n]) for n in given if not np.isnan(table[rows[0], n])}
    witness = witness_of(group.orders, group.numbers, system.columns, values)
  start = table[rows]
  for share in np.linspace(1, 0, _STEPS + 1)[1:]:
    moved = start.copy()
    for number in group.numbers:
      if number not in fixed:
        column, end = system.columns[number], witness[number]
        moved[:, number] = on_grid(column, end + share * (start[:, number] - end))
    right = _holds(system, group, moved)
    table[rows[right]] = moved[right]
    rows, start = rows[~right], start[~right]
    if not len(rows):
      return
  raise AssertionError('the witness satisfies all constraints')


def _holds(system: System, group: Group, table: np.ndarray) -> np.ndarray:
  table = system.as_written(table)
  return np.all([order.holds(table) for order in group.orders], axis=0)
