"""The alarm on copies: of rows that were copied, and of none that was not."""

from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation.tables import copies
from tests.support.tables import PEOPLE, coins, people, some

TRAIN, HELD_OUT, FRESH = (people(n, seed=seed) for seed, n in enumerate((1500, 900, 700)))


def mixed(share: float, *, jitter: float = 0.0) -> TableDataset:
  """Fresh rows, of which a share are copies of training rows, costs changed a little."""
  count = int(share * len(FRESH))
  records, labels = FRESH.records.copy(), FRESH.labels.copy()
  records[:count], labels[:count] = TRAIN.records[:count], TRAIN.labels[:count]
  records[:count, 6] = np.minimum(records[:count, 6] + jitter, 1e6)
  return dataclasses.replace(FRESH, records=records, labels=labels)


def look(synthetic: TableDataset, **kwargs) -> copies.Copies:
  return copies.look(synthetic, TRAIN, HELD_OUT, **kwargs)


@pytest.mark.parametrize(('share', 'jitter'), [(1.0, 0), (0.3, 0), (0.1, 0), (0.3, 100.0)])
def test_copies_are_seen(share, jitter):
  found = look(mixed(share, jitter=jitter))
  assert found.alarm
  assert found.sentence.startswith('ALARM, copies of training rows')
  assert found.near_share >= share * 0.99
  if not jitter:
    assert found.equal_share == pytest.approx(share, abs=0.01)
  assert found.train_share > 0.9


@pytest.mark.parametrize('seed', range(6))
def test_fresh_rows_are_no_copies(seed):
  found = look(people(700, seed=100 + seed))
  assert not found.alarm
  assert found.equal_share == found.held_out_equal_share == 0
  assert found.sentence.startswith('No sign of copies')


def test_copies_of_held_out_rows_are_no_copies():
  found = look(some(HELD_OUT, slice(0, 700)))
  assert not found.alarm
  assert found.train_share < 0.05
  assert found.median_to_held_out == 0 < found.median_to_train


def test_one_row_again_and_again_is_no_evidence():
  # Near to one training row by chance, many times over: it is one row that is pointed at.
  found = look(some(TRAIN, np.zeros(500, int)))
  assert found.many_near
  assert 'but of the 1 real rows' in found.sentence
  assert found.pointed_at == 1
  assert not found.alarm
  assert found.distinct_share == 1 / 500


@pytest.mark.parametrize('seed', range(4))
def test_a_table_that_repeats_itself_raises_no_alarm(seed):
  # 32 kinds of rows: nearly every fresh row equals a training row, and every one a held-out row.
  rng = np.random.default_rng(seed)
  train, held_out, made = (coins(rng.integers(0, 2, (n, 5))) for n in (3000, 300, 800))
  found = copies.look(made, train, held_out)
  assert found.equal_share == found.held_out_equal_share == 1
  assert not found.alarm


def test_chance_has_no_favourite():
  # The share of training rows among those pointed at is what it is by chance, n / (n + m), over
  # many draws, also of unequal sizes and with repeated rows. Standard error below 0.01.
  shares = []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    train, held_out, made = (coins(rng.integers(0, 3, (n, 6)), sides=3) for n in (400, 100, 300))
    found = copies.look(made, train, held_out, seed=seed)
    shares.append(found.train_share - found.train_chance)
  assert abs(np.mean(shares)) < 0.03


@hypothesis.given(seed=st.integers(0, 999), share=st.sampled_from([0, 0.05, 0.1, 0.5]))
@hypothesis.settings(max_examples=15)
def test_the_alarm_agrees_with_its_intervals(seed, share):
  found = copies.look(
    mixed(share), some(TRAIN, slice(0, 500)), some(HELD_OUT, slice(0, 400)), queries=300, seed=seed
  )
  assert found.near_interval[0] <= found.near_share <= found.near_interval[1]
  assert found.train_interval[0] <= found.train_share <= found.train_interval[1]
  beyond = (
    found.near_interval[0] > found.fresh_interval[1]
    and found.train_interval[0] > found.train_chance
  )
  assert found.alarm == beyond == found.sentence.startswith('ALARM')
  assert found.to_json()['alarm'] == beyond


def test_gower_by_hand():
  columns = PEOPLE.modelled
  a = [30, 50.0, 0, 1, 0, 11000, 0]
  rows = np.array([
    [60, 50.0, 0, 1, 0, 11000, 0],  # 30 of 120 years
    [30, np.nan, 0, 1, 0, 11000, 0],  # a missing weight
    [30, 50.0, 3, np.nan, 1, 11000, 5e5],  # three categories and half the costs
  ])  # fmt: skip
  for row, expected in zip(rows, (0.25, 1, 3.5), strict=True):
    found, index = copies.nearest(np.array([a]), row[np.newaxis], columns)
    assert found[0] == pytest.approx(expected / 7)
    assert index[0] == 0
    back, _ = copies.nearest(row[np.newaxis], np.array([a]), columns)
    assert back[0] == found[0]
  missing = rows[1:2]
  assert copies.nearest(missing, missing, columns)[0][0] == 0


def test_nearest_in_blocks_is_nearest(monkeypatch):
  a, b = TRAIN.records[:50], HELD_OUT.records[:60]
  whole = copies.nearest(a, b, PEOPLE.modelled)
  monkeypatch.setattr(copies, '_AT_ONCE', 100)
  for one, other in zip(whole, copies.nearest(a, b, PEOPLE.modelled), strict=True):
    np.testing.assert_array_equal(one, other)


def test_few_are_compared_where_there_are_many(monkeypatch):
  monkeypatch.setattr(copies, '_WORK', 1e6)
  found = look(mixed(1.0), queries=100)
  assert found.train_rows + found.held_out_rows == pytest.approx(1000, abs=1)
  assert found.train_chance == pytest.approx(1500 / 2400, abs=0.01)
  assert found.queries == 100
  assert found.alarm
