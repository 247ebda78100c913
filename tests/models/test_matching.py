"""Generators that match released moments of scattering features: codes, teaching, runs, files."""

from __future__ import annotations

import dataclasses
import math
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dpgan_jax._validate import InputError
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings
from dpgan_jax.models.moments.images import features, matching
from dpgan_jax.models.moments.images.encoding import Gaussians, ImageEncoding
from dpgan_jax.models.moments.images.features import Features
from dpgan_jax.models.moments.images.scattering_encoding import AxesEncoding, ScatteringEncoding
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import generator_file, plan, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases import moments as releases
from experiments.trust import moments_checks

pytestmark = pytest.mark.usefixtures('short_curve')
CONFIG = TrainConfig(
  dataset='digits', target_epsilon=4.0, delta=1e-4, matching_steps=60, moments_coefficients=40,
  num_samples=30, seed=0,
)  # fmt: skip
SHAPE = 8, 8, 1


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, digits):
  path = tmp_path_factory.mktemp('matching') / 'run'
  trainer.train(CONFIG, digits, path, progress=False)
  return path


def images_of(shape: tuple[int, int, int], n: int = 20) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)


# --- codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(8, 8, 1), (9, 11, 3), (28, 28, 1)])
def test_features_are_in_an_orthonormal_basis(shape):
  """So their squares add up to those of the pixels' frequencies and of scattering coefficients."""
  images = images_of(shape, 5)
  found = np.asarray(features._features(jnp.asarray(images / 255), shape))
  height, width, channels = shape
  planes = images / 255.0
  if channels == 3:
    planes = planes @ features.COLOURS.T
  transform = features._transform(shape)
  planes = planes.transpose(0, 3, 1, 2).reshape(-1, height, width)
  coefficients = np.asarray(transform(jnp.asarray(planes, jnp.float32)))[:, 1:]
  coefficients = coefficients / transform.usual[None, 1:, None, None]
  of_scattering = np.square(coefficients).reshape(5, -1).sum(axis=1)
  rows, columns = features._frequencies(shape)
  own = np.square(found[:, rows * columns * channels :]).sum(axis=1)
  np.testing.assert_allclose(own, of_scattering, rtol=1e-4)


def test_where_all_frequencies_are_among_the_features_pixels_come_back():
  images, every = images_of(SHAPE), Features(SHAPE)
  pixels = every.pixels(every.of_records(images).astype(np.float64))
  np.testing.assert_allclose(pixels, images / 255 - 0.5, atol=1e-4)
  # Of many, those that vary most in ellipses.
  assert Features((28, 28, 1)).count == 980
  assert Features((32, 32, 3)).count == 1024


def axes_of(images: np.ndarray, dim: int, **about) -> AxesEncoding:
  """Without noise."""
  encoding = ScatteringEncoding(images.shape[1:], dim, draft_dim=30)
  released = encoding.release_axes(
    encoding.encode(images), secret=bytes(32), purpose='one', noise_multiplier=0.0
  )
  return encoding.along(released._replace(**about))


def test_codes_are_along_the_axes_of_most_variance_of_the_draft(digits):
  images = digits.images[:300]
  own = axes_of(images, 20)
  directions = own.axes.directions
  np.testing.assert_allclose(directions.T @ directions, np.eye(20), atol=1e-5)
  assert (np.diff(own.spectrum) <= 0).all()
  codes = own.encode(images)
  assert np.linalg.norm(codes, axis=1).max() <= own.radius * (1 + 1e-9)
  expected = (own.features.of_records(images) - own.axes.centre) @ directions
  np.testing.assert_allclose(codes, expected, atol=1e-4)
  every = own.features.of_records(images).var(axis=0)
  of_axes, of_features = codes.var(axis=0).sum() / every.sum(), every[:20].sum() / every.sum()
  assert of_axes > 0.7 > 0.4 > of_features  # of 128


