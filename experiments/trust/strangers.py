r"""Runs the small programs with which others showed a fault, and says right or wrong for each.

    ./run.sh python -m experiments.trust.strangers
    ./run.sh python -m experiments.trust.strangers --out=experiments/results/trust/strangers.json

Each case is a program that prints what it finds; it runs in a process of its own. What it should
print is known for the cases in `CASES`: a value, or a refusal by the package in one line that names
what is refused. The output of any other case is shown, for people to judge. A case that is wrong,
or that is missing, ends the command with status 1.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from dpgan_jax import _cli, _validate
from experiments import pages

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parents[2]
RIGHT, REFUSED, WRONG, UNKNOWN, MISSING = 'right', 'refused', 'wrong', 'not known', 'missing'
_MOST_LINES = 8  # of an output that are shown


@dataclasses.dataclass(frozen=True)
class Case:
  """What is known of a case.

  Attributes:
    wanted: what is right, in words.
    holds: output ↦ whether it is right; it may raise where something is not there.
    refusal: a pattern that the line of a refusal has, where that is right as well.
  """

  wanted: str
  holds: Callable[[str], bool]
  refusal: str | None = None


# --- what is right -------------------------------------------------------------------------------

_NUMBER = r'[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?'


def _numbers(pattern: str, output: str) -> list[float]:
  """The numbers in place of each # of a pattern, where it is found first.

  Raises:
    ValueError: it is not found.
  """
  found = re.search(re.escape(pattern).replace(r'\#', f'({_NUMBER})'), output)
  if found is None:
    raise ValueError(f'expected {pattern!r} in the output')
  return [float(x) for x in found.groups()]


def _near(value: float, wanted: float, tolerance: float) -> bool:
  return abs(value - wanted) <= tolerance * abs(wanted)


def _after(start: str, output: str) -> str:
  """The rest of the one line that begins so."""
  (line,) = (line for line in output.splitlines() if line.startswith(start))
  return line.removeprefix(start)


def _complex(output: str) -> bool:
  (norm,) = _numbers('norms [#', output)
  (noise,) = _numbers('noise std on the REAL leaf #', output)
  parts = [complex(part.replace(' ', '')) for part in re.findall(
    rf'{_NUMBER}\s*[-+]\s*{_NUMBER}j|{_NUMBER}j', _after('norms ', output))]  # fmt: skip
  right = [abs(got - want) < 1e-3 for got, want in zip(parts, (0.6j, 0.8j), strict=True)]
  return _near(norm, 5, 1e-3) and all(right) and _near(noise, 1, 0.02)


def _long(output: str) -> bool:
  for strategy in ('auto', 'ghost'):
    line = f'{strategy} norm # of # ; length of clipped sum #'
    norm, true, length = _numbers(line, output)
    if not (_near(norm, true, 1e-3) and 0.999 <= length <= 1 + 1e-5):
      return False
  return True


def _multi_steps(output: str) -> bool:
  mean, _, ratio = _numbers('one big batch of the same # # #', output)
  for way in ('True', 'False'):
    line = _after(f'use_grad_mean {way}', output)
    (got,), (noise,) = _numbers('update mean #', line), _numbers('noise/signal #', line)
    if not (_near(got, mean, 0.05) and _near(noise, ratio, 0.05)):
      return False
  return True


def _narrow(output: str) -> bool:
  for way in ('auto', 'ghost'):
    same = '{} norm [#] sum over rows 0..5 #'
    pairs = zip(
      _numbers(same.format('vmap'), output), _numbers(same.format(way), output), strict=True
    )
    if not all(_near(got, want, 1e-3) for want, got in pairs):
      return False
  norms = [_numbers(f'{way} take clip V=300: norm [#]', output)[0] for way in ('vmap', 'auto')]
  rows = [re.findall(rf'{way} take clip.*\[([\d ]+)\]$', output, re.MULTILINE)
          for way in ('vmap', 'auto')]  # fmt: skip
  error = re.search(r'^int8, V=128: (\w+)', output, re.MULTILINE)
  allowed = error is None or error.group(1) == 'InputError'
  return _near(norms[1], norms[0], 1e-3) and rows[0] == rows[1] and allowed


def _one_key(output: str) -> bool:
  # Told by a coin that knows how many take part, 90.5 % are right; 92 % and more are not chance.
  (guessed,) = _numbers('membership guessed from the noise alone: #', output)
  return guessed < 0.92


def _rgb16(output: str) -> bool:
  (brightest,) = _numbers('max #', output)
  return brightest == (201 if 'uint16' in output else 1)


def _memory(output: str) -> bool:
  sizes = {way: _numbers(f'{way} # MiB', output)[0] for way in ('auto', 'ghost')}
  return sizes['auto'] <= 2 * sizes['ghost'] and sizes['ghost'] < 64


CASES: dict[str, Case] = {
  'bf16_scan': Case(
    'bfloat16 parameters keep their dtype through a step, so that steps can be scanned: ours ok',
    lambda output: _after('ours ', output) == 'ok'),
  'complex_leaves': Case(
    'norm 5 and sum [0.6j, 0.8j], noise of deviation 1 on the real leaf; or a refusal of complex',
    _complex, 'complex'),
  'long_sequence': Case(
    'norms within 0.1 % of the true one, and a clipped sum of length 1, by auto and by ghost',
    _long),
  'multi_steps': Case(
    'the update of one big batch (mean 1, noise/signal 0.031) both times; or a refusal of '
    'accumulation', _multi_steps, 'MultiSteps|accumulat'),
  'narrow_ids': Case(
    'auto and ghost give the gradients of vmap, and int8 ids of 128 rows are no error', _narrow,
    'int8'),
  'one_key_twice': Case(
    'who is in the batch is not told by the noise: less than 92 % guessed (a coin: 90.5 %)',
    _one_key, 'key'),
  'rgb16_png': Case(
    'pixels of 200 and 201 in 65,535 are read as 1 of 255 or kept as they are; or a refusal of 16 '
    'bits', _rgb16, 'more than 8 bits'),
  'token_table_memory': Case(
    'auto needs no more than twice the memory of ghost, and ghost less than 64 MiB', _memory),
  'x64_mixed': Case(
    'float32 parameters with float64 data give a sum however a batch is cut; or a refusal of '
    'float64', lambda output: 'Error' not in output and 'float' in output, 'float64|x64'),
}  # fmt: skip


def judge(name: str, status: int, output: str) -> str:
  """RIGHT, REFUSED or WRONG, or UNKNOWN of a case that is not in the table."""
  case = CASES.get(name)
  if case is None:
    return UNKNOWN
  if status:
    said = re.findall(r'^(?:\w+\.)*InputError: (.*)', output, re.MULTILINE)[-1:]
    return REFUSED if case.refusal and said and re.search(case.refusal, said[0]) else WRONG
  try:
    return RIGHT if case.holds(output) else WRONG
  except ValueError:  # a line or a number that is wanted is not there
    return WRONG


# --- running -------------------------------------------------------------------------------------


def run(path: pathlib.Path) -> dict[str, Any]:
  """Runs one case in a process of its own."""
  path = path.resolve()
  own = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
  done = subprocess.run(
    # Unbuffered, so that a traceback comes after what was printed before it.
    [sys.executable, '-u', str(path)], cwd=ROOT, env={**os.environ, 'PYTHONPATH': own}, check=False,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace',
  )  # fmt: skip
  lines = done.stdout.strip().splitlines()
  if done.returncode:  # of a traceback the error alone
    lines = [line for line in lines if not line.startswith((' ', 'Traceback'))]
  return {
    'case': path.stem,
    'verdict': judge(path.stem, done.returncode, done.stdout),
    'wanted': CASES[path.stem].wanted if path.stem in CASES else None,
    'status': done.returncode,
    # Without the places of this machine.
    'output': [line.replace(str(path.parent), 'CASES')[:300] for line in lines[-_MOST_LINES:]],
  }


def run_all(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Runs every case of a folder; known ones that are not there are MISSING.

  Raises:
    InputError: the folder is not there, or has no case.
  """
  if not folder.is_dir():
    raise _validate.InputError(f'expected cases={folder} to be a folder of cases; it is not there')
  paths = sorted(folder.glob('*.py'))
  if not paths:
    raise _validate.InputError(f'expected cases={folder} to hold cases, NAME.py; it holds none')
  rows = []
  for path in paths:
    rows.append(row := run(path))
    print(f'{row["case"]}: {row["verdict"]}')
    if row['verdict'] != RIGHT:
      print(f'  wanted: {row["wanted"] or "for people to judge"}')
      print('\n'.join(f'  | {line}' for line in row['output']), flush=True)
  for name in sorted(CASES.keys() - {path.stem for path in paths}):
    print(f'{name}: {MISSING}')
    rows.append({'case': name, 'verdict': MISSING, 'wanted': CASES[name].wanted, 'status': None,
                 'output': []})  # fmt: skip
  return rows


def main() -> None:
  rows = run_all(pathlib.Path(FLAGS.cases))
  counts = {v: sum(row['verdict'] == v for row in rows) for v in (RIGHT, REFUSED, UNKNOWN)}
  wrong = [row['case'] for row in rows if row['verdict'] in (WRONG, MISSING)]
  if FLAGS.out:
    part = {'command': 'python -m experiments.trust.strangers --out=FILE', 'cases': len(rows),
            'wrong': wrong, 'rows': rows}  # fmt: skip
    pages.write_json(pathlib.Path(FLAGS.out), part, indent=2)
  print(', '.join(f'{count} {verdict}' for verdict, count in counts.items() if count or wrong)
        + f', {len(wrong)} wrong' + (f': {", ".join(wrong)}' if wrong else ''))  # fmt: skip
  if wrong:
    sys.exit(1)


if __name__ == '__main__':
  flags.DEFINE_string(
    'cases', str(ROOT.parent / 'shared' / 'cases'), 'Folder of the cases, NAME.py.'
  )
  flags.DEFINE_string('out', None, 'JSON file of what was found.')
  _cli.run(main, interrupted='Run it again.')
