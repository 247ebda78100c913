"""Schemas as files that people edit: strict JSON, two spaces deep, whole or absent."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

from dpgan_jax import _files, _json
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables.schema import Schema

MOST_BYTES = 64 * 2**20  # 10,000 categories in many columns are long


def read_schema(
  path: str | os.PathLike[str], from_record: Callable[[Any], Schema] = Schema.from_record
) -> Schema:
  """The schema in a JSON file; `from_record` makes it of what the file holds.

  Raises:
    InputError: no such file, no strict JSON, or no schema, naming the file and the column.
  """
  path = pathlib.Path(path)
  try:
    return from_record(_json.read(path, MOST_BYTES))
  except InputError as error:
    raise InputError(f'{path}: {error}') from None
  except ValueError as error:
    raise InputError(f'{path}: expected a schema in JSON, got: {error}') from None
  except OSError as error:
    raise InputError(f'cannot read schema {path}: {error.strerror}') from None


def write_schema(
  path: str | os.PathLike[str], schema: Schema, *, overwrite: bool = False
) -> pathlib.Path:
  """Writes a schema as JSON, whole or not at all, and returns its path.

  Raises:
    InputError: something is there already, and not `overwrite`.
    OSError: the file system failed.
  """
  path = _files.require_free(path, overwrite)
  _files.write_json(path, schema.to_record())
  return path