@pytest.mark.parametrize('shape', [(13, 11, 1), (19, 23, 1), (9, 7, 3)])
def test_a_code_is_the_same_to_the_last_bit_wherever_its_image_stands(shape):
  """A record that comes or goes moves others in their block: their codes must not see it."""
  images = images_of(shape, 520)
  own = axes_of(images[:40], 60)
  codes = own.encode(images)
  np.testing.assert_array_equal(own.encode(images[1:]), codes[1:])
  np.testing.assert_array_equal(own.encode(images[3:4]), codes[3:4])
  alike = own.encode(np.repeat(images[:1], 510, axis=0))
  assert (alike == alike[0]).all()
  for array, step in ((own.features.of_records(images), 2**16), (own.axes.directions, 2**20)):
    np.testing.assert_array_equal(np.float64(array) * step % 1, 0)  # sums of products are exact


def test_features_can_be_differentiated():
  images, every = images_of(SHAPE), Features(SHAPE)
  np.testing.assert_allclose(every(jnp.asarray(images / 255)), every.of_records(images), atol=1e-4)
  slope = jax.grad(lambda x: every(x)[0, 0])(jnp.asarray(images[:1] / 255))
  assert np.isfinite(slope).all()
  assert np.abs(slope).max() > 0
  black = jax.grad(lambda x: jnp.square(every(x)).sum())(jnp.zeros((1, *SHAPE)))
  assert np.isfinite(black).all()  # where every modulus is zero


def test_the_draft_is_charged_and_axes_follow_from_it_alone():
  """All that one image is part of costs what its stage is charged for."""
  moments_checks.what_an_image_is_part_of_is_charged()
  moments_checks.axes_follow_from_what_was_released()


def test_models_are_told_the_noise_that_there_is(digits, monkeypatch):
  """A tenth of the first stage's cost is the draft's, and 0.45 of that its mean's."""
  moments = settings.make(CONFIG, digits.spec)
  own, sigma = moments.encoding, moments.stages[settings.MEANS].noise_multiplier
  assert isinstance(own, ScatteringEncoding)
  told, right = [], ImageEncoding.model

  def watched(self, means, seconds, sigmas):
    told.append((self.dim, *sigmas))
    return right(self, means, seconds, sigmas)

  monkeypatch.setattr(ImageEncoding, 'model', watched)
  codes = own.encode(digits.images[:200])
  both = release.release_both(codes, digits.labels[:200], moments, bytes(32))
  assert isinstance(own.model(*both, (sigma, 7.0)), Gaussians)
  of_draft = sigma / math.sqrt(0.1)
  wanted = [
    (own.draft_dim, of_draft / math.sqrt(0.45), of_draft / math.sqrt(0.55)),
    (40, sigma / math.sqrt(0.9), 7.0),
  ]
  np.testing.assert_allclose(told, wanted)
  along = own.along(both[0].axes)
  np.testing.assert_allclose(own.noise(sigma, 2.0), along.noise(sigma / math.sqrt(0.9), 2.0))


def test_more_numbers_than_there_are_features_and_images_too_small_are_refused():
  with pytest.raises(InputError, match='dim'):
    ScatteringEncoding(SHAPE, Features(SHAPE).count + 1)
  with pytest.raises(InputError, match=r'expected axes \[128, 20\], got \[128, 3\]'):
    axes_of(images_of(SHAPE), 20, directions=np.zeros((128, 3), np.float32))
  spec = Spec(num_records=100, shape=(2, 2, 1), class_names=('a', 'b'), name='made')
  with pytest.raises(InputError, match='large enough'):
    settings.make(CONFIG.replace(moments_coefficients=None), spec)


# --- teaching ------------------------------------------------------------------------------------


def _errors(gaussians: Gaussians, model) -> tuple[float, float]:
  """How far class means, and covariances, of codes of fresh images are from those asked for."""
  labels = np.arange(1000) % 10
  codes = gaussians.encoding.encode(model.draw(labels, jax.random.key(9)))
  found = np.stack([codes[labels == k].mean(axis=0) for k in range(10)])
  covariances = np.stack([np.cov(codes[labels == k].T) for k in range(10)])
  wanted = np.einsum('kij,klj->kil', gaussians.factors, gaussians.factors)
  far = np.linalg.norm(covariances - wanted, axis=(1, 2)) / np.linalg.norm(wanted, axis=(1, 2))
  return float(np.linalg.norm(found - gaussians.means, axis=1).mean()), float(far.mean())


