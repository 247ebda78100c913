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
from dpgan_jax.data.tables.cells import Cells
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column
from dpgan_jax.evaluation.series import courses
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict
from dpgan_jax.models.moments.series.encoding import SeriesEncoding
from dpgan_jax.models.moments.series.profile import Scale
from dpgan_jax.models.moments.series.scores import Scores
from dpgan_jax.models.moments.series.summaries import Course, Summaries, oftener
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from experiments.trust import series_checks

TRAIN = vitals()


def made(data: TableDataset, epsilon: float, **changes) -> MomentsSynthesizer:
  moments = settings.make(TrainConfig(target_epsilon=epsilon, **changes), data.spec)
  codes, secret = moments.encoding.encode(data.records), bytes(32)
  return MomentsSynthesizer(moments, *release.release_both(codes, data.labels, moments, secret))


@pytest.mark.parametrize(
  'check',
  [
    series_checks.noise_of_series_is_charged, series_checks.parts_have_noise_of_their_own,
    series_checks.one_sequence_moves_sums_by_one, series_checks.scores_follow_from_the_release,
    series_checks.profiles_follow_from_the_release,
    series_checks.values_follow_from_the_released_rates, series_checks.summaries_are_public,
  ],
)  # fmt: skip
def test_the_release_is_what_is_charged(check):
  check()


def test_rebuilt_sequences_have_the_summaries_they_are_built_of():
  summaries = Summaries(VITALS, 3)
  rows = summaries.of(TRAIN.records[:500])
  channels = len(VITALS.channels)
  flat, none = np.zeros((channels, 24)), np.zeros(channels)
  nothing = Course(flat, none, flat, none)
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


@pytest.mark.parametrize(('epsilon', 'means', 'rates'), [(math.inf, 0.07, 0.09), (1.0, 0.13, 0.1)])
def test_every_hour_has_the_mean_and_the_rate_that_were_released(epsilon, means, rates):
  """The release is the same every time, so the errors are too; see `courses.hourly`."""
  model = made(TRAIN, epsilon)
  records, labels = model.sample(3000, key=jax.random.key(0))
  assert labels is not None
  found = courses.hourly(TRAIN, dataclasses.replace(
    TRAIN, records=records, labels=labels.astype(np.int32), partial=True))  # fmt: skip
  assert found[0] < means
  assert found[1] < rates


def test_a_channel_that_is_constant_stays_so():
  """Of cells nearly all is in one; noise in the others must not look like values."""
  schema = SeriesSchema(
    channels=tuple(
      Channel(name=name, kind='real', lower=0, upper=1, nullable=True) for name in ('on', 'level')
    ),
    grid=Grid(steps=12),
  )  # fmt: skip
  rng = np.random.default_rng(0)
  values = np.stack([np.ones((3000, 12)), rng.uniform(size=(3000, 12))], axis=2)
  values[rng.random(values.shape) < 0.5] = np.nan
  data = TableDataset(
    records=schema.join(np.empty((3000, 0)), values), labels=np.zeros(3000, np.int32),
    schema=schema, name='two',
  )  # fmt: skip
  records, _ = made(data, 1.0).sample(500, key=jax.random.key(0))
  own = schema.split(records)[1]
  assert np.nanmean(own[..., 0]) > 0.97
  np.testing.assert_allclose((~np.isnan(own)).mean(axis=(0, 1)), 0.5, atol=0.05)


@pytest.mark.parametrize(('deviations', 'kept'), [(3.0, 0), (5.0, 1)])
def test_of_many_columns_some_have_a_second_heap_by_chance(deviations, kept):
  """Noise of 3 deviations in a bound's cell is there in one of seven hundred; of 5 nowhere."""
  cells = Cells(Column(name='x', kind='real', lower=0, upper=1), 8)
  counts = np.zeros(cells.count)
  counts[[0, -1]] = deviations * 40, 5000.0
  shares = Scores.of_counts([cells], [counts], 5000.0, 40.0, [True]).shares[0]
  assert (shares[0] > 1e-3) == kept
  assert shares[-1] > 0.9
  sure = Scores.of_counts([cells], [counts], 5000.0, 40.0, [False]).shares[0]
  assert sure[0] > 1e-3  # where nothing is in doubt


def test_vectors_of_a_profile_are_what_it_is_read_from():
  """Without noise and clipping, rates and means are those of the records, but for high cosines."""
  summaries = Summaries(VITALS, 1)
  traits = summaries.encode(TRAIN.records)[1]
  channels = len(VITALS.channels)
  scale = Scale(
    summaries.traits, np.array([0.5] * 4 + [1.0]), np.full(channels, 0.4), np.full(channels, 0.4),
    np.full(channels, 0.2), np.zeros(channels), (1.0, 6.0),
  )  # fmt: skip
  n = len(traits)
  rates = scale.rates(scale.vectors_of_rates(traits).sum(axis=0), n, 0.0)
  scale = scale.knowing(rates, n, 0.0)
  total = scale.vectors_of_values(traits).sum(axis=0)
  profile = scale.profile(rates, total, n, 0.0, np.full(channels, 0.4))
  u, mask = summaries.known(VITALS.split(TRAIN.records)[1])
  for found, real in (
    (profile.rate, mask.mean(axis=0)),
    (profile.mean[:3], (u.sum(axis=0) / mask.sum(axis=0))[:3]),
  ):
    np.testing.assert_allclose(found.mean(axis=1), real.mean(axis=1), atol=0.02)
  pulse = (u.sum(axis=0) / mask.sum(axis=0))[0]
  assert np.corrcoef(profile.mean[0], pulse)[0, 1] > 0.9
  # Where noise drowns all, the guess is what is left.
  guess = np.linspace(0.2, 0.6, channels)
  drowned = scale.profile(rates, np.zeros_like(total), n, 1e9, guess)
  np.testing.assert_allclose(drowned.mean, np.repeat(guess[:, np.newaxis], 24, axis=1), atol=1e-6)


