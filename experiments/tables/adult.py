"""UCI Adult with its schema, declared by hand from the donors' note, and its own split.

`adult.csv` has the 15 columns of the UCI file and a column `split`. Bounds are round numbers that
hold for anybody; categories are those of adult.names; a question mark is a missing value.
"""

from __future__ import annotations

import csv
import pathlib
import tempfile

from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read
from dpgan_jax.data.tables.schema import Column, Schema

_NUMBERS = {
  'age': (0, 100), 'fnlwgt': (0, 1_500_000), 'education-num': (1, 16), 'capital-gain': (0, 99_999),
  'capital-loss': (0, 5_000), 'hours-per-week': (0, 99),
}  # fmt: skip


def schema(names: list[str], values: dict[str, set[str]]) -> Schema:
  """Of Adult; the categories are public, and read from the file instead of typed here."""
  columns = []
  for name in names:
    if name in _NUMBERS:
      lower, upper = _NUMBERS[name]
      columns.append(Column(name=name, kind='integer', lower=lower, upper=upper))
    else:
      missing = '?' in values[name]
      categories = tuple(sorted(values[name] - {'?'}))
      columns.append(
        Column(
          name=name, kind='categorical', categories=categories, nullable=missing,
          missing='?' if missing else '',
        )
      )  # fmt: skip
  return Schema(columns=tuple(columns), target='income', declared_public=True)


def load(folder: str) -> tuple[TableDataset, TableDataset]:
  """Training and test rows of the UCI split."""
  with (pathlib.Path(folder) / 'adult.csv').open(encoding='utf-8', newline='') as file:
    header, *rows = csv.reader(file)
  place = header.index('split')
  names = [name for name in header if name != 'split']
  values = {name: {row[header.index(name)] for row in rows} for name in names}
  described, parts = schema(names, values), []
  for split in ('train', 'test'):
    with tempfile.TemporaryDirectory() as scratch:
      path = pathlib.Path(scratch) / f'{split}.csv'
      with path.open('w', encoding='utf-8', newline='') as file:
        kept = [r[:place] + r[place + 1 :] for r in rows if r[place] == split]
        csv.writer(file).writerows([names, *kept])
      parts.append(read.read_table(path, described, name='adult', partial=split == 'test'))
  return parts[0], parts[1]
