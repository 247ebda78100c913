"""Training compiled for TPUs: what the check says of a program; the real compiler where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from experiments import pages
from experiments.benchmarks import tpu_check

RECORD = pages.read_json(pages.RESULTS / 'tpu.json')


def test_the_committed_programs_are_as_they_should_be():
  assert [row['chips'] for row in RECORD['rows']] == [1, 4, 256]
  assert [tpu_check.faults(row) for row in RECORD['rows']] == [[], [], []]


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'memory_bytes': 2**35, 'fits': False}, 'of a chip'),
    ({'donated_bytes': 5}, 'donates 5 of'),
    ({'host_transfers': ['outfeed']}, 'host: outfeed'),
    ({'collective_bytes_a_step': {'all-reduce': 10, 'all-gather': 1}}, 'other collectives'),
    ({'collective_bytes_a_step': {}}, 'other collectives'),
    ({'collective_bytes_a_step': {'all-reduce': 10**9}}, 'moves'),
    ({'chips': 1}, 'collectives on one chip'),
  ],
)
def test_a_fault_is_said(change, said):
  (found,) = tpu_check.faults({**RECORD['rows'][-1], **change})
  assert said in found


@pytest.mark.slow
def test_compiles_for_four_chips(tmp_path):
  pytest.importorskip('libtpu', reason='libtpu is absent (pip install .[tpu_check])')
  out = tmp_path / 'tpu.json'
  environment = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS',)}
  command = [sys.executable, '-m', 'experiments.benchmarks.tpu_check', '--chips', '4']
  subprocess.run([*command, f'--out={out}'], check=True, env=environment)
  assert json.loads(out.read_bytes())['rows'][0]['faults'] == []
