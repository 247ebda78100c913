"""Arrays and a JSON record in one safetensors file, checked before they are read.

Whoever wrote the file may be hostile: nothing is read that the header does not promise, and the
header may promise only what the caller expects. Loading runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import safetensors
import safetensors.flax

from dpgan_jax import _files, _json, _validate

_NAME = 'dpgan_jax'  # of the record in the metadata
_MOST_HEADER = 2**20  # bytes; those of this package have some thousands


def write(
  path: str | os.PathLike[str], tensors: dict[str, jax.Array], record: Mapping[str, Any]
) -> None:
  """Writes arrays and a record, whole or not at all; an existing file is replaced."""
  with _files.atomic_write(path, 'wb') as file:
    file.write(safetensors.flax.save(tensors, {_NAME: json.dumps(record, sort_keys=True)}))


def describe(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """What the header says of the arrays, and the record.

  Raises:
    InputError: no such file, or none of this kind.
  """
  if not os.path.isfile(path):
    raise _validate.InputError(f'expected a generator at {path}, found none')
  try:
    header = _header(path)
    record = _json.loads(header.pop('__metadata__', {}).get(_NAME, '{}'))
  except (AttributeError, TypeError, ValueError) as error:
    raise _validate.InputError(f'expected {path} to be a safetensors file, got: {error}') from None
  return header, record if isinstance(record, dict) else {}


def _header(path: str) -> dict[str, Any]:
  """What a safetensors file says about itself; no tensor is read, whatever it promises.

  Raises:
    ValueError: it is longer than any of this package, or no header.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if size < 8 or length > size - 8:
      raise ValueError(f'a header of {length} bytes in a file of {size}')
    if length > _MOST_HEADER or size > _files.MAX_BYTES:
      raise ValueError(
        f'a header of {length} bytes in a file of {size}, expected at most {_MOST_HEADER} and '
        f'{_files.MAX_BYTES}'
      )
    header = _json.loads(file.read(length), _MOST_HEADER)
  if not isinstance(header, dict):
    raise ValueError('a header that is no JSON object')
  return header


def read(path: str, header: dict[str, Any], shapes: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The tensors that the settings ask for, all of them and no others.

  They are compared with what the header promises first, so that none is read in vain.
  """
  for name in [*shapes, *header]:
    if name not in shapes:
      raise _validate.InputError(f'{path} is damaged: it holds {name}, which no such generator has')
    _check_promise(path, name, header.get(name), shapes[name])
  try:
    with safetensors.safe_open(path, 'flax') as file:
      return {
        name: _checked(path, file.get_tensor(name), leaf, name) for name, leaf in shapes.items()
      }
  except safetensors.SafetensorError as error:
    raise _validate.InputError(f'expected {path} to be a safetensors file, got: {error}') from None


def _check_promise(path: str, name: str, said: Any, expected: jax.ShapeDtypeStruct) -> None:
  if said is None:
    raise _validate.InputError(f'{path} is damaged: it lacks {name}')
  shape = said.get('shape') if isinstance(said, dict) else None
  if shape != list(expected.shape):
    raise _validate.InputError(
      f'{path} is damaged: expected {name} to be {expected.dtype}{list(expected.shape)}, got '
      f'{str(shape)[:200]}'
    )


def _checked(path: str, array: jax.Array, expected: jax.ShapeDtypeStruct, name: str) -> jax.Array:
  if array.shape != expected.shape or array.dtype != expected.dtype:
    raise _validate.InputError(
      f'{path} is damaged: expected {name} to be {expected.dtype}{list(expected.shape)}, got '
      f'{array.dtype}{list(array.shape)}'
    )
  return array
