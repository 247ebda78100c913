"""Rounding of sums is part of their sensitivity: an example moves them by at most C, exactly."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dpgan_jax import _validate
from dpgan_jax.privacy import clipping, sampling, sharding, transforms
from dpgan_jax.privacy.ghost import forms, sums
from dpgan_jax.privacy.mechanism import DPMechanism

C = 1.0


def length(*trees) -> float:
  """‖Σ trees‖ in float64."""
  leaves = zip(*map(jax.tree.leaves, trees), strict=True)
  return math.sqrt(sum((sum(np.asarray(x, np.float64) for x in xs) ** 2).sum() for xs in leaves))


def moved(fn, *batch, place: int) -> float:
  """How far a sum moves when the example at `place` joins."""
  n = batch[0].shape[0]
  with_it, without = (fn(*batch, mask=jnp.arange(n) != gone).sum for gone in (n, place))
  return length(with_it, jax.tree.map(jnp.negative, without))


class TestSensitivity:
  @pytest.mark.parametrize('n', [3000, 4500])
  def test_a_float32_sum_moves_farther_than_the_clip_norm_and_a_counted_one_does_not(self, n):
    """Examples along one direction: the sum is so large that its last place is 5·10⁻⁴ of C."""
    rng = np.random.default_rng(0)
    found = {}
    for counted in (False, True):
      fn = jax.jit(
        lambda g, mask, counted=counted: clipping.clipped_sum(
          g, l2_clip_norm=C, mask=mask, count_rounding=counted
        )
      )
      lengths = [np.append(3, rng.uniform(0.4, 0.8, n - 1)) for _ in range(25)]
      grads = [jnp.asarray(x[:, None] * [[1.0, 1.0]], jnp.float32) for x in lengths]
      found[counted] = max(moved(fn, g, place=0) for g in grads)
    assert found[False] > C * (1 + 1e-5)
    assert 0.99 * C < found[True] <= C

  @hypothesis.given(
    shape=st.sampled_from([(7, 1, 3, 2), (96, 1, 40, 30), (130, 2, 30, 40), (24, 9, 40, 50)]),
    spread=st.integers(0, 4), strategy=st.sampled_from(clipping.STRATEGIES),
    bound=st.sampled_from([1e-3, 0.7, 40.0]), seed=st.integers(0, 999),
  )  # fmt: skip
  @hypothesis.settings(max_examples=20)
  def test_no_example_moves_a_sum_beyond_the_clip_norm(self, shape, spread, strategy, bound, seed):
    """Whatever the others are: large, small, alike, in one direction."""
    n, positions, inputs, outputs = shape
    rng = np.random.default_rng(seed)
    loss = lambda w, a, d: jnp.sum((a @ w) * d)  # noqa: E731
    fn = jax.jit(clipping.clipped_grad(loss, l2_clip_norm=bound, strategy=strategy))
    common = rng.standard_normal((2, positions, max(inputs, outputs)))
    scale = 10.0 ** rng.integers(-spread, spread + 1, (n, 1, 1))
    a, d = (
      jnp.asarray(scale * (x[:, :size] + rng.choice([0, 1e-4, 1]) * noise), jnp.float32)
      for x, size in zip(common, (inputs, outputs), strict=True)
      for noise in [rng.standard_normal((n, positions, size))]
    )
    w = jnp.zeros((inputs, outputs))
    place = int(rng.integers(n))
    assert moved(lambda *b, mask: fn(w, *b, mask=mask), a, d, place=place) <= bound

  def test_a_bad_example_moves_nothing_at_all(self):
    g = jnp.asarray(np.random.default_rng(0).standard_normal((100, 8)), jnp.float32)
    fn = jax.jit(lambda g, mask: clipping.clipped_sum(g, l2_clip_norm=C, mask=mask))
    assert moved(fn, g.at[3, 2].set(jnp.nan), place=3) == 0


def far_from_plain(total) -> bool:
  """Whether a sum clipped at C = 1 is of examples clipped shorter, as counting does."""
  return 1e-5 < 1 - float(jnp.linalg.norm(total)) / 300 < 2e-3


class TestWhatCounts:
  """300 examples along one direction: with and without noise to come."""

  @pytest.mark.parametrize('noise', [1.0, 0.0])
  def test_a_mechanism_counts_where_there_is_noise(self, noise):
    mechanism = DPMechanism.create(
      num_examples=3000, batch_size=300, l2_clip_norm=C, noise_multiplier=noise, steps=3, delta=1e-5
    )
    grad = mechanism.clipped_grad(lambda w, x: jnp.sum(w * x))
    assert far_from_plain(grad(jnp.ones(2), jnp.full((300, 2), 9.0)).sum) == bool(noise)

  @pytest.mark.parametrize('noise', [1e-9, 0.0])
  def test_the_transform_counts_where_there_is_noise(self, noise):
    both = transforms.clip_and_noise(C, noise, 1, jax.random.key(0))
    total, _ = both.update(jnp.full((300, 2), 9.0), both.init(jnp.ones(2)))
    assert far_from_plain(total) == bool(noise)

  @pytest.mark.parametrize(('times_longer', 'is_formed'), [(12, False), (25, True)])
  def test_a_gradient_that_cancels_too_far_is_formed(self, times_longer, is_formed):
    """Or groups would round more than is counted. Its norm alone would still be told well."""
    d = np.eye(4) - 0.25  # gradients that sum to 0, and rows that are alike but for a part
    apart = np.random.default_rng(0).standard_normal((4, 4))
    terms = 4 * 2 * math.sqrt(0.75)  # Σ‖aₜ‖‖dₜ‖, but for that part
    a = 1 + apart * terms / times_longer / np.linalg.norm(apart.T @ d)
    assert sums.excess(4) == 16
    _, formed = forms._gram_squares(*(jnp.asarray(x[None, None], jnp.float32) for x in (a, d)))
    assert formed.tolist() == [is_formed]

  def test_norms_that_are_not_told_apart_are_counted(self):
    (leaf,) = [jax.ShapeDtypeStruct((4,), jnp.float32)]
    tiny, usual = (sums.grids(c, 10, [leaf]).lost_in({9}) for c in (1e-6, 1.0))
    assert tiny - usual > 9e-4
    with pytest.raises(_validate.InputError, match=r'^expected l2_clip_norm >='):
      sums.grids(1e-9, 10, [leaf]).lost_in({9})


class TestExactness:
  def test_order_and_parts_change_no_bit_and_devices_a_unit(self):
    """Groups of one example, none of them clipped: all that is left to round is between groups."""
    rng = np.random.default_rng(0)
    n, positions = 24, 230
    assert sums.group_of(positions) == 1
    assert forms.cheapest((1, positions, 240, 250), 'memory') == 'gram'
    batch = [
      jnp.asarray(rng.standard_normal((n, positions, size)) / 90, jnp.float32)
      for size in (240, 250)
    ]
    loss = lambda w, a, d: jnp.sum((a @ w) * d)  # noqa: E731
    w = jnp.zeros((240, 250))
    arguments = {'l2_clip_norm': C, 'strategy': 'ghost'}

    def total(batch, **more):
      return jax.jit(clipping.clipped_grad(loss, **arguments, **more))(w, *batch).sum

    want = total(batch)
    assert (jax.jit(clipping.clipped_grad(loss, **arguments))(w, *batch).norms < 0.9 * C).all()
    order = rng.permutation(n)
    np.testing.assert_array_equal(total([x[order] for x in batch]), want)
    np.testing.assert_array_equal(total(batch, microbatch_size=8), want)
    mesh = sharding.mesh_of(8)
    split = jax.shard_map(
      lambda w, *part: clipping.clipped_grad(loss, axis_name=sharding.AXIS, **arguments)(w, *part),
      mesh=mesh,
      in_specs=(PartitionSpec(), PartitionSpec(sharding.AXIS), PartitionSpec(sharding.AXIS)),
      out_specs=clipping.ClippedGrad(
        PartitionSpec(), PartitionSpec(sharding.AXIS), PartitionSpec(sharding.AXIS)
      ),
    )
    units = sums.grids(C, n, [w], devices=8)
    np.testing.assert_allclose(
      jax.jit(split)(w, *batch).sum, want, atol=8 * C * units.of_units / math.sqrt(w.size)
    )

  def test_plain_sums_of_devices(self):
    """No clip norm, no units: of fakes whose gradients are not clipped."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((16, 3)), jnp.float32)
    fn = clipping.clipped_grad(
      lambda w, x: jnp.sum(w * x), l2_clip_norm=math.inf, axis_name=sharding.AXIS
    )
    split = jax.shard_map(
      lambda w, x: fn(w, x).sum, mesh=sharding.mesh_of(8), out_specs=PartitionSpec(),
      in_specs=(PartitionSpec(), PartitionSpec(sharding.AXIS)),
    )  # fmt: skip
    np.testing.assert_allclose(jax.jit(split)(jnp.ones(3), x), x.sum(axis=0), rtol=1e-5)

  @pytest.mark.parametrize('n', [1, 5, 67, 200, 1009])
  def test_groups_hold_every_example_once(self, n):
    """Also where no divisor is near the size of a group."""
    x = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (n, 4)), jnp.float32)
    (grid,) = sums.grids(9.0, n, [jax.ShapeDtypeStruct((4,), jnp.float32)]).leaves
    for group, at_once in ((1, 1), (64, 1), (64, 3), (64, n)):
      got = sums.over_groups(lambda x: jnp.sum(x, axis=1), (x,), grid, group, at_once)
      np.testing.assert_array_equal(grid.value(got), np.asarray(x).sum(axis=0))

  @pytest.mark.parametrize('n', [1, 2, 300, 70_000])
  def test_no_sum_leaves_32_bits(self, n):
    """All examples at their most, each a group of its own, and twice."""
    (grid,) = sums.grids(1.9, n, [jax.ShapeDtypeStruct((1,), jnp.float32)]).leaves
    x = jnp.full((n, 1), 1.9 * (1 - 2.0**-24))
    units, parts = sums.over_groups(lambda x: jnp.sum(x, axis=1), (x,), grid, 1, n)
    for whole in (units, parts):
      assert abs(int(whole[0])) * 2 <= 2**31 - 1
    assert int(units[0]) * grid.unit == pytest.approx(1.9 * n, rel=1e-3)

  @hypothesis.given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.data())
  @hypothesis.settings(max_examples=20)
  def test_values_come_back_rounded_once(self, values, data):
    bound = data.draw(st.sampled_from([1.0, 1e-3, 0.7, 1e6]))
    n = len(values)
    (grid,) = sums.grids(bound, n, [jax.ShapeDtypeStruct((), jnp.float32)]).leaves
    x = np.asarray(values, np.float32) * np.float32(bound)
    got = grid.value(sums.over_groups(lambda x: x[:, 0], (jnp.asarray(x),), grid, 1, n))
    want = math.fsum(float(v) for v in x)
    smallest = n * grid.unit / grid.parts
    assert abs(float(got) - want) <= 1.01 * 2.0**-24 * abs(want) + smallest

  def test_rounding_is_what_the_module_says(self):
    """A few hundred examples lose next to nothing; a large batch of a large network a percent."""
    small = [jax.ShapeDtypeStruct((30_000,), jnp.float32)]
    large = [jax.ShapeDtypeStruct((4000, 400), jnp.float32), *small]
    least = 2 * 64 * 64 * 2.0**-24 + 2 * 200 * 2.0**-24  # groups of 64, and the last rounding
    assert least <= sums.grids(C, 200, small).lost_in({1}) < 7e-4
    assert sums.grids(C, 200, small).lost_in({1, 49}) < 5e-3
    assert sums.grids(C, 65_536, large).lost_in({1}) < 0.01
    many = sums.grids(C, 65_536, large, devices=256).lost_in({1})
    assert 2.0**-10 < many - sums.grids(C, 65_536, large).lost_in({1}) < 2.0**-8 + 1e-4

  @pytest.mark.parametrize(('n', 'bound'), [(2**20, 1.0), (10, 1e-30), (10, 1e30)])
  def test_refuses_what_float32_has_no_room_for(self, n, bound):
    words = r'^expected (fewer than|l2_clip_norm within)'
    with pytest.raises(_validate.InputError, match=words):
      sums.grids(bound, n, [jax.ShapeDtypeStruct((4,), jnp.float32)])

  @pytest.mark.parametrize('counted', [True, False])
  def test_a_clip_norm_far_above_all_gradients_takes_nothing_of_them(self, counted):
    g = jnp.asarray(np.random.default_rng(0).standard_normal((5, 40)), jnp.float32)
    got = clipping.clipped_sum(g, l2_clip_norm=1e6, count_rounding=counted).sum
    np.testing.assert_allclose(got, np.asarray(g, np.float64).sum(axis=0), atol=1e-6)


def test_an_example_more_moves_no_other_from_its_place():
  """Places are drawn without looking at who joins, and padding is anywhere among them."""
  sampler = sampling.TruncatedPoissonSampler(
    num_examples=200, sampling_probability=0.125, truncated_batch_size=60
  )
  keys = jax.random.split(jax.random.key(0), 400)
  masks = jax.vmap(lambda k: sampler(k, 0).mask)(keys)
  share = np.asarray(masks).mean(axis=0)
  deviation = math.sqrt(0.42 * 0.58 / 400)
  assert abs(share - masks.mean()).max() < 4.5 * deviation
