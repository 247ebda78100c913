"""Generators and discriminators, by name.

| name                 | generator                          | discriminator                        |
| -------------------- | ---------------------------------- | ------------------------------------ |
| `report`             | the report's final one (chapter 5) | the report's final one (26 k params) |
| `report_conditional` | the same, told the class           | the same, told the class             |
| `compact`            | told the class, dense, cheap       | told the class, two convolutions     |
| `dcgan`              | the report's starting point        | two 5×5 convolutions, no pooling     |
| `dense`              |                                    | the report's two dense layers        |
| `scattering`         |                                    | small, on fixed wavelet features     |
| `revisited`          | "Private GANs, Revisited" (2.3 M)  | the same paper's (1.7 M params)      |

A generator maps (z [n, latent], labels int32[n]) to images [n, H, W, C] in [-1, 1]; a discriminator
maps (images, labels) to logits [n], high for real. Unconditional models ignore the labels. Any
image size and channel count works: generators start from a rounded-up fraction of the size,
upsample, and crop.

No discriminator may mix the examples of a batch: `require_per_example` refuses those that do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax import _validate, independence, scattering
from dpgan_jax.layers import Conv, UpsampleConv, conv2d, depth_to_space, max_pool

ImageShape = tuple[int, int, int]


def _one_hot(labels: jax.Array, num_classes: int, dtype: Any) -> jax.Array:
  """In the dtype of what it is used with: a float32 vector beside bfloat16 would widen the rest."""
  return jax.nn.one_hot(labels, num_classes, dtype=dtype)


def _upsampled(conv: UpsampleConv, x: jax.Array) -> jax.Array:
  """`conv(x)` in float32, whatever x is: the kernels that it folds together are."""
  return conv(x.astype(jnp.float32)).astype(x.dtype)


class ReportGenerator(nn.Module):
  """Two dense layers with batch norm and ReLU, then twice upsampling and a convolution; tanh.

  The report gives the layers, not their widths; these are ours. Batch norm is allowed here: the
  generator only ever sees its own noise.
  """

  image_shape: ImageShape
  num_classes: int
  conditional: bool = False
  widths: tuple[int, int, int] = (256, 64, 32)

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
    height, width, channels = self.image_shape
    base = (math.ceil(height / 4), math.ceil(width / 4), self.widths[1])
    x = z
    if self.conditional:
      x = jnp.concatenate([z, _one_hot(labels, self.num_classes, z.dtype)], -1)
    for features in (self.widths[0], math.prod(base)):
      x = nn.relu(self._norm(train)(nn.Dense(features, use_bias=False)(x)))
    x = _upsampled(UpsampleConv(self.widths[2], use_bias=False), x.reshape(-1, *base))
    x = nn.relu(self._norm(train)(x))
    x = jnp.tanh(_upsampled(UpsampleConv(channels), x))
    return x[:, :height, :width]

  def _norm(self, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)


class ReportDiscriminator(nn.Module):
  """Two convolutions, each with max pooling, a dense layer of 32 units and one of 1 unit.

  The convolutions are those of the TF-Privacy MNIST tutorial, from which the report's own
  classifier and hyperparameters come: 16 of 8×8 and 32 of 4×4, both stride 2. Told the class, the
  dense layer receives it as a one-hot vector beside the features.
  """

  image_shape: ImageShape
  num_classes: int
  conditional: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = self._pool(nn.relu(Conv(16, (8, 8), stride=2)(images)))
    # The tutorial's padding; images too small for it keep their border.
    padding = 'VALID' if min(x.shape[1:3]) >= 6 else 'SAME'
    x = self._pool(nn.relu(Conv(32, (4, 4), stride=2, padding=padding)(x)))
    x = x.reshape(x.shape[0], -1)
    if self.conditional:
      x = jnp.concatenate([x, _one_hot(labels, self.num_classes, x.dtype)], -1)
    return nn.Dense(1)(nn.relu(nn.Dense(32)(x)))[:, 0]

  def _pool(self, x: jax.Array) -> jax.Array:
    # Of an image smaller than 7 pixels nothing would be left.
    return max_pool(x, window=2, stride=1) if min(x.shape[1:3]) > 1 else x


class DCGANGenerator(nn.Module):
  """One dense layer, a convolution and two that double the size, with batch norm; tanh.

  The shape of the TensorFlow DCGAN tutorial that the report started from, at half its widths. Its
  transposed convolutions are sub-pixel convolutions here: a 3×3 convolution to four times the
  channels reaches every pixel that a 5×5 stride-2 transposed one does (Shi et al. 2016, arXiv
  1609.07009).
  """

  image_shape: ImageShape
  num_classes: int
  widths: tuple[int, int, int] = (128, 64, 32)

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
    del labels
    height, width, channels = self.image_shape
    base = (math.ceil(height / 4), math.ceil(width / 4), self.widths[0])
    x = self._act(nn.Dense(math.prod(base), use_bias=False)(z), train).reshape(-1, *base)
    x = self._act(Conv(self.widths[1], (5, 5), use_bias=False)(x), train)
    x = depth_to_space(Conv(4 * self.widths[2], (3, 3), use_bias=False)(x))
    x = depth_to_space(Conv(4 * channels, (3, 3))(self._act(x, train)))
    return jnp.tanh(x)[:, :height, :width]

  def _act(self, x: jax.Array, train: bool) -> jax.Array:
    return nn.leaky_relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x), 0.3)


class DCGANDiscriminator(nn.Module):
  """Two 5×5 stride-2 convolutions and a linear layer: the DCGAN tutorial's, without dropout.

  Dropout would need a key for every example of a step.
  """

  image_shape: ImageShape
  num_classes: int
  widths: tuple[int, int] = (64, 128)

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    del labels
    x = images
    for features in self.widths:
      x = nn.leaky_relu(Conv(features, (5, 5), stride=2)(x), 0.3)
    return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


class DenseDiscriminator(nn.Module):
  """Two dense layers instead of convolutions, and an output: cheap, and weak (the report,
  chapter 5, which names no widths).
  """

  image_shape: ImageShape
  num_classes: int
  widths: tuple[int, int] = (128, 64)

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    del labels
    x = images.reshape(images.shape[0], -1)
    for features in self.widths:
      x = nn.leaky_relu(nn.Dense(features)(x), 0.3)
    return nn.Dense(1)(x)[:, 0]


class ScatteringDiscriminator(nn.Module):
  """Of fixed wavelet features a 1×1 and a 3×3 convolution and a linear layer. 10 k parameters.

  What DP-SGD has to find in noise is only how to weigh features: the first layer, wavelets of all
  directions and a modulus (`Scattering`, of order 1), is public and the same for all data. That
  features found beforehand are what a private linear classifier gains most by is Tramèr & Boneh
  2021 (arXiv 2011.11660).

  Raises:
    InputError: images of fewer than three pixels a side.
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 32

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    del labels
    height, width, channels = self.image_shape
    scales = scattering.most_scales(height, width, at_most=2)
    transform = scattering.Scattering(height, width, scales=scales, order=1)
    planes = (images.astype(jnp.float32).transpose(0, 3, 1, 2) + 1) / 2
    x = transform(planes.reshape(-1, height, width)) / transform.usual[None, :, None, None]
    x = x.reshape(-1, channels * len(transform.paths), *x.shape[2:]).transpose(0, 2, 3, 1)
    x = nn.relu(Conv(self.width, (1, 1))(x.astype(images.dtype)))
    x = nn.relu(Conv(self.width, (3, 3), stride=2)(x))
    return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


