"""What the process is set to, where that can change results: read in one place.

None of it may change what is guaranteed or reported. The generator of random numbers is therefore
named by this package (`_keys`), and the products behind norms and clipped sums name their
precision. The rest changes last bits or which random numbers a key stands for: `read` gives it to a
run's record, to be compared when the run goes on. `require_sound` refuses what would break the
guarantee itself.
"""

from __future__ import annotations

import os
from typing import Any

import jax

from dpgan_jax import _validate

OPTIONS = (
  'jax_allow_f16_reductions',
  'jax_debug_infs',
  'jax_debug_nans',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_disable_jit',
  'jax_disable_most_optimizations',
  'jax_enable_custom_prng',
  'jax_enable_x64',
  'jax_error_checking_behavior_divide',
  'jax_error_checking_behavior_nan',
  'jax_error_checking_behavior_oob',
  'jax_exec_time_optimization_effort',
  'jax_explicit_x64_dtypes',
  'jax_legacy_prng_key',
  'jax_memory_fitting_effort',
  'jax_memory_fitting_level',
  'jax_numpy_dtype_promotion',
  'jax_numpy_rank_promotion',
  'jax_optimization_level',
  'jax_random_seed_offset',
  'jax_softmax_custom_jvp',
  'jax_threefry_gpu_kernel_lowering',
  'jax_threefry_partitionable',
  'jax_use_direct_linearize',
  'jax_use_magma',
)
"""Options of `jax.config` that can change a number, or whether there is one."""

ENVIRONMENT = ('LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE', 'XLA_FLAGS')
"""Variables that the compiler and the GPU's libraries read for themselves."""

_NAN_CHECKS = (
  'jax_debug_infs',
  'jax_debug_nans',
  'jax_error_checking_behavior_divide',
  'jax_error_checking_behavior_nan',
)
_VIRTUAL_DEVICES = '--xla_force_host_platform_device_count'
_FAST_MATH = ('xla_cpu_enable_fast_math', 'xla_gpu_enable_fast_min_max')


def read() -> dict[str, Any]:
  """Every process-wide setting that can change results, JSON-ready; None where JAX has none such.

  Two runs with equal settings, packages and devices give the same numbers from the same key.
  """
  options = {name: _plain(getattr(jax.config, name, None)) for name in OPTIONS}
  found = options | {name: os.environ.get(name) for name in ENVIRONMENT}
  if (words := found['XLA_FLAGS']) is not None:  # how many devices a CPU plays changes no number
    kept = [word for word in words.split() if not word.startswith(_VIRTUAL_DEVICES)]
    found['XLA_FLAGS'] = words if kept == words.split() else ' '.join(kept) or None
  return found


def require_sound() -> None:
  """Refuses settings under which a step would not do what is accounted.

  * Checks for NaN end the program when one example's gradient is not finite: whether it ends tells
    of the data, and the example must contribute zero instead.
  * Fast maths lets the compiler assume that there is no NaN: it may leave out that very test.

  Raises:
    InputError: one of these is on, naming it.
  """
  settings = read()
  for name in _NAN_CHECKS:
    if settings[name] not in (None, False, 'ignore'):
      raise _validate.InputError(
        f'expected {name} to be off, got {settings[name]!r}: a record whose gradient is not finite '
        'would end the run instead of contributing nothing'
      )
  for word in (settings['XLA_FLAGS'] or '').split():
    flag, _, value = word.strip('-\'"').partition('=')
    if flag in _FAST_MATH and value.lower() not in ('false', '0'):
      raise _validate.InputError(
        f'expected XLA_FLAGS without {flag}, got {word}: it lets XLA assume that nothing is NaN'
      )


def _plain(value: Any) -> Any:
  return value if value is None or isinstance(value, bool | int | float | str) else str(value)
