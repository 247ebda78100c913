"""Series from end to end: trained, sampled, scored, published, and refused in one line."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from dpgan_jax import DPGAN
from dpgan_jax._validate import InputError
from dpgan_jax.data import sources
from dpgan_jax.data.series import read
from dpgan_jax.data.series.generated import VITALS, vitals
from dpgan_jax.data.series.write import to_arrays
from dpgan_jax.evaluation import series
from dpgan_jax.publishing import bundle, run_statement
from dpgan_jax.run import samples, trainer
from dpgan_jax.run.directory import RunDir
from tests.support.commands import Command

FEW = vitals().part(np.arange(4000) < 700, partial=True)


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
  run = tmp_path_factory.mktemp('series') / 'run'
  model = DPGAN(target_epsilon=8.0, delta=1e-4, num_samples=60)
  arrays = to_arrays(VITALS, FEW.records, FEW.labels)
  return model.fit(arrays, schema=VITALS, run_dir=run, progress=False), run


def test_arrays_go_in_and_come_out(fitted, tmp_path):
  model, _ = fitted
  drawn = model.sample(40, seed=1)
  assert drawn['x'].shape == (40, 24, 5)
  assert set(drawn['ill']) <= {'no', 'yes'}
  read.read_series(drawn, VITALS)
  assert 7.9 < model.epsilon <= 8.0
  model.save(tmp_path / 'm.safetensors')
  again = DPGAN.load(tmp_path / 'm.safetensors').sample(40, seed=1)
  np.testing.assert_array_equal(again['x'], drawn['x'])


@pytest.mark.slow  # test_series_moments has it without the command
def test_static_values_can_be_given(fitted, tmp_path):
  model, run = fitted
  drawn = model.sample(30, given={'sex': 'female', 'ill': 'yes'}, seed=0)
  assert set(drawn['sex']) == {'female'}
  assert set(drawn['ill']) == {'yes'}
  with pytest.raises(InputError, match="expected a column among age, sex, ward, ill; got 'pulse'"):
    model.sample(5, given={'pulse': 80})
  with contextlib.closing(Command('dpgan_jax.sample')) as sample:
    done = sample(f'--run_dir={run}', '--num=20', '--given=age=80', f'--out={tmp_path}/s')
  assert done.status == 0, done.err
  with np.load(tmp_path / 's.npz') as file:
    assert (file['age'] == 80).all()


def test_what_is_published_is_verified(fitted, tmp_path, monkeypatch):
  monkeypatch.setattr(run_statement, '_CURVE_POINTS', 3)
  _, run = fitted
  statement = run_statement.write(RunDir.open(run, create=False))
  assert 'one sequence' in statement.summary()
  out = tmp_path / 'out'
  bundle.release(RunDir.open(run, create=False), out, num=50)
  assert 'load without pickle' in bundle.verify(out)
  with np.load(out / 'samples.npz') as file:
    assert file['x'].shape == (50, 24, 5)
  report = json.loads((out / 'report.json').read_text())
  assert 'patterns in time' in (out / 'report.md').read_text()
  assert 'dpgan_jax series 1' in json.dumps(report)


@pytest.mark.slow  # what samples are like is in test_series_moments
def test_scores_stand_beside_real_and_worthless_series(fitted, tmp_path):
  _, run = fitted
  model = trainer.restore_model(run).model
  records, labels = samples_of(model)
  record = series.evaluate_run(FEW, vitals('test'), records, labels, tmp_path, quick=True)
  page = (tmp_path / 'evaluation.html').read_text('utf-8')
  assert page.count('<img') == 2
  assert 'Keep this page private' in page
  found = {one['name']: one for one in record['scores']}
  for name in ('hourly_means', 'hourly_rates', 'predictive', 'discriminative'):
    assert found[name]['reference'] <= found[name]['value'] + 0.1
    assert found[name]['reads'] == ['train', 'test']
  assert found['tstr_auroc']['value'] > 0.6
  assert found['predictive']['value'] < found['predictive']['detail']['static']['static']
  for name in ('evaluation.md', 'evaluation.json', 'evaluation.png'):
    assert (tmp_path / name).stat().st_size > 1000


def samples_of(model):
  import jax

  return model.sample(700, key=jax.random.key(0))


def test_images_alone_are_asked_for_images():
  with pytest.raises(InputError, match='expected images, got the series vitals'):
    sources.Source(dataset='vitals').load_images()


def test_series_are_not_trained_on_by_a_gan(tmp_path):
  with pytest.raises(InputError, match='expected method=moments with a series'):
    DPGAN(target_epsilon=8.0, method='gan', steps=3, batch_size=8).fit(
      FEW, run_dir=tmp_path, progress=False
    )


def test_formats_are_those_of_series():
  assert samples.formats(FEW.spec) == ('npz', 'csv', 'parquet')
