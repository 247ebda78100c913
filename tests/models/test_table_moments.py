"""Releases of tables: what they cost, how far a row moves them, what is drawn, and its verdict."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables import generated
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.settings import MEANS, SECONDS
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.models.moments.tables import choice, mixture, pairwise, partition, smoothing
from dpgan_jax.models.moments.tables import encoding as table_encoding
from dpgan_jax.models.moments.tables.encoding import TableEncoding
from dpgan_jax.models.moments.tables.rows import Rows
from dpgan_jax.models.moments.tables.shrinkage import counted, slices
from dpgan_jax.privacy.releases import marginals
from dpgan_jax.run import generator_file, plan
from tests.support import random_tables, tables

SECRET = bytes(range(32))
NO_TARGET = Schema(columns=tables.PEOPLE.columns[:6])


def _moments(data: TableDataset, epsilon: float = math.inf, **changes) -> settings.Moments:
  return settings.make(TrainConfig(target_epsilon=epsilon, delta=1e-5, **changes), data.spec)


def _released(data, moments, secret=SECRET) -> tuple[Means, np.ndarray]:
  return release.release_both(moments.encoding.encode(data.records), data.labels, moments, secret)


def _model(data, epsilon: float, secret=SECRET, **changes) -> MomentsSynthesizer:
  moments = _moments(data, epsilon, **changes)
  return MomentsSynthesizer(moments, *_released(data, moments, secret))


def _table(records, labels, schema=generated.PEOPLE) -> TableDataset:
  """Checks that rows are in their domain."""
  return TableDataset(
    records=records, labels=labels.astype(np.int32), schema=schema, name='drawn', partial=True
  )


@pytest.fixture(autouse=True, scope='module')
def few_steps():
  """A fifth of the steps: samples are as good as these tests ask for."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(mixture, 'fit', functools.partial(mixture.fit, steps=600))
    yield


@pytest.fixture(scope='module')
def people() -> TableDataset:
  return generated.people()


@pytest.fixture(scope='module')
def few() -> TableDataset:
  """300 rows of every kind of column, in two classes."""
  return tables.people(300, seed=0)


@pytest.fixture(scope='module')
def exact(people) -> MomentsSynthesizer:
  """Of people with hardly any noise; smaller than it would be, which takes a fifth of the time."""
  model = _model(people, 1000.0, moments_coefficients=10)
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(table_encoding, '_MOST_COMPONENTS', 50)
    assert model.model
  return model


@pytest.fixture(scope='module')
def private(few) -> MomentsSynthesizer:
  return _model(few, 4.0, seed=5, moments_coefficients=6)


# --- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize('epsilon', [0.1, 1.0, 8.0])
@pytest.mark.parametrize('share', [None, 0.5])
def test_both_releases_cost_what_was_asked_for(few, epsilon, share):
  moments = _moments(few, epsilon, moments_means_share=share)
  assert 0.99 * epsilon < moments.budget.epsilon() <= epsilon
  assert set(moments.budget.stages) == {MEANS, SECONDS}
  for mechanism in moments.stages.values():
    assert mechanism.batch_size == mechanism.num_examples == 300
    assert (mechanism.steps, mechanism.l2_clip_norm) == (1, 1)
  first, second = (moments.stages[name].noise_multiplier for name in (MEANS, SECONDS))
  one = math.sqrt(1 / (1 / first**2 + 1 / second**2))  # a single Gaussian release of that cost
  assert one == pytest.approx(moments.noise_multiplier)
  assert (one / first) ** 2 == pytest.approx(
    share or {0.1: 0.6, 1.0: 0.6, 8.0: 0.6}[epsilon], 1e-3
  )


