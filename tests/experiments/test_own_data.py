"""The measurements on own data: sets, planted failures and the page that is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import pages
from experiments.own_data import make_page, measure


def test_sets_hold_their_judges_apart():
  for part in measure.parts(None):
    own = {image.tobytes() for image in part.images}
    assert len(part.labels) == len(part.images)
    if part.name == 'digits':  # patches of one photograph may overlap
      assert not own & {image.tobytes() for image in part.unseen}
    assert len(np.unique(part.labels)) == len(part.names)


ROW = {
  'kind': 'collapsed', 'seed': 3, 'level': 'useless', 'weakest': 'distinct', 'accuracy': 0.1,
  'distinct': 0.01, 'shape': 0.5, 'certainty': 0.25, 'noise_in_d': 0.7,
}  # fmt: skip


@pytest.mark.slow
def test_a_page_tells_what_was_measured():
  part = next(measure.parts(None))
  rows = [measure.run(part, 8.0, kind, 0) for kind in measure.KINDS]
  # Each release draws noise of its own: one in a hundred planted failures is called poor.
  assert rows[0]['level'] in ('poor', 'usable', 'good')
  assert {row['level'] for row in rows[1:]} <= {'useless', 'poor'}
  assert rows[0]['accuracy'] > 0.6
  ceilings = [{'set': 'digits', 'num_records': 300, 'real': 0.9, 'guess': 0.1}]
  record = {'delta': 1e-5, 'ceilings': ceilings, 'rows': rows}
  page = make_page.page(record, {'rows': []}, {'rows': [ROW]})
  share = f'{rows[0]["accuracy"]:.3f}'
  assert f'| digits | 300 | 8 | {share} | 0.900 | 0.100 | {rows[0]["level"]} |' in page
  assert '2 releases of data whose labels were shuffled or whose images were static' in page
  assert '| collapsed | 3 | useless | distinct | 0.100 | 0.01 | 0.50 | 0.25 | 0.7 |' in page
  useless = sum(row['level'] == 'useless' for row in rows[1:])
  assert not useless or f'{useless} useless' in page


def test_the_committed_page_is_that_of_the_committed_record():
  record = pages.read_json(make_page.RECORD)
  choice, gans = pages.read_json(make_page.CHOICE), pages.read_json(make_page.GANS)
  by_epsilon = pages.read_json(make_page.BY_EPSILON)
  for row in gans['rows'] if gans else ():
    if row['kind'] not in ('good', 'private'):
      assert row['level'] in ('useless', 'poor')
    elif row['level'] == 'good':
      assert row['accuracy'] > 0.7
  assert make_page.PAGE.read_text('utf-8') == make_page.page(record, choice, gans, by_epsilon)
  # No planted failure is called more than poor; what is called good teaches most of what can be.
  real = {(c['set'], c['num_records']): c['real'] for c in record['ceilings']}
  for row in record['rows']:
    if row['kind'] != 'real':
      assert row['level'] in ('useless', 'poor')
    elif row['level'] == 'good':
      assert row['accuracy'] > 0.8 * real[row['set'], row['num_records']]
