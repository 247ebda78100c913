"""What every command shares: flags parsed kindly, one line for a mistake, signals that end cleanly.

Exit status: 0 done; 2 bad input (one line says what is wrong and what would be right); 1 the file
system failed (disk full, no permission); 130 or 143 interrupted. Any other failure is a bug and
keeps its traceback.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
import logging
import os
import pathlib
import signal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags

from dpgan_jax import _compile_cache, _validate

flags.disclaim_key_flags()  # `define_flags` acts for its caller, whose --help lists the flags


_MAX_FLAG_FILES, _MAX_FLAG_FILE_BYTES = 50, 2**20
_SECONDS_TO_END = 2.0  # a checkpoint that is being written has this long before it is cut off


class Terminated(BaseException):
  """SIGTERM arrived."""


def fail(message: str, status: int = 2) -> NoReturn:
  """Ends the process with one line on stderr."""
  print(f'error: {_validate.one_line(message)}', file=sys.stderr, flush=True)
  sys.exit(status)


def run(main: Callable[[], None], *, interrupted: str = '') -> None:
  """Parses the flags and runs a command's `main`; does not return.

  Args:
    main: the command; its flags are parsed when it is called.
    interrupted: what to tell a user who pressed Ctrl-C, e.g. how to continue.
  """

  _show_everything()

  def parsed(argv: list[str]) -> list[str]:
    try:
      return parse(argv)
    except _validate.InputError as error:
      fail(str(error))

  def guarded(argv: list[str]) -> None:
    del argv
    _raise_on(signal.SIGTERM, Terminated)
    _raise_on(signal.SIGINT, KeyboardInterrupt)
    # JAX tells at length which accelerators it did not find; the commands name the one they use.
    logging.getLogger('jax').setLevel(logging.WARNING)
    _compile_cache.enable()
    _quieten_orbax()
    try:
      main()
    except _validate.InputError as error:
      fail(str(error))
    except OSError as error:
      fail(str(error), status=1)
    except MemoryError as error:
      fail(f'not enough memory: {error}'.removesuffix(': '), status=1)
    except KeyboardInterrupt:
      _calm()
      fail(f'interrupted. {interrupted}'.strip(), status=130)
    except Terminated:
      _calm()
      fail(f'terminated. {interrupted}'.strip(), status=143)

  app.run(guarded, flags_parser=parsed)


def _quieten_orbax() -> None:
  """Drops what orbax tells beside its exceptions; the application's own absl messages pass.

  It narrates every save through absl's logger, and prints the traceback of a failed one several
  times before it raises it. A save or a restore that failed while several files were under way has
  tensorstore answer to an event loop that is closed, and each answer prints a traceback.
  """
  logging.getLogger('absl').addFilter(lambda r: f'{os.sep}orbax{os.sep}' not in r.pathname)
  shown = sys.unraisablehook

  def hook(about: sys.UnraisableHookArgs) -> None:
    if str(about.exc_value) != 'Event loop is closed':
      shown(about)

  sys.unraisablehook = hook


_SPELLED = {
  'ε': 'epsilon', 'δ': 'delta', 'σ': 'sigma', '…': '...', '–': '-', '—': '-', '≥': '>=', '≤': '<=',
  '≠': '!=', '×': 'x', '·': '*', '→': '->', '√': 'sqrt ', '²': '^2', '∞': 'infinity', '’': "'",
}  # fmt: skip


def _show_everything() -> None:
  """Lets a terminal without a letter show it in others: no text may end a run (LANG=C, cp1252)."""
  codecs.register_error('dpgan_jax', _spelled)
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='dpgan_jax')


def _spelled(error: UnicodeError) -> tuple[str, int]:
  if not isinstance(error, UnicodeEncodeError):
    raise error
  letters = error.object[error.start : error.end]
  return ''.join(_SPELLED.get(c) or ascii(c)[1:-1] for c in letters), error.end


def parse(argv: list[str]) -> list[str]:
  """Parses a command line, flag files included, into `flags.FLAGS`.

  Raises:
    InputError: unknown flags, values of another type, a flag file that cannot be read.
  """
  argv = [*argv[:1], *_without_flag_files(argv[1:])]
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise _validate.InputError(str(error).replace('\n', ' ').removeprefix('ERROR:: ')) from None
  except RecursionError:  # from absl's search for a flag of a similar name
    raise _validate.InputError('unknown flag, whose name has hundreds of letters') from None
  if rest[1:]:
    raise _validate.InputError(f'expected flags only (--name=value), got {rest[1]!r}')
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    if isinstance(flag.value, str) and flag.value.startswith('~'):
      # No shell does it behind an equals sign: --out=~/eps2. ~nobody stays as it is.
      flag.value = os.path.expanduser(flag.value)
  return rest


def _without_flag_files(argv: Sequence[str]) -> list[str]:
  """A command line with what its flag files hold in their place, read as UTF-8 in any locale.

  absl would read without end what is refused here: devices, giants, files that name each other more
  often than anybody means to.
  """
  found, waiting, read = [], [(argument, False) for argument in reversed(argv)], 0
  while waiting:
    argument, nested = waiting.pop()
    if argument == '--' and not nested:
      return [*found, argument, *(rest for rest, _ in reversed(waiting))]
    name, equals, value = argument.partition('=')
    if name not in ('--flagfile', '-flagfile'):
      found.append(argument)
      continue
    if not equals and not nested and waiting:  # only on a command line is it the next argument
      value = waiting.pop()[0]
    read += 1
    if read > _MAX_FLAG_FILES:
      raise _validate.InputError(
        f'expected at most {_MAX_FLAG_FILES} flag files, each other\'s included (do they name '
        'themselves?)'
      )
    waiting += [(line, True) for line in reversed(_flag_file_lines(value.strip()))]
  return found


def _flag_file_lines(name: str) -> list[str]:
  """The flags in a flag file, one a line, without comments."""
  if not name:
    raise _validate.InputError('expected --flagfile=FILE, got no name')
  path = pathlib.Path(os.path.expanduser(name))
  try:
    if not path.is_file():
      state = 'is no regular file' if path.exists() else 'does not exist'
      raise _validate.InputError(f'flag file {path} {state}')
    if path.stat().st_size > _MAX_FLAG_FILE_BYTES:
      raise _validate.InputError(
        f'flag file {path} has {path.stat().st_size} bytes; expected at most '
        f'{_MAX_FLAG_FILE_BYTES}'
      )
    lines = path.read_text(encoding='utf-8').splitlines()
  except OSError as error:
    raise _validate.InputError(f'cannot read flag file {path}: {error.strerror}') from None
  except UnicodeError:
    raise _validate.InputError(f'expected flag file {path} to be UTF-8 text') from None
  return [line.strip() for line in lines if line.strip() and not line.startswith(('#', '//'))]


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


def _calm() -> None:
  """The exception got through: nothing is raised any more."""
  signal.setitimer(signal.ITIMER_REAL, 0)


def define_flags(config_class: Any) -> None:
  """Defines one flag per field of a configuration dataclass, typed and documented by it.

  `--name=none` takes back what a flag file gave to a field that may be None.
  """
  hints = typing.get_type_hints(config_class)
  for field in dataclasses.fields(config_class):
    kinds = set(typing.get_args(hints[field.name]) or (hints[field.name],))
    (kind,) = kinds - {type(None)}
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}[kind]
    define(field.name, field.default, field.metadata['help'])
    if type(None) in kinds:
      flag = flags.FLAGS[field.name]
      flag.parser = _OrNone(flag.parser)


class _OrNone(flags.ArgumentParser):
  """Another parser, and the word none."""

  def __init__(self, parser: Any) -> None:
    self._parser = parser
    self.syntactic_help = parser.syntactic_help

  def parse(self, argument: Any) -> Any:
    return None if argument == 'none' else self._parser.parse(argument)

  def flag_type(self) -> str:
    return self._parser.flag_type()


def config_from_flags(config_class: Any) -> Any:
  """The configuration that the parsed flags describe.

  Raises:
    InputError: values that do not validate.
  """
  names = [field.name for field in dataclasses.fields(config_class)]
  return config_class(**{name: getattr(flags.FLAGS, name) for name in names})
