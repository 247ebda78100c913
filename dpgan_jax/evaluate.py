"""Scores samples against the real images they stand for: `python -m dpgan_jax.evaluate
--run_dir=runs/eps2 --data_dir=…`, or `--samples=synthetic.npz --dataset=mnist --data_dir=…`.

Writes evaluation.json, evaluation.md and evaluation.png beside the run (or into `--out`). Running
the same command again after an interruption finds the scores that were finished. Nearly every score
reads real images without noise: the output says which. The images compared with are those that the
run held out, which it has recorded, or the test split of the data.

`--over_steps` scores the generators that a run kept along the way (`--reports_per_snapshot` of
dpgan_jax.train) instead of its last one, lightly: evaluation_steps.json and figures over steps.
"""

from __future__ import annotations

import pathlib

from absl import flags

from dpgan_jax import _cli, _progress, _shared_flags, _validate
from dpgan_jax.data import naming, readers
from dpgan_jax.data.datasets import ImageDataset
from dpgan_jax.evaluation import over_steps, scores, scoring, snapshots, tasks
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import generator_file, trainer
from dpgan_jax.run.directory import RunDir

FLAGS = flags.FLAGS
_RECORDED = ('image_size', 'channels', 'holdout')


def define_flags() -> None:
  flags.DEFINE_string('run_dir', None, 'Directory of a run; its latest checkpoint is sampled.')
  flags.DEFINE_string(
    'samples',
    None,
    'Instead of run_dir: an .npz file with images x and, if there are any, classes y.',
  )
  flags.DEFINE_string('dataset', None, "Name of the real data; default: the run's.")
  _shared_flags.define_data_flags()
  for name in _RECORDED:
    define = {'image_size': flags.DEFINE_string, 'channels': flags.DEFINE_integer}
    define.get(name, flags.DEFINE_float)(
      name, None, 'With samples: as for dpgan_jax.train. A run has recorded it.'
    )
  flags.DEFINE_string('out', None, 'Folder of the results; default: beside the run or the samples.')
  flags.DEFINE_string(
    'scores_dir', None,
    f'Where finished scores are kept; default: {scoring.KEPT}/ in out. Runs that share it share '
    'ceilings.',
  )  # fmt: skip
  flags.DEFINE_bool(
    'over_steps', False, 'Score the snapshots of a run, lightly, instead of its last generator.'
  )
  flags.DEFINE_bool(
    'as_trained', False, 'With over_steps: score the generators themselves, not their averages.'
  )
  flags.DEFINE_integer(
    'snapshots', 10, 'With over_steps: how many at most, evenly spaced, the last one among them.'
  )
  _shared_flags.define_amount_flags()


def main() -> None:
  if (FLAGS.run_dir is None) == (FLAGS.samples is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them')
  if FLAGS.over_steps:
    _over_steps()
    return
  if FLAGS.as_trained:
    raise _validate.InputError(
      'expected as_trained only with over_steps: other scores are of the generator that is sampled'
    )
  if FLAGS.num is not None and FLAGS.run_dir is None:
    raise _validate.InputError('expected num only with run_dir: all samples of a file are used')
  amount = _shared_flags.amount_from_flags()
  if FLAGS.samples is not None:
    if FLAGS.dataset is None:
      raise _validate.InputError('expected --dataset=NAME of the real data beside --samples')
    source = pathlib.Path(FLAGS.samples).name
    samples = scoring.Samples(*scoring.read_samples(FLAGS.samples), source=source)
    out = pathlib.Path(FLAGS.out or pathlib.Path(FLAGS.samples).parent)
    train, test = scoring.load_real(_shared_flags.source(FLAGS).settled())
    if samples.labels is not None and (names := readers.npz_class_names(FLAGS.samples)):
      naming.require_same(train.name, train.class_names, names, 'the samples')
  else:
    trained = trainer.restore_model(FLAGS.run_dir)
    out = pathlib.Path(FLAGS.out or trained.run.path)
    train, test = _real_data_of(trained.model)
    samples = scoring.draw(trained.model, amount)
  result = scoring.score(samples, train, test, amount, out, scores_dir=FLAGS.scores_dir)
  for name in ('tstr_cnn', 'fid', 'secondary_accuracy'):
    if name in result:
      found = result[name]
      real = '' if found.reference is None else f' (real images: {found.reference:.4g})'
      print(f'{name}: {found.value:.4g}{real}')
  for name, reason in result.skipped.items():
    print(f'{name} left out: {reason}')
  print(f'Scores that read private data are marked: {out / "evaluation.md"}')


def _real_data_of(model: Synthesizer) -> tuple[ImageDataset, ImageDataset]:
  """The images a run was trained on and those it never saw, prepared as it has recorded."""
  for name in _RECORDED:
    if FLAGS[name].value is not None:
      raise _validate.InputError(f'expected no {name} with run_dir: the run has recorded its own')
  spec = model.spec
  source = _shared_flags.source(model.gan.config, FLAGS.dataset or spec.name)
  train, test = scoring.load_real(source)
  naming.require_same(train.name, train.class_names, spec.class_names, 'the run')
  return train, test


def _over_steps() -> None:
  if FLAGS.run_dir is None:
    raise _validate.InputError('expected over_steps with --run_dir, whose snapshots are scored')
  for name in ('quick', 'inception', 'cnn_epochs', 'tasks'):
    if FLAGS[name].value:
      raise _validate.InputError(f'expected over_steps without {name}: it is light as it is')
  _validate.integer('snapshots', FLAGS.snapshots, minimum=1)
  seed = _validate.integer('eval_seed', FLAGS.eval_seed, minimum=0, maximum=2**32 - 1)
  num = 12_000 if FLAGS.num is None else FLAGS.num
  _validate.integer('num', num, minimum=tasks.MIN_SAMPLES)
  run = RunDir.open(FLAGS.run_dir, create=False)
  files = snapshots.paths(run, FLAGS.snapshots, as_trained=FLAGS.as_trained)
  train, test = _real_data_of(generator_file.load(files[-1]))
  out = pathlib.Path(FLAGS.out or run.path)
  show = _progress.WorkProgress()
  steps = over_steps.score(
    files, train, test, tasks.Settings.light(seed=seed), num=num,
    store=scores.Store(pathlib.Path(FLAGS.scores_dir or out / scoring.KEPT)), progress=show.update,
  )  # fmt: skip
  show.close()
  record, picture = over_steps.JSON, 'samples_steps.png'
  if FLAGS.as_trained:
    record, picture = over_steps.JSON_AS_TRAINED, 'samples_steps_as_trained.png'
  over_steps.write(steps, out, record)
  snapshots.picture_over_steps(
    run, out / picture, title='samples over training', as_trained=FLAGS.as_trained
  )
  print(steps.to_table())
  print(f'Every score reads private data: {out / record}')


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again: finished scores are kept.')
