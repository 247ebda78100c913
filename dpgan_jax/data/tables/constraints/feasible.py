"""Whether linear constraints on columns can be met at all, and values that meet them: in public.

A mixed integer program over the grids of the columns (HiGHS). Among all values that do, those are
taken that are furthest from breaking a constraint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dpgan_jax._validate import InputError

_MOST_NODES = 1_000  # of branch and bound: a count, so that the answer depends on no clock
_MOST_WHOLE = 10**6  # steps of a column, beyond which its grid is taken for a line
_ENOUGH = 0.25  # of the widest possible distance: no further from a constraint than that


class UndecidedError(InputError):
  """It takes too long to find out: whoever wrote a schema may have wanted so."""


class Bound(NamedTuple):
  """Σ weights·column ≤ most.

  Attributes:
    weights: by number of the column; none is 0.
    most: the right side.
    source: what it comes of; those of one source stand and fall together.
  """

  weights: Mapping[int, float]
  most: float
  source: str


class Grid(NamedTuple):
  """What a column may be: low, low + step, ... up to high; any number between if step is None."""

  low: float
  high: float
  step: float | None


def solve(
  bounds: Sequence[Bound], grids: Mapping[int, Grid], fixed: Mapping[int, float]
) -> dict[int, float] | None:
  """A value for each column of `grids` that is not fixed; None: there are none.

  Args:
    bounds: all of them have to hold.
    grids: of every column that a bound names, by number.
    fixed: values that are given.

  Raises:
    UndecidedError: neither is found within `_MOST_NODES` cases.
  """
  from scipy.optimize import Bounds, LinearConstraint, milp  # half a second that images do without

  free = [number for number in grids if number not in fixed]
  place = {number: i for i, number in enumerate(free)}
  size, whole = np.ones(len(free) + 1), np.zeros(len(free) + 1)
  least, most = _arrays(np.zeros(len(free) + 1), np.ones(len(free) + 1))
  for i, number in enumerate(free):
    low, high, step = grids[number]
    size[i] = high - low
    if step is not None and (steps := np.floor((high - low) / step + 1e-9)) <= _MOST_WHOLE:
      size[i], most[i], whole[i] = step, steps, 1
  most[-1] = _ENOUGH  # the last variable: how far, as a share, everything is from its bound
  rows, right = _arrays(np.zeros((len(bounds), len(free) + 1)), np.zeros(len(bounds)))
  for row, (weights, limit, _) in enumerate(bounds):
    # In units of how far the sum can move, so that no tolerance is of seconds since 1970.
    scale = sum(abs(w) * (grids[n].high - grids[n].low) for n, w in weights.items()) or 1.0
    at_low = sum(w * fixed.get(n, grids[n].low) for n, w in weights.items())
    for number, weight in weights.items():
      if number in place:
        rows[row, place[number]] = weight * size[place[number]] / scale
    right[row], rows[row, -1] = (limit - at_low) / scale, 1.0
  found = milp(
    -np.eye(len(free) + 1)[-1],
    integrality=whole,
    bounds=Bounds(least, most),
    constraints=LinearConstraint(rows, -np.inf, right) if len(bounds) else (),
    options={'node_limit': _MOST_NODES},
  )
  if found.x is None and found.status != 2:  # not infeasible: the limit was reached
    names = list(dict.fromkeys(bound.source for bound in bounds))
    raise UndecidedError(
      'expected constraints of which it is clear whether they can hold together; of '
      f'{len(names)}, the first of which is {names[0][:80]!r}, it is not after {_MOST_NODES:,} '
      'cases: leave some out'
    )
  if found.x is None:
    return None
  return {n: grids[n].low + found.x[i] * size[i] for n, i in place.items()}


def _arrays(*arrays: np.ndarray) -> tuple[Any, ...]:
  return arrays  # the types of SciPy know of numbers alone


def contradiction(
  bounds: Sequence[Bound], grids: Mapping[int, Grid], fixed: Mapping[int, float]
) -> list[str]:
  """Sources that cannot be met together, none of which could be left out."""
  kept = list(dict.fromkeys(bound.source for bound in bounds))
  for source in list(kept):
    others = [b for b in bounds if b.source in kept and b.source != source]
    with contextlib.suppress(UndecidedError):
      if solve(others, grids, fixed) is None:
        kept.remove(source)
  return kept
