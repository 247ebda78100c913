"""What the speed benchmark measured: medians, ratios, and the questions asked of them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection
from typing import Any

from experiments import pages
from experiments.benchmarks import nets, turns
from experiments.benchmarks.contenders import ALL, GANS


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
  device_bytes: int | None = None
  cores_used: float = 0.0

  @property
  def seconds(self) -> float:
    return turns.spread(self.rounds).median

  @property
  def title(self) -> str:
    note = f' ({self.note})' if self.note and self.rounds else ''
    return ALL[self.contender].title + note

  @property
  def memory(self) -> int:
    """Bytes: of the device, if it tells, or else of the process."""
    return self.peak_bytes if self.device_bytes is None else self.device_bytes

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

  def replace(self, net: str, batch: int, found: list[Result]) -> None:
    """One combination, measured anew."""
    self.results = [r for r in self.results if (r.net, r.batch) != (net, batch)] + found

  def best(self, net: str, batch: int, family: str) -> Result | None:
    """The fastest mode of a library."""
    members = [c.name for c in ALL.values() if c.family == family]
    found = [r for r in (self.get(net, batch, name) for name in members) if r]
    return min(found, key=lambda r: r.seconds, default=None)

  def ratio(self, above: Result, below: Result) -> turns.Spread:
    """`above` ÷ `below`, round by round."""
    return turns.ratio(above.rounds, below.rounds)

  def save(self, path: pathlib.Path) -> None:
    pages.write_json(path, dataclasses.asdict(self))

  @classmethod
  def load(cls, path: pathlib.Path) -> Results:
    found = pages.read_json(path)
    return cls(found['machine'], [Result(**r) for r in found['results']])
