"""The record of a run while it trains: metrics.jsonl, TensorBoard, and a progress line.

`metrics.jsonl` is reproducible: it has one JSON object per line and no wall-clock times, and a run
that was interrupted and resumed leaves the same bytes as one that was not.

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

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
import tqdm

from dpgan_jax import _files, _validate

REAL_DATA_METRICS: frozenset[str] = frozenset(
  {
    'clipped_fraction',
    'd_loss',
    'd_loss_real',
    'd_real_accuracy',
    'd_real_grad_norm',
    'd_real_score',
    'nonfinite_examples',
    'realised_batch',
    'truncated_examples',
  }
)
"""Names of the metrics that are computed from private examples without noise.

The guarantee of a run covers what is computed from the noised gradients: the discriminator, the
generator, its samples, and any score of these on fakes. A metric named here looks at the private
examples of a batch directly (the loss or accuracy of the discriminator on them, the norms or the
clipped share of their gradients, how many were drawn), adds no noise and is charged to no budget.
Such numbers, step by step over a whole run, can tell whether a person was in the data. They are for
the data owner's own eyes: do not publish them, and do not choose hyperparameters, a checkpoint or
the time to stop by them without charging that choice. `d_loss` is here because it contains
`d_loss_real`; `d_loss_fake` and `g_loss` are not, as they are functions of the noised discriminator
and of fakes only.
"""


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
      InputError: a line that is to be kept is not a record.
    """
    if resume_step is not None:
      resume_step = _validate.integer('resume_step', resume_step, minimum=0)
    self.path = pathlib.Path(directory) / 'metrics.jsonl'
    keep = -1 if resume_step is None else resume_step
    kept = [line for line, record in _records(self.path) if record['step'] <= keep]
    with _files.atomic_write(self.path, 'wb') as file:
      file.writelines(kept)
    self._file = open(self.path, 'ab')  # noqa: SIM115 (closed by close)
    self._tensorboard = tensorboardX.SummaryWriter(
      str(pathlib.Path(directory) / 'tensorboard'), purge_step=keep + 1
    )

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
    if 'step' in values:
      raise ValueError("expected scalars without the reserved name 'step'")
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    record = {'step': int(step), **finite}
    self._file.write(json.dumps(record, allow_nan=False).encode() + b'\n')
    self._file.flush()
    os.fsync(self._file.fileno())
    for name, value in {**values, **(clock or {})}.items():
      if math.isfinite(value):  # TensorBoard shows a gap; tensorboardX would warn at every step
        self._tensorboard.add_scalar(name, value, step)
    self._tensorboard.flush()

  def close(self) -> None:
    self._file.close()
    self._tensorboard.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Returns the records of a metrics.jsonl in order; null (NaN or infinity) is None.

  A last line without its end is left out: the run is being written or was killed.

  Raises:
    InputError: there is no such file, or another line is not a record.
  """
  if not os.path.isfile(path):
    raise _validate.InputError(f'expected a metrics.jsonl at {os.fspath(path)}, found none')
  return [record for _, record in _records(path)]


def _records(path: str | os.PathLike[str]) -> list[tuple[bytes, dict[str, Any]]]:
  """Returns the complete lines of a file with what they say; nothing for a missing file."""
  try:
    lines = pathlib.Path(path).read_bytes().splitlines(keepends=True)
  except FileNotFoundError:
    return []
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line)
      if not line.endswith(b'\n') or not isinstance(record['step'], int):
        raise ValueError('not a record')
    except (ValueError, TypeError, KeyError):
      if number == len(lines):
        break
      raise _validate.InputError(
        f'expected line {number} of {os.fspath(path)} to be a JSON object with a step, got'
        f' {line[:60]!r}; remove the line'
      ) from None
    records.append((line, record))
  return records


class Progress:
  """A progress bar on stderr: steps, spent ε, time left, device.

  On a terminal it is a tqdm bar; elsewhere (a log file, a batch queue) it is a plain line at most
  every ten seconds, and one at the end.
  """

  _SECONDS_BETWEEN_LINES = 10.0

  def __init__(self, total: int, initial: int, epsilon_budget: float, device: str):
    """Starts the clock.

    Args:
      total: steps of the whole run.
      initial: steps taken before this process started (resuming).
      epsilon_budget: the ε the run may spend; infinity means training without privacy.
      device: what to call the hardware, e.g. 'cpu x 2'.
    """
    self._total, self._initial, self._step = total, initial, initial
    self._budget, self._device = epsilon_budget, device
    self._text = ''
    self._started = time.monotonic()
    self._printed_at, self._printed_step = self._started, initial
    self._stream = sys.stderr
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=total,
        initial=initial,
        desc=device,
        unit='step',
        file=self._stream,
        dynamic_ncols=True,
      )

  def update(self, step: int, epsilon: float, **scalars: float) -> None:
    """Shows that `step` steps are done, that `epsilon` is spent, and a few more numbers."""
    parts = [self._spent(epsilon)]
    parts += [f'{name}={float(value):.3g}' for name, value in scalars.items()]
    self._text = ', '.join(parts)
    advanced, self._step = step - self._step, step
    if self._bar is not None:
      self._bar.set_postfix_str(self._text, refresh=False)
      self._bar.update(advanced)
    elif time.monotonic() - self._printed_at >= self._SECONDS_BETWEEN_LINES:
      self._print_line()

  def close(self) -> None:
    """Leaves the last state on the screen."""
    if self._bar is not None:
      self._bar.close()
    elif self._step != self._printed_step:
      self._print_line()

  def _spent(self, epsilon: float) -> str:
    if math.isinf(epsilon):
      return 'no privacy'
    return f'ε={epsilon:.3f}' + ('' if math.isinf(self._budget) else f' / {self._budget:.4g}')

  def _print_line(self) -> None:
    now = time.monotonic()
    elapsed = now - self._started
    line = f'step {self._step}/{self._total} ({100 * self._step // max(self._total, 1)} %)'
    if (done := self._step - self._initial) > 0 and elapsed > 0:
      left = tqdm.tqdm.format_interval(elapsed / done * (self._total - self._step))
      line += f', {done / elapsed:.3g} steps/s, {left} left'
    print(f'{line}, {self._text}, {self._device}', file=self._stream, flush=True)
    self._printed_at, self._printed_step = now, self._step
