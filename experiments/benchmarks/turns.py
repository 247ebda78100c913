"""Programs that take turns in one process: what else the machine does hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
  """A median with the range of the middle 80 %."""

  median: float
  low: float
  high: float

  def __str__(self) -> str:
    return f'{number(self.median)} ({number(self.low)}–{number(self.high)})'


def spread(values: Sequence[float]) -> Spread:
  low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
  return Spread(float(median), float(low), float(high))


def number(value: float) -> str:
  """Three significant digits, without an exponent."""
  if value == 0 or abs(value) >= 100:
    return f'{value:,.0f}'
  decimals = 2 - int(np.floor(np.log10(abs(value))))
  return f'{value:.{max(0, min(decimals, 5))}f}'


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
  """`above` ÷ `below`, round by round. A slow program's few rounds are the first ones."""
  both = min(len(above), len(below))
  return spread([a / b for a, b in zip(above[:both], below[:both], strict=True)])


def take(
  calls: Mapping[str, Callable[[], int]], rounds: int, seconds: float
) -> dict[str, list[float]]:
  """Seconds per step of each program in every round, another one being the first each time.

  Args:
    calls: compiled programs by name, each of which takes some steps, waits, and says how many.
    rounds: how often each has its turn.
    seconds: how long a turn lasts at least.
  """
  names, times = list(calls), {name: [] for name in calls}
  for turn in range(rounds):
    first = turn % len(names)
    for name in names[first:] + names[:first]:
      start, steps = time.perf_counter(), 0
      while time.perf_counter() - start < seconds or not steps:
        steps += calls[name]()
      times[name].append((time.perf_counter() - start) / steps)
  return times
