"""Refuses networks that mix the examples of a batch: clipping would then bound nothing."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from dpgan_jax import _keys, _validate

_MIXING_LAYERS = (nn.BatchNorm, nn.SpectralNorm)


def require_per_example(discriminator: nn.Module, *inputs: Any) -> None:
  """Refuses a module whose output for one example can depend on other examples.

  Clipping bounds what one example does through its own gradient. A layer that mixes examples (batch
  norm), or keeps state fed by data (running statistics, spectral norm), lets it act through the
  others' gradients or through the state, and the guarantee is void.

  Args:
    discriminator: the module.
    *inputs: a batch of inputs, arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    InputError: naming the layer.
  """
  found: list[str] = []

  def look(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, _MIXING_LAYERS):
      path = '/'.join(context.module.path) or 'itself'
      found.append(f'{type(context.module).__name__} ({path})')
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(look):
    variables = jax.eval_shape(discriminator.init, _keys.from_seed(0), *inputs)
  stateful = sorted(set(variables) - {'params'})
  if stateful and not found:
    found = [f'state {name!r} of {sorted(variables[name])}' for name in stateful]
  if found:
    raise _validate.InputError(
      'a private discriminator must treat each example alone, but it holds '
      f'{", ".join(dict.fromkeys(found))}: use group norm or layer norm, or no normalisation'
    )