def test_teaching_brings_moments_nearer_and_a_key_gives_the_same(digits):
  moments = settings.make(CONFIG.replace(target_epsilon=math.inf), digits.spec)
  codes = moments.encoding.encode(digits.images)
  both = release.release_both(codes, digits.labels, moments, bytes(32))
  gaussians = MomentsSynthesizer(moments, *both).model
  assert isinstance(gaussians, Gaussians)
  shares = []
  taught = matching.fit(gaussians, steps=300, key=jax.random.key(0), progress=shares.append)
  assert shares == pytest.approx([n / 6 for n in range(1, 7)])
  of_means, of_covariances = _errors(gaussians, taught)
  assert of_means < 0.6 * _errors(gaussians, gaussians)[0]
  assert of_covariances < _errors(gaussians, gaussians)[1]
  labels = np.arange(20) % 10
  again = matching.fit(gaussians, steps=300, key=jax.random.key(0))
  other = matching.fit(gaussians, steps=300, key=jax.random.key(1))
  images = [m.draw(labels, jax.random.key(2)) for m in (taught, again, other)]
  assert (images[0] == images[1]).all()
  assert (images[0] != images[2]).any()
  _seems_of_its_class(gaussians, taught)


def _seems_of_its_class(gaussians: Gaussians, taught: matching.Matched):
  """By likelihoods as scipy computes them, of covariances with a fifth of their mean added."""
  labels, encoding = np.arange(500) % 10, gaussians.encoding
  assert isinstance(encoding, AxesEncoding)

  def right(codes: np.ndarray) -> float:
    found = []
    for mean, factor in zip(gaussians.means, gaussians.factors, strict=True):
      covariance = factor @ factor.T
      covariance += 0.2 * np.trace(covariance) / len(mean) * np.eye(len(mean))
      found.append(multivariate_normal.logpdf(codes, mean, covariance))
    return float((np.argmax(found, axis=0) == labels).mean())

  arrays, key = matching._arrays(gaussians), jax.random.key(3)
  once, _ = matching._drawn(
    matching._module(gaussians), taught.params, arrays, jnp.asarray(labels), key
  )
  drawn_once = encoding.encode(np.asarray(jnp.round((once + 1) * 127.5), np.uint8))
  drawn_again = encoding.encode(taught.draw(labels, jax.random.key(4)))
  assert right(drawn_once) < right(drawn_again)
  assert right(drawn_again) > 0.98
  # What classes have in common they keep: of ten that are alike no image strays.
  alike = arrays._replace(
    means=arrays.means * 0, factors=jnp.repeat(arrays.factors[:1], 10, axis=0),
    whitening=jnp.repeat(arrays.whitening[:1], 10, axis=0), volumes=arrays.volumes * 0,
  )  # fmt: skip
  _, strayed = matching._judged(
    matching._module(gaussians), encoding.features, taught.params, alike, jnp.asarray(labels),
    jax.random.key(6),
  )  # fmt: skip
  assert not strayed.any()
  likelihoods_are_no_guide = dataclasses.replace(taught)
  likelihoods_are_no_guide.__dict__['_strays'] = 0.2
  images, strayed = matching._judged(
    matching._module(gaussians), encoding.features, taught.params, arrays, jnp.asarray(labels),
    jax.random.fold_in(jax.random.key(5), 0),
  )  # fmt: skip
  assert strayed.any()
  np.testing.assert_array_equal(
    likelihoods_are_no_guide.draw(labels, jax.random.key(5)),
    np.asarray(jnp.round((images + 1) * 127.5), np.uint8),
  )


# --- runs and files ------------------------------------------------------------------------------


