"""Scores over ε and over steps, as pictures: what is drawn where, and what is refused."""

from __future__ import annotations

import math

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from dpgan_jax._validate import InputError
from dpgan_jax.evaluation import curves
from dpgan_jax.evaluation.curves import Series, over_epsilon, over_steps

TSTR = Series('TSTR', {2.0: [0.8, 0.9], 0.5: [0.5], math.inf: [0.95]}, reference=0.99)


@pytest.fixture
def drawn(monkeypatch):
  """The axes of the last figure that was written."""
  kept = []
  save = matplotlib.figure.Figure.savefig

  def savefig(self, *args, **kwargs):
    kept.append(self)
    return save(self, *args, **kwargs)

  monkeypatch.setattr(curves.Figure, 'savefig', savefig)
  return lambda: kept[-1].axes[0]


def test_epsilon_is_logarithmic_and_infinity_stands_apart(drawn, tmp_path):
  path = over_epsilon([TSTR], tmp_path / 'a.png', title='TSTR', ylabel='accuracy')
  axes = drawn()
  assert axes.get_xscale() == 'log'
  assert [t.get_text() for t in axes.get_xticklabels()] == ['0.5', '2', '∞: not private']
  (line,) = [found for found in axes.lines if found.get_label() == 'TSTR']
  np.testing.assert_array_equal(line.get_xdata(), [0.5, 2.0])  # means, in order, without ∞
  np.testing.assert_allclose(line.get_ydata(), [0.5, 0.85])
  alone = [found for found in axes.lines if list(found.get_ydata()) == [0.95]]
  assert alone[0].get_xdata()[0] > 2.0
  assert any(list(found.get_ydata()) == [0.99, 0.99] for found in axes.lines)
  assert any(list(found.get_ydata()) == [0.8, 0.9] for found in axes.lines)  # every run is a point
  with Image.open(path) as picture:
    assert picture.width > 900


def test_the_bar_is_a_standard_deviation_and_there_is_none_of_one_run(drawn, tmp_path):
  over_epsilon([TSTR], tmp_path / 'a.png', title='TSTR', ylabel='accuracy')
  (bar,) = drawn().containers
  (segment,) = bar.lines[2][0].get_segments()
  spread = np.std([0.8, 0.9], ddof=1)
  np.testing.assert_allclose(segment[:, 1], [0.85 - spread, 0.85 + spread])


def test_the_ideal_and_the_note_are_there(drawn, tmp_path):
  over_epsilon(
    [TSTR], tmp_path / 'a.png', title='T', ylabel='y', ideal=(0.5, 'ideal'), note='of public data'
  )
  assert any(found.get_label() == 'ideal' for found in drawn().lines)
  texts = [t.get_text() for t in drawn().figure.texts]
  assert texts == ['of public data']


def test_only_runs_without_privacy(drawn, tmp_path):
  over_epsilon([Series('a', {math.inf: [1.0]})], tmp_path / 'a.png', title='T', ylabel='y')
  assert [t.get_text() for t in drawn().get_xticklabels()] == ['∞: not private']


def test_steps(drawn, tmp_path):
  series = [Series('a', {2000: [30.0], 1000: [40.0]}), Series('b', {1000: [9.0]}, reference=0.3)]
  over_steps(series, tmp_path / 'a.png', title='FID', ylabel='FID', log=True)
  axes = drawn()
  assert axes.get_yscale() == 'log'
  assert axes.get_xlim()[0] == 0
  one, other = (found for found in axes.lines if found.get_label() in ('a', 'b'))
  assert one.get_color() != other.get_color()
  assert one.get_marker() != other.get_marker()


def test_same_input_same_bytes(tmp_path):
  a = over_epsilon([TSTR], tmp_path / 'a.png', title='TSTR', ylabel='accuracy')
  b = over_epsilon([TSTR], tmp_path / 'b.png', title='TSTR', ylabel='accuracy')
  assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
  ('series', 'log', 'message'),
  [
    ([], False, 'at least one point'),
    ([Series('a', {})], False, 'at least one point'),
    ([TSTR] * 8, False, 'at most 7 series in a figure, got 8'),
    ([Series('a', {1.0: [0.0]})], True, r'values > 0 on a logarithmic axis, got 0'),
  ],
)
def test_what_cannot_be_drawn_is_refused(series, log, message, tmp_path):
  with pytest.raises(InputError, match=message):
    over_epsilon(series, tmp_path / 'a.png', title='T', ylabel='y', log=log)
  assert list(tmp_path.iterdir()) == []
