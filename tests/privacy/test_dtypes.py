"""dpgan_jax._dtypes: one rule of dtypes for every way into the core, right or refused by name."""

from __future__ import annotations

import contextlib
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.privacy import clipping, transforms

RIGHT = ('float16', 'bfloat16', 'float32', 'float64')
WRONG = {
  'complex64': np.complex64, 'complex128': np.complex128, 'int8': np.int8, 'uint8': np.uint8,
  'int32': np.int32, 'bool': np.bool_, 'float8_e4m3fn': ml_dtypes.float8_e4m3fn,
  'float8_e5m2': ml_dtypes.float8_e5m2, 'float4_e2m1fn': ml_dtypes.float4_e2m1fn,
  'int4': ml_dtypes.int4, 'float0': jax.dtypes.float0,
}  # fmt: skip
KEY = jax.random.key(0)


def linear(params, x):
  return jnp.sum(params['good'] * x) + jnp.sum(params['bad'].astype(jnp.float32))


def by_loss(strategy: str, microbatch_size: int | None = None):
  grad = clipping.clipped_grad(
    linear, l2_clip_norm=1.0, strategy=strategy, microbatch_size=microbatch_size
  )
  return lambda tree: grad(jax.tree.map(lambda x: x[0], tree), jnp.ones((2, 3)))


def by_transform(transform, part=lambda tree: tree):
  def call(tree):
    params = {name: jnp.zeros(3) for name in tree}
    return transform.update(part(tree), transform.init(params), params)

  return call


def by_init(tree):
  return transforms.noise_sum(1.0, 1.0, 4, KEY).init(tree)


def by_public_grads(tree):
  transform = transforms.noise_sum(1.0, 1.0, 4, KEY)
  good = {name: jnp.zeros(3) for name in tree}
  return transform.update(good, transform.init(good), public_grads=first(tree))


def first(tree):
  return jax.tree.map(lambda x: x[0], tree)


WAYS = {
  'clipped_sum': lambda tree: clipping.clipped_sum(tree, l2_clip_norm=1.0),
  'clipped_grad auto': by_loss('auto'),
  'clipped_grad ghost': by_loss('ghost'),
  'clipped_grad vmap': by_loss('vmap'),
  'clipped_grad in parts': by_loss('auto', microbatch_size=1),
  'noise_sum': by_transform(transforms.noise_sum(1.0, 1.0, 4, KEY), first),
  'clip_and_noise': by_transform(transforms.clip_and_noise(1.0, 1.0, 4, KEY)),
  'init': by_init,
  'public_grads': by_public_grads,
}


@pytest.mark.parametrize('x64', [False, True])
@pytest.mark.parametrize('way', WAYS)
def test_everything_else_is_refused_with_the_same_words(way, x64):
  for name, dtype in WRONG.items():
    if name == 'complex128' and not x64:
      continue
    bad = np.zeros((2, 3), dtype)
    tree = {'good': jnp.ones((2, 3)), 'bad': bad}
    with jax.enable_x64(x64), pytest.raises(InputError) as caught:
      WAYS[way](tree)
    words = str(caught.value)
    assert "['bad'] to be a float16, bfloat16, float32 or float64" in words
    assert f'got {name}: ' in words