@hypothesis.given(
  table=random_tables.tables(), kept=st.floats(0, 1), bins=st.integers(1, 8),
  seed=st.integers(0, 99),
)  # fmt: skip
@hypothesis.settings(max_examples=60)
def test_one_row_moves_each_release_by_exactly_one(table, kept, bins, seed):
  """In units of the noise, of all classes together: its own alone moves, whatever the row, and
  whichever pairs are counted. Which ones, scores say that `test_pairs` is about.
  """
  spec = dataclasses.replace(table.spec, num_records=5)
  moments = settings.make(
    TrainConfig(target_epsilon=math.inf, moments_coefficients=bins), spec
  )
  row = min(int(kept * len(table)), len(table) - 1)
  codes = moments.encoding.encode(table.records)
  others = np.arange(len(table)) != row
  nothing = Means(np.zeros(table.num_classes), np.zeros((table.num_classes, moments.dim)))
  columns = len(table.schema.modelled)
  kinds = np.random.default_rng(seed).integers(0, 3, (columns, columns))
  together = np.triu(kinds == 2, 1) & (table.num_classes > 1)
  of_a_row = int(together.sum() + np.triu(kinds == 1).sum())
  moved, pairs = [], []
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(choice, 'choose', lambda *_: (together, np.triu(kinds == 1)))
    for chosen in (np.ones(len(table), bool), others):
      own = codes[chosen], table.labels[chosen]
      moved.append(release.release_means(*own, moments, SECRET))
      # Whatever the first release was: it only says which cells go together.
      pairs.append(release.release_seconds(*own, nothing, moments, SECRET))
  sums = (moved[0].sums - moved[1].sums) / math.sqrt(columns)
  assert np.linalg.norm(sums) == pytest.approx(1)
  upper = np.triu(pairs[0] - pairs[1])
  assert np.linalg.norm(upper) / math.sqrt(max(of_a_row, 1)) == pytest.approx(float(of_a_row > 0))
  assert np.flatnonzero(np.abs(sums).sum(axis=1)).tolist() == [table.labels[row]]
  assert (moved[0].counts - moved[1].counts).tolist() == [
    k == table.labels[row] for k in range(table.num_classes)
  ]


def test_pairs_are_counted_in_the_cells_that_the_model_reads(people):
  """Those that follow from the one-way counts as released, noise and all: pairs of two columns
  then add up to the rows of each cell.
  """
  moments = _moments(people, 1.0)
  encoding, codes = moments.encoding, moments.encoding.encode(people.records)
  assert isinstance(encoding, TableEncoding)
  means = release.release_means(codes, people.labels, moments, SECRET)
  groups = encoding.release_seconds(
    codes, people.labels, means, 2, noise_multiplier=0.0, secret=SECRET, purpose='one'
  )
  columns = slices(encoding.sizes)
  counted_pairs = counted(groups, encoding.sizes)
  assert counted_pairs.any(axis=(1, 2)).tolist() == [True, True, False]  # without noise, of each
  for k, i, j in np.argwhere(counted_pairs):
    own = encoding.within(means)[i][codes[people.labels == k, i]]
    block = groups[k][columns[i], columns[j]]
    np.testing.assert_array_equal(
      block.sum(axis=1), np.bincount(own, minlength=encoding.sizes[i])
    )


def test_cells_follow_from_what_a_file_keeps_of_counts(people, monkeypatch):
  """Float32: of 100,000 rows it leaves out half of the units that noise is drawn in."""
  seen, honest = [], smoothing.of_classes
  monkeypatch.setattr(
    smoothing, 'of_classes', lambda counts, noise: (seen.append(counts), honest(counts, noise))[1]
  )
  encoding = _moments(people, 1.0).encoding
  assert isinstance(encoding, TableEncoding)
  sums = 1e5 + np.random.default_rng(0).integers(0, 2**20, (2, encoding.dim)) / 2**10
  kept = sums.astype(np.float32).astype(float)
  assert (kept != sums).any()
  for counts in (sums, kept):
    encoding.within(Means(sums.sum(axis=1), counts))
  first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
  assert first
  assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_numbers_are_smoothed_but_not_what_is_missing_and_classes_of_categories_alone(people):
  encoding = _moments(people, 1.0).encoding
  assert isinstance(encoding, TableEncoding)
  sums = np.random.default_rng(0).normal(50, 9, (2, encoding.dim)).astype(np.float32).astype(float)
  parts = np.split(sums, np.cumsum(encoding.fine_sizes)[:-1], axis=1)
  smooth = [column.counts for column in encoding._columns(Means(sums.sum(axis=1), sums))]
  assert any(cells.column.nullable for cells in encoding.fine)
  for cells, before, after in zip(encoding.fine, parts, smooth, strict=True):
    if cells.column.is_category:
      np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0))
      assert np.ptp(after, axis=0).sum() < np.ptp(before, axis=0).sum()
      continue
    first = int(cells.column.nullable)
    np.testing.assert_array_equal(after[:, :first], before[:, :first])
    assert (after[:, first:] != before[:, first:]).all() or before.shape[1] - first < 8


