"""The package as one object: fit, sample, save, load, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dpgan_jax import DPGAN, DPMechanism, ImageDataset, InputError, TrainConfig, api
from tests.support import nets

N, CLASSES = 64, 3
SETTINGS = {
  'noise_multiplier': 10.0,  # where the accounting is quickest
  'steps': 4,
  'batch_size': 8,
  'delta': 1e-3,
  'd_steps_per_g_step': 2,
  'latent_dim': 4,
  'num_samples': 20,
  **nets.SMALLEST,
  'steps_per_report': 4,
}


def private_arrays() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (N, 8, 8)).astype(np.uint8), np.arange(N) % CLASSES


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('runs') / 'tiny'


@pytest.fixture(scope='module')
def fitted(run_dir) -> DPGAN:
  model = DPGAN(**SETTINGS)
  assert model.fit(*private_arrays(), run_dir=run_dir, progress=False) is model
  return model


def same_generator(one: DPGAN, two: DPGAN) -> bool:
  leaves = (jax.tree.leaves(m._fitted.generator) for m in (one, two))
  return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


# --- what it does --------------------------------------------------------------------------------


def test_fit_leaves_a_run_and_its_mechanism(fitted, run_dir):
  assert fitted.mechanism == DPMechanism.create(
    num_examples=N, batch_size=8, l2_clip_norm=1.0, noise_multiplier=10.0, steps=4, delta=1e-3
  )
  assert fitted.epsilon == fitted.mechanism.epsilon() > 0
  assert {'config.json', 'ledger.jsonl', 'checkpoints', 'samples.npz', 'samples.png'} <= {
    path.name for path in run_dir.iterdir()
  }
  assert fitted.config.dataset == 'arrays'


def test_fit_again_after_the_end_changes_nothing(fitted, run_dir):
  spent = (run_dir / 'ledger.jsonl').read_bytes()
  again = DPGAN(**SETTINGS).fit(*private_arrays(), run_dir=run_dir, progress=False)
  assert same_generator(again, fitted)
  assert again.epsilon == fitted.epsilon
  assert (run_dir / 'ledger.jsonl').read_bytes() == spent


def test_fit_in_the_directory_of_another_run_is_refused(fitted, run_dir):
  images, labels = private_arrays()
  other = DPGAN(**SETTINGS | {'noise_multiplier': 9.5})
  with pytest.raises(InputError, match=r'noise_multiplier is 10\.0 there and 9\.5 now'):
    other.fit(images, labels, run_dir=run_dir, progress=False)
  with pytest.raises(InputError, match='data'):
    DPGAN(**SETTINGS).fit(255 - images, labels, run_dir=run_dir, progress=False)
  with pytest.raises(InputError, match='call fit or load first'):
    _ = other.epsilon


def test_samples_are_images_and_labels(fitted):
  images, labels = fitted.sample(10)
  assert (images.shape, images.dtype) == ((10, 8, 8, 1), np.uint8)
  assert (labels.shape, labels.dtype) == ((10,), np.int64)
  assert set(labels) == set(range(CLASSES))
  _, labels = fitted.sample(4, labels=[2, 2, 0, 1])
  assert list(labels) == [2, 2, 0, 1]


def test_seed_gives_the_same_samples_again_and_no_seed_gives_others(fitted):
  one, two, other = (fitted.sample(5, seed=seed)[0] for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, two)
  assert not np.array_equal(one, other)
  assert not np.array_equal(fitted.sample(5)[0], fitted.sample(5)[0])


@pytest.mark.parametrize('seed', [-1, 2**32, 1.5, 'x'])
def test_wrong_seeds_are_refused(fitted, seed):
  with pytest.raises(InputError, match='expected seed '):
    fitted.sample(5, seed=seed)


def test_load_gives_back_what_save_wrote(fitted, tmp_path):
  fitted.save(tmp_path / 'generator.safetensors')
  loaded = DPGAN.load(tmp_path / 'generator.safetensors')
  assert same_generator(loaded, fitted)
  assert loaded.mechanism == fitted.mechanism
  assert loaded.epsilon == fitted.epsilon
  for ours, theirs in zip(fitted.sample(6, seed=3), loaded.sample(6, seed=3), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  with pytest.raises(InputError, match='found none'):
    DPGAN.load(tmp_path / 'nothing')


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  'use',
  [
    lambda model, path: model.sample(3),
    lambda model, path: model.save(path),
    lambda model, path: model.epsilon,
    lambda model, path: model.mechanism,
  ],
  ids=['sample', 'save', 'epsilon', 'mechanism'],
)
def test_use_before_fit_is_refused(use, tmp_path):
  with pytest.raises(InputError, match='expected a trained model: call fit or load first'):
    use(DPGAN(**SETTINGS), tmp_path / 'x')
  assert not list(tmp_path.iterdir())


def test_settings_are_checked_when_given():
  with pytest.raises(InputError, match=r'unknown settings: batchsize$'):
    DPGAN(target_epsilon=2.0, epochs=1, batchsize=3)
  with pytest.raises(InputError, match='expected batch_size >= 1, got 0'):
    DPGAN(target_epsilon=2.0, epochs=1, batch_size=0)
  config = TrainConfig(**SETTINGS)
  assert DPGAN(config).config is config
  with pytest.raises(InputError, match='expected a TrainConfig or settings by name, not both'):
    DPGAN(config, epochs=1)


IMAGES, LABELS = private_arrays()
DATASET = ImageDataset(
  images=IMAGES[..., None],
  labels=LABELS.astype(np.int32),
  num_classes=CLASSES,
  name='mine',
  class_names=('a', 'b', 'c'),
)


@pytest.mark.parametrize(
  ('images', 'labels', 'num_classes', 'message'),
  [
    (IMAGES / 255, LABELS, None, 'images to be a uint8 array of 4 dimensions, got float64'),
    (IMAGES[0], LABELS, None, 'images to be a uint8 array of 4 dimensions, got uint8'),
    (3, None, None, 'images to be a uint8 array of 4 dimensions, got int64'),
    (IMAGES[:0], LABELS[:0], None, 'expected at least one image, got none'),
    (IMAGES[:0], None, None, 'expected at least one image, got none'),
    (np.zeros((N, 8, 8, 2), np.uint8), LABELS, None, 'C = 1 or 3, got'),
    (IMAGES, LABELS[:-1], None, 'expected as many labels as images, got 64 images and 63 labels'),
    (np.ma.masked_equal(IMAGES, 5), LABELS, None, 'expected images without a mask'),
    (IMAGES, np.ma.masked_equal(LABELS, 0), None, 'expected labels without a mask'),
    (IMAGES, LABELS / 1, None, 'expected integer labels [N], got float64'),
    (IMAGES, LABELS[:, None], None, 'expected integer labels [N], got int64 (64, 1)'),
    (IMAGES, LABELS - 1, None, 'expected labels >= 0, got -1 to 1'),
    (IMAGES, LABELS + 2**40, None, 'expected labels >= 0, got'),
    (IMAGES, LABELS + 10**5, None, 'expected num_classes in [1, 64], got 100003'),
    (IMAGES, 2 * LABELS, None, "class 1 ('1') has no images"),
    (IMAGES, LABELS, 2, 'label'),
    (IMAGES, LABELS, 4, "class 3 ('3') has no images"),
    (IMAGES, LABELS, '3', "expected num_classes to be a whole number in [1, 64], got '3'"),
    (DATASET, LABELS, None, 'expected no labels or num_classes beside an ImageDataset'),
    (DATASET, None, 3, 'expected no labels or num_classes beside an ImageDataset'),
  ],
)
def test_wrong_arrays_are_refused_before_anything_is_written(
  images, labels, num_classes, message, tmp_path
):
  with pytest.raises(InputError) as caught:
    DPGAN(**SETTINGS).fit(images, labels, run_dir=tmp_path / 'run', num_classes=num_classes)
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_arrays_become_a_data_set():
  dataset = api._dataset(IMAGES[::2], LABELS[::2].astype(np.uint8), None)  # not contiguous
  assert dataset.images.shape == (N // 2, 8, 8, 1)
  assert dataset.class_names == ('0', '1', '2')
  np.testing.assert_array_equal(dataset.labels, LABELS[::2])
  assert api._dataset(IMAGES, None, None).num_classes == 1
  assert api._dataset(np.zeros((3, 4, 5, 3), np.uint8), None, None).image_shape == (4, 5, 3)


@pytest.mark.parametrize('setting', [{'image_size': '8'}, {'channels': 1}, {'holdout': 0.1}])
def test_arrays_are_not_said_to_be_prepared(setting, tmp_path):
  """The report would state what nobody did."""
  model = DPGAN(noise_multiplier=1.0, steps=2, batch_size=4, **setting)
  with pytest.raises(InputError, match=f'expected no {next(iter(setting))} with arrays'):
    model.fit(np.zeros((9, 8, 8), np.uint8), run_dir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
