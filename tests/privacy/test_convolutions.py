"""Convolutions with negative padding: no example reads what is beside it."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import clipping, independence
from dpgan_jax.privacy.ghost import convolutions

PADDINGS = st.tuples(*[st.tuples(st.integers(-2, 3), st.integers(-2, 3))] * 2)


def conv(x: jax.Array, kernel: jax.Array, padding, **more) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x, kernel, more.pop('window_strides', (1, 1)), padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **more,
  )  # fmt: skip


def plain(x: jax.Array, kernel: jax.Array, padding) -> np.ndarray:
  """The same, stride 1, in NumPy and float64."""
  x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  for axis, (low, high) in enumerate(padding, 1):
    pads = [(0, 0)] * 4
    pads[axis] = (max(low, 0), max(high, 0))
    x = np.pad(x, pads)
    x = x.take(np.arange(max(-low, 0), x.shape[axis] - max(-high, 0)), axis)
  height, width = (size - k + 1 for size, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
  taps = np.ndindex(*kernel.shape[:2])
  return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps)


@hypothesis.given(
  padding=PADDINGS, size=st.tuples(st.integers(4, 8), st.integers(4, 8)),
  taps=st.tuples(st.integers(1, 3), st.integers(1, 3)), seed=st.integers(0, 99),
)  # fmt: skip
@hypothesis.settings(max_examples=8)
@hypothesis.example(padding=((-1, 1), (0, 0)), size=(8, 7), taps=(3, 3), seed=0)
@hypothesis.example(padding=((-2, 2), (-2, 0)), size=(8, 6), taps=(3, 2), seed=0)
def test_forward_and_backward_are_those_of_padding_and_cropping(padding, size, taps, seed):
  hypothesis.assume(
    all(s + sum(p) >= k for s, p, k in zip(size, padding, taps, strict=True))
  )
  rng = np.random.default_rng(seed)
  x = jnp.asarray(rng.standard_normal((3, *size, 2)), jnp.float32)
  kernel = jnp.asarray(rng.standard_normal((*taps, 2, 3)), jnp.float32)
  out = plain(x, kernel, padding)
  weights = rng.standard_normal(out.shape).astype(np.float32)
  fn = jax.value_and_grad(
    lambda k, x: jnp.sum(conv(x, k, padding) * weights), argnums=(0, 1)
  )
  program = convolutions.without_negative_padding(jax.make_jaxpr(fn)(kernel, x))
  assert not convolutions.has_negative_padding(program)
  value, by_kernel, by_image = jax.jit(jax.extend.core.jaxpr_as_fun(program))(kernel, x)
  assert float(value) == pytest.approx((out * weights).sum(), abs=1e-3)
  # The function is linear in either: a gradient times its argument is the value.
  assert float(jnp.vdot(by_kernel, kernel)) == pytest.approx(float(value), abs=1e-3)
  assert float(jnp.vdot(by_image, x)) == pytest.approx(float(value), abs=1e-3)
  probe = rng.standard_normal(x.shape)
  moved = (plain(probe, kernel, padding) * weights).sum()
  assert float(np.vdot(by_image, probe)) == pytest.approx(moved, abs=1e-3)


@pytest.mark.parametrize('strategy', clipping.STRATEGIES)
@pytest.mark.parametrize(
  'padding',
  [
    pytest.param(((-1, 1), (0, 0)), marks=pytest.mark.slow),
    pytest.param(((-2, 2), (-2, 0)), marks=pytest.mark.slow),
    ((-1, 2), (-2, 1)),
  ],
)
@pytest.mark.parametrize('inside', ['plain', 'scan', 'remat'])
def test_a_masked_example_moves_nothing(strategy, padding, inside):
  rng = np.random.default_rng(0)
  kernel = jnp.asarray(rng.standard_normal((3, 3, 2, 3)), jnp.float32)
  x = jnp.asarray(rng.standard_normal((4, 8, 7, 2)), jnp.float32)

  def once(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(conv(x[None], kernel, padding)))

  def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
    if inside == 'scan':
      return jnp.sum(jax.lax.map(lambda scale: once(kernel, scale * x), jnp.array([1.0, 2.0])))
    return (jax.checkpoint(once) if inside == 'remat' else once)(kernel, x)

  fn = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=0.5, strategy=strategy))
  mask = jnp.array([True, True, True, False])
  without = fn(kernel, x, mask=mask).sum
  np.testing.assert_array_equal(without, fn(kernel, x.at[3].set(100.0), mask=mask).sum)
  np.testing.assert_allclose(without, fn(kernel, x[:3]).sum, atol=2e-3)


def test_a_program_without_negative_padding_is_left_as_it_is():
  program = jax.make_jaxpr(lambda x, k: conv(x, k, 'SAME'))(
    jnp.zeros((1, 5, 5, 1)), jnp.zeros((3, 3, 1, 1))
  )
  assert convolutions.without_negative_padding(program) is program


class TestRequireIndependent:
  SHAPE = (jax.ShapeDtypeStruct((8, 7, 2), jnp.float32),)
  KERNEL = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3, 2, 3)), jnp.float32)

  def test_accepts_a_loss_on_one_example(self):
    independence.require_independent(
      lambda k, x: jnp.sum(jnp.tanh(conv(x[None], k, ((-1, 1), (0, 0))))), self.KERNEL, self.SHAPE
    )

  def test_refuses_a_loss_that_reaches_the_batch(self):
    """By a batching rule of its own, as a custom operation may have one."""

    @jax.custom_batching.custom_vmap
    def centred(x: jax.Array) -> jax.Array:
      return x

    @centred.def_vmap
    def _(axis_size, in_batched, x):
      del axis_size
      return (x - x.mean(axis=0, keepdims=True), True) if in_batched[0] else (x, False)

    with pytest.raises(InputError, match='its losses for one of 3 random examples change by'):
      independence.require_independent(
        lambda k, x: jnp.sum(k[0, 0, :, 0] * centred(x)[0, 0] ** 2), self.KERNEL, self.SHAPE
      )

  def test_refuses_outputs_that_differ(self):
    batch = independence.random_batch(self.SHAPE)
    independence.require_independent_outputs(lambda x: x.sum(axis=(1, 2)), batch)
    with pytest.raises(InputError, match='its outputs for one of 3 random examples change by'):
      independence.require_independent_outputs(lambda x: x - x.mean(axis=0, keepdims=True), batch)
