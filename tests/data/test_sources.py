"""dpgan_jax.data.sources: what is held out is a function of each record alone, and stays aside."""

from __future__ import annotations

import collections
import dataclasses
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, readers, sources, writers
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.models.config import TrainConfig
from tests.support.images import png_folder, refused, small


@pytest.mark.parametrize('held', [300, 0.25])
def test_held_out_examples_are_the_others(held):
  digits = datasets.load_dataset('digits')
  kept, aside = sources.hold_out(digits, held)
  assert len(kept) + len(aside) == 1440
  wanted = held if held >= 1 else 1440 * held
  assert abs(len(aside) - wanted) < 4 * wanted**0.5  # four standard deviations
  rows = np.concatenate([kept.images, aside.images]).reshape(1440, -1)
  order = np.lexsort(rows.T)
  whole = digits.images.reshape(1440, -1)
  np.testing.assert_array_equal(rows[order], whole[np.lexsort(whole.T)])
  again, _ = sources.hold_out(digits, held)
  assert again.fingerprint() == kept.fingerprint()
  assert np.bincount(aside.labels).min() > 10  # a random part, not the end of a sorted file


def sides(dataset: datasets.ImageDataset, held: float) -> dict[bytes, int]:
  """Which part every image is in."""
  parts = enumerate(sources.hold_out(dataset, held))
  return {image.tobytes(): side for side, part in parts for image in part.images}


@pytest.mark.parametrize('held', [300, 0.25])
def test_one_record_less_moves_no_other(held):
  """Once, by a permutation of N, a fifth of all changed sides; no guarantee survives that."""
  digits = datasets.load_dataset('digits')
  whole = sides(digits, held)
  for gone in (0, 700, 1439):
    fewer = dataclasses.replace(
      digits, images=np.delete(digits.images, gone, 0), labels=np.delete(digits.labels, gone)
    )
    assert all(whole[image] == side for image, side in sides(fewer, held).items())
  shuffled = np.random.default_rng(0).permutation(1440)
  other = dataclasses.replace(
    digits, images=digits.images[shuffled], labels=digits.labels[shuffled]
  )
  assert sides(other, held) == whole


def test_copies_of_an_image_stay_together_whatever_their_labels():
  digits = datasets.load_dataset('digits')
  twice = dataclasses.replace(
    digits,
    images=np.concatenate([digits.images, digits.images]),
    labels=np.concatenate([digits.labels, np.roll(digits.labels, 1)]),
  )
  kept, aside = sources.hold_out(twice, 0.3)
  assert not {i.tobytes() for i in kept.images} & {i.tobytes() for i in aside.images}
  assert len(kept) + len(aside) == 2880


@pytest.mark.parametrize('held', [1440, 1439, 10**9])
def test_no_more_can_be_held_out_than_there_is(held):
  with pytest.raises(InputError, match='expected holdout < 1440'):
    sources.hold_out(datasets.load_dataset('digits'), held)


def test_all_of_a_class_are_not_held_out_unsaid():
  digits = datasets.load_dataset('digits')
  inside = sources.chosen(digits.images, 0.1)
  labels = np.where(inside, 1, 0).astype(np.int32)
  names = {'num_classes': 2, 'class_names': ('a', 'b')}
  with pytest.raises(InputError, match="all images of class 'b' would be held out"):
    sources.hold_out(dataclasses.replace(digits, labels=labels, **names), 0.1)
  kept, aside = sources.hold_out(dataclasses.replace(digits, labels=1 - labels, **names), 0.099)
  assert (kept.partial, aside.partial) == (False, True)  # a part may lack a class: 'a' here
  few = dataclasses.replace(small(2, 1), images=digits.images[~inside][:2])
  with pytest.raises(InputError, match='no image would be held out'):
    sources.hold_out(few, 0.1)


# --- sources --------------------------------------------------------------------------------------


