"""The smallest networks that can be a GAN: its programs are made in half the time.

Two dense layers in D, one in G; told the class, or not. Tests of the networks have networks of
their own; whatever else a GAN does is the same with these.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpgan_jax.networks import discriminators, generators
from dpgan_jax.networks.layers import ImageShape, one_hot

NAME, WITHOUT_CLASSES = 'smallest', 'smallest_without_classes'
SMALLEST = {'generator': NAME, 'discriminator': NAME}
FLAGS = tuple(f'--{part}={name}' for part, name in SMALLEST.items())
SMALLEST_WITHOUT_CLASSES = {'generator': WITHOUT_CLASSES, 'discriminator': WITHOUT_CLASSES}


class SmallestGenerator(nn.Module):
  image_shape: ImageShape
  num_classes: int
  told: bool = True

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
    del train
    x = _beside(z, labels, self.num_classes) if self.told else z
    return jnp.tanh(nn.Dense(math.prod(self.image_shape))(x)).reshape(-1, *self.image_shape)


class SmallestDiscriminator(nn.Module):
  image_shape: ImageShape
  num_classes: int
  told: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = images.reshape(len(images), -1)
    x = _beside(x, labels, self.num_classes) if self.told else x
    return nn.Dense(1)(nn.leaky_relu(nn.Dense(8)(x), 0.2))[:, 0]


def _beside(x: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
  return jnp.concatenate([x, one_hot(labels, num_classes, x.dtype)], -1)


# In the dictionaries, not through `register`: runs of tests are no runs of a plugin.
for _networks, _names, _made in (
  (generators.GENERATORS, generators.UNCONDITIONAL, SmallestGenerator),
  (discriminators.DISCRIMINATORS, discriminators.UNCONDITIONAL, SmallestDiscriminator),
):
  _networks[NAME] = _made
  _networks[WITHOUT_CLASSES] = functools.partial(_made, told=False)
  _names.add(WITHOUT_CLASSES)
