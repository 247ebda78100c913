"""Refuses networks that mix the examples of a batch: clipping would then bound nothing."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax

from dpgan_jax import _keys, _validate
from dpgan_jax.privacy import independence

_MIXING_LAYERS = (nn.BatchNorm, nn.SpectralNorm)


def require_per_example(discriminator: nn.Module, *inputs: Any) -> None:
  """Refuses a module whose output for one example can depend on other examples.

  Clipping bounds what one example does through its own gradient. A layer that mixes examples (batch
  norm), or keeps state fed by data (running statistics, spectral norm), lets it act through the
  others' gradients or through the state, and the guarantee is void. Layers known to do so are
  named; for the others, random examples are computed alone and in a batch, and their outputs must
  not differ. `independence.require_independent` looks at gradients as well.

  Args:
    discriminator: the module.
    *inputs: a batch of inputs, arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    InputError: naming the layer, or what differs.
  """
  shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
  try:
    _require_per_example(discriminator, shapes)
  except TypeError as error:
    if 'unhashable' not in str(error):
      raise
    _require_per_example.__wrapped__(discriminator, shapes)


@functools.lru_cache(maxsize=64)
def _require_per_example(
  discriminator: nn.Module, shapes: tuple[jax.ShapeDtypeStruct, ...]
) -> None:
  found: list[str] = []

  def look(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, _MIXING_LAYERS):
      path = '/'.join(context.module.path) or 'itself'
      found.append(f'{type(context.module).__name__} ({path})')
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(look):
    variables = jax.eval_shape(discriminator.init, _keys.from_seed(0), *shapes)
  stateful = sorted(set(variables) - {'params'})
  if stateful and not found:
    found = [f'state {name!r} of {sorted(variables[name])}' for name in stateful]
  if found:
    raise _validate.InputError(
      'a private discriminator must treat each example alone, but it holds '
      f'{", ".join(dict.fromkeys(found))}: use group norm or layer norm, or no normalisation'
    )
  with jax.ensure_compile_time_eval():
    values = jax.tree.map(lambda x: x / math.sqrt(x.size), independence.random_like(variables))
    batch = independence.random_batch(
      tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in shapes)
    )
    independence.require_independent_outputs(lambda *x: discriminator.apply(values, *x), batch)
