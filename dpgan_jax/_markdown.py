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


def sections(text: str) -> dict[str, str]:
  """What stands below each '## ' heading, in order; '' has what comes before the first.

  >>> sections('# Title\\n\\nIntro.\\n\\n## One\\n\\n1')
  {'': '# Title\\n\\nIntro.', 'One': '1'}
  """
  first, *others = text.split('\n## ')
  pairs = (part.partition('\n') for part in others)
  return {'': first.strip(), **{title: below.strip() for title, _, below in pairs}}
