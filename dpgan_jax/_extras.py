"""Packages beside the four of the privacy core: which `pip install` brings one that is missing."""

from __future__ import annotations

import sys
from types import TracebackType

_RUNS = "'dpgan_jax[images]' or 'dpgan_jax[tables]'"
# By the name that is imported; pyproject.toml says what each extra holds.
_BROUGHT_BY = {
  **dict.fromkeys(('absl', 'flax', 'matplotlib', 'orbax', 'safetensors', 'scipy', 'tqdm'), _RUNS),
  'PIL': "'dpgan_jax[images]'",
  'sklearn': "'dpgan_jax[evaluation]'",
  'threadpoolctl': "'dpgan_jax[evaluation]'",
  'pyarrow': "'dpgan_jax[tables]'",
}


def missing(error: BaseException) -> str | None:
  """What to install, in one line, if `error` says that a package of an extra is missing.

  >>> print(missing(ModuleNotFoundError("No module named 'PIL'", name='PIL.Image')))
  PIL is not installed; it comes with pip install 'dpgan_jax[images]'
  >>> missing(ModuleNotFoundError("No module named 'dpgan'", name='dpgan'))
  """
  if not isinstance(error, ModuleNotFoundError):
    return None
  package = (error.name or '').partition('.')[0]
  brought_by = _BROUGHT_BY.get(package)
  return brought_by and f'{package} is not installed; it comes with pip install {brought_by}'


def explain_in_commands() -> None:
  """Has a command (`python -m dpgan_jax.NAME`) whose imports fail say so in one line.

  Its imports come before anything that could catch them. Nothing changes in other programs.
  """
  spec = getattr(sys.modules.get('__main__'), '__spec__', None)
  if spec is None or not spec.name.startswith('dpgan_jax.'):
    return
  shown = sys.excepthook

  def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if (line := missing(error)) is None:
      shown(kind, error, trace)
    else:
      print(f'error: {line}', file=sys.stderr)

  sys.excepthook = hook
