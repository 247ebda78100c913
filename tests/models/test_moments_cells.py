"""Classes of images in cells: how they are found, what is released of them, what is drawn."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import jax
import numpy as np
import pytest

from dpgan_jax import train
from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import denoise, release, settings
from dpgan_jax.models.moments.encoding import Cells, Means, weights
from dpgan_jax.models.moments.images import matching
from dpgan_jax.models.moments.images.cells import cell_of, release_cells
from dpgan_jax.models.moments.images.encoding import ImageEncoding, drawn_cell
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.run import generator_file, trainer
from experiments.trust import moments_checks

CONFIG = TrainConfig(
  dataset='digits', target_epsilon=8.0, delta=1e-4, moments_coefficients=9, moments_cells=2,
  num_samples=40, seed=0,
)  # fmt: skip


def _two_shapes(n: int = 400) -> ImageDataset:
  """Of each of two classes, bright on one side or on the other; the classes differ in contrast."""
  rng = np.random.default_rng(0)
  labels, side = np.arange(n) % 2, rng.integers(0, 2, n)
  images = np.zeros((n, 6, 6, 1))
  bright = 250 - 100 * labels
  for i in range(n):
    images[i, :, 3 * side[i] : 3 * side[i] + 3, 0] = bright[i]
  images = np.clip(images + rng.normal(0, 4, images.shape), 0, 255).astype(np.uint8)
  return ImageDataset(
    name='made', images=images, labels=labels.astype(np.int32), num_classes=2,
    class_names=('a', 'b'),
  )


def _exact(data: ImageDataset, **changes) -> MomentsSynthesizer:
  config = TrainConfig(target_epsilon=math.inf, moments_coefficients=12, moments_cells=2, **changes)
  moments = settings.make(config, data.spec)
  codes = moments.encoding.encode(data.images)
  released = release.release_both(codes, data.labels, moments, bytes(32))
  return MomentsSynthesizer(moments, *released)


def test_a_class_of_two_shapes_is_drawn_as_two_and_not_as_what_lies_between():
  """One Gaussian has most of its draws between them: grey on both sides."""
  data = _two_shapes()

  def between(model: MomentsSynthesizer) -> float:
    images, _ = model.sample(200, key=jax.random.key(0))
    left, right = (images[:, :, part].mean(axis=(1, 2, 3)) for part in (slice(3), slice(3, 6)))
    return float((np.abs(left - right) < 60).mean())

  model = _exact(data)
  assert between(model) < 0.01
  alone = settings.make(model.config.replace(moments_cells=1), data.spec)
  codes = alone.encoding.encode(data.images)
  both = release.release_both(codes, data.labels, alone, bytes(32))
  assert between(MomentsSynthesizer(alone, *both)) > 0.2
  assert model.means.cells is not None
  codes = model.moments.encoding.encode(data.images)
  cell = cell_of(codes, data.labels, model.means.cells)
  np.testing.assert_array_equal(cell // 2, data.labels)
  np.testing.assert_allclose(
    np.bincount(cell, minlength=4), model.means.cells.counts.ravel(), atol=1e-3
  )
  away = codes - model.means.cells.centres.reshape(4, -1)[cell]
  rms = math.sqrt(np.square(away).sum(axis=1).mean())
  # What is left within cells is so little here that the least there may be takes its place.
  assert rms < float(model.means.cells.distance) == pytest.approx(0.2 * model.means.scale, rel=1e-3)


def test_the_distance_within_cells_follows_from_sums():
  rng = np.random.default_rng(0)
  codes = rng.normal(size=(3000, 4)) + 2 * rng.choice([-1.0, 1.0], (3000, 1))
  labels = np.zeros(3000, np.int64)
  centre = codes.mean(axis=0, keepdims=True)

  def exact(number, own, cell, found):
    del number
    members = [cell == g for g in range(len(found))]
    return np.array([m.sum() for m in members]), np.stack([own[m].sum(axis=0) for m in members])

  distance = math.sqrt(np.square(codes - centre).sum(axis=1).mean())
  about = {'noise': (0.0, 0.0), 'distance': distance}
  cells = release_cells(codes, labels, centre, 2, exact, **about)
  away = codes - cells.centres[0][cell_of(codes, labels, cells)]
  rms = math.sqrt(np.square(away).sum(axis=1).mean())
  assert float(cells.distance) == pytest.approx(rms, rel=0.01)
  assert rms < 0.6 * distance


def test_a_code_is_in_the_nearest_cell_of_its_class_that_there_is():
  rng = np.random.default_rng(1)
  counts = np.array([[5.0, 0.0, 2.0, 9.0], [1.0, 1.0, 0.0, 0.0]])
  centres = rng.normal(size=(2, 4, 3))
  codes, labels = rng.normal(size=(50, 3)), rng.integers(0, 2, 50)
  found = cell_of(codes, labels, Cells(counts, centres, np.float32(1)))
  for code, k, cell in zip(codes, labels, found, strict=True):
    alive = [c for c in range(4) if counts[k, c] > 0]
    nearest = min(alive, key=lambda c: float(np.square(code - centres[k, c]).sum()))
    assert cell == 4 * k + nearest


def test_cells_that_noise_hides_are_none_and_the_largest_stays():
  data = _two_shapes(40)
  codes = _exact(data).moments.encoding.encode(data.images)

  def told(number, own, cell, found):
    del number, own, cell
    return np.array([30.0, 2.0, -4.0, 1.0]), np.zeros_like(found)

  about = {'noise': (1.0, 0.1), 'distance': 3.0}
  cells = release_cells(codes, data.labels, codes[:2], 2, told, **about)
  assert cells.counts.tolist() == [[30.0, 0.0], [0.0, 1.0]]
  assert set(cell_of(codes, data.labels, cells)) == {0, 3}


def test_cells_are_drawn_as_often_as_they_are_large():
  ends = np.cumsum([[0.5, 0.0, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0]], axis=1).astype(np.float32)
  labels = np.arange(20_000) % 2
  found = np.asarray(drawn_cell(jax.numpy.asarray(labels), ends, jax.random.key(0)))
  shares = np.bincount(found, minlength=8) / 10_000
  # Five deviations of a share of 10,000.
  np.testing.assert_allclose(shares, [0.5, 0, 0.3, 0.2, 0, 1, 0, 0], atol=0.025)
  assert shares[1] == shares[4] == shares[6] == shares[7] == 0


def test_a_cell_that_noise_hides_has_the_covariance_of_its_class():
  wide, tall = np.diag([9.0, 1.0, 1.0]), np.diag([1.0, 1.0, 9.0])
  counts = np.array([1e6, 5.0, 1e6, 5.0])
  seconds = np.stack([1e6 * wide, 5 * np.eye(3), 1e6 * tall, 5 * np.eye(3)])
  found = denoise.covariances(counts, seconds, 20.0, np.ones(3), cells=2)
  for cell, of_class in ((1, wide), (3, tall)):
    shape = found[cell] / np.trace(found[cell])
    np.testing.assert_allclose(shape, of_class / np.trace(of_class), atol=1e-3)


def test_what_is_released_is_charged_and_follows_from_itself():
  moments_checks.what_an_image_is_part_of_is_charged()
  moments_checks.cells_follow_from_what_was_released()
  moments_checks.one_record_moves_moments_by_one()


def test_a_class_that_noise_hides_changes_no_other():
  """Its centres were noise, which counted as distance between cells: none was left within."""
  rng = np.random.default_rng(0)
  codes = rng.normal(size=(1001, 20))
  labels = np.append(np.zeros(1000, np.int64), 1)
  found, noise = [], (5.0, 5.0)

  def told(number, own, cell, centres):
    del number
    counts = np.bincount(cell, minlength=len(centres)) + rng.normal(0, noise[0], len(centres))
    sums = np.stack([own[cell == g].sum(axis=0) for g in range(len(centres))])
    return counts, sums + rng.normal(0, noise[1], sums.shape)

  for _ in range(20):
    cells = release_cells(
      codes, labels, np.zeros((2, 20)), 2, told, noise=noise, distance=math.sqrt(20)
    )
    away = codes[:1000] - cells.centres[0][cell_of(codes, labels, cells)[:1000]]
    found.append(float(cells.distance) / math.sqrt(np.square(away).sum(axis=1).mean()))
    assert np.abs(cells.centres[1]).max() == 0  # where its class was
  np.testing.assert_allclose(found, 1, atol=0.03)


def test_no_cell_is_of_nobody_where_there_is_no_noise():
  codes, labels = np.random.default_rng(0).normal(size=(41, 3)), np.append(np.zeros(40, int), 1)

  def exact(number, own, cell, found):
    del number
    members = [cell == g for g in range(len(found))]
    return np.array([m.sum() for m in members]), np.stack([own[m].sum(axis=0) for m in members])

  about = {'noise': (0.0, 0.0), 'distance': 1.0}
  cells = release_cells(codes, labels, codes[[0, 40]], 4, exact, **about)
  sizes = np.bincount(cell_of(codes, labels, cells), minlength=8)
  assert sorted(cells.counts[1].tolist()) == [0, 0, 0, 1]
  assert (sizes > 0).sum() == (cells.counts > 0).sum()


def test_sums_around_other_cells_have_other_noise():
  """Another machine may find centres that differ in their last digits."""
  own = settings.make(CONFIG, datasets.load_dataset('digits').spec).encoding
  none, labels = np.zeros((0, 9)), np.zeros(0, np.int64)  # all that is seen is noise
  about = {'noise_multiplier': 1.0, 'secret': bytes(32), 'purpose': 'check'}
  means, centres = [], np.zeros((2, 9))
  for at in (centres, centres, centres + 2.0**-20):
    with mock.patch.object(ImageEncoding, 'centres', return_value=at):
      means.append(own.release_means(none, labels, 2, **about))
  found = [one.cells for one in means]
  assert (found[0].centres == found[1].centres).all()
  assert (found[0].distance == found[1].distance).all()
  assert (found[0].counts != found[2].counts)[found[0].counts > 1].all()
  last_digit = found[0]._replace(distance=np.nextafter(found[0].distance, np.float32(9)))
  same = dataclasses.replace(means[0], cells=last_digit)
  with mock.patch.object(ImageEncoding, 'bound_of_products', return_value=1.0):
    seconds = [own.release_products(none, labels, m, **about) for m in (means[0], same)]
  assert (seconds[0] != seconds[1]).all()


@pytest.mark.parametrize('steps', [None, 1])
def test_covariances_are_of_cells_around_their_centres(steps):
  data = datasets.load_dataset('digits')
  config = CONFIG.replace(target_epsilon=math.inf, matching_steps=steps, moments_cells=4)
  moments = settings.make(config, data.spec)
  encoded = moments.encoding.encode(data.images)
  means, seconds = release.release_both(encoded, data.labels, moments, bytes(32))
  own = moments.encoding
  codes = encoded if steps is None else own.along(means.axes).codes_of(encoded)
  cell = cell_of(codes, data.labels, means.cells)
  around = codes - means.cells.centres.reshape(-1, 9)[cell]
  most = min(own.reach * means.scale, 1.2 * float(means.cells.distance))
  lengths = np.linalg.norm(around, axis=1, keepdims=True)
  assert 0.05 < (lengths > most).mean() < 0.5
  around *= most / np.maximum(lengths, most)
  for g, second in enumerate(seconds):
    np.testing.assert_allclose(second, around[cell == g].T @ around[cell == g], atol=0.05)
  within = codes - np.stack([codes[data.labels == k].mean(axis=0) for k in range(10)])[data.labels]
  assert own.variances(means, seconds).sum() == pytest.approx(within.var(axis=0).sum(), rel=0.15)
  if steps is None:
    made = own.model(means, seconds, (0.0, 0.0))
    shares = made.sizes.ravel() / made.sizes.sum()
    spread = math.sqrt(shares @ np.square(made.factors).sum(axis=(1, 2)))
    assert spread == pytest.approx(float(means.cells.distance), rel=1e-3)


def test_few_records_have_no_cells_however_few_coefficients():
  """All but one would be hidden by the noise of their counts."""
  spec = datasets.load_dataset('digits').spec
  assert settings.make(CONFIG.replace(moments_cells=None), spec).cells == 1


def test_models_are_told_of_cells_as_they_were_released(monkeypatch):
  """Sizes, noise of covariances by the cells' own bound, and noise in a class's count."""
  data = _two_shapes()
  encoding = settings.make(
    TrainConfig(target_epsilon=math.inf, moments_coefficients=12, moments_cells=2), data.spec
  ).encoding
  counts = np.array([[30.0, 90.0], [150.0, 50.0]], np.float32)
  cells = Cells(counts, np.zeros((2, 2, 12), np.float32), np.float32(0.5))
  means = Means(np.array([120.0, 200.0]), np.zeros((2, 12)), 3.0, cells=cells)
  told = []

  def watched(*arguments):
    told.append(arguments)
    return covariances(*arguments)

  covariances = denoise.covariances
  monkeypatch.setattr(denoise, 'covariances', watched)
  found = encoding.model(means, np.stack([np.eye(12)] * 4), (0.0, 2.0))
  np.testing.assert_array_equal(found.sizes, counts)
  assert told[0][2] == pytest.approx(2.0 * (1.2 * 0.5) ** 2)  # in units of what a record adds
  assert (told[0][0], told[0][4]) == (pytest.approx(counts.ravel()), 2)
  # An eighth for the common mean and 0.12 for each of three rounds; the rest is the class's.
  in_count = weights(12)[1]
  assert encoding.noise(2.0)[0] == pytest.approx(2.0 / math.sqrt(1 - 0.125 - 0.36) / in_count)


def test_noise_in_centres_is_no_distance_between_cells():
  """Centres that noise alone sets apart: all of the distance is within."""
  rng, dim, noise = np.random.default_rng(0), 50, 40.0
  codes, labels = rng.normal(size=(400, dim)), np.arange(400) % 2
  drawn = []

  def noisy(number, own, cell, found):
    del number, own, cell
    drawn.append(noise * rng.normal(size=found.shape))
    return np.full(len(found), 100.0), drawn[-1] if len(drawn) == 1 else np.zeros_like(found)

  about = {'noise': (1.0, noise), 'distance': 10.0}
  cells = release_cells(codes, labels, np.zeros((2, dim)), 2, noisy, **about)
  moved = np.square(cells.centres).sum(axis=2).mean()
  assert moved > 5  # 50·0.4²: of a squared distance of 100
  assert float(cells.distance) == pytest.approx(10.0, abs=0.2)


# --- settings -------------------------------------------------------------------------------------


def test_classes_are_divided_where_noise_and_records_allow_it():
  def cells(n: int, epsilon: float) -> int:
    spec = Spec(num_records=n, shape=(28, 28, 1), class_names=tuple('abcdefghij'), name='made')
    config = TrainConfig(target_epsilon=epsilon, delta=1e-5)
    moments = settings.make(config, spec)
    assert settings.read(moments.to_record(), spec) == moments
    return moments.cells

  assert [cells(60_000, epsilon) for epsilon in (1.0, 4.0, 8.0, 10.0, 30.0)] == [1, 1, 8, 8, 16]
  assert cells(10_000, 10.0) == 1
  assert cells(5000, math.inf) == 1  # so few of a cell would be known too well


def test_the_plan_says_how_many():
  for cells, said in ((2, ', in 2 parts of each class'), (1, 'numbers of a record')):
    moments = settings.make(
      CONFIG.replace(moments_cells=cells), datasets.load_dataset('digits').spec
    )
    assert train._describe(moments, 'cpu')['is released of'].endswith(said)


def test_a_release_of_before_has_no_cells():
  moments = settings.make(CONFIG.replace(moments_cells=1), datasets.load_dataset('digits').spec)
  record = moments.to_record()
  del record['cells']
  assert settings.read(record, moments.spec) == moments
  for wrong in (2.0, 0, '2'):
    with pytest.raises(InputError, match='expected moments_cells'):
      settings.read(record | {'cells': wrong}, moments.spec)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'moments_cells': 3}, 'expected moments_cells to be a power of two'),
    ({'moments_cells': 8, 'moments_coefficients': 3}, 'expected moments_cells to be a power of'),
    ({'target_epsilon': 0.01}, 'expected moments_cells to be one, as classes have one covariance'),
    ({'dataset': 'people'}, 'expected no moments_cells with a table, got 2'),
  ],
)
def test_other_numbers_of_cells_are_refused(changes, said):
  config = CONFIG.replace(**changes)
  with pytest.raises(InputError, match=said):
    settings.make(config, datasets.load_dataset(config.dataset).spec)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures('short_curve')
def test_a_run_keeps_them_and_its_model_draws_the_same(tmp_path):
  digits = datasets.load_dataset('digits')
  model = trainer.train(CONFIG, digits, tmp_path / 'run', progress=False).model
  assert isinstance(model, MomentsSynthesizer)
  assert isinstance(model.moments, Moments)
  assert model.means.cells is not None
  assert model.means.cells.centres.shape == (10, 2, 9)
  images, labels = model.sample(30, key=jax.random.key(1))
  restored = trainer.restore_model(tmp_path / 'run').model
  generator_file.save(model, tmp_path / 'model.safetensors')
  for other in (restored, generator_file.load(tmp_path / 'model.safetensors')):
    again, same = other.sample(30, key=jax.random.key(1))
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same)


def test_a_generator_matches_what_all_cells_of_a_class_have_together():
  data = _two_shapes()
  model = _exact(data, matching_steps=1)
  gaussians: matching.Gaussians = model.moments.encoding.model(model.means, model.seconds, (0, 0))
  arrays = matching._arrays(gaussians)
  module, labels = matching._module(gaussians), jax.numpy.zeros(4000, jax.numpy.int32)
  params = matching._init(module, gaussians.encoding, jax.random.key(0))
  _, codes = matching._drawn(module, params, arrays, labels, jax.random.key(1))
  codes = np.asarray(codes)
  scale = float(np.sqrt(np.trace(arrays.covariances[0])))
  np.testing.assert_allclose(codes.mean(axis=0), arrays.means[0], atol=0.08 * scale)
  found = np.cov(codes.T)
  np.testing.assert_allclose(found, arrays.covariances[0], atol=0.08 * scale**2)
  one = dataclasses.replace(gaussians, sizes=np.array([[1.0, 0.0], [0.0, 1.0]]))
  np.testing.assert_allclose(matching._arrays(one).means, gaussians.means[[0, 3]], rtol=1e-5)
