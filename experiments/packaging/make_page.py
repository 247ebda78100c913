"""The page of `try_versions`' record: `./run.sh python -m experiments.packaging.make_page`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpgan_jax import _validate
from experiments import pages
from experiments.packaging.try_versions import RECORD, USES

PAGE = pages.RESULTS / 'VERSIONS.md'
_SHOWN = ('jax', 'numpy', 'optax', 'dp-accounting', 'flax', 'orbax-checkpoint', 'pyarrow', 'scipy')


def page(record: Mapping[str, Any]) -> str:
  """The Markdown of what was tried, where it failed, and what could not be tried."""
  by_place: dict[tuple[str, str], dict[str, Any]] = {}
  for found in record['tries']:
    by_place.setdefault((found['python'], found['end']), {})[found['extras']] = found
  rows = [
    (python, end, *(_cell(tried.get(extras)) for extras in USES))
    for (python, end), tried in by_place.items()
  ]
  versions = [
    (python, end, *(_version(tried.values(), name) for name in _SHOWN))
    for (python, end), tried in by_place.items()
    if any('installed' in found for found in tried.values())
  ]
  said = [
    f'- Python {found["python"]}, {found["end"]}, {_name(found["extras"])}: {text}'
    for found in record['tries']
    for text in [
      *([found['not_tried']] if found['not_tried'] else []),
      *(f'{s["step"]}: {s["failed"]}' for s in found.get('steps', ()) if s['failed']),
    ]
  ]
  return pages.join(
    '# Where the package was tried',
    'In a clean environment for each cell: the wheel, from the source distribution, with one set '
    'of extras, and dependencies at one end of the bounds in pyproject.toml (lowest: of those that '
    f'it names; newest: whatever there was that day). {record["system"]}. Made by `./run.sh python '
    '-m experiments.packaging.try_versions && ./run.sh python -m experiments.packaging.make_page`.',
    pages.table(('Python', 'bounds', *map(_name, USES)), rows),
    '## What was used',
    '\n'.join(f'- {_name(e)}: {"; ".join(step.name for step in USES[e])}.' for e in USES),
    '## What these were',
    pages.table(('Python', 'bounds', *_SHOWN), versions),
    '## What failed, or could not be tried',
    '\n'.join(said) or 'Nothing.',
  )


def _name(extras: str) -> str:
  return f'`[{extras}]`' if extras else 'core alone'


def _cell(found: Mapping[str, Any] | None) -> str:
  if found is None:
    return 'not run'
  if found['not_tried']:
    return 'could not be tried'
  failed = sum(step['failed'] is not None for step in found['steps'])
  return f'**{failed} of {len(found["steps"])} failed**' if failed else 'works'


def _version(tries: Any, name: str) -> str:
  for found in reversed(list(tries)):  # the core asks for no scipy of its own
    for line in found.get('installed', ()):
      if line.startswith(f'{name}=='):
        return line.partition('==')[2]
  return '–'


def main() -> None:
  record = pages.read_json(RECORD)
  if record is None:
    raise _validate.InputError(
      f'expected {RECORD}: make it with experiments.packaging.try_versions'
    )
  pages.write(PAGE, page(record))


if __name__ == '__main__':
  main()
