"""What is released of each class, what becomes of it, and what is drawn from it."""

from __future__ import annotations

import dataclasses
import math

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate, load_dataset
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import denoise, release, settings
from dpgan_jax.models.moments.encoding import Means, divided, weights
from dpgan_jax.models.moments.images.encoding import ImageEncoding
from dpgan_jax.models.moments.images.scattering_encoding import ScatteringEncoding
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.exact_noise import new_secret

SECRET = bytes(range(32))
SHAPE, CLASSES = (5, 6, 1), 3


def _moments(n: int, epsilon: float = math.inf, **changes) -> settings.Moments:
  spec = Spec(num_records=n, shape=SHAPE, class_names=('a', 'b', 'c'), name='made')
  return settings.make(TrainConfig(target_epsilon=epsilon, delta=1e-5, **changes), spec)


def _records(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, n).astype(np.int32)
  images = rng.integers(0, 120, (n, *SHAPE)) + 60 * labels[:, np.newaxis, np.newaxis, np.newaxis]
  return images.astype(np.uint8), labels


def _released(moments, images, labels, secret=SECRET, centres=None):
  codes = moments.encoding.encode(images)
  means = release.release_means(codes, labels, moments, secret)
  return means, release.release_seconds(codes, labels, centres or means, moments, secret)


def test_without_noise_they_are_the_moments():
  images, labels = _records(400)
  moments = _moments(400)
  means, seconds = _released(moments, images, labels)
  codes = moments.encoding.encode(images)
  distances = np.square(codes - codes.mean(axis=0)).sum(axis=1)
  assert means.scale == pytest.approx(math.sqrt(distances.mean()), rel=1e-5)
  for k in range(CLASSES):
    own = codes[labels == k]
    assert means.counts[k] == pytest.approx(len(own), rel=1e-6)
    far = own - codes.mean(axis=0)
    cut = np.minimum(1, moments.encoding.bound(means.scale) / np.linalg.norm(far, axis=1))
    near = (far * cut[:, np.newaxis]).mean(axis=0) + codes.mean(axis=0)
    np.testing.assert_allclose(means.sums[k] / len(own), near, atol=1e-5)
    around = own - moments.encoding.centres(means)[k]
    lengths = np.linalg.norm(around, axis=1, keepdims=True)
    around *= np.minimum(1, moments.encoding.bound(means.scale) / lengths)
    np.testing.assert_allclose(seconds[k], around.T @ around, atol=0.01 * len(own))


