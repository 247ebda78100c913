"""One MLIR context for the programs of a test file, where JAX makes one for each program.

Before JAX compiles a program it writes it down in a context, which knows every operation of every
dialect: 7 ms and a megabyte, for a sum of two numbers too, and JAX keeps all of them. Tests make
programs by the ten thousand. What is written down is the same.
"""

from __future__ import annotations

import threading

from jax._src.interpreters import mlir
from jaxlib.mlir import ir

_make = getattr(mlir, 'make_ir_context', None)  # no public name; a release of JAX may lose it
_of_thread = threading.local()


def _kept() -> ir.Context:
  if ir.Context.current is not None:  # within another program, which must not take this one in
    return _make()
  if not hasattr(_of_thread, 'context'):
    _of_thread.context = _make()
  return _of_thread.context


def install() -> None:
  """From now on JAX asks here."""
  if _make is not None:
    mlir.make_ir_context = _kept


def forget() -> None:
  """The next program is written down in a new one."""
  _of_thread.__dict__.clear()
