"""dpgan_jax.privacy.transforms inside the wrappers of optax: refused or right."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys

import dp_accounting
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import accounting, clipping, transforms
from dpgan_jax.privacy.mechanism import DPMechanism

KEY = jax.random.key(0)
PARAMS = {'w': jnp.zeros((40, 50)), 'b': jnp.zeros(50)}
LABELS = {'w': 'one', 'b': 'other'}
HALVES = {
  'noise_sum': functools.partial(transforms.noise_sum, 1.0, 1.0, 4),
  'clip_and_noise': functools.partial(transforms.clip_and_noise, 1.0, 1.0, 4),
}


def gradient(half: str, value: float = 1.0):
  axes = () if half == 'noise_sum' else (2,)
  return jax.tree.map(lambda p: jnp.full((*axes, *p.shape), value), PARAMS)


def partition(inner):
  return optax.multi_transform({'one': inner, 'other': optax.sgd(1.0)}, LABELS)


REFUSED = {
  'MultiSteps': lambda inner: optax.MultiSteps(inner, 4),
  'MultiSteps as transform': lambda inner: optax.MultiSteps(inner, 4).gradient_transformation(),
  'MultiSteps that skips': lambda inner: optax.MultiSteps(
    inner, 1, should_skip_update_fn=optax.skip_not_finite
  ),
  'apply_if_finite': lambda inner: optax.apply_if_finite(inner, 3),
  'conditionally_transform': lambda inner: optax.conditionally_transform(
    inner, lambda step: step % 2 == 0
  ),
  'conditionally_mask': lambda inner: optax.conditionally_mask(inner, lambda step: step % 2 == 0),
  'masked': lambda inner: optax.masked(inner, {'w': True, 'b': False}),
  'multi_transform': partition,
  'multi_transform, all private': lambda inner: optax.multi_transform(
    {'one': inner, 'other': inner}, LABELS
  ),
  'multi_transform, a label without leaves': lambda inner: optax.multi_transform(
    {'one': optax.sgd(1.0), 'other': optax.sgd(1.0), 'none': inner}, LABELS
  ),
  'sam': lambda inner: optax.contrib.sam(inner, optax.sgd(1.0)),
  'mechanize': optax.contrib.mechanize,
}


@pytest.mark.parametrize('half', HALVES)
@pytest.mark.parametrize('wrapper', REFUSED)
@pytest.mark.parametrize('chained', [False, True])
def test_refused_around_the_noise(half, wrapper, chained):
  noise = HALVES[half](KEY)
  transform = REFUSED[wrapper](optax.chain(noise, optax.sgd(1.0)) if chained else noise)
  name = wrapper.split()[0].strip(',')
  for init in (transform.init, jax.jit(transform.init)):
    with pytest.raises(
      InputError, match=rf'outside of optax\.{name}, which .*optax\.chain'
    ) as caught:
      init(PARAMS)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('half', HALVES)
def test_refused_in_an_update_whose_state_came_from_elsewhere(half):
  """As after a checkpoint: `init` was never called there."""
  noise = HALVES[half](KEY)
  state = noise.init(PARAMS)
  for wrapper, held in (
    (optax.apply_if_finite(noise, 3), optax.ApplyIfFiniteState(
      jnp.int32(0), jnp.bool_(True), jnp.int32(0), state)),
    (optax.masked(noise, {'w': True, 'b': False}), optax.MaskedState(state)),
  ):  # fmt: skip
    with pytest.raises(InputError, match=r'outside of optax\.(apply_if_finite|masked)'):
      jax.jit(wrapper.update)(gradient(half), held, PARAMS)


def test_a_part_of_the_gradient_is_refused_whoever_cut_it():
  part = {'w': PARAMS['w'], 'b': optax.MaskedNode()}
  with pytest.raises(InputError, match=r'outside of optax\.masked'):
    HALVES['noise_sum'](KEY).init(part)


BEFORE = {
  'scale': lambda noise: optax.chain(optax.scale(10.0), noise),
  'apply_every': lambda noise: optax.chain(optax.apply_every(4), noise, optax.sgd(1.0)),
  'ema': lambda noise: optax.chain(optax.ema(0.9), optax.chain(noise, optax.sgd(1.0))),
  'named': lambda noise: optax.named_chain(('adam', optax.scale_by_adam()), ('noise', noise)),
}


@pytest.mark.parametrize('half', HALVES)
@pytest.mark.parametrize('name', BEFORE)
def test_refused_behind_something_that_changes_the_sum(half, name):
  """Ten times the sum has ten times the sensitivity; a mean over steps keeps an example long."""
  optimizer = BEFORE[name](HALVES[half](KEY))
  state = optimizer.init(gradient(half))
  for update in (optimizer.update, jax.jit(optimizer.update)):
    with pytest.raises(InputError, match=r'noise first in optax\.(named_)?chain, got 1 before it'):
      update(gradient(half), state)


def test_right_at_the_head_of_a_chain_in_a_chain():
  noise = HALVES['noise_sum'](KEY)
  optimizer = optax.chain(optax.chain(noise, optax.sgd(1.0)), optax.scale(2.0))
  update, _ = optimizer.update(gradient('noise_sum'), optimizer.init(PARAMS), PARAMS)
  alone, _ = noise.update(gradient('noise_sum'), noise.init(PARAMS), PARAMS)
  jax.tree.map(lambda u, a: np.testing.assert_array_equal(u, -2 * a), update, alone)


def test_a_wrapper_of_optax_that_nobody_knows_is_refused():
  """As a later version of optax may bring one."""
  source = """
