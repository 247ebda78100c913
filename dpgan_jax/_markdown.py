"""Tables and lists in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
  """A table; cells are what `str` makes of them, and must not hold a bar of their own."""
  header = tuple(header)
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def bullets(lines: Iterable[str]) -> str:
  """A list, an item a line."""
  return '\n'.join(f'- {line}' for line in lines)
