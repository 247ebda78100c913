"""Generators that match released moments of scattering features: codes, teaching, runs, files."""

from __future__ import annotations

import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import matching, release, scattering_encoding, settings
from dpgan_jax.models.moments.image_encoding import Gaussians
from dpgan_jax.models.moments.scattering_encoding import ScatteringEncoding, features_of
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.run import generator_file, plan, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases import moments as releases

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
  features = np.asarray(scattering_encoding._features(jnp.asarray(images / 255), shape))
  assert features.shape == (5, features_of(shape))
  height, width, channels = shape
  planes = images / 255.0
  if channels == 3:
    planes = planes @ scattering_encoding.COLOURS.T
  transform = scattering_encoding._transform(shape)
  planes = planes.transpose(0, 3, 1, 2).reshape(-1, height, width)
  coefficients = np.asarray(transform(jnp.asarray(planes, jnp.float32)))[:, 1:]
  coefficients = coefficients / transform.usual[None, 1:, None, None]
  of_scattering = np.square(coefficients).reshape(5, -1).sum(axis=1)
  rows, columns = scattering_encoding._frequencies(shape)
  own = np.square(features[:, rows * columns * channels :]).sum(axis=1)
  np.testing.assert_allclose(own, of_scattering, rtol=1e-4)


def test_with_all_features_pixels_come_back_and_fewer_are_the_first_of_more():
  images = images_of(SHAPE)
  whole = ScatteringEncoding(SHAPE, features_of(SHAPE))
  codes = whole.encode(images)
  assert (whole.decode(codes) == images).all()
  np.testing.assert_allclose(ScatteringEncoding(SHAPE, 30).encode(images), codes[:, :30], atol=1e-6)
  variances = whole.spectrum
  assert (np.diff(np.log2(variances)) < 0.3).all()  # what varies most comes first
  assert np.linalg.norm(codes, axis=1).max() <= whole.radius * (1 + 1e-9)
  # What varies in ellipses as pixels do has lengths as they have.
  assert math.sqrt(variances.sum()) == pytest.approx(0.25 * math.sqrt(64), rel=0.5)


@pytest.mark.parametrize('shape', [(13, 11, 1), (19, 23, 1), (9, 7, 3)])
def test_a_code_is_the_same_to_the_last_bit_wherever_its_image_stands(shape):
  """A record that comes or goes moves others in their block: their codes must not see it."""
  images, encoding = images_of(shape, 520), ScatteringEncoding(shape, 60)
  codes = encoding.encode(images)
  np.testing.assert_array_equal(encoding.encode(images[1:]), codes[1:])
  alike = encoding.encode(np.repeat(images[:1], 510, axis=0))
  assert (alike == alike[0]).all()


def test_a_code_is_of_one_image_alone_and_can_be_differentiated():
  images, encoding = images_of(SHAPE), ScatteringEncoding(SHAPE, 50)
  codes = encoding.encode(images)
  np.testing.assert_array_equal(encoding.encode(images[3:4]), codes[3:4])
  np.testing.assert_allclose(encoding.codes(jnp.asarray(images / 255)), codes, atol=1e-5)
  slope = jax.grad(lambda x: encoding.codes(x)[0, 0])(jnp.asarray(images[:1] / 255))
  assert np.isfinite(slope).all()
  assert np.abs(slope).max() > 0
  black = jax.grad(lambda x: jnp.square(encoding.codes(x)).sum())(jnp.zeros((1, *SHAPE)))
  assert np.isfinite(black).all()  # where every modulus is zero


def test_more_features_than_there_are_and_images_too_small_are_refused():
  with pytest.raises(InputError, match='dim'):
    ScatteringEncoding(SHAPE, features_of(SHAPE) + 1)
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
  taught = matching.fit(gaussians, steps=120, key=jax.random.key(0), progress=shares.append)
  assert shares == pytest.approx([50 / 120, 100 / 120, 1.0])
  of_means, of_covariances = _errors(gaussians, taught)
  assert of_means < 0.6 * _errors(gaussians, gaussians)[0]
  assert of_covariances < 0.8
  labels = np.arange(20) % 10
  again = matching.fit(gaussians, steps=120, key=jax.random.key(0))
  other = matching.fit(gaussians, steps=120, key=jax.random.key(1))
  images = [m.draw(labels, jax.random.key(2)) for m in (taught, again, other)]
  assert (images[0] == images[1]).all()
  assert (images[0] != images[2]).any()


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
  model = trainer.train(CONFIG, digits, path, progress=False).model
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
  monkeypatch.setattr(ScatteringEncoding, 'digest', 'another')
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
