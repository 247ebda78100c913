"""A schema drafted from a table, for its owner to correct and confirm.

A domain read from private data is a leak: the largest age can be one person's. So every field that
was read is listed in `Column.drafted`, and nothing is trained on it before somebody says that it is
public. Kinds, which follow from how values are written, and names are taken to be public.

>>> drafted, _ = draft_schema({'plz': ['01067', '50667'], 'age': [41, 57]})
>>> [(c.name, c.kind, c.drafted) for c in drafted.columns]
[('plz', 'categorical', ('categories', 'nullable')),
 ('age', 'integer', ('lower', 'upper', 'nullable'))]
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.files.read import MISSING
from dpgan_jax.data.tables.files.text import TextColumn, TextTable
from dpgan_jax.data.tables.schema import LONGEST, MOST_CATEGORIES, Column, Schema

_INTEGER = re.compile(r'-?(0|[1-9][0-9]{0,15})')  # 007 is a code
_REAL = re.compile(r'-?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?')
_COMMA = re.compile(r'-?[0-9]+,[0-9]+')
_DATE = re.compile(r'[0-9]{4}-[0-9]{2}-[0-9]{2}')
_DATETIME = re.compile(r'[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?Z?')
_BOOLEANS = (('false', 'true'), ('no', 'yes'), ('n', 'y'), ('f', 't'), ('0', '1'))
_FEW, _NEARLY_ALL = 20, 0.9  # values that differ, above which text is an identifier
_MOST_DECIMALS = 6  # of a resolution; numbers with more have none
_UNKNOWN = 'unknown'  # the category of a column that is missing everywhere


def draft_schema(
  source: Any,
  *,
  target: str | None = None,
  declare_public: bool = False,
  unit_column: str | None = None,
  max_rows_per_unit: int | None = None,
) -> tuple[Schema, tuple[str, ...]]:
  """Drafts a schema.

  The rules, in this order, of the values that are not missing:
    1. false/true, no/yes, n/y, f/t in any case, or 0/1, both of them and nothing else: boolean.
    2. Whole numbers without leading zeros: integer; an identifier, if all differ and the column's
       name says so (id, ..._id, ...ID).
    3. Numbers with a decimal point or an exponent: real, with as many decimals as were seen, six at
       most.
    4. YYYY-MM-DD: date; with HH:MM: datetime.
    5. Text of which more than nine tenths differ, and more than 20 values, or more values than a
       column may have categories: id.
    6. All else: categorical, its categories sorted.
  A column that a Parquet file or a frame calls text is text, whatever it looks like. The marker of
  missing values is the most frequent of `read.MISSING` in a column.

  Args:
    source: a CSV or Parquet file, or a frame.
    target: the column of classes; it becomes categorical if it holds whole numbers.
    declare_public: the owner's word that every entry is public.
    unit_column, max_rows_per_unit: whose each row is, and how many rows of a person count; that
      column is not read.

  Returns:
    The schema, and what its owner should look at, in lines.

  Raises:
    InputError: no table, or no column of the name `target`.
  """
  table, notes = TextTable(source), []
  if target is not None and target not in table.names:
    raise InputError(f'{table.where}: expected target to be one of its columns, got {target!r}')
  read = [name for name in table.names if name != unit_column]
  columns = {
    text.name: draft_column(table.where, text, notes, is_target=text.name == target)
    for text in table.columns(read)
  }
  columns |= {name: Column(name=name, kind='id') for name in table.names if name not in read}
  if all(re.fullmatch(_REAL, name) for name in table.names):
    notes.append('all names of columns are numbers: does the first line hold names?')
  schema = Schema(
    columns=tuple(columns[name] for name in table.names), target=target,
    declared_public=declare_public, unit_column=unit_column, max_rows_per_unit=max_rows_per_unit,
  )  # fmt: skip
  return schema, tuple(notes)


def draft_column(
  where: str, column: TextColumn, notes: list[str], *, is_target: bool = False
) -> Column:
  """One column; what its owner should look at is added to `notes`.

  Raises:
    InputError: values that are no kind of column, naming it.
  """
  texts = column.texts.to_pylist()
  counts = np.bincount(column.codes[column.codes >= 0], minlength=len(texts))
  seen = {text: int(count) for text, count in zip(texts, counts, strict=True) if count}
  null = bool((column.codes < 0).any())
  markers = sorted((m for m in MISSING if m in seen), key=lambda m: -seen[m])
  if column.type not in ('text', 'string'):
    markers = []
  values = {text: count for text, count in seen.items() if text not in markers}
  if len(markers) > 1:
    notes.append(
      f'column {column.name!r} writes missing values in several ways ({", ".join(markers)!s}): '
      f'only {markers[0]!r} is taken for one'
    )
    if not values or not _is_numeric(values):
      values.update({marker: seen[marker] for marker in markers[1:]})
  about: dict[str, Any] = {'nullable': null or bool(markers)}
  if markers:
    about['missing'] = markers[0]
  try:
    about |= _domain(column, values, is_target)
  except InputError as error:
    raise InputError(f'{where}: column {column.name!r}: {error}') from None
  if about['kind'] == 'id':
    notes.append(f'column {column.name!r} is taken for an identifier: it is not read, and made new')
    return Column(name=column.name, kind='id')
  if _is_named_id(column.name):
    notes.append(
      f'column {column.name!r} may say whose a row is: where persons have several rows, '
      f'--unit_column={column.name} --max_rows_per_unit=K makes epsilon one for persons'
    )
  if not values:
    notes.append(f'column {column.name!r} is missing everywhere')
  read = [n for n in ('categories', 'lower', 'upper', 'resolution') if about.get(n) is not None]
  read += ['nullable', *(['missing'] if markers else [])]
  return Column(name=column.name, drafted=tuple(read), **about)


def _is_numeric(values: Mapping[str, int]) -> bool:
  return all(_is_real(text) for text in values)


def _is_real(text: str) -> bool:
  return _REAL.fullmatch(text) is not None and any(c.isdigit() for c in text)


def _domain(column: TextColumn, values: Mapping[str, int], is_target: bool) -> dict[str, Any]:
  """Kind, and categories or bounds."""
  if not values:
    return {'kind': 'categorical', 'categories': (_UNKNOWN,)}
  written = column.type
  if written == 'boolean':
    return {'kind': 'boolean', 'categories': ('false', 'true')}
  low_case = {text.lower(): text for text in values}
  for pair in _BOOLEANS:
    if set(low_case) == set(pair) and len(values) == 2 and written != 'real':
      return {'kind': 'boolean', 'categories': tuple(low_case[word] for word in pair)}
  if written in ('text', 'integer', 'real'):
    if written != 'real' and all(_INTEGER.fullmatch(text) for text in values):
      numbers = sorted(map(int, values))
      if is_target and len(numbers) <= MOST_CATEGORIES:
        return {'kind': 'categorical', 'categories': tuple(map(str, numbers))}
      if _is_named_id(column.name) and max(values.values()) == 1 and len(numbers) > 1:
        return {'kind': 'id'}
      if max(-numbers[0], numbers[-1], numbers[-1] - numbers[0]) <= 2**53:
        return {'kind': 'integer', 'lower': numbers[0], 'upper': numbers[-1]}
    elif _is_numeric(values):
      return _real(values)
    elif all(_COMMA.fullmatch(text) or _is_real(text) for text in values):
      comma = next(text for text in values if ',' in text)
      raise InputError(f'expected numbers with a decimal point, got {comma!r}')
  for kind, pattern in (('date', _DATE), ('datetime', _DATETIME)):
    if written in ('text', kind) and all(map(pattern.fullmatch, values)):
      found = _dates(kind, values)
      if found is not None:
        return found
  return _text(values, is_target)


def _real(values: Mapping[str, int]) -> dict[str, Any]:
  numbers = [float(text) for text in values]
  if not np.isfinite(numbers).all():
    raise InputError('expected numbers within the range of float64')
  places = [len(t.partition('.')[2]) for t in values]
  if all(float(text).is_integer() for text in values):
    places = [0]
  plain = not any('e' in text.lower() for text in values) and max(places) <= _MOST_DECIMALS
  resolution = float(f'1e-{max(places)}') if plain else None
  return {
    'kind': 'real', 'lower': min(numbers), 'upper': max(numbers), 'resolution': resolution
  }  # fmt: skip


def _dates(kind: str, values: Mapping[str, int]) -> dict[str, Any] | None:
  reader = Column(name=kind, kind=kind, lower='0001-01-01', upper='9999-12-31')
  try:
    found = [reader.number(text) for text in values]
  except InputError:  # such as 30 February
    return None
  low, high = reader.format(math.floor(min(found))), reader.format(math.ceil(max(found)))
  return {'kind': kind, 'lower': low, 'upper': high}


def _text(values: Mapping[str, int], is_target: bool) -> dict[str, Any]:
  rows = sum(values.values())
  many = len(values) > _FEW and len(values) > _NEARLY_ALL * rows
  if not is_target and (many or len(values) > MOST_CATEGORIES):
    return {'kind': 'id'}
  longest = max(values, key=len)
  if len(longest) > LONGEST:
    raise InputError(f'expected texts of at most {LONGEST} characters, got {len(longest)}')
  return {'kind': 'categorical', 'categories': tuple(sorted(values))}


def _is_named_id(name: str) -> bool:
  return re.search(r'(^|[_\-. ])id$', name.lower()) is not None or name.endswith(('ID', 'Id'))


def describe(schema: Schema, most: int = 40) -> list[str]:
  """A table for people: each column with its kind, its domain, and what was read from the data."""
  rows: list[Sequence[str]] = [('column', 'kind', 'holds', 'read from the data')]
  for column in schema.columns[:most]:
    rows.append((column.name, column.kind, _holds(column), ', '.join(column.drafted) or '-'))
  widths = [min(max(len(row[i]) for row in rows), 44) for i in range(3)]
  lines = [
    '  '.join([*(f'{_short(c, w):<{w}}' for c, w in zip(row[:3], widths, strict=True)), row[3]])
    for row in rows
  ]
  left = len(schema.columns) - most
  return [*lines, *([f'... and {left} more columns'] if left > 0 else [])]


def _holds(column: Column) -> str:
  missing = f', or missing ({column.missing!r})' if column.nullable else ''
  if column.is_category:
    shown = ', '.join(column.categories[:4])
    more = f', ... ({len(column.categories)})' if len(column.categories) > 4 else ''
    return _short(shown + more, 44 - len(missing)) + missing
  if column.is_number:
    step = f' by {column.resolution:g}' if column.resolution else ''
    return f'{column.lower} to {column.upper}{step}{missing}'
  return 'never read'


def _short(text: str, width: int) -> str:
  return text if len(text) <= width else text[: max(width - 3, 0)] + '...'
