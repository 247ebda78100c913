"""Free light chains (Kyle et al. 2006): 7,874 people, a second real table, described by the draft.

The schema is what `dpgan_jax.schema` drafts of the whole file, declared public: nothing is tuned to
the table. Who died is the target; `chapter`, the cause of death, is left out: it says who did.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import tempfile

from dpgan_jax.data import sources
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files import read

_LEFT_OUT, _TARGET, _HELD_OUT = 'chapter', 'death', 0.3


def load(folder: str) -> tuple[TableDataset, TableDataset]:
  """Seven tenths of the rows, and the others, as a hash of each says."""
  with (pathlib.Path(folder) / 'flchain.csv').open(encoding='utf-8', newline='') as file:
    header, *rows = csv.reader(file)
  place = header.index(_LEFT_OUT)
  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch) / 'flchain.csv'
    with path.open('w', encoding='utf-8', newline='') as file:
      csv.writer(file).writerows(row[:place] + row[place + 1 :] for row in [header, *rows])
    schema, _ = draft_schema(path, target=_TARGET, declare_public=True)
    whole = read.read_table(path, schema, name='flchain')
  train, test = sources.hold_out(whole, _HELD_OUT)
  return dataclasses.replace(train, notes=()), dataclasses.replace(test, notes=())
