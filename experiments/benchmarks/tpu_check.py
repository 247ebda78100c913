r"""Compiles training for TPUs that are not there, and reads what the programs would do.

    ./run.sh python -m pip install -e '.[tpu_check]'
    ./run.sh python -m experiments.benchmarks.tpu_check --out=experiments/results/tpu.json

For one v5e chip, 4 and 256 it compiles a chunk of steps as a run would take them, by the compiler
that runs on TPUs (libtpu, on a CPU). No step is taken, and nothing is timed. Of each program it
keeps: the memory it takes on a chip, beside what a chip has; whether the state is donated;
collectives and their bytes for each step; what would pass between chip and host within the chunk.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

CHIPS = {1: 'v5e:1x1', 4: 'v5e:2x2', 256: 'v5e:16x16'}
MEMORY = 16 * 2**30  # of a v5e chip
STEPS = 10  # of a chunk


def available() -> str | None:
  """Makes libtpu known to JAX; why it cannot, or None."""
  if importlib.util.find_spec('libtpu') is None:
    return "libtpu is absent (pip install -e '.[tpu_check]')"
  import libtpu

  os.environ.setdefault('TPU_LIBRARY_PATH', libtpu.get_library_path())
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  return None


@dataclasses.dataclass(frozen=True)
class Case:
  """What is compiled: a name and the settings of a GAN on data of MNIST's size."""

  name: str
  settings: dict[str, Any]


CASES = (
  Case('mnist', {'generator': 'report', 'discriminator': 'scattering', 'batch_size': 240,
                 'fake_batch_size': 120, 'g_batch_size': 120, 'fake_gradient': 'plain'}),
)  # fmt: skip


def check(case: Case, chips: int) -> dict[str, Any]:
  """Compiles one chunk for so many chips, and says what the program does."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax.experimental import topologies
  from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

  from dpgan_jax.data.spec import Spec
  from dpgan_jax.models.config import TrainConfig
  from dpgan_jax.models.gan import GAN
  from dpgan_jax.networks import layers
  from dpgan_jax.privacy import sharding
  from dpgan_jax.privacy.mechanism import DPMechanism
  from dpgan_jax.run.stages import make_chunk
  from experiments.benchmarks import compiled

  config = TrainConfig(
    noise_multiplier=1.0, steps=1000, d_steps_per_g_step=1, delta=1e-5, dataset='mnist',
    **case.settings,
  )  # fmt: skip
  spec = Spec(num_records=60_000, shape=(28, 28, 1), class_names=tuple('0123456789'), name='mnist')
  mechanism = DPMechanism.create(
    num_examples=60_000, batch_size=config.batch_size, l2_clip_norm=1.0, noise_multiplier=1.0,
    steps=1000, delta=1e-5,
  )  # fmt: skip
  devices = topologies.get_topology_desc(platform='tpu', topology_name=CHIPS[chips]).devices
  mesh = Mesh(np.array(devices), (sharding.AXIS,), axis_types=(AxisType.Auto,))
  everywhere = NamedSharding(mesh, PartitionSpec())

  class Stage:
    def __init__(self, gan: GAN, mesh: Mesh | None) -> None:
      self.step, self.mesh = gan.step, mesh

  def placed(tree: Any) -> Any:
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree
    )

  started = time.monotonic()
  # What depends on the backend is chosen while a program is traced.
  with mock.patch.object(jax, 'default_backend', return_value='tpu'):
    # All examples of a chip at once: what an accelerator is fast at.
    gan = GAN(config, mechanism, spec, mechanism.truncated_batch_size)
    state = jax.eval_shape(gan.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((60_000, *spec.shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((60_000,), jnp.int32)
    chunk = make_chunk(Stage(gan, mesh if chips > 1 else None), STEPS)
    traced = chunk.trace(*placed((state, images, labels)))
    program = traced.lower(lowering_platforms=('tpu',)).compile()
  text, memory = program.as_text(), program.memory_analysis()
  cost: Any = program.cost_analysis()
  found = compiled.collectives(text)
  parameters = layers.count_parameters(state.d_params)
  used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  used += memory.output_size_in_bytes - memory.alias_size_in_bytes
  size = sum(
    x.size * (8 if str(x.dtype).startswith('key') else x.dtype.itemsize)
    for x in jax.tree.leaves(state)
  )
  of_g = 0 if jax.tree.leaves(state.g.batch_stats) else layers.count_parameters(state.g.params)
  return {
    'case': case.name,
    'chips': chips,
    'd_parameters': parameters,
    'g_parameters_summed': of_g,
    'batch_size': config.batch_size,
    'memory_bytes': used,
    'fits': used <= MEMORY,
    'state_bytes': size,
    'donated_bytes': memory.alias_size_in_bytes,
    'collective_bytes_a_step': found,
    'allowed_bytes_a_step': round(1.1 * 4 * (2 * parameters + of_g)),
    'host_transfers': compiled.host_transfers(text),
    'flops_a_step': cost.get('flops'),  # a loop's body counts once
    'bytes_a_step': cost.get('bytes accessed'),
    'compile_seconds': round(time.monotonic() - started, 1),
  }


def faults(found: dict[str, Any]) -> list[str]:
  """What a program must not do."""
  said = []
  if not found['fits']:
    said.append(f'takes {found["memory_bytes"]} bytes of a chip')
  if found['donated_bytes'] < found['state_bytes']:
    said.append(f'donates {found["donated_bytes"]} of {found["state_bytes"]} bytes of state')
  if found['host_transfers']:
    said.append(f'moves to or from the host: {", ".join(found["host_transfers"])}')
  collectives = found['collective_bytes_a_step']
  if found['chips'] == 1 and collectives:
    said.append(f'has collectives on one chip: {collectives}')
  if found['chips'] > 1:
    if set(collectives) != {'all-reduce'}:
      said.append(f'has other collectives than sums: {collectives}')
    if sum(collectives.values()) > found['allowed_bytes_a_step']:
      said.append(f'moves {collectives} bytes, expected {found["allowed_bytes_a_step"]} at most')
  return said


def main(say: Callable[[str], None] = print) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path)
  parser.add_argument('--chips', type=int, nargs='*', default=list(CHIPS), choices=CHIPS)
  parser.add_argument('--cases', nargs='*', default=[c.name for c in CASES])
  options = parser.parse_args()
  if why := available():
    sys.exit(f'error: {why}')
  import jax

  from dpgan_jax import _files

  rows, wrong = [], 0
  for case in CASES:
    for chips in options.chips if case.name in options.cases else ():
      found = check(case, chips)
      found['faults'] = faults(found)
      wrong += bool(found['faults'])
      rows.append(found)
      say(f'{case.name} on {chips}: {"; ".join(found["faults"]) or "as it should be"} '
          f'({found["collective_bytes_a_step"]}, {found["compile_seconds"]} s)')  # fmt: skip
  import libtpu

  version = getattr(libtpu, '__version__', None)
  record = {
    'command': 'python -m experiments.benchmarks.tpu_check --out=FILE',
    'jax': jax.__version__, 'libtpu': version, 'chip': 'v5e', 'rows': rows,
  }  # fmt: skip
  if options.out:
    _files.write_json(options.out, record)
  sys.exit(bool(wrong))


if __name__ == '__main__':
  main()
