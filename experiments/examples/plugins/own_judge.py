"""A judge of one's own: `dpgan_jax.evaluate --plugin=experiments/examples/plugins/own_judge.py
--tasks=tstr_prototypes,ceiling_prototypes`.

A classifier that is trained on samples and tested on real images, beside those there are. It gets
images float [n, H, W, C] in [-1, 1], and gives logits [n, outputs].
"""

import flax.linen as nn
import jax.numpy as jnp

from dpgan_jax.evaluation.judges import CLASSIFIERS


@CLASSIFIERS.register('prototypes')
class Prototypes(nn.Module):
  """The class of the nearest of some learnt images, one a class."""

  outputs: int

  @nn.compact
  def __call__(self, x, *, train=False):
    del train
    x = x.reshape(len(x), -1)
    prototypes = self.param('prototypes', nn.initializers.normal(0.1), (self.outputs, x.shape[1]))
    return -jnp.sum((x[:, None] - prototypes[None]) ** 2, axis=-1)
