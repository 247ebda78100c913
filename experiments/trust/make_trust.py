"""Writes experiments/results/TRUST.md from what the checks measured, and runs them with --run.

    ./run.sh python -m experiments.trust.make_trust            # the page, from the JSON files
    ./run.sh python -m experiments.trust.make_trust --run      # every check first: hours

The page has no number of its own: all are read from experiments/results/trust/*.json and
experiments/results/audit/*.json, which the commands named on it wrote. Where a part is missing, or
did not hold, there is no page, but one line that says which. What others found is shown as it is,
right or wrong.
"""

from __future__ import annotations

import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import scipy.stats
from absl import flags

from dpgan_jax import _cli, _environment, _progress, _validate
from dpgan_jax.privacy import accounting
from experiments import pages

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = pages.RESULTS

_TRUST = 'experiments/results/trust'
# Part -> its program and arguments; all of them write the JSON of their name.
PARTS = {
  'planted_faults': f'-m experiments.trust.planted_faults --out={_TRUST}/planted_faults.json',
  'statistics': f'-m experiments.trust.power --out={_TRUST}/statistics.json',
  'accounting': f'-m experiments.trust.second_opinions --out={_TRUST}/accounting.json',
  'kills': f'-m experiments.trust.kills --results={_TRUST}/kills.json',
  'faults_of_the_machine': '-m experiments.trust.machine_faults '
  f'--results={_TRUST}/faults_of_the_machine.json',
  'fuzz': '-m experiments.trust.fuzz --inputs=100500',
  'strangers': f'-m experiments.trust.strangers --out={_TRUST}/strangers.json',
}
AUDITS = ('one_step', 'ten_steps', 'quickstart')  # the least there has to be; more are shown
MIN_KILLS, MIN_INPUTS = 100, 100_000
_TOO_RARE = 1e-4  # so many false alarms, or more, would come by chance less often than this


# --- reading, and refusing what does not hold ----------------------------------------------------


def read(results: pathlib.Path) -> dict[str, Any]:
  """Every part by name, and `audit`: a list of records.

  Raises:
    InputError: a part is missing, damaged, or did not hold; one line says which.
  """
  found: dict[str, Any] = {}
  for name, command in PARTS.items():
    found[name] = _load(results, f'trust/{name}.json', f'python {command}')
  for name in AUDITS:
    command = f'python -m dpgan_jax.audit --flagfile=experiments/audits/audit_{name}.flags'
    _load(results, f'audit/{name}.json', command)
  names = sorted(path.name for path in (results / 'audit').glob('*.json'))
  records = [_load(results, f'audit/{name}', 'the audit again') for name in names]
  found['audit'] = records
  for name, check in _CHECKS.items():
    try:
      wrong = check(found[name])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
      raise _validate.InputError(f'{name}: not what its command writes: {error!r}') from None
    if wrong:
      raise _validate.InputError(f'{name}: {wrong}; no page is written of what does not hold')
  return found


def _load(results: pathlib.Path, name: str, command: str) -> Any:
  if (found := pages.read_json(results / name)) is None:
    raise _validate.InputError(f'{results.name}/{name} is missing; run {command}')
  return found


def _wrong_faults(part: Any) -> str | None:
  missed = part.get('missed')
  if missed or part['caught'] != part['planted'] or len(part['rows']) != part['planted']:
    return f'{part["planted"]} faults planted, {part["caught"]} caught; {missed}'
  uncaught = [row['id'] for row in part['rows'] if not row['caught_by']]
  return f'{uncaught[0]} is caught by nothing' if uncaught else None


def _wrong_statistics(part: Any) -> str | None:
  for row in part['rows']:
    correct = row['correct']
    refused, of = correct['refused_at_false_alarm'], correct['of']
    if scipy.stats.binom.sf(refused - 1, of, row['false_alarm']) < _TOO_RARE:
      return f'{row["check"]} refuses what is correct in {refused} of {of} cases'
    for name, fault in row['faults'].items():
      if fault['refused'] * 2 < fault['of']:
        return f'{row["check"]} finds {name!r} in {fault["refused"]} of {fault["of"]} cases only'
  return None


def _wrong_accounting(part: Any) -> str | None:
  for row in part['rows']:
    if not row['at_least'] <= row['accounted'] <= row['at_most']:
      return f'{row["name"]}: {row["accounted"]} not in [{row["at_least"]}, {row["at_most"]}]'
    if drawn := row.get('monte_carlo'):
      low, high = drawn['accounted_epsilon_there']
      if not low <= drawn['epsilon'] <= high:
        return f'{row["name"]}: Monte Carlo ε {drawn["epsilon"]} not in [{low}, {high}]'
  return None


