"""Synthetic data with a privacy guarantee: GANs trained by DP-SGD, in JAX.

Every name is loaded on first use. The privacy core (`DPMechanism`, `clip_and_noise`, `noise_sum`,
`clipped_grad`, `clipped_sum`) needs jax, numpy, optax and dp-accounting only, and is meant to be
imported into other projects. The rest needs one of the extras (`_extras`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from dpgan_jax._plugins import load_plugin
  from dpgan_jax._validate import InputError
  from dpgan_jax.api import DPGAN
  from dpgan_jax.data.datasets import ImageDataset, load_dataset
  from dpgan_jax.models.config import TrainConfig
  from dpgan_jax.privacy.clipping import ClippedGrad, ClippedSum, clipped_grad, clipped_sum
  from dpgan_jax.privacy.mechanism import BudgetError, DPMechanism
  from dpgan_jax.privacy.sampling import PoissonBatch, TruncatedPoissonSampler
  from dpgan_jax.privacy.transforms import PrivatizerState, clip_and_noise, noise_sum

  __version__: str

_HOMES = {
  '_plugins': ('load_plugin',),
  '_validate': ('InputError',),
  'api': ('DPGAN',),
  'data.datasets': ('ImageDataset', 'load_dataset'),
  'models.config': ('TrainConfig',),
  'privacy.clipping': ('ClippedGrad', 'ClippedSum', 'clipped_grad', 'clipped_sum'),
  'privacy.mechanism': ('BudgetError', 'DPMechanism'),
  'privacy.sampling': ('PoissonBatch', 'TruncatedPoissonSampler'),
  'privacy.transforms': ('PrivatizerState', 'clip_and_noise', 'noise_sum'),
}

__all__ = [
  'DPGAN',
  'BudgetError',
  'ClippedGrad',
  'ClippedSum',
  'DPMechanism',
  'ImageDataset',
  'InputError',
  'PoissonBatch',
  'PrivatizerState',
  'TrainConfig',
  'TruncatedPoissonSampler',
  'clip_and_noise',
  'clipped_grad',
  'clipped_sum',
  'load_dataset',
  'load_plugin',
  'noise_sum',
]


def __getattr__(name: str) -> Any:
  if name == '__version__':
    return importlib.import_module('importlib.metadata').version('dpgan_jax')
  home = next((home for home, names in _HOMES.items() if name in names), None)
  if home is None:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  try:
    value = getattr(importlib.import_module(f'{__name__}.{home}'), name)
  except ModuleNotFoundError as error:
    from dpgan_jax import _extras

    if (missing := _extras.missing(error)) is None:
      raise
    raise ModuleNotFoundError(missing, name=error.name) from error
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__, '__version__'})
