"""dpgan_jax._settings: what a field says is what is checked, and what its help shows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dpgan_jax import _settings, _validate
from dpgan_jax._settings import field
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  whole: int = field(3, 'Whole.', minimum=1, maximum=9)
  finite: float = field(0.5, 'Finite.', above=0)
  endless: float = field(0.5, 'Endless.', minimum=0, maximum=math.inf)
  share: float | None = field(None, 'Share.', above=0, below=1)
  kind: str = field('npz', 'Kind.', choices=('npz', 'png'))
  name: str = field('x', 'Name.')
  loud: bool = field(False, 'Loud.')
  parts: tuple[str, ...] | None = field(None, 'Parts.', choices=('a', 'b'))

  __post_init__ = _settings.check


def test_what_is_right_comes_as_pythons_own():
  made = Options(whole=np.int64(9), finite=np.float32(0.25), endless=math.inf, parts=['b', 'a'])
  assert dataclasses.astuple(made) == (9, 0.25, math.inf, None, 'npz', 'x', False, ('b', 'a'))
  assert [type(x) for x in (made.whole, made.finite)] == [int, float]


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'whole': 0}, 'expected whole in [1, 9], got 0'),
    ({'whole': 10}, 'expected whole in [1, 9], got 10'),
    ({'whole': None}, 'expected whole to be a whole number in [1, 9], got None'),
    ({'finite': 0}, 'expected finite > 0, got 0'),
    ({'finite': math.inf}, 'expected finite > 0 and finite, got inf'),
    ({'endless': -1}, 'expected endless >= 0, got -1'),
    ({'share': 1.0}, 'expected share in (0, 1), got 1.0'),
    ({'kind': None}, 'expected kind to be one of npz, png; got None'),
    ({'name': 5}, 'expected name to be text, got 5'),
    ({'name': None}, 'expected name to be text, got None'),
    ({'loud': 1}, 'expected loud to be true or false, got 1'),
    ({'parts': ('a', 'c')}, "expected parts to be one of a, b; got 'c'"),
  ],
  ids=str,
)
def test_what_is_wrong_is_named(given, message):
  with pytest.raises(_validate.InputError) as caught:
    Options(**given)
  assert str(caught.value) == message


def test_help_ends_with_range_or_choices_and_default():
  assert [setting.describe() for setting in _settings.of(Options)] == [
    'Whole. (a whole number in [1, 9]; default: 3)',
    'Finite. (> 0; default: 0.5)',
    'Endless. (>= 0; default: 0.5)',
    'Share. (in (0, 1))',
    'Kind. (npz, png; default: npz)',
    'Name. (default: x)',
    'Loud. (default: false)',
    'Parts. (a, b)',
  ]


@pytest.mark.parametrize('config', [TrainConfig, ClassifierConfig])
def test_every_field_of_a_configuration_says_what_it_may_be(config):
  """A default that it may have itself; a number that has a smallest one; a group of its own."""
  few = 0
  for setting in _settings.of(config):
    assert setting.check(setting.default) == setting.default
    assert setting.kind not in (int, float) or setting.range.minimum >= 0, setting.name
    said = setting.choices or setting.name in ('dataset', 'image_size')  # what their readers check
    assert setting.kind is not str or said, setting.name
    assert setting.group != 'other', setting.name
    few += setting.common
  assert 5 < few < 20
