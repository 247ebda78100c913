"""dpgan_jax.data.download against a real HTTP server
on this machine; nothing leaves it.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, download, readers

SPLITS = ('train', 'test')


class Server:
  """Serves `pages` (path -> bytes); the other tables make single paths misbehave."""

  def __init__(self) -> None:
    self.pages: dict[str, bytes] = {}
    self.status: dict[str, int] = {}
    self.stall: set[str] = set()  # send half, then nothing
    self.trickle: set[str] = set()  # a byte now and then
    self.declared: dict[str, int] = {}  # a Content-Length other than the true one
    self.requests: list[str] = []
    self.stop = threading.Event()
    owner = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self) -> None:
        owner.requests.append(self.path)
        if self.path in owner.status or self.path not in owner.pages:
          self.send_error(owner.status.get(self.path, 404))
          return
        content = owner.pages[self.path]
        self.send_response(200)
        self.send_header('Content-Length', str(owner.declared.get(self.path, len(content))))
        self.end_headers()
        try:
          if self.path in owner.stall:
            self.wfile.write(content[: len(content) // 2])
            if not owner.stop.wait(300):
              owner.requests.append('waited for')
          elif self.path in owner.trickle:
            for i in range(len(content)):
              self.wfile.write(content[i : i + 1])
              if owner.stop.wait(0.02):
                break
          else:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
          pass

      def log_message(self, format: str, *args: object) -> None:
        pass

    self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.http.daemon_threads = True
    self.url = f'http://127.0.0.1:{self.http.server_address[1]}'
    self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
    self.thread.start()

  def close(self) -> None:
    self.stop.set()
    self.http.shutdown()
    self.http.server_close()
    self.thread.join()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
  monkeypatch.setenv('no_proxy', '127.0.0.1')  # a proxy in the environment is not for this server
  serving = Server()
  yield serving
  serving.close()


def published(server: Server, path: str, content: bytes, mirrors=('a', 'b'), **fields):
  """Puts a file on every mirror and returns its registry entry."""
  for mirror in mirrors:
    server.pages[f'/{mirror}/{path}'] = content
  checked = gzip.decompress(content) if fields.get('of_content') else content
  return download.RemoteFile(
    path=path, urls=tuple(f'{server.url}/{mirror}/{path}' for mirror in mirrors),
    size=len(checked), md5=hashlib.md5(checked).hexdigest(),
    sha256=hashlib.sha256(checked).hexdigest(), **fields,
  )  # fmt: skip


def idx_pair(seed: int = 0) -> tuple[bytes, bytes]:
  images = np.random.default_rng(seed).integers(0, 256, (20, 6, 5), np.uint8)
  return readers.idx_bytes(images), readers.idx_bytes(np.arange(20, dtype=np.uint8) % 10)


@pytest.fixture
def registry(server) -> dict:
  images, labels = (gzip.compress(content) for content in idx_pair())
  return {
    'mnist': {
      'train': {
        'images': published(server, 'mnist/train-images-idx3-ubyte.gz', images),
        'labels': published(server, 'mnist/train-labels-idx1-ubyte.gz', labels),
      }
    }
  }


IMAGES = 'mnist/train-images-idx3-ubyte.gz'


def left_in(folder: pathlib.Path) -> list[str]:
  return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def test_fetches_once_and_then_uses_the_cache(server, registry, tmp_path):
  first = download.fetch('mnist', 'train', tmp_path, registry=registry)
  assert first['images'] == tmp_path / IMAGES
  assert first['images'].read_bytes() == server.pages[f'/a/{IMAGES}']
  assert len(server.requests) == 2
  assert download.fetch('mnist', 'train', tmp_path, registry=registry) == first
  assert download.fetch('mnist', 'train', tmp_path, offline=True, registry=registry) == first
  assert len(server.requests) == 2
  assert len(left_in(tmp_path)) == 2


@pytest.mark.parametrize(
  'fault', ['404', '500', 'corrupted', 'truncated', 'longer', 'endless', 'stalls',
            pytest.param('trickles', marks=pytest.mark.slow), 'refused', 'cut']
)  # fmt: skip
def test_a_bad_first_mirror_gives_way_to_the_second(server, registry, tmp_path, fault, caplog):
  page = f'/a/{IMAGES}'
  good = server.pages[page]
  if fault in ('404', '500'):
    server.status[page] = int(fault)
  elif fault == 'corrupted':
    server.pages[page] = bytes([*good[:-1], good[-1] ^ 1])
  elif fault == 'truncated':
    server.pages[page] = good[:-7]
  elif fault == 'cut':  # the connection ends before the declared length
    server.declared[page] = len(good)
    server.pages[page] = good[:-7]
  elif fault == 'longer':
    server.pages[page] = good + b'!'
  elif fault == 'endless':
    server.pages[page] = good + bytes(2**26)
  elif fault == 'stalls':
    server.stall.add(page)
  elif fault == 'trickles':
    server.trickle.add(page)
  elif fault == 'refused':
    entry = registry['mnist']['train']['images']
    urls = (f'http://127.0.0.1:1/{IMAGES}', entry.urls[1])  # no one listens on port 1
    registry['mnist']['train']['images'] = dataclasses.replace(entry, urls=urls)
  patience = 1.0 if fault in ('stalls', 'trickles') else 60.0  # the others fail at once
  paths = download.fetch('mnist', 'train', tmp_path, registry=registry, timeout=patience)
  assert paths['images'].read_bytes() == good
  assert f'/b/{IMAGES}' in server.requests
  assert 'waited for' not in server.requests
  assert len(left_in(tmp_path)) == 2  # and nothing half-written


def test_an_endless_answer_does_not_fill_the_disk(server, registry):
  entry = registry['mnist']['train']['images']
  server.pages[f'/a/{IMAGES}'] += bytes(2**24)
  stream = io.BytesIO()
  with pytest.raises(download._Unavailable, match='more than'):
    download._download(entry.urls[0], entry, stream, timeout=60)
  assert len(stream.getvalue()) <= entry.size


def test_one_line_with_instructions_when_every_mirror_fails(server, registry, tmp_path):
  good = server.pages[f'/a/{IMAGES}']
  server.pages[f'/a/{IMAGES}'] = good[:-1] + b'!'
  server.status[f'/b/{IMAGES}'] = 503
  with pytest.raises(InputError) as caught:
    download.fetch('mnist', 'train', tmp_path, registry=registry)
  message = str(caught.value)
  assert '\n' not in message
  for words in (
    'md5 checksum', 'HTTP status 503', f'{server.url}/a/', f'{server.url}/b/', '--data_dir=',
    'train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz', str(tmp_path),
  ):  # fmt: skip
    assert words in message
  assert left_in(tmp_path) == []


def test_sha256_is_checked_beside_md5(server, registry, tmp_path):
  entry = registry['mnist']['train']['images']
  registry['mnist']['train']['images'] = dataclasses.replace(entry, sha256='0' * 64)
  with pytest.raises(InputError, match='sha256 checksum'):
    download.fetch('mnist', 'train', tmp_path, registry=registry)


def test_offline_without_the_files(server, registry, tmp_path):
  with pytest.raises(InputError, match=r'offline.*--data_dir=FOLDER') as caught:
    download.fetch('mnist', 'train', tmp_path / 'new', offline=True, registry=registry)
  assert '\n' not in str(caught.value)
  assert server.requests == []
  assert left_in(tmp_path) == []


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'grown'])
def test_a_damaged_cached_file_is_fetched_again(server, registry, tmp_path, damage, caplog):
  path = download.fetch('mnist', 'train', tmp_path, registry=registry)['images']
  good = path.read_bytes()
  path.write_bytes({'flip': good[:-1] + b'!', 'cut': good[:9], 'empty': b'', 'grown': good * 2}[
    damage
  ])  # fmt: skip
  with pytest.raises(InputError, match=r'the cached .* offline'):
    download.fetch('mnist', 'train', tmp_path, offline=True, registry=registry)
  assert download.fetch('mnist', 'train', tmp_path, registry=registry)['images'] == path
  assert path.read_bytes() == good
  assert server.requests.count(f'/a/{IMAGES}') == 2
  assert 'fetching it again' in caplog.text


class TestContentChecksum:
  """MNIST's mirrors compress differently; what is inside is what has the published checksum."""

  @pytest.fixture
  def registry(self, server) -> dict:
    pair = idx_pair()
    files = [
      published(server, f'mnist/{k}.gz', gzip.compress(c), of_content=True)
      for k, c in zip('il', pair, strict=True)
    ]
    server.pages['/a/mnist/i.gz'] = gzip.compress(pair[0], 1, mtime=5)  # other bytes, same content
    server.pages['/a/mnist/l.gz'] = pair[1]  # not compressed at all
    return {'mnist': {'train': {'images': files[0], 'labels': files[1]}}}

  def test_any_compression_will_do(self, server, registry, tmp_path):
    paths = download.fetch('mnist', 'train', tmp_path, registry=registry)
    assert not any(page.startswith('/b') for page in server.requests)
    for path, content in zip(paths.values(), idx_pair(), strict=True):
      assert readers.idx_bytes(readers.read_idx(path)) == content

  @pytest.mark.parametrize(
    'spoil', [lambda c: gzip.compress(c[:-1] + b'!'), lambda c: gzip.compress(c)[:-9],
              lambda c: gzip.compress(c + bytes(2**24)), lambda c: gzip.compress(c) + b'tail',
              lambda c: b'\x1f\x8b' + c, lambda c: b'']
  )  # fmt: skip
  def test_other_content_will_not(self, server, registry, tmp_path, spoil):
    server.pages['/a/mnist/i.gz'] = spoil(idx_pair()[0])
    download.fetch('mnist', 'train', tmp_path, registry=registry)
    assert '/b/mnist/i.gz' in server.requests


