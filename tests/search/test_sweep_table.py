"""What a sweep left: what all runs spend together, means and spread, and the page."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import dp_accounting
import pytest
from dp_accounting import pld

from dpgan_jax._validate import InputError
from dpgan_jax.budget.budget import STAGE, Budget
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import loop
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.plan import GANPlan
from dpgan_jax.search import sweep_figures, sweep_table
from dpgan_jax.search.sweep_table import Run, Table

SETTINGS = {
  'dataset': 'digits', 'generator': 'compact', 'discriminator': 'compact', 'batch_size': 32,
  'l2_clip_norm': 1.0, 'delta': 1e-4, 'd_steps_per_g_step': 1,
}  # fmt: skip


SPEC = Spec(
  num_records=1440, shape=(8, 8, 1), class_names=tuple(map(str, range(10))), name='digits'
)


def mechanism(sigma: float, steps: int = 40) -> DPMechanism:
  return DPMechanism.create(
    num_examples=1440, batch_size=32, l2_clip_norm=1.0, noise_multiplier=sigma, steps=steps,
    delta=1e-4,
  )  # fmt: skip


def score(value: float, reference: float | None = None) -> dict:
  return {'value': value, 'reference': reference, 'reads_private_data': True}


def run(name: str, sigma: float, target: float, charged: int = 40, **scores: dict) -> Run:
  return Run(
    name=name, target_epsilon=target, budget=Budget(mechanism(sigma)), charged=charged,
    finished=charged == 40, seed_fixed=False, scores=scores, amount='quick' if scores else None,
    reason=None,
  )  # fmt: skip


def table(*runs: Run) -> Table:
  return Table(SETTINGS, SPEC.to_record(), runs)


# --- what is spent -------------------------------------------------------------------------------


def test_runs_together_spend_what_dp_accounting_composes():
  """Different σ, a run that was cut short, and one that never began."""
  spent, private, public = table(
    run('a', 6.0, 1.0), run('b', 4.0, 2.0, charged=25), run('c', 4.0, 2.0, charged=0)
  ).spent_together
  accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
  accountant.compose(mechanism(6.0).event(40)).compose(mechanism(4.0).event(25))
  expected = accountant.get_epsilon(1e-4)
  assert expected <= spent < expected * 1.001  # rounded up
  assert (private, public) == (2, 0)
  alone = [mechanism(6.0).epsilon(), mechanism(4.0).epsilon(25)]
  assert max(alone) < spent < sum(alone)


def test_what_comes_before_a_gan_is_spent_whole():
  before = {'classifier': mechanism(9.0, 20)}
  whole = dataclasses.replace(run('a', 6.0, 1.0), budget=Budget(mechanism(6.0), before))
  for charged in (0, 25):
    one = dataclasses.replace(whole, charged=charged)
    spent, private, _ = table(one).spent_together
    assert spent == one.epsilon == pytest.approx(whole.budget.epsilon(charged), rel=1e-3)
    assert private == 1
  assert table(whole).spent_together[0] > table(run('a', 6.0, 1.0)).spent_together[0]


def test_runs_of_one_mechanism_are_one_longer_run():
  spent, private, _ = table(run('a', 4.0, 2.0), run('b', 4.0, 2.0)).spent_together
  assert spent == pytest.approx(mechanism(4.0).epsilon(80), rel=1e-3)
  assert private == 2


def test_runs_without_privacy_are_told_of():
  free = table(run('a', 0.0, math.inf))
  assert free.spent_together == (0.0, 0, 1)
  text = sweep_table.spending(*free.spent_together, free)
  assert 'together:' not in text
  assert '1 run without privacy: no ε covers the samples of this one' in text
  both = table(run('a', 4.0, 2.0), run('b', 0.0, math.inf), run('c', 0.0, math.inf))
  spent, private, public = both.spent_together
  assert (private, public) == (1, 2)
  text = sweep_table.spending(spent, private, public, both)
  assert f'({spent:.4g}, 0.0001)-differential privacy' in text
  assert 'cover' in text
  assert 'Seeds were fixed' not in text
  fixed = table(dataclasses.replace(both.runs[0], seed_fixed=True))
  assert 'Seeds were fixed' in sweep_table.spending(*fixed.spent_together, fixed)


# --- scores --------------------------------------------------------------------------------------


def test_mean_and_spread_are_over_runs_of_one_epsilon():
  whole = table(
    run('eps2/seed_0', 4.0, 2.0, tstr_cnn=score(0.8, 0.99), fid=score(10.0, 0.5)),
    run('eps2/seed_1', 4.0, 2.0, tstr_cnn=score(0.9, 0.97), fid=score(20.0, 0.5)),
    run('epsinf/seed_0', 0.0, math.inf, tstr_cnn=score(0.95, 0.98)),
    run('epsinf/seed_1', 0.0, math.inf),
  )
  record = sweep_table.to_json(whole)
  two, infinite = record['by_epsilon']
  assert two['scores']['tstr_cnn'] == {
    'values': [0.8, 0.9],
    'mean': pytest.approx(0.85),
    'standard_deviation': pytest.approx(0.1 / math.sqrt(2)),
    'reference': pytest.approx(0.98),
    'reads_private_data': True,
  }
  assert (infinite['target_epsilon'], infinite['runs'], infinite['steps']) == ('inf', 1, [40])
  assert infinite['scores']['tstr_cnn']['standard_deviation'] is None
  assert 'fid' not in infinite['scores']
  json.dumps(record, allow_nan=False)
  page = sweep_table.to_markdown(whole, ['tstr.png'], ['steps.png: no snapshots'])
  assert '| 2 | 2 | 40 | 0.85 ± 0.071 | 15 ± 7.1 |' in page
  assert '| ∞ | 1 | 40 | 0.95 | – |' in page
  assert '| real images |  |  | 0.98 | 0.5 |' in page
  assert '| epsinf/seed_1 | ∞ | 0 | 40 | finished, not evaluated |' in page
  assert '![tstr.png](tstr.png)' in page
  assert '- left out: steps.png: no snapshots' in page
  assert 'do not compare' not in page


def test_different_amounts_of_evaluation_are_told_of():
  full = run('b', 4.0, 2.0, fid=score(1.0))
  whole = table(dataclasses.replace(full, name='a', amount='full'), full)
  assert 'different amounts: their scores do not compare' in sweep_table.to_markdown(whole, [], [])


def test_a_sweep_without_scores():
  page = sweep_table.to_markdown(table(run('a', 0.0, math.inf)), [], [])
  assert 'No run has been evaluated.' in page


def test_scores_are_drawn(tmp_path):
  whole = table(run('a', 4.0, 2.0, tstr_lr=score(0.8, 0.9), secondary_accuracy=score(0.9)))
  assert sweep_figures.draw_scores(whole, tmp_path) == ['tstr.png', 'secondary_accuracy.png']
  assert sorted(p.name for p in tmp_path.iterdir()) == ['secondary_accuracy.png', 'tstr.png']


# --- reading -------------------------------------------------------------------------------------


@pytest.fixture
def sweep_dir(tmp_path) -> pathlib.Path:
  """A sweep with one run that was cut short after 25 of 40 steps were charged."""
  RunDir(tmp_path).save_config(
    {'format': sweep_table.FORMAT, 'settings': SETTINGS, 'data': SPEC.to_record()}
  )
  directory = RunDir.open(tmp_path / 'eps2' / 'seed_0', create=True)
  m = mechanism(4.0)
  config = TrainConfig(target_epsilon=2.0, steps=40, batch_size=32, delta=1e-4, seed=0)
  directory.save_config(
    {
      'format': loop.FORMAT,
      **GANPlan(GAN(config, m, SPEC)).to_record(),
      'data': SPEC.to_record(),
      'environment': {},
    }
  )
  ledger = Ledger.open(
    directory.ledger, stages={STAGE: m}, data_fingerprint='of data', identity=directory.identity()
  )
  ledger.charge(25, STAGE)
  return tmp_path


def test_a_run_that_was_cut_short_is_charged_for(sweep_dir):
  (found,) = sweep_table.read(sweep_dir, {'eps2/seed_0': 'the disk was full'}).runs
  assert (found.name, found.charged, found.finished) == ('eps2/seed_0', 25, False)
  assert found.seed_fixed
  assert found.scores == {}
  assert found.reason == 'the disk was full'
  page = sweep_table.to_markdown(sweep_table.read(sweep_dir, {}), [], [])
  assert '| 25 of 40 | not finished |' in page


def test_what_an_unreadable_ledger_says_counts_as_spent(sweep_dir):
  (sweep_dir / 'eps2' / 'seed_0' / 'ledger.jsonl').write_text('{"damaged"')
  (found,) = sweep_table.read(sweep_dir, {}).runs
  assert found.charged == 40
  assert 'all its steps are counted' in (found.reason or '')


@pytest.mark.parametrize(
  'left',
  ['ledger.jsonl',
   *(pytest.param(n, marks=pytest.mark.slow) for n in ('checkpoints', 'generator.safetensors'))],
)  # fmt: skip
def test_a_run_without_its_config_is_refused_and_not_left_out(sweep_dir, left):
  """What it spent would vanish from the total."""
  run = sweep_dir / 'eps2' / 'seed_0'
  ledger = run / 'ledger.jsonl'
  if left == 'checkpoints':
    (run / left).mkdir()
  elif left != ledger.name:
    (run / left).write_bytes(b'')
  if left != ledger.name:
    ledger.unlink()
  (run / 'config.json').unlink()
  with pytest.raises(InputError, match=f'seed_0 holds {left} but no config.json') as caught:
    sweep_table.read(sweep_dir, {})
  assert '\n' not in str(caught.value)


def test_a_place_where_no_run_has_begun_counts_nothing(sweep_dir):
  (sweep_dir / 'eps4' / 'seed_0').mkdir(parents=True)
  (sweep_dir / 'eps4' / 'seed_0' / '.lock').write_text('7')
  assert [run.name for run in sweep_table.read(sweep_dir, {}).runs] == ['eps2/seed_0']


def test_a_directory_of_one_run_is_no_sweep(sweep_dir):
  with pytest.raises(InputError, match=r'expected .* to be the directory of a sweep'):
    sweep_table.read(sweep_dir / 'eps2' / 'seed_0', {})
