"""The verdict on a GAN: planted failures are called so, good samples are not.

The samples are images that a generator might have drawn; the discriminators are initial ones.
"""

from __future__ import annotations

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dpgan_jax import _keys
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.models.gans import verdict
from dpgan_jax.models.moments.verdict import LEVELS
from dpgan_jax.privacy.mechanism import DPMechanism
from tests.support.shapes import shapes

G_STEPS = 1000


@functools.cache
def model_of(name: str) -> tuple[GANSynthesizer, object, np.ndarray, np.ndarray]:
  """An untrained GAN for digits or coloured shapes, its D, and real images with their classes."""
  digits = name == 'digits'
  data = datasets.load_dataset('digits') if digits else shapes(600, channels=3, seed=0)
  config = TrainConfig(
    generator='compact', target_epsilon=2.0, steps=1000, batch_size=64, d_steps_per_g_step=4
  )
  mechanism = DPMechanism.create(
    num_examples=1440, batch_size=64, l2_clip_norm=1.0, noise_multiplier=0.3, steps=1000, delta=1e-5
  )
  gan = GAN(config, mechanism, data.spec)
  state = gan.init(_keys.from_seed(0))
  return GANSynthesizer(gan, state.g, 1000), state.d_params, data.images, data.labels


def level(name: str, images=None, labels=None, d_params=None, g_steps=G_STEPS) -> str:
  model, d, real, classes = model_of(name)
  signs = verdict.look(
    model, d if d_params is None else d_params, g_steps, real if images is None else images,
    classes if labels is None else labels,
  )  # fmt: skip
  return verdict.judge(signs).level


@pytest.mark.parametrize('name', ['digits', pytest.param('shapes', marks=pytest.mark.slow)])
def test_real_images_are_called_good(name):
  assert level(name) in ('good', 'usable')


@pytest.mark.parametrize('name', ['digits', pytest.param('shapes', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  'failure',
  ['one image', 'three images', 'one a class', 'static', 'shuffled', 'one class', 'blank',
   'dead d', 'nan d', 'no steps'],
)  # fmt: skip
def test_planted_failures_are_called_so(name, failure):
  _, d_params, real, classes = model_of(name)
  rng, n = np.random.default_rng(0), len(real)
  few = {
    'one image': np.zeros(n, int), 'three images': rng.integers(0, 3, n),
    'one a class': np.array([np.flatnonzero(classes == k)[0] for k in classes]),
  }  # fmt: skip
  found: dict = {}
  if failure in few:  # with a little of what tells copies apart
    noise = rng.integers(-2, 3, real.shape)
    found['images'] = np.clip(real[few[failure]] + noise, 0, 255).astype(np.uint8)
  elif failure == 'static':
    found['images'] = rng.integers(0, 256, real.shape, np.uint8)
  elif failure == 'blank':
    found['images'] = np.zeros_like(real)
  elif failure == 'shuffled':
    found['labels'] = rng.permutation(classes)
  elif failure == 'one class':
    found['labels'] = np.zeros_like(classes)
  elif failure == 'no steps':
    found['g_steps'] = 5
  else:
    value = 0.0 if failure == 'dead d' else np.nan
    found['d_params'] = jax.tree.map(lambda p: jnp.full_like(p, value), d_params)
  assert level(name, **found) in ('useless', 'poor')


GOOD = verdict.Signs(
  answers=1.0, spread=0.2, distinct=0.5, shape=0.6, certainty=0.9, g_steps=1000, noise_in_d=0.5
)


def test_good_signs_make_a_good_verdict_and_say_what_is_not_known():
  found = verdict.judge(GOOD)
  assert (found.level, found.colour, found.weakest) == ('good', 'green', None)
  assert 'dpgan_jax.evaluate says' in found.sentence
  unlabelled = verdict.judge(dataclasses.replace(GOOD, certainty=None))
  assert unlabelled.level == 'good'
  assert 'classes' not in unlabelled.sentence


@pytest.mark.parametrize(
  ('sign', 'bad'),
  [('answers', 0.0), ('spread', 0.0), ('distinct', 0.0), ('shape', 0.0), ('certainty', 0.0),
   ('g_steps', 0), ('noise_in_d', 9.0)],
)  # fmt: skip
def test_one_bad_sign_is_enough_and_is_named(sign, bad):
  found = verdict.judge(dataclasses.replace(GOOD, **{sign: bad}))
  assert (found.level, found.colour, found.weakest) == ('useless', 'red', sign)
  assert found.sentence.startswith('Useless (red): ')


SHARES = st.floats(0, 1)


SIGNS = st.builds(
  verdict.Signs, answers=st.floats(0, 3), spread=SHARES, distinct=SHARES, shape=st.floats(-1, 1),
  certainty=st.none() | SHARES, g_steps=st.integers(0, 2000), noise_in_d=st.floats(0, 50),
)  # fmt: skip
NAMES = [field.name for field in dataclasses.fields(verdict.Signs)]


@hypothesis.given(SIGNS, st.sampled_from(NAMES), st.floats(0, 1))
def test_a_better_sign_never_makes_it_worse(signs, sign, more):
  if (value := getattr(signs, sign)) is None:
    return
  better = value * more if sign == 'noise_in_d' else value + (more if sign != 'g_steps' else 9)
  one, two = verdict.judge(signs), verdict.judge(dataclasses.replace(signs, **{sign: better}))
  assert LEVELS.index(two.level) >= LEVELS.index(one.level)
  assert one.level in one.sentence.lower()


def test_signs_survive_their_record():
  assert verdict.from_record(dataclasses.asdict(GOOD)) == GOOD
  for bad in ({}, {**dataclasses.asdict(GOOD), 'shape': 'x'},
              {**dataclasses.asdict(GOOD), 'shape': float('nan')},
              {**dataclasses.asdict(GOOD), 'more': 1}):  # fmt: skip
    with pytest.raises((KeyError, TypeError, ValueError)):
      verdict.from_record(bad)
