"""n_D: fixed, or raised by what D makes of fakes."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import pytest

from dpgan_jax.models import pace


def g_steps(state: pace.Pace, *accuracies: float, threshold=0.6, patience=3) -> list[int]:
  """The n_D after each G step."""
  history = []
  for accuracy in accuracies:
    state = pace.after_g_step(
      state, jnp.asarray(accuracy, jnp.float32), threshold=threshold, patience=patience
    )
    history.append(int(state.n_d))
  return history


@pytest.mark.parametrize('n_d', [1, 3])
def test_a_generator_step_is_due_after_n_d_steps(n_d):
  state = pace.start(n_d)
  due = []
  for _ in range(3 * n_d):
    state = pace.after_d_step(state)
    due.append(bool(pace.is_due(state)))
    if due[-1]:
      state = pace.after_g_step(state, jnp.zeros(()), threshold=None, patience=1)
  assert due == ([False] * (n_d - 1) + [True]) * 3
  assert int(state.g_steps) == 3


def test_fixed_stays_fixed():
  assert g_steps(pace.start(4), *[0.0] * 9, threshold=None) == [4] * 9


def test_climbs_the_ladder_when_fakes_are_no_longer_recognised_and_never_comes_down():
  climbing = g_steps(pace.start(1), *[0.0] * 12)
  assert climbing == [1, 1, 2, 2, 2, 5, 5, 5, 10, 10, 10, 20]
  assert g_steps(pace.start(5), *[1.0] * 8) == [5] * 8
  up_then_good = g_steps(pace.start(1), *[0.0] * 3, *[1.0] * 300)
  assert max(up_then_good) == up_then_good[-1]


def test_a_start_between_rungs_moves_to_the_next_one_and_the_top_is_the_end():
  assert g_steps(pace.start(3), *[0.0] * 3)[-1] == 5
  top = pace.LADDER[-1]
  assert g_steps(pace.start(top), *[0.0] * 3)[-1] == top
  assert g_steps(pace.start(2 * top), *[0.0] * 3)[-1] == 2 * top


def test_it_is_the_average_that_counts_not_one_bad_batch():
  assert g_steps(pace.start(1), *[0.9] * 5, 0.0, *[0.9] * 5) == [1] * 11
  # An average with decay 0.99, from 0.9 towards 0.5: below 0.6 after 138 steps.
  history = g_steps(pace.start(1), 0.9, *[0.5] * 150)
  assert history.index(2) == 138


def test_threshold_is_reached_when_met():
  assert g_steps(pace.start(1), *[0.5] * 3, threshold=0.5)[-1] == 2


@hypothesis.settings(max_examples=25)
@hypothesis.given(
  start=st.integers(1, 30),
  accuracies=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12),
  patience=st.integers(1, 4),
)
def test_n_d_never_falls_and_a_rung_lasts_its_patience(start, accuracies, patience):
  history = [start, *g_steps(pace.start(start), *accuracies, patience=patience)]
  assert all(a <= b for a, b in itertools.pairwise(history))
  climbs = [i for i, (a, b) in enumerate(itertools.pairwise(history)) if b > a]
  assert all(b - a >= patience for a, b in itertools.pairwise(climbs))
