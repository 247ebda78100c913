"""Files of flags, one a line: `--flagfile=experiments/eps2.flags`, read here and not by absl.

Those of the repository's experiments/ are found from anywhere, by their path or as recipes by name
(`--recipe=mnist_eps2`): in the checkout, or in what an installed package holds of it.

absl would read without end what is refused here: devices, giants, files that name each other more
often than anybody means to.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence

from dpgan_jax import _validate

_PACKAGE = pathlib.Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / 'recipes'  # where building a wheel puts experiments/**/*.flags
HOME = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent  # whose experiments/ has flag files
_MOST_FILES, _MOST_BYTES = 50, 2**20
_RECIPES = ('--recipe', '-recipe')
_NAMES = ('--flagfile', '-flagfile', *_RECIPES)


def recipes() -> dict[str, pathlib.Path]:
  """The flag files that come with the package, by name: `tables_quickstart` of
  experiments/tables/quickstart.flags, and `mnist_eps1` of eps1.flags, as those of MNIST lie on top.
  """
  root = HOME / 'experiments'
  found = {}
  for path in sorted(root.rglob('*.flags')):
    parts = path.relative_to(root).with_suffix('').parts
    of_mnist = parts[0].startswith(('eps', 'no_privacy'))
    found['_'.join(('mnist', *parts) if of_mnist else parts)] = path
  return found


def about(path: pathlib.Path) -> str:
  """What a flag file says of itself first, up to the end of a sentence or a part of one."""
  lines = [line[1:] for line in path.read_text('utf-8').splitlines() if line.startswith('#')]
  return re.split(r'[.:;](?:\s|$)', ' '.join(lines).strip(), maxsplit=1)[0]


def expand(argv: Sequence[str]) -> list[str]:
  """A command line with what its flag files hold in front, so that its own flags win.

  Of the files, what stands later wins; an included file stands where it is named.

  Args:
    argv: arguments, without the name of the program.

  Raises:
    InputError: a file that cannot be read, or more of them than anybody means to include.
  """
  own, waiting, arguments = [], [], iter(argv)
  for argument in arguments:
    if argument == '--':  # no flags follow
      own += [argument, *arguments]
      break
    name, equals, value = argument.partition('=')
    if name in _NAMES:
      waiting.append(f'{name}={value if equals else next(arguments, "")}')
    else:
      own.append(argument)
  waiting.reverse()
  found, read = [], 0
  while waiting:
    line = waiting.pop()
    name, _, value = line.partition('=')
    if name not in _NAMES:
      found.append(line)
      continue
    read += 1
    value = str(recipe(value.strip())) if name in _RECIPES else value
    if read > _MOST_FILES:
      raise _validate.InputError(
        f'expected at most {_MOST_FILES} flag files, each other\'s included (do they name '
        'themselves?)'
      )
    waiting += reversed(_lines(value.strip()))
  return found + own


def recipe(name: str) -> pathlib.Path:
  """The flag file of a recipe.

  Raises:
    InputError: an unknown name; the message lists those there are.
  """
  known = recipes()
  return known[_validate.one_of('recipe', name, known)]


def _lines(name: str) -> list[str]:
  """The flags in a flag file (UTF-8 in any locale), one a line, without comments."""
  if not name:
    raise _validate.InputError('expected --flagfile=FILE, got no name')
  path = pathlib.Path(os.path.expanduser(name))
  try:
    path = _found(path)
    if not path.is_file():
      raise _validate.InputError(f'flag file {path} is no regular file')
    if path.stat().st_size > _MOST_BYTES:
      raise _validate.InputError(
        f'flag file {path} has {path.stat().st_size} bytes; expected at most {_MOST_BYTES}'
      )
    lines = path.read_text(encoding='utf-8').splitlines()
  except OSError as error:
    raise _validate.InputError(f'cannot read flag file {path}: {error.strerror}') from None
  except UnicodeError:
    raise _validate.InputError(f'expected flag file {path} to be UTF-8 text') from None
  return [line.strip() for line in lines if line.strip() and not line.startswith(('#', '//'))]


def _found(path: pathlib.Path) -> pathlib.Path:
  """The file as it is named, or else that of the checkout or the installed package."""
  places = [pathlib.Path.cwd(), HOME]
  for place in places:  # the place of an absolute path is its own
    if (place / path).exists():
      return path if place == places[0] else place / path
  where = f', neither in {places[0]} nor in {HOME}'
  raise _validate.InputError(
    f'flag file {path} does not exist' + ('' if path.is_absolute() else where)
  )
