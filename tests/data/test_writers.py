"""Every format is read back by a reader that shares no code with the writer."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pathlib
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.data.writers import FORMATS, export


def make(count: int = 25, channels: int | None = None, classes: int = 10, seed: int = 0):
  rng = np.random.default_rng(seed)
  shape = (count, 6, 5) if channels is None else (count, 6, 5, channels)
  images = rng.integers(0, 256, shape).astype(np.uint8)
  return images, rng.integers(0, classes, count)


def target(folder: pathlib.Path, format: str) -> pathlib.Path:
  return folder / {'npz': 'out.npz', 'parquet': 'out.parquet'}.get(format, 'out')


def tree(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file below `folder`, hidden ones too, and every empty folder."""
  found = {}
  for path in sorted(folder.rglob('*')):
    name = path.relative_to(folder).as_posix()
    if path.is_file():
      found[name] = path.read_bytes()
    elif not any(path.iterdir()):
      found[name + '/'] = b''
  return found


# --- independent readers: the images in order as [N, H, W] or [N, H, W, C], and the labels --------


def read_npz(path: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  with np.load(path, allow_pickle=False) as archive:
    assert sorted(archive) == ['x', 'y']
    assert archive['x'].dtype == np.uint8
    assert archive['y'].dtype == np.int64
    return archive['x'], archive['y']


def read_png(path: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  assert [p.name for p in path.iterdir()] == [split]
  files = {}
  for file in (path / split).glob('*/*'):
    with Image.open(file) as image:
      assert image.format == 'PNG'
      files[int(file.stem)] = (np.asarray(image), int(file.parent.name))
  assert sorted(files) == list(range(len(files)))
  images, labels = zip(*(files[n] for n in range(len(files))), strict=True)
  return np.stack(images), np.array(labels)


def read_mnist(path: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  def read(name: str) -> np.ndarray:
    (file,) = path.glob(name)
    raw = gzip.decompress(file.read_bytes())
    zero, kind, ndim = struct.unpack('>HBB', raw[:4])
    assert (zero, kind) == (0, 8)
    shape = struct.unpack(f'>{ndim}I', raw[4 : 4 + 4 * ndim])
    assert len(raw) == 4 + 4 * ndim + np.prod(shape)
    assert f'idx{ndim}' in file.name
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)

  stem = {'train': 'train', 'test': 't10k'}[split]
  return read(f'{stem}-images-idx?-ubyte.gz'), read(f'{stem}-labels-idx1-ubyte.gz')


def read_parquet(path: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  rows = pq.read_table(path).to_pylist()
  images = []
  for row in rows:
    with Image.open(io.BytesIO(row['image']['bytes'])) as image:
      images.append(np.asarray(image))
  assert [int(pathlib.Path(row['image']['path']).stem) for row in rows] == list(range(len(rows)))
  return np.stack(images), np.array([row['label'] for row in rows])


READERS = {'npz': read_npz, 'png': read_png, 'idx': read_mnist, 'parquet': read_parquet}


# --- what is written ------------------------------------------------------------------------------


@st.composite
def image_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
  count = draw(st.integers(1, 12))
  shape = (count, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
  channels = draw(st.sampled_from([None, 1, 3]))
  images = draw(hnp.arrays(np.uint8, shape if channels is None else (*shape, channels)))
  dtype = draw(st.sampled_from([np.uint8, np.int32, np.int64, np.uint64]))
  return images, draw(hnp.arrays(dtype, count, elements=st.integers(0, 30)))


@pytest.mark.parametrize('format', FORMATS)
@given(dataset=image_sets(), split=st.sampled_from(['train', 'test']))
def test_what_is_read_back_is_what_was_written(tmp_path_factory, format, dataset, split):
  images, labels = dataset
  path = target(tmp_path_factory.mktemp('export'), format)
  assert export(path, images, labels, format=format, split=split) == path
  x, y = READERS[format](path, split)
  wanted = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
  np.testing.assert_array_equal(x, wanted, strict=True)
  np.testing.assert_array_equal(y, labels)


@pytest.mark.slow
@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('channels', [None, 3])
def test_the_same_images_give_the_same_bytes_at_another_time(tmp_path, format, channels):
  images, labels = make(channels=channels)
  trees = []
  for folder in (tmp_path / 'a', tmp_path / 'b'):
    export(target(folder, format), images, labels, format=format)
    trees.append(tree(folder))
    time.sleep(2.1 if folder.name == 'a' else 0)  # zip stores times in steps of two seconds
  assert trees[0] == trees[1]
  assert trees[0]


@pytest.mark.parametrize('format', ['npz', 'idx', 'png'])
def test_this_package_reads_its_own_output(tmp_path, format):
  images, labels = make(400, channels=3, classes=12)
  path = export(target(tmp_path, format), images, labels, format=format)
  read = datasets.load_dataset(format, data_dir=str(path))
  order = np.argsort(labels, kind='stable') if format == 'png' else np.arange(len(labels))
  np.testing.assert_array_equal(read.images, images[order])
  np.testing.assert_array_equal(read.labels, labels[order])


def test_names_of_folders_and_images_sort_as_text_in_the_order_of_their_numbers(tmp_path):
  images, _ = make(101)
  export(tmp_path / 'out', images, np.arange(101) % 11, format='png')
  names = sorted(p.relative_to(tmp_path / 'out').as_posix() for p in tmp_path.rglob('*.png'))
  assert names[0] == 'train/00/000.png'
  assert [int(name.split('/')[1]) for name in names] == sorted(np.arange(101) % 11)
  export(tmp_path / 'ten', images[:10], np.arange(10), format='png')
  assert (tmp_path / 'ten' / 'train' / '7' / '7.png').is_file()
  export(tmp_path / 'wide', images[:10], np.arange(10), format='png', num_classes=100)
  assert (tmp_path / 'wide' / 'train' / '07' / '7.png').is_file()


def test_both_splits_share_a_folder(tmp_path):
  counts = {'train': 20, 'test': 7}
  for split, count in counts.items():
    for format in ('idx', 'png'):
      export(tmp_path / format, *make(count), format=format, split=split)
  for split, count in counts.items():
    assert len(list((tmp_path / 'png' / split).glob('*/*.png'))) == count
    np.testing.assert_array_equal(read_mnist(tmp_path / 'idx', split)[0], make(count)[0])


def test_idx_has_the_header_of_mnist(tmp_path, mnist_dir):
  images, labels = make(3)
  export(tmp_path, images, labels, format='idx')
  for name in ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'):
    ours, theirs = (gzip.decompress((d / name).read_bytes()) for d in (tmp_path, mnist_dir))
    assert ours[:4] == theirs[:4]


def test_parquet_is_laid_out_as_hugging_face_datasets_expects(tmp_path):
  images, labels = make(2500, classes=3)
  path = export(tmp_path / 'x.parquet', images, labels, format='parquet', num_classes=4)
  file = pq.ParquetFile(path)
  assert file.metadata.num_row_groups == 3
  assert str(file.schema_arrow.field('image').type) == 'struct<bytes: binary, path: string>'
  assert str(file.schema_arrow.field('label').type) == 'int64'
  features = json.loads(file.schema_arrow.metadata[b'huggingface'])['info']['features']
  assert features == {
    'image': {'_type': 'Image'},
    'label': {'_type': 'ClassLabel', 'names': ['0', '1', '2', '3']},
  }
  x, y = read_parquet(path, 'train')
  np.testing.assert_array_equal(x, images)
  np.testing.assert_array_equal(y, labels)


def test_images_without_labels(tmp_path):
  images, _ = make(12, channels=3)
  paths = {f: export(target(tmp_path / f, f), images, None, format=f) for f in FORMATS}
  with np.load(paths['npz'], allow_pickle=False) as archive:
    assert archive.files == ['x']
    np.testing.assert_array_equal(archive['x'], images, strict=True)
  names = [p.relative_to(paths['png']).as_posix() for p in sorted(paths['png'].rglob('*.png'))]
  assert names == [f'train/unlabelled/{n:02}.png' for n in range(12)]
  for n, name in enumerate(names):
    with Image.open(paths['png'] / name) as image:
      np.testing.assert_array_equal(np.asarray(image), images[n])
  assert sorted(tree(paths['idx'])) == ['train-images-idx4-ubyte.gz']
  raw = gzip.decompress((paths['idx'] / 'train-images-idx4-ubyte.gz').read_bytes())
  assert raw[20:] == images.tobytes()
  table = pq.read_table(paths['parquet'])
  assert table.column_names == ['image']
  for n, row in enumerate(table.column('image').to_pylist()):
    with Image.open(io.BytesIO(row['bytes'])) as image:
      np.testing.assert_array_equal(np.asarray(image), images[n])
  metadata = json.loads(table.schema.metadata[b'huggingface'])
  assert metadata == {'info': {'features': {'image': {'_type': 'Image'}}}}


@pytest.mark.parametrize('format', FORMATS)
def test_images_without_labels_replace_labelled_ones_whole_and_the_other_way_round(
  tmp_path, format
):
  images, labels = make(12)
  path = target(tmp_path, format)
  export(path, images, labels, format=format)
  labelled = tree(tmp_path)
  with pytest.raises(InputError, match='exists already'):
    export(path, images, None, format=format)
  export(path, images, None, format=format, overwrite=True)
  bare = tree(tmp_path)
  assert bare != labelled
  assert not [n for n in bare if 'labels' in n or re.search('train/[0-9]', n)]
  export(path, images, labels, format=format, overwrite=True)
  assert tree(tmp_path) == labelled


NAMES = ('Köln', 'köln', 'T-shirt/top', '..', 'a b', 'の')


@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('names', [NAMES, NAMES[1:]])
def test_names_of_classes_are_in_every_format(tmp_path, format, names):
  images, labels = make(60, classes=len(names))
  path = target(tmp_path, format)
  for split in ('train', 'test') if format in ('png', 'idx') else ('train',):
    export(path, images, labels, format=format, class_names=names, split=split)
    if format == 'parquet':
      metadata = json.loads(pq.read_table(path).schema.metadata[b'huggingface'])
      assert metadata['info']['features']['label']['names'] == list(names)
    else:
      read = datasets.load_dataset(format, data_dir=str(path), split=split)
      assert read.class_names == names
      order = np.argsort(labels, kind='stable') if format == 'png' else np.arange(60)
      np.testing.assert_array_equal(read.labels, labels[order])
      np.testing.assert_array_equal(read.images[..., 0], images[order])
  if format == 'png' and names == NAMES[1:]:
    found = {p.name for p in (path / 'train').iterdir()}
    assert found == {'köln', 'T-shirt%2Ftop', '%2E%2E', 'a b', 'の'}
    assert (path / 'train').resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize('format', ['idx', 'png'])
def test_both_splits_have_the_same_names(tmp_path, format):
  images, labels = make(30, classes=3)
  export(tmp_path / 'out', images, labels, format=format, class_names=('a', 'b', 'c'))
  before = tree(tmp_path)
  for others in (('b', 'a', 'c'), None):
    with pytest.raises(InputError, match='whose classes have other names'):
      export(
        tmp_path / 'out', images, labels, format=format, class_names=others, split='test'
      )
  assert tree(tmp_path) == before
  export(
    tmp_path / 'out', images, labels, format=format, class_names=('b', 'a', 'c'), overwrite=True
  )
  assert datasets.load_dataset(format, data_dir=str(tmp_path / 'out')).class_names == (
    'b',
    'a',
    'c',
  )
  export(tmp_path / 'out', images, labels, format=format, overwrite=True)
  assert not (tmp_path / 'out' / 'class_names.json').exists()


def test_images_of_a_person_s_own_are_never_taken_for_an_export(tmp_path):
  """Their folders are called as those of an export would be, their files too."""
  own = tmp_path / 'out' / 'train' / 'cat'
  own.mkdir(parents=True)
  (own / '0.png').write_text('keep me')
  before = tree(tmp_path)
  with pytest.raises(InputError, match='was not written by export'):
    export(
      tmp_path / 'out', *make(5, classes=1), format='png', class_names=('cat',), overwrite=True
    )
  assert tree(tmp_path) == before


# --- what is there already ------------------------------------------------------------------------


@pytest.mark.parametrize('format', FORMATS)
def test_existing_output_is_refused_by_name_and_replaced_only_on_request(tmp_path, format):
  path = target(tmp_path, format)
  images, labels = make(30)
  export(path, images, labels, format=format)
  before = tree(tmp_path)
  images, labels = make(12, channels=3, seed=1)  # idx: another file name than before
  with pytest.raises(InputError, match=f'{path}.* exists already'):
    export(path, images, labels, format=format)
  assert tree(tmp_path) == before
  export(path, images, labels, format=format, overwrite=True)
  x, y = READERS[format](path, 'train')
  np.testing.assert_array_equal(x, images)
  np.testing.assert_array_equal(y, labels)
  assert not [name for name in tree(tmp_path) if '.tmp' in name]


def test_overwriting_leaves_the_other_split_alone(tmp_path):
  for format in ('idx', 'png'):
    path = tmp_path / format
    export(path, *make(5), format=format)
    export(path, *make(5, seed=1), format=format, split='test')
    export(path, *make(7, seed=2), format=format, overwrite=True)
    assert len(list(path.iterdir())) == {'idx': 4, 'png': 2}[format]
    if format == 'idx':
      np.testing.assert_array_equal(read_mnist(path, 'test')[0], make(5, seed=1)[0])


def test_an_unpacked_idx_file_does_not_stay_beside_the_new_one(tmp_path):
  (tmp_path / 'train-images-idx3-ubyte').write_bytes(b'old')
  with pytest.raises(InputError, match='train-images-idx3-ubyte exists already'):
    export(tmp_path, *make(5), format='idx')
  export(tmp_path, *make(5), format='idx', overwrite=True)
  assert sorted(tree(tmp_path)) == ['train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz']


@pytest.mark.parametrize('name', ['notes.txt', '3/notes.txt', 'train/0/1.png', '0/x.png', '77'])
def test_a_folder_with_other_files_is_never_overwritten(tmp_path, name):
  export(tmp_path / 'out', *make(5), format='png')
  foreign = tmp_path / 'out' / 'train' / name
  foreign.parent.mkdir(parents=True, exist_ok=True)
  foreign.write_text('keep me')
  before = tree(tmp_path)
  with pytest.raises(InputError, match='was not written by export'):
    export(tmp_path / 'out', *make(5, seed=1), format='png', overwrite=True)
  assert tree(tmp_path) == before


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path):
  (tmp_path / 'file').write_text('keep me')
  for format in FORMATS:
    path = tmp_path if format in ('npz', 'parquet') else tmp_path / 'file'
    with pytest.raises(InputError, match='folder'):
      export(path, *make(5), format=format, overwrite=True)
  assert tree(tmp_path) == {'file': b'keep me'}


# --- failures of the file system ------------------------------------------------------------------


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
  """Writing beyond `size` bytes of a file fails in the kernel, as it does on a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('before', ['nothing', 'a folder', 'a data set'])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, format, before):
  path = target(tmp_path, format)
  if before == 'a folder' and format in ('png', 'idx'):
    path.mkdir()
  if before == 'a data set':
    export(path, *make(5), format=format)
  there = tree(tmp_path)
  images, labels = make(50, seed=1)
  with files_limited_to(60), pytest.raises(OSError, match='File too large'):
    export(path, images, labels, format=format, overwrite=True)
  assert tree(tmp_path) == there


@pytest.mark.parametrize('format', ['png', 'idx'])
def test_a_rename_that_fails_brings_back_what_was_there(tmp_path, format, monkeypatch):
  export(tmp_path / 'out', *make(5), format=format)
  before, rename, calls = tree(tmp_path), os.rename, []

  def fails_once(source, goal):
    calls.append(goal)
    if len(calls) == {'png': 2, 'idx': 3}[format]:  # the old is away, the new not yet there
      raise OSError('I/O error')
    rename(source, goal)

  monkeypatch.setattr(os, 'rename', fails_once)
  with pytest.raises(OSError, match='I/O error'):
    export(tmp_path / 'out', *make(7, seed=1), format=format, overwrite=True)
  assert tree(tmp_path) == before


@pytest.mark.parametrize(  # one of files, one of folders
  'format',
  [pytest.param(f, marks=[] if f in ('npz', 'png') else [pytest.mark.slow]) for f in FORMATS],
)
def test_kill_9_while_writing_leaves_nothing_under_a_final_name(tmp_path, format):
  path = target(tmp_path, format)
  code = (
    'import numpy as np; from dpgan_jax.data.writers import export;'
    'rng = np.random.default_rng(0); x = rng.integers(0, 256, (100_000, 28, 28)).astype(np.uint8);'
    f'print(flush=True); export({str(path)!r}, x, np.zeros(100_000, int), format={format!r})'
  )
  environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parents[2])}
  with subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, env=environment
  ) as process:
    assert process.stdout is not None
    process.stdout.readline()
    while not any(tmp_path.iterdir()) and process.poll() is None:
      time.sleep(0.01)
    process.kill()
  assert process.returncode == -9
  assert [p for p in tmp_path.iterdir() if not p.name.startswith('.')] == []
  assert any(tmp_path.iterdir())  # it was killed while writing


# --- what is refused ------------------------------------------------------------------------------

IMAGES, LABELS = make(4)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'images': IMAGES.astype(np.float32)}, 'images to be uint8.* got float32'),
    ({'images': IMAGES[0]}, r'images to be uint8 \[N, H, W\].* got uint8 \(6, 5\)'),
    ({'images': IMAGES[:0], 'labels': LABELS[:0]}, 'at least one image'),
    ({'images': IMAGES[:, :0]}, 'at least one pixel'),
    ({'labels': LABELS[:3]}, 'got 4 images and 3 labels'),
    ({'labels': LABELS.astype(np.float64)}, 'labels to be whole numbers.* got float64'),
    ({'labels': LABELS > 3}, 'labels to be whole numbers.* got bool'),
    ({'labels': LABELS[:, None]}, r'labels to be whole numbers \[N\]'),
    ({'labels': np.array([0, 1, -2, 3])}, r'labels in \[0, .*\), got -2 at index 2'),
    ({'labels': np.array([0, 1, 2, 2**31])}, 'got 2147483648 at index 3'),
    ({'labels': np.array([0, 5, 2, 1]), 'num_classes': 5}, r'labels in \[0, 5\), got 5 at index 1'),
    ({'labels': np.array([0, 1, 2, 256]), 'format': 'idx'}, r'labels in \[0, 256\), got 256'),
    ({'num_classes': 0}, 'num_classes'),
    ({'labels': None, 'num_classes': 10}, 'no num_classes without labels, got 10'),
    ({'format': 'jpeg'}, 'format to be one of npz, png, idx, parquet; got'),
    ({'split': '../x'}, 'split to be one of train, test'),
    ({'images': np.zeros((4, 6, 5, 4), np.uint8), 'format': 'png'}, '1 .* or 3 .* got 4'),
    ({'images': np.zeros((4, 6, 5, 2), np.uint8), 'format': 'parquet'}, '1 .* or 3 .* got 2'),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, change, message):
  arguments = {'images': IMAGES, 'labels': LABELS, 'format': 'npz', **change}
  with pytest.raises(InputError, match=message) as caught:
    export(tmp_path / 'out', arguments.pop('images'), arguments.pop('labels'), **arguments)
  assert '\n' not in str(caught.value)
  assert tree(tmp_path) == {}


def test_other_channel_counts_fit_npz_and_idx(tmp_path):
  images, labels = make(channels=2)
  for format in ('npz', 'idx'):
    path = export(target(tmp_path, format), images, labels, format=format)
    np.testing.assert_array_equal(READERS[format](path, 'train')[0], images)


def test_what_was_spent_goes_with_the_file(tmp_path):
  images, labels = make()
  said = 'epsilon 1.001, delta 1e-05 for one labelled image, add_or_remove_one'
  for format in ('npz', 'png', 'parquet'):
    export(target(tmp_path, format), images, labels, format=format, guarantee=said)
  assert str(np.load(tmp_path / 'out.npz')['guarantee']) == said
  assert pq.read_schema(tmp_path / 'out.parquet').metadata[b'guarantee'].decode() == said
  for path in (tmp_path / 'out').rglob('*.png'):
    with Image.open(path) as image:
      assert image.text == {'Guarantee': said}
  for path, kind in ((tmp_path / 'out.npz', 'npz'), (tmp_path / 'out', 'png')):
    assert len(datasets.load_dataset(kind, data_dir=path)) == len(images)
