"""dpgan_jax.privacy.ghost.ghost: norms and sums from one backward pass are those of vmap(grad)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.networks import layers
from dpgan_jax.privacy import clipping
from dpgan_jax.privacy.ghost import forms, ghost

N = 5


def agree(
  loss: Callable[..., jax.Array],
  params: object,
  batch: tuple,
  *,
  bound: float = 0.7,
  mask: jax.Array | None = None,
  rtol: float = 2e-5,
  strategies: Sequence[clipping.Strategy] = clipping.STRATEGIES,
) -> None:
  """Strategies give what plain vmap(grad) and a float64 loop over the examples give.

  In plain floats: what counting the rounding changes is in test_sums.
  """
  grads = jax.jit(jax.vmap(jax.grad(loss), (None,) + (0,) * len(batch)))(params, *batch)
  leaves = [np.asarray(g, np.float64) for g in jax.tree.leaves(grads)]
  n = leaves[0].shape[0]
  norms = np.sqrt(sum((g.reshape(n, -1) ** 2).sum(axis=1) for g in leaves))
  size = min(bound, norms.max()) * max(1.0, math.sqrt(n))
  for strategy in strategies:
    fn = clipping.clipped_grad(
      loss, l2_clip_norm=bound, strategy=strategy, count_rounding=False
    )
    got = jax.jit(fn)(params, *batch, mask=mask)
    told = np.asarray(got.norms, np.float64)
    assert (told >= norms * (1 - rtol)).all(), (strategy, told, norms)
    assert (told <= norms * (1 + forms._LOOSE + rtol)).all(), (strategy, told, norms)
    factors = np.minimum(1.0, bound / np.maximum(told, 1e-30))
    if mask is not None:
      factors = factors * np.asarray(mask)
    for a, g in zip(jax.tree.leaves(got.sum), leaves, strict=True):
      want = np.tensordot(factors, g, 1)
      np.testing.assert_allclose(a, want, rtol=0, atol=rtol * size, err_msg=strategy)
      assert a.dtype == jnp.float32


def of_module(
  module: nn.Module, shape: tuple[int, ...], n: int = N, seed: int = 0
) -> tuple[Callable[..., jax.Array], dict, tuple]:
  """A loss that weighs every output of a Linen module by its own number, and a batch for it."""
  rng = np.random.default_rng(seed)
  x = jnp.asarray(rng.standard_normal((n, *shape)), jnp.float32)
  params = module.init(jax.random.key(seed), x[:1])
  out = jax.eval_shape(module.apply, params, x[:1]).shape
  weights = jnp.asarray(rng.standard_normal(out), jnp.float32)

  def loss(params: dict, x: jax.Array) -> jax.Array:
    y = module.apply(params, x[None])
    return jnp.sum(jnp.tanh(y) * weights)

  return loss, params, (x,)


def covered(loss: Callable, params: object, batch: tuple) -> set[str]:
  plan = ghost.make_plan(loss, params, batch, cover=True)
  names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  return {names[leaf] for leaf in plan.covered}


INFERRING: Sequence[clipping.Strategy] = ('auto', 'ghost')
"""The strategies that infer norms, where they can."""

LAYERS = {
  'dense': (nn.Dense(3), (4,)),
  'dense over positions': (nn.Dense(3), (6, 4)),
  'dense general': (nn.DenseGeneral((2, 3), axis=(-2, -1)), (5, 4, 2)),
  'conv valid': (nn.Conv(3, (3, 2), padding='VALID'), (6, 5, 2)),
  'conv stride same': (nn.Conv(4, (3, 3), strides=2), (7, 6, 2)),
  'conv padding dilation': (
    nn.Conv(2, (2, 3), padding=((1, 2), (0, 1)), kernel_dilation=2), (6, 7, 3),
  ),
  'conv groups': (nn.Conv(6, (3, 3), feature_group_count=3), (5, 5, 6)),
  'conv depthwise circular': (nn.Conv(4, (3,), feature_group_count=4, padding='CIRCULAR'), (8, 4)),
  'conv 3-d': (nn.Conv(2, (2, 2, 2)), (3, 4, 3, 2)),
  'conv input dilation': (
    nn.Conv(2, (3, 3), input_dilation=2, padding=((1, 2), (0, 1))), (4, 4, 2),
  ),
  'conv transpose': (nn.ConvTranspose(3, (3, 3), strides=(2, 2)), (4, 3, 2)),
  'conv transpose valid kernel': (
    nn.ConvTranspose(3, (4, 4), strides=(2, 2), padding='VALID', transpose_kernel=True), (3, 3, 2),
  ),
  'layer norm': (nn.LayerNorm(), (4, 6)),
  'group norm': (nn.GroupNorm(2), (3, 3, 4)),
  'attention': (nn.MultiHeadDotProductAttention(2), (5, 4)),
  'patches conv': (layers.Conv(3, (4, 4), stride=2), (7, 6, 2)),
}  # fmt: skip


ALIKE = {  # others have what they try: the layers of an attention, kernels, strides, norms
  'dense general', 'conv valid', 'conv padding dilation', 'conv depthwise circular', 'conv 3-d',
  'conv transpose valid kernel', 'group norm',
}  # fmt: skip


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.slow] if n in ALIKE else []) for n in LAYERS]
)
def test_every_layer(name):
  module, shape = LAYERS[name]
  loss, params, batch = of_module(module, shape)
  agree(loss, params, batch, strategies=INFERRING)
  agree(loss, params, batch, mask=jnp.arange(N) % 2 == 0, bound=math.inf, strategies=['ghost'])
  kernels = {n for n in _names(params) if 'kernel' in n}
  assert covered(loss, params, batch) == kernels  # no kernel falls back to autodiff unnoticed


def _names(params: dict) -> set[str]:
  return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.slow  # test_every_layer has convolutions of each kind
@hypothesis.given(
  size=st.integers(3, 7), kernel=st.integers(1, 3), stride=st.integers(1, 3),
  dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), per_group=st.integers(1, 3),
  features=st.integers(1, 4), padding=st.sampled_from(['SAME', 'VALID', 2]),
  n=st.integers(1, 4), bias=st.booleans(),
)  # fmt: skip
@hypothesis.settings(max_examples=6)
def test_convolutions_of_any_shape(
  size, kernel, stride, dilation, groups, per_group, features, padding, n, bias
):
  hypothesis.assume(padding != 'VALID' or size > (kernel - 1) * dilation)
  module = nn.Conv(
    groups * features, (kernel, kernel), strides=stride, kernel_dilation=dilation,
    feature_group_count=groups, padding=padding, use_bias=bias,
  )  # fmt: skip
  loss, params, batch = of_module(module, (size, size + 1, groups * per_group), n)
  agree(loss, params, batch, strategies=INFERRING)


@pytest.mark.slow  # test_every_layer has products of each kind
@hypothesis.given(
  spec=st.sampled_from(
    [
      'ik,kj->ij', 'ki,jk->ij', 'bik,bkj->bij', 'bik,jkb->bij', 'iklm,lmj->ikj', 'k,kj->j',
      'i,j->ij',
    ]
  ),
  swap=st.booleans(), sizes=st.tuples(*[st.integers(1, 4)] * 6), n=st.integers(1, 4),
)  # fmt: skip
@hypothesis.settings(max_examples=8)
def test_products_of_any_shape(spec, swap, sizes, n):
  """Contractions, batch dimensions and axis orders of einsum, the weight on either side."""
  dims = dict(zip('bijklm', sizes, strict=True))
  inputs, out = spec.split('->')
  x_axes, w_axes = inputs.split(',')
  rng = np.random.default_rng(n)
  x = jnp.asarray(rng.standard_normal((n, *(dims[a] for a in x_axes))), jnp.float32)
  w = jnp.asarray(rng.standard_normal([dims[a] for a in w_axes]), jnp.float32)
  used = f'{w_axes},{x_axes}->{out}' if swap else spec

  def loss(w: jax.Array, x: jax.Array) -> jax.Array:
    y = jnp.einsum(used, w, x) if swap else jnp.einsum(used, x, w)
    return jnp.sum(jnp.sin(y) * jnp.arange(1.0, y.size + 1).reshape(y.shape))

  agree(loss, w, (x,), rtol=1e-4, strategies=INFERRING)


class Embedding(nn.Module):
  tied: bool = False

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    table = nn.Embed(7, 3)
    x = table(ids)
    return table.attend(x) if self.tied else nn.Dense(2)(x)


@pytest.mark.parametrize(
  'tied', [pytest.param(False, marks=pytest.mark.slow), True]  # test_ghost_lookups has the former
)
def test_embeddings(tied):
  ids = jnp.array([[0, 3, 3, 3], [6, 1, 0, 2], [5, 5, 5, 5]])
  module = Embedding(tied)
  params = module.init(jax.random.key(0), ids)

  def loss(params: dict, ids: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(module.apply(params, ids[None])) * jnp.arange(1.0, 5.0)[None, :, None])

  agree(loss, params, (ids,))
  assert any('embedding' in name for name in covered(loss, params, (ids,))) != tied


@pytest.mark.slow  # test_ghost_lookups has more of them
def test_ids_out_of_range_read_no_row():
  def loss(table: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.sum((table.at[ids].get(mode='fill', fill_value=0.0) + 1.0) ** 2)

  agree(loss, jnp.arange(1.0, 9.0).reshape(4, 2), (jnp.array([[0, 9, 1], [3, 3, 2]]),))


def test_parameters_shared_between_calls():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      conv, dense = nn.Conv(2, (3, 3)), nn.Dense(4)
      x = jnp.tanh(conv(jnp.tanh(conv(x)))).reshape(x.shape[0], -1)[:, :4]
      return dense(dense(x))

  loss, params, batch = of_module(Twice(), (4, 4, 2))
  agree(loss, params, batch)
  assert len(covered(loss, params, batch)) == 2


def test_a_parameter_used_in_ways_no_rule_knows_is_left_to_autodiff():
  def loss(p: dict, x: jax.Array) -> jax.Array:
    def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
      return jnp.tanh(carry @ p['recurrent'] + row), None

    h = jax.lax.scan(step, jnp.zeros(3), x)[0]
    h = h @ (p['normed'] / jnp.linalg.norm(p['normed']))
    h = h @ p['squared'] @ p['squared']
    h = jnp.tanh(h @ p['penalised'])  # known to a rule here, but not in the sum of squares
    return jnp.sum(h @ p['plain']) + jnp.sum(p['penalised'] ** 2) + p['alone']

  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.standard_normal((3, 3)), jnp.float32)
    for name in ('recurrent', 'normed', 'squared', 'plain', 'penalised', 'unused')
  }
  params['alone'] = jnp.asarray(1.5)
  x = jnp.asarray(rng.standard_normal((N, 4, 3)), jnp.float32)
  agree(loss, params, (x,), bound=3.0)
  assert covered(loss, params, (x,)) == {"['squared']", "['plain']"}


def test_rearranged_and_jitted_and_rematerialised_weights_are_followed():
  @jax.jit
  def product(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w.reshape(2, 3, 2).transpose(0, 2, 1).reshape(4, 3)

  def loss(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.gelu(jax.checkpoint(product)(x, w)) ** 2)

  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.standard_normal(12), jnp.float32)
  x = jnp.asarray(rng.standard_normal((N, 2, 4)), jnp.float32)
  agree(loss, w, (x,))
  assert covered(loss, w, (x,)) == {''}


def test_a_gradient_penalty_inside_the_loss():
  """A second derivative: the critic's weights are used in its forward and its backward pass."""
  critic = nn.Sequential([nn.Dense(6), nn.tanh, nn.Dense(1)])
  x = jnp.asarray(np.random.default_rng(0).standard_normal((N, 4)), jnp.float32)
  params = critic.init(jax.random.key(0), x)

  def loss(params: dict, x: jax.Array) -> jax.Array:
    score = lambda x: critic.apply(params, x)[0]  # noqa: E731
    return score(x) + 10.0 * (jnp.linalg.norm(jax.grad(score)(x)) - 1.0) ** 2

  agree(loss, params, (x,), rtol=1e-4)


