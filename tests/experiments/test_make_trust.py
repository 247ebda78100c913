"""TRUST.md shows what the files say that it is made from; there is none of what did not hold."""

from __future__ import annotations

import copy
import json
import pathlib
import re

import pytest

from dpgan_jax._validate import InputError
from experiments.trust import make_trust

ENVIRONMENT = {'dpgan_jax': '0.1.0', 'jax': '9.9.9'}


def audit(name: str, mode: str, **more):
  return {
    'name': name, 'mode': mode, 'steps': 7, 'accounted_epsilon': 2.3456, 'delta': 0.01,
    'lower_bound': 2.2244, 'confidence': 0.95, 'refuted': False, 'trials': 54321,
    'command': f'python -m dpgan_jax.audit --flagfile=experiments/audits/audit_{name}.flags',
    **more,
  }  # fmt: skip


PARTS = {
  'trust/planted_faults': {
    'command': 'python planted.py', 'planted': 1, 'caught': 1, 'missed': [],
    'rows': [{'id': 'half_noise', 'line': 2, 'fault': 'noise at | half scale', 'where': 'x',
              'caught_by': 'noise_scale', 'kind': 'statistics', 'detail': 'd'}],
  },
  'trust/statistics': {
    'command': 'python power.py',
    'rows': [{'check': 'ks', 'setting': 'n = 5000', 'false_alarm': 1e-6,
              'correct': {'refused_at_false_alarm': 0, 'of': 400},
              'faults': {'two thirds': {'refused': 399, 'of': 400}}}],
  },
  'trust/accounting': {
    'command': 'python opinions.py', 'methods': {'lower': 'FFT', 'upper': 'Rényi'},
    'rows': [
      {'name': 'B 128', 'delta': 1e-5, 'at_least': 1.11, 'accounted': 1.22, 'at_most': 1.33,
       'published': '1.26', 'source': 'Abadi'},
      {'name': 'small', 'delta': 1e-2, 'at_least': 0.4, 'accounted': 0.5, 'at_most': 0.6,
       'monte_carlo': {'epsilon': 0.45, 'accounted_epsilon_there': [0.44, 0.46]}},
    ],
  },
  'trust/kills': {
    'command': './run.sh python kills.py', 'versions': {'jax': '1.2.3'}, 'kills': 321,
    'terminated': 12, 'restarts': 333, 'ends': 77, 'same_end': 77, 'faults': 0,
    'rows': [{'place': 'ledger', 'moments': 'every change', 'kills': 321, 'terminated': 12,
              'restarts': 333, 'ends': 77, 'same_end': 77}],
  },
  'trust/faults_of_the_machine': {
    'command': './run.sh python machine.py', 'cases': 65, 'same_end': 30, 'refused': 35,
    'mended': 5, 'faults': 0,
    'rows': [{'fault': 'disk full', 'cases': 65, 'same_end': 30, 'refused': 35, 'mended': 5}],
  },
  'trust/fuzz': {
    'command': 'python fuzz.py', 'inputs': 123456, 'findings': 0, 'failures': [],
    'limits': {'cpu_seconds': 10, 'address_space_mib': 768},
    'targets': {'idx': {'inputs': 123456, 'accepted': 456, 'refused': 123000, 'findings': 0,
                        'slowest_cpu_seconds': 0.25}},
    'planted': [{'fault': 'arrays are unpickled', 'target': 'npz', 'caught': True, 'inputs': 20,
                 'by': 'pickle.find_class'}],
  },
  'trust/strangers': {
    'command': 'python strangers.py', 'cases': 2, 'wrong': ['narrow_ids'],
    'rows': [{'case': 'narrow_ids', 'verdict': 'wrong', 'wanted': 'norm 5', 'status': 0,
              'output': ['norm 0']},
             {'case': 'new', 'verdict': 'right', 'wanted': None, 'status': 0, 'output': []}],
  },
  'audit/one_step': audit('one_step', 'gradient'),
  'audit/ten_steps': audit('ten_steps', 'gradient', steps=10),
  'audit/quickstart': audit('quickstart', 'one_run', trials=1, canaries=1000, lower_bound=0.12),
  'audit/more': audit('more', 'samples', accounted_epsilon=None, steps=None, candidates=400),
}  # fmt: skip


@pytest.fixture
def results(tmp_path) -> pathlib.Path:
  write(tmp_path, PARTS)
  return tmp_path


def write(folder: pathlib.Path, parts) -> None:
  for name, part in parts.items():
    path = folder / f'{name}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(part))


