"""Public data sets by name: several mirrors, published checksums, a cache that is never trusted.

`fetch` gives the paths of one split's files. What is in the cache is checked again on every use, so
neither a cut connection nor a bad disk reaches training; what fails is fetched again. A file takes
its name only once its checksum is right.

Sources of the checksums: torchvision (`datasets/mnist.py`) and Fashion-MNIST's README for MD5;
TensorFlow Datasets (`url_checksums/*.txt`) and Keras (`datasets/fashion_mnist.py`) for SHA-256 and
sizes. MNIST's mirrors compress differently, so there the uncompressed content is checked.

>>> sorted(REGISTRY)
['emnist', 'emnist_digits', 'emnist_letters', 'fashion_mnist', 'kmnist', 'mnist']
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import logging
import os
import pathlib
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import tqdm

from dpgan_jax._files import atomic_write
from dpgan_jax._validate import InputError, one_of

_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteFile:
  """One file to download.

  Attributes:
    path: its place in the cache, relative, with '/'.
    urls: the mirrors, tried in order.
    size: bytes of what the checksum is of; more than this is never read (nor, by far, downloaded).
    md5: published MD5, hex. It guards against damage and mix-ups; making another file with a given
      MD5 (a second preimage) is out of reach, too.
    sha256: published SHA-256, hex, checked too where there is one.
    of_content: the checksums are of the uncompressed content rather than of the file as published.
  """

  path: str
  urls: tuple[str, ...]
  size: int
  md5: str
  sha256: str | None = None
  of_content: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArchiveMember:
  """A file inside a zip archive; `path` is its place in the cache, `member` its name inside."""

  path: str
  archive: RemoteFile
  member: str


Source = RemoteFile | ArchiveMember
Registry = Mapping[str, Mapping[str, Mapping[str, Source]]]  # data set -> split -> kind -> source

_NAMES = {
  'train': {'images': 'train-images-idx3-ubyte.gz', 'labels': 'train-labels-idx1-ubyte.gz'},
  'test': {'images': 't10k-images-idx3-ubyte.gz', 'labels': 't10k-labels-idx1-ubyte.gz'},
}


def _four_files(
  dataset: str,
  mirrors: tuple[str, ...],
  published: Mapping[str, tuple[int, str, str | None]],
  of_content: bool = False,
) -> dict[str, dict[str, Source]]:
  def source(name: str) -> Source:
    size, md5, sha256 = published[name]
    return RemoteFile(
      path=f'{dataset}/{name}', urls=tuple(mirror + name for mirror in mirrors), size=size, md5=md5,
      sha256=sha256, of_content=of_content,
    )  # fmt: skip

  return {s: {kind: source(name) for kind, name in kinds.items()} for s, kinds in _NAMES.items()}


_MNIST = _four_files(
  'mnist',
  (
    'https://ossci-datasets.s3.amazonaws.com/mnist/',
    'https://storage.googleapis.com/cvdf-datasets/mnist/',
  ),
  {
    'train-images-idx3-ubyte.gz': (47040016, '6bbc9ace898e44ae57da46a324031adb', None),
    'train-labels-idx1-ubyte.gz': (60008, 'a25bea736e30d166cdddb491f175f624', None),
    't10k-images-idx3-ubyte.gz': (7840016, '2646ac647ad5339dbf082846283269ea', None),
    't10k-labels-idx1-ubyte.gz': (10008, '27ae3e4e09519cfbb04c329615203637', None),
  },
  of_content=True,
)

_FASHION_MNIST = _four_files(
  'fashion_mnist',
  (
    'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/',
    'https://storage.googleapis.com/tensorflow/tf-keras-datasets/',
    'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
  ),
  {
    'train-images-idx3-ubyte.gz': (
      26421880, '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
      '3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84',
    ),
    'train-labels-idx1-ubyte.gz': (
      29515, '25c81989df183df01b3e8a0aad5dffbe',
      'a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845',
    ),
    't10k-images-idx3-ubyte.gz': (
      4422102, 'bef4ecab320f06d8554ea6380940ec79',
      '346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073',
    ),
    't10k-labels-idx1-ubyte.gz': (
      5148, 'bb300cfdad3c16e7a12a480ee83cd310',
      '67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5',
    ),
  },
)  # fmt: skip

_KMNIST = _four_files(
  'kmnist',
  (
    'https://codh.rois.ac.jp/kmnist/dataset/kmnist/',
    'http://codh.rois.ac.jp/kmnist/dataset/kmnist/',
  ),
  {
    'train-images-idx3-ubyte.gz': (
      18165135, 'bdb82020997e1d708af4cf47b453dcf7',
      '51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4',
    ),
    'train-labels-idx1-ubyte.gz': (
      29497, 'e144d726b3acfaa3e44228e80efcd344',
      'e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17',
    ),
    't10k-images-idx3-ubyte.gz': (
      3041136, '5c965bf0a639b31b8f53240b1b52f4d7',
      'edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5',
    ),
    't10k-labels-idx1-ubyte.gz': (
      5120, '7320c461ea6c1c855c0b718fb2a4b134',
      '20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c',
    ),
  },
)  # fmt: skip

_EMNIST_ZIP = RemoteFile(
  path='emnist/gzip.zip',
  urls=(
    'https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip',
    'https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip',
  ),
  size=561753746,
  md5='58c8d27c78d21e728a6bc7b3cc06412e',
  sha256='fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e',
)


def _emnist(part: str) -> dict[str, dict[str, Source]]:
  def source(name: str) -> Source:
    return ArchiveMember(path=f'emnist/{name}', archive=_EMNIST_ZIP, member=f'gzip/{name}')

  return {
    split: {
      'images': source(f'emnist-{part}-{split}-images-idx3-ubyte.gz'),
      'labels': source(f'emnist-{part}-{split}-labels-idx1-ubyte.gz'),
    }
    for split in ('train', 'test')
  }


REGISTRY: Registry = {
  'mnist': _MNIST,
  'fashion_mnist': _FASHION_MNIST,
  'kmnist': _KMNIST,
  'emnist': _emnist('balanced'),
  'emnist_digits': _emnist('digits'),
  'emnist_letters': _emnist('letters'),
}


def default_cache_dir() -> pathlib.Path:
  """Returns $DPGAN_JAX_CACHE, else $XDG_CACHE_HOME/dpgan_jax, else ~/.cache/dpgan_jax."""
  if own := os.environ.get('DPGAN_JAX_CACHE'):
    return pathlib.Path(os.path.expanduser(own))
  if shared := os.environ.get('XDG_CACHE_HOME'):
    return pathlib.Path(os.path.expanduser(shared)) / 'dpgan_jax'
  return pathlib.Path.home() / '.cache' / 'dpgan_jax'


def fetch(
  dataset: str,
  split: str,
  cache_dir: pathlib.Path | None = None,
  *,
  offline: bool = False,
  timeout: float = 30.0,
  registry: Registry | None = None,
) -> dict[str, pathlib.Path]:
  """Returns the paths of a public data set's files, downloading what the cache does not hold.

  Args:
    dataset: a name in the registry.
    split: 'train' or 'test'.
    cache_dir: where files are kept; by default `default_cache_dir()`.
    offline: use the cache alone.
    timeout: seconds without an answer after which the next mirror is tried.
    registry: what can be fetched; by default `REGISTRY`.

  Returns:
    {'images': path, 'labels': path}, gzip-compressed IDX files with the published checksums.

  Raises:
    InputError: no mirror gave the right file; the message says which files to put where instead.
    OSError: the cache cannot be written (full, not permitted).
  """
  registry = REGISTRY if registry is None else registry
  one_of('dataset', dataset, sorted(registry))
  one_of('split', split, sorted(registry[dataset]))
  cache = default_cache_dir() if cache_dir is None else pathlib.Path(cache_dir)
  sources = registry[dataset][split]
  archives: dict[RemoteFile, pathlib.Path] = {}  # checked in this call: a big one is hashed once

  def remote(file: RemoteFile) -> pathlib.Path:
    if file not in archives:
      try:
        archives[file] = _obtain(file, cache, offline=offline, timeout=timeout)
      except _Unavailable as error:
        names = ' and '.join(pathlib.PurePosixPath(s.path).name for s in sources.values())
        raise InputError(
          f'cannot get {file.path} for {dataset} ({error}); put {names} (.gz or not) in a folder '
          f'and pass --data_dir=FOLDER, or put {file.path} in {cache}'
        ) from None
    return archives[file]

  paths = {}
  for kind, source in sources.items():
    if isinstance(source, RemoteFile):
      paths[kind] = remote(source)
    else:
      paths[kind] = _extract(source, remote(source.archive), cache)
  return paths


class _Unavailable(Exception):
  """A mirror, or all of them, did not give the file; the message says why."""


def _obtain(
  file: RemoteFile, cache: pathlib.Path, *, offline: bool, timeout: float
) -> pathlib.Path:
  path = cache / file.path
  reasons = []
  if path.is_file():
    with path.open('rb') as stream:
      fault = _fault(stream, file)
    if fault is None:
      return path
    reasons.append(f'the cached {path} has {fault}')
    _log.warning('%s; fetching it again', reasons[0])
  if offline:
    raise _Unavailable('; '.join([*reasons, 'offline']))
  for url in file.urls:
    try:
      with atomic_write(path, 'w+b') as stream:
        _download(url, file, stream, timeout)
        if fault := _fault(stream, file):
          raise _Unavailable(fault)
      return path
    except _Unavailable as error:
      reasons.append(f'{url}: {error}')
  raise _Unavailable('; '.join(reasons))


def _download(url: str, file: RemoteFile, stream: IO[bytes], timeout: float) -> None:
  # gzip never adds more than a few bytes per block to what it cannot compress.
  cap = file.size + (_CHUNK if file.of_content else 0)
  bar = tqdm.tqdm(
    desc=file.path, total=None if file.of_content else file.size, unit='B', unit_scale=True,
    disable=None,
  )  # fmt: skip
  with bar:
    received = 0
    for chunk in _chunks(url, timeout):
      received += len(chunk)
      if received > cap:
        raise _Unavailable(f'more than {cap} bytes')
      stream.write(chunk)  # outside the network's errors: a full disk is not a bad mirror
      bar.update(len(chunk))


def _chunks(url: str, timeout: float) -> Iterator[bytes]:
  """Yields what a URL holds; every failure of the network becomes `_Unavailable`."""
  request = urllib.request.Request(url, headers={'User-Agent': 'dpgan_jax'})
  start = time.monotonic()
  received = 0
  try:
    with urllib.request.urlopen(request, timeout=timeout) as response:
      while chunk := response.read1(_CHUNK):
        received += len(chunk)
        elapsed = time.monotonic() - start
        # A socket's timeout starts anew with every byte, so a trickle would never meet it.
        if elapsed > 4 * timeout and received < 1024 * elapsed:
          raise _Unavailable(f'slower than 1 KiB/s after {elapsed:.0f} s')
        yield chunk
  except urllib.error.HTTPError as error:
    raise _Unavailable(f'HTTP status {error.code}') from None
  except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
    reason = getattr(error, 'reason', None) or error
    raise _Unavailable(' '.join(str(reason).split()) or type(error).__name__) from None


def _fault(stream: IO[bytes], file: RemoteFile) -> str | None:
  """Says what is wrong with a file's content, or None where size and checksums are right."""
  stream.seek(0)
  packed = file.of_content and stream.read(2) == b'\x1f\x8b'
  stream.seek(0)
  plain: Any = gzip.GzipFile(fileobj=stream) if packed else stream
  hashes = [hashlib.md5(usedforsecurity=False), hashlib.sha256()]
  size = 0
  try:
    while size <= file.size and (chunk := plain.read(_CHUNK)):
      size += len(chunk)
      for digest in hashes:
        digest.update(chunk)
  except (EOFError, zlib.error, gzip.BadGzipFile):
    return 'a damaged gzip stream'
  if size != file.size:
    got = f'{size} bytes' if size < file.size else f'more than {file.size} bytes'
    return f'{got} (not {file.size})'
  for digest, expected in zip(hashes, (file.md5, file.sha256), strict=True):
    if expected is not None and digest.hexdigest() != expected:
      return f'{digest.name} checksum {digest.hexdigest()} (not {expected})'
  return None


def _extract(source: ArchiveMember, archive: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
  """Copies a member out of an archive whose checksum is right, unless the same copy is there."""
  path = cache / source.path
  with zipfile.ZipFile(archive) as zipped:
    info = zipped.getinfo(source.member)
    if path.is_file() and path.stat().st_size == info.file_size:
      with zipped.open(info) as original, path.open('rb') as copy:
        while (chunk := original.read(_CHUNK)) == copy.read(_CHUNK):
          if not chunk:
            return path
      _log.warning('the cached %s differs from its archive; extracting it again', path)
    with zipped.open(info) as original, atomic_write(path, 'wb') as copy:
      while chunk := original.read(_CHUNK):
        copy.write(chunk)
  return path
