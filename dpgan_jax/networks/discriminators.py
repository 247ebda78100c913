"""Discriminators by name.

| name                     | discriminator                                          |
| ------------------------ | ------------------------------------------------------ |
| `report`                 | the report's final one (26 k parameters)               |
| `report_conditional`     | the same, told the class                               |
| `compact`                | told the class, two convolutions                       |
| `dcgan`                  | the report's starting point: two 5×5, no pooling       |
| `dense`                  | the report's two dense layers                          |
| `scattering`             | small, on fixed wavelet features                       |
| `scattering_conditional` | the same, told the class                               |
| `revisited`              | that of "Private GANs, Revisited" (1.7 M parameters)   |
| `noisy_activations`      | a baseline with noise on activations, without any ε    |

A discriminator maps (images [n, H, W, C] in [-1, 1], labels int32[n]) to logits [n], high for real.
Unconditional ones ignore the labels. None may mix the examples of a batch (`per_example`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax import _validate
from dpgan_jax._plugins import Registry
from dpgan_jax.networks import scattering
from dpgan_jax.networks.layers import Conv, ImageShape, kernel_size, one_hot, tutorial_features
from dpgan_jax.networks.noisy_activations import WHY_NO_EPSILON, NoisyActivations


class ReportDiscriminator(nn.Module):
  """The tutorial's convolutions, a dense layer of 32 units and one of 1 unit.

  The report's own classifier and hyperparameters come from that tutorial too. Told the class, the
  dense layer receives it as a one-hot vector beside the features.
  """

  image_shape: ImageShape
  num_classes: int
  conditional: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = tutorial_features(images)
    if self.conditional:
      x = jnp.concatenate([x, one_hot(labels, self.num_classes, x.dtype)], -1)
    return nn.Dense(1)(nn.relu(nn.Dense(32)(x)))[:, 0]


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
  2021 (arXiv 2011.11660). Told the class, it has the biases and the projection of
  `CompactDiscriminator`.

  Raises:
    InputError: images of fewer than three pixels a side.
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 32
  conditional: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    height, width, channels = self.image_shape
    scales = scattering.most_scales(height, width, at_most=2)
    transform = scattering.Scattering(height, width, scales=scales, order=1)
    planes = (images.astype(jnp.float32).transpose(0, 3, 1, 2) + 1) / 2
    x = transform(planes.reshape(-1, height, width)) / transform.usual[None, :, None, None]
    x = x.reshape(-1, channels * len(transform.paths), *x.shape[2:]).transpose(0, 2, 3, 1)
    classes = one_hot(labels, self.num_classes, images.dtype)
    x = nn.relu(self._told(Conv(self.width, (1, 1))(x.astype(images.dtype)), classes, 0))
    x = nn.relu(self._told(Conv(self.width, (3, 3), stride=2)(x), classes, 1))
    x = x.reshape(x.shape[0], -1)
    logits = nn.Dense(1)(x)[:, 0]
    return logits + _projected(x, classes) if self.conditional else logits

  def _told(self, x: jax.Array, classes: jax.Array, layer: int) -> jax.Array:
    return x + _class_bias(x, classes, layer) if self.conditional else x


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
    classes = one_hot(labels, self.num_classes, images.dtype)
    x = images
    for i, features in enumerate(self.widths):
      x = Conv(features, (4, 4), stride=2)(x)
      x = nn.leaky_relu(x + _class_bias(x, classes, i), 0.2)
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(1)(x)[:, 0] + _projected(x, classes)


def _class_bias(x: jax.Array, classes: jax.Array, layer: int) -> jax.Array:
  """Of each channel of x [n, h, w, c] by class, [n, 1, 1, c]."""
  bias = nn.Dense(x.shape[-1], use_bias=False, name=f'label_bias_{layer}')(classes)
  return bias[:, None, None, :]


def _projected(x: jax.Array, classes: jax.Array) -> jax.Array:
  """How well features [n, f] go with a class, [n]."""
  count = classes.shape[-1]
  per_class = nn.Dense(count, use_bias=False, name='projection')(x)
  return 1 / math.sqrt(count) * jnp.sum(per_class * classes, axis=-1)


class RevisitedDiscriminator(nn.Module):
  """Three stride-2 convolutions and a linear layer, the class as planes beside the image. 1.72 M
  parameters; without normalisation. Source: see `RevisitedGenerator`.
  """

  image_shape: ImageShape
  num_classes: int
  width: int = 128

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    planes = one_hot(labels, self.num_classes, images.dtype)[:, None, None, :]
    planes = jnp.broadcast_to(planes, (*images.shape[:3], self.num_classes))
    half = self.width // 2
    parts = [self._conv(half, images, 'image'), self._conv(half, planes, 'label')]
    x = self._conv(2 * self.width, jnp.concatenate(parts, -1))
    x = self._conv(4 * self.width, x)
    x = x.reshape(x.shape[0], -1)  # the paper's last convolution sees all of it at once
    return nn.Dense(1, kernel_init=_TORCH)(x)[:, 0]

  def _conv(self, features: int, x: jax.Array, name: str | None = None) -> jax.Array:
    size = kernel_size(x.shape[1:3])
    conv = Conv(features, (size, size), stride=2, kernel_init=_TORCH, name=name)
    return nn.leaky_relu(conv(x), 0.2)


# PyTorch's own: uniform of variance 1/(3·fan in).
_TORCH = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

UNCONDITIONAL = {'report', 'dcgan', 'dense', 'scattering', 'noisy_activations'}
"""Names of discriminators that ignore the label."""
SCATTERED = {'scattering', 'scattering_conditional'}
"""Names of discriminators on fixed wavelet features."""
_OWN: Mapping[str, Callable[[ImageShape, int], nn.Module]] = {
  'report': lambda shape, classes: ReportDiscriminator(shape, classes),
  'report_conditional': lambda shape, classes: ReportDiscriminator(
    shape, classes, conditional=True
  ),
  'compact': lambda shape, classes: CompactDiscriminator(shape, classes),
  'dcgan': lambda shape, classes: DCGANDiscriminator(shape, classes),
  'dense': lambda shape, classes: DenseDiscriminator(shape, classes),
  'scattering': lambda shape, classes: ScatteringDiscriminator(shape, classes),
  'scattering_conditional': lambda shape, classes: ScatteringDiscriminator(
    shape, classes, conditional=True
  ),
  'revisited': lambda shape, classes: RevisitedDiscriminator(shape, classes),
  'noisy_activations': lambda shape, classes: NoisyActivations(shape, classes),
}
DISCRIMINATORS = Registry('discriminator', _OWN, unconditional=UNCONDITIONAL)
"""Functions of (image_shape, num_classes) by name; a plugin registers its own."""
UNACCOUNTED = {'noisy_activations': WHY_NO_EPSILON}
"""Names of discriminators whose runs state no (ε, δ), and why."""


def make_discriminator(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
  """The discriminator `name` for images of `image_shape` (H, W, C)."""
  return DISCRIMINATORS[_validate.one_of('discriminator', name, DISCRIMINATORS)](
    image_shape, num_classes
  )
