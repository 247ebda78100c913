"""How many examples of a batch are looked at at once, in which precision, and in how many calls:
nothing of it changes what a step is.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax import _validate
from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.models.gan import GAN
from dpgan_jax.run.stages import make_chunk
from tests.support.gans import (
  SHAPE,
  N,
  chunk_of,
  init,
  make_dataset,
  make_gan,
  max_difference,
  run,
  take_step,
)


@pytest.fixture(scope='module')
def dataset():
  return make_dataset()


@pytest.mark.slow  # test_clipping has microbatches, test_ghost the strategies
@pytest.mark.parametrize('change', [{'microbatch_size': 5}, {'clipping_strategy': 'vmap'}])
def test_how_the_norms_are_found_changes_nothing_but_time_and_memory(dataset, change):
  whole, _ = run(make_gan(), dataset, 3)
  parts, _ = run(make_gan(**change), dataset, 3)
  assert max_difference(whole.d_params, parts.d_params) < 1e-5


def lowered(gan) -> str:
  state = jax.eval_shape(gan.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((N, *SHAPE), jnp.uint8)
  labels = jax.ShapeDtypeStruct((N,), jnp.int32)
  return jax.jit(gan.step).lower(state, images, labels).as_text()


@pytest.mark.slow  # test_memory has the choice
def test_a_batch_that_fits_is_looked_at_whole():
  """The default, a budget that suffices, and a microbatch of all examples are one program."""
  gan = make_gan()
  cap = gan.mechanism.truncated_batch_size
  assert gan.examples_at_once == cap > gan.fake_batch_size
  whole = lowered(gan)
  assert lowered(make_gan(memory_budget_gib=1.0)) == whole
  assert lowered(make_gan(microbatch_size=cap)) == whole
  assert lowered(make_gan(microbatch_size=cap // 2)) != whole


@pytest.mark.slow
def test_the_budget_decides_how_many_examples_are_looked_at_at_once():
  make, little = functools.partial(make_gan, generator='compact', discriminator='compact'), 5e-4
  gan = make(memory_budget_gib=little)
  cap = gan.mechanism.truncated_batch_size
  assert gan.examples_at_once in {math.ceil(cap / 2**k) for k in range(1, 5)}
  assert lowered(gan) == lowered(make(microbatch_size=gan.examples_at_once))
  assert make(memory_budget_gib=little, microbatch_size=7).examples_at_once == 7
  # Fakes are looked at in the same way, and may be the larger half.
  assert make(fake_batch_size=1000).examples_at_once == 1000
  penalised = {'loss': 'wasserstein', 'gradient_penalty': 10.0}
  assert make(memory_budget_gib=little, **penalised).examples_at_once < gan.examples_at_once
  # What an earlier part of the run chose stands, whatever memory there is now.
  assert dataclasses.replace(gan, microbatch_size=9).examples_at_once == 9
  with pytest.raises(_validate.InputError, match='memory_budget_gib'):
    lowered(make_gan(memory_budget_gib=1e-6))


@pytest.fixture(scope='module')
def narrow() -> GAN:
  """D and G, the report's with its batch norm, in bfloat16."""
  return make_gan(
    generator='report_conditional', discriminator='report_conditional', compute_dtype='bfloat16',
    d_optimizer='sgd', d_learning_rate=1.0, clip=0.1, d_steps_per_g_step=1,
  )  # fmt: skip


@pytest.mark.slow
def test_bfloat16_narrows_the_networks_and_nothing_else(dataset, narrow):
  """Checklist 9: the state stays float32; products of the networks, and only they, are bfloat16."""
  state = init(narrow, jax.random.key(0))
  after, metrics = jax.eval_shape(narrow.step, state, *dataset)
  assert {x.dtype for x in metrics} == {jnp.dtype(jnp.float32)}
  assert [x.dtype for x in jax.tree.leaves(after)] == [x.dtype for x in jax.tree.leaves(state)]
  images, labels = dataset
  logits = jax.make_jaxpr(narrow.logits)(state.d_params, to_model_range(images), labels)
  products = [e for e in logits.jaxpr.eqns if e.primitive.name == 'dot_general']
  assert {e.outvars[0].aval.dtype for e in products} == {jnp.dtype(jnp.bfloat16)}
  assert logits.out_avals[0].dtype == jnp.float32
  plan = jax.make_jaxpr(lambda k: narrow._fakes(state.g, k, 5)[0])(jax.random.key(0))
  assert any(e.outvars[0].aval.dtype == jnp.bfloat16 for e in plan.jaxpr.eqns)
  assert plan.out_avals[0].dtype == jnp.float32
  asked = (after.g_average, jax.random.key(0), jnp.array([0, 1]))
  made = jax.make_jaxpr(narrow.generate)(*asked)
  assert {e.outvars[0].aval.dtype for e in made.jaxpr.eqns}.isdisjoint({jnp.dtype(jnp.bfloat16)})


@pytest.mark.slow
def test_bfloat16_changes_a_step_a_little(dataset, narrow):
  wide = dataclasses.replace(narrow, config=narrow.config.replace(compute_dtype='float32'))
  start = init(wide, jax.random.key(1))
  one, _ = take_step(wide, start, *dataset)
  two, _ = take_step(narrow, start, *dataset)
  for a, b in ((one.d_params, two.d_params), (one.g.batch_stats, two.g.batch_stats)):
    assert 0 < max_difference(a, b) < 0.05 * max_difference(a, jax.tree.map(jnp.zeros_like, a))


def test_bfloat16_does_not_loosen_the_clip_norm(dataset, narrow):
  """What one example adds has the norm by which it was clipped, at most C, to float32 rounding."""
  images, labels = dataset
  params = init(narrow, jax.random.key(5)).d_params
  clip = jax.jit(narrow.mechanism.clipped_grad(narrow._real_loss))
  clipped = 0
  for i in range(20):
    got = clip(params, images, labels, mask=jnp.arange(N) == i)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(got.sum)]
    norm = math.sqrt(sum((leaf**2).sum() for leaf in leaves))
    assert norm == pytest.approx(min(0.1, float(got.norms[i])), rel=5e-3)
    clipped += float(got.norms[i]) > 0.1
  assert clipped > 0


@pytest.mark.slow  # test_host_data cuts a run anywhere
def test_chunks_compose_bit_for_bit(dataset):
  """Two chunks of 3 and one of 6 end in the same bits: where a run stops does not matter."""
  gan = make_gan()
  once, _ = run(gan, dataset, 6)
  chunk = chunk_of(gan, 3)
  twice, _ = chunk(chunk(init(gan, jax.random.key(0)), *dataset)[0], *dataset)
  for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_in_parts_goes_on_bit_for_bit(dataset):
  """Each continuation chooses anew how many examples to look at at once, and chooses the same."""
  settings = {
    'generator': 'compact', 'discriminator': 'compact', 'memory_budget_gib': 5e-4,
    'compute_dtype': 'bfloat16',
  }  # fmt: skip
  gan = make_gan(**settings)
  assert gan.examples_at_once < gan.mechanism.truncated_batch_size
  once, _ = run(gan, dataset, 4)
  state = init(make_gan(**settings), jax.random.key(0))
  for _ in range(2):
    state, _ = make_chunk(make_gan(**settings), 2)(state, *dataset)
  for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(state), strict=True):
    if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      np.testing.assert_array_equal(a, b)
