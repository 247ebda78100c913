"""Small schemas and random ones, for tests of tables."""

from __future__ import annotations

import datetime

import numpy as np
from hypothesis import strategies as st

from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema

SCHEMA = Schema(
  columns=(
    Column(name='id', kind='id'),
    Column(name='plz', kind='categorical', categories=('01067', '50667', 'other')),
    Column(name='age', kind='integer', lower=0, upper=120, nullable=True),
    Column(name='x', kind='real', lower=-1.0, upper=1.0, resolution=0.1),
    Column(name='ill', kind='boolean', categories=('false', 'true')),
  ),
  target='ill',
)
"""One column of most kinds."""

ROWS = 'id,plz,age,x,ill\nA1,01067,41,0.5,true\nA2,50667,,-0.3,false\n'
"""Two rows of `SCHEMA`: [[0, 41, 0.5], [1, nan, -0.3]] of the classes 1 and 0."""

_texts = st.text(
  st.one_of(
    st.characters(exclude_categories=('Cs',), exclude_characters='\0'),
    st.sampled_from(list(',;\t"\'\r\n 0159.-NA\ufeff')),
  ),
  max_size=8,
)
_days = st.dates(datetime.date(1, 1, 1), datetime.date(9999, 12, 31))
_seconds = st.datetimes(
  datetime.datetime(1000, 1, 1), datetime.datetime(9999, 12, 31), allow_imaginary=False
).map(lambda each: each.replace(microsecond=0))


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
  """A column of any kind, but an identifier."""
  kind = draw(
    st.sampled_from(('categorical', 'ordinal', 'boolean', 'integer', 'real', 'date', 'datetime'))
  )
  nullable = draw(st.booleans())
  if kind in ('categorical', 'ordinal', 'boolean'):
    least, most = (2, 2) if kind == 'boolean' else (1, 6)
    found = draw(st.lists(_texts, min_size=least, max_size=most, unique=True))
    if kind == 'boolean':
      found = draw(st.sampled_from((found, ['false', 'true'], ['False', 'True'], ['0', '1'])))
    missing = draw(_texts.filter(lambda text: text not in found))
    return Column(name=name, kind=kind, categories=tuple(found), nullable=nullable, missing=missing)
  missing, resolution = draw(st.sampled_from(('', 'NA', 'n, "a"'))), None
  if kind == 'integer':
    ends = st.one_of(st.integers(-(2**52), 2**52), st.integers(-200, 200))
    resolution = draw(st.sampled_from((None, 1, 5)))
  elif kind == 'real':
    ends = st.floats(-1e6, 1e6).map(lambda each: round(each, 4))
    resolution = draw(st.sampled_from((None, 1, 0.1, 0.25, 0.001, 1e-5)))
  else:
    ends = (_days if kind == 'date' else _seconds).map(lambda each: each.isoformat())
    resolution = draw(st.sampled_from((None, 1, 7)))
  low, high = sorted((draw(ends), draw(ends)))
  return Column(
    name=name, kind=kind, lower=low, upper=high, resolution=resolution, nullable=nullable,
    missing=missing,
  )  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> TableDataset:
  """A table of a random schema, its values anywhere in the domain."""
  names = draw(
    st.lists(_texts.filter(lambda name: name.strip()), min_size=1, max_size=5, unique=True)
  )
  found = [draw(columns(name)) for name in names]
  target = None
  last = found[-1]
  if len(found) > 1 and len(last.categories) > 1 and not last.nullable:
    target = last.name
  if draw(st.booleans()):
    place = draw(st.integers(0, len(found)))
    found.insert(place, Column(name='the id', kind='id'))
  schema = Schema(columns=tuple(found), target=target)
  rows = draw(st.integers(1, 6))
  records = np.empty((rows, len(schema.modelled)))
  for number, column in enumerate(schema.modelled):
    for row in range(rows):
      records[row, number] = draw(values(column))
  classes = max(len(schema.class_names), 1)
  labels = np.array([draw(st.integers(0, classes - 1)) for _ in range(rows)], np.int32)
  return TableDataset(records=records, labels=labels, schema=schema, name='random')


def values(column: Column) -> st.SearchStrategy[float]:
  """Numbers that a column may hold, the missing one among them."""
  if column.is_category:
    held = st.integers(0, len(column.categories) - 1).map(float)
  else:
    held = st.floats(*column.bounds).map(column.rounded)
  return st.one_of(held, st.just(np.nan)) if column.nullable else held