def test_values_within_coarse_cells_are_of_smoothed_counts(people):
  """Nearer to the real ones than counts with all their noise; of numbers, mean over 5 releases."""
  moments, off = _moments(people, 0.3, moments_coefficients=2), []
  encoding, codes = moments.encoding, moments.encoding.encode(people.records)
  assert isinstance(encoding, TableEncoding)
  noise = encoding.noise(moments.stages[MEANS].noise_multiplier)[1] * math.sqrt(2)
  numbers = [i for i, cells in enumerate(encoding.fine) if cells.count > 30]
  assert len(numbers) > 1
  for secret in range(5):
    means, seconds = release.release_both(codes, people.labels, moments, bytes([secret]) * 32)
    rows = MomentsSynthesizer(moments, means, seconds).model
    assert isinstance(rows, Rows)
    parts = np.split(means.sums.sum(axis=0), np.cumsum(encoding.fine_sizes)[:-1])
    for i in numbers:
      within = encoding.within(means)[i]
      real = partition.shares_within(
        np.bincount(codes[:, i], minlength=len(within)) + 1e-9, within, 0.0
      )
      raw = partition.shares_within(parts[i], within, noise)
      largest = int(np.bincount(people.labels).argmax())
      off.append([np.abs(found - real).sum() for found in (rows.shares[i][largest], raw)])
  ours, without = np.mean(off, axis=0)
  assert ours < 0.8 * without


def test_noise_is_that_of_the_mechanisms_and_of_each_class_its_own(few):
  """Of no rows. With n draws a deviation is off by 1/√(2n): five of them are allowed."""
  moments = _moments(few, 1.0)
  nothing = np.zeros((0, 7), np.int64), np.zeros(0, np.int32)
  means = release.release_means(*nothing, moments, SECRET)
  first = math.sqrt(7) * moments.stages[MEANS].noise_multiplier
  assert moments.encoding.noise(moments.stages[MEANS].noise_multiplier)[1] == pytest.approx(first)
  seconds, sizes = release.release_seconds(*nothing, means, moments, SECRET), moments.encoding.sizes
  of_a_row = np.triu(counted(seconds, sizes).any(axis=0)).sum()
  assert of_a_row > 3
  second = math.sqrt(of_a_row / 0.9) * moments.stages[SECONDS].noise_multiplier  # scores get 0.1
  drawn = np.triu(seconds)
  for values, deviation in ((means.sums, first), (drawn[drawn != 0], second)):
    assert abs(values.std() / deviation - 1) < 5 / math.sqrt(2 * values.size)
  for values in (means.sums, drawn[:2]):
    assert (values[0] != values[1])[values[0] != 0].mean() > 0.99
  both = drawn[0] != 0
  assert abs(np.corrcoef(drawn[0][both], drawn[1][both])[0, 1]) < 5 / math.sqrt(both.sum())


def test_the_number_of_rows_has_the_noise_that_is_said(few):
  """40 counts of nothing: within five standard errors, 5/√80 = 56 %."""
  moments = _moments(few, 1.0)
  nothing = np.zeros((0, 7), np.int64), np.zeros(0, np.int32)
  found = [
    release.release_means(*nothing, moments, bytes([number]) * 32).counts for number in range(20)
  ]
  said = moments.encoding.noise(moments.stages[MEANS].noise_multiplier)[0]
  assert 0.44 < np.std(found) / said < 1.56


# --- what is public -------------------------------------------------------------------------------


def test_how_fine_numbers_are_counted_is_public(few, people):
  """The same for any rows of one schema and N; finer for more rows and a larger ε."""
  other = dataclasses.replace(few, records=few.records[::-1].copy(), labels=few.labels[::-1].copy())
  constant = dataclasses.replace(few, records=np.repeat(few.records[:1], 300, axis=0))
  for epsilon in (0.1, 1.0, 100.0):
    made = [_moments(data, epsilon) for data in (few, other, constant)]
    assert made[0] == made[1] == made[2]
    assert made[0].encoding.sizes == made[2].encoding.sizes
  details = [_moments(people, epsilon).detail for epsilon in (0.1, 1.0, 10.0, math.inf)]
  assert details == sorted(details)
  assert details[0] == 10
  assert details[-1] == 20
  assert _moments(people, 1.0, moments_coefficients=3).detail == 3


