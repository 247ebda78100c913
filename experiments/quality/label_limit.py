"""How much of what samples lack is in their labels, and how much in the images themselves.

    ./run.sh python -m experiments.quality.label_limit --run_dir=runs/sweep/eps10/seed_0 \\
        --name=eps10 [--data_dir=…] [--num=60000]

The same samples are labelled by the private linear classifier alone, by all private labellers of
the run, and by two CNNs trained on real images. A CNN is trained on the samples with each, and
tested on real images, as for TSTR. What the best labels gain is lost to labels; what samples with
them lack to the CNN that gave them is lost to images. One of the two has the architecture of the
CNNs that are then trained, the other has not: a network learns the borders of its own kind more
easily, so that the first alone would overstate what labels cost. The real images are read without
noise: for public data only. It writes experiments/results/quality/limits/NAME.json; make_quality.py
shows it. About 20 minutes on 2 cores.
"""

from __future__ import annotations

import sys
from typing import Any

import flax.linen as nn
import numpy as np
from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import judges, tasks
from dpgan_jax.models import fitting, labelling
from dpgan_jax.run import secrets, trainer
from experiments import pages

FLAGS = flags.FLAGS
REAL, OTHER = 'real', 'real, other network'
RESULTS = pages.RESULTS / 'quality' / 'limits'


def measure(
  images: np.ndarray,
  labels: dict[str, np.ndarray],
  real: datasets.ImageDataset,
  test: datasets.ImageDataset,
  epochs: int,
) -> dict[str, Any]:
  """What classifiers get right whose training images have each of `labels`, or real-taught ones.

  Args:
    images: samples uint8 [n, h, w, c].
    labels: classes [n] of them by who gave them.
    real: the images that the CNN which labels them last is trained on.
    test: the real images that everything is tested on.
    epochs: of every classifier.
  """
  unseen = (test.images, test.labels)

  def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)

  held = len(real) // 10

  def teacher(network: nn.Module) -> fitting.Fitted:
    tell('CNN on real images')
    return fitting.fit(
      network, real.images[held:], real.labels[held:], epochs=epochs, seed=0,
      hold_out=(real.images[:held], real.labels[:held]), **judges.PACE['cnn'],
    )  # fmt: skip

  same = teacher(judges.CLASSIFIERS['cnn'](real.num_classes))
  other = teacher(labelling.Taught(real.num_classes))
  truth = same.predict(images)
  found: dict[str, Any] = {
    'on_real': {
      who: float((by.predict(test.images) == test.labels).mean())
      for who, by in ((REAL, same), (OTHER, other))
    },
    'agreement': {},
    'tstr': {},
  }
  for who, given in {**labels, OTHER: other.predict(images), REAL: truth}.items():
    tell(f'CNN on samples labelled by: {who}')
    classified = judges.train_and_test(
      'cnn', (images, given), unseen, num_classes=real.num_classes, epochs=epochs
    )
    found['tstr'][who] = classified.accuracy
    found['agreement'][who] = float((given == truth).mean())
  return found


def main() -> None:
  _validate.integer('num', FLAGS.num, minimum=100)
  model = trainer.restore_model(FLAGS.run_dir).model
  pages.check_public(model.spec.name, f'run {FLAGS.run_dir}')
  if not model.labellers:
    raise _validate.InputError('expected a run whose samples are labelled (label_share)')
  real = datasets.load_dataset(model.spec.name, data_dir=FLAGS.data_dir)
  test = datasets.load_dataset(model.spec.name, data_dir=FLAGS.data_dir, split='test')
  images, own = model.sample(FLAGS.num, key=secrets.root_key(0))
  assert own is not None
  labels = {'linear': labelling.label(model.labellers[:1], images)}
  if len(model.labellers) > 1:
    labels['linear and CNN'] = own
  epochs = tasks.Settings().epochs('cnn', FLAGS.num)
  path = RESULTS / f'{FLAGS.name}.json'
  pages.write_json(path, {
    'epsilon': pages.epsilon(model.epsilon()),
    'samples': FLAGS.num,
    'epochs': epochs,
    **measure(images, labels, real, test, epochs),
  })  # fmt: skip
  print(f'written: {path.name}')


if __name__ == '__main__':
  flags.DEFINE_string('run_dir', None, 'Directory of a run.', required=True)
  flags.DEFINE_string('name', None, 'Name of the record.', required=True)
  flags.DEFINE_string('data_dir', None, 'Folder of the real data; default: download by name.')
  flags.DEFINE_integer('num', 60_000, 'Samples.')
  _cli.run(main)
