"""Commands as processes of their own, without the seconds in which each imports the same again.

One process imports a command's module and waits; for every call it forks, and the child runs the
module as `python -m` does. Nothing but imports has happened before, so no call knows of another.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]

_PROGRAM = """
import importlib, json, os, runpy, sys

module = sys.argv[1]
for name in sys.argv[1:]:
  importlib.import_module(name)
for line in sys.stdin:
  folder, arguments = json.loads(line)
  if not (child := os.fork()):
    for number, name in enumerate(('in', 'out', 'err')):
      flags = os.O_RDWR | os.O_CREAT
      os.dup2(os.open(f'{folder}/{name}', flags), number)
    sys.argv = [module, *arguments]
    del sys.modules[module]
    runpy.run_module(module, run_name='__main__', alter_sys=True)
    sys.exit()
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
  """What a command left: exit status and all that it wrote."""

  status: int
  out: str
  err: str


class Command:
  """Runs `python -m MODULE ARGUMENTS`, from the root of the repository; ends with `close`.

  It knows what modules of `also` register.
  """

  def __init__(self, module: str, *also: str) -> None:
    self._server = subprocess.Popen(
      [sys.executable, '-W', 'ignore:os.fork', '-c', _PROGRAM, module, *also],
      cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

  def __call__(self, *arguments: str) -> Done:
    assert self._server.stdin is not None
    assert self._server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
      self._server.stdin.write(json.dumps([folder, arguments]) + '\n')
      self._server.stdin.flush()
      status = int(self._server.stdout.readline())
      out, err = (pathlib.Path(folder, name).read_text('utf-8') for name in ('out', 'err'))
    return Done(status, out, err)

  def close(self) -> None:
    assert self._server.stdin is not None
    self._server.stdin.close()
    self._server.wait()