class CompactGenerator(nn.Module):
  """Two dense layers and one upsampled convolution: 1 M multiply-adds for a 28×28 image.

  Nearly all of it is large matrix products: the discriminator takes several steps for each one of
  the generator, every one of them on fresh fakes, so that fakes have to be cheap.
  """

  image_shape: ImageShape
  num_classes: int
  widths: tuple[int, int] = (256, 16)

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
    del train  # nothing here depends on the batch
    height, width, channels = self.image_shape
    half = (math.ceil(height / 2), math.ceil(width / 2), self.widths[1])
    x = jnp.concatenate([z, _one_hot(labels, self.num_classes, z.dtype)], -1)
    x = nn.leaky_relu(nn.Dense(self.widths[0])(x), 0.2)
    x = nn.leaky_relu(nn.Dense(math.prod(half))(x), 0.2)
    x = jnp.tanh(_upsampled(UpsampleConv(channels), x.reshape(-1, *half)))
    return x[:, :height, :width]


class CompactDiscriminator(nn.Module):
  """Two 4×4 stride-2 convolutions and a linear layer, told the class at every level.

  Small on purpose: the noise of DP-SGD grows with the square root of the number of parameters. The
  class enters as a per-channel bias of both convolutions and as a projection of the features
  (Miyato & Koyama 2018, arXiv 1802.05637).
  """

  image_shape: ImageShape
  num_classes: int
  widths: tuple[int, int] = (16, 32)

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    one_hot = _one_hot(labels, self.num_classes, images.dtype)
    x = images
    for i, features in enumerate(self.widths):
      bias = nn.Dense(features, use_bias=False, name=f'label_bias_{i}')(one_hot)
      x = Conv(features, (4, 4), stride=2)(x) + bias[:, None, None, :]
      x = nn.leaky_relu(x, 0.2)
    x = x.reshape(x.shape[0], -1)
    per_class = nn.Dense(self.num_classes, use_bias=False, name='projection')(x)
    scale = 1 / math.sqrt(self.num_classes)
    return nn.Dense(1)(x)[:, 0] + scale * jnp.sum(per_class * one_hot, axis=-1)


