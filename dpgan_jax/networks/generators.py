"""Generators by name.

| name                 | generator                          |
| -------------------- | ---------------------------------- |
| `report`             | the report's final one (chapter 5) |
| `report_conditional` | the same, told the class           |
| `compact`            | told the class, dense, cheap       |
| `dcgan`              | the report's starting point        |
| `revisited`          | "Private GANs, Revisited" (2.3 M)  |
| `refiner`            | draws of released moments, refined |

A generator maps (z [n, latent], labels int32[n]) to images [n, H, W, C] in [-1, 1]. Unconditional
ones ignore the labels. Any image size and channel count works: generators start from a rounded-up
fraction of the size, upsample, and crop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax import _validate
from dpgan_jax._plugins import Registry
from dpgan_jax.networks.layers import (
  Conv,
  ImageShape,
  UpsampleConv,
  conv2d,
  depth_to_space,
  kernel_size,
  one_hot,
)
from dpgan_jax.networks.refiner import Refiner


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
      x = jnp.concatenate([z, one_hot(labels, self.num_classes, z.dtype)], -1)
    for features in (self.widths[0], math.prod(base)):
      x = nn.relu(self._norm(train)(nn.Dense(features, use_bias=False)(x)))
    x = _upsampled(UpsampleConv(self.widths[2], use_bias=False), x.reshape(-1, *base))
    x = nn.relu(self._norm(train)(x))
    x = jnp.tanh(_upsampled(UpsampleConv(channels), x))
    return x[:, :height, :width]

  def _norm(self, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)


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
    x = jnp.concatenate([z, one_hot(labels, self.num_classes, z.dtype)], -1)
    x = nn.leaky_relu(nn.Dense(self.widths[0])(x), 0.2)
    x = nn.leaky_relu(nn.Dense(math.prod(half))(x), 0.2)
    x = jnp.tanh(_upsampled(UpsampleConv(channels), x.reshape(-1, *half)))
    return x[:, :height, :width]


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
    for name, x in (('z', z), ('label', one_hot(labels, self.num_classes, z.dtype))):
      # A transposed convolution of a single pixel is a dense layer whose bias is shared.
      dense = nn.Dense(math.prod(start) * wide, False, kernel_init=_TORCH_TRANSPOSED, name=name)
      bias = self.param(f'{name}_bias', nn.initializers.zeros, (wide,), jnp.float32)
      x = dense(x).reshape(-1, *start, wide)
      parts.append(nn.leaky_relu(x + bias.astype(x.dtype)[None, None, None], 0.2))
    x = jnp.concatenate(parts, -1)
    for features, size in zip((wide, self.width), sizes[:0:-1], strict=True):
      x = nn.leaky_relu(TransposedConv(features, size)(x), 0.2)
    return jnp.tanh(TransposedConv(self.image_shape[2], sizes[0])(x))


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
    k = kernel_size(self.size)
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
_TORCH_TRANSPOSED = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')


def _halved(image_shape: ImageShape) -> list[tuple[int, int]]:
  """(height, width) after 0, 1, 2 and 3 convolutions of stride 2."""
  sizes = [(image_shape[0], image_shape[1])]
  for _ in range(3):
    sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
  return sizes


UNCONDITIONAL = {'report', 'dcgan'}
"""Names of generators that ignore the label: their samples have none."""
_OWN: Mapping[str, Callable[[ImageShape, int], nn.Module]] = {
  'report': lambda shape, classes: ReportGenerator(shape, classes),
  'report_conditional': lambda shape, classes: ReportGenerator(shape, classes, conditional=True),
  'compact': lambda shape, classes: CompactGenerator(shape, classes),
  'dcgan': lambda shape, classes: DCGANGenerator(shape, classes),
  'revisited': lambda shape, classes: RevisitedGenerator(shape, classes),
  'refiner': lambda shape, classes: Refiner(shape, classes),
}
REFINERS = {'refiner'}
"""Names of generators that begin with a release of moments (`moments_share`)."""
GENERATORS = Registry('generator', _OWN, unconditional=UNCONDITIONAL)
"""Functions of (image_shape, num_classes) by name; a plugin registers its own."""


def make_generator(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
  """The generator `name` for images of `image_shape` (H, W, C)."""
  return GENERATORS[_validate.one_of('generator', name, GENERATORS)](image_shape, num_classes)
