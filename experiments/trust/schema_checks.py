"""Checks of what finds a table's schema: how far a record moves counts, their noise, what is named,
when it is charged, and that nothing of a draft is left.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files.open import OpenTable, read_open
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.domains import grid, plan, search
from dpgan_jax.models.domains.plan import OpenMoments
from dpgan_jax.privacy.releases import marginals, selection
from dpgan_jax.run import trainer
from dpgan_jax.run.directory import RunDir
from experiments.trust.moments_checks import require_charged, require_moved_by_one
from experiments.trust.statistical_checks import Stop, Violation

_N, _MOST, _DRAWS = 60, 3, 8
SECRET = bytes(32)
OUTLIERS = 987654321, 'Zanzibar'
"""A number and a category that one record alone has."""


def frame(n: int, rows: int = 1) -> dict[str, list[Any]]:
  """`n` persons with `rows` rows each."""
  rng = np.random.default_rng(n)
  count = n * rows
  return {
    'who': [f'p{i // rows}' for i in range(count)],
    'age': rng.integers(20, 80, count).tolist(),
    'weight': rng.normal(70, 12, count).round(1).tolist(),
    'town': rng.choice(['Ulm', 'Köln'], count).tolist(),
    'ill': rng.choice(['no', 'yes'], count).tolist(),
  }


def table(data: dict[str, list[Any]], k: int | None = None) -> OpenTable:
  """As it is read with its own draft."""
  who = {'unit_column': 'who', 'max_rows_per_unit': k} if k else {}
  if not k:
    data = {name: values for name, values in data.items() if name != 'who'}
  return read_open(data, draft_schema(data, target='ill', **who)[0])


def with_one_more(data: dict[str, list[Any]], times: int = 1) -> dict[str, list[Any]]:
  """A person more, with as many rows, each of values that nobody else has."""
  row = {'who': 'more', 'age': OUTLIERS[0], 'weight': 0.123, 'town': OUTLIERS[1], 'ill': 'yes'}
  return {name: [*values, *[row[name]] * times] for name, values in data.items()}


@functools.cache
def planned(k: int | None = None) -> OpenMoments:
  config = TrainConfig(target_epsilon=2.0, schema_epsilon=1.0, delta=1e-5, dataset='table')
  return plan.make(config, table(frame(_N), k).spec)


@contextmanager
def counted() -> Iterator[dict[str, dict[Any, int]]]:
  """What is counted, by purpose and cell or value, without noise; bounds of the second round are
  always the same.
  """
  found: dict[str, dict[Any, int]] = {}

  def with_noise(counts: np.ndarray, sigma: float, squared: int, secret: bytes, about: str) -> Any:
    del sigma, squared, secret
    found[about] = {i: int(count) for i, count in enumerate(counts)}
    return counts.astype(np.float64)

  def named(codes: np.ndarray, size: int, *, purpose: str, **_: Any) -> dict[int, float]:
    text = names[purpose.partition(' ')[2]]
    counts = np.bincount(codes, minlength=size)
    found[purpose] = {text[i]: int(count) for i, count in enumerate(counts) if count}
    return {i: float(count) for i, count in enumerate(counts) if count}

  right = OpenTable.text
  names: dict[str, list[str]] = {}

  def text(self: OpenTable, name: str) -> Any:
    column = right(self, name)
    names[repr(name)] = column.texts.to_pylist()
    return column

  with (
    mock.patch.object(marginals, 'with_noise', with_noise),
    mock.patch.object(selection, 'release_named', named),
    mock.patch.object(grid, 'occupied', return_value=(3, 5)),
    mock.patch.object(OpenTable, 'text', text),
  ):
    yield found


def _moved(k: int | None, rows: int) -> float:
  """How far a record with so many rows moves all counts, in units of how far it may."""
  found = []
  mechanism, others = planned(k).mechanism, frame(_N, k or 1)
  open_tables = (table(others, k), table(with_one_more(others, rows), k))
  for each in open_tables:
    with counted() as counts:
      search.find(each, mechanism, SECRET)
    found.append(dict(counts))
  one, other = found
  squares = sum(
    (other[about].get(cell, 0) - one.get(about, {}).get(cell, 0)) ** 2
    for about in other
    for cell in {*other[about], *one.get(about, {})}
  )
  return math.sqrt(squares / search.squared_sensitivity(open_tables[0].schema))


def one_row_moves_the_counts_by_one() -> None:
  """In units of the sensitivity: a row with values that nobody else has."""
  require_moved_by_one('row', {'counts': _moved(None, 1)})


def one_person_moves_the_counts_by_one() -> None:
  """A person with as many rows as count, and with more, all alike: the same as one row."""
  for rows in (1, _MOST, _MOST + 4):
    require_moved_by_one('person', {'counts': _moved(_MOST, rows)})


def noise_of_the_schema_is_charged() -> None:
  """Counts of cells have the noise that is accounted for.

  A deviation of n draws is off by 1/√(2n), here at most 1/√(2·4,000): a tenth is nine of that.
  """
  made, mechanism = table(frame(_N)), planned().mechanism
  right, draws = marginals.with_noise, []

  def with_noise(counts: np.ndarray, *rest: Any) -> np.ndarray:
    noisy = right(counts, *rest)
    draws.append(noisy - counts)
    return noisy

  with mock.patch.object(marginals, 'with_noise', with_noise):
    for number in range(_DRAWS):
      search.find(made, mechanism, number.to_bytes(32, 'big'))
  deviation = mechanism.noise_multiplier * math.sqrt(search.squared_sensitivity(made.schema))
  require_charged({'the schema': np.concatenate(draws) / deviation}, 0.1)


def what_one_record_has_is_not_in_the_schema() -> None:
  """Of 2,000 people and one with an age and a town of their own, in five searches.

  That a search names the town has a chance of 1e-9; an age so far from all is a bound with one of
  1e-6, at five deviations of noise in one of about a hundred cells.
  """
  mechanism = planned().mechanism
  made = table(with_one_more(frame(2000)))
  for number in range(5):
    found = search.find(made, mechanism, number.to_bytes(32, 'big'))
    age, _, town, _ = found.columns
    if OUTLIERS[1] in town.categories:
      raise Violation('a category that one record alone has is named')
    if age.bounds[1] > OUTLIERS[0] / 2:
      raise Violation(f'the upper bound {age.upper} is the value of one record')


def the_schema_is_charged_before_it_is_found() -> None:
  """When the first private record is looked at, the ledger on the disk charges the schema."""
  made, config = table(frame(_N)), planned().config
  with tempfile.TemporaryDirectory() as folder:
    run = RunDir(pathlib.Path(folder) / 'run')

    def find(*_: Any) -> Any:
      stages = planned().budget.stages
      charged = Ledger.read(run.ledger, stages=stages, identity=run.identity())
      if charged.charged_steps('schema') != 1:
        raise Violation('the schema is found before it is charged')
      raise Stop

    with mock.patch.object(search, 'find', find):
      try:
        trainer.train(config, made, run.path, progress=False)
      except Stop:
        return
  raise Violation('the schema was not found by the stage that is charged')


def the_schema_counts_in_epsilon() -> None:
  """The rest of a run spends what the schema has left, and its ε is that of all three."""
  found = planned()
  made = table(frame(_N))
  whole = found.closed(search.find(made, found.mechanism, SECRET)).budget.epsilon()
  without = dataclasses.replace(
    found.budget, beside={n: m for n, m in found.budget.beside.items() if n != 'schema'}
  )
  if not without.epsilon() * 1.1 < whole <= 2.0:
    raise Violation(f'the epsilon of a run, {whole:.4g}, leaves out what found its schema')
