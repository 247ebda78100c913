"""Membership from the bits of what is published, and from values that only a record makes possible.

The adversary of SECURITY.md knows all records but one, the code and all settings, but no key, and
asks which sum the published numbers can have come from. Each attack is first seen to succeed on
float32 normals added to a float32 sum, then played against what the package publishes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.classifier import CENTRE, Classifier
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.privacy import exact_noise, step_noise, transforms

TRIALS = 200
Explained = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(published numbers, sum) ↦ for each whether some noise on that sum gives it."""


def successes(
  explained: Explained, publish: Callable[[np.ndarray, int], np.ndarray],
  sums: Callable[[int], tuple[np.ndarray, np.ndarray]], trials: int,
) -> int:  # fmt: skip
  """How often of `trials` the sum that leaves less unexplained is the true one; a tie is a toss."""
  rng, right = np.random.default_rng(0), 0
  for trial in range(trials):
    pair, truth = sums(trial), int(rng.integers(2))
    published = publish(pair[truth], trial)
    unexplained = [int((~explained(published, total)).sum()) for total in pair]
    toss = int(rng.integers(2))
    guess = toss if unexplained[0] == unexplained[1] else int(np.argmin(unexplained))
    right += guess == truth
  return right


def require_guessing(right: int, trials: int) -> None:
  """An attack that only guesses is right that often but for one case in 500,000."""
  least, most = scipy.stats.binom.isf([1 - 1e-6, 1e-6], trials, 0.5)
  assert least <= right <= most


# --- what was published before --------------------------------------------------------------------


@functools.cache
def all_normals() -> np.ndarray:
  """Every value that `jax.random.normal` takes in float32, in order."""

  @jax.jit
  def of_bits(bits: jax.Array) -> jax.Array:
    uniform = jax.lax.bitcast_convert_type(bits | np.uint32(0x3F800000), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(low, uniform * (np.float32(1) - low) + low)
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)

  return np.unique(np.asarray(of_bits(jnp.arange(2**23, dtype=jnp.uint32))))


def by_float_noise(total: np.ndarray, trial: int, scale: float, divisor: float) -> np.ndarray:
  """(sum + scale·normal)/divisor in float32: the old noise."""
  z = np.asarray(jax.random.normal(jax.random.key(trial), total.shape))
  return (total + np.float32(scale) * z) / np.float32(divisor)


def explained_by_float_noise(
  published: np.ndarray, total: np.ndarray, scale: float, divisor: float
) -> np.ndarray:
  """Whether one of the 2²³ normals explains it: those near the right size are tried."""
  normals = all_normals()
  wanted = (published.astype(np.float64) * divisor - total) / scale
  near = np.searchsorted(normals, wanted.astype(np.float32))[..., np.newaxis] + np.arange(-5, 6)
  z = normals[np.clip(near, 0, len(normals) - 1)]
  total = total.astype(np.float32)[..., np.newaxis]
  plain = total + np.float32(scale) * z
  fused = (total.astype(np.float64) + np.float64(np.float32(scale)) * z).astype(np.float32)
  hit = [(v / np.float32(divisor) == published[..., np.newaxis]).any(-1) for v in (plain, fused)]
  return hit[0] | hit[1]


def test_the_table_of_normals_is_that_of_jax():
  normals = all_normals()
  drawn = np.asarray(jax.random.normal(jax.random.key(0), (100_000,)))
  assert np.isin(drawn, normals).all()
  assert -5.43 < normals[0] < -5.4
  assert 5.2 < normals[-1] < 5.43


# --- a step of DP-SGD -----------------------------------------------------------------------------

C, SIGMA, B, SHAPES = 1.0, 4.0, 16.0, {'bias': (10,), 'kernel': (30, 10), 'scale': ()}
D = sum(math.prod(shape) for shape in SHAPES.values())


def step_sums(trial: int) -> tuple[np.ndarray, np.ndarray]:
  """Float32 sums over a batch without and with a record of norm C."""
  rng = np.random.default_rng(1000 + trial)
  gradients = rng.standard_normal((9, D))
  gradients *= C / np.linalg.norm(gradients, axis=1, keepdims=True)
  return tuple(gradients[:n].sum(axis=0, dtype=np.float32) for n in (8, 9))


@functools.cache
def step() -> Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]:
  transform = transforms.noise_sum(C, SIGMA, B, jax.random.key(0))
  return jax.jit(lambda key, t: transform.update(t, transform.init(None)._replace(key=key))[0])


def by_the_package(total: np.ndarray, trial: int) -> np.ndarray:
  parts = np.split(total, np.cumsum([math.prod(s) for s in SHAPES.values()])[:-1])
  tree = {n: p.reshape(s) for (n, s), p in zip(SHAPES.items(), parts, strict=True)}
  found = step()(jax.random.key(trial), tree)
  return np.concatenate([np.ravel(found[name]) for name in SHAPES])


def explained_by_the_grid(published: np.ndarray, total: np.ndarray) -> np.ndarray:
  """Whether a whole number of units within reach of the noise explains it: the new support."""
  unit = step_noise.grid_of(SIGMA * C)
  near = np.round(published.astype(np.float64) * B / unit)[:, np.newaxis] + np.arange(-3, 4)
  hit = np.float32(near * unit) / np.float32(B) == published[:, np.newaxis]
  inside = np.abs(near - total[:, np.newaxis] / unit) < step_noise.REACH * SIGMA * C / unit
  return (hit & inside).any(-1)


def test_the_bits_of_float_noise_tell_who_is_in_a_batch():
  explained = functools.partial(explained_by_float_noise, scale=SIGMA * C, divisor=B)
  publish = functools.partial(by_float_noise, scale=SIGMA * C, divisor=B)
  assert successes(explained, publish, step_sums, TRIALS) >= 0.95 * TRIALS


