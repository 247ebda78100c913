"""dpgan_jax._files: a file or directory is whole under its name, or not there."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dpgan_jax import _files


@pytest.fixture
def private_umask() -> Iterator[None]:
  before = os.umask(0o077)
  yield
  os.umask(before)


def test_write_replaces_only_at_the_end(tmp_path):
  path = tmp_path / 'deep' / 'file'
  with _files.atomic_write(path) as file:
    file.write('ε')
    assert not path.exists()
  with _files.atomic_write(path, 'wb') as file:
    file.write(b'new')
    assert path.read_text(encoding='utf-8') == 'ε'
  assert path.read_bytes() == b'new'
  assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_what_was_there(tmp_path, error):
  (tmp_path / 'file').write_text('old')

  def fail() -> None:
    with _files.atomic_write(tmp_path / 'file') as file:
      file.write('half')
      raise error

  def fail_directory() -> None:
    with _files.atomic_directory(tmp_path / 'directory') as staging:
      (staging / 'half').write_text('half')
      raise error

  for call in (fail, fail_directory):
    with pytest.raises(error):
      call()
  assert (tmp_path / 'file').read_text() == 'old'
  assert os.listdir(tmp_path) == ['file']


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  done = []
  fsync, replace = os.fsync, os.replace

  def record_fsync(handle: int) -> None:
    # What lies behind the handle, and how much of it: a flush after the fsync would be too late.
    done.append(('fsync', os.path.isdir(f'/proc/self/fd/{handle}'), os.fstat(handle).st_size))
    fsync(handle)

  def record_replace(source: pathlib.Path, target: pathlib.Path) -> None:
    done.append(('replace',))
    replace(source, target)

  monkeypatch.setattr(os, 'fsync', record_fsync)
  monkeypatch.setattr(os, 'replace', record_replace)
  with _files.atomic_write(tmp_path / 'file') as file:
    file.write('twelve bytes')
  assert [d[:2] for d in done] == [('fsync', False), ('replace',), ('fsync', True)]
  assert done[0][2] == 12


def test_directory_appears_whole_and_never_merges(tmp_path):
  path = tmp_path / 'deep' / 'directory'
  with _files.atomic_directory(path) as staging:
    (staging / 'file').write_text('content')
    assert not path.exists()
  assert (path / 'file').read_text() == 'content'
  assert os.listdir(path.parent) == ['directory']
  with pytest.raises(FileExistsError, match='exists already'), _files.atomic_directory(path):
    pass
  assert os.listdir(path) == ['file']


@pytest.mark.usefixtures('private_umask')
def test_the_umask_is_respected(tmp_path):
  # A ledger holds a fingerprint of private data: who keeps others out is not overruled.
  with _files.atomic_write(tmp_path / 'file') as file:
    file.write('')
  with _files.atomic_directory(tmp_path / 'directory'):
    pass
  assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o600
  assert (tmp_path / 'directory').stat().st_mode & 0o777 == 0o700


def test_a_write_to_a_full_disk_names_the_file(tmp_path):
  place = tmp_path / 'x'
  with (
    pytest.raises(OSError, match=f'No space left on device, with [0-9]+ .*{place}'),
    _files.named(place),
    open('/dev/full', 'wb', buffering=0) as file,
  ):
    file.write(b'1')


WRITE = """
from dpgan_jax import _files
for kind in ('file', 'folder'):
  try:
    if kind == 'file':
      with _files.atomic_write('{folder}/a', 'wb') as file:
        file.write(bytes(10**6))
    else:
      with _files.atomic_directory('{folder}/b') as staging:
        (staging / 'c').write_bytes(bytes(10**6))
  except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(
  ('options', 'lines'),
  [
    (
      'size=64k',
      [
        r'.* No space left on device, after \d+ bytes, with \d+ bytes free: .*/disk/a.',
        r'.* No space left on device, with \d+ bytes free: .*/disk/b.',
      ],
    ),
    ('ro', [r'.* Read-only file system: .*/disk/a.', r'.* Read-only file system: .*/disk/b.']),
  ],
)
def test_a_disk_that_is_full_or_read_only_is_named_with_path_and_room(tmp_path, options, lines):
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$1" -c "$2"'
  script = WRITE.format(folder=folder)
  command = ['unshare', '-rm', 'sh', '-c', mount, str(folder), sys.executable, script]
  root = pathlib.Path(__file__).resolve().parents[1]
  env = {**os.environ, 'PYTHONPATH': str(root)}
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
  if 'unshare' in done.stderr or 'mount' in done.stderr:
    pytest.skip(f'this machine lets nobody mount: {done.stderr.strip()}')
  found = done.stdout.splitlines()
  assert len(found) == 2, done.stderr
  for line, pattern in zip(found, lines, strict=True):
    assert re.fullmatch(pattern, line), line
  assert list(folder.iterdir()) == []
