"""The measurements on series: the page is that of the record, baselines are what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dpgan_jax.data.series.generated import VITALS, vitals
from experiments import pages
from experiments.series import make_page, rcgan, recurrent
from experiments.series.codes import Codes

FEW = vitals('test').part(np.arange(300), partial=True)


def test_the_committed_page_is_that_of_the_committed_record():
  assert make_page.PAGE.read_text('utf-8') == make_page.page(pages.read_json(make_page.RECORD))


def test_stays_come_back_from_what_networks_see():
  codes = Codes(VITALS)
  seen = codes.encode(FEW.records)
  assert seen.shape == (len(FEW), VITALS.grid.steps, codes.size)
  low, high = np.array([channel.range for channel in VITALS.channels]).T
  static, values = VITALS.split(FEW.records)
  wanted = VITALS.join(static, np.clip(values, low, high))
  np.testing.assert_allclose(codes.decode(seen), wanted, atol=1e-3)


@pytest.mark.slow  # an LSTM and its per-example gradients take half a minute to compile
def test_stays_of_the_recurrent_gan_are_of_the_schema_and_cost_what_was_asked():
  synthetic, about = rcgan.made(FEW, 1.0, 0, steps=4)
  assert about['noise_multiplier'] > 0
  assert 0.9 < about['spent'] <= 1.0
  assert synthetic.records.shape == FEW.records.shape
  assert sorted(synthetic.labels) == sorted(FEW.labels)
  static, values = VITALS.split(synthetic.records)
  for columns, found in ((VITALS.static, static), (VITALS.channels, values.reshape(-1, 5))):
    for column, x in zip(columns, found.T, strict=True):
      low, high = (0, len(column.categories) - 1) if column.is_category else column.bounds
      assert column.nullable or not np.isnan(x).any()
      assert ((x >= low) & (x <= high) | np.isnan(x)).all()


@pytest.mark.slow  # compiled twice: with the outcome, and without
def test_the_recurrent_network_sees_an_outcome_that_is_there():
  train, test = vitals(), vitals('test')
  found = recurrent.auroc(train, test)
  shuffled = np.random.default_rng(0).permutation(train.labels)
  assert found > 0.75
  assert abs(recurrent.auroc(dataclasses.replace(train, labels=shuffled), test) - 0.5) < 0.15
