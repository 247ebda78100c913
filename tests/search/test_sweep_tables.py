"""Sweeps of tables: the same plan, the same table, what all runs spend; scores of rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dpgan_jax.data.tables.draft import draft_schema
from dpgan_jax.data.tables.files.open import read_open
from dpgan_jax.evaluation import scoring, tasks
from dpgan_jax.search import sweep_figures, sweep_table, sweeping

pytestmark = [pytest.mark.usefixtures('short_curve'), pytest.mark.slow]

AMOUNT = scoring.Amount(tasks.Settings.quick(seed=0), 60, True)
SETTINGS = {
  'dataset': 'table', 'delta': 1e-4, 'num_samples': 20, 'moments_coefficients': 2,
  'schema_epsilon': 0.5,
}  # fmt: skip


def rows(n: int, seed: int) -> dict[str, list]:
  rng = np.random.default_rng(seed)
  ill = rng.integers(0, 2, n)
  return {
    'age': (30 + 20 * ill + rng.integers(0, 20, n)).tolist(),
    'town': rng.choice(['Ulm', 'Bonn'], n).tolist(),
    'ill': np.array(['no', 'yes'])[ill].tolist(),
  }


@pytest.fixture
def tables():
  """600 rows for training and 200 others, of a schema that is still to be found."""
  drafted, _ = draft_schema(rows(600, 0), target='ill')
  return tuple(read_open(rows(n, seed), drafted) for n, seed in ((600, 0), (200, 1)))


def test_a_sweep_of_an_open_table_is_made_and_found_again(tmp_path, capsys, tables, monkeypatch):
  train, test = tables
  runs = sweeping.plan(SETTINGS, [4.0, 8.0], seeds=1)
  sweep = sweeping.open_sweep(str(tmp_path / 'sweep'), runs[0].config.to_dict(), train)
  assert sweeping.make_runs(runs, sweep.path, train, None, AMOUNT) == {}
  table = sweep_table.read(sweep.path, {})
  assert [run.finished for run in table.runs] == [True, True]
  together, private, _ = table.spent_together
  assert private == 2
  assert 8.0 < together <= 12.0
  # The schema was found twice by one mechanism, which may fail twice.
  assert len({run.budget.beside['schema'] for run in table.runs}) == 1
  sweep_figures.write(table, sweep.path)
  page = (sweep.path / 'sweep.md').read_text()
  assert '- models: moments, δ = 0.0001' in page
  assert 'No run has been evaluated.' in page
  capsys.readouterr()
  assert sweeping.make_runs(runs, sweep.path, train, None, AMOUNT) == {}
  assert capsys.readouterr().out.count('was finished already') == 2
  # Each run is scored once on the same rows, and again on others.
  scored = []

  def evaluate(model, train, test, run, **_):
    scored.append(run)
    (run / sweep_table.EVALUATION).write_text('{}')

  monkeypatch.setattr(sweeping, 'evaluate_model', evaluate)
  for others, times in ((test, 2), (test, 2), (train, 4)):
    assert sweeping.make_runs(runs, sweep.path, train, others, AMOUNT) == {}
    assert len(scored) == times


@pytest.mark.slow  # its scores are those of dpgan_jax.evaluate
def test_a_sweep_of_a_table_is_scored_once(tmp_path, capsys, tables):
  train, test = tables
  runs = sweeping.plan(SETTINGS, [4.0, 8.0], seeds=1)
  sweep = sweeping.open_sweep(str(tmp_path / 'sweep'), runs[0].config.to_dict(), train)
  assert sweeping.make_runs(runs, sweep.path, train, test, AMOUNT) == {}
  sweep_figures.write(sweep_table.read(sweep.path, {}), sweep.path)
  assert '| real rows |' in (sweep.path / 'sweep.md').read_text()
  assert {p.name for p in sweep.path.glob('*.png')} == {'tstr_auroc.png', 'marginals.png'}
  record = json.loads((sweep.path / 'sweep.json').read_text())
  by_epsilon = {each['target_epsilon']: each['scores'] for each in record['by_epsilon']}
  assert set(by_epsilon) == {4.0, 8.0}
  assert {'tstr_auroc', 'two_way'} <= set(by_epsilon[8.0])
  capsys.readouterr()
  assert sweeping.make_runs(runs, sweep.path, train, test, AMOUNT) == {}
  assert capsys.readouterr().out.count('was finished already') == 2
