r"""Compiles training for TPUs that are not there, and reads what the programs would do.

    ./run.sh python -m pip install -e '.[tpu_check]'
    ./run.sh python -m experiments.benchmarks.tpu_check --out=experiments/results/tpu.json

For one v5e chip, 4 and 256 it compiles a chunk of steps as a run would take them, by the compiler
that runs on TPUs (libtpu, on a CPU). No step is taken, and nothing is timed. Of each program it
keeps: the memory it takes on a chip, beside what a chip has; whether the state is donated;
collectives and their bytes for each step; what would pass between chip and host within the chunk.
Each case takes minutes; `--cases` and `--chips` select, and `--resume` keeps what `--out` has.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from experiments import pages

CHIPS = {1: 'v5e:1x1', 4: 'v5e:2x2', 256: 'v5e:16x16'}
MEMORY = 16 * 2**30  # of a v5e chip
STEPS = 10  # of a chunk
# Of a table as large as Adult: cells of 15 columns, its classes, and the most components there are.
CELLS, CLASSES, COMPONENTS = (20,) * 15, 2, 300
SHARE = 256  # examples of a chip, where 256 chips take 65,536


def available() -> str | None:
  """Makes libtpu known to JAX; why it cannot, or None."""
  if importlib.util.find_spec('libtpu') is None:
    return "libtpu is absent (pip install -e '.[tpu_check]')"
  import libtpu

  os.environ.setdefault('TPU_LIBRARY_PATH', libtpu.get_library_path())
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  return None


@dataclasses.dataclass(frozen=True)
class Traced:
  """A program to compile.

  Attributes:
    program: jitted.
    arguments: of it, arrays or their shapes.
    named: public keywords of it.
    state: of `arguments`, what is donated; () if nothing needs to be.
    batch: examples of a step; None where there is no batch.
    d, g: parameters of what is summed over devices, D's for two halves, G's once.
  """

  program: Any
  arguments: tuple[Any, ...]
  named: dict[str, Any] = dataclasses.field(default_factory=dict)
  state: Any = ()
  batch: int | None = None
  d: int = 0
  g: int = 0


def gan(name: str, mesh: Any) -> Traced:
  """A chunk of steps of a GAN of `contenders.GANS`, as a run compiles it."""
  import jax
  import jax.numpy as jnp

  from dpgan_jax.networks import layers
  from dpgan_jax.run.stages import make_chunk
  from experiments.benchmarks import contenders, ordinary_gan, worker_gan

  described, data = contenders.GANS[name], ordinary_gan.MNIST
  made, slots = worker_gan.build(worker_gan.settings(described, described.batch), 'private')
  # All examples of a chip at once: what an accelerator is fast at.
  made = dataclasses.replace(made, microbatch_size=slots)
  state = jax.eval_shape(made.init, jax.random.key(0))

  class Stage:
    def __init__(self) -> None:
      self.step, self.mechanism, self.mesh = made.step, made.mechanism, mesh

  images = jax.ShapeDtypeStruct((data.num_records, *data.shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((data.num_records,), jnp.int32)
  # With batch norm every chip takes all of G's step, and nothing is summed.
  of_g = 0 if jax.tree.leaves(state.g.batch_stats) else layers.count_parameters(state.g.params)
  return Traced(
    make_chunk(Stage(), STEPS), (state, images, labels), state=state, batch=described.batch,
    d=layers.count_parameters(state.d_params), g=of_g,
  )  # fmt: skip


def sums(mesh: Any) -> Traced:
  """One chip's share of a clipped sum: `scaling` reckons with its operations and bytes."""
  del mesh
  import jax
  import jax.numpy as jnp

  from experiments.benchmarks import profile_step, protocol, worker_jax

  job = protocol.Job('large_d', 'profile', SHARE)
  params = worker_jax.initial(job.spec)
  step, state = profile_step.parts(job, params)['sum']
  data = jax.eval_shape(lambda: tuple(map(jnp.asarray, job.data())))
  return Traced(
    jax.jit(worker_jax.steps_in_loop(job, step, 1)), ((params, state, jax.random.key(3)), *data),
    batch=SHARE,
  )  # fmt: skip


def table(mesh: Any) -> Traced:
  """The fit of a mixture to what was released of a table: all of it that runs on a device."""
  del mesh
  import numpy as np

  from dpgan_jax.models.moments.tables import mixture

  dim = sum(CELLS)
  counts = mixture.Counts(CELLS, np.ones((CLASSES, dim)), np.ones((CLASSES, dim, dim)), 1.0, 1.0)
  with mock.patch.object(mixture, '_fit') as called:
    mixture.fit(counts, COMPONENTS)
  return Traced(mixture._fit, called.call_args.args, dict(called.call_args.kwargs))


