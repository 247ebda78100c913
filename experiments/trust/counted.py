"""Rows of counts that a long command leaves part by part, in one JSON file.

Rows of parts that were not asked for stay as they are, so that an interrupted command is continued
by naming the rest.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from dpgan_jax import _cli, _progress, _validate
from experiments import pages
from experiments.trust import injector

FLAGS = flags.FLAGS
_PACKAGES = ('dpgan_jax', 'jax', 'jaxlib', 'numpy', 'orbax-checkpoint')


def define_flags(name: str, parts: Sequence[str], seed: str) -> None:
  """Those of every such command: which parts, the file, and the seed of what is drawn."""
  flags.DEFINE_string('results', None, 'JSON file for the counts; default: print only.')
  flags.DEFINE_list(name, list(parts), f'Which of {", ".join(parts)}.')
  flags.DEFINE_integer(seed, None, 'Seed of what is drawn; default: a new one, recorded.')


def rng(seed: int | None) -> tuple[int, random.Random]:
  """The seed, drawn if none is given, and what follows from it."""
  seed = random.SystemRandom().getrandbits(32) if seed is None else seed
  return seed, random.Random(seed)


def collect(
  parts: Mapping[str, Callable[[], Iterable[Any]]],
  *,
  key: str,
  command: str,
  totals: Sequence[str],
  **more: Any,
) -> None:
  """Runs parts one after another; prints their rows, and keeps them after every part.

  Args:
    parts: name ↦ what yields its rows, dataclasses with `faults`.
    key: the field that tells rows apart.
    command: that the file says it is made by.
    totals: fields that are summed over rows.
    **more: what is added to each new row.

  Raises:
    SystemExit: something did not hold.
  """
  path, rows = FLAGS.results, {}
  if path and (kept := pages.read_json(pathlib.Path(path))):
    rows = {row[key]: row for row in kept['rows']}
  found: dict[str, Any] = {}
  for part, make in parts.items():
    started = time.monotonic()
    for row in make():
      rows[getattr(row, key)] = as_json(row, **more)
      say(row, key, totals)
      for fault in row.faults:
        print(f'    {fault}')
    print(f'{part}: {_progress.duration(time.monotonic() - started)}', flush=True)
    found = summary(list(rows.values()), command, totals)
    if path:
      pages.write_json(pathlib.Path(path), found)
  print(', '.join(f'{found[name]} {name}' for name in (*totals, 'faults')))
  if found['faults']:
    raise SystemExit(1)


def say(row: Any, key: str, totals: Sequence[str]) -> None:
  counts = ', '.join(f'{getattr(row, name)} {name}' for name in totals)
  print(f'  {getattr(row, key)}: {counts}, {len(row.faults)} faults', flush=True)


def as_json(row: Any, **more: Any) -> dict[str, Any]:
  """A row as JSON holds it, with counts in the order of their names."""
  fields = {**vars(row), **more}  # asdict would count the items of a Counter
  return {k: dict(sorted(v.items())) if isinstance(v, dict) else v for k, v in fields.items()}


def summary(rows: list[dict[str, Any]], command: str, totals: Sequence[str]) -> dict[str, Any]:
  """What goes into the results file: totals, every row, and by what it was measured."""
  return {
    'command': command,
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'versions': {p: importlib.metadata.version(p) for p in _PACKAGES},
    **{name: sum(row[name] for row in rows) for name in totals},
    'faults': sum(len(row['faults']) for row in rows),
    'rows': rows,
  }


def check_names(name: str, given: Iterable[str], known: Sequence[str]) -> None:
  """Refuses parts that there are not."""
  for each in given:
    _validate.one_of(name, each, known)


def start(define: Callable[[], None], main: Callable[[], None]) -> None:
  """Runs a command under the shim."""
  if not injector.available():
    sys.exit('error: expected Linux with a C compiler (cc, gcc or clang)')
  injector.restart_with_shim(pathlib.Path(tempfile.gettempdir()) / 'dpgan_jax_trust')
  define()
  _cli.run(main)
