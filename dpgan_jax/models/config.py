"""The settings of a run: one frozen object, to and from JSON and command-line flags.

Every field is public: it may be printed and released. The private things (the data, the keys) are
arguments of the functions that need them, never settings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

from dpgan_jax import _records, _validate
from dpgan_jax.data.spec import Preparation
from dpgan_jax.models import pace
from dpgan_jax.models.losses import LOSSES
from dpgan_jax.networks import discriminators, generators
from dpgan_jax.privacy import accounting, clipping

OPTIMIZERS = ('adam', 'sgd')
SCHEDULES = ('constant', 'linear', 'exponential', 'cosine')
FAKE_GRADIENTS = ('clipped', 'plain')
COMPUTE_DTYPES = ('float32', 'bfloat16')

_MOST_GENERATORS = 100  # in a file: far more than help, and few enough to be refused cheaply


def _field(default: Any, text: str) -> Any:
  return dataclasses.field(default=default, metadata={'help': text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Everything that determines a run, given the data and the key."""

  dataset: str = _field(
    'digits',
    'Data set (digits, mnist, fashion_mnist, kmnist, emnist) or kind of file (idx, npz, png).',
  )

  # What is done to one's own images, and how many are kept aside; public, as all else here.
  image_size: str | None = _field(
    None, 'png, npz: resize each image, e.g. 28, or 28x32 (height by width). Default: not at all.'
  )
  channels: int | None = _field(
    None, 'png, npz: turn each image into 8-bit grey (1) or RGB (3). Default: as they are.'
  )
  holdout: float | None = _field(
    None,
    'Share of the images never trained on, which dpgan_jax.evaluate compares with. Default: 0.1 of '
    'idx, npz or png data without test images of their own; 0: none.',
  )

  # Privacy: two of target_epsilon, noise_multiplier and steps (or epochs) determine the third.
  target_epsilon: float | None = _field(None, 'Privacy budget ε; inf trains without privacy.')
  noise_multiplier: float | None = _field(
    None, 'σ, noise relative to the clip norm; 0 trains without privacy.'
  )
  steps: int | None = _field(None, 'Discriminator steps T; each draws and charges a fresh batch.')
  epochs: float | None = _field(None, 'Instead of steps: steps = epochs·N/batch_size.')
  delta: float = _field(1e-5, 'δ at which ε is stated; well below 1/N.')
  l2_clip_norm: float = _field(1.0, "C, bound on each real example's gradient norm.")
  batch_size: int = _field(128, 'Expected number of real examples in a step (Poisson sampling).')
  truncated_batch_size: int | None = _field(
    None, 'Cap on a batch; default: far enough above batch_size to cost nothing.'
  )
  neighboring_relation: str = _field(
    'add_or_remove_one', 'add_or_remove_one, replace_one or replace_special.'
  )

  label_share: float | None = _field(
    None,
    'Share of target_epsilon for a private classifier that gives the samples of a generator that '
    'knows no classes theirs; the GAN gets the rest. Default: samples have no classes then.',
  )
  label_cnn_share: float | None = _field(
    None,
    'Share of target_epsilon for a small CNN that, taught by named samples and then by records, '
    'names samples together with that classifier. Default: it names them alone.',
  )

  # Models.
  generator: str = _field(
    'report_conditional', 'Generator by name: ' + ', '.join(generators.GENERATORS) + '.'
  )
  discriminator: str = _field(
    'compact', 'Discriminator by name: ' + ', '.join(discriminators.DISCRIMINATORS) + '.'
  )
  latent_dim: int = _field(64, "Length of the generator's noise vector z.")

  # Training.
  loss: str = _field('bce', 'GAN loss: ' + ', '.join(LOSSES) + '.')
  gradient_penalty: float | None = _field(
    None,
    "Weight of the gradient penalty inside each real example's clipped loss; for wasserstein (10).",
  )
  d_weight_clip: float | None = _field(
    None, "Bound on each of D's weights after every step; for wasserstein (0.01)."
  )
  d_steps_per_g_step: int = _field(
    10, 'n_D: discriminator steps per generator step; where it starts if n_d_threshold is given.'
  )
  n_d_threshold: float | None = _field(
    None,
    'Adaptive n_D: raised ('
    + ', '.join(map(str, pace.LADDER))
    + ') when D recognises no more than this share of fakes; looks at fakes only.',
  )
  n_d_patience: int = _field(200, 'Adaptive n_D: generator steps that an n_D lasts at least.')
  fake_batch_size: int | None = _field(
    None, 'Fakes per discriminator step; default: batch_size. Constant by design.'
  )
  g_batch_size: int | None = _field(None, 'Fakes per generator step; default: batch_size.')
  fake_gradient: str = _field(
    'clipped',
    "Fake half of D's gradient: clipped (each fake's to the norm of a real one's) or plain.",
  )
  d_optimizer: str = _field('adam', 'adam or sgd.')
  g_optimizer: str = _field('adam', 'adam or sgd.')
  d_learning_rate: float = _field(4e-4, "D's learning rate at the start.")
  g_learning_rate: float = _field(5e-4, "G's learning rate at the start.")
  d_learning_rate_end: float | None = _field(
    None, "D's learning rate at the end, where the schedule is not constant."
  )
  g_learning_rate_end: float | None = _field(
    None, "G's learning rate at the end, where the schedule is not constant."
  )
  learning_rate_schedule: str = _field(
    'constant', 'constant, linear, exponential or cosine, from start to end.'
  )
  adam_b1: float = _field(0.5, "Adam's decay of the first moment.")
  adam_b2: float = _field(0.999, "Adam's decay of the second moment.")
  g_ema_decay: float = _field(
    0.995, "Decay of the average of G's parameters that samples are drawn from; 0 for none."
  )
  g_mixture: int | None = _field(
    None,
    'Draw samples evenly from the averages of so many steps of the second half of the run, the '
    'last one among them (fewer where it has fewer reports). Default: of the last step alone.',
  )
  clipping_strategy: str = _field(
    'auto',
    'How per-example norms are found: auto (least time), ghost (least memory), vmap (every '
    "example's gradient). The same results up to rounding.",
  )
  microbatch_size: int | None = _field(
    None,
    'Examples looked at at once, for memory and speed only; default: all, or as many as fit the '
    'memory budget.',
  )
  memory_budget_gib: float | None = _field(
    None,
    "Memory in GiB that one half (real or fake) of D's step may work in; default: a quarter of the "
    "device's, or of the machine's, rounded down to a power of two.",
  )
  compute_dtype: str = _field(
    'float32',
    'What D and G compute in: float32, or bfloat16 with parameters, clipping, sums and noise in '
    'float32.',
  )

  # Records.
  steps_per_report: int | None = _field(
    None, 'Steps between metric lines; default: an epoch, or a thirtieth of the run if shorter.'
  )
  reports_per_checkpoint: int = _field(1, 'Metric lines between checkpoints.')
  reports_per_grid: int = _field(1, 'Metric lines between sample grids.')
  reports_per_snapshot: int | None = _field(
    None, 'Metric lines between generators kept in snapshots/ (publishable); default: none are.'
  )
  num_samples: int = _field(10_000, 'Samples left in samples.npz at the end of a run.')
  seed: int | None = _field(
    None,
    'Fixed seed: reproducible, not private against those who know it. Default: 64 random bits.',
  )

  def __post_init__(self) -> None:
    for name in (
      'steps',
      'truncated_batch_size',
      'fake_batch_size',
      'g_batch_size',
      'microbatch_size',
      'steps_per_report',
      'reports_per_snapshot',
    ):
      self._check(name, _validate.integer, minimum=1)
    self._check('g_mixture', _validate.integer, minimum=1, maximum=_MOST_GENERATORS)
    for name in (
      'batch_size',
      'latent_dim',
      'd_steps_per_g_step',
      'n_d_patience',
      'reports_per_checkpoint',
      'reports_per_grid',
      'num_samples',
    ):
      self._check(name, _validate.integer, required=True, minimum=1)
    for name in ('d_learning_rate', 'g_learning_rate'):
      self._check(name, _validate.positive, required=True)
    for name in (
      'd_learning_rate_end',
      'g_learning_rate_end',
      'epochs',
      'gradient_penalty',
      'd_weight_clip',
      'memory_budget_gib',
    ):
      self._check(name, _validate.positive)
    self._check('n_d_threshold', _validate.fraction)
    self._check('label_share', _validate.fraction)
    self._check('label_cnn_share', _validate.fraction)
    self._check('target_epsilon', _validate.positive, allow_inf=True)
    self._check('noise_multiplier', _validate.non_negative)
    self._check('l2_clip_norm', _validate.positive, required=True, allow_inf=True)
    self._check('delta', _validate.fraction, required=True)
    for name in ('adam_b1', 'adam_b2', 'g_ema_decay'):
      self._check(name, _validate.fraction, required=True, open_left=False)
    self._check('seed', _validate.integer, minimum=0, maximum=2**32 - 1)
    _validate.one_of('neighboring_relation', self.neighboring_relation, accounting.RELATIONS)
    _validate.one_of('clipping_strategy', self.clipping_strategy, clipping.STRATEGIES)
    _validate.one_of('compute_dtype', self.compute_dtype, COMPUTE_DTYPES)
    _validate.one_of('loss', self.loss, LOSSES)
    _validate.one_of('d_optimizer', self.d_optimizer, OPTIMIZERS)
    _validate.one_of('g_optimizer', self.g_optimizer, OPTIMIZERS)
    _validate.one_of('learning_rate_schedule', self.learning_rate_schedule, SCHEDULES)
    _validate.one_of('fake_gradient', self.fake_gradient, FAKE_GRADIENTS)
    _validate.one_of('generator', self.generator, generators.GENERATORS)
    _validate.one_of('discriminator', self.discriminator, discriminators.DISCRIMINATORS)
    prepared = Preparation.of(self.image_size, self.channels)
    for name in ('image_size', 'channels'):  # 28 and 28x28 are one setting
      object.__setattr__(self, name, getattr(prepared, name))
    self._check('holdout', _validate.fraction, open_left=False)
    self._check_budget()
    self._check_accounted()
    self._check_schedule()
    self._check_labels()
    if (self.generator in generators.UNCONDITIONAL) != (
      self.discriminator in discriminators.UNCONDITIONAL
    ):
      raise _validate.InputError(
        f'expected generator and discriminator to be both class-conditional or both not, got '
        f'generator={self.generator} with discriminator={self.discriminator}'
      )

  def _check(
    self, name: str, check: Callable[..., Any], *, required: bool = False, **bounds: Any
  ) -> None:
    value = getattr(self, name)
    if required or value is not None:
      # What the check returns, a Python number: NumPy's own cannot be written as JSON.
      object.__setattr__(self, name, check(name, value, **bounds))

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
    if self.label_share is None:
      return
    if self.generator not in generators.UNCONDITIONAL:
      raise _validate.InputError(
        f'expected no label_share with generator={self.generator}, which is told the class'
      )
    if self.target_epsilon is None or self.noise_multiplier is not None:
      raise _validate.InputError(
        'expected target_epsilon and steps (or epochs) with label_share: noise_multiplier would '
        'leave nothing to share'
      )
    if self.neighboring_relation != 'add_or_remove_one':
      raise _validate.InputError(
        'expected neighboring_relation=add_or_remove_one with label_share, got '
        f'{self.neighboring_relation}'
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
    return _records.to_dict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`.

    Raises:
      InputError: unknown fields, or values that do not validate.
    """
    return _records.from_dict(cls, fields, 'settings')


def learning_rate(config: TrainConfig, which: str, updates: int) -> optax.Schedule | float:
  """The learning rate of 'd' or 'g' as a function of its own update count."""
  start = getattr(config, f'{which}_learning_rate')
  end = getattr(config, f'{which}_learning_rate_end')
  if end is None or config.learning_rate_schedule == 'constant':
    return start
  last = max(updates - 1, 1)  # the value `end` is reached at the last update
  match config.learning_rate_schedule:
    case 'linear':
      return optax.linear_schedule(start, end, last)
    case 'exponential':
      return optax.exponential_decay(start, last, end / start)
    case _:
      return optax.cosine_decay_schedule(start, last, alpha=end / start)


def optimizer(config: TrainConfig, which: str, updates: int) -> optax.GradientTransformation:
  """The optimizer of 'd' or 'g', which makes so many updates."""
  rate = learning_rate(config, which, updates)
  if getattr(config, f'{which}_optimizer') == 'sgd':
    return optax.sgd(rate)
  return optax.adam(rate, b1=config.adam_b1, b2=config.adam_b2)