class TestArchive:
  @pytest.fixture
  def registry(self, server) -> dict:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
      for kind, content in zip(('images', 'labels'), idx_pair(), strict=True):
        archive.writestr(f'gzip/{kind}.gz', gzip.compress(content))
    whole = published(server, 'emnist/gzip.zip', packed.getvalue())
    return {
      'emnist_digits': {
        'train': {
          kind: download.ArchiveMember(
            path=f'emnist/{kind}.gz', archive=whole, member=f'gzip/{kind}.gz'
          )
          for kind in ('images', 'labels')
        }
      }
    }

  def fetch(self, registry, cache, **options):
    return download.fetch('emnist_digits', 'train', cache, registry=registry, **options)

  def test_members_are_extracted_from_one_download(self, server, registry, tmp_path):
    paths = self.fetch(registry, tmp_path)
    assert server.requests == ['/a/emnist/gzip.zip']
    assert left_in(tmp_path) == ['emnist/gzip.zip', 'emnist/images.gz', 'emnist/labels.gz']
    for path, content in zip(paths.values(), idx_pair(), strict=True):
      assert readers.idx_bytes(readers.read_idx(path)) == content
    before = [os.stat(p).st_ino for p in paths.values()]
    self.fetch(registry, tmp_path, offline=True)
    assert [os.stat(p).st_ino for p in paths.values()] == before

  @pytest.mark.parametrize('damaged', [lambda b: b[:-1] + b'!', lambda b: b[:-3], lambda b: b''])
  def test_a_damaged_member_is_extracted_again(self, server, registry, tmp_path, damaged):
    path = self.fetch(registry, tmp_path)['images']
    good = path.read_bytes()
    path.write_bytes(damaged(good))
    self.fetch(registry, tmp_path, offline=True)
    assert path.read_bytes() == good

  def test_a_damaged_archive_is_fetched_again(self, server, registry, tmp_path):
    self.fetch(registry, tmp_path)
    (tmp_path / 'emnist' / 'gzip.zip').write_bytes(b'PK')
    self.fetch(registry, tmp_path)
    assert len(server.requests) == 2

  def test_failure_names_the_files_that_data_dir_needs(self, server, registry, tmp_path):
    with pytest.raises(InputError, match=r'put images\.gz and labels\.gz .* in a folder'):
      self.fetch(registry, tmp_path, offline=True)


