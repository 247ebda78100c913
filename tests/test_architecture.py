"""The house: rooms, arrows that run down only, files of one idea, one caller of what stands once.

What is asserted here is said in BUILD.md. Each check is a function of the sources, and is shown to
see the fault that it is for.
"""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1] / 'dpgan_jax'
# From the ground up: a room may import rooms of lower floors, and files of its own floor only
# within the same room. Commands and what they share stand on top, files with an underscore below.
FLOORS = (
  ('ground',),
  ('privacy', 'data'),
  ('networks', 'budget'),
  ('models',),
  ('run',),
  ('evaluation', 'publishing'),
  ('auditing', 'search'),
  ('top',),
)
GROUND = (
  '_compile_cache', '_devices', '_dtypes', '_environment', '_extras', '_figures', '_files',
  '_flag_files', '_html', '_interrupts', '_jax_settings', '_json', '_keys', '_log', '_markdown',
  '_plugins', '_progress', '_records', '_settings', '_state_leaves', '_tensor_file', '_validate',
)  # fmt: skip
MOST_FILES, MOST_LINES = 10, 400
CORE = {'jax', 'numpy', 'optax', 'dp_accounting', 'dpgan_jax'}  # and the standard library
# What must have one caller: a second one would be a second copy of the order of events.
ONCE = {
  'Ledger.open': {'run/loop.py', 'search/sweeping.py'},  # sweeping only compares a finished run
  '_start_or_resume': {'run/loop.py'},
  'make_chunk': {'run/stages.py', 'train.py'},  # train --dry_run measures a step on blank images
}

Sources = Mapping[str, str]
parse = functools.cache(ast.parse)


def sources() -> dict[str, str]:
  """Every file of the package by its path within it."""
  return {str(p.relative_to(ROOT)): p.read_text('utf-8') for p in sorted(ROOT.rglob('*.py'))}


def room(path: str) -> str:
  """The room that a file belongs to; rooms within rooms count as the outer one."""
  parts = pathlib.PurePath(path).parts
  if len(parts) > 1:
    return parts[0]
  return 'ground' if parts[0].removesuffix('.py') in GROUND else 'top'


def imports(path: str, files: Sources) -> Iterator[str]:
  """Files of the package that a file imports, by path; within functions and for types too."""
  for node in ast.walk(parse(files[path])):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names] + [str(node.module)]
    else:
      continue
    for name in names:
      inner = name.split('.')[1:]
      if name.split('.')[0] == 'dpgan_jax' and inner and f'{"/".join(inner)}.py' in files:
        yield f'{"/".join(inner)}.py'


def upward(files: Sources) -> list[str]:
  """Imports that lead to a higher floor, or to another room of the same floor."""
  floor = {name: level for level, rooms in enumerate(FLOORS) for name in rooms}
  found = []
  for path in files:
    if path == '__init__.py':  # the face: it hands names on
      continue
    for other in imports(path, files):
      here, there = room(path), room(other)
      if here != there and floor[there] >= floor[here]:
        found.append(f'{path} ({here}) imports {other} ({there})')
  return found


def chain(files: Sources) -> list[str]:
  """The longest chain of files that import each other; raises on a circle."""
  longest: dict[str, list[str]] = {}

  def walk(path: str, above: tuple[str, ...]) -> list[str]:
    assert path not in above, f'circle: {" → ".join([*above, path])}'
    if path not in longest:
      below = [walk(other, (*above, path)) for other in set(imports(path, files)) - {path}]
      longest[path] = [path, *max(below, key=len, default=[])]
    return longest[path]

  return max((walk(path, ()) for path in files if path != '__init__.py'), key=len)


