"""What synthetic series are worth: PhysioNet 2012, ε against utility, beside real stays.

    ./run.sh python -m experiments.series.measure --data=FOLDER_OF_HOURLY
    ./run.sh python -m experiments.series.make_page

Each release is trained on the 8,000 stays of sets a and b with nothing chosen but ε, and scored on
the 4,000 of set c. So is the baseline, a recurrent GAN (`rcgan`), once at each ε. Twenty minutes on
2 cores; with --noreferences, which keeps what the record says of real and of worthless stays and of
the baseline, a fifth of that.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags

from dpgan_jax import _cli
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.series import courses, pictures, summaries
from dpgan_jax.evaluation.tables import references, tstr
from experiments import pages
from experiments.series import physionet, rcgan, recurrent
from experiments.tables.measure import made

FLAGS = flags.FLAGS
EPSILONS = (1.0, 10.0)


def scored(synthetic: TableDataset, test: TableDataset) -> dict[str, Any]:
  """What `evaluation.series` scores, and AUROC by classifier, the best of them first."""
  effort = tstr.Effort()
  target = tstr.target(
    summaries.table(synthetic), summaries.table(test), effort, ('logistic', 'boosting')
  )
  areas = {n: each['auroc'] for n, each in target['classifiers'].items()}
  areas['recurrent'] = recurrent.auroc(synthetic, test)
  means, rates = courses.hourly(test, synthetic)
  return {
    'auroc': max(areas.values()), **areas,
    'hourly_means': means, 'hourly_rates': rates,
    'predictive': courses.predictive(synthetic, test),
    'discriminative': courses.discriminative(test, synthetic, effort),
  }  # fmt: skip


def main() -> None:
  train, test = physionet.load(FLAGS.data)
  kept = [] if FLAGS.references else pages.read_json(pathlib.Path(FLAGS.out))['rows']
  rows = pages.Rows(
    FLAGS.out, (row for row in kept if row['kind'] != 'moments'), data='physionet',
    train=len(train), test=len(test), delta=1e-5,
  )  # fmt: skip

  def add(kind: str, synthetic: TableDataset, **about: Any) -> None:
    rows.add(kind=kind, **about, **scored(synthetic, test))

  if FLAGS.references:
    add('real', train)
    for kind in ('permuted', 'independent'):
      add(kind, references.noise(kind, train, seed=0))
    for epsilon in EPSILONS:
      synthetic, about = rcgan.made(train, epsilon, seed=0)
      add('rcgan', synthetic, epsilon=epsilon, seed=0, **about)
  for seed in range(FLAGS.seeds):
    for epsilon in EPSILONS:
      synthetic, about = made(train, epsilon, seed)
      add('moments', synthetic, epsilon=epsilon, seed=seed, **about)
      if seed == 0:
        pictures.courses(test, synthetic, pages.RESULTS / 'series' / f'eps{epsilon:g}.png')


if __name__ == '__main__':
  flags.DEFINE_string('data', None, 'Folder of hourly.npz.', required=True)
  flags.DEFINE_integer('seeds', 3, 'Releases at each ε.', lower_bound=1)
  flags.DEFINE_boolean('references', True, 'Score real and worthless stays, and the baseline, too.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'series.json'), 'The record.')
  _cli.run(main)
