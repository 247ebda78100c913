"""README.md: its figures are those of the committed results, and its programs run as pasted."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text('utf-8')
RESULTS = ROOT / 'experiments' / 'results'


def rows(text: str) -> list[list[str]]:
  """The cells of every table row."""
  return [
    [cell.strip() for cell in line.strip('| ').split('|')]
    for line in text.splitlines()
    if line.startswith('| ')
  ]


def test_accuracies_are_those_of_the_records():
  best: dict[str, float] = {}
  for cells in rows((RESULTS / 'QUALITY.md').read_text('utf-8')):
    if len(cells) < 7 or not re.match(r'0\.\d+', cells[6]):
      continue
    of_gan, matched = cells[2] == '4', cells[1].endswith('matched by G)')
    if cells[0] == 'real images' or (cells[3] == '3' and (of_gan or matched)):  # three seeds
      best[cells[0]] = max(best.get(cells[0], 0), float(cells[6].split(' ')[0]))
  said = {cells[0]: cells[1] for cells in rows(README) if cells[1].endswith('%')}
  assert said == {name: f'{100 * best[name]:.1f} %' for name in ('0.2', '1', '10', 'real images')}


def test_speeds_are_those_of_the_benchmark():
  measured: dict[str, list[float]] = {}
  for cells in rows((RESULTS / 'speed.md').read_text('utf-8')):
    if len(cells) >= 4 and cells[3] == 'met':
      kind = cells[0].split(',')[0]
      found = [float(n) for n in re.findall(r'B \d+: ([\d.]+)', cells[2])]
      measured.setdefault(kind, []).extend(found)
  text = ' '.join(README.split())

  def span(kind: str, form: str) -> str:
    return f'{min(measured[kind]):{form}} to {max(measured[kind]):{form}}'

  own = span('our private step ÷ our non-private step', '.1f')
  assert f'{own} times as long on two CPU cores' in text
  assert f'{span("Opacus" + chr(39) + "s best mode ÷ ours", ".1f")} times less than Opacus' in text
  tape = measured['TF-Privacy under a tape ÷ ours']
  assert f'{min(tape):.0f} to {max(tape):.0f} times less than TensorFlow Privacy' in text


def test_what_a_step_costs_now_is_that_of_the_profile():
  page = (RESULTS / 'profile.md').read_text('utf-8')
  ratios = [float(ratio) for ratio in re.findall(r'Private ÷ ordinary: ([\d.]+)', page)]
  said = f'{min(ratios):.1f} to {max(ratios):.1f} times as long as an ordinary one'
  assert f'{said} at a batch of 120' in ' '.join(README.split())


@pytest.mark.parametrize('number', [0, 1])
def test_programs_run_as_pasted(number, tmp_path):
  program = re.findall(r'```python\n(.*?)```', README, re.DOTALL)[number]
  result = subprocess.run(
    [sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, check=False,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-2000:]
  assert float(result.stdout.split()[-1]) > 0