@pytest.mark.parametrize(
  'strategy',
  [
    pytest.param(s, marks=[] if s == 'ghost' else [pytest.mark.slow]) for s in clipping.STRATEGIES
  ],
)
@hypothesis.settings(max_examples=4)
@hypothesis.given(
  dtypes=st.lists(st.sampled_from(RIGHT), min_size=3, max_size=3), data=st.sampled_from(RIGHT),
  promotion=st.sampled_from(['standard', 'strict']), x64=st.booleans(),
  microbatch=st.sampled_from([None, 2]),
)  # fmt: skip
def test_mixed_floats_give_the_sum_of_float64(strategy, microbatch, dtypes, data, promotion, x64):
  """Weights of a product, of a bias and of a scale in any dtypes, data in another."""
  rng = np.random.default_rng(0)
  values = {'w': rng.standard_normal((4, 3)), 'b': rng.standard_normal(3), 's': np.ones(())}

  def loss(params, x):
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    return jnp.sum(jnp.tanh(x.astype(jnp.float32) @ wide['w'] + wide['b'])) * wide['s']

  with jax.enable_x64(x64), jax.numpy_dtype_promotion(promotion):
    params = {k: jnp.asarray(v, d) for (k, v), d in zip(values.items(), dtypes, strict=True)}
    x = jnp.asarray(rng.standard_normal((5, 4)), data)
    fn = clipping.clipped_grad(
      loss, l2_clip_norm=0.5, strategy=strategy, microbatch_size=microbatch
    )
    found = fn(params, x)
    grads = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    from_grads = clipping.clipped_sum(grads, l2_clip_norm=0.5)
  for name, param in params.items():
    wanted = jnp.float64 if param.dtype == jnp.float64 else jnp.float32
    assert found.sum[name].dtype == from_grads.sum[name].dtype == wanted
  plain = {k: np.asarray(g, np.float64) for k, g in grads.items()}
  norms = np.sqrt(sum((g.reshape(5, -1) ** 2).sum(1) for g in plain.values()))
  factors = np.minimum(1, 0.5 / norms)
  for name, g in plain.items():
    want = np.tensordot(factors, g, 1)
    # Gradients of a narrow parameter are rounded before anybody sees them.
    close = 3e-2 if params[name].dtype in (jnp.bfloat16, jnp.float16) else 1e-2
    np.testing.assert_allclose(found.sum[name], want, atol=close)
    np.testing.assert_allclose(from_grads.sum[name], want, atol=3e-5)


@pytest.mark.parametrize('strategy', clipping.STRATEGIES)
def test_complex_numbers_within_a_loss_are_right(strategy):
  """Real parameters of a Fourier transform: the gradients are real, and clipped as such."""

  def loss(w, x):
    return jnp.sum(jnp.abs(jnp.fft.fft(x @ w)) ** 2)

  w = jax.random.normal(jax.random.key(1), (4, 3))
  x = jax.random.normal(jax.random.key(2), (6, 4))
  found = clipping.clipped_grad(loss, l2_clip_norm=5.0, strategy=strategy)(w, x)
  grads = jax.vmap(jax.grad(loss), (None, 0))(w, x)
  want = clipping.clipped_sum(grads, l2_clip_norm=5.0)
  np.testing.assert_allclose(found.sum, want.sum, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found.norms, want.norms, rtol=1e-5)


@pytest.mark.parametrize(
  'dtype',
  [*(pytest.param(d, marks=pytest.mark.slow) for d in ('float16', 'float32')),
   'bfloat16', 'float64'],
)  # fmt: skip
@pytest.mark.parametrize('half', ['noise_sum', 'clip_and_noise'])
def test_parameters_of_every_float_train_in_a_scan(dtype, half):
  """The carry keeps its dtypes; sum and noise are float32 all the same (bf16_scan.py)."""
  context = jax.enable_x64(True) if dtype == 'float64' else contextlib.nullcontext()
  with context:
    params = {'w': jnp.ones(3, dtype)}
    make = transforms.noise_sum if half == 'noise_sum' else transforms.clip_and_noise
    optimizer = optax.chain(make(1.0, 1.0, 4, KEY), optax.adam(1e-3))
    shape = (3,) if half == 'noise_sum' else (4, 3)
    gradient = {'w': jnp.ones(shape, dtype)}

    def step(carry, _):
      updates, state = optimizer.update(gradient, carry[1], carry[0])
      return (optax.apply_updates(carry[0], updates), state), updates['w']

    (end, _), updates = jax.lax.scan(step, (params, optimizer.init(params)), length=3)
  assert end['w'].dtype == updates.dtype == jnp.dtype(dtype)


