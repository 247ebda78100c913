"""Every registered generator and discriminator, and what may not be a discriminator."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.networks import discriminators, generators, layers, per_example, scattering
from tests.support import nets

CLASSES, LATENT = 3, 5
# Each model is compiled for a single use: most of the time would go into optimising it.
quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
SHAPES = [(28, 28, 1), (8, 8, 1), (9, 7, 3)]  # (32, 32, 3) is among the counts of parameters

# Without those of tests, which are there where other files have asked for them.
GENERATORS, DISCRIMINATORS = (
  sorted(name for name in names if not name.startswith(nets.NAME))
  for names in (generators.GENERATORS, discriminators.DISCRIMINATORS)
)
each_generator = pytest.mark.parametrize('name', GENERATORS)
each_discriminator = pytest.mark.parametrize('name', DISCRIMINATORS)
each_shape = pytest.mark.parametrize('shape', SHAPES, ids=str)


def normal(seed: int, *shape: int) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def labels_of(*values: int) -> jax.Array:
  return jnp.asarray(values, jnp.int32)


def some_variables(module: nn.Module, *inputs: jax.Array, gain: float = 1.0):
  """Variables of the right structure and scale; compiling the initializers takes far longer."""
  rng = np.random.default_rng(7)

  def fill(path, leaf):
    fan_in = np.prod(leaf.shape[:-1])
    scale = gain / np.sqrt(fan_in) if len(leaf.shape) > 1 else 0.1
    offset = 1.0 if path[-1].key in ('scale', 'var') else 0.0  # of a batch norm
    return jnp.asarray(offset + scale * rng.uniform(-1.7, 1.7, leaf.shape), jnp.float32)

  abstract = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree_util.tree_map_with_path(fill, abstract)


def test_every_generator_has_a_discriminator_that_knows_as_much():
  assert set(GENERATORS) - generators.REFINERS < set(DISCRIMINATORS)
  assert set(discriminators.DISCRIMINATORS) > discriminators.UNCONDITIONAL


@pytest.mark.slow
@each_shape
@each_generator
def test_generator_makes_images_that_follow_z_and_class(name, shape):
  generator = generators.make_generator(name, shape, CLASSES)
  z, zeros = normal(0, 4, LATENT), labels_of(0, 0, 0, 0)
  variables = some_variables(generator, z, zeros, gain=3.0)  # near the ends of the range
  generate = quick_jit(generator.apply)
  as_zero, as_one = generate(variables, z, zeros), generate(variables, z, zeros + 1)
  assert as_zero.shape == (4, *shape)
  assert as_zero.dtype == jnp.float32
  assert float(jnp.max(jnp.abs(as_zero))) <= 1.0
  assert not np.allclose(as_zero[0], as_zero[1])
  assert np.array_equal(as_zero, as_one) == (name in discriminators.UNCONDITIONAL)


@pytest.mark.parametrize(  # the test below has 8×8
  'shape', [pytest.param((28, 28, 1), marks=pytest.mark.slow), (9, 7, 3)], ids=str
)
@each_discriminator
def test_discriminator_treats_each_example_alone(name, shape):
  """The logit of an example stays what it is when the others change; its class matters or not."""
  discriminator = discriminators.make_discriminator(name, shape, CLASSES)
  images, others = normal(0, 4, *shape), normal(1, 4, *shape).at[1].set(normal(0, 4, *shape)[1])

  variables = some_variables(discriminator, images, labels_of(0, 1, 2, 0))
  logits = quick_jit(discriminator.apply)
  first = logits(variables, images, labels_of(0, 1, 2, 0))
  second = logits(variables, others, labels_of(2, 1, 0, 1))
  relabelled = logits(variables, images, labels_of(1, 2, 0, 1))
  assert first.shape == (4,)
  assert first.dtype == jnp.float32
  np.testing.assert_allclose(second[1], first[1], rtol=1e-6, atol=1e-6)
  assert abs(float(second[0] - first[0])) > 1e-3
  unmoved = np.allclose(first, relabelled, rtol=1e-6, atol=1e-6)
  assert unmoved == (name in discriminators.UNCONDITIONAL)


@pytest.mark.parametrize(  # the test above looks at these, too
  'name',
  [
    pytest.param(n, marks=[pytest.mark.slow] if n in ('revisited', 'dcgan') else [])
    for n in DISCRIMINATORS
  ],
)
def test_every_discriminator_may_be_trained_privately(name):
  shape = (8, 8, 1)  # the test above looks at others
  per_example.require_per_example(
    discriminators.make_discriminator(name, shape, CLASSES),
    jax.ShapeDtypeStruct((2, *shape), jnp.float32),
    jax.ShapeDtypeStruct((2,), jnp.int32),
  )


any_shape = hypothesis.given(
  shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(n, marks=[pytest.mark.slow] if n in ('report', 'revisited', 'dcgan') else [])
    for n in GENERATORS
  ],
)
@hypothesis.settings(max_examples=10)
@any_shape
def test_any_image_size_can_be_generated(name, shape):
  z, labels = jnp.zeros((2, LATENT)), labels_of(0, 1)
  generator = generators.make_generator(name, shape, CLASSES)
  images, _ = jax.eval_shape(generator.init_with_output, jax.random.key(0), z, labels)
  assert images.shape == (2, *shape)


@pytest.mark.slow
@each_discriminator
@hypothesis.settings(max_examples=10)
@any_shape
def test_any_image_size_can_be_judged(name, shape):
  images, labels = jnp.zeros((2, *shape)), labels_of(0, 1)
  discriminator = discriminators.make_discriminator(name, shape, CLASSES)
  if name in discriminators.SCATTERED and min(shape[:2]) < 3:
    with pytest.raises(_validate.InputError, match='large enough for the scattering transform'):
      discriminator.init(jax.random.key(0), images, labels)
    return
  logits, _ = jax.eval_shape(discriminator.init_with_output, jax.random.key(0), images, labels)
  assert logits.shape == (2,)


def test_scattering_discriminator_learns_only_how_to_weigh_fixed_features():
  """17 wavelet channels of 7×7: a 1×1 convolution, a 3×3 one of stride 2, a linear layer."""
  discriminator = discriminators.make_discriminator('scattering', (28, 28, 1), 10)
  images = normal(0, 2, 28, 28, 1)
  variables = some_variables(discriminator, images, labels_of(0, 0))
  shapes = jax.tree.map(jnp.shape, variables['params'])
  assert shapes['Conv_0']['kernel'] == (1, 1, 17, 32)
  assert layers.count_parameters(variables) == 17 * 32 + 32 + 9 * 32 * 32 + 32 + 16 * 32 + 1
  logits = discriminator.apply(variables, images, labels_of(0, 0))
  transform = scattering.Scattering(28, 28, order=1)
  seen = transform((images[..., 0] + 1) / 2) / transform.usual[None, :, None, None]
  params = variables['params']
  x = jnp.einsum('nchw,cd->nhwd', seen, params['Conv_0']['kernel'][0, 0])
  x = jax.nn.relu(x + params['Conv_0']['bias'][None, None, None])
  x = jax.lax.conv_general_dilated(
    x, params['Conv_1']['kernel'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  x = jax.nn.relu(x + params['Conv_1']['bias'][None, None, None]).reshape(2, -1)
  by_hand = x @ params['Dense_0']['kernel'][:, 0] + params['Dense_0']['bias']
  np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-4)


def test_report_discriminator_is_the_tutorials_network_with_one_output():
  discriminator = discriminators.make_discriminator('report', (28, 28, 1), 10)
  params = jax.eval_shape(
    discriminator.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), labels_of(0)
  )['params']
  # Two convolutions, a dense layer of 32 and, instead of 10 classes, one logit: 25,713 in all.
  by_hand = (8 * 8 * 1 * 16 + 16) + (4 * 4 * 16 * 32 + 32) + (512 * 32 + 32) + (32 * 1 + 1)
  assert layers.count_parameters(params) == by_hand == 26_010 - (32 * 10 + 10) + (32 + 1)


def test_revisited_networks_are_those_of_the_paper():
  """Layer by layer: its code's for 28×28 and, at the same width, its small ones for 32×32×3."""
  z, labels = jnp.zeros((1, 128)), labels_of(0)

  def count(make, shape, *inputs):
    module = make('revisited', shape, 10)
    return layers.count_parameters(jax.eval_shape(module.init, jax.random.key(0), *inputs, labels))

  first = (128 + 10) * 16 * 256 + 2 * 256
  g = first + (9 * 512 * 256 + 256) + (16 * 256 * 128 + 128) + (16 * 128 * 1 + 1)
  assert count(generators.make_generator, (28, 28, 1), z) == g == 2_272_129
  d = 16 * (1 + 10) * 64 + 2 * 64 + (16 * 128 * 256 + 256) + (9 * 256 * 512 + 512) + (16 * 512 + 1)
  assert (
    count(discriminators.make_discriminator, (28, 28, 1), jnp.zeros((1, 28, 28, 1)))
    == d
    == 1_724_289
  )
  g = first + (16 * 512 * 256 + 256) + (16 * 256 * 128 + 128) + (16 * 128 * 3 + 3)
  assert count(generators.make_generator, (32, 32, 3), z) == g
  d = 16 * (3 + 10) * 64 + 2 * 64 + (16 * 128 * 256 + 256) + (16 * 256 * 512 + 512) + (16 * 512 + 1)
  assert count(discriminators.make_discriminator, (32, 32, 3), jnp.zeros((1, 32, 32, 3))) == d


