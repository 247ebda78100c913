"""Tries the package where others will install it: `./run.sh python -m
experiments.packaging.try_versions`.

For each Python that is found, both ends of the bounds in pyproject.toml and each set of extras: a
clean environment, the wheel, and a short use of what these extras are for. What cannot be tried is
recorded with the reason. Environments are made by uv, which chooses the lowest releases that the
bounds allow and a Python can have; where there is no uv, pip fetches it into a temporary folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from typing import Any

from dpgan_jax import _validate
from experiments import pages
from experiments.benchmarks import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHONS = ('3.11', '3.12', '3.13', '3.14')
ENDS = {'lowest': 'lowest-direct', 'newest': 'highest'}  # what uv calls them
SECONDS = 1_200  # that one step may take
RECORD = pages.RESULTS / 'versions.json'


@dataclasses.dataclass(frozen=True)
class Step:
  """One command of a user.

  Attributes:
    name: in the record.
    argv: its program is one of the environment's.
    refused: what the one line says that refuses it; None if it has to succeed.
  """

  name: str
  argv: tuple[str, ...]
  refused: str | None = None


def _command(line: str, name: str = '', refused: str | None = None) -> Step:
  argv = ('dpgan-jax', *line.split(), '--quiet')
  return Step(name or line.split()[0], argv, refused)


def _steps_of(recipe: str, run: str) -> list[Step]:
  return [
    _command(f'train --recipe={recipe} --run_dir={run}', f'train {recipe}'),
    _command(f'release --run_dir={run} --out={run}_out --num=200', f'release of {recipe}'),
    _command(f'release --verify={run}_out', f'release --verify of {recipe}'),
  ]


_GAN = (
  'train --recipe=digits_gan --generator=compact --discriminator=compact --d_steps_per_g_step=2 '
  '--steps=4 --num_samples=20 --run_dir=gan'
)
_CORE = [Step('a private step', ('python', str(pathlib.Path(__file__).with_name('smoke_core.py'))))]
# By the extras of an environment; '' is the privacy core alone.
USES: dict[str, list[Step]] = {
  '': [*_CORE, _command('train --recipe=quickstart', 'train names the extra', 'pip install')],
  'images': [
    *_steps_of('quickstart', 'digits'),
    _command('sample --run_dir=digits --num=50 --format=png --out=png', 'sample PNG files'),
    _command(_GAN, 'train a GAN, 4 steps'),
  ],
  'tables': [
    *_steps_of('tables_quickstart', 'people'),
    _command('sample --run_dir=people --num=500 --out=people.csv', 'sample CSV'),
    _command('schema people.csv --declare_public --out=people.json', 'schema of a CSV file'),
    *_steps_of('series_quickstart', 'vitals')[:1],
  ],
  'all': [
    *_CORE,
    *_steps_of('quickstart', 'digits')[:1],
    _command('evaluate --run_dir=digits --tasks=features,tstr_lr --quick', 'evaluate images'),
  ],
}


def find_python(version: str) -> str | None:
  """The path of a Python of this version, on the PATH or among pyenv's; None if there is none."""
  home = pathlib.Path(os.environ.get('PYENV_ROOT', pathlib.Path.home() / '.pyenv'))
  managed = sorted(home.glob(f'versions/{version}.*/bin/python'))
  for candidate in (f'python{version}', *map(str, managed)):
    code = 'import sys; print(sys.executable, "%d.%d" % sys.version_info[:2])'
    try:
      done = subprocess.run([candidate, '-c', code], capture_output=True, text=True, check=False)
    except OSError:
      continue
    if done.returncode == 0 and done.stdout.split()[-1] == version:
      return done.stdout.split()[0]
  return None


def _run(argv: Sequence[str], cwd: pathlib.Path, path: pathlib.Path | None = None) -> str | None:
  """Runs a command; None if it succeeds, else the line that says why not."""
  done = _finished(argv, cwd, path)
  return None if done.returncode == 0 else _reason(done)


def _finished(
  argv: Sequence[str], cwd: pathlib.Path, path: pathlib.Path | None
) -> subprocess.CompletedProcess[str]:
  dropped = ('PYTHONPATH', 'VIRTUAL_ENV', 'JAX_COMPILATION_CACHE_DIR', 'PYENV_VERSION')
  env = {key: value for key, value in os.environ.items() if key not in dropped}
  env |= {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_backend_optimization_level=0',  # compiling is most of so short a use
    'UV_PYTHON_DOWNLOADS': 'never',
    'XDG_CACHE_HOME': str(cwd / 'cache'),
  }
  if path is not None:
    env['PATH'] = f'{path}{os.pathsep}{env.get("PATH", "")}'
    argv = [str(path / argv[0]), *argv[1:]]
  try:
    return subprocess.run(
      argv, cwd=cwd, env=env, capture_output=True, text=True, errors='replace', timeout=SECONDS,
      check=False,
    )  # fmt: skip
  except (OSError, subprocess.TimeoutExpired) as error:
    return subprocess.CompletedProcess(argv, -1, '', f'error: {error}')


def _reason(done: subprocess.CompletedProcess[str]) -> str:
  lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
  errors = [line for line in lines if 'rror' in line or line.startswith(('×', '╰', 'cause'))]
  return machine.without_paths((errors or lines or [f'exit status {done.returncode}'])[-1])[:300]


