"""Scores samples against the real records they stand for: `python -m dpgan_jax.evaluate
--run_dir=runs/eps2 --data_dir=…`, or `--samples=synthetic.npz --dataset=mnist --data_dir=…`.

Says first what the samples are worth, in one sentence by a public rule (`evaluation.verdict`), and
whether they are copies. Then come the scores, each beside what real images and what noise gets.
Writes evaluation.json, .md, .html and .png beside the run (or into `--out`). Running
the same command again after an interruption finds the scores that were finished. Nearly every score
reads real images without noise: the output says which. The images compared with are those that the
run held out, which it has recorded, or the test split of the data.

`--over_steps` scores the generators that a run kept along the way (`--reports_per_snapshot` of
dpgan_jax.train) instead of its last one, lightly: evaluation_steps.json and figures over steps.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from dpgan_jax import _cli, _progress, _settings, _shared_flags, _validate
from dpgan_jax.data import naming, readers
from dpgan_jax.data.images.dataset import SPLITS, ImageDataset
from dpgan_jax.data.sources import Source
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation import scores, scoring, snapshots, tasks
from dpgan_jax.evaluation.series.pages import evaluate_model
from dpgan_jax.evaluation.tables import pages
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import generator_file, trainer
from dpgan_jax.run.directory import RunDir

_RECORDED = ('image_size', 'channels', 'holdout')  # settings of a run
_of_file = 'With samples: as for dpgan_jax.train. A run has recorded it.'

_samples, _real, _over, _results = (
  functools.partial(_settings.field, group=group)
  for group in ('samples', 'data', 'over the steps of a run', 'results')
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(_shared_flags.DataOptions):
  """Flags of this command."""

  run_dir: str | None = _samples(
    None, 'Directory of a run; its latest checkpoint is sampled.', common=True
  )
  samples: str | None = _samples(
    None, 'Instead of run_dir: an .npz file with images x and, if there are any, classes y.',
    common=True,
  )
  dataset: str | None = _real(None, "Name of the real data; default: the run's.", common=True)
  image_size: str | None = _real(None, _of_file)
  channels: int | None = _real(None, _of_file, minimum=1, maximum=3)
  holdout: float | None = _real(None, _of_file, minimum=0, below=1)
  over_steps: bool = _over(
    False, 'Score the snapshots of a run, lightly, instead of its last generator.', common=True
  )
  as_trained: bool = _over(
    False, 'With over_steps: score the generators themselves, not their averages.'
  )
  snapshots: int = _over(
    10, 'With over_steps: how many at most, evenly spaced, the last one among them.', minimum=1
  )
  out: str | None = _results(
    None, 'Folder of the results; default: beside the run or the samples.', common=True
  )
  scores_dir: str | None = _results(
    None, f'Where finished scores are kept; default: {scoring.KEPT}/ in out. Runs that share it '
    'share ceilings.',
  )


def define_flags() -> None:
  _cli.define_flags(Options, _shared_flags.AmountOptions)


def main() -> None:
  options = _cli.config_from_flags(Options)
  wanted = _cli.config_from_flags(_shared_flags.AmountOptions)
  if (options.run_dir is None) == (options.samples is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them')
  if options.over_steps:
    _score_over_steps(options, wanted)
    return
  if options.as_trained:
    raise _validate.InputError(
      'expected as_trained only with over_steps: other scores are of the generator that is sampled'
    )
  if wanted.num is not None and options.run_dir is None:
    raise _validate.InputError('expected num only with run_dir: all samples of a file are used')
  amount = wanted.amount()
  if options.samples is not None:
    if options.dataset is None:
      raise _validate.InputError('expected --dataset=NAME of the real data beside --samples')
    source = pathlib.Path(options.samples).name
    samples = scoring.Samples(*scoring.read_samples(options.samples), source=source)
    out = pathlib.Path(options.out or pathlib.Path(options.samples).parent)
    train, test = scoring.load_real(options.source(options).settled())
    if samples.labels is not None and (names := readers.npz_class_names(options.samples)):
      naming.require_same(train.name, train.class_names, names, 'the samples')
  else:
    assert options.run_dir is not None
    trained = trainer.restore_model(options.run_dir)
    out = pathlib.Path(options.out or trained.run.path)
    if trained.model.spec.schema is not None:
      _score_table(trained.model, options, wanted, out)
      return
    train, test = _real_data_of(trained.model, options)
    samples = scoring.draw(trained.model, amount)
  result = scoring.score(samples, train, test, amount, out, scores_dir=options.scores_dir)
  for sentence in result.sentences:
    print(sentence)
  for name in ('tstr_cnn', 'fid', 'secondary_accuracy'):
    if name in result:
      print(f'{name}: {result[name].describe()}')
  for name, reason in result.skipped.items():
    print(f'{name} left out: {reason}')
  print(
    f'{out / "evaluation.md"} (and .html, .json, .png): {len(result.scores)} scores of '
    f'{len(samples.images)} samples; those that read private data are marked'
  )


def _score_table(
  model: Synthesizer, options: Options, wanted: _shared_flags.AmountOptions, out: pathlib.Path
) -> None:
  wanted.require_no_images(model.spec.kind)
  source = _source_of(model, options)
  train, test = (source.load(split) for split in SPLITS)
  assert isinstance(train, TableDataset)
  assert isinstance(test, TableDataset)
  record = evaluate_model(
    model, train, test, out, num=wanted.num, quick=wanted.quick, seed=wanted.eval_seed,
    scores_dir=options.scores_dir,
  )  # fmt: skip
  for line in pages.summary(record, out):
    print(line)


def _real_data_of(model: Synthesizer, options: Options) -> tuple[ImageDataset, ImageDataset]:
  """The images a run was trained on and those it never saw, prepared as it has recorded."""
  spec = model.spec
  train, test = scoring.load_real(_source_of(model, options))
  naming.require_same(train.name, train.class_names, spec.class_names, 'the run')
  return train, test


def _source_of(model: Synthesizer, options: Options) -> Source:
  for name in _RECORDED:
    if getattr(options, name) is not None:
      raise _validate.InputError(f'expected no {name} with run_dir: the run has recorded its own')
  source = options.source(model.config, options.dataset or model.spec.name)
  schema = model.spec.schema
  source = dataclasses.replace(source, found=schema)
  if schema is None or schema.unit_column is None:
    return source
  return dataclasses.replace(
    source, unit_column=options.unit_column or schema.unit_column,
    max_rows_per_unit=options.max_rows_per_unit or schema.max_rows_per_unit,
  )  # fmt: skip


def _score_over_steps(options: Options, wanted: _shared_flags.AmountOptions) -> None:
  if options.run_dir is None:
    raise _validate.InputError('expected over_steps with --run_dir, whose snapshots are scored')
  for name in ('quick', 'inception', 'cnn_epochs', 'tasks'):
    if getattr(wanted, name):
      raise _validate.InputError(f'expected over_steps without {name}: it is light as it is')
  run = RunDir.open(options.run_dir, create=False)
  files = snapshots.paths(run, options.snapshots, as_trained=options.as_trained)
  train, test = _real_data_of(generator_file.load(files[-1]), options)
  out = pathlib.Path(options.out or run.path)
  show = _progress.WorkProgress()
  steps = snapshots.score(
    files, train, test, tasks.Settings.light(seed=wanted.eval_seed), num=wanted.num or 12_000,
    store=scores.Store(pathlib.Path(options.scores_dir or out / scoring.KEPT)),
    progress=show.update,
  )  # fmt: skip
  show.close()
  record, picture = snapshots.STEPS_JSON, 'samples_steps.png'
  if options.as_trained:
    record, picture = snapshots.STEPS_JSON_AS_TRAINED, 'samples_steps_as_trained.png'
  snapshots.write(steps, out, record)
  snapshots.picture_over_steps(
    run, out / picture, title='samples over training', as_trained=options.as_trained
  )
  print(steps.to_table())
  print(f'{out / record} (and figures): {len(files)} snapshots; every score reads private data')


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again: finished scores are kept.')
