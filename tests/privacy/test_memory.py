"""dpgan_jax.privacy.memory: estimates that XLA's own plans bear out, and batches cut to fit a
budget.
"""

from __future__ import annotations

import math
import types

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.networks import discriminators
from dpgan_jax.privacy import clipping, memory
from dpgan_jax.privacy.ghost import forms

SHAPE, CLASSES = (8, 8, 1), 3
CPU = jax.default_backend() == 'cpu'
FLOATS = jax.ShapeDtypeStruct((1000,), jnp.float32)
PARAMS = jax.ShapeDtypeStruct((30, 30), jnp.float32)


def shapes(n: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((n, 30), jnp.float32)


def loss(w: jax.Array, x: jax.Array) -> jax.Array:
  return jnp.sum(jnp.tanh(x @ w))


def estimate(fn, *args) -> float:
  """In arrays of 1,000 float32, without the margin."""
  return memory.working_bytes(fn, *args) / memory.MARGIN / 4000


@pytest.mark.parametrize(
  ('fn', 'arrays'),
  [
    (lambda x: x, 0),  # what is given is not counted
    (lambda x: jnp.sin(x), 1),
    (lambda x: jnp.sin(jnp.cos(x)), 2),
    (lambda x: jnp.sin(jnp.cos(jnp.tan(x))), 2),  # the first is not needed for the third
    (lambda x: [jnp.sin(x), jnp.cos(x), jnp.tan(x)], 3),
    (lambda x: jnp.sin(x) * jnp.cos(jnp.tan(x)), 3),
    (lambda x: (lambda y: y * jnp.tan(jnp.cos(y)))(jnp.sin(x)), 3),  # y is needed to the end
    (jax.jit(lambda x: jnp.sin(jnp.cos(x))), 2),
    (lambda x: jnp.sin(x.astype(jnp.bfloat16)), 2 if CPU else 1),  # kept in float32 on a CPU
    (lambda x: jax.lax.scan(lambda c, _: (jnp.sin(jnp.cos(c)), None), x, length=50)[0], 2),
    (lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, length=5)[1], 6),
    (lambda x: jax.lax.cond(True, lambda: jnp.sin(x), lambda: jnp.sin(jnp.cos(x))), 2),
  ],
)  # fmt: skip
def test_counts_what_is_needed_at_one_time(fn, arrays):
  assert estimate(fn, FLOATS) == pytest.approx(arrays, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['compact', 'report', 'dense'])
@pytest.mark.parametrize(('microbatch', 'dtype'), [(None, 'float32'), (16, 'float32'),
                                                   (None, 'bfloat16')])  # fmt: skip
def test_xla_needs_no_more_than_the_estimate_and_not_far_less(name, microbatch, dtype):
  discriminator = discriminators.make_discriminator(name, SHAPE, CLASSES)
  images = jax.ShapeDtypeStruct((64, *SHAPE), jnp.float32)
  labels = jax.ShapeDtypeStruct((64,), jnp.int32)
  params = jax.eval_shape(discriminator.init, jax.random.key(0), images, labels)['params']

  def loss_fn(params, image, label):
    params, image = jax.tree.map(lambda x: x.astype(dtype), (params, image))
    return discriminator.apply({'params': params}, image[None], label[None])[0]

  fn = clipping.clipped_grad(loss_fn, l2_clip_norm=1.0, microbatch_size=microbatch)
  plan = jax.jit(fn).lower(params, images, labels).compile().memory_analysis()
  told = memory.working_bytes(fn, params, images, labels)
  assert told / 4 < plan.temp_size_in_bytes <= told


class TestLargestMicrobatch:
  def fits(self, n: int, size: int | None) -> int:
    fn = clipping.clipped_grad(loss, l2_clip_norm=3.0, microbatch_size=size, strategy='vmap')
    return memory.working_bytes(fn, PARAMS, shapes(n))

  def choose(self, n: int, budget: int) -> int:
    return clipping.largest_microbatch(loss, PARAMS, (shapes(n),), budget=budget, strategy='vmap')

  def test_the_whole_batch_where_it_fits(self):
    assert self.choose(60, self.fits(60, None)) == 60

  @pytest.mark.slow
  @hypothesis.settings(max_examples=15)
  @hypothesis.given(n=st.integers(1, 300), share=st.floats(0.0, 1.0))
  def test_equal_parts_that_fit_and_no_more_of_them_than_needed(self, n, share):
    least, most = self.fits(n, 1), self.fits(n, None)
    budget = math.ceil(least + share * max(most - least, 0))
    size = self.choose(n, budget)
    assert self.fits(n, size) <= budget
    parts = math.ceil(n / size)
    sizes = [math.ceil(n / 2**k) for k in range(10)]
    assert size in sizes
    larger = [s for s in sizes if s > size]
    assert parts == 1 or self.fits(n, min(larger)) > budget

  def test_the_strategy_that_saves_memory_looks_at_more_at_once(self):
    params = jax.ShapeDtypeStruct((200, 200), jnp.float32)
    batch = (jax.ShapeDtypeStruct((64, 200), jnp.float32),)
    by_vmap, by_ghost = (
      clipping.largest_microbatch(loss, params, batch, budget=2**21, strategy=s)
      for s in ('vmap', 'auto')
    )
    assert by_ghost == 64 >= 16 * by_vmap

  def test_a_budget_below_one_example_is_refused_with_what_would_do(self):
    with pytest.raises(InputError, match=r'memory_budget_gib >= \S+, .* got 9.31e-07'):
      self.choose(8, 1000)


