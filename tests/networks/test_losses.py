"""GAN losses, and a gradient penalty that each example carries alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpgan_jax.networks import losses

LOGITS = jnp.array([-2.0, -0.5, 0.0, 0.5, 2.0])


@pytest.mark.parametrize('name', losses.LOSSES)
def test_d_wants_high_logits_for_reals_and_low_ones_for_fakes_and_g_the_reverse(name):
  loss = losses.LOSSES[name]
  for function, sign in ((loss.d_real, -1), (loss.d_fake, 1), (loss.g, -1)):
    values = np.asarray(jax.vmap(function)(LOGITS))
    slopes = sign * np.diff(values)
    assert (slopes >= 0).all()
    assert (slopes > 0).any()


def test_values_by_hand():
  hinge, wasserstein = losses.LOSSES['hinge'], losses.LOSSES['wasserstein']
  np.testing.assert_allclose(hinge.d_real(LOGITS), [3, 1.5, 1, 0.5, 0])
  np.testing.assert_allclose(hinge.d_fake(LOGITS), [0, 0.5, 1, 1.5, 3])
  np.testing.assert_allclose(hinge.g(LOGITS), -LOGITS)
  np.testing.assert_allclose(wasserstein.d_real(LOGITS), -LOGITS)
  np.testing.assert_allclose(wasserstein.d_fake(LOGITS), LOGITS)
  np.testing.assert_allclose(wasserstein.g(LOGITS), -LOGITS)
  p = 1 / (1 + np.exp(-np.asarray(LOGITS)))  # the probability of "real"
  np.testing.assert_allclose(losses.LOSSES['bce'].d_real(LOGITS), -np.log(p), rtol=1e-5)
  np.testing.assert_allclose(losses.LOSSES['bce'].d_fake(LOGITS), -np.log(1 - p), rtol=1e-5)


def test_penalty_of_a_linear_discriminator_is_that_of_its_slope():
  w = jnp.arange(12.0).reshape(3, 2, 2)
  real, fake = jnp.ones((3, 2, 2)), jnp.zeros((3, 2, 2))
  value = losses.gradient_penalty(lambda x: jnp.sum(w * x), real, fake, jnp.array(0.3))
  assert float(value) == pytest.approx((float(jnp.linalg.norm(w)) - 1) ** 2, rel=1e-5)


def test_penalty_is_taken_between_the_two_images():
  """D(x) = x³/3 at x̂ = 0.25·real + 0.75·fake: slope x̂²."""
  real, fake = jnp.full((1, 1, 1), 4.0), jnp.full((1, 1, 1), 0.8)
  cubic = lambda x: jnp.sum(x**3) / 3  # noqa: E731
  value = losses.gradient_penalty(cubic, real, fake, jnp.array(0.25))
  assert float(value) == pytest.approx((1.6**2 - 1) ** 2, rel=1e-5)


def test_penalty_of_a_flat_discriminator_has_a_finite_gradient():
  flat = lambda w: losses.gradient_penalty(  # noqa: E731
    lambda x: jnp.sum(w * x), jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 1)), jnp.array(0.5)
  )
  value, grad = jax.value_and_grad(flat)(jnp.zeros((2, 2, 1)))
  assert float(value) == pytest.approx(1.0, abs=1e-5)
  assert bool(jnp.isfinite(grad).all())


def test_partners_follow_the_example_not_its_place():
  """The same example has the same partner wherever it stands and whoever else is there."""
  key = jax.random.key(3)
  all_of_them = losses.partners(key, jnp.arange(40), 7)
  some = jnp.array([31, 2, 17])
  found = losses.partners(key, some, 7)
  np.testing.assert_array_equal(found.fake, all_of_them.fake[some])
  np.testing.assert_array_equal(found.share, all_of_them.share[some])


def test_partners_are_uniform():
  """χ² on the fakes, Kolmogorov-Smirnov on the shares, 4,000 examples; false alarm 1e-4 each (key
  fixed). Shares squared, or one fake of seven never drawn, are found with power > 0.999.
  """
  pairs = losses.partners(jax.random.key(1), jnp.arange(4000), 7)
  assert stats.chisquare(np.bincount(np.asarray(pairs.fake), minlength=7)).pvalue > 1e-4
  assert stats.kstest(np.asarray(pairs.share), 'uniform').pvalue > 1e-4
  correlation = stats.spearmanr(np.asarray(pairs.fake), np.asarray(pairs.share))
  assert correlation.pvalue > 1e-4
