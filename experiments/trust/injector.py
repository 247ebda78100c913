"""Runs a job in a process of its own and stops it at a chosen moment: by its n-th change of a
directory, or after a time; or refuses it disk space, or shifts its clock.

The processes are forked from one that has imported everything, so that a start costs a fraction of
a second; what each does from there on, the kernel and the disk see no difference. The chosen change
is found by crash_shim.c, which this file compiles (it needs a C compiler) and preloads.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOW = ('count', 'before', 'after', 'half', 'full')  # the order of the C enum
_COMPILERS = ('cc', 'gcc', 'clang')
_log = -1  # in a job's process: where `tell` writes


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of a job's process.

  Attributes:
    status: exit status; minus the number of the signal that ended it.
    log: what happened, in order: changes of the watched directory as 'NUMBER CALL PATH', and what
      the job told, as '- TEXT'.
    result: what the job returned (JSON), None if it did not come to that.
    stdout: what it printed.
    stderr: likewise.
  """

  status: int
  log: tuple[str, ...]
  result: Any
  stdout: str
  stderr: str

  @property
  def changes(self) -> list[tuple[str, str]]:
    """(call, path) of every change of the watched directory that was begun."""
    lines = [line.split(' ', 2) for line in self.log if not line.startswith('- ')]
    return [(call, path) for _, call, path in lines]

  @property
  def told(self) -> list[str]:
    return [line[2:] for line in self.log if line.startswith('- ')]

  @property
  def was_killed(self) -> bool:
    return self.status == -signal.SIGKILL


def available() -> bool:
  """Whether jobs can be stopped at changes here: Linux, a C compiler."""
  return sys.platform == 'linux' and any(map(shutil.which, _COMPILERS))


def build(folder: pathlib.Path) -> pathlib.Path:
  """The compiled shim in `folder`, made where missing or older than its source."""
  source = HERE / 'crash_shim.c'
  digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
  library = folder / f'crash_shim_{digest}.so'
  if not library.exists():
    compiler = next(filter(shutil.which, _COMPILERS))
    temporary = library.with_suffix(f'.{os.getpid()}')
    subprocess.run(
      [compiler, '-O1', '-shared', '-fPIC', '-o', temporary, source, '-ldl'], check=True
    )
    os.replace(temporary, library)
  return library


def is_loaded() -> bool:
  """Whether this process was started with the shim."""
  return hasattr(ctypes.CDLL(None), 'crash_arm')


def environment(folder: pathlib.Path) -> dict[str, str]:
  """What jobs and commands run under: the shim, a cache of compiled programs in `folder`, a CPU."""
  folder.mkdir(parents=True, exist_ok=True)
  return {
    **os.environ,
    'LD_PRELOAD': str(build(folder)),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'OPENBLAS_NUM_THREADS': '1',  # threads of the parent do not exist in a forked child
    'PYTHONPATH': os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))),
  }


def restart_with_shim(folder: pathlib.Path) -> None:
  """Replaces this process by itself with the shim loaded; returns if it is."""
  if not is_loaded():
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(folder))


def tell(text: str) -> None:
  """From within a job: adds a line to the log, in the order of the changes."""
  os.write(_log, f'- {text}\n'.encode())


def run(
  job: Callable[[], Any],
  watch: pathlib.Path,
  *,
  at: int = 0,
  how: str = 'count',
  stop_after: float | None = None,
  clock: tuple[float, float] | None = None,
  timeout: float = 600.0,
) -> Outcome:
  """Runs a job in a forked process and waits for its end.

  Args:
    job: what to do; returns something that JSON can hold.
    watch: the directory whose changes count; it should exist.
    at: the number of the change at which `how` applies, from 1.
    how: 'count' (nothing happens), 'before' or 'after' that change the process kills itself, 'half'
      kills it when half of a write is done, 'full' refuses disk space from that change on.
    stop_after: seconds after which SIGKILL is sent.
    clock: (seconds, after): by how much the wall clock that the process sees jumps, and when.
    timeout: seconds after which the process is killed in any case, and TimeoutError raised.
  """
  with tempfile.TemporaryDirectory() as folder:
    files = {name: pathlib.Path(folder, name) for name in ('log', 'result', 'stdout', 'stderr')}
    for path in files.values():
      path.touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
      _child(job, files, watch, at, HOW.index(how), clock)
    status = _wait(pid, stop_after, timeout)
    text = {name: path.read_text(errors='replace') for name, path in files.items()}
  return Outcome(
    status=os.waitstatus_to_exitcode(status),
    log=tuple(text['log'].splitlines()),
    result=json.loads(text['result']) if text['result'] else None,
    stdout=text['stdout'],
    stderr=text['stderr'],
  )


def _child(
  job: Callable[[], Any],
  files: dict[str, pathlib.Path],
  watch: pathlib.Path,
  at: int,
  how: int,
  clock: tuple[float, float] | None,
) -> None:
  """Never returns."""
  global _log
  status = 1
  try:
    for name, descriptor in (('stdout', 1), ('stderr', 2)):
      os.dup2(os.open(files[name], os.O_WRONLY | os.O_APPEND), descriptor)
    _log = os.open(files['log'], os.O_WRONLY | os.O_APPEND)
    shim = ctypes.CDLL(None)
    shim.crash_set_clock.argtypes = [ctypes.c_double, ctypes.c_double]
    if clock is not None:
      shim.crash_set_clock(*clock)
    shim.crash_arm(os.fsencode(watch), ctypes.c_long(at), how, _log)
    result = job()
    shim.crash_disarm()
    files['result'].write_text(json.dumps(result))
    status = 0
  except SystemExit as end:
    status = end.code if isinstance(end.code, int) else int(end.code is not None)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # what the parent has open is not this process's to close


def _wait(pid: int, stop_after: float | None, timeout: float) -> int:
  started = time.monotonic()
  while True:
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
      return status
    passed = time.monotonic() - started
    if stop_after is not None and passed >= stop_after:
      os.kill(pid, signal.SIGKILL)
      stop_after = None
    if passed > timeout:
      os.kill(pid, signal.SIGKILL)
      os.waitpid(pid, 0)
      raise TimeoutError(f'a job did not end within {timeout:g} seconds')
    time.sleep(0.002)