def take(step: Step, cwd: pathlib.Path, path: pathlib.Path) -> dict[str, Any]:
  """Takes a step in an environment; `failed` of the result says why, or is None.

  Args:
    cwd: a folder that earlier steps have left things in.
    path: the environment's folder of programs.
  """
  done = _finished(step.argv, cwd, path)
  lines = done.stderr.strip().splitlines()
  if step.refused is None:
    failed = None if done.returncode == 0 else _reason(done)
  elif done.returncode in (1, 2) and len(lines) == 1 and step.refused in lines[0]:
    failed = None
  else:
    failed = f'expected one line that says {step.refused!r}, got: {_reason(done)}'
  return {'step': step.name, 'failed': failed}


def build(uv: str, into: pathlib.Path) -> pathlib.Path:
  """The wheel, built from the source distribution, which is built from the checkout.

  Raises:
    InputError: one of them cannot be built.
  """
  if failed := _run([uv, 'build', '--out-dir', str(into), str(ROOT)], into):
    raise _validate.InputError(f'cannot build the wheel: {failed}')
  return next(into.glob('dpgan_jax-*-py3-none-any.whl'))


def try_one(
  uv: str, wheel: pathlib.Path, python: str, end: str, extras: str, folder: pathlib.Path
) -> dict[str, Any]:
  """One environment: what was installed, and each step; or why there is none."""
  home = folder / 'environment'
  found = {'python': python, 'end': end, 'extras': extras, 'not_tried': None}
  interpreter = find_python(python)
  if interpreter is None:
    return {**found, 'not_tried': f'there is no Python {python} here'}
  named = f'dpgan_jax[{extras}] @ {wheel.as_uri()}' if extras else str(wheel)
  install = ('pip', 'install', '--only-binary=:all:', f'--resolution={ENDS[end]}')
  own = str(home / 'bin' / 'python')
  # uv takes the lowest releases of what it is asked for by name, and newer ones of the rest.
  for argv in ([uv, 'venv', '--python', interpreter, str(home)],
               [uv, *install, '--python', own, named, *bounds(extras)]):  # fmt: skip
    if failed := _run(argv, folder):
      return {**found, 'not_tried': f'not installed: {failed}'}
  listed = _finished([uv, 'pip', 'freeze', '--python', own], folder, None).stdout.splitlines()
  found['installed'] = sorted(line for line in listed if '==' in line)
  cwd = folder / 'elsewhere'
  cwd.mkdir()
  found['steps'] = [take(step, cwd, home / 'bin') for step in USES[extras]]
  return found


def bounds(extras: str) -> list[str]:
  """What pyproject.toml asks of dependencies, as `jax>=0.10`: of the core and of these extras."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']
  found, waiting = list(project['dependencies']), extras.split(',') if extras else []
  while waiting:
    for requirement in project['optional-dependencies'][waiting.pop()]:
      if others := re.fullmatch(r'dpgan_jax\[(.+)\]', requirement):
        waiting += others[1].split(',')
      elif requirement not in found:
        found.append(requirement)
  return found


def _uv(folder: pathlib.Path) -> str:
  if known := shutil.which('uv'):
    return known
  home = folder / 'uv'
  for argv in ([sys.executable, '-m', 'venv', str(home)],
               [str(home / 'bin' / 'pip'), 'install', '-q', 'uv']):  # fmt: skip
    if failed := _run(argv, folder):
      raise _validate.InputError(f'expected uv, which makes the environments; pip says: {failed}')
  return str(home / 'bin' / 'uv')


def _kept(path: pathlib.Path) -> dict[tuple[str, str, str], dict[str, Any]]:
  """What earlier calls have tried, which this one adds to."""
  record = pages.read_json(path) or {'tries': []}
  return {(found['python'], found['end'], found['extras']): found for found in record['tries']}


def main(argv: Sequence[str] | None = None) -> int:
  """Tries what is asked for, adds each to the record, and returns 1 if a step failed."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--pythons', nargs='+', default=PYTHONS, metavar='VERSION')
  parser.add_argument('--ends', nargs='+', choices=ENDS, default=tuple(ENDS))
  parser.add_argument('--extras', nargs='+', choices=USES, default=tuple(USES),
                      help="'' is the privacy core alone")  # fmt: skip
  parser.add_argument('--out', type=pathlib.Path, default=RECORD)
  asked = parser.parse_args(argv)
  tries, failed = _kept(asked.out), False
  with tempfile.TemporaryDirectory(prefix='dpgan_jax_versions_') as name:
    folder = pathlib.Path(name)
    uv = _uv(folder)
    wheel = build(uv, folder)
    for number, (python, end, extras) in enumerate(
      itertools.product(asked.pythons, asked.ends, asked.extras)
    ):
      place = folder / str(number)
      place.mkdir()
      found = try_one(uv, wheel, python, end, extras, place)
      shutil.rmtree(place)
      tries[python, end, extras] = found
      failures = [step for step in found.get('steps', ()) if step['failed']]
      said = found['not_tried'] or '; '.join(f'{s["step"]}: {s["failed"]}' for s in failures)
      print(f'Python {python}, {end}, [{extras or "core"}]: {said or "all steps"}', flush=True)
      record = {'system': machine.describe()['system'], 'tries': [tries[k] for k in sorted(tries)]}
      pages.write_json(asked.out, record)
      failed = failed or bool(failures)
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
