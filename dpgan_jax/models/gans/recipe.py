"""The settings of a GAN that follow from ε, δ and the public facts about the images.

Its generator refines draws of moments, for half of ε: what a GAN cannot find in few records, or in
much noise, it then has from the start (experiments/results/OWN_DATA.md). How long
and in which steps it is trained was read off the flag files of MNIST, which were chosen on held-out
training images of it (experiments/results/QUALITY.md); where a generator without classes is asked
for, they are cases of the rule. A step's noise, relative to what is learnt of it, grows as
√T/(N·ε): half the records are like half of ε, and allow half the steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

from dpgan_jax import _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans import refining
from dpgan_jax.networks import discriminators, generators
from dpgan_jax.networks.refiner import TEXTURE

_RECORDS = 60_000  # of MNIST: the rule counts ε·N in units of them
# From which ε·N on so many steps; each half of it halves them.
_STEPS = ((10.0, 16_000), (1.0, 8000), (0.5, 4000), (0.2, 2000), (0.1, 1000), (0.0, 500))
_BATCHES = ((20_000, 240), (4000, 120), (0, 60))  # from which N on
_MOST_OF_RECORDS = 1 / 8  # that a batch takes
_MANY = 20_000  # records from which on a CNN beside the linear classifier is worth its share
_SCATTERED = range(16, 65)  # sides of images that wavelet features are of use for
_PARAMETERS = 10_000  # of the smaller discriminator, about
_PACES, _MOST_NOISE = (1, 2, 5, 10, 20), 2.7  # n_D; noise in D between two steps of G
_LEFT = 0.7  # of ε, that labels leave to the GAN: what composition gains is counted in
_REFINED, _LEFT_TO_REFINE = 0.5, 0.85  # of ε, for moments; that they leave, likewise


class Choice(NamedTuple):
  """A value that the rule gives, and why."""

  value: Any
  why: str


def settled(
  config: TrainConfig, spec: Spec, given: Collection[str] = ()
) -> tuple[TrainConfig, dict[str, Choice]]:
  """The settings with all that was not given, where a recipe is wanted; as they are elsewhere.

  Args:
    config: the settings.
    spec: what is public of the data.
    given: names of settings that were said, and stay as they are.

  Returns:
    The settings, and what was chosen by name.

  Raises:
    InputError: data that are no images; settings that contradict what is chosen.
  """
  if not config.wants_recipe:
    return config, {}
  if spec.kind != 'image':
    raise _validate.InputError(
      f'expected method=moments with a {spec.kind}, got {config.method}: GANs here are of images'
    )
  chosen = {n: c for n, c in _rule(config, spec, frozenset(given)).items() if n not in given}
  return config.replace(**{name: choice.value for name, choice in chosen.items()}), chosen


def _rule(config: TrainConfig, spec: Spec, given: frozenset[str]) -> dict[str, Choice]:
  records, epsilon = spec.num_records, config.target_epsilon
  assert epsilon is not None  # wants_recipe
  amount = epsilon * records / _RECORDS
  steps = next(steps for least, steps in _STEPS if amount >= least)
  of_size = next(batch for least, batch in _BATCHES if records >= least)
  batch = max(1, min(of_size, math.floor(records * _MOST_OF_RECORDS)))
  found = {
    'steps': Choice(steps, f'epsilon*N is {amount:.2g} times that of MNIST at epsilon = 1'),
    'batch_size': Choice(batch, f'N = {records}'),
  }
  if 'batch_size' in given:
    batch = config.batch_size
  found |= _networks(config, spec, given, amount)
  found |= _labels(config, spec, given, found)
  found |= _moments(config, spec, given, found)
  left = 1.0
  if _said('label_share', config, given, found) is not None:
    left = _LEFT
  elif _said('moments_share', config, given, found) is not None:
    left = _LEFT_TO_REFINE
  noise = _noise(config, records, steps, epsilon * left)
  n_d = next((n for n in _PACES if noise <= _MOST_NOISE * math.sqrt(n)), _PACES[-1])
  found['d_steps_per_g_step'] = Choice(n_d, f'noise in D is about {noise / math.sqrt(n_d):.1g}')
  as_mnist = 'as for MNIST'
  fakes = max(1, min(batch, 120))
  decay = 0.999 if steps // n_d >= 1500 else 0.99
  for name, value in {
    'fake_batch_size': fakes, 'g_batch_size': max(fakes, 60), 'l2_clip_norm': 1.5,
    'latent_dim': 100, 'fake_gradient': 'plain', 'd_optimizer': 'sgd', 'd_learning_rate': 0.15,
    'g_learning_rate': 3e-4, 'adam_b1': 0.9, 'g_ema_decay': decay, 'g_mixture': 4,
  }.items():  # fmt: skip
    found.setdefault(name, Choice(value, as_mnist))
  own_rate = {'d_learning_rate', 'd_optimizer', 'learning_rate_schedule', 'd_learning_rate_end'}
  if not own_rate & given:  # else the end would not belong to the start
    found['learning_rate_schedule'] = Choice('exponential', as_mnist)
    found['d_learning_rate_end'] = Choice(0.052, as_mnist)
  if 'd_optimizer' in given and config.d_optimizer != 'sgd' and 'd_learning_rate' not in given:
    found['d_learning_rate'] = Choice(config.d_learning_rate, 'usual for adam')
  return found


def _networks(
  config: TrainConfig, spec: Spec, given: frozenset[str], amount: float
) -> dict[str, Choice]:
  """A pair that fits: both are told the class, or neither is."""
  sides = spec.shape[:2]
  scattered = amount < 2 and all(side in _SCATTERED for side in sides)
  why = f'epsilon*N and images of {sides[0]} x {sides[1]}'
  asked = {'generator': generators.UNCONDITIONAL, 'discriminator': discriminators.UNCONDITIONAL}
  without = [getattr(config, name) in names for name, names in asked.items() if name in given]
  if all(without) and (without or config.label_share is not None):
    return {
      'generator': Choice('report', 'knows no classes; classifiers label its samples'),
      'discriminator': Choice('scattering' if scattered else 'report', why),
    }
  small = all(side in _SCATTERED for side in sides)
  return {
    'generator': Choice('refiner', 'draws of moments have shapes and classes from the start'),
    'discriminator': Choice('scattering_conditional' if small else 'compact', why),
  }


def _moments(
  config: TrainConfig, spec: Spec, given: frozenset[str], found: dict[str, Choice]
) -> dict[str, Choice]:
  """What of ε goes to the release whose draws are refined, and its number of coefficients."""
  if _said('generator', config, given, found) not in generators.REFINERS:
    return {}
  share = config.moments_share or _REFINED
  count = refining.coefficients(config, spec, share)
  return {
    'moments_share': Choice(share, 'what moments cannot say is texture, which takes the rest'),
    'latent_dim': Choice(count + TEXTURE, f'{count} coefficients stand out of their noise'),
  }


def _labels(
  config: TrainConfig, spec: Spec, given: frozenset[str], found: dict[str, Choice]
) -> dict[str, Choice]:
  """What of ε goes to classifiers that label samples."""
  if _said('generator', config, given, found) not in generators.UNCONDITIONAL:
    return {}
  if spec.num_classes < 2 or config.neighboring_relation != 'add_or_remove_one':
    return {}
  labels = {'label_share': Choice(0.3, 'as for MNIST')}
  room = config.label_share is None or config.label_share < 0.7
  if spec.num_records >= _MANY and room:
    labels['label_cnn_share'] = Choice(0.3, f'N >= {_MANY}')
  return labels


def _said(name: str, config: TrainConfig, given: frozenset[str], found: dict[str, Choice]) -> Any:
  """The value that a setting is going to have."""
  return getattr(config, name) if name in given or name not in found else found[name].value


def _noise(config: TrainConfig, records: int, steps: int, epsilon: float) -> float:
  """About what `GAN.noise_in_d` is at n_D = 1, and hardly ever less.

  T steps of q·N records are like one release with σ·q/√T of all, whose σ is that of concentrated
  differential privacy (Bun & Steinke 2016, proposition 1.3).
  """
  log = math.log(1 / config.delta)
  single = (math.sqrt(log) + math.sqrt(log + epsilon)) / (math.sqrt(2) * epsilon)
  return math.sqrt(_PARAMETERS * steps) * single / records
