"""The privacy ledger: what has been spent, on disk before it is spent.

One line of JSON per event. The first says what the run is (each stage's mechanism, the data it runs
on); every later one charges a stage up to a step. A charge is flushed to the disk before the steps
it pays for are taken, so a crash at any moment can only over-count. Re-taking charged steps after a
crash costs nothing: they draw the same batches and the same noise from (key, step), so they are the
same release. Every line carries a hash of itself and its predecessor, so that an edited or damaged
ledger is noticed. Only the beginning of a last line, what a crash in mid-write leaves, is dropped,
since the steps it would have paid for were not taken; a last line that lacks nothing but its end
counts, and one that ends in another byte is damage.

The ledger belongs to the private run directory: it holds a fingerprint of the data.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import dp_accounting

from dpgan_jax import _files, _validate
from dpgan_jax.budget.budget import check_stages
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import BudgetError, DPMechanism

_FORMAT = 1
_MOST_BYTES = 2**28  # a line a chunk of steps: those of real runs stay below one of 2**20


class Ledger:
  """Spent budget of a run, stage by stage; make it with `Ledger.open`.

  Stages are named mechanisms that all act on the same data under one δ and one relation; their
  costs compose. A plain GAN has one stage, 'dp_sgd'.
  """

  def __init__(self, path: pathlib.Path, stages: Mapping[str, DPMechanism]) -> None:
    self._path = path
    self._stages = dict(stages)
    self._charged = dict.fromkeys(stages, 0)
    self._hash = ''
    self._size = 0  # bytes of the file that count, as far as this object knows
    self._writable = True

  @classmethod
  def open(
    cls,
    path: str | os.PathLike[str],
    *,
    stages: Mapping[str, DPMechanism],
    data_fingerprint: str,
    identity: str | None = None,
    secret_commitment: str | None = None,
  ) -> Ledger:
    """Starts a ledger, or continues one after checking that it is this run's.

    Args:
      path: the ledger file.
      stages: name ↦ mechanism, all with the same δ and neighbouring relation.
      data_fingerprint: a hash of the private data set.
      identity: of the run, which the first line then holds.
      secret_commitment: of the run's secret, likewise: under another secret, what is drawn again
        would be a second release. None where nothing is going to be drawn.

    Raises:
      InputError: the ledger on disk belongs to another mechanism or other data (naming what
        differs), or is damaged.
    """
    check_stages(stages)
    path = pathlib.Path(path)
    header = {
      'format': _FORMAT,
      'stages': {name: m.to_dict() for name, m in stages.items()},
      'data_fingerprint': data_fingerprint,
      **({} if identity is None else {'run': identity}),
      **({} if secret_commitment is None else {'secret': secret_commitment}),
    }
    ledger = cls(path, stages)
    if not path.exists():
      line, ledger._hash = _seal(header, '')
      with _files.atomic_write(path) as file:
        ledger._size = file.write(line)  # ASCII: a byte each
      return ledger
    ledger._replay(header)
    ledger._mend()
    return ledger

  @classmethod
  def read(
    cls,
    path: str | os.PathLike[str],
    *,
    stages: Mapping[str, DPMechanism],
    identity: str | None = None,
  ) -> Ledger:
    """What a ledger says, for a report or an audit; nothing on the disk is changed.

    Its run may be training meanwhile: of a line that is being written nothing counts yet. The data
    are not at hand, so that their fingerprint is not compared.

    Args:
      path: the ledger file.
      stages: as in `open`.
      identity: as in `open`; None for a run that has none (of version 0.1).

    Returns:
      A ledger that cannot `charge`.

    Raises:
      InputError: there is no such file, or as `open`.
    """
    check_stages(stages)
    path = pathlib.Path(path)
    if not path.exists():
      raise _validate.InputError(f'expected a ledger at {path}, found none')
    ledger = cls(path, stages)
    ledger._writable = False
    ledger._replay(
      {
        'format': _FORMAT,
        'stages': {name: m.to_dict() for name, m in stages.items()},
        **({} if identity is None else {'run': identity}),
      }
    )
    return ledger

  def _replay(self, expected_header: Mapping[str, Any]) -> None:
    if self._path.stat().st_size > _MOST_BYTES:
      raise _validate.InputError(f'expected {self._path} to have at most {_MOST_BYTES} bytes')
    *lines, tail = self._path.read_bytes().split(b'\n')
    if not lines:
      raise _validate.InputError(f'{self._path} is empty or damaged; restore it from a backup')
    for number, line in enumerate(lines, start=1):
      unsealed = _unseal(line, self._hash)
      if unsealed is None:
        raise self._damaged(number)
      record, self._hash = unsealed
      if number == 1:
        _check_header(self._path, record, expected_header)
      else:
        self._count(record)
      self._size += len(line) + 1
    if (whole := _unseal(tail, self._hash)) is not None:
      record, self._hash = whole
      self._count(record)
      self._size += len(tail) + 1
    elif _unseal(tail[:-1], self._hash) is not None:
      raise self._damaged(len(lines) + 1)

  def _count(self, record: Mapping[str, Any]) -> None:
    # The hashes are for accidents: whoever writes a line can compute them.
    mechanism = self._stages.get(str(record.get('stage')))
    if mechanism is None:
      raise _validate.InputError(f'{self._path} charges a stage that this run does not have')
    _validate.integer(
      f'up_to_step in {self._path}', record.get('up_to_step'), minimum=0, maximum=mechanism.steps
    )
    self._charged[record['stage']] = max(self._charged[record['stage']], record['up_to_step'])

  def _damaged(self, number: int) -> _validate.InputError:
    return _validate.InputError(
      f'{self._path} is damaged at line {number}: what has been spent is no longer certain; '
      'restore the file from a backup, or start anew in another run directory'
    )

  def _mend(self) -> None:
    """Gives the last line its end, or drops it if it is only the beginning of one."""
    size = self._path.stat().st_size
    if size == self._size:
      return
    with open(self._path, 'r+b') as file:
      if size < self._size:
        file.seek(size)
        file.write(b'\n')
        file.flush()
      else:
        file.truncate(self._size)
      os.fsync(file.fileno())

  def charge(self, up_to_step: int, stage: str = 'dp_sgd') -> None:
    """Pays for all steps of a stage up to and including number `up_to_step`, durably.

    Call it before taking the steps. Charging what is charged already writes nothing.

    Raises:
      BudgetError: the stage's mechanism does not cover that many steps; nothing is charged.
      InputError: something else has written to the file since it was opened.
      OSError: the file cannot be written (disk full, ...); nothing is charged.
    """
    if not self._writable:
      raise ValueError('expected a ledger from Ledger.open; one from Ledger.read cannot charge')
    mechanism = self._stages[stage]
    if up_to_step > mechanism.steps:
      raise BudgetError(
        f'step {up_to_step} would exceed the privacy budget: it covers {mechanism.steps} steps '
        f'(epsilon {mechanism.epsilon():.4g} at delta {mechanism.delta:g})'
      )
    if up_to_step <= self._charged[stage]:
      return
    line, new_hash = _seal({'stage': stage, 'up_to_step': up_to_step}, self._hash)
    # Unbuffered: what a failed write leaves in a buffer would be tried again by truncate and close.
    with _files.named(self._path), open(self._path, 'r+b', buffering=0) as file:
      start = file.seek(0, os.SEEK_END)
      if start != self._size:
        raise _validate.InputError(
          f'{self._path} has {start} bytes where {self._size} were expected: another process has '
          'written to it; nothing more is charged. Run the same command again'
        )
      try:
        rest = line.encode()
        while rest:
          rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
      except BaseException:  # disk full: leave the ledger as it was; the steps are not taken
        file.truncate(start)
        raise
    self._hash = new_hash
    self._size = start + len(line)
    self._charged[stage] = up_to_step

  @property
  def stages(self) -> tuple[str, ...]:
    """The names of what is charged for."""
    return tuple(self._stages)

  def charged_steps(self, stage: str = 'dp_sgd') -> int:
    """How many steps of a stage have been paid for."""
    return self._charged[stage]

  def event(self) -> dp_accounting.DpEvent:
    """Everything charged so far, as one DpEvent."""
    events = [m.event(self._charged[name]) for name, m in self._stages.items()]
    return events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(events)

  def epsilon(self, delta: float | None = None) -> float:
    """ε charged so far, at `delta` (default: the mechanisms' own)."""
    first = next(iter(self._stages.values()))
    return accounting.epsilon(
      self.event(),
      delta=first.delta if delta is None else delta,
      neighboring_relation=first.neighboring_relation,
    )

  def require_covers(self, step: int, stage: str = 'dp_sgd') -> None:
    """Checks that a checkpoint at `step` was paid for.

    Raises:
      InputError: it was not, so the ledger has lost lines.
    """
    if step > self._charged[stage]:
      raise _validate.InputError(
        f'{self._path} charges {self._charged[stage]} steps but a checkpoint has taken {step}: '
        'the ledger has lost entries; restore it from a backup'
      )


def _check_header(path: pathlib.Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  differences = []
  if saved.get('format') != now['format']:
    differences.append(f'format is {saved.get("format")} there and {now["format"]} now')
  there, here = saved.get('stages'), now['stages']
  if not isinstance(there, dict) or not all(isinstance(m, dict) for m in there.values()):
    there = {}
  if there.keys() != here.keys():
    differences.append(f'stages are {sorted(there)} there and {sorted(here)} now')
  for stage in here.keys() & there.keys():
    for field, value in here[stage].items():
      if there[stage].get(field) != value:
        differences.append(f'{field} is {there[stage].get(field)} there and {value} now')
  fingerprint = saved.get('data_fingerprint')
  if not differences and now.get('data_fingerprint', fingerprint) != fingerprint:
    differences.append('the data set has the same size but other contents')
  if not differences and saved.get('run') != now.get('run'):
    differences.append('it is the ledger of another run (config.json and ledger do not match)')
  if not differences and 'secret' in now and saved.get('secret') != now['secret']:
    differences.append('its draws came of another secret (secret.json and ledger do not match)')
  if differences:
    raise _validate.InputError(
      f'{path} records another mechanism: {"; ".join(differences)}. Use the same settings, or '
      'another run directory (which spends a budget of its own)'
    )


def _seal(record: Mapping[str, Any], previous_hash: str) -> tuple[str, str]:
  """The line for a record, and its hash, which covers the whole ledger up to and including it."""
  body = json.dumps(record, sort_keys=True)
  digest = hashlib.sha256((previous_hash + body).encode()).hexdigest()[:32]
  return json.dumps({**record, 'hash': digest}, sort_keys=True) + '\n', digest


def _unseal(line: bytes, previous_hash: str) -> tuple[dict[str, Any], str] | None:
  """The record in a line that `_seal` made after `previous_hash`, and its hash; else None."""
  try:
    record = json.loads(line)
    del record['hash']
    intact, new_hash = _seal(record, previous_hash)
  except (ValueError, KeyError, TypeError, RecursionError):
    return None
  # Byte for byte: the hash covers the values, and another spelling of them is damage nevertheless.
  return (record, new_hash) if line + b'\n' == intact.encode() else None
