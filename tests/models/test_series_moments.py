"""Moments of series: summaries and back, what they keep, and the exact bounds of the release."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data.series.generated import VITALS, vitals
from dpgan_jax.data.series.schema import Channel, Grid, SeriesSchema
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict
from dpgan_jax.models.moments.series_encoding import SeriesEncoding
from dpgan_jax.models.moments.series_summaries import Pattern, Summaries
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from experiments.trust import series_checks

TRAIN = vitals()


def made(data: TableDataset, epsilon: float, **changes) -> MomentsSynthesizer:
  moments = settings.make(TrainConfig(target_epsilon=epsilon, **changes), data.spec)
  codes, secret = moments.encoding.encode(data.records), bytes(32)
  means = release.release_means(codes, data.labels, moments, secret)
  seconds = release.release_seconds(codes, data.labels, means, moments, secret)
  return MomentsSynthesizer(moments, means, seconds)


@pytest.mark.parametrize(
  'check',
  [
    series_checks.noise_of_series_is_charged, series_checks.parts_have_noise_of_their_own,
    series_checks.one_sequence_moves_sums_by_one, series_checks.scores_follow_from_the_release,
    series_checks.summaries_are_public,
  ],
)  # fmt: skip
def test_the_release_is_what_is_charged(check):
  check()


def test_rebuilt_sequences_have_the_summaries_they_are_built_of():
  summaries = Summaries(VITALS, 3)
  rows = summaries.of(TRAIN.records[:500])
  channels = len(VITALS.channels)
  nothing = Pattern(np.ones((channels, 24)), np.zeros((channels, 24)), np.zeros(channels))
  again = summaries.of(summaries.decode(rows, nothing, np.random.default_rng(0)))
  columns = {c.name: i for i, c in enumerate(summaries.table.columns)}
  for name in ('pulse (rate)', 'lactate (rate)', 'age', 'sex'):
    place = columns[name]
    np.testing.assert_allclose(again[:, place], rows[:, place], atol=1e-9)
  for name, least in (('pulse (level)', 0.95), ('oxygen (level)', 0.95), ('pulse (shape 1)', 0.6)):
    known = ~np.isnan(rows[:, columns[name]]) & ~np.isnan(again[:, columns[name]])
    a, b = rows[known, columns[name]], again[known, columns[name]]
    assert np.corrcoef(a, b)[0, 1] > least


def test_without_noise_samples_are_like_what_was_released():
  model = made(TRAIN, math.inf)
  records, labels = model.sample(4000, key=jax.random.key(0))
  assert labels is not None
  assert abs(labels.mean() - TRAIN.labels.mean()) < 0.01
  (static, values), (own_static, own) = VITALS.split(TRAIN.records), VITALS.split(records)
  np.testing.assert_allclose(
    np.isnan(own).mean((0, 1)), np.isnan(values).mean((0, 1)), atol=0.02
  )
  spread = np.nanstd(values, axis=(0, 1))
  means = np.nanmean(values, axis=0), np.nanmean(own, axis=0)
  assert np.abs((means[0] - means[1]) / spread).mean() < 0.1
  assert abs(static[:, 0].mean() - own_static[:, 0].mean()) < 1
  # What tells classes apart: the pulse, in spreads.
  apart = [
    np.nanmean(v[y == 1, :, 0]) - np.nanmean(v[y == 0, :, 0])
    for v, y in ((values, TRAIN.labels), (own, labels))
  ]
  assert abs(apart[0] - apart[1]) < 0.25 * apart[0]
  # A deviation lasts as long.
  lasting = [np.nanmean(np.diff(v[:, :, 0], axis=1) ** 2) for v in (values, own)]
  assert 0.6 < lasting[1] / lasting[0] < 1.6


def test_defaults_hold_on_other_series():
  """Many steps of one channel, nothing missing, no classes and no static columns; few records."""
  schema = SeriesSchema(
    channels=(
      Channel(name='volt', kind='real', lower=-5, upper=5, resolution=0.001, typical=(-1.5, 1.5)),
    ),
    grid=Grid(steps=140),
  )  # fmt: skip
  rng = np.random.default_rng(0)
  beats = np.sin(np.arange(140) / 20 + rng.normal(0, 0.2, (300, 1)))
  data = TableDataset(
    records=np.round(beats + 5, 3) - 5, labels=np.zeros(300, np.int32), schema=schema, name='beats'
  )
  model = made(data, 2.0, delta=1e-4)
  records, labels = model.sample(200, key=jax.random.key(0))
  assert labels is None
  assert records.shape == (200, 140)
  assert not np.isnan(records).any()
  TableDataset(records=records, labels=np.zeros(200, np.int32), schema=schema, name='s')
  best = made(data, math.inf)
  found = best.sample(200, key=jax.random.key(0))[0]
  assert np.abs(found.mean(axis=0) - beats.mean(axis=0)).mean() < 0.15
  with pytest.raises(InputError, match='given values only of a table'):
    best.sample_given(3, {'volt': 1}, key=jax.random.key(0))


def test_a_class_without_records_is_no_error():
  data = TRAIN.part(TRAIN.labels == 0, partial=True)
  records, _ = made(data, 5.0).sample(20, key=jax.random.key(0))
  assert np.isfinite(VITALS.split(records)[0][:, 0]).all()


def test_the_verdict_grows_with_epsilon_and_sees_shuffled_classes():
  found = []
  for epsilon in (0.05, 1.0, 20.0):
    model = made(TRAIN, epsilon)
    judged = verdict.judge(model.means, model.seconds, model.moments)
    assert judged is not None
    found.append(verdict.LEVELS.index(judged.level))
  assert found == sorted(found)
  assert found[0] < found[-1] == 3
  labels = np.random.default_rng(0).permutation(TRAIN.labels)
  model = made(dataclasses.replace(TRAIN, labels=labels), 1.0)
  judged = verdict.judge(model.means, model.seconds, model.moments)
  assert judged is not None
  assert judged.level == 'useless'


def test_settings_are_refused_that_no_series_has():
  spec = Spec.of_schema(VITALS, num_records=4000, name='vitals')
  with pytest.raises(InputError, match='moments_coefficients'):
    settings.make(TrainConfig(target_epsilon=1.0, moments_coefficients=24), spec)
  moments = settings.make(TrainConfig(target_epsilon=1.0), spec)
  assert isinstance(moments.encoding, SeriesEncoding)
  assert settings.read(moments.to_record(), spec).encoding == moments.encoding
