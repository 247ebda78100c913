"""Private data enter a training step by the noised sum alone: proven on the jaxpr of the step."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import pytest

from dpgan_jax.privacy import transforms
from experiments.trust import leaks
from experiments.trust import taint_checks as checks
from experiments.trust.statistical_checks import Violation
from tests.support import taint

# --- the analysis --------------------------------------------------------------------------------

X, FLAG = jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((), jnp.bool_)


def depends(fn, *args) -> list[bool]:
  """Which outputs depend on the first argument."""
  found = taint.trace(fn, *args, label=lambda path: taint.DATA if path == '[0]' else None)
  assert not found.leaks
  return [bool(labels) for labels in found.outputs.values()]


def _while(x, y):
  """`b` follows `a` one round later, `c` follows the condition alone, `d` nothing."""
  start = (jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), jnp.sum(y))
  step = lambda s: (s[0] + x[0], s[1] + s[0], s[2] + 1, s[3])  # noqa: E731
  return jax.lax.while_loop(lambda s: s[2] < 5, step, start)


def _scan(x, y):
  def body(carry, each):
    _, b, c = carry
    return (b, jnp.sum(each), c + 1), c

  return jax.lax.scan(body, (0.0, 0.0, 0.0), x), jnp.sum(y)


@jax.custom_jvp
def _own_derivative(x):
  return 2 * x


_own_derivative.defjvps(lambda t, ans, x: 2 * t)


@jax.custom_vjp
def _own_gradient(x, y):
  return x * y, y


_own_gradient.defvjp(lambda x, y: (_own_gradient(x, y), y), lambda y, ct: (ct[0] * y, ct[0]))

PROGRAMS = {
  'arithmetic': (lambda x, y: (x + y, y * 2, jnp.zeros(3)), [True, False, False]),
  'zero times': (lambda x, y: (0 * x, y), [True, False]),
  'only the shape': (lambda x, y: y * x.shape[0], [False]),
  'indexed by': (lambda x, y: (y[x.astype(int)], y), [True, False]),
  'jit': (lambda x, y: jax.jit(lambda a, b: (b, a))(x, y), [False, True]),
  'checkpoint': (lambda x, y: jax.checkpoint(lambda a, b: (b, a))(x, y), [False, True]),
  'cond': (lambda x, y: jax.lax.cond(y[0] > 0, lambda: (x, y), lambda: (y, y)), [True, False]),
  'cond by it': (lambda x, y: jax.lax.cond(x[0] > 0, lambda: y, lambda: 2 * y), [True]),
  'switch': (lambda x, y: jax.lax.switch(1, [lambda: y, lambda: x, lambda: y]), [True]),
  'while': (_while, [True, True, False, False]),
  'while by it': (
    lambda x, y: jax.lax.while_loop(lambda i: i < x[0], lambda i: i + 1, 0.0), [True]),
  'scan': (_scan, [True, True, False, False, False]),
  'map': (lambda x, y: (jax.lax.map(lambda a: a * y, x), y), [True, False]),
  'custom_jvp': (lambda x, y: (_own_derivative(x), _own_derivative(y)), [True, False]),
  'custom_vjp': (lambda x, y: _own_gradient(x, y), [True, False]),
  'gradient': (
    lambda x, y: jax.grad(lambda a: jnp.sum(a**2) + jnp.sum(x))(y), [False]),
  'gradient of custom': (
    lambda x, y: jax.grad(lambda a: jnp.sum(_own_gradient(a, x)[0]))(y), [True]),
  'vmap': (lambda x, y: jax.vmap(lambda a, b: (jnp.sin(a), b))(x, y), [True, False]),
  'sort': (lambda x, y: jnp.argsort(x), [True]),
  'sort together': (lambda x, y: jax.lax.sort((y, x)), [True, True]),  # conservative
  'linear solve': (lambda x, y: jnp.linalg.solve(jnp.eye(3), x), [True]),
}  # fmt: skip


@pytest.mark.parametrize('name', PROGRAMS)
def test_follows(name):
  fn, expected = PROGRAMS[name]
  assert depends(fn, X, X) == expected


def test_what_the_host_sees_is_a_leak():
  def shown(x, y):
    jax.debug.callback(lambda _: None, y)
    jax.lax.cond(x[0] > 0, lambda: jax.debug.print('yes'), lambda: None)
    return jax.pure_callback(lambda a: a, X, x)

  found = taint.trace(shown, X, X, label=lambda path: taint.DATA if path == '[0]' else None)
  assert {name for name, _ in found.leaks} >= {'pure_callback'}
  assert len(found.leaks) == 2  # not that of y


def test_references_are_not_understood():
  def written(x):
    ref = jax.new_ref(jnp.zeros(3))
    ref[...] = x
    return ref[...]

  with pytest.raises(taint.NotUnderstood, match='references'):
    taint.trace(written, X, label=lambda _: taint.DATA)


class TestTheNoisedSum:
  def labels(self, fn, sigma=1.0, seen=taint.NOISE):
    def step(x, public, key):
      noise = transforms.noise_sum(1.0, sigma, 4, jax.random.key(0))
      state = noise.init(x)._replace(key=key)
      return fn(noise, state, x, public)

    key = jax.eval_shape(lambda: jax.random.key(0))
    name = {'[0]': taint.DATA, '[2]': seen}
    return taint.trace(step, X, X, key, label=name.get)

  def test_takes_the_label_off(self):
    found = self.labels(lambda noise, s, x, p: noise.update(x, s, public_grads=p))
    assert found.outputs['[0]'] == frozenset()
    assert found.outputs['[1].key'] == {taint.NOISE}
    assert found.outputs['[1].count'] == frozenset()
    assert found.sums == {0}

  def test_not_that_of_public_gradients(self):
    found = self.labels(lambda noise, s, x, p: noise.update(p, s, public_grads=x)[0])
    assert found.outputs[''] == {taint.DATA}
    assert not found.sums

  def test_not_without_noise(self):
    found = self.labels(lambda noise, s, x, p: noise.update(x, s)[0], sigma=0.0)
    assert found.outputs[''] == {taint.SUM}

  def test_not_by_a_constant_key(self):
    """Noise whose key is not the run's is none."""
    found = self.labels(lambda noise, s, x, p: noise.update(x, s)[0], seen=None)
    assert found.outputs[''] == {taint.SUM}

  def test_not_of_the_sum_beside_it(self):
    found = self.labels(lambda noise, s, x, p: noise.update(x, s)[0] + 1e-9 * x)
    assert found.outputs[''] == {taint.DATA}


