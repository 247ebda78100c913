"""The audit command: what it writes, what it prints, what it refuses."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from dpgan_jax import _cli, _files, audit
from dpgan_jax._validate import InputError
from dpgan_jax.auditing import modes
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'experiments' / 'audits').glob('*.flags'))
GRADIENT = (
  '--mode=gradient', '--num_examples=4', '--batch_size=4', '--noise_multiplier=2', '--steps=1',
  '--delta=1e-2', '--trials=400',
)  # fmt: skip

TABLE = (
  '--mode=table', f'--schema={ROOT}/experiments/audits/persons.schema.json', '--num_examples=50',
  '--target_epsilon=1', '--delta=1e-2', '--moments_coefficients=1',
)  # fmt: skip


@pytest.fixture(autouse=True)
def _flags(own_flags):
  audit.define_flags()


@pytest.fixture
def main(monkeypatch, capsys):
  """Runs the command in this process; returns what it printed."""

  def run(*arguments: str) -> str:
    with flagsaver.flagsaver():
      audit.FLAGS.unparse_flags()
      audit.FLAGS(['audit', *arguments])
      monkeypatch.setattr(sys, 'argv', ['audit', *arguments])
      audit.main()
    return capsys.readouterr().out

  return run


def test_gradient_writes_and_prints_the_bound_beside_the_accounted_epsilon(main, tmp_path):
  arguments = (*GRADIENT, f'--out={tmp_path / "out"}', f'--results={tmp_path / "copy.json"}')
  out = main(*arguments, '--name=tiny')
  record = json.loads((tmp_path / 'out' / 'audit.json').read_text())
  assert json.loads((tmp_path / 'copy.json').read_text()) == record
  assert (record['name'], record['mode'], record['steps']) == ('tiny', 'gradient', 1)
  assert (record['delta'], record['confidence'], record['trials']) == (0.01, 0.95, 400)
  assert 0 <= record['lower_bound'] <= record['accounted_epsilon']
  assert not record['refuted']
  assert record['command'].startswith('python -m dpgan_jax.audit --mode=gradient --num_examples=4')
  lines = out.splitlines()
  written = f'{tmp_path / "out" / "audit.json"} and {tmp_path / "copy.json"}'
  assert lines[-1].startswith(f'{written}: the record of one audit, which took ')
  assert lines[0].startswith(f'tiny: epsilon >= {record["lower_bound"]:.4g} with 95 % confidence')
  assert lines[0].endswith(f'accounted: {record["accounted_epsilon"]:.4g}')
  assert f'{record["family_bound"]:.4g}' in lines[1]


@pytest.mark.slow
def test_a_table_is_audited_without_data(main, tmp_path):
  out = main(*TABLE, '--trials=400', f'--out={tmp_path}')
  record = json.loads((tmp_path / 'audit.json').read_text())
  assert (record['mode'], record['trials'], record['steps']) == ('table', 400, 1)
  assert 0 <= record['lower_bound'] <= record['accounted_epsilon'] <= 1
  assert not record['refuted']
  assert set(record) >= {'moments', 'moments_means'}
  assert 'table: epsilon >= ' in out


def test_samples_from_a_file(main, tmp_path):
  """The training images themselves as samples: the attacks cannot miss that."""
  digits = datasets.load_dataset('digits')
  np.savez(tmp_path / 'copies.npz', x=digits.images[..., 0])
  out = main(
    '--mode=samples', f'--samples={tmp_path / "copies.npz"}', '--dataset=digits',
    f'--out={tmp_path}',
  )  # fmt: skip
  record = json.loads((tmp_path / 'audit.json').read_text())
  assert record['accounted_epsilon'] is None
  assert record['attacks']['nearest']['guesses']['auc'] > 0.99
  assert record['lower_bound'] > 1
  assert record['candidates'] == 2 * 178
  assert 'no accounted epsilon is known for it' in out
  assert 'density_ratio: epsilon >= ' in out


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ((), 'expected --mode, one of gradient, table, one_run, samples'),
    (('--mode=best',), "expected mode to be one of gradient, table, one_run, samples; got 'best'"),
    (('--mode=gradient',), 'two of target_epsilon, noise_multiplier and steps'),
    (('--mode=gradient', '--num_examples=20', '--target_epsilon=2'), 'got those of moments'),
    (('--mode=one_run', '--target_epsilon=2'), 'got those of moments'),
    (('--mode=one_run', '--data_on=host'), "expected data_on to be one of device; got 'host'"),
    (GRADIENT[:1] + GRADIENT[2:], 'expected --num_examples=N'),
    ((*GRADIENT, '--trials=3'), 'trials >= 400, got 3'),
    ((*GRADIENT, '--confidence=95'), 'confidence in (0, 1), got 95'),
    ((*GRADIENT, '--name=../up'), "name of letters, digits and _-., got '../up'"),
    (('--mode=table', *GRADIENT[1:]), 'expected target_epsilon alone'),
    (('--mode=table', '--target_epsilon=1'), 'expected --schema=FILE of the table and --num_exam'),
    ((*TABLE, '--schema_epsilon=0.1'), 'expected no schema_epsilon: a schema is given'),
    ((*TABLE, '--schema=nowhere.json'), 'cannot read schema nowhere.json'),
    ((*TABLE, '--trials=3'), 'trials >= 400, got 3'),
    (('--mode=samples',), 'expected --run_dir=DIRECTORY or --samples=FILE.npz'),
    (('--mode=samples', '--samples=x.npz'), 'expected --dataset=NAME of the training images'),
    (
      ('--mode=one_run', '--noise_multiplier=1', '--steps=2', '--canary_kind=birds'),
      'canary_kind to be one of',
    ),
    (
      ('--mode=one_run', '--noise_multiplier=1', '--steps=2', '--canaries=100000'),
      'canaries <= 10385, the parameters of the discriminator, got 100000',
    ),
  ],
)
def test_refuses(main, tmp_path, arguments, words):
  with pytest.raises(InputError) as caught:
    main(*arguments, f'--out={tmp_path / "out"}')
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'out' / 'audit.json').exists()


def test_refuses_a_file_as_directory(main, tmp_path):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(InputError, match='out to be a folder, got the file'):
    main(*GRADIENT, f'--out={tmp_path / "file"}')


def test_infinity_is_written_as_strict_json(tmp_path):
  _files.write_json(tmp_path / 'a.json', {'a': [float('inf'), 1.0], 'b': {'c': (2, None)}})
  assert json.loads((tmp_path / 'a.json').read_text()) == {'a': ['inf', 1.0], 'b': {'c': [2, None]}}


def test_a_refuted_claim_is_said_loudly():
  record = {
    'name': 'n', 'lower_bound': 3.0, 'confidence': 0.95, 'delta': 1e-5, 'accounted_epsilon': 2.0,
    'refuted': True,
  }  # fmt: skip
  assert 'REFUTED' in modes.summary(record)
  assert 'REFUTED' not in modes.summary({**record, 'refuted': False})


def test_flag_files_are_whole_settings():
  assert len(FILES) >= 5
  for path in FILES:
    with flagsaver.flagsaver():
      audit.FLAGS.unparse_flags()
      audit.FLAGS(['audit', f'--flagfile={path}'])
      name = path.stem.removeprefix('audit_')
      assert audit.FLAGS.name == name
      assert audit.FLAGS.mode in audit.MODES
      assert audit.FLAGS.results == f'experiments/results/audit/{name}.json'
      assert _cli.config_from_flags(TrainConfig).delta < 0.1
  audit.FLAGS(['audit'])


@pytest.mark.parametrize('path', sorted((ROOT / 'experiments/results/audit').glob('*.json')))
def test_committed_results_come_from_their_flag_files(path):
  record = json.loads(path.read_text())
  assert record['name'] == path.stem
  flagfile = f'experiments/audits/audit_{path.stem}.flags'
  assert record['command'].startswith(f'python -m dpgan_jax.audit --flagfile={flagfile}')
  assert not record['refuted']
  assert record['lower_bound'] <= record['accounted_epsilon']


@pytest.mark.slow
def test_as_a_process(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'dpgan_jax.audit', *GRADIENT, f'--out={tmp_path}'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert 'gradient: epsilon >= ' in done.stdout
  assert '100% done' in done.stderr
