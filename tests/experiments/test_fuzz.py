"""A short part of the fuzzing, the same every time; and that it finds what is planted."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

from dpgan_jax import _validate
from dpgan_jax.data import readers
from dpgan_jax.data.images import folder as image_folder
from experiments.trust import fuzz

SEED = 5


@pytest.fixture(scope='module')
def targets(tmp_path_factory):
  return fuzz.Targets(tmp_path_factory.mktemp('fuzz').resolve())


@pytest.fixture(autouse=True)
def patient(monkeypatch):
  """The timers would end this process; a loaded machine is no finding here."""
  monkeypatch.setattr(fuzz, 'CPU_SECONDS', 300.0)
  monkeypatch.setattr(fuzz, 'REAL_SECONDS', 3000.0)


def run(targets, target: str, inputs: int):
  return fuzz.run_block(targets, target, 0, inputs, SEED, lambda number: None)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('target', 'inputs'),
  [('idx', 500), ('npz', 500), ('png', 250), ('samples', 150), ('flags', 150), ('generator', 12),
   ('report', 200), ('ledger', 100)],
)  # fmt: skip
def test_every_input_is_read_or_refused(targets, target, inputs):
  tally = run(targets, target, inputs)
  assert tally.failures == []
  assert tally.inputs == tally.accepted + tally.refused == inputs
  assert tally.refused > inputs // 5
  assert tally.accepted  # else inputs would be too broken to get far


def test_the_same_number_is_the_same_input(targets):
  contents = []
  for _ in range(2):
    fuzz.outcome(targets, 'npz', 3, SEED)
    contents.append((targets.folder / 'file').read_bytes())
  fuzz.outcome(targets, 'npz', 4, SEED)
  contents.append((targets.folder / 'file').read_bytes())
  assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
  ('plant', 'place', 'name', 'found'),
  [
    ('arrays are unpickled', readers, '_parse_npy', 'pickle.find_class'),
    ('links are followed out of the folder', image_folder, 'pathlib', 'outside'),
    ('messages quote names as they are', _validate, 'one_line', 'several lines'),
  ],
)
def test_planted_faults_are_found(targets, monkeypatch, plant, place, name, found):
  monkeypatch.setattr(place, name, getattr(place, name))  # so that it is put back after the test
  target, make, count = fuzz.PLANTS[plant]
  make()
  wrong = []
  for number in range(count):
    wrong.append(fuzz.outcome(targets, target, number, SEED) or '')
    if found in wrong[-1]:
      return
  raise AssertionError(f'not found: {plant}; only {set(wrong)}')


@pytest.mark.parametrize(
  ('place', 'mode', 'is_finding'),
  [('input/note', 'w', True), ('outside/0/0.png', 'r', True), ('input/file', 'r', False)],
)
def test_what_is_opened_is_seen(targets, monkeypatch, place, mode, is_finding):
  number = next(n for n in range(99) if fuzz.outcome(targets, 'samples', n, SEED) is None)
  path = targets.home / place
  monkeypatch.setattr(readers, 'npz_names', lambda _: open(path, mode).close() or ['x', 'y'])
  seen = fuzz.outcome(targets, 'samples', number, SEED)
  assert (seen is not None and 'open' in seen and place in seen) == is_finding


@pytest.mark.slow
def test_the_command_finds_planted_faults_in_workers_that_die(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.trust.fuzz', '--inputs=600', f'--out={tmp_path}/fuzz.json'],
    cwd=fuzz.ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  record = types.SimpleNamespace(**json.loads((tmp_path / 'fuzz.json').read_text()))
  assert (record.inputs, record.findings, record.failures) == (600, 0, [])
  by = {row['fault']: row['by'] for row in record.planted}
  assert set(by) == set(fuzz.PLANTS)
  assert 'SIGPROF' in by['the rest of a cut file is waited for']
  assert 'too much memory' in by['headers are believed']
