"""GANs by ε alone, beside moments alone, generators that match moments, and GANs from noise.

    ./run.sh python -m experiments.own_data.gans [--mnist_dir=FOLDER]
    ./run.sh python -m experiments.own_data.make_page

Of each set and ε: a release of moments that gets all of it; one that does, of which a generator
learns (`--matching_steps=3000`); a GAN with nothing chosen but ε, which refines draws of moments;
and one whose generator starts from noise (`--generator=report`), its samples labelled by a private
classifier. A logistic regression learns from samples; they are compared with held-out images by
features that suit any (scattering). Half an hour of one core.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
import warnings
from typing import Any

from absl import flags

from dpgan_jax import _cli, _keys
from dpgan_jax.evaluation import distances, features
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans import recipe
from dpgan_jax.run import trainer
from experiments import pages
from experiments.own_data import measure

FLAGS = flags.FLAGS
MOMENTS, REFINED, FROM_NOISE = 'moments alone', 'GAN, refining moments', 'GAN, from noise'
MATCHED = 'moments, matched'
_MATCHING_STEPS = 3000
_SETS = {
  ('digits', 1100): (1.0, 8.0), ('patches of two photographs', 4000): (2.0,),
  ('mnist', 5000): (2.0,),
}  # fmt: skip


def run(part: measure.Part, epsilon: float, kind: str, seed: int) -> dict[str, Any]:
  """One model, and what its samples are like."""
  begun, num = time.monotonic(), measure.DRAWS
  if kind == MOMENTS:
    drawn = measure.released(part, epsilon).draw(num, _keys.from_seed(seed))
    spent = epsilon
  else:
    data = part.dataset
    said = {'generator': 'report'} if kind == FROM_NOISE else {}
    asked = TrainConfig(method='gan', target_epsilon=epsilon, seed=seed, num_samples=200, **said)
    config, _ = recipe.settled(asked, data.spec, said)
    if kind == MATCHED:
      config = TrainConfig(
        target_epsilon=epsilon, matching_steps=_MATCHING_STEPS, seed=seed, num_samples=200
      )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
      warnings.simplefilter('ignore')
      model = trainer.train(config, data, folder, progress=False).model
      drawn, spent = model.sample(num, key=_keys.from_seed(seed)), model.epsilon()
  images, labels = drawn
  assert labels is not None
  real, made = (
    features.extract(x[: len(part.unseen)], features.SCATTERING) for x in (part.unseen, images)
  )
  near = distances.prdc(real, made)
  return {
    'set': part.name, 'num_records': len(part.images), 'epsilon': epsilon, 'kind': kind,
    'seed': seed, 'spent': pages.epsilon(spent), 'accuracy': measure.taught(images, labels, part),
    'fid': round(distances.fid(real, made), 3), 'precision': round(near.precision, 3),
    'coverage': round(near.coverage, 3), 'minutes': round((time.monotonic() - begun) / 60, 1),
  }  # fmt: skip


def main() -> None:
  out = pathlib.Path(FLAGS.out)
  kept = (pages.read_json(out) or {'rows': []})['rows']
  key = lambda row: tuple(row[n] for n in ('set', 'num_records', 'epsilon', 'kind', 'seed'))  # noqa: E731
  made, rows = set(map(key, kept)), pages.Rows(FLAGS.out, kept, delta=1e-5)
  for part in measure.parts(FLAGS.mnist_dir):
    for epsilon in _SETS.get((part.name, len(part.images)), ()):
      for kind in (MOMENTS, MATCHED, REFINED, FROM_NOISE):
        for seed in range(FLAGS.seeds):
          if (part.name, len(part.images), epsilon, kind, seed) not in made:
            rows.add(**run(part, epsilon, kind, seed))


if __name__ == '__main__':
  flags.DEFINE_string('mnist_dir', None, 'Folder of MNIST; default: MNIST is left out.')
  flags.DEFINE_integer('seeds', 1, 'Models of each set, ε and kind.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'own_data_by_epsilon.json'), 'The record.')
  _cli.run(main)
