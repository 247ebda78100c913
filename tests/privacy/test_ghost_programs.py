"""Generated programs: clipped sums are those of plain per-example gradients, in float64 where the
program itself does not round to fewer bits.

A program is a list of steps on a sequence h [T, F], each with parameters of its own or an earlier
step's; hypothesis draws the steps, their order, what is shared, dtypes and control flow.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax.privacy import clipping
from dpgan_jax.privacy.ghost import forms

F = 4  # features; the weights of all steps are F × F, so that any two can be shared
ROWS = 6  # of the table
NARROW = {'float32': 2e-4, 'bfloat16': 6e-2, 'float16': 1e-2}
# Per step, the shape of its parameter.
SHAPES: dict[str, tuple[int, ...]] = {
  'conv': (3, F // 2, F), 'heads': (2, F, F // 2), 'affine': (2, F), 'flat': (F * F,),
  'table': (ROWS, F),
}  # fmt: skip
STEPS = (
  'dense', 'tied', 'twice', 'conv', 'heads', 'affine', 'flat', 'table', 'attention', 'scan', 'cond',
  'loop', 'gradient', 'bias', 'product of weights', 'normalised',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
  kind: str
  weight: int  # the index of its parameter
  wrapper: str  # '', 'jit' or 'remat'
  dtype: str  # that it computes in
  padding: tuple[int, int]  # of a convolution


@dataclasses.dataclass(frozen=True)
class Program:
  steps: tuple[Step, ...]
  shapes: tuple[tuple[int, ...], ...]
  penalised: bool
  positions: int
  examples: int
  reads_ids: bool


@st.composite
def programs(draw: Any) -> Program:
  shapes: list[tuple[int, ...]] = []
  steps = []
  for kind in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4)):
    shape = SHAPES.get(kind, (F, F))
    fitting = [i for i, s in enumerate(shapes) if s == shape]
    weight = draw(st.sampled_from([*fitting, len(shapes)]))
    if weight == len(shapes):
      shapes.append(shape)
    steps.append(
      Step(
        kind, weight, draw(st.sampled_from(['', '', 'jit', 'remat'])),
        draw(st.sampled_from(['float32'] * 6 + ['bfloat16', 'float16'])),
        draw(st.sampled_from([(1, 1), (0, 2), (2, 0), (-1, 3), (3, -1)])),
      )
    )  # fmt: skip
  return Program(
    tuple(steps), tuple(shapes), draw(st.booleans()), draw(st.integers(2, 5)),
    draw(st.integers(1, 4)), draw(st.booleans()),
  )  # fmt: skip


def apply(step: Step, w: jax.Array, h: jax.Array, ids: jax.Array) -> jax.Array:
  """One step, in the dtype of its operands."""
  match step.kind:
    case 'dense':
      return h @ w
    case 'tied':
      return jnp.tanh(h @ w) @ w.T
    case 'twice':
      return jnp.tanh(h @ w) @ w
    case 'conv':
      return jax.lax.conv_general_dilated(
        h[None], w, (1,), [step.padding], dimension_numbers=('NWC', 'WIO', 'NWC'),
        feature_group_count=2,
      )[0]  # fmt: skip
    case 'heads':
      return jnp.einsum('tf,hfg->thg', h, w).reshape(h.shape)
    case 'affine':
      return h * w[:1] + w[1:]
    case 'flat':
      return h @ w.reshape(2, F, F // 2).transpose(1, 0, 2).reshape(F, F)
    case 'table':
      return h + w[ids]
    case 'attention':
      scores = (h @ w) @ h.T
      return jax.nn.softmax(scores, axis=-1) @ h
    case 'scan':
      one = lambda c, row: (jnp.tanh(c @ w + row), c)  # noqa: E731
      return jax.lax.scan(one, h[0], h)[1]
    case 'cond':
      return jax.lax.cond(ids[0] % 2 == 0, lambda: h @ w, lambda: jnp.sin(h))
    case 'loop':
      return jax.lax.fori_loop(0, 2, lambda _, x: jnp.tanh(x @ w), h)
    case 'gradient':
      return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w) ** 2))(h)
    case 'bias':
      return h + jnp.sum(w, axis=0, keepdims=True)
    case 'product of weights':
      return h @ (w @ w)
    case 'normalised':
      return h @ (w / jnp.sqrt(1 + jnp.sum(w * w)))
  raise AssertionError(step.kind)


def make_loss(program: Program, *, exact: bool) -> Any:
  """The loss on one example (h [T, F], ids [T]); `exact` computes all of it in the dtype of h."""

  def loss(params: list[jax.Array], h: jax.Array, ids: jax.Array) -> jax.Array:
    weights = jnp.arange(1, program.positions * F + 1, dtype=h.dtype).reshape(-1, F) / F
    wide = h.dtype
    for step in program.steps:
      fn = lambda w, h, ids, step=step: apply(step, w, h, ids)  # noqa: E731
      fn = {'': lambda f: f, 'jit': jax.jit, 'remat': jax.checkpoint}[step.wrapper](fn)
      dtype = wide if exact else jnp.dtype(step.dtype)
      h = fn(params[step.weight].astype(dtype), h.astype(dtype), ids).astype(wide)
      h = jnp.tanh(h) + h / 4
    total = jnp.sum(jnp.sin(h) * weights)
    return total + jnp.sum(params[0] ** 2) if program.penalised else total

  return loss


def check(program: Program, strategy: clipping.Strategy, microbatch: int | None, seed: int) -> None:
  rng = np.random.default_rng(seed)
  params = [rng.standard_normal(s).astype(np.float32) / 2 for s in program.shapes]
  h = rng.standard_normal((program.examples, program.positions, F)).astype(np.float32)
  dtype = np.uint8 if program.reads_ids else np.int32
  ids = rng.integers(0, ROWS, h.shape[:2]).astype(dtype)
  narrow = any(step.dtype != 'float32' for step in program.steps)
  # What rounds within its loss is another function than in float64, with gradients of its own.
  with jax.enable_x64(not narrow), jax.disable_jit():  # operation by operation: nothing to compile
    grad = jax.vmap(jax.grad(make_loss(program, exact=not narrow)), (None, 0, 0))
    wide = np.float32 if narrow else np.float64
    found = grad([jnp.asarray(p, wide) for p in params], jnp.asarray(h, wide), jnp.asarray(ids))
    grads = [np.asarray(g, np.float64) for g in found]
  norms = np.sqrt(sum((g.reshape(program.examples, -1) ** 2).sum(axis=1) for g in grads))
  bound = float(np.median(norms)) or 1.0
  mask = np.arange(program.examples) != 1
  counted = seed % 2 == 0  # half of them in whole units, clipped by up to 0.4 % shorter
  fn = clipping.clipped_grad(
    make_loss(program, exact=False), l2_clip_norm=bound, strategy=strategy,
    microbatch_size=microbatch, count_rounding=counted,
  )  # fmt: skip
  got = jax.jit(fn)([jnp.asarray(p) for p in params], h, ids, mask=jnp.asarray(mask))
  tolerance = max(NARROW[s.dtype] for s in program.steps)
  told = np.asarray(got.norms, np.float64)
  slack = tolerance * max(norms.max(), 1.0)
  assert (told >= norms - slack).all(), (told, norms)
  assert (told <= norms * (1 + forms._LOOSE) + slack).all(), (told, norms)
  factors = mask * np.minimum(1.0, bound / np.maximum(told, 1e-30))
  for a, g in zip(got.sum, grads, strict=True):
    atol = program.examples * (2 * slack + counted * 0.005 * bound)
    np.testing.assert_allclose(a, np.tensordot(factors, g, 1), rtol=0, atol=atol)
  # One example alone, twice as long as it may be.
  if norms[0] > 0 and seed % 4 == 0:
    alone = clipping.clipped_grad(
      make_loss(program, exact=False), l2_clip_norm=float(norms[0]) / 2, strategy=strategy
    )
    total = jax.jit(alone)([jnp.asarray(p) for p in params], h[:1], ids[:1]).sum
    length = np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in total))
    assert length <= norms[0] / 2


ARGUMENTS = {
  'program': programs(), 'strategy': st.sampled_from(('ghost', 'auto', 'ghost', 'auto', 'vmap')),
  'microbatch': st.sampled_from([None, None, 2]), 'seed': st.integers(0, 2**20),
}  # fmt: skip


@pytest.mark.slow  # test_ghost has a program of each kind
@hypothesis.given(**ARGUMENTS)
@hypothesis.settings(max_examples=6)
def test_a_sample_of_programs(program, strategy, microbatch, seed):
  check(program, strategy, microbatch, seed)


@pytest.mark.slow
@hypothesis.given(**ARGUMENTS)
@hypothesis.settings(
  max_examples=2000, suppress_health_check=list(hypothesis.HealthCheck), database=None
)
def test_two_thousand_programs(program, strategy, microbatch, seed):
  check(program, strategy, microbatch, seed)
  if seed % 50 == 0:
    jax.clear_caches()