def own(folder: pathlib.Path, form: str, *, test: bool) -> sources.Source:
  """200 own images, with a part for testing or without."""
  images = np.random.default_rng(0).integers(0, 256, (200, 4, 5), np.uint8)
  labels = np.arange(200) % 3
  path = folder / ('a.npz' if form == 'npz' else 'own')
  writers.export(path, images, labels, format=form)
  if test and form == 'npz':
    np.savez(path, x=images, y=labels, x_test=images[:30], y_test=labels[:30])
  elif test:
    writers.export(path, images[:30], labels[:30], format=form, split='test')
  return sources.Source(dataset=form, data_dir=str(path))


@pytest.mark.parametrize('form', ['npz', 'png', 'idx'])
def test_a_tenth_is_held_out_where_there_is_nothing_to_test_on(tmp_path, form):
  source = own(tmp_path, form, test=False).settled()
  assert source.holdout == 0.1
  whole = datasets.load_dataset(form, data_dir=source.data_dir)
  train, test = source.load(), source.load('test')
  assert len(train) + len(test) == len(whole) == 200
  assert 5 < len(test) < 40
  assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
  assert f'{len(test)} images are held out' in train.notes[-1]
  assert ('needs 30' in train.notes[-1]) == (len(test) < 30)
  assert source.settled() == source
  assert dataclasses.replace(source, holdout=0).settled().holdout is None
  # The flag files of runs before there was a hold-out: a setting that changes nothing.
  assert dataclasses.replace(source, holdout=None).load().fingerprint() == whole.fingerprint()


@pytest.mark.parametrize('form', ['npz', 'png', 'idx'])
def test_images_for_testing_are_taken_where_there_are_some(tmp_path, form):
  source = own(tmp_path, form, test=True)
  assert source.settled().holdout is None
  assert (len(source.load()), len(source.load('test'))) == (200, 30)
  assert 5 < len(dataclasses.replace(source, holdout=0.1).load('test')) < 40


def test_nothing_changes_for_data_sets_with_a_name():
  for name in ('digits', 'mnist'):
    assert sources.Source(dataset=name).settled().holdout is None
  assert len(sources.Source(dataset='digits').settled().load()) == 1440


def test_who_is_held_out_follows_from_the_image_alone(tmp_path):
  """One file more: whatever becomes of it, all others stay where they were; also when resized."""
  source = dataclasses.replace(own(tmp_path, 'png', test=False), image_size='8', holdout=0.2)
  before = {split: {i.tobytes() for i in source.load(split).images} for split in datasets.SPLITS}
  fates = set()
  for n in range(8):
    path = tmp_path / 'own' / 'train' / '0' / '999.png'
    Image.fromarray(np.full((9, 7), n, np.uint8)).save(path)
    after = {split: {i.tobytes() for i in source.load(split).images} for split in datasets.SPLITS}
    grown = [split for split in datasets.SPLITS if len(after[split]) > len(before[split])]
    assert all(before[split] <= after[split] for split in datasets.SPLITS)
    assert len(grown) == 1
    fates.update(grown)
  assert fates == set(datasets.SPLITS)


def test_settings_of_a_run_say_what_was_done():
  settings = {'noise_multiplier': 1.0, 'steps': 3, 'dataset': 'png'}
  config = TrainConfig(image_size='28', channels=1, holdout=0.1, **settings)
  assert config == TrainConfig.from_dict(config.to_dict())
  assert config.image_size == '28x28'
  source = sources.Source.of(config, data_dir='x', labels_csv='y')
  assert source == sources.Source(
    dataset='png', data_dir='x', labels_csv='y', image_size='28x28', channels=1, holdout=0.1
  )
  for name, value in (('image_size', 'big'), ('channels', 4), ('holdout', 1), ('holdout', -0.1)):
    refused(lambda n=name, v=value: TrainConfig(**settings, **{n: v}), name)


# --- npz as others write them ---------------------------------------------------------------------


def medmnist(path: pathlib.Path, *parts: str, classes: int = 3) -> sources.Source:
  rng = np.random.default_rng(0)
  sizes = {'train': 60, 'val': 9, 'test': 12}
  arrays = {f'{p}_images': rng.integers(0, 256, (sizes[p], 4, 5), np.uint8) for p in parts}
  for part in parts:
    arrays[f'{part}_labels'] = (np.arange(sizes[part]) % classes).astype(np.uint8)[:, None]
  np.savez(path, **arrays)
  return sources.Source(dataset='npz', data_dir=str(path))


