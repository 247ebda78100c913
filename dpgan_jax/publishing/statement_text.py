"""The sentences of a privacy statement that are the same for every run."""

from __future__ import annotations

from typing import Any

from dpgan_jax.budget import cross_check
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.accounting import rounded_down, rounded_up, show_epsilon
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.releases.selection import SelectionMechanism
from dpgan_jax.publishing.verdicts import COVERED_METRICS, UNCOVERED_METRICS

NEIGHBOURS = {
  'add_or_remove_one': 'two data sets of which one has one record more than the other',
  'replace_one': 'two data sets of the same size that differ in one record',
  'replace_special': (
    'two data sets of the same size, one of which has a blank that contributes nothing in place '
    'of one record'
  ),
}
SEED = 'reproducible, not private against those who know the seed'
SECRET = (
  '256 bits from the operating system, which only secret.json holds; the keys that follow from '
  'them have 64 bits, and the checkpoints hold these.'
)
SECRET_OF_RELEASES = (
  '256 bits from the operating system, which only secret.json holds; the noise follows from them.'
)
ATTAINED = 'of two data sets in which all records but one contribute zeros'
GROUP = (
  'A person with k records is protected by the group-privacy bound only: (k·ε, k·e^((k-1)·ε)·δ).'
)
SAMPLING = (
  'Truncated Poisson: in every step each record joins with probability q, independently of all '
  'other records and steps; of more than the cap, a random subset of the size of the cap is '
  'kept. The cut is accounted for.'
)
NOISE = (
  "Every real example's gradient is clipped to norm C as a whole. Gaussian noise of standard "
  'deviation σ·C is added to each coordinate of the sum, once per step, and the noisy sum is '
  'divided by B, never by the number of examples that came. Gradients of fakes are added after '
  'the noise.'
)
EXACT_NOISE = (
  'Every record moves a release by at most 1 in the units of σ: a record is in one class. Discrete '
  'Gaussian noise of standard deviation σ is added to an exact sum of whole numbers (Canonne, '
  'Kamath and Steinke 2020).'
)
TUNING = (
  'ε covers one training run with settings chosen without looking at the private data. If '
  'settings, the best of several runs, a checkpoint or the moment to stop were chosen by '
  'results on the private data, that choice costs privacy which is not counted in ε; Papernot '
  'and Steinke (2022, arXiv 2110.03620) show how to count it.'
)
DEFAULTS = (
  'The defaults of dpgan_jax were chosen on public data: MNIST, the digits of scikit-learn, '
  'training rows of UCI Adult, and generated tables.'
)
NOT_STATED = 'Not stated: the data owner has not said how the settings were chosen.'

NOTHING_COVERED = 'Everything that was computed from the private data.'
MOMENTS_COVERED = (
  'The moments as released, and everything that follows from them alone.',
  'Everything drawn from them, in any number: samples.*, and what dpgan_jax.sample writes.',
  'ε itself, and how much of the moments stood out of the noise.',
)
COVERED = (
  'The generator, as trained and as averaged, at the end and at every checkpoint.',
  'Everything drawn from it, in any number: samples.npz, samples.png, grids/, and what '
  'dpgan_jax.sample writes.',
  "The discriminator's weights, and every other network weight derived from the noisy gradients.",
  f'Numbers computed on fakes only ({", ".join(COVERED_METRICS)}), and ε itself.',
)
NOT_COVERED = (
  f'Numbers computed on private examples without noise: {", ".join(UNCOVERED_METRICS)}. They '
  'are in metrics.jsonl, in TensorBoard, and drawn in losses.png.',
  'Checkpoints as files: beside the weights they hold the keys of the noise and of the batches. '
  'Whoever has these can remove the noise.',
  'The ledger: it holds a fingerprint of the data, which confirms a right guess at them.',
  'Seeds, keys and any other state of the random number generator.',
  'The choice of settings, runs, checkpoints or stopping times by results on private data (see '
  'Tuning).',
  'Other runs on the same data: each has an ε of its own, and these add up.',
  'What was done to the data before training: selecting, cropping, labelling.',
  'What one can observe of the machine during training: memory, timing.',
)


MOMENTS_NOT_COVERED = (
  'Checkpoints as files, and secret.json: they hold what the noise follows from. Whoever has it '
  'can remove the noise.',
  *NOT_COVERED[2:6],
  'What was done to the data before training: selecting, cleaning, labelling.',
  NOT_COVERED[-1],
)


OF_STEPS = {
  'accountant': 'privacy loss distributions (PLD)',
  'discretisation': (
    f'privacy loss discretised at {accounting._FINE_GRID:g}, or {accounting._COARSE_GRID:g} where '
    f'ε > {accounting._FINE_UP_TO:g}, rounded against the user'
  ),
}
"""How ε of steps of DP-SGD is found."""


def of_moments(schema: DPMechanism | None) -> dict[str, str]:
  """The same of a release of moments; `schema`: of what has found the schema, if that was."""
  together, failure = 'the two releases compose to one Gaussian mechanism', ''
  if isinstance(schema, SelectionMechanism):
    together = 'the three releases compose to one Gaussian mechanism and one failure'
    failure = (
      f', at δ less {schema.selection_delta:.3g}, the chance that a category is named which one '
      'record alone has'
    )
  return {
    'accountant': together,
    'discretisation': f'its ε by the formula of Balle and Wang (2018), rounded up{failure}',
  }


def found(schema: DPMechanism | None) -> dict[str, Any]:
  """Numbers of the mechanism that has found the schema, by what they are."""
  if not isinstance(schema, SelectionMechanism):
    return {}
  return {
    'σ of the counts that the schema was found by': schema.noise_multiplier,
    'ε of these alone': show_epsilon(schema.epsilon()),
    'of δ, the chance that a category of one record is named': f'{schema.selection_delta:.3g}',
  }


def second_opinion(found: cross_check.Interval | None) -> dict[str, Any] | None:
  """What the second computation of ε found, for machines."""
  if found is None:
    return None
  return {
    'epsilon_at_least': rounded_down(found.lower),
    'epsilon_at_most': rounded_up(found.upper),
    'at_least_by': f'{cross_check.METHODS["lower"]}, {ATTAINED}',
    'at_most_by': cross_check.METHODS['upper'],
    'relation': (
      'epsilon_at_least <= exact epsilon of these steps <= epsilon_at_most; every accounted '
      'epsilon of this statement lies between bounds of its own, of which the accountant, which '
      f'rounds up, may exceed the last by {cross_check.ROUNDING:g} of it and three steps of its '
      'grid times the root of T'
    ),
  }
