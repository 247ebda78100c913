"""What a private GAN is compared with: the same GAN without privacy, and data for both.

"The same without privacy" is what anyone would write: B real examples drawn at random, one gradient
of the mean loss of both halves, no clipping, no noise; the same networks, fakes, optimizers, n_D
and compiled loop (`dpgan_jax.run.loop`). The private GAN looks at more real examples than B: a
Poisson batch varies, and its slots are made for the largest (`DPMechanism.truncated_batch_size`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import pace
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GANState, StepMetrics
from dpgan_jax.models.gans.optimizers import optimizer
from dpgan_jax.networks.losses import LOSSES
from dpgan_jax.run import plan


def spec(examples: int, shape: tuple[int, ...]) -> Spec:
  """Of data with ten classes; what the images show makes no difference to time or memory."""
  names = tuple(map(str, range(10)))
  return Spec(num_records=examples, shape=shape, class_names=names, name='random')


MNIST = spec(60_000, (28, 28, 1))


class OrdinaryGAN(GAN):
  """The same GAN without privacy, as anyone would write it: B real examples, gradients of means."""

  reads_batches_alone = False  # it draws its own

  def take(self, state: GANState, grads: Any) -> GANState:
    """The state after D's optimizer, without noise, has seen `grads`."""
    updates, opt = optimizer(self.config, 'd', self.mechanism.steps).update(
      grads, state.d_opt_state[1], state.d_params
    )
    return state._replace(
      step=state.step + 1,
      d_params=optax.apply_updates(state.d_params, updates),
      d_opt_state=(state.d_opt_state[0], opt),
      pace=pace.after_d_step(state.pace),
    )

  def d_loss(self, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(LOSSES[self.config.loss].d_real(self.logits(params, images, labels)))

  def real_batch(
    self, state: GANState, images: jax.Array, labels: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    key = jax.random.fold_in(state.batch_key, state.step)
    rows = jax.random.randint(key, (self.config.batch_size,), 0, images.shape[0])
    return to_model_range(images[rows]), labels[rows]

  def _d_step(
    self, state: GANState, images: jax.Array, labels: jax.Array
  ) -> tuple[GANState, StepMetrics]:
    fakes, fake_labels, _ = self._fakes(state.g, self._fake_key(state, 0), self.fake_batch_size)
    real = self.real_batch(state, images, labels)

    def loss(params: Any) -> jax.Array:
      fake = LOSSES[self.config.loss].d_fake(self.logits(params, fakes, fake_labels))
      return self.d_loss(params, *real) + jnp.mean(fake)

    value, grads = jax.value_and_grad(loss)(state.d_params)
    nothing = StepMetrics(*[jnp.zeros(())] * len(StepMetrics._fields))
    return self.take(state, grads), nothing._replace(d_loss_real=value)


def make_gan(config: TrainConfig, ordinary: bool = False, data: Spec = MNIST) -> GAN:
  """The GAN of the settings; how much noise there is makes no difference to time or memory.

  Args:
    config: the settings. A noise multiplier that is not given is 1: calibrating it takes long.
    ordinary: without privacy.
    data: what they are made for.
  """
  config = config.replace(label_share=None, label_cnn_share=None)
  made = config.replace(
    target_epsilon=None, epochs=None, steps=config.steps or 1000,
    noise_multiplier=config.noise_multiplier or 1.0,
  )  # fmt: skip
  mechanism = plan.make_budget(made, data.num_records).mechanism
  return (OrdinaryGAN if ordinary else GAN)(config, mechanism, data)


def random_data() -> tuple[jax.Array, jax.Array]:
  """Images uint8 [N, H, W, C] and labels int32 [N]."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (MNIST.num_records, *MNIST.shape), np.uint8))
  return images, jnp.asarray(rng.integers(0, MNIST.num_classes, MNIST.num_records, np.int32))