@hypothesis.given(
  st.integers(0, 10_000), st.sampled_from(['black', 'white', 'noise', 'spikes']),
  st.sampled_from([None, 10]),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_one_record_moves_each_release_by_no_more_than_one(seed, kind, matching_steps):
  """In units of the noise, whatever the record and its class. The centres are public by then."""
  images, labels = _records(30, seed)
  rng = np.random.default_rng(seed)
  record = {
    'black': np.zeros(SHAPE), 'white': np.full(SHAPE, 255),
    'noise': rng.integers(0, 256, SHAPE), 'spikes': rng.integers(0, 2, SHAPE) * 255,
  }[kind].astype(np.uint8)  # fmt: skip
  more = (np.concatenate([images, [record]]), np.append(labels, seed % CLASSES).astype(np.int32))
  moments = _moments(30, matching_steps=matching_steps)
  encoding, about = moments.encoding, {'noise_multiplier': 0.0, 'secret': SECRET, 'purpose': 'one'}
  both = [(encoding.encode(images), labels), (encoding.encode(more[0]), more[1])]
  if isinstance(encoding, ScatteringEncoding):  # axes are public by then
    encoding = encoding.along(encoding.release_axes(both[0][0], **about))
    both = [(encoding.codes_of(encoded), own) for encoded, own in both]
  centres = [encoding.release_centre(codes, **about) for codes, _ in both]
  assert np.linalg.norm(centres[1] - centres[0]) <= 1 + 1e-6
  centre, scale = encoding.centre_of(centres[0], 0.0)
  in_sum, in_count = weights(moments.dim)
  units = encoding.bound(scale) / in_sum
  of_class = seed % CLASSES
  (count, sums), (more_count, more_sums) = (
    encoding.release_sums(codes[own == of_class] - centre, scale, **about) for codes, own in both
  )
  moved = math.hypot(np.linalg.norm(more_sums - sums) / units, (more_count - count) * in_count)
  assert 0.1 < moved <= 1 + 1e-6
  means, seconds = _released(moments, images, labels)
  _, around_the_same = _released(moments, *more, centres=means)
  moved = np.linalg.norm(around_the_same - seconds)
  assert moved <= encoding.bound(means.scale) ** 2 * (1 + 1e-6)


def test_noise_is_that_of_the_mechanisms():
  """Deviations of the numbers of 20 releases of nothing: within five standard errors."""
  moments = _moments(1000, 1.0)
  encoding, empty = moments.encoding, (np.zeros((0, *SHAPE), np.uint8), np.zeros(0, np.int32))
  first, second = (moments.stages[n].noise_multiplier for n in (settings.MEANS, settings.SECONDS))
  upper, nothing = np.triu_indices(moments.dim, 1), encoding.encode(empty[0])
  of_count, of_sum = encoding.noise(first, 2.0)
  found: dict[str, list] = {'counts': [], 'sums': [], 'products': []}
  for _ in range(20):
    means, seconds = _released(moments, *empty, secret=new_secret())
    found['counts'].append(means.counts / of_count)
    found['products'].append(seconds[:, *upper] * math.sqrt(2) / encoding.bound(means.scale) ** 2)
    found['products'][-1] /= second
    _, sums = encoding.release_sums(
      nothing, 2.0, noise_multiplier=1.0, secret=new_secret(), purpose='one'
    )
    found['sums'].append(sums / encoding.noise(math.sqrt(1 - 1 / 8), 2.0)[1])
  assert of_sum == pytest.approx(encoding.noise(1.0, 2.0)[1] * first)
  for values in map(np.array, found.values()):
    assert abs(values.std() - 1) < 5 / math.sqrt(2 * values.size)


def test_what_an_image_is_part_of_costs_what_is_charged(monkeypatch):
  """The centre and the sums of one class: 1/σ² of both add up to that of the stage."""
  moments, multipliers = _moments(30, 1.0), []
  release_sum = exact_noise.release_sum

  def watched(vectors, *, l2_sensitivity, noise_multiplier, **about):
    multipliers.append(noise_multiplier / l2_sensitivity)
    return release_sum(
      vectors, l2_sensitivity=l2_sensitivity, noise_multiplier=noise_multiplier, **about
    )

  monkeypatch.setattr(exact_noise, 'release_sum', watched)
  release.release_means(
    moments.encoding.encode(_records(30)[0]), _records(30)[1], moments, SECRET
  )  # fmt: skip
  assert len(multipliers) == 1 + CLASSES
  assert len(set(multipliers[1:])) == 1
  charged = moments.stages[settings.MEANS].noise_multiplier
  assert sum(1 / m**2 for m in multipliers[:2]) == pytest.approx(1 / charged**2)


def test_parts_of_a_mechanism_cost_what_it_does():
  for shares in ((0.125,), (0.04, 0.6), (0.2, 0.3, 0.4)):
    found = divided(1.7, *shares)
    assert len(found) == len(shares) + 1
    assert sum(1 / sigma**2 for sigma in found) == pytest.approx(1 / 1.7**2)
  for shares in ((1.0,), (0.5, 0.6), (0.0,), (-0.1,)):
    with pytest.raises(_validate.InputError, match='shares'):
      divided(1.0, *shares)


def test_noise_in_the_mean_is_not_taken_for_distance():
  """The mean of 100 found distances, squared, deviates by a thirtieth; the noise adds a third."""
  encoding = ImageEncoding((20, 20, 1), 144)
  codes = np.random.default_rng(0).normal(scale=0.045 / 0.12, size=(300, 144))
  true = np.square(codes - codes.mean(axis=0)).sum(axis=1).mean()
  found = []
  for number in range(100):
    released = encoding.release_centre(
      codes, noise_multiplier=6.0, secret=bytes([number]) * 32, purpose='one'
    )
    found.append(encoding.centre_of(released, 6.0)[1] ** 2)
  assert np.mean(found) == pytest.approx(true, rel=0.15)


def test_bounds_follow_from_what_was_released(monkeypatch):
  """Of other records with the same released centre, sums and covariances have the same bounds."""
  moments = _moments(60, 1.0)
  encoding, released = moments.encoding, np.full(moments.dim + 2, 0.5)
  monkeypatch.setattr(type(encoding), 'release_centre', lambda *_, **__: released)
  scales = {
    release.release_means(encoding.encode(images), labels, moments, SECRET).scale
    for images, labels in (_records(60), _records(60, seed=1))
  }
  sigma = moments.stages[settings.MEANS].noise_multiplier * math.sqrt(8)
  assert scales == {encoding.centre_of(released, sigma)[1]}


@pytest.mark.parametrize(('n', 'epsilon', 'pooled'), [(20, 0.3, True), (60_000, 1.0, False)])
def test_few_images_have_one_covariance_for_all_classes(n, epsilon, pooled):
  moments = _moments(n, epsilon)
  assert moments.encoding.pooled == pooled
  assert moments.shape_of_seconds[0] == (1 if pooled else 16 * CLASSES)
  assert settings.read(moments.to_record(), moments.spec) == moments
  assert moments.dim <= 30
  small, large = (_moments(m, 1.0).dim for m in (20, 2000))
  assert 9 <= small < large == 30


def test_no_two_classes_get_the_same_noise():
  """Their difference would be free of it."""
  empty = (np.zeros((0, *SHAPE), np.uint8), np.zeros(0, np.int32))
  means, seconds = _released(_moments(20_000, 1.0), *empty)
  assert means.cells is not None
  assert len(seconds) == 16 * CLASSES
  for released in (means.sums, seconds.reshape(len(seconds), -1)):
    for k in range(len(released)):
      assert (released[k] != released[k - 1]).mean() > 0.99


def test_a_class_that_noise_hides_is_as_all_classes_together():
  """Two classes of one shape, one of them with hardly a record; its covariance is the other's."""
  shape = np.diag([9.0, 4.0, 1.0, 1.0, 1.0])
  seconds = np.stack([1e6 * shape, 10 * np.eye(5)])
  found = denoise.covariances(np.array([1e6, 5.0]), seconds, deviation=20.0, spectrum=np.ones(5))
  first, second = found
  np.testing.assert_allclose(first, shape, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(second / np.trace(second), shape / np.trace(shape), atol=1e-3)


def test_both_releases_cost_what_was_asked_for():
  for epsilon in (0.2, 1.0, 8.0):
    moments = _moments(500, epsilon)
    assert 0.99 * epsilon < moments.budget.epsilon() <= epsilon
    first, second = (moments.stages[n].noise_multiplier for n in (settings.MEANS, settings.SECONDS))
    assert (first < second) == moments.encoding.pooled  # one covariance needs less of it


def test_a_record_reads_back():
  moments = _moments(500, 2.0, moments_coefficients=11, moments_means_share=0.3)
  again = settings.read(moments.to_record(), moments.spec)
  assert again == moments
  with pytest.raises(_validate.InputError, match='stages'):
    settings.read({**moments.to_record(), 'stages': {}}, moments.spec)
  other = dataclasses.replace(moments.spec, num_records=499)
  with pytest.raises(_validate.InputError, match='over all 499 records'):
    settings.read(moments.to_record(), other)


# --- denoising ------------------------------------------------------------------------------------


def _model(epsilon: float, n: int = 3000, seed: int = 0, secret: bytes = SECRET):
  moments = _moments(n, epsilon)
  return MomentsSynthesizer(moments, *_released(moments, *_records(n, seed), secret))


def test_with_little_noise_the_covariance_is_the_real_one():
  model = _model(math.inf)
  codes = model.moments.encoding.encode(_records(3000)[0])
  labels = _records(3000)[1]
  for k in range(CLASSES):
    own = codes[labels == k]
    factor = model.model.factors[k]
    np.testing.assert_allclose(factor @ factor.T, np.cov(own.T), atol=0.02)


def test_of_noise_alone_nothing_stands_out():
  """The edge is where eigenvalues of pure noise end; of 300 matrices few reach beyond it. Of the
  others nothing but the trace is left, spread as what is known.
  """
  rng = np.random.default_rng(0)
  known = np.diag(np.arange(1.0, 31.0))
  forgotten = 0
  for _ in range(300):
    noise = np.triu(rng.normal(size=(30, 30)), 1) / math.sqrt(2)
    noise = noise + noise.T + np.diag(rng.normal(size=30))
    trace = max(np.trace(noise), math.sqrt(30))  # what is left of it is no less than its noise
    forgotten += np.allclose(denoise._fill(noise, 1.0, known), known * trace / np.trace(known))
  assert forgotten > 0.7 * 300


def test_a_direction_above_the_edge_is_kept_at_its_true_size():
  rng = np.random.default_rng(1)
  direction = rng.normal(size=100)
  direction /= np.linalg.norm(direction)
  found = []
  for _ in range(20):
    noise = np.triu(rng.normal(size=(100, 100)), 1) / math.sqrt(2)
    noise = noise + noise.T + np.diag(rng.normal(size=100))
    covariance = denoise._fill(20 * np.outer(direction, direction) + noise, 1.0, np.eye(100) / 1e6)
    found.append(np.linalg.eigvalsh(covariance)[-1])
  # Unshrunk it would be 20 + 50/20. A single one deviates by about 1.
  assert np.mean(found) == pytest.approx(20, abs=1)


def test_however_much_noise_there_is_samples_can_be_drawn():
  model = _model(0.01, n=30)
  assert (model.shares >= 0).all()
  assert model.shares.sum() == pytest.approx(1)
  for factor in model.model.factors:
    assert np.isfinite(factor).all()
  images, _ = model.sample(50, key=jax.random.key(0))
  assert images.shape == (50, *SHAPE)


# --- drawing --------------------------------------------------------------------------------------


def test_samples_are_in_the_proportions_of_the_counts_and_in_random_order():
  model = _model(math.inf)
  images, labels = model.sample(999, key=jax.random.key(1))
  counts = np.bincount(labels, minlength=CLASSES)
  np.testing.assert_allclose(counts / 999, model.shares, atol=1.01 / 999)
  assert (np.diff(labels) != 0).mean() > 0.5
  assert images.dtype == np.uint8
  means = [images[labels == k].mean() for k in range(CLASSES)]
  real, of = _records(3000)
  np.testing.assert_allclose(means, [real[of == k].mean() for k in range(CLASSES)], atol=3)


def test_classes_can_be_asked_for_and_keys_repeat():
  model = _model(4.0)
  wanted = np.array([2, 2, 0, 1])
  images, labels = model.sample(4, labels=wanted, key=jax.random.key(3))
  again, _ = model.sample(4, labels=wanted, key=jax.random.key(3))
  other, _ = model.sample(4, labels=wanted, key=jax.random.key(4))
  assert (labels == wanted).all()
  assert (images == again).all()
  assert (images != other).any()
  with pytest.raises(_validate.InputError, match='clearest'):
    model.sample(4, clearest=0.5, key=jax.random.key(0))
  with pytest.raises(_validate.InputError, match='labels'):
    model.sample(1, labels=np.array([3]), key=jax.random.key(0))


def test_data_of_one_class_have_no_labels():
  spec = Spec(num_records=50, shape=SHAPE, class_names=('all',), name='made')
  moments = settings.make(TrainConfig(target_epsilon=8.0), spec)
  images, _ = _records(50)
  model = MomentsSynthesizer(moments, *_released(moments, images, np.zeros(50, np.int32)))
  assert model.sample(3, key=jax.random.key(0))[1] is None


def test_samples_of_digits_teach_a_classifier():
  """The floor that every other method has to beat: far above chance at ε = 3."""
  from sklearn.linear_model import LogisticRegression

  train, test = load_dataset('digits'), load_dataset('digits', split='test')
  moments = settings.make(TrainConfig(target_epsilon=3.0), train.spec)
  model = MomentsSynthesizer(moments, *_released(moments, train.images, train.labels))
  images, labels = model.sample(4000, key=jax.random.key(0))
  judge = LogisticRegression(max_iter=200).fit(images.reshape(4000, -1) / 255, labels)
  assert judge.score(test.images.reshape(len(test), -1) / 255, test.labels) > 0.85


# --- settings -------------------------------------------------------------------------------------


def test_epsilon_alone_means_moments_and_steps_mean_a_gan():
  assert TrainConfig(target_epsilon=1.0).method == 'moments'
  assert TrainConfig(target_epsilon=1.0, steps=10).method == 'gan'
  assert TrainConfig(noise_multiplier=1.0, steps=10).method == 'gan'


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'method': 'moments', 'steps': 10, 'target_epsilon': 1.0}, 'expected no steps with method=m'),
    ({'target_epsilon': 1.0, 'latent_dim': 5}, 'expected no latent_dim with method=moments'),
    ({'method': 'moments', 'noise_multiplier': 1.0}, 'expected target_epsilon'),
    ({'method': 'gan', 'target_epsilon': 1.0, 'steps': 9, 'moments_coefficients': 3}, 'method=gan'),
    ({'method': 'magic', 'target_epsilon': 1.0}, 'method'),
  ],
)
def test_settings_that_the_method_has_no_use_for_are_refused(given, message):
  with pytest.raises(_validate.InputError, match=message):
    TrainConfig(**given)


