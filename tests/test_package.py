"""The package as it is installed: what a wheel holds, what an importer loads, the one command."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import dpgan_jax
from dpgan_jax import __main__, _extras, _flag_files, _progress, _validate

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = {
  'audit', 'classify', 'evaluate', 'release', 'report', 'sample', 'schema', 'sweep', 'train',
}  # fmt: skip


def run(*argv: str, cwd: pathlib.Path, path: pathlib.Path) -> subprocess.CompletedProcess[str]:
  """Python with the package of `path`, in another directory than the checkout."""
  env = {**os.environ, 'PYTHONPATH': str(path), 'JAX_NUM_CPU_DEVICES': '1'}
  command = [sys.executable, '-P', *argv]
  return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A wheel of the checkout, built without network and without touching the checkout."""
  copy, out = (tmp_path_factory.mktemp(name) for name in ('checkout', 'dist'))
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, copy)
  shutil.copytree(ROOT / 'dpgan_jax', copy / 'dpgan_jax')
  for path in (*ROOT.glob('experiments/**/*.flags'), *ROOT.glob('experiments/packaging/*.py')):
    target = copy / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
  code = f'from setuptools import build_meta; build_meta.build_wheel({str(out)!r})'
  done = subprocess.run([sys.executable, '-c', code], cwd=copy, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return next(out.glob('dpgan_jax-*-py3-none-any.whl'))


@pytest.fixture(scope='module')
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """What the wheel unpacks to."""
  folder = tmp_path_factory.mktemp('site')
  with zipfile.ZipFile(wheel) as file:
    file.extractall(folder)
  return folder


def test_a_wheel_holds_the_package_its_data_and_the_recipes(installed):
  files = {str(p.relative_to(installed)) for p in installed.rglob('*') if p.is_file()}
  package = {f'dpgan_jax/{p.relative_to(ROOT / "dpgan_jax")}'
             for p in (ROOT / 'dpgan_jax').rglob('*')
             if p.suffix in ('.py', '.safetensors', '.typed')}  # fmt: skip
  flags = {f'dpgan_jax/recipes/{p.relative_to(ROOT)}' for p in ROOT.glob('experiments/**/*.flags')}
  assert len(flags) > 10
  (about,) = {name.split('/')[0] for name in files} - {'dpgan_jax'}
  assert {f for f in files if not f.startswith(about)} == package | flags
  assert {f'{about}/licenses/LICENSE', f'{about}/METADATA'} <= files
  entries = (installed / about / 'entry_points.txt').read_text()
  assert 'dpgan-jax = dpgan_jax.__main__:main' in entries


def test_an_installed_package_finds_recipes_and_their_files_from_anywhere(installed, tmp_path):
  code = (
    'from dpgan_jax import _flag_files as f; names = f.recipes(); assert f.__file__.startswith('
    f'{str(installed)!r}); print(*names); print(*f.expand(["--recipe=mnist_eps1", "--seed=1"])); '
    'print(*f.expand(["--flagfile=experiments/tables/quickstart.flags"]))'
  )
  done = run('-c', code, cwd=tmp_path, path=installed)
  assert done.returncode == 0, done.stderr
  names, by_name, by_path = done.stdout.splitlines()
  assert set(names.split()) == set(_flag_files.recipes())
  assert by_name.split() == _flag_files.expand(
    ['--flagfile=experiments/eps1.flags', '--seed=1']
  )
  assert '--dataset=people' in by_path


def test_the_one_command_is_the_others(installed, tmp_path):
  """From a wheel, in a foreign directory: the plan of a recipe, without a step."""
  argv = ('-m', 'dpgan_jax', 'train', '--recipe=quickstart', '--dry_run', '--quiet')
  done = run(*argv, cwd=tmp_path, path=installed)
  assert done.returncode == 0, done.stderr
  assert 'moments' in done.stdout
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # the next test imports the core alone
def test_the_core_of_a_wheel_takes_a_private_step(installed, tmp_path):
  """What `try_versions` runs in every environment."""
  done = run(str(ROOT / 'experiments/packaging/smoke_core.py'), cwd=tmp_path, path=installed)
  assert done.returncode == 0, done.stderr
  assert re.fullmatch(r'one step of \d+ records; 20 cost epsilon = (1.9|2.0)\d+\n', done.stdout)


def test_quiet_shows_no_progress(capsys, monkeypatch):
  def work() -> str:
    progress = _progress.TrainingProgress(10, 0, 1.0, 'cpu')
    progress.note('compiled')
    progress.update(5, 0.5)
    progress.close()
    _progress.WorkProgress().update('features', 0.5)
    return capsys.readouterr().err

  loud = work()
  assert 'compiled\nstep 5/10' in loud
  assert 'features' in loud
  assert '\r' not in loud  # what is no terminal gets lines
  monkeypatch.setattr(_progress, '_shown', True)  # and is given back
  _progress.be_quiet()
  assert work() == ''


class TestTheOneCommand:
  def say(self, capsys, monkeypatch, *argv: str) -> tuple[str, str, int | str | None]:
    monkeypatch.setattr(sys, 'argv', ['dpgan-jax', *argv])
    status: int | str | None = 0
    try:
      __main__.main()
    except SystemExit as end:
      status = end.code
    return (*capsys.readouterr(), status)

  def test_the_page_names_every_command_and_recipe(self, capsys, monkeypatch):
    assert set(__main__.commands()) == COMMANDS
    for argv in ((), ('--help',), ('help',)):
      out, err, status = self.say(capsys, monkeypatch, *argv)
      assert (err, status) == ('', 0)
      for name in (*COMMANDS, *_flag_files.recipes()):
        assert name in out
      assert max(map(len, out.splitlines())) <= 100

  def test_recipes_say_what_they_are(self, capsys, monkeypatch):
    out, _, status = self.say(capsys, monkeypatch, 'recipes')
    assert status == 0
    assert 'mnist_eps0.2: MNIST at epsilon = 0.2, delta = 1e-5\n' in out
    assert all(line.partition(': ')[2] for line in out.splitlines())

  def test_an_unknown_name_is_answered_with_the_nearest(self, capsys, monkeypatch):
    _, err, status = self.say(capsys, monkeypatch, 'trian')
    assert status == 2
    assert err.endswith("got 'trian' (did you mean train?)\n")
    assert err.count('\n') == 1

  def test_the_version_is_that_of_the_package(self, capsys, monkeypatch):
    assert self.say(capsys, monkeypatch, '--version') == (f'{dpgan_jax.__version__}\n', '', 0)


class TestRecipes:
  def test_every_flag_file_has_a_name_of_its_own(self):
    recipes = _flag_files.recipes()
    assert set(recipes.values()) == set(ROOT.glob('experiments/**/*.flags'))
    assert {'quickstart', 'mnist_eps1', 'mnist_no_privacy', 'tables_quickstart'} <= set(recipes)

  def test_a_recipe_is_its_file_wherever_it_is_named(self, tmp_path):
    own = tmp_path / 'own.flags'
    own.write_text('--recipe=mnist_eps2\n--steps=3\n')
    wanted = _flag_files.expand(['--flagfile=experiments/eps2.flags'])
    assert _flag_files.expand(['--recipe', 'mnist_eps2']) == wanted
    assert _flag_files.expand([f'--flagfile={own}']) == [*wanted, '--steps=3']

  def test_an_unknown_one_lists_those_there_are(self):
    with pytest.raises(_validate.InputError) as caught:
      _flag_files.expand(['--recipe=mnist_esp1'])
    assert '(did you mean mnist_eps1?)' in str(caught.value)
    assert all(name in str(caught.value) for name in _flag_files.recipes())


WITHOUT = """
import sys
import tomllib
class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {absent!r}:
      raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
  ('argv', 'extra'),
  [
    ("['dpgan-jax', 'train', '--recipe=quickstart']", 'images'),
    pytest.param(
      "['dpgan-jax', 'schema', 'people.csv', '--out=x.json']", 'tables', marks=pytest.mark.slow
    ),
  ],
)
def test_a_command_whose_packages_are_missing_says_what_to_install(argv, extra, tmp_path):
  (tmp_path / 'people.csv').write_text('a\n1\n')
  absent = {'flax', 'orbax'} if extra == 'images' else {'pyarrow'}
  code = WITHOUT.format(absent=absent)
  code += f'sys.argv = {argv}\nimport runpy\n'
  through_door = code + "runpy.run_module('dpgan_jax', run_name='__main__', alter_sys=True)"
  alone = code + "name = sys.argv.pop(1)\n"
  alone += "runpy.run_module(f'dpgan_jax.{name}', run_name='__main__', alter_sys=True)"
  for program in (through_door, alone):
    done = run('-c', program, cwd=tmp_path, path=ROOT)
    assert done.returncode == 1
    assert done.stdout == ''
    assert f"pip install 'dpgan_jax[{extra}]'" in done.stderr
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1, done.stderr


def test_every_package_that_is_imported_is_of_an_extra_or_of_the_core():
  """What no extra names would be missed with a traceback."""
  imported = set()
  for path in (ROOT / 'dpgan_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.Import):
        imported |= {alias.name.partition('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        imported.add(str(node.module).partition('.')[0])
  foreign = imported - set(sys.stdlib_module_names) - {'dpgan_jax'}
  core = {'jax', 'numpy', 'optax', 'dp_accounting'}
  optional = {'tensorboardX', 'torch_fidelity', 'torch'}  # asked for by name where they are used
  assert foreign - core - optional <= set(_extras._BROUGHT_BY)


MEASURE = """
import sys, time
started = time.perf_counter()
import jax, optax
usual, loaded = time.perf_counter() - started, set(sys.modules)
import dp_accounting.pld.privacy_loss_distribution
accounting = {name.partition('.')[0] for name in sys.modules}
started = time.perf_counter()
import dpgan_jax
for name in dpgan_jax.__all__:
  if name not in ('DPGAN', 'ImageDataset', 'TrainConfig', 'load_dataset'):
    getattr(dpgan_jax, name)
own = time.perf_counter() - started
before = {name.partition('.')[0] for name in loaded} | accounting
new = {name.partition('.')[0] for name in sys.modules} - before
print(own / usual, *sorted(new - set(sys.stdlib_module_names)))
"""


def test_the_core_loads_four_packages_and_what_they_load(tmp_path):
  done = run('-c', MEASURE, cwd=tmp_path, path=ROOT)
  assert done.returncode == 0, done.stderr
  ratio, *new = done.stdout.split()
  assert new == ['dpgan_jax']
  assert float(ratio) < 2, 'beside jax, optax and dp_accounting themselves'
  done = run('-c', 'import sys, dpgan_jax; print("jax" in sys.modules)', cwd=tmp_path, path=ROOT)
  assert done.stdout == 'False\n'  # until a name is used


def test_what_others_read_of_the_repository_says_what_is_so():
  """GitHub looks for CITATION.cff at the top only; pre-commit has a version of its own to keep."""
  cited = (ROOT / 'CITATION.cff').read_text('utf-8')
  assert re.search(r'^cff-version: 1\.2\.0$', cited, re.MULTILINE)
  assert re.search(r'^title: .', cited, re.MULTILINE)
  assert re.search(r'^authors:\n  - name: .', cited, re.MULTILINE)
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']
  assert f'license: {project["license"]}\n' in cited
  pinned = re.search(r'^ruff==(\S+)$', (ROOT / 'requirements.txt').read_text('utf-8'), re.MULTILINE)
  hooks = (ROOT / '.pre-commit-config.yaml').read_text('utf-8')
  assert pinned is not None
  assert f'rev: v{pinned[1]} ' in hooks
