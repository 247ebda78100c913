"""Which keys a traced function draws random numbers with, whatever it does with the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval

from tests.support import taint

_DRAWS = ('random_bits', 'threefry2x32')


def keys_of(fn: Callable[..., Any], *args: Any) -> Callable[..., jax.Array]:
  """`f(*args)` returns the keys that `fn(*args)` draws with: uint32 [draws, words + 2].

  The last two words are the counter that the draw begins with: zero, but where threefry is called
  by hand. A key that is only split or folded into others draws nothing. Both branches of a
  condition count, every round of a scan, and the first round of a while loop.

  Args:
    fn: what `jax.make_jaxpr` can trace.
    *args: pytrees of arrays or shapes.
  """
  closed = jax.make_jaxpr(lambda *a: fn(*a))(*args)
  shapes = [jax.typeof(x) if hasattr(x, 'weak_type') else x for x in jax.tree.leaves(args)]

  def keys(*leaves: Any) -> jax.Array:
    return jnp.concatenate(_run(closed.jaxpr, closed.consts, leaves)[1])

  found = jax.make_jaxpr(keys)(*shapes)
  # The networks take no part in it.
  small, used = partial_eval.dce_jaxpr(found.jaxpr, [True])

  def called(*a: Any) -> jax.Array:
    leaves = [leaf for leaf, needed in zip(jax.tree.leaves(a), used, strict=True) if needed]
    return jax.core.eval_jaxpr(small, found.consts, *leaves)[0]

  return called


def _run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
  """(outputs, keys) of a jaxpr."""
  env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
  env.update(zip(jaxpr.invars, args, strict=True))
  keys: list[Any] = []

  def read(atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else env[atom]

  for eqn in jaxpr.eqns:
    given = [read(atom) for atom in eqn.invars]
    outs, more = _equation(eqn, given)
    keys += more
    env.update(zip(eqn.outvars, outs, strict=True))
  return [read(atom) for atom in jaxpr.outvars], keys


def _equation(eqn: Any, given: list[Any]) -> tuple[list[Any], list[Any]]:
  name, params = eqn.primitive.name, eqn.params
  if params.get('name') == 'threefry2x32':  # of `_keys`, made of plain operations
    name = 'threefry2x32'
  elif (called := taint.called(eqn)) is not None:
    return _run(called.jaxpr, called.consts, given)
  keys: list[Any] = []
  if name == 'random_bits':
    keys = [_from(jax.random.key_data(given[0]), 0, 0)]
  elif name == 'threefry2x32':
    first = [jnp.ravel(counter)[0] for counter in given[2:]]
    keys = [_from(jnp.stack(jnp.broadcast_arrays(*given[:2]), axis=-1), *first)]
  elif any(map(_draws, core.jaxprs_in_params(params))):
    keys = _inside(name, params, given)
  outs = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(params)[1]) if (
    eqn.primitive.call_primitive) else eqn.primitive.bind(*given, **params)  # fmt: skip
  outs = outs if eqn.primitive.multiple_results else [outs]
  return outs, [key.reshape(-1, key.shape[-1]) for key in keys]


def _from(keys: jax.Array, *counter: Any) -> jax.Array:
  words = jnp.stack([jnp.asarray(c, jnp.uint32) for c in counter])
  return jnp.concatenate([keys, jnp.broadcast_to(words, (*keys.shape[:-1], 2))], axis=-1)


def _inside(name: str, params: Any, given: list[Any]) -> list[Any]:
  """The keys that the jaxprs of a branch or a loop draw with."""
  if name == 'cond':
    return [key for b in params['branches'] for key in _run(b.jaxpr, b.consts, given[1:])[1]]
  if name == 'while':
    m, body = params['cond_nconsts'], params['body_jaxpr']
    return _run(body.jaxpr, body.consts, given[m:])[1]
  if name != 'scan':
    raise taint.NotUnderstood(f'{name} draws random numbers')
  m, n, body = params['num_consts'], params['num_carry'], params['jaxpr']

  def once(carry: list[Any], each: list[Any]) -> Any:
    outs, keys = _run(body.jaxpr, body.consts, [*given[:m], *carry, *each])
    return outs[:n], keys

  _, keys = jax.lax.scan(
    once, given[m : m + n], given[m + n :], length=params['length'], reverse=params['reverse']
  )
  return keys


def _draws(jaxpr: Any) -> bool:
  inner = getattr(jaxpr, 'jaxpr', jaxpr)
  return any(
    eqn.primitive.name in _DRAWS
    or eqn.params.get('name') in _DRAWS
    or any(map(_draws, core.jaxprs_in_params(eqn.params)))
    for eqn in inner.eqns
  )