def _wrong_kills(part: Any) -> str | None:
  if part['kills'] < MIN_KILLS:
    return f'{part["kills"]} kills; expected at least {MIN_KILLS}'
  if part['faults'] or part['same_end'] != part['ends']:
    return f'{part["faults"]} faults, {part["same_end"]} of {part["ends"]} ends the same'
  return None


def _wrong_machine(part: Any) -> str | None:
  return f'{part["faults"]} cases did not hold' if part['faults'] or not part['cases'] else None


def _wrong_fuzz(part: Any) -> str | None:
  if part['inputs'] < MIN_INPUTS:
    return f'{part["inputs"]} inputs; expected at least {MIN_INPUTS}'
  if part['findings']:
    return f'{part["findings"]} findings, the first {part["failures"][:1]}'
  missed = [row['fault'] for row in part['planted'] if not row['caught']]
  return f'the planted fault {missed[0]!r} was not found' if missed else None


def _wrong_strangers(part: Any) -> str | None:
  verdicts = [(row['case'], row['verdict']) for row in part['rows']]
  wrong = [case for case, verdict in verdicts if verdict in ('wrong', 'missing')]
  if part['wrong'] != wrong or part['cases'] != len(verdicts) or not verdicts:
    return f'it counts {part["wrong"]} as wrong of {part["cases"]}, its rows {wrong}'
  return None


def _wrong_audit(records: Any) -> str | None:
  records.sort(key=lambda r: (r['mode'], r['steps'] or 0, r['name']))
  for record in records:
    bound, accounted = record['lower_bound'], record['accounted_epsilon']
    if record['refuted'] or (accounted is not None and not bound <= accounted):
      return f'{record["name"]} shows ε >= {bound}, above the accounted {accounted}'
  return None


_CHECKS = {
  'planted_faults': _wrong_faults, 'statistics': _wrong_statistics,
  'accounting': _wrong_accounting, 'kills': _wrong_kills,
  'faults_of_the_machine': _wrong_machine, 'fuzz': _wrong_fuzz, 'strangers': _wrong_strangers,
  'audit': _wrong_audit,
}  # fmt: skip


# --- the page ------------------------------------------------------------------------------------


def page(found: Mapping[str, Any], commit: str, environment: Mapping[str, Any]) -> str:
  """The Markdown.

  Args:
    found: as `read` returned it.
    commit: that the page was made at.
    environment: versions of software that the page was made with.
  """
  faults, kills, machine, fuzz, others = (
    found[name]
    for name in ('planted_faults', 'kills', 'faults_of_the_machine', 'fuzz', 'strangers')
  )
  summary = [
    ('faults of the privacy checklist planted', faults['planted'], f'{faults["caught"]} caught'),
    ('kills survived', kills['kills'] + kills['terminated'],
     f'{kills["same_end"]} of {kills["ends"]} ends the same, bit for bit'),
    ('full disks, damaged files, clocks, two processes', machine['cases'], '0 did not hold'),
    ('hostile inputs', f'{fuzz["inputs"]:,}', f'{fuzz["findings"]} findings'),
    ('programs of others that showed a fault', others['cases'], f'{len(others["wrong"])} wrong'),
    ('audits', len(found['audit']), 'no lower bound above the accounted ε'),
    ('ε by another route', len(found['accounting']['rows']), 'all agree'),
  ]  # fmt: skip
  sections = (
    '# What was tried against the guarantee, and how it ended',
    'Made by `python -m experiments.trust.make_trust` from the files that the commands below '
    'wrote; `--run` runs them all first. What is promised, and what is not, says '
    '[SECURITY.md](../../SECURITY.md). None of this is a proof: it is what would have shown a '
    'fault, and did not.',
    pages.table(('', 'tried', 'outcome'), summary),
    *_faults(faults),
    *_statistics(found['statistics']),
    *_kills(kills),
    *_machine(machine),
    *_fuzz(fuzz),
    *_strangers(others),
    *_audits(found['audit']),
    *_accounting(found['accounting']),
    '## Made with',
    f'Commit {commit}. '
    + ', '.join(f'{name} {version}' for name, version in environment.items())
    + '. Parts that were run with other versions say so in their files.',
  )
  return pages.join(*sections)


