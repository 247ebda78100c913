"""The record, the page and the figure of scores, and the store of finished ones."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from dpgan_jax import _html
from dpgan_jax.evaluation import curves, scoring, tasks
from dpgan_jax.evaluation.scores import Evaluation, Score, Store

PER_CLASS = {'per_class': [0.5, None], 'per_class_ceiling': [0.9, 1.0]}
NAMES = ('left | right', 'up')


@pytest.fixture
def evaluated() -> Evaluation:
  four = [
    Score(name=name, value=0.25, best='high', reads=('train',), n=90, reference=0.5,
          static=0.4, features='wavelets')
    for name in ('precision', 'recall', 'density', 'coverage')
  ]
  return Evaluation(
    scores=(
      *four,
      Score(
        name='tstr_cnn', value=0.87654, best='high', reads=('train', 'test'), n=90,
        reference=0.99, static=0.1, detail=PER_CLASS,
      ),
      Score(name='hold_out_cnn', value=0.9, best='high', reads=(), n=9),
    ),
    skipped={'inception_fid': 'not asked for'}, class_names=NAMES,
  )  # fmt: skip


def test_json_marks_every_score(evaluated):
  record = json.loads(json.dumps(evaluated.to_json({'samples': 'x'}), allow_nan=False))
  assert record['format'] == 'dpgan_jax evaluation 2'
  assert record['about'] == {'samples': 'x'}
  marks = {s['name']: s['reads_private_data'] for s in record['scores']}
  assert marks.pop('hold_out_cnn') is False
  assert all(marks.values())
  assert record['scores'][4]['reads'] == ['train', 'test']
  assert record['skipped'] == {'inception_fid': 'not asked for'}


def test_the_page_marks_every_score(evaluated):
  page = evaluated.to_markdown({'real_data': 'digits'})
  assert '- real data: digits\n' in page
  assert '| CNN 32-64-128 | 0.8765 | 0.99 | 0.1 | high | 90 | **yes** (train, test) |' in (
    page.replace('TSTR, ', '')
  )
  assert '| the CNN on samples held out | 0.9 |  |  | high | 9 | *no* |  |' in page
  assert '| recall | 0.25 | 0.5 | 0.4 | high | 90 | **yes** (train) | **says nothing' in page
  assert 'of wavelets |' in page
  assert '| left / right | 0.5 | 0.9 |' in page
  assert '| up | – | 1 |' in page
  assert '- inception_fid: not asked for' in page


def test_figure(evaluated, tmp_path):
  curves.evaluation(evaluated, tmp_path / 'a.png')
  curves.evaluation(evaluated, tmp_path / 'b.png')
  assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
  without = Evaluation(scores=evaluated.scores[:4], skipped={})
  curves.evaluation(without, tmp_path / 'c.png')
  with Image.open(tmp_path / 'a.png') as a, Image.open(tmp_path / 'c.png') as c:
    assert a.width > c.width


@pytest.mark.parametrize(
  ('best', 'real', 'noise', 'expected'),
  [
    ('high', 0.9, 0.1, True),
    ('high', 0.9, 0.8, False),
    ('high', 0.5, 0.9, False),  # static looks better than real images
    ('low', 0.1, 60.0, True),
    ('low', 5.0, 8.0, False),
    ('low', 5.0, 1.0, False),
    ('low', -1e-4, 0.5, True),  # KID of alike sets
    ('low', -1e-3, -1e-3, False),
    ('0.5', 0.5, 0.99, True),
    ('0.5', 0.5, 0.55, False),
    ('high', None, 0.1, None),
    ('high', 0.9, None, None),
  ],
)
def test_a_score_that_likes_static_as_well_says_nothing(best, real, noise, expected):
  score = Score(
    name='x', value=0.9, best=best, reads=('train',), n=9, reference=real, static=noise
  )
  assert score.separates is expected
  assert ('says nothing here' in score.remark) == (expected is False)
  assert ('says nothing here' in score.describe()) == (expected is False)
  assert score.to_json()['separates_static_from_real'] is expected


def test_a_score_that_says_nothing_is_not_in_the_verdict(evaluated):
  fields = {'name': 'fid', 'value': 1.0, 'best': 'low', 'reads': ('train',), 'n': 9}
  known, blind = (
    Evaluation(scores=(Score(reference=1.0, static=s, **fields),), skipped={}) for s in (9.0, 1.5)
  )
  assert known.verdict.likeness == 1
  assert blind.verdict.level == 'unknown'
  assert evaluated.verdict.level == 'unknown'
  assert evaluated.to_json({})['verdict']['reads_private_data'] is True


def test_lookup(evaluated):
  assert evaluated['recall'].value == 0.25
  assert 'recall' in evaluated
  assert 'fid' not in evaluated
  with pytest.raises(KeyError):
    evaluated['fid']


def test_store(tmp_path):
  store = Store(tmp_path / 'deep' / 'scores')
  key, other = 'a' * 64, 'a' * 20 + 'b' * 44
  assert store.get('fid', key) is None
  store.put('fid', key, {'value': 1.5, 'list': [1, None]})
  assert store.get('fid', key) == {'value': 1.5, 'list': [1, None]}
  assert store.get('kid', key) is None
  assert store.get('fid', other) is None  # the same beginning, and so the same file
  (file,) = store.folder.iterdir()
  for damage in ('', '[]', '{"key": 1}', 'null', file.read_text()[:-3]):
    file.write_text(damage)
    assert store.get('fid', key) is None


def test_the_html_page_is_private_and_holds_what_the_markdown_says(evaluated, tmp_path):
  amount = scoring.Amount(tasks.Settings.quick(), 20, quick=True)
  images = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8, 1)
  samples = scoring.Samples(images, np.arange(20) % 2, source='x')
  named = dataclasses.replace(evaluated, class_names=('<script>1</script>', 'up'))
  (tmp_path / 'losses.png').write_bytes(b'curves')
  scoring.write(named, {'samples': '<b>x</b>'}, amount, tmp_path, samples)
  html = (tmp_path / 'evaluation.html').read_text('utf-8')
  said, pictures = _html.read(html)  # refuses every element that is none of ours
  assert said.index('Keep this page private.') < said.index(named.verdict.sentence)
  assert f'class="box {named.verdict.colour}"' in html
  assert named.verdict.next_step in said
  for text in ('0.8765', '<script>1</script>', '<b>x</b>', 'Left out', 'reads private data'):
    assert text in said
  assert pictures[1:] == ((tmp_path / 'evaluation.png').read_bytes(), b'curves')
  rows = [line for line in named.to_markdown({}).splitlines() if line.startswith('| TSTR')]
  for row in rows:
    assert row.replace('**', '').replace('*', '').split(' | ')[1] in said
