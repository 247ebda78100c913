"""The settings of a run: one frozen object, to and from JSON and command-line flags.

Every field is public: it may be printed and released. The private things (the data, the keys) are
arguments of the functions that need them, never settings.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _records, _settings, _validate
from dpgan_jax.data.spec import Preparation
from dpgan_jax.models import pace
from dpgan_jax.networks import discriminators, generators
from dpgan_jax.networks.losses import LOSSES
from dpgan_jax.privacy import accounting, clipping

METHODS = ('moments', 'gan')
_SCHEMA, _MATCHING, _CELLS = 'schema_epsilon', 'matching_steps', 'moments_cells'
# Settings that moments have a use for; others are a GAN's.
_OF_MOMENTS = {
  'dataset', 'image_size', 'channels', 'holdout', 'method', 'target_epsilon', 'delta',
  'neighboring_relation', 'moments_coefficients', 'moments_means_share', 'num_samples', 'seed',
  _CELLS, _SCHEMA, _MATCHING,
}  # fmt: skip
_OF_MOMENTS_ALONE = {'moments_coefficients', 'moments_means_share', _CELLS, _SCHEMA, _MATCHING}
_LATER = {_CELLS, _SCHEMA, _MATCHING, 'moments_share'}
SCHEDULES = ('constant', 'linear', 'exponential', 'cosine')
OPTIMIZERS, FAKE_GRADIENTS = ('adam', 'sgd'), ('clipped', 'plain')
COMPUTE_DTYPES = ('float32', 'bfloat16')

LONGEST_CODE = 4096  # its covariance is decomposed in minutes
_MOST_GENERATORS = 100  # in a file: far more than help, and few enough to be refused cheaply


_data, _budget, _moments, _labels, _networks, _training, _memory, _kept = (
  functools.partial(_settings.field, group=group)
  for group in (
    'data', 'budget', 'moments', 'labels of samples', 'networks', 'training', 'speed and memory',
    'records',
  )
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Everything that determines a run, given the data and the key."""

  dataset: str = _data(
    'digits',
    'Data set (digits, mnist, fashion_mnist, kmnist, emnist, people, vitals) or kind of file '
    '(idx, npz, png, table, series).',
    common=True,
  )
  image_size: str | None = _data(
    None, 'png, npz: resize each image, e.g. 28, or 28x32 (height by width). Default: not at all.',
    common=True,
  )
  channels: int | None = _data(
    None, 'png, npz: turn each image into 8-bit grey (1) or RGB (3). Default: as they are.',
    minimum=1, maximum=3, common=True,
  )
  holdout: float | None = _data(
    None, 'Share of the records never trained on, which dpgan_jax.evaluate compares with. Default: '
    "0.1 of one's own data without a test part; 0: none.", minimum=0, below=1, common=True,
  )

  method: str | None = _data(
    None, 'moments: released once, sampled in seconds; gan: DP-SGD on the discriminator. Default: '
    'gan where noise_multiplier, steps or epochs are given, else moments.',
    choices=METHODS, common=True,
  )

  # target_epsilon alone is enough (of a GAN: `wants_recipe`); else two of target_epsilon,
  # noise_multiplier and steps (or epochs) determine the third.
  target_epsilon: float | None = _budget(
    None, 'Privacy budget ε; inf trains without privacy.', above=0, maximum=math.inf, common=True
  )
  noise_multiplier: float | None = _budget(
    None, 'σ, noise relative to the clip norm; 0 trains without privacy.', minimum=0, common=True
  )
  steps: int | None = _budget(
    None, 'Discriminator steps T; each draws and charges a fresh batch.', minimum=1, common=True
  )
  epochs: float | None = _budget(
    None, 'Instead of steps: steps = epochs·N/batch_size.', above=0, common=True
  )
  schema_epsilon: float | None = _budget(
    None, "Part of target_epsilon that finds what a table's schema calls drafted.", above=0,
    common=True,
  )
  delta: float = _budget(
    1e-5, 'δ at which ε is stated; well below 1/N.', above=0, below=1, common=True
  )
  l2_clip_norm: float = _budget(
    1.0, "C, bound on each real example's gradient norm.", above=0, maximum=math.inf, common=True
  )
  batch_size: int = _budget(
    128, 'Expected number of real examples in a step (Poisson sampling).', minimum=1, common=True
  )
  truncated_batch_size: int | None = _budget(
    None, 'Cap on a batch; default: far enough above batch_size to cost nothing.', minimum=1
  )
  neighboring_relation: str = _budget(
    'add_or_remove_one', 'Which two data sets ε compares.', choices=accounting.RELATIONS
  )

  label_share: float | None = _labels(
    None, 'Share of target_epsilon for a private classifier that gives the samples of a generator '
    'that knows no classes theirs; the GAN gets the rest. Default: samples have no classes then.',
    above=0, below=1, common=True,
  )
  label_cnn_share: float | None = _labels(
    None, 'Share of target_epsilon for a small CNN that, taught by named samples and then by '
    'records, names them together with that classifier. Default: it names them alone.',
    above=0, below=1,
  )

  moments_share: float | None = _moments(
    None, 'Share of target_epsilon for moments whose draws generator=refiner makes images of; the '
    'GAN gets the rest.', above=0, below=1,
  )
  moments_coefficients: int | None = _moments(
    None, "How many of an image's lowest frequencies or features, or cells a number of a table, or "
    'cosines a channel of series, are looked at.',
    minimum=1, maximum=LONGEST_CODE,
  )
  moments_means_share: float | None = _moments(
    None, 'Share of the release that goes to class means and counts; the rest to covariances.',
    above=0, below=1,
  )
  moments_cells: int | None = _moments(
    None, 'Of images: how many Gaussians a class has, a power of two. Default: by their noise.',
    minimum=1, maximum=64,
  )
  matching_steps: int | None = _moments(
    None, 'Of images: steps, free of privacy cost, of a generator that learns to make images whose '
    'scattering features have the released moments. Default: no generator; images are draws of '
    'frequencies, blurred, and made in seconds.', minimum=1, common=True,
  )

  generator: str = _networks(
    'report_conditional', 'Generator by name.', choices=generators.GENERATORS, common=True
  )
  discriminator: str = _networks(
    'compact', 'Discriminator by name.', choices=discriminators.DISCRIMINATORS, common=True
  )
  latent_dim: int = _networks(64, "Length of the generator's noise vector z.", minimum=1)

  loss: str = _training('bce', 'GAN loss.', choices=LOSSES)
  gradient_penalty: float | None = _training(
    None, "Weight of the penalty inside each real example's clipped loss; for wasserstein (10).",
    above=0,
  )
  d_weight_clip: float | None = _training(
    None, "Bound on each of D's weights after every step; for wasserstein (0.01).", above=0
  )
  d_steps_per_g_step: int = _training(
    10, 'n_D: discriminator steps per generator step; where it starts if n_d_threshold is given.',
    minimum=1, common=True,
  )
  n_d_threshold: float | None = _training(
    None, 'Adaptive n_D: raised ('
    + ', '.join(map(str, pace.LADDER))
    + ') when D recognises no more than this share of fakes; looks at fakes only.', above=0,
    below=1,
  )
  n_d_patience: int = _training(200, 'Adaptive n_D: G steps that an n_D lasts.', minimum=1)
  fake_batch_size: int | None = _training(
    None, 'Fakes per discriminator step; default: batch_size. Constant by design.', minimum=1
  )
  g_batch_size: int | None = _training(
    None, 'Fakes per generator step; default: batch_size.', minimum=1
  )
  fake_gradient: str = _training(
    'clipped',
    "Fake half of D's gradient: clipped (each fake's to the norm of a real one's) or plain.",
    choices=FAKE_GRADIENTS,
  )
  d_optimizer: str = _training('adam', "D's optimizer.", choices=OPTIMIZERS)
  g_optimizer: str = _training('adam', "G's optimizer.", choices=OPTIMIZERS)
  d_learning_rate: float = _training(4e-4, "D's learning rate at the start.", above=0)
  g_learning_rate: float = _training(5e-4, "G's learning rate at the start.", above=0)
  d_learning_rate_end: float | None = _training(
    None, "D's learning rate at the end, where the schedule is not constant.", above=0
  )
  g_learning_rate_end: float | None = _training(
    None, "G's learning rate at the end, where the schedule is not constant.", above=0
  )
  learning_rate_schedule: str = _training('constant', 'From start to end.', choices=SCHEDULES)
  adam_b1: float = _training(0.5, "Adam's decay of the first moment.", minimum=0, below=1)
  adam_b2: float = _training(0.999, "Adam's decay of the second moment.", minimum=0, below=1)
  g_ema_decay: float = _training(
    0.995, "Decay of the average of G's parameters that samples are drawn from; 0 for none.",
    minimum=0, below=1,
  )
  g_mixture: int | None = _training(
    None,
    'Draw samples evenly from the averages of so many steps of the second half of the run, the '
    'last one among them (fewer where it has fewer reports). Default: of the last step alone.',
    minimum=1, maximum=_MOST_GENERATORS,
  )

  clipping_strategy: str = _memory(
    'auto', 'How per-example norms are found: auto (least time), ghost (least memory), vmap (every '
    "example's gradient). The same results up to rounding.", choices=clipping.STRATEGIES,
  )
  microbatch_size: int | None = _memory(
    None,
    'Examples looked at at once, for memory and speed only; default: all, or as many as fit the '
    'memory budget.', minimum=1,
  )
  memory_budget_gib: float | None = _memory(
    None,
    "Memory in GiB that one half (real or fake) of D's step may work in; default: a quarter of the "
    "device's, or of the machine's, rounded down to a power of two.", above=0,
  )
  compute_dtype: str = _memory(
    'float32',
    'What D and G compute in: float32, or bfloat16 with parameters, clipping, sums and noise in '
    'float32.', choices=COMPUTE_DTYPES,
  )

  steps_per_report: int | None = _kept(
    None, 'Steps between metric lines; default: an epoch, or a thirtieth of the run.', minimum=1
  )
  reports_per_checkpoint: int = _kept(1, 'Metric lines between checkpoints.', minimum=1)
  reports_per_grid: int = _kept(1, 'Metric lines between sample grids.', minimum=1)
  reports_per_snapshot: int | None = _kept(
    None, 'Metric lines between generators kept in snapshots/ (publishable).', minimum=1
  )
  num_samples: int = _kept(10_000, 'Samples that a run leaves at its end.', minimum=1)
  seed: int | None = _kept(
    None,
    'Fixed seed: reproducible, not private against those who know it. Default: 64 random bits.',
    minimum=0, maximum=_settings.MOST_SEED, common=True,
  )

  def __post_init__(self) -> None:
    prepared = Preparation.of(self.image_size, self.channels)
    for name in ('image_size', 'channels'):  # 28 and 28x28 are one setting
      object.__setattr__(self, name, getattr(prepared, name))
    _settings.check(self)
    if self.method is None:
      of_gan = any(v is not None for v in (self.noise_multiplier, self.steps, self.epochs))
      object.__setattr__(self, 'method', 'gan' if of_gan else 'moments')
    self._check_method()
    if self.method == 'moments':
      return
    self._check_accounted()
    if self.wants_recipe:  # what else there is to check depends on what it settles
      return
    self._check_budget()
    self._check_schedule()
    self._check_labels()
    self._check_moments()
    if (self.generator in generators.UNCONDITIONAL) != (
      self.discriminator in discriminators.UNCONDITIONAL
    ):
      raise _validate.InputError(
        f'expected generator and discriminator to be both class-conditional or both not, got '
        f'generator={self.generator} with discriminator={self.discriminator}'
      )

  @property
  def wants_recipe(self) -> bool:
    """Whether `models.gans.recipe` has to settle what is not said: a GAN by ε alone."""
    finite = self.target_epsilon is not None and self.target_epsilon < math.inf
    of_more = (self.noise_multiplier, self.steps, self.epochs) != (None, None, None)
    return self.method == 'gan' and finite and not of_more

  def _check_method(self) -> None:
    of_moments = self.method == 'moments'
    if of_moments and self.target_epsilon is None:
      raise _validate.InputError(
        'expected target_epsilon, which is all that moments need, or what a GAN needs: two of '
        'target_epsilon, noise_multiplier and steps (target_epsilon=inf trains without privacy)'
      )
    if of_moments and (self.schema_epsilon or 0.0) >= (self.target_epsilon or math.inf):
      raise _validate.InputError(
        f'expected schema_epsilon < {self.target_epsilon:g}, as a part, got {self.schema_epsilon:g}'
      )
    for field in dataclasses.fields(self):
      name, value = field.name, getattr(self, field.name)
      foreign = name not in _OF_MOMENTS if of_moments else name in _OF_MOMENTS_ALONE
      if foreign and value != field.default:
        other = 'gan' if of_moments else 'moments'
        raise _validate.InputError(
          f'expected no {name} with method={self.method}, which has no use for it, got {value}: '
          f'leave it out, or say method={other}'
        )

  def _check_budget(self) -> None:
    if self.steps is not None and self.epochs is not None:
      raise _validate.InputError(
        f'expected steps or epochs, not both: got steps={self.steps} and epochs={self.epochs}'
      )
    length = self.steps is not None or self.epochs is not None
    epsilon, sigma = self.target_epsilon is not None, self.noise_multiplier is not None
    if not epsilon and not sigma:
      raise _validate.InputError(
        'expected target_epsilon or noise_multiplier (target_epsilon=inf trains without privacy)'
      )
    if epsilon and sigma and length:
      raise _validate.InputError(
        'target_epsilon, noise_multiplier and steps were all given, but two of them determine the '
        'third: leave one out'
      )
    unbounded = self.target_epsilon == math.inf or self.noise_multiplier == 0
    if not length and (unbounded or not (epsilon and sigma)):
      raise _validate.InputError(
        'expected steps (or epochs), or both target_epsilon and noise_multiplier > 0'
      )

  def _check_labels(self) -> None:
    if self.label_cnn_share is not None:
      if self.label_share is None:
        raise _validate.InputError('expected label_share with label_cnn_share, got none')
      if self.label_share + self.label_cnn_share >= 1:
        raise _validate.InputError(
          'expected label_share and label_cnn_share to leave something to the GAN, got '
          f'{self.label_share:g} and {self.label_cnn_share:g}'
        )
    for name in ('label_share', 'moments_share'):
      shared = self.target_epsilon is not None and self.noise_multiplier is None
      if getattr(self, name) is not None and not shared:
        raise _validate.InputError(
          f'expected target_epsilon and steps (or epochs) with {name}: noise_multiplier would '
          'leave nothing to share'
        )
    if self.label_share is None:
      return
    if self.generator not in generators.UNCONDITIONAL:
      raise _validate.InputError(
        f'expected no label_share with generator={self.generator}, which is told the class'
      )
    if self.neighboring_relation != 'add_or_remove_one':
      raise _validate.InputError(
        'expected neighboring_relation=add_or_remove_one with label_share, got '
        f'{self.neighboring_relation}'
      )

  def _check_moments(self) -> None:
    if (self.generator in generators.REFINERS) != (self.moments_share is not None):
      raise _validate.InputError(
        f'expected moments_share with generator={", ".join(generators.REFINERS)}, and with no '
        f'other, got {self.moments_share} with generator={self.generator}'
      )

  def _check_schedule(self) -> None:
    if self.n_d_threshold is not None and self.g_learning_rate_end is not None:
      raise _validate.InputError(
        "expected no g_learning_rate_end with n_d_threshold: the number of G's steps is not known "
        'beforehand'
      )
    for name in ('d_learning_rate_end', 'g_learning_rate_end'):
      given = getattr(self, name) is not None
      if given and self.learning_rate_schedule == 'constant':
        raise _validate.InputError(
          f'{name} was given but learning_rate_schedule is constant: choose linear, exponential '
          'or cosine'
        )
    if (
      self.learning_rate_schedule != 'constant'
      and self.d_learning_rate_end is None
      and self.g_learning_rate_end is None
    ):
      raise _validate.InputError(
        f'learning_rate_schedule={self.learning_rate_schedule} needs d_learning_rate_end or '
        'g_learning_rate_end'
      )

  def _check_accounted(self) -> None:
    why = discriminators.UNACCOUNTED.get(self.discriminator)
    if why is not None and self.target_epsilon != math.inf and self.noise_multiplier != 0:
      raise _validate.InputError(
        f'expected target_epsilon=inf with discriminator={self.discriminator}: {why}'
      )

  def replace(self, **changes: Any) -> TrainConfig:
    """A copy with some fields changed, validated anew."""
    return dataclasses.replace(self, **changes)

  def to_dict(self) -> dict[str, Any]:
    """Every field, JSON-ready (`inf` as the string 'inf')."""
    record = _records.to_dict(self)  # without the later ones a seed gives what it always gave
    return {k: v for k, v in record.items() if v is not None or k not in _LATER}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`.

    Raises:
      InputError: unknown fields, or values that do not validate.
    """
    return _records.from_dict(cls, fields, 'settings')