@pytest.mark.parametrize('size', [(6, 8), (5, 7), (5, 8)])
def test_transposed_convolution_is_the_gradient_of_a_convolution(size):
  """of stride 2 and padding 1, whose kernel is 3×3 where both sides are odd and 4×4 elsewhere."""
  module = generators.TransposedConv(3, size)
  x = normal(0, 2, math.ceil(size[0] / 2), math.ceil(size[1] / 2), 4)
  variables = some_variables(module, x)
  kernel = variables['params']['kernel']
  k = 3 if size == (5, 7) else 4
  assert kernel.shape == (k, k, 4, 3)

  def conv(image):
    same = jax.lax.padtype_to_pads(size, (k, k), (2, 2), 'SAME')
    pads = [(1, max(1, high)) for _, high in same] if k == 4 else [(1, 1), (1, 1)]
    return jax.lax.conv_general_dilated(
      image, kernel.swapaxes(2, 3), (2, 2), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  image = jnp.zeros((2, *size, 3))
  assert conv(image).shape == x.shape
  (want,) = jax.vjp(conv, image)[1](x)
  np.testing.assert_allclose(
    module.apply(variables, x), want + variables['params']['bias'][None, None, None], atol=1e-5
  )


@each_generator
def test_models_compute_in_the_dtype_that_they_are_given(name):
  """With parameters and inputs in bfloat16 no large layer is left in float32 unnoticed."""
  narrow = functools.partial(jax.tree.map, lambda x: x.astype(jnp.bfloat16))
  labels = labels_of(0, 1)

  def outputs(make, *inputs):
    module = make(name, (28, 28, 1), CLASSES)
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs, labels)

    def apply(variables, *inputs):
      return module.apply(narrow(variables), *narrow(inputs), labels)

    jaxpr = jax.make_jaxpr(apply)(variables, *inputs)
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16
    return [e.outvars[0].aval for e in jaxpr.jaxpr.eqns if e.primitive.name == 'dot_general']

  def share(products):
    return sum(p.size for p in products if p.dtype != jnp.bfloat16) / sum(p.size for p in products)

  if name not in generators.REFINERS:
    assert share(outputs(discriminators.make_discriminator, jnp.zeros((2, 28, 28, 1)))) == 0
  # Upsampled convolutions stay in float32; see `_upsampled`.
  wide = share(outputs(generators.make_generator, jnp.zeros((2, LATENT))))
  assert (wide == 0) == (name in ('dcgan', 'revisited'))


