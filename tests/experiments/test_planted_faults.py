"""Every fault of the privacy checklist, planted in the package: it is caught, and in the way that
the table says. (`experiments/trust/fault_table.py` has the rows.)"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import types

import pytest

from dpgan_jax._validate import InputError
from experiments.trust import fault_table, planted_faults
from experiments.trust import mechanism_checks as checks
from experiments.trust.statistical_checks import Violation

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULT = ROOT / 'experiments' / 'results' / 'trust' / 'planted_faults.json'
ROWS = {fault.id: fault for fault in fault_table.FAULTS}


@pytest.mark.parametrize(
  'fault',
  [
    pytest.param(fault, id=fault.id, marks=[pytest.mark.slow] if fault.slow else [])
    for fault in fault_table.FAULTS
  ],
)
def test_is_caught(fault):
  assert planted_faults.run(fault)['detail']


@pytest.mark.parametrize(
  'name',
  ['half_noise', 'reused_batch',
   pytest.param('accountant_promises_more', marks=pytest.mark.slow)],
)  # fmt: skip
def test_planting_leaves_nothing_behind(name):
  fault = ROWS[name]
  with planted_faults.planted(fault):
    assert planted_faults.outcome(fault.check)[0] != 'passed'
  assert planted_faults.outcome(fault.check) == ('passed', '')


def test_every_line_of_the_checklist_has_a_row():
  assert {fault.line for fault in ROWS.values()} == set(range(1, 25))
  assert len(ROWS) == len(fault_table.FAULTS)
  assert {fault.kind for fault in ROWS.values()} == set(fault_table.KINDS)


class TestRunner:
  def test_a_fault_that_nothing_notices_is_an_error(self):
    unnoticed = dataclasses.replace(ROWS['half_noise'], check=checks.the_divisor_is_public)
    with pytest.raises(Violation, match='half_noise was not caught but passed by the_divisor_is'):
      planted_faults.run(unnoticed)

  def test_a_check_that_fails_without_a_fault_is_an_error(self):
    def always() -> None:
      raise Violation('whatever it sees')

    eager = dataclasses.replace(ROWS['half_noise'], check=always)
    with pytest.raises(Violation, match='without the fault, always: whatever it sees'):
      planted_faults.run(eager)

  def test_a_fault_that_is_caught_in_another_way_is_an_error(self):
    refused = dataclasses.replace(ROWS['resumed_with_other_steps'], kind='exactness')
    with pytest.raises(Violation, match='was not caught but refused'):
      planted_faults.run(refused)

  def test_a_crash_is_not_taken_for_a_catch(self):
    def crash() -> None:
      raise RuntimeError('no such thing')

    with pytest.raises(RuntimeError):
      planted_faults.outcome(crash)


def test_the_committed_table_is_of_these_rows():
  result = json.loads(RESULT.read_text('utf-8'))
  assert result['planted'] == result['caught'] == len(ROWS)
  for row in result['rows']:
    fault = ROWS[row['id']]
    wanted = (fault.line, fault.fault, fault.kind, fault.check.__name__)
    assert (row['line'], row['fault'], row['kind'], row['caught_by']) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
  ('only', 'status', 'said'),
  [('half_noise', 0, '1 faults planted, 1 caught'), ('nothing', 2, 'expected only to name faults')],
)
def test_the_command(tmp_path, only, status, said):
  command = [sys.executable, '-m', 'experiments.trust.planted_faults', f'--only={only}']
  done = subprocess.run(
    [*command, f'--out={tmp_path / "table.json"}'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == status, done.stderr
  assert said in done.stdout + done.stderr
  assert (tmp_path / 'table.json').exists() == (status == 0)


class TestTable:
  """The command's own logic, on rows that take no time."""

  @pytest.fixture
  def run(self, tmp_path, monkeypatch):
    out = tmp_path / 'table.json'
    few = tuple(ROWS[f'resumed_with_other_{name}'] for name in ('steps', 'delta', 'batch_size'))
    monkeypatch.setattr(planted_faults, 'FAULTS', few)

    def run(**flags):
      given = {'out': str(out), 'only': None, 'resume': False} | flags
      monkeypatch.setattr(planted_faults, 'FLAGS', types.SimpleNamespace(**given))
      planted_faults.main()
      return json.loads(out.read_text('utf-8'))

    return run

  def test_is_written_row_by_row_and_resumed(self, run, monkeypatch, capsys):
    real, asked = planted_faults.run, []

    def interrupted(fault):
      if len(asked) == 1:
        raise KeyboardInterrupt
      asked.append(fault.id)
      return real(fault)

    monkeypatch.setattr(planted_faults, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
      run()
    monkeypatch.setattr(planted_faults, 'run', lambda fault: asked.append(fault.id) or real(fault))
    assert run(resume=True)['caught'] == 3
    assert asked == [fault.id for fault in planted_faults.FAULTS]
    assert '2/2 resumed_with_other_batch_size: refusal' in capsys.readouterr().err
    assert run(only=['resumed_with_other_delta'])['caught'] == 3

  def test_a_row_that_is_missed_is_not_in_it(self, run, monkeypatch, capsys):
    run()
    first, *others = planted_faults.FAULTS
    wrong = dataclasses.replace(first, kind='exactness')
    monkeypatch.setattr(planted_faults, 'FAULTS', (wrong, *others))
    with pytest.raises(SystemExit) as ended:
      run(only=[wrong.id])
    assert ended.value.code == 1
    assert run(only=[others[0].id])['caught'] == 2
    assert f'1/1 {wrong.id}: MISSED' in capsys.readouterr().err

  def test_refuses_what_is_no_table(self, run, tmp_path):
    (tmp_path / 'table.json').write_text('[]')
    with pytest.raises(InputError, match=r'expected .*table\.json to hold a table'):
      run(resume=True)
