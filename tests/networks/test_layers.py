"""The layers compute what Flax's and XLA's own compute, gradients included, for any size."""

from __future__ import annotations

import functools

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.networks import layers

# Every example has shapes of its own, and so is compiled anew: few of them, and no search for a
# smaller one after a failure (they are small).
EXAMPLES = hypothesis.settings(
  max_examples=12, phases=set(hypothesis.Phase) - {hypothesis.Phase.shrink}
)


def upsample(x: jax.Array) -> jax.Array:
  """Nearest-neighbour upsampling by two, NHWC."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def normal(seed: int, *shape: int) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value_and_grads(function, x, kernel, weights):
  """Output, and the gradient of a generic linear form of it with respect to both arguments."""
  y, pullback = jax.vjp(function, x, kernel)
  return y, *pullback(weights)


def assert_same(ours, theirs, tolerance=1e-4) -> None:
  for a, b in zip(ours, theirs, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@st.composite
def convolutions(draw):
  padding = draw(st.sampled_from(['SAME', 'VALID']))
  window = draw(st.tuples(*[st.integers(1, 5)] * 2))
  smallest = window if padding == 'VALID' else (1, 1)  # a VALID window has to fit once
  size = tuple(draw(st.integers(low, 9)) for low in smallest)
  n, c_in, c_out = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)))
  return (n, *size, c_in), (*window, c_in, c_out), draw(st.integers(1, 3)), padding


@EXAMPLES
@hypothesis.given(convolutions())
def test_patches_are_xlas_convolution(shapes):
  image, kernel, stride, padding = shapes

  @jax.jit
  def both(x, kernel):
    convs = [
      functools.partial(layers.conv2d, stride=stride, padding=padding, implementation=name)
      for name in ('patches', 'lax')
    ]
    weights = normal(2, *jax.eval_shape(convs[1], x, kernel).shape)
    return [value_and_grads(conv, x, kernel, weights) for conv in convs]

  assert_same(*both(normal(0, *image), normal(1, *kernel)))


@EXAMPLES
@hypothesis.given(convolutions())
def test_shifts_are_xlas_convolution_or_refused(shapes):
  image, kernel, stride, padding = shapes
  shifts, xlas = (
    functools.partial(layers.conv2d, stride=stride, padding=padding, implementation=name)
    for name in ('shifts', 'lax')
  )
  x, k = normal(0, *image), 0.1 * normal(1, *kernel)
  if (stride, padding) != (1, 'SAME'):
    with pytest.raises(_validate.InputError, match='for stride 1 and padding SAME'):
      shifts(x, k)
    return

  @jax.jit
  def both(x, k):
    weights = normal(2, *jax.eval_shape(xlas, x, k).shape)

    def slope(conv):  # a gradient of gradients, as a penalty on them needs
      sizes = lambda x, k: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, k))))(x) ** 2)  # noqa: E731
      return jax.grad(sizes, (0, 1))(x, k)

    return [(*value_and_grads(conv, x, k, weights), *slope(conv)) for conv in (shifts, xlas)]

  assert_same(*both(x, k))


@pytest.mark.parametrize(('features', 'chosen'), [(8, '_shifts'), (9, '_patches')])
def test_shifts_are_chosen_for_few_channels_out_of_many(features, chosen):
  conv = jax.make_jaxpr(layers.conv2d)(normal(0, 1, 5, 5, 16), normal(1, 3, 3, 16, features))
  assert [f'name={name}' in str(conv) for name in ('_shifts', '_patches')] == [
    name == chosen for name in ('_shifts', '_patches')
  ]


def test_patches_are_chosen_on_a_cpu_and_xlas_convolution_elsewhere(monkeypatch):
  def primitives() -> str:
    return str(jax.make_jaxpr(lambda x, k: layers.conv2d(x, k))(normal(0, 1, 5, 5, 2), kernel))

  kernel = normal(1, 3, 3, 2, 4)
  for backend, expected in (('cpu', 'dot_general'), ('gpu', 'conv_general_dilated')):
    monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
    assert expected in primitives()


@pytest.mark.parametrize('use_bias', [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(('stride', 'padding'), [(1, 'SAME'), (2, 'SAME'), (2, 'VALID')])
def test_conv_is_flax_conv_with_the_same_parameters(stride, padding, use_bias):
  x = normal(0, 2, 9, 7, 3)
  ours = layers.Conv(4, (4, 3), stride=stride, padding=padding, use_bias=use_bias)
  theirs = nn.Conv(4, (4, 3), strides=stride, padding=padding, use_bias=use_bias)
  variables = ours.init(jax.random.key(0), x)
  reference = theirs.init(jax.random.key(0), x)
  # The same start, too: names, shapes, distribution.
  jax.tree.map(np.testing.assert_array_equal, variables, reference)
  variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # a bias that is not zero
  assert_same([ours.apply(variables, x)], [theirs.apply(variables, x)])


@EXAMPLES
@hypothesis.given(
  size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
  kernel_size=st.sampled_from([1, 3, 5, 7]),
  channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_upsample_conv_is_upsampling_then_convolving(size, kernel_size, channels):
  @jax.jit
  def both(x, kernel):
    direct = lambda x, k: layers.conv2d(upsample(x), k, implementation='lax')  # noqa: E731
    weights = normal(2, 2, 2 * size[0], 2 * size[1], channels[1])
    return [value_and_grads(f, x, kernel, weights) for f in (layers.upsample_conv2d, direct)]

  assert_same(*both(normal(0, 2, *size, channels[0]), normal(1, *[kernel_size] * 2, *channels)))


@pytest.mark.parametrize('window', [(4, 4), (3, 5)])
def test_upsample_conv_refuses_kernels_that_are_not_odd_squares(window):
  with pytest.raises(_validate.InputError, match=r'expected an odd square kernel, got \('):
    layers.upsample_conv2d(normal(0, 1, 4, 4, 2), normal(1, *window, 2, 3))


@pytest.mark.parametrize('use_bias', [True, False])
def test_upsample_conv_layer_has_the_parameters_of_a_conv(use_bias):
  x = normal(0, 2, 3, 4, 3)
  ours = layers.UpsampleConv(2, use_bias=use_bias)
  theirs = nn.Conv(2, (5, 5), use_bias=use_bias)
  variables = ours.init(jax.random.key(0), x)
  big = upsample(x)
  jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), big))
  variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
  assert_same([ours.apply(variables, x)], [theirs.apply(variables, big)])


@EXAMPLES
@hypothesis.given(
  size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
  window=st.integers(1, 3),
  stride=st.integers(1, 3),
)
def test_max_pool_is_flax_max_pool(size, window, stride):
  """Gradients agree where the maximum is unique (a tie is shared here, and not by XLA)."""
  x = normal(0, 2, *size, 2)  # continuous, so without ties

  @jax.jit
  def both(x):
    pools = (
      lambda x: layers.max_pool(x, window, stride),
      lambda x: nn.max_pool(x, (window, window), (stride, stride)),
    )
    return [(f(x), jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x)) for f in pools]

  assert_same(*both(x))


@EXAMPLES
@hypothesis.given(
  shape=st.tuples(*[st.integers(1, 4)] * 4), factor=st.integers(1, 3)
)
def test_depth_to_space_is_undone_by_space_to_depth(shape, factor):
  n, h, w, c = shape
  x = np.arange(n * h * w * factor**2 * c, dtype=np.float32).reshape(n, h, w, factor**2 * c)
  y = np.asarray(layers.depth_to_space(jnp.asarray(x), factor))
  assert y.shape == (n, factor * h, factor * w, c)
  blocks = [y[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
  np.testing.assert_array_equal(np.concatenate(blocks, axis=-1), x)


@pytest.mark.parametrize('implementation', ['patches', 'lax'])
def test_per_example_gradients_are_the_gradients_of_each_example(implementation):
  """`vmap(grad)`, the way DP-SGD uses the layers."""
  conv = functools.partial(layers.conv2d, stride=2, implementation=implementation)
  params = {
    'conv': normal(0, 4, 4, 2, 3),
    'up': normal(1, 5, 5, 3, 2),
    'last': normal(3, 3, 3, 2, 1),
  }

  def loss(params, image):
    x = layers.max_pool(conv(image[None], params['conv']), 2, 1)
    x = jnp.sin(layers.upsample_conv2d(x, params['up']))
    return jnp.sum(jnp.sin(layers.conv2d(x, params['last'], implementation='shifts')))

  images = normal(2, 3, 7, 6, 2)
  together = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, images)
  one = jax.jit(jax.grad(loss))
  for i, image in enumerate(images):
    assert_same(
      jax.tree.leaves(jax.tree.map(lambda g, i=i: g[i], together)),
      jax.tree.leaves(one(params, image)),
      1e-3,  # gradients of up to 66, of sums that cancel: their order is another on other CPUs
    )
