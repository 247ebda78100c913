"""A folder of somebody's own images, from the first command to the scores: what is done to them and
who is held out is public, recorded, and the same in every command.
"""

from __future__ import annotations

import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from dpgan_jax import audit, evaluate, train
from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, sources
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.publishing import caveats
from tests.support import nets

SETTINGS = (
  '--dataset=png', *nets.FLAGS, '--target_epsilon=inf',
  '--steps=2', '--batch_size=8', '--d_steps_per_g_step=1', '--num_samples=20', '--delta=1e-4',
)  # fmt: skip


@pytest.fixture
def command(own_flags, capsys):
  """Runs the main function of a command in this process; returns what it printed."""

  def run(module: types.ModuleType, *arguments: str) -> str:
    for name in list(own_flags):
      delattr(own_flags, name)
    module.define_flags()
    own_flags(['command', *arguments])
    capsys.readouterr()
    module.main()
    return capsys.readouterr().out

  return run


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """320 images of two classes, of two sizes, some with a transparent corner; and a Thumbs.db."""
  rng = np.random.default_rng(0)
  for i in range(320):
    place = tmp_path / 'scans' / ('ill' if i % 2 else 'well')
    place.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (12, 10, 4) if i < 20 else (8, 8), np.uint8)
    Image.fromarray(pixels).save(place / f'{i}.png')
  (tmp_path / 'scans' / 'ill' / 'Thumbs.db').write_bytes(b'')
  return tmp_path / 'scans'


def test_train_and_evaluate_know_who_was_held_out(command, folder, tmp_path):
  run = tmp_path / 'run'
  flags = (*SETTINGS, f'--data_dir={folder}', f'--run_dir={run}', '--channels=1')
  with pytest.raises(InputError, match=r'20 × image of another size than 8×8 \(--image_size=28'):
    command(train, *flags)
  assert not run.exists()
  out = command(train, *flags, '--image_size=8')
  assert 'skipped 1 files or folders that are no images: 1 Thumbs.db' in out
  assert 'of 320 images: 20 laid on black where transparent, 20 resized' in out
  config = json.loads((run / 'config.json').read_text())
  recorded = {name: config['config'][name] for name in ('image_size', 'channels', 'holdout')}
  assert recorded == {'image_size': '8x8', 'channels': 1, 'holdout': 0.1}
  whole = datasets.load_dataset('png', data_dir=str(folder), image_size=8, channels=1)
  kept, aside = sources.hold_out(whole, 0.1)
  assert config['data']['num_records'] == len(kept) == 320 - len(aside)
  assert config['mechanism']['num_examples'] == len(kept)
  assert f'{len(aside)} images are held out' in out
  assert str(folder) not in (run / 'config.json').read_text()
  report = (run / 'report.md').read_text()
  for sentence in ('resized to 8×8', '8-bit grey', 'About 10 % of the images were held out'):
    assert sentence in report
  # How many were changed or held out is the owner's knowledge.
  assert f'{len(aside)} ' not in report.split('held out')[1][:600]
  assert 'laid on black where transparent' not in report

  for other in ('--image_size=9', '--holdout=0.2', '--holdout=0', '--channels=3'):
    name = other.partition('=')[0].removeprefix('--')
    last = (*(f for f in flags if not f.startswith(f'--{name}')), '--image_size=8', other)
    with pytest.raises(InputError, match=f'belongs to another run.*{name}'):
      command(train, *last)
  command(train, *flags, '--image_size=8x8', '--holdout=0.1')  # the same in other words

  scores = (f'--run_dir={run}', f'--data_dir={folder}', '--tasks=distinct', '--num=200')
  command(evaluate, *scores)
  about = json.loads((run / 'evaluation.json').read_text())['about']
  assert about['real_data'] == f'png, {len(kept)} for training and {len(aside)} for testing'
  with pytest.raises(InputError, match='expected no holdout with run_dir'):
    command(evaluate, *scores, '--holdout=0.2')
  # A file of samples says nothing of the data: there the flags do.
  samples = (f'--samples={run / "many.npz"}', '--dataset=png', f'--data_dir={folder}')
  np.savez(run / 'many.npz', x=np.random.default_rng(1).integers(0, 256, (200, 8, 8), np.uint8))
  command(evaluate, *samples, '--image_size=8', '--channels=1', '--tasks=distinct',
          f'--out={tmp_path / "out"}')  # fmt: skip
  assert json.loads((tmp_path / 'out' / 'evaluation.json').read_text())['about'][
    'real_data'
  ] == about['real_data']


@pytest.mark.slow
def test_an_audit_holds_out_what_training_would(command, folder, tmp_path):
  command(
    audit, '--mode=one_run', '--dataset=png', f'--data_dir={folder}', '--image_size=8',
    '--channels=1', *nets.FLAGS, '--noise_multiplier=4', '--steps=2', '--batch_size=8',
    '--d_steps_per_g_step=1', '--num_samples=20', '--delta=1e-4',
    '--canaries=20', f'--out={tmp_path / "audit"}',
  )  # fmt: skip
  config = json.loads((tmp_path / 'audit' / 'config.json').read_text())
  assert config['config']['holdout'] == 0.1
  whole = datasets.load_dataset('png', data_dir=str(folder), image_size=8, channels=1)
  kept, _ = sources.hold_out(whole, 0.1)
  assert config['data']['num_records'] == len(kept) + 20  # and the canaries


@pytest.mark.slow  # test_tasks scores without labels
def test_images_without_classes_can_be_trained_on_and_scored(command, folder, tmp_path):
  run, flat = tmp_path / 'run', tmp_path / 'flat'
  flat.mkdir()
  for path in folder.rglob('*.png'):
    path.rename(flat / path.name)
  flags = [*SETTINGS, f'--data_dir={flat}', '--image_size=8', '--channels=1', f'--run_dir={run}']
  assert 'images 8×8×1, without classes' in command(train, *flags)
  command(evaluate, f'--run_dir={run}', f'--data_dir={flat}', '--tasks=distinct,tstr_lr',
          '--num=200')  # fmt: skip
  record = json.loads((run / 'evaluation.json').read_text())
  assert 'no labels' in json.dumps(record['skipped'])  # one class is nothing to learn


@pytest.mark.parametrize('relation', ['add_or_remove_one', 'replace_one'])
def test_the_report_says_for_whom_the_guarantee_holds(relation):
  config = TrainConfig(
    noise_multiplier=1.0, steps=1, holdout=0.25, neighboring_relation=relation, dataset='png'
  )
  (line,) = caveats.preparation(config, relation, 'images')
  assert 'About 25 %' in line
  assert ('on the same side in both' in line) == (relation == 'replace_one')
  assert caveats.preparation(config.replace(holdout=None), relation, 'images') == []
