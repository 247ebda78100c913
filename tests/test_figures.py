"""The pictures are read back: pixels for grids, matplotlib's own objects for curves."""

from __future__ import annotations

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from dpgan_jax import _figures
from dpgan_jax._validate import InputError

NAN, INF = math.nan, math.inf


def line(step, epsilon=None, g=1.0, real=0.7, fake=0.6):
  return {
    'step': step, 'epsilon': epsilon, 'g_loss': g, 'd_loss_real': real, 'd_loss_fake': fake
  }  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
  """The figure that was last written, with its real file."""
  seen: list[Figure] = []
  save = Figure.savefig

  def remember(figure, *args, **kwargs):
    seen.append(figure)
    save(figure, *args, **kwargs)

  monkeypatch.setattr(Figure, 'savefig', remember)
  return lambda: seen[-1]


def pixels(path: pathlib.Path) -> np.ndarray:
  with Image.open(path) as picture:
    assert picture.format == 'PNG'
    assert not picture.info.keys() - {'dpi'}  # no time, no version
    return np.asarray(picture.convert('RGB'))


# --- looks ----------------------------------------------------------------------------------------


def test_what_is_drawn_together_can_be_told_apart_in_grey_print():
  assert len({style for _, style in _figures.LINES}) == len(_figures.LINES)
  greys = []
  for fill in _figures.FILLS:
    assert fill['edgecolor'] == _figures.INK  # the lightest is faint on white
    greys.append(np.array(Image.new('RGB', (1, 1), fill['color']).convert('L')).item())
  assert min(np.diff(sorted(greys))) >= 45, greys


# --- grids ----------------------------------------------------------------------------------------