def test_a_run_charges_what_it_releases_and_its_generator_reads_back(finished):
  trained = trainer.restore_model(finished)
  planned = plan.read(trained.run.load_config(), trained.run.config)
  assert isinstance(planned, settings.Moments)
  ledger = Ledger.read(
    trained.run.ledger, stages=planned.budget.stages, identity=trained.run.identity()
  )
  assert {s: ledger.charged_steps(s) for s in ledger.stages} == {'moments': 1, 'moments_means': 1}
  assert ledger.epsilon() == trained.model.epsilon() <= 4.0
  of_file = generator_file.load(trained.run.matched)
  drawn = [m.sample(30, key=jax.random.key(0))[0] for m in (trained.model, of_file)]
  assert (drawn[0] == drawn[1]).all()
  assert isinstance(of_file, MomentsSynthesizer)
  assert of_file.network is not None
  assert of_file.moments.config.seed is None  # who knows it can draw the noise
  bare = dataclasses.replace(of_file, network=None)
  assert of_file.num_parameters > bare.num_parameters > 0
  assert (bare.sample(30, key=jax.random.key(0))[0] != drawn[0]).any()
  with pytest.raises(InputError, match='taught to match moments'):
    generator_file.save(bare, finished / 'bare.safetensors')


def test_the_generator_is_of_the_release_alone(finished, tmp_path):
  """Taught again from what the run has published, without the records, it is the same."""
  run = RunDir.open(finished, create=False)
  model = trainer.restore_model(finished).model
  assert isinstance(model, MomentsSynthesizer)
  bare = dataclasses.replace(model, network=None)
  planned = plan.read(run.load_config(), run.config)
  assert isinstance(planned, settings.Moments)
  state = releases._restored(planned, run)
  assert state is not None
  key = jax.random.fold_in(state.sample_key, 2)
  elsewhere = RunDir(tmp_path)
  again = releases.with_network(bare, elsewhere, key, progress=False)
  for one, other in zip(*map(jax.tree.leaves, (again.network, model.network)), strict=True):
    np.testing.assert_array_equal(one, other)


def test_an_interrupted_one_is_taught_anew_and_nothing_is_charged_again(
  digits, finished, tmp_path, monkeypatch
):
  path = tmp_path / 'run'
  with monkeypatch.context() as patched:

    def stopped(*_, **__):
      raise KeyboardInterrupt

    patched.setattr(matching, 'fit', stopped)
    with pytest.raises(KeyboardInterrupt):
      trainer.train(CONFIG, digits, path, progress=False)
  with pytest.raises(InputError, match='no generator yet'):
    trainer.restore_model(path)
  said = run_statement.build(RunDir.open(path, create=False)).verdict
  assert said is not None
  assert said.sentence.startswith('There is no generator yet: let dpgan_jax.train run')
  model = trainer.train(CONFIG, digits, path, progress=False).model
  said = run_statement.build(RunDir.open(path, create=False)).verdict
  assert said is not None
  assert 'no generator' not in said.sentence
  whole = trainer.restore_model(finished).model
  drawn = [m.sample(30, key=jax.random.key(0))[0] for m in (model, whole)]
  assert (drawn[0] == drawn[1]).all()
  assert len((path / 'ledger.jsonl').read_bytes().splitlines()) == 3


def test_a_generator_of_another_run_is_refused(digits, finished, tmp_path):
  path = tmp_path / 'run'
  shutil.copytree(finished, path)
  other = trainer.train(CONFIG.replace(seed=1), digits, tmp_path / 'other', progress=False)
  shutil.copy(other.run.matched, path / 'matched.safetensors')
  for use in (trainer.restore_model, lambda p: trainer.train(CONFIG, digits, p, progress=False)):
    with pytest.raises(InputError, match='does not match what this run has released: delete it'):
      use(path)


