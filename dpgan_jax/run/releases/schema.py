"""What finds a table's schema, as a stage; what a run has found, and the rest of its plan.

The schema is a file of the run, `schema.json`. Checkpoints of the stage hold its digest: what was
found is found once, and a file that has changed since is refused.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.tables.files import schema_file
from dpgan_jax.data.tables.files.open import OpenTable
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.domains import search
from dpgan_jax.models.domains.plan import OpenMoments
from dpgan_jax.models.moments.settings import SCHEMA
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.plan import Plan
from dpgan_jax.run.releases.stage import NoMetrics, Stage

FOLDER = 'schema'  # of the stage's checkpoints and metrics


class SchemaState(NamedTuple):
  """Whether the schema is found, and which it is.

  Attributes:
    step: int32; 1 when it is found.
    digest: uint8 [32], SHA-256 of its file.
  """

  step: jax.Array
  digest: jax.Array


class SchemaStage(Stage):
  """One release on the host, written to the run's directory before its checkpoint."""

  name, stride, folder = SCHEMA, 1, FOLDER

  def __init__(self, planned: OpenMoments, table: OpenTable, directory: RunDir) -> None:
    """Reads and writes nothing yet."""
    self._mechanism, self._table, self._directory = planned.mechanism, table, directory
    self.mechanisms = {SCHEMA: planned.mechanism}
    self._secret = b''

  def init(self, key: jax.Array) -> SchemaState:
    del key
    return _nothing_found()

  def data(self) -> tuple[Any, ...]:
    return (self._table,)

  def release(self, state: SchemaState, data: tuple[Any, ...], secret: bytes) -> SchemaState:
    del data
    self._secret = secret  # there is nothing to release before the one step
    return state

  def chunk(self, length: int) -> Callable[..., tuple[SchemaState, Any]]:
    del length  # there is one step

    def take(state: SchemaState, table: OpenTable) -> tuple[SchemaState, NoMetrics]:
      assert self._secret  # `release` came first
      found = search.find(table, self._mechanism, self._secret)
      path = schema_file.write_schema(self._directory.schema, found, overwrite=True)
      return SchemaState(state.step + 1, jnp.asarray(_digest(path))), NoMetrics()

    return take


def _nothing_found() -> SchemaState:
  return SchemaState(jnp.zeros((), jnp.int32), jnp.zeros(32, jnp.uint8))


def _digest(path: pathlib.Path) -> np.ndarray:
  return np.frombuffer(hashlib.sha256(path.read_bytes()).digest(), np.uint8)


def found(run: RunDir, state: SchemaState) -> Schema:
  """The schema of a stage that has ended.

  Raises:
    InputError: its file is missing, or is another.
  """
  if not run.schema.is_file() or (_digest(run.schema) != np.asarray(state.digest)).any():
    raise _validate.InputError(
      f'{run.schema} is missing or has changed since the run has found it: restore it from a backup'
    )
  return schema_file.read_schema(run.schema)


def settled(planned: Plan, run: RunDir) -> Plan:
  """The plan of a run with the schema that it has found, if it has by now.

  Raises:
    InputError: as `found`.
  """
  if not isinstance(planned, OpenMoments):
    return planned
  folder = RunDir(run.path / FOLDER)
  if not folder.checkpoints.is_dir():
    return planned
  with Checkpoints(folder.checkpoints, identity=run.identity()) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(_nothing_found))
  if restored is None or not restored[0]:
    return planned
  return planned.closed(found(run, restored[1]))