def test_the_update_is_rounded_after_the_noise_and_never_before():
  """257 + noise: bfloat16 has no 257, and noise of 2⁻¹² would vanish in it."""
  transform = transforms.noise_sum(2.0**-12, 1.0, 1, KEY)
  total, params = {'w': jnp.full(4, 257.0)}, {'w': jnp.zeros(4, jnp.bfloat16)}
  state = transform.init(params)
  wide, _ = transform.update(total, state)
  narrow, _ = transform.update(total, state, params)
  assert (wide['w'].dtype, narrow['w'].dtype) == (jnp.float32, jnp.bfloat16)
  assert len(set(np.asarray(wide['w']).tolist())) > 2  # float32 has 8 numbers in its deviation
  np.testing.assert_array_equal(narrow['w'], wide['w'].astype(jnp.bfloat16))
  already, _ = transform.update({'w': jnp.full(4, 256, jnp.bfloat16)}, state)
  assert already['w'].dtype == jnp.float32  # a narrow sum gets noise that is not


@pytest.mark.parametrize('microbatch', [None, 2, 5])
def test_float32_parameters_with_float64_data(microbatch):
  """In parts as in one (x64_mixed.py), also where the CPU's default cuts a large batch."""
  with jax.enable_x64(True):
    w, x = jnp.ones((6, 3), jnp.float32), jnp.ones((5, 6))
    fn = clipping.clipped_grad(
      lambda w, x: jnp.sum(x @ w), l2_clip_norm=1.0, microbatch_size=microbatch
    )
    found = fn(w, x)
    assert (x.dtype, found.sum.dtype, found.losses.dtype) == ('float64', 'float32', 'float32')
    np.testing.assert_allclose(found.sum, 5 / np.sqrt(18), rtol=1e-5)
    large = jnp.ones((40_000, 64))
    default = clipping.clipped_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), l2_clip_norm=1.0)
    assert jax.eval_shape(default, jnp.ones((64, 64), jnp.float32), large).sum.dtype == 'float32'


def test_numbers_of_numpy_do_not_widen_a_step():
  with jax.enable_x64(True):
    one = np.float64(1.0)
    transform = transforms.noise_sum(one, one, one, KEY)
    total = {'w': jnp.ones(3, jnp.float32)}
    update, _ = transform.update(total, transform.init(total))
    found = clipping.clipped_sum(jnp.ones((2, 3), jnp.float32), l2_clip_norm=one).sum
  assert update['w'].dtype == found.dtype == jnp.float32


@pytest.mark.slow  # GANs have bytes, test_ghost_lookups integers
def test_data_may_be_of_any_dtype():
  w = jnp.ones(3)
  for dtype in ('uint8', 'int32', 'bool', 'float16', 'complex64', 'float8_e5m2'):
    x = jnp.ones((2, 3)).astype(dtype)
    loss = lambda w, x: jnp.sum(w * jnp.abs(x.astype(jnp.complex64)))  # noqa: E731
    for strategy in clipping.STRATEGIES:
      found = clipping.clipped_grad(loss, l2_clip_norm=9.0, strategy=strategy)(w, x)
      np.testing.assert_allclose(found.sum, [2, 2, 2])


@pytest.mark.parametrize(
  ('loss', 'words'),
  [
    (lambda w, x: jnp.sum(w * x) + 1j, 'the loss to be a float16'),
    (lambda w, x: jnp.sum(x).astype(int), 'got int32: return one real number'),
    (lambda w, x: (jnp.sum(w * x), {'seen': x}), 'got 2 arrays: has_aux is not supported'),
    (lambda w, x: w * x, 'one scalar for one example'),
    (lambda w, x: None, 'got 0 arrays'),
  ],
)
def test_a_loss_that_is_not_one_real_number_is_refused(loss, words):
  for strategy in clipping.STRATEGIES:
    with pytest.raises(InputError, match=words):
      clipping.clipped_grad(loss, l2_clip_norm=1.0, strategy=strategy)(
        jnp.ones(3), jnp.ones((2, 3))
      )


