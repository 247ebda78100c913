"""A private classifier of one's own, a stage that DP-SGD trains:
`dpgan_jax.classify --plugin=experiments/examples/plugins/own_classifier.py --model=narrow`.

It gets inputs float [n, ...] as `--features` prepares them, and gives logits [n, num_classes]. What
mixes the records of a batch is refused.
"""

import flax.linen as nn

from dpgan_jax.models.classifier_config import MODELS


@MODELS.register('narrow')
class Narrow(nn.Module):
  """One hidden layer of eight units."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(nn.tanh(nn.Dense(8)(x.reshape(len(x), -1))))
