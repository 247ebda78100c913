"""The package's face: what it exports, and that the core stays light."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

import dpgan_jax


def test_every_public_name_is_there():
  for name in dpgan_jax.__all__:
    assert getattr(dpgan_jax, name) is not None
  with pytest.raises(AttributeError, match='no_such_name'):
    dpgan_jax.no_such_name  # noqa: B018


@pytest.mark.slow  # test_package has what the core loads
def test_importing_the_core_loads_nothing_heavy():
  """Other projects import the core: no flax, orbax, plotting or data libraries come with it.

  Names are loaded on first use, so that the package alone brings nothing at all. CPU time of what
  the core adds is compared with that of its four dependencies, of which it is a twentieth.
  """
  code = """if True:
    import json, sys, time
    import dpgan_jax
    alone = sorted({'jax', 'numpy'} & set(sys.modules))
    started = time.process_time()
    import dp_accounting, jax, numpy, optax
    from dp_accounting import pld, rdp
    between = time.process_time()
    dpgan_jax.DPMechanism
    own = (time.process_time() - between) / (between - started)
    heavy = {'flax', 'orbax', 'matplotlib', 'sklearn', 'PIL', 'pyarrow', 'tensorboardX'}
    rooms = {m.split('.')[1] for m in sys.modules if m.startswith('dpgan_jax.')}
    print(json.dumps([alone, sorted(heavy & set(sys.modules)), sorted(rooms), own]))
  """
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  alone, heavy, rooms, own = json.loads(result.stdout)
  assert alone == heavy == []
  assert [room for room in rooms if not room.startswith('_')] == ['privacy']
  assert own < 1


def test_version_is_the_distributions():
  assert importlib.metadata.version('dpgan_jax') == dpgan_jax.__version__
