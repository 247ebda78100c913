"""Bounds and categories that the run finds itself, from the flags to what is published."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from dpgan_jax import DPGAN
from dpgan_jax._validate import InputError
from dpgan_jax.data import sources
from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files import schema_file
from dpgan_jax.models.domains import search
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import plan, trainer
from dpgan_jax.run.releases import schema as stage
from tests.support.commands import Command

pytestmark = [pytest.mark.usefixtures('short_curve'), pytest.mark.slow]

FLAGS = ('--dataset=table', '--target_epsilon=8', '--schema_epsilon=4', '--delta=1e-4',
         '--num_samples=50', '--moments_coefficients=2')  # fmt: skip
SECRETS = '987654', '-4321', 'Zanzibar', '0.00123'  # each in one row, and in the draft


@pytest.fixture(scope='module')
def frame():
  rng = np.random.default_rng(5)
  n = 1500
  return {
    'age': [987654, -4321, *rng.integers(18, 80, n - 2).tolist()],
    'town': ['Zanzibar', *rng.choice(['Ulm', 'Bonn'], n - 1).tolist()],
    'height': [0.00123, *rng.normal(1.7, 0.1, n - 1).round(2).tolist()],
    'ill': rng.choice(['no', 'yes'], n).tolist(),
  }


@pytest.fixture(scope='module')
def folder(tmp_path_factory, frame):
  """A run by the command, beside its data and its draft."""
  folder = tmp_path_factory.mktemp('open')
  rows = zip(*frame.values(), strict=True)
  lines = [','.join(frame), *(','.join(map(str, row)) for row in rows)]
  (folder / 'people.csv').write_text('\n'.join(lines) + '\n')
  drafted, _ = draft_schema(folder / 'people.csv', target='ill')
  schema_file.write_schema(folder / 'draft.json', drafted)
  text = (folder / 'draft.json').read_text()
  assert all(secret in text for secret in SECRETS[:3])
  about = (f'--data={folder}/people.csv', f'--schema={folder}/draft.json')
  with contextlib.closing(Command('dpgan_jax.train')) as train:
    without = train(*about, FLAGS[0], FLAGS[1], f'--run_dir={folder}/run')
    assert without.status != 0
    assert '--schema_epsilon' in without.err
    assert not (folder / 'run').exists()
    shown = train(*about, *FLAGS, '--dry_run')
    assert shown.status == 0, shown.err
    assert 'is found: age (lower, upper, nullable, missing), town' in shown.out
    done = train(*about, *FLAGS, f'--run_dir={folder}/run')
    assert done.status == 0, done.err
    assert 'all three releases are made' in done.out
  return folder


def files(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in folder.rglob('*') if path.is_file()]


def test_nothing_of_the_draft_is_in_any_file(folder):
  """Not in those that stay private either; each secret is a value of one row of 1,500."""
  for path in files(folder / 'run'):
    content = path.read_bytes()
    for secret in SECRETS:
      assert secret.encode() not in content, (path, secret)


def test_the_schema_is_a_stage_of_the_ledger_and_of_the_statement(folder):
  run = folder / 'run'
  lines = [json.loads(line) for line in (run / 'ledger.jsonl').read_text().splitlines()]
  assert [line['stage'] for line in lines[1:]] == ['schema', 'moments_means', 'moments']
  config = json.loads((run / 'config.json').read_text())
  assert set(config['stages']) == {'schema', 'moments_means', 'moments'}
  assert config['config']['schema_epsilon'] == 4
  assert config['data']['schema']['columns'][0]['lower'] == -(2.0**52)
  trained = trainer.restore_model(run)
  statement = run_statement.build(trained.run)
  assert 7.8 < statement.epsilon <= 8
  assert statement.epsilon == trained.model.epsilon()
  facts = statement.to_json()
  assert facts['mechanisms_beside']['schema']['selection_delta'] == 1e-4 / 4096
  assert facts['data']['schema']['columns'][1]['found'] == ['categories', 'nullable', 'missing']
  assert facts['settings']['schema_epsilon'] == 4
  text = statement.to_markdown()
  assert 'σ of the counts that the schema was found by' in text
  assert 'what 4 of its columns may hold was found by the run' in text
  verdicts = {row['file']: row['publish'] for row in facts['files']}
  assert (verdicts['schema.json'], verdicts['schema/']) == ('yes', 'no')
  found = schema_file.read_schema(run / 'schema.json')
  assert found == trained.model.spec.schema
  assert found.columns[0].bounds[1] < 1000  # of 2⁵²; ages, and noise


def test_rows_held_out_are_those_that_training_did_not_see(folder):
  found = trainer.restore_model(folder / 'run').model.spec
  source = sources.Source(
    dataset='table', data_dir=f'{folder}/people.csv', schema=f'{folder}/draft.json', holdout=0.1,
    schema_epsilon=4.0,
  )  # fmt: skip
  count = len(source.load('train'))
  assert count == found.num_records
  closed = dataclasses.replace(source, found=found.schema)
  train, test = closed.load('train'), closed.load('test')
  assert (len(train), len(train) + len(test)) == (count, 1500)
  assert train.schema == found.schema


@pytest.mark.slow  # the parts of it are in the tests beside it
def test_it_is_sampled_scored_published_and_verified(folder):
  about = (f'--data={folder}/people.csv', f'--schema={folder}/draft.json')
  with contextlib.closing(Command('dpgan_jax.evaluate')) as evaluate:
    done = evaluate(*about, f'--run_dir={folder}/run', '--quick', f'--out={folder}/scores')
    assert done.status == 0, done.err
  with contextlib.closing(Command('dpgan_jax.release')) as release:
    done = release(f'--run_dir={folder}/run', f'--out={folder}/bundle', '--num=40')
    assert done.status == 0, done.err
    verified = release(f'--verify={folder}/bundle')
    assert verified.status == 0, verified.err
  for path in files(folder / 'bundle'):
    assert not any(secret.encode() in path.read_bytes() for secret in SECRETS), path


def test_a_schema_that_has_changed_is_refused(folder):
  path = folder / 'run' / 'schema.json'
  content = path.read_text()
  try:
    path.write_text(content.replace('Ulm', 'Rom'))
    with pytest.raises(InputError, match='has changed since the run has found it'):
      trainer.restore_model(folder / 'run')
  finally:
    path.write_text(content)
  trainer.restore_model(folder / 'run')


class Stop(Exception):
  pass


def test_a_run_that_stops_in_between_finds_the_same_and_charges_once(
  frame, tmp_path, monkeypatch
):
  drafted, _ = draft_schema(frame, target='ill')
  model = DPGAN(target_epsilon=8.0, schema_epsilon=4.0, delta=1e-4, num_samples=20,
                moments_coefficients=2)  # fmt: skip
  fit = lambda: model.fit(frame, schema=drafted, run_dir=tmp_path / 'run', progress=False)  # noqa: E731
  right = search.find

  def find(*arguments):
    found.append(right(*arguments))
    raise Stop

  found: list = []
  with monkeypatch.context() as patch:
    patch.setattr(search, 'find', find)
    with pytest.raises(Stop):
      fit()
  state = stage.settled(plan.read(trainer.RunDir(tmp_path / 'run').load_config(), 'x'),
                        trainer.RunDir(tmp_path / 'run'))  # fmt: skip
  assert state.spec.schema.columns[0].bounds[1] == 2.0**52  # nothing is known yet
  with pytest.raises(InputError, match='has released nothing yet'):
    trainer.restore_model(tmp_path / 'run')
  said = run_statement.build(trainer.RunDir(tmp_path / 'run'))
  assert not said.finished
  fit()
  assert schema_file.read_schema(tmp_path / 'run' / 'schema.json') == found[0]
  lines = (tmp_path / 'run' / 'ledger.jsonl').read_text().splitlines()
  assert len(lines) == 4
  rows = model.sample(30)
  names = rows.column_names if hasattr(rows, 'column_names') else list(rows.columns)
  assert names == list(frame)


def test_what_cannot_be_found_is_refused_by_name(frame, tmp_path):
  drafted, _ = draft_schema(frame, target='ill', declare_public=True)
  model = DPGAN(target_epsilon=8.0, schema_epsilon=4.0, delta=1e-4)
  with pytest.raises(InputError, match='leave schema_epsilon out'):
    model.fit(frame, schema=drafted, run_dir=tmp_path / 'run')
  with pytest.raises(InputError, match='of which a draft says what to find'):
    model.fit(np.zeros((50, 8, 8), np.uint8), run_dir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
