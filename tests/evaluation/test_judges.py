"""Judges and classifiers on cases with a known answer, small enough for seconds."""

from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.evaluation import judges
from dpgan_jax.models import fitting


@pytest.fixture(scope='module')
def digits():
  """(training images, labels), (test images, labels): 8x8 digits."""
  train, test = (datasets.load_dataset('digits', split=split) for split in datasets.SPLITS)
  return (train.images, train.labels), (test.images, test.labels)


def noise(n: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 1)).astype(np.uint8)


def shapes(module, side: int) -> dict[str, tuple[int, ...]]:
  x = jnp.zeros((1, side, side, 1))
  params = jax.eval_shape(module.init, jax.random.key(0), x)['params']
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(p, simple=True, separator='/'): leaf.shape for p, leaf in leaves}


# --- networks ------------------------------------------------------------------------------------


def test_the_secondary_network_is_the_reports():
  """One dense layer of 10 units and an output (chapter 6)."""
  assert shapes(judges.Secondary(), 28) == {
    'hidden/kernel': (784, 10),
    'hidden/bias': (10,),
    'output/kernel': (10, 1),
    'output/bias': (1,),
  }


def test_the_cnn_is_the_fields():
  found = shapes(judges.CNN(10), 28)
  kernels = {shape for name, shape in found.items() if name.endswith('kernel')}
  convolutions = {(3, 3, 1, 32), (3, 3, 32, 64), (3, 3, 64, 128)}
  assert kernels == convolutions | {(128, 128), (128, 10)}


@pytest.mark.parametrize('side', [1, 2, 7, 8, 32])
def test_every_network_takes_images_of_any_size(side):
  images = np.zeros((3, side, side, 3), np.uint8)
  for make in (*judges.CLASSIFIERS.values(), judges.Secondary, judges.ConvJudge):
    module = make(4)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    out = jax.eval_shape(module.apply, params, jnp.zeros(images.shape))
    assert out.shape == (3, 4)


# --- training ------------------------------------------------------------------------------------


def test_fit_takes_adams_steps(digits):
  """Against optax's own loop: one epoch of two batches, constant order given by the seed."""
  images, labels = digits[0][0][:40], digits[0][1][:40]
  module = judges.LogisticRegression(10)
  fitted = fitting.fit(module, images, labels, epochs=1, seed=3, batch_size=20, learning_rate=0.01)
  params = module.init(jax.random.split(jax.random.key(3))[0], jnp.zeros((1, 8, 8, 1)))
  schedule = optax.cosine_decay_schedule(0.01, 2)
  optimizer = optax.adam(schedule)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, x, y):
    def loss(params):
      logits = module.apply(params, to_model_range(x))
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  for rows in np.random.default_rng(3).permutation(40).reshape(2, 20):
    params, state = step(params, state, images[rows], labels[rows])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), fitted.params, params
  )


def test_fit_is_deterministic_and_says_how_far_it_is(digits):
  images, labels = digits[0]
  told: list[float] = []
  arguments = {'epochs': 3, 'seed': 5, 'hold_out': digits[1]}
  module = judges.MLP(10)
  one = fitting.fit(module, images, labels, progress=told.append, **arguments)
  two = fitting.fit(module, images, labels, **arguments)
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  assert one.hold_out_accuracy == two.hold_out_accuracy
  assert told == sorted(told)
  assert told[-1] == 1


def test_the_epoch_is_the_best_on_the_hold_out(digits):
  """Labels of the hold-out turned round: the less a network has learned, the better it does."""
  images, labels = digits[0]
  wrong = images[:300], (labels[:300] + 1) % 10
  fitted = fitting.fit(judges.MLP(10), images, labels, epochs=6, seed=0, hold_out=wrong)
  assert fitted.epoch < 6
  predicted = fitted.predict(wrong[0])
  assert fitted.hold_out_accuracy == (predicted == wrong[1]).mean()
  assert fitting.fit(judges.MLP(10), images, labels, epochs=2, seed=0).epoch == 2


def test_forward_is_the_module_whatever_the_number(digits):
  module = judges.Secondary()
  params = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  for n in (1, 500, 501):
    images = digits[0][0][:n]
    expected = module.apply(
      params, to_model_range(jnp.asarray(images)), method='activations'
    )
    got = fitting.forward(module, params, images, method='activations')
    assert got.shape == (n, 10)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('images', 'targets', 'epochs', 'message'),
  [
    (noise(0), np.zeros(0, int), 1, 'got 0 images and 0 targets'),
    (noise(5), np.zeros(4, int), 1, 'got 5 images and 4 targets'),
    (noise(5), np.zeros(5, int), 0, 'expected epochs >= 1, got 0'),
  ],
)
def test_nothing_to_fit_is_refused(images, targets, epochs, message):
  with pytest.raises(InputError, match=message):
    fitting.fit(judges.MLP(2), images, targets, epochs=epochs, seed=0)


