"""What the benchmarks of training share: cases in processes of their own, and records of them."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from dpgan_jax import _validate, cli
from dpgan_jax.config import TrainConfig
from experiments import pages

FLAGS = flags.FLAGS


def run(main: Callable[[], None]) -> None:
  """Runs a command whose flags are the settings of a GAN's training, and these."""
  cli.define_flags(TrainConfig)
  flags.DEFINE_string('run_dir', None, 'Ignored: it stands in the flag files of training.')
  flags.DEFINE_string('out', None, 'A JSON file for the figures.')
  flags.DEFINE_string('case', None, 'Measure this one case in this process, and print JSON.')
  cli.run(main, interrupted='Nothing was written.')


def in_its_own_process(name: str, *arguments: str, **variables: str) -> dict[str, Any]:
  """Runs this command again for one case, with more arguments and environment variables.

  Raises:
    InputError: the process ended with an error.
  """
  result = subprocess.run(
    [sys.executable, *sys.orig_argv[1:], *arguments, f'--case={name}'],
    env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=False,
  )  # fmt: skip
  if result.returncode:
    raise _validate.InputError(f'{name}: the process that was measured ended with an error')
  return json.loads(result.stdout.splitlines()[-1])


def say(text: str) -> None:
  """What is under way, beside the table."""
  print(text, file=sys.stderr, flush=True)


def write(**record: Any) -> None:
  """Writes the figures, and what they were measured on, if --out is given."""
  if FLAGS.out:
    pages.write_json(pathlib.Path(FLAGS.out), {
      'command': f'./run.sh python -m {sys.orig_argv[2]} --out=FILE',
      'jax': jax.__version__,
      'machine': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores',
      'device': jax.devices()[0].device_kind,
      **record,
    })  # fmt: skip
