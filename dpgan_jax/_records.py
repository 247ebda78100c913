"""Frozen dataclasses to and from JSON: what a run's settings and mechanisms are written as."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from dpgan_jax import _validate

T = TypeVar('T')


def to_dict(record: Any) -> dict[str, Any]:
  """Every field, JSON-ready: infinity, which strict JSON has not, as the string 'inf'."""
  fields = dataclasses.asdict(record)
  return {k: 'inf' if isinstance(v, float) and v == math.inf else v for k, v in fields.items()}


def from_dict(cls: type[T], fields: Mapping[str, Any], what: str) -> T:
  """The inverse of `to_dict`; `what` the fields are, for the message.

  Raises:
    InputError: unknown fields, or values that the class refuses.
  """
  unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})  # pyright: ignore
  if unknown:
    raise _validate.InputError(f'unknown {what}: {", ".join(unknown)}')
  return cls(**{k: math.inf if v == 'inf' else v for k, v in fields.items()})
