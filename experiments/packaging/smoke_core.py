"""What the privacy core alone does, in seconds: `python smoke_core.py`.

`try_versions` runs it beside an installed package. One private step is taken, and its clipped sum
is compared with per-example gradients that NumPy clips. Nothing else of the repository is needed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dpgan_jax

NUM, BATCH, CLIP = 200, 40, 0.5


def main() -> None:
  for name in dpgan_jax.__all__:
    if name not in ('DPGAN', 'ImageDataset', 'TrainConfig', 'load_dataset'):  # of extras
      getattr(dpgan_jax, name)

  x = jax.random.normal(jax.random.key(1), (NUM, 3))
  y = x @ jnp.array([1.0, -2.0, 0.5])
  params = {'w': jnp.zeros(3), 'b': jnp.zeros(())}

  def loss(params, x, y):
    return (x @ params['w'] + params['b'] - y) ** 2

  mechanism = dpgan_jax.DPMechanism.for_epsilon(
    2.0, num_examples=NUM, batch_size=BATCH, l2_clip_norm=CLIP, steps=20, delta=1e-5
  )
  noise_key, sampling_key = jax.random.split(jax.random.key(2))
  batch = mechanism.sampler(sampling_key, 0)
  drawn = x[batch.indices], y[batch.indices]
  clipped = mechanism.clipped_grad(loss)(params, *drawn, mask=batch.mask)

  rows = np.asarray(x, np.float64)[np.asarray(batch.indices)[np.asarray(batch.mask)]]
  residuals = 2 * (0 - rows @ np.array([1.0, -2.0, 0.5]))
  gradients = np.concatenate([rows * residuals[:, None], residuals[:, None]], axis=1)
  norms = np.linalg.norm(gradients, axis=1, keepdims=True)
  wanted = (gradients * np.minimum(1, CLIP / norms)).sum(0)
  found = np.append(np.asarray(clipped.sum['w']), np.asarray(clipped.sum['b']))
  # Norms are raised by a bound on rounding, never lowered.
  np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=1e-3)

  optimizer = optax.chain(mechanism.noise_sum(noise_key), optax.sgd(0.1))
  updates, _ = optimizer.update(clipped.sum, optimizer.init(params), params)
  params = optax.apply_updates(params, updates)
  assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(params))

  spent = mechanism.epsilon(steps=20)
  assert 1.9 < spent <= 2.0, spent
  print(f'one step of {int(batch.mask.sum())} records; 20 cost epsilon = {spent:.4f}')


if __name__ == '__main__':
  main()
