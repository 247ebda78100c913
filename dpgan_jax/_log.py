"""The log file of a command (`--log_file`): all that it shows, each line with its time.

A bar that moves on a terminal is there in lines, as where there is no terminal.
"""

from __future__ import annotations

import io
import pathlib
import sys
import time
from typing import TextIO, cast

from dpgan_jax import _validate

_CLEAR = '\x1b[K'  # of the rest of a terminal's line
_file: TextIO | None = None


def keep(path: str, about: str) -> None:
  """Adds to the file at `path`, from now to the end of the process.

  Args:
    path: of the file, which may be there.
    about: its first line, such as the command.

  Raises:
    InputError: no file can be written there.
  """
  global _file
  try:
    _file = pathlib.Path(path).open('a', encoding='utf-8')  # noqa: SIM115 - to the end
  except OSError as error:
    raise _validate.InputError(
      f'expected log_file to be a file that can be written, in a folder that is there, got {path} '
      f'({error.strerror})'
    ) from None
  lines().write(f'{about}\n')
  sys.stdout, sys.stderr = Copied(sys.stdout, _file), Copied(sys.stderr, _file)


def lines() -> TextIO:
  """What is written here is shown to nobody but the log file, if there is one."""
  return cast(TextIO, io.StringIO() if _file is None else Copied(io.StringIO(), _file))


class Copied(io.TextIOBase):
  """A stream whose lines go to a file as well, as a terminal would show them in the end.

  Args:
    stream: what it is otherwise.
    file: gets whole lines, each with the time in front.
  """

  def __init__(self, stream: TextIO, file: TextIO) -> None:
    self._stream, self._file, self._begun = stream, file, ''

  def write(self, text: str) -> int:
    *ended, self._begun = (self._begun + text).split('\n')
    for line in ended:
      shown = line.rpartition('\r')[2].replace(_CLEAR, '')
      self._file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {shown}'.rstrip() + '\n')
    if ended:
      self._file.flush()
    else:
      self._begun = self._begun[self._begun.rfind('\r') + 1 :]
    return self._stream.write(text)

  def flush(self) -> None:
    self._stream.flush()

  def isatty(self) -> bool:
    return self._stream.isatty()

  def fileno(self) -> int:
    return self._stream.fileno()

  @property
  def encoding(self) -> str:  # type: ignore[override]
    return self._stream.encoding
