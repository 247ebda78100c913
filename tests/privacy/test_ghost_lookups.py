"""Table lookups: ids of every integer type, in and out of range, are those of plain gradients."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax.privacy import clipping

Mode = jax.lax.GatherScatterMode
NUMBERS = jax.lax.GatherDimensionNumbers(
  offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
)
DTYPES = ('int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32')


def looked_up(table: jax.Array, ids: jax.Array, mode: Mode) -> jax.Array:
  """The gather itself: `table[ids]` would first move negative ids into the range."""
  return jax.lax.gather(
    table, ids[:, None], NUMBERS, (1, table.shape[1]), mode=mode, fill_value=0.0
  )


def check(loss, table: jax.Array, ids: jax.Array) -> None:
  # What ids mean does not depend on their width, and of narrow ones XLA has been seen to be wrong.
  wide = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids
  grads = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(table, wide)
  for strategy in ('auto', 'ghost'):
    fn = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=1e6, strategy=strategy))
    got = fn(table, ids)
    np.testing.assert_allclose(got.sum, grads.sum(axis=0), atol=1e-4)
    want = np.linalg.norm(np.asarray(grads).reshape(len(ids), -1), axis=1)
    np.testing.assert_allclose(got.norms, want, rtol=1e-4)


def random_ids(dtype: str, rows: int, seed: int, shape: tuple[int, ...]) -> jax.Array:
  """Some in range, some just beside it, some as far out as the type goes."""
  info = np.iinfo(dtype)
  near = np.array([0, 1, rows - 2, rows - 1, rows, rows + 1, -1, -2, -rows, -rows - 1])
  choices = np.concatenate([near, [info.min, info.max, info.min + 1, info.max - 1]])
  choices = choices[(choices >= info.min) & (choices <= info.max)]
  return jnp.asarray(np.random.default_rng(seed).choice(choices, shape).astype(dtype))


@pytest.mark.parametrize(
  'dtype',
  [
    pytest.param(d, marks=[] if d in ('uint8', 'int16', 'int32') else [pytest.mark.slow])
    for d in DTYPES
  ],
)
@hypothesis.given(
  rows=st.sampled_from([1, 3, 127, 128, 129, 200, 255, 256, 257, 300]), seed=st.integers(0, 99),
  mode=st.sampled_from([Mode.FILL_OR_DROP, Mode.CLIP, Mode.PROMISE_IN_BOUNDS]),
)  # fmt: skip
@hypothesis.settings(max_examples=2)
def test_every_mode_and_integer_type(dtype, rows, seed, mode):
  ids = random_ids(dtype, rows, seed, (2, 6))
  table = jnp.asarray(np.random.default_rng(seed).standard_normal((rows, 2)), jnp.float32)
  weights = jnp.arange(1.0, 13.0).reshape(6, 2)
  check(lambda t, i: jnp.sum((looked_up(t, i, mode) + 1.0) ** 2 * weights), table, ids)


@pytest.mark.parametrize(
  ('mode', 'dtype', 'rows'),
  [
    ('fill', 'uint8', 300),
    pytest.param('clip', 'uint8', 256, marks=pytest.mark.slow),
    pytest.param(None, 'int8', 100, marks=pytest.mark.slow),
    ('wrap', 'int16', 5),
  ],
)
def test_indexing_and_take(mode, dtype, rows):
  table = jnp.asarray(np.random.default_rng(0).standard_normal((rows, 3)), jnp.float32)
  ids = jnp.asarray([[0, 3, 99 % rows, 3], [2, 4, 4, 4]]).astype(dtype)

  def loss(t: jax.Array, i: jax.Array) -> jax.Array:
    rows = jnp.take(t, i, axis=0, mode=mode)  # indexing knows no 'wrap'
    return jnp.sum(jnp.sin(rows) + t.at[i].get(mode=None if mode == 'wrap' else mode))

  check(loss, table, ids)


def test_a_byte_vocabulary():
  table = jnp.zeros((256, 4))
  got = clipping.clipped_grad(lambda t, i: t[i].sum(), l2_clip_norm=100.0)(
    table, jnp.arange(250, 256, dtype=jnp.uint8)[None]
  )
  assert float(got.norms[0]) == pytest.approx(24**0.5, rel=1e-5)
  np.testing.assert_array_equal(got.sum[250:], 1.0)
  np.testing.assert_array_equal(got.sum[:250], 0.0)


@pytest.mark.parametrize('rows', [2, 9])
def test_a_table_smaller_than_the_sequence_and_one_read_twice(rows):
  ids = jnp.asarray(np.random.default_rng(0).integers(0, rows, (3, 5)))

  def loss(t: jax.Array, i: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(t[i]) * t[i[::-1]])

  check(loss, jnp.asarray(np.random.default_rng(1).standard_normal((rows, 2)), jnp.float32), ids)


def test_an_example_whose_tokens_cancel_stays_within_the_bound():
  """±d for one token: only rounding is left of it, beside another token."""
  d = np.random.default_rng(0).standard_normal((1, 4, 1000)).astype(np.float32) * 1e6
  d[0, 1], d[0, 3] = -d[0, 0] * np.float32(1 + 2e-7), 1e-3
  ids = jnp.array([[7, 7, 3, 3]])
  for strategy in clipping.STRATEGIES:
    fn = clipping.clipped_grad(
      lambda t, i, d: jnp.sum(t[i] * d), l2_clip_norm=0.1, strategy=strategy
    )
    total = np.asarray(jax.jit(fn)(jnp.zeros((9, 1000)), ids, jnp.asarray(d)).sum, np.float64)
    assert 0.0999 < np.linalg.norm(total) <= 0.1


@pytest.mark.parametrize('strategy', ['auto', 'ghost'])
@pytest.mark.parametrize(('rows', 'positions'), [(50_257, 128), (4096, 2048)])
def test_memory_of_a_lookup_does_not_grow_with_the_table(strategy, rows, positions):
  """Comparing ids takes the memory of the output; dense tables of 8 examples took 3.7 GB."""
  width, count = 768, 8
  fn = jax.jit(clipping.clipped_grad(
    lambda e, i: jnp.sum(jnp.tanh(e[i])), l2_clip_norm=1.0, strategy=strategy,
    microbatch_size=count,
  ))  # fmt: skip
  ids = jax.ShapeDtypeStruct((count, positions), jnp.int32)
  plan = fn.lower(jax.ShapeDtypeStruct((rows, width), jnp.float32), ids).compile()
  assert plan.memory_analysis().temp_size_in_bytes < 7 * count * positions * width * 4