@pytest.mark.slow  # the next test is stricter
def test_mixed_precision_keeps_norms_and_sums_in_float32():
  module = nn.Sequential([nn.Dense(16, dtype=jnp.bfloat16), nn.tanh, nn.Dense(1)])
  loss, params, batch = of_module(module, (9, 8), n=64)
  found = {
    strategy: jax.jit(clipping.clipped_grad(loss, l2_clip_norm=0.7, strategy=strategy))
    for strategy in clipping.STRATEGIES
  }
  want = found['vmap'](params, *batch)
  for strategy in INFERRING:
    got = found[strategy](params, *batch)
    np.testing.assert_allclose(got.norms, want.norms, rtol=2e-2)  # vmap(grad) sums in bfloat16
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.1), got.sum, want.sum)
    assert {leaf.dtype for leaf in jax.tree.leaves(got.sum)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
  'strategy',
  [pytest.param(s, marks=[] if s == 'auto' else [pytest.mark.slow]) for s in clipping.STRATEGIES],
)
@pytest.mark.parametrize('shape', [(1, 40, 50), (3, 40, 50), (30, 4, 5)], ids=str)
def test_in_bfloat16_the_norm_is_that_of_the_gradient_that_is_summed(shape, strategy):
  """To float32 rounding, whichever way to the norm: 'outer', 'gram' and 'direct' here.

  Every entry of input and output gradient loses 0.4 % when it is rounded to bfloat16: a norm of
  rounded factors beside a sum of others, or either in bfloat16, would be off by as much.
  """
  positions, inputs, outputs = shape
  methods = {(1, 40, 50): 'outer', (3, 40, 50): 'gram', (30, 4, 5): 'direct'}
  assert forms.cheapest((1, *shape), 'time') == methods[shape]
  rng = np.random.default_rng(0)
  signs = rng.choice([-1, 1], (1, positions, inputs + outputs)) * (1 + 2**-8 - 2**-12)
  a, d = jnp.split(jnp.asarray(signs, jnp.float32), [inputs], axis=2)

  def loss(params: dict, a: jax.Array, d: jax.Array) -> jax.Array:
    w, b, a = (x.astype(jnp.bfloat16) for x in (params['w'], params['b'], a))
    y = (a @ w + b[None]).astype(jnp.float32)
    return jnp.sum(jnp.sin(y) * d)  # its gradient is made in float32, then rounded

  params = {'w': jnp.zeros((inputs, outputs)), 'b': jnp.zeros(outputs)}
  for bound in (math.inf, 0.1):
    fn = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=bound, strategy=strategy))
    got = fn(params, a, d)
    norm = math.sqrt(
      sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(got.sum))
    )
    assert norm == pytest.approx(min(float(got.norms[0]), bound), rel=1e-4)
    assert norm <= min(float(got.norms[0]), bound)
  # Norms and sum read one copy, on every backend.
  assert 'optimization_barrier' in fn.lower(params, a, d).as_text()