class TestBudget:
  def test_is_what_was_given(self):
    assert memory.budget_bytes(1.5) == 3 * 2**29

  @pytest.mark.parametrize('gib', [0.0, -1.0, math.inf, math.nan])
  def test_refuses(self, gib):
    with pytest.raises(InputError, match=rf'memory_budget_gib > 0.*, got {gib}'):
      memory.budget_bytes(gib)

  def test_default_is_a_power_of_two_of_this_machine(self):
    budget = memory.budget_bytes()
    assert budget.bit_count() == 1
    assert budget <= memory._device_bytes() / 4 < 2 * budget
    assert budget == memory.budget_bytes()

  def test_an_accelerator_counts_its_own_memory(self, monkeypatch):
    card = types.SimpleNamespace(memory_stats=lambda: {'bytes_limit': 63_000_000_000})
    monkeypatch.setattr(jax, 'local_devices', lambda: [card])
    assert memory.budget_bytes() == 8 * 2**30

  def test_a_control_group_limits_a_cpu(self, monkeypatch, tmp_path):
    unlimited, limit = tmp_path / 'unlimited', tmp_path / 'limit'
    unlimited.write_text('max\n')
    limit.write_text(f'{2**30}\n')
    files = (tmp_path / 'absent', unlimited, limit)
    monkeypatch.setattr(memory, '_CGROUP_LIMITS', files)
    assert memory.budget_bytes() == 2**28
    monkeypatch.setattr(memory, '_CGROUP_LIMITS', files[:2])
    assert memory.budget_bytes() > 2**28


class TestFastMicrobatch:
  """Parts of a batch whose work stays in a CPU's caches; all of it elsewhere."""

  # 4 × 200 numbers an example beside few parameters.
  SMALL = jax.ShapeDtypeStruct((30, 200), jnp.float32)

  def choose(self, n: int, params=SMALL) -> int:
    batch = (jax.ShapeDtypeStruct((n, params.shape[0]), jnp.float32),)
    return clipping.fast_microbatch(loss, params, batch)

  def needed(self, n: int, size: int, params=SMALL) -> int:
    fn = clipping.clipped_grad(loss, l2_clip_norm=1.0, microbatch_size=size)
    batch = jax.ShapeDtypeStruct((n, params.shape[0]), jnp.float32)
    return memory.working_bytes(fn, params, batch)

  def test_a_small_batch_is_looked_at_whole(self):
    n = 2 * clipping._CACHE_BYTES // self.needed(1000, 1000) * 1000
    assert self.choose(n) == n
    assert self.choose(2 * n) < n

  @pytest.mark.skipif(not CPU, reason='an accelerator looks at all of a batch')
  def test_parts_of_a_large_one_fit_the_cache_and_are_no_smaller_than_that(self):
    n = 50_000
    size = self.choose(n)
    assert 0.9 < self.needed(size, size) / clipping._CACHE_BYTES <= 1.01

  @pytest.mark.skipif(not CPU, reason='an accelerator looks at all of a batch')
  def test_many_parameters_are_read_and_written_for_many_examples(self):
    params = jax.ShapeDtypeStruct((30, 200_000), jnp.float32)
    size = self.choose(1000, params)
    own = 4 * 30 * 200_000
    assert own > clipping._CACHE_BYTES
    assert self.needed(size, size, params) / own > 0.9 * clipping._PASSES_OVER_PARAMETERS
    assert size < 1000

  def test_the_choice_is_what_clipped_grad_does_by_itself(self):
    n = 50_000
    batch = jax.ShapeDtypeStruct((n, 30), jnp.float32)

    def program(size: int | None) -> str:
      fn = clipping.clipped_grad(loss, l2_clip_norm=1.0, microbatch_size=size)
      return str(jax.make_jaxpr(fn)(self.SMALL, batch))

    assert program(None) == program(self.choose(n)) != program(n)
    fits = clipping.largest_microbatch(loss, self.SMALL, (batch,), budget=2**30)
    assert fits == self.choose(n)
    assert clipping.largest_microbatch(loss, self.SMALL, (batch,), budget=2**24) < fits

  @pytest.mark.skipif(not CPU, reason='of the rule for CPUs')
  def test_kernels_of_the_report_have_their_gradients_formed_there(self):
    assert forms.cheapest((1, 25, 256, 32), 'time') == 'direct'
    assert forms.cheapest((1, 49, 2048, 256), 'time') == 'gram'

  def test_parts_are_equal(self):
    """A microbatch of 7 means two parts of 4 for 8 examples, not 7 and 1 padded by 6."""

    def program(size: int) -> str:
      fn = clipping.clipped_grad(loss, l2_clip_norm=1.0, microbatch_size=size)
      return str(jax.make_jaxpr(fn)(self.SMALL, shapes(8)))

    assert program(7) == program(4) != program(3)
