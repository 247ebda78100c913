"""What bounds a step of D: its limits without noise, both halves, penalties, weights, its pace."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.sampling import TruncatedPoissonSampler
from dpgan_jax.run.stages import make_chunk
from tests.support.gans import (
  N,
  init,
  make_dataset,
  make_gan,
  max_difference,
  run,
  take_step,
)


@pytest.fixture(scope='module')
def dataset():
  return make_dataset()


@pytest.mark.slow  # test_gan has the formula of a step
def test_limits_are_plain_training(dataset):
  """σ = 0, C = ∞, everything in the batch: the step is the gradient of the ordinary GAN loss."""
  gan = make_gan(
    sigma=0.0, clip=math.inf, batch=N, d_optimizer='sgd', d_learning_rate=1.0, d_steps_per_g_step=9
  )
  assert gan.mechanism.sampling_probability == 1.0
  images, labels = dataset
  state = init(gan, jax.random.key(0))
  fakes, fake_labels, _ = gan._fakes(state.g, gan._fake_key(state, 0), gan.fake_batch_size)

  def loss(params):
    real = gan.discriminator.apply({'params': params}, to_model_range(images), labels)
    fake = gan.discriminator.apply({'params': params}, fakes, fake_labels)
    return jnp.mean(nn.softplus(-real)) + jnp.mean(nn.softplus(fake))

  expected = jax.tree.map(lambda p, g: p - g, state.d_params, jax.grad(loss)(state.d_params))
  after, _ = take_step(gan, state, images, labels)
  assert max_difference(after.d_params, expected) < 1e-5


@pytest.mark.parametrize(
  'balance', [pytest.param('clipped', marks=pytest.mark.slow), 'plain']  # test_gan has its formula
)
def test_balance_of_the_fake_half(dataset, balance):
  """'clipped' bounds each fake's gradient like a real one's; 'plain' does not bound it."""
  gan = make_gan(
    sigma=0.0, clip=1e-3, d_optimizer='sgd', d_learning_rate=1.0, fake_gradient=balance
  )
  state = init(gan, jax.random.key(0))
  after, metrics = take_step(gan, state, *dataset)
  moved = float(optax.tree.norm(jax.tree.map(jnp.subtract, after.d_params, state.d_params)))
  bound = 1e-3 * (float(metrics.realised_batch) / gan.mechanism.batch_size + 1)
  assert (moved <= bound * (1 + 1e-5)) == (balance == 'clipped')


@pytest.mark.slow  # test_gan has its formula
def test_clip_norm_of_the_step_is_the_mechanisms(dataset):
  """The step follows the mechanism when one of its numbers changes: nothing is typed twice."""
  gan = make_gan(sigma=0.0, clip=1e-3, d_optimizer='sgd', d_learning_rate=1.0)
  loose = dataclasses.replace(
    gan, mechanism=dataclasses.replace(gan.mechanism, l2_clip_norm=2 * gan.mechanism.l2_clip_norm)
  )
  one, _ = take_step(gan, init(gan, jax.random.key(0)), *dataset)
  two, _ = take_step(loose, init(loose, jax.random.key(0)), *dataset)
  start = init(gan, jax.random.key(0)).d_params
  short = optax.tree.norm(jax.tree.map(jnp.subtract, one.d_params, start))
  long = optax.tree.norm(jax.tree.map(jnp.subtract, two.d_params, start))
  assert float(short) < float(long)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOfOthers(TruncatedPoissonSampler):
  who: int

  def __call__(self, key, step):
    batch = super().__call__(key, step)
    kept = batch.mask & (batch.indices != self.who)
    order = jnp.argsort(~kept, stable=True)
    return batch._replace(indices=batch.indices[order], mask=kept[order])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removed(DPMechanism):
  """The same mechanism on the data set without one record: all behind it move up in the batch."""

  who: int

  @property
  def sampler(self):
    return SamplerOfOthers(**vars(super().sampler), who=self.who)


@pytest.mark.slow
def test_gradient_penalty_leaves_each_example_its_own_loss(dataset):
  """Checklist 13: with a penalty, removing the first example of a batch moves the sum by C at most.
  Paired with fakes by place in the batch, everybody behind would have another loss.
  """
  gan = make_gan(
    loss='wasserstein', gradient_penalty=10.0, clip=0.1, batch=30,
    d_optimizer='sgd', d_learning_rate=1.0, d_steps_per_g_step=9,
  )  # fmt: skip
  state = init(gan, jax.random.key(5))
  batch = gan.mechanism.sampler(state.batch_key, state.step)
  first = int(batch.indices[0])
  assert int(batch.mask.sum()) > 20
  fields = {f.name: getattr(gan.mechanism, f.name) for f in dataclasses.fields(DPMechanism)}
  without = dataclasses.replace(gan, mechanism=Removed(**fields, who=first))
  one, metrics = take_step(gan, state, *dataset)
  two, fewer = take_step(without, state, *dataset)
  assert float(metrics.realised_batch) - float(fewer.realised_batch) == 1
  distance = float(optax.tree.norm(jax.tree.map(jnp.subtract, one.d_params, two.d_params)))
  assert 0 < distance <= 0.1 / gan.mechanism.batch_size * (1 + 1e-3)
  assert bool(jnp.isnan(metrics.d_real_accuracy))


@pytest.mark.slow  # test_sensitivity has a penalty
def test_gradient_penalty_is_inside_the_clipped_loss(dataset):
  """However heavy the penalty, the real half stays within C; without one the step is another."""
  settings = {
    'sigma': 0.0, 'clip': 1e-3, 'd_optimizer': 'sgd', 'd_learning_rate': 1.0,
    'loss': 'wasserstein', 'd_steps_per_g_step': 9,
  }  # fmt: skip
  moved = []
  for penalty in (None, 1e3):
    gan = make_gan(gradient_penalty=penalty, **settings)
    state = init(gan, jax.random.key(0))
    after, metrics = take_step(gan, state, *dataset)
    moved.append(jax.tree.map(jnp.subtract, after.d_params, state.d_params))
    bound = 1e-3 * (float(metrics.realised_batch) / gan.mechanism.batch_size + 1)
    assert float(optax.tree.norm(moved[-1])) <= bound * (1 + 1e-5)
  assert max_difference(*moved) > 1e-5


def test_weights_of_d_are_clipped_after_the_step(dataset):
  gan = make_gan(loss='wasserstein', d_weight_clip=0.01)
  state, _ = run(gan, dataset, 2)
  largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(state.d_params))
  assert largest == pytest.approx(0.01)


@pytest.mark.slow  # test_taint proves it, test_pace has the schedule
def test_adaptive_n_d_follows_fakes_only(dataset):
  """Checklist 16: other data of which the noisy sums are the same (all clipped away) give the same
  schedule, and n_D rises when D calls no fake a fake.
  """
  gan = make_gan(
    clip=1e-12, sigma=1.0, n_d_threshold=0.9, n_d_patience=1, d_steps_per_g_step=1,
    d_learning_rate=1e-9,
  )  # fmt: skip
  images, labels = dataset
  state = init(gan, jax.random.key(0))
  # A constant logit of 5: no fake is recognised, whatever the image.
  blank = jax.tree.map(jnp.zeros_like, state.d_params)
  blank['Dense_0']['bias'] += 5.0
  state = state._replace(d_params=blank)
  one, metrics = make_chunk(gan, 8)(jax.tree.map(jnp.copy, state), images, labels)
  two, _ = make_chunk(gan, 8)(state, 255 - images, labels)
  # G steps after 1, 2 and 5 more D steps.
  assert np.asarray(metrics.n_d).tolist() == [1, 2, 2, 5, 5, 5, 5, 5]
  assert np.flatnonzero(~np.isnan(np.asarray(metrics.g_loss))).tolist() == [0, 2, 7]
  assert [int(x) for x in one.pace[:4]] == [int(x) for x in two.pace[:4]] == [10, 0, 3, 0]