def _faults(part: Any) -> tuple[str, ...]:
  rows = [
    (r['id'], r['line'], r['fault'], r['kind'], f'`{r["caught_by"]}`') for r in part['rows']
  ]
  return (
    '## Faults planted and caught',
    'Each fault is put into the running package; the check named passes without it and fails with '
    'it. The number is the line of the privacy checklist.',
    _made_by(part),
    pages.table(('fault', 'line', 'what is planted', 'caught by', 'check'), rows),
  )


def _statistics(part: Any) -> tuple[str, ...]:
  rows = [
    (f'`{r["check"]}`', r['setting'], f'{r["false_alarm"]:.0e}',
     f'{r["correct"]["refused_at_false_alarm"]}/{r["correct"]["of"]}',
     '; '.join(f'{name}: {f["refused"]}/{f["of"]}' for name, f in r['faults'].items()))
    for r in part['rows']
  ]  # fmt: skip
  header = ('check', 'setting', 'false alarm', 'correct refused', 'faults refused')
  return '## Statistics, with their power', _made_by(part), pages.table(header, rows)


def _kills(part: Any) -> tuple[str, ...]:
  return (
    '## Kills survived',
    'After each: steps begun ≤ steps charged, and no half-written file under a final name. Then '
    'started again, and compared at the end, bit for bit, with a process left alone.',
    _made_by(part),
    _counts(part, ('place', 'moments', 'kills', 'terminated', 'restarts', 'ends', 'same_end')),
  )


def _machine(part: Any) -> tuple[str, ...]:
  return (
    '## Faults of the machine',
    'Every case came to the same end, or was refused in one line; mended: of these, went on to the '
    'same end when the fault was gone, where that was tried.',
    _made_by(part),
    _counts(part, ('fault', 'cases', 'same_end', 'refused', 'mended')),
  )


def _counts(part: Any, names: tuple[str, ...]) -> str:
  rows = [[r[name] for name in names] for r in part['rows']]
  return pages.table([name.replace('_', ' ') for name in names], rows)


def _fuzz(part: Any) -> tuple[str, ...]:
  limits = part['limits']
  rows = [
    (name, f'{t["inputs"]:,}', f'{t["accepted"]:,}', f'{t["refused"]:,}', t['findings'],
     f'{t["slowest_cpu_seconds"]:g} s')
    for name, t in part['targets'].items()
  ]  # fmt: skip
  planted = [(r['fault'], r['target'], r['inputs'], r['by']) for r in part['planted']]
  return (
    '## Inputs tried',
    'Every input has to give a result or one bounded line of refusal, within '
    f'{limits["cpu_seconds"]:g} s of processor time and {limits["address_space_mib"]} MiB more of '
    'address space; nothing is unpickled, started, written, or read outside of the input.',
    _made_by(part),
    pages.table(('reader of', 'inputs', 'read', 'refused', 'findings', 'slowest'), rows),
    'The same fuzzing, with a fault planted in a reader:',
    pages.table(('planted', 'reader of', 'found after', 'as'), planted),
  )


def _strangers(part: Any) -> tuple[str, ...]:
  rows = [
    (f'`{r["case"]}`', r['wanted'] or '', r['verdict'] if r['verdict'] in ('right', 'refused')
     else f'**{r["verdict"]}**')
    for r in part['rows']
  ]  # fmt: skip
  return (
    '## What others found',
    'People who had not built this tried it, and wrote small programs that showed a fault. Each is '
    'run again: it prints what it should now, or the package refuses in one line.',
    _made_by(part),
    pages.table(('case', 'what is right', 'now'), rows),
  )


def _audits(records: Any) -> tuple[str, ...]:
  rows = [
    (r['name'], r['mode'], r['steps'], _show(r['accounted_epsilon']), f'{r["delta"]:g}',
     f'**{r["lower_bound"]:.4g}**', f'{r["confidence"]:g}', _trials(r), f'`{r["command"]}`')
    for r in records
  ]  # fmt: skip
  return (
    '## Audit: lower bounds beside the accounted ε',
    'An attack that succeeds as often as these did shows that ε is at least the lower bound, at '
    'the confidence given. `gradient`: many runs of the mechanism in the worst case, where the '
    'bound should come close to the accounted ε. `one_run`: one run of the real training with '
    'many canaries; `samples`: attacks on what is published. These see far less, and far lower '
    'bounds are what to expect of them: they would show a gross fault, not a small one.',
    pages.table(('audit', 'mode', 'steps', 'accounted ε', 'δ', 'lower bound', 'confidence',
                 'trials', 'command'), rows),
  )  # fmt: skip