# --- the package ---------------------------------------------------------------------------------


SLOW = ('penalty', 'weight clip', 'report', 'revisited', 'scattering', 'refiner')


@pytest.mark.parametrize(
  'way', [pytest.param(w, marks=[pytest.mark.slow] if w in SLOW else []) for w in checks.GANS]
)
def test_a_step_of_the_gan(way):
  checks.gan_step(way)


def test_a_compiled_chunk_of_steps():
  checks.gan_step('default', chunk=3)


@pytest.mark.parametrize('way', checks.CLASSIFIERS)
def test_a_step_of_a_classifier(way):
  checks.classifier_step(way)


def test_the_centre():
  checks.centre_release()


def test_without_noise_nothing_is_proven():
  with pytest.raises(Violation, match='depends on a sum that is not noised'):
    checks.gan_step('default', noise_multiplier=0.0)


# --- faults --------------------------------------------------------------------------------------

# Every fault with what must be said of it; it is looked for in the way that it is in.
SAID = {
  'public gradients of real images': ('default', 'depends on the records'),
  'fakes from a real statistic': ('default', r'depends on the records'),
  'as many fakes as came': ('default', 'depends on who is in the batch'),
  "fakes' bound from real norms": ('cap below 2B', 'depends on who is in the batch, the records'),
  'D by the sum without noise': ('default', 'depends on a sum that is not noised'),
  'D by the clean sum as well': ('default', r'state\.d_params.* depends on .*the records'),
  'the average of G by real images': ('default', r'state\.g_average'),
  'the realised batch as divisor': ('default', 'depends on who is in the batch'),
  'the pace by the realised batch': ('default', 'depends on who is in the batch'),
  'the sum in the state': ('default', r'state\.d_opt_state.*count depends on a sum'),
  'fakes by the noise key': ('default', 'depends on the noise by itself'),
  'fakes by the batch key': ('default', 'depends on who is in the batch'),
  'a loss shown to the host': ('default', 'shows the host what depends on'),
  'two sums in a step': ('default', 'expected one noised sum in a step, got 2'),
  "the centre's zeros without noise": (checks.centre_release, r'state\.centre depends on'),
  'an average by accuracy': (lambda: checks.classifier_step('labeller'), r'state\.average'),
}


RARE = {
  'D by the clean sum as well', 'the pace by the realised batch', 'fakes by the noise key',
  'fakes by the batch key', 'a loss shown to the host', 'two sums in a step',
  'fakes from a real statistic', 'the average of G by real images',
  'the realised batch as divisor', 'the sum in the state',
}  # fmt: skip


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.slow] if n in RARE else []) for n in leaks.LEAKS]
)
def test_finds(name):
  where, said = SAID[name]
  check = where if callable(where) else lambda: checks.gan_step(where)
  with contextlib.ExitStack() as planted:
    for swap in leaks.LEAKS[name]:
      planted.enter_context(swap.plant())
    with pytest.raises(Violation, match=said):
      check()


@pytest.mark.slow  # of a fault, not of the package
def test_the_bound_from_real_norms_is_in_no_step_with_a_higher_cap():
  """What made that fault hard to find: at the usual cap the step is as it should be."""
  (swap,) = leaks.LEAKS["fakes' bound from real norms"]
  with swap.plant():
    checks.gan_step('default')
