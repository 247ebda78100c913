"""Constraints: what is refused, and that what is drawn satisfies them in the file that is written.

The judge of samples is written apart: it reads the CSV and counts in whole decimals and days.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import itertools
import pathlib
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.constraints import enforce, forms
from dpgan_jax.data.tables.constraints.forms import (
  Derived,
  FixedCombinations,
  Inequality,
  OneHot,
  Range,
)
from dpgan_jax.data.tables.dataset import parse_given
from dpgan_jax.data.tables.files import read, write
from dpgan_jax.data.tables.schema import Column, Schema

COLUMNS = (
  Column(name='id', kind='id'),
  Column(name='a', kind='integer', lower=0, upper=100, nullable=True),
  Column(name='b', kind='real', lower=0, upper=100, resolution=0.1),
  Column(name='c', kind='real', lower=-5, upper=50),
  Column(name='sum', kind='real', lower=0, upper=120, resolution=0.1, nullable=True),
  Column(name='from', kind='date', lower='2000-01-01', upper='2020-12-31'),
  Column(name='to', kind='date', lower='2000-01-01', upper='2030-12-31'),
  Column(name='at', kind='datetime', lower='2000-01-01', upper='2001-01-01'),
  Column(name='days', kind='integer', lower=1, upper=400),
  Column(name='city', kind='categorical', categories=('Rome', 'Lyon', 'Paris'), nullable=True),
  Column(name='land', kind='categorical', categories=('F', 'I')),
  Column(name='x', kind='boolean', categories=('no', 'yes')),
  Column(name='y', kind='boolean', categories=('no', 'yes')),
  Column(name='z', kind='boolean', categories=('no', 'yes')),
)
SUM = Derived(column='sum', terms=(('a', 1), ('b', 1)))
DAYS = Derived(column='days', terms=(('to', 1), ('from', -1)), plus=1)
CITIES = FixedCombinations(
  columns=('city', 'land'), combinations=(('Rome', 'I'), ('Lyon', 'F'), (None, 'F'))
)
ALL = (
  SUM, DAYS, CITIES, OneHot(columns=('x', 'y', 'z')), Inequality(low='a', high='b', strict=True),
  Inequality(low='b', high='c'), Range(low=3, middle='b', high=49),
  Inequality(low='2001-05-01', high='from'),
)  # fmt: skip


def _schema(*constraints: forms.Constraint, target: str | None = None) -> Schema:
  return Schema(columns=COLUMNS, constraints=constraints, target=target)


def _random(schema: Schema, rng: np.random.Generator) -> enforce.Draw:
  """Anything in the domain, independently."""

  def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, found = len(rows), []
    for column in schema.modelled:
      if column.is_category:
        values = rng.integers(0, len(column.categories), n).astype(float)
      else:
        low, high = column.bounds
        values = np.array([column.rounded(v) for v in rng.uniform(low, high, n)])
      found.append(np.where(column.nullable & (rng.random(n) < 0.2), np.nan, values))
    classes = max(len(schema.class_names), 1)
    return np.stack(found, axis=1), rng.integers(0, classes, n)

  return draw


def _written(schema: Schema, records: np.ndarray, labels: np.ndarray) -> list[dict[str, str]]:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 's.csv'
    write.export(path, schema, records, labels if schema.target else None)
    return list(csv.DictReader(io.StringIO(path.read_text('utf-8'), newline='')))


def _number(column: Column, text: str) -> decimal.Decimal | None:
  if column.nullable and text == column.missing:
    return None
  if column.kind == 'date':
    return decimal.Decimal((datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days)
  return decimal.Decimal(text)


def _holds(schema: Schema, row: dict[str, str], constraint: forms.Constraint) -> bool:
  columns = {column.name: column for column in schema.columns}
  if isinstance(constraint, FixedCombinations):
    own = [None if columns[n].nullable and row[n] == '' else row[n] for n in constraint.columns]
    return tuple(own) in constraint.combinations
  if isinstance(constraint, OneHot):
    return [row[n] for n in constraint.columns].count('yes') == 1
  if isinstance(constraint, Derived):
    own = columns[constraint.column]
    parts = [_number(columns[n], row[n]) for n, _ in constraint.terms]
    found = _number(own, row[constraint.column])
    if None in parts:
      return found is None
    weights = [decimal.Decimal(str(w)) for _, w in constraint.terms]
    total = decimal.Decimal(str(constraint.plus))
    total += sum(w * p for w, p in zip(weights, parts, strict=True) if p is not None)
    within = decimal.Decimal(str(own.step or 0)) / 2 + decimal.Decimal('1e-6')
    return found is not None and abs(found - total) <= within
  named = [columns[v] for v in constraint.chain if v in columns]
  values = [
    _number(columns[v], row[v]) if v in columns else _number(named[0], str(v))
    for v in constraint.chain
  ]
  return all(
    (low < high if constraint.strict else low <= high)
    for low, high in itertools.pairwise(values)
    if low is not None and high is not None
  )


def _require_all(schema: Schema, records: np.ndarray, labels: np.ndarray) -> None:
  for row in _written(schema, records, labels):
    for constraint in schema.constraints:
      assert _holds(schema, row, constraint), (constraint.describe(), row)


# --- what every sample satisfies ------------------------------------------------------------------


@pytest.mark.parametrize('tries', [0, 3, 50])
@pytest.mark.parametrize('target', [None, 'land'])
def test_all_kinds_together_hold_in_the_file(monkeypatch, tries, target):
  monkeypatch.setattr(enforce, 'TRIES', tries)
  schema, rng = _schema(*ALL, target=target), np.random.default_rng(tries)
  first = _random(schema, rng)(np.arange(300))
  again = _random(schema, rng)
  draw = lambda rows: (again(rows)[0], first[1][rows])  # noqa: E731, classes that were asked for
  records, labels = enforce.drawn(schema.system, draw, 300, {len(schema.modelled)}, rng)
  _require_all(schema, records, labels)
  if target:
    np.testing.assert_array_equal(labels, first[1])
  assert np.isnan(records[:, 0]).any()  # what is missing may be so
  assert len(np.unique(records[:, 1])) > 50  # repaired rows are not all the same


@st.composite
def systems(draw: st.DrawFn) -> Schema:
  """Numbers of any grid, and constraints that may contradict each other."""
  found = [
    Column(
      name=f'n{i}', kind='real', lower=draw(st.sampled_from((-100, -0.3, 0, 7.25))),
      upper=draw(st.sampled_from((8, 33.3, 100, 1e6))),
      resolution=draw(st.sampled_from((None, 1, 0.1, 0.25, 3))), nullable=draw(st.booleans()),
      missing='none',
    )
    for i in range(3)
  ]  # fmt: skip
  names = st.sampled_from([c.name for c in found])
  ends = st.one_of(names, st.sampled_from((-20, 0.25, 7.5, 20)))
  constraints: list[forms.Constraint] = draw(
    st.lists(
      st.one_of(
        st.builds(Inequality, low=ends, high=ends, strict=st.booleans()),
        st.builds(Range, low=ends, middle=names, high=ends, strict=st.booleans()),
      ),
      min_size=1, max_size=3,
    )
  )  # fmt: skip
  if draw(st.booleans()):
    weights = st.sampled_from((1, -1, 2, 0.5, -0.1))
    terms = draw(st.dictionaries(names, weights, min_size=1, max_size=3))
    own = Column(
      name='d', kind='real', lower=-1e8, upper=draw(st.sampled_from((50, 1e8))),
      resolution=draw(st.sampled_from((None, 0.1, 1))), nullable=True, missing='none',
    )  # fmt: skip
    found.append(own)
    plus = draw(st.integers(-5, 5))
    constraints.append(Derived(column='d', terms=tuple(terms.items()), plus=plus))
  return Schema(columns=tuple(found), constraints=tuple(constraints))


@hypothesis.given(st.data(), st.integers(0, 2**32 - 1), st.sampled_from((0, 2)))
@hypothesis.settings(
  max_examples=40, suppress_health_check=[hypothesis.HealthCheck.filter_too_much]
)
def test_every_sample_satisfies_every_constraint(data, seed, tries):
  try:
    schema = data.draw(systems())
  except InputError:  # they contradict each other, or are of constants alone
    hypothesis.reject()
  rng = np.random.default_rng(seed)
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(enforce, 'TRIES', tries)
    records, labels = enforce.drawn(schema.system, _random(schema, rng), 20, (), rng)
  _require_all(schema, records, labels)


def test_a_derived_number_is_never_cut(monkeypatch):
  """However wide its bounds are: how far a sum may be beyond them had followed from their width."""
  monkeypatch.setattr(enforce, 'TRIES', 0)
  real = lambda name, low, high: Column(  # noqa: E731
    name=name, kind='real', lower=low, upper=high, nullable=name == 'd', missing='none'
  )
  schema = Schema(
    columns=(real('a', -100, 8), real('b', -100, 8), real('d', -1e8, 50)),
    constraints=(Inequality(low='a', high='b'), Derived(column='d', terms=(('a', -1),))),
  )  # fmt: skip
  rng = np.random.default_rng(0)
  records, labels = enforce.drawn(schema.system, _random(schema, rng), 800, (), rng)
  _require_all(schema, records, labels)


def test_what_satisfies_them_is_left_alone():
  schema, rng = _schema(Inequality(low='a', high='b')), np.random.default_rng(0)
  table = schema.system.joined(*_random(schema, rng)(np.arange(200)))
  right = schema.system.holds(table)
  assert 50 < right.sum() < 150
  repaired = enforce.repaired(schema.system, table, (), rng)
  np.testing.assert_array_equal(repaired[right], table[right])
  others = [n for n in range(table.shape[1]) if n not in (0, 1)]
  np.testing.assert_array_equal(repaired[:, others], table[:, others])


def test_rows_that_are_drawn_again_are_those_of_the_model_given_the_constraint():
  """Of 20,000 rows of two dice a < b, each pair has 1/15: five deviations are allowed."""
  die = {'kind': 'integer', 'lower': 1, 'upper': 6}
  columns = (Column(name='a', **die), Column(name='b', **die))
  schema = Schema(columns=columns, constraints=(Inequality(low='a', high='b', strict=True),))
  rng = np.random.default_rng(1)
  draw = lambda rows: (  # noqa: E731
    rng.integers(1, 7, (len(rows), 2)).astype(float), np.zeros(len(rows), int)
  )
  records, _ = enforce.drawn(schema.system, draw, 20_000, (), rng)
  counts = np.unique(records, axis=0, return_counts=True)[1]
  assert len(counts) == 15
  assert np.abs(counts - 20_000 / 15).max() < 5 * np.sqrt(20_000 / 15)


# --- given values ---------------------------------------------------------------------------------


def _drawn(schema: Schema, given: dict[str, str], num: int) -> tuple[np.ndarray, np.ndarray]:
  rng, (_, values) = np.random.default_rng(3), parse_given(schema, given)

  def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    records, labels = _random(schema, rng)(rows)
    for number, value in values.items():
      records[:, number] = value
    return records, labels

  return enforce.drawn(schema.system, draw, num, values, rng)


def test_given_values_stay_and_others_follow(monkeypatch):
  monkeypatch.setattr(enforce, 'TRIES', 0)
  schema = _schema(*ALL)
  given = {'b': '47.5', 'city': 'Rome', 'a': '', 'y': 'yes'}
  records, labels = _drawn(schema, given, 200)
  _require_all(schema, records, labels)
  for row in _written(schema, records, labels):
    assert (row['b'], row['city'], row['land'], row['a'], row['y']) == (
      '47.5', 'Rome', 'I', '', 'yes'
    )  # fmt: skip


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'b': '2.5'}, r'3 <= b <= 49 and b = 2\.5'),
    ({'a': '40', 'b': '30.0'}, 'a < b'),
    ({'city': 'Lyon', 'land': 'I'}, 'fixed combinations of city, land'),
    ({'x': 'yes', 'y': 'yes'}, 'one of x, y, z'),
    ({'sum': '5.0'}, "not derived, got 'sum'"),
  ],
)
def test_given_values_that_break_constraints_are_refused(given, message):
  with pytest.raises(InputError, match=message):
    _drawn(_schema(*ALL), given, 5)


# --- what is refused when a schema is read --------------------------------------------------------


@pytest.mark.parametrize(
  ('constraints', 'message'),
  [
    ([Inequality(low='a', high='b', strict=True), Inequality(low='b', high='a')], 'circle.*a, b'),
    ([Inequality(low='a', high='a')], 'columns that differ'),
    ([Inequality(low=200, high='a')], 'satisfy 200 <= a'),
    ([Range(low=60, middle='b', high='c')], 'satisfy 60 <= b <= c'),
    ([Inequality(low='b', high='c'), Inequality(low=60, high='b')], 'b <= c and 60 <= b'),
    ([Inequality(low=100, high='a', strict=True)], '100 < a'),
    ([Inequality(low='a', high=99.5), Inequality(low=99, high='a', strict=True)], '99'),
    ([Inequality(low='2025-01-01', high='from')], '2025-01-01 <= from'),
    ([Inequality(low='from', high='soon')], "expected YYYY-MM-DD, got 'soon'"),
    ([Inequality(low='a', high='from')], 'a is integer, from is date'),
    ([Inequality(low='from', high='at')], 'from is date, at is datetime'),
    ([Inequality(low='a', high='city')], "numbers, got 'city' of categorical"),
    ([Inequality(low='a', high='nobody')], "columns or numbers, got 'nobody'"),
    ([Inequality(low='id', high='a')], "columns or numbers, got 'id'"),
    ([Inequality(low=1, high=2)], 'constants alone'),
    ([Derived(column='days', terms=(('b', 1),), plus=900)], r'days = b \+ 900 in \[1, 400\]'),
    ([SUM, Inequality(low=110, high='sum'), Inequality(low='a', high=5)], r'sum = a \+ b in|110'),
    ([Derived(column='b', terms=(('a', 1),))], '"nullable": true'),
    ([Derived(column='c', terms=(('days', 1),)), DAYS], 'not derived themselves'),
    ([SUM, SUM], 'derived once'),
    ([Derived(column='a', terms=(('nobody', 1),))], "got 'nobody'"),
    ([Derived(column='sum', terms=(('from', 1), ('at', 1)))], 'days or seconds'),
    ([FixedCombinations(columns=('city', 'land'), combinations=(('Oslo', 'I'),))], "'Oslo'"),
    ([FixedCombinations(columns=('city', 'land'), combinations=(('Rome', None),))], 'missing one'),
    ([FixedCombinations(columns=('x', 'y'), combinations=(('no', 'no'),) * 2)], 'one twice'),
    ([CITIES, FixedCombinations(columns=('land', 'x'), combinations=(('F', 'no'),))], "'land'"),
    ([OneHot(columns=('x', 'land'))], "booleans, never missing; got 'land'"),
  ],
)  # fmt: skip
def test_contradictions_are_refused_by_name(constraints, message):
  with pytest.raises(InputError, match=message):
    _schema(*constraints)


def test_constraints_that_are_hard_to_solve_are_refused():
  """Sums of half of fifty numbers: a small file, in which a solver could look for days."""
  rng = np.random.default_rng(0)
  names = [f'x{i}' for i in range(50)]
  columns = [Column(name=name, kind='integer', lower=0, upper=1) for name in names]
  hard = []
  for sum_ in ('a', 'b', 'c', 'd', 'e'):
    times = rng.integers(1, 1000, len(names)).tolist()
    total, half = sum(times), sum(times) // 2
    columns.append(Column(name=sum_, kind='integer', lower=0, upper=total))
    hard.append(Derived(column=sum_, terms=tuple(zip(names, times, strict=True))))
    hard.append(Range(low=half, middle=sum_, high=half + 1))
  with pytest.raises(InputError, match='it is clear whether they can hold together') as caught:
    Schema(columns=tuple(columns), constraints=tuple(hard))
  assert len(str(caught.value)) < 400


def test_a_class_that_no_combination_has_is_refused():
  only = FixedCombinations(columns=('city', 'land'), combinations=(('Rome', 'I'),))
  with pytest.raises(InputError, match="none of 'F'"):
    _schema(only, target='land')


@pytest.mark.parametrize(
  ('record', 'message'),
  [
    ('a < b', 'expected a constraint as'),
    ({'kind': 'unique'}, 'kind of a constraint'),
    ({'kind': 'inequality', 'low': 'a'}, 'to be given by low, high, strict; got low'),
    ({'kind': 'inequality', 'low': 'a', 'high': 'b', 'strict': 1}, 'strict to be true or false'),
    ({'kind': 'inequality', 'low': True, 'high': 'b'}, 'low to be a column'),
    ({'kind': 'inequality', 'low': 10**400, 'high': 'b'}, 'low to be a column'),
    ({'kind': 'derived', 'column': 'a', 'terms': {}}, 'expected terms as'),
    ({'kind': 'derived', 'column': 'a', 'terms': {'b': 0}}, 'other than 0'),
    ({'kind': 'derived', 'column': 'a', 'terms': 'b * c'}, 'expected terms as'),
    ({'kind': 'derived', 'column': 'a', 'terms': {'b': '__import__'}}, 'other than 0'),
    ({'kind': 'one_hot', 'columns': ['a']}, '2 or more different names'),
    ({'kind': 'fixed_combinations', 'columns': ['a', 'b'], 'combinations': []}, 'list of 1 to'),
    ({'kind': 'fixed_combinations', 'columns': ['a', 'b'], 'combinations': [['x']]}, '2 texts'),
  ],
)
def test_what_is_no_constraint_is_refused(record, message):
  with pytest.raises(InputError, match=message):
    forms.from_record(record)


def test_constraints_come_back_as_they_were():
  schema = _schema(*ALL)
  assert Schema.from_record(schema.to_record()) == schema
  assert 'constraints' not in _schema().to_record()  # as before there were any


# --- private rows ---------------------------------------------------------------------------------


def test_rows_that_break_them_are_read_as_they_are_and_told_to_the_owner():
  columns = [c for c in COLUMNS if c.name in ('a', 'b', 'sum')]
  schema = Schema(columns=tuple(columns), constraints=(SUM, Inequality(low='a', high='b')))
  table = {
    'a': [1, 9, None, 3], 'b': [2.0, 4.0, 5.0, 3.0], 'sum': [3.0, 13.0, None, 7.0]
  }  # fmt: skip
  found = read.read_table(table, schema)
  np.testing.assert_array_equal(found.records, [[1, 2], [9, 4], [np.nan, 5], [3, 3]])
  assert found.spec.shape == (2,)  # what is derived is not modelled
  assert [note.partition(':')[0] for note in found.notes] == [
    '1 rows break a <= b', '1 rows break sum, which is derived'
  ]  # fmt: skip
  assert 'rows break' not in repr(found)
