"""What is kept of sweeps: parts made anywhere give one table, which nothing may contradict."""

from __future__ import annotations

import json
import os
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from dpgan_jax._validate import InputError
from dpgan_jax.budget.budget import STAGE
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.spec import Spec
from dpgan_jax.evaluation import snapshots
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file, loop
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.plan import GANPlan
from dpgan_jax.search import sweep_table
from experiments.quality import keep_sweep as kept

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]

# All records are in every batch: such an ε is a formula, and costs no time.
SETTINGS = {
  'dataset': 'digits', 'generator': 'compact', 'batch_size': 1440, 'delta': 1e-4, 'steps': 4,
}  # fmt: skip
SPEC = Spec(num_records=1440, shape=(8, 8, 1), class_names=tuple('0123456789'), name='digits')
_generators: dict = {}


def sweep(
  folder: pathlib.Path,
  *runs: tuple[float, int | None, float],
  finished: bool = True,
  device: str = 'cpu',
  **settings,
) -> pathlib.Path:
  """The directory of a sweep with runs of (ε, seed, TSTR), as the command leaves it."""
  shared = {**SETTINGS, **settings}
  RunDir.open(folder, create=True).save_config(
    {'format': sweep_table.FORMAT, 'settings': shared, 'data': SPEC.to_record()}
  )
  for epsilon, seed, tstr in runs:
    config = TrainConfig(**shared, target_epsilon=epsilon, seed=seed)
    m = DPMechanism.create(
      num_examples=1440, batch_size=1440, l2_clip_norm=1.0, steps=shared['steps'], delta=1e-4,
      noise_multiplier=0.0 if epsilon == float('inf') else 8 / epsilon,
    )  # fmt: skip
    name = f'eps{epsilon:g}/' + ('secret_key' if seed is None else f'seed_{seed}')
    run = RunDir.open(folder / name, create=True)
    gan = GAN(config, m, SPEC, microbatch_size=16)
    run.save_config({
      'format': loop.FORMAT, 'run_id': f'of {folder}', **GANPlan(gan).to_record(),
      'data': SPEC.to_record(), 'jax_settings': {},
      'environment': {'backend': 'cpu' if device == 'cpu' else 'gpu', 'device': device},
    })  # fmt: skip
    if not finished:
      Ledger.open(
        run.ledger, stages={STAGE: m}, data_fingerprint='of digits', identity=run.identity()
      ).charge(3, STAGE)
      continue
    if not _generators:
      _generators['init'] = jax.jit(lambda key, gan=gan: gan.init(key).g_average)
    generator = _generators['init'](jax.random.key(seed or 0))
    model = GANSynthesizer(gan, generator, 4)
    for file in (run.path / sweep_table.GENERATOR, run.snapshot(4)):
      generator_file.save(model, file)
    run.samples().touch()
    last = run.path / 'label_cnn' / 'checkpoints' / '4'
    last.mkdir(parents=True, exist_ok=True)
    for path, time in ((run.config, 1000), (last, 1000 + 90)):
      os.utime(path, (time, time))
    scores = [{'name': 'tstr_cnn', 'value': tstr, 'reference': 0.9, 'reads_private_data': True}]
    (run.path / sweep_table.EVALUATION).write_text(
      json.dumps({'about': {'amount': 'full', 'source': str(folder)}, 'scores': scores})
    )
  return folder


@pytest.fixture
def results(tmp_path) -> pathlib.Path:
  return tmp_path / 'results'


def table(results: pathlib.Path) -> dict:
  return json.loads((results / 'sweep.json').read_text())


def test_parts_of_a_sweep_give_the_table_of_the_whole(tmp_path, results):
  runs = [(1.0, 0, 0.5), (2.0, 0, 0.6), (1.0, 1, 0.7), (float('inf'), 0, 0.8)]
  whole = sweep(tmp_path / 'whole', *runs)
  expected = sweep_table.to_json(sweep_table.read(whole, {}))
  for i, part in enumerate((runs[:1], runs[1:])):
    assert len(kept.keep(sweep(tmp_path / f'part_{i}', *part), results)) == len(part)
  kept.make(results)
  found = table(results)
  for run in found['runs']:
    assert run.pop('minutes') == 1.5
    assert run.pop('machine')['cores'] >= 1
  assert found.pop('pictures') == [
    'samples.png', 'steps_eps1.png', 'steps_eps2.png', 'steps_epsinf.png', 'tstr.png',
  ]  # fmt: skip
  assert found == expected
  assert found['by_epsilon'][0]['scores']['tstr_cnn']['values'] == [0.5, 0.7]
  for file in results.rglob('*.json'):
    assert str(tmp_path) not in file.read_text()


def test_a_run_of_an_accelerator_is_not_said_to_be_of_this_machine(tmp_path, results):
  kept.keep(sweep(tmp_path / 'there', (1.0, 0, 0.5), device='A chip'), results)
  kept.keep(sweep(tmp_path / 'here', (1.0, 1, 0.5)), results)
  kept.make(results)
  there, here = (run['machine'] for run in table(results)['runs'])
  assert there == {'device': 'A chip'}
  assert 'device' not in here


