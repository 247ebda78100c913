"""Ctrl-C and SIGTERM: they end a command cleanly, and what holds them up is said at once.

Python hears a signal between two of its own operations. While XLA compiles, or a library computes,
that can take a minute; a thread hears it at once, and says what is being waited for.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import types
from typing import NoReturn

_SECONDS_TO_END = 2.0  # a checkpoint that is being written has this long before it is cut off
_SECONDS_TO_HEAR = 0.3  # after which it is said what is waited for
_NAMES = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}


class Terminated(BaseException):
  """SIGTERM arrived."""


_work = ''
_heard = threading.Event()


def working_on(what: str) -> None:
  """Notes what is being done, such as 'steps 1 to 250 of the GAN', for who interrupts it."""
  global _work
  _work = what


def work() -> str:
  """What is being done, or was when the command was interrupted; empty: nobody said."""
  return _work


def handle() -> None:
  """SIGINT raises KeyboardInterrupt from now on, SIGTERM `Terminated`, in the main thread."""
  _raise_on(signal.SIGTERM, Terminated)
  _raise_on(signal.SIGINT, KeyboardInterrupt)
  ours, pythons = os.pipe()
  os.set_blocking(pythons, False)
  signal.set_wakeup_fd(pythons, warn_on_full_buffer=False)  # Python writes each signal's number
  threading.Thread(target=_say_what_holds_up, args=(ours,), daemon=True).start()


def calm(status: int) -> None:
  """The exception got through: nothing is raised or said any more, and the process ends at once.

  At the end of the interpreter JAX would wait, silently, for the steps that the device is at. All
  that has to be completed or removed stands in `finally` blocks, which have run.

  Args:
    status: that the process ends with.
  """
  _heard.set()
  signal.setitimer(signal.ITIMER_REAL, 0)
  atexit.register(_leave, status)  # the last one that is registered runs first


def _leave(status: int) -> NoReturn:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _raise_on(number: int, exception: type[BaseException]) -> None:
  """Makes a signal raise `exception` in the main thread, again and again until one gets through.

  An exception that is raised while Python happens to run a callback (JAX has one in the garbage
  collector) is reported and dropped, and the signal with it.
  """

  def handler(received: int, frame: types.FrameType | None) -> NoReturn:
    del received, frame
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_END)
    raise exception

  signal.signal(number, handler)


def _say_what_holds_up(pipe: int) -> None:
  """Waits for a signal, then for it to get through; says what it waits for if it does not."""
  while (number := os.read(pipe, 1)[0]) not in _NAMES:
    pass
  if not _heard.wait(_SECONDS_TO_HEAR):
    name, work = _NAMES[signal.Signals(number)], _work or 'a computation'
    line = f'{name}: stops after {work}, which cannot be cut short'
    below = '\n' if sys.stderr.isatty() else ''  # a progress bar
    print(f'{below}{line}', file=sys.stderr, flush=True)