def _of_numbers(columns: int, num: int, **changes: float) -> settings.Moments:
  """Of a table of so many real columns and two classes, at ε = 1."""
  wide = Schema(
    columns=(
      *(Column(name=f'x{i}', kind='real', lower=0, upper=1) for i in range(columns)),
      Column(name='y', kind='categorical', categories=('no', 'yes')),
    ),
    target='y', declared_public=True,
  )  # fmt: skip
  spec = Spec.of_schema(wide, num_records=num, name='wide')
  return settings.make(TrainConfig(target_epsilon=1.0, delta=1e-5, **changes), spec)


def test_cells_are_as_many_as_noise_of_two_way_counts_lets_be_seen():
  """Twice the columns have twice the noise; what one-way counts get, two-way counts lack."""
  assert [_of_numbers(c, 24_000).detail for c in (14, 21, 28, 56)] == [20, 12, 10, 10]
  assert [_of_numbers(28, n).detail for n in (12_000, 24_000, 36_000, 48_000)] == [10, 10, 14, 19]
  fewer = [_of_numbers(28, 24_000, moments_means_share=share).detail for share in (0.1, 0.5, 0.8)]
  assert fewer == sorted(fewer, reverse=True)
  assert fewer[0] > fewer[-1]


def test_wide_tables_have_coarser_cells():
  wide = Schema(
    columns=tuple(Column(name=f'x{i}', kind='real', lower=0, upper=1) for i in range(100))
  )
  spec = Spec.of_schema(wide, num_records=10**9, name='wide')
  moments = settings.make(TrainConfig(target_epsilon=1.0, delta=1e-10), spec)
  assert moments.detail == 15
  assert moments.encoding.second_dim == 1500


@pytest.mark.parametrize('changes', [{'moments_coefficients': 4096}, {}])
def test_more_pairs_of_cells_than_memory_holds_are_refused(changes):
  many = tuple(str(i) for i in range(20 if changes else 9000))
  schema = Schema(
    columns=(
      *(Column(name=f'x{i}', kind='real', lower=0, upper=1) for i in range(9)),
      Column(name='c', kind='categorical', categories=many),
      Column(name='ill', kind='categorical', categories=('no', 'yes')),
    ),
    target='ill',
  )
  spec = Spec.of_schema(schema, num_records=1000, name='wide')
  with pytest.raises(_validate.InputError, match='more pairs than can be counted') as caught:
    settings.make(TrainConfig(target_epsilon=1.0, **changes), spec)
  assert '\n' not in str(caught.value)


def test_a_record_of_the_settings_reads_back(few):
  moments = _moments(few, 2.0, moments_coefficients=11, moments_means_share=0.3)
  record = json.loads(json.dumps(moments.to_record()))
  assert settings.read(record, few.spec) == moments
  with pytest.raises(_validate.InputError, match='over all 299 records'):
    settings.read(record, dataclasses.replace(few.spec, num_records=299))


