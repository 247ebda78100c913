"""Checks of releases of tables: how far a row moves counts, what noise they get, whose cells."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from dpgan_jax.data import sources
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.models.moments.tables import choice
from dpgan_jax.models.moments.tables.shrinkage import counted
from dpgan_jax.privacy.releases import marginals
from experiments.trust.moments_checks import released, require_charged, require_moved_by_one
from experiments.trust.statistical_checks import Violation

_SCHEMA = Schema(
  columns=(
    Column(name='age', kind='integer', lower=0, upper=120),
    *(Column(name=name, kind='categorical', categories=tuple('wxyz')) for name in 'abcd'),
    Column(name='ill', kind='boolean', categories=('no', 'yes')),
  ),
  target='ill',
)
_N, _DRAWS = 40, 40
_COLUMNS = len(_SCHEMA.modelled)
_PAIRS = _COLUMNS * (_COLUMNS - 1) // 2


_MOST = 3
_PERSONS = Schema(
  columns=(Column(name='who', kind='id'), *_SCHEMA.columns), target='ill', unit_column='who',
  max_rows_per_unit=_MOST,
)  # fmt: skip


@functools.cache
def _moments(epsilon: float, schema: Schema = _SCHEMA) -> Moments:
  spec = Spec.of_schema(schema, num_records=_N, name='made')
  config = TrainConfig(target_epsilon=epsilon, delta=1e-5, moments_coefficients=6)
  return settings.make(config, spec)


def _records(n: int) -> tuple[np.ndarray, np.ndarray]:
  """Rows of people from 30 to 60."""
  rng = np.random.default_rng(n)
  ages = rng.integers(30, 61, (n, 1))
  return np.hstack([ages, rng.integers(0, 4, (n, 4))]).astype(float), np.arange(n) % 2


def _released(
  records: np.ndarray, labels: np.ndarray, moments: Moments, number: int = 0,
  first: Means | None = None,
) -> tuple[Means, np.ndarray]:  # fmt: skip
  return released(moments.encoding.encode(records), labels, moments, number, first)


class _Seen(NamedTuple):
  """What one use of the noise was given, and gave."""

  about: str
  counts: np.ndarray
  noise_multiplier: float
  noisy: np.ndarray
  squared: int

  @property
  def kind(self) -> str:
    return self.about.split()[0]


@contextmanager
def _watched() -> Iterator[list[_Seen]]:
  """All that is given noise, in order: one-way counts, scores of pairs, counts of pairs."""
  right, found = marginals.with_noise, []

  def with_noise(counts: Any, sigma: float, squared: int, secret: bytes, about: str) -> Any:
    noisy = right(counts, sigma, squared, secret, about)
    found.append(_Seen(about, np.asarray(counts, float), sigma, noisy, squared))
    return noisy

  with mock.patch.object(marginals, 'with_noise', with_noise):
    yield found


def noise_of_counts_is_charged() -> None:
  """Of no rows at all, one-way counts, scores and two-way counts have noise by what a row moves.

  A deviation of n draws is off by 1/√(2n), here at most 1/√(2·800): a seventh is five of that.
  """
  _require_charged_noise(_moments(1.0), 1)


def noise_of_persons_is_charged() -> None:
  """The same of persons, whose k rows it has to hide."""
  _require_charged_noise(_moments(1.0, _PERSONS), _MOST)


def _require_charged_noise(moments: Moments, k: int) -> None:
  nothing = np.zeros((0, _COLUMNS)), np.zeros(0, int)
  found: dict[str, list[np.ndarray]] = {'one-way': [], 'scores': [], 'pairs': []}
  for number in range(_DRAWS):
    with _watched() as seen:
      _, seconds = _released(*nothing, moments, number)
    counted_pairs = np.triu(counted(seconds, moments.encoding.sizes).any(axis=0))
    of_a_row = {'one-way': _COLUMNS, 'scores': 2 * _PAIRS, 'pairs': int(counted_pairs.sum())}
    for each in seen:
      unit = max(each.noise_multiplier, 1e-9) * k * math.sqrt(of_a_row[each.kind])
      found[each.kind].append((each.noisy - each.counts).ravel() / unit)
  require_charged({name: np.concatenate(parts) for name, parts in found.items()}, 1 / 7)


def scores_and_counts_of_pairs_are_charged() -> None:
  """Together they cost what the stage does, and so do one-way counts."""
  moments, (records, labels) = _moments(1.0), _records(_N)
  with _watched() as seen:
    _released(records, labels, moments)
  for stage, kinds in ((MEANS, {'one-way'}), (SECONDS, {'scores', 'pairs'})):
    sigmas = {each.kind: each.noise_multiplier for each in seen if each.kind in kinds}
    if sigmas.keys() != kinds or not all(sigma > 0 for sigma in sigmas.values()):
      raise Violation(f'{" or ".join(kinds)} of a table are released without noise')
    accounted = 1 / moments.stages[stage].noise_multiplier ** 2
    if not sum(1 / sigma**2 for sigma in sigmas.values()) <= (1 + 1e-9) * accounted:
      raise Violation(f'{" and ".join(kinds)} of a table cost more than is accounted for')


def classes_of_rows_have_noise_of_their_own() -> None:
  """Two classes of no rows: what is released of them is not the same."""
  moments, nothing = _moments(1.0), (np.zeros((0, _COLUMNS)), np.zeros(0, int))
  means, seconds = _released(*nothing, moments)
  for name, counts in (('one-way', means.sums), ('two-way', seconds)):
    if (counts[0] == counts[1])[counts[0] != 0].all():
      raise Violation(f'{name} counts of two classes got the same noise: their difference is free')


def _require_moved_by_one(
  what: str, moments: Moments, without: tuple[np.ndarray, ...], with_it: tuple[np.ndarray, ...]
) -> None:
  """Of rows and labels without a record and with it, in units of what noise is made for; the same
  pairs are counted, as scores with the same noise would hardly say other ones.
  """
  pair, others = np.zeros((2, _COLUMNS, _COLUMNS), bool)
  pair[0, 1], others[0, 2], others[1, 2], others[0, 0] = True, True, True, True
  first, squares, units = None, defaultdict[str, float](float), {}
  releases = []
  with mock.patch.object(choice, 'choose', return_value=(pair, others)):
    for rows in (without, with_it):
      with _watched() as seen:
        first, _ = _released(*rows, moments, first=first)
      releases.append(seen)
  for one, other in zip(*releases, strict=True):
    squares[one.kind] += float(np.square(other.noisy - one.noisy).sum())
    units[one.kind] = one.squared
  moved = {kind: math.sqrt(square / units[kind]) for kind, square in squares.items()}
  require_moved_by_one(what, moved)


def one_row_moves_counts_by_one() -> None:
  """Any row more, of any class, in units of the sensitivity; of each pair of cells once."""
  moments, (records, labels) = _moments(math.inf), _records(_N)
  for row in ([0.0, 0, 0, 0, 0], [120.0, 3, 3, 3, 3], list(records[0])):
    more = np.vstack([records, row]), np.append(labels, 1)
    _require_moved_by_one('row', moments, (records, labels), more)


def cells_are_public() -> None:
  """The cells of a row are the same whoever else is in the table."""
  encoding, (records, _) = _moments(1.0).encoding, _records(_N)
  more = np.vstack([records, [119.0, 0, 0, 0, 0]])
  if (encoding.encode(more)[:-1] != encoding.encode(records)).any():
    raise Violation('one row more moves others to other cells: bounds are read from the data')


# --- persons with several rows --------------------------------------------------------------------


def _visits(rows: list[tuple[str, list[float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Records, labels and persons of a table as it is read; a row's last number is its class."""
  names = [column.name for column in _SCHEMA.columns]
  frame = {'who': [who for who, _ in rows]}
  for place, column in enumerate(_SCHEMA.columns):
    frame[names[place]] = [column.format(row[place]) for _, row in rows]
  table = read.read_table(frame, _PERSONS)
  assert table.persons is not None
  return table.records, table.labels, table.persons


