"""Training compiled for TPUs: what the check says of a program; the real compiler where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from experiments import pages
from experiments.benchmarks import nets, tpu_check

RECORD = pages.read_json(pages.RESULTS / 'tpu.json')


ROWS = {(row['case'], row['chips']): row for row in RECORD['rows']}


def test_the_committed_programs_are_as_they_should_be():
  every = tpu_check.wanted(list(tpu_check.CASES), list(tpu_check.CHIPS))
  assert list(ROWS) == [key for key in every if key in ROWS]
  assert {case for case, _ in ROWS} == set(tpu_check.CASES)
  assert [tpu_check.faults(row) for row in ROWS.values()] == [[]] * len(ROWS)


def test_the_sums_of_clipped_gradients_are_all_that_passes_between_chips():
  """Whatever the batch; of the 1.7 M discriminator and its generator as of the small ones."""
  for row in (row for row in ROWS.values() if row['chips'] > 1):
    sums = 4 * (2 * row['d_parameters'] + row['g_parameters_summed'])
    assert sums <= row['collective_bytes_a_step']['all-reduce'] <= sums + 64
  assert {('mnist', 4), ('mnist', 256)} <= set(ROWS)
  assert ROWS['large', 1]['d_parameters'] == nets.count_parameters(nets.NETS['large_d'])


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'memory_bytes': 2**35, 'fits': False}, 'of a chip'),
    pytest.param({'donated_bytes': 5}, 'donates 5 of', marks=pytest.mark.slow),
    ({'host_transfers': ['outfeed']}, 'host: outfeed'),
    ({'collective_bytes_a_step': {'all-reduce': 10, 'all-gather': 1}}, 'other collectives'),
    pytest.param({'collective_bytes_a_step': {}}, 'other collectives', marks=pytest.mark.slow),
    pytest.param(
      {'collective_bytes_a_step': {'all-reduce': 10**9}}, 'moves', marks=pytest.mark.slow
    ),
    pytest.param({'chips': 1}, 'collectives on one chip', marks=pytest.mark.slow),
  ],
)
def test_a_fault_is_said(change, said):
  (found,) = tpu_check.faults({**ROWS['mnist', 256], **change})
  assert said in found


@pytest.mark.slow
@pytest.mark.parametrize(('case', 'chips'), [('table', 1), ('mnist', 4), ('large', 4)])
def test_compiles(case, chips, tmp_path):
  pytest.importorskip('libtpu', reason='libtpu is absent (pip install .[tpu_check])')
  out = tmp_path / 'tpu.json'
  environment = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS',)}
  command = [sys.executable, '-m', 'experiments.benchmarks.tpu_check', '--cases', case]
  subprocess.run([*command, '--chips', str(chips), f'--out={out}'], check=True, env=environment)
  assert json.loads(out.read_bytes())['rows'][0]['faults'] == []
