"""Record, page and pictures of an evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from dpgan_jax import _json
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables import picture as of_tables
from dpgan_jax.evaluation import tables
from dpgan_jax.evaluation.tables import pages, pictures, scores, tstr
from tests.support.tables import coins, people, some

TRAIN, TEST, MADE = (people(n, seed=seed) for seed, n in enumerate((300, 250, 200)))
SETTINGS = scores.Settings(
  effort=tstr.Effort(rows=200, column_rows=100, columns=2, trees=10),
  queries=100,
  marginal_rows=10_000,
)


@pytest.fixture(autouse=True, scope='module')
def light():
  """What the scores are is no matter here: they are of a small effort."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scores.Settings, 'of', lambda quick, seed: SETTINGS)
    yield


@pytest.fixture(scope='module')
def written(tmp_path_factory, light):
  out = tmp_path_factory.mktemp('run')
  labels = MADE.labels.astype(np.int64)
  record = tables.evaluate_run(TRAIN, TEST, MADE.records, labels, out, quick=True, source='run')
  return out, record


def test_writes_record_page_and_pictures(written):
  out, record = written
  assert _json.read(out / 'evaluation.json') == json.loads(json.dumps(record))
  for name in ('evaluation.png', 'evaluation_relations.png'):
    with Image.open(out / name) as picture:
      assert min(picture.size) > 300
    assert f'({name})' in (out / 'evaluation.md').read_text()
  assert record['about']['samples'] == 'run, 200 rows of 8 columns'


def test_the_page_says_first_what_it_comes_to_and_marks_what_is_private(written):
  out, record = written
  lines = (out / 'evaluation.md').read_text().split('\n')
  assert lines[2] == f'**{record["sentence"]}**'
  assert lines[4] == record['copies']['sentence']
  rows = [line for line in lines if line.startswith(('| TSTR', '| total', '| share of rows'))]
  assert len(rows) > 8
  assert all('**yes** (train, test)' in line for line in rows)
  assert any('| *no* |' in line for line in lines if 'distinct' in line)
  width = {line.count('|') for line in rows}
  assert width == {9}
  assert lines[-2] == 'The pictures read private data: **yes**.'


def test_the_summary_is_short(written):
  out, record = written
  lines = pages.summary(record, out)
  assert lines[0] == record['sentence']
  assert any(line.startswith('tstr_auroc: 0.') and 'real rows: 0.' in line for line in lines)
  assert 'those that read private data are marked' in lines[-1]
  assert str(out / 'evaluation.md') in lines[-1]


def test_rows_without_classes_are_scored_without_the_target(tmp_path, monkeypatch):
  for name in ('one_way', 'relations'):
    monkeypatch.setattr(pictures, name, lambda *args: None)
  record = tables.evaluate_run(TRAIN, TEST, MADE.records, None, tmp_path, quick=True)
  assert 'tstr_auroc' in record['skipped']
  assert any('left out' in line for line in pages.summary(record, tmp_path))


@pytest.mark.slow  # test_table_tstr has the same scores
def test_the_same_rows_make_the_same_files(written, tmp_path):
  out, _ = written
  labels = MADE.labels.astype(np.int64)
  tables.evaluate_run(
    TRAIN, TEST, MADE.records, labels, tmp_path, quick=True, source='run',
    scores_dir=out / 'evaluation_scores',
  )  # fmt: skip
  for name in ('evaluation.json', 'evaluation.md', 'evaluation.png', 'evaluation_relations.png'):
    assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_what_cannot_be_scored_writes_nothing(tmp_path):
  outside = MADE.records.copy()
  outside[0, 0] = 500
  for records, labels, message in (
    (outside, MADE.labels, "values of column 'age' are out of its domain"),
    (MADE.records, MADE.labels + 5, 'labels in'),
    (MADE.records, MADE.labels / 2, 'whole numbers'),
    (MADE.records[:, :3], MADE.labels, r'float64 \[N, 7\]'),
  ):
    with pytest.raises(InputError, match=message):
      tables.evaluate_run(TRAIN, TEST, records, labels, tmp_path / 'out', quick=True)
  assert not (tmp_path / 'out').exists()
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='expected out to be a folder'):
    tables.evaluate_run(TRAIN, TEST, MADE.records, MADE.labels, tmp_path / 'file')


def test_names_of_columns_break_neither_pages_nor_pictures(tmp_path, written):
  _, record = written
  name = 'a|b\n*c* $x^$ <script>'
  one = {'name': name, 'one_way': 0.1, 'one_way_real': 0.1, 'auroc': None, 'auroc_real': None}
  page = pages.to_markdown({**record, 'columns': [one]})
  line = next(line for line in page.split('\n') if line.startswith('| a/b'))
  assert line == r'| a/b \*c\* $x^$ \<script> | 0.1 | 0.1 | – | – |'
  import dataclasses

  table = coins(np.random.default_rng(0).integers(0, 2, (30, 2)))
  columns = tuple(dataclasses.replace(c, name=c.name + name) for c in table.schema.columns)
  table = dataclasses.replace(table, schema=dataclasses.replace(table.schema, columns=columns))
  assert pictures.one_way(table, table, tmp_path / 'a.png').exists()
  assert pictures.relations(table, table, tmp_path / 'b.png').exists()


@pytest.mark.slow
def test_many_columns_and_categories_are_drawn_in_part(tmp_path, monkeypatch):
  monkeypatch.setattr(of_tables, 'MOST_PANELS', 6)
  rng = np.random.default_rng(0)
  table = coins(rng.integers(0, 90, (200, 40)), sides=90, target=True)
  path = pictures.one_way(table, some(table, slice(0, 50)), tmp_path / 'many.png')
  with Image.open(path) as picture:
    assert picture.size[0] < 2000
