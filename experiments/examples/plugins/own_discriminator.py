"""A discriminator of one's own: `--plugin=experiments/examples/plugins/own_discriminator.py
--discriminator=tiny`.

It gets images float [n, H, W, C] in [-1, 1] and labels int32 [n], and gives logits [n]. What mixes
the records of a batch (batch norm) is refused; group norm and layer norm are not.
"""

import flax.linen as nn
import jax.numpy as jnp

from dpgan_jax.networks.discriminators import DISCRIMINATORS


class Tiny(nn.Module):
  """The class beside the pixels, one hidden layer."""

  num_classes: int

  @nn.compact
  def __call__(self, images, labels):
    classes = nn.one_hot(labels, self.num_classes, dtype=images.dtype)
    x = jnp.concatenate([images.reshape(len(images), -1), classes], axis=-1)
    return nn.Dense(1)(nn.leaky_relu(nn.LayerNorm()(nn.Dense(16)(x)), 0.2))[:, 0]


@DISCRIMINATORS.register('tiny')
def make(image_shape, num_classes):
  """Of the images' (H, W, C). One that needs no class says `unconditional=True` above."""
  del image_shape
  return Tiny(num_classes)
