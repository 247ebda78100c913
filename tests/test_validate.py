"""dpgan_jax._validate: what is accepted comes back, what is not is named with its value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpgan_jax import _validate


def test_returns_what_it_accepts():
  assert _validate.positive('x', np.float32(0.5)) == 0.5
  assert _validate.positive('x', math.inf, allow_inf=True) == math.inf
  assert _validate.non_negative('x', 0) == 0.0
  assert _validate.number('x', np.int64(4), _validate.Range(1, 4)) == 4.0
  assert _validate.fraction('x', 1, open_right=False) == 1.0
  assert _validate.fraction('x', 0, open_left=False) == 0.0
  assert _validate.integer('x', np.int64(7), minimum=7, maximum=7) == 7
  assert _validate.one_of('x', 'a', ('a', 'b')) == 'a'


@pytest.mark.parametrize(
  ('check', 'message'),
  [
    (lambda: _validate.positive('x', 0.0), 'expected x > 0, got 0.0'),
    (lambda: _validate.positive('x', math.inf), 'expected x > 0 and finite, got inf'),
    (lambda: _validate.positive('x', math.nan), 'expected x > 0, got nan'),
    (lambda: _validate.positive('x', True), 'expected x to be a number > 0, got True'),
    (lambda: _validate.positive('x', '1'), "expected x to be a number > 0, got '1'"),
    (lambda: _validate.non_negative('x', -1), 'expected x >= 0, got -1'),
    (lambda: _validate.positive('x', -math.inf), 'expected x > 0, got -inf'),
    (lambda: _validate.number('x', 4, _validate.Range(1, 4, open_right=True)), 'in [1, 4), got 4'),
    (lambda: _validate.number('x', 1, _validate.Range(1, 4, open_left=True)), 'in (1, 4], got 1'),
    (lambda: _validate.non_negative('x', math.inf), 'expected x >= 0 and finite, got inf'),
    (lambda: _validate.fraction('x', 1.0), 'expected x in (0, 1), got 1.0'),
    (lambda: _validate.fraction('x', 0.0, open_right=False), 'expected x in (0, 1], got 0.0'),
    (lambda: _validate.fraction('x', -0.1, open_left=False), 'expected x in [0, 1), got -0.1'),
    (lambda: _validate.integer('x', 2, minimum=3), 'expected x >= 3, got 2'),
    (lambda: _validate.integer('x', 9, minimum=3, maximum=8), 'expected x in [3, 8], got 9'),
    (lambda: _validate.integer('x', 3.0, minimum=3), 'a whole number >= 3, got 3.0'),
    (lambda: _validate.integer('x', True, minimum=0), 'a whole number >= 0, got True'),
    (lambda: _validate.one_of('x', 'c', ('a', 'b')), "expected x to be one of a, b; got 'c'"),
  ],
)
def test_names_the_value_and_what_would_be_right(check, message):
  with pytest.raises(_validate.InputError) as caught:
    check()
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_message_is_one_bounded_line_whatever_it_quotes():
  quoted = 'x\r\n\x1b]0;title\x07\u2028\udcff é ε'
  assert str(_validate.InputError(quoted)) == r'x\r\n\x1b]0;title\x07\u2028\udcff é ε'
  long = str(_validate.InputError('a' * 10**6 + 'z'))
  assert len(long) <= 2000
  assert long.startswith('aaa')
  assert long.endswith('az')
