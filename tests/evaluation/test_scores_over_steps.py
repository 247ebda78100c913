"""Scores over steps: each snapshot once, in order, on samples of the same z."""

from __future__ import annotations

import json
import pathlib
import types

import jax
import numpy as np
import pytest

from dpgan_jax import evaluate
from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import snapshots
from dpgan_jax.evaluation.scores import Evaluation, Score
from dpgan_jax.evaluation.tasks import Settings

DIGITS = datasets.load_dataset('digits')
FILES = [pathlib.Path(f'step_{n:08d}.safetensors') for n in (100, 250)]


@pytest.fixture
def series(monkeypatch):
  """Scores two snapshots, whose models and evaluations are replaced; returns also what was told."""
  told, drawn = [], []

  def load(path):
    step = int(path.stem[5:])

    def sample(num, *, key):
      drawn.append((step, num, jax.random.key_data(key).tolist()))
      return np.full((num, 8, 8, 1), step % 256, np.uint8), None

    return types.SimpleNamespace(steps=step, sample=sample, epsilon=lambda: step / 100)

  def evaluated(images, labels, train, test, settings, *, store, progress):
    del labels, train, test, store, settings
    progress('features', 0.5)
    fields = {'best': 'low', 'reads': ('train',), 'n': len(images)}
    value = float(images.flat[0])
    return Evaluation(
      scores=(
        Score(name='fid', value=value, reference=0.5, **fields),
        Score(name='secondary_accuracy', value=0.75, **fields),
      ),
      skipped={'tstr': 'no labels'},
    )

  monkeypatch.setattr(snapshots.generator_file, 'load', load)
  monkeypatch.setattr(snapshots.tasks, 'evaluate', evaluated)
  found = snapshots.score(
    FILES, DIGITS, DIGITS, Settings.light(seed=7), num=300,
    progress=lambda name, share: told.append((name, share)),
  )  # fmt: skip
  return found, told, drawn


def test_every_snapshot_is_scored_in_order_on_the_same_z(series):
  found, told, drawn = series
  assert [(s.step, s.epsilon, s.evaluation['fid'].value) for s in found.steps] == [
    (100, 1.0, 100.0), (250, 2.5, 250.0),
  ]  # fmt: skip
  (first, num, key), (second, _, other) = drawn
  assert (first, second, num) == (100, 250, 300)
  assert key == other
  assert told == [
    ('step 100: sampling', 0.0), ('step 100: features', 0.25),
    ('step 250: sampling', 0.5), ('step 250: features', 0.75),
  ]  # fmt: skip


def test_record_table_and_figures(series, tmp_path):
  found, *_ = series
  snapshots.write(found, tmp_path)
  record = json.loads((tmp_path / 'evaluation_steps.json').read_text())
  assert [step['step'] for step in record['steps']] == [100, 250]
  assert record['steps'][1]['scores'][0]['reads_private_data'] is True
  assert record['about']['settings']['seed'] == 7
  assert record['about']['features'] == 'scattering_features_v1'
  assert 'no ε covers' in record['privacy']
  # No TSTR of samples without labels.
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    'evaluation_steps.json', 'evaluation_steps_fid.png', 'evaluation_steps_secondary.png',
  ]  # fmt: skip
  assert found.to_table().splitlines()[3] == '| 250 | 2.5 | 250 | 0.75 |'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--samples=a.npz'], 'expected over_steps with --run_dir'),
    (['--run_dir=a', '--quick'], 'expected over_steps without quick'),
    (['--run_dir=a', '--snapshots=0'], 'expected snapshots >= 1, got 0'),
    (['--run_dir=a', '--num=9'], 'expected num >= 200, got 9'),
    (['--run_dir=nowhere'], 'nowhere, which does not exist'),
  ],
  ids=str,
)
def test_wrong_flags_are_refused(arguments, message, own_flags):
  evaluate.define_flags()
  own_flags(['evaluate', '--over_steps', *arguments])
  with pytest.raises(InputError, match=message):
    evaluate.main()


def test_as_trained_is_of_snapshots_only(own_flags):
  evaluate.define_flags()
  own_flags(['evaluate', '--run_dir=a', '--as_trained'])
  with pytest.raises(InputError, match='as_trained only with over_steps'):
    evaluate.main()
