"""The secret of a run: every key of every stage follows from it.

It is on the disk before anything is charged. So a run that is interrupted, or copied and finished
twice, draws the same batches and the same noise again: the same release, not a second one.

>>> secret = Secret.of_seed(7, 'this data set', 'these settings')
>>> same, other = Secret.of_seed(7, 'this data set', 'these settings'), Secret.of_seed(7, 'another')
>>> secret.key('dp_sgd') == same.key('dp_sgd'), secret.key('dp_sgd') == other.key('dp_sgd')
(Array(True, dtype=bool), Array(False, dtype=bool))
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _files, _keys, _validate

_BYTES = 32


class Secret:
  """256 secret bits. Whoever holds them can remove the noise: they are as private as the data."""

  def __init__(self, value: bytes) -> None:
    if len(value) != _BYTES:
      raise _validate.InputError(f'expected a secret of {_BYTES} bytes, got {len(value)}')
    self._value = value

  @classmethod
  def from_os(cls) -> Secret:
    """Every bit from the operating system: for anything that is to be released."""
    return cls(os.urandom(_BYTES))

  @classmethod
  def of_seed(cls, seed: int, *bound_to: str) -> Secret:
    """From a seed of at most 32 bits, which can be found by trying: for experiments.

    Args:
      seed: what a user chose.
      *bound_to: what else the secret depends on, such as the fingerprint of the data and the
        settings. Runs that differ in any of it share no noise, so that one seed used twice cancels
        nothing and ε of several runs composes.
    """
    return cls(hashlib.blake2b(json.dumps([seed, *bound_to]).encode(), digest_size=_BYTES).digest())

  def derive(self, purpose: str) -> bytes:
    """32 bytes for one purpose, independent of those for any other."""
    return hashlib.blake2b(purpose.encode(), key=self._value, digest_size=_BYTES).digest()

  def commitment(self) -> str:
    """What tells this secret from any other, and nothing about it."""
    return self.derive('commitment').hex()

  def key(self, purpose: str) -> jax.Array:
    """A typed threefry key (64 bits) for one purpose, such as the name of a stage."""
    words = np.frombuffer(self.derive(purpose)[:8], np.uint32).copy()
    return jax.random.wrap_key_data(jnp.asarray(words), impl='threefry2x32')

  def save(self, path: pathlib.Path) -> None:
    """Writes the secret, readable by its owner only; on return it is on the disk."""
    with _files.atomic_write(path, mode='w', permissions=0o600) as file:
      file.write(json.dumps({'secret': self._value.hex()}) + '\n')

  @classmethod
  def load(cls, path: pathlib.Path) -> Secret:
    """Reads what `save` wrote.

    Raises:
      InputError: no such file, or not a secret.
    """
    try:
      return cls(bytes.fromhex(json.loads(path.read_bytes())['secret']))
    except FileNotFoundError:
      raise _validate.InputError(
        f'{path} is missing: without its keys the run cannot go on; restore it from a backup'
      ) from None
    except (ValueError, KeyError, TypeError):
      raise _validate.InputError(f'{path} is damaged; restore it from a backup') from None


def describe(seed: int | None) -> str:
  """Where the keys of a run came from, for a record."""
  if seed is None:
    return 'secret: 64 bits from the operating system'
  return 'fixed: reproducible, not private against those who know the seed'


def root_key(seed: int | None) -> jax.Array:
  """A key for samples: from a seed, or with every bit from the operating system."""
  if seed is None:
    return Secret.from_os().key('samples')
  return _keys.from_seed(seed)