def another(inner):
  return base.GradientTransformation(inner.init, lambda u, s, p=None: inner.update(u, s, p))
"""
  room = {'__name__': 'optax.contrib._another', 'base': optax}
  exec(source, room)
  transform = room['another'](HALVES['noise_sum'](KEY))
  state = transform.init(PARAMS)
  with pytest.raises(InputError, match=r'outside of optax\.another, which may skip, repeat'):
    transform.update(gradient('noise_sum'), state, PARAMS)


def look_at_loss(params):
  return jnp.sum(params['b'])


AROUND = {
  'reduce_on_plateau': (optax.contrib.reduce_on_plateau, {'value': 1.0}),
  'polyak_sgd': (optax.polyak_sgd, {'value': jnp.float32(1.0)}),
  'momo': (optax.contrib.momo, {'value': jnp.float32(1.0)}),
  'line search': (
    lambda: optax.scale_by_backtracking_linesearch(2),
    {'value': jnp.float32(1.0), 'grad': PARAMS, 'value_fn': look_at_loss},
  ),
}


@pytest.mark.parametrize('half', HALVES)
@pytest.mark.parametrize('name', AROUND)
def test_what_stands_behind_gets_nothing_around_the_noise(half, name):
  """A step size that follows the private loss tells of it, however noisy the gradient is."""
  make, extra = AROUND[name]
  optimizer = optax.chain(HALVES[half](KEY), make())
  state = optimizer.init(PARAMS)
  with pytest.raises(InputError, match=rf'no {min(extra)} in the update: .*rest\.update') as caught:
    optimizer.update(gradient(half), state, PARAMS, **extra)
  assert '\n' not in str(caught.value)


class TestVmap:
  """Sums that share a key get one noise: their differences would be told without any."""

  @pytest.mark.parametrize('half', HALVES)
  @pytest.mark.parametrize('jit', [False, True])
  @pytest.mark.parametrize('average', [False, True])
  def test_of_one_state_is_refused(self, half, jit, average):
    noise = HALVES[half](KEY)
    state = noise.init(jnp.zeros(3))
    update = lambda sums: noise.update(sums, state)[0]  # noqa: E731
    update = jax.jit(update) if jit else update
    one = (lambda sums: jax.lax.pmean(update(sums), 'parts')) if average else update
    sums = jnp.zeros((4, 3)) if half == 'noise_sum' else jnp.zeros((4, 2, 3))
    with pytest.raises(InputError, match=r'a state of its own for each of 4 sums under jax\.vmap'):
      jax.vmap(one, axis_name='parts')(sums)

  def test_of_states_with_keys_of_their_own_is_right(self):
    sums, keys = jnp.arange(6.0).reshape(2, 3), jax.random.split(KEY, 2)
    noise = HALVES['noise_sum']()

    def one(total, key):
      return noise.update(total, transforms.PrivatizerState(key, jnp.int32(0)))[0]

    found = jax.vmap(one)(sums, keys)
    for i in range(2):
      np.testing.assert_array_equal(found[i], one(sums[i], keys[i]))
    assert np.abs((found[0] - sums[0]) - (found[1] - sums[1])).min() > 1e-3


BEHIND = {
  'MultiSteps': lambda: optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(),
  'apply_if_finite': lambda: optax.apply_if_finite(optax.sgd(1.0), 3),
  'masked': lambda: optax.masked(optax.set_to_zero(), {'w': False, 'b': True}),
  'multi_transform': lambda: optax.multi_transform(
    {'one': optax.sgd(1.0), 'other': optax.adam(1.0), 'none': optax.sgd(2.0)}, LABELS
  ),
  'inject_hyperparams': lambda: optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1, 0, 9)),
}


@pytest.mark.parametrize('wrapper', BEHIND)
def test_right_behind_the_noise(wrapper):
  """What the wrapper is given is a charged, noisy gradient: whatever it does is post-processing.

  Public gradients pass through the chain to the noise.
  """
  seen = []

  def look(updates, state, params=None, **extra):
    seen.append(updates)
    return updates, state

  spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), look)
  noise = HALVES['noise_sum'](KEY)
  optimizer = optax.chain(noise, spy, BEHIND[wrapper]())
  alone, state = noise.init(PARAMS), optimizer.init(PARAMS)
  for _ in range(2):
    public = jax.tree.map(jnp.ones_like, PARAMS)
    _, state = optimizer.update(gradient('noise_sum'), state, PARAMS, public_grads=public)
    want, alone = noise.update(gradient('noise_sum'), alone, PARAMS, public_grads=public)
    jax.tree.map(np.testing.assert_array_equal, seen.pop(), want)


@pytest.mark.parametrize('half', HALVES)
def test_lookahead_adds_new_noise_in_every_step(half):
  """The fast optimizer takes every step: what follows is post-processing of its parameters."""
  optimizer = optax.lookahead(optax.chain(HALVES[half](KEY), optax.sgd(1.0)), 2, 0.5)
  params = optax.LookaheadParams.init_synced(PARAMS)
  state, fast = optimizer.init(params), []
  for _ in range(2):
    updates, state = optimizer.update(gradient(half, 0.0), state, params)
    fast.append(np.asarray(updates.fast['w']).ravel())
  # The second update of the fast weights also takes them halfway back (sync).
  assert abs(np.corrcoef(fast[0], fast[1] * 2)[0, 1]) < 0.12
  assert int(state.fast_state[0].count) == 2


def test_lookahead_that_starts_its_optimizer_anew_is_refused():
  """It would draw the first noise again after every synchronisation."""
  optimizer = optax.lookahead(optax.chain(HALVES['noise_sum'](KEY), optax.sgd(1.0)), 2, 0.5, True)
  params = optax.LookaheadParams.init_synced(PARAMS)
  state = optimizer.init(params)
  with pytest.raises(InputError, match=r'outside of optax\.lookahead, which starts the noise anew'):
    optimizer.update(gradient('noise_sum'), state, params)


def test_flatten_and_named_chain_hold_the_noise_rightly():
  noise = HALVES['noise_sum'](KEY)
  for wrapper in (
    optax.flatten(noise),
    optax.named_chain(('noise', noise), ('sgd', optax.sgd(1.0))),
  ):
    updates, _ = wrapper.update(gradient('noise_sum', 0.0), wrapper.init(PARAMS), PARAMS)
    assert float(jnp.std(updates['w'])) == pytest.approx(0.25, rel=0.1)


def loss(params, x):
  return jnp.sum(jnp.tanh(x @ params['w'] + params['b']))


class TestAccumulation:
  """The right way: clipped sums add up, then noise once, over the expected size of it all."""

  def test_parts_of_a_batch_give_the_update_of_the_whole(self):
    x = jax.random.normal(jax.random.key(3), (8, 40))
    grad = clipping.clipped_grad(loss, l2_clip_norm=1.0)
    noise = transforms.noise_sum(1.0, 1.0, 8, KEY)
    whole, _ = noise.update(grad(PARAMS, x).sum, noise.init(PARAMS), PARAMS)
    parts = [grad(PARAMS, part).sum for part in jnp.split(x, 4)]
    total = jax.tree.map(lambda *p: sum(p[1:], p[0]), *parts)
    update, _ = noise.update(total, noise.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), update, whole)
    assert float(jnp.std(update['w'])) == pytest.approx(1 / 8, rel=0.15)

  @pytest.mark.slow  # test_sharding has it
  def test_devices_add_their_sums_before_the_noise(self):
    """psum, then noise of one key: one device's update. A mean after it would have eight times the
    noise beside the signal, and is refused.
    """
    x = jax.random.normal(jax.random.key(3), (8, 40))
    grad = clipping.clipped_grad(loss, l2_clip_norm=1.0)
    noise = transforms.noise_sum(1.0, 1.0, 8, KEY)
    state = noise.init(PARAMS)
    want, _ = noise.update(grad(PARAMS, x).sum, state, PARAMS)

    def before(part):
      total = jax.lax.psum(grad(PARAMS, part[None]).sum, 'devices')
      return noise.update(total, state, PARAMS)[0]

    def after(part):
      update, _ = noise.update(grad(PARAMS, part[None]).sum, state, PARAMS)
      return jax.lax.pmean(update, 'devices')

    got = jax.vmap(before, axis_name='devices')(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[5], b, atol=1e-6), got, want)
    with pytest.raises(InputError, match='add up the sums first'):
      jax.vmap(after, axis_name='devices')(x)


class TestSchedules:
  SCHEDULE = staticmethod(optax.linear_schedule(1.0, 2.0, 10))

  @pytest.mark.parametrize('value', ['schedule', 'array'])
  @pytest.mark.parametrize('name', ['noise_multiplier', 'l2_clip_norm', 'expected_batch_size'])
  def test_are_refused_with_the_way_to_do_it(self, name, value):
    wrong = self.SCHEDULE if value == 'schedule' else jnp.float32(1.0)
    arguments = {
      'l2_clip_norm': 1.0,
      'noise_multiplier': 1.0,
      'expected_batch_size': 4,
      name: wrong,
    }
    words = (
      f'{name} to be one number for all steps.*one DPMechanism for each value.*ComposedDpEvent'
    )
    with pytest.raises(InputError, match=words):
      transforms.clip_and_noise(**arguments, key=KEY)
    if name != 'expected_batch_size':
      fields = {k: v for k, v in arguments.items() if k != 'expected_batch_size'}
      with pytest.raises(InputError, match=words):
        DPMechanism.create(num_examples=100, batch_size=4, steps=9, delta=1e-3, **fields)

  def test_injected_ones_are_refused_as_well(self):
    inject = optax.inject_hyperparams(transforms.noise_sum, static_args=('key', 'stream'))
    transform = inject(1.0, self.SCHEDULE, 4.0, KEY)
    with pytest.raises(InputError, match='one number for all steps'):
      transform.init(PARAMS)

  def test_the_way_costs_what_both_phases_cost(self):
    """One mechanism for each value; the parameters and the optimizer's state go on."""
    settings = {'num_examples': 400, 'batch_size': 20, 'l2_clip_norm': 1.0, 'delta': 1e-3}
    phases = [DPMechanism.create(noise_multiplier=s, steps=5, **settings) for s in (2.0, 4.0)]
    event = dp_accounting.ComposedDpEvent([m.event() for m in phases])
    both = accounting.epsilon(event, delta=1e-3)
    alone = DPMechanism.create(noise_multiplier=2.0, steps=5, **settings).epsilon()
    assert alone < both < alone + phases[1].epsilon()
    adam, params = optax.adam(1e-2), PARAMS
    state = adam.init(params)
    for m in phases:
      noise = m.noise_sum(KEY)  # one key: each mechanism draws from its own stream
      held = noise.init(params)
      for _ in range(2):
        noisy, held = noise.update(gradient('noise_sum', 0.0), held, params)
        updates, state = adam.update(noisy, state, params)
        params = optax.apply_updates(params, updates)
    assert int(state[0].count) == 4


