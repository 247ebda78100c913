"""GANs with planted failures and without, the verdict on each, and what its samples teach.

    ./run.sh python -m experiments.own_data.gan_verdicts [--kinds=good,collapsed] [--seeds=2]
    ./run.sh python -m experiments.own_data.make_page

Small GANs of the digits of scikit-learn (8 × 8 pixels); a logistic regression learns from samples
and is tested on held-out real digits. The record is written after every run, and runs in it are not
repeated. A minute or two a run on 2 cores.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
import warnings
from typing import Any

import numpy as np
from absl import flags

from dpgan_jax import _cli, _json
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans import verdict
from dpgan_jax.run import trainer
from experiments import pages
from experiments.own_data import measure

FLAGS = flags.FLAGS
_COMMON: dict[str, Any] = {
  'dataset': 'digits', 'delta': 1e-4, 'batch_size': 48, 'fake_batch_size': 48,
  'd_steps_per_g_step': 5, 'num_samples': 1000, 'steps_per_report': 200,
  'reports_per_checkpoint': 100, 'reports_per_grid': 100,
}  # fmt: skip
_SHORT: dict[str, Any] = {'steps': 400, 'target_epsilon': 8.0, 'generator': 'compact'}
KINDS: dict[str, dict[str, Any]] = {
  'good': {'steps': 1500, 'target_epsilon': math.inf},
  'private': {'steps': 1500, 'target_epsilon': 8.0},
  'too few steps': {'steps': 60, 'target_epsilon': 8.0},
  'too much noise': {**_SHORT, 'target_epsilon': 0.2},
  'shuffled labels': _SHORT,
  'static': _SHORT,
  'collapsed': {**_SHORT, 'g_learning_rate': 0.1},
  'dead discriminator': {**_SHORT, 'd_learning_rate': 10.0},
  'discriminator at rest': {**_SHORT, 'd_learning_rate': 1e-9},
}  # fmt: skip


def run(part: measure.Part, kind: str, seed: int) -> dict[str, Any]:
  """One GAN, its signs, its verdict, and the accuracy that its samples give."""
  shown = measure.spoilt(part, kind, seed).dataset
  config = TrainConfig(**_COMMON, **KINDS[kind], seed=seed)
  with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    trained = trainer.train(config, shown, folder, progress=False)
    signs = verdict.from_record(_json.read(trained.run.signs))
    drawn = np.load(trained.run.samples())
    accuracy = measure.taught(drawn['x'], drawn['y'], part)
  found = verdict.judge(signs)
  rounded = {k: v and round(v, 3) for k, v in dataclasses.asdict(signs).items()}
  return {
    'kind': kind, 'seed': seed, 'level': found.level, 'weakest': found.weakest,
    'accuracy': accuracy, **rounded,
  }  # fmt: skip


def main() -> None:
  kept = (pages.read_json(pathlib.Path(FLAGS.out)) or {'rows': []})['rows']
  made, rows = {(row['kind'], row['seed']) for row in kept}, pages.Rows(FLAGS.out, kept)
  part = next(p for p in measure.parts(None) if len(p.images) == 1100)
  for seed in range(FLAGS.seeds):
    for kind in FLAGS.kinds or KINDS:
      if (kind, seed) not in made:
        rows.add(**run(part, kind, seed))


if __name__ == '__main__':
  flags.DEFINE_list('kinds', None, 'Only these; default: all.')
  flags.DEFINE_integer('seeds', 1, 'Runs of each.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'own_data_gans.json'), 'The record.')
  _cli.run(main)
