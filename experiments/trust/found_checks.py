"""Checks of what others found wrong once, each with its kind: bindings, sides, pairs, rounding.

As in `mechanism_checks`: functions without arguments that pass where the package is correct.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.budget import budget
from dpgan_jax.data import sources
from dpgan_jax.networks import losses
from dpgan_jax.privacy import clipping
from dpgan_jax.run import loop, secrets
from dpgan_jax.run.checkpoint import Checkpoints
from experiments.trust import device_checks, mechanism_checks
from experiments.trust.statistical_checks import Violation


def rounding_lets_no_example_exceed_the_clip_norm() -> None:
  """Rows c and c·(1 + gap) with gradients ±d: norms by products of rows are nothing but rounding.

  C = 0.1, 65,536 columns; compared with float64.
  """
  clipped = jax.jit(clipping.clipped_grad(lambda w, a, d: jnp.sum((a @ w) * d), l2_clip_norm=0.1))
  rng = np.random.default_rng(0)
  row, direction = rng.standard_normal(65_536), rng.standard_normal(8)
  d = jnp.asarray(np.stack([direction, -direction]), jnp.float32)
  for gap in (1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 0.066):
    a = jnp.asarray(np.stack([row, row * (1 + gap)]), jnp.float32)
    found = clipped(jnp.zeros((65_536, 8)), a[None], d[None]).sum
    if (length := float(np.linalg.norm(np.asarray(found, np.float64)))) > 0.1:
      raise Violation(f'an example adds {length:.6g} to a sum clipped to 0.1')


def rounding_moves_no_sum_farther_than_the_clip_norm() -> None:
  """3,000 examples along one direction: the last place of their sum is 2·10⁻⁴ of C."""
  n, rng = 3000, np.random.default_rng(0)
  clipped = jax.jit(lambda g, mask: clipping.clipped_sum(g, l2_clip_norm=1.0, mask=mask).sum)
  for _ in range(25):
    lengths = np.append(3, rng.uniform(0.4, 0.8, n - 1))
    g = jnp.asarray(lengths[:, None] * [[1.0, 1.0]], jnp.float32)
    two = (np.asarray(clipped(g, jnp.arange(n) >= first), np.float64) for first in (0, 1))
    if (moved := float(np.linalg.norm(next(two) - next(two)))) > 1:
      raise Violation(f'an example moves a sum clipped to 1 by {moved:.6g}')


def padding_is_anywhere_in_a_batch() -> None:
  """So that an example more can stand where padding stood, and no other is moved."""
  sampler = mechanism_checks.MECHANISM.sampler
  masks = jax.vmap(lambda key: sampler(key, 0).mask)(jax.random.split(jax.random.key(0), 400))
  share = np.asarray(masks).mean(axis=0)
  mean = share.mean()
  if (most := abs(share - mean).max()) > 4.5 * np.sqrt(mean * (1 - mean) / 400):  # of 50 places
    raise Violation(f'a place of a batch is padding {most:.0%} more or less often than the mean')


def a_masked_example_is_read_by_no_other() -> None:
  """Behind a convolution that crops one side and pads the other, which XLA:CPU once got wrong."""
  rng = np.random.default_rng(0)
  kernel = jnp.asarray(rng.standard_normal((3, 3, 2, 3)), jnp.float32)
  x = np.asarray(rng.standard_normal((4, 8, 7, 2)), np.float32)

  def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
    y = jax.lax.conv_general_dilated(
      x[None], kernel, (1, 1), ((-1, 1), (0, 0)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return jnp.sum(jnp.tanh(y))

  clipped = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=0.5))
  mask, other = jnp.asarray([True, True, True, False]), x.copy()
  other[3] += 7
  one, two = (np.asarray(clipped(kernel, x, mask=mask).sum) for x in (x, other))
  if (moved := float(np.linalg.norm(one - two))) > 1e-5:
    raise Violation(f'a masked example moves the sum by {moved:.3g}')


def complex_numbers_are_refused() -> None:
  """The noise on their imaginary part would be none."""
  for part in ('gradient', 'batch of gradients'):
    tree = {'a': jnp.ones((3, 2)), 'b': jnp.ones((3, 2), jnp.complex64)}
    try:
      if part == 'gradient':
        mechanism_checks.MECHANISM.noise_sum(jax.random.key(0)).init(tree)
      clipping.clipped_sum(tree, l2_clip_norm=1.0)
    except _validate.InputError:
      continue
    raise Violation(f'complex numbers in a {part} are taken')


def pairs_follow_from_the_example_alone() -> None:
  """Of a gradient penalty: whoever else was drawn, an example has the same fake and share."""
  key, examples = jax.random.key(4), jnp.arange(40, dtype=jnp.int32)
  all_of, some = (losses.partners(key, each, 1000) for each in (examples, examples[3:]))
  for name in all_of._fields:
    if (getattr(all_of, name)[3:] != getattr(some, name)).any():
      raise Violation(f"an example's {name} follows from who else was drawn")


def sides_follow_from_the_record_alone() -> None:
  """Of a hold-out: with one record less, no other changes sides."""
  data = device_checks.data()
  sides = sources.chosen(data.content, 0.3)
  without = sources.chosen(data.content[1:], 0.3)
  if moved := int((sides[1:] != without).sum()):
    raise Violation(f'{moved} of {len(without)} records change sides with another record')


def _key(folder: str, seed: int | None, fingerprint: str, steps: int) -> bytes:
  """Of the GAN of a run in a folder."""
  mechanism = dataclasses.replace(mechanism_checks.MECHANISM, steps=steps)
  records: Any = types.SimpleNamespace(
    spec=mechanism_checks.SPEC, fingerprint=lambda: fingerprint
  )
  planned: Any = types.SimpleNamespace(
    budget=budget.Budget(mechanism), to_record=lambda: {'config': {'seed': seed}}
  )
  opened = loop.Run.open(
    folder, {'seed': seed}, records, make=lambda: planned, read=lambda *_: planned, progress=False
  )
  with opened as (_, run):
    return jax.random.key_data(run._secret.key(budget.STAGE)).tobytes()


def runs_of_one_seed_share_no_noise() -> None:
  """Of other data, or another mechanism: their noise would cancel."""
  with tempfile.TemporaryDirectory() as folder:
    keys = [
      _key(f'{folder}/{data}{steps}', 1, data, steps)
      for data, steps in (('f00d', 20), ('beef', 20), ('f00d', 30))
    ]
  if len(set(keys)) < 3:
    raise Violation('two runs of one seed on other data, or of another mechanism, have one key')


def copies_of_a_run_are_one_release() -> None:
  """A stage that has not begun begins with the same key in every copy."""
  with tempfile.TemporaryDirectory() as folder:
    first = _key(f'{folder}/run', None, 'f00d', 20)
    again = _key(f'{folder}/run', None, 'f00d', 20)
  if first != again:
    raise Violation('a run that goes on begins its stages with other keys')


def checkpoints_are_those_of_the_run() -> None:
  """Weights of another run, under this run's ledger, are refused."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name) / 'checkpoints'
    with Checkpoints(folder, identity='of another run') as checkpoints:
      checkpoints.save(1, {'x': jnp.ones(3)}, {})
    with Checkpoints(folder, identity='of this run') as checkpoints:
      try:
        found = checkpoints.restore_latest({'x': jax.ShapeDtypeStruct((3,), jnp.float32)})
      except _validate.InputError:
        return
  raise Violation(f'a checkpoint of another run is taken: {found}')


def keys_are_of_one_generator() -> None:
  """Whatever the process is set to."""
  with jax.default_prng_impl('rbg'):
    impl = str(jax.random.key_impl(secrets.Secret.of_seed(0).key('x')))
  if impl not in ('fry', 'threefry2x32'):
    raise Violation(f'keys of a run are of {impl} where the process is set to it')
