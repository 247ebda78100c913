"""One directory per run: its file names, its configuration, and the lock against a second run.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as parent:
...   run = RunDir.open(pathlib.Path(parent) / 'eps2', create=True)
...   with run.lock():
...     run.save_config({'batch_size': 128})
...   run.load_config()
{'batch_size': 128}
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dpgan_jax import _files, _json, _plugins, _validate

_CONFIG = 'config.json'
_LOCK = '.lock'
# By kind of data.
SAMPLES = {'image': 'samples.npz', 'table': 'samples.csv', 'series': 'samples.npz'}
_DIGEST = 'sha256'
_MOST_SHOWN = 8  # fields that differ
# What the system says about a path that will not do; any other OSError (disk full, ...) propagates.
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class _Place:
  """A file or folder of this name within a run's directory."""

  def __init__(self, name: str) -> None:
    self._name = name

  def __get__(self, run: RunDir, _: type[RunDir] | None = None) -> pathlib.Path:
    return run.path / self._name


@dataclasses.dataclass(frozen=True)
class RunDir:
  """The places of everything a run leaves behind; make it with `RunDir.open`."""

  path: pathlib.Path

  config = _Place(_CONFIG)
  ledger = _Place('ledger.jsonl')
  secret = _Place('secret.json')  # that all keys follow from; as private as the data
  schema = _Place('schema.json')  # of a table, where the run has found it
  metrics = _Place('metrics.jsonl')
  report_json = _Place('report.json')
  report_markdown = _Place('report.md')
  matched = _Place('matched.safetensors')  # a generator of released moments, as a model file
  samples_png = _Place('samples.png')
  signs = _Place('signs.json')  # what the verdict on a GAN follows from
  losses_png = _Place('losses.png')
  grids = _Place('grids')  # sample grids, one per epoch
  snapshots = _Place('snapshots')  # publishable generators of some steps: averages, and as trained
  checkpoints = _Place('checkpoints')

  @classmethod
  def open(cls, path: str | os.PathLike[str], *, create: bool) -> RunDir:
    """Returns the run directory at `path`, having checked that it is one.

    Args:
      path: the directory.
      create: whether the caller is going to run in it: it is made where missing, and has to be
        writable. Otherwise it has to hold a run already.

    Raises:
      InputError: `path` is a file, holds something else than a run, is missing (`create` False), or
        cannot be made or written (`create` True).
    """
    path = pathlib.Path(path)
    wanted = 'expected run_dir to be the directory of a run' + (' or a new one' if create else '')
    try:
      if path.exists() and not path.is_dir():
        raise _validate.InputError(f'{wanted}, got the file {path}')
      if not create and not path.is_dir():
        raise _validate.InputError(f'{wanted}, got {path}, which does not exist')
      path.mkdir(parents=True, exist_ok=True)
      has_config = (path / _CONFIG).is_file()
      if not has_config and not (create and _is_unused(path)):
        which = 'which is not empty and has' if create else 'which has'
        raise _validate.InputError(f'{wanted}, got {path}, {which} no {_CONFIG}')
    except OSError as error:
      if error.errno not in _UNUSABLE:
        raise
      raise _validate.InputError(f'{wanted}, got {path}: {error.strerror}') from None
    if create and not os.access(path, os.W_OK | os.X_OK):
      raise _validate.InputError(f'{wanted} that can be written, got {path}, which cannot')
    return cls(path)

  def samples(self, kind: str = 'image') -> pathlib.Path:
    """The samples that a run of such data leaves."""
    return self.path / SAMPLES[kind]

  def snapshot(self, step: int) -> pathlib.Path:
    """The file of the generator kept at `step`."""
    return self.snapshots / f'step_{step:08d}.safetensors'

  @contextlib.contextmanager
  def lock(self) -> Iterator[None]:
    """Holds the directory for this process; the lock ends with the process, however that ends.

    Raises:
      InputError: another process holds it (the message has its process id).
    """
    # The file stays: removing it would let two processes hold locks on two files of one name.
    handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        holder = os.read(handle, 32).decode(errors='replace').strip() or 'unknown'
        raise _validate.InputError(
          f'run directory {self.path} is in use by the process with id {holder}; wait for it or'
          ' use another --run_dir'
        ) from None
      os.ftruncate(handle, 0)
      os.write(handle, f'{os.getpid()}\n'.encode())
      yield
    finally:
      os.close(handle)

  def save_config(self, config: Mapping[str, Any]) -> None:
    """Writes config.json as a whole or not at all; numbers have to be finite (strict JSON).

    A digest of the rest goes with it: ε, read from a file in which a digit of σ has changed, would
    be another.
    """
    record = {**config, _DIGEST: _digest(config)}
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False)
    with _files.atomic_write(self.config) as file:
      file.write(text + '\n')

  def load_config(self) -> dict[str, Any]:
    """Returns what `save_config` wrote.

    Raises:
      InputError: there is no config.json, or it is not a JSON object, or not the one written; or a
        plugin that the run was made with is not loaded.
    """
    try:
      config = _json.read(self.config)
    except FileNotFoundError:
      raise _validate.InputError(f'expected a run in {self.path}, found no {_CONFIG}') from None
    except ValueError as error:
      raise _validate.InputError(f'expected {self.config} to be JSON, got: {error}') from None
    if not isinstance(config, dict):
      raise _validate.InputError(
        f'expected {self.config} to be a JSON object, got {type(config).__name__}'
      )
    # A file without a digest was written by version 0.1; one that holds a digest by another name
    # was damaged in that name.
    written = config.pop(_DIGEST, None)
    if written is None and 'format' in config:
      damaged = True
    elif written is None:
      damaged = any(re.fullmatch('[0-9a-f]{64}', str(value)) for value in config.values())
    else:
      damaged = written != _digest(config)
    if damaged:
      raise _validate.InputError(
        f'{self.config} has changed since it was written: its digest is another; restore the file'
        ' from a backup'
      )
    environment = config.get('environment')
    if isinstance(environment, dict) and 'plugins' in environment:
      _plugins.require(environment['plugins'], self.config)
    return config

  def identity(self) -> str | None:
    """What binds ledger and checkpoints to this run: the digest of config.json, run_id included.

    None for a run of version 0.1, whose ledger and checkpoints hold none.
    """
    config = self.load_config()
    return _digest(config) if 'format' in config else None

  def check_same_config(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to continue a run under another configuration.

    Args:
      saved: what `load_config` returned.
      now: the configuration of the command being run.

    Raises:
      InputError: names what differs, down to fields of fields, with both values.
    """
    now = json.loads(json.dumps(dict(now)))  # a tuple is a list once it has been saved
    there, here = dict(_fields(dict(saved))), dict(_fields(now))
    differing = [
      f'{name} is {_show(there, name)} there and {_show(here, name)} now'
      for name in sorted({*there, *here})
      if name not in there or name not in here or there[name] != here[name]
    ]
    if differing:
      more = len(differing) - _MOST_SHOWN
      differing[_MOST_SHOWN:] = [f'and {more} more'] if more > 0 else []
      raise _validate.InputError(
        f'run directory {self.path} belongs to another run: {", ".join(differing)};'
        ' use another --run_dir or the same flags'
      )


def _digest(config: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode()).hexdigest()


def _fields(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
  """What is in a configuration, by names such as 'data.schema.columns.2.upper'."""
  inner: Iterable[tuple[Any, Any]] = ()
  if isinstance(value, dict):
    inner = value.items()
  elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
    inner = enumerate(value)
  if not inner:
    yield name, value
  for key, part in inner:
    yield from _fields(part, f'{name}.{key}' if name else str(key))


def _show(config: Mapping[str, Any], name: str) -> str:
  return json.dumps(config[name]) if name in config else 'absent'


def _is_unused(path: pathlib.Path) -> bool:
  """Whether there is nothing but what a process killed at the very start of a run leaves behind."""
  return all(
    entry.name == _LOCK or (entry.name.startswith(f'.{_CONFIG}.') and entry.name.endswith('.tmp'))
    for entry in path.iterdir()
  )
