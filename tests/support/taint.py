"""Reads where private data go in a traced function.

`trace` walks the jaxpr of a function. Every input has a label or none; an output has the labels of
all inputs that it can depend on, whatever their values are. The analysis is conservative: what it
does not know depends on everything, and a branch or a loop depends on its condition. So a label
that an output does not have is a proof, on the program as traced, that the input has no influence
on it.

One way leads from the data to an output without a label: the noised sum. `marked` puts two marks
around the `update` of `transforms.noise_sum`: one on the sum that goes in, one on what comes out.
Between them the data's labels are replaced by `SUM`, which the second mark takes off if noise has
been added. Whatever else goes into `update` (a mask, public gradients) keeps its labels, and so
does what `update` returns beside the noised sum.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import optax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from dpgan_jax.privacy import transforms

DATA, BATCH, NOISE, SUM = 'data', 'batch', 'noise', 'sum'
"""Labels: the records, the key of the batches, the key of the noise, a sum not yet noised."""
SECRET = frozenset({DATA, BATCH, SUM})
Labels = frozenset[str]
_NONE: Labels = frozenset()
_IN, _OUT = 'noised_sum in ', 'noised_sum out '


class NotUnderstood(Exception):
  """The program has something that this analysis cannot follow."""


@dataclasses.dataclass
class Found:
  """What `trace` found.

  Attributes:
    outputs: labels by the path of each output.
    leaks: calls of the host (printing, callbacks) that see labelled values: (primitive, labels).
    sums: numbers of the noised sums that labelled values went into, one for each `update`.
  """

  outputs: dict[str, Labels]
  leaks: list[tuple[str, Labels]]
  sums: set[int]


@contextlib.contextmanager
def marked() -> Iterator[None]:
  """Puts the marks around every `update` of a `transforms.noise_sum` made in this context."""
  original, numbers = transforms.noise_sum, itertools.count()

  def noise_sum(*args: Any, **named: Any) -> optax.GradientTransformationExtraArgs:
    right = original(*args, **named)

    def update(updates: Any, state: Any, *rest: Any, **extra: Any) -> tuple[Any, Any]:
      number = next(numbers)
      updates = jax.tree.map(lambda x: checkpoint_name(x, f'{_IN}{number}'), updates)
      updates, state = right.update(updates, state, *rest, **extra)
      return jax.tree.map(lambda x: checkpoint_name(x, f'{_OUT}{number}'), updates), state

    return optax.GradientTransformationExtraArgs(right.init, update)

  with mock.patch.object(transforms, 'noise_sum', noise_sum):
    yield


def trace(
  fn: Callable[..., Any], *args: Any, label: Callable[[str], str | None]
) -> Found:
  """The labels of the outputs of `fn(*args)`.

  Args:
    fn: what `jax.make_jaxpr` can trace.
    *args: pytrees of arrays or shapes.
    label: path of an input, such as '[0].batch_key', ↦ its label or None.

  Raises:
    NotUnderstood: the program writes to references.
  """
  with marked():
    # A new function: what was traced before without marks, or with a fault, is not used again.
    closed, shapes = jax.make_jaxpr(lambda *a: fn(*a), return_shape=True)(*args)
  paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(args)]
  labels = [frozenset({name}) if (name := label(path)) else _NONE for path in paths]
  walk = _Walk()
  outputs = walk.jaxpr(closed.jaxpr, labels, _NONE)
  names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
  return Found(dict(zip(names, outputs, strict=True)), walk.leaks, walk.sums)


class _Walk:
  """Follows labels through jaxprs. `context` are the labels of the conditions around."""

  def __init__(self) -> None:
    self.leaks: list[tuple[str, Labels]] = []
    self.sums: set[int] = set()

  def jaxpr(self, jaxpr: Any, labels: Sequence[Labels], context: Labels) -> list[Labels]:
    env: dict[Any, Labels] = dict(zip(jaxpr.invars, labels, strict=True))

    def read(atom: Any) -> Labels:
      # Constants (`constvars`) are public: private data are arguments of what is traced.
      return _NONE if isinstance(atom, core.Literal) else env.get(atom, _NONE)

    for eqn in jaxpr.eqns:
      found = self.equation(eqn, [read(atom) for atom in eqn.invars], context)
      env.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def equation(self, eqn: Any, labels: list[Labels], context: Labels) -> list[Labels]:
    name, params = eqn.primitive.name, eqn.params
    together = _NONE.union(*labels)
    if any(hasattr(v.aval, 'inner_aval') for v in (*eqn.invars, *eqn.outvars)):
      raise NotUnderstood(f'expected no references in a step, got {name}')
    if name == 'name':
      return [self.mark(params['name'], together)]
    elif name == 'cond':
      inside = context | labels[0]
      branches = [self.jaxpr(b.jaxpr, labels[1:], inside) for b in params['branches']]
      return [labels[0].union(*each) for each in zip(*branches, strict=True)]
    elif name == 'scan':
      m, n, body = params['num_consts'], params['num_carry'], params['jaxpr'].jaxpr
      fixed, state, rest = labels[:m], labels[m : m + n], labels[m + n :]
      state, found = self.loop(lambda s: self.jaxpr(body, [*fixed, *s, *rest], context), state)
      return [*state, *found[n:]]
    elif name == 'while':
      m, n = params['cond_nconsts'], params['body_nconsts']
      asked, fixed, state = labels[:m], labels[m : m + n], labels[m + n :]

      def once(state: list[Labels]) -> list[Labels]:
        (goes_on,) = self.jaxpr(params['cond_jaxpr'].jaxpr, [*asked, *state], context)
        body = self.jaxpr(params['body_jaxpr'].jaxpr, [*fixed, *state], context | goes_on)
        return [each | goes_on for each in body]

      return self.loop(once, state)[0]
    elif (inner := called(eqn)) is not None:
      return self.jaxpr(inner.jaxpr, labels, context)
    if (eqn.effects or 'callback' in name) and together | context:
      self.leaks.append((name, together | context))
    return [together for _ in eqn.outvars]

  def loop(
    self, body: Callable[[list[Labels]], list[Labels]], state: list[Labels]
  ) -> tuple[list[Labels], list[Labels]]:
    """The labels of the state after any number of rounds, and all that the body returns then."""
    while True:
      found = body(state)
      after = [old | new for old, new in zip(state, found, strict=False)]
      if after == state:
        return state, found
      state = after

  def mark(self, name: str, labels: Labels) -> Labels:
    if name.startswith(_IN):
      if labels & SECRET:
        self.sums.add(int(name.removeprefix(_IN)))
        return labels - SECRET | {SUM}
    elif name.startswith(_OUT) and NOISE in labels:
      return labels - {SUM, NOISE}
    return labels


def called(eqn: Any) -> core.ClosedJaxpr | None:
  """The jaxpr that an equation calls with its own inputs and outputs, if it does just that."""
  if eqn.primitive.name not in (
    'jit', 'pjit', 'closed_call', 'core_call', 'checkpoint', 'remat2', 'custom_jvp_call',
    'custom_vjp_call', 'custom_vjp_call_jaxpr',
  ):  # fmt: skip
    return None
  inner = next(eqn.params[k] for k in ('jaxpr', 'call_jaxpr', 'fun_jaxpr') if k in eqn.params)
  return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