class RevisitedGenerator(nn.Module):
  """Transposed convolutions from a 4×4 map, told the class beside z; tanh. 2.27 M parameters.

  Bie, Kamath & Zhang 2023, "Private GANs, Revisited" (arXiv 2302.02936): the networks of its code
  for images of 28 and, the small ones, of 32 pixels; other sizes follow the same rule. Weights
  start as PyTorch's do, biases at zero. Images are in [-1, 1] here and in [0, 1] there.
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 128

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
    del train  # nothing here depends on the batch
    *sizes, start = _halved(self.image_shape)
    wide = 2 * self.width
    parts = []
    for name, x in (('z', z), ('label', _one_hot(labels, self.num_classes, z.dtype))):
      # A transposed convolution of a single pixel is a dense layer whose bias is shared.
      dense = nn.Dense(math.prod(start) * wide, False, kernel_init=_TORCH_TRANSPOSED, name=name)
      bias = self.param(f'{name}_bias', nn.initializers.zeros, (wide,), jnp.float32)
      x = dense(x).reshape(-1, *start, wide)
      parts.append(nn.leaky_relu(x + bias.astype(x.dtype)[None, None, None], 0.2))
    x = jnp.concatenate(parts, -1)
    for features, size in zip((wide, self.width), sizes[:0:-1], strict=True):
      x = nn.leaky_relu(TransposedConv(features, size)(x), 0.2)
    return jnp.tanh(TransposedConv(self.image_shape[2], sizes[0])(x))


class RevisitedDiscriminator(nn.Module):
  """Three stride-2 convolutions and a linear layer, the class as planes beside the image. 1.72 M
  parameters; without normalisation. Source: see `RevisitedGenerator`.
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 128

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    planes = _one_hot(labels, self.num_classes, images.dtype)[:, None, None, :]
    planes = jnp.broadcast_to(planes, (*images.shape[:3], self.num_classes))
    half = self.width // 2
    parts = [self._conv(half, images, 'image'), self._conv(half, planes, 'label')]
    x = self._conv(2 * self.width, jnp.concatenate(parts, -1))
    x = self._conv(4 * self.width, x)
    x = x.reshape(x.shape[0], -1)  # the paper's last convolution sees all of it at once
    return nn.Dense(1, kernel_init=_TORCH)(x)[:, 0]

  def _conv(self, features: int, x: jax.Array, name: str | None = None) -> jax.Array:
    size = _kernel_size(x.shape[1:3])
    conv = Conv(features, (size, size), stride=2, kernel_init=_TORCH, name=name)
    return nn.leaky_relu(conv(x), 0.2)


