"""Synthetic data with a privacy guarantee: GANs trained by DP-SGD, in JAX.

The privacy core (`DPMechanism`, `clip_and_noise`, `noise_sum`, `clipped_grad`, `clipped_sum`) needs
jax, numpy, optax and dp-accounting only, and is meant to be imported into other projects. `DPGAN`
and what it is made of are loaded on first use, so that importing the core stays light.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from dpgan_jax._validate import InputError
from dpgan_jax.privacy.clipping import ClippedGrad, ClippedSum, clipped_grad, clipped_sum
from dpgan_jax.privacy.mechanism import BudgetError, DPMechanism
from dpgan_jax.privacy.sampling import PoissonBatch, TruncatedPoissonSampler
from dpgan_jax.privacy.transforms import PrivatizerState, clip_and_noise, noise_sum

if TYPE_CHECKING:
  from dpgan_jax.api import DPGAN
  from dpgan_jax.data.datasets import ImageDataset, load_dataset
  from dpgan_jax.models.config import TrainConfig

__version__ = importlib.metadata.version('dpgan_jax')

_LAZY = {
  'DPGAN': 'api',
  'ImageDataset': 'data.datasets',
  'TrainConfig': 'models.config',
  'load_dataset': 'data.datasets',
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
  'noise_sum',
]


def __getattr__(name: str) -> Any:
  if name not in _LAZY:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_LAZY[name]}'), name)
