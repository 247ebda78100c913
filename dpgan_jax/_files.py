"""Files that are either whole or absent.

A reader never sees half a file under its final name: everything is written beside its place,
flushed to the disk, and renamed. `os.replace` is atomic on POSIX file systems.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import IO, Any

from dpgan_jax._records import json_ready
from dpgan_jax._validate import InputError

# No file may promise (or unpack to) more than this: a gzip, zip or PNG bomb is refused, not read.
MAX_BYTES = 4 * 2**30


def fsync_directory(path: str | os.PathLike[str]) -> None:
  """Makes the names inside a directory durable (a rename is only safe once its directory is
  synced).
  """
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
  """Says in an OSError of the block that names no file which one it was, and what room there is.

  A write to a full disk fails with a number alone.
  """
  try:
    yield
  except OSError as error:
    raise (error if error.filename is not None else _naming(error, pathlib.Path(path))) from None


def _naming(error: OSError, path: pathlib.Path, size: int | None = None) -> OSError:
  """The same error of `path`, with the sizes where there is no room."""
  text = error.strerror or str(error)
  if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    with contextlib.suppress(OSError):
      text += f', after {size} bytes' if size is not None else ''
      text += f', with {shutil.disk_usage(path.parent).free} bytes free'
  return OSError(error.errno, text, str(path)) if error.errno is not None else error


def _beside(path: pathlib.Path) -> pathlib.Path:
  # Not `tempfile`: a mode of its own (or a chmod after it) would override the user's umask.
  return path.parent / f'.{path.name}.{secrets.token_hex(8)}.tmp'


def require_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """The folder that results go to.

  Raises:
    InputError: it is a file.
  """
  path = pathlib.Path(path)
  if path.exists() and not path.is_dir():
    raise InputError(f'expected out to be a folder, got the file {path}')
  return path


def require_free(path: str | os.PathLike[str], overwrite: bool, what: str = '') -> pathlib.Path:
  """The path of a file that may be written; `what` is added where it is a folder.

  Raises:
    InputError: a folder, or something is there and not `overwrite`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise InputError(f'{path} is a folder; expected the name of a file{what}')
  if os.path.lexists(path) and not overwrite:
    raise InputError(f'{path} exists already; expected a new path, or overwrite')
  return path


@contextlib.contextmanager
def atomic_write(
  path: str | os.PathLike[str], mode: str = 'w', permissions: int = 0o666
) -> Iterator[IO[Any]]:
  """Opens a temporary file that takes the name `path` when the block ends without an exception.

  Args:
    path: the final name; an existing file is replaced, its directory is created where missing.
    mode: 'w' (text, UTF-8) or 'wb'.
    permissions: of the file, before the user's umask.

  Raises:
    OSError: the file system failed; it names `path`, and where it is full how far it came.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _beside(path)
  try:
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, permissions)
  except OSError as error:
    raise _naming(error, path) from None
  try:
    with os.fdopen(handle, mode, encoding=None if 'b' in mode else 'utf-8') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_directory(path.parent)
  except BaseException as error:
    size = None
    with contextlib.suppress(FileNotFoundError):
      size = temporary.stat().st_size
      os.unlink(temporary)
    if isinstance(error, OSError) and error.filename in (None, str(temporary)):
      raise _naming(error, path, size) from None
    raise


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary directory that takes the name `path` when the block ends without an
  exception.

  Raises:
    FileExistsError: `path` exists already; nothing is ever merged into it or deleted.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise FileExistsError(f'{path} exists already')
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _beside(path)
  try:
    temporary.mkdir()
    with named(path):
      yield temporary
    os.rename(temporary, path)
    fsync_directory(path.parent)
  except BaseException as error:
    shutil.rmtree(temporary, ignore_errors=True)
    if isinstance(error, OSError) and error.filename == str(temporary):
      raise _naming(error, path) from None
    raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes strict JSON (infinity as the string 'inf') for people and machines, whole or not at all.

  Raises:
    ValueError: a NaN, or what JSON has no form for.
  """
  text = json.dumps(json_ready(value), indent=2, ensure_ascii=False, allow_nan=False)
  with atomic_write(path) as file:
    file.write(f'{text}\n')