@hypothesis.given(table=random_tables.tables(), bins=st.integers(1, 8), seed=st.integers(0, 99))
@hypothesis.settings(max_examples=60)
def test_values_are_of_the_cells_that_were_drawn(table, bins, seed):
  """Whatever the counts: each coarse cell has a fine one, and what is missing has its own."""
  encoding = TableEncoding(table.schema, bins, 3 * bins, noise_multiplier=seed / 9)
  rng = np.random.default_rng(seed)
  classes = table.num_classes
  means = Means(np.zeros(classes), rng.normal(0, 9, (classes, encoding.dim)))
  within = encoding.within(means)
  for column, joined, size in zip(table.schema.modelled, within, encoding.sizes, strict=True):
    assert np.unique(joined).tolist() == list(range(size))
    assert (np.diff(joined) >= 0).all()
    assert not column.nullable or (joined[1:] > 0).all()
  parts = np.split(means.sums, np.cumsum(encoding.fine_sizes)[:-1], axis=1)
  shares = tuple(
    table_encoding.shares_of_classes(c, w, 0.5) for c, w in zip(parts, within, strict=True)
  )
  nothing = mixture.Mixture(np.ones((1, 1)), np.ones((1, 1)))
  still = pairwise.Pairwise(np.zeros((1, 1)), np.zeros((1, 1, 1)))
  rows = Rows(table.schema, encoding.fine, within, nothing, still, shares)
  assert rows.sizes == encoding.sizes
  found = rng.integers(0, encoding.sizes, (40, len(encoding.sizes)))
  labels = rng.integers(0, classes, 40)
  values = rows._values(found, labels, rng)
  _table(values, np.zeros(40), Schema(columns=table.schema.modelled))
  for cells, joined, drawn, column in zip(
    encoding.fine, within, found.T, values.T, strict=True
  ):
    if not cells.column.is_number:
      np.testing.assert_array_equal(cells.of(column), drawn)
      continue
    first = int(cells.column.nullable)
    assert (np.isnan(column) == (drawn < first)).all()
    low, high = cells._ends
    members = [np.flatnonzero(joined == cell) - first for cell in drawn]
    slack = (cells.column.step or 0) / 2 + 1e-9 * (high[-1] - low[0] + np.abs(high[-1]))
    for value, own in zip(column, members, strict=True):
      assert np.isnan(value) or low[own[0]] - slack <= value <= high[own[-1]] + slack


def test_the_first_release_has_a_smaller_share_where_there_are_more_rows(few):
  found = []
  for num in (100, 1000, 10_000, 100_000, 1_000_000):
    spec = dataclasses.replace(few.spec, num_records=num)
    moments = settings.make(TrainConfig(target_epsilon=1.0, delta=1e-7), spec)
    found.append((moments.noise_multiplier / moments.stages[MEANS].noise_multiplier) ** 2)
  assert found == sorted(found, reverse=True)
  assert (round(found[0], 3), round(found[-1], 3)) == (0.6, 0.1)


# --- drawing --------------------------------------------------------------------------------------


def test_rows_are_in_the_domain_and_in_the_proportions_of_the_counts(exact, people):
  rows, labels = exact.sample(2500, key=jax.random.key(0))
  drawn = _table(rows, labels)
  assert rows.dtype == np.float64
  shares = np.bincount(labels, minlength=2) / 2500
  np.testing.assert_allclose(shares, exact.shares, atol=1.01 / 2500)
  np.testing.assert_allclose(exact.shares, np.bincount(people.labels) / 5000, atol=1e-3)
  skewed = Means(np.array([-5.0, 30.0]), exact.means.sums)  # a count that noise took below zero
  assert dataclasses.replace(exact, means=skewed).shares.tolist() == [0, 1]
  assert (np.diff(labels) != 0).mean() > 0.2  # in no order
  for column, values in zip(drawn.schema.modelled, rows.T, strict=True):
    present = values[~np.isnan(values)]
    assert len(present) == 2500 or column.nullable
    if column.is_number and column.step is not None:
      steps = (present - column.bounds[0]) / column.step
      np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)


@pytest.mark.slow  # the test before it has less noise
def test_however_much_noise_there_is_rows_are_in_the_domain(few):
  model = _model(few, 0.01, moments_coefficients=6)
  rows, labels = model.sample(300, key=jax.random.key(0))
  _table(rows, labels, few.schema)
  assert model.shares.sum() == pytest.approx(1)


def test_the_second_release_follows_from_all_that_the_first_one_says(few, monkeypatch):
  """Of other cells, or of other counts in the same ones, nothing has the same noise: a difference
  of two scores with one noise would be free of it.
  """
  moments, names, honest = _moments(few, 1.0, moments_coefficients=6), [], marginals.with_noise
  monkeypatch.setattr(
    marginals, 'with_noise', lambda *args: names.append(args[-1]) or honest(*args)
  )
  encoding, codes = moments.encoding, moments.encoding.encode(few.records)
  assert isinstance(encoding, TableEncoding)
  place = next(i for i, cells in enumerate(encoding.fine) if cells.column.is_category)
  counts = np.full((2, moments.dim), 20.0)
  other = counts.copy()
  other[:, sum(encoding.fine_sizes[:place])] += 50
  both = [Means(np.full(2, 99.0), sums) for sums in (counts, other)]
  for one, two in zip(*(encoding.within(means) for means in both), strict=True):
    np.testing.assert_array_equal(one, two)
  for means in both:
    release.release_seconds(codes, few.labels, means, moments, SECRET)
  assert len({*names}) == len(names) == 8  # scores, counts of two classes, and of both