@pytest.mark.parametrize('strategy', clipping.STRATEGIES)
@pytest.mark.parametrize('groups', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_bad_example_contributes_exactly_zero_and_spoils_no_other(strategy, groups):
  """Grouped convolutions too, whose gradients XLA:CPU takes for all examples in one product."""
  module = nn.Sequential([nn.Conv(4, (3, 3), feature_group_count=groups), nn.GroupNorm(2)])
  loss, params, (x,) = of_module(module, (5, 5, 2))
  fn = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=0.7, strategy=strategy))
  want = fn(params, x, mask=jnp.arange(N) != 1)
  for bad in (math.nan, math.inf, 3e38):
    got = fn(params, x.at[1, 0, 0, 0].set(bad), mask=jnp.ones(N, bool))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got.sum, want.sum)
    assert not math.isfinite(float(got.norms[1]))
    assert np.isfinite(np.delete(np.asarray(got.norms), 1)).all()


def product_loss(w: jax.Array, a: jax.Array, d: jax.Array) -> jax.Array:
  """Its gradient is AᵀD."""
  return jnp.sum((a @ w) * d)


@functools.cache
def clipped(strategy: clipping.Strategy) -> Callable[..., clipping.ClippedGrad]:
  return jax.jit(clipping.clipped_grad(product_loss, l2_clip_norm=0.1, strategy=strategy))


