"""Checks of what comes from outside: networks of a user's module, a bundle that was altered.

As in `mechanism_checks`: functions without arguments that pass where the package is correct. What
they hand to the package (`PLUGIN`, `ALTERED`) is what a fault puts something else in the place of.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import safetensors.numpy

from dpgan_jax import _plugins, _validate
from dpgan_jax.data import datasets
from dpgan_jax.models.classifier_config import MODELS
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks.discriminators import DISCRIMINATORS
from dpgan_jax.publishing import bundle, run_statement
from dpgan_jax.run import plan, trainer
from dpgan_jax.run.directory import RunDir
from experiments.trust import gan_checks, taint_checks
from experiments.trust.statistical_checks import Violation

# --- networks of a user's module ------------------------------------------------------------------

_MODULE = """
import flax.linen as nn
from dpgan_jax.models.classifier_config import MODELS
from dpgan_jax.networks.discriminators import DISCRIMINATORS

class Body(nn.Module):
  outputs: int

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(4)(x.reshape(len(x), -1))
    {middle}
    return nn.Dense(self.outputs)(nn.relu(x))

@DISCRIMINATORS.register('outside')
class Discriminator(nn.Module):
  image_shape: tuple
  num_classes: int

  @nn.compact
  def __call__(self, images, labels):
    return Body(1)(images)[:, 0]

@MODELS.register('outside')
class Classifier(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    return Body(self.num_classes)(x)
"""
PLUGIN: dict[str, str] = {'network of a plugin': 'x = nn.LayerNorm()(x)'}
BATCH_NORM = 'x = nn.BatchNorm(use_running_average=False)(x)'
WITHOUT_A_NAME = 'x = x - x.mean(axis=0, keepdims=True)'
MEMORY = """seen = self.variable('seen', 'mean', lambda: x.mean(0))
    x, seen.value = x - seen.value, x.mean(0)"""


@contextlib.contextmanager
def _plugin(middle: str) -> Iterator[None]:
  """Such a module in a file, loaded as `--plugin` does; nothing of it stays."""
  states = (_plugins._LOADED, _plugins._ORIGINS, DISCRIMINATORS, MODELS, sys.modules)
  with contextlib.ExitStack() as stack:
    for state in states:
      stack.enter_context(mock.patch.dict(state))
    file = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / 'outside_networks.py'
    file.write_text(_MODULE.format(middle=middle), 'utf-8')
    _plugins.load_plugin(str(file))
    yield


def a_plugins_discriminator_looks_at_one_example_at_a_time() -> None:
  """Planning a run is where it is refused, with the gradients of its loss compared as well."""
  with _plugin(PLUGIN['network of a plugin']):
    plan.make(gan_checks.CONFIG.replace(discriminator='outside'), gan_checks.DIGITS)


def a_plugins_classifier_looks_at_one_example_at_a_time() -> None:
  with _plugin(PLUGIN['network of a plugin']):
    taint_checks.make_classifier(model='outside', features='pixels')


def plugins_are_looked_at() -> None:
  """What mixes records is refused, and not only where this package's own networks do."""
  for middle in (BATCH_NORM, WITHOUT_A_NAME, MEMORY):
    with _plugin(middle):
      for name, make in (
        ('discriminator', lambda: gan_checks._make(discriminator='outside')),
        ('classifier', lambda: taint_checks.make_classifier(model='outside', features='pixels')),
      ):
        try:
          make()
        except _validate.InputError:
          continue
        raise Violation(f'a {name} from outside may hold {middle!r}')


# --- a bundle that was altered --------------------------------------------------------------------

ALTERED: dict[str, Callable[[pathlib.Path], None]] = {'a received bundle': lambda folder: None}


def a_bundle_says_what_it_costs() -> None:
  """Whoever receives a bundle checks it, after somebody changed a line and sealed it again."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(shutil.copytree(_bundle().name, pathlib.Path(name, 'bundle')))
    ALTERED['a received bundle'](folder)
    sums = [
      f'{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n'
      for file in sorted(folder.iterdir())
      if file.name != bundle.MANIFEST
    ]
    (folder / bundle.MANIFEST).write_text(''.join(sums), 'utf-8')
    bundle.verify(folder)


@functools.cache
def _bundle() -> tempfile.TemporaryDirectory[str]:
  """Of a release of moments; it goes with the process."""
  place = tempfile.TemporaryDirectory()
  with tempfile.TemporaryDirectory() as name, mock.patch.object(run_statement, '_CURVE_POINTS', 3):
    config = TrainConfig(dataset='digits', target_epsilon=4.0, delta=1e-4, num_samples=20)
    trainer.train(config, datasets.load_dataset('digits'), pathlib.Path(name), progress=False)
    bundle.release(RunDir.open(name, create=False), place.name, num=20)
  return place


def generator_says(words: str, folder: pathlib.Path) -> None:
  """Alters the line in the generator's file."""
  content = (folder / bundle.GENERATOR).read_bytes()
  length = int.from_bytes(content[:8], 'little')
  record = json.loads(json.loads(content[8 : 8 + length])['__metadata__']['dpgan_jax'])
  about = {'dpgan_jax': json.dumps({**record, 'guarantee': words})}
  altered = safetensors.numpy.save(safetensors.numpy.load(content), about)
  (folder / bundle.GENERATOR).write_bytes(altered)


def samples_say(words: str, folder: pathlib.Path) -> None:
  """Alters the line in the samples' file."""
  with np.load(folder / 'samples.npz') as file:
    arrays = {**file, 'guarantee': np.array(words)}
  np.savez(folder / 'samples.npz', **arrays)


def page_says(name: str, symbol: str, value: str, folder: pathlib.Path) -> None:
  """Alters ε or δ of the sentence of a page."""
  text = (folder / name).read_text('utf-8')
  before, sentence = text.split('private with ε = ', 1)
  sentence = 'private with ε = ' + sentence
  start = sentence.index(f'{symbol} = ') + len(f'{symbol} = ')
  end = sentence.index(' ', start)
  (folder / name).write_text(before + sentence[:start] + value + sentence[end:], 'utf-8')
