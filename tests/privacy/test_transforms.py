"""dpgan_jax.privacy.transforms: the noise that the accountant charges, over a public divisor."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpgan_jax import _keys
from dpgan_jax._validate import InputError
from dpgan_jax.privacy import step_noise, transforms
from experiments.trust import statistical_checks as statistics

PARAMS = {'a': jnp.zeros((2, 3)), 'b': jnp.zeros((4,)), 'c': jnp.zeros(())}
ALARM = 1e-6


def per_example(n: int, seed: int = 0) -> dict[str, jax.Array]:
  rng = np.random.default_rng(seed)
  return {
    k: jnp.asarray(rng.standard_normal((n, *p.shape)), jnp.float32) for k, p in PARAMS.items()
  }


def make(clip: float = 0.7, sigma: float = 1.3, batch: float = 4.0, seed: int = 5, **arguments):
  key = arguments.get('key', jax.random.key(seed))
  return transforms.clip_and_noise(clip, sigma, batch, key)


def close(got: dict, want: dict, rtol: float = 1e-5) -> None:
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=rtol, atol=1e-6), got, want)


def noise(shapes: dict[str, tuple[int, ...]], steps: int, *, clip=3.0, sigma=0.5, batch=8.0):
  """[steps][leaf]: the updates of empty batches, which are nothing but noise."""
  transform = make(clip, sigma, batch)
  empty = {k: jnp.zeros((0, *shape)) for k, shape in shapes.items()}
  state = transform.init(None)
  updates = []
  for _ in range(steps):
    update, state = transform.update(empty, state)
    updates.append({k: np.asarray(v).ravel() for k, v in update.items()})
  return updates


def step_key(key: jax.Array, step: int, sigma: float, clip: float, batch: float) -> jax.Array:
  """The key of the noise of `clip_and_noise` on PARAMS at a step, as documented."""
  names = tuple((f"['{name}']", PARAMS[name].shape) for name in sorted(PARAMS))
  purpose = _keys.number('noise', names, clip, sigma, batch, _keys.number('clip_and_noise', 0))
  return jax.random.fold_in(jax.random.fold_in(key, purpose), step)


class TestFormula:
  def test_is_the_documented_one_in_float64(self):
    """(Σᵢ maskᵢ·clip(gᵢ, C) + σ·C·z) / B + public_grads, noise of the step's own key."""
    clip, sigma, batch, key = 0.7, 1.3, 4.0, jax.random.key(5)
    transform = make(clip, sigma, batch, key=key)
    state = transform.init(PARAMS)
    mask = np.array([True, False, True, True, True])
    for step in range(3):
      grads = per_example(5, seed=step)
      public = {k: v[0] for k, v in per_example(1, seed=99 + step).items()}
      got, state = transform.update(
        grads, state, PARAMS, mask=jnp.asarray(mask), public_grads=public
      )
      g64 = {k: np.asarray(v, np.float64) for k, v in grads.items()}
      own_key = step_key(key, step, sigma, clip, batch)
      drawn = step_noise.add_gaussian(own_key, PARAMS, clip, sigma)  # onto zeros
      unit = step_noise.grid_of(sigma * clip)
      for name in PARAMS:
        total = np.zeros(PARAMS[name].shape)
        for i in np.flatnonzero(mask):
          norm = math.sqrt(sum((g[i] ** 2).sum() for g in g64.values()))
          total += g64[name][i] * min(1.0, clip / norm)
        noise = np.asarray(drawn[name], np.float64)
        want = (total + noise) / batch + np.asarray(public[name], np.float64)
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6 + unit / batch)
    assert int(state.count) == 3

  def test_divides_by_the_public_batch_size_whatever_came(self):
    transform = make(math.inf, 0.0, 4.0)
    for n, present in ((0, 0), (6, 0), (6, 1), (6, 6)):
      grads, mask = per_example(n), jnp.arange(n) < present
      got, _ = transform.update(grads, transform.init(PARAMS), PARAMS, mask=mask)
      close(got, {k: g[:present].sum(0) / 4.0 for k, g in grads.items()})

  def test_no_noise_and_no_clip_is_plain_sgd(self):
    transform, grads = make(math.inf, 0.0, 5.0), per_example(5)
    got, _ = transform.update(grads, transform.init(PARAMS), PARAMS)
    close(got, jax.tree.map(lambda g: g.mean(0), grads), rtol=1e-6)

  def test_public_gradients_are_added_unscaled_after_the_noise(self):
    transform, grads = make(), per_example(5)
    public = jax.tree.map(lambda p: jnp.full(p.shape, 1e3), PARAMS)
    state = transform.init(PARAMS)
    without, _ = transform.update(grads, state)
    with_public, _ = transform.update(grads, state, public_grads=public)
    close(jax.tree.map(jnp.subtract, with_public, without), public)

  def test_noise_sum_is_the_second_half(self):
    total = {k: g[0] for k, g in per_example(1).items()}
    transform = transforms.noise_sum(0.7, 1.3, 4.0, jax.random.key(5))
    got, _ = transform.update(total, transform.init(None))
    z, _ = transform.update(jax.tree.map(jnp.zeros_like, total), transform.init(None))
    close(jax.tree.map(jnp.subtract, got, z), jax.tree.map(lambda t: t / 4.0, total))

  def test_bf16_gradients_get_float32_noise(self):
    transform = make()
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), per_example(3))
    got, _ = transform.update(grads, transform.init(PARAMS), PARAMS)
    assert {v.dtype for v in got.values()} == {jnp.dtype('float32')}


