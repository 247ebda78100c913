"""Checkpoints of a run: saved in the background, checked by content, restored bit for bit.

A thin layer over orbax (v1 API), which renames a checkpoint when it is whole; added here are a
digest of the content, the fall back to the newest checkpoint whose digest holds, and an error that
names the leaf in which a checkpoint and the state of this run differ.

>>> import tempfile
>>> import jax
>>> import jax.numpy as jnp
>>> state = {'params': jnp.ones((2, 3)), 'key': jax.random.key(0)}
>>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
...   checkpoints.save(10, state, {'epsilon': 0.5})
...   checkpoints.wait()
...   step, restored, metadata = checkpoints.restore_latest(state)
>>> step, metadata, bool((restored['params'] == state['params']).all())
(10, {'epsilon': 0.5}, True)

On disk every checkpoint is an ordinary orbax directory with one named array per leaf, independent
of the devices it was saved from; `orbax.checkpoint.v1.load(path)` reads it without this package.

A checkpoint that holds a key holds the noise of the steps to come: it is for resuming, and is not
covered by the privacy guarantee of the generator in it. Do not publish it.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from dpgan_jax import _files, _state_leaves, _validate

PyTree = Any
T = TypeVar('T')

_FORMAT = 1
_REMEDY = (
  'remove the run directory to start anew (the privacy budget spent so far stays spent on this'
  ' data, and the new run spends a fresh budget on top)'
)


class _Damaged(Exception):
  """A checkpoint that cannot be read back as it was written."""


def _fsync_tree(directory: pathlib.Path) -> None:
  for folder, _, names in os.walk(directory):
    for name in names:
      _files.fsync_directory(os.path.join(folder, name))  # works for any path that can be opened
    _files.fsync_directory(folder)
  _files.fsync_directory(directory.parent)


def _as_os_error(error: Exception) -> OSError | None:
  """Returns the OSError (disk full, ...) that tensorstore reports as a ValueError, if it is one."""
  found = re.search(r"\[os_error_code='(\d+)'", str(error))
  if found is None:
    return None
  code = int(found.group(1))
  return OSError(code, f'{os.strerror(code)}, while saving a checkpoint')


class Checkpoints:
  """The checkpoints of one run, as `<directory>/<step>/`.

  Reading (`steps`, `restore`, `restore_latest`) changes nothing on the disk, so that a second
  process may sample from a run that trains. The first `save` makes the directory, and removes what
  `kill -9` left half-written and the newer checkpoints that `restore_latest` found damaged. At most
  one run may save (see `directory.RunDir.lock`).
  """

  def __init__(
    self, directory: str | os.PathLike[str], *, keep: int = 3, identity: str | None = None
  ):
    """Looks at nothing yet.

    Args:
      directory: where the checkpoints lie, or will.
      keep: how many of the newest are kept. With 1 there is nothing to fall back to.
      identity: of the run they belong to; those of another run are refused. None: not checked.
    """
    self._directory = pathlib.Path(directory).absolute()  # tensorstore takes absolute paths only
    self._keep = _validate.integer('keep', keep, minimum=1)
    self._identity = identity
    self._writer: ocp.training.Checkpointer | None = None
    self._saving: int | None = None
    self._damaged: set[int] = set()

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Returns the steps of the committed checkpoints, ascending; damaged ones are among them."""
    if not self._directory.is_dir():
      return []
    return sorted(
      int(path.name) for path in self._directory.iterdir() if path.name.isdigit() and path.is_dir()
    )

  def save(self, step: int, state: PyTree, metadata: dict[str, Any]) -> None:
    """Copies the state to the host and saves it in the background.

    The previous save is awaited first. When this returns, the caller may donate the arrays of
    `state` to a jitted function: what is written is a copy.

    Args:
      step: number of the checkpoint, at least 0; an existing one of that number is replaced.
      state: pytree whose leaves are arrays (jax, typed keys included, or NumPy) with elements; on
        several processes each leaf is replicated.
      metadata: anything JSON can hold; returned by `restore`.

    Raises:
      OSError: the disk is full, or the previous save ran into such an error.
    """
    step = _validate.integer('step', step, minimum=0)
    self.wait()
    # Measured for the Adam state of a model with 2.3 million parameters (62 leaves, 28 MB) on 2 CPU
    # cores: copy 10 ms, digest 17 ms, orbax's own preparation 25 ms; then 0.1 s in the background.
    # The 50 ms are not worth a thread: no step can run before the copy, and digest and preparation
    # are small against the steps between two checkpoints.
    leaves, arrays = _state_leaves.to_host(state)
    header = json.dumps(
      {
        'format': _FORMAT,
        'step': step,
        'run': self._identity,
        'leaves': [dataclasses.astuple(leaf) for leaf in leaves],
        'sha256': _state_leaves.digest(leaves, arrays),
        'metadata': metadata,
      }
    )
    for unwanted in sorted(self._damaged | ({step} & set(self.steps()))):
      self._remove(unwanted)
    self._damaged.clear()
    if self._writer is None:
      self._writer = self._open_writer()
    # A disk that fills up during the save is reported too, but only by the next wait().
    size = sum(array.nbytes for array in arrays.values())
    if (free := shutil.disk_usage(self._directory).free) < size:
      message = f'{os.strerror(errno.ENOSPC)}: a checkpoint takes {size} bytes, {free} are free'
      raise OSError(errno.ENOSPC, message, str(self._directory))
    self._writer.save_async(
      step,
      arrays,
      force=True,  # the caller decides when to save
      overwrite=True,
      # The header is guarded by a digest of its own, so that a flipped bit in a shape is not
      # mistaken for a model of another size.
      custom_metadata={'header': header, 'sha256': hashlib.sha256(header.encode()).hexdigest()},
    )
    self._saving = step

  def wait(self) -> None:
    """Waits until the last save is whole and on the disk (fsync).

    The next save starts only after this, and only a committed save removes older checkpoints: a
    power loss at any moment leaves a good one.

    Raises:
      OSError: the save failed in the file system.
    """
    if self._writer is None or self._saving is None:
      return
    step, self._saving = self._saving, None
    try:
      self._writer.wait()
    except ValueError as error:
      raise (_as_os_error(error) or error) from None
    _fsync_tree(self._directory / str(step))
    for old in self.steps()[: -self._keep]:
      self._remove(old)

  def close(self) -> None:
    """Waits for the last save and ends orbax's threads; `save` may be called again."""
    try:
      self.wait()
    finally:
      writer, self._writer = self._writer, None
      if writer is not None:
        writer.close()

  def restore(self, step: int, abstract_state: PyTree) -> tuple[int, PyTree, dict[str, Any]]:
    """Restores the checkpoint of one step.

    Args:
      step: one of `steps()`.
      abstract_state: pytree of arrays or `jax.ShapeDtypeStruct` (as from `jax.eval_shape`) with the
        structure, shapes and dtypes of the saved state. A leaf with a sharding is placed by it; a
        NumPy leaf comes back as NumPy.

    Returns:
      step, the state (bit for bit what was saved), the metadata.

    Raises:
      InputError: there is no such checkpoint, it is damaged, or it is of another structure.
    """
    self.wait()
    path = self._existing(step)
    try:
      return self._load(step, abstract_state)
    except _Damaged as error:
      raise _validate.InputError(
        f'checkpoint {path} is damaged ({error}); choose another step'
      ) from error

  def digest(self, step: int) -> str:
    """The SHA-256 of the state in the checkpoint of one step, computed from what is on the disk.

    Two checkpoints have the same one if their states agree bit for bit, names and dtypes included:
    it equals `_state_leaves.state_digest` of the state that was saved.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    self.wait()
    path = self._existing(step)
    try:
      return _read_arrays(path, step)[2]['sha256']
    except _Damaged as error:
      raise _validate.InputError(f'checkpoint {path} is damaged ({error})') from error

  def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
    """Restores the newest good checkpoint; a damaged one is skipped with a RuntimeWarning.

    Args:
      abstract_state: as in `restore`.

    Returns:
      As `restore`; None if there are no checkpoints.

    Raises:
      InputError: all checkpoints are damaged, or a good one is of another structure.
    """
    self.wait()
    steps = self.steps()
    for step in reversed(steps):
      try:
        return self._load(step, abstract_state)
      except _Damaged as error:
        self._damaged.add(step)
        warnings.warn(
          f'checkpoint {self._directory / str(step)} is damaged and skipped ({error})',
          RuntimeWarning,
          stacklevel=2,
        )
    if steps:
      raise _validate.InputError(
        f'none of the checkpoints in {self._directory} can be read (steps'
        f' {", ".join(map(str, steps))}): copy them back from a backup, or {_REMEDY}'
      )
    return None

  def _open_writer(self) -> ocp.training.Checkpointer:
    self._directory.mkdir(parents=True, exist_ok=True)
    context = _own_context()
    context.atomicity.mode = ocp.options.AtomicityMode.ATOMIC_RENAME
    context.memory.deepcopy_host_arrays = False  # the arrays handed over are copies already
    return ocp.training.Checkpointer(
      str(self._directory),
      context=context,  # by default all are kept: `_remove` is for us to do
      cleanup_tmp_directories=True,
    )

  def _remove(self, step: int) -> None:
    """Takes a checkpoint away as a whole.

    orbax would empty the directory under its name, and a process killed meanwhile would leave half
    a checkpoint that nothing ever removes. The new name is one that orbax takes for unfinished and
    removes when the next process makes its first save.
    """
    path = self._directory / str(step)
    unfinished = path.with_name(f'{step}.orbax-checkpoint-tmp')
    shutil.rmtree(unfinished, ignore_errors=True)
    os.rename(path, unfinished)
    shutil.rmtree(unfinished)

  def _existing(self, step: int) -> pathlib.Path:
    if step not in (steps := self.steps()):
      known = ', '.join(map(str, steps)) or 'none'
      raise _validate.InputError(
        f'expected a step with a checkpoint in {self._directory} ({known}), got {step!r}'
      )
    return self._directory / str(step)

  def _load(self, step: int, abstract_state: PyTree) -> tuple[int, PyTree, dict[str, Any]]:
    path = self._directory / str(step)
    header = _read_header(path, step)
    if self._identity is not None and header.get('run') != self._identity:
      raise _validate.InputError(
        f'checkpoint {path} is of another run: what it has spent is not in this ledger; remove it, '
        'or copy the right one back from a backup'
      )
    _check_same_structure(path, _saved_leaves(header), abstract_state)
    saved, arrays, header = _read_arrays(path, step)
    abstract, structure = jax.tree.flatten(abstract_state)
    placed = zip(saved, abstract, strict=True)
    leaves = [_state_leaves.place(arrays[leaf.name], leaf, a) for leaf, a in placed]
    return step, jax.tree.unflatten(structure, leaves), header['metadata']


def _own_context() -> ocp.Context:
  """Of a process that saves and reads in a directory of its own, in step with others if any."""
  context = ocp.Context()
  if jax.process_count() > 1:
    context.multiprocessing.primary_host = None
  return context


def _read(function: Callable[[], T]) -> T:
  """Calls `function` and raises _Damaged, with the reason in one short line, where it fails."""
  with warnings.catch_warnings():
    # orbax drops coroutines unawaited when it gives up on a file; Python warns when they are freed,
    # which is at the end of the except clause.
    warnings.filterwarnings('ignore', message='coroutine .* was never awaited')
    try:
      with _own_context():
        return function()
    except (MemoryError, PermissionError):
      raise
    # Whatever orbax and tensorstore raise on bytes that they did not write (ValueError, KeyError,
    # FileNotFoundError, JSON errors, ...): it is one reason more to use an older checkpoint.
    except Exception as error:
      reason = ' '.join(str(error).split()) or type(error).__name__
  raise _Damaged(reason if len(reason) <= 120 else reason[:120] + '...')


def _read_header(path: pathlib.Path, step: int) -> dict[str, Any]:
  custom: Any = _read(lambda: ocp.metadata(str(path)).custom_metadata)
  text, digest = _read(lambda: (custom['header'].encode(), custom['sha256']))
  if hashlib.sha256(text).hexdigest() != digest or (header := json.loads(text))['step'] != step:
    raise _Damaged('its description does not have the digest it was saved with')
  if header['format'] != _FORMAT:
    raise _validate.InputError(
      f'checkpoint {path} has format {header["format"]}, this version reads format {_FORMAT}'
    )
  return header


def _saved_leaves(header: dict[str, Any]) -> list[_state_leaves.Leaf]:
  return [
    _state_leaves.Leaf(name=n, dtype=d, shape=tuple(s), key_impl=k)
    for n, d, s, k in header['leaves']
  ]


def _read_arrays(
  path: pathlib.Path, step: int
) -> tuple[list[_state_leaves.Leaf], dict[str, np.ndarray], dict[str, Any]]:
  """Leaves, arrays by name, and the header, whose digest the arrays have."""
  header = _read_header(path, step)
  saved = _saved_leaves(header)
  arrays = _read(lambda: ocp.load(str(path)))
  if _read(lambda: _state_leaves.digest(saved, arrays)) != header['sha256']:
    raise _Damaged('its content does not have the digest it was saved with')
  return saved, arrays, header


def _check_same_structure(
  path: pathlib.Path, saved: list[_state_leaves.Leaf], abstract_state: PyTree
) -> None:
  there = {leaf.name: str(leaf) for leaf in saved}
  leaves = _state_leaves.named_leaves(abstract_state)
  here = {name: str(_state_leaves.describe(name, leaf)) for name, leaf in leaves}
  for name in [*here, *there]:
    if there.get(name) != here.get(name):
      raise _validate.InputError(
        f'checkpoint {path} is of another model: {name} is {there.get(name, "absent")} there and'
        f' {here.get(name, "absent")} here; use the same flags or another run directory'
      )