def test_a_run_believes_its_own_settings_and_not_those_of_the_file(finished, tmp_path):
  path = tmp_path / 'run'
  shutil.copytree(finished, path)
  saved = generator_file.load(path / 'matched.safetensors')
  assert isinstance(saved, MomentsSynthesizer)
  cheaper = settings.make(CONFIG.replace(target_epsilon=3.0), saved.spec)
  generator_file.save(
    dataclasses.replace(saved, moments=cheaper), path / 'matched.safetensors'
  )
  assert trainer.restore_model(path).model.epsilon() == pytest.approx(4.0, rel=0.01)
  (path / 'matched.safetensors').write_bytes(b'')
  with pytest.raises(InputError, match=r'delete it, and let dpgan_jax\.train make it again'):
    trainer.restore_model(path)


def test_what_has_diverged_is_not_kept(digits, tmp_path, monkeypatch):
  fit = matching.fit

  def broken(*arguments, **about):
    found = fit(*arguments, **{**about, 'steps': 1})
    return dataclasses.replace(found, params=jax.tree.map(lambda p: p * np.nan, found.params))

  monkeypatch.setattr(matching, 'fit', broken)
  with pytest.raises(InputError, match='has diverged'):
    trainer.train(CONFIG, digits, tmp_path / 'run', progress=False)
  assert not (tmp_path / 'run' / 'matched.safetensors').exists()


def test_records_that_are_all_alike_have_a_generator():
  moments = settings.make(
    CONFIG.replace(target_epsilon=math.inf, moments_coefficients=None),
    Spec(num_records=1, shape=SHAPE, class_names=('a',), name='made'),
  )
  codes = moments.encoding.encode(images_of(SHAPE, 1))
  both = release.release_both(codes, np.zeros(1, np.int64), moments, bytes(32))
  gaussians = MomentsSynthesizer(moments, *both).model
  assert isinstance(gaussians, Gaussians)
  found = matching.fit(gaussians, steps=2, key=jax.random.key(0))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))


def test_a_file_of_other_features_is_refused(finished, monkeypatch):
  monkeypatch.setattr(Features, 'digest', 'another')
  with pytest.raises(InputError, match='of other features'):
    generator_file.load(finished / 'matched.safetensors')


def test_a_damaged_generator_is_named(finished, tmp_path):
  whole = (finished / 'matched.safetensors').read_bytes()
  (tmp_path / 'cut.safetensors').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(InputError, match=r'cut\.safetensors'):
    generator_file.load(tmp_path / 'cut.safetensors')


@pytest.mark.parametrize('changes', [{'method': 'gan', 'steps': 10}, {'matching_steps': 0}])
def test_settings_that_make_no_sense_are_refused(changes):
  with pytest.raises(InputError, match='matching_steps'):
    CONFIG.replace(**{'moments_coefficients': None, **changes})


def test_tables_have_no_such_generator():
  spec = datasets.load_dataset('people').spec
  with pytest.raises(InputError, match='no matching_steps with a table'):
    settings.make(TrainConfig(dataset='people', target_epsilon=1.0, matching_steps=10), spec)


