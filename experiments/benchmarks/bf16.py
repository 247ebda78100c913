"""What `--compute_dtype=bfloat16` changes: the same short runs in either precision, side by side.

    ./run.sh python -m experiments.benchmarks.bf16 --flagfile=experiments/quickstart.flags \\
        --steps=2000 --out=experiments/results/bf16.json

For every seed, two runs on the embedded digits with the same keys: the same initial networks,
batches, noise and fakes. First the gradients of one batch are compared, example by example, before
either run has taken a step; then the samples of the two generators, by what they are worth to a
classifier (TSTR) and by their FID to the test images. How much the scores of one precision differ
between seeds says how much of a difference means nothing. The digits are public; no time is
measured. About three minutes on 2 cores.
"""

from __future__ import annotations

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from dpgan_jax import _validate, budget, cli, data, features, fidelity, judges
from dpgan_jax.config import COMPUTE_DTYPES, TrainConfig
from dpgan_jax.gan import GAN, GANState
from dpgan_jax.loop import make_chunk
from experiments import pages
from experiments.benchmarks import cases

FLAGS = flags.FLAGS
SAMPLES = 1440  # as many as there are training images
EPOCHS = 40  # of the classifier that judges samples
SCORES = ('tstr_lr', 'fid')


def make_gans(config: TrainConfig, dataset: data.ImageDataset) -> dict[str, GAN]:
  """One GAN in each precision, alike in everything else."""
  mechanism = budget.make(config, len(dataset)).mechanism
  return {
    dtype: GAN(
      config.replace(compute_dtype=dtype), mechanism, dataset.image_shape, dataset.num_classes
    )
    for dtype in COMPUTE_DTYPES
  }


def compare_gradients(
  gans: dict[str, GAN], state: GANState, images: jax.Array, labels: jax.Array
) -> dict[str, float]:
  """Norms and clipped sum of the real half of the first batch, in bfloat16 beside float32."""
  found = {}
  for dtype, gan in gans.items():
    batch = gan.mechanism.sampler(state.batch_key, state.step)
    clip = jax.jit(gan.mechanism.clipped_grad(gan._real_loss))
    got = clip(state.d_params, images[batch.indices], labels[batch.indices], mask=batch.mask)
    total = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(got.sum)])
    found[dtype] = np.asarray(got.norms, np.float64)[np.asarray(batch.mask)], total
  (wide_norms, wide), (narrow_norms, narrow) = found['float32'], found['bfloat16']
  off = np.abs(narrow_norms / wide_norms - 1)
  return {
    'norm_median_difference': float(np.median(off)),
    'norm_largest_difference': float(off.max()),
    'sum_relative_difference': float(np.linalg.norm(narrow - wide) / np.linalg.norm(wide)),
  }


def score(gan: GAN, state: GANState, test: data.ImageDataset) -> dict[str, float]:
  """What samples of the averaged generator are worth; drawn in float32 from the same z."""
  labels = jnp.arange(SAMPLES, dtype=jnp.int32) % gan.num_classes
  key = jax.random.fold_in(state.fake_key, state.step)
  images = data.to_uint8(np.asarray(jax.jit(gan.generate)(state.g_average, key, labels)))
  judged = judges.train_and_test(
    'lr',
    (images, np.asarray(labels)),
    (test.images, test.labels),
    num_classes=gan.num_classes,
    epochs=EPOCHS,
  )
  fid = fidelity.fid(features.extract(test.images), features.extract(images))
  return {'tstr_lr': judged.accuracy, 'fid': fid}


def compare_runs(
  gans: dict[str, GAN], dataset: data.ImageDataset, test: data.ImageDataset, seeds: int
) -> list[dict[str, Any]]:
  """A run per precision and seed: scores, and means of D's accuracy and of what was clipped."""
  images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
  steps = gans['float32'].mechanism.steps
  runs = []
  for dtype, gan in gans.items():
    chunk = make_chunk(gan, steps)
    for seed in range(seeds):
      state, history = chunk(jax.jit(gan.init)(jax.random.key(seed)), images, labels)
      means = {
        name: float(np.nanmean(getattr(history, name)))
        for name in ('d_real_accuracy', 'd_fake_accuracy', 'clipped_fraction')
      }
      runs.append({'dtype': dtype, 'seed': seed, **score(gan, state, test), **means})
      cases.say(str(runs[-1]))
  return runs


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Of each score: means by precision, their difference, and the spread over seeds in float32."""
  found = {}
  for name in SCORES:
    by = {d: [r[name] for r in runs if r['dtype'] == d] for d in ('float32', 'bfloat16')}
    means = {dtype: statistics.mean(values) for dtype, values in by.items()}
    found[name] = {
      **means,
      'difference': means['bfloat16'] - means['float32'],
      'spread_over_seeds': statistics.stdev(by['float32']),
    }
  return found


def main() -> None:
  config = cli.config_from_flags(TrainConfig)
  seeds = _validate.integer('seeds', FLAGS.seeds, minimum=2)
  dataset, test = (data.load_dataset('digits', split=split) for split in ('train', 'test'))
  gans = make_gans(config, dataset)
  images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
  state = jax.jit(gans['float32'].init)(jax.random.key(0))
  gradients = compare_gradients(gans, state, images, labels)
  runs = compare_runs(gans, dataset, test, seeds)
  found = summary(runs)
  head = ['', *COMPUTE_DTYPES, 'difference', 'spread over seeds in float32']
  print(pages.table(head, [[n, *map(pages.number, s.values())] for n, s in found.items()]))
  print(', '.join(f'{name} {value:.2g}' for name, value in gradients.items()))
  mechanism = gans['float32'].mechanism
  cases.write(
    data='the embedded digits (public)',
    settings={
      'discriminator': config.discriminator,
      'generator': config.generator,
      'steps': mechanism.steps,
      'batch_size': mechanism.batch_size,
      'noise_multiplier': mechanism.noise_multiplier,
      'seeds': seeds,
      'samples': SAMPLES,
    },
    first_batch=gradients,
    scores=found,
    runs=runs,
  )


if __name__ == '__main__':
  flags.DEFINE_integer('seeds', 3, 'Runs in each precision.')
  cases.run(main)
