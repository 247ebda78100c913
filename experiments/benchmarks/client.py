"""The harness's side of a worker: a process, questions in JSON, answers with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.benchmarks import install_peers
from experiments.benchmarks.contenders import Contender


class WorkerError(Exception):
  """A worker could not do what it was asked; the message is what the table will say."""


def environment_variables(device: str) -> dict[str, str]:
  """Those of this process, without what would spare a worker its compiling or its cores."""
  dropped = ('JAX_COMPILATION_CACHE_DIR', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS')
  variables = {k: v for k, v in os.environ.items() if k not in dropped}
  if device == 'cpu':
    variables.update(CUDA_VISIBLE_DEVICES='', JAX_PLATFORMS='cpu')
  else:
    variables.pop('JAX_PLATFORMS', None)
    # Several processes share the accelerator.
    variables.update(XLA_PYTHON_CLIENT_PREALLOCATE='false', TF_FORCE_GPU_ALLOW_GROWTH='true')
  root = str(pathlib.Path(__file__).resolve().parents[2])
  return {**variables, 'PYTHONPATH': root, 'PYTHONUNBUFFERED': '1'}


class Worker:
  """One contender's process. Use as a context manager: it never outlives the harness's interest."""

  def __init__(self, *command: str | pathlib.Path, device: str = 'cpu'):
    self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      stderr=self._errors, env=environment_variables(device),
    )  # fmt: skip
    self._buffer = b''

  def __enter__(self) -> Worker:
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def ask(self, op: str, timeout: float = 600.0, **arguments: Any) -> dict[str, Any]:
    """Sends a command and waits for its answer.

    Raises:
      WorkerError: the worker reports a failure, dies, or takes longer than `timeout` seconds, after
        which it is dead as well.
    """
    try:
      self._process.stdin.write(json.dumps({'op': op, **arguments}).encode() + b'\n')
      self._process.stdin.flush()
    except OSError:
      raise WorkerError(self._post_mortem()) from None
    answer = json.loads(self._read_line(timeout))
    if not answer.pop('ok'):
      raise WorkerError(f'failed: {answer["error"]}')
    return answer

  def _read_line(self, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    while b'\n' not in self._buffer:
      ready, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
      if not ready:
        self._process.kill()
        raise WorkerError(f'stopped: took more than {timeout:.0f} s')
      part = os.read(self._process.stdout.fileno(), 65536)
      if not part:
        raise WorkerError(self._post_mortem())
      self._buffer += part
    line, self._buffer = self._buffer.split(b'\n', 1)
    return line

  def _post_mortem(self) -> str:
    code = self._process.wait()
    if code == -9:
      return 'died: killed, most likely out of memory'
    self._errors.seek(0)
    lines = self._errors.read().decode(errors='replace').strip().splitlines()
    return f'died: {lines[-1].strip()[:200] if lines else f"exit status {code}"}'

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._process.stdin.write(b'{"op": "quit"}\n')
      self._process.stdin.close()
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._errors.close()


def start(contender: Contender, peers: pathlib.Path, device: str) -> Worker:
  """A fresh process for a contender.

  Raises:
    WorkerError: its environment is not installed.
  """
  if contender.environment in ('jax', 'gan'):  # the project's own
    executable = sys.executable
  else:
    reason = install_peers.missing(peers, contender.environment)
    if reason:
      raise WorkerError(reason)
    executable = str(install_peers.interpreter(peers, contender.environment))
  module = f'experiments.benchmarks.worker_{contender.environment}'
  return Worker(executable, '-m', module, device=device)