@pytest.mark.parametrize('k', [1, 3])
def test_pairs_are_chosen_by_the_noise_they_get_and_numbers_are_counted_again(few, monkeypatch, k):
  """A person's rows have k times as much; what has more fine cells than coarse ones is counted."""
  schema, given = few.schema, []
  if k > 1:
    columns = Column(name='who', kind='id'), *schema.columns
    schema = dataclasses.replace(
      schema, columns=columns, unit_column='who', max_rows_per_unit=k
    )
  spec = Spec.of_schema(schema, num_records=300, name='made')
  moments = settings.make(TrainConfig(target_epsilon=1.0, delta=1e-5), spec)
  encoding, honest = moments.encoding, choice.choose
  assert isinstance(encoding, TableEncoding)
  monkeypatch.setattr(choice, 'choose', lambda *args: given.append(args) or honest(*args))
  codes = encoding.encode(few.records)
  _, seconds = release.release_both(codes, few.labels, moments, SECRET)
  ((*_, deviation, alone),) = given
  second = moments.stages[SECONDS].noise_multiplier
  assert deviation == pytest.approx(k * second / math.sqrt(0.9))
  finer = [cells.count > size for cells, size in zip(encoding.fine, encoding.sizes, strict=True)]
  assert alone.tolist() == finer
  assert any(finer)
  known = counted(seconds, encoding.sizes)[:2].any(axis=0)
  assert np.diagonal(known).tolist() == finer


def test_counts_of_nothing_but_noise_are_released_all_the_same(few):
  """One-way counts in the billions of billions: what is compared with is bounded, not refused."""
  moments = _moments(few, 0.01, moments_coefficients=6)
  codes = moments.encoding.encode(few.records)
  huge = Means(np.full(2, 1e20), np.full((2, moments.dim), 1e20))
  seconds = release.release_seconds(codes, few.labels, huge, moments, SECRET)
  assert np.isfinite(seconds).all()
  assert seconds.any()


def test_one_way_shares_are_the_real_ones(people, exact):
  """Of 5,000 rows, by a sample of as many: five standard errors of both, √(2·p(1 - p)/5,000)."""
  rows, _ = exact.sample(5000, key=jax.random.key(1))
  for number, column in enumerate(people.schema.modelled):
    if not column.is_category:
      continue
    count = len(column.categories)
    real, found = (
      np.bincount(each[:, number].astype(int), minlength=count) / 5000
      for each in (people.records, rows)
    )
    off = np.abs(real - found) / np.sqrt(2 * np.maximum(real * (1 - real), 1e-4) / 5000)
    assert off.max() < 5


def test_classes_can_be_asked_for_and_keys_repeat(private):
  wanted = np.array([1, 1, 0, 1, 0])
  rows, labels = private.sample(5, labels=wanted, key=jax.random.key(3))
  again, _ = private.sample(5, labels=wanted, key=jax.random.key(3))
  other, _ = private.sample(5, labels=wanted, key=jax.random.key(4))
  assert labels.tolist() == wanted.tolist()
  np.testing.assert_array_equal(rows, again)
  assert (rows != other).any()
  with pytest.raises(_validate.InputError, match='labels'):
    private.sample(1, labels=np.array([2]), key=jax.random.key(0))
  with pytest.raises(_validate.InputError, match='clearest'):
    private.sample(4, clearest=0.5, key=jax.random.key(0))


