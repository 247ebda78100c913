"""The processes of a run: how they find each other, who owns its directory, what the others get.

Process 0 owns the directory of a run: ledger, checkpoints, metrics, samples. Every other process
works in a copy of it, in a temporary folder that disappears with it, and takes the same steps from
the same secret. So each has what it needs whether or not they share a disk, and nothing that they
write outlives them. A copy holds keys: it is as private as the data, which are on that host too.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dpgan_jax import _validate

_LEFT_OUT = ('.lock', 'tensorboard', 'grids')


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins the processes of one run; must come before anything that asks JAX for its devices.

  Args:
    coordinator: host:port of process 0, or 'auto' where JAX detects all three by itself (Slurm,
      Cloud TPU); None: this is the only process.
    num_processes: how many there are.
    process_id: which of them this is, from 0.

  Raises:
    InputError: one of the three without the others, or the processes do not find each other.
  """
  given = (num_processes, process_id)
  if coordinator in (None, 'auto') and any(x is not None for x in given):
    raise _validate.InputError(
      'expected coordinator=HOST:PORT beside num_processes and process_id, got '
      f'{coordinator or "none"}'
    )
  if coordinator is None:
    return
  if coordinator != 'auto':
    own: Any = process_id  # None is refused here
    count = _validate.integer('num_processes', num_processes or 0, minimum=1)
    _validate.integer('process_id', own, minimum=0, maximum=count - 1)
  try:
    if coordinator == 'auto':
      jax.distributed.initialize()
    else:
      jax.distributed.initialize(coordinator, num_processes, process_id)
  except (RuntimeError, ValueError) as error:
    raise _validate.InputError(f'the processes do not find each other: {error}') from None


def count_of(devices: str | None) -> int:
  """How many devices 'all' or a number asks for; None: one, or all of several processes.

  Raises:
    InputError: neither.
  """
  if devices is None:
    return 1 if jax.process_count() == 1 else jax.device_count()
  if devices == 'all':
    return jax.device_count()
  if not devices.isdecimal():
    raise _validate.InputError(f"expected devices to be a number or 'all', got {devices!r}")
  return _validate.integer('devices', int(devices), minimum=1, maximum=jax.device_count())


def is_owner() -> bool:
  """Whether this process owns what a run leaves."""
  return jax.process_index() == 0


@contextlib.contextmanager
def shared_directory(
  path: str | os.PathLike[str],
) -> Iterator[tuple[str | os.PathLike[str], Callable[[], None]]]:
  """(Where this process works, what to call when the directory of process 0 is to be copied).

  Args:
    path: the directory of the run, that of process 0.

  Raises:
    InputError: in other processes, where process 0 has raised an error before it was copied.
  """
  if jax.process_count() == 1:
    yield path, lambda: None
  elif is_owner():
    shared = False

    def share() -> None:
      nonlocal shared
      shared = True
      _broadcast(_packed(pathlib.Path(path)))

    try:
      yield path, share
    finally:
      if not shared:
        _broadcast(b'')
  else:
    content = _broadcast(None)
    if not content:
      raise _validate.InputError('process 0 could not open the run: its message says why')
    with tempfile.TemporaryDirectory(prefix='dpgan_jax_') as copy:  # for this user's eyes only
      with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(copy, filter='data')
      yield copy, lambda: None


def _packed(path: pathlib.Path) -> bytes:
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w') as archive:
    for each in sorted(path.iterdir()):
      if each.name not in _LEFT_OUT:
        archive.add(each, each.name)
  return content.getvalue()


def _broadcast(content: bytes | None) -> bytes:
  """The bytes of process 0, in every process."""
  size = multihost_utils.broadcast_one_to_all(np.int32(len(content or b'')))
  array = np.zeros(int(size), np.uint8)
  if content:
    array[:] = np.frombuffer(content, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(array)).tobytes() if size else b''
