"""The record of a run while it trains: metrics.jsonl, TensorBoard, and a progress line.

`metrics.jsonl` is reproducible: it has one JSON object per line and no wall-clock times, and a run
that was interrupted and resumed leaves the same bytes as one that was not. Every line ends in a
hash of itself and the lines before it, so that a number that has changed on the disk is noticed.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as directory:
...   with MetricsWriter(directory, resume_step=None) as writer:
...     writer.write(100, {'epsilon': 0.5, 'd_loss_fake': float('nan')})
...     writer.write(200, {'epsilon': 0.75, 'd_loss_fake': 0.69})
...   with MetricsWriter(directory, resume_step=100) as writer:  # killed; the checkpoint was at 100
...     writer.write(200, {'epsilon': 0.75, 'd_loss_fake': 0.69})
...   read_metrics(writer.path)  # doctest: +NORMALIZE_WHITESPACE
[{'step': 100, 'epsilon': 0.5, 'd_loss_fake': None},
 {'step': 200, 'epsilon': 0.75, 'd_loss_fake': 0.69}]
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _files, _validate
from dpgan_jax.models.gan import PRIVATE_METRICS

REAL_DATA_METRICS: frozenset[str] = PRIVATE_METRICS
"""Names of the metrics that are computed from private examples without noise.

Step by step over a whole run they can tell whether a person was in the data. They are for the data
owner's own eyes: do not publish them, and do not choose hyperparameters, a checkpoint or the time
to stop by them without charging that choice. `d_loss_fake` and `g_loss` are not among them: they
are functions of the noised discriminator and of fakes only.
"""


_HASH = 'hash'


class MetricsWriter:
  """Appends scalars to `<directory>/metrics.jsonl` and `<directory>/tensorboard/`."""

  def __init__(self, directory: str | os.PathLike[str], *, resume_step: int | None):
    """Opens the record, after dropping what the resumed run will write again.

    Args:
      directory: directory of the run.
      resume_step: the step of the checkpoint the run resumes from: records of later steps, and a
        last line that a crash left half-written, are dropped (in one atomic replacement), and
        hidden in TensorBoard. None: the run starts anew, all records are dropped.

    Raises:
      InputError: a line that is to be kept is not what was written, or the record ends before
        `resume_step`. Without any file the run goes on, with a RuntimeWarning: metrics are for
        looking at, and a run is not lost with them.
    """
    if resume_step is not None:
      resume_step = _validate.integer('resume_step', resume_step, minimum=0)
    self.path = pathlib.Path(directory) / 'metrics.jsonl'
    keep = -1 if resume_step is None else resume_step
    kept = [entry for entry in _records(self.path) if entry[1]['step'] <= keep]
    if resume_step and not self.path.exists():
      warnings.warn(
        f'{self.path} is missing: what steps up to {resume_step} measured is lost, the curves begin'
        ' after them',
        RuntimeWarning,
        stacklevel=2,
      )
    elif resume_step and (last := kept[-1][1]['step'] if kept else 0) != resume_step:
      raise _validate.InputError(
        f'{self.path} ends at step {last} where the run goes on after step {resume_step}: it has'
        ' lost lines; restore it from a backup, or remove it to go on without'
      )
    # None: lines without hashes, of version 0.1; those that follow have none either.
    self._chain: str | None = kept[-1][2] if kept else ''
    with _files.atomic_write(self.path, 'wb') as file:
      file.writelines(line for line, _, _ in kept)
    self._file = open(self.path, 'ab')  # noqa: SIM115 (closed by close)
    self._tensorboard = _tensorboard(pathlib.Path(directory) / 'tensorboard', keep + 1)

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def write(
    self, step: int, scalars: Mapping[str, Any], *, clock: Mapping[str, float] | None = None
  ) -> None:
    """Appends one record; on return it is on the disk (fsync), before any later checkpoint is.

    Args:
      step: the step the scalars belong to.
      scalars: numbers, or arrays of one element; NaN and infinity become null (strict JSON).
      clock: wall-clock numbers such as steps per second. They differ from run to run and therefore
        go to TensorBoard only.
    """
    values = {name: np.asarray(value).item() for name, value in scalars.items()}
    for reserved in ('step', _HASH):
      if reserved in values:
        raise ValueError(f'expected scalars without the reserved name {reserved!r}')
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    record = {'step': int(step), **finite}
    if self._chain is None:
      line = json.dumps(record, allow_nan=False)
    else:
      line, self._chain = _seal(record, self._chain)
    with _files.named(self.path):
      self._file.write(line.encode() + b'\n')
      self._file.flush()
      os.fsync(self._file.fileno())
    if self._tensorboard is None:
      return
    for name, value in {**values, **(clock or {})}.items():
      if math.isfinite(value):  # TensorBoard shows a gap; tensorboardX would warn at every step
        self._tensorboard.add_scalar(name, value, step)
    self._tensorboard.flush()

  def close(self) -> None:
    self._file.close()
    if self._tensorboard is not None:
      self._tensorboard.close()


def _tensorboard(directory: pathlib.Path, purge_step: int) -> Any:
  """A writer of event files; None where tensorboardX is not installed, which no run depends on."""
  if importlib.util.find_spec('tensorboardX') is None:
    return None
  import tensorboardX

  return tensorboardX.SummaryWriter(str(directory), purge_step=purge_step)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Returns the records of a metrics.jsonl in order, without their hashes; null (NaN or infinity)
  is None.

  A last line without its end is left out: the run is being written or was killed.

  Raises:
    InputError: there is no such file, or another line is not what was written.
  """
  if not os.path.isfile(path):
    raise _validate.InputError(f'expected a metrics.jsonl at {os.fspath(path)}, found none')
  return [record for _, record, _ in _records(path)]


def _seal(record: Mapping[str, Any], chain: str) -> tuple[str, str]:
  """The line for a record, and the hash in it, which covers the lines before it too."""
  body = json.dumps(record, allow_nan=False)
  digest = hashlib.sha256((chain + body).encode()).hexdigest()[:16]
  return json.dumps({**record, _HASH: digest}, allow_nan=False), digest


def _records(path: str | os.PathLike[str]) -> list[tuple[bytes, dict[str, Any], str | None]]:
  """Returns the complete lines of a file, what they say, and their hashes (None: they have none);
  nothing for a missing file.
  """
  try:
    lines = pathlib.Path(path).read_bytes().splitlines(keepends=True)
  except FileNotFoundError:
    return []
  records = []
  chain: str | None = ''
  for number, line in enumerate(lines, start=1):
    try:
      record, chain = _unseal(line, chain, first=number == 1)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
      if number == len(lines) and not line.endswith(b'\n'):
        break  # half-written
      raise _validate.InputError(
        f'expected line {number} of {os.fspath(path)} to be a JSON object with a step, as it was'
        f' written, got {line[:60]!r}; restore the file from a backup, or remove it'
      ) from None
    records.append((line, record, chain))
  return records


def _unseal(line: bytes, chain: str | None, *, first: bool) -> tuple[dict[str, Any], str | None]:
  """The record in a line, and its hash; raises one of several errors if it is not intact."""
  record = json.loads(line)
  written = record.pop(_HASH, None)
  if not line.endswith(b'\n') or not isinstance(record['step'], int):
    raise ValueError('not a record')
  if written is None and (first or chain is None):  # of version 0.1
    if any(isinstance(value, str) for value in record.values()):
      raise ValueError('a hash under another name')
    return record, None
  intact, digest = _seal(record, chain or '')
  if chain is None or line != intact.encode() + b'\n':
    raise ValueError('not what was written')
  return record, digest