def test_of_a_rare_channel_means_and_rates_are_kept():
  """One record in twenty has it, for a few steps: it is released in units of its own."""
  schema = SeriesSchema(
    channels=tuple(
      Channel(name=name, kind='real', lower=0, upper=1, nullable=True) for name in ('all', 'few')
    ),
    grid=Grid(steps=24),
  )  # fmt: skip
  rng, n = np.random.default_rng(0), 8000
  values = np.clip(rng.normal(0.4, 0.1, (n, 24, 2)) + 0.1 * rng.normal(size=(n, 1, 2)), 0, 1)
  values[..., 1] += 0.2
  late = np.linspace(0.02, 0.3, 24)
  values[..., 1][(rng.random((n, 1)) > 0.05) | (rng.random((n, 24)) > late)] = np.nan
  data = TableDataset(
    records=schema.join(np.empty((n, 0)), np.clip(values, 0, 1)), labels=np.zeros(n, np.int32),
    schema=schema, name='rare',
  )  # fmt: skip
  records, _ = made(data, 2.0).sample(n, key=jax.random.key(0))
  own = schema.split(records)[1][..., 1]
  assert abs(np.nanmean(own) - 0.6) < 0.05
  measured = (~np.isnan(own)).mean(axis=0)
  assert 0.8 < measured.mean() / 0.008 < 1.25
  assert measured[12:].mean() > 1.5 * measured[:12].mean()


@pytest.mark.parametrize('nullable', [False, True])
def test_where_nothing_is_missing_nothing_is_in_samples(nullable):
  """Whether or not it might be: rates are then no part of the release, or all 1."""
  schema = SeriesSchema(
    channels=(Channel(name='a', kind='real', lower=0, upper=1, nullable=nullable),),
    grid=Grid(steps=6),
  )  # fmt: skip
  values = np.random.default_rng(0).uniform(0.2, 0.8, (2000, 6))
  data = TableDataset(
    records=values, labels=np.zeros(2000, np.int32), schema=schema, name='whole'
  )  # fmt: skip
  model = made(data, 5.0)
  own = model.sample(500, key=jax.random.key(0))[0]
  assert np.isnan(own).mean() <= (0.02 if nullable else 0)
  assert abs(np.nanmean(own) - 0.5) < 0.05
  parts = model.moments.encoding.parts(1.0)
  assert math.isclose(sum(1 / sigma**2 for sigma in parts), 1)
  assert math.isinf(parts[2]) != nullable


def test_static_values_can_be_given():
  model = made(TRAIN, 50.0)
  records, labels = model.sample_given(
    1500, {'sex': 'male', 'age': 80, 'ill': 'yes'}, key=jax.random.key(0)
  )
  static, ill = VITALS.split(records)[0], VITALS.split(records)[1]
  assert (static[:, 0] == 80).all()
  assert (static[:, 1] == 1).all()
  assert labels is not None
  assert (labels == 1).all()
  # What goes with the values follows: the old are ill more often, and who is ill has a fast pulse.
  well = model.sample_given(1500, {'ill': 'no'}, key=jax.random.key(1))[0]
  assert np.nanmean(ill[..., 0]) > np.nanmean(VITALS.split(well)[1][..., 0]) + 5
  often = []
  for age in (30, 80):
    _, labels = model.sample_given(2000, {'age': age}, key=jax.random.key(2))
    near = np.abs(VITALS.split(TRAIN.records)[0][:, 0] - age) <= 5
    assert labels is not None
    often.append(labels.mean())
    assert abs(often[-1] - TRAIN.labels[near].mean()) < 0.06
  assert often[1] > often[0] + 0.05
  gone, _ = model.sample_given(50, {'ward': 'unknown'}, key=jax.random.key(3))
  assert np.isnan(VITALS.split(gone)[0][:, 2]).all()
  for wrong in ({'pulse': 80}, {'age': 300}, {'sex': 'femal'}):
    with pytest.raises(InputError, match=next(iter(wrong))):
      model.sample_given(5, wrong, key=jax.random.key(0))


def test_shares_of_steps_move_within_their_range():
  share = np.array([0.0, 0.04, 0.5, 1.0])
  np.testing.assert_allclose(oftener(share, 0.0), share)
  for by in (-1.0, 1.0):
    moved = oftener(share, by)
    assert ((moved >= 0) & (moved <= 1)).all()
    assert (np.sign(moved - share)[1:3] == np.sign(by)).all()


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
  with pytest.raises(InputError, match='no given values of sequences without columns'):
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
