"""Trains and evaluates one model per ε, of images, tables or series: `python -m dpgan_jax.sweep
--flagfile=experiments/mnist.flags --epsilons=0.5,1,1.5,2,4,9,inf --sweep_dir=runs/sweep`.

Every run has a directory of its own, `SWEEP_DIR/eps<ε>/<key>`, is trained as dpgan_jax.train would,
and leaves its report, its generator and its evaluation there; `sweep.md`, `sweep.json` and figures
set them side by side. Running the same command again continues where it was interrupted, and takes
finished runs as they are; another one may add values of ε or seeds. Flag files of dpgan_jax.train
will do; their run_dir, target_epsilon and seed are not used, since each run gets its own.

ε is that of each run. All runs read the same records, so that publishing several of them spends
more: the table says how much.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

from absl import flags

from dpgan_jax import _cli, _settings, _shared_flags, _validate
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans import recipe
from dpgan_jax.search import sweep_figures, sweep_table, sweeping

_sweep = functools.partial(_settings.field, group='sweep', common=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(_shared_flags.DataOptions, _shared_flags.DeviceOptions):
  """Flags of this command beside the settings of its runs."""

  epsilons: str | None = _sweep(None, 'Privacy budgets of the runs: 0.5,1,2,inf.')
  steps_at: str | None = _sweep(
    None, 'Steps of the runs of some epsilons, EPSILON:STEPS between commas: 10:16000.',
    common=False,
  )
  seeds: int | None = _sweep(
    None, 'Runs per epsilon, with the fixed seeds 0, 1, ... (reproducible, not private against '
    'those who know them). Default: one run each, of a secret key.', minimum=1,
  )
  first_seed: int = _sweep(
    0, 'The first of the seeds, in the place of 0: a sweep made in parts.', minimum=0, common=False
  )
  sweep_dir: str | None = _sweep(None, 'Directory of the sweep: its runs, table and figures.')
  evaluate: bool = _sweep(True, 'Evaluate every run against real records.')
  run_dir: str | None = _sweep(
    None, "Of a flag file of dpgan_jax.train, and not used: runs go into the sweep's.",
    common=False,
  )


def define_flags() -> None:
  own = sweeping.OF_A_RUN
  _cli.define_flags(Options, TrainConfig, _shared_flags.AmountOptions, rare=own)


def main() -> None:
  options = _cli.config_from_flags(Options)
  devices = options.count_devices()
  names = [field.name for field in dataclasses.fields(TrainConfig)]
  settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
  epsilons = sweeping.parse_epsilons(options.epsilons)
  steps_at = sweeping.parse_steps_at(options.steps_at, epsilons)
  runs = sweeping.plan(settings, epsilons, options.seeds, steps_at, options.first_seed)
  if not options.sweep_dir:
    raise _validate.InputError('expected --sweep_dir=DIRECTORY, where runs and table go')
  wanted = _cli.config_from_flags(_shared_flags.AmountOptions)
  amount = wanted.amount()
  config, source = options.settled(runs[0].config)
  settings['holdout'] = config.holdout
  runs = sweeping.plan(settings, epsilons, options.seeds, steps_at, options.first_seed)
  dataset = source.load()
  if not isinstance(dataset, ImageDataset):
    wanted.require_no_images(dataset.spec.kind)
    amount = dataclasses.replace(amount, num=wanted.num or 0)
  test = source.load('test') if options.evaluate else None
  _shared_flags.show(dataset)
  of_a_run = {'run_dir': options.run_dir, **{name: settings[name] for name in sweeping.OF_A_RUN}}
  if unused := [f'--{name}={value}' for name, value in of_a_run.items() if value is not None]:
    print(f'not used, since each run of a sweep gets its own: {", ".join(unused)}')
  print(f'{len(runs)} runs')
  as_validated = sweeping.plan(settings, epsilons[:1], options.seeds)[0].config
  said = _cli.given(TrainConfig)
  runs = [
    dataclasses.replace(run, config=recipe.settled(run.config, dataset.spec, said)[0])
    for run in runs
  ]
  sweep = sweeping.open_sweep(options.sweep_dir, as_validated.to_dict(), dataset)
  with sweep.lock():
    failures = sweeping.make_runs(
      runs, sweep.path, dataset, test, amount, devices=devices, data_on=options.data_on
    )
    print('table and figures', file=sys.stderr, flush=True)
    table = sweep_table.read(sweep.path, failures)
    for line in sweep_figures.write(table, sweep.path):
      print(line)
  if failures:
    raise _validate.InputError(
      f'{len(failures)} of {len(runs)} runs failed: '
      + '; '.join(f'{name}: {reason}' for name, reason in failures.items())
    )


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Run the same command again to continue.')
