"""The measurements on tables: the page is made of the record, and says what was measured."""

from __future__ import annotations

import multiprocessing
import pathlib
import time

import numpy as np
import pytest

from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables import generated
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import settings
from experiments import pages
from experiments.tables import make_page, measure, peers, wide

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow  # test_table_scores has the scores, the next test the page
def test_a_release_is_scored_beside_real_rows():
  people, test = generated.people(), generated.people('test')
  few = people.part(people.records[:, 0] % 5 == 0, partial=True)
  synthetic, about = measure.made(few, 8.0, 0)
  rows = [
    {'kind': 'real rows', **measure.scored(few, test, columns=False)},
    {'kind': 'moments', 'epsilon': 8.0, 'seed': 0, **about,
     **measure.scored(synthetic, test, columns=False)},
  ]  # fmt: skip
  assert rows[1]['two_way'] > rows[0]['two_way'] / 2
  assert rows[1]['auroc'] > 0.6
  record = {'train': len(few), 'test': len(test), 'delta': 1e-5, 'peak_gib': 1, 'rows': rows}
  choice = [
    {'num_records': 9, 'setting': 'real rows', 'two_way': 0.01, 'auroc': 0.8},
    {'num_records': 9, 'epsilon': 1.0, 'setting': 'moments_coefficients', 'value': 6,
     'expected': 'poor', 'two_way': 0.1, 'auroc': 0.6},
  ]  # fmt: skip
  page = make_page.page(record, {'rows': choice})
  assert '| 9 | 1 | moments_coefficients | 6 | 0.100 | 0.600 | 0.75 | poor |' in page
  assert f'| 8 | dpgan_jax | 1 | {rows[1]["one_way"]:.3f} |' in page
  assert f'| training rows themselves | {rows[0]["one_way"]:.3f} |' in page


def test_the_committed_page_is_that_of_the_committed_record():
  records = map(pages.read_json, make_page.RECORDS)
  assert make_page.PAGE.read_text('utf-8') == make_page.page(*records)


def test_a_wide_table_has_the_dependence_that_is_said():
  table, again = wide.table(3000, 40, 0), wide.table(3000, 40, 0)
  assert (table.records == again.records).all()
  found = wide.dependence(table)
  assert found['neighbours'] > 0.3
  assert found['strangers'] < 0.03
  assert 0.1 < table.labels.mean() < 0.5


def test_a_wide_table_is_on_the_page():
  scores = {'num': 10, 'neighbours': 0.4, 'strangers': 0.01, 'one_way': 0.02, 'two_way': 0.05}
  record = {
    'rows': 100, 'columns': 20, 'epsilon': 1.0, 'minutes': 2.5, 'cpu_minutes': 3.0,
    'minutes_to_draw': 0.5, 'peak_gib': 1.25,
    'tables': {'synthetic rows': {**scores, 'auroc': 0.75}},
  }  # fmt: skip
  rows = {'rows': [], 'train': 1, 'test': 1, 'delta': 1e-5, 'peak_gib': 1}
  page = make_page.page(rows, {'rows': []}, wide=record)
  assert '| synthetic rows | 0.400 | 0.010 | 0.020 | 0.050 | 0.750 |' in page
  assert 'took 2.5 minutes' in page


def test_the_page_says_what_was_reached_and_what_was_not():
  """Beside the best of the tools that ended, by score; time is AIM's, however long that was."""
  scores = ('one_way', 'two_way', 'three_way', 'auroc', 'logistic', 'forest', 'boosting')

  def row(kind: str, seconds: float, two_way: float, auroc: float, **more: float) -> dict:
    found = dict.fromkeys(scores, 0.1) | {'two_way': two_way, 'auroc': auroc, 'best': 'forest'}
    return {'kind': kind, 'epsilon': 1.0, 'seed': 0, 'seconds': seconds, **found, **more}

  said = {'expected': 'good', 'verdict': 'good', 'every_column': 0.8}
  rows = [
    row('AIM (a tool)', 900, 0.03, 0.89, every_column=0.85),
    row('MST (a tool)', 60, 0.05, 0.95, every_column=0.75),
    row('moments', 20, 0.04, 0.9, **said), row('moments', 40, 0.05, 0.92, **said),
    {'kind': 'AIM (a tool)', 'epsilon': 10.0, 'seed': 0, 'seconds': 1200},
    {**row('moments', 30, 0.04, 0.9, **said), 'epsilon': 10.0},
  ]  # fmt: skip
  page = make_page.page(
    {'rows': rows, 'train': 1, 'test': 1, 'delta': 1e-5, 'peak_gib': 1}, {'rows': []}
  )
  assert '| AUROC | 1 | ≥ 0.905 | 0.91 | reached |' in page
  assert '| two-way, beside AIM | 1 | ≤ 0.03 | 0.045 | **not reached** |' in page
  assert '| AUROC, beside MST | 1 | ≥ 0.95 | 0.91 | **not reached** |' in page
  assert '| others, beside AIM | 1 | ≥ 0.85 | 0.8 | **not reached** |' in page
  assert "| AIM's time ÷ ours | 1 | ≥ 5 | 30 | reached |" in page
  assert "| AIM's time ÷ ours, at least | 10 | ≥ 5 | 40 | reached |" in page
  assert '| AUROC | 10 | ≥ 0.915 | 0.9 | **not reached** |' in page


def test_a_tool_that_did_not_end_is_on_the_page():
  rows = [{'kind': 'AIM (a tool)', 'epsilon': 1.0, 'seconds': 1200.4, 'seed': 0}]
  record = {'rows': rows, 'train': 1, 'test': 1, 'delta': 1e-5, 'peak_gib': 1}
  page = make_page.page(record, {'rows': []})
  assert '| 1 | AIM (a tool) | 1 |  |  |  |  |  |  | 1200 | had not ended |' in page


def test_a_tool_that_does_not_end_is_stopped_and_leaves_no_row(tmp_path, monkeypatch):
  codes, out = tmp_path / 'codes.npz', tmp_path / 'made.npz'
  np.savez(codes, codes=np.zeros((5, 3), np.int32))
  monkeypatch.setattr(peers, 'make', _never_ends)
  peers.within(0.01, str(codes), 'aim', 1.0, str(out))
  assert not any(child.is_alive() for child in multiprocessing.active_children())
  with np.load(out) as found:
    assert found['codes'].shape == (0, 3)
    assert 0.5 < found['seconds'] < 60
    assert found['name'] == 'AIM (smartnoise-synth)'


def _never_ends(*args: object) -> None:
  time.sleep(600)


def test_what_is_not_measured_anew_stays():
  rows = [{'kind': kind} for kind in ('moments', 'real rows', 'MST (a tool)')]
  assert measure.not_anew(rows, ours=True, peers=False) == rows[2:]
  assert measure.not_anew(rows, ours=False, peers=True) == rows[:2]
  assert measure.not_anew(rows, ours=True, peers=True) == []


def test_cells_of_the_wide_table_and_of_one_like_adult_are_those_that_are_said():
  """BUILD.md: 6 and 20 cells of a number."""
  built = ' '.join((ROOT / 'BUILD.md').read_text('utf-8').split())
  assert 'the 300 columns of the wide table have 6 cells each, Adult\'s 14 have 20' in built
  for columns, rows, cells in ((300, 180_000, 6), (15, 32_561, 20)):
    spec = Spec.of_schema(wide.schema(columns), num_records=rows, name='wide')
    assert settings.make(TrainConfig(target_epsilon=1.0, delta=1e-6), spec).detail == cells
