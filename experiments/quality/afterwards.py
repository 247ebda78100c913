"""What is free after training: samples of several generators, the clearest, distorted.

    ./run.sh python -m experiments.quality.afterwards --run_dir=runs/sweep/eps10/seed_1 \\
        --name=eps10_1 [--data_dir=…] [--scores_dir=runs/sweep/evaluation_scores] \\
        [--variants=clearest+distorted]

The samples of a run's last generator, of it and earlier ones (`--g_mixture`; of a run without that,
of its snapshots), and the clearest of these (`sample --clearest`) are scored as they are drawn and
distorted (`sample --distort`), by the same classifiers and judges. The real images are read without
noise: for public data only. What to do is chosen on held-out training images, as everything is (see
split.py): then with --dataset=idx --data_dir=runs/mnist_split, and fewer samples. It writes
experiments/results/quality/afterwards/NAME.json; make_quality.py shows it. Five minutes a variant
on one core.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags

from dpgan_jax import _cli, _progress, _shared_flags, _validate
from dpgan_jax.data import datasets, distort
from dpgan_jax.evaluation import scores, scoring, snapshots, tasks
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.run import generator_file, secrets, stages, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.search import sweep_table
from experiments import pages

FLAGS = flags.FLAGS
RESULTS = pages.RESULTS / 'quality' / 'afterwards'
COUNT, CLEAREST = 4, 0.6  # chosen on held-out training images of MNIST
TASKS = ('features', 'secondary', 'tstr_cnn')
SHOWN = ('tstr_cnn', 'secondary_accuracy', 'fid', 'coverage')


@dataclasses.dataclass(frozen=True)
class Variant:
  """What is done that costs nothing."""

  several: bool = True
  clearest: float = 1.0
  distorted: bool = False

  def name(self, generators: int) -> str:
    """In the words of the page; `generators` is how many several are."""
    return (
      (f'{generators} generators' if self.several else 'last generator')
      + (f', clearest {100 * self.clearest:g} %' if self.clearest < 1 else '')
      + (', distorted' if self.distorted else '')
    )


VARIANTS = {
  f'{name}{"+distorted" * distorted}': dataclasses.replace(variant, distorted=distorted)
  for name, variant in (
    ('last', Variant(several=False)),
    ('several', Variant()),
    ('clearest', Variant(clearest=CLEAREST)),
  )
  for distorted in (False, True)
}


def mixture(model: GANSynthesizer, run: RunDir) -> GANSynthesizer:
  """Draws from the generators of several steps: those that it has, or of `COUNT` snapshots.

  Raises:
    InputError: the run kept too few.
  """
  if model.past:
    return model
  steps = [generator_file.load(path).steps for path in snapshots.paths(run)]
  config = model.gan.config.replace(g_mixture=COUNT)
  wanted = stages.mixture_steps(config, model.steps, steps[0])
  earlier = [s for s in wanted if s < model.steps and s in steps]
  if not earlier:
    raise _validate.InputError(f'expected snapshots of the second half of {run.path}, found none')
  past = {s: generator_file.load(run.snapshot(s)).generator for s in earlier}
  gan = dataclasses.replace(model.gan, config=config)
  return dataclasses.replace(model, gan=gan, past=past)


def measure(
  mixed: GANSynthesizer,
  variants: Sequence[Variant],
  num: int,
  real: tuple[datasets.ImageDataset, datasets.ImageDataset],
  settings: tasks.Settings,
  store: scores.Store | None = None,
  shown: tuple[str, ...] = SHOWN,
) -> dict[str, dict[str, float | None]]:
  """Scores of samples by the name of how they are made.

  Args:
    mixed: what samples are drawn from; they have classes.
    variants: how they are made.
    num: how many of each.
    real: training and test images.
    settings: how much is done, and what.
    store: where finished scores are kept and found.
    shown: which scores.
  """
  found: dict[str, dict[str, float | None]] = {}
  for variant in variants:
    model = mixed if variant.several else dataclasses.replace(mixed, past={})
    key, distort_key = secrets.root_key(settings.seed), secrets.root_key(settings.seed)
    images, classes = model.sample(num, clearest=variant.clearest, key=key)
    if variant.distorted:
      images = distort.distort(images, distort_key)
    show = _progress.WorkProgress()
    result = tasks.evaluate(images, classes, *real, settings, store=store, progress=show.update)
    show.close()
    name = variant.name(1 + len(mixed.past))
    found[name] = {score: result[score].value for score in shown}
    print(name, found[name])
  return found


def main() -> None:
  for name in FLAGS.variants:
    _validate.one_of('variants', name, VARIANTS)
  amount = _cli.config_from_flags(_shared_flags.AmountOptions).amount()
  settings = dataclasses.replace(amount.settings, tasks=TASKS)
  run = RunDir.open(FLAGS.run_dir, create=False)
  kept = run.path / sweep_table.GENERATOR  # of a run of a sweep, which may be all that is left
  model = generator_file.load(kept) if kept.is_file() else trainer.restore_model(run.path).model
  if not model.is_conditional:
    raise _validate.InputError('expected a run whose samples have classes')
  mixed = mixture(model, run)
  real = scoring.load_real(
    _cli.config_from_flags(_shared_flags.DataOptions).source(
      mixed.config, FLAGS.dataset or mixed.spec.name
    )
  )
  store = scores.Store(pathlib.Path(FLAGS.scores_dir)) if FLAGS.scores_dir else None
  variants = [VARIANTS[name] for name in FLAGS.variants]
  found = measure(mixed, variants, amount.num, real, settings, store)
  path = RESULTS / f'{FLAGS.name}.json'
  pages.write_json(path, {
    'epsilon': pages.epsilon(mixed.epsilon()),
    'target_epsilon': mixed.gan.config.to_dict()['target_epsilon'],
    'discriminator': mixed.gan.config.discriminator,
    'steps': mixed.steps,
    'samples': amount.num,
    'real_data': f'{real[0].name}, {len(real[0]):,} for training and {len(real[1]):,} for testing',
    'distorted_by_at_most': {k: getattr(distort, k) for k in ('TURN', 'SHIFT', 'SCALE', 'SHEAR')},
    'scores': found,
  })  # fmt: skip
  print(f'written: {path.name}')


if __name__ == '__main__':
  flags.DEFINE_string('run_dir', None, 'Directory of a run.', required=True)
  flags.DEFINE_string('name', None, 'Name of the record.', required=True)
  flags.DEFINE_string('dataset', None, 'The real data; default: what the run was trained on.')
  flags.DEFINE_string('scores_dir', None, 'Where finished scores are kept.')
  flags.DEFINE_list('variants', list(VARIANTS), 'Which: names of VARIANTS.')
  _cli.define_flags(_shared_flags.DataOptions, _shared_flags.AmountOptions)
  _cli.run(main)
