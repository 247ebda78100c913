"""How the defaults of moments were chosen: on held-out training images, no test set among them.

    ./run.sh python -m experiments.own_data.choose --mnist_dir=... \
      --out=experiments/results/own_data_choice.json
    ./run.sh python -m experiments.own_data.make_page

Length of a code, and the share of the release that goes to class means: of the digits of
scikit-learn, three releases each, judged by logistic regression; of MNIST, one each, by the CNN of
`dpgan_jax.evaluate`. A quarter of an hour on 2 cores.
"""

from __future__ import annotations

import statistics
from typing import Any

from absl import flags

from dpgan_jax import _cli, _keys
from dpgan_jax.evaluation import judges
from experiments import pages
from experiments.own_data import measure

FLAGS = flags.FLAGS
CHOICES: dict[str, tuple[float, ...]] = {
  'moments_coefficients': (36, 64, 100, 144, 196, 300),
  'moments_means_share': (0.05, 0.1, 0.2, 0.3),
}
_DRAWS, _EPOCHS = 20_000, 4  # for the CNN


def digits(part: measure.Part, epsilon: float, setting: str, value: float) -> dict[str, Any]:
  """The mean over three releases."""
  found = []
  for seed in range(3):
    model = measure.released(part, epsilon, **{setting: value})
    found.append(measure.taught(*model.draw(measure.DRAWS, _keys.from_seed(seed)), part))
  return {'accuracy': round(statistics.fmean(found), 4), 'releases': 3}


def mnist(part: measure.Part, epsilon: float, setting: str, value: float) -> dict[str, Any]:
  """One release."""
  drawn = measure.released(part, epsilon, **{setting: value}).draw(_DRAWS, _keys.from_seed(0))
  judge = judges.train_and_test(
    'cnn', drawn, (part.unseen, part.unseen_labels), num_classes=len(part.names), epochs=_EPOCHS
  )
  return {'accuracy': round(judge.accuracy, 4), 'releases': 1}


def main() -> None:
  rows = pages.Rows(FLAGS.out, delta=1e-5)
  for part in measure.parts(FLAGS.mnist_dir):
    if (part.name, len(part.images)) not in (('digits', 1100), ('mnist', 20_000)):
      continue
    judge, epsilons = (mnist, (1.0,)) if part.name == 'mnist' else (digits, (1.0, 3.0, 8.0))
    for epsilon in epsilons:
      for setting, values in CHOICES.items():
        for value in (v for v in values if v < 1 or v <= part.images[0].size):
          rows.add(
            set=part.name, num_records=len(part.images), epsilon=epsilon, setting=setting,
            value=value, **judge(part, epsilon, setting, value),
          )  # fmt: skip


if __name__ == '__main__':
  flags.DEFINE_string('mnist_dir', None, 'Folder of MNIST; default: MNIST is left out.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'own_data_choice.json'), 'The record.')
  _cli.run(main)