def _trials(record: Mapping[str, Any]) -> str:
  for name in ('canaries', 'candidates'):
    if name in record:
      return f'{record["trials"]} with {record[name]:,} {name}'
  return f'{record["trials"]:,}'


def _accounting(part: Any) -> tuple[str, ...]:
  rows = []
  for r in part['rows']:
    drawn = r.get('monte_carlo')
    monte_carlo = published = ''
    if drawn:
      low, high = drawn['accounted_epsilon_there']
      monte_carlo = f'{drawn["epsilon"]:g} in [{low:g}, {high:g}]'
    if 'published' in r:
      published = f'{r["published"]} ({r["source"]})'
    rows.append((r['name'], f'{r["delta"]:g}', f'{r["at_least"]:g}', f'**{r["accounted"]:g}**',
                 f'{r["at_most"]:g}', monte_carlo, published))  # fmt: skip
  methods = part['methods']
  return (
    '## ε by other routes',
    f'At least: {methods["lower"]}. At most: {methods["upper"]}. Monte Carlo: an ε, and the '
    'accounted ε at the limits of the δ that was estimated for it by drawing. A report is refused '
    'where the accounted ε lies outside the first two.',
    _made_by(part),
    pages.table(('run', 'δ', 'at least', 'accounted', 'at most', 'Monte Carlo', 'published'), rows),
  )


def _made_by(part: Mapping[str, Any]) -> str:
  versions = part.get('versions') or part.get('environment') or {}
  shown = ', '.join(f'{name} {version}' for name, version in versions.items())
  command = part['command'].removeprefix('./run.sh ')
  return f'`./run.sh {command}`' + (f' (with {shown})' if shown else '')


def _show(epsilon: float | None) -> str:
  if epsilon is None:
    return 'not known'
  return '∞' if math.isinf(epsilon) else accounting.show_epsilon(epsilon)


# --- the command ---------------------------------------------------------------------------------


def programs() -> dict[str, list[str]]:
  """The long part of every check by name, in the order in which they run."""
  found: dict[str, list[str]] = {name: command.split() for name, command in PARTS.items()}
  # Its samples are attacked.
  found['digits_gan'] = ['-m', 'dpgan_jax.train', '--flagfile=experiments/digits_gan.flags']
  for path in sorted((ROOT / 'experiments').glob('audits/audit_*.flags')):
    command = ['-m', 'dpgan_jax.audit', f'--flagfile={path.relative_to(ROOT)}']
    if path.stem.endswith('_samples'):
      command.append('--run_dir=runs/digits_gan')
    found[path.stem] = command
  return found


def run_all(only: list[str] | None) -> None:
  """Runs the checks one after another; one that fails does not keep the others from running."""
  commands = programs()
  for name in only or ():
    _validate.one_of('only', name, commands)
  wanted = {name: command for name, command in commands.items() if not only or name in only}
  failed = []
  for number, (name, command) in enumerate(wanted.items(), start=1):
    rest = ','.join(list(wanted)[number - 1 :])
    print(f'[{number}/{len(wanted)}] {name} (to continue here: --run --only={rest})',
          file=sys.stderr, flush=True)  # fmt: skip
    started = time.monotonic()
    status = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    print(
      f'{name}: status {status} after {_progress.duration(time.monotonic() - started)}', flush=True
    )
    if status:
      failed.append(name)
  if failed:
    raise _validate.InputError(f'these checks failed: {", ".join(failed)}; see above')


def _commit() -> str:
  command = ['git', 'rev-parse', '--short=12', 'HEAD']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  return done.stdout.strip() if done.returncode == 0 else 'unknown'


def main() -> None:
  if FLAGS.only and not FLAGS.run:
    raise _validate.InputError('expected --only with --run')
  if FLAGS.run:
    run_all(FLAGS.only)
  text = page(read(RESULTS), _commit(), _environment.environment())
  out = pathlib.Path(FLAGS.out)
  pages.write(out, text)
  print(f'{out}: {len(text.splitlines())} lines')


if __name__ == '__main__':
  flags.DEFINE_bool('run', False, 'Run every check first; hours.')
  flags.DEFINE_list('only', None, f'With run: which of {", ".join(programs())}.')
  flags.DEFINE_string('out', str(RESULTS / 'TRUST.md'), 'The page.')
  _cli.run(main, interrupted='Run it again with --run --only=... to continue.')