def test_batch_norm_of_a_generator_follows_the_batch_in_training_only():
  generator = generators.make_generator('report', (8, 8, 1), CLASSES)
  z, labels = normal(0, 3, LATENT), labels_of(0, 0, 0)
  variables = some_variables(generator, z, labels)
  generate = quick_jit(generator.apply)
  sampled = generate(variables, z, labels)
  other_batch = generate(variables, z.at[1:].add(1.0), labels)
  np.testing.assert_allclose(sampled[0], other_batch[0], atol=1e-6)
  train = quick_jit(functools.partial(generator.apply, train=True, mutable=['batch_stats']))
  trained, updated = train(variables, z, labels)
  assert not np.allclose(trained[0], sampled[0], atol=1e-3)
  before, after = variables['batch_stats'], updated['batch_stats']
  assert not np.allclose(before['BatchNorm_0']['mean'], after['BatchNorm_0']['mean'])


@pytest.mark.parametrize('make', [generators.make_generator, discriminators.make_discriminator])
def test_unknown_name_is_refused_with_the_known_ones(make):
  known = 'report, report_conditional, compact'
  with pytest.raises(_validate.InputError, match=f"one of {known}, .*; got 'x'"):
    make('x', (8, 8, 1), CLASSES)


# --- what may not be a private discriminator -----------------------------------------------------


