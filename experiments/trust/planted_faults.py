r"""Plants every fault of the privacy checklist in the running package, and shows what catches it.

    ./run.sh python -m experiments.trust.planted_faults \
      --out=experiments/results/trust/planted_faults.json

Every row replaces something of the package (or asks it for something) and names a check. The check
has to pass on the package as it is, and to fail on the package with the fault, in the way that the
row says:

* `refusal`: the package itself refuses, with an error that says why;
* `statistics`: a test of noise, keys, batches or labels (`statistical_checks`);
* `exactness`: a property that holds to the last digits (`mechanism_checks`, `gan_checks`);
* `data flow`: the jaxpr of a step shows another way from the data than the noised sum
  (`taint_checks`);
* `second opinion`: the other computation of ε contradicts the accountant, so that no report is
  written;
* `report`: the report says what it must not, or lacks what it must say;
* `audit`: a canary shows that the accounted ε does not hold.

A row that catches nothing ends the command with status 1. The fast rows run in every test run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault('JAX_NUM_CPU_DEVICES', '2')  # one row spreads data over two
# Compiling is most of what this does: far less of it, at the price of slower programs.
os.environ.setdefault(
  'XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
)

import jax
from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.budget import cross_check, noisy_steps
from dpgan_jax.privacy import accounting
from experiments import pages
from experiments.trust.fault_table import FAULTS, Fault
from experiments.trust.statistical_checks import Violation

FLAGS = flags.FLAGS


@contextlib.contextmanager
def planted(fault: Fault) -> Iterator[None]:
  """The package with a fault in it; no ε that was computed with or without it is kept, if the
  fault is in what computes it. Other faults change what is asked for, or what becomes of it.
  """
  computes = (accounting, accounting.RELATIONS, cross_check, noisy_steps)
  changed = any(each.owner is one for each in fault.swaps for one in computes)

  def forget() -> None:
    if changed:
      _forget()

  with contextlib.ExitStack() as stack:
    stack.callback(forget)
    for each in fault.swaps:
      stack.enter_context(each.plant())
    forget()
    yield


def _forget() -> None:
  for cache in (
    accounting._step_pld, accounting._composed_pld, accounting._epsilon, cross_check._intervals
  ):  # fmt: skip
    if hasattr(cache, 'cache_clear'):
      cache.cache_clear()


def outcome(check: Callable[[], None]) -> tuple[str, str]:
  """('passed' | 'refused' | 'caught', what was said)."""
  # The strictness of JAX that our tests turn on would stop some faults before a check sees them.
  try:
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion('allow'):
      check()
  except _validate.InputError as error:
    return 'refused', str(error)
  except Violation as error:
    return 'caught', str(error)
  return 'passed', ''


# A check that passed on the package as it is needs not be asked again for the next row.
healthy = functools.cache(outcome)


def run(fault: Fault) -> dict[str, Any]:
  """Runs a row both ways.

  Raises:
    Violation: the check does not pass on the package as it is, or does not catch the fault in the
      way that the row says.
  """
  found, said = healthy(fault.check)
  if found != 'passed':
    raise Violation(f'{fault.id}: without the fault, {fault.check.__name__}: {said}')
  with planted(fault):
    found, said = outcome(fault.check)
  expected = 'refused' if fault.kind in ('refusal', 'second opinion') else 'caught'
  if found != expected:
    raise Violation(f'{fault.id} was not {expected} but {found} by {fault.check.__name__}: {said}')
  return {
    'id': fault.id,
    'line': fault.line,
    'fault': fault.fault,
    'where': ', '.join(s.where for s in fault.swaps),
    'caught_by': fault.check.__name__,
    'kind': fault.kind,
    # Not the names of the folders that the check worked in.
    'detail': re.sub(rf'{re.escape(tempfile.gettempdir())}\S*/', '', said),
  }


def _read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Rows of an earlier call by id, as far as the table still has them."""
  try:
    rows = {row['id']: row for row in json.loads(path.read_bytes())['rows']}
  except (ValueError, KeyError, TypeError):
    raise _validate.InputError(f'expected {path} to hold a table of this command') from None
  return {fault.id: rows[fault.id] for fault in FAULTS if fault.id in rows}


def _write(path: pathlib.Path, rows: dict[str, dict[str, Any]]) -> None:
  result = {
    'command': 'python -m experiments.trust.planted_faults --out=FILE',
    'planted': len(FAULTS),
    'caught': len(rows),
    'rows': [rows[fault.id] for fault in FAULTS if fault.id in rows],
  }
  pages.write_json(path, result, indent=2)


def main() -> None:
  if unknown := set(FLAGS.only or ()) - {f.id for f in FAULTS}:
    raise _validate.InputError(f'expected only to name faults, got {", ".join(sorted(unknown))}')
  out = pathlib.Path(FLAGS.out) if FLAGS.out else None
  rows = _read(out) if out and out.exists() and (FLAGS.resume or FLAGS.only) else {}
  faults = [f for f in FAULTS if f.id in FLAGS.only] if FLAGS.only else FAULTS
  if FLAGS.resume:
    faults = [f for f in faults if f.id not in rows]
  missed, started = [], time.monotonic()
  for number, fault in enumerate(faults, start=1):
    rows.pop(fault.id, None)
    try:
      rows[fault.id] = run(fault)
      said = fault.kind
    except Violation as error:
      said = f'MISSED: {error}'
      missed.append(str(error))
    left = (time.monotonic() - started) / number * (len(faults) - number)
    print(f'{number}/{len(faults)} {fault.id}: {said} ({left:.0f} s left)', file=sys.stderr)
    if out:
      _write(out, rows)
  print(f'{len(faults)} faults planted, {len(faults) - len(missed)} caught')
  if missed:
    sys.exit(1)


if __name__ == '__main__':
  flags.DEFINE_string('out', None, 'JSON file of the table.')
  flags.DEFINE_list('only', None, 'Ids of the faults to plant, into the table; default: all.')
  flags.DEFINE_bool('resume', False, 'Keep the rows that an interrupted call left in out.')
  _cli.run(main, interrupted='Give --resume to continue.')
