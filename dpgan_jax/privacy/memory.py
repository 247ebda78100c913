"""How much memory a program needs, told before it is compiled.

`clipping` looks at a batch in equal parts, one after the other, where that is faster or where all
of it would not fit:

    working_bytes      the memory that a function needs beside arguments and results
    budget_bytes       how much of this machine's memory it may take

The estimate comes from the traced program alone, a tenth of the time that compiling takes. What is
chosen by it depends on settings, shapes and the size of the machine only: a resumed run repeats it,
and with it its steps bit for bit.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal, Var

from dpgan_jax import _validate
from dpgan_jax.privacy.ghost.convolutions import inner_programs

PyTree = Any
GIB = 2**30

MARGIN = 1.25
"""What is asked for beyond the estimate, since XLA copies where it likes; see
`experiments/results/memory_estimates.json` for its plans beside estimates, model by model."""

_SHARE = 4
"""By default one half of a discriminator step may take a quarter of the memory, since the other
half, the generator's step, the data and the state need some as well."""

_CGROUP_LIMITS = (
  pathlib.Path('/sys/fs/cgroup/memory.max'),
  pathlib.Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
)


def working_bytes(fn: Callable[..., Any], *args: PyTree) -> int:
  """Bytes that `fn(*args)` needs for what it computes, arguments not counted, with a margin.

  Args:
    fn: a function that JAX can trace.
    *args: pytrees of arrays, or of `jax.ShapeDtypeStruct`s: only shapes matter.

  The largest sum, over the equations of the traced program, of the values that are still needed
  then. XLA fuses some of them away and copies others.
  """
  return math.ceil(MARGIN * _peak(jax.make_jaxpr(fn)(*args).jaxpr))


def _peak(jaxpr: Jaxpr) -> int:
  """The most bytes that values made by `jaxpr` take at any one time."""
  end = len(jaxpr.eqns)
  last_use: dict[Var, int] = {}
  for index, eqn in enumerate(jaxpr.eqns):
    last_use.update((v, index) for v in eqn.invars if not isinstance(v, Literal))
  last_use.update((v, end) for v in jaxpr.outvars if not isinstance(v, Literal))
  live: dict[Var, int] = {}
  most = 0
  for index, eqn in enumerate(jaxpr.eqns):
    made = {v: _bytes(v) for v in eqn.outvars}
    # What a loop, a branch or a call works with is gone when its results are there.
    inner = max((_peak(j) for j in inner_programs(eqn)), default=0)
    most = max(most, sum(live.values()) + max(inner, sum(made.values())))
    live.update((v, size) for v, size in made.items() if v in last_use)
    for v in eqn.invars:
      if not isinstance(v, Literal) and last_use[v] == index:
        live.pop(v, None)
  return most


def _bytes(var: Var) -> int:
  aval: Any = var.aval
  if not hasattr(aval, 'shape'):
    return 0
  size = aval.dtype.itemsize
  if jax.default_backend() == 'cpu' and jnp.issubdtype(aval.dtype, jnp.floating):
    size = max(size, 4)  # XLA:CPU computes in float32 what is narrower, and keeps it so
  return math.prod(aval.shape) * size


def budget_bytes(gib: float | None = None) -> int:
  """The memory that one half of a discriminator step may take.

  Args:
    gib: GiB; None for a quarter of the first device's memory (on a CPU the machine's, or what its
      control group allows), rounded down to a power of two: a machine whose memory is told a little
      differently after a restart keeps its budget.

  Raises:
    InputError: not a number above 0.
  """
  if gib is not None:
    return int(_validate.positive('memory_budget_gib', gib) * GIB)
  quarter = _device_bytes() // _SHARE
  return 1 << max(quarter.bit_length() - 1, 0)


def _device_bytes() -> int:
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return int(stats['bytes_limit'])
  limits = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for path in _CGROUP_LIMITS:
    try:
      limits.append(int(path.read_text(encoding='ascii')))
    except (OSError, ValueError):  # no such control group, or one without a limit ('max')
      continue
  return min(limits)
