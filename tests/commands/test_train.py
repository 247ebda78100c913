"""The train command as a user meets it: plans, refusals in one line, nothing half-written."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import plan
from tests.support import commands, nets

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOOD = [
  *nets.FLAGS,
  '--dataset=digits',
  '--noise_multiplier=4',
  '--steps=4',
  '--batch_size=20',
  '--delta=1e-4',
]


@pytest.fixture(scope='module', autouse=True)
def command():
  """Imported once for all the calls of these tests."""
  started = commands.Command('dpgan_jax.train', nets.__name__)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(globals(), '_command', started)
    yield
  started.close()


def train(*flags: str) -> subprocess.CompletedProcess:
  done = globals()['_command'](*flags)
  return subprocess.CompletedProcess(flags, done.status, done.out, done.err)


def test_dry_run_shows_the_plan_and_trains_nothing(tmp_path):
  result = train(*GOOD, f'--run_dir={tmp_path / "run"}', '--dry_run')
  assert result.returncode == 0, result.stderr
  for wanted in (
    'epsilon', 'noise multiplier: 4', 'q = 0.0138889', 'cap ', 'steps: 4 of D', 'parameters',
    'device: cpu', 'expected time',
  ):  # fmt: skip
    assert wanted in result.stdout, wanted
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow  # test_plan has the warnings
def test_noise_that_drowns_what_d_learns_is_told_of_beforehand():
  settings = {'steps': 4, 'batch_size': 20, 'd_steps_per_g_step': 1, 'dataset': 'digits'}
  with warnings.catch_warnings(record=True) as quiet:
    warnings.simplefilter('always')
    plan.make(TrainConfig(noise_multiplier=0.5, **settings), datasets.load_dataset('digits').spec)
  assert not [w for w in quiet if 'between two generator steps' in str(w.message)]
  flags = [f'--{name}={value}' for name, value in settings.items()]
  loud = train('--noise_multiplier=5', *flags, '--dry_run')
  assert loud.returncode == 0, loud.stderr
  assert 'between two generator steps' in loud.stderr
  assert 'Fewer steps, more d_steps_per_g_step' in loud.stderr


@pytest.mark.slow  # test_dry_run_shows_the_plan_and_trains_nothing is the same path
def test_dry_run_shows_what_labels_samples():
  rest = (
    '--dataset=digits', '--target_epsilon=inf', '--steps=4', '--batch_size=20', '--delta=1e-4',
    '--generator=report', '--discriminator=report', '--label_share=0.3', '--label_cnn_share=0.3',
    '--d_steps_per_g_step=1',  # nothing to account for: only what is shown is looked at
  )  # fmt: skip
  result = train(*rest, '--dry_run', '--data_on=host')
  assert result.returncode == 0, result.stderr
  assert 'beside the GAN: classifier: B = ' in result.stdout
  assert '; label_cnn: B = ' in result.stdout


BAD = {
  'unknown flag': (['--no_such_flag=1'], 'no_such_flag'),
  'contradiction': (['--target_epsilon=2'], 'two of them determine the third'),
  'epsilon': (['--noise_multiplier=', '--target_epsilon=-1'], 'target_epsilon'),
  'delta': (['--delta=1.5'], 'expected delta in (0, 1), got 1.5'),
  'sigma': (['--noise_multiplier=-1'], 'expected noise_multiplier >= 0'),
  'clip': (['--l2_clip_norm=0'], 'expected l2_clip_norm > 0'),
  'batch': (['--batch_size=2000'], 'expected batch_size <= 1440'),
  'not a number': (['--steps=many'], 'many'),
  'data set': (['--dataset=minst'], 'mnist'),
  'model': (['--generator=huge'], 'expected generator to be one of'),
  'positional': (['extra'], "got 'extra'"),
  'data file': (['--dataset=npz', '--data_dir=no/such.npz'], 'no/such.npz'),
}


# One of each kind: of flags, of a plan, of settings and of the data.
FEW = ('unknown flag', 'contradiction', 'epsilon', 'batch', 'data set')


@pytest.mark.parametrize(
  'case', [pytest.param(c, marks=[] if c in FEW else [pytest.mark.slow]) for c in BAD]
)
def test_bad_input_gets_one_line_and_status_2(case, tmp_path):
  flags, wanted = BAD[case]
  run_dir = tmp_path / 'run'
  base = [f for f in GOOD if f.partition('=')[0] not in {g.partition('=')[0] for g in flags}]
  flags = [f for f in flags if not f.endswith('=')]
  result = train(*base, f'--run_dir={run_dir}', *flags)
  assert result.returncode == 2, result.stderr
  lines = [line for line in result.stderr.splitlines() if line.strip()]
  assert len(lines) == 1, result.stderr
  assert lines[0].startswith('error: ')
  assert wanted in lines[0]
  assert not run_dir.exists()


@pytest.mark.slow  # test_mechanism has the refusal
def test_unreachable_epsilon(tmp_path):
  flags = ['--dataset=digits', '--target_epsilon=1e-7', '--steps=400', '--batch_size=720']
  result = train(*flags, f'--run_dir={tmp_path / "run"}')
  assert result.returncode == 2
  assert 'out of reach' in result.stderr.splitlines()[-1]
  assert not (tmp_path / 'run').exists()


def test_nan_pixels_and_empty_classes_are_named(tmp_path):
  x = np.zeros((4, 8, 8), np.float32)
  x[2, 0, 0] = np.nan
  np.savez(tmp_path / 'nan.npz', x=x, y=np.arange(4))
  np.savez(tmp_path / 'gap.npz', x=np.zeros((4, 8, 8), np.uint8), y=np.array([0, 1, 3, 3]))
  for name, wanted in (('nan', 'NaN'), ('gap', 'class 2')):
    flags = ['--dataset=npz', f'--data_dir={tmp_path / name}.npz', '--batch_size=2']
    result = train(*GOOD[3:5], *flags, f'--run_dir={tmp_path / "run"}')
    assert result.returncode == 2
    assert wanted in result.stderr


def test_run_dir_must_be_a_run(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  result = train(*GOOD, f'--run_dir={tmp_path}')
  assert result.returncode == 2
  assert 'config.json' in result.stderr
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


@pytest.mark.slow  # test_docs and test_package read the flag files that are named
def test_flag_files_are_complete():
  """Every flag file of this command gives settings and a directory of its own."""
  # What mnist.flags, conditional_gan.flags and report_gan.flags share is no run of its own.
  code = """
    import sys
    from absl import flags
    from absl.testing import flagsaver
    from dpgan_jax import _cli, train
    from dpgan_jax.models.config import TrainConfig
    train.define_flags()
    for path in sys.argv[1:]:
      with flagsaver.flagsaver():
        flags.FLAGS(['train', f'--flagfile={path}'])
        print(path, _cli.config_from_flags(TrainConfig).dataset, flags.FLAGS.run_dir)
    """
  files = [
    str(p.relative_to(ROOT))
    for p in sorted((ROOT / 'experiments').rglob('*.flags'))
    if 'python -m dpgan_jax.train' in p.read_text()
  ]
  command = [sys.executable, '-c', textwrap.dedent(code), *files, 'experiments/quickstart.flags']
  result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert result.returncode == 0, result.stderr
  rows = [line.split() for line in result.stdout.splitlines()]
  assert len(rows) == len(files) + 1 > 20
  # The usual name of the directory is that of the file.
  assert all(run_dir == f'runs/{pathlib.Path(path).stem}' for path, _, run_dir in rows)
