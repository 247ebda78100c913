"""dpgan_jax.data.datasets: what a data set must hold, scaling, and one line
naming every fault.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax.data import datasets
from dpgan_jax.data.images.dataset import to_model_range, to_uint8
from tests.support.images import refused, save_idx


def small(num: int = 12, num_classes: int = 3, channels: int = 1) -> datasets.ImageDataset:
  shape = (num, 4, 5, channels)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  return dataset(images, np.arange(num, dtype=np.int32) % num_classes, num_classes)


def dataset(images: np.ndarray, labels: np.ndarray, num_classes: int = 3) -> datasets.ImageDataset:
  names = tuple(map(str, range(num_classes)))
  return datasets.ImageDataset(
    images=images, labels=labels, num_classes=num_classes, name='small', class_names=names
  )


def idx_folder(folder: pathlib.Path, source: datasets.ImageDataset, stem: str = 'train') -> str:
  save_idx(folder / f'{stem}-images-idx3-ubyte', source.images[..., 0])
  save_idx(folder / f'{stem}-labels-idx1-ubyte', source.labels.astype(np.uint8))
  return str(folder)


class TestImageDataset:
  def test_accepts_and_describes(self):
    ds = small(channels=3)
    assert (len(ds), ds.image_shape) == (12, (4, 5, 3))

  def test_repr_shows_no_pixel_and_no_label(self):
    assert 'array' not in repr(small())

  def test_fingerprint_sees_pixels_labels_and_shape_but_not_the_name(self):
    ds = small()
    changed = ds.images.copy()
    changed[3, 0, 0, 0] ^= 1
    others = [
      dataset(changed, ds.labels),
      dataset(ds.images, np.roll(ds.labels, 1)),
      dataset(ds.images.reshape(12, 5, 4, 1), ds.labels),
    ]
    prints = {d.fingerprint() for d in others} | {ds.fingerprint()}
    assert len(prints) == 4
    again = datasets.ImageDataset(
      images=ds.images.copy(), labels=ds.labels.copy(), num_classes=3, name='another',
      class_names=('a', 'b', 'c'),
    )  # fmt: skip
    assert again.fingerprint() == ds.fingerprint()

  @pytest.mark.parametrize(
    ('change', 'words'),
    [
      (lambda i, l: (i[:-1], l), ('as many labels as images', '11 images', '12 labels')),
      (lambda i, l: (i, l + 1), ('[0, 3)', 'got 3', 'index 2')),
      (lambda i, l: (i, l - 1), ('[0, 3)', 'got -1', 'index 0')),
      (lambda i, l: (i[:0], l[:0]), ('at least one image',)),
      (lambda i, l: (i, np.minimum(l, 1)), ("class 2 ('2') has no images",)),
      (lambda i, l: (i.astype(np.float32), l), ('uint8 array of 4 dimensions', 'float32')),
      (lambda i, l: (i[..., 0], l), ('4 dimensions', '(12, 4, 5)')),
      (lambda i, l: (i, l.astype(np.int64)), ('labels', 'int32', 'int64')),
      (lambda i, l: (i, l[:, None]), ('labels', '1 dimensions')),
      (lambda i, l: (np.repeat(i, 2, 3), l), ('C = 1 or 3', '(12, 4, 5, 2)')),
      (lambda i, l: (i[:, :0], l), ('H, W >= 1',)),
      (lambda i, l: (i[:, ::2], l), ('C-contiguous',)),
      (lambda i, l: (i.tolist(), l), ('images', 'list')),
    ],
  )
  def test_refuses(self, change, words):
    ds = small()
    refused(lambda: dataset(*change(ds.images, ds.labels)), 'small: ', *words)

  def test_refuses_wrong_number_of_class_names(self):
    ds = small()
    refused(
      lambda: datasets.ImageDataset(
        images=ds.images, labels=ds.labels, num_classes=3, name='small', class_names=('a',)
      ),
      '3 class names, got 1',
    )


class TestScaling:
  def test_round_trip_of_all_values_on_the_host_and_inside_jit(self):
    pixels = np.arange(256, dtype=np.uint8)
    host = to_model_range(pixels)
    compiled = jax.jit(to_model_range)(jnp.asarray(pixels))
    assert host.dtype == compiled.dtype == np.float32
    for x in (host, compiled):
      assert (float(x[0]), float(x[255])) == (-1, 1)
      np.testing.assert_array_equal(to_uint8(x), pixels)
    np.testing.assert_allclose(host, compiled, atol=2e-7)

  def test_is_the_same_whatever_else_is_in_the_batch(self):
    # A statistic of the batch would make one person's pixel depend on another's.
    bright, dark = np.array([[100, 255]], np.uint8), np.array([[100, 3]], np.uint8)
    assert to_model_range(bright)[0, 0] == to_model_range(dark)[0, 0]

  @pytest.mark.usefixtures('strict_dtypes')
  def test_strict_promotion(self):
    assert to_model_range(jnp.zeros((2, 3), jnp.uint8)).dtype == jnp.float32

  def test_clips_and_rounds_to_nearest(self):
    x = np.array([-1.7, -np.inf, 1.2, np.inf, (100.4 / 127.5) - 1, (100.6 / 127.5) - 1])
    assert to_uint8(x).tolist() == [0, 0, 255, 255, 100, 101]

  def test_takes_bfloat16(self):
    assert to_uint8(jnp.array([-1, 1], jnp.bfloat16)).tolist() == [0, 255]

  def test_refuses_nan_and_wrong_dtypes(self):
    refused(lambda: to_uint8(jnp.array([0.0, jnp.nan])), '1 NaN')
    refused(lambda: to_uint8(np.array([0, 255], np.uint8)), 'floats', 'uint8')
    refused(lambda: to_model_range(np.zeros(3, np.float32)), 'uint8', 'float32')


class TestLoadIdx:
  def test_idx(self, tmp_path):
    ds = small()
    loaded = datasets.load_dataset('idx', data_dir=idx_folder(tmp_path, ds))
    np.testing.assert_array_equal(loaded.images, ds.images)
    np.testing.assert_array_equal(loaded.labels, ds.labels)
    assert (loaded.name, loaded.num_classes, loaded.class_names) == ('idx', 3, ('0', '1', '2'))

  def test_colour_has_four_dimensions(self, tmp_path):
    ds = small(channels=3)
    save_idx(tmp_path / 'train-images-idx4-ubyte', ds.images)
    save_idx(tmp_path / 'train-labels-idx1-ubyte', ds.labels)
    assert datasets.load_dataset('idx', data_dir=str(tmp_path)).fingerprint() == ds.fingerprint()

  @pytest.mark.parametrize('image_name', ['train-images-idx3-ubyte', 'train-images.idx3-ubyte',
                                          'train-images-idx3-ubyte.gz'])  # fmt: skip
  def test_usual_names(self, tmp_path, image_name):
    ds = small(10, 10)
    save_idx(tmp_path / image_name, ds.images[..., 0])
    save_idx(tmp_path / 'train-labels.idx1-ubyte.gz', ds.labels.astype(np.uint8))
    for name in ('mnist', 'fashion_mnist', 'kmnist', 'emnist_digits'):
      loaded = datasets.load_dataset(name, data_dir=str(tmp_path))
      assert (loaded.num_classes, loaded.name) == (10, name)
    assert loaded.image_shape == (5, 4, 1)  # EMNIST is stored with rows and columns exchanged

  def test_test_split_takes_its_classes_from_the_training_labels(self, tmp_path):
    folder = idx_folder(tmp_path, small())
    fewer = small(num_classes=2)
    idx_folder(tmp_path, fewer, 't10k')
    refused(lambda: datasets.load_dataset('idx', data_dir=folder, split='test'), 'class 2')
    loaded = datasets.load_dataset('idx', data_dir=folder, split='test', num_classes=2)
    assert loaded.fingerprint() == fewer.fingerprint()

  def test_emnist(self, tmp_path):
    ds = small(47, 47)
    names = [f'emnist-balanced-test-{k}-ubyte.gz' for k in ('images-idx3', 'labels-idx1')]
    save_idx(tmp_path / names[0], ds.images[..., 0])
    save_idx(tmp_path / names[1], ds.labels.astype(np.uint8))
    loaded = datasets.load_dataset('emnist', data_dir=str(tmp_path), split='test')
    np.testing.assert_array_equal(loaded.images, ds.images.swapaxes(1, 2))
    assert loaded.class_names[10] == 'A'
    assert loaded.class_names[36] == 'a'

  def test_emnist_letters_are_counted_from_one(self, tmp_path):
    ds = small(26, 26)
    save_idx(tmp_path / 'train-images-idx3-ubyte', ds.images[..., 0])
    labels = tmp_path / 'train-labels-idx1-ubyte'
    save_idx(labels, (ds.labels + 1).astype(np.uint8))
    loaded = datasets.load_dataset('emnist_letters', data_dir=str(tmp_path))
    np.testing.assert_array_equal(loaded.labels, ds.labels)
    assert (loaded.class_names[0], loaded.class_names[25]) == ('a', 'z')
    save_idx(labels, ds.labels.astype(np.uint8))
    refused(
      lambda: datasets.load_dataset('emnist_letters', data_dir=str(tmp_path)), '[0, 26)', '-1'
    )

  def test_counts_that_differ(self, tmp_path):
    folder = idx_folder(tmp_path, small())
    save_idx(tmp_path / 'train-labels-idx1-ubyte', np.zeros(11, np.uint8))
    refused(lambda: datasets.load_dataset('idx', data_dir=folder), 'train-images-idx3-ubyte has '
            '12 images', 'train-labels-idx1-ubyte has 11 labels')  # fmt: skip

  def test_labels_out_of_range_and_empty_class(self, tmp_path):
    folder = idx_folder(tmp_path, small())
    refused(lambda: datasets.load_dataset('idx', data_dir=folder, num_classes=2), '[0, 2)', 'got 2')
    refused(lambda: datasets.load_dataset('idx', data_dir=folder, num_classes=4), "class 3 ('3')")
    refused(lambda: datasets.load_dataset('mnist', data_dir=folder), "class 3 ('3') has no images")
    save_idx(tmp_path / 'train-labels-idx1-ubyte', np.full(12, 2**31 - 1, np.int32))
    refused(
      lambda: datasets.load_dataset('idx', data_dir=folder), 'label 2147483647 among 12 labels'
    )
    save_idx(tmp_path / 'train-labels-idx1-ubyte', np.full(12, -1, np.int32))
    refused(lambda: datasets.load_dataset('idx', data_dir=folder), 'labels >= 0', '-1')

  def test_exchanged_missing_empty(self, tmp_path):
    folder = idx_folder(tmp_path, small())
    images, labels = (tmp_path / f'train-{k}-ubyte' for k in ('images-idx3', 'labels-idx1'))
    images.rename(tmp_path / 'x')
    refused(lambda: datasets.load_dataset('mnist', data_dir=folder), 'no images file',
            'train-images-idx3-ubyte')  # fmt: skip
    labels.rename(images)
    (tmp_path / 'x').rename(labels)
    refused(lambda: datasets.load_dataset('mnist', data_dir=folder), str(images), 'exchanged')
    save_idx(images, np.zeros((0, 4, 5), np.uint8))
    save_idx(labels, np.zeros(0, np.uint8))
    for name in ('idx', 'mnist'):
      refused(lambda n=name: datasets.load_dataset(n, data_dir=folder), 'at least one image')
    refused(lambda: datasets.load_dataset('idx', data_dir=str(tmp_path / 'no')), 'does not exist')
    refused(lambda: datasets.load_dataset('idx', data_dir=str(images)), 'is not a folder')

  @pytest.mark.parametrize(('split', 'num'), [('train', 60000), ('test', 10000)])
  def test_real_mnist(self, mnist_dir, split, num):
    loaded = datasets.load_dataset('mnist', data_dir=str(mnist_dir), split=split)
    assert (len(loaded), loaded.image_shape, loaded.num_classes) == (num, (28, 28, 1), 10)
    assert loaded.labels[:5].tolist() == {'train': [5, 0, 4, 1, 9], 'test': [7, 2, 1, 0, 4]}[split]


class TestRegistry:
  def test_unknown_name_suggests_a_close_one(self):
    refused(lambda: datasets.load_dataset('fashon-mnist'), 'digits, mnist', 'mean fashion_mnist?')
    assert 'did you mean' not in refused(lambda: datasets.load_dataset('zzzz'), "got 'zzzz'")

  def test_arguments_that_do_not_fit(self):
    refused(lambda: datasets.load_dataset('digits', split='valid'), 'split', 'train, test')
    refused(lambda: datasets.load_dataset('digits', data_dir='x'), 'no data_dir')
    refused(lambda: datasets.load_dataset('digits', num_classes=10), 'num_classes')
    for name in ('idx', 'npz', 'png'):
      refused(lambda n=name: datasets.load_dataset(n), 'data_dir', name)

  def test_digits_are_split_once_and_for_all(self):
    from sklearn.datasets import load_digits

    train, test = datasets.load_dataset('digits'), datasets.load_dataset('digits', split='test')
    everything = load_digits()
    assert (len(train), len(test)) == (1440, 357)
    assert np.bincount(test.labels).min() >= 30
    both = np.concatenate([train.images, test.images]).astype(int).sum()
    assert both == np.rint(everything.images * 255 / 16).sum()
    assert (train.images.min(), train.images.max()) == (0, 255)
    np.testing.assert_array_equal(test.labels[:10], everything.target[40:50])
