"""Makes the environments of the other libraries: `python -m experiments.benchmarks.install_peers`.

Each goes into its own directory under `experiments/benchmarks/.peers/` (`--into` for another one),
which keeps itself out of git. A library that cannot be installed here is no error: what pip said
last is left beside the environments, and the tables of `speed.py` say so. TensorFlow 2.15 was built
for Python 3.11.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_DIRECTORY = HERE / '.peers'
# What the requirements file cannot hold: options of pip; and what has to be found afterwards.
ENVIRONMENTS = {
  'torch': ([], 'import torch, opacus'),
  'tensorflow': (['--no-deps'], 'import tensorflow_privacy.privacy.keras_models.dp_keras_model'),
}


def interpreter(into: pathlib.Path, name: str) -> pathlib.Path:
  return into / name / 'bin' / 'python'


def failure_file(into: pathlib.Path, name: str) -> pathlib.Path:
  """Holds the reason, in one line, where an installation failed."""
  return into / f'{name}.failed'


def missing(into: pathlib.Path, name: str) -> str | None:
  """Why the environment `name` cannot be used, or None if it can."""
  failed = failure_file(into, name)
  if failed.exists():
    return f'not installed: {failed.read_text(encoding="utf-8").strip()}'
  if not interpreter(into, name).exists():
    return 'not installed: run experiments.benchmarks.install_peers'
  return None


def install(into: pathlib.Path, name: str, python: str) -> str | None:
  """Installs one environment afresh; returns None or the reason why there is none."""
  failed, own = failure_file(into, name), str(interpreter(into, name))
  options, imports = ENVIRONMENTS[name]
  pip = [own, '-m', 'pip', '--disable-pip-version-check', 'install', '-q', *options]
  for step in (
    [python, '-m', 'venv', '--clear', str(into / name)],
    [*pip, '-r', str(HERE / 'peers' / f'{name}.txt')],
    [own, '-c', imports],
  ):
    done = subprocess.run(step, capture_output=True, text=True, errors='replace', check=False)
    if done.returncode:
      lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
      errors = [line for line in lines if 'rror' in line]
      reason = (errors or lines or ['no reason given'])[-1]
      failed.write_text(reason + '\n', encoding='utf-8')
      return reason
  failed.unlink(missing_ok=True)
  return None


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--into', type=pathlib.Path, default=DEFAULT_DIRECTORY)
  parser.add_argument('--only', choices=sorted(ENVIRONMENTS), help='one environment, not all')
  parser.add_argument('--python', default=shutil.which('python3.11') or sys.executable)
  arguments = parser.parse_args()
  arguments.into.mkdir(parents=True, exist_ok=True)
  (arguments.into / '.gitignore').write_text('*\n', encoding='utf-8')
  for name in [arguments.only] if arguments.only else list(ENVIRONMENTS):
    print(f'{name}: installing (a few minutes)', file=sys.stderr, flush=True)
    reason = install(arguments.into, name, arguments.python)
    print(f'{name}: {"installed" if reason is None else f"not installed: {reason}"}')


if __name__ == '__main__':
  main()
