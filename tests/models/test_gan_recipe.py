"""A GAN by ε alone: valid settings for any images, MNIST's flag files among them."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dpgan_jax import _settings, _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans import recipe
from dpgan_jax.networks import generators
from dpgan_jax.networks.refiner import TEXTURE
from dpgan_jax.run import plan

FLAGS = pathlib.Path(__file__).parents[2] / 'experiments'
MNIST_FILES = ('eps0.2', 'eps0.5', 'eps1', 'eps1.5', 'eps2', 'eps4', 'eps9', 'eps10')


def spec_of(records: int, shape=(28, 28, 1), classes: int = 10) -> Spec:
  names = tuple(str(k) for k in range(classes))
  return Spec(kind='image', num_records=records, shape=shape, class_names=names, name='any')


def settled(
  records: int, epsilon: float, given=(), shape=(28, 28, 1), classes=10, **settings: Any
) -> Any:
  config = TrainConfig(method='gan', target_epsilon=epsilon, **settings)
  return recipe.settled(config, spec_of(records, shape, classes), (*given, *settings))[0]


def said_by(path: pathlib.Path) -> dict[str, str]:
  """What a flag file says, with the files that it names."""
  found: dict[str, str] = {}
  for line in path.read_text('utf-8').splitlines():
    if line.startswith('--'):
      name, value = line[2:].split('=')
      found |= said_by(FLAGS.parent / value) if name == 'flagfile' else {name: value}
  return found


@pytest.mark.parametrize('name', MNIST_FILES)
def test_the_flag_files_of_mnist_are_cases_of_the_rule(name):
  said = said_by(FLAGS / f'{name}.flags')
  found = settled(60_000, float(said['target_epsilon']), generator='report')
  kinds = {s.name: s.kind for s in _settings.of(TrainConfig)}
  # How often it reports is no matter of what is learnt; where data and run are, no setting.
  beside = {'run_dir', 'dataset', 'steps_per_report', 'delta', 'target_epsilon'}
  assert said.keys() > beside
  for setting, value in said.items():
    if setting not in beside:
      assert getattr(found, setting) == kinds[setting](value), setting
  usual = TrainConfig(target_epsilon=1.0)
  changed = {setting for setting in kinds if getattr(found, setting) != getattr(usual, setting)}
  assert changed - said.keys() <= {'method', 'steps'}


SIDES = st.integers(8, 80)


@hypothesis.given(
  st.integers(8, 10**6), st.floats(0.01, 100), SIDES, SIDES, st.sampled_from([1, 3]),
  st.integers(1, 50), st.sampled_from(['add_or_remove_one', 'replace_one']),
)  # fmt: skip
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_images_get_settings_that_agree(n, epsilon, height, width, channels, classes, relation):
  found = settled(
    n, epsilon, shape=(height, width, channels), classes=classes, neighboring_relation=relation
  )
  assert not found.wants_recipe
  assert 1 <= found.batch_size <= max(1, n / 8)
  assert found.steps // found.d_steps_per_g_step >= 25
  assert (found.generator, found.moments_share, found.label_share) == ('refiner', 0.5, None)
  assert TEXTURE < found.latent_dim <= TEXTURE + height * width * channels
  assert found.neighboring_relation == relation
  again = settled(
    n, epsilon, shape=(height, width, channels), classes=classes, neighboring_relation=relation
  )
  assert again == found


def test_more_records_or_budget_never_mean_fewer_steps():
  for n, epsilon in ((1000, 1.0), (5000, 8.0), (60_000, 0.4)):
    few = settled(n, epsilon)
    assert few.steps <= settled(2 * n, epsilon).steps
    assert few.steps <= settled(n, 2 * epsilon).steps


@pytest.mark.parametrize(
  'settings',
  [
    {'batch_size': 128},  # which is the default: said all the same
    {'label_share': 0.2},
    {'generator': 'report_conditional'},
    {'discriminator': 'compact'},
    {'d_optimizer': 'adam'},
    {'d_learning_rate': 0.01},
    {'d_steps_per_g_step': 3, 'fake_gradient': 'clipped', 'latent_dim': 64},
    {'generator': 'dcgan', 'g_mixture': 1},
    {'moments_share': 0.3, 'latent_dim': 20},
  ],
  ids=str,
)
def test_what_is_said_stays(settings):
  found = settled(30_000, 1.0, **settings)
  for name, value in settings.items():
    assert getattr(found, name) == value
  if 'd_optimizer' in settings:
    assert found.d_learning_rate < 0.01  # not that of sgd
  without_classes = found.generator in generators.UNCONDITIONAL
  assert without_classes == (found.label_share is not None)
  assert (found.generator in generators.REFINERS) == (found.moments_share is not None)


@pytest.mark.parametrize(
  'settings', [{'steps': 7}, {'epochs': 2.0}, {'noise_multiplier': 1.0}], ids=str
)
def test_without_a_need_nothing_is_chosen(settings):
  config = TrainConfig(method='gan', target_epsilon=1.0, **settings)
  assert recipe.settled(config, spec_of(1000), settings) == (config, {})
  of_moments = TrainConfig(target_epsilon=1.0)
  assert recipe.settled(of_moments, spec_of(1000)) == (of_moments, {})
  assert not TrainConfig(method='gan', target_epsilon=math.inf, steps=3).wants_recipe


@pytest.mark.slow  # test_labelling has a plan's budget
def test_the_plan_is_one_of_the_budget_and_refuses_what_is_not_settled():
  spec = spec_of(2000, (12, 12, 3), 2)
  config = TrainConfig(method='gan', target_epsilon=4.0, delta=1e-4)
  with pytest.raises(_validate.InputError, match='choose them'):
    plan.make(config, spec)
  found, chosen = recipe.settled(config, spec)
  planned = plan.make(found, spec)
  assert 3.8 < planned.budget.epsilon() <= 4.0
  assert isinstance(planned, plan.GANPlan)
  assert planned.gan.noise_in_d <= plan.NOISY
  assert all(choice.why and getattr(found, n) == choice.value for n, choice in chosen.items())
