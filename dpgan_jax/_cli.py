"""What every command shares: flags parsed kindly, one line for a mistake, signals that end cleanly.

Exit status: 0 done; 2 bad input (one line says what is wrong and what would be right); 1 the system
failed (disk full, no permission, a package that is not installed); 130 or 143 interrupted; 141
what it prints is read no more. Any other failure is a bug and keeps its traceback.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypeVar

from absl import app, flags

from dpgan_jax import (
  __version__,
  _compile_cache,
  _extras,
  _flag_files,
  _interrupts,
  _log,
  _plugins,
  _settings,
  _validate,
)

_extras.explain_in_commands()
flags.disclaim_key_flags()  # `define_flags` acts for its caller

T = TypeVar('T')


def fail(message: str, status: int = 2) -> NoReturn:
  """Ends the process with one line on stderr."""
  print(f'error: {_validate.one_line(message)}', file=sys.stderr, flush=True)
  sys.exit(status)


def run(main: Callable[[], None], *, interrupted: str = '', positional: str | None = None) -> None:
  """Parses the flags and runs a command's `main`; does not return.

  Args:
    main: the command; its flags are parsed when it is called.
    interrupted: what to tell a user who pressed Ctrl-C, e.g. how to continue.
    positional: the flag whose value may stand alone, without its name.
  """

  _show_everything()
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
  _define_help()

  def parsed(argv: list[str]) -> list[str]:
    try:
      return parse(argv, positional)
    except _validate.InputError as error:
      fail(str(error))
    except BrokenPipeError:  # of a page of help
      _end_unheard()

  def stop(how: str, status: int) -> None:
    _interrupts.calm(status)
    work = _interrupts.work()
    fail(f'{how}{f" at {work}" if work else ""}. {interrupted}'.strip(), status)

  def guarded(argv: list[str]) -> None:
    del argv
    _interrupts.handle()
    if (log := flags.FLAGS['log_file'].value) is not None:
      try:
        _log.keep(log, f'dpgan_jax {__version__}: {shlex.join(sys.argv)}')
      except _validate.InputError as error:
        fail(str(error))
    # JAX tells at length which accelerators it did not find; the commands name the one they use.
    logging.getLogger('jax').setLevel(logging.WARNING)
    _compile_cache.enable()
    _quieten_orbax()
    if flags.FLAGS['quiet'].value:
      from dpgan_jax import _progress  # tqdm, which nothing else here needs

      _progress.be_quiet()
    try:
      main()
      sys.stdout.flush()
    except _validate.InputError as error:
      fail(str(error))
    except BrokenPipeError:
      _end_unheard()
    except OSError as error:
      fail(str(error), status=1)
    except ModuleNotFoundError as error:
      if (missing := _extras.missing(error)) is None:
        raise
      fail(missing, status=1)
    except MemoryError as error:
      fail(f'not enough memory: {error}'.removesuffix(': '), status=1)
    except KeyboardInterrupt:
      stop('interrupted', 130)
    except _interrupts.Terminated:
      stop('terminated', 143)

  app.run(guarded, flags_parser=parsed)


def _end_unheard() -> NoReturn:
  """Ends the process as others do whose reader (`| head`) has enough; 141 is SIGPIPE's status."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed there
  sys.exit(141)


def _quieten_orbax() -> None:
  """Drops what orbax tells beside its exceptions; the application's own absl messages pass.

  It narrates every save through absl's logger, and prints the traceback of a failed one several
  times before it raises it. A save or a restore that failed while several files were under way has
  tensorstore answer to an event loop that is closed, and each answer prints a traceback.
  """
  logging.getLogger('absl').addFilter(lambda r: f'{os.sep}orbax{os.sep}' not in r.pathname)
  shown = sys.unraisablehook

  def hook(about: sys.UnraisableHookArgs) -> None:
    # A signal that came in a callback, which drops what it raises, is raised again (`_interrupts`).
    again = isinstance(about.exc_value, (KeyboardInterrupt, _interrupts.Terminated))
    if not again and str(about.exc_value) != 'Event loop is closed':
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


def parse(argv: list[str], positional: str | None = None) -> list[str]:
  """Parses a command line, flag files included, into `flags.FLAGS`.

  Args:
    argv: the name of the program, then its arguments.
    positional: the flag whose value may stand alone.

  Raises:
    InputError: unknown flags, values that a flag may not have, a flag file that cannot be read.
  """
  argv = [*argv[:1], *_flag_files.expand(argv[1:])]
  try:
    flags.FLAGS.set_gnu_getopt(positional is not None)  # flags may follow what stands alone
    rest = flags.FLAGS(argv)
    if positional is not None and len(rest) == 2 and not flags.FLAGS[positional].present:
      flags.FLAGS[positional].parse(rest.pop())
  except flags.Error as error:
    raise _validate.InputError(str(error).replace('\n', ' ').removeprefix('ERROR:: ')) from None
  except RecursionError:  # from absl's search for a flag of a similar name
    raise _validate.InputError('unknown flag, whose name has hundreds of letters') from None
  if rest[1:]:
    raise _validate.InputError(f'expected flags only (--name=value), got {rest[1]!r}')
  if 'plugin' in flags.FLAGS:
    for name in flags.FLAGS['plugin'].value or ():
      _plugins.load_plugin(name)
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    if isinstance(flag.value, str) and flag.value.startswith('~'):
      # No shell does it behind an equals sign: --out=~/eps2. ~nobody stays as it is.
      flag.value = os.path.expanduser(flag.value)
    if (setting := _setting(flag)) is not None:
      setting.check(flag.value)
  return rest


