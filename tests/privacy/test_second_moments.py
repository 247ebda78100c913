"""Noisy sums of x·xᵀ: what is added, how far one record moves it, and how much noise there is."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _validate
from dpgan_jax.privacy.releases.second_moments import release_second_moments

SECRET = bytes(range(32))


def _sum(rows, bound=1.0, **settings):
  settings = {'noise_multiplier': 0.0, 'secret': SECRET, 'purpose': 'test', **settings}
  return release_second_moments(np.asarray(rows), l2_bound=bound, **settings)


def test_without_noise_it_is_the_sum_of_clipped_rows_up_to_the_grid():
  rows = np.random.default_rng(0).normal(size=(300, 7))
  clipped = rows * np.minimum(1, 2.0 / np.linalg.norm(rows, axis=1))[:, np.newaxis]
  # Cutting moves an entry of a row by at most R/8192, and so a product by at most twice that.
  atol = 300 * 2 * 2.0 * (2.0 / 8192)
  np.testing.assert_allclose(_sum(rows, 2.0), clipped.T @ clipped, atol=atol, rtol=0)


@hypothesis.given(
  row=hnp.arrays(np.float64, 5, elements=st.floats(-1e300, 1e300) | st.just(np.nan)),
  bound=st.floats(1e-3, 1e3),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_one_record_moves_it_by_no_more_than_the_bound_squared(row, bound):
  others = np.random.default_rng(1).normal(size=(50, 5)) * bound
  moved = _sum(np.vstack([others, row]), bound) - _sum(others, bound)
  # The Frobenius norm, which is that of the diagonal and √2 times the upper triangle; what is
  # beyond the bound comes of taking a difference of rounded numbers.
  assert np.linalg.norm(moved) <= bound**2 * (1 + 1e-12)


def test_a_row_of_the_bound_counts_whole():
  assert _sum([[0.0, 1.0, 0.0]])[1, 1] == 1


def test_noise_has_the_stated_deviation_above_and_on_the_diagonal():
  """Relative error of a deviation by n draws: 1/√(2n); five of them are allowed."""
  draws = [_sum(np.zeros((0, 40)), 1.5, noise_multiplier=2.0, purpose=f'{i}') for i in range(40)]
  assert all((d == d.T).all() for d in draws)
  upper = np.concatenate([d[np.triu_indices(40, 1)] for d in draws])
  diagonal = np.concatenate([np.diag(d) for d in draws])
  for values, deviation in ((diagonal, 2.0 * 1.5**2), (upper, 2.0 * 1.5**2 / np.sqrt(2))):
    assert abs(values.std() / deviation - 1) < 5 / np.sqrt(2 * len(values))
    assert abs(values.mean()) < 5 * deviation / np.sqrt(len(values))


def test_the_same_again_and_another_for_another_purpose():
  rows = np.ones((3, 2)) / 2
  first, again, other = (_sum(rows, noise_multiplier=1.0, purpose=p) for p in 'aab')
  assert (first == again).all()
  assert (first != other).any()


def test_published_bits_explain_any_sum():
  """Of a float sum with float noise only the true sum is possible; of this, any whole number is."""
  released = _sum(np.ones((4, 3)), noise_multiplier=1.0) * 8192**2
  assert (released == np.round(released)).all()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'rows': np.ones(3)}, r'expected rows to be real numbers \[n, d\]'),
    ({'rows': np.ones((3, 2), complex)}, 'expected rows to be real numbers'),
    ({'bound': 0.0}, 'l2_bound'),
    ({'noise_multiplier': -1.0}, 'noise_multiplier'),
    ({'noise_multiplier': 1.0, 'secret': b'short'}, '128 bits'),
  ],
)
def test_what_cannot_be_is_refused(change, message):
  with pytest.raises(_validate.InputError, match=message):
    _sum(**{'rows': np.ones((3, 2)), **change})
