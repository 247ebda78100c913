"""Processes killed at every change of the disk: the small parts of experiments/trust/kills.py, and
faults put into what is killed, which have to be found.

The whole of it, training included, is `./run.sh python -m experiments.trust.kills`.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap

import pytest

from experiments.trust import injector

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not injector.available(), reason='needs Linux and a C compiler'),
]

# Starts as kills.py does; `fault` is put in after the restart.
_PROGRAM = """
import pathlib, sys
sys.path.insert(0, {root!r})
from experiments.trust import injector
injector.restart_with_shim(pathlib.Path({shims!r}))
from experiments.trust import kills, victims
from dpgan_jax import _cli, _files
from dpgan_jax.budget import ledger
from dpgan_jax.run import metrics
{fault}
kills.define_flags()
_cli.run(kills.main)
"""


def kill(tmp_path: pathlib.Path, part: str, fault: str = '') -> tuple[int, dict, str]:
  """Exit status, results and output of a part of kills.py with a fault in it."""
  program, results = tmp_path / 'program.py', tmp_path / 'kills.json'
  program.write_text(
    _PROGRAM.format(root=str(ROOT), shims=str(tmp_path / 'shim'), fault=textwrap.dedent(fault))
  )
  command = [sys.executable, str(program), f'--parts={part}', f'--results={results}']
  run = subprocess.run(command, capture_output=True, text=True, check=False)
  assert results.exists(), run.stderr[-2000:]
  return run.returncode, json.loads(results.read_bytes()), run.stdout


def test_ledger_survives_a_kill_at_every_change(tmp_path):
  status, found, output = kill(tmp_path, 'ledger')
  assert status == 0, output
  assert found['faults'] == 0
  assert found['kills'] == found['ends'] == found['same_end'] == found['restarts'] > 20
  creation, mending = found['rows']
  # Every call of an append and of a creation was among them, and half of a write.
  calls = {place.split()[0] for place in creation['hit']}
  assert {'open', 'write', 'fsync', 'rename'} <= calls
  assert creation['kills'] > creation['changes']
  assert 'ftruncate ledger.jsonl' in mending['hit']
  assert {'no ledger yet, nothing taken', 'charged = taken', 'charged > taken'} == set(
    creation['found']
  )


def test_rows_of_other_parts_stay(tmp_path):
  (tmp_path / 'kills.json').write_text(json.dumps({'rows': [_row('another place')]}))
  _, found, _ = kill(tmp_path, 'metrics')
  earlier, new = found['rows']
  assert earlier['place'] == 'another place'
  assert found['kills'] == 1000 + new['kills']


def _row(place: str) -> dict:
  counts = dict.fromkeys(('kills', 'terminated', 'restarts', 'ends', 'same_end'), 0)
  return {'place': place, **counts, 'kills': 1000, 'faults': []}


@pytest.mark.parametrize(
  ('part', 'fault', 'message'),
  [
    (
      'ledger',
      """
      def work(self, folder):  # the steps are taken before they are paid for
        spent = ledger.Ledger.open(folder / 'ledger.jsonl', **victims._OPEN)
        for step in (2, 4, 6):
          injector.tell(f'taken {step}')
          spent.charge(step)
        return victims.contents(folder)
      victims.LedgerAppend.work = work
      """,
      'charged and',
    ),
    (
      'ledger',
      """
      charge = ledger.Ledger.charge
      def rewriting(self, up_to_step, stage='dp_sgd'):  # the file is written anew, in place
        charge(self, up_to_step, stage)
        self._path.write_bytes(self._path.read_bytes())
      ledger.Ledger.charge = rewriting
      """,
      'is empty or damaged',
    ),
    (
      'export',
      """
      import contextlib
      @contextlib.contextmanager
      def in_place(path, mode='w', **_):  # no temporary name
        with open(path, mode) as file:
          yield file
      victims.writers.atomic_write = in_place
      kills.run_part = lambda part, killer, *rest: [
        killer.at_every_change(victims.Export('npz', True))]
      """,
      'side by side',
    ),
    (
      'metrics',
      """
      write = metrics.MetricsWriter.write
      def lazy(self, step, scalars, **options):  # a line is told before it is written
        injector.tell(f'written {step}')
        write(self, step, scalars, **options)
      metrics.MetricsWriter.write = lazy
      """,
      'lines were written',
    ),
  ],
)
def test_a_fault_is_found(tmp_path, part, fault, message):
  status, found, output = kill(tmp_path, part, fault)
  assert status == 1
  assert found['faults'] > 0
  assert message in output


def test_what_is_killed_half_way_through_a_write_has_written_half(tmp_path):
  program = tmp_path / 'half.py'
  program.write_text(
    textwrap.dedent(f"""
      import pathlib, sys
      sys.path.insert(0, {str(ROOT)!r})
      from experiments.trust import injector
      injector.restart_with_shim(pathlib.Path({str(tmp_path / 'shim')!r}))
      place = pathlib.Path({str(tmp_path)!r}, 'place')
      place.mkdir()
      def job():
        (place / 'a').write_bytes(b'x' * 100)
        (place / 'b').write_bytes(b'y')
        return 'done'
      for at, how in ((0, 'count'), (2, 'half'), (3, 'before'), (2, 'after'), (2, 'full')):
        for path in place.iterdir():
          path.unlink()
        outcome = injector.run(job, place, at=at, how=how)
        sizes = [p.stat().st_size for p in sorted(place.iterdir())]
        print(how, outcome.status, outcome.result, len(outcome.changes), sizes)
      year = injector.run(lambda: __import__('time').time(), place, clock=(3e9, 0.0)).result
      print(year - __import__('time').time() > 2.9e9)
    """)
  )
  run = subprocess.run(
    [sys.executable, str(program)], capture_output=True, text=True, check=False
  )
  assert run.stdout.splitlines() == [
    'count 0 done 4 [100, 1]',
    'half -9 None 2 [50]',
    'before -9 None 3 [100]',
    'after -9 None 2 [100]',
    'full 1 None 2 [0]',
    'True',
  ], run.stdout + run.stderr