class TestNoise:
  def test_standard_deviation_of_every_leaf_and_step(self):
    """Kolmogorov-Smirnov, 10,000 entries per leaf and step, the noise of an empty batch.

    False alarm 1e-6 for each of the 7 tests; σ at 2/3 or 3/2 of what is charged moves the
    distribution function by 0.09, where 0.027 is enough to be refused: power > 99.99%.
    """
    updates = noise({'a': (100, 100), 'b': (10_000,), 'c': (10, 10, 100)}, steps=2)
    expected = 0.5 * 3.0 / 8.0
    samples = [u for step in updates for u in step.values()]
    for sample in (*samples, np.concatenate([step['b'] for step in updates])):
      statistics.noise_is_normal(sample, expected, alarm=ALARM)
      for factor in (2 / 3, 1.5):
        with pytest.raises(statistics.Violation, match=r'noise has [\d.]+ times'):
          statistics.noise_is_normal(sample, factor * expected, alarm=ALARM)

  def test_is_never_used_twice(self):
    """Correlations between all leaves and steps, 10,000 entries. False alarm 1e-6 in all.

    The same noise in two places correlates by 1, shared noise that is 10% of the variance by 0.1:
    power > 99.9%.
    """
    shapes = dict.fromkeys('abc', (100, 100))
    samples = [u for step in noise(shapes, steps=3) for u in step.values()]
    statistics.noise_is_unshared(samples, alarm=ALARM)
    for sample in samples:  # within a leaf: neighbours, and rows
      statistics.noise_is_white(sample, (1, 100), alarm=ALARM)

  def test_another_key_is_another_noise_and_the_same_key_the_same(self):
    empty = {'a': jnp.zeros((0, 50))}
    first, again, other = (
      t.update(empty, t.init(None))[0]['a'] for t in (make(), make(), make(seed=6))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()

  def test_the_step_count_alone_says_which_noise_is_next(self):
    # A resumed run continues the stream: the state holds all there is to know.
    transform, empty = make(), {'a': jnp.zeros((0, 50))}
    state = transform.init(None)
    for _ in range(2):
      _, state = transform.update(empty, state)
    restored = transforms.PrivatizerState(jax.random.key(5), jnp.int32(2))
    jax.tree.map(
      np.testing.assert_array_equal,
      transform.update(empty, state)[0], transform.update(empty, restored)[0],
    )  # fmt: skip

  def test_empty_and_all_masked_batches_are_as_noisy_as_any(self):
    transform = make()
    state = transform.init(PARAMS)
    empty, _ = transform.update(per_example(0), state, PARAMS)
    masked, _ = transform.update(per_example(3), state, PARAMS, mask=jnp.zeros(3, bool))
    jax.tree.map(np.testing.assert_array_equal, empty, masked)
    assert all((np.abs(v) > 0).all() for v in empty.values())

  def test_a_nan_example_does_not_become_a_nan_step(self):
    transform, grads = make(), per_example(3)
    grads['b'] = grads['b'].at[1, 0].set(jnp.nan)
    got, _ = transform.update(grads, transform.init(PARAMS), PARAMS)
    mask = jnp.array([True, False, True])
    want, _ = transform.update(per_example(3), transform.init(PARAMS), PARAMS, mask=mask)
    close(got, want)


class TestOptax:
  def test_in_a_chain_under_jit_and_scan(self):
    optimizer = optax.chain(make(), optax.adam(1e-2))
    batches = jax.tree.map(lambda *x: jnp.stack(x), *(per_example(5, seed=s) for s in range(4)))
    masks = jnp.arange(20).reshape(4, 5) % 3 > 0

    def step(carry, batch):
      params, state = carry
      grads, mask = batch
      updates, state = optimizer.update(
        grads, state, params, mask=mask, public_grads=jax.tree.map(jnp.ones_like, params)
      )
      return (optax.apply_updates(params, updates), state), None

    start = (PARAMS, optimizer.init(PARAMS))
    eager = start
    for i in range(4):
      eager, _ = step(eager, (jax.tree.map(lambda x, i=i: x[i], batches), masks[i]))
    scanned, _ = jax.jit(lambda s: jax.lax.scan(step, s, (batches, masks)))(start)
    close(scanned[0], eager[0])
    assert int(scanned[1][0].count) == 4

  def test_donating_the_state_leaves_the_key_alone(self):
    key = jax.random.key(3)
    transform = make(key=key)
    grads = {'a': jnp.zeros((0, 3))}
    update = jax.jit(lambda s: transform.update(grads, s), donate_argnums=0)
    states = [transform.init(None), transform.init(None)]
    results = [update(s)[0]['a'] for s in states]
    assert states[0].count.is_deleted()  # otherwise this backend donates nothing
    np.testing.assert_array_equal(*results)
    kept, own = jax.random.key_data(key), jax.random.key_data(transform.init(None).key)
    np.testing.assert_array_equal(kept, own)

  def test_replaces_optax_differentially_private_aggregate(self):
    """Where both mean the same (no noise, no clip in effect, everybody there): the same updates."""
    grads = per_example(6)
    theirs = optax.contrib.differentially_private_aggregate(1e6, 0.0, jax.random.key(0))
    want, _ = theirs.update(grads, theirs.init(PARAMS), PARAMS)
    transform = make(1e6, 0.0, 6)
    got, _ = transform.update(grads, transform.init(PARAMS), PARAMS, mask=jnp.ones(6, bool))
    close(got, want, rtol=1e-6)
    # With a clip in effect too.
    theirs = optax.contrib.differentially_private_aggregate(0.5, 0.0, jax.random.key(0))
    want, _ = theirs.update(grads, theirs.init(PARAMS), PARAMS)
    got, _ = make(0.5, 0.0, 6).update(grads, transform.init(PARAMS), PARAMS)
    close(got, want)


class TestRefuses:
  @pytest.mark.parametrize(
    ('arguments', 'words'),
    [
      ((0.0, 1.0, 4, jax.random.key(0)), ('l2_clip_norm > 0', '0.0')),
      ((1.0, -1.0, 4, jax.random.key(0)), ('noise_multiplier >= 0', '-1.0')),
      ((1.0, 1.0, 0, jax.random.key(0)), ('expected_batch_size > 0', 'got 0')),
      ((math.inf, 1.0, 4, jax.random.key(0)), ('finite l2_clip_norm', 'noise_multiplier > 0')),
      ((1.0, 1.0, 4, jax.random.PRNGKey(0)), ('typed key', 'jax.random.key', 'uint32')),
      ((1.0, 1.0, 4, jax.random.split(jax.random.key(0), 2)), ('one typed key',)),
      ((1.0, 1.0, 4, 42), ('typed key', 'int')),
    ],
  )
  def test_arguments(self, arguments, words):
    with pytest.raises(InputError) as caught:
      transforms.clip_and_noise(*arguments)
    for word in words:
      assert word in str(caught.value)

  @pytest.mark.parametrize('wrong', ['a', 'b', 'c'])
  def test_gradients_that_were_averaged_already(self, wrong):
    transform, grads = make(), per_example(4)
    grads[wrong] = grads[wrong].mean(0)
    with pytest.raises(InputError, match=rf"per-example gradients \[n, .*\['{wrong}'\]"):
      transform.update(grads, transform.init(PARAMS), PARAMS)

  def test_an_averaged_gradient_whose_first_axis_could_be_examples(self):
    params = {'w': jnp.zeros((5, 2))}
    transform = make()
    with pytest.raises(InputError, match=r'got shape \(5, 2\)'):
      transform.update({'w': jnp.ones((5, 2))}, transform.init(params), params)

  def test_a_mask_of_weights(self):
    transform = make()
    with pytest.raises(InputError, match='dtype bool'):
      transform.update(per_example(3), transform.init(PARAMS), PARAMS, mask=jnp.ones(3))
