"""The example outside GANs does what its page says: it learns, within its budget."""

from __future__ import annotations

import ast
import pathlib

import pytest

from experiments.examples import plain_dpsgd

EXAMPLE = pathlib.Path(plain_dpsgd.__file__)


@pytest.mark.slow  # test_notebook learns in the same way
def test_it_learns_digits_within_epsilon_2(capsys):
  accuracy, epsilon = plain_dpsgd.main()
  assert accuracy > 0.8
  assert 1.9 < epsilon <= 2.0
  printed = capsys.readouterr().out
  assert f'accuracy {accuracy:.3f} on 360 held-out digits, epsilon {epsilon:.3f}' in printed


def test_it_is_short_and_needs_nothing_but_the_privacy_core():
  text = EXAMPLE.read_text(encoding='utf-8')
  assert len(text.splitlines()) < 100
  imported = {
    f'{node.module}.{name.name}'
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.ImportFrom)
    for name in node.names
    if str(node.module).startswith('dpgan_jax')
  }
  assert imported == {'dpgan_jax.DPMechanism'}
