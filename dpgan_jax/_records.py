"""Frozen dataclasses to and from JSON: what a run's settings and mechanisms are written as."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from dpgan_jax import _validate

T = TypeVar('T')


def json_ready(value: Any) -> Any:
  """Mappings and sequences of what JSON knows: infinity, which it has not, is the string 'inf'."""
  if isinstance(value, Mapping):
    return {k: json_ready(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [json_ready(v) for v in value]
  return 'inf' if isinstance(value, float) and value == math.inf else value


def to_dict(record: Any) -> dict[str, Any]:
  """Every field, JSON-ready."""
  return json_ready(dataclasses.asdict(record))


def from_dict(cls: type[T], fields: Mapping[str, Any], what: str) -> T:
  """The inverse of `to_dict`; `what` the fields are, for the message.

  Raises:
    InputError: unknown fields, or values that the class refuses.
  """
  unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})  # pyright: ignore
  if unknown:
    raise _validate.InputError(f'unknown {what}: {", ".join(unknown)}')
  return cls(**{k: math.inf if v == 'inf' else v for k, v in fields.items()})
