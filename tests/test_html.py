"""Pages: what they are made of, that all text is text, and that readers can read them."""

from __future__ import annotations

import re

import pytest

from dpgan_jax import _html, _markdown

PAGE = """# Title

Intro with **bold *and* more**, `a < b` and C\\|D.

## First

| | σ |
| --- | --- |
| one | 1 |

## Second

- a_b_c
- 2 * 3 * 4

> said

![curve](curve.png)
![other](other.png)
"""


def luminance(colour: str) -> float:
  parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
  """As WCAG 2.2 defines it."""
  light, dark = sorted(map(luminance, (one, other)), reverse=True)
  return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
  'pair', [(_html.INK, _html.PAPER), ('#767676', _html.PAPER), *_html.COLOURS.values()]
)
def test_ink_stands_out_from_its_ground(pair):
  assert contrast(*pair) >= 4.5


def test_contrast_is_that_of_wcag():
  assert contrast('#000000', '#ffffff') == pytest.approx(21)
  assert contrast('#777777', '#ffffff') < 4.5  # the well-known grey that just fails


def made() -> str:
  pictures = {'curve.png': _html.Picture(b'png', 'a "curve"', 'below <it>')}
  return _html.page('Title <1>', [_html.box('red', '**No.**'), _html.body(PAGE, pictures)])


def test_a_page_is_what_the_markdown_says():
  text = made()
  assert '<strong>bold <em>and</em> more</strong>, <code>a &lt; b</code> and C|D.' in text
  assert '<th scope="row">one</th><td>1</td>' in text
  assert '<thead><tr><td></td><th scope="col">σ</th></tr></thead>' in text
  assert '<caption>First</caption>' in text
  assert '<li>a_b_c</li>\n<li>2 * 3 * 4</li>' in text
  assert '<blockquote><p>said</p></blockquote>' in text
  assert text.count('<img ') == 1
  assert 'alt="a &quot;curve&quot;"><figcaption>below &lt;it&gt;</figcaption>' in text
  said, pictures = _html.read(text)
  assert pictures == (b'png',)
  assert '| one | 1 |' in said


def test_long_names_in_cells_may_break_and_are_read_whole():
  text = _html.page('T', [_html.body('## F\n\n| file | why |\n| --- | --- |\n| a_b | `c_d` e |\n')])
  assert '<th scope="row">a_<wbr>b</th><td><code>c_<wbr>d</code> e</td>' in text
  assert '| a_b | c_d e |' in _html.read(text).text


def test_headings_are_in_order_and_the_language_is_said():
  text = made()
  assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
  levels = [int(n) for n in re.findall(r'<h(\d)', text)]
  assert levels == [1, 2, 2]
  assert '<meta name="viewport"' in text


def test_print_cuts_nothing_off_and_splits_no_figure():
  (block,) = re.findall(r'@media print \{(.*?\})\s*\}', made(), re.DOTALL)
  rules: dict[str, str] = {}
  for selectors, said in re.findall(r'([^{}]+)\{([^{}]*)\}', re.sub(r'/\*.*?\*/', '', block)):
    for selector in re.split(r',\s*', selectors.strip()):
      rules[selector] = rules.get(selector, '') + said
  for whole in ('figure', 'tr', '.box', 'table:not(:has(tr:nth-child(12)))'):
    assert 'break-inside: avoid' in rules[whole]
  assert 'break-after: avoid' in rules['h2']
  assert 'overflow: visible' in rules['.scroll']  # nobody scrolls paper
  assert 'max-width: none' in rules['body']
  height = re.search(r'max-height: (\d+)mm', rules['img'])
  assert height is not None
  assert int(height[1]) < 216 - 2 * 15  # letter paper on its side; an A4 page has more
  assert '@page { margin: 15mm }' in made()


def test_a_wide_picture_scrolls_where_it_would_be_too_small_to_read():
  def shown(width: int, height: int) -> str:
    png = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' + width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
    return _html.figure(_html.Picture(png, 'curve', 'below'))

  assert shown(900, 400).startswith('<figure><div class="scroll" role="region" tabindex="0" aria-')
  assert '<div' not in shown(400, 400)
  for text in (shown(900, 400), shown(400, 400)):
    assert 'below' in _html.read(_html.page('T', [text])).text


@pytest.mark.parametrize(
  'planted',
  [
    '<script>1</script>', '<p onclick="x">', '<img src="https://a.b/c.png" alt="">',
    '<img src="data:image/png;base64,%%" alt="">', '<a href="x">', '<link rel="x">',
    '<style>p { background: url(//a.b) }</style>', '<!-- x -->', '<iframe>', '<p style="x">',
    '<meta http-equiv="refresh" content="0;url=https://a.b">', '<svg>', '<form>',
  ],
)  # fmt: skip
def test_what_no_page_holds_is_refused(planted):
  with pytest.raises(ValueError, match='a page does not hold'):
    _html.read(made().replace('</main>', f'{planted}</main>'))


@pytest.mark.parametrize(
  'planted',
  ['<script>1</script>', '![x](https://a.b/c.png)', '[x](javascript:1)', '<b>', '"><img>'],
)
def test_text_stays_text(planted):
  markdown = f'# T\n\n{planted}\n\n## {planted}\n\n- {planted}\n\n| {planted} |\n| --- |\n| a |\n'
  text = _html.page(planted, [_html.body(markdown), _html.box('red', planted)])
  said, pictures = _html.read(text)
  assert said.count(planted) >= 4
  assert pictures == ()


def test_a_page_is_read_by_its_sections():
  assert list(_markdown.sections(PAGE)) == ['', 'First', 'Second']
