"""What every page of results/ is made of: records (JSON) in, Markdown out.

A page is a list of parts with a blank line between them: headings, sentences, tables, pictures.
Every number on it comes from a record, which a command wrote, so that nobody types one.
"""

from __future__ import annotations

import collections
import json
import math
import pathlib
import resource
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dpgan_jax import _files, _markdown, _validate
from dpgan_jax.data import datasets
from dpgan_jax.privacy.accounting import rounded_up

FOLDER = pathlib.Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'
NOT_MEASURED = 'Not measured yet.'


def read_json(path: pathlib.Path) -> Any:
  """What a JSON file holds; None if there is none.

  Raises:
    InputError: it is no JSON.
  """
  try:
    return json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise _validate.InputError(f'expected {path} to be JSON, got: {error}') from None


def read_all(folder: pathlib.Path) -> list[Any]:
  """The records in a folder, by name."""
  return [read_json(path) for path in sorted(folder.glob('*.json'))]


def write_json(path: pathlib.Path, record: Any, indent: int = 1) -> None:
  """A whole file, of finite numbers only."""
  write(path, json.dumps(record, indent=indent, ensure_ascii=False, allow_nan=False) + '\n')


class Rows:
  """The rows of a record, which is written anew with each: what was measured outlives a stop.

  Args:
    path: of the record, `about` and 'rows'.
    kept: rows that are there already.
  """

  def __init__(self, path: str, kept: Iterable[dict[str, Any]] = (), **about: Any) -> None:
    self._path, self._about, self._rows = pathlib.Path(path), about, list(kept)

  def add(self, **row: Any) -> None:
    """Shows a row, and keeps it; with the memory that the process has needed so far."""
    print(row, flush=True)
    self._rows.append(row)
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    peak = max(peak, self._about.get('peak_gib', 0))  # of what was measured before
    write_json(self._path, {**self._about, 'peak_gib': peak, 'rows': self._rows})


def write(path: pathlib.Path, text: str) -> None:
  """A whole file, and its folder."""
  with _files.atomic_write(path) as file:
    file.write(text)


def join(*parts: str) -> str:
  """A page of these parts."""
  return '\n\n'.join(parts) + '\n'


def table(
  columns: Mapping[str, Callable[[Any], Any]] | Sequence[str], rows: Iterable[Any], about: str = ''
) -> str:
  """A table, `about` above it; without rows, that there are none yet.

  Args:
    columns: titles, each with what a row shows below it; or titles alone, if rows are cells.
    rows: records or, with titles alone, sequences of cells; a bar in a cell is escaped.
    about: a paragraph above the table.
  """
  rows = list(rows)
  if not rows:
    return NOT_MEASURED
  if isinstance(columns, Mapping):
    rows = [[show(row) for show in columns.values()] for row in rows]
  cells = [[str(cell).replace('|', '\\|') for cell in row] for row in rows]
  return (f'{about}\n\n' if about else '') + _markdown.table(columns, cells)


def pictures(folder: str, names: Iterable[str]) -> list[str]:
  """Parts that show the pictures of these names in a folder beside the page."""
  return [f'![{name}]({folder}/{name})' for name in names]


def number(value: float | None, form: str = '.4g') -> str:
  """Four digits, or a dash for what was not measured."""
  return '–' if value is None else format(value, form)


def epsilon(value: float) -> float | str:
  """What a record says of an ε: rounded up, and 'inf' where JSON has no number."""
  return 'inf' if math.isinf(value) else rounded_up(value)


def mean(found: Mapping[str, Any] | None) -> str:
  """'0.9412 ± 0.0031': a mean and its standard deviation, if there is one."""
  if not found:
    return number(None)
  spread = found['standard_deviation']
  return number(found['mean']) + ('' if spread is None else f' ± {spread:.2g}')


def mean_of(rows: Iterable[Mapping[str, Any]], name: str) -> str:
  """'0.941 ± 0.003': mean and standard deviation of what rows have of a name; '' of none."""
  values = [row[name] for row in rows if row.get(name) is not None]
  if not values:
    return ''
  spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
  return f'{statistics.fmean(values):.3f}{spread}'


def goal(said: str, epsilon: float, value: float, bound: float, *, least: bool) -> tuple[str, ...]:
  """A row of what was wanted, what was found, and whether that is reached."""
  verdict = 'reached' if (value >= bound if least else value <= bound) else '**not reached**'
  wanted = f'{"≥" if least else "≤"} {bound:.4g}'
  return said, f'{epsilon:g}', wanted, f'{value:.4g}', verdict


def by_kind(
  rows: Iterable[dict[str, Any]],
) -> tuple[dict[tuple[float, str], list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
  """Rows of releases by ε and kind, in that order; and the others, which have no ε, by kind."""
  releases, others = collections.defaultdict(list), collections.defaultdict(list)
  for row in rows:
    if 'epsilon' in row:
      releases[row['epsilon'], row['kind']].append(row)
    else:
      others[row['kind']].append(row)
  return dict(sorted(releases.items())), others


def beside_real(found: Mapping[str, Any] | None) -> str:
  """'0.9412 (real 0.987)': a score, and what real images get, if that is known."""
  if not found:
    return number(None)
  real = found['reference']
  return number(found['value']) + ('' if real is None else f' (real {number(real)})')


def check_public(dataset: Any, what: str) -> None:
  """Records hold scores on real images without noise.

  Raises:
    InputError: the data set of `what`, a run or a sweep, is not public.
  """
  if dataset not in datasets.PUBLIC:
    raise _validate.InputError(
      f'expected {what} of a public data set ({", ".join(datasets.PUBLIC)}), as records show '
      f'scores on real images; it is of {dataset}'
    )
