"""dpgan_jax._keys: threefry whatever JAX is set to, and a stream of its own for every purpose."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.random import threefry_2x32

import dpgan_jax
from dpgan_jax import _jax_settings, _keys
from dpgan_jax._validate import InputError
from dpgan_jax.auditing.gradient import gradient_bound
from dpgan_jax.data import distort
from dpgan_jax.networks import losses
from dpgan_jax.privacy import clipping, transforms
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import secrets
from experiments.trust import statistical_checks as statistics

OTHERS = ('rbg', 'unsafe_rbg')
KEY = jax.random.key(7)
N = 2000
MECHANISM = DPMechanism.create(
  num_examples=N, batch_size=200, l2_clip_norm=1.0, noise_multiplier=1.0, steps=10, delta=1e-4
)


def words(key: jax.Array) -> list[int]:
  return np.asarray(jax.random.key_data(key)).tolist()


class TestOneGenerator:
  @pytest.mark.parametrize('seed', [0, 7, 2**32 - 1])
  def test_a_seed_is_the_same_key_under_every_setting(self, seed):
    want = words(jax.random.key(seed))
    for impl, offset, x64 in itertools.product(('threefry2x32', *OTHERS), (0, 5), (False, True)):
      with jax.default_prng_impl(impl), jax.enable_x64(x64):
        jax.config.update('jax_random_seed_offset', offset)
        try:
          key = secrets.root_key(seed)
        finally:
          jax.config.update('jax_random_seed_offset', 0)
        assert (words(key), jax.random.key_impl(key)) == (want, 'threefry2x32')
        assert jax.random.key_impl(secrets.root_key(None)) == 'threefry2x32'

  def test_the_cipher_is_that_of_jax(self):
    rng = np.random.default_rng(0)
    key, counters = (rng.integers(0, 2**32, n, np.uint32) for n in (2, 2000))
    want = threefry_2x32(key, counters)  # which pairs the halves of its counters
    found = _keys.threefry2x32(key[0], key[1], counters[:1000], counters[1000:])
    np.testing.assert_array_equal(np.concatenate(found), want)

  def test_large_seeds_keep_all_their_bits(self):
    assert words(_keys.from_seed(2**40 + 3)) == [2**8, 3]
    with pytest.raises(InputError, match='seed in'):
      _keys.from_seed(-1)

  @pytest.mark.parametrize('impl', OTHERS)
  def test_keys_of_others_are_refused_by_name(self, impl):
    key = jax.random.key(0, impl=impl)
    zero = {'w': jnp.zeros(3)}
    state = transforms.PrivatizerState(key, jnp.int32(0))
    images = np.zeros((2, 8, 8, 1), np.uint8)
    calls = (
      lambda: MECHANISM.sampler(key, 0),
      lambda: MECHANISM.sampler.inclusion_mask(key, 0),
      lambda: MECHANISM.noise_sum(key),
      lambda: MECHANISM.clip_and_noise(key),
      lambda: MECHANISM.noise_sum().update(zero, state),  # as restored from somewhere else
      lambda: losses.partners(key, jnp.arange(3), 7),
      lambda: gradient_bound(MECHANISM, trials=400, key=key),
      lambda: distort.distort(images, key),
    )
    for call in calls:
      with pytest.raises(InputError, match=f"impl='threefry2x32'.*got a key of {impl}"):
        call()

  def test_the_package_makes_no_key_of_another_kind(self):
    """`jax.random.key(seed)` is of whatever generator the environment names."""
    folder = pathlib.Path(inspect.getfile(dpgan_jax)).parent
    made = re.compile(r'random\.(?:key|PRNGKey)\(|rng_bit_generator|rng_uniform\(')
    for path in folder.rglob('*.py'):
      for line in path.read_text(encoding='utf8').splitlines():
        if made.search(line) and not re.search(r'>>>|\.\.\. |`|\'rng_bit', line):
          # Only in words: what a key should be, in a message.
          assert 'one typed key' in line, f'{path.name}: {line}'

  @pytest.mark.parametrize('impl', OTHERS)
  @pytest.mark.parametrize('strategy', clipping.STRATEGIES)
  def test_a_loss_may_not_draw_with_them(self, impl, strategy):
    """A key folded with the example's number: under vmap its numbers follow the whole batch."""
    clipped = lambda loss: clipping.clipped_grad(loss, l2_clip_norm=1.0, strategy=strategy)  # noqa: E731
    root = jax.random.key(0, impl=impl)

    def closed_over(w, i):
      return jnp.sum(w * jax.random.normal(jax.random.fold_in(root, i), (3,)))

    def made_inside(w, i):
      key = jax.random.fold_in(jax.random.key(0), i)
      return jax.lax.cond(i > 0, lambda: jnp.sum(w * jax.random.normal(key, (3,))), lambda: 0.0)

    def in_batch(w, key):
      return jnp.sum(w * jax.random.normal(key, (3,)))

    with jax.default_prng_impl(impl), jax.debug_key_reuse(False):
      for loss in (closed_over, made_inside):
        with pytest.raises(InputError, match=r'threefry2x32 keys, got key<u?rbg>.*whole batch'):
          clipped(loss)(jnp.ones(3), jnp.arange(4))
      with pytest.raises(InputError, match=f'batch.* threefry2x32 keys, got {impl}'):
        clipped(in_batch)(jnp.ones(3), jax.random.split(root, 4))

  @pytest.mark.parametrize('strategy', clipping.STRATEGIES)
  def test_with_threefry_an_example_draws_the_same_whoever_else_is_there(self, strategy):
    def loss(w, x, key):
      return jnp.sum(jnp.tanh(x @ w) * jax.random.bernoulli(key, 0.5, (3,)))

    fn = clipping.clipped_grad(loss, l2_clip_norm=100.0, strategy=strategy)
    w, x = jax.random.normal(jax.random.key(0), (4, 3)), jnp.ones((6, 4))
    keys = jax.random.split(jax.random.key(1), 6)
    kept = jnp.array([4, 1])
    alone = fn(w, x[kept], keys[kept]).sum
    masked = fn(w, x, keys, mask=jnp.isin(jnp.arange(6), kept)).sum
    np.testing.assert_allclose(alone, masked, rtol=1e-6)


