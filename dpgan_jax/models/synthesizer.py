"""What a run leaves for others: a model that draws synthetic records, as many as wanted.

Drawing is post-processing: it costs no privacy, and nothing private is in a `Synthesizer`. The GAN
has one, with what labels its samples (`gan_synthesizer`), and so have moments (`moments`).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.privacy import accounting


class Synthesizer(abc.ABC):
  """A trained model with the record of how it was trained."""

  steps: int
  """Steps of the main mechanism that it was trained with."""

  @property
  @abc.abstractmethod
  def config(self) -> TrainConfig:
    """The settings."""

  @property
  @abc.abstractmethod
  def spec(self) -> Spec:
    """What is public of the data it was trained on."""

  @property
  @abc.abstractmethod
  def budget(self) -> Budget:
    """All stages of the run."""

  @property
  @abc.abstractmethod
  def is_conditional(self) -> bool:
    """Whether samples have a class, and can be asked for by class."""

  @property
  @abc.abstractmethod
  def num_parameters(self) -> int:
    """Numbers that the model consists of."""

  @property
  def usual_num(self) -> int:
    """How many samples are drawn where nobody says."""
    return 10_000

  @property
  def is_labelled_afterwards(self) -> bool:
    """Whether a classifier finds the classes of what was drawn."""
    return False

  @abc.abstractmethod
  def _sample(
    self, num: int, labels: np.ndarray | None, clearest: float, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """`sample` with arguments that were checked."""

  def epsilon(self, delta: float | None = None) -> float:
    """ε of everything computed from this model, at `delta` (default: the mechanism's)."""
    return self.budget.epsilon(self.steps, delta)

  def guarantee(self) -> str:
    """A line for every file that comes of this model, as whoever finds it may know nothing else.

    'epsilon 1.001, delta 1e-05 for one row, add_or_remove_one', ε rounded up.
    """
    if not math.isfinite(self.epsilon()):
      return 'no privacy guarantee'
    mechanism = self.budget.mechanism
    return (
      f'epsilon {accounting.show_epsilon(self.epsilon())}, delta {mechanism.delta:g} for '
      f'{self.spec.unit}, {mechanism.neighboring_relation}'
    )

  def sample(
    self,
    num: int,
    *,
    labels: np.ndarray | None = None,
    clearest: float = 1.0,
    key: jax.Array,
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws synthetic examples: post-processing, as many as wanted at no privacy cost.

    Args:
      num: how many, ≥ 1.
      labels: whole numbers [num] in [0, K). Default: a conditional GAN's are uniform, as balanced
        as possible; those that classifiers find are as they come; those of moments are in the
        proportions of the noisy counts.
      clearest: of what is drawn of each class, the share that the labeller is surest of, in (0, 1];
        the rest is thrown away.
      key: a typed key. The noise key of the training is not involved.

    Returns:
      (images uint8 [num, H, W, C], labels int64 [num], or None from an unconditional model).

    Raises:
      InputError: labels that there are not, or `clearest` without a labeller.
    """
    _validate.integer('num', num, minimum=1)
    _validate.fraction('clearest', clearest, open_right=False)
    if clearest < 1 and not self.is_labelled_afterwards:
      raise _validate.InputError(
        'expected clearest only where a private classifier labels the samples (label_share): '
        'nothing else says how clear they are'
      )
    if labels is not None:
      if not self.is_conditional:
        what = 'the data have one class'
        if self.spec.num_classes > 1:
          what = f'generator {self.config.generator} is not class-conditional'
        raise _validate.InputError(f'expected no labels: {what}')
      labels = _checked_labels(labels, num, self.spec.num_classes)
    return self._sample(num, labels, clearest, key)

  def sample_given(
    self, num: int, given: Mapping[str, Any], *, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """`sample` of rows of a table, or of series, that have some values (of series, static ones).

    Args:
      num: how many, ≥ 1.
      given: a value as it is written, by the name of its column.
      key: a typed key.

    Raises:
      InputError: not of a table or series, no such column, a value outside its domain, or values
        that no row of the model has together.
    """
    del num, given, key
    raise _validate.InputError('expected given values only of a table or series')

  def draw(self, num: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """`sample` of a model whose samples have labels."""
    images, labels = self.sample(num, key=key)
    assert labels is not None
    return images, labels

  def sample_for_picture(
    self, num: int, key: jax.Array, *, clearest: float = 1.0
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """As `sample`, in the order of the classes, as many of each: fewer of those that a labeller
    finds too few of among the first images.
    """
    shown = np.arange(num, dtype=np.int64) * self.spec.num_classes // num
    wanted = shown if self.is_conditional else None
    return self.sample(num, labels=wanted, clearest=clearest, key=key)


def _checked_labels(labels: np.ndarray | Sequence[int], num: int, classes: int) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.shape != (num,) or labels.dtype.kind not in 'iu':
    raise _validate.InputError(
      f'expected labels to be {num} whole numbers, got {labels.dtype} {labels.shape}'
    )
  if labels.min() < 0 or labels.max() >= classes:
    outside = labels[(labels < 0) | (labels >= classes)][0]
    raise _validate.InputError(f'expected labels in [0, {classes - 1}], got {outside}')
  return labels.astype(np.int64)
