"""What synthetic series are worth: PhysioNet 2012, ε against utility, beside real stays.

    ./run.sh python -m experiments.series.measure --data=FOLDER_OF_HOURLY
    ./run.sh python -m experiments.series.make_page

Each release is trained on the 8,000 stays of sets a and b with nothing chosen but ε, and scored on
the 4,000 of set c. Ten minutes on 2 cores; with --noreferences, which keeps what the record says of
real and of worthless stays, two thirds of that.
"""

from __future__ import annotations

import os
import pathlib
import resource
import time
from typing import Any

from absl import flags

from dpgan_jax import _cli, _keys
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.series import courses, pictures, summaries
from dpgan_jax.evaluation.tables import references, tstr
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from experiments import pages
from experiments.series import physionet
from experiments.tables.measure import table

FLAGS = flags.FLAGS
EPSILONS = (1.0, 10.0)


def made(train: TableDataset, epsilon: float, seed: int) -> tuple[TableDataset, dict[str, Any]]:
  """As many sequences as were trained on, of one release; and what it took."""
  begun = time.process_time()
  moments = settings.make(TrainConfig(target_epsilon=epsilon), train.spec)
  codes, secret = moments.encoding.encode(train.records), os.urandom(32)
  means = release.release_means(codes, train.labels, moments, secret)
  seconds = release.release_seconds(codes, train.labels, means, moments, secret)
  model = MomentsSynthesizer(moments, means, seconds)
  records, labels = model.sample(len(train), key=_keys.from_seed(seed))
  found = verdict.judge(means, seconds, moments)
  return table(train, records, labels, f'moments, ε = {epsilon:g}'), {
    'cpu_seconds': round(time.process_time() - begun, 1),
    'expected': verdict.expected(moments),
    'verdict': None if found is None else found.level,
  }


def scored(synthetic: TableDataset, test: TableDataset) -> dict[str, Any]:
  """What `evaluation.series` scores, and AUROC by classifier."""
  effort = tstr.Effort()
  target = tstr.target(
    summaries.table(synthetic), summaries.table(test), effort, ('logistic', 'boosting')
  )
  means, rates = courses.hourly(test, synthetic)
  return {
    'auroc': target['auroc'], **{n: each['auroc'] for n, each in target['classifiers'].items()},
    'hourly_means': means, 'hourly_rates': rates,
    'predictive': courses.predictive(synthetic, test),
    'discriminative': courses.discriminative(test, synthetic, effort),
  }  # fmt: skip


def main() -> None:
  train, test = physionet.load(FLAGS.data)
  kept = [] if FLAGS.references else pages.read_json(pathlib.Path(FLAGS.out))['rows']
  rows: list[dict[str, Any]] = [row for row in kept if row['kind'] != 'moments']

  def add(kind: str, synthetic: TableDataset, **about: Any) -> None:
    row = {'kind': kind, **about, **scored(synthetic, test)}
    print(row, flush=True)
    rows.append(row)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pages.write_json(
      pathlib.Path(FLAGS.out),
      {'data': 'physionet', 'train': len(train), 'test': len(test), 'delta': 1e-5,
       'peak_gib': round(memory, 2), 'rows': rows},
    )  # fmt: skip

  if FLAGS.references:
    add('real', train)
    for kind in ('permuted', 'independent'):
      add(kind, references.noise(kind, train, seed=0))
  for seed in range(FLAGS.seeds):
    for epsilon in EPSILONS:
      synthetic, about = made(train, epsilon, seed)
      add('moments', synthetic, epsilon=epsilon, seed=seed, **about)
      if seed == 0:
        pictures.courses(test, synthetic, pages.RESULTS / 'series' / f'eps{epsilon:g}.png')


if __name__ == '__main__':
  flags.DEFINE_string('data', None, 'Folder of hourly.npz.', required=True)
  flags.DEFINE_integer('seeds', 3, 'Releases at each ε.', lower_bound=1)
  flags.DEFINE_boolean('references', True, 'Score real and worthless stays too.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'series.json'), 'The record.')
  _cli.run(main)
