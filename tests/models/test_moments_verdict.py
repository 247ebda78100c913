"""The verdict on a release: useless ones are called so, good ones are not, and it costs nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import pytest

from dpgan_jax import load_dataset
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict

DIGITS = load_dataset('digits')


def _judge(images, labels, epsilon, names=DIGITS.class_names, draw=0):
  """Of a release that is the same whenever the test runs; another `draw` is another release."""
  spec = dataclasses.replace(DIGITS.spec, num_records=len(images), class_names=names)
  moments = settings.make(TrainConfig(target_epsilon=epsilon), spec)
  return verdict.judge(*_release(images, labels, moments, draw), moments), verdict.expected(moments)


def _release(images, labels, moments, draw=0):
  codes, secret = moments.encoding.encode(images), hashlib.sha256(b'%d' % draw).digest()
  return release.release_both(codes, labels, moments, secret)


def test_labels_that_say_nothing_are_useless_however_large_epsilon():
  """The bound lies where about one in a hundred of such releases at ε = 1 is called poor."""
  levels = []
  for draw, epsilon in enumerate([1.0, 4.0, 20.0, math.inf] * 4):
    shuffled = np.random.default_rng(draw).permutation(DIGITS.labels)
    found, _ = _judge(DIGITS.images, shuffled, epsilon, draw=draw)
    levels.append(found.level)
    assert ('do not stand out' in found.sentence) == (found.level == 'useless')
  assert levels.count('useless') >= 15
  assert set(levels) <= {'useless', 'poor'}


@pytest.mark.parametrize(
  ('n', 'epsilon', 'level'),
  [
    pytest.param(200, 0.1, 'useless', marks=pytest.mark.slow),
    (1440, 0.1, 'useless'),
    (1440, 4.0, 'good'),
    pytest.param(1440, 1e6, 'good', marks=pytest.mark.slow),
  ],
)
def test_records_and_epsilon_make_the_level(n, epsilon, level):
  for draw in range(5):
    found, expected = _judge(DIGITS.images[:n], DIGITS.labels[:n], epsilon, draw=draw)
    assert found.level == level
    assert found.colour == verdict.COLOURS[level]
    # Beforehand it is known to within one level.
    assert abs(verdict.LEVELS.index(expected) - verdict.LEVELS.index(level)) <= 1


def test_between_the_two_it_is_neither_good_nor_useless():
  levels = [_judge(DIGITS.images, DIGITS.labels, 0.4, draw=d)[0].level for d in range(10)]
  assert set(levels) <= {'poor', 'usable'}
  sentence = _judge(DIGITS.images, DIGITS.labels, 0.4)[0].sentence
  assert 'times as many records' in sentence


def test_how_bright_all_images_are_says_nothing_of_their_classes():
  """Noise in a count takes nothing from differences of classes, wherever their mean is."""
  spec = dataclasses.replace(DIGITS.spec, num_records=len(DIGITS.images))
  moments = settings.make(TrainConfig(target_epsilon=1.0), spec)
  means, seconds = _release(DIGITS.images, DIGITS.labels, moments)
  brighter = means.sums + 3 * means.counts[:, np.newaxis]
  found = verdict.judge(dataclasses.replace(means, sums=brighter), seconds, moments)
  before = verdict.judge(means, seconds, moments)
  assert before is not None
  assert found is not None
  assert found.signal == pytest.approx(before.signal, rel=1e-6)


def test_static_is_useless():
  static = np.random.default_rng(0).integers(0, 256, DIGITS.images.shape, np.uint8)
  assert _judge(static, DIGITS.labels, 2.0)[0].level == 'useless'


def test_a_class_of_few_records_is_named():
  kept = (DIGITS.labels != 3) | (np.cumsum(DIGITS.labels == 3) <= 5)
  # Noise hides it from a verdict now and then: a count of 5 is 2 of its deviations from the limit.
  judged = [_judge(DIGITS.images[kept], DIGITS.labels[kept], 4.0, draw=d)[0] for d in range(10)]
  named = [found for found in judged if found.small_classes == ('3',)]
  assert len(named) >= 8
  assert 'Too small to be learnt at this ε: 3.' in named[0].sentence


def test_beforehand_too_such_a_class_is_named_by_its_count():
  moments = settings.make(TrainConfig(target_epsilon=4.0), DIGITS.spec)
  counts = np.bincount(DIGITS.labels)
  assert verdict.too_small(moments, counts) == ()
  counts[[3, 7]] = 5, 0
  assert verdict.too_small(moments, counts) == ('3', '7')
  assert verdict.named(tuple('abcdefghijkl')) == 'a, b, c, d, e, f, g, h, i, j and 2 more'


def test_without_noise_or_classes():
  assert _judge(DIGITS.images, DIGITS.labels, math.inf)[0].level == 'good'
  alone, _ = _judge(DIGITS.images, np.zeros(1440, np.int32), 1.0, ('all',))
  assert alone is None


def test_it_follows_from_the_release_alone():
  """The same release gives the same verdict: nothing else of the records is looked at."""
  moments = settings.make(TrainConfig(target_epsilon=2.0), DIGITS.spec)
  means, seconds = _release(DIGITS.images, DIGITS.labels, moments)
  again = dataclasses.replace(means, counts=means.counts.copy(), sums=means.sums.copy())
  assert verdict.judge(again, seconds.copy(), moments) == verdict.judge(means, seconds, moments)
