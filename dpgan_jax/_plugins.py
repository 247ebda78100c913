"""Code from outside: a user's module adds networks, losses, data sets, models and judges by name.

`--plugin=mine.py` (or an import path) loads it before anything is looked up. In it,

  from dpgan_jax.networks.discriminators import DISCRIMINATORS

  @DISCRIMINATORS.register('mine', unconditional=True)
  def make(image_shape, num_classes): ...

What took part is known by name and by the hash of its source: a run records both, its report says
so, and it goes on only with the same. Nothing is loaded because a file names it: whoever reads a
run or a generator of such code says --plugin again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

from dpgan_jax import _validate

T = TypeVar('T')

_LOADED: dict[str, str] = {}  # sha256 of the source, by the name of the module
_ORIGINS: dict[tuple[str, str], str] = {}  # name of the module, by kind and registered name


class Registry(dict[str, T]):
  """What a setting's names stand for.

  Args:
    kind: what is registered, in messages.
    own: this package's.
    **marks: sets of names of which something is true, such as `unconditional`.
  """

  def __init__(self, kind: str, own: Mapping[str, T], **marks: set[str]) -> None:
    super().__init__(own)
    self.kind, self._marks = kind, marks

  def register(self, name: str, **marked: bool) -> Callable[[Any], Any]:
    """A decorator that adds what it decorates under a name that is not taken.

    Raises:
      InputError: the name is taken, or there is no such mark.
    """
    if not isinstance(name, str) or not name.isidentifier():
      raise _validate.InputError(f'expected the name of a {self.kind} like my_net, got {name!r}')
    if name in self:
      raise _validate.InputError(f'expected a new name of a {self.kind}; {name} is one already')
    for mark in marked:
      _validate.one_of(f'what is said of a {self.kind}', mark, self._marks)
    module = sys._getframe(1).f_globals

    def add(value: Any) -> Any:
      self[name] = value
      for mark, is_so in marked.items():
        if is_so:
          self._marks[mark].add(name)
      _ORIGINS[self.kind, name] = _note(str(module.get('__name__')), module.get('__file__'))
      return value

    return add


class Live(Collection[str]):
  """Names that are made anew whenever they are looked at: those of plugins are among them."""

  def __init__(self, names: Callable[[], Iterable[str]]) -> None:
    self._names = names

  def __iter__(self) -> Iterator[str]:
    return iter(tuple(self._names()))

  def __contains__(self, name: object) -> bool:
    return any(name == each for each in self)

  def __len__(self) -> int:
    return sum(1 for _ in self)


def load_plugin(name: str) -> ModuleType:
  """Imports a module that registers something; a second call finds it loaded.

  Args:
    name: an import path, or a file that ends in .py; `mine` is also mine.py where you are.

  Raises:
    InputError: there is no such module, or it has no source to tell it by.
  """
  path = pathlib.Path(name)
  try:
    if path.suffix != '.py':
      try:
        module = importlib.import_module(name)
      except ModuleNotFoundError as error:
        path = pathlib.Path(f'{name}.py')
        if error.name != name.partition('.')[0] or not path.is_file():
          raise
        module = _from_file(path)
    else:
      module = _from_file(path)
  except ModuleNotFoundError as error:
    raise _validate.InputError(
      f'expected plugin to be a module or a file: {name!r} cannot be imported ({error})'
    ) from None
  except (OSError, SyntaxError) as error:
    raise _validate.InputError(f'cannot read plugin {name}: {error}') from None
  _note(module.__name__, module.__file__)
  return module


def _from_file(path: pathlib.Path) -> ModuleType:
  known = sys.modules.get(path.stem)
  if known is not None:
    if known.__file__ is None or not path.is_file() or not path.samefile(known.__file__):
      raise _validate.InputError(
        f'expected a plugin of another name than {path.stem}, which is that of another module'
      )
    return known
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None
  assert spec.loader is not None
  module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[path.stem]
    raise
  return module


def _note(name: str, file: str | None) -> str:
  """Remembers that a module took part, and returns its name."""
  if name == '__main__' and file is not None:
    name = pathlib.Path(file).stem
  if name not in _LOADED:
    _LOADED[name] = 'no source' if file is None else f'sha256 {_digest(pathlib.Path(file))}'
  return name


def _digest(file: pathlib.Path) -> str:
  """Of a module's file; of a package, of all its files."""
  files = sorted(file.parent.rglob('*.py')) if file.name == '__init__.py' else [file]
  digest = hashlib.sha256()
  for each in files:
    digest.update(hashlib.sha256(each.read_bytes()).digest())
  return digest.hexdigest()


def loaded() -> dict[str, str]:
  """What has taken part in this process: `sha256 ...` of its source by the name of the module."""
  return dict(_LOADED)


def origin(kind: str, name: str) -> dict[str, str]:
  """`plugin`: the module, with its hash, that registered a name; empty for this package's own."""
  module = _ORIGINS.get((kind, name))
  return {} if module is None else {'plugin': show({module: _LOADED[module]})}


def show(modules: Mapping[str, str]) -> str:
  """`mine (sha256 ab12...)`, for people."""
  return ', '.join(f'{name} ({source})' for name, source in sorted(modules.items()))


def require(wanted: object, what: object) -> None:
  """Refuses to go on without the modules that `what` was made with.

  Args:
    wanted: as `loaded` gave it then.
    what: in messages, such as a path.

  Raises:
    InputError: one of them is not loaded, or is not what it was.
  """
  if not isinstance(wanted, dict):
    raise _validate.InputError(f'{what} is damaged: expected plugins to be names and hashes')
  missing = {name: source for name, source in wanted.items() if name not in _LOADED}
  if missing:
    raise _validate.InputError(
      f'{what} was made with code from outside dpgan_jax, {show(missing)}: if you trust that code, '
      f'load it with --plugin={",".join(missing)} (in Python: dpgan_jax.load_plugin)'
    )
  for name, source in wanted.items():
    if (now := _LOADED[name]) != source:
      raise _validate.InputError(
        f'{what} was made with the plugin {show({name: source})}, which is {now} now: restore it'
      )


def require_same(wanted: object, what: object) -> None:
  """As `require`, and nothing else may be loaded: for a run that goes on.

  Raises:
    InputError: as `require`, or naming what was not there.
  """
  require(wanted, what)
  assert isinstance(wanted, dict)
  if added := {name: source for name, source in _LOADED.items() if name not in wanted}:
    raise _validate.InputError(
      f'{what} was begun without the plugin {show(added)}: go on with what it was begun with'
    )
