"""A trained generator on its own, and what labels its samples: draws as many as wanted.

Drawing is post-processing: it costs no privacy, and nothing private is in here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import labelling
from dpgan_jax.models.gan import GAN, GeneratorState
from dpgan_jax.models.labelling import Labeller

_SAMPLES_AT_ONCE = 1000
_DRAWS_LABELLED_AT_ONCE = 10  # a classifier's features of an image are larger than the image
_MOST_DRAWS = 100  # images drawn for one that is kept, where a labeller has to find its class


@dataclasses.dataclass(frozen=True)
class Synthesizer:
  """A generator with the record of how it was trained.

  Attributes:
    gan: settings, mechanism, description of the data.
    generator: its arrays.
    steps: discriminator steps it was trained with.
    labellers: they label the samples of a generator that knows no classes, together. Without any,
      samples have no labels, or the generator knows them.
    past: arrays of the same generator by the earlier step that they are of; each of them draws as
      many samples.

  Raises:
    InputError: `past` is of later steps than `steps`, which would cost more than is said.
  """

  gan: GAN
  generator: GeneratorState
  steps: int
  labellers: tuple[Labeller, ...] = ()
  past: Mapping[int, GeneratorState] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if self.past and not 0 <= min(self.past) <= max(self.past) < self.steps:
      raise _validate.InputError(
        f'expected past generators of steps before {self.steps}, got {sorted(self.past)}'
      )

  @property
  def spec(self) -> Spec:
    """What is public of the data it was trained on."""
    return self.gan.spec

  @property
  def is_conditional(self) -> bool:
    """Whether samples have a class, and can be asked for by class."""
    return bool(self.labellers) or self.gan.is_conditional

  @property
  def budget(self) -> Budget:
    """All stages of the run."""
    return Budget(self.gan.mechanism, labelling.stages(*(l.classifier for l in self.labellers)))

  def epsilon(self, delta: float | None = None) -> float:
    """ε of everything computed from this file, at `delta` (default: the mechanism's)."""
    return self.budget.epsilon(self.steps, delta)

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
      labels: whole numbers [num] in [0, K); default: uniform, in random order, as balanced as
        possible; with a labeller: as they come.
      clearest: of what is drawn of each class, the share that the labeller is surest of, in (0, 1];
        the rest is thrown away.
      key: a typed key. The noise key of the training is not involved.

    Returns:
      (images uint8 [num, H, W, C], labels int64 [num], or None from an unconditional model).

    Raises:
      InputError: labels that there are not, or `clearest` without a labeller.
    """
    _validate.integer('num', num, minimum=1)
    classes = self.spec.num_classes
    if _validate.fraction('clearest', clearest, open_right=False) * _MOST_DRAWS < 1:
      raise _validate.InputError(f'expected clearest >= {1 / _MOST_DRAWS:g}, got {clearest:g}')
    if clearest < 1 and not self.labellers:
      raise _validate.InputError(
        'expected clearest only where a private classifier labels the samples (label_share): '
        'nothing else says how clear they are'
      )
    label_key, key = jax.random.split(key)
    if labels is None and self.labellers:
      return self._drawn_and_labelled(num, clearest, key)
    if labels is None:
      labels = np.asarray(jax.random.permutation(label_key, jnp.arange(num) % classes))
    elif not self.is_conditional:
      raise _validate.InputError(
        f'expected no labels: generator {self.gan.config.generator} is not class-conditional'
      )
    labels = np.asarray(labels)
    if labels.shape != (num,) or labels.dtype.kind not in 'iu':
      raise _validate.InputError(
        f'expected labels to be {num} whole numbers, got {labels.dtype} {labels.shape}'
      )
    if labels.min() < 0 or labels.max() >= classes:
      outside = labels[(labels < 0) | (labels >= classes)][0]
      raise _validate.InputError(f'expected labels in [0, {classes - 1}], got {outside}')

    if self.labellers:
      return self._found(labels, clearest, key), labels.astype(np.int64)
    parts = []
    for i, start in enumerate(range(0, num, _SAMPLES_AT_ONCE)):
      wanted = labels[start : start + _SAMPLES_AT_ONCE]
      parts.append(self._draw(jax.random.fold_in(key, i), wanted)[: len(wanted)])
    return np.concatenate(parts), labels.astype(np.int64) if self.is_conditional else None

  def draw(self, num: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """`sample` of a model whose samples have labels."""
    images, labels = self.sample(num, key=key)
    assert labels is not None
    return images, labels

  @property
  def earlier(self) -> tuple[GeneratorState, ...]:
    """The generators of `past` in the order of their steps."""
    return tuple(self.past[step] for step in sorted(self.past))

  def _draw(self, key: jax.Array, labels: np.ndarray) -> np.ndarray:
    """`_SAMPLES_AT_ONCE` images, the first of them of `labels`: one shape, one compilation."""
    padded = np.zeros(_SAMPLES_AT_ONCE, np.int32)
    padded[: len(labels)] = labels
    if not self.past:
      return datasets.to_uint8(np.asarray(self._generate(self.generator, key, jnp.asarray(padded))))
    generators = (*self.earlier, self.generator)
    each = -(-_SAMPLES_AT_ONCE // len(generators))
    # At random which generator draws which image: those asked for may be of few classes.
    place_key, key = jax.random.split(key)
    places = np.asarray(jax.random.permutation(place_key, len(generators) * each))
    wanted = np.resize(padded, len(places))[places].reshape(len(generators), each)
    images = np.zeros((len(places), *self.spec.shape), np.uint8)
    for i, generator in enumerate(generators):
      drawn = self._generate(generator, jax.random.fold_in(key, i), jnp.asarray(wanted[i]))
      images[places[i * each : (i + 1) * each]] = datasets.to_uint8(np.asarray(drawn))
    return images[:_SAMPLES_AT_ONCE]

  def _drawn_and_labelled(
    self, num: int, clearest: float, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray]:
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    draws, left = 0, num
    while left > 0:
      wanted = min(_DRAWS_LABELLED_AT_ONCE, math.ceil(left / clearest / _SAMPLES_AT_ONCE))
      keys = [jax.random.fold_in(key, i) for i in range(draws, draws + wanted)]
      drawn = np.concatenate([self._draw(k, np.zeros(0, np.int32)) for k in keys])
      found = self._labelled(drawn[:left] if clearest == 1 else drawn, clearest)
      images.append(found[0][:left])
      labels.append(found[1][:left])
      draws, left = draws + wanted, left - len(images[-1])
    return np.concatenate(images), np.concatenate(labels)

  def _labelled(self, images: np.ndarray, clearest: float) -> tuple[np.ndarray, np.ndarray]:
    """The clearest of `images`, in their order, and their classes."""
    said = labelling.log_probabilities(self.labellers, images)
    kept = labelling.clearest(said, clearest) if clearest < 1 else np.ones(len(images), bool)
    return images[kept], said[kept].argmax(axis=-1)

  def _found(self, labels: np.ndarray, clearest: float, key: jax.Array) -> np.ndarray:
    """Draws until the labeller has found an image for each of `labels`; first come, first taken."""
    places = [list(np.flatnonzero(labels == k)[::-1]) for k in range(self.spec.num_classes)]
    images = np.zeros((len(labels), *self.spec.shape), np.uint8)
    left, drawn = len(labels), 0
    most = _MOST_DRAWS * (len(labels) + _SAMPLES_AT_ONCE)
    while left:
      if drawn >= most:
        missing = max(range(len(places)), key=lambda k: len(places[k]))
        raise _validate.InputError(
          f'of {drawn} images that the generator drew, too few are of class '
          f'{self.spec.class_names[missing]}: ask for other labels, or train it longer'
        )
      found = self._draw(jax.random.fold_in(key, drawn // _SAMPLES_AT_ONCE), labels[:0])
      drawn += len(found)
      for image, label in zip(*self._labelled(found, clearest), strict=True):
        if places[label]:
          images[places[label].pop()] = image
          left -= 1
    return images

  def sample_for_picture(
    self, num: int, key: jax.Array, *, clearest: float = 1.0
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """As `sample`, in the order of the classes, as many of each: fewer of those that a labeller
    finds too few of among the first images.
    """
    classes = self.spec.num_classes
    shown = np.arange(num, dtype=np.int64) * classes // num
    if not self.labellers:
      wanted = shown if self.is_conditional else None
      return self.sample(num, labels=wanted, clearest=clearest, key=key)
    images, labels = self.sample(max(num, _SAMPLES_AT_ONCE), clearest=clearest, key=key)
    assert labels is not None
    order = np.concatenate([np.flatnonzero(labels == k)[: num // classes] for k in range(classes)])
    return images[order], labels[order]

  @functools.cached_property
  def _generate(self) -> Callable[..., jax.Array]:
    return jax.jit(self.gan.generate)  # kept, so that the next call of `sample` need not compile