@pytest.mark.parametrize(
  ('params', 'batch', 'words'),
  [
    ({}, jnp.ones((2, 3)), 'expected params to hold an array'),
    (jnp.ones(3), [[1.0, 2.0, 3.0]], r'batch\[0\]\[0\]\[0\] to be an array .*jnp.asarray'),
    (jnp.ones(3), 'abc', 'got str'),
    (jnp.ones(3), jnp.ones(()), r'pass a batch of arrays \[n, ...\]'),
    (jnp.ones(3), (), r'expected a batch of arrays .*without arrays'),
    (jnp.ones(3), None, r'expected a batch of arrays .*without arrays'),
  ],
)
def test_what_is_no_tree_of_arrays_is_refused_in_a_line(params, batch, words):
  with pytest.raises(InputError, match=words) as caught:
    clipping.clipped_grad(lambda w, x: 0.0, l2_clip_norm=1.0)(params, batch)
  assert '\n' not in str(caught.value)


NOT_JAX = {
  'datetime64': (np.zeros(2, 'datetime64[s]'), 'of a dtype that JAX has, got datetime64'),
  'longdouble': (np.ones((2, 3), np.longdouble), 'of a dtype that JAX has, got float'),
  'records': (np.zeros(2, [('a', 'f4')]), 'of a dtype that JAX has'),
  'masked': (np.ma.masked_equal(np.ones((2, 3), np.float32), 0), 'an array without a mask'),
}


@pytest.mark.parametrize('kind', NOT_JAX)
def test_arrays_that_jax_does_not_take_are_refused_in_a_line(kind):
  batch, words = NOT_JAX[kind]
  with pytest.raises(InputError, match=words) as caught:
    clipping.clipped_grad(lambda w, x: jnp.sum(w), l2_clip_norm=1.0)(jnp.ones(3), batch)
  assert '\n' not in str(caught.value)
  if kind == 'masked':
    with pytest.raises(InputError, match=words):
      clipping.clipped_sum(batch, l2_clip_norm=1.0)


def test_the_order_of_bytes_changes_nothing():
  """Arrays from IDX, FITS or HDF5 files often have the most significant byte first."""
  loss = lambda w, x, i: jnp.sum(w[i[0]] * x)  # noqa: E731
  x, ids = np.arange(6.0).reshape(2, 3), np.array([[0], [2]])
  found = clipping.clipped_grad(loss, l2_clip_norm=9.0)(
    jnp.ones((3, 3)), x.astype('>f4'), ids.astype('>i2')
  )
  np.testing.assert_allclose(found.sum, [[0, 1, 2], [0, 0, 0], [3, 4, 5]], rtol=1e-5)
  swapped = clipping.clipped_sum(x.astype('>f4'), l2_clip_norm=9.0).sum
  np.testing.assert_array_equal(swapped, clipping.clipped_sum(x, l2_clip_norm=9.0).sum)


def test_python_numbers_are_parameters_as_good_as_arrays():
  found = clipping.clipped_grad(lambda p, x: p['w'] * x, l2_clip_norm=2.0, microbatch_size=2)(
    {'w': 1.0}, jnp.arange(4.0)
  )
  assert float(found.sum['w']) == pytest.approx(1 + 2 + 2, rel=5e-6)


def test_other_shapes_than_the_sum_are_refused():
  transform = transforms.noise_sum(1.0, 1.0, 4, KEY)
  total = {'w': jnp.ones(3), 'v': jnp.ones(2)}
  state = transform.init(total)
  for wrong in ({'w': jnp.ones(3)}, {'w': jnp.ones((1, 3)), 'v': jnp.ones(2)}):
    for name in ('public_grads', 'params'):
      with pytest.raises(InputError, match=f'{name} of the shapes of the sum'):
        transform.update(total, state, **{name: wrong})


def test_an_empty_tree_needs_no_noise():
  for make, empty in itertools.product((transforms.noise_sum,), ({}, None, [])):
    transform = make(1.0, 1.0, 4, KEY)
    update, state = transform.update(empty, transform.init(empty), empty)
    assert update == empty
    assert int(state.count) == 1
