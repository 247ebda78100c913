"""The statement that goes out with a model: `python -m dpgan_jax.report --run_dir=runs/eps2`.

Writes report.json, report.md and report.html, a page for people who decide about a release.

It says what is guaranteed and for whom, how, what of a run directory may be published, and what no
number here covers. Everything in it follows from the run directory: settings and mechanism
(config.json), the steps paid for (the ledger), the steps taken (the checkpoints); these are only
read. It holds no path, no time, nothing computed from private data, no fingerprint of them and no
seed, so that the statement itself may be published. The same run gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import os

from dpgan_jax import _cli, _settings, _validate
from dpgan_jax.publishing import run_statement
from dpgan_jax.run.directory import RunDir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Flags of this command."""

  run_dir: str | None = _settings.field(
    None, 'Directory of a run, finished or not.', group='report', common=True
  )
  tuning_note: str | None = _settings.field(
    None, 'How the settings were chosen, for the report; kept when it is written again, "" takes '
    'it back.', group='report', common=True,
  )

  __post_init__ = _settings.check


def define_flags() -> None:
  _cli.define_flags(Options)


def main() -> None:
  options = _cli.config_from_flags(Options)
  if options.run_dir is None:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run')
  # Only the name of the device is wanted; its memory may belong to the run that is training.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  run = RunDir.open(options.run_dir, create=False)
  statement = run_statement.write(run, tuning_note=options.tuning_note)
  print(statement.summary())
  print(f'Report: {run.report_markdown}')


if __name__ == '__main__':
  define_flags()
  _cli.run(main)
