"""The wide network of experiments/ghost_clipping.py learns, in a small part of the memory."""

from __future__ import annotations

from conftest import load_example


def test_it_learns_without_per_example_gradients(capsys):
  accuracy, memory = load_example('ghost_clipping').main(steps=20)
  assert accuracy > 0.5
  assert memory['auto'] < memory['vmap'] / 10
  assert f'accuracy {accuracy:.3f}' in capsys.readouterr().out
