"""Progress on stderr: a bar over training steps with the ε spent, and a line for other work."""

from __future__ import annotations

import math
import sys
import time
from typing import TextIO

import tqdm

from dpgan_jax import _interrupts, _log

_shown = True


def be_quiet() -> None:
  """Shows nothing from now on, for the rest of the process; a log file still gets it."""
  global _shown
  _shown = False


def _stream() -> TextIO:
  return sys.stderr if _shown else _log.lines()


def _lines(stream: TextIO) -> TextIO:
  """Where whole lines go: a terminal shows something that moves, and its log file gets them."""
  return _log.lines() if stream.isatty() else stream


class TrainingProgress:
  """A progress bar on stderr: steps, spent ε, time left, device.

  On a terminal it is a tqdm bar; elsewhere (a log file, a batch queue) it is a plain line at most
  every ten seconds, and one at the end. So does the log file of a command get it.
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
    self._stream = _stream()
    self._lines = _lines(self._stream)
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
    if time.monotonic() - self._printed_at >= self._SECONDS_BETWEEN_LINES:
      self._print_line()

  def note(self, text: str) -> None:
    """Says something once, above the bar; time spent so far does not count as training."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
      self._bar.unpause()
    else:
      print(text, file=self._stream, flush=True)
    if self._step == self._initial:
      self._started = time.monotonic()

  def close(self) -> None:
    """Leaves the last state on the screen."""
    if self._bar is not None:
      self._bar.close()
    if self._step != self._printed_step:
      self._print_line()

  def _spent(self, epsilon: float) -> str:
    if math.isinf(epsilon):
      return 'no privacy'
    return f'ε={epsilon:#.4g}' + ('' if math.isinf(self._budget) else f' / {self._budget:.4g}')

  def _print_line(self) -> None:
    now = time.monotonic()
    elapsed = now - self._started
    line = f'step {self._step}/{self._total} ({100 * self._step // max(self._total, 1)} %)'
    if self._total == 1:  # what is released once has neither steps nor a pace
      line = 'release made' if self._step else 'release not made yet'
    elif (done := self._step - self._initial) > 0 and elapsed > 0:
      left = tqdm.tqdm.format_interval(elapsed / done * (self._total - self._step))
      line += f', {done / elapsed:.3g} steps/s, {left} left'
    print(f'{line}, {self._text}, {self._device}', file=self._lines, flush=True)
    self._printed_at, self._printed_step = now, self._step


class WorkProgress:
  """What is being done and the time left, on stderr: one line on a terminal, elsewhere one at most
  every ten seconds and one for each new piece of work."""

  _SECONDS_BETWEEN_LINES = 10.0

  def __init__(self) -> None:
    self._stream = _stream()
    self._lines = _lines(self._stream)
    self._started = time.monotonic()
    self._drawn_at = self._printed_at = -float('inf')
    self._name = ''

  def update(self, name: str, share: float) -> None:
    _interrupts.working_on(name)
    now, is_new = time.monotonic(), name != self._name
    elapsed = now - self._started
    left = f', {duration(elapsed / share * (1 - share))} left' if share > 0.02 else ''
    line, self._name = f'{share:4.0%} {name}{left}', name
    if self._stream.isatty() and (is_new or now - self._drawn_at >= 0.2):
      print(f'\r\x1b[K{line}', end='', file=self._stream, flush=True)
      self._drawn_at = now
    if is_new or now - self._printed_at >= self._SECONDS_BETWEEN_LINES:
      print(line, file=self._lines, flush=True)
      self._printed_at = now

  def close(self) -> None:
    _interrupts.working_on('')
    elapsed = duration(time.monotonic() - self._started)
    begin = '\r\x1b[K' if self._stream.isatty() else ''
    print(f'{begin}100% done in {elapsed}', file=self._stream, flush=True)


def duration(seconds: float) -> str:
  """`95.0` → '1 min 35 s'."""
  if not math.isfinite(seconds):
    return 'unknown'
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'