class TestPurposes:
  def noise(self, transform, tree=None, step=0):
    """The noise of step `step`, of standard deviation 1."""
    tree = {'w': jnp.zeros(N)} if tree is None else tree
    state = transform.init(tree)._replace(count=jnp.int32(step))
    update, _ = transform.update(tree, state)
    flat = np.concatenate([np.ravel(u) for u in jax.tree.leaves(update)])
    return flat / flat.std()

  @pytest.mark.parametrize('part', ['noise_sum', 'clip_and_noise'])
  def test_one_key_for_sampler_and_noise_tells_nothing_of_members(self, part):
    """one_key_twice.py: the noise at members' coordinates, three steps; false alarm 1e-6.

    With `fold_in(key, step)` for both, the smallest entries are those of the members, all of them.
    """
    transform = getattr(MECHANISM, part)(KEY)
    for step in range(3):
      if part == 'noise_sum':
        z = self.noise(transform, step=step)
      else:
        state = transform.init(None)._replace(count=jnp.int32(step))
        update, _ = transform.update({'w': jnp.zeros((0, N))}, state)
        z = np.asarray(update['w']) / np.asarray(update['w']).std()
      members = np.asarray(MECHANISM.sampler.inclusion_mask(KEY, step))
      statistics.noise_is_unshared([z, members - members.mean()], alarm=1e-6)

  def test_one_key_for_everything_gives_independent_noise(self):
    """Other settings, the other transform, other trees, a part of the parameters: nothing shared.

    Correlations of all pairs, 2,000 entries; false alarm 1e-6 in all.
    """
    fields = {'noise_multiplier': 2.0, 'l2_clip_norm': 3.0, 'steps': 11, 'delta': 1e-5}
    others = [dataclasses.replace(MECHANISM, **{name: value}) for name, value in fields.items()]
    one_more = DPMechanism.create(
      num_examples=N + 1, batch_size=200, l2_clip_norm=1.0, noise_multiplier=1.0, steps=10,
      delta=1e-4, truncated_batch_size=MECHANISM.truncated_batch_size,
    )  # fmt: skip
    samples = [self.noise(m.noise_sum(KEY)) for m in (MECHANISM, *others, one_more)]
    half = N // 2
    trees = (
      {'v': jnp.zeros(N)}, {'w': jnp.zeros((N // 2, 2))}, {'w': {'v': jnp.zeros(N)}},
      {'w': jnp.zeros(half), 'x': jnp.zeros(half)}, [jnp.zeros(N)], jnp.zeros(N),
    )  # fmt: skip
    samples += [self.noise(MECHANISM.noise_sum(KEY), tree) for tree in trees]
    samples += [self.noise(transforms.noise_sum(c, 1.0, 4, KEY)) for c in (1.0, 2.0)]
    samples += [self.noise(transforms.noise_sum(1.0, 1.0, b, KEY)) for b in (5, 6)]
    update, _ = MECHANISM.clip_and_noise(KEY).update(
      {'w': jnp.zeros((0, N))}, MECHANISM.clip_and_noise(KEY).init(None)
    )
    samples.append(np.asarray(update['w']))
    statistics.noise_is_unshared(samples, alarm=1e-6)

  def test_samplers_of_two_mechanisms_draw_independently_from_one_key(self):
    other = dataclasses.replace(MECHANISM, noise_multiplier=2.0)
    masks = [np.asarray(m.sampler.inclusion_mask(KEY, 0)) for m in (MECHANISM, other)]
    statistics.noise_is_unshared([m - m.mean() for m in masks], alarm=1e-6)

  def test_a_record_of_the_mechanism_draws_the_same(self):
    """A resumed run repeats its steps bit for bit, whatever types its numbers had at first."""
    numpy_fields = {'l2_clip_norm': np.float64(1), 'noise_multiplier': np.float64(1)}
    first = dataclasses.replace(MECHANISM, **numpy_fields, steps=np.int64(10))
    read = DPMechanism.from_dict(json.loads(json.dumps(MECHANISM.to_dict())))
    np.testing.assert_array_equal(*(self.noise(m.noise_sum(KEY)) for m in (first, read)))
    np.testing.assert_array_equal(*(m.sampler(KEY, 3).indices for m in (first, read)))

  def test_the_bits_of_a_step_are_pinned(self):
    """A run is resumed with the keys it began with: these numbers must never change."""
    key = _keys.from_seed(0)
    state = transforms.PrivatizerState(key, jnp.int32(3))
    noise = transforms.step_key(state, {'w': jnp.zeros((2, 3))}, 1.0, 1.0, 4.0, 0)
    batch = MECHANISM.sampler.step_key(key, 3)
    pair = losses.partners(key, jnp.array([11]), 1000)
    assert (words(noise), words(batch)) == (PINNED_NOISE, PINNED_BATCH)
    assert int(pair.fake[0]) == PINNED_FAKE

  @pytest.mark.parametrize('step', [1.5, True, -1, jnp.int8(3), jnp.float32(1), jnp.arange(2)])
  def test_a_step_that_is_no_number_of_steps_is_refused(self, step):
    with pytest.raises(InputError, match='expected step '):
      MECHANISM.sampler(KEY, step)

  def test_a_narrow_count_is_refused_in_the_state_too(self):
    """An int8 count would wrap, and the noise with it."""
    state = transforms.PrivatizerState(KEY, jnp.int8(3))
    with pytest.raises(InputError, match='at least 32 bits'):
      MECHANISM.noise_sum().update({'w': jnp.zeros(3)}, state)


PINNED_NOISE = [767168682, 1887291838]
PINNED_BATCH = [3472530979, 2068343402]
PINNED_FAKE = 770


class TestKeylessUpdate:
  @pytest.mark.parametrize('part', ['noise_sum', 'clip_and_noise'])
  def test_updates_as_with_the_key_but_starts_nothing(self, part):
    make = getattr(MECHANISM, part)
    gradient = {'w': jnp.ones(3) if part == 'noise_sum' else jnp.ones((2, 3))}
    state = make(KEY).init(None)
    want, _ = make(KEY).update(gradient, state)
    got, _ = make().update(gradient, state)
    np.testing.assert_array_equal(got['w'], want['w'])
    with pytest.raises(InputError, match=r'typed key.*NoneType'):
      make().init({'w': jnp.zeros(3)})
    with pytest.raises(InputError, match=r'typed key.*NoneType'):
      optax.chain(make(), optax.sgd(1.0)).init({'w': jnp.zeros(3)})


class TestSettings:
  def test_are_read_as_they_are_now(self):
    before = _jax_settings.read()
    json.dumps(before, allow_nan=False)
    assert set(before) == {*_jax_settings.OPTIONS, *_jax_settings.ENVIRONMENT}
    with (
      jax.default_prng_impl('rbg'), jax.enable_x64(True), jax.debug_nans(True),
      jax.default_matmul_precision('bfloat16'), jax.threefry_partitionable(False),
    ):  # fmt: skip
      now = _jax_settings.read()
    changed = {name for name in now if now[name] != before[name]}
    assert changed == {
      'jax_default_prng_impl', 'jax_enable_x64', 'jax_debug_nans', 'jax_default_matmul_precision',
      'jax_threefry_partitionable',
    }  # fmt: skip
    assert now['jax_default_prng_impl'] == 'rbg'

  def test_checks_for_nan_are_refused(self):
    """They end a run where one record's gradient is not finite, which tells of the record."""
    bad = jnp.array([[jnp.nan, 1.0], [0.5, 0.0]])
    with jax.debug_nans(True):
      with pytest.raises(FloatingPointError):  # this is why
        jax.jit(lambda g: clipping.clipped_sum(g, l2_clip_norm=1.0).norms)(bad)
      with pytest.raises(InputError, match='jax_debug_nans to be off'):
        _jax_settings.require_sound()
    _jax_settings.require_sound()

  @pytest.mark.parametrize(
    'flags', ['--xla_cpu_enable_fast_math', '--a --xla_cpu_enable_fast_math=true']
  )
  def test_fast_maths_is_refused(self, flags, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', flags)
    with pytest.raises(InputError, match='xla_cpu_enable_fast_math'):
      _jax_settings.require_sound()
    monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
    _jax_settings.require_sound()
