"""Batches of records that stay in the host's memory, or on its disk, for steps on a device.

The device draws which records a batch has, by the sampler, key and step by which a step would draw
them itself; the host reads these records (`np.memmap` reads them from the disk) and hands them
over, while the device works at the steps before. So the bits are those of a run whose data are on
the device, and such a run may go on the one way or the other.

A chunk of steps is cut into pieces whose records take `_PIECE_BYTES` at most, whatever the size of
a chunk: three pieces are there at most, one at work, one waiting, one being read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.sampling import Drawn, TruncatedPoissonSampler

State = Any
Chunk = Callable[..., tuple[State, Any]]
_PIECE_BYTES = 2**26


class _Asked(NamedTuple):
  """The batches of `count` steps from `first` on, on their way."""

  first: int
  count: int
  drawn: Future[Drawn]


class Feed:
  """The records of one stage, for the chunks of its steps in their order."""

  def __init__(
    self,
    data: tuple[np.ndarray, ...],
    sampler: TruncatedPoissonSampler,
    steps: int,
    mesh: Mesh | None = None,
  ) -> None:
    """Reads nothing yet.

    Args:
      data: all records, arrays [N, ...].
      sampler: draws the batches.
      steps: of the stage: none after these is read ahead.
      mesh: the devices that compute; None for one.
    """
    self._data, self._sampler, self._total, self._mesh = data, sampler, steps, mesh
    size = sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in data)
    self._most = max(1, _PIECE_BYTES // (sampler.truncated_batch_size * size))
    self._reader = ThreadPoolExecutor(1, thread_name_prefix='records')
    self._asked: _Asked | None = None
    self._step: int | None = None
    self._key: Any = None

  def run(self, state: State, length: int, chunk_of: Callable[[int], Chunk]) -> tuple[State, Any]:
    """Takes `length` steps; returns while the device works at the last of them.

    Args:
      state: has `step` and `batch_key`; donated.
      length: steps.
      chunk_of: makes what takes so many steps on a `Drawn` of them.
    """
    if self._step is None:
      self._step = int(state.step)
      # A copy: the state's own is gone with the state.
      self._key = jax.jit(jnp.copy)(sharding.gather(state.batch_key, self._mesh))
    end, histories = self._step + length, []
    each = math.ceil(length / math.ceil(length / self._most))  # pieces of one size: few programs
    while self._step < end:
      first, count = self._step, min(each, end - self._step)
      drawn, self._step = self._take(first, count), first + count
      # Before this piece is begun, when the device has nothing to do, so in no time.
      self._ask(self._step, min(each, (end - self._step) or self._total - self._step))
      state, history = chunk_of(count)(state, drawn)
      histories.append(history)
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *histories)

  def _take(self, first: int, count: int) -> Drawn:
    if self._asked is None or (self._asked.first, self._asked.count) != (first, count):
      self._ask(first, count)
    assert self._asked is not None
    return self._asked.drawn.result()

  def _ask(self, first: int, count: int) -> None:
    self._asked = None
    if count > 0:
      drawn = jax.block_until_ready(self._draw(self._key, first, count))
      self._asked = _Asked(first, count, self._reader.submit(self._read, drawn))

  @functools.cached_property
  def _draw(self) -> Callable[..., Drawn]:
    return jax.jit(self._sampler.ahead, static_argnums=2)

  def _read(self, drawn: Drawn) -> Drawn:
    """These batches with their records; runs in a thread of its own."""
    indices = np.asarray(drawn.batch.indices)
    rows: Any = tuple(np.asarray(records[indices]) for records in self._data)
    if self._mesh is None:
      return drawn._replace(rows=jax.device_put(rows))
    return sharding.replicate(drawn._replace(rows=rows), self._mesh)
