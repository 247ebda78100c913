"""The model of many chips: it gives back what it was fitted to; the page is of the records."""

from __future__ import annotations

import itertools

import pytest

from experiments import pages
from experiments.benchmarks import scaling

PROFILE = pages.read_json(pages.RESULTS / 'profile.json')
TPU = pages.read_json(pages.RESULTS / 'tpu.json')

def test_the_page_is_that_of_the_records():
  assert (pages.RESULTS / 'DEVICES.md').read_text('utf-8') == scaling.page()


def test_what_was_fitted_is_given_back_and_the_rest_is_near():
  rows = scaling.foretold(PROFILE, scaling.fitted(PROFILE))
  assert sum(row['fitted'] for row in rows) == 3
  for row in rows:  # forward alone is no step; machines differ in what it is of one
    near = 1e-9 if row['fitted'] else 1.0 if row['program'] == 'losses' else 0.35
    assert row['model'] == pytest.approx(row['measured'], rel=near)


def test_parts_of_a_step_by_hand():
  chip = scaling.Chip(100.0, 10.0, 400.0, 4.0, 0.5)
  one = scaling.step_seconds(1, chip, (2.0, 1.0), 10, 400.0, sharded_noise=False)
  batch = scaling.BATCH
  assert one == {
    'examples': pytest.approx(batch * (2 / 100 + 1 / 10)), 'noise': 10.0, 'optimizer': 28.0,
    'between chips': 0.0,
  }  # fmt: skip
  four = scaling.step_seconds(4, chip, (2.0, 1.0), 10, 400.0, sharded_noise=True)
  assert four['examples'] == pytest.approx(one['examples'] / 4)
  assert (four['noise'], four['optimizer']) == (2.5, 7.0)
  assert four['between chips'] == 80 * 3 / 4 / 4.0 + 4 * 2 * 0.5


def test_more_chips_are_faster_and_less_efficient_and_shared_noise_is_never_worse():
  found = scaling.curves(PROFILE, TPU)
  for rows in found.values():
    assert rows[0]['efficiency'] == 1.0
    for fewer, more in itertools.pairwise(rows):
      assert more['seconds'] < fewer['seconds']
      assert more['efficiency'] < fewer['efficiency']
  for what in ('counted for a TPU', 'counted for a CPU', 'no bytes'):
    whole, shared = (found[f'{where}, {what}'] for where in
                     ('noise on every chip', 'noise shared out'))  # fmt: skip
    assert all(s['seconds'] <= w['seconds'] for s, w in zip(shared, whole, strict=True))
