"""tests.support.contexts: programs written down in one context are those that JAX writes down."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax._src.interpreters import mlir

from tests.support import contexts


def _lowered():
  return jax.jit(lambda x: jnp.sort(x) @ jnp.sin(x)).lower(jnp.ones(3))


def _context(lowered):
  return lowered.compiler_ir().context


def test_programs_share_one_until_it_is_forgotten(monkeypatch):
  first, second = _lowered(), _lowered()
  contexts.forget()
  third = _lowered()
  monkeypatch.setattr(mlir, 'make_ir_context', contexts._make)
  of_jax = _lowered()
  assert _context(first) is _context(second)
  assert len({id(_context(each)) for each in (second, third, of_jax)}) == 3
  assert first.as_text() == second.as_text() == third.as_text() == of_jax.as_text()


def test_a_program_within_another_has_its_own():
  outer = _context(_lowered())
  with outer:
    inner = _lowered()
  assert _context(inner) is not outer
  assert inner.compile()(jnp.ones(3)) > 2
