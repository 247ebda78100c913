"""The package's face: what it exports, and that the core stays light."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import dpgan_jax


def test_every_public_name_is_there():
  for name in dpgan_jax.__all__:
    assert getattr(dpgan_jax, name) is not None
  with pytest.raises(AttributeError, match='no_such_name'):
    dpgan_jax.no_such_name  # noqa: B018


def test_importing_the_core_loads_nothing_heavy():
  """Other projects import the core: no flax, orbax, plotting or data libraries come with it."""
  code = (
    'import sys, dpgan_jax; dpgan_jax.DPMechanism; '
    'heavy = {"flax", "orbax", "matplotlib", "sklearn", "PIL", "pyarrow", "tensorboardX"}; '
    'print(sorted(heavy & set(sys.modules)))'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == '[]'


def test_version_is_the_distributions():
  assert importlib.metadata.version('dpgan_jax') == dpgan_jax.__version__