def define_flags(*classes: type, rare: Collection[str] = ()) -> None:
  """Defines a flag for each field of some dataclasses (`_settings`), of its type.

  `--name=none` takes back what a flag file gave to a field that may be None.

  Args:
    classes: whose fields; in this order they stand in the help page.
    rare: fields that the short help page leaves out although others show them there.
  """
  makers = {
    int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string,
    bool: flags.DEFINE_bool, tuple: flags.DEFINE_list,
  }  # fmt: skip
  for setting in (setting for cls in classes for setting in _settings.of(cls)):
    if setting.name in rare:
      setting = dataclasses.replace(setting, common=False)
    makers[setting.kind](setting.name, setting.default, setting.help, short_name=setting.alias)
    flag = flags.FLAGS[setting.name]
    flag.parser = _Parser(flag.parser, setting)


class _Parser(flags.ArgumentParser):
  """Another parser, and the word none where a setting may be None."""

  def __init__(self, parser: Any, setting: _settings.Setting) -> None:
    self._parser, self.setting = parser, setting
    self.syntactic_help = parser.syntactic_help

  def parse(self, argument: Any) -> Any:
    none = self.setting.optional and argument == 'none'
    return None if none else self._parser.parse(argument)

  def flag_type(self) -> str:
    return self._parser.flag_type()


def config_from_flags(cls: type[T]) -> T:
  """The dataclass of settings that the parsed flags describe.

  Raises:
    InputError: values that do not validate.
  """
  return cls(**{setting.name: flags.FLAGS[setting.name].value for setting in _settings.of(cls)})


def given(cls: type) -> list[str]:
  """Names of the settings that the command line or a flag file gives a value."""
  found = ((s.name, flags.FLAGS[s.name]) for s in _settings.of(cls))
  return [name for name, flag in found if flag.present and flag.value is not None]


# --- help -----------------------------------------------------------------------------------------


class _Help(flags.BooleanFlag):
  """A flag that shows the help page and ends the process; absl's own ends it as a failure does."""

  def __init__(self, name: str, text: str, *, full: bool, short_name: str | None = None) -> None:
    super().__init__(name, False, text, short_name, allow_override=True)
    self._full = full

  def parse(self, argument: Any) -> None:
    if self._parse(argument):
      print(help_page(full=self._full), flush=True)
      sys.exit(0)


def _define_help() -> None:
  app.define_help_flags()  # which are overridden
  flags.DEFINE_flag(_Help('help', 'Show the flags that matter most.', full=False, short_name='?'))
  flags.DEFINE_flag(_Help('helpshort', 'The same.', full=False))
  flags.DEFINE_flag(_Help('helpfull', 'Show all flags.', full=True))
  # They are defined again where a check runs one command within another.
  flags.DEFINE_bool(
    'quiet', False, 'Show no progress; results, warnings and errors stay.', allow_override=True
  )
  flags.DEFINE_string(
    'log_file', None, 'Also add all that is shown to this file, with times.', allow_override=True
  )
  flags.DEFINE_list(
    'plugin', None, 'Modules of your own (import paths or files) to load first.',
    allow_override=True,
  )  # fmt: skip


def help_page(*, full: bool) -> str:
  """What the command does, and its flags by groups: all of them, or the few that matter most."""
  known = [flags.FLAGS[name] for name in flags.FLAGS if flags.FLAGS[name].name == name]
  own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
  groups: dict[str, list[str]] = {}
  left_out = 0
  for flag in sorted(known, key=lambda flag: _setting(flag) is None):
    setting = _setting(flag)
    group, common, text = 'absl', False, flag.help
    if setting is not None:
      group, common, text = setting.group, setting.common, setting.describe()
    elif flag in own:  # of a program that defines its flags itself
      group, common = 'flags', True
    if isinstance(flag, _Help):
      continue
    if not common and not full:
      left_out += group != 'absl'
      continue
    name = f'[no]{flag.name}' if flag.boolean else flag.name
    line = flags.text_wrap(f'--{name}: {text}', indent=' ' * 6, firstline_indent='  ')
    groups.setdefault(group, []).append(line)
  pages = [(sys.modules['__main__'].__doc__ or '').strip()]
  pages += ['\n'.join([f'{group.capitalize()}:', *lines]) for group, lines in groups.items()]
  pages.append(
    '--flagfile=FILE reads flags from a file, one a line; those of the command line win.\n'
    '--recipe=NAME reads one that comes with the package; dpgan-jax recipes lists them.\n'
    '--NAME=none takes back what a file gave.\n'
    '--plugin=mine.py adds networks, losses, data sets, classifiers and judges of your own.\n'
    '--quiet shows no progress; --log_file=FILE keeps it, and all else that is shown.'
    + (f'\n--helpfull shows {left_out} more flags.' if left_out else '')
  )
  return '\n\n'.join(pages)


def _setting(flag: Any) -> _settings.Setting | None:
  return getattr(flag.parser, 'setting', None)
