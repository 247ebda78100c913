"""Clipped gradient sums from one forward and one backward pass, for any JAX model.

Clipping needs every example's norm and a sum weighted by the clip factors. Where a parameter enters
by a matrix product, a convolution or a table lookup, both follow from the product's input and the
gradient at its output (`rules`), which a single backward pass leaves behind. The loss, an ordinary
function of parameters and one example, is traced once; in its program (a jaxpr) every use of every
parameter is found. A parameter used in any other way (a bias, a scale, a recurrence inside `scan`)
has its per-example gradients formed as `vmap(grad)` would form them: nothing is skipped or
approximated.

Sources: Goodfellow 2015 (arXiv 1510.01799); Li et al. 2022 (arXiv 2110.05679); Bu et al. 2023
(arXiv 2210.00038).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal, Var, jaxpr_as_fun

from dpgan_jax import _keys, _validate
from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.ghost import convolutions, forms, rules, sums
from dpgan_jax.privacy.ghost.forms import Form, Preference
from dpgan_jax.privacy.ghost.norms import length, squares
from dpgan_jax.privacy.ghost.rules import Site, Step

PyTree = Any

_CALLS = frozenset({'jit', 'pjit', 'closed_call', 'core_call', 'checkpoint', 'remat', 'remat2'})


class Use(NamedTuple):
  """A site and how its weight was rearranged from the parameter before it got there."""

  site: Site
  undo: tuple[Step, ...]  # from [G, C, K] back to the parameter's own shape


@dataclasses.dataclass(frozen=True)
class Plan:
  """Where the parameters are used in the program of a loss on one example.

  Attributes:
    jaxpr: the program, without calls to inline.
    consts: its constants.
    uses: (index of the equation, index of the parameter leaf, use), in program order.
    covered: leaves whose every use is in `uses`.
    entangled: whether a grouped convolution is left to autodiff. XLA:CPU computes its per-example
      weight gradients as one masked product in which 0·NaN spreads one example's NaN to all.
  """

  jaxpr: Jaxpr
  consts: Sequence[Any]
  uses: tuple[tuple[int, int, Use], ...]
  covered: frozenset[int]
  entangled: bool


def make_plan(
  loss_fn: Callable[..., jax.Array], params: PyTree, batch: tuple[PyTree, ...], *, cover: bool
) -> Plan:
  """Traces `loss_fn(params, *example)` and finds the uses of each parameter.

  Args:
    loss_fn: the loss on one example, a scalar.
    params: pytree of arrays.
    batch: pytrees of arrays [n, ...].
    cover: False leaves every parameter to autodiff.

  Raises:
    InputError: the loss is not one number, or draws from another generator than the package's.
  """
  if sharding.varying(batch):  # inside shard_map; a shape alone does not say so
    example = jax.tree.map(lambda x: x[0], batch)
  else:
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
  traced = jax.make_jaxpr(loss_fn)(params, *example)
  shapes = [aval.shape for aval in traced.out_avals]
  if shapes != [()]:
    raise _validate.InputError(
      f'expected loss_fn to return one scalar for one example, got shapes {shapes}'
    )
  require_own_generator(traced.jaxpr)
  flat = jax.make_jaxpr(lambda *args: _inline(traced.jaxpr, traced.consts, args))(*traced.in_avals)
  leaves = len(jax.tree.leaves(params))

  views: dict[Var, tuple[int, tuple[Step, ...]]] = {
    var: (leaf, ()) for leaf, var in enumerate(flat.jaxpr.invars[:leaves])
  }
  uses: list[tuple[int, int, Use]] = []
  uncovered: set[int] = set()
  for index, eqn in enumerate(flat.jaxpr.eqns):
    held = [i for i, v in enumerate(eqn.invars) if not isinstance(v, Literal) and v in views]
    if not held:
      continue
    leaf, undo = views[eqn.invars[held[0]]]
    back = rules.invert_view(eqn) if len(eqn.invars) == 1 else None
    if back is not None:
      views[eqn.outvars[0]] = leaf, (back, *undo)
    elif len(held) == 1 and (site := rules.match(eqn, held[0])) is not None:
      uses.append((index, leaf, Use(site, (*site.to_weight, *undo))))
    else:
      uncovered.update(views[eqn.invars[i]][0] for i in held)
  uncovered.update(
    views[v][0] for v in flat.jaxpr.outvars if not isinstance(v, Literal) and v in views
  )

  for leaf in range(leaves):
    # Several uses of one parameter add up before the norm is taken. They can be put end to end
    # along T if they lie the same way; otherwise (a tied embedding) the leaf is left to autodiff.
    kinds = {(u.undo, u.site.is_lookup, _width(u.site)) for _, l, u in uses if l == leaf}
    if len(kinds) != 1 or not cover:
      uncovered.add(leaf)
  covered = frozenset(range(leaves)) - uncovered
  kept = tuple(use for use in uses if use[1] in covered)
  safe = {index for index, _, _ in kept}
  entangled = any(_has_grouped_conv(eqn) for i, eqn in enumerate(flat.jaxpr.eqns) if i not in safe)
  return Plan(flat.jaxpr, flat.consts, kept, covered, entangled)


def require_own_generator(jaxpr: Any) -> None:
  """Refuses a loss in which numbers are drawn that `vmap` would let follow the batch."""
  for eqn in jaxpr.eqns:
    kinds = {str(getattr(v.aval, 'dtype', '')) for v in (*eqn.invars, *eqn.outvars)}
    other = {kind for kind in kinds if kind.startswith('key<') and kind != _keys.DTYPE}
    if other or eqn.primitive.name in ('rng_bit_generator', 'rng_uniform'):
      raise _validate.InputError(
        f'expected loss_fn to draw with {_keys.IMPLEMENTATION} keys, got '
        f'{", ".join(sorted(other)) or eqn.primitive.name}: under vmap the numbers of one example '
        'would depend on the whole batch'
      )
    for inner in convolutions.inner_programs(eqn):
      require_own_generator(inner)


def _has_grouped_conv(eqn: Any) -> bool:
  """Whether an equation is a grouped convolution or holds one (in a scan, a branch)."""
  if eqn.primitive.name == 'conv_general_dilated':
    return eqn.params['feature_group_count'] > 1 or eqn.params['batch_group_count'] > 1
  return any(_has_grouped_conv(e) for j in convolutions.inner_programs(eqn) for e in j.eqns)


def _width(site: Site) -> tuple[int, int, int]:
  groups, _, inputs, outputs = site.shape
  return groups, inputs, outputs


def _inline(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
  """Evaluates a jaxpr with the bodies of its calls in their place."""
  env: dict[Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
  for eqn in jaxpr.eqns:
    values = [_read(env, v) for v in eqn.invars]
    inner = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
    if eqn.primitive.name in _CALLS and inner is not None:
      closed = hasattr(inner, 'consts')
      outs = _inline(inner.jaxpr if closed else inner, inner.consts if closed else (), values)
    else:
      outs = _bind(eqn, values)
    env.update(zip(eqn.outvars, outs, strict=True))
  return [_read(env, v) for v in jaxpr.outvars]


def _read(env: dict[Var, Any], var: Any) -> Any:
  return var.val if isinstance(var, Literal) else env[var]


def _bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
  out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
  return out if eqn.primitive.multiple_results else [out]


class Gradients(NamedTuple):
  """What is left of a forward and a backward pass over a batch, before clipping.

  Attributes:
    losses: [n].
    norms: float32[n], the L2 norm of each example's whole gradient: never less, at most 0.2 %
      more.
    forms: for each covered leaf, its form and the steps back to the leaf's shape.
    per_example: for each other leaf, [n, *shape].
  """

  losses: jax.Array
  norms: jax.Array
  forms: dict[int, tuple[Form, tuple[Step, ...]]]
  per_example: dict[int, jax.Array]

  @property
  def positions(self) -> set[int]:
    """How many terms an example has in a sum, for each kind of leaf."""
    return {form.positions for form, _ in self.forms.values()} | {1}

  def weighted_sum(
    self, factors: jax.Array, usable: jax.Array | None, grids: Sequence[sums.Grid | None]
  ) -> list[forms.Sum]:
    """Σᵢ factorᵢ·gradientᵢ of every leaf, whole numbers of its grid, or float32 or wider.

    Args:
      factors: float32[n].
      usable: bool[n], False for examples that hold NaN or infinities; None if none does.
      grids: of the leaves, in order.
    """
    found = {
      leaf: jax.tree.map(
        functools.partial(rules.apply_steps, steps),
        form.weighted_sum(factors, usable, grids[leaf]),
      )
      for leaf, (form, steps) in self.forms.items()
    }
    for leaf, gradients in self.per_example.items():
      found[leaf] = forms.weighted_sum(gradients, factors, usable, grids[leaf])
    return [found[leaf] for leaf in sorted(found)]


def backward(plan: Plan, params: PyTree, batch: tuple[Any, ...], prefer: Preference) -> Gradients:
  """One forward and one backward pass over `batch`, whose arrays are [n, ...]."""
  leaves = jax.tree.leaves(params)
  others = {i: leaf for i, leaf in enumerate(leaves) if i not in plan.covered}
  outputs: dict[int, Any] = {i: plan.jaxpr.eqns[i].outvars[0].aval for i, _, _ in plan.uses}
  # Gradients by a zero added to a product's output are those by the output itself.
  zeros = {index: jnp.zeros(aval.shape, aval.dtype) for index, aval in outputs.items()}
  zeros = sharding.alike(zeros, sharding.varying(batch))
  sites = {index: use.site for index, _, use in plan.uses}

  def loss(
    others: dict[int, jax.Array], zeros: dict[int, jax.Array], *example: Any
  ) -> tuple[jax.Array, dict[int, jax.Array]]:
    values = [others.get(i, leaf) for i, leaf in enumerate(leaves)]
    inputs = [*plan.consts, *values, *jax.tree.leaves(example)]
    env = dict(zip([*plan.jaxpr.constvars, *plan.jaxpr.invars], inputs, strict=True))
    seen: dict[int, jax.Array] = {}
    for index, eqn in enumerate(plan.jaxpr.eqns):
      operands = [_read(env, v) for v in eqn.invars]
      outs = _bind(eqn, operands)
      if index in sites:
        seen[index] = operands[sites[index].other]
        outs = [outs[0] + zeros[index]]
      env.update(zip(eqn.outvars, outs, strict=True))
    return _read(env, plan.jaxpr.outvars[0]), seen

  in_axes = (None, None) + (0,) * len(batch)
  grad = jax.vmap(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), in_axes)
  inputs = (others, zeros, *batch)
  program, shapes = jax.make_jaxpr(grad, return_shape=True)(*inputs)
  program = convolutions.without_negative_padding(program)
  results = jaxpr_as_fun(program)(*jax.tree.leaves(inputs))
  (losses, seen), (per_example, at_outputs) = jax.tree.unflatten(
    jax.tree.structure(shapes), results
  )
  # Norms and sum must not each see their own version of a gradient. Where XLA computes a value
  # twice, it may leave out a rounding to bfloat16 or fuse a multiply-add in one place only, and
  # cancelling terms make any difference of it. So both read it from one place.
  seen, per_example, at_outputs = jax.tree.map(
    jax.lax.optimization_barrier, (seen, per_example, at_outputs)
  )

  gathered: dict[int, list[tuple[jax.Array, jax.Array]]] = {}
  last: dict[int, Use] = {}
  for index, leaf, use in plan.uses:
    gathered.setdefault(leaf, []).append(jax.vmap(use.site.rows)(seen[index], at_outputs[index]))
    last[leaf] = use
  found: dict[int, tuple[Form, tuple[Step, ...]]] = {}
  for leaf, pairs in gathered.items():
    site, undo = last[leaf]
    axis = 1 if site.is_lookup else 2
    a, d = (jnp.concatenate(parts, axis=axis) for parts in zip(*pairs, strict=True))
    if site.is_lookup:
      found[leaf] = forms.lookup(a, d, rows=site.shape[2]), undo
    else:
      found[leaf] = forms.product(a, d, prefer), undo
  squared = [form.squared for form, _ in found.values()]
  squared += [squares(leaf) for leaf in per_example.values()]
  return Gradients(losses, length(squared), found, per_example)
