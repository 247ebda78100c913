"""What a compiled program does, read from its text: what it starts, collectives and transfers."""

from __future__ import annotations

import collections
import math
import re

_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4,
  'u32': 4, 'f64': 8, 's64': 8, 'u64': 8,
}  # fmt: skip
COLLECTIVES = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute',
  'collective-broadcast',
)  # fmt: skip
HOST = ('infeed', 'outfeed', 'send', 'recv', 'host-transfer', 'custom-call-to-host')

_LINE = re.compile(r'= (?P<shape>\(.*?\)|\S+) (?P<name>[a-z-]+?)(?P<async>-start)?\(')
_ARRAY = re.compile(r'([a-z]+\d*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(r'(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# What starts nothing on a device, or is followed instead.
_NO_WORK = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all',
            'partition-id', 'replica-id', 'while', 'conditional', 'call'}  # fmt: skip


def started(text: str) -> dict[str, int]:
  """How many times a run of the program starts each kind of instruction: what a GPU launches.

  A loop counts as often as it is known to run (else once), a choice by its larger branch. Loops
  within a fusion, or a library's call, are that one.

  Args:
    text: of a compiled program.
  """
  bodies: dict[str, list[str]] = {}
  entry, lines = '', []
  for line in text.splitlines():
    if head := _COMPUTATION.match(line):
      lines = bodies[head[2]] = []
      entry = head[2] if head[1] else entry
    elif match := _LINE.search(line):
      lines.append(line[match.start() :])

  def count(name: str) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for line in bodies.get(name, ()):
      match = _LINE.match(line)
      assert match
      kind = match['name']
      if kind in ('while', 'call'):
        times = int(known[1]) if (known := _TIMES.search(line)) else 1
        for called in _CALLED.findall(line):
          found.update({k: n * times for k, n in count(called).items()})
      elif kind == 'conditional':
        listed = _BRANCHES.search(line)
        names = re.findall(r'[\w.\-]+', listed[1]) if listed else _CALLED.findall(line)
        found.update(max(map(count, names), key=lambda c: c.total()))
      elif kind not in _NO_WORK and not kind.endswith('-done'):
        found[kind] += 1
    return found

  return dict(count(entry))


def collectives(text: str) -> dict[str, int]:
  """Bytes of the results of each kind of collective, all of them together.

  Args:
    text: of a compiled program, in which a loop's body stands once.
  """
  found: dict[str, int] = {}
  for match in _LINE.finditer(text):
    if match['name'] in COLLECTIVES:
      size = _size(match['shape'])
      if match['async'] and match['name'] == 'all-gather':
        size //= 2  # operand and result stand together; only for a first idea
      found[match['name']] = found.get(match['name'], 0) + size
  return found


def host_transfers(text: str) -> list[str]:
  """Instructions that move something to the host or from it."""
  return sorted({m['name'] for m in _LINE.finditer(text) if m['name'] in HOST})


def _size(shape: str) -> int:
  return sum(
    _BYTES[dtype] * math.prod(int(n) for n in dims.split(',') if n)
    for dtype, dims in _ARRAY.findall(shape) if dtype in _BYTES
  )  # fmt: skip
