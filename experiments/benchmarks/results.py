"""What the speed benchmark measured: medians, ratios, and the questions asked of them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from dpgan_jax import _files
from experiments.benchmarks import nets
from experiments.benchmarks.contenders import CONTENDERS, Contender
from experiments.benchmarks.gans import GANS, WAYS

ALL: dict[str, Contender] = {**CONTENDERS, **WAYS}


class Spread(NamedTuple):
  """A median with the range of the middle 80 %."""

  median: float
  low: float
  high: float

  def __str__(self) -> str:
    return f'{number(self.median)} ({number(self.low)}–{number(self.high)})'


def number(value: float) -> str:
  """Three significant digits, without an exponent."""
  if value == 0 or abs(value) >= 100:
    return f'{value:,.0f}'
  decimals = 2 - int(np.floor(np.log10(abs(value))))
  return f'{value:.{max(0, min(decimals, 5))}f}'


def spread(values: list[float]) -> Spread:
  low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
  return Spread(float(median), float(low), float(high))


@dataclasses.dataclass
class Result:
  """One contender at one network (or whole GAN) and batch size; `failure` says why there is no
  figure.

  `rounds` has the seconds per step in each round, in order, so that ratios can be taken round by
  round between contenders that ran within seconds of each other. A slow contender has fewer.
  """

  net: str
  batch: int
  contender: str
  rounds: list[float] = dataclasses.field(default_factory=list)
  failure: str = ''
  note: str = ''
  compile_seconds: float = 0.0
  peak_bytes: int = 0
  peak_bytes_before: int = 0  # after the imports, before the network was built
  device_bytes: int | None = None
  cores_used: float = 0.0
  idle_cpu: float = 0.0

  @property
  def seconds(self) -> float:
    return spread(self.rounds).median

  @property
  def gflops(self) -> float:
    return nets.flops_per_example(nets.NETS[self.net]) * self.batch / self.seconds / 1e9


@dataclasses.dataclass
class Results:
  """Everything of one run of the harness."""

  machine: dict[str, Any] = dataclasses.field(default_factory=dict)
  results: list[Result] = dataclasses.field(default_factory=list)

  def get(self, net: str, batch: int, contender: str) -> Result | None:
    """The result if it holds a figure."""
    for r in self.results:
      if (r.net, r.batch, r.contender) == (net, batch, contender) and r.rounds:
        return r
    return None

  def combinations(self, names: Collection[str] = nets.NETS) -> list[tuple[str, int]]:
    """What was measured of the networks (or GANs) of these names, in their order."""
    found = dict.fromkeys((r.net, r.batch) for r in self.results if r.net in names)
    return sorted(found, key=lambda c: ([*nets.NETS, *GANS].index(c[0]), c[1]))

  def of(self, net: str, batch: int) -> list[Result]:
    """All results of one combination, in the contenders' order."""
    found = [r for r in self.results if (r.net, r.batch) == (net, batch)]
    return sorted(found, key=lambda r: list(ALL).index(r.contender))

  def forget(self, net: str, batch: int) -> None:
    """Leaves out one combination, before it is measured anew."""
    self.results = [r for r in self.results if (r.net, r.batch) != (net, batch)]

  def best(self, net: str, batch: int, family: str) -> Result | None:
    """The fastest mode of a library."""
    members = [c.name for c in ALL.values() if c.family == family]
    found = [r for r in (self.get(net, batch, name) for name in members) if r]
    return min(found, key=lambda r: r.seconds, default=None)

  def ratio(self, above: Result, below: Result) -> Spread:
    """`above` ÷ `below`, round by round. A slow contender's few rounds are the first ones."""
    both = min(len(above.rounds), len(below.rounds))
    pairs = zip(above.rounds[:both], below.rounds[:both], strict=True)
    return spread([a / b for a, b in pairs])

  def save(self, path: pathlib.Path) -> None:
    with _files.atomic_write(path) as file:
      file.write(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + '\n')

  @classmethod
  def load(cls, path: pathlib.Path) -> Results:
    found = json.loads(path.read_text(encoding='utf-8'))
    return cls(found['machine'], [Result(**r) for r in found['results']])