def test_a_part_that_is_kept_again_changes_nothing(tmp_path, results):
  """Such as after more of its runs are finished; what was finished stays."""
  part = sweep(tmp_path / 'sweep', (1.0, 0, 0.5), (2.0, 1, 0.5), finished=False)
  kept.keep(part, results)
  kept.make(results)
  assert [run['finished'] for run in table(results)['runs']] == [False, False]
  assert table(results)['by_epsilon'] == []
  assert [run['steps_charged'] for run in table(results)['runs']] == [3, 3]
  assert table(results)['spent_together']['private_runs'] == 2
  sweep(part, (1.0, 0, 0.5), (2.0, 1, 0.5))
  for _ in range(2):
    kept.keep(part, results)
    kept.make(results)
    assert [run['finished'] for run in table(results)['runs']] == [True, True]


def test_a_run_begun_again_elsewhere_does_not_take_the_place_of_a_finished_one(tmp_path, results):
  kept.keep(sweep(tmp_path / 'first', (1.0, 0, 0.5)), results)
  before = (results / 'runs' / 'eps1_seed_0.json').read_bytes()
  begun = sweep(tmp_path / 'begun', (1.0, 0, 0.5), finished=False)
  unscored = sweep(tmp_path / 'unscored', (1.0, 0, 0.5))
  (unscored / 'eps1' / 'seed_0' / sweep_table.EVALUATION).unlink()
  for folder in (begun, unscored):
    with pytest.raises(InputError, match=r'eps1/seed_0 to be finished and evaluated'):
      kept.keep(folder, results)
  assert (results / 'runs' / 'eps1_seed_0.json').read_bytes() == before


def test_pictures_show_the_first_run_of_each_epsilon(tmp_path, results):
  part = sweep(tmp_path / 'sweep', (1.0, 1, 0.5), (1.0, 0, 0.5))
  kept.keep(part, results)
  model = generator_file.load(part / 'eps1' / 'seed_0' / sweep_table.GENERATOR)
  strip = np.asarray(Image.open(results / 'runs' / 'eps1_seed_0.png'))
  rows = np.concatenate(list(snapshots.samples(model)[..., 0]), axis=1)
  np.testing.assert_array_equal(strip, rows)  # nothing is lost
  kept.make(results)
  with_both = (results / 'samples.png').read_bytes()
  (results / 'runs' / 'eps1_seed_1.png').unlink()
  kept.make(results)
  assert (results / 'samples.png').read_bytes() == with_both
  (results / 'runs' / 'eps1_seed_0.png').unlink()
  kept.keep(sweep(tmp_path / 'other', (1.0, 1, 0.5)), results)
  kept.make(results)
  assert (results / 'samples.png').read_bytes() != with_both


@pytest.mark.parametrize(
  ('runs', 'settings', 'message'),
  [
    ([(1.0, 0, 0.5)], {'dataset': 'npz'}, r'public data set .* is of npz'),
    ([(1.0, 0, 0.5), (2.0, None, 0.5)], {}, r'eps2/secret_key has a secret key'),
    ([(2.0, 0, 0.5)], {'l2_clip_norm': 2.0}, r'same settings as the records .*l2_clip_norm differ'),
  ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
  tmp_path, results, runs, settings, message
):
  kept.keep(sweep(tmp_path / 'first', (1.0, 0, 0.5)), results)
  before = {file: file.read_bytes() for file in results.rglob('*.*')}
  with pytest.raises(InputError, match=message):
    kept.keep(sweep(tmp_path / 'second', *runs, **settings), results)
  assert {file: file.read_bytes() for file in results.rglob('*.*')} == before


def test_another_run_of_the_same_name_is_refused(tmp_path, results):
  """Other steps: both runs spent, and only one could stand in the table."""
  kept.keep(sweep(tmp_path / 'first', (1.0, 0, 0.5)), results)
  other = sweep(tmp_path / 'second', (1.0, 0, 0.5))
  run = RunDir.open(other / 'eps1' / 'seed_0', create=False)
  saved = run.load_config()
  saved['mechanism']['steps'] = saved['config']['steps'] = 3
  run.save_config({k: v for k, v in saved.items() if k != 'sha256'})
  with pytest.raises(InputError, match=r'eps1/seed_0 to be the run of that name'):
    kept.keep(other, results)


def test_folders_without_records_are_refused(tmp_path, results):
  with pytest.raises(InputError, match='expected records in'):
    kept.make(results)
  kept.keep(sweep(tmp_path / 'first', (1.0, 0, 0.5)), results)
  (results / 'runs' / 'eps1_seed_0.json').write_text('{"format": "another"}')
  with pytest.raises(InputError, match=r'eps1_seed_0.json to be a record of a run'):
    kept.make(results)
  (results / 'runs' / 'eps1_seed_0.json').write_text('{')
  with pytest.raises(InputError, match=r'eps1_seed_0.json to be JSON'):
    kept.make(results)


def test_the_committed_table_is_that_of_the_committed_records():
  """Less what is spent together, whose computation takes a while for real runs."""
  results = kept.RESULTS
  committed = json.loads((results / 'sweep.json').read_text())
  parsed, records = kept.read(results)
  scores = {run.name: run.scores['tstr_cnn']['value'] for run in parsed.runs if run.scores}
  by_epsilon = [
    {'target_epsilon': 'inf' if e == float('inf') else e, 'values': [scores[r.name] for r in runs]}
    for e, runs in parsed.by_epsilon().items()
  ]
  assert by_epsilon == [
    {'target_epsilon': g['target_epsilon'], 'values': g['scores']['tstr_cnn']['values']}
    for g in committed['by_epsilon']
  ]
  assert [r['run'] for r in committed['runs']] == [record['run'] for record in records]
  private = sum(run.budget.is_private for run in parsed.runs)
  assert committed['spent_together']['private_runs'] == private
