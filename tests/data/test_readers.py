"""dpgan_jax.data.readers: round trips, and one line naming the file for whatever
bytes it holds.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import pathlib
import struct
import tracemalloc
import zipfile

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from dpgan_jax.data import datasets, naming, readers
from tests.support.images import fuzz, mutations, png_folder, refused, save_idx, small

IDX_DTYPES = ('uint8', 'int8', 'int16', 'int32', 'float32', 'float64')


def npz(path: pathlib.Path, compressed: bool = False, **arrays: np.ndarray) -> str:
  (np.savez_compressed if compressed else np.savez)(path, **arrays)
  return str(path)


class TestIdx:
  @hypothesis.given(
    array=st.sampled_from(IDX_DTYPES).flatmap(
      lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    ),
    packed=st.booleans(),
  )
  def test_round_trip(self, tmp_path_factory, array, packed):
    path = tmp_path_factory.getbasetemp() / ('a.gz' if packed else 'a')
    save_idx(path, array)
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
      (lambda x, y: (np.uint8(3), y), ('[N, H, W]', '()')),
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
      save_idx(tmp_path / f'{stem}-images-idx3-ubyte', ds.images[..., 0])
      save_idx(tmp_path / f'{stem}-labels-idx1-ubyte', ds.labels.astype(np.uint8))
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
    naming.require_same('small', ds.class_names, ('a', 'b', 'c'), 'the run')
    naming.require_same('small', ds.class_names, ('0', '1', '2'), 'the run')  # never named
    for names, *words in ((('a', 'c', 'b'), "class 1 is 'b'"), (('0', '1'), '3 cl', 'the run 2')):
      refused(lambda n=names: naming.require_same('small', ds.class_names, n, 'the run'), *words)


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