def optimizer_state():
  optimizer = optax.chain(HALVES['noise_sum'](KEY), optax.adam(1e-3))
  _, state = optimizer.update(gradient('noise_sum'), optimizer.init(PARAMS), PARAMS)
  return optimizer, state


class TestSaving:
  """As the docstring of `PrivatizerState` says; what comes back draws the same next noise."""

  def same(self, state):
    optimizer, before = optimizer_state()
    want, _ = optimizer.update(gradient('noise_sum'), before, PARAMS)
    got, _ = optimizer.update(gradient('noise_sum'), state, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, want)

  def test_pickle(self):
    self.same(pickle.loads(pickle.dumps(optimizer_state()[1])))

  def test_orbax(self, tmp_path):
    _, state = optimizer_state()
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
      checkpointer.save(tmp_path / 'state', state)
      checkpointer.wait_until_finished()
      self.same(checkpointer.restore(tmp_path / 'state', state))

  def test_flax_takes_the_words_of_the_key(self):
    _, (noise, *rest) = optimizer_state()
    with pytest.raises(TypeError, match='PRNGKey'):
      flax.serialization.to_bytes((noise, *rest))
    plain = (noise._replace(key=jax.random.key_data(noise.key)), *rest)
    plain = flax.serialization.from_bytes(plain, flax.serialization.to_bytes(plain))
    key = jax.random.wrap_key_data(plain[0].key, impl='threefry2x32')
    self.same((plain[0]._replace(key=key), *plain[1:]))
    with pytest.raises(InputError, match='typed key'):  # and says so where that is forgotten
      self.same(plain)

  def test_numpy_files_take_the_words_too(self, tmp_path):
    _, (noise, *rest) = optimizer_state()
    np.savez(tmp_path / 'noise.npz', key=jax.random.key_data(noise.key), count=noise.count)
    with np.load(tmp_path / 'noise.npz') as saved:
      key = jax.random.wrap_key_data(saved['key'], impl='threefry2x32')
      self.same((transforms.PrivatizerState(key, saved['count']), *rest))

  def test_equinox(self, tmp_path):
    eqx = pytest.importorskip('equinox')
    _, (noise, *rest) = optimizer_state()
    plain = (noise._replace(key=jax.random.key_data(noise.key)), *rest)
    eqx.tree_serialise_leaves(tmp_path / 'state.eqx', plain)
    plain = eqx.tree_deserialise_leaves(tmp_path / 'state.eqx', plain)
    key = jax.random.wrap_key_data(plain[0].key, impl='threefry2x32')
    self.same((plain[0]._replace(key=key), *plain[1:]))


def test_importing_the_core_starts_no_backend():
  """Settings of JAX can still be made after it."""
  code = (
    'import dpgan_jax, jax\n'
    'from jax._src import xla_bridge\n'
    'assert not xla_bridge.backends_are_initialized()'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=300)
