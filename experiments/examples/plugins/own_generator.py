"""A generator of one's own: `--plugin=experiments/examples/plugins/own_generator.py
--generator=affine`.

It gets z [n, latent_dim] and labels int32 [n], and gives images [n, H, W, C] in [-1, 1]. It sees no
record, so that batch norm is allowed here.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from dpgan_jax.networks.generators import GENERATORS


class Affine(nn.Module):
  """z and the class through one layer and a batch norm."""

  image_shape: tuple[int, int, int]
  num_classes: int

  @nn.compact
  def __call__(self, z, labels, train=False):
    x = jnp.concatenate([z, nn.one_hot(labels, self.num_classes, dtype=z.dtype)], axis=-1)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(32)(x))
    x = nn.Dense(math.prod(self.image_shape))(nn.relu(x))
    return jnp.tanh(x).reshape(-1, *self.image_shape)


@GENERATORS.register('affine')
def make(image_shape, num_classes):
  """Of the images' (H, W, C). One that needs no class says `unconditional=True` above."""
  return Affine(image_shape, num_classes)