@pytest.mark.parametrize('support', ['float32', 'grid'])
def test_the_bits_of_a_step_tell_nothing(support):
  """Every tensor of an update, by the values that the old noise took, and by those of the new."""
  explained = functools.partial(explained_by_float_noise, scale=SIGMA * C, divisor=B)
  explained = explained if support == 'float32' else explained_by_the_grid
  require_guessing(successes(explained, by_the_package, step_sums, TRIALS), TRIALS)
  if support == 'grid':  # it is the support: the truth is always explained
    for trial in range(10):
      for total in step_sums(trial):
        assert explained(by_the_package(total, trial), total).all()


# --- the centre of a classifier -------------------------------------------------------------------

RECORDS, CENTRE_SIGMA = 40, 2.0
CONFIG = ClassifierConfig(
  noise_multiplier=1.0, steps=1, batch_size=8, delta=1e-4, angles=4,
  centre_noise_multiplier=CENTRE_SIGMA,
)  # fmt: skip


@functools.cache
def classifier() -> tuple[Classifier, np.ndarray]:
  """A classifier, and more features than it has records: of norm 1, as `prepare` makes them."""
  spec = Spec(
    num_records=RECORDS, shape=(8, 8, 1), class_names=tuple('0123456789'), name='attacked'
  )
  model = Classifier.create(CONFIG, spec)
  x = np.abs(np.random.default_rng(0).standard_normal((TRIALS + RECORDS, *model.input_shape)))
  norms = np.sqrt((x**2).sum(axis=(1, 2, 3), keepdims=True))
  return model, (x / norms).astype(np.float32)


def records(trial: int) -> tuple[np.ndarray, np.ndarray]:
  """The data set without a record (a blank in its place, which counts as nothing) and with it."""
  whole = classifier()[1][trial : trial + RECORDS].reshape(RECORDS, -1)
  without = whole.copy()
  without[7] = 0
  return without, whole


def old_sum(x: np.ndarray) -> np.ndarray:
  return np.asarray(jnp.sum(x, axis=0))


def centre_by_the_package(x: np.ndarray, trial: int) -> np.ndarray:
  model = classifier()[0]
  state = model.init(jax.random.key(0))
  return np.asarray(model.release_centre(state, x, trial.to_bytes(32, 'little')).centre)


def centre_explained_by_the_grid(published: np.ndarray, x: np.ndarray) -> np.ndarray:
  """A multiple of the grid, within any reach of the sum."""
  unit = exact_noise.default_grid(CENTRE_SIGMA / RECORDS)
  units = published.astype(np.float64) / unit
  total = exact_noise.to_grid(x, 1.0, unit * RECORDS).sum(axis=0)
  return (units == np.round(units)) & (np.abs(units - total) < 40 * CENTRE_SIGMA / RECORDS / unit)


def test_the_bits_of_a_float_centre_tell_who_is_in_the_data():
  explained = lambda published, x: explained_by_float_noise(  # noqa: E731
    published, old_sum(x), CENTRE_SIGMA, RECORDS)
  publish = lambda x, trial: by_float_noise(old_sum(x), trial, CENTRE_SIGMA, RECORDS)  # noqa: E731
  assert successes(explained, publish, records, TRIALS) >= 0.95 * TRIALS


@pytest.mark.parametrize('trials', [40, pytest.param(TRIALS, marks=pytest.mark.slow)])
@pytest.mark.parametrize('support', ['float32', 'grid'])
def test_the_bits_of_the_centre_tell_nothing(support, trials):
  assert classifier()[0].stages[CENTRE].noise_multiplier == CENTRE_SIGMA
  explained: Explained = centre_explained_by_the_grid
  if support == 'float32':
    explained = lambda published, x: explained_by_float_noise(  # noqa: E731
      published, old_sum(x), CENTRE_SIGMA, RECORDS)
  require_guessing(successes(explained, centre_by_the_package, records, trials), trials)


# --- values that are impossible without a record --------------------------------------------------

STEPS, FEW = 300, 0.3  # steps in a run, and a σ at which the old support is narrow


def values_of_a_run(noise: Callable[[int], np.ndarray]) -> np.ndarray:
  """What a record that moves one entry by C in every step publishes, [trials, steps], in σC."""
  return np.stack([noise(trial) for trial in range(TRIALS)]) + 1 / FEW


def test_the_largest_float_noise_tells_that_a_record_is_there():
  """Beyond 5.42 σ without the record: impossible, so that ε is infinite there; δ is 1e-5."""
  noise = lambda trial: np.asarray(jax.random.normal(jax.random.key(trial), (STEPS,)))  # noqa: E731
  detected = (values_of_a_run(noise) > all_normals()[-1]).any(axis=1)
  assert detected.sum() >= 0.95 * TRIALS


def test_the_largest_noise_of_the_package_tells_nothing():
  """Nothing impossible happens in 200 runs; the chance of it is below 1e-7 in one."""
  transform = transforms.noise_sum(1.0, FEW, 1.0, jax.random.key(0))
  update = jax.jit(lambda key, x: transform.update(x, transform.init(None)._replace(key=key))[0])

  def noise(trial: int) -> np.ndarray:
    found = np.asarray(update(jax.random.key(trial), jnp.ones(STEPS)), np.float64)
    return (found - 1) / FEW

  values = values_of_a_run(noise)
  assert not (values > step_noise.REACH).any()
  assert (values > all_normals()[-1]).any(axis=1).sum() >= 0.95 * TRIALS  # now possible without it
  assert STEPS * scipy.stats.norm.sf(step_noise.REACH - 1 / FEW) < 2e-7
