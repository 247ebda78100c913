"""The evaluation command, as a process of its own, on a tiny file of samples."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from dpgan_jax import evaluate
from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, writers
from dpgan_jax.data.spec import Spec
from dpgan_jax.evaluation import features, scoring
from dpgan_jax.models.config import TrainConfig

CONFIG = TrainConfig(noise_multiplier=1.0, steps=1)


@pytest.fixture
def command(request):
  """Runs the command; returns (exit status, stdout, stderr)."""

  def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
      [sys.executable, '-m', 'dpgan_jax.evaluate', *arguments],
      cwd=request.config.rootpath, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr

  return run


@pytest.fixture
def main(own_flags):
  """Runs the command in this process, where a test can replace parts of it."""
  evaluate.define_flags()

  def run(*arguments: str) -> None:
    for name in own_flags:
      own_flags[name].unparse()
    own_flags(['evaluate', *arguments])
    evaluate.main()

  return run


def test_a_file_of_samples_from_end_to_end(command, main, tmp_path, capsys):
  digits = datasets.load_dataset('digits')
  file = tmp_path / 'synthetic.npz'
  np.savez(file, x=digits.images[:210, ..., 0])
  arguments = [f'--samples={file}', '--dataset=digits', '--quick']
  status, out, err = command(*arguments)
  assert status == 0, err
  assert 'secondary_accuracy: ' in out
  assert 'tstr left out: the samples have no labels' in out
  scores = len(json.loads((tmp_path / 'evaluation.json').read_text())['scores'])
  written = f'{tmp_path / "evaluation.md"} (and .html, .json, .png): {scores} scores of 210 samples'
  assert out.endswith(f'{written}; those that read private data are marked\n')
  assert err.splitlines()[-1].startswith('100% done in ')
  record = json.loads((tmp_path / 'evaluation.json').read_text())
  scores = {s['name']: s for s in record['scores']}
  assert scores['copy_share']['value'] == 1  # the samples are training images
  assert scores['fid']['reads_private_data'] is True
  assert scores['distinct_samples']['reads_private_data'] is False
  assert str(tmp_path) not in (tmp_path / 'evaluation.json').read_text()
  assert record['about']['features'] == 'scattering_features_v1'
  # First of all what they are worth: as good as real images, as they are, and copies.
  assert out.startswith('These samples are usable (yellow): how useful they are was not measured; ')
  assert out.splitlines()[1].startswith('ALARM, copies of training images: 100.0% of samples ')
  assert record['copies']['alarm'] is True
  assert record['copies']['sentence'] == out.splitlines()[1]
  assert record['verdict']['sentence'] == out.splitlines()[0]
  with Image.open(tmp_path / 'evaluation.png') as figure:
    assert figure.width > 500

  # All scores are found on the disk: the same files elsewhere, and nothing is computed.
  elsewhere = tmp_path / 'elsewhere'
  main(*arguments, f'--out={elsewhere}', f'--scores_dir={tmp_path / "evaluation_scores"}')
  assert capsys.readouterr().err.count('\n') == 1
  for name in ('evaluation.json', 'evaluation.md', 'evaluation.png'):
    assert (elsewhere / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_run_is_sampled(main, tmp_path, monkeypatch, capsys):
  """Where a run and its evaluation are replaced: what passes between them."""
  given = []

  def sample(num, *, key):
    images = jax.random.randint(key, (num, 8, 8, 1), 0, 256, np.int32)
    return np.asarray(images).astype(np.uint8), np.arange(num) % 10

  def fake(images, labels, train, test, settings, *, store, progress):
    del progress
    given.append((images, labels, settings, len(train), len(test), store.folder))
    raise InputError('far enough')

  run = types.SimpleNamespace(
    model=types.SimpleNamespace(
      sample=sample, spec=datasets.load_dataset('digits').spec, steps=7, config=CONFIG,
      is_conditional=True,
    ),
    run=types.SimpleNamespace(path=tmp_path),
  )
  monkeypatch.setattr(evaluate.trainer, 'restore_model', lambda path: run)
  monkeypatch.setattr(scoring.tasks, 'evaluate', fake)
  for num in ('--num=220', '--num=220', '--quick'):
    with pytest.raises(InputError, match='far enough'):
      main(f'--run_dir={tmp_path}', num, '--eval_seed=4')
  (images, labels, settings, *others), (again, *_), quick = given
  assert images.shape == (220, 8, 8, 1)
  assert labels.shape == (220,)
  assert settings.seed == 4
  assert others == [1440, 357, tmp_path / 'evaluation_scores']
  np.testing.assert_array_equal(images, again)
  assert len(quick[0]) == 12_000
  assert 'drawing 220 samples' in capsys.readouterr().err


def test_samples_of_other_classes_are_refused(main, tmp_path, monkeypatch):
  """Scored, they would be of no worth without a word: each class would be taken for another."""
  digits = datasets.load_dataset('digits')
  arrays = {'x': digits.images[:40, ..., 0], 'y': digits.labels[:40] % 3}
  arrays |= {f'{name}_test': array for name, array in arrays.items()}
  np.savez(tmp_path / 'real.npz', class_names=np.array(['ape', 'bear', 'cat']), **arrays)
  names = ('ape', 'cat', 'bear')
  writers.export(
    tmp_path / 'made.npz', arrays['x'], arrays['y'], format='npz', class_names=names
  )
  real = ('--dataset=npz', f'--data_dir={tmp_path}/real.npz')
  with pytest.raises(InputError, match="class 1 is 'bear' and of the samples 'cat'"):
    main(f'--samples={tmp_path}/made.npz', *real)
  spec = Spec(num_records=40, shape=(8, 8, 1), class_names=names, name='npz')
  model = types.SimpleNamespace(spec=spec, config=CONFIG)
  run = types.SimpleNamespace(model=model, run=types.SimpleNamespace(path=tmp_path))
  monkeypatch.setattr(evaluate.trainer, 'restore_model', lambda path: run)
  with pytest.raises(InputError, match="class 1 is 'bear' and of the run 'cat'"):
    main(f'--run_dir={tmp_path}', *real)


def test_samples_that_cannot_be_scored_leave_nothing_behind(main, tmp_path):
  few = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
  np.savez(tmp_path / 'few.npz', x=few)
  with pytest.raises(InputError, match=r'at least 200 samples \(.*\), got 20'):
    main(f'--samples={tmp_path / "few.npz"}', '--dataset=digits')
  assert [path.name for path in tmp_path.iterdir()] == ['few.npz']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them'),
    (['--run_dir=a', '--samples=b'], 'one of them'),
    (['--samples=b'], 'expected --dataset=NAME'),
    (['--samples=nowhere.npz', '--dataset=digits'], 'nowhere.npz does not exist'),
    (['--run_dir=nowhere'], 'nowhere, which does not exist'),
    (['--samples=b', '--num=900'], 'expected num only with run_dir'),
    (['--run_dir=b', '--num=9'], 'expected num >= 200, got 9'),
    (['--samples=b', '--eval_seed=-1'], 'expected eval_seed in'),
    (['--samples=b', '--cnn_epochs=0'], 'expected cnn_epochs >= 1, got 0'),
    (['--samples=b', '--tasks=distinct,fids'], 'expected tasks to be one of'),
    (['--samples=b', '--inception'], 'torch-fidelity, which is not installed'),
  ],
  ids=str,
)
def test_wrong_flags_are_refused(main, arguments, message, monkeypatch):
  monkeypatch.setattr(features.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=message):
    main(*arguments)


def test_samples_are_read_with_and_without_labels(tmp_path):
  grey, colour = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)
  np.savez(tmp_path / 'a.npz', x=grey)
  np.savez(tmp_path / 'b.npz', x=colour, y=np.array([1, 2, 3]))
  images, labels = scoring.read_samples(str(tmp_path / 'a.npz'))
  assert (images.shape, labels) == ((3, 8, 8, 1), None)
  images, labels = scoring.read_samples(str(tmp_path / 'b.npz'))
  assert images.shape == (3, 8, 8, 3)
  assert labels is not None
  assert list(labels) == [1, 2, 3]
  np.savez(tmp_path / 'nan.npz', x=np.full((3, 8, 8), np.nan))
  with pytest.raises(InputError, match=r'nan.npz: x: .* NaN'):
    scoring.read_samples(str(tmp_path / 'nan.npz'))
  (tmp_path / 'c.npz').write_bytes(b'no zip')
  with pytest.raises(InputError, match=r'expected an undamaged .npz file'):
    scoring.read_samples(str(tmp_path / 'c.npz'))