@given(
  count=st.integers(1, 12),
  size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
  channels=st.sampled_from([None, 1, 3]),
  columns=st.integers(1, 5),
  scale=st.integers(1, 3),
)
def test_every_image_is_in_its_place_pixel_by_pixel(
  tmp_path_factory, count, size, channels, columns, scale
):
  rng = np.random.default_rng(count)
  shape = (count, *size) if channels is None else (count, *size, channels)
  images = rng.integers(0, 256, shape).astype(np.uint8)
  path = tmp_path_factory.mktemp('grid') / 'grid.png'
  assert _figures.sample_grid(images, path, columns=columns, scale=scale) == path
  got = pixels(path)
  height, width = size[0] * scale, size[1] * scale
  across, down = min(columns, count), math.ceil(count / columns)
  assert got.shape == (down * (height + 1) + 1, across * (width + 1) + 1, 3)
  rgb = np.broadcast_to(images.reshape(count, *size, -1), (count, *size, 3))
  left = np.ones(got.shape[:2], bool)
  for n, image in enumerate(rgb):
    y, x = (n // columns) * (height + 1) + 1, (n % columns) * (width + 1) + 1
    wanted = image.repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_array_equal(got[y : y + height, x : x + width], wanted)
    left[y : y + height, x : x + width] = False
    assert (got[y - 1, x - 1 : x + width + 1] == 128).all()  # the gap above, one pixel
  assert set(np.unique(got[left])) <= {128, 255}


def test_classes_have_rows_of_their_own(tmp_path):
  labels = np.array([5, 2, 5, 5, 2])
  images = np.arange(10, 60, 10, dtype=np.uint8)[:, None, None] * np.ones((1, 9, 9), np.uint8)
  path = tmp_path / 'grid.png'
  _figures.sample_grid(images, path, labels=labels, columns=2, scale=3)
  got = pixels(path)
  first = got.shape[1] - 2 * 28  # two columns; the labels stand to the left of them
  assert first > 10
  rows = [[int(got[28 * r + 14, first + 28 * c + 14, 0]) for c in range(2)] for r in range(3)]
  assert rows == [[20, 50], [10, 30], [40, 255]]
  ink = [(got[28 * r : 28 * r + 28, : first - 1] < 128).any() for r in range(3)]
  assert ink == [True, True, False]  # a label stands once, before the first row of its class


def test_classes_have_their_names(tmp_path):
  """A longer name takes more room; one that is too long is cut, and none has the number."""
  images, labels = np.zeros((2, 9, 9), np.uint8), np.array([0, 1])
  widths = []
  for n, names in enumerate((None, ('cat', 'dog'), ('cat', 'hedgehog'), ('cat', 99 * 'hedgehog'))):
    path = tmp_path / f'{n}.png'
    _figures.sample_grid(images, path, labels=labels, class_names=names)
    widths.append(pixels(path).shape[1])
  assert widths == sorted(set(widths))
  assert widths[-1] < 500
  assert _figures.class_name(('a\nb', 25 * 'x'), 0) == 'a b'
  assert _figures.class_name(('a\nb', 25 * 'x'), 1) == 23 * 'x' + '…'
  assert [_figures.class_name(('a',), k) for k in (-1, 1)] == ['-1', '1']


def test_a_title_has_a_strip_of_its_own_and_knows_greek(tmp_path):
  images = np.zeros((1, 8, 8), np.uint8)
  strips = []
  for n, title in enumerate((None, 'ε', 'δ', '')):
    _figures.sample_grid(images, tmp_path / f'{n}.png', title=title)
    strips.append(pixels(tmp_path / f'{n}.png'))
  assert strips[1].shape[0] > strips[0].shape[0] == strips[3].shape[0]
  np.testing.assert_array_equal(strips[1][-18:, :18], strips[0])
  assert (strips[1][:-18] != strips[2][:-18]).any()  # a missing letter would be the same box


@pytest.mark.parametrize(
  ('images', 'options', 'message'),
  [
    (np.zeros((2, 3, 3)), {}, 'images to be uint8.* got float64'),
    (np.zeros((3, 3), np.uint8), {}, r'got uint8 \(3, 3\)'),
    (np.zeros((0, 3, 3), np.uint8), {}, r'got uint8 \(0, 3, 3\)'),
    (np.zeros((2, 3, 3, 2), np.uint8), {}, '1 .* or 3 .* channels, got 2'),
    (np.zeros((2, 3, 3), np.uint8), {'columns': 0}, 'columns >= 1, got 0'),
    (np.zeros((2, 3, 3), np.uint8), {'scale': 0}, 'scale >= 1, got 0'),
    (np.zeros((2, 3, 3), np.uint8), {'labels': [1]}, r'labels to be 2 whole .* int64 \(1'),
    (np.zeros((2, 3, 3), np.uint8), {'labels': [1.0, 2.0]}, 'labels to be 2 whole .* float64'),
  ],
)
def test_a_grid_of_something_else_is_refused(tmp_path, images, options, message):
  with pytest.raises(InputError, match=message):
    _figures.sample_grid(images, tmp_path / 'grid.png', **options)
  assert not any(tmp_path.iterdir())


# --- curves ---------------------------------------------------------------------------------------


def test_the_three_losses_are_drawn_and_the_private_one_is_marked(tmp_path, drawn):
  lines = [line(10 * n, epsilon=n / 10, g=n, real=2 * n, fake=3 * n) for n in range(1, 6)]
  _figures.loss_curves(lines[::-1], tmp_path / 'losses.png')
  axes, top = drawn().axes
  curves = {c.get_label(): c.get_xydata().tolist() for c in axes.lines}
  assert curves == {
    name: [[10 * n, factor * n] for n in range(1, 6)]
    for name, factor in (('G', 1), ('D on real ¹', 2), ('D on fake', 3))
  }
  assert 'reads private data' in drawn().get_supxlabel()
  assert top.get_xlabel() == 'ε spent'
  assert top.get_xlim() == axes.get_xlim()
  ticks = zip(top.get_xticks(), top.get_xticklabels(), strict=True)
  shown = {x: label.get_text() for x, label in ticks}
  assert len(shown) >= 3
  assert shown == {x: f'{math.ceil(x / 10) / 10:#.3g}' for x in shown}  # of the step that follows


def test_epsilon_over_the_steps_is_rounded_up(tmp_path, drawn):
  _figures.loss_curves([line(1, epsilon=1.23001), line(2, epsilon=2.5)], tmp_path / 'losses.png')
  labels = [label.get_text() for label in drawn().axes[1].get_xticklabels()]
  assert labels[0] == '1.24'
  assert labels[-1] == '2.50'


@pytest.mark.parametrize('epsilon', [None, NAN, INF])
def test_without_a_finite_epsilon_there_is_no_axis_for_it(tmp_path, drawn, epsilon):
  _figures.loss_curves([line(1, epsilon), line(2, epsilon)], tmp_path / 'losses.png')
  assert len(drawn().axes) == 1


def test_a_run_without_the_private_curve_carries_no_note_about_it(tmp_path, drawn):
  _figures.loss_curves([{'step': n, 'g_loss': n} for n in range(3)], tmp_path / 'losses.png')
  assert [c.get_label() for c in drawn().axes[0].lines] == ['G']
  assert drawn().get_supxlabel() == ''


def test_many_points_get_a_running_mean_that_gaps_do_not_bend(tmp_path, drawn):
  lines = [line(n, g=1.0 if n % 7 else NAN) for n in range(1000)]
  _figures.loss_curves(lines, tmp_path / 'losses.png')
  bold = next(c for c in drawn().axes[0].lines if c.get_label() == 'G')
  np.testing.assert_allclose(bold.get_ydata(), 1.0)
  assert 'mean of 20 points' in drawn().get_supxlabel()


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'lines',
  [
    [line(1)],
    [line(5, epsilon=1.0)],
    [line(1, g=NAN, real=None, fake=INF), line(2, epsilon=INF, g=INF)],
    [{'step': 3}],
    [line(1, epsilon=NAN), line(None), line(NAN), line(2, epsilon=0.5), line(2, epsilon=0.5)],
    [line(n, g=NAN if n < 500 else 1.0) for n in range(1000)],
  ],
)
def test_few_and_missing_points_are_drawn_without_a_warning(tmp_path, lines):
  _figures.loss_curves(lines, tmp_path / 'losses.png')
  assert pixels(tmp_path / 'losses.png').std() > 0


