"""Runs that end in the middle, as a loss of power would end them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dpgan_jax.budget.ledger import Ledger


class Stop(BaseException):
  """Nothing catches it."""


@contextlib.contextmanager
def interrupted(stage: str, step: int) -> Iterator[None]:
  """What trains in this context ends when a step of a stage has been charged and not taken."""
  original = Ledger.charge

  def charge(self: Ledger, up_to_step: int, name: str = 'dp_sgd') -> None:
    original(self, up_to_step, name)
    if name == stage and up_to_step >= step:
      raise Stop

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Ledger, 'charge', charge)
    with pytest.raises(Stop):
      yield
