"""The site's pages: links, headings, commands, messages and names that they quote are real."""

from __future__ import annotations

import ast
import dataclasses
import functools
import html
import importlib
import importlib.util
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import dpgan_jax
from dpgan_jax import _cli
from dpgan_jax.publishing import meaning

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / 'docs').rglob('*.md'))
OTHERS = [ROOT / name for name in ('README.md', 'BUILD.md', 'SECURITY.md', 'CHANGELOG.md')]
PAGES = [*DOCS, *OTHERS, *sorted((ROOT / 'experiments').rglob('*.md'))]
# Flags of all commands.
ANYWHERE = {'flagfile', 'recipe', 'help', 'helpfull', 'plugin', 'quiet', 'verbosity'}


def prose(text: str) -> str:
  """Text without blocks of code, in which brackets are no links."""
  return re.sub(r'```.*?```', '', text, flags=re.DOTALL)


@functools.cache
def anchors(page: pathlib.Path) -> frozenset[str]:
  """What headings are called in addresses, as GitHub and mkdocs do."""
  headings = re.findall(r'^#{1,6} (.+)$', prose(page.read_text('utf-8')), re.MULTILINE)
  plain = (re.sub(r'[^\w\s-]', '', html.unescape(h).lower()).strip() for h in headings)
  return frozenset(re.sub(r'[\s]+', '-', h) for h in plain)


def dead_links(page: pathlib.Path, text: str) -> Iterator[str]:
  for target, anchor in re.findall(r'\]\(([^)\s#]*)(?:#([^)\s]*))?\)', prose(text)):
    if '://' in target:
      continue
    path = (page.parent / target).resolve() if target else page
    if not path.exists():
      yield f'{target} does not exist'
    elif anchor and anchor not in anchors(path):
      yield f'{target}#{anchor} is no heading'


def test_every_link_and_anchor_leads_somewhere():
  assert {str(p.relative_to(ROOT)): found for p in PAGES
          if (found := list(dead_links(p, p.read_text('utf-8'))))} == {}  # fmt: skip


def test_a_dead_link_is_seen():
  text = '[a](start.md) [b](nowhere.md) [c](start.md#images) [d](start.md#nowhere)'
  assert list(dead_links(ROOT / 'docs' / 'index.md', text)) == [
    'nowhere.md does not exist', 'start.md#nowhere is no heading',
  ]  # fmt: skip


def commands(text: str) -> Iterator[tuple[str, set[str]]]:
  """Commands of the package with the names of their flags; a command ends with its line."""
  joined = re.sub(r'\\\n\s*', ' ', text)
  for name, rest in re.findall(r'(?:-m dpgan_jax\.|dpgan-jax )(\w+)((?: [^\n`|]*)?)', joined):
    yield name, {flag.removeprefix('no') if flag.startswith('no') and flag not in fields(name)
                 else flag for flag in re.findall(r'--(\w+)', rest)}  # fmt: skip


@functools.cache
def fields(command: str) -> frozenset[str]:
  """The flags that a command defines."""
  found: set[str] = set()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      _cli, 'define_flags',
      lambda *classes, **_: found.update(f.name for c in classes for f in dataclasses.fields(c)),
    )  # fmt: skip
    importlib.import_module(f'dpgan_jax.{command}').define_flags()
  return frozenset(found | ANYWHERE | {'data'})


NO_COMMAND = {'COMMAND', 'recipes', 'privacy', 'publishing'}


def wrong_commands(text: str) -> list[str]:
  found = []
  for name, flags in commands(text):
    if name in NO_COMMAND:
      continue
    if not (ROOT / 'dpgan_jax' / f'{name}.py').is_file():
      found.append(f'{name} is no command')
    else:
      found += [f'{name} has no --{flag}' for flag in sorted(flags - fields(name))]
  return found


@pytest.mark.parametrize('page', [*DOCS, OTHERS[0]], ids=lambda p: p.name)
def test_commands_of_pages_exist(page):
  assert wrong_commands(page.read_text('utf-8')) == []


def test_a_wrong_command_is_seen():
  text = '`python -m dpgan_jax.train --run_dir=x --wrong=3`\n`dpgan-jax trane`\n'
  assert wrong_commands(text) == ['train has no --wrong', 'trane is no command']


@functools.cache
def messages() -> tuple[str, ...]:
  """Every text in the package; what is put into it is a dot, as in the pages."""
  found = []
  for path in (ROOT / 'dpgan_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.JoinedStr):
        found.append(''.join(v.value if isinstance(v, ast.Constant) else '…' for v in node.values))
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found.append(node.value)
  return tuple(found)


def is_said(message: str) -> bool:
  """Whether the program has a text in which the parts of the message stand in this order."""
  parts = [re.escape(part) for part in re.split(r'\s*…\s*', message) if part.strip('. ')]
  wanted = re.compile('.*'.join(parts), re.DOTALL)
  return any(wanted.search(text) for text in messages())


def test_messages_of_the_troubleshooting_page_are_the_programs_own():
  text = (ROOT / 'docs' / 'troubleshooting.md').read_text('utf-8')
  quoted = re.findall(r'^### `(.+)`$', text, re.MULTILINE)
  assert len(quoted) > 10
  assert [message for message in quoted if not is_said(message)] == []
  assert not is_said('expected --run_dir=DIRECTORY, where nothing goes')


def test_the_reference_names_all_that_the_package_offers():
  named = re.findall(r'^::: (\S+)$', (ROOT / 'docs' / 'api.md').read_text('utf-8'), re.MULTILINE)
  wanted = {name: getattr(dpgan_jax, name) for name in dpgan_jax.__all__}
  assert sorted(named) == sorted(f'{v.__module__}.{name}' for name, v in wanted.items())


def test_bounds_on_a_guess_are_computed():
  text = (ROOT / 'docs' / 'concepts.md').read_text('utf-8')
  rows = re.findall(r'^\| ([\d.]+) \| ([\d.]+ %)', text, re.MULTILINE)
  assert len(rows) == 7
  assert all(said == meaning._percent(meaning.guess(float(eps), 0.0)) for eps, said in rows)


@pytest.mark.slow  # the tests above follow the links
@pytest.mark.skipif(
  importlib.util.find_spec('mkdocs') is None, reason='no mkdocs: pip install -r requirements.txt'
)
def test_the_site_builds_without_a_warning(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'DPMechanism' in (tmp_path / 'api.html').read_text('utf-8')
  assert (tmp_path / 'repo/experiments/results/speed.html').is_file()
  own = 'repo/experiments/examples/plugins/own_discriminator.py.html'
  assert 'DISCRIMINATORS' in (tmp_path / own).read_text('utf-8')
  assert own in (tmp_path / 'howto/networks.html').read_text('utf-8')