def test_what_was_pulled_in_is_as_far_from_the_mean_again():
  """Of classes that are alike but for their means, all pulled in by the same factor."""
  moments = _moments(3000, 8.0)
  encoding = dataclasses.replace(moments.encoding, reach=0.5)
  codes, labels = encoding.encode(_records(3000)[0]), _records(3000)[1]
  scale = math.sqrt(np.square(codes - codes.mean(axis=0)).sum(axis=1).mean())
  centres = np.stack([codes[labels == k].mean(axis=0) for k in range(CLASSES)])
  pulled = codes.mean(axis=0) + 0.6 * (centres - codes.mean(axis=0))
  factors = np.stack([0.6 * np.linalg.cholesky(np.cov(codes[labels == k].T)) for k in range(3)])
  counts = np.bincount(labels).astype(float)
  means = Means(counts, pulled * counts[:, np.newaxis], scale)
  found, wider = encoding._stretched(means, pulled, factors)
  np.testing.assert_allclose(found, centres, atol=1e-3)
  np.testing.assert_allclose(wider, factors / 0.6, rtol=2e-3)
  # By no more than pulling in can have done.
  far = dataclasses.replace(means, scale=100 * scale)
  _, widest = encoding._stretched(far, pulled, factors)
  np.testing.assert_allclose(widest, 2 * factors)
