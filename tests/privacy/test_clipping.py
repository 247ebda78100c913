"""dpgan_jax.privacy.clipping: one example moves the sum by at most C, whatever it holds."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax_privacy.clipping
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import clipping
from dpgan_jax.privacy.ghost import sums

SHAPES = ({'a': (), 'b': (3,)}, {'a': (2, 3), 'b': (4,), 'c': (1, 2, 2)}, {'w': (30,)})
# Powers of ten by which an example's gradient is scaled; -inf is the zero gradient.
_SCALE = st.sampled_from([-math.inf, -12, -3, -1, 0, 1, 4, 15])
SCALES = st.sampled_from([0, 1, 2, 5]).flatmap(  # few sizes: each is compiled anew
  lambda n: st.lists(_SCALE, min_size=n, max_size=n)
)
BOUNDS = st.sampled_from([1e-3, 0.7, 1.0, 30.0, math.inf])
BAD = (math.nan, math.inf, -math.inf, 3e38)  # the last is finite, its square is not


def gradients(shapes: dict, scales: list[float], seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  factors = np.array([10.0**s for s in scales])
  return {
    name: (rng.standard_normal((len(scales), *shape)).T * factors).T.astype(np.float32)
    for name, shape in shapes.items()
  }


def reference(grads: dict[str, np.ndarray], bound: float, mask: np.ndarray) -> dict:
  """The sum in plain float64, one example at a time."""
  total = {name: np.zeros(g.shape[1:]) for name, g in grads.items()}
  for i in np.flatnonzero(mask):
    example = {name: g[i].astype(np.float64) for name, g in grads.items()}
    norm = math.sqrt(sum((g**2).sum() for g in example.values()))
    if math.isfinite(norm):
      for name, g in example.items():
        total[name] += g * (min(1.0, bound / norm) if norm > 0 else 1.0)
  return total


def clipped_sum(grads: dict[str, np.ndarray], **arguments) -> clipping.ClippedSum:
  return clipping.clipped_sum(jax.tree.map(jnp.asarray, grads), **arguments)


def distance(one: dict, other: dict) -> float:
  """The L2 distance over all leaves, in float64."""
  return math.sqrt(
    sum(((np.asarray(one[k], np.float64) - np.asarray(other[k])) ** 2).sum() for k in one)
  )


def rounding(grads: dict[str, np.ndarray], bound: float) -> float:
  """What whole units and a shorter C may take of a sum, in all."""
  n = len(next(iter(grads.values())))
  shapes = [jax.ShapeDtypeStruct(g.shape[1:], g.dtype) for g in grads.values()]
  grids = sums.grids(bound, n, shapes)
  return (grids.lost_in({1}) * n + grids.of_units) * bound if any(grids.leaves) else 0.0


class TestClippedSum:
  @pytest.mark.slow  # test_ghost compares sums with float64 too
  @hypothesis.given(
    shapes=st.sampled_from(SHAPES), scales=SCALES, bound=BOUNDS, seed=st.integers(0, 999),
    data=st.data(),
  )  # fmt: skip
  @hypothesis.settings(max_examples=25)
  def test_agrees_with_a_float64_loop(self, shapes, scales, bound, seed, data):
    n = len(scales)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    grads = gradients(shapes, scales, seed)
    result = clipped_sum(grads, l2_clip_norm=bound, mask=jnp.asarray(mask))
    want = reference(grads, bound, mask)
    norms = [distance({k: g[i] for k, g in grads.items()}, {k: 0 for k in grads}) for i in range(n)]
    size = sum(min(bound, norm) for norm, m in zip(norms, mask, strict=True) if m)
    assert distance(want, result.sum) <= 5e-6 * size + rounding(grads, bound)
    np.testing.assert_allclose(result.norms, norms, rtol=1e-5)
    everyone = clipped_sum(grads, l2_clip_norm=bound).sum
    size = sum(min(bound, norm) for norm in norms)
    everyone = distance(reference(grads, bound, np.ones(n, bool)), everyone)
    assert everyone <= 5e-6 * size + rounding(grads, bound)

  @hypothesis.given(
    shapes=st.sampled_from(SHAPES), scales=SCALES.filter(bool), seed=st.integers(0, 999),
    bound=st.sampled_from([1e-3, 1.0, 30.0]), bad=st.sampled_from([None, *BAD]),
  )  # fmt: skip
  @hypothesis.settings(max_examples=25)
  def test_sensitivity_on_neighbouring_data_sets(self, shapes, scales, seed, bound, bad):
    """Removing the last example moves the sum by at most C, replacing it by at most 2C."""
    grads = gradients(shapes, scales, seed)
    if bad is not None:
      first = next(iter(grads.values()))
      first.reshape(len(scales), -1)[-1, 0] = bad
    other = {name: g.copy() for name, g in grads.items()}
    for g in other.values():
      g[-1] = -1e3 * np.nan_to_num(g[-1], posinf=0, neginf=0).clip(-1, 1)
    n = len(scales)
    with_it = clipped_sum(grads, l2_clip_norm=bound).sum
    without = clipped_sum({k: g[:-1] for k, g in grads.items()}, l2_clip_norm=bound).sum
    masked = clipped_sum(grads, l2_clip_norm=bound, mask=jnp.arange(n) < n - 1).sum
    replaced = clipped_sum(other, l2_clip_norm=bound).sum
    assert distance(with_it, without) <= bound * (1 + 1e-5)  # its unit may be another
    assert distance(with_it, masked) <= bound
    assert distance(with_it, replaced) <= 2 * bound

  def test_norm_of_a_large_model_stays_accurate(self):
    # Adding a million squares one after the other in float32 would lose per mille of the norm.
    grads = jnp.full((2, 1_000_000), 0.1)
    np.testing.assert_allclose(clipping.per_example_norms(grads), 100.0, rtol=1e-5)

  @pytest.mark.parametrize('bad', BAD)
  @pytest.mark.parametrize('bound', [1.0, math.inf])
  @pytest.mark.parametrize('leaf', ['a', pytest.param('b', marks=pytest.mark.slow)])
  def test_a_bad_example_contributes_exactly_zero_as_a_whole(self, bad, bound, leaf):
    grads = gradients({'a': (2,), 'b': (3,)}, [0, 0, 0], seed=1)
    grads[leaf][1, 1] = bad
    good = {name: g[[0, 2]] for name, g in grads.items()}
    got = jax.jit(lambda g: clipping.clipped_sum(g, l2_clip_norm=bound))(grads)
    want = clipped_sum(good, l2_clip_norm=bound).sum
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got.sum, want)
    assert not math.isfinite(float(got.norms[1]))

  def test_a_bad_example_outside_the_mask_is_as_harmless(self):
    grads = jnp.array([[jnp.nan, 1.0], [0.5, 0.0]])
    total = clipping.clipped_sum(grads, l2_clip_norm=1.0, mask=jnp.array([False, True])).sum
    np.testing.assert_array_equal(total, [0.5, 0.0])

  def test_huge_finite_gradients_are_clipped(self):
    total = clipping.clipped_sum(jnp.array([[3e18, 4e18]]), l2_clip_norm=1.0).sum
    np.testing.assert_allclose(total, [0.6, 0.8], rtol=1e-5)

  def test_empty_and_all_masked_batches_sum_to_zero(self):
    for n in (0, 3):
      grads = {'a': jnp.ones((n, 2, 3)), 'b': jnp.ones((n,))}
      total = clipping.clipped_sum(grads, l2_clip_norm=1.0, mask=jnp.zeros(n, bool)).sum
      assert {k: v.shape for k, v in total.items()} == {'a': (2, 3), 'b': ()}
      assert all(not v.any() for v in jax.tree.leaves(total))

  @pytest.mark.usefixtures('strict_dtypes')
  def test_bf16_gradients_are_summed_in_float32(self):
    # bfloat16 has no 257: sums and norms of 257 ones stop at 256 in it.
    ones = jnp.ones((257, 257), jnp.bfloat16)
    result = clipping.clipped_sum(ones, l2_clip_norm=math.inf)
    assert result.sum.dtype == result.norms.dtype == jnp.float32
    np.testing.assert_array_equal(result.sum, np.full(257, 257))
    np.testing.assert_allclose(result.norms, math.sqrt(257), rtol=1e-5)
    np.testing.assert_allclose(
      clipping.clipped_sum(ones, l2_clip_norm=1.0).sum, np.full(257, math.sqrt(257)), rtol=1e-3
    )

  @pytest.mark.parametrize(
    ('grads', 'arguments', 'words'),
    [
      (jnp.ones((3, 2)), {'l2_clip_norm': 0.0}, ('l2_clip_norm > 0', '0.0')),
      (jnp.ones((3, 2)), {'l2_clip_norm': -2.0}, ('l2_clip_norm > 0', '-2.0')),
      (jnp.ones((3, 2)), {'l2_clip_norm': math.nan}, ('l2_clip_norm', 'nan')),
      (jnp.ones((3, 2)), {'mask': jnp.ones(3)}, ('dtype bool', 'float32')),
      (jnp.ones((3, 2)), {'mask': [True] * 3}, ('dtype bool', 'list')),
      (jnp.ones((3, 2)), {'mask': jnp.ones((3, 1), bool)}, ('[examples]', '(3, 1)')),
      (jnp.ones((3, 2)), {'mask': jnp.ones(4, bool)}, ("'gradient': 3", "'mask': 4")),
      ({'a': jnp.ones(3), 'b': jnp.ones(2)}, {}, ('one number of examples', '3', '2')),
      ({'a': jnp.ones(())}, {}, ("['a']", 'scalar', 'jax.vmap')),
      ({}, {}, ('without arrays',)),
    ],
  )
  def test_refuses(self, grads, arguments, words):
    with pytest.raises(InputError) as caught:
      clipping.clipped_sum(grads, **{'l2_clip_norm': 1.0, **arguments})
    for word in words:
      assert word in str(caught.value)


def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
  return (jnp.tanh(x @ params['w']) @ params['v'] - y) ** 2


def problem(n: int) -> tuple[dict, jax.Array, jax.Array]:
  rng = np.random.default_rng(n)
  params = {'w': rng.standard_normal((4, 5)), 'v': rng.standard_normal(5)}
  x, y = rng.standard_normal((n, 4)) * 3, rng.standard_normal(n)
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x, y))


class TestClippedGrad:
  @pytest.mark.parametrize('strategy', clipping.STRATEGIES)
  def test_is_vmap_of_grad_and_clipped_sum(self, strategy):
    params, x, y = problem(9)
    mask = jnp.arange(9) % 3 > 0
    fn = clipping.clipped_grad(loss, l2_clip_norm=0.8, strategy=strategy)
    got = fn(params, x, y, mask=mask)
    grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)
    want = clipping.clipped_sum(grads, l2_clip_norm=0.8, mask=mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got[:2], tuple(want))
    losses = jax.vmap(loss, (None, 0, 0))(params, x, y)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-6)
    assert (want.norms > 0.8).any()
    assert (want.norms < 0.8).any()

  @pytest.mark.parametrize('bound', [0.3, pytest.param(5.0, marks=pytest.mark.slow), math.inf])
  @pytest.mark.parametrize('microbatch', [None, pytest.param(3, marks=pytest.mark.slow)])
  def test_agrees_with_jax_privacy(self, bound, microbatch):
    params, x, y = problem(9)
    x = x.at[4, 2].set(jnp.nan)
    theirs = jax_privacy.clipping.clipped_grad(
      loss, l2_clip_norm=bound, batch_argnums=(1, 2), keep_batch_dim=False,
      microbatch_size=microbatch,
    )(params, x, y)  # fmt: skip
    ours = clipping.clipped_grad(loss, l2_clip_norm=bound, microbatch_size=microbatch)(params, x, y)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), ours.sum, theirs
    )

  @pytest.mark.parametrize('n', [0, pytest.param(1, marks=pytest.mark.slow), 7])
  @pytest.mark.parametrize('microbatch', [pytest.param(1, marks=pytest.mark.slow), 3, 7, 8])
  def test_microbatches_do_not_change_the_result(self, n, microbatch):
    params, x, y = problem(n)
    if n > 4:
      x = x.at[4].set(jnp.inf)
    mask = jnp.arange(n) != 2
    whole = clipping.clipped_grad(loss, l2_clip_norm=0.8)(params, x, y, mask=mask)
    parts = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=0.8, microbatch_size=microbatch))(
      params, x, y, mask=mask
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)

  def test_microbatches_accumulate_bf16_gradients_in_float32(self):
    fn = clipping.clipped_grad(
      lambda w, x: jnp.sum(w * x), l2_clip_norm=math.inf, microbatch_size=1
    )
    total = fn(jnp.ones(2, jnp.bfloat16), jnp.ones((257, 2), jnp.bfloat16)).sum
    assert total.dtype == jnp.float32
    np.testing.assert_array_equal(total, [257, 257])

  def test_microbatches_save_memory(self):
    def temporary(microbatch_size: int | None) -> int:
      fn = clipping.clipped_grad(
        lambda w, x: jnp.tanh(w @ x).sum(),
        l2_clip_norm=1.0,
        strategy='vmap',
        microbatch_size=microbatch_size,
      )
      compiled = jax.jit(fn).lower(jnp.ones((200, 200)), jnp.ones((64, 200))).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(4) < temporary(None) / 4

  def test_refuses(self):
    for arguments, words in (
      ({'l2_clip_norm': 0}, 'l2_clip_norm > 0, got 0'),
      ({'l2_clip_norm': 1.0, 'microbatch_size': 0}, 'microbatch_size >= 1, got 0'),
      ({'l2_clip_norm': 1.0, 'strategy': 'fast'}, 'strategy'),
    ):
      with pytest.raises(InputError, match=words):
        clipping.clipped_grad(loss, **arguments)
    params, x, y = problem(3)
    with pytest.raises(InputError, match='one number of examples'):
      clipping.clipped_grad(loss, l2_clip_norm=1.0)(params, x, y[:2])
