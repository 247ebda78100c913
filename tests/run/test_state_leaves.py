"""The digest of a state: the same for the same bits, another for any other bit, name or form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _state_leaves


def make() -> dict[str, object]:
  return {
    'a': np.array([0.0, 1.0, np.nan], np.float32),
    'b': np.arange(3, dtype=np.int32),
    'key': jax.random.key(0),
  }


def test_the_same_bits_have_the_same_digest_wherever_they_lie():
  on_device = {**make(), 'a': jnp.asarray(make()['a']), 'b': jnp.asarray(make()['b'])}
  assert _state_leaves.state_digest(make()) == _state_leaves.state_digest(on_device)


@pytest.mark.parametrize(
  'change',
  [
    {'a': np.array([-0.0, 1.0, np.nan], np.float32)},  # equal, and yet other bits
    {'a': np.array([0.0, 1.0, np.nan], np.float64)},
    {'a': np.array([[0.0, 1.0, np.nan]], np.float32)},
    {'b': np.array([0, 1, 3], np.int32)},
    {'b': np.arange(3, dtype=np.uint32)},
    {'key': jax.random.key(1)},
    {'key': np.zeros(2, np.uint32)},  # the words of a key are no key
    {'c': np.zeros(1)},
  ],
)
def test_any_other_bit_name_or_form_has_another(change):
  assert _state_leaves.state_digest({**make(), **change}) != _state_leaves.state_digest(make())


def test_the_arrays_are_copies():
  state = {'a': np.zeros(3)}
  _, arrays = _state_leaves.to_host(state)
  state['a'][0] = 1
  assert arrays["state['a']"][0] == 0
