"""The wide network of experiments/ghost_clipping.py learns, in a small part of the memory."""

from __future__ import annotations

import importlib.util
import pathlib

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / 'experiments' / 'ghost_clipping.py'


def test_it_learns_without_per_example_gradients(capsys):
  spec = importlib.util.spec_from_file_location('ghost_clipping', EXAMPLE)
  assert spec is not None
  assert spec.loader is not None
  example = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(example)
  accuracy, memory = example.main(steps=20)
  assert accuracy > 0.5
  assert memory['auto'] < memory['vmap'] / 10
  assert 'accuracy' in capsys.readouterr().out