def a_person_moves_counts_by_one() -> None:
  """A person more, who has more rows than count: alike, all different, of one class and of two."""
  moments = _moments(math.inf, _PERSONS)
  records, labels = _records(_N)
  others = [
    (f'p{i // 2}', [*record, label])
    for i, (record, label) in enumerate(zip(records.tolist(), labels.tolist(), strict=True))
  ]
  for person in (
    [[120.0, 3, 3, 3, 3, 1]] * (_MOST + 4),
    [[20.0 * i, i % 4, 0, 0, i % 4, i % 2] for i in range(_MOST + 4)],
    [[0.0, 0, 0, 0, 0, i % 2] for i in range(_MOST + 4)],
  ):
    all_of_them = _visits([*others, *(('more', row) for row in person)])[:2]
    _require_moved_by_one('person', moments, _visits(others)[:2], all_of_them)


def a_person_is_held_out_as_a_whole() -> None:
  """Of 60 persons with three rows each, nobody is on both sides."""
  rows = [(f'p{i}', [30.0 + i, j, 0, 0, 0, j % 2]) for i in range(60) for j in range(3)]
  records, labels, whose = _visits(rows)
  table = TableDataset(
    records=records, labels=labels, persons=whose, schema=_PERSONS, name='made', partial=True
  )
  train, test = sources.hold_out(table, 0.3)
  assert train.persons is not None
  assert test.persons is not None
  if (split := len(np.intersect1d(train.persons, test.persons))):
    raise Violation(f'{split} of 60 persons are trained on and held out: scores are of their rows')


def rows_of_a_person_follow_from_that_person() -> None:
  """Which rows count is the same whoever else is in the table."""
  rows = [('a', [20.0 + j, 0, 0, 0, 0, 0]) for j in range(9)]
  others = [('b', [90.0, 1, 1, 1, 1, 1])] * 5
  (alone, _, _), (found, _, among) = _visits(rows), _visits([*others, *rows])
  if not np.array_equal(alone, found[among == persons.digests(['a'])[0]]):
    raise Violation('one person more changes which rows of another count')
