"""The settings of a private classifier: one frozen object, to and from JSON and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dpgan_jax import _records, _validate
from dpgan_jax.data.spec import Preparation

MODELS = ('linear', 'tutorial_cnn')
FEATURES = ('pixels', 'scattering')
ALIGNMENTS = ('none', 'deskew')


def _field(default: Any, text: str) -> Any:
  return dataclasses.field(default=default, metadata={'help': text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
  """Everything that determines a classifier, given the data and the key; all of it public."""

  dataset: str = _field('digits', 'Data set or kind of file, as for dpgan_jax.train.')
  image_size: str | None = _field(None, 'As for dpgan_jax.train.')
  channels: int | None = _field(None, 'As for dpgan_jax.train.')
  holdout: float = _field(
    0,
    'Training examples kept aside and scored in place of the test set, to choose settings on: '
    'about so many, or a share below 1.',
  )
  model: str = _field('linear', 'linear, or tutorial_cnn (the CNN of the TF-Privacy tutorial).')
  alignment: str = _field(
    'none', 'Of each image, before anything else: none, or deskew (its own slant is sheared away).'
  )
  features: str = _field('scattering', 'What the model sees: pixels or scattering.')
  scales: int = _field(2, 'J, scales of the scattering transform.')
  angles: int = _field(8, 'L, angles of the scattering transform.')
  centre_noise_multiplier: float | None = _field(
    None, "σ of one release of the features' mean, which is then subtracted; default: none is."
  )

  # Privacy: two of target_epsilon, noise_multiplier and steps (or epochs), one of them the length.
  target_epsilon: float | None = _field(
    None, 'Privacy budget ε of training and centre together; inf trains without privacy.'
  )
  noise_multiplier: float | None = _field(None, 'σ of training, relative to the clip norm.')
  steps: int | None = _field(None, 'Training steps T.')
  epochs: float | None = _field(None, 'Instead of steps: steps = epochs·N/batch_size.')
  delta: float = _field(1e-5, 'δ at which ε is stated; well below 1/N.')
  l2_clip_norm: float = _field(0.1, "C, bound on each example's gradient norm.")
  batch_size: int = _field(128, 'Expected number of examples in a step (Poisson sampling).')

  learning_rate: float = _field(1.0, 'Learning rate of SGD.')
  momentum: float = _field(0.0, "SGD's momentum.")
  average_from: float | None = _field(
    None, 'Share of the steps after which parameters are averaged; default: the last ones are kept.'
  )
  microbatch_size: int | None = _field(
    None, 'Per-example gradients held at once; changes memory only.'
  )
  steps_per_report: int | None = _field(
    None, 'Steps between metric lines and checkpoints; default: a twentieth of the run.'
  )
  seed: int | None = _field(
    None, 'Fixed seed: reproducible, not private against those who know it. Default: 64 bits.'
  )

  def __post_init__(self) -> None:
    def check(name: str, function: Callable[..., Any], **bounds: Any) -> None:
      value = getattr(self, name)
      if value is not None:
        object.__setattr__(self, name, function(name, value, **bounds))

    for name in ('steps', 'microbatch_size', 'steps_per_report', 'batch_size'):
      check(name, _validate.integer, minimum=1)
    for name, most in (('scales', 16), ('angles', 32)):  # paths grow with the square of both
      check(name, _validate.integer, minimum=1, maximum=most)
    check('holdout', _validate.non_negative)
    if self.holdout >= 1 or self.holdout == 0:
      if self.holdout != int(self.holdout):
        raise _validate.InputError(
          f'expected holdout to be a whole number, or a share below 1, got {self.holdout!r}'
        )
      object.__setattr__(self, 'holdout', int(self.holdout))
    prepared = Preparation.of(self.image_size, self.channels)
    object.__setattr__(self, 'image_size', prepared.image_size)
    check('seed', _validate.integer, minimum=0, maximum=2**32 - 1)
    for name in ('learning_rate', 'epochs', 'centre_noise_multiplier'):
      check(name, _validate.positive)
    for name in ('target_epsilon', 'l2_clip_norm'):
      check(name, _validate.positive, allow_inf=True)
    check('noise_multiplier', _validate.non_negative)
    check('delta', _validate.fraction)
    check('momentum', _validate.fraction, open_left=False)
    check('average_from', _validate.fraction, open_left=False)
    _validate.one_of('model', self.model, MODELS)
    _validate.one_of('features', self.features, FEATURES)
    _validate.one_of('alignment', self.alignment, ALIGNMENTS)
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