class Flat(nn.Module):
  """A discriminator that is nothing but `layer` and a dense layer."""

  layer: nn.Module

  @nn.compact
  def __call__(self, images, labels):
    x = self.layer(images.reshape(images.shape[0], -1))
    return nn.Dense(1)(x)[:, 0]


class Block(nn.Module):
  """A dense layer with the batch norm two levels below the discriminator."""

  @nn.compact
  def __call__(self, x):
    return Inner(name='inner')(nn.Dense(4)(x))


class Inner(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.BatchNorm(use_running_average=False, name='deep_norm')(x)


class Spectral(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.SpectralNorm(nn.Dense(4), name='spectral')(x, update_stats=True)


class RunningMean(nn.Module):
  """Written by hand: remembers the mean of what it has seen."""

  @nn.compact
  def __call__(self, x):
    mean = self.variable('memory', 'mean', jnp.zeros, x.shape[1:])
    mean.value = 0.9 * mean.value + 0.1 * x.mean(axis=0)
    return x - mean.value[None]


class Remat(nn.Module):
  """A batch norm behind a Flax transformation."""

  @nn.compact
  def __call__(self, x):
    return nn.remat(nn.BatchNorm)(use_running_average=False, name='hidden_norm')(x)


def check(layer: nn.Module) -> None:
  per_example.require_per_example(Flat(layer), jnp.zeros((2, 4, 4, 1)), labels_of(0, 0))


@pytest.mark.parametrize(
  ('layer', 'named'),
  [
    (nn.BatchNorm(use_running_average=False), r'BatchNorm \(layer\)'),
    (nn.BatchNorm(use_running_average=True), r'BatchNorm \(layer\)'),
    (Block(), r'BatchNorm \(layer/inner/deep_norm\)'),
    (Spectral(), r'SpectralNorm \(layer/spectral\)'),
    (Remat(), r'BatchNorm \(layer/hidden_norm\)'),
    (RunningMean(), r"state 'memory' of \['layer'\]"),
  ],
  ids=['batch norm', 'frozen', 'nested', 'spectral norm', 'remat', 'by hand'],
)
def test_layers_that_mix_examples_are_refused_by_name(layer, named):
  with pytest.raises(_validate.InputError, match=named) as caught:
    check(layer)
  message = str(caught.value)
  assert '\n' not in message
  assert 'group norm or layer norm' in message


@pytest.mark.parametrize(
  'layer', [nn.LayerNorm(), nn.GroupNorm(num_groups=4), nn.RMSNorm(), nn.Dense(3)], ids=repr
)
def test_layers_that_treat_each_example_alone_are_accepted(layer):
  check(layer)


def test_all_layers_that_mix_are_named():
  class Both(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.BatchNorm(False, name='b')(nn.BatchNorm(False, name='a')(x))

  with pytest.raises(_validate.InputError, match=r'BatchNorm \(layer/a\), BatchNorm \(layer/b\)'):
    check(Both())


def test_count_parameters():
  assert layers.count_parameters({'a': jnp.zeros((2, 3)), 'b': {'c': jnp.zeros(())}}) == 7


def test_a_module_that_mixes_examples_by_hand_is_found_by_running_it():
  """No layer of it has a name that anybody knows, and it keeps no state."""

  class Centred(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3)(x - x.mean(axis=0, keepdims=True))

  with pytest.raises(_validate.InputError, match='its outputs for one of 3 random examples change'):
    check(Centred())


def test_a_convolution_that_reads_beside_its_operand_is_found_by_running_it():
  """XLA:CPU and padding that is negative on one side; elsewhere the model is sound."""

  class Shifted(nn.Module):
    @nn.compact
    def __call__(self, x):
      return jnp.tanh(nn.Conv(2, (3, 3), padding=((-1, 1), (0, 0)))(x)).sum(axis=(1, 2, 3))

  images = jnp.zeros((2, 8, 7, 1))
  if jax.default_backend() != 'cpu':
    per_example.require_per_example(Shifted(), images)
  else:
    with pytest.raises(_validate.InputError, match='its outputs for one of 3 random examples'):
      per_example.require_per_example(Shifted(), images)
