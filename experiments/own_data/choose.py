"""How the defaults of moments were chosen: on held-out training images, no test set among them.

    ./run.sh python -m experiments.own_data.choose --mnist_dir=... \
      --out=experiments/results/own_data_choice.json
    ./run.sh python -m experiments.own_data.make_page

Length of a code, the share of the release that goes to means, and the constants that are no
settings: of the digits of scikit-learn and 1,000 images of MNIST, three releases each; of 20,000
images of MNIST, one each. Logistic regression on samples judges. Five minutes on 2 cores.
"""

from __future__ import annotations

import statistics
from typing import Any
from unittest import mock

from absl import flags

from dpgan_jax import _cli, _keys
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.images import encoding as image_encoding
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from experiments import pages
from experiments.own_data import measure

FLAGS = flags.FLAGS
CHOICES: dict[str, tuple[float, ...]] = {
  'moments_coefficients': (36, 64, 100, 144, 196, 300),
  'moments_means_share': (0.2, 0.3, 0.45, 0.6, 0.7, 0.8),
}
CONSTANTS: dict[str, tuple[Any, tuple[float, ...]]] = {
  '_CENTRE_SHARE': (image_encoding, (0.05, 0.125, 0.25)),
  '_IN_SQUARES': (image_encoding, (0.15, 0.3, 0.5)),
  '_LEAST_REACH': (settings, (0.6, 0.8, 1.0, 1.6)),
  '_MOST_NOISE': (settings, (1.5, 3.0, 6.0, 12.0)),
  '_MOST_NOISE_OF_A_CLASS': (settings, (0.0, 6.0, 12.0, 24.0, 1e9)),
}


def released(part: measure.Part, epsilon: float, setting: str, value: float) -> MomentsSynthesizer:
  """One release with another value of a setting or of a constant."""
  if setting in CHOICES:
    return measure.released(part, epsilon, **{setting: value})
  with mock.patch.object(CONSTANTS[setting][0], setting, value):
    return measure.released(part, epsilon)


def judged(
  part: measure.Part, epsilon: float, setting: str, value: float, releases: int
) -> dict[str, Any]:
  """The mean over releases."""
  found = []
  for seed in range(releases):
    model = released(part, epsilon, setting, value)
    found.append(measure.taught(*model.draw(measure.DRAWS, _keys.from_seed(seed)), part))
  return {'accuracy': round(statistics.fmean(found), 4), 'releases': releases}


def main() -> None:
  rows = pages.Rows(FLAGS.out, delta=1e-5)
  for part in measure.parts(FLAGS.mnist_dir):
    size = part.name, len(part.images)
    if size not in (('digits', 1100), ('mnist', 1000), ('mnist', 20_000)):
      continue
    choices = CHOICES | {name: values for name, (_, values) in CONSTANTS.items()}
    epsilons = (1.0, 3.0, 8.0) if part.name == 'digits' else (1.0,)
    releases = 3 if len(part.images) < 2000 else 1
    for epsilon in epsilons:
      for setting, values in choices.items():
        for value in values:
          if setting == 'moments_coefficients' and value > part.images[0].size:
            continue
          rows.add(
            set=part.name, num_records=len(part.images), epsilon=epsilon, setting=setting,
            value=value, **judged(part, epsilon, setting, value, releases),
          )  # fmt: skip


if __name__ == '__main__':
  flags.DEFINE_string('mnist_dir', None, 'Folder of MNIST; default: MNIST is left out.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'own_data_choice.json'), 'The record.')
  _cli.run(main)
