"""What released moments are worth beside a GAN: to label its samples free of cost, and mixed in.

    ./run.sh python -m dpgan_jax.train --flagfile=experiments/eps1.flags --dataset=idx \\
        --data_dir=runs/mnist_split --run_dir=runs/screen/gan --seed=0 --steps=4000 \\
        --target_epsilon=none --noise_multiplier=1.548 --label_share=none --label_cnn_share=none
    ./run.sh python -m experiments.quality.beside_moments --run_dir=runs/screen/gan \\
        --data_dir=runs/mnist_split --name=eps1

(`split.py` makes the split, of public images.) The GAN's budget is what a release of moments for
0.4 of ε and a linear classifier for 0.3 leave of ε = 1. Three labellers of its samples: that
classifier; a CNN taught by draws of the moments, which costs nothing more; both. A small CNN is
trained on the samples, on draws of the moments, on half and half, and is tested on held-out images.
It writes experiments/results/quality/beside_moments/NAME.json, which make_quality.py shows. Eight
minutes of one core.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from absl import flags

from dpgan_jax import _cli, _keys, _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data import datasets
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.models import fitting, labelling
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.privacy import exact_noise
from dpgan_jax.run import trainer
from dpgan_jax.run.stages import ClassifierStage
from experiments import pages
from experiments.own_data import measure as measured

FLAGS = flags.FLAGS
RESULTS = pages.RESULTS / 'quality' / 'beside_moments'
MOMENTS_SHARE, LABEL_SHARE = 0.4, 0.3  # of ε
_EPOCHS = 6
FREE, LINEAR, BOTH, REAL = 'CNN of moments', 'linear', 'linear and CNN of moments', 'real'


def linear(data: ImageDataset, epsilon: float) -> Labeller:
  """The private linear classifier that a run with `label_share` trains first."""
  asked = TrainConfig(
    dataset=data.name, method='gan', target_epsilon=epsilon, steps=1, label_share=LABEL_SHARE,
    generator='report', discriminator='scattering',
  )  # fmt: skip
  (classifier,) = labelling.before_gan(asked, data.spec)
  stage = ClassifierStage(classifier, data)
  records = stage.placed(stage.data())
  state = stage.release(stage.init(_keys.from_seed(1)), records, exact_noise.new_secret())
  state, _ = stage.chunk(classifier.mechanism.steps)(state, *records)
  return Labeller.of_state(classifier, state)


def taught(images: np.ndarray, labels: np.ndarray, classes: int) -> fitting.Fitted:
  """A small CNN that has learnt from them."""
  return fitting.fit(
    labelling.Taught(classes), images, labels, epochs=_EPOCHS, seed=0, learning_rate=1.5e-3
  )


def measure(
  images: np.ndarray, said: dict[str, np.ndarray], drawn: tuple[np.ndarray, np.ndarray],
  whole: tuple[np.ndarray, np.ndarray], test: ImageDataset,
) -> dict[str, Any]:  # fmt: skip
  """TSTR of samples under each labelling, alone and half of them draws of the moments.

  Args:
    images: samples of the GAN, uint8 [n, H, W, C].
    said: log-probabilities float [n, K] of their classes by who says so; those of `REAL` are what
      the others are compared with.
    drawn: draws [n] of the moments beside the GAN, and their classes.
    whole: of moments that get all of ε.
    test: the images that everything is tested on.
  """
  half, truth = len(images) // 2, said[REAL].argmax(axis=1)

  def score(images: np.ndarray, labels: np.ndarray) -> float:
    found = taught(images, labels, test.num_classes).predict(test.images)
    accuracy = float((found == test.labels).mean())
    print(f'{len(images)} images: {accuracy:.4f}', flush=True)
    return accuracy

  result: dict[str, Any] = {
    'moments': score(*drawn), 'moments of all of epsilon': score(*whole),
    'agreement': {}, 'tstr': {}, 'half moments': {},
  }  # fmt: skip
  for who, log_probabilities in said.items():
    labels = log_probabilities.argmax(axis=1)
    result['agreement'][who] = float((labels == truth).mean())
    result['tstr'][who] = score(images, labels)
    own = images[:half], labels[:half]
    mixed = (np.concatenate([a, b[:half]]) for a, b in zip(own, drawn, strict=True))
    result['half moments'][who] = score(*mixed)
  return result


def main() -> None:
  _validate.integer('num', FLAGS.num, minimum=100)
  data, test = (
    datasets.load_dataset('idx', data_dir=FLAGS.data_dir, split=each) for each in ('train', 'test')
  )
  part = measured.Part(
    'mnist', data.images, data.labels, test.images, test.labels, data.class_names
  )
  beside = measured.released(part, MOMENTS_SHARE * FLAGS.epsilon)
  drawn, whole = (
    each.draw(FLAGS.num, _keys.from_seed(2))
    for each in (beside, measured.released(part, FLAGS.epsilon))
  )
  own = linear(data, FLAGS.epsilon)
  free = taught(*drawn, data.num_classes)
  real = taught(data.images, data.labels, data.num_classes)
  model = trainer.restore_model(FLAGS.run_dir).model
  budget = Budget(
    model.budget.mechanism, {**beside.budget.stages, **labelling.stages(own.classifier)}
  )
  if model.is_conditional or budget.epsilon() > FLAGS.epsilon:
    raise _validate.InputError(
      f'expected a GAN without classes that leaves enough of epsilon = {FLAGS.epsilon:g}, got '
      f'{budget.epsilon():g} in all'
    )
  images, _ = model.sample(FLAGS.num, key=_keys.from_seed(0))
  said = {LINEAR: own.log_probabilities(images)} | {
    who: np.asarray(jax.nn.log_softmax(fitting.forward(by.module, by.params, images)))
    for who, by in ((FREE, free), (REAL, real))
  }
  said[BOTH] = said[LINEAR] + said[FREE]
  path = RESULTS / f'{FLAGS.name}.json'
  pages.write_json(path, {
    'epsilon': pages.epsilon(budget.epsilon(model.steps)),
    'steps': model.steps,
    'steps_planned': budget.mechanism.steps,
    'samples': FLAGS.num,
    'real_data': f'{len(data):,} for training and {len(test):,} for testing',
    'on_test': {
      FREE: float((free.predict(test.images) == test.labels).mean()),
      LINEAR: float((own.log_probabilities(test.images).argmax(axis=1) == test.labels).mean()),
      REAL: float((real.predict(test.images) == test.labels).mean()),
    },
    **measure(images, said, drawn, whole, test),
  })  # fmt: skip
  print(f'written: {path.name}')


if __name__ == '__main__':
  flags.DEFINE_string('run_dir', None, 'Directory of a run of a GAN, no labels.', required=True)
  flags.DEFINE_string('data_dir', None, 'Folder of the split.', required=True)
  flags.DEFINE_string('name', None, 'Name of the record.', required=True)
  flags.DEFINE_float('epsilon', 1.0, 'What all stages may cost together.')
  flags.DEFINE_integer('num', 20_000, 'Samples.')
  _cli.run(main)
