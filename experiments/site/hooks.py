"""Hooks of mkdocs: pages of the repository outside docs/ are pages of the site too, not copies.

Links are written for the repository, where README.md or a page of results lies beside docs/. In the
site these pages stand below repo/, and links follow; one to a file that is no page becomes text.
Examples to copy, which who installs a package does not have, are pages too.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS, BESIDE = 'docs/', 'repo/'
PAGES = ('README.md', 'BUILD.md', 'SECURITY.md', 'CHANGELOG.md', 'experiments/**/*.md')
# The text of a link may be a picture, as badges are.
_TEXT = r'(?:!\[[^\]]*\]\([^)]*\)|[^\]])*'
_LINK = re.compile(rf'(!?)\[({_TEXT})\]\(([^)\s#]*)(#[^)\s]*)?\)')


def on_files(files: Files, config: Any) -> Files:
  """Adds the pages beside docs/, and the pictures that they show."""
  for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
    name = page.relative_to(ROOT).as_posix()
    files.append(File.generated(config, BESIDE + name, abs_src_path=str(page)))
    for mark, _, target, _ in _LINK.findall(page.read_text('utf-8')):
      path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
      if mark and (ROOT / path).is_file() and files.get_file_from_path(BESIDE + path) is None:
        files.append(File.generated(config, BESIDE + path, abs_src_path=str(ROOT / path)))
  for source in sorted(ROOT.glob('experiments/examples/plugins/own_*.py')):
    text = f'# {source.name}\n\n```python\n{source.read_text("utf-8")}```\n'
    name = f'{BESIDE}{source.relative_to(ROOT).as_posix()}.md'
    files.append(File.generated(config, name, content=text))
  return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
  """Makes links of the repository those of the site."""
  del config
  here = page.file.src_uri
  home = here.removeprefix(BESIDE) if here.startswith(BESIDE) else DOCS + here

  def follow(found: re.Match[str]) -> str:
    mark, text, target, anchor = found.groups()
    if not target or '://' in target:
      return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    if (ROOT / path).is_dir():
      path = f'{path}/README.md'
    there = path.removeprefix(DOCS) if path.startswith(DOCS) else BESIDE + path
    if files.get_file_from_path(there) is None:
      there += '.md'  # the code of an example
    if files.get_file_from_path(there) is None:
      return text
    way = posixpath.relpath(there, posixpath.dirname(here) or '.')
    return f'{mark}[{text}]({way}{anchor or ""})'

  return _LINK.sub(follow, markdown)