def test_load_dataset_uses_the_cache_named_by_the_environment(
  server, registry, tmp_path, monkeypatch
):
  monkeypatch.setattr(download, 'REGISTRY', registry)
  monkeypatch.setenv('DPGAN_JAX_CACHE', str(tmp_path / 'mine'))
  loaded = datasets.load_dataset('mnist')
  assert (len(loaded), loaded.image_shape, loaded.num_classes) == (20, (6, 5, 1), 10)
  assert (tmp_path / 'mine' / IMAGES).is_file()


def test_cache_places(monkeypatch, tmp_path):
  monkeypatch.delenv('DPGAN_JAX_CACHE', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert download.default_cache_dir() == tmp_path / 'dpgan_jax'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert download.default_cache_dir() == tmp_path / '.cache' / 'dpgan_jax'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full on this system')
def test_a_full_disk_is_not_taken_for_a_bad_mirror(server, registry):
  entry = registry['mnist']['train']['images']
  with open('/dev/full', 'wb', buffering=0) as full, pytest.raises(OSError, match='No space left'):
    download._download(entry.urls[0], entry, full, timeout=60)


def test_a_cache_that_is_a_file_is_not_taken_for_a_bad_mirror(server, registry, tmp_path):
  (tmp_path / 'mnist').write_text('in the way')
  with pytest.raises(FileExistsError):
    download.fetch('mnist', 'train', tmp_path, registry=registry)
  assert server.requests == []


class TestPublicRegistry:
  def test_is_complete_and_safe(self):
    assert set(download.REGISTRY) == {
      'mnist', 'fashion_mnist', 'kmnist', 'emnist', 'emnist_digits', 'emnist_letters'
    }  # fmt: skip
    assert set(download.REGISTRY) < set(datasets.DATASETS)
    places: dict[str, object] = {}
    for splits in download.REGISTRY.values():
      assert set(splits) == set(SPLITS)
      for sources in splits.values():
        assert list(sources) == ['images', 'labels']
        for source in sources.values():
          file = source if isinstance(source, download.RemoteFile) else source.archive
          for entry in (source, file):
            assert places.setdefault(entry.path, entry) == entry  # no two share a place
            assert not pathlib.PurePosixPath(entry.path).is_absolute()
          assert len(set(file.urls)) >= 2
          assert all(url.startswith(('https://', 'http://')) for url in file.urls)
          assert len(file.md5) == 32
          assert int(file.md5, 16)
          assert file.of_content or len(file.sha256 or '') == 64

  @pytest.mark.parametrize('split', SPLITS)
  def test_real_mnist_has_the_registered_checksums(self, mnist_dir, tmp_path, split):
    (tmp_path / 'mnist').mkdir()
    for source in download.REGISTRY['mnist'][split].values():
      name = pathlib.PurePosixPath(source.path).name
      (tmp_path / source.path).symlink_to(mnist_dir / name)
    paths = download.fetch('mnist', split, tmp_path, offline=True)
    assert readers.read_idx(paths['images']).shape[1:] == (28, 28)

  def test_unknown_names(self, tmp_path):
    with pytest.raises(InputError, match='fashion_mnist'):
      download.fetch('cifar10', 'train', tmp_path)
    with pytest.raises(InputError, match='test, train'):
      download.fetch('mnist', 'valid', tmp_path)