class TransposedConv(nn.Module):
  """A transposed convolution of stride 2 that doubles the size, or gives one pixel less; NHWC.

  Parameters `kernel` [k, k, in, out] and `bias` [out], with out[2i - 1 + t] += in[i]·kernel[t] in
  either direction, as PyTorch's with padding 1. Each output pixel reads 2×2 input pixels, and the
  four pixels of a block read the same ones: computed as one 2×2 convolution to four times the
  channels.

  Attributes:
    features: output channels.
    size: (height, width) of the output; twice the input's, or one less.
  """

  features: int
  size: tuple[int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k = _kernel_size(self.size)
    shape = (k, k, x.shape[-1], self.features)
    kernel = self.param('kernel', _TORCH_TRANSPOSED, shape, jnp.float32).astype(x.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    kernel = jnp.pad(kernel, ((0, 4 - k), (0, 4 - k), (0, 0), (0, 0)))
    kernel = kernel.reshape(2, 2, 2, 2, *shape[2:])[::-1, :, ::-1]  # [row, phase, column, phase]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, shape[2], 4 * self.features)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = depth_to_space(conv2d(padded, kernel, padding='VALID'))
    y = y[:, 1 : 1 + self.size[0], 1 : 1 + self.size[1]]
    return y + bias.astype(x.dtype)[None, None, None]


# PyTorch's own: uniform of variance 1/(3·fan in), which a transposed convolution counts at its
# outputs.
_TORCH = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
_TORCH_TRANSPOSED = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')


def _halved(image_shape: ImageShape) -> list[tuple[int, int]]:
  """(height, width) after 0, 1, 2 and 3 convolutions of stride 2."""
  sizes = [image_shape[:2]]
  for _ in range(3):
    sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
  return sizes


def _kernel_size(size: tuple[int, ...]) -> int:
  """The paper's kernels at stride 2: 3×3 where the larger side of the step is odd, else 4×4."""
  return 3 if all(length % 2 for length in size) else 4


GENERATORS: Mapping[str, Callable[[ImageShape, int], nn.Module]] = {
  'report': lambda shape, classes: ReportGenerator(shape, classes),
  'report_conditional': lambda shape, classes: ReportGenerator(shape, classes, conditional=True),
  'compact': lambda shape, classes: CompactGenerator(shape, classes),
  'dcgan': lambda shape, classes: DCGANGenerator(shape, classes),
  'revisited': lambda shape, classes: RevisitedGenerator(shape, classes),
}
DISCRIMINATORS: Mapping[str, Callable[[ImageShape, int], nn.Module]] = {
  'report': lambda shape, classes: ReportDiscriminator(shape, classes),
  'report_conditional': lambda shape, classes: ReportDiscriminator(
    shape, classes, conditional=True
  ),
  'compact': lambda shape, classes: CompactDiscriminator(shape, classes),
  'dcgan': lambda shape, classes: DCGANDiscriminator(shape, classes),
  'dense': lambda shape, classes: DenseDiscriminator(shape, classes),
  'scattering': lambda shape, classes: ScatteringDiscriminator(shape, classes),
  'revisited': lambda shape, classes: RevisitedDiscriminator(shape, classes),
}
UNCONDITIONAL = frozenset({'report', 'dcgan', 'dense', 'scattering'})
"""Names of models that ignore the label: samples of such a generator have none."""


def make_generator(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
  """The generator `name` for images of `image_shape` (H, W, C)."""
  return GENERATORS[_validate.one_of('generator', name, GENERATORS)](image_shape, num_classes)


def make_discriminator(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
  """The discriminator `name` for images of `image_shape` (H, W, C)."""
  return DISCRIMINATORS[_validate.one_of('discriminator', name, DISCRIMINATORS)](
    image_shape, num_classes
  )


_MIXING_LAYERS = (nn.BatchNorm, nn.SpectralNorm)


def require_per_example(discriminator: nn.Module, *inputs: Any) -> None:
  """Refuses a module whose output for one example can depend on other examples.

  Clipping bounds what one example does through its own gradient. A layer that mixes examples (batch
  norm), or keeps state fed by data (running statistics, spectral norm), lets it act through the
  others' gradients or through the state, and the guarantee is void. Layers known to do so are
  named; for the others, random examples are computed alone and in a batch, and their outputs must
  not differ. `independence.require_independent` looks at gradients as well.

  Args:
    discriminator: the module.
    *inputs: a batch of inputs, arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    InputError: naming the layer, or what differs.
  """
  shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
  try:
    _require_per_example(discriminator, shapes)
  except TypeError as error:
    if 'unhashable' not in str(error):
      raise
    _require_per_example.__wrapped__(discriminator, shapes)


@functools.lru_cache(maxsize=64)
def _require_per_example(
  discriminator: nn.Module, shapes: tuple[jax.ShapeDtypeStruct, ...]
) -> None:
  found: list[str] = []

  def look(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, _MIXING_LAYERS):
      path = '/'.join(context.module.path) or 'itself'
      found.append(f'{type(context.module).__name__} ({path})')
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(look):
    variables = jax.eval_shape(discriminator.init, jax.random.key(0), *shapes)
  stateful = sorted(set(variables) - {'params'})
  if stateful and not found:
    found = [f'state {name!r} of {sorted(variables[name])}' for name in stateful]
  if found:
    raise _validate.InputError(
      'a private discriminator must treat each example alone, but it holds '
      f'{", ".join(dict.fromkeys(found))}: use group norm or layer norm, or no normalisation'
    )
  with jax.ensure_compile_time_eval():
    values = jax.tree.map(lambda x: x / math.sqrt(x.size), independence.random_like(variables))
    batch = independence.random_batch(
      tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in shapes)
    )
    independence.require_independent_outputs(lambda *x: discriminator.apply(values, *x), batch)


def count_parameters(params: Any) -> int:
  """How many numbers a pytree of parameters (or of their shapes) holds."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
