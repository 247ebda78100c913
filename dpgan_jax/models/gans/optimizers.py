"""Learning rates and optimizers that the settings of a GAN ask for."""

from __future__ import annotations

import optax

from dpgan_jax.models.config import TrainConfig


def learning_rate(config: TrainConfig, which: str, updates: int) -> optax.Schedule | float:
  """The learning rate of 'd' or 'g' as a function of its own update count."""
  start = getattr(config, f'{which}_learning_rate')
  end = getattr(config, f'{which}_learning_rate_end')
  if end is None or config.learning_rate_schedule == 'constant':
    return start
  last = max(updates - 1, 1)  # the value `end` is reached at the last update
  match config.learning_rate_schedule:
    case 'linear':
      return optax.linear_schedule(start, end, last)
    case 'exponential':
      return optax.exponential_decay(start, last, end / start)
    case _:
      return optax.cosine_decay_schedule(start, last, alpha=end / start)


def optimizer(config: TrainConfig, which: str, updates: int) -> optax.GradientTransformation:
  """The optimizer of 'd' or 'g', which makes so many updates."""
  rate = learning_rate(config, which, updates)
  if getattr(config, f'{which}_optimizer') == 'sgd':
    return optax.sgd(rate)
  return optax.adam(rate, b1=config.adam_b1, b2=config.adam_b2)
