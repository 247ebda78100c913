"""Makes the environments of the other libraries: `python -m experiments.benchmarks.install_peers`.

Each goes into its own directory under `experiments/benchmarks/.peers/` (`--into` for another one),
which keeps itself out of git. A library that cannot be installed here is no error: what pip said
last is left beside the environments, and the tables of `speed.py` say so.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_DIRECTORY = HERE / '.peers'
# The options of pip that the requirements file cannot hold.
ENVIRONMENTS = {'torch': [], 'tensorflow': ['--no-deps']}
IMPORTS = {
  'torch': 'import torch, opacus',
  'tensorflow': 'import tensorflow_privacy.privacy.keras_models.dp_keras_model',
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


def find_python(wanted: str) -> str:
  """The interpreter to make environments with: Python 3.11, for which TensorFlow 2.15 was built."""
  for candidate in filter(shutil.which, (wanted, 'python3.11')):
    if subprocess.run([candidate, '--version'], capture_output=True, check=False).returncode == 0:
      return candidate
  return sys.executable


def _last_line(text: str) -> str:
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  errors = [line for line in lines if 'ERROR' in line or 'Error' in line]
  return (errors or lines or ['no reason given'])[-1]


def install(into: pathlib.Path, name: str, python: str) -> str | None:
  """Installs one environment afresh; returns None or the reason why there is none."""
  target, failed = into / name, failure_file(into, name)
  shutil.rmtree(target, ignore_errors=True)
  requirements = str(HERE / 'peers' / f'{name}.txt')
  executable = str(interpreter(into, name))
  steps = [
    [python, '-m', 'venv', str(target)],
    [executable, '-m', 'pip', '--disable-pip-version-check', 'install', '-q',
     *ENVIRONMENTS[name], '-r', requirements],
    [executable, '-c', IMPORTS[name]],
  ]  # fmt: skip
  for step in steps:
    done = subprocess.run(step, capture_output=True, text=True, errors='replace', check=False)
    if done.returncode:
      reason = _last_line(done.stderr + done.stdout)
      failed.write_text(reason + '\n', encoding='utf-8')
      return reason
  failed.unlink(missing_ok=True)
  return None


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--into', type=pathlib.Path, default=DEFAULT_DIRECTORY)
  parser.add_argument('--only', choices=sorted(ENVIRONMENTS), help='one environment, not all')
  parser.add_argument('--python', default='', help='the interpreter; default: python3.11')
  arguments = parser.parse_args()
  arguments.into.mkdir(parents=True, exist_ok=True)
  (arguments.into / '.gitignore').write_text('*\n', encoding='utf-8')
  python = find_python(arguments.python)
  for name in [arguments.only] if arguments.only else list(ENVIRONMENTS):
    print(f'{name}: installing (a few minutes)', file=sys.stderr, flush=True)
    reason = install(arguments.into, name, python)
    print(f'{name}: {"installed" if reason is None else f"not installed: {reason}"}')


if __name__ == '__main__':
  main()
