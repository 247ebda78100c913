"""Software and hardware that a run uses; results are bit-identical on the same only."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import jax

from dpgan_jax import _plugins

PACKAGES = ('dp-accounting', 'flax', 'jax', 'jaxlib', 'numpy', 'optax', 'scipy')


def environment(used: int = 1) -> Mapping[str, Any]:
  """Versions, backend and device, JSON-ready; holds no path and no name of a machine.

  Args:
    used: how many of the devices compute; it is named where there are several.
  """
  devices = jax.devices()
  versions = {name.replace('-', '_'): importlib.metadata.version(name) for name in PACKAGES}
  return {
    'dpgan_jax': importlib.metadata.version('dpgan_jax'),
    'python': platform.python_version(),
    **versions,
    'backend': devices[0].platform,
    'device': devices[0].device_kind,
    'devices': len(devices),
    **({'devices_used': used} if used > 1 else {}),
    **({'plugins': outside} if (outside := _plugins.loaded()) else {}),
  }


def device_name() -> str:
  """The device that computes, for people: 'cpu', or the accelerator's name."""
  device = jax.devices()[0]
  return device.platform if device.platform == device.device_kind else device.device_kind
