"""The settings of a private classifier: one frozen object, to and from JSON and flags."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _records, _settings, _validate
from dpgan_jax._plugins import Registry
from dpgan_jax.data.spec import Preparation

MODELS: Registry[Any] = Registry('classifier', {'linear': None, 'tutorial_cnn': None})
"""`classifier` says what they are: functions of num_classes; a plugin registers its own."""
FEATURES = ('pixels', 'scattering')
ALIGNMENTS = ('none', 'deskew')


_data, _budget, _model, _training, _kept = (
  functools.partial(_settings.field, group=group)
  for group in ('data', 'budget', 'model', 'training', 'records')
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
  """Everything that determines a classifier, given the data and the key; all of it public."""

  dataset: str = _data('digits', 'Data set or kind of file, as for dpgan_jax.train.', common=True)
  image_size: str | None = _data(None, 'As for dpgan_jax.train.')
  channels: int | None = _data(None, 'As for dpgan_jax.train.', minimum=1, maximum=3)
  holdout: float = _data(
    0, 'Training examples kept aside and scored in place of the test set, to choose settings on: '
    'about so many, or a share below 1.', minimum=0, common=True,
  )
  model: str = _model(
    'linear', 'linear, or tutorial_cnn (the CNN of the TF-Privacy tutorial).', choices=MODELS,
    common=True,
  )
  alignment: str = _model(
    'none', 'Of each image, before anything else: none, or deskew (its own slant is sheared away).',
    choices=ALIGNMENTS,
  )
  features: str = _model('scattering', 'What the model sees.', choices=FEATURES, common=True)
  # Paths grow with the square of both.
  scales: int = _model(2, 'J, scales of the scattering transform.', minimum=1, maximum=16)
  angles: int = _model(8, 'L, angles of the scattering transform.', minimum=1, maximum=32)
  centre_noise_multiplier: float | None = _budget(
    None, "σ of one release of the features' mean, which is then subtracted; default: none is.",
    above=0,
  )

  # Two of target_epsilon, noise_multiplier and steps (or epochs), one of them the length.
  target_epsilon: float | None = _budget(
    None, 'Privacy budget ε of training and centre together; inf trains without privacy.', above=0,
    maximum=math.inf, common=True,
  )
  noise_multiplier: float | None = _budget(
    None, 'σ of training, relative to the clip norm.', minimum=0, common=True
  )
  steps: int | None = _budget(None, 'Training steps T.', minimum=1, common=True)
  epochs: float | None = _budget(
    None, 'Instead of steps: steps = epochs·N/batch_size.', above=0, common=True
  )
  delta: float = _budget(
    1e-5, 'δ at which ε is stated; well below 1/N.', above=0, below=1, common=True
  )
  l2_clip_norm: float = _budget(
    0.1, "C, bound on each example's gradient norm.", above=0, maximum=math.inf, common=True
  )
  batch_size: int = _budget(
    128, 'Expected number of examples in a step (Poisson sampling).', minimum=1, common=True
  )

  learning_rate: float = _training(1.0, 'Learning rate of SGD.', above=0, common=True)
  momentum: float = _training(0.0, "SGD's momentum.", minimum=0, below=1)
  average_from: float | None = _training(
    None,
    'Share of the steps after which parameters are averaged; default: the last ones are kept.',
    minimum=0, below=1,
  )
  microbatch_size: int | None = _training(
    None, 'Per-example gradients held at once; changes memory only.', minimum=1
  )
  steps_per_report: int | None = _kept(
    None, 'Steps between metric lines and checkpoints; default: a twentieth of the run.', minimum=1
  )
  seed: int | None = _kept(
    None, 'Fixed seed: reproducible, not private against those who know it. Default: 64 bits.',
    minimum=0, maximum=_settings.MOST_SEED, common=True,
  )

  def __post_init__(self) -> None:
    prepared = Preparation.of(self.image_size, self.channels)
    object.__setattr__(self, 'image_size', prepared.image_size)
    _settings.check(self)
    if self.holdout >= 1 or self.holdout == 0:
      if self.holdout != int(self.holdout):
        raise _validate.InputError(
          f'expected holdout to be a whole number, or a share below 1, got {self.holdout!r}'
        )
      object.__setattr__(self, 'holdout', int(self.holdout))
    if (self.steps is None) == (self.epochs is None):
      raise _validate.InputError('expected steps or epochs, one of them')
    if (self.target_epsilon is None) == (self.noise_multiplier is None):
      raise _validate.InputError('expected target_epsilon or noise_multiplier, one of them')
    if self.features == 'pixels' and self.centre_noise_multiplier is not None:
      raise _validate.InputError('expected centre_noise_multiplier with features=scattering only')
    if self.model == 'tutorial_cnn' and self.features != 'pixels':
      raise _validate.InputError('expected features=pixels with model=tutorial_cnn')

  def to_dict(self) -> dict[str, Any]:
    """Every field, JSON-ready (`inf` as the string 'inf')."""
    return _records.to_dict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> ClassifierConfig:
    """The inverse of `to_dict`."""
    return _records.from_dict(cls, fields, 'settings')
