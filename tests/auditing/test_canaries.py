"""dpgan_jax.auditing.canaries: fair coins, absent records that never join, the mechanism's own
noise.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.auditing.canaries import AuditedMechanism, make_canaries, plant, training_labels
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.privacy.mechanism import DPMechanism

SHAPE = (8, 8, 1)
SPEC = Spec(
  num_records=100, shape=SHAPE, class_names=tuple(map(str, range(10))), name='invented'
)


def make(kind='random_pixels', count=500, **others):
  return make_canaries(kind, count, **{'spec': SPEC, 'seed': 3, **others})


@pytest.fixture(scope='module')
def digits():
  return datasets.load_dataset('digits', split='test')


class TestMake:
  def test_random_pixels(self):
    canaries = make()
    assert canaries.images.shape == (500, *SHAPE)
    assert canaries.images.dtype == np.uint8
    assert canaries.images.min() == 0
    assert canaries.images.max() == 255
    assert set(canaries.labels) == set(range(10))
    assert canaries.labels.dtype == np.int32
    # Fair coins: 250 ± 45 is four standard deviations.
    assert abs(canaries.present.sum() - 250) < 45
    assert len(canaries) == 500

  def test_coins_are_a_function_of_the_seed_and_independent_of_neighbours(self):
    assert np.array_equal(make().present, make().present)
    assert not np.array_equal(make().present, make(seed=4).present)
    many = make(count=4000).present
    assert abs(np.mean(many[1:] == many[:-1]) - 0.5) < 0.032  # 4 σ

  def test_mislabelled_never_has_the_true_class(self, digits):
    canaries = make('mislabelled', 300, others=digits)
    pixels = {x.tobytes(): y for x, y in zip(digits.images, digits.labels, strict=True)}
    true = np.array([pixels[x.tobytes()] for x in canaries.images])
    assert np.all(true != canaries.labels)
    assert len(set(canaries.labels)) == 10
    assert canaries.labels.max() < 10

  @pytest.mark.parametrize(
    ('kind', 'changes', 'words'),
    [
      ('nonsense', {}, 'canary_kind to be one of random_pixels, mislabelled'),
      ('random_pixels', {'count': 0}, 'canaries >= 1, got 0'),
      ('mislabelled', {}, 'at least 500 other images of .* got none'),
    ],
  )
  def test_refuses(self, kind, changes, words):
    with pytest.raises(InputError, match=words):
      make(kind, **{'count': 500, **changes})

  def test_refuses_more_than_there_are_others(self, digits):
    with pytest.raises(InputError, match='at least 500 other images'):
      make('mislabelled', others=digits)


def test_plant_keeps_every_candidate(digits):
  canaries = make(count=20)
  planted, present = plant(digits, canaries)
  assert len(planted) == len(present) == len(digits) + 20
  assert present[: len(digits)].all()
  assert np.array_equal(present[len(digits) :], canaries.present)
  assert np.array_equal(planted.images[len(digits) :], canaries.images)
  assert np.array_equal(planted.labels[len(digits) :], canaries.labels)


class TestAuditedMechanism:
  mechanism = DPMechanism.create(
    num_examples=40, batch_size=10, l2_clip_norm=1.5, noise_multiplier=0.7, steps=5, delta=1e-3
  )
  present = np.arange(40) % 3 > 0

  @pytest.fixture
  def watched(self):
    return AuditedMechanism.watch(self.mechanism, self.present)

  def test_absent_records_never_join_and_the_others_as_ever(self, watched):
    key, everyone = jax.random.key(1), set()
    for step in range(12):
      real, seen = self.mechanism.sampler(key, step), watched.sampler(key, step)
      np.testing.assert_array_equal(real.indices, seen.indices)
      np.testing.assert_array_equal(seen.mask, real.mask & self.present[np.asarray(real.indices)])
      everyone |= set(np.asarray(seen.indices)[np.asarray(seen.mask)].tolist())
    assert everyone <= set(np.flatnonzero(self.present).tolist())
    assert len(everyone) > 20

  def test_claims_what_the_mechanism_claims(self, watched):
    assert watched.event() == self.mechanism.event()

  def test_noise_is_the_real_one_and_is_remembered_before_the_public_gradient(self, watched):
    real, tapped = (m.noise_sum(jax.random.key(2)) for m in (self.mechanism, watched))
    total, public = {'w': jnp.ones(6)}, {'w': jnp.full(6, 5.0)}
    state, state_tapped = real.init(total), tapped.init(total)
    for _ in range(2):  # a second step draws other noise
      wanted, state = real.update(total, state, public_grads=public)
      alone = jax.tree.map(lambda w, p: w - p, wanted, public)
      got, state_tapped = tapped.update(total, state_tapped, public_grads=public)
      np.testing.assert_array_equal(got['w'], wanted['w'])
      np.testing.assert_allclose(state_tapped.released['w'], alone['w'], atol=1e-6)

  def test_refuses_coins_of_another_number(self):
    with pytest.raises(InputError, match=r'bool\[40\].* got shape \(39,\)'):
      AuditedMechanism.watch(self.mechanism, self.present[:-1])

  def test_is_its_own_class_with_every_field_of_the_mechanism(self, watched):
    for field in dataclasses.fields(DPMechanism):
      assert getattr(watched, field.name) == getattr(self.mechanism, field.name)


class TestCoordinates:
  def test_are_distinct_and_within_the_parameters(self):
    canaries = make('coordinates', 50, parameters=60)
    assert canaries.coordinates is not None
    assert len(set(canaries.coordinates.tolist())) == 50
    assert canaries.coordinates.max() < 60
    with pytest.raises(InputError, match=r'canaries <= 60, the parameters of .* got 61'):
      make('coordinates', 61, parameters=60)

  def test_labels_mark_them(self, digits):
    canaries = make('coordinates', 3, parameters=60)
    planted, _ = plant(digits, canaries)
    labels = training_labels(planted, canaries)
    assert labels[-3:].tolist() == [-1, -2, -3]
    assert np.array_equal(labels[:-3], digits.labels)
    others, _ = plant(digits, make(count=3))
    assert training_labels(others, make(count=3)) is others.labels

  def test_a_canary_is_clipped_to_its_coordinate_and_images_are_as_ever(self):
    """Parameters {'a': 2 entries, 'b': 2 x 2}; canaries 0 and 1 are about entries 5 and 1."""
    mechanism = TestAuditedMechanism.mechanism
    watched = AuditedMechanism.watch(mechanism, np.ones(40, bool), np.array([5, 1], np.int32))
    params = {'a': jnp.array([0.3, -0.2]), 'b': jnp.array([[0.1, 0.7], [-0.5, 0.2]])}

    def loss(params, image, label):
      assert label.shape == ()
      return jnp.sum(params['b'] @ params['a'] * image) + label * params['a'][0]

    images = jnp.array([[1.0, 2.0], [0.0, 0.0], [0.3, 0.1], [0.0, 0.0]])
    labels = jnp.array([2, -1, 0, -2])
    mask = jnp.ones(4, bool)
    got = watched.clipped_grad(loss)(params, images, labels, mask=mask).sum
    of_images = mechanism.clipped_grad(loss)(params, images, labels, mask=labels >= 0).sum
    np.testing.assert_allclose(got['a'] - of_images['a'], [0.0, 1.5], atol=1e-5)
    np.testing.assert_allclose(got['b'] - of_images['b'], [[0, 0], [0, 1.5]], atol=1e-5)
