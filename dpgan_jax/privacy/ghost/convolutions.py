"""Convolutions that read nothing but their operands.

XLA:CPU computes a convolution whose padding is negative on one side and positive on the other from
memory beside the operand: other examples' pixels, or whatever lies there. One example, even a
masked one, then moves the gradients of others. Gradients of convolutions have such padding where
the convolution itself has none. `without_negative_padding` finds it in a traced program, forward
and backward, and puts the zeros and the crops in front of the convolution, by `lax.pad` and
`lax.slice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var


def inner_programs(eqn: Any) -> list[Jaxpr]:
  """The programs that an equation holds: bodies of loops, branches and calls."""
  return [_body(p) for p in jax.tree.leaves(eqn.params, is_leaf=_is_program) if _is_program(p)]


def _is_program(x: Any) -> bool:
  return isinstance(x, (Jaxpr, ClosedJaxpr))


def _body(program: Jaxpr | ClosedJaxpr) -> Jaxpr:
  return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _is_cropped(eqn: Any) -> bool:
  return eqn.primitive.name == 'conv_general_dilated' and any(
    size < 0 for pair in eqn.params['padding'] for size in pair
  )


def has_negative_padding(program: Jaxpr | ClosedJaxpr) -> bool:
  """Whether a convolution in `program`, or in a program inside it, has negative padding."""
  return any(
    _is_cropped(eqn) or any(map(has_negative_padding, inner_programs(eqn)))
    for eqn in _body(program).eqns
  )


def without_negative_padding(program: ClosedJaxpr) -> ClosedJaxpr:
  """The same function, in which no convolution has negative padding."""
  if not has_negative_padding(program):
    return program
  evaluate = lambda *args: _evaluate(program.jaxpr, program.consts, args)  # noqa: E731
  return jax.make_jaxpr(evaluate)(*program.in_avals)


def _rewritten(param: Any) -> Any:
  if not _is_program(param) or not has_negative_padding(param):
    return param
  if isinstance(param, ClosedJaxpr):
    return without_negative_padding(param)
  return without_negative_padding(ClosedJaxpr(param, ())).jaxpr


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
  env: dict[Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
  read = lambda v: v.val if isinstance(v, Literal) else env[v]  # noqa: E731
  for eqn in jaxpr.eqns:
    operands = [read(v) for v in eqn.invars]
    if _is_cropped(eqn):
      outs = [_conv(eqn, *operands)]
    else:
      params = jax.tree.map(_rewritten, eqn.params, is_leaf=_is_program)
      bound = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
      outs = bound if eqn.primitive.multiple_results else [bound]
    env.update(zip(eqn.outvars, outs, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _conv(eqn: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The convolution of `eqn`, of an operand that is padded, dilated and cropped before."""
  padding, dilation = eqn.params['padding'], eqn.params['lhs_dilation']
  around, start, stop = [(0, 0, 0)] * x.ndim, [0] * x.ndim, list(x.shape)
  spatial = eqn.params['dimension_numbers'].lhs_spec[2:]
  for axis, (low, high), step in zip(spatial, padding, dilation, strict=True):
    around[axis] = (max(low, 0), max(high, 0), step - 1)
    padded = around[axis][0] + around[axis][1] + max((x.shape[axis] - 1) * step + 1, 0)
    start[axis], stop[axis] = max(-low, 0), padded - max(-high, 0)
  x = jax.lax.slice(jax.lax.pad(x, jnp.zeros((), x.dtype), around), start, stop)
  params = {**eqn.params, 'padding': ((0, 0),) * len(padding), 'lhs_dilation': (1,) * len(padding)}
  return eqn.primitive.bind(x, kernel, **eqn.primitive.get_bind_params(params))
