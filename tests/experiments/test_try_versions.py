"""Trying the package in clean environments: what counts as tried, as working and as failed."""

from __future__ import annotations

import json
import pathlib
import re
import sys

import pytest

from experiments.packaging import make_page, try_versions
from experiments.packaging.try_versions import Step

pytestmark = pytest.mark.slow

PROGRAMS = pathlib.Path(sys.executable).parent
HERE = '{}.{}'.format(*sys.version_info)


def test_a_python_is_found_by_running_it():
  found = try_versions.find_python(HERE)
  assert found is not None
  assert pathlib.Path(found).is_absolute()
  assert try_versions.find_python('2.99') is None


@pytest.mark.parametrize(
  ('code', 'refused', 'failed'),
  [
    ('print(1)', None, None),
    ('raise ValueError("no such thing")', None, 'ValueError: no such thing'),
    ('raise SystemExit("error: pip install x")', 'pip install', None),
    ('raise ValueError("pip install x")', 'pip install', 'expected one line that says'),
    ('print("pip install x")', 'pip install', 'expected one line that says'),
  ],
)
def test_a_step_succeeds_or_is_refused_in_one_line(code, refused, failed, tmp_path):
  found = try_versions.take(Step('it', ('python', '-c', code), refused), tmp_path, PROGRAMS)
  assert found['step'] == 'it'
  assert (found['failed'] is None) == (failed is None)
  assert (failed or '') in (found['failed'] or '')


def test_what_cannot_be_tried_is_in_the_record_beside_what_was(tmp_path, monkeypatch):
  """No environment is made, no wheel built: there is no such Python."""
  out = tmp_path / 'versions.json'
  old = {
    'python': '3.11', 'end': 'newest', 'extras': 'all', 'not_tried': None,
    'installed': ['jax==0.10.0', 'jaxlib==0.9'],
    'steps': [{'step': 'good', 'failed': None}, {'step': 'bad', 'failed': 'it broke'}],
  }  # fmt: skip
  out.write_text(json.dumps({'system': 'Linux', 'tries': [old]}))
  monkeypatch.setattr(try_versions, '_uv', lambda folder: 'uv')
  monkeypatch.setattr(try_versions, 'build', lambda uv, into: into / 'x.whl')
  argv = ['--pythons', '2.99', '--ends', 'lowest', '--extras', '', f'--out={out}']
  assert try_versions.main(argv) == 0
  record = json.loads(out.read_text())
  assert record['tries'][1] == old
  assert record['tries'][0]['not_tried'] == 'there is no Python 2.99 here'
  page = make_page.page(record)
  assert '| 3.11 | newest | not run | not run | not run | **1 of 2 failed** |' in page
  assert '| 2.99 | lowest | could not be tried | not run |' in page
  assert '- Python 2.99, lowest, core alone: there is no Python 2.99 here' in page
  assert '- Python 3.11, newest, `[all]`: bad: it broke' in page
  assert '| 3.11 | newest | 0.10.0 | – |' in page


def test_bounds_are_those_of_the_core_and_of_the_extras():
  assert {each.partition('>=')[0] for each in try_versions.bounds('')} == {
    'dp-accounting', 'jax', 'numpy', 'optax'
  }  # fmt: skip
  every = {each.partition('>=')[0] for each in try_versions.bounds('all')}
  assert {'flax', 'pillow', 'pyarrow', 'scikit-learn', 'tensorboardX'} <= every
  assert 'pyarrow' not in {each.partition('>=')[0] for each in try_versions.bounds('images')}


def test_lowest_is_as_low_as_the_bounds():
  """Python 3.11 can have the lowest of all; there the record has to hold these and no others."""
  record = json.loads(try_versions.RECORD.read_text('utf-8'))
  lowest = [t for t in record['tries'] if (t['python'], t['end']) == ('3.11', 'lowest')]
  assert lowest
  for found in lowest:
    installed = dict(line.split('==') for line in found['installed'] if '==' in line)
    for each in try_versions.bounds(found['extras']):
      name, low = each.split('>=')
      version = installed[name.lower()]
      assert version == low or re.fullmatch(rf'{re.escape(low)}(\.0)+', version), each


def test_the_committed_page_is_of_the_record():
  record = json.loads(try_versions.RECORD.read_text('utf-8'))
  assert make_page.PAGE.read_text('utf-8') == make_page.page(record)
  assert all(set(found) >= {'python', 'end', 'extras', 'not_tried'} for found in record['tries'])


@pytest.mark.slow
def test_the_core_installs_alone_and_takes_a_step(tmp_path):
  out = tmp_path / 'versions.json'
  argv = ['--pythons', HERE, '--ends', 'newest', '--extras', '', f'--out={out}']
  status = try_versions.main(argv)
  (found,) = json.loads(out.read_text())['tries']
  if found['not_tried']:
    pytest.skip(found['not_tried'])
  assert status == 0, found
  assert any(line.startswith('dp-accounting==') for line in found['installed'])
  assert not any(line.startswith(('flax', 'pillow', 'pyarrow')) for line in found['installed'])
