"""`dpgan-jax train …` (or `python -m dpgan_jax train …`) is `python -m dpgan_jax.train …`."""

from __future__ import annotations

import ast
import pathlib
import runpy
import sys
import textwrap

from dpgan_jax import __version__, _extras, _flag_files, _validate

_HELP = ('help', '-h', '-?', '--help', '--helpfull', '--helpshort')
_RECIPES = 'recipes'


def commands() -> dict[str, str]:
  """What each command does, in a sentence, by its name: every public module of the top but one."""
  files = sorted(pathlib.Path(__file__).parent.glob('[a-z]*.py'))
  return {file.stem: _sentence(file) for file in files if file.stem != 'api'}


def _sentence(file: pathlib.Path) -> str:
  text = ast.get_docstring(ast.parse(file.read_text('utf-8'))) or ''
  return ' '.join(text.split()).partition(': `')[0].partition('. ')[0].rstrip('.')


def usage() -> str:
  """The page that `dpgan-jax` shows."""
  listed = {**commands(), _RECIPES: 'Says what each recipe is'}
  recipes = textwrap.wrap(', '.join(_flag_files.recipes()), 96)
  return '\n'.join(
    [
      'usage: dpgan-jax COMMAND [--flag=value ...]',
      '',
      *(f'  {name:<10}{sentence}' for name, sentence in listed.items()),
      '',
      'Recipes, flag files that come with the package (dpgan-jax COMMAND --recipe=NAME):',
      *(f'  {line}' for line in recipes),
      '',
      'dpgan-jax COMMAND --help shows its flags, --helpfull all of them; --version the version.',
      'Exit status: 0 done; 2 bad input; 1 the system failed (disk, memory, a package that is not',
      'installed); 130 or 143 interrupted; 141 what it prints is read no more.',
    ]
  )


def main() -> None:
  """Runs the command that is named first; the rest are its flags."""
  name = sys.argv[1] if len(sys.argv) > 1 else 'help'
  known = commands()
  if name in _HELP:
    print(usage())
  elif name == '--version':
    print(__version__)
  elif name == _RECIPES:
    for recipe, path in _flag_files.recipes().items():
      print(f'{recipe}: {_flag_files.about(path)}')
  elif name not in known:
    try:
      _validate.one_of('command', name, [*known, _RECIPES])
    except _validate.InputError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)
  else:
    del sys.argv[1]
    try:
      runpy.run_module(f'dpgan_jax.{name}', run_name='__main__', alter_sys=True)
    except ModuleNotFoundError as error:
      if (missing := _extras.missing(error)) is None:
        raise
      print(f'error: {missing}', file=sys.stderr)
      sys.exit(1)


if __name__ == '__main__':
  main()
