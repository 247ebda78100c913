"""dpgan_jax.data.readers: round trips, and one line naming the file for whatever
bytes it holds.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json
import os
import pathlib
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, naming, readers

IDX_DTYPES = ('uint8', 'int8', 'int16', 'int32', 'float32', 'float64')


def small(num: int = 12, num_classes: int = 3, channels: int = 1) -> datasets.ImageDataset:
  shape = (num, 4, 5, channels)
  return datasets.ImageDataset(
    images=np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    labels=np.arange(num, dtype=np.int32) % num_classes, num_classes=num_classes, name='small',
    class_names=tuple(map(str, range(num_classes))),
  )  # fmt: skip


def refused(call: Callable[[], object], *words: str) -> str:
  """Asserts that `call` fails in one line that holds `words`; returns the line."""
  with pytest.raises(InputError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message
  return message


def npz(path: pathlib.Path, compressed: bool = False, **arrays: np.ndarray) -> str:
  (np.savez_compressed if compressed else np.savez)(path, **arrays)
  return str(path)


def png_folder(root: pathlib.Path, source: datasets.ImageDataset, names: tuple[str, ...]) -> str:
  for i, (image, label) in enumerate(zip(source.images, source.labels, strict=True)):
    folder = root / names[label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(folder / f'{i}.png')
  return str(root)


def png(
  pixels: np.ndarray,
  depth: int,
  colour: int,
  *chunks: tuple[bytes, bytes],
  interlace: bool = False,
) -> bytes:
  """A PNG file of grey (colour 0) or RGB (2) pixels of `depth` bits, written without a library."""

  def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)

  def rows(part: np.ndarray) -> bytes:
    numbers = np.ascontiguousarray(part.reshape(len(part), -1), '>u2').view(np.uint8)
    bits = np.unpackbits(numbers, axis=1).reshape(len(part), -1, 16)[:, :, 16 - depth :]
    return b''.join(b'\0' + np.packbits(row).tobytes() for row in bits)

  passes = [(0, 0, 1, 1)]
  if interlace:  # Adam7
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
  parts = [pixels[y::down, x::right] for y, x, down, right in passes]
  body = zlib.compress(b''.join(rows(part) for part in parts if part.size))
  height, width = pixels.shape[:2]
  head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, interlace)
  all_chunks = [(b'IHDR', head), *chunks, (b'IDAT', body), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*each) for each in all_chunks)


class TestIdx:
  @hypothesis.given(
    array=st.sampled_from(IDX_DTYPES).flatmap(
      lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    ),
    packed=st.booleans(),
  )
  def test_round_trip(self, tmp_path_factory, array, packed):
    path = tmp_path_factory.getbasetemp() / ('a.gz' if packed else 'a')
    readers.save_idx(path, array)
    back = readers.read_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, array)
    assert (path.read_bytes()[:2] == b'\x1f\x8b') == packed

  def test_bytes_are_those_of_the_format(self):
    images = np.zeros((2, 28, 28), np.uint8)
    assert readers.idx_bytes(images)[:16] == struct.pack('>4I', 2051, 2, 28, 28)
    labels = readers.idx_bytes(np.array([7, 9], np.uint8))
    assert labels == struct.pack('>2I', 2049, 2) + b'\x07\x09'
    assert readers.idx_bytes(np.array([1], np.int32))[-4:] == b'\0\0\0\1'

  def test_gzip_is_told_by_content_not_by_name(self, tmp_path):
    array = np.arange(6, dtype=np.uint8)
    (tmp_path / 'plain.gz').write_bytes(readers.idx_bytes(array))
    (tmp_path / 'packed').write_bytes(gzip.compress(readers.idx_bytes(array)))
    for name in ('plain.gz', 'packed'):
      np.testing.assert_array_equal(readers.read_idx(tmp_path / name), array)

  @pytest.mark.parametrize('array', [np.zeros((), np.uint8), np.zeros((1,) * 5, np.uint8),
                                     np.zeros(3, np.uint16), np.zeros(3, bool)])  # fmt: skip
  def test_writer_refuses_what_the_format_lacks(self, array):
    refused(lambda: readers.idx_bytes(array), str(array.dtype))

  def bad(self, tmp_path: pathlib.Path, content: bytes, *words: str, kind=None) -> None:
    path = tmp_path / 'file'
    path.write_bytes(content)
    refused(lambda: readers.read_idx(path, kind), str(path), *words)

  def test_missing_or_no_file(self, tmp_path):
    refused(lambda: readers.read_idx(tmp_path / 'absent'), 'absent does not exist')
    refused(lambda: readers.read_idx(tmp_path), 'is not a regular file')
    refused(lambda: readers.read_idx('/dev/zero'), 'is not a regular file')

  def test_links_to_what_is_no_file(self, tmp_path):
    os.mkfifo(tmp_path / 'pipe')  # which would be waited for without end
    for name, target in {'a': '/dev/zero', 'b': 'b', 'c': tmp_path / 'pipe', 'd': '.'}.items():
      (tmp_path / name).symlink_to(target)
      for read in (readers.read_idx, readers.read_npz, readers.npz_names):
        refused(lambda read=read, name=name: read(tmp_path / name), f'/{name} ')

  def test_truncated(self, tmp_path):
    whole = readers.idx_bytes(np.zeros((5, 4, 4), np.uint8))
    self.bad(tmp_path, b'', 'header')
    self.bad(tmp_path, whole[:10], 'truncated in its header')
    self.bad(tmp_path, whole[:-1], 'truncated', 'expected 96 bytes', 'got 95')
    self.bad(tmp_path, gzip.compress(whole[:-1]), 'truncated', 'expected 96 bytes')
    packed = gzip.compress(np.random.default_rng(0).bytes(80))
    self.bad(tmp_path, packed[: len(packed) // 2], 'expected')
    self.bad(tmp_path, gzip.compress(whole)[:-6], 'cut short')

  def test_trailing_bytes(self, tmp_path):
    whole = readers.idx_bytes(np.zeros((5, 4, 4), np.uint8))
    self.bad(tmp_path, whole + b'!', '1 trailing bytes')
    self.bad(tmp_path, gzip.compress(whole + b'!'), 'trailing bytes')

  def test_gzip_checksum_is_compared(self, tmp_path):
    packed = bytearray(gzip.compress(readers.idx_bytes(np.zeros((5, 4, 4), np.uint8))))
    packed[-8] ^= 1
    self.bad(tmp_path, bytes(packed), 'CRC check failed')

  @pytest.mark.parametrize('magic', [0, 2048, 2053, 0x0A01, 0x01000803, 0x504B0304])
  def test_wrong_magic_number(self, tmp_path, magic):
    self.bad(tmp_path, struct.pack('>5I', magic, 1, 1, 1, 0), 'magic number', f'got {magic}')

  def test_exchanged_files_are_named(self, tmp_path):
    images = readers.idx_bytes(np.zeros((2, 3, 3), np.uint8))
    labels = readers.idx_bytes(np.zeros(2, np.uint8))
    self.bad(tmp_path, labels, '2051', '2049', 'exchanged', kind='images')
    self.bad(tmp_path, images, '2049', '2051', 'exchanged', kind='labels')
    floats = readers.idx_bytes(np.zeros((2, 3, 3), np.float32))
    self.bad(tmp_path, floats, 'byte images', kind='images')
    self.bad(tmp_path, readers.idx_bytes(np.zeros(2)), 'integer labels', kind='labels')

  def test_a_header_that_promises_too_much_costs_no_memory(self, tmp_path):
    tracemalloc.start()
    huge = struct.pack('>4I', 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    self.bad(tmp_path, huge, 'at most')
    self.bad(tmp_path, gzip.compress(huge), 'at most')
    self.bad(tmp_path, struct.pack('>4I', 2051, 0, 2**32 - 1, 2**32 - 1), 'at most')
    billion = struct.pack('>4I', 2051, 1000, 1000, 1000)
    self.bad(tmp_path, billion, 'truncated', 'got 16')
    self.bad(tmp_path, gzip.compress(billion), 'truncated', 'at most')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23

  def test_a_gzip_bomb_is_read_no_further_than_promised(self, tmp_path):
    content = readers.idx_bytes(np.zeros((2, 3, 3), np.uint8)) + bytes(2**28)
    packed = gzip.compress(content, 1)
    del content
    tracemalloc.start()
    self.bad(tmp_path, packed, 'trailing bytes')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


class TestNpz:
  @pytest.mark.parametrize('channels', [0, 1, 3])
  @pytest.mark.parametrize('compressed', [False, True])
  def test_loads(self, tmp_path, channels, compressed):
    ds = small(channels=channels or 1)
    x = ds.images if channels else ds.images[..., 0]
    path = npz(tmp_path / 'a.npz', compressed, x=x, y=ds.labels.astype(np.int64))
    assert datasets.load_dataset('npz', data_dir=path).fingerprint() == ds.fingerprint()

  @pytest.mark.parametrize('dtype', ['float32', 'float64', '>f4'])
  def test_floats_and_fortran_order(self, tmp_path, dtype):
    ds = small()
    x = np.asfortranarray((ds.images / 255).astype(dtype))
    loaded = datasets.load_dataset('npz', data_dir=npz(tmp_path / 'a.npz', x=x, y=ds.labels))
    assert loaded.fingerprint() == ds.fingerprint()

  def test_test_split(self, tmp_path):
    train, test = small(), small(6, 3)
    path = npz(tmp_path / 'a.npz', x=train.images, y=train.labels)
    refused(lambda: datasets.load_dataset('npz', data_dir=path, split='test'), 'x_test', 'got x, y')
    path = npz(tmp_path / 'b.npz', x=train.images, y=train.labels, x_test=test.images,
               y_test=test.labels)  # fmt: skip
    loaded = datasets.load_dataset('npz', data_dir=path, split='test')
    assert loaded.fingerprint() == test.fingerprint()

  @pytest.mark.parametrize(
    ('wrong', 'words'),
    [
      (lambda x, y: (np.where(x == x[0, 0, 0, 0], np.nan, x / 255), y), ('NaN', 'image 0')),
      (lambda x, y: (np.where(np.arange(12)[:, None, None, None] == 7, np.inf, x / 255), y),
       ('20 inf', 'image 7')),
      (lambda x, y: (x / 127.0, y), ('[0, 1]', 'others')),
      (lambda x, y: (x / 255 - 0.5, y), ('[0, 1]', 'others')),
      (lambda x, y: (x.astype(np.int64), y), ('int64',)),
      (lambda x, y: (x.astype(object), y), ('dtype object', 'pickled')),
      (lambda x, y: (x.astype(str), y), ('expected numbers',)),
      (lambda x, y: (x[0, 0], y), ('[N, H, W]', '(5, 1)')),
      (lambda x, y: (x[:0], y), ('non-empty', '(0, 4, 5, 1)')),
      (lambda x, y: (np.uint8(3), y), ('non-empty', '()')),
      (lambda x, y: (x, y[:-1]), ('12 images', '11 labels')),
      (lambda x, y: (x, y.astype(np.float32)), ('integer labels', 'float32')),
      (lambda x, y: (x, np.eye(3, dtype=int)[y]), ('integer labels [N]', '(12, 3)')),
      (lambda x, y: (x, y - 1), ('labels >= 0', '-1')),
      (lambda x, y: (x, y.astype(np.uint64) + 2**40), ('1099511627776',)),
      (lambda x, y: (x, np.minimum(y, 1) * 2), ("class 1 ('1') has no images",)),
      (lambda x, y: (x, y * 100), ('label 200', 'without gaps')),
    ],
  )  # fmt: skip
  def test_refuses(self, tmp_path, wrong, words):
    ds = small()
    x, y = wrong(ds.images, ds.labels)
    path = npz(tmp_path / 'a.npz', x=x, y=y)
    refused(lambda: datasets.load_dataset('npz', data_dir=path), *words)

  def test_labels_out_of_the_declared_range(self, tmp_path):
    path = npz(tmp_path / 'a.npz', x=small().images, y=small().labels)
    refused(lambda: datasets.load_dataset('npz', data_dir=path, num_classes=2), '[0, 2)', 'got 2')

  def test_refuses_other_files(self, tmp_path):
    path = tmp_path / 'a.npz'
    refused(lambda: readers.read_npz(path), 'does not exist')
    path.write_bytes(b'not a zip')
    refused(lambda: readers.read_npz(path), 'undamaged .npz')
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('x.npy', b'not an array')
      archive.writestr('y.npy', b'')
    refused(lambda: readers.read_npz(path), 'x: expected a .npy header')
    npz(path, x=small().images, y=small().labels)
    path.write_bytes(path.read_bytes()[:-40])
    refused(lambda: readers.read_npz(path), 'undamaged .npz')

  def test_damaged_data_fail_their_checksum(self, tmp_path):
    path = tmp_path / 'a.npz'
    npz(path, x=small().images, y=small().labels)
    content = bytearray(path.read_bytes())
    content[content.index(small().images.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    refused(lambda: readers.read_npz(path), 'Bad CRC-32')

  def test_a_header_that_promises_too_much_costs_no_memory(self, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
      header, {'descr': '|u1', 'fortran_order': False, 'shape': (10**6, 1000, 1000)}
    )
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
      archive.writestr('x.npy', header.getvalue() + bytes(10))
      archive.writestr('y.npy', b'')
    refused(lambda: readers.read_npz(tmp_path / 'a.npz'), 'header fits its data', '10 bytes')

  def test_a_zip_bomb_is_refused_unread(self, tmp_path, monkeypatch):
    path = npz(tmp_path / 'a.npz', True, x=np.zeros((2**12, 32, 32), np.uint8), y=np.zeros(2**12))
    monkeypatch.setattr(readers, 'MAX_BYTES', 2**20)
    tracemalloc.start()
    refused(lambda: readers.read_npz(path), 'unpacks to', 'at most 1048576')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20

  @pytest.mark.parametrize('compressed', [False, True])
  def test_a_directory_that_promises_too_much_costs_no_memory(self, tmp_path, compressed):
    path = pathlib.Path(npz(tmp_path / 'a.npz', compressed, x=small().images, y=small().labels))
    content = bytearray(path.read_bytes())
    entry = content.index(b'PK\1\2')  # x's
    content[entry + 24 : entry + 28] = struct.pack('<I', 2**31 - 1)  # its size
    tracemalloc.start()
    for packed_size in (None, 2**31 - 1):
      if packed_size:
        content[entry + 20 : entry + 24] = struct.pack('<I', packed_size)
      path.write_bytes(content)
      refused(lambda: readers.read_npz(path), str(path), 'x: promises 2147483647 bytes')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22

  def test_a_size_of_true_is_one(self, tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 2, 3)}\n"
    npy = b'\x93NUMPY\1\0' + struct.pack('<H', len(header)) + header + bytes(6)
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
      archive.writestr('x.npy', npy)
    assert readers.read_npz(tmp_path / 'a.npz', parts=('x',))[0].shape == (1, 2, 3)

  def test_names_are_listed_or_refused(self, tmp_path):
    path = pathlib.Path(npz(tmp_path / 'a.npz', x=small().images))
    assert readers.npz_names(path) == ('x',)
    content = path.read_bytes()
    entry = content.rindex(b'PK\1\2')
    path.write_bytes(content[:entry] + b'QQ' + content[entry + 2 :])
    refused(lambda: readers.npz_names(path), str(path), 'undamaged .npz')
    refused(lambda: readers.npz_names(tmp_path / 'absent'), 'does not exist')

  def test_reads_the_needed_members_only(self, tmp_path):
    ds = small()
    poison = np.array([{'a': 1}], object)
    path = npz(tmp_path / 'a.npz', x=ds.images, y=ds.labels, poison=poison)
    assert datasets.load_dataset('npz', data_dir=path).fingerprint() == ds.fingerprint()


class TestClassNames:
  """Names beside the data: of both splits, in the order of the labels."""

  NAMES = ('zebra', 'Köln', 'ape')

  def test_npz(self, tmp_path):
    ds = small()
    arrays = {'x': ds.images, 'y': ds.labels, 'x_test': ds.images, 'y_test': ds.labels}
    path = npz(tmp_path / 'a.npz', class_names=np.array(self.NAMES), **arrays)
    for split in datasets.SPLITS:
      loaded = datasets.load_dataset('npz', data_dir=path, split=split)
      assert loaded.class_names == self.NAMES
      assert loaded.fingerprint() == ds.fingerprint()
    refused(lambda: datasets.load_dataset('npz', data_dir=path, num_classes=4), 'num_classes=3')

  @pytest.mark.parametrize(
    ('names', 'words'),
    [
      (np.array(['a', 'b', 'a']), ('different names', "'a' twice")),
      (np.array(['a', 'b', '']), ('1 to 1000 characters',)),
      (np.array(['a', 'b']), ('[0, 2)', 'got 2')),
      (np.arange(3), ('expected text', 'int64')),
      (np.array([['a', 'b', 'c']]), ('names [K]',)),
      (np.array(['a', 'b', 'c' * 1001]), ('names [K]',)),
      (np.frombuffer(b'\xff' * 12, '<U1'), ('to be text',)),
      (np.array(['a', 'b', None]), ('pickled',)),
    ],
  )
  def test_npz_refuses(self, tmp_path, names, words):
    ds = small()
    path = npz(tmp_path / 'a.npz', x=ds.images, y=ds.labels, class_names=names)
    where = 'npz: ' if 'got 2' in words else path
    refused(lambda: datasets.load_dataset('npz', data_dir=path), where, *words)

  def test_images_are_no_text(self, tmp_path):
    path = npz(tmp_path / 'a.npz', x=np.array(['a']), y=np.zeros(1, int))
    refused(lambda: datasets.load_dataset('npz', data_dir=path), path, 'expected numbers')

  def test_idx(self, tmp_path):
    ds = small()
    for stem in ('train', 't10k'):
      readers.save_idx(tmp_path / f'{stem}-images-idx3-ubyte', ds.images[..., 0])
      readers.save_idx(tmp_path / f'{stem}-labels-idx1-ubyte', ds.labels.astype(np.uint8))
    (tmp_path / naming.FILE).write_text(json.dumps(self.NAMES), encoding='utf-8')
    for split in datasets.SPLITS:
      assert (
        datasets.load_dataset('idx', data_dir=str(tmp_path), split=split).class_names == self.NAMES
      )

  @pytest.mark.parametrize(
    ('text', 'word'),
    [('{"a": 1}', 'a list'), ('[]', 'a list'), ('["a", 1]', 'names of'), ('[', 'JSON list'),
     ('["a", "a"]', 'twice'), ('["' + 'a' * 1001 + '"]', 'characters'),
     (' ' * 2**20 + '["a"]', 'at most 1048576 bytes')],
    ids=lambda text: text[:10],
  )  # fmt: skip
  def test_a_file_of_names_that_is_none(self, tmp_path, text, word):
    png_folder(tmp_path, small(), ('a', 'b', 'c'))
    (tmp_path / naming.FILE).write_text(text)
    refused(lambda: datasets.load_dataset('png', data_dir=str(tmp_path)), naming.FILE, word)

  def test_png_folders_in_the_order_of_the_file(self, tmp_path):
    folder = png_folder(tmp_path, small(), self.NAMES)
    (tmp_path / naming.FILE).write_text(json.dumps(self.NAMES))
    loaded = datasets.load_dataset('png', data_dir=folder)
    assert loaded.class_names == self.NAMES
    np.testing.assert_array_equal(loaded.labels, np.repeat(np.arange(3), 4))
    (tmp_path / 'more').mkdir()
    refused(lambda: datasets.load_dataset('png', data_dir=folder), 'more', naming.FILE)

  @hypothesis.given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
  def test_folders_are_different_names_that_every_file_system_takes(self, names):
    folders = naming.folders(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
      assert not set(folder) & set('/\\:*?"<>|\0\n')
      assert folder.strip('. ') == folder != ''

  def test_classes_must_be_the_same(self):
    ds = dataclasses.replace(small(), class_names=('a', 'b', 'c'))
    datasets.require_same_classes(ds, ('a', 'b', 'c'), 'the run')
    datasets.require_same_classes(ds, ('0', '1', '2'), 'the run')  # never named
    refused(lambda: datasets.require_same_classes(ds, ('a', 'c', 'b'), 'the run'), "class 1 is 'b'")
    refused(
      lambda: datasets.require_same_classes(ds, ('0', '1'), 'the run'), '3 classes', 'the run 2'
    )


class TestPngFolder:
  @pytest.mark.parametrize('channels', [1, 3])
  @pytest.mark.parametrize('split', ['train', 'test', None])
  def test_loads(self, tmp_path, channels, split):
    ds = small(channels=channels)
    png_folder(tmp_path / (split or ''), ds, ('9', '10', '100'))
    (tmp_path / '.hidden').mkdir()
    loaded = datasets.load_dataset('png', data_dir=str(tmp_path), split=split or 'train')
    order = np.argsort(ds.labels, kind='stable')
    np.testing.assert_array_equal(loaded.images, ds.images[order])  # files 2, 10: as numbers
    np.testing.assert_array_equal(loaded.labels, ds.labels[order])
    assert loaded.class_names == ('9', '10', '100')

  def test_names_are_sorted_as_names_where_one_is_no_number(self, tmp_path):
    folder = png_folder(tmp_path, small(), ('9', '10', 'cat'))
    assert datasets.load_dataset('png', data_dir=folder).class_names == ('10', '9', 'cat')

  def test_refuses_wrong_images_by_name(self, tmp_path):
    folder = png_folder(tmp_path, small(), ('a', 'b', 'c'))
    odd = tmp_path / 'b' / '99.png'
    for image, words in [
      (Image.new('L', (7, 4)), ('size of the first image', '(4, 7)')),
      (Image.new('RGB', (5, 4)), ('size of the first image', '(4, 5, 3)')),
      (Image.new('RGBA', (5, 4)), ('mode RGBA',)),
      (Image.new('P', (5, 4)), ('mode P',)),
      (Image.new('1', (5, 4)), ('mode 1',)),
      (Image.new('I;16', (5, 4)), ('mode I;16',)),
    ]:
      image.save(odd)
      refused(lambda: datasets.load_dataset('png', data_dir=folder), str(odd), *words)
    Image.new('L', (5, 4)).save(odd, 'JPEG')
    refused(lambda: datasets.load_dataset('png', data_dir=folder), str(odd), 'undamaged PNG')
    odd.unlink()
    (tmp_path / 'b' / 'notes.txt').write_text('hello')
    refused(lambda: datasets.load_dataset('png', data_dir=folder), 'notes.txt', 'only PNG')

  @pytest.mark.parametrize('interlace', [False, True])
  @pytest.mark.parametrize(('depth', 'colour'), [(2, 0), (4, 0), (8, 0), (8, 2)])
  def test_what_fits_eight_bits_is_read_exactly(self, tmp_path, depth, colour, interlace):
    pixels = np.random.default_rng(depth).integers(0, 2**depth, (11, 13, 3)[: 2 + (colour == 2)])
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '0.png').write_bytes(png(pixels, depth, colour, interlace=interlace))
    found = datasets.load_dataset('png', data_dir=str(tmp_path)).images[0].squeeze()
    np.testing.assert_array_equal(found, pixels * (255 // (2**depth - 1)))

  @pytest.mark.parametrize(
    ('depth', 'colour', 'chunk', 'word'),
    [
      (16, 2, (b'sRGB', b'\0'), '16 bits'),  # once read as the upper byte alone: 200 was black
      (16, 0, (b'sRGB', b'\0'), 'mode I;16'),
      (1, 0, (b'sRGB', b'\0'), 'mode 1'),
      (8, 0, (b'gAMA', struct.pack('>I', 100_000)), 'gamma 1 '),
      (8, 2, (b'gAMA', struct.pack('>I', 55_556)), 'gamma 0.55556'),
      (8, 0, (b'tRNS', b'\0\5'), 'transparent'),
      (8, 0, (b'acTL', struct.pack('>II', 2, 0)), 'animation'),
      (8, 0, (b'eXIf', b'MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0'), 'upright'),
    ],
  )
  @pytest.mark.parametrize('interlace', [False, True])
  def test_what_would_be_lost_is_refused(self, tmp_path, depth, colour, chunk, word, interlace):
    pixels = np.full((4, 4, 3)[: 2 + (colour == 2)], 200 % 2**depth)
    (tmp_path / 'a').mkdir()
    path = tmp_path / 'a' / '0.png'
    path.write_bytes(png(pixels, depth, colour, chunk, interlace=interlace))
    refused(lambda: datasets.load_dataset('png', data_dir=str(tmp_path)), str(path), word)

  def test_the_usual_gamma_is_nothing_to_refuse(self, tmp_path):
    (tmp_path / 'a').mkdir()
    for i, chunk in enumerate([(b'gAMA', struct.pack('>I', 45_455)), (b'gAMA', bytes(4))]):
      (tmp_path / 'a' / f'{i}.png').write_bytes(png(np.full((4, 4), 7), 8, 0, chunk))
    assert (datasets.load_dataset('png', data_dir=str(tmp_path)).images == 7).all()

  def test_refuses_an_empty_class_and_missing_folders(self, tmp_path):
    folder = str(tmp_path)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '<class>/*.png')
    png_folder(tmp_path / 'train', small(), ('a', 'b', 'c'))
    refused(lambda: datasets.load_dataset('png', data_dir=folder, split='test'), 'a folder test/')
    (tmp_path / 'train' / 'bb').mkdir()
    refused(lambda: datasets.load_dataset('png', data_dir=folder), "class 2 ('bb') is empty")

  def test_test_images_have_the_classes_of_training_by_name(self, tmp_path):
    """A folder of test images that sorts otherwise once had its classes exchanged."""
    ds = small(num_classes=2)
    png_folder(tmp_path / 'train', ds, ('apple', 'banana'))
    png_folder(tmp_path / 'test', ds, ('apple', 'Banana'))
    load = functools.partial(datasets.load_dataset, 'png', data_dir=str(tmp_path), split='test')
    refused(load, str(tmp_path / 'test' / 'Banana'), "'apple', 'banana'", 'train')
    (tmp_path / 'test' / 'Banana').rename(tmp_path / 'test' / 'banana')
    assert load().class_names == ('apple', 'banana')
    (tmp_path / 'test' / 'apple').rename(tmp_path / 'apple')
    refused(load, "class 0 ('apple') has no images")
    (tmp_path / 'apple').rename(tmp_path / 'test' / 'Apfel')
    refused(load, 'Apfel', 'is none of the classes of training')

  @pytest.mark.parametrize(
    ('there', 'here'), [(('9', '10'), ('09', '10')), (('1', '2'), ('2', '3')), ('ab', 'bc')]
  )
  def test_other_sets_of_classes_are_refused(self, tmp_path, there, here):
    ds = small(num_classes=2)
    png_folder(tmp_path / 'train', ds, tuple(there))
    png_folder(tmp_path / 'test', ds, tuple(here))
    refused(
      lambda: datasets.load_dataset('png', data_dir=str(tmp_path), split='test'), 'is none of'
    )

  def test_two_ways_to_spell_a_name_are_one(self, tmp_path):
    ds = small(num_classes=2)
    png_folder(tmp_path / 'train', ds, ('bonn', 'köln'))
    png_folder(tmp_path / 'test', ds, ('bonn', 'ko\u0308ln'))  # as macOS unpacks it
    folder = str(tmp_path)
    for split in datasets.SPLITS:
      loaded = datasets.load_dataset('png', data_dir=folder, split=split)
      assert loaded.class_names == ('bonn', 'köln')
    png_folder(tmp_path / 'test', ds, ('bonn', 'köln'))
    refused(lambda: datasets.load_dataset('png', data_dir=folder, split='test'), 'two folders')

  @pytest.mark.parametrize('names', [('training', 'testing'), ('Train', 'TEST')])
  def test_splits_by_other_names_are_splits_and_no_classes(self, tmp_path, names):
    for name, num in zip(names, (12, 6), strict=True):
      png_folder(tmp_path / name, small(num), ('a', 'b', 'c'))
    sizes = [
      len(datasets.load_dataset('png', data_dir=str(tmp_path), split=s)) for s in datasets.SPLITS
    ]
    assert sizes == [12, 6]
    png_folder(tmp_path / 'train', small(), ('a', 'b', 'c'))
    refused(lambda: datasets.load_dataset('png', data_dir=str(tmp_path)), 'one folder of the train')

  @pytest.mark.parametrize('name', ['testing', 'Test', 'validation', 'val'])
  def test_a_split_beside_classes_is_no_class(self, tmp_path, name):
    folder = png_folder(tmp_path, small(), ('a', 'b', 'c'))
    png_folder(tmp_path / name, small(), ('a', 'b', 'c'))
    message = refused(lambda: datasets.load_dataset('png', data_dir=folder), 'expected')
    assert 'train' in message

  def test_refuses_links_out_of_the_folder(self, tmp_path):
    folder = png_folder(tmp_path / 'in', small(), ('a', 'b', 'c'))
    secret = tmp_path / 'secret.png'
    Image.new('L', (5, 4)).save(secret)
    link = tmp_path / 'in' / 'b' / '77.png'
    link.symlink_to(secret)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), str(link), 'outside')
    link.unlink()
    link.symlink_to(tmp_path / 'in' / 'a' / '0.png')
    assert len(datasets.load_dataset('png', data_dir=folder)) == 13
    link.unlink()
    link.symlink_to(link)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '77.png')

  def test_a_class_that_is_a_link_out_of_the_folder_is_not_even_listed(self, tmp_path):
    outside = png_folder(tmp_path / 'outside', small(), ('a', 'b', 'c'))
    root = pathlib.Path(png_folder(tmp_path / 'root', small(), ('0', '1', '2')))
    (root / '3').symlink_to(pathlib.Path(outside) / 'a')
    listed = []
    with pytest.MonkeyPatch.context() as patch:
      iterdir = pathlib.Path.iterdir
      patch.setattr(pathlib.Path, 'iterdir', lambda path: listed.append(path) or iterdir(path))
      refused(lambda: datasets.load_dataset('png', data_dir=str(root)), 'links to a place outside')
    assert root / '2' in listed
    assert root / '3' not in listed
    (root / '3').unlink()
    (root / 'train').symlink_to(outside)
    refused(lambda: datasets.load_dataset('png', data_dir=str(root)), 'links to a place outside')

  def test_refuses_bombs(self, tmp_path, monkeypatch):
    folder = png_folder(tmp_path, small(), ('a', 'b', 'c'))
    Image.new('L', (300, 300)).save(tmp_path / 'b' / '99.png')
    for limit in (50_000, 10_000):  # one where pillow only warns, one where it fails
      monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
      refused(lambda: datasets.load_dataset('png', data_dir=folder), '99.png', f'at most {limit}')
    monkeypatch.setattr(readers, 'MAX_BYTES', 200)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '13 images', 'at most 200')


def mutations(valid: bytes, count: int, seed: int):
  """Yields damaged copies: bits flipped, bytes replaced, cut, repeated, grown, and pure noise."""
  rng = random.Random(seed)
  for i in range(count):
    content = bytearray(valid)
    for _ in range(rng.choice((1, 1, 2, 8))):
      place = rng.randrange(len(content) or 1)
      match rng.randrange(6):
        case 0 if content:
          content[place % len(content)] ^= 1 << rng.randrange(8)
        case 1 if content:
          content[place % len(content)] = rng.choice((0, 1, 127, 128, 255))
        case 2:
          del content[place:]
        case 3:
          content[place:place] = content[: rng.randrange(40)]
        case 4:
          content += rng.randbytes(rng.randrange(20))
        case _:
          content[place : place + 4] = struct.pack('<i', rng.choice((-1, 0, 2**31 - 1, 2**20)))
    yield rng.randbytes(rng.randrange(200)) if i % 20 == 0 else bytes(content)


def fuzz(path: pathlib.Path, valid: bytes, read: Callable[[], object], count: int) -> None:
  refusals = 0
  for content in mutations(valid, count, seed=count):
    path.write_bytes(content)
    try:
      read()
    except InputError as error:
      message = str(error)
    else:
      continue
    assert '\n' not in message
    assert str(path) in message
    refusals += 1
  assert refusals > count // 2  # else the fuzzing did not reach what it should


class TestFuzz:
  """Whatever the bytes are, the outcome is an array or an InputError."""

  def test_idx(self, tmp_path):
    path = tmp_path / 'file'
    valid = readers.idx_bytes(small().images[..., 0])
    fuzz(path, valid, lambda: readers.read_idx(path), 600)
    fuzz(path, valid[:24], lambda: readers.read_idx(path), 601)
    fuzz(path, gzip.compress(valid), lambda: readers.read_idx(path), 602)

  def test_npz(self, tmp_path):
    path = tmp_path / 'file'
    for compressed, count in ((False, 700), (True, 701)):
      npz(tmp_path / 'a.npz', compressed, x=small().images, y=small().labels)
      fuzz(path, (tmp_path / 'a.npz').read_bytes(), lambda: readers.read_npz(path), count)

  def test_npy_headers(self, tmp_path):
    # Inside a sound archive, as its checksum would catch what is damaged before the header is read.
    path = tmp_path / 'file'
    member = io.BytesIO()
    np.save(member, small().images)
    for content in mutations(member.getvalue()[:128] + bytes(8), 600, seed=3):
      with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x.npy', content)
        archive.writestr('y.npy', b'')
      refused(lambda: readers.read_npz(path, parts=('x',)), str(path))

  def test_png(self, tmp_path):
    path = tmp_path / 'a' / '0.png'
    path.parent.mkdir()
    info = PngImagePlugin.PngInfo()
    info.add_text('Comment', 'hello', zip=True)
    Image.fromarray(small().images[0, ..., 0]).save(path, pnginfo=info)
    fuzz(path, path.read_bytes(), lambda: datasets.read_png_folder(tmp_path), 600)
