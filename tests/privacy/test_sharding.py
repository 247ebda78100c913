"""Many devices: in loops of other projects (`jit` with shardings, `shard_map`), and in our own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.mechanism import DPMechanism

DEVICES = 8
pytestmark = pytest.mark.skipif(
  jax.device_count() < DEVICES, reason='needs 8 devices (JAX_NUM_CPU_DEVICES=8)'
)
MECHANISM = DPMechanism.create(
  num_examples=400, batch_size=64, l2_clip_norm=1.0, noise_multiplier=0.5, steps=10, delta=1e-3
)
KEY = jax.random.key(7)


def mesh(kind=AxisType.Auto):
  return jax.make_mesh((DEVICES,), ('d',), (kind,))


def loss(params, x, y):
  hidden = jnp.tanh(x @ params['w'] + params['b'])  # 'b' is left to autodiff
  return jnp.sum((hidden - y) ** 2)


def scanned(params, x, y):
  step = lambda c, _: (jnp.tanh(c @ params['w'] @ params['w'].T + 1.0), None)  # noqa: E731
  end = jax.lax.scan(step, x, None, length=2)[0]
  return jax.lax.cond(
    y[0] > 0, lambda: jnp.sum(end @ params['w'] + params['b']), lambda: jnp.sum(end**2)
  )


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  params = {'w': rng.normal(size=(16, 8)).astype(np.float32), 'b': np.zeros(8, np.float32)}
  x, y = rng.normal(size=(64, 16)) * 3, rng.normal(size=(64, 8))
  x[5] = np.nan
  return jax.tree.map(jnp.asarray, (params, x.astype(np.float32), y.astype(np.float32)))


def close(found, expected, tolerance=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), found, expected)


# --- other people's loops -------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('fn', 'how', 'checked'),
  [
    (loss, {}, True),
    pytest.param(loss, {'strategy': 'vmap'}, True, marks=pytest.mark.slow),
    pytest.param(loss, {'microbatch_size': 3}, True, marks=pytest.mark.slow),
    (scanned, {}, True),
    pytest.param(loss, {}, False, marks=pytest.mark.slow),
  ],
)  # fmt: skip
def test_a_device_clips_examples_not_sums_of_them(batch, fn, how, checked):
  """`shard_map` adds up gradients by what is the same everywhere: of one example it must not."""
  clipped = MECHANISM.clipped_grad(fn, **how)

  def local(params, x, y):
    found = clipped(params, x, y)
    return jax.lax.psum(found.sum, 'd'), found.norms

  spread = jax.shard_map(
    local, mesh=mesh(), in_specs=(P(), P('d'), P('d')), out_specs=(P(), P('d')), check_vma=checked
  )
  total, norms = jax.jit(spread)(*batch)
  alone = clipped(*batch)
  close(total, alone.sum, 1e-3)
  np.testing.assert_allclose(norms, alone.norms, 1e-4)


def steps(batch, place=lambda tree, spec: tree, spec=None):
  """Two steps in one `jit`, inputs where `place` puts them."""
  params, x, y = batch
  optimizer = optax.chain(MECHANISM.noise_sum(KEY), optax.sgd(0.1))

  def step(params, state, x, y):
    total = MECHANISM.clipped_grad(loss)(params, x, y).sum
    updates, state = optimizer.update(total, state, params)
    return optax.apply_updates(params, updates), state

  params = place(params, spec or P())
  state = optimizer.init(params)
  for _ in range(2):
    params, state = jax.jit(step)(params, state, *place((x, y), P('d')))
  return params


def test_sharded_batches_and_parameters_in_jit(batch):
  """A sharded array means the same numbers: sums, noise and parameters are those of one device."""
  put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh(), spec))  # noqa: E731
  alone = steps(batch)
  close(steps(batch, put), alone)
  close(steps(batch, put, P('d')), alone)  # fully sharded parameters


def test_noise_after_the_sum_over_devices_is_that_of_one(batch):
  noise, clipped = MECHANISM.noise_sum(KEY), MECHANISM.clipped_grad(loss)

  def local(params, x, y):
    total = MECHANISM.clipped_grad(loss, axis_name='d')(params, x, y).sum
    return noise.update(total, noise.init(params))[0]

  spread = jax.shard_map(local, mesh=mesh(), in_specs=(P(), P('d'), P('d')), out_specs=P())
  alone = noise.update(clipped(*batch).sum, noise.init(batch[0]))[0]
  close(jax.jit(spread)(*batch), alone)


def unsummed(batch):
  noise, clipped = MECHANISM.noise_sum(KEY), MECHANISM.clipped_grad(loss)

  def local(params, x, y):  # the mean of noisy sums: the noise of one device, an eighth of the sum
    update = noise.update(clipped(params, x, y).sum, noise.init(params))[0]
    return jax.lax.pmean(update, 'd')

  return local


def own_key(batch):
  noise = MECHANISM.noise_sum(KEY)

  def local(params, x, y):
    state = noise.init(params)
    key = jax.random.fold_in(state.key, jax.lax.axis_index('d'))
    return noise.update(params, state._replace(key=key))[0]

  return local


def scattered(batch):
  noise, clipped = MECHANISM.noise_sum(KEY), MECHANISM.clipped_grad(loss)

  def local(params, x, y):  # each device its own rows of the sum, and all of them the same noise
    rows = jax.lax.psum_scatter(clipped(params, x, y).sum['w'], 'd', tiled=True)
    return jax.lax.psum(noise.update(rows, noise.init(rows))[0], 'd')

  return local


@pytest.mark.parametrize(
  ('make', 'checked', 'said'),
  [
    (unsummed, True, r"the sum to be the same on all devices, got one that differs along 'd'"),
    (own_key, True, r"state\.key to be the same on all devices"),
    (scattered, True, r'the sum to be the same on all devices'),
    (unsummed, False, r'outside of pmap, and of shard_map\(check_vma=False\)'),
  ],
)
def test_noise_that_is_not_of_the_whole_sum_is_refused(batch, make, checked, said):
  spread = jax.shard_map(
    make(batch), mesh=mesh(), in_specs=(P(), P('d'), P('d')), out_specs=P(), check_vma=checked
  )
  with pytest.raises(InputError, match=said):
    jax.jit(spread)(*batch)


# --- our own --------------------------------------------------------------------------------------


@pytest.mark.parametrize('length', [1, 7, 8, 20])
@pytest.mark.parametrize('devices', [pytest.param(2, marks=pytest.mark.slow), 8])
def test_every_row_is_on_one_device(length, devices):
  there, asked = sharding.mesh_of(devices), jnp.arange(length) % 3 > 0
  values = jnp.arange(length, dtype=jnp.float32) + 1

  def fn(values, mask):
    split = sharding.here()
    own, present = split.rows(values), split.present(length, mask)
    assert own.shape[0] == -(-length // devices)
    found = jnp.zeros(length).at[(own - 1).astype(int)].add(present.astype(float))
    return (
      split.total(found), split.mean(own, length),
      split.masked_mean(own, present, jnp.sum(mask).astype(float)),
    )  # fmt: skip

  once, mean, masked = jax.jit(sharding.over(there, fn))(values, asked)
  np.testing.assert_array_equal(once, asked)
  np.testing.assert_allclose(mean, np.mean(values), 1e-6)
  expected = np.asarray(values)[asked].mean() if asked.any() else 0
  np.testing.assert_allclose(masked, expected, 1e-6)


def test_one_device_changes_nothing():
  fn = lambda x: sharding.here()  # noqa: E731
  assert sharding.mesh_of(1) is None
  assert sharding.over(None, fn) is fn
  assert fn(1) == sharding.WHOLE
  x = jnp.ones(3)
  assert sharding.WHOLE.rows(x) is x
  assert sharding.WHOLE.present(3) is None
  assert sharding.WHOLE.total(x) is x


def test_what_differs_between_devices_does_not_come_out():
  def fn(x):
    return sharding.here().rows(x)

  with pytest.raises(ValueError, match='out_specs'):
    jax.jit(sharding.over(sharding.mesh_of(2), fn))(jnp.ones(4))


def test_replicated_and_back():
  state = {'x': np.arange(3.0, dtype=np.float32), 'key': jax.random.key(3)}
  there = sharding.replicate(state, sharding.mesh_of(4))
  assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(there))
  back = sharding.gather(there, sharding.mesh_of(4))
  assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(back))
  np.testing.assert_array_equal(back['x'], state['x'])
  assert jax.random.key_data(back['key']).tolist() == [0, 3]


def test_more_devices_than_there_are():
  with pytest.raises(InputError, match='devices'):
    sharding.mesh_of(jax.device_count() + 1)
