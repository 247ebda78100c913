"""The public description of series: channels over a grid of times, and static columns.

One record is one sequence with its static columns: a person's stay, a machine's day. It is a row of
a matrix, as a row of a table is: the static columns, and after them what each channel has at each
step, step by step. So all that is said of a table's rows holds of it (`TableDataset`).

>>> schema = SeriesSchema(
...   columns=(Column(name='age', kind='integer', lower=0, upper=120),),
...   channels=(Channel(name='pulse', kind='real', lower=0, upper=300, nullable=True),),
...   grid=Grid(steps=3),
... )
>>> len(schema.modelled), schema.split(np.array([[41.0, 60, np.nan, 70]]))[1].shape
(4, (1, 3, 1))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from dpgan_jax import _validate
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.schema import Column, Schema, is_text
from dpgan_jax.data.tables.values import LARGEST, require_format

MOST_STEPS, MOST_CHANNELS, MOST_VALUES = 10_000, 500, 50_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channel(Column):
  """What is measured over time: a column of whole or real numbers, and

  Attributes:
    unit: for people.
    typical: the range in which nearly all values lie, public; what lies outside it is learnt as if
      it were at its nearer end. Default: the bounds, which are often far wider, and then little is
      learnt at a small ε.

  Raises:
    InputError: as of a column, or a range that is not within the bounds.
  """

  unit: str = ''
  typical: tuple[float, float] | None = None

  def _check(self) -> None:
    super()._check()
    _validate.one_of('kind of a channel', self.kind, ('integer', 'real'))
    if not is_text(self.unit):
      raise InputError(f'expected unit to be text, got {self.unit!r}')
    if self.bounds[0] == self.bounds[1]:
      raise InputError(f'expected lower < upper of a channel, got {self.lower!r} twice')
    if self.typical is not None:
      if not isinstance(self.typical, tuple) or len(self.typical) != 2:
        raise InputError(f'expected typical to be a list of two numbers, got {self.typical!r}')
      low, high = map(self.number, self.typical)
      if not self.bounds[0] <= low < high <= self.bounds[1]:
        raise InputError(
          f'expected typical to be a range within the bounds, got {list(self.typical)}'
        )

  @functools.cached_property
  def range(self) -> tuple[float, float]:
    """Within which values are learnt."""
    return self.bounds if self.typical is None else (
      float(self.typical[0]), float(self.typical[1])
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """The times that all records share: cell t holds times in [start + t·step, start + (t+1)·step).

  Attributes:
    steps: T, how many cells, ≥ 2.
    start: the beginning of the first.
    step: how long each is.
    within: what stands for several measurements in a cell: their 'mean', or the 'last'.
    outside: what becomes of a time before or after all of them: 'refuse', or 'drop'.
    drafted: names of fields above that were read from the data, and are not confirmed yet.

  Raises:
    InputError: a value out of range.
  """

  steps: int
  start: float = 0.0
  step: float = 1.0
  within: str = 'mean'
  outside: str = 'refuse'
  drafted: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if isinstance(self.steps, int) and self.steps == 1:
      raise InputError('expected steps >= 2 of a grid, got 1: records of one time are a table')
    _validate.integer('steps', self.steps, minimum=2, maximum=MOST_STEPS)
    _validate.positive('step', self.step)
    if isinstance(self.start, bool) or not isinstance(self.start, int | float):
      raise InputError(f'expected start to be a number, got {self.start!r}')
    last = abs(self.start) + self.step * self.steps
    if not last <= LARGEST * min(self.step, 1):
      raise InputError(
        f'expected start and steps within 2^53 and 2^53 steps of zero, got start {self.start!r} '
        f'and step {self.step!r}'
      )
    if not isinstance(self.drafted, tuple):
      raise InputError(f'expected drafted to be a list, got {self.drafted!r}')
    _validate.one_of('within', self.within, ('mean', 'last'))
    _validate.one_of('outside', self.outside, ('refuse', 'drop'))
    for field in self.drafted:
      _validate.one_of('drafted', field, ('steps', 'start', 'step'))

  def cells(self, times: np.ndarray) -> np.ndarray:
    """The cell of each time, int64 [n]; -1 outside."""
    # A time of 0.3 on steps of 0.1 is in cell 3, although 0.3/0.1 is a little less.
    found = np.floor((times - self.start) / self.step + 1e-9)
    return np.where((found >= 0) & (found < self.steps), found, -1).astype(np.int64)

  @property
  def times(self) -> np.ndarray:
    """The beginning of each cell, float64 [T]."""
    return self.start + self.step * np.arange(self.steps)

  @classmethod
  def from_record(cls, record: Any) -> Grid:
    """The inverse of `dataclasses.asdict`, defaults left out.

    Raises:
      InputError: it is none.
    """
    names = {f.name for f in dataclasses.fields(cls)}
    if not isinstance(record, Mapping) or not {'steps'} <= record.keys() <= names:
      raise InputError(
        f'expected a grid of steps and, where they apply, {", ".join(sorted(names - {"steps"}))}; '
        f'got {record!r}'
      )
    lists = {n: tuple(v) for n, v in record.items() if isinstance(v, list)}
    return cls(**{**record, **lists})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesSchema(Schema):
  """What is public of series.

  Attributes:
    columns: static columns, the target among them; there may be none.
    channels: in their order, ≥ 1.
    grid: of all records.
    id, time: columns of a long table that say whose a row is, and when it was measured.

  Raises:
    InputError: names that occur twice, or more values than can be handled.
  """

  columns: tuple[Column, ...] = ()
  channels: tuple[Channel, ...]
  grid: Grid
  id: str = 'id'
  time: str = 'time'

  kind: ClassVar = 'series'
  format: ClassVar = 'dpgan_jax series 1'

  def __post_init__(self) -> None:
    if not 1 <= len(self.channels) <= MOST_CHANNELS:
      raise InputError(f'expected 1 to {MOST_CHANNELS} channels, got {len(self.channels)}')
    if self.grid.steps * len(self.channels) > MOST_VALUES:
      raise InputError(
        f'expected at most {MOST_VALUES} steps times channels, got {self.grid.steps} times '
        f'{len(self.channels)}'
      )
    for field in ('id', 'time'):
      name = getattr(self, field)
      if not is_text(name) or not name.strip():
        raise InputError(f'expected {field} to be the name of a column, got {name!r}')
    names = [self.id, self.time, *(c.name for c in (*self.columns, *self.channels))]
    if len(set(names)) < len(names):
      twice = next(name for name in names if names.count(name) > 1)
      raise InputError(f'expected names that differ, got {twice!r} twice')
    if any(column.kind == 'id' for column in self.columns):
      raise InputError('expected the identifier of records as "id", not among static columns')
    if self.constraints:
      raise InputError('expected no constraints of series: they are of tables only')
    if self.unit_column is not None or self.max_rows_per_unit is not None:
      raise InputError('expected no unit_column of series: a record is a sequence, by its id')
    super().__post_init__()

  @property
  def unit(self) -> str:
    return 'sequence'

  @functools.cached_property
  def static(self) -> tuple[Column, ...]:
    """Static columns of the matrix: all but the target."""
    return tuple(c for c in self.columns if c.name != self.target)

  @functools.cached_property
  def modelled(self) -> tuple[Column, ...]:
    """The columns of the matrix: static ones, then all channels at the first step, and so on."""
    return (*self.static, *(self.channels * self.grid.steps))

  @property
  def nullable(self) -> np.ndarray:
    """Of which channels values may be missing, bool [C]."""
    return np.array([channel.nullable for channel in self.channels])

  def split(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(static float64 [n, S], values float64 [n, T, C]) of rows of the matrix."""
    static, shape = len(self.static), (self.grid.steps, len(self.channels))
    return records[:, :static], records[:, static:].reshape(len(records), *shape)

  def join(self, static: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The inverse of `split`."""
    flat = values.reshape(len(values), self.grid.steps * len(self.channels))
    return np.concatenate([static, flat], axis=1)

  def __str__(self) -> str:
    size = f'{self.grid.steps} steps × {len(self.channels)} channels'
    return f'series of {size}, {len(self.columns)} static'

  def unconfirmed(self) -> dict[str, tuple[str, ...]]:
    if self.declared_public:
      return {}
    found = {c.name: c.drafted for c in (*self.columns, *self.channels) if c.drafted}
    return found | ({'grid': self.grid.drafted} if self.grid.drafted else {})

  def to_record(self) -> dict[str, Any]:
    grid = {
      f.name: getattr(self.grid, f.name) for f in dataclasses.fields(Grid)
      if getattr(self.grid, f.name) != f.default
    }  # fmt: skip
    return {
      **super().to_record(), 'id': self.id, 'time': self.time,
      'grid': {n: list(v) if isinstance(v, tuple) else v for n, v in grid.items()},
      'channels': [channel.to_record() for channel in self.channels],
    }  # fmt: skip

  @classmethod
  def from_record(cls, record: Any) -> SeriesSchema:
    require_format(record, cls.format)
    known = {'format', 'target', 'declared_public', 'columns', 'id', 'time', 'grid', 'channels'}
    unknown = sorted(record.keys() - known)
    lists = [record.get('columns', []), record.get('channels')]
    if unknown or not all(isinstance(each, list) for each in lists):
      raise InputError(f'expected a schema of channels and a grid, got {unknown or "no channels"}')
    return cls(
      columns=tuple(Column.from_record(each) for each in lists[0]),
      channels=tuple(Channel.from_record(each) for each in record['channels']),
      grid=Grid.from_record(record.get('grid')),
      id=record.get('id', 'id'),
      time=record.get('time', 'time'),
      target=record.get('target'),
      declared_public=_validate.one_of(
        'declared_public', record.get('declared_public', False), (True, False)
      ),
    )
