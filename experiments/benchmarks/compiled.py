"""What a compiled program does beside computing: collectives and transfers, read from its text."""

from __future__ import annotations

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