def test_values_can_be_given(exact):
  """All rows have them; and what goes with them follows: the rich are of other regions."""
  given = {'region': '08', 'smoker': 'yes', 'outcome': 'high'}
  rows, labels = exact.sample_given(400, given, key=jax.random.key(0))
  drawn = _table(rows, labels)
  names = [column.name for column in drawn.schema.modelled]
  assert (rows[:, names.index('region')] == 5).all()
  assert (rows[:, names.index('smoker')] == 1).all()
  assert (labels == 1).all()
  means = []
  for region in ('08', '11'):  # the richest and the poorest
    rows, _ = exact.sample_given(1000, {'region': region}, key=jax.random.key(1))
    means.append(rows[:, names.index('education')].mean())
  assert means[0] > means[1] + 0.3
  for wrong in ({'nothing': 1}, {'region': '99'}, {'age': 17}, {'id': 1}):
    with pytest.raises(_validate.InputError, match=next(iter(wrong))):
      exact.sample_given(5, wrong, key=jax.random.key(0))


def test_a_classifier_learns_from_rows_what_it_learns_from_real_ones(people, exact):
  """Of people, with little noise: the AUROC of a logistic regression is at most 0.03 lower."""
  from sklearn.linear_model import LogisticRegression
  from sklearn.metrics import roc_auc_score

  test = generated.people('test')
  drawn = exact.sample(5000, key=jax.random.key(0))
  found = {}
  for name, (records, labels) in {
    'real': (people.records, people.labels), 'drawn': drawn,
  }.items():  # fmt: skip
    judge = LogisticRegression(max_iter=300).fit(_features(records), labels)
    score = judge.predict_proba(_features(test.records))[:, 1]
    found[name] = roc_auc_score(test.labels, score)
  assert found['real'] > 0.83
  assert found['drawn'] > found['real'] - 0.03


def _features(records: np.ndarray) -> np.ndarray:
  """Numbers to about [0, 1]; missing values and categories one by one."""
  parts = []
  for column, values in zip(generated.PEOPLE.modelled, records.T, strict=True):
    if column.is_category:
      parts.append(np.eye(len(column.categories))[values.astype(int)])
      continue
    low, high = column.bounds
    missing = np.isnan(values)
    scaled = (np.where(missing, low, values) - low) / (high - low)
    parts.append(np.stack([scaled, np.sqrt(scaled), missing], axis=1))
  return np.concatenate(parts, axis=1)


def test_a_table_without_a_target(few):
  records = few.records[:, :5]
  data = TableDataset(
    records=records, labels=np.zeros(300, np.int32), schema=NO_TARGET, name='people'
  )
  model = _model(data, 5.0)
  assert not model.is_conditional
  rows, labels = model.sample(50, key=jax.random.key(0))
  assert labels is None
  assert rows.shape == (50, 5)
  found = verdict.judge(model.means, model.seconds, model.moments)
  assert found is not None
  assert found.signal == math.inf
  assert found.level in verdict.LEVELS


# --- verdict --------------------------------------------------------------------------------------


def _judged(data, epsilon: float, secret=SECRET) -> verdict.Verdict:
  moments = _moments(data, epsilon)
  found = verdict.judge(*_released(data, moments, secret), moments)
  assert found is not None
  return found


@pytest.mark.parametrize('number', range(2))
def test_people_are_worth_it_and_shuffled_or_few_rows_are_not(people, number):
  secret = bytes([number]) * 32
  assert _judged(people, 1.0, secret).level != 'useless'
  rng = np.random.default_rng(number)
  shuffled = dataclasses.replace(people, labels=rng.permutation(people.labels))
  found = _judged(shuffled, 1.0, secret)
  assert found.level == 'useless'
  assert 'do not stand out of the noise' in found.sentence
  assert _judged(tables.people(50, seed=number), 0.1, secret).level == 'useless'


def test_what_is_expected_grows_with_rows_and_epsilon(few, people):
  levels = [
    verdict.LEVELS.index(verdict.expected(_moments(people, epsilon)))
    for epsilon in (0.001, 0.1, 1.0, 10.0, math.inf)
  ]
  assert levels == sorted(levels)
  assert (levels[0], levels[-1]) == (0, 3)
  assert verdict.expected(_moments(few, 0.1)) == 'useless'
  assert '300 records of 7 columns in 2 classes are few' in verdict.advice(_moments(few, 0.1))


# --- files and other methods ----------------------------------------------------------------------


