"""What a stage has to be, for the one loop (`run.loop`) to carry it out."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from dpgan_jax.privacy.mechanism import DPMechanism

State = Any  # a NamedTuple of arrays, `step` among them


class Stage(abc.ABC):
  """What reads private records, one mechanism at a time.

  Attributes:
    name: of its steps in the ledger.
    mechanisms: all that it charges by name: its steps, and what it releases once before them.
    stride: steps between two records.
    folder: of its metrics and checkpoints within the run's directory.
  """

  name: str
  mechanisms: Mapping[str, DPMechanism]
  stride: int
  folder: str = '.'

  @property
  def mechanism(self) -> DPMechanism:
    """That of its steps."""
    return self.mechanisms[self.name]

  @abc.abstractmethod
  def init(self, key: jax.Array) -> State:
    """The state before anything is read; `key` is this stage's own. A pure function."""

  @abc.abstractmethod
  def data(self) -> tuple[Any, ...]:
    """The private records as arrays; called only where there are steps to take."""

  @abc.abstractmethod
  def chunk(self, length: int) -> Callable[..., tuple[State, Any]]:
    """What takes `length` steps: `chunk(state, *data) -> (state, metrics)`."""

  def placed(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
    """What `chunk` takes of `data`."""
    return data

  def prepare(self, state: State) -> State:
    """What a new state becomes before it is kept; no private record has a part in it."""
    return state

  def release(self, state: State, data: tuple[Any, ...], secret: bytes) -> State:
    """Makes the releases before the first step, charged already; the same again when resumed.

    Args:
      state: the state before the first step.
      data: the private records.
      secret: 32 bytes that the noise of these releases, and nothing else, follows from.
    """
    del data, secret
    return state

  def wants_checkpoint(self, step: int) -> bool:
    """Whether the state after `step` is saved."""
    del step
    return True

  def wants_state(self, step: int) -> bool:
    """Whether `write` needs the whole state after `step`."""
    del step
    return False

  def keep(self, step: int, state: State) -> Any:
    """Sets aside, on the device, what `write` needs besides; it must only enqueue work."""
    del step, state

  def write(self, step: int, kept: Any, state: State | None, epsilon: float) -> None:
    """Writes what this kind of stage leaves beside metrics and checkpoints, such as pictures."""
    del step, kept, state, epsilon

  def shown(self, means: Mapping[str, float]) -> Mapping[str, float]:
    """The few numbers that the progress bar shows."""
    del means
    return {}


class NoMetrics(NamedTuple):
  """Of a step in which nothing is measured."""
