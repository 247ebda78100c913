"""Drafts the description of a table: `python -m dpgan_jax.schema people.csv
--out=people.schema.json`; or of series, with --series: an .npz file, or a long table with
the columns --id and --time.

A schema says what each column may hold, and is public: whoever gets synthetic rows learns it. The
draft reads it from the data, and says so for each entry ("drafted"); training refuses such entries
until they are confirmed. Put in the domain that everybody knows (ages from 0 to 120, all codes of
the register) in the place of what the data happen to hold, then take the names out of "drafted"; or
say with --declare_public that all of it is public.
"""

from __future__ import annotations

import dataclasses
import functools

from dpgan_jax import _cli, _settings, _validate
from dpgan_jax.data.series import draft as series
from dpgan_jax.data.tables import draft
from dpgan_jax.data.tables.files import schema_file
from dpgan_jax.data.tables.schema import MOST_ROWS_PER_UNIT

_field = functools.partial(_settings.field, group='schema', common=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Flags of this command."""

  data_dir: str | None = _field(
    None,
    'The table, a CSV or Parquet file (of series .npz too); it may also stand alone, without the '
    'name of a flag.',
    alias='data',
  )
  out: str | None = _field(None, 'The JSON file to write.')
  target: str | None = _field(
    None, 'The column whose values are the classes of records, if there is one.'
  )
  unit_column: str | None = _field(
    None, 'The column that says whose a row is, where persons have several rows.'
  )
  max_rows_per_unit: int | None = _field(
    None, 'With unit_column: rows of a person that count; the others are left out.', minimum=1,
    maximum=MOST_ROWS_PER_UNIT,
  )
  series: bool = _field(False, 'Describe series: each record is a sequence over time.')
  id: str = _field('id', 'With series: the column of a long table that says whose a row is.')
  time: str = _field('time', 'With series: the column that says when, a number.')
  step: float = _field(1.0, 'With series: how long a step of the grid is.', above=0)
  declare_public: bool = _field(
    False, 'Confirm every entry, without looking: all that was read from the data is public.'
  )
  overwrite: bool = _field(False, 'Replace what is there.')

  __post_init__ = _settings.check


def define_flags() -> None:
  _cli.define_flags(Options)


def main() -> None:
  options = _cli.config_from_flags(Options)
  if options.data_dir is None or options.out is None:
    raise _validate.InputError('expected the file of a table and --out=FILE for its schema')
  if options.series:
    schema, notes = series.draft_series(
      options.data_dir, id=options.id, time=options.time, step=options.step,
      target=options.target, declare_public=options.declare_public,
    )  # fmt: skip
    described = series.describe(schema)
  else:
    schema, notes = draft.draft_schema(
      options.data_dir, target=options.target, declare_public=options.declare_public,
      unit_column=options.unit_column, max_rows_per_unit=options.max_rows_per_unit,
    )  # fmt: skip
    described = draft.describe(schema)
  written = schema_file.write_schema(options.out, schema, overwrite=options.overwrite)
  for line in (*described, *(f'Look at this: {note}.' for note in notes)):
    print(_validate.one_line(line))
  print(f'Schema: {written}')
  if options.declare_public:
    print('Every entry is declared public; reports will say so.')
  elif schema.unconfirmed():
    print(
      'What was read from the data is a leak unless it is public. Correct it in the file and take '
      'its names out of "drafted", column by column; or confirm all: set "declared_public" to '
      'true, or run this again with --declare_public --overwrite.'
    )


if __name__ == '__main__':
  define_flags()
  _cli.run(main, positional='data_dir')
