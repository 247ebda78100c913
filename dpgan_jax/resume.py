"""What every run needs to begin, and to begin again: a key, a state, and where it runs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

import dpgan_jax
from dpgan_jax import _keys, _validate
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.ledger import Ledger

State = TypeVar('State')
PACKAGES = ('dp-accounting', 'flax', 'jax', 'jaxlib', 'numpy', 'optax', 'scipy')


def root_key(seed: int | None) -> jax.Array:
  """The key of a run: from `seed`, or with every bit from the operating system.

  A threefry key has 64 bits. That of a small seed could be found by trying seeds, and the noise
  with it; that is for reproducing experiments, not for releases. Either way it is a threefry2x32
  key, whatever generator JAX is set to.
  """
  if seed is not None:
    return _keys.from_seed(seed)
  return _keys.from_words(np.frombuffer(os.urandom(8), np.uint32))


def start_or_resume(
  init: Callable[[jax.Array], State],
  seed: int | None,
  ledger: Ledger,
  checkpoints: Checkpoints,
  stages: Collection[str],
  first: Callable[[State], State] | None = None,
) -> State:
  """The state of the latest checkpoint; without one, `init` of a new key, saved before use.

  Args:
    init: makes the first state from a key.
    seed: of the key, or None for one of the operating system.
    ledger: of the run.
    checkpoints: of this state.
    stages: those of the ledger's that these checkpoints are about.
    first: what a new state becomes before it is saved, where that is too much to compile.

  Raises:
    InputError: steps are charged but there is no checkpoint to continue from.
  """
  key = root_key(seed)
  restored = checkpoints.restore_latest(jax.eval_shape(init, key))
  if restored is not None:
    return restored[1]
  if charged := sum(ledger.charged_steps(stage) for stage in stages):
    raise _validate.InputError(
      f'the ledger charges {charged} steps but there is no checkpoint to continue from: a new '
      'start would be a second release; use another run directory, which spends a budget of its '
      'own'
    )
  state = jax.jit(init)(key)
  if first is not None:
    state = first(state)
  checkpoints.save(0, state, {})
  checkpoints.wait()  # the keys must be on the disk before anything is charged
  return state


def environment() -> Mapping[str, Any]:
  """Software and hardware at hand; results are bit-identical on the same only."""
  devices = jax.devices()
  versions = {name.replace('-', '_'): importlib.metadata.version(name) for name in PACKAGES}
  return {
    'dpgan_jax': dpgan_jax.__version__,
    'python': platform.python_version(),
    **versions,
    'backend': devices[0].platform,
    'device': devices[0].device_kind,
    'devices': len(devices),
  }


def device_name() -> str:
  """The device that computes, for people: 'cpu', or the accelerator's name."""
  device = jax.devices()[0]
  return device.platform if device.platform == device.device_kind else device.device_kind
