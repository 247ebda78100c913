"""Compiled programs kept between runs, where only this user can write.

Compiling a step takes some seconds, and a run, its continuation and every sample of it need the
same programs again. A cached program is machine code that the next run executes, so the directory
must be this user's alone; one that is not is left unused. Programs hold no data: images and keys
are their arguments.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
import stat

import jax


def enable() -> pathlib.Path | None:
  """Makes JAX keep compiled programs under `$XDG_CACHE_HOME/dpgan_jax` (or `~/.cache/dpgan_jax`).

  A directory that was chosen already (`JAX_COMPILATION_CACHE_DIR`) stays. A cache is never worth a
  failure: where no private directory can be had, nothing is kept.

  Returns:
    The directory in use, or None.
  """
  chosen = getattr(jax.config, 'jax_compilation_cache_dir', None)
  if chosen:
    return pathlib.Path(chosen)
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  directory = pathlib.Path(home) / 'dpgan_jax' / f'xla-{_machine()}'
  try:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (is_private(directory.parent) and is_private(directory)):
      return None
  except OSError:
    return None
  jax.config.update('jax_compilation_cache_dir', str(directory))
  return directory


def is_private(path: pathlib.Path) -> bool:
  """Whether `path` is a real directory of this user's in which nobody else can write."""
  about = path.lstat()
  others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
  return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not others_write


def _machine() -> str:
  """A name for the instruction set: a home directory may be shared by different machines."""
  about = platform.machine() + platform.processor()
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    about += next((x for x in lines if x.startswith(('flags', 'Features'))), '')
  except OSError:
    pass
  return hashlib.sha256(about.encode()).hexdigest()[:12]