# --- judging -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('module', 'epochs'), [(judges.Secondary(), 30), (judges.ConvJudge(), 3)], ids=['dense', 'conv']
)
def test_noise_is_told_from_digits(digits, module, epochs):
  real = digits[0][0]
  judged = judges.real_or_fake(
    module, real[:700], noise(700), digits[1][0][:300], noise(300, 1), epochs=epochs
  )
  assert judged.accuracy > 0.85
  assert judged.accuracy == pytest.approx((judged.on_real + judged.on_fake) / 2)


def test_digits_are_not_told_from_digits(digits):
  """Real against real: 300 unseen answers are right by chance, with standard error 0.03."""
  real = np.random.default_rng(0).permutation(np.concatenate([digits[0][0], digits[1][0]]))
  parts = real[:700], real[700:1400], real[1400:1550], real[1550:1700]
  judged = judges.real_or_fake(judges.Secondary(), *parts, epochs=4)
  assert judged.accuracy == pytest.approx(0.5, abs=0.13)


def test_a_judge_needs_as_many_of_each(digits):
  real = digits[0][0]
  with pytest.raises(InputError, match='as many real as fake images, got 700 and 600'):
    judges.real_or_fake(judges.Secondary(), real[:700], noise(600), real, noise(9), epochs=1)
  with pytest.raises(InputError, match='as many unseen real as fake images, got 5 and 9'):
    judges.real_or_fake(judges.Secondary(), real[:9], noise(9), real[:5], noise(9), epochs=1)


# --- train and test ------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('name', 'n', 'epochs', 'least'),
  [('lr', 1440, 40, 0.85), ('mlp', 1440, 20, 0.9),
   pytest.param('cnn', 720, 4, 0.4, marks=pytest.mark.slow)],
)
def test_classifiers_learn_digits(digits, name, n, epochs, least):
  (images, labels), test = digits
  train = images[:n], labels[:n]
  found = judges.train_and_test(name, train, test, num_classes=10, epochs=epochs)
  assert found.accuracy > least
  weights = np.bincount(digits[1][1], minlength=10) / len(digits[1][1])
  assert found.accuracy == pytest.approx(np.dot(weights, found.per_class))
  assert found.hold_out_accuracy > least
  assert 1 <= found.epoch <= epochs


def test_labels_that_mean_nothing_teach_nothing(digits):
  (images, labels), test = digits
  shuffled = np.random.default_rng(0).permutation(labels)
  found = judges.train_and_test('lr', (images, shuffled), test, num_classes=10, epochs=5)
  assert found.accuracy < 0.3


def test_dropped_classes_show_by_class(digits):
  (images, labels), test = digits
  some = labels < 5
  found = judges.train_and_test('lr', (images[some], labels[some]), test, num_classes=11, epochs=40)
  assert found.per_class[5:10] == (0.0,) * 5
  assert found.per_class[10] is None  # the test images have none of it
  assert all(accuracy is not None and accuracy > 0.8 for accuracy in found.per_class[:5])
  assert found.hold_out_accuracy > 0.9  # the samples alone do not tell


def test_the_test_set_chooses_nothing(digits):
  """Another test set, the same network: hold-out accuracy and epoch do not change."""
  train, test = digits
  other = test[0][:50], (test[1][:50] + 1) % 10
  found = [judges.train_and_test('lr', train, t, num_classes=10, epochs=3) for t in (test, other)]
  assert found[0].hold_out_accuracy == found[1].hold_out_accuracy
  assert found[0].epoch == found[1].epoch
  assert found[0].accuracy != found[1].accuracy


def test_wrong_calls_are_refused(digits):
  train, test = digits
  with pytest.raises(InputError, match="classifier to be one of cnn, mlp, lr; got 'svm'"):
    judges.train_and_test('svm', train, test, num_classes=10, epochs=1)
  few = train[0][:9], train[1][:9]
  with pytest.raises(InputError, match=r'at least 10 images, .* got 9'):
    judges.train_and_test('lr', few, test, num_classes=10, epochs=1)


def test_the_pace_is_the_best_of_what_was_tried_on_held_out_training_images():
  results = pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'results'
  tried = json.loads((results / 'judge_pace.json').read_text(encoding='utf-8'))['tried']
  for name, pace in judges.PACE.items():
    best = max((t for t in tried if t['classifier'] == name), key=lambda t: t['accuracy'])
    assert {key: best[key] for key in pace} == pace