def test_medmnist(tmp_path):
  source = medmnist(tmp_path / 'a.npz', 'train', 'val', 'test').settled()
  train, test = source.load(), source.load('test')
  assert (len(train), len(test), source.holdout) == (60, 12, None)
  np.testing.assert_array_equal(train.labels, np.arange(60) % 3)
  assert 'val_images' in train.notes[0]  # which are not used without a word
  source = medmnist(tmp_path / 'b.npz', 'train', 'val').settled()
  assert (len(source.load('test')), source.holdout) == (9, None)
  assert medmnist(tmp_path / 'c.npz', 'train').settled().holdout == 0.1
  assert not source.load().notes
  found = dataclasses.replace(source, image_size='8', channels=3).load()
  assert found.image_shape == (8, 8, 3)
  assert found.notes == ('of 60 images: 60 resized, 60 turned into RGB',)


def test_several_labels_an_image_are_refused(tmp_path):
  arrays = {'train_images': small().images, 'train_labels': np.zeros((12, 14), np.uint8)}
  np.savez(tmp_path / 'a.npz', **arrays)
  refused(
    lambda: datasets.load_dataset('npz', data_dir=str(tmp_path / 'a.npz')), 'train_labels',
    'integer labels [N]', '(12, 14)',
  )  # fmt: skip


def test_arrays_without_labels_are_one_class_and_say_so(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, x=small().images, x_test=small(6).images, other=np.zeros(3))
  for split, count in (('train', 12), ('test', 6)):
    found = datasets.load_dataset('npz', data_dir=str(path), split=split)
    assert (len(found), found.class_names) == (count, ('unlabelled',))
    assert 'among the arrays x, x_test, other: no classes' in found.notes[0]
  np.savez(path, x=small().images, y=small().labels, x_test=small(6).images)
  refused(lambda: datasets.load_dataset('npz', data_dir=str(path), split='test'), 'y_test')
  assert readers.npz_members(('x', 'train_images'), 'train')['x'] == 'x'


def test_pictures_and_arrays_of_one_class_share_its_name(tmp_path):
  png_folder(tmp_path / 'own', small(), ('x', 'x', 'x'))
  flat = datasets.load_dataset('png', data_dir=str(tmp_path / 'own' / 'x'))
  np.savez(tmp_path / 'a.npz', x=small().images)
  arrays = datasets.load_dataset('npz', data_dir=str(tmp_path / 'a.npz'))
  assert flat.class_names == arrays.class_names
  assert flat.fingerprint() == arrays.fingerprint()


@hypothesis.given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_rows_that_are_alike_are_on_both_sides_and_one_more_moves_no_other(seed, x, y):
  """Of a table of four different rows, as of any: by multisets, as rows that are alike are one."""
  rng = np.random.default_rng(seed)
  columns = tuple(Column(name=n, kind='boolean', categories=('no', 'yes')) for n in 'xy')
  rows = rng.integers(0, 2, (200, 2)).astype(np.float64)
  more = np.insert(rows, int(rng.integers(0, 201)), [x, y], axis=0)
  parts = []
  for records in (rows, more):
    table = TableDataset(
      records=records, labels=np.zeros(len(records), np.int32), schema=Schema(columns=columns),
      name='table',
    )  # fmt: skip
    aside = sources.chosen(table.content, 0.3)
    assert 20 < aside.sum() < 105  # of 200 or 201: within six deviations of 60
    parts.append([collections.Counter(map(tuple, records[side])) for side in (aside, ~aside)])
  moved = [after - before for before, after in zip(*parts, strict=True)]
  assert sum(sum(counter.values()) for counter in moved) == 1
  assert not any(before - after for before, after in zip(*parts, strict=True))


def test_what_is_of_images_only_takes_no_table():
  people = sources.Source(dataset='people')
  refused(people.load_images, 'expected images, got the table people: of tables there are ')
  assert len(people.load()) == 5000
  assert len(sources.Source(dataset='digits').load_images()) == 1440