@dataclasses.dataclass(frozen=True)
class Case:
  """What is compiled, for which numbers of chips; `make` takes a mesh, None for one chip."""

  title: str
  make: Callable[[Any], Traced]
  chips: tuple[int, ...] = tuple(CHIPS)


CASES = {
  'mnist': Case(
    'MNIST, networks and batches of `mnist.flags`', lambda mesh: gan('gan_report', mesh)
  ),
  'large': Case('1.7 M D (`revisited_eps10.flags`)', lambda mesh: gan('gan_revisited', mesh)),
  'sum': Case("a chip's share of the clipped sum, 1.7 M D", sums, chips=(1,)),
  'table': Case('fit of a table as large as Adult', table, chips=(1,)),
}


def check(name: str, chips: int) -> dict[str, Any]:
  """Compiles a case for so many chips, and says what the program does."""
  import jax
  import numpy as np
  from jax.experimental import topologies
  from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

  from dpgan_jax.privacy import sharding
  from experiments.benchmarks import compiled

  devices = topologies.get_topology_desc(platform='tpu', topology_name=CHIPS[chips]).devices
  mesh = Mesh(np.array(devices), (sharding.AXIS,), axis_types=(AxisType.Auto,))
  everywhere = NamedSharding(mesh, PartitionSpec())
  started = time.monotonic()
  # What depends on the backend is chosen while a program is traced.
  with mock.patch.object(jax, 'default_backend', return_value='tpu'):
    traced = CASES[name].make(mesh if chips > 1 else None)
    arguments = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), traced.arguments
    )
    lowered = traced.program.trace(*arguments, **traced.named).lower(lowering_platforms=('tpu',))
    program = lowered.compile()
  text, memory = program.as_text(), program.memory_analysis()
  cost: Any = program.cost_analysis()
  used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  used += memory.output_size_in_bytes - memory.alias_size_in_bytes
  return {
    'case': name,
    'title': CASES[name].title,
    'chips': chips,
    'd_parameters': traced.d,
    'g_parameters_summed': traced.g,
    'batch_size': traced.batch,
    'memory_bytes': used,
    'fits': used <= MEMORY,
    'state_bytes': sum(
      x.size * (8 if str(x.dtype).startswith('key') else x.dtype.itemsize)
      for x in jax.tree.leaves(traced.state)
    ),
    'donated_bytes': memory.alias_size_in_bytes,
    'collective_bytes_a_step': compiled.collectives(text),
    # Both halves of D's sum, with a tenth for metrics; G's gradient.
    'allowed_bytes_a_step': round(1.1 * 4 * 2 * traced.d) + 4 * traced.g,
    'host_transfers': compiled.host_transfers(text),
    'started_a_step': sum(compiled.started(text).values()) / (STEPS if traced.state else 1),
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


def wanted(cases: Sequence[str], chips: Sequence[int]) -> list[tuple[str, int]]:
  """Of these cases and numbers of chips, those that there are."""
  return [(name, n) for name in cases for n in CASES[name].chips if n in chips]


def main(say: Callable[[str], None] = print) -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path)
  parser.add_argument('--chips', type=int, nargs='*', default=list(CHIPS), choices=CHIPS)
  parser.add_argument('--cases', nargs='*', default=list(CASES), choices=CASES)
  parser.add_argument('--resume', action='store_true', help='keep what --out has')
  options = parser.parse_args()
  if why := available():
    sys.exit(f'error: {why}')
  import jax
  import libtpu

  about = {
    'command': 'python -m experiments.benchmarks.tpu_check --out=FILE', 'jax': jax.__version__,
    'libtpu': getattr(libtpu, '__version__', None), 'chip': 'v5e',
  }  # fmt: skip
  before = pages.read_json(options.out) if options.resume and options.out else None
  kept = (before or {}).get('rows', [])
  rows = {(row['case'], row['chips']): row for row in kept}
  for name, chips in wanted(options.cases, options.chips):
    if (name, chips) not in rows:
      found = rows[name, chips] = check(name, chips)
      found['faults'] = faults(found)
      say(f'{name} on {chips}: {"; ".join(found["faults"]) or "as it should be"} '
          f'({found["collective_bytes_a_step"]}, {found["compile_seconds"]} s)')  # fmt: skip
    if options.out:
      order = wanted(list(CASES), list(CHIPS))
      made = [rows[key] for key in order if key in rows]
      pages.write_json(options.out, {**about, 'rows': made})
  sys.exit(any(row['faults'] for row in rows.values()))


if __name__ == '__main__':
  main()
