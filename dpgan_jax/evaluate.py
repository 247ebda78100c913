"""Scores samples against the real images they stand for: `python -m dpgan_jax.evaluate
--run_dir=runs/eps2 --data_dir=…`, or `--samples=synthetic.npz --dataset=mnist --data_dir=…`.

Says first what the samples are worth, in one sentence by a public rule (`evaluation.verdict`), and
whether they are copies. Then come the scores, each beside what real images and what noise gets.
Writes evaluation.json, evaluation.md and evaluation.png beside the run (or into `--out`). Running
the same command again after an interruption finds the scores that were finished. Nearly every score
reads real images without noise: the output says which.

`--over_steps` scores the generators that a run kept along the way (`--reports_per_snapshot` of
dpgan_jax.train) instead of its last one, lightly: evaluation_steps.json and figures over steps.
"""

from __future__ import annotations

import pathlib

from absl import flags

from dpgan_jax import _cli, _progress, _shared_flags, _validate
from dpgan_jax.data import datasets, readers
from dpgan_jax.evaluation import references, scores, scoring, snapshots, tasks
from dpgan_jax.run import generator_file, trainer
from dpgan_jax.run.directory import RunDir

FLAGS = flags.FLAGS
def define_flags() -> None:
  flags.DEFINE_string('run_dir', None, 'Directory of a run; its latest checkpoint is sampled.')
  flags.DEFINE_string(
    'samples',
    None,
    'Instead of run_dir: an .npz file with images x and, if there are any, classes y.',
  )
  flags.DEFINE_string('dataset', None, "Name of the real data; default: the run's.")
  flags.DEFINE_string(
    'data_dir', None, 'Folder (or .npz file) of the real data; default: download by name.'
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
    train, test = scoring.load_real(FLAGS.dataset, FLAGS.data_dir)
    if samples.labels is not None and (names := readers.npz_class_names(FLAGS.samples)):
      datasets.require_same_classes(train, names, 'the samples')
  else:
    trained = trainer.restore_model(FLAGS.run_dir)
    out = pathlib.Path(FLAGS.out or trained.run.path)
    spec = trained.model.spec
    train, test = scoring.load_real(FLAGS.dataset or spec.name, FLAGS.data_dir)
    datasets.require_same_classes(train, spec.class_names, 'the run')
    samples = scoring.draw(trained.model, amount)
  result = scoring.score(samples, train, test, amount, out, scores_dir=FLAGS.scores_dir)
  for sentence in result.sentences:
    print(sentence)
  for name in ('tstr_cnn', 'fid', 'secondary_accuracy'):
    if name in result:
      print(f'{name}: {result[name].describe()}')
  for name, reason in result.skipped.items():
    print(f'{name} left out: {reason}')
  print(f'Scores that read private data are marked: {out / "evaluation.md"}')


def _over_steps() -> None:
  if FLAGS.run_dir is None:
    raise _validate.InputError('expected over_steps with --run_dir, whose snapshots are scored')
  for name in ('quick', 'inception', 'cnn_epochs', 'tasks'):
    if FLAGS[name].value:
      raise _validate.InputError(f'expected over_steps without {name}: it is light as it is')
  _validate.integer('snapshots', FLAGS.snapshots, minimum=1)
  seed = _validate.integer('eval_seed', FLAGS.eval_seed, minimum=0, maximum=2**32 - 1)
  num = 12_000 if FLAGS.num is None else FLAGS.num
  _validate.integer('num', num, minimum=references.MIN_SAMPLES)
  run = RunDir.open(FLAGS.run_dir, create=False)
  files = snapshots.paths(run, FLAGS.snapshots, as_trained=FLAGS.as_trained)
  spec = generator_file.load(files[-1]).spec
  train, test = scoring.load_real(FLAGS.dataset or spec.name, FLAGS.data_dir)
  datasets.require_same_classes(train, spec.class_names, 'the run')
  out = pathlib.Path(FLAGS.out or run.path)
  show = _progress.WorkProgress()
  steps = snapshots.score(
    files, train, test, tasks.Settings.light(seed=seed), num=num,
    store=scores.Store(pathlib.Path(FLAGS.scores_dir or out / scoring.KEPT)), progress=show.update,
  )  # fmt: skip
  show.close()
  record, picture = snapshots.STEPS_JSON, 'samples_steps.png'
  if FLAGS.as_trained:
    record, picture = snapshots.STEPS_JSON_AS_TRAINED, 'samples_steps_as_trained.png'
  snapshots.write(steps, out, record)
  snapshots.picture_over_steps(
    run, out / picture, title='samples over training', as_trained=FLAGS.as_trained
  )
  print(steps.to_table())
  print(f'Every score reads private data: {out / record}')


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again: finished scores are kept.')
