"""Counts of neighbouring cells without most of their noise."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax.models.moments.tables import smoothing

_LISTS = st.lists(st.floats(-1e5, 1e6, width=32), min_size=1, max_size=70)


@hypothesis.given(counts=_LISTS, deviation=st.floats(0, 1e6))
def test_there_are_as_many_rows_as_before(counts, deviation):
  """Smoothing moves rows between cells only; without noise it moves none."""
  counts = np.array(counts)
  found = smoothing.smoothed(counts, deviation)
  size = np.abs(counts).sum() + 1
  assert found.shape == counts.shape
  assert found.sum() == pytest.approx(counts.sum(), abs=1e-9 * size)
  if not deviation:
    np.testing.assert_allclose(found, counts, atol=1e-9 * size)


@hypothesis.given(counts=_LISTS, deviation=st.floats(0.1, 1e4))
def test_the_other_way_round_is_the_same(counts, deviation):
  counts = np.array(counts)
  found = smoothing.smoothed(counts, deviation)
  back = smoothing.smoothed(counts[::-1], deviation)[::-1]
  np.testing.assert_allclose(found, back, atol=1e-6 * (np.abs(counts).max() + 1))


@hypothesis.given(
  counts=st.lists(st.lists(st.floats(0, 1e5, width=32), min_size=9, max_size=9), max_size=4,
                  min_size=1),
)  # fmt: skip
def test_classes_without_noise_stay(counts):
  counts = np.array(counts)
  found = smoothing.of_classes(counts, 0.0)
  np.testing.assert_allclose(found, counts, atol=1e-8 * (counts.sum() + 1))


@pytest.mark.parametrize(('cells', 'at_most'), [(16, 0.95), (23, 0.95), (64, 0.45), (100, 0.3)])
def test_the_error_of_what_is_smooth_falls_and_values_that_heap_up_stay(cells, at_most):
  """Squares over 200 draws: of a bell, of a heap upon it, and of nothing but a heap."""
  rng, noise = np.random.default_rng(cells), 20.0
  place = np.linspace(-3, 3, cells)
  bell, heap = 20_000 / cells * np.exp(-(place**2)), np.zeros(cells)
  heap[cells // 3] = 700.0
  for true in (bell, bell + heap, heap):
    noisy = true + rng.normal(0, noise, (200, cells))
    found = np.stack([smoothing.smoothed(row, noise) for row in noisy])
    off = [np.square(each - true).sum() for each in (noisy, found)]
    assert off[1] < at_most * off[0]
    assert np.abs(found - true).mean(axis=0)[cells // 3] < 2 * noise


def test_a_class_is_as_all_are_where_noise_hides_it_and_its_own_where_not():
  rng, place = np.random.default_rng(3), np.linspace(-3, 3, 64)
  bells = np.exp(-(place**2)), np.exp(-((place - 1) ** 2))
  for other, compared in ((bells[0], 'own'), (bells[1], 'all')):
    true, off = np.stack([3000 * bells[0], 300 * other]), []
    for row in true + rng.normal(0, 20, (100, 2, 64)):
      found = smoothing.of_classes(row, 20.0)
      others = {'own': smoothing.smoothed(row[1], 20.0), 'all': found[0] / 10}
      off.append([np.abs(each - true[1]).sum() for each in (found[1], others[compared])])
    ours, theirs = np.mean(off, axis=0)
    assert ours < 0.9 * theirs


def test_all_rows_of_counts_are_smoothed_each_by_its_own_noise():
  rng = np.random.default_rng(4)
  counts, noise = rng.normal(100, 30, (5, 40)), np.array([0.0, 1, 10, 30, 300])
  found = smoothing.smoothed(counts, noise)
  np.testing.assert_allclose(found[0], counts[0], rtol=1e-12)
  for own, row, deviation in zip(found, counts, noise, strict=True):
    np.testing.assert_allclose(own, smoothing.smoothed(row, deviation), rtol=1e-12)


def test_few_cells_stay():
  counts = np.array([5.0, 0, 5, 0, 5, 0, 5])
  np.testing.assert_array_equal(smoothing.smoothed(counts, 3.0), counts)
