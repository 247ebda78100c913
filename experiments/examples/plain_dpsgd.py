"""DP-SGD on a plain classifier, no GAN: the privacy core of dpgan_jax in another training loop.

Softmax regression on scikit-learn's 8x8 digits at ε = 2. Run it with

    python -m experiments.examples.plain_dpsgd
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from sklearn import datasets, model_selection

from dpgan_jax import DPMechanism


def predict(params: dict[str, jax.Array], image: jax.Array) -> jax.Array:
  """Logits float32[10] of one image float32[64]."""
  return image @ params['w'] + params['b']


def loss(params: dict[str, jax.Array], image: jax.Array, label: jax.Array) -> jax.Array:
  """Cross-entropy of ONE example: its gradient is what gets clipped."""
  return optax.softmax_cross_entropy_with_integer_labels(predict(params, image), label)


def main(target_epsilon: float = 2.0, seed: int = 0) -> tuple[float, float]:
  """Trains and prints; returns (accuracy on held-out digits, ε spent)."""
  images, labels = datasets.load_digits(return_X_y=True)
  images = (images / 16).astype('float32')  # by a public constant, not by the data's own maximum
  x, x_test, y, y_test = map(
    jnp.asarray, model_selection.train_test_split(images, labels, test_size=360, random_state=0)
  )

  # One object holds every number the guarantee depends on, and finds the noise that meets ε.
  mechanism = DPMechanism.for_epsilon(
    target_epsilon, num_examples=len(x), batch_size=256, l2_clip_norm=1.0, steps=120, delta=1e-4
  )
  # A seed makes this example reproducible. For a release the key must come from the operating
  # system, and nobody may ever learn it.
  noise_key, batch_key = jax.random.split(jax.random.key(seed))

  # Without a mechanism object, the transform alone (the accounting is then yours):
  #   from dpgan_jax import clip_and_noise
  #   clip_and_noise(l2_clip_norm=1.0, noise_multiplier=1.1, expected_batch_size=256, key=noise_key)
  optimizer = optax.chain(mechanism.clip_and_noise(noise_key), optax.sgd(1.0, momentum=0.8))

  @jax.jit
  def step(params, state, t):
    batch = mechanism.sampler(batch_key, t)
    grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x[batch.indices], y[batch.indices])
    updates, state = optimizer.update(grads, state, params, mask=batch.mask)
    return optax.apply_updates(params, updates), state

  params = {'w': jnp.zeros((64, 10)), 'b': jnp.zeros(10)}
  state = optimizer.init(params)
  for t in range(mechanism.steps):
    params, state = step(params, state, t)

  logits = jax.vmap(predict, (None, 0))(params, x_test)
  accuracy = float(jnp.mean(jnp.argmax(logits, -1) == y_test))
  epsilon = mechanism.epsilon()
  print(
    f'accuracy {accuracy:.3f} on {len(y_test)} held-out digits, '
    f'epsilon {epsilon:.3f} at delta {mechanism.delta:g} (noise multiplier '
    f'{mechanism.noise_multiplier:.2f}, {mechanism.steps} steps)'
  )
  return accuracy, epsilon


if __name__ == '__main__':
  main()
