"""What is free after training: samples of several generators of a run, and distorted ones.

    ./run.sh python experiments/quality/afterwards.py --run_dir=runs/sweep/eps10/seed_1 \\
        --name=eps10 [--data_dir=…] [--scores_dir=runs/sweep/evaluation_scores]

The samples of a run's last generator, and of it and earlier ones (`--g_mixture`; of a run without
that, of its snapshots), are scored as they are drawn and distorted (`sample --distort`), by the
same classifiers and judges. The real images are read without noise: for public data only. What to
do is chosen on held-out training images, as everything is (see split.py): then with
--dataset=idx --data_dir=runs/mnist_split, and fewer samples. It writes
experiments/results/quality/afterwards/NAME.json; make_quality.py shows it. Twenty minutes on one
core.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys

from absl import flags

from dpgan_jax import (
  _validate,
  cli,
  data,
  distort,
  evaluate,
  evaluation,
  model_file,
  recorder,
  resume,
  scores,
  snapshots,
  trainer,
)
from dpgan_jax.run_dir import RunDir
from dpgan_jax.statement import rounded_up

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keep_sweep

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results' / 'quality' / 'afterwards'
LAST = 'last generator'
COUNT = 4  # chosen on held-out training images of MNIST
TASKS = ('features', 'secondary', 'tstr_cnn')
SHOWN = ('tstr_cnn', 'secondary_accuracy', 'fid', 'coverage')


def mixture(model: model_file.Model, run: RunDir) -> model_file.Model:
  """Draws from the generators of several steps: those that it has, or of `COUNT` snapshots.

  Raises:
    InputError: the run kept too few.
  """
  if model.past:
    return model
  steps = [model_file.load(path).steps for path in snapshots.paths(run)]
  config = model.gan.config.replace(g_mixture=COUNT)
  wanted = recorder.mixture_steps(config, model.steps, steps[0])
  earlier = [s for s in wanted if s < model.steps and s in steps]
  if not earlier:
    raise _validate.InputError(f'expected snapshots of the second half of {run.path}, found none')
  past = {s: model_file.load(run.snapshot(s)).generator for s in earlier}
  gan = dataclasses.replace(model.gan, config=config)
  return dataclasses.replace(model, gan=gan, past=past)


def measure(
  models: dict[str, model_file.Model],
  num: int,
  real: tuple[data.ImageDataset, data.ImageDataset],
  settings: evaluation.Settings,
  store: scores.Store | None = None,
  shown: tuple[str, ...] = SHOWN,
) -> dict[str, dict[str, float | None]]:
  """Scores of samples of each of `models` by name, as drawn and distorted.

  Args:
    models: what samples are drawn from; they have classes.
    num: how many of each.
    real: training and test images.
    settings: how much is done, and what.
    store: where finished scores are kept and found.
    shown: which scores.
  """
  found: dict[str, dict[str, float | None]] = {}
  for name, model in models.items():
    key = resume.root_key(settings.seed)
    images, classes = model.sample(num, key=key)
    for how, which in (('', images), (', distorted', distort.distort(images, key))):
      show = evaluate.Progress()
      result = evaluation.evaluate(
        which, classes, *real, settings, store=store, progress=show.update
      )
      show.close()
      found[name + how] = {score: result[score].value for score in shown}
      print(name + how, found[name + how])
  return found


def main() -> None:
  if FLAGS.run_dir is None or FLAGS.name is None:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run and --name=NAME of a record')
  amount = evaluate.amount_from_flags()
  settings = dataclasses.replace(amount.settings, tasks=TASKS)
  trained = trainer.restore_model(FLAGS.run_dir)
  if not trained.model.is_conditional:
    raise _validate.InputError('expected a run whose samples have classes')
  mixed = mixture(trained.model, trained.run)
  real = evaluate.load_real(FLAGS.dataset or mixed.dataset, FLAGS.data_dir)
  store = scores.Store(pathlib.Path(FLAGS.scores_dir)) if FLAGS.scores_dir else None
  last = dataclasses.replace(mixed, past={})
  models = {LAST: last, f'{1 + len(mixed.past)} generators': mixed}
  found = measure(models, amount.num, real, settings, store)
  epsilon = mixed.epsilon()
  path = RESULTS / f'{FLAGS.name}.json'
  keep_sweep.write_json(path, {
    'epsilon': 'inf' if math.isinf(epsilon) else rounded_up(epsilon),
    'steps': mixed.steps,
    'samples': amount.num,
    'real_data': f'{real[0].name}, {len(real[0]):,} for training and {len(real[1]):,} for testing',
    'distorted_by_at_most': {k: getattr(distort, k) for k in ('TURN', 'SHIFT', 'SCALE', 'SHEAR')},
    'scores': found,
  })  # fmt: skip
  print(f'written: {path.name}')


if __name__ == '__main__':
  flags.DEFINE_string('run_dir', None, 'Directory of a run.')
  flags.DEFINE_string('name', None, 'Name of the record.')
  flags.DEFINE_string('dataset', None, 'The real data; default: what the run was trained on.')
  flags.DEFINE_string('data_dir', None, 'Folder of the real data; default: download by name.')
  flags.DEFINE_string('scores_dir', None, 'Where finished scores are kept.')
  evaluate.define_amount_flags()
  cli.run(main)
