"""The wide network of examples/ghost_clipping.py learns, in a small part of the memory."""

from __future__ import annotations

import pytest

from experiments.examples import ghost_clipping


@pytest.mark.slow  # an example's script
def test_it_learns_without_per_example_gradients(capsys, monkeypatch):
  """At a quarter of its width, which is a sixteenth of the work."""
  monkeypatch.setattr(ghost_clipping, 'WIDTHS', (64, 512, 512, 10))
  accuracy, memory = ghost_clipping.main(steps=20)
  assert accuracy > 0.5
  assert memory['auto'] < memory['vmap'] / 10
  assert f'accuracy {accuracy:.3f}' in capsys.readouterr().out