@pytest.mark.parametrize('lines', [[], [{'g_loss': 1.0}], [{'step': None}]])
def test_no_step_at_all_is_refused(tmp_path, lines):
  with pytest.raises(InputError, match='at least one line of metrics with a finite step'):
    _figures.loss_curves(lines, tmp_path / 'losses.png')
  assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings('error')
def test_the_stated_pair_is_marked_on_the_epsilon_delta_curve(tmp_path, drawn):
  deltas, epsilons = [1e-3, 1e-7, 1e-5, 1e-9], [1.0, 3.0, 2.0, INF]
  path = tmp_path / 'curve.png'
  _figures.epsilon_delta_curve(deltas, epsilons, path, at_delta=1e-5, at_epsilon=2.0)
  (axes,) = drawn().axes
  curve, point = (c.get_xydata().tolist() for c in axes.lines)
  assert curve == [[1e-7, 3.0], [1e-5, 2.0], [1e-3, 1.0]]
  assert point == [[1e-5, 2.0]]
  assert [t.get_text() for t in axes.texts] == ['ε = 2 at δ = 1e-5']
  assert axes.get_xscale() == 'log'
  _figures.epsilon_delta_curve(deltas, [INF] * 4, path, at_delta=1e-5, at_epsilon=INF)
  assert [t.get_text() for t in drawn().axes[0].texts] == ['no finite ε: not private']


def test_curves_that_make_no_sense_are_refused(tmp_path):
  path = tmp_path / 'x.png'
  with pytest.raises(InputError, match=r'delta in \(0, 1\), got 0.0'):
    _figures.epsilon_delta_curve([0.0], [1.0], path, at_delta=1e-5, at_epsilon=1.0)
  with pytest.raises(InputError, match=r'delta in \(0, 1\), got 1.5'):
    _figures.epsilon_delta_curve([0.1], [1.0], path, at_delta=1.5, at_epsilon=1.0)
  with pytest.raises(InputError, match='one epsilon per delta'):
    _figures.epsilon_delta_curve([0.1, 0.2], [1.0], path, at_delta=1e-5, at_epsilon=1.0)
  assert not any(tmp_path.iterdir())


# --- all ------------------------------------------------------------------------------------------

DRAW = {
  'grid': lambda path: _figures.sample_grid(
    np.arange(64, dtype=np.uint8).reshape(4, 4, 4), path, labels=np.arange(4), title='ε'
  ),
  'losses': lambda path: _figures.loss_curves([line(n, epsilon=n / 9) for n in range(9)], path),
  'delta': lambda path: _figures.epsilon_delta_curve(
    [1e-6, 1e-5], [2.0, 1.0], path, at_delta=1e-5, at_epsilon=1.0
  ),
}


@pytest.mark.parametrize('name', DRAW)
def test_the_same_input_gives_the_same_bytes_and_replaces_the_file(tmp_path, name):
  path = tmp_path / 'new' / 'figure.png'
  DRAW[name](path)
  before = path.read_bytes()
  path.write_bytes(b'old')
  DRAW[name](path)
  assert path.read_bytes() == before
  pixels(path)
  assert [p.name for p in path.parent.iterdir()] == ['figure.png']


@pytest.mark.parametrize('name', DRAW)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, name, monkeypatch):
  path = tmp_path / 'figure.png'
  path.write_bytes(b'old')

  def full(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.fsync', full)
  with pytest.raises(OSError, match='No space left'):
    DRAW[name](path)
  assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [('figure.png', b'old')]


def test_pyplot_is_never_imported():
  code = 'import sys, dpgan_jax._figures; sys.exit("matplotlib.pyplot" in sys.modules)'
  root = pathlib.Path(__file__).parents[1]
  assert subprocess.run([sys.executable, '-c', code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(('side', 'scale'), [(8, 7), (28, 2), (64, 1), (500, 1)])
def test_small_images_are_shown_as_large_as_those_of_mnist(side, scale):
  assert _figures.scale_of((side, side, 1)) == scale
  assert np.abs(side * scale - 56) <= 8 or scale == 1