def test_a_step_of_teaching_asks_for_means_covariances_and_nearness():
  """Adam's first average is a tenth of the gradient: beside that of the loss written out, one class
  and one image at a time.
  """
  rng, classes, dim = np.random.default_rng(0), 3, 5
  own = axes_of(images_of(SHAPE, 60), dim)
  factors = rng.normal(size=(classes, dim, dim)) * 0.3
  gaussians = Gaussians(own, rng.normal(size=(classes, dim)), factors, np.ones((classes, 1)))
  arrays, module = matching._arrays(gaussians), matching._module(gaussians)
  number = 7
  # The last layer begins at zero, and hides all others.
  params = matching._init(module, own, jax.random.key(0))
  params = jax.tree.map(
    lambda p: p + jnp.asarray(0.05 * rng.normal(size=p.shape), jnp.float32), params
  )
  before = [jnp.asarray(rng.normal(size=a.shape), jnp.float32) for a in (arrays.means, factors)]
  state = matching._State(params, params, matching._ADAM.init(params), *before)
  after = matching._taught(
    module, own.features, state, arrays, jnp.array([number]), jnp.float32(60), jax.random.key(1)
  )
  unit = 1.2 * float(arrays.spread)
  asked_for = [(m - arrays.common) / unit for m in arrays.means]
  labels = np.repeat(np.arange(classes), 200 // classes)

  def found(params):
    images, asked = matching._drawn(
      module, params, arrays, jnp.asarray(labels), jax.random.fold_in(jax.random.key(1), number)
    )
    codes = matching._codes(own.features, arrays, images)
    near = jnp.mean(jnp.sum(((codes - asked) / unit) ** 2, axis=1))
    of_class = [(codes[labels == k] - arrays.common[None]) / unit for k in range(classes)]
    means = [c.mean(axis=0) for c in of_class]
    around = [c - m[None] for c, m in zip(of_class, asked_for, strict=True)]
    return near, means, [a.T @ a / len(a) for a in around]

  def loss(params):
    near, means, covariances = found(params)
    of_means = sum(2 * (b * m).sum() for b, m in zip(before[0], means, strict=True))
    of_seconds = sum(2 * (b * c).sum() for b, c in zip(before[1], covariances, strict=True))
    return of_means + of_seconds + 0.6 * near

  expected = jax.grad(loss)(params)
  for one, other in zip(*map(jax.tree.leaves, (after.adam.mu, expected)), strict=True):
    np.testing.assert_allclose(10 * one, other, rtol=2e-3, atol=2e-4 * np.abs(other).max())
  _, means, covariances = found(params)
  wanted = [(f @ f.T) / unit**2 for f in factors]
  for k in range(classes):
    kept = 0.8 * before[0][k] + 0.2 * (means[k] - asked_for[k])
    np.testing.assert_allclose(after.means[k], kept, atol=1e-5)
    kept = 0.8 * before[1][k] + 0.2 * (covariances[k] - wanted[k])
    np.testing.assert_allclose(after.covariances[k], kept, atol=1e-5)


def test_sums_along_other_axes_have_other_noise():
  """Another machine may find axes of the same draft that differ in their last digits."""
  own = settings.make(CONFIG, datasets.load_dataset('digits').spec).encoding
  assert isinstance(own, ScatteringEncoding)
  none, labels = own.encode(images_of(SHAPE, 0)), np.zeros(0, np.int64)  # all that is seen is noise
  about = {'noise_multiplier': 1.0, 'secret': bytes(32), 'purpose': 'check'}
  axes_found = own.release_axes(none, **about)
  last_digit = axes_found._replace(centre=np.nextafter(axes_found.centre, np.float32(1)))
  means = []
  for axes in (axes_found, axes_found, last_digit):
    with mock.patch.object(ScatteringEncoding, 'release_axes', return_value=axes):
      means.append(own.release_means(none, labels, 2, **about))
  assert (means[0].counts == means[1].counts).all()
  assert (means[0].counts != means[2].counts).all()
  same = dataclasses.replace(means[0], axes=last_digit)
  seconds = [own.release_products(none, labels, m, **about) for m in (means[0], same)]
  assert (seconds[0] != seconds[1]).all()


def test_a_run_under_other_settings_of_jax_can_be_finished_and_read(digits, tmp_path):
  with jax.enable_x64(True):
    trained = trainer.train(CONFIG.replace(matching_steps=2), digits, tmp_path / 'run',
                            progress=False)  # fmt: skip
    images, _ = trained.model.sample(3, key=jax.random.key(0))
    assert images.shape == (3, *SHAPE)
  model = trainer.restore_model(tmp_path / 'run').model
  assert isinstance(model, MomentsSynthesizer)
  np.testing.assert_array_equal(model.seconds, trained.model.seconds)
  generator_file.save(model, tmp_path / 'model.safetensors')
  with jax.numpy_dtype_promotion('strict'):
    read = generator_file.load(tmp_path / 'model.safetensors')
    strict, _ = read.sample(3, key=jax.random.key(0))
  np.testing.assert_array_equal(strict, model.sample(3, key=jax.random.key(0))[0])
