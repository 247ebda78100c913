"""Persons with several rows: whose each row is, and which rows of a person count.

Whatever is decided of a person follows from that person's rows and name alone. Of more than k rows
those are kept whose hashes are least. The hash is of the person and the row: of the row alone, it
would keep the same kind of row of everybody. Rows that are alike may stand for each other.

Names have to belong to persons: numbers that are given anew whenever somebody leaves are other
persons to whoever reads them.

>>> ann_and_bob = digests(['ann', 'bob', 'ann', 'ann'])
>>> rows = np.array([[1.0], [1.0], [2.0], [3.0]])
>>> kept(ann_and_bob, rows, 2).tolist()
[False, True, True, True]
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from dpgan_jax.data.tables.schema import Column, Schema

DTYPE = np.dtype('V16')  # 128 bits: no two persons of a table are taken for one
_NAME, _ROW = b'dpgan_jax person', b'dpgan_jax row'  # public keys


def settled(schema: Schema, unit_column: str | None, max_rows_per_unit: int | None) -> Schema:
  """The schema with persons for records: their column is an identifier, and no more than that.

  Args:
    schema: may have persons itself.
    unit_column: the column of persons; None: as the schema says.
    max_rows_per_unit: k; None: as the schema says.

  Raises:
    InputError: one of the two alone, no such column, it is the target, or a number out of range.
  """
  unit_column = unit_column or schema.unit_column
  max_rows_per_unit = max_rows_per_unit or schema.max_rows_per_unit
  columns = tuple(
    Column(name=c.name, kind='id') if c.name == unit_column else c for c in schema.columns
  )
  return dataclasses.replace(
    schema, columns=columns, unit_column=unit_column, max_rows_per_unit=max_rows_per_unit
  )


def digests(names: Iterable[str]) -> np.ndarray:
  """What stands for each person, `DTYPE` [n]: a hash of the name with a public key."""
  found = [hashlib.blake2b(n.encode(), digest_size=16, key=_NAME).digest() for n in names]
  return np.array(found, DTYPE)


def keys(*parts: np.ndarray) -> np.ndarray:
  """Bytes [n] that are equal where all of the arrays [n, ...] are."""
  flat = [np.ascontiguousarray(p).reshape(len(p), -1).view(np.uint8) for p in parts]
  rows = np.ascontiguousarray(np.concatenate(flat, axis=1))
  return rows.view(f'V{rows.shape[1]}').ravel()


def ordinals(keys: np.ndarray) -> np.ndarray:
  """Of those that are alike the first is 0, the second 1, ...; int64 [n]."""
  order = np.argsort(keys, kind='stable')
  first = np.append(True, keys[order][1:] != keys[order][:-1])
  starts = np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))
  found = np.empty(len(keys), np.int64)
  found[order] = np.arange(len(keys)) - starts
  return found


def kept(persons: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
  """Which rows count, bool [n]: at most `most` of each person.

  Args:
    persons: as `digests`, [n].
    rows: [n, ...], whole rows.
    most: k ≥ 1.
  """
  result = np.ones(len(persons), bool)
  crowded = np.flatnonzero(np.isin(persons, persons[ordinals(persons) == most]))
  if not len(crowded):
    return result
  alike = keys(persons[crowded], rows[crowded])
  own = keys(alike, ordinals(alike))
  hashes = np.array(
    [hashlib.blake2b(row.tobytes(), digest_size=16, key=_ROW).digest() for row in own], DTYPE
  )
  order = np.argsort(hashes, kind='stable')
  result[crowded[order]] = ordinals(persons[crowded][order]) < most
  return result


def count(persons: np.ndarray) -> int:
  """How many there are."""
  return int((ordinals(persons) == 0).sum())
