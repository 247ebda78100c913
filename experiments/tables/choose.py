r"""How the defaults of tables were chosen: on held-out training rows of Adult, no test row.

    ./run.sh python -m experiments.tables.choose --data=FOLDER_OF_ADULT
    ./run.sh python -m experiments.tables.choose --data=FOLDER_OF_ADULT --sizes=5000,2000 \
      --out=experiments/results/tables_small.json
    ./run.sh python -m experiments.tables.make_page

Of 25,000, 3,000 and 1,000 training rows releases are made with other cells, and with other shares
for one-way counts, and are scored on the 7,561 training rows that none of them has seen: two-way
total variation, and the AUROC of logistic regression and boosting for income. Beside each stands
what real rows of the same number teach, which the levels of the verdict are made by, and how far
real rows are off whose columns are shuffled each by itself. Ten minutes on 2 cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from dpgan_jax import _cli
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.tables import cells, marginals, references, tstr
from experiments import pages
from experiments.tables import adult, measure

FLAGS = flags.FLAGS
LARGEST = 25_000
EPSILONS = {25_000: (0.2, 1.0, 10.0), 3_000: (1.0, 8.0), 1_000: (1.0, 8.0)}  # others: 1
CHOICES: dict[str, tuple[float, ...]] = {
  'moments_coefficients': (6, 10, 16, 20, 32), 'moments_means_share': (0.2, 0.4, 0.6),
}  # fmt: skip


def parts(
  train: TableDataset, sizes: Sequence[int]
) -> dict[int, tuple[TableDataset, TableDataset]]:
  """By size, at most `LARGEST`: rows to release, and those that are in none of them."""
  order = np.random.default_rng(0).permutation(len(train))
  place = np.argsort(order)
  unseen = train.part(place >= LARGEST, partial=True)
  return {size: (train.part(place < size, partial=True), unseen) for size in sizes}


def scored(rows: TableDataset, unseen: TableDataset) -> dict[str, Any]:
  """Two-way total variation and AUROC."""
  compared = marginals.compare(cells.table(unseen), cells.table(rows))
  taught = tstr.target(rows, unseen, tstr.Effort(), ('logistic', 'boosting'))
  return {'two_way': round(compared['two_way'], 4), 'auroc': round(taught['auroc'], 4)}


def main() -> None:
  rows = pages.Rows(FLAGS.out, delta=1e-5)
  train, _ = adult.load(FLAGS.data)
  for size, (own, unseen) in parts(train, [int(size) for size in FLAGS.sizes]).items():
    rows.add(num_records=size, setting='real rows', **scored(own, unseen))
    alone = references.noise('independent', own, seed=0)
    rows.add(num_records=size, setting='columns shuffled', **scored(alone, unseen))
    for epsilon in EPSILONS.get(size, (1.0,)):
      tried: list[dict[str, Any]] = [{}]
      tried += [{name: value} for name, values in CHOICES.items() for value in values]
      for changes in tried:
        synthetic, about = measure.made(own, epsilon, 0, **changes)
        (name, value), *_ = (*changes.items(), ('default', None))
        rows.add(
          num_records=size, epsilon=epsilon, setting=name, value=value, expected=about['expected'],
          **scored(synthetic, unseen),
        )  # fmt: skip


if __name__ == '__main__':
  flags.DEFINE_string('data', None, 'Folder of adult.csv.', required=True)
  flags.DEFINE_list('sizes', list(map(str, EPSILONS)), 'Numbers of training rows.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'tables_choice.json'), 'The record.')
  _cli.run(main)
