"""DP-SGD on a wide network, without its per-example gradients: `clipped_grad` in another project.

A hand-written network of 4.3 million parameters on scikit-learn's 8x8 digits at ε = 4. With 256
examples a step, per-example gradients alone would fill over 4 GB; the step below never forms them.
Any JAX loss on one example will do, from Linen, NNX, Equinox or, as here, no library. Run it with

    python -m experiments.examples.ghost_clipping
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from sklearn import datasets, model_selection

from dpgan_jax import DPMechanism

WIDTHS = (64, 2048, 2048, 10)


def init(key: jax.Array) -> list[dict[str, jax.Array]]:
  """Weights and biases of every layer."""
  keys = jax.random.split(key, len(WIDTHS) - 1)
  return [
    {'w': jax.random.normal(k, (fan_in, fan_out)) / fan_in**0.5, 'b': jnp.zeros(fan_out)}
    for k, fan_in, fan_out in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
  ]


def predict(params: list[dict[str, jax.Array]], image: jax.Array) -> jax.Array:
  """Logits float32[10] of one image float32[64]."""
  for layer in params[:-1]:
    image = jnp.tanh(image @ layer['w'] + layer['b'])
  return image @ params[-1]['w'] + params[-1]['b']


def loss(params: list[dict[str, jax.Array]], image: jax.Array, label: jax.Array) -> jax.Array:
  """Cross-entropy of ONE example: its gradient is what gets clipped."""
  return optax.softmax_cross_entropy_with_integer_labels(predict(params, image), label)


def main(steps: int = 60, seed: int = 0) -> tuple[float, dict[str, int]]:
  """Trains and prints; returns (accuracy on held-out digits, bytes a step needs by strategy)."""
  images, labels = datasets.load_digits(return_X_y=True)
  images = (images / 16).astype('float32')
  x, x_test, y, y_test = map(
    jnp.asarray, model_selection.train_test_split(images, labels, test_size=360, random_state=0)
  )
  mechanism = DPMechanism.for_epsilon(
    4.0, num_examples=len(x), batch_size=256, l2_clip_norm=1.0, steps=steps, delta=1e-4
  )
  # As in plain_dpsgd.py: a fixed seed is for examples, never for a release.
  init_key, noise_key, batch_key = jax.random.split(jax.random.key(seed), 3)
  optimizer = optax.chain(mechanism.noise_sum(noise_key), optax.sgd(0.1, momentum=0.8))

  def make_step(strategy):
    # All examples at once, so that strategies are compared; left out, it is what is fast.
    cap = mechanism.truncated_batch_size
    clipped_grad = mechanism.clipped_grad(loss, strategy=strategy, microbatch_size=cap)

    def step(params, state, t):
      batch = mechanism.sampler(batch_key, t)
      clipped = clipped_grad(params, x[batch.indices], y[batch.indices], mask=batch.mask)
      updates, state = optimizer.update(clipped.sum, state, params)
      return optax.apply_updates(params, updates), state

    return jax.jit(step)

  params = init(init_key)
  state = optimizer.init(params)
  memory = {}
  for strategy in ('vmap', 'auto'):  # compiled to be compared; only the second one runs
    compiled = make_step(strategy).lower(params, state, 0).compile()
    memory[strategy] = compiled.memory_analysis().temp_size_in_bytes
  for t in range(mechanism.steps):
    params, state = compiled(params, state, t)

  logits = jax.vmap(predict, (None, 0))(params, x_test)
  accuracy = float(jnp.mean(jnp.argmax(logits, -1) == y_test))
  print(
    f'accuracy {accuracy:.3f} on {len(y_test)} held-out digits, epsilon {mechanism.epsilon():.3f} '
    f'at delta {mechanism.delta:g}; working memory of a step {memory["auto"] / 1e6:.0f} MB, with '
    f'per-example gradients {memory["vmap"] / 1e6:.0f} MB'
  )
  return accuracy, memory


if __name__ == '__main__':
  main()