@hypothesis.given(
  positions=st.sampled_from([1, 2, 3, 6]), exponent=st.integers(-21, 17), cancel=st.booleans(),
  gap=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 1e-2, 0.066, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip
@hypothesis.settings(max_examples=40)
def test_no_example_can_exceed_the_bound(positions, exponent, cancel, gap, seed):
  """What one adversarial example adds to the sum is at most C, though its norm is only inferred.

  Rows that cancel, tiny activations under huge gradients: an inferred norm must not come out small.
  """
  rng = np.random.default_rng(seed)
  a = rng.standard_normal((positions, 40)) * 10.0**exponent
  # For exponents from -20 to -19 the squares of `a` underflow and those of `d` do not overflow.
  d = rng.standard_normal((positions, 50)) * 10.0 ** (-min(exponent, 0) - 2 * (exponent < 0))
  if cancel:  # each second row takes back what the one before it gave, but for the gap
    a[1::2] = a[0::2][: len(a[1::2])] * (1 + gap)
    d[1::2] = -d[0::2][: len(d[1::2])]
  a, d = jnp.asarray(a, jnp.float32)[None], jnp.asarray(d, jnp.float32)[None]
  for strategy in clipping.STRATEGIES:
    total = np.asarray(clipped(strategy)(jnp.zeros((40, 50)), a, d).sum, np.float64)
    assert np.sqrt((total**2).sum()) <= 0.1


@pytest.mark.parametrize('side', ['input', 'gradient'])
@pytest.mark.parametrize('positions', [1, 3])
def test_squares_that_underflow_do_not_hide_an_example(positions, side):
  """Entries near 1e-19 have no square in float32, and may stand beside others near 1e18."""
  assert (
    forms.cheapest((1, positions, 40, 50), 'time') == ('outer', '', 'gram')[positions - 1]
  )
  rng = np.random.default_rng(0)
  fn = jax.jit(clipping.clipped_grad(lambda w, a, d: jnp.sum((a @ w) * d), l2_clip_norm=0.1))
  reached = 0
  for exponent in np.arange(-20.5, -17.9, 0.1):
    small, large = 10.0**exponent, 10.0**17.8
    a = rng.standard_normal((positions, 40)) * (small if side == 'input' else large)
    d = rng.standard_normal((positions, 50)) * (large if side == 'input' else small)
    if positions > 1:  # a first row of ordinary size that adds nothing
      (a if side == 'input' else d)[0] = 1.0
      (d if side == 'input' else a)[0] = 0.0
    total = fn(jnp.zeros((40, 50)), *(jnp.asarray(x, jnp.float32)[None] for x in (a, d))).sum
    assert np.linalg.norm(np.asarray(total, np.float64)) <= 0.1
    reached += np.linalg.norm(a.T @ d) > 0.1
  assert reached > 10  # of the examples, so many had to be clipped


def test_large_layers_are_not_formed_per_example():
  """Memory: a dense layer's gradients of 64 examples would take 64 times its size."""

  def temporary(strategy: str) -> int:
    fn = clipping.clipped_grad(
      lambda w, x: jnp.tanh(x @ w).sum(), l2_clip_norm=1.0, strategy=strategy, microbatch_size=64
    )
    compiled = jax.jit(fn).lower(jnp.ones((400, 400)), jnp.ones((64, 400))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  per_example = 64 * 400 * 400 * 4
  assert temporary('vmap') >= per_example
  assert temporary('auto') < per_example / 10
  assert temporary('ghost') < per_example / 10


def test_refuses_a_loss_that_is_not_one_number():
  fn = clipping.clipped_grad(lambda w, x: x * w, l2_clip_norm=1.0)
  with pytest.raises(InputError, match=r'one scalar .* \[\(3,\)\]'):
    fn(jnp.ones(3), jnp.ones((2, 3)))