def test_the_page_shows_every_part_its_command_and_with_what(results):
  page = make_trust.page(make_trust.read(results), 'abcdef', ENVIRONMENT)
  for words in (
    '| faults of the privacy checklist planted | 1 | 1 caught |', '| kills survived | 333 |',
    '123,456', 'half_noise', r'noise at \| half scale', '`noise_scale`', '399/400',
    '1e-06', 'disk full', 'pickle.find_class', '0.25 s', '54,321', '**2.224**', '2.346', '**0.12**',
    '1 with 1,000 canaries', '1 with 400 candidates', 'not known', '**1.22**', '1.26 (Abadi)',
    '0.45 in [0.44, 0.46]', '`./run.sh python kills.py` (with jax 1.2.3)',
    '`./run.sh python fuzz.py`', '| `narrow_ids` | norm 5 | **wrong** |',
    '| programs of others that showed a fault | 2 | 1 wrong |', 'audit_one_step.flags',
    'Commit abcdef', 'jax 9.9.9',
  ):  # fmt: skip
    assert words in page, words
  sections = re.findall('^## (.*)', page, re.MULTILINE)
  assert len(sections) == len(make_trust.PARTS) + 2
  for lines in re.findall(r'(?:^\|.*\n)+', page, re.MULTILINE):  # rows are as wide as their header
    assert len({len(re.findall(r'(?<!\\)\|', line)) for line in lines.splitlines()}) == 1


@pytest.mark.parametrize('name', [*PARTS])
def test_a_part_that_is_missing_or_damaged_is_named(results, name):
  path = results / f'{name}.json'
  for content in (b'{', b'{}', b'[]', None):
    path.unlink() if content is None else path.write_bytes(content)
    if content is None and name == 'audit/more':
      make_trust.read(results)  # this one is extra
      continue
    with pytest.raises(InputError, match=name.split('/')[0] if 'audit' in name else name[6:]):
      make_trust.read(results)


def change(part, path: str, value):
  part = copy.deepcopy(part)
  *path_to, last = path.split('.')
  node = part
  for key in path_to:
    node = node[int(key) if key.isdigit() else key]
  node[last] = value
  return part


@pytest.mark.parametrize(
  ('name', 'path', 'value', 'words'),
  [
    ('trust/planted_faults', 'missed', ['half_noise: not caught'], 'half_noise: not caught'),
    ('trust/planted_faults', 'caught', 0, '1 faults planted, 0 caught'),
    ('trust/planted_faults', 'rows.0.caught_by', '', 'half_noise is caught by nothing'),
    ('trust/statistics', 'rows.0.correct.refused_at_false_alarm', 2, 'refuses what is correct'),
    ('trust/statistics', 'rows.0.faults.two thirds.refused', 100, "'two thirds' in 100 of 400"),
    ('trust/accounting', 'rows.0.accounted', 1.0, r'B 128: 1.0 not in \[1.11, 1.33\]'),
    ('trust/accounting', 'rows.1.monte_carlo.epsilon', 0.5, 'small: Monte Carlo'),
    ('trust/kills', 'kills', 99, 'expected at least 100'),
    ('trust/kills', 'faults', 1, '1 faults'),
    ('trust/kills', 'same_end', 76, '76 of 77 ends'),
    ('trust/faults_of_the_machine', 'faults', 2, '2 cases did not hold'),
    ('trust/fuzz', 'inputs', 99_999, 'expected at least 100000'),
    ('trust/fuzz', 'findings', 1, '1 findings'),
    ('trust/fuzz', 'planted.0.caught', False, "'arrays are unpickled' was not found"),
    ('trust/strangers', 'wrong', [], r"its rows \['narrow_ids'\]"),
    ('audit/quickstart', 'lower_bound', 2.5, 'quickstart shows ε >= 2.5'),
    ('audit/one_step', 'refuted', True, 'one_step shows'),
    ('audit/one_step', 'lower_bound', float('nan'), 'one_step shows'),
  ],
)
def test_there_is_no_page_of_what_does_not_hold(results, name, path, value, words):
  write(results, {name: change(PARTS[name], path, value)})
  with pytest.raises(InputError, match=words) as caught:
    make_trust.read(results)
  assert '\n' not in str(caught.value)


def test_the_committed_page_is_that_of_the_committed_results():
  committed = make_trust.RESULTS / 'TRUST.md'
  if not committed.exists():
    pytest.skip('experiments/results/TRUST.md is not made yet')
  page = make_trust.page(make_trust.read(make_trust.RESULTS), 'x', ENVIRONMENT)
  ours, theirs = (text.split('## Made with')[0] for text in (page, committed.read_text('utf-8')))
  assert ours == theirs


def test_every_check_can_be_run_by_name():
  programs = make_trust.programs()
  assert {*make_trust.PARTS, *(f'audit_{name}' for name in make_trust.AUDITS)} <= set(programs)
  for command in programs.values():
    if command[0] != '-m':
      assert (make_trust.ROOT / command[0]).is_file()
    for argument in command:
      if argument.startswith('--flagfile='):
        assert (make_trust.ROOT / argument.removeprefix('--flagfile=')).is_file()