def test_a_file_draws_the_same_and_holds_no_seed_and_no_secret(private, tmp_path):
  path = tmp_path / 'model.safetensors'
  generator_file.save(private, path)
  again = generator_file.load(path)
  assert again.spec == private.spec
  assert again.epsilon() == private.epsilon()
  assert again.config.seed is None
  assert private.config.seed == 5
  assert isinstance(again, MomentsSynthesizer)
  np.testing.assert_allclose(again.seconds, private.seconds, rtol=1e-6)
  assert isinstance(again.moments.encoding, TableEncoding)
  of_file, released = (m.moments.encoding.within(m.means) for m in (again, private))
  assert all(np.array_equal(one, other) for one, other in zip(of_file, released, strict=True))
  generator_file.save(again, path)
  once_more = generator_file.load(path)  # of what is in the file; the first was of more digits
  drawn = [model.sample(40, key=jax.random.key(0)) for model in (again, once_more)]
  for one, other in zip(*drawn, strict=True):
    np.testing.assert_array_equal(one, other)
  content = path.read_bytes()
  assert SECRET not in content
  assert SECRET.hex().encode() not in content
  length = int.from_bytes(content[:8], 'little')
  record = json.loads(json.loads(content[8 : 8 + length])['__metadata__']['dpgan_jax'])
  assert record['config']['seed'] is None
  assert 'purpose' not in json.dumps(record)


def test_a_file_of_other_cells_is_refused(private, tmp_path, monkeypatch):
  monkeypatch.setattr(partition, 'VERSION', 'of counts with all their noise')
  generator_file.save(private, tmp_path / 'model.safetensors')
  monkeypatch.undo()
  with pytest.raises(_validate.InputError, match='counts other pairs of cells than this version'):
    generator_file.load(tmp_path / 'model.safetensors')


def test_a_gan_of_a_table_is_refused(few):
  config = TrainConfig(target_epsilon=1.0, steps=10, batch_size=10)
  with pytest.raises(_validate.InputError, match='moments') as caught:
    plan.make(config, few.spec)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('option', [{'image_size': '28'}, {'channels': 1}])
def test_settings_of_images_are_refused_with_tables(option):
  with pytest.raises(_validate.InputError, match='image_size and channels'):
    datasets.load_dataset('people', **option)


@pytest.mark.slow  # test_mixture fits single columns
def test_a_single_column_goes_with_its_target():
  """There is no pair of columns then: all that is known of it are one-way counts of classes."""
  truth = np.arange(2000) % 2
  schema = Schema(
    columns=tuple(Column(name=n, kind='categorical', categories=('p', 'q')) for n in 'xy'),
    target='y',
  )
  data = _table(truth[:, np.newaxis].astype(np.float64), truth, schema)
  rows, labels = _model(data, 1.0).sample(1000, key=jax.random.key(0))
  assert (rows[:, 0] == labels).mean() > 0.95


def test_rows_move_to_the_counts_that_stand_out_of_noise(few, monkeypatch):
  """Hardly any noise, so to all of them; ten products alone are far from them."""
  given, of_mixture = [], []
  fit, marginals_of = pairwise.fit, mixture.marginals
  monkeypatch.setattr(
    pairwise, 'fit', lambda ones, pairs, *rest: given.append(pairs) or fit(ones, pairs, *rest)
  )
  monkeypatch.setattr(
    mixture, 'marginals', lambda *args: of_mixture.append(marginals_of(*args)) or of_mixture[-1]
  )
  moments = _moments(few, 1e5, moments_coefficients=10)
  means, seconds = _released(few, moments)
  monkeypatch.setattr(table_encoding, '_MOST_COMPONENTS', 10)
  assert MomentsSynthesizer(moments, means, seconds).model
  columns = np.repeat(np.arange(len(moments.encoding.sizes)), moments.encoding.sizes)
  apart = columns[:, None] != columns
  known = apart & counted(seconds, moments.encoding.sizes)[:, columns[:, None], columns]
  assert known.sum() > 200
  away = lambda pairs: np.abs(pairs - seconds)[known].sum() / seconds[known].sum()  # noqa: E731
  (pairs,), (mixed, *_) = given, of_mixture
  assert away(pairs) < 0.01 < 0.03 < away(means.counts.sum() * mixed[1])
