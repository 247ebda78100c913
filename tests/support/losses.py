"""What dp-accounting has computed once in a session of tests, for all its processes.

It is half of the time of a small run: the privacy loss of a step takes it up to a second, an ε a
part of one. Tests ask for the same again and again: in other files, in the other worker, in
commands that they start. What is kept are two pure functions of that package; whatever ours asks of
it, rightly or wrongly, is the key.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from dp_accounting import pld

DIRECTORY = 'DPGAN_JAX_TEST_LOSSES'
"""The variable that holds the directory: it is the session's own, and nobody else writes there."""

_Distribution = pld.privacy_loss_distribution.PrivacyLossDistribution
_NAME = 'from_truncated_subsampled_gaussian_mechanism'


def share() -> None:
  """Has dp-accounting look there first, in this process, where the session has a directory."""
  module = pld.privacy_loss_distribution
  distribution, epsilon = getattr(module, _NAME), _Distribution.get_epsilon_for_delta
  if not (directory := os.environ.get(DIRECTORY)) or hasattr(distribution, '__wrapped__'):
    return

  def kept(key: bytes, compute: Callable[[], Any]) -> Any:
    if DIRECTORY not in os.environ:  # where a test watches what files are opened
      return compute()
    path = pathlib.Path(directory, hashlib.sha256(key).hexdigest())
    if not path.exists():
      unfinished = path.with_suffix(f'.{os.getpid()}')
      unfinished.write_text(json.dumps(compute()))
      unfinished.replace(path)  # whole or absent: the other worker may be reading
    return json.loads(path.read_text())

  @functools.wraps(distribution)
  def kept_distribution(**arguments: Any) -> _Distribution:
    key = repr(sorted(arguments.items())).encode()
    records = kept(key, lambda: list(map(_record, _sides(distribution(**arguments)))))
    return _Distribution(*map(_pmf, records))

  @functools.wraps(epsilon)
  def kept_epsilon(self: _Distribution, delta: Any) -> Any:
    if not isinstance(delta, float):
      return epsilon(self, delta)
    key = repr((delta, [_key(pmf) for pmf in _sides(self)])).encode()
    return kept(key, lambda: float(epsilon(self, delta)))

  setattr(module, _NAME, kept_distribution)
  _Distribution.get_epsilon_for_delta = kept_epsilon


def _sides(found: _Distribution) -> list[pld.pld_pmf.PLDPmf]:
  return [found._pmf_remove] if found._symmetric else [found._pmf_remove, found._pmf_add]


def _key(pmf: pld.pld_pmf.PLDPmf) -> list[Any]:
  """All that tells it from others, to the last bit."""
  if isinstance(pmf, pld.pld_pmf.SparsePLDPmf):
    return sorted(_record(pmf).items())
  probs = hashlib.sha256(np.asarray(pmf._probs, float).tobytes()).hexdigest()
  return sorted({**vars(pmf), '_probs': probs}.items())


def _record(pmf: pld.pld_pmf.PLDPmf) -> dict[str, Any]:
  """Its fields, to the last bit."""
  fields = {name.removeprefix('_'): value for name, value in vars(pmf).items()}
  if isinstance(pmf, pld.pld_pmf.SparsePLDPmf):
    fields['loss_probs'] = [[int(at), float(p)] for at, p in fields['loss_probs'].items()]
  else:
    fields |= {'probs': np.asarray(fields['probs'], float).tolist()}
    fields |= {'lower_loss': int(fields['lower_loss'])}
  return fields | {'infinity_mass': float(fields['infinity_mass'])}


def _pmf(fields: dict[str, Any]) -> pld.pld_pmf.PLDPmf:
  if 'probs' in fields:
    return pld.pld_pmf.DensePLDPmf(**fields | {'probs': np.array(fields['probs'])})
  return pld.pld_pmf.SparsePLDPmf(**fields | {'loss_probs': dict(fields['loss_probs'])})
