"""Pages of one file: HTML with its style and pictures inside, and nothing from anywhere else.

A page is made from the project's own Markdown (headings, paragraphs, lists, tables, quotes,
pictures, bold, italics, code; no links), so that it says what the Markdown says. All text is
escaped; there is no script, and a policy in the page forbids what is not in it. `read` is for who
receives a page: it refuses anything that a page of ours does not hold.

>>> print(body('A *mean* of `x` < 1.\\n\\n- one\\n- two'))
<p>A <em>mean</em> of <code>x</code> &lt; 1.</p>
<ul>
<li>one</li>
<li>two</li>
</ul>
"""

from __future__ import annotations

import base64
import binascii
import html
import html.parser
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COLOURS = {
  'green': ('#0b3d1e', '#dff3e4'),
  'yellow': ('#4a3a00', '#fdf3c8'),
  'orange': ('#5c2a00', '#fde5cf'),
  'red': ('#6b0f12', '#fbe0e0'),
  'grey': ('#333333', '#eeeeee'),
}
"""Ink and ground of a box."""
INK, PAPER = '#222222', '#ffffff'

_STYLE = f"""
body {{ margin: 0 auto; max-width: 52rem; padding: 1rem; color: {INK}; background: {PAPER};
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }}
h1 {{ font-size: 1.7rem; line-height: 1.2 }}
h2 {{ font-size: 1.25rem; margin-top: 2rem; border-bottom: 1px solid #767676 }}
.box {{ margin: 1rem 0; padding: .75rem 1rem; border-left: .4rem solid }}
.box > :first-child {{ margin-top: 0 }}
.box > :last-child {{ margin-bottom: 0 }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .9rem }}
/* Its words are the heading's above, for who hears the page. */
caption {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }}
th, td {{ border-bottom: 1px solid #767676; padding: .3rem .8rem .3rem 0; text-align: left;
  vertical-align: top }}
th[scope=row] {{ font-weight: normal }}
figure {{ margin: 1rem 0 }}
img {{ max-width: 100%; height: auto }}
figcaption {{ font-size: .9rem }}
blockquote {{ margin: 1rem 0; padding-left: 1rem; border-left: .2rem solid #767676 }}
@page {{ margin: 15mm }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt }}
  h1, h2, h3 {{ break-after: avoid }}
  figure, tr, .box, table:not(:has(tr:nth-child(12))) {{ break-inside: avoid }}
  /* Half a page at most: what does not fit moves on, and leaves so much empty. */
  img {{ max-height: 110mm }}
  .scroll {{ overflow: visible }}
  /* Nothing scrolls on paper. */
  table {{ font-size: 8pt }}
  th, td {{ padding-right: .4rem }}
  thead th {{ font-size: 7pt; hyphens: auto }}
  .box {{ border: 1px solid }}
}}
@media (max-width: 30rem) {{
  table {{ font-size: .8rem }}
  th, td {{ padding-right: .5rem }}
  th[scope=row] {{ min-width: 7rem }}
  /* What stands far to the right would else be as narrow as it can be, and its row as tall. */
  td:nth-child(n+7):last-child {{ min-width: 11rem }}
  .scroll > img {{ max-width: none; width: 36rem }}
  ul {{ padding-left: 1.2rem }}
}}
""" + ''.join(
  f'.{name} {{ color: {ink}; background: {ground} }}\n' for name, (ink, ground) in COLOURS.items()
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PNG = 'data:image/png;base64,'
_SCROLL = '<div class="scroll" role="region" tabindex="0"'
_ESCAPABLE = '\\`|<>[]*_#'
_INLINE = re.compile(
  rf'\\([{re.escape(_ESCAPABLE)}])|`([^`]+)`|\*\*(.+?)\*\*|(?<![\w*])\*(?!\s)([^*]+?)(?<!\s)\*(?!\w)'
)
_IMAGE = re.compile(r'!\[([^\]]*)\]\(([^)\s]+)\)')
_TAGS: dict[str, set[str]] = {
  **{tag: set() for tag in (
    'head', 'title', 'style', 'body', 'main', 'h1', 'h2', 'h3', 'p', 'ul', 'li', 'table', 'caption',
    'thead', 'tbody', 'tr', 'td', 'figure', 'figcaption', 'blockquote', 'strong', 'em', 'code',
    'wbr',
  )},
  'html': {'lang'}, 'meta': {'charset', 'name', 'content', 'http-equiv'}, 'th': {'scope'},
  'div': {'class', 'role', 'tabindex', 'aria-label'}, 'img': {'src', 'alt'},
}  # fmt: skip


class Picture(NamedTuple):
  """A PNG file with what it shows, for who cannot see it, and a line below it."""

  png: bytes
  alt: str
  caption: str = ''


def page(title: str, parts: Sequence[str]) -> str:
  """A whole page.

  Args:
    title: text.
    parts: HTML, as the functions below make it.
  """
  said = html.escape(title)
  return '\n'.join((
    '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
    f'<title>{said}</title>', f'<style>{_STYLE}</style>', '</head>', '<body>', '<main>',
    f'<h1>{said}</h1>', *parts, '</main>', '</body>', '</html>', '',
  ))  # fmt: skip


def box(colour: str, markdown: str) -> str:
  """Paragraphs on a ground of one of `COLOURS`; the words have to say what the colour says."""
  return f'<div class="box {colour}">\n{body(markdown)}\n</div>'


def figure(picture: Picture) -> str:
  """A picture within the page."""
  source = _PNG + base64.b64encode(picture.png).decode()
  shown = f'<img src="{source}" alt="{html.escape(picture.alt)}">'
  width, height = (int.from_bytes(picture.png[at : at + 4], 'big') for at in (16, 20))
  if width > 1.2 * height:  # a narrow screen scrolls it: its letters would be too small to read
    shown = f'{_SCROLL} aria-label="Wide picture">{shown}</div>'
  caption = f'<figcaption>{_inline(picture.caption)}</figcaption>' if picture.caption else ''
  return f'<figure>{shown}{caption}</figure>'


def body(markdown: str, pictures: Mapping[str, Picture] | None = None) -> str:
  """Markdown as HTML.

  Args:
    markdown: in the subset above; '# ' headings are left out, since a page has its title.
    pictures: by the name that the text has for them; others are left out.
  """
  made, title = [], 'Numbers'
  for kind, group in itertools.groupby(markdown.splitlines(), _kind):
    lines = list(group)
    if kind == 'heading':
      for line in lines:
        level, _, title = line.partition(' ')
        if len(level) > 1:
          made.append(f'<h{len(level)}>{_inline(title)}</h{len(level)}>')
    elif kind == 'table':
      made.append(_table(lines, title))
    elif kind == 'bullet':
      made += ['<ul>', *(f'<li>{_inline(line[2:])}</li>' for line in lines), '</ul>']
    elif kind == 'quote':
      said = _inline(' '.join(line[2:] for line in lines))
      made.append(f'<blockquote><p>{said}</p></blockquote>')
    elif kind == 'picture':
      known = pictures or {}
      names = [found[2] for line in lines if (found := _IMAGE.fullmatch(line))]
      made += [figure(known[name]) for name in names if name in known]
    elif kind == 'text':
      made.append(f'<p>{_inline(" ".join(lines))}</p>')
  return '\n'.join(made)


def _kind(line: str) -> str:
  if re.match(r'#{1,3} ', line):
    return 'heading'
  for mark, kind in (('| ', 'table'), ('- ', 'bullet'), ('> ', 'quote')):
    if line.startswith(mark):
      return kind
  if _IMAGE.fullmatch(line):
    return 'picture'
  return 'text' if line.strip() else ''


def _inline(text: str) -> str:
  parts, end = [], 0
  for found in _INLINE.finditer(text):
    parts.append(html.escape(text[end : found.start()]))
    literal, code, strong, emphasis = found.groups()
    if literal:
      parts.append(html.escape(literal))
    elif code:
      parts.append(f'<code>{html.escape(code)}</code>')
    elif strong:
      parts.append(f'<strong>{_inline(strong)}</strong>')
    else:
      parts.append(f'<em>{_inline(emphasis)}</em>')
    end = found.end()
  return ''.join(parts) + html.escape(text[end:])


def _cells(line: str) -> list[str]:
  return [cell.strip() for cell in re.split(r'(?<!\\)\|', line.strip()[1:-1])]


def _table(lines: Sequence[str], title: str) -> str:
  """The first cell of a row is its heading; a heading line of nothing is left out."""
  header, *rows = (_cells(line) for line in lines if not re.fullmatch(r'\|( ---? ?-*\|)+', line))
  said = _inline(title)
  made = [
    f'{_SCROLL} aria-label="{html.escape(title)}">',
    f'<table><caption>{said}</caption>',
  ]
  if any(header):
    cells = (f'<th scope="col">{_cell(c)}</th>' if c else '<td></td>' for c in header)
    made.append(f'<thead><tr>{"".join(cells)}</tr></thead>')
  made.append('<tbody>')
  for first, *others in rows:
    cells = ''.join(f'<td>{_cell(c)}</td>' for c in others)
    made.append(f'<tr><th scope="row">{_cell(first)}</th>{cells}</tr>')
  return '\n'.join([*made, '</tbody></table></div>'])


def _cell(text: str) -> str:
  """A narrow screen may break a long name behind an underscore; numbers stay whole."""
  return _inline(text).replace('_', '_<wbr>')


# --- reading -------------------------------------------------------------------------------------


class Read(NamedTuple):
  """What a page says, cells of tables between bars, and the files of its pictures."""

  text: str
  pictures: tuple[bytes, ...]


def read(text: str) -> Read:
  """What is in a page that `page` made, or that claims so.

  Raises:
    ValueError: it holds an element, an attribute, an address or a style that pages do not have.
  """
  reader = _Reader()
  reader.feed(text)
  reader.close()
  return Read(''.join(reader.said), tuple(reader.pictures))


class _Reader(html.parser.HTMLParser):
  def __init__(self) -> None:
    super().__init__()
    self.said: list[str] = []
    self.pictures: list[bytes] = []
    self.within = ''

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.within = tag
    extra = sorted({name for name, _ in attrs} - _TAGS.get(tag, set()))
    if tag not in _TAGS or extra:
      raise ValueError(f'a page does not hold <{" ".join([tag, *extra])}>')
    found = dict(attrs)
    if tag == 'meta' and found.get('http-equiv') and found.get('content') != _POLICY:
      raise ValueError('a page does not hold another policy')
    if tag == 'img':
      source = found.get('src') or ''
      if not source.startswith(_PNG):
        raise ValueError('a page does not hold a picture from elsewhere')
      try:
        self.pictures.append(base64.b64decode(source.removeprefix(_PNG), validate=True))
      except binascii.Error:
        raise ValueError('a page does not hold a damaged picture') from None
    if tag in ('td', 'th'):
      self.said.append('| ')

  def handle_endtag(self, tag: str) -> None:
    self.within = ''
    self.said.append({'td': ' ', 'th': ' ', 'tr': '|\n'}.get(tag, ''))

  def handle_data(self, data: str) -> None:
    if self.within == 'style' and re.search(r'url|@import|\\', data, re.IGNORECASE):
      raise ValueError('a page does not hold a style that fetches')
    if self.within != 'style':
      self.said.append(data)

  def handle_comment(self, data: str) -> None:
    raise ValueError('a page does not hold comments')
