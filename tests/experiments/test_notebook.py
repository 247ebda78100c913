"""The notebook: no outputs are kept, its commands exist, its cells run (in a kernel: slow)."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import re
from typing import Any

import pytest

from tests import test_docs

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'experiments' / 'notebooks' / 'dpgan_jax_colab.ipynb'
CELLS = json.loads(NOTEBOOK.read_bytes())['cells']
CODE = [''.join(cell['source']) for cell in CELLS if cell['cell_type'] == 'code']


def test_no_outputs_are_kept():
  """What a run has left in it would be of somebody's data, or of another version."""
  kept = [c for c in CELLS if c.get('outputs') or c.get('execution_count') is not None]
  assert kept == []
  assert len({cell['id'] for cell in CELLS}) == len(CELLS)


def test_its_commands_and_recipes_exist():
  calls = [
    node
    for source in CODE
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Call) and ast.unparse(node).startswith("run('dpgan_jax'")
  ]
  names = [ast.literal_eval(call.args[1]) for call in calls]
  assert names == ['train', 'release']
  text = '\n'.join(CODE)
  flags = set(re.findall(r'--(\w+)[=}]', text))
  assert flags > {'recipe', 'run_dir', 'target_epsilon', 'out'}
  assert flags <= test_docs.fields('train') | test_docs.fields('release')
  from dpgan_jax import _flag_files

  assert set(re.findall(r'--recipe=(\w+)', text)) <= set(_flag_files.recipes())


def test_the_five_cells_of_the_transform_learn(monkeypatch, capsys):
  (first,) = [i for i, source in enumerate(CODE) if 'import secrets' in source]
  assert len(CODE[first:]) == 5
  monkeypatch.setattr('secrets.randbits', lambda bits: 5)  # the same noise every time
  names: dict[str, Any] = {'TINY': True}
  for source in CODE[first:]:
    exec(compile(source, str(NOTEBOOK), 'exec'), names)
  assert names['accuracy'] > 0.6  # 0.1 is chance
  assert names['mechanism'].epsilon() <= 2.0
  assert 'ε = 2.00 at δ = 0.0001' in capsys.readouterr().out


@pytest.mark.slow
def test_runs_from_top_to_bottom(monkeypatch):
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  monkeypatch.setenv('DPGAN_JAX_NOTEBOOK', 'tiny')
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  nbclient.NotebookClient(notebook, timeout=900, kernel_name='python3').execute()
  outputs = [o for cell in notebook.cells for o in cell.get('outputs', [])]
  said = ''.join(o.get('text', '') for o in outputs)
  assert 'This runtime computes on: cpu' in said
  assert re.search(r'step 4/4 .* ε=1\.9\d+ / ', said)  # progress, and what was spent
  assert 'generator.safetensors' in said
  assert re.search(r'ε = \d\.\d+ for one row', said)
  shares = re.findall(r'(real|synthetic): ill below 50 (\d+)%, from 50 on (\d+)%', said)
  assert len(shares) == 2
  kinds = {kind for output in outputs for kind in output.get('data', {})}
  assert {'image/png', 'text/markdown'} <= kinds