def crowded(files: Sources) -> list[str]:
  """Rooms of too many files, and files of too many lines."""
  rooms: dict[str, int] = {}
  for path in files:
    parent = str(pathlib.PurePath(path).parent)
    if not path.endswith(('__init__.py', '__main__.py')):  # the package's face and its door
      key = parent if parent != '.' else room(path)
      rooms[key] = rooms.get(key, 0) + 1
  allowed = {'ground': len(GROUND), 'top': 12}
  found = [f'{r}: {n} files' for r, n in rooms.items() if n > allowed.get(r, MOST_FILES)]
  lines = {path: text.count('\n') for path, text in files.items()}
  return found + [f'{path}: {n} lines' for path, n in lines.items() if n > MOST_LINES]


def foreign(files: Sources) -> list[str]:
  """What the privacy core imports beside jax, numpy, optax, dp_accounting and the checks."""
  import sys

  found, waiting, seen = [], [p for p in files if room(p) == 'privacy'], set()
  while waiting:
    path = waiting.pop()
    if path in seen:
      continue
    seen.add(path)
    waiting += list(imports(path, files))
    for node in ast.walk(parse(files[path])):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [str(node.module)]
      tops = {name.split('.')[0] for name in names}
      found += [f'{path}: {top}' for top in tops - CORE - set(sys.stdlib_module_names)]
  return found


def second_callers(files: Sources) -> list[str]:
  """Calls of what stands in one place from elsewhere."""
  found = []
  for path, text in files.items():
    for node in ast.walk(parse(text)):
      if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        for once, places in ONCE.items():
          if (name == once or name.endswith(f'.{once}')) and path not in places:
            found.append(f'{path}:{node.lineno} calls {once}')
  return found


def image_words(files: Sources) -> list[str]:
  """Files outside the rooms of images that say how large an image is in their own words."""
  rooms = ('data', 'networks', 'evaluation')
  return [
    path
    for path, text in files.items()
    if room(path) not in rooms
    and any(isinstance(n, ast.Name | ast.arg | ast.Attribute) and _named(n) == 'image_shape'
            for n in ast.walk(parse(text)))
  ]  # fmt: skip


def _named(node: ast.AST) -> str:
  return getattr(node, 'id', None) or getattr(node, 'arg', None) or getattr(node, 'attr', '')


def test_arrows_run_down():
  assert upward(sources()) == []


def test_no_circle_and_no_long_way():
  # Rooms are the floors. Within them a file may stand on its neighbours: the longest way through
  # single files, from the audit command to a norm, must not grow unseen.
  assert len(FLOORS) <= 8
  assert len(chain(sources())) <= 19


def test_rooms_and_files_hold_little():
  assert crowded(sources()) == []


def test_the_privacy_core_is_a_library_of_its_own():
  assert foreign(sources()) == []


def test_what_stands_once_is_called_from_one_place():
  assert second_callers(sources()) == []


def test_only_rooms_of_images_know_images():
  assert image_words(sources()) == []


@pytest.mark.parametrize(
  ('check', 'path', 'text'),
  [
    (upward, 'privacy/sampling.py', 'from dpgan_jax.run import loop\n'),
    (upward, 'budget/ledger.py', 'def f():\n  from dpgan_jax.networks import layers\n'),
    (upward, '_files.py', 'from dpgan_jax.privacy import sampling\n'),
    (crowded, 'run/loop.py', 'x = 1\n' * 401),
    (crowded, 'run/one_more.py', ''),
    (foreign, 'privacy/sampling.py', 'import flax\n'),
    (foreign, '_validate.py', 'import scipy\n'),
    (second_callers, 'auditing/one_run.py', 'ledger = Ledger.open(path)\n'),
    (second_callers, 'classify.py', 'chunk = stages.make_chunk(stage, 3)\n'),
    (image_words, 'publishing/cards.py', 'def f(image_shape): pass\n'),
  ],
)
def test_a_fault_is_seen(check, path, text):
  files = sources()
  assert check({**files, path: files.get(path, '') + text}) != []


def test_a_circle_is_seen():
  files = sources()
  with pytest.raises(AssertionError, match='circle'):
    chain({**files, '_validate.py': 'from dpgan_jax import _files\n',
           '_files.py': 'from dpgan_jax import _validate\n'})  # fmt: skip
