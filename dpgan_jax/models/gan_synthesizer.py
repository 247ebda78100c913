"""A trained generator on its own, and what labels its samples."""

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
from dpgan_jax.data.images.dataset import to_uint8
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import labelling
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GeneratorState
from dpgan_jax.models.gans import refining
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.models.synthesizer import Synthesizer

_SAMPLES_AT_ONCE = 1000
_DRAWS_LABELLED_AT_ONCE = 10  # a classifier's features of an image are larger than the image
_MOST_DRAWS = 100  # images drawn for one that is kept, where a labeller has to find its class


@dataclasses.dataclass(frozen=True)
class GANSynthesizer(Synthesizer):
  """A generator with the record of how it was trained.

  Attributes:
    gan: settings, mechanism, description of the data.
    generator: its arrays.
    steps: discriminator steps it was trained with.
    labellers: they label the samples of a generator that knows no classes, together. Without any,
      samples have no labels, or the generator knows them.
    past: arrays of the same generator by the earlier step that they are of; each of them draws as
      many samples.
    moments: what was released before, for the generator to refine draws of; None: nothing.

  Raises:
    InputError: `past` is of later steps than `steps`, which would cost more than is said.
  """

  gan: GAN
  generator: GeneratorState
  steps: int
  labellers: tuple[Labeller, ...] = ()
  past: Mapping[int, GeneratorState] = dataclasses.field(default_factory=dict)
  moments: Moments | None = None

  def __post_init__(self) -> None:
    if self.past and not 0 <= min(self.past) <= max(self.past) < self.steps:
      raise _validate.InputError(
        f'expected past generators of steps before {self.steps}, got {sorted(self.past)}'
      )

  @property
  def config(self) -> TrainConfig:
    return self.gan.config

  @property
  def spec(self) -> Spec:
    return self.gan.spec

  @property
  def is_conditional(self) -> bool:
    return bool(self.labellers) or self.gan.is_conditional

  @property
  def is_labelled_afterwards(self) -> bool:
    return bool(self.labellers)

  @property
  def budget(self) -> Budget:
    labelled = labelling.stages(*(l.classifier for l in self.labellers))
    return Budget(self.gan.mechanism, {**refining.stages(self.config, self.moments), **labelled})

  @property
  def num_parameters(self) -> int:
    params = [generator.params for generator in (*self.earlier, self.generator)]
    return sum(leaf.size for leaf in jax.tree.leaves(params))

  def _sample(
    self, num: int, labels: np.ndarray | None, clearest: float, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray | None]:
    if clearest * _MOST_DRAWS < 1:
      raise _validate.InputError(f'expected clearest >= {1 / _MOST_DRAWS:g}, got {clearest:g}')
    label_key, key = jax.random.split(key)
    if labels is None and self.labellers:
      return self._drawn_and_labelled(num, clearest, key)
    if labels is None:
      balanced = jnp.arange(num) % self.spec.num_classes
      labels = np.asarray(jax.random.permutation(label_key, balanced)).astype(np.int64)
    if self.labellers:
      return self._found(labels, clearest, key), labels
    parts = []
    for i, start in enumerate(range(0, num, _SAMPLES_AT_ONCE)):
      wanted = labels[start : start + _SAMPLES_AT_ONCE]
      parts.append(self._draw(jax.random.fold_in(key, i), wanted)[: len(wanted)])
    return np.concatenate(parts), labels if self.is_conditional else None

  @property
  def earlier(self) -> tuple[GeneratorState, ...]:
    """The generators of `past` in the order of their steps."""
    return tuple(self.past[step] for step in sorted(self.past))

  def _draw(self, key: jax.Array, labels: np.ndarray) -> np.ndarray:
    """`_SAMPLES_AT_ONCE` images, the first of them of `labels`: one shape, one compilation."""
    padded = np.zeros(_SAMPLES_AT_ONCE, np.int32)
    padded[: len(labels)] = labels
    if not self.past:
      return to_uint8(np.asarray(self._generate(self.generator, key, jnp.asarray(padded))))
    generators = (*self.earlier, self.generator)
    each = -(-_SAMPLES_AT_ONCE // len(generators))
    # At random which generator draws which image: those asked for may be of few classes.
    place_key, key = jax.random.split(key)
    places = np.asarray(jax.random.permutation(place_key, len(generators) * each))
    wanted = np.resize(padded, len(places))[places].reshape(len(generators), each)
    images = np.zeros((len(places), *self.spec.shape), np.uint8)
    for i, generator in enumerate(generators):
      drawn = self._generate(generator, jax.random.fold_in(key, i), jnp.asarray(wanted[i]))
      images[places[i * each : (i + 1) * each]] = to_uint8(np.asarray(drawn))
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
    if not self.labellers:
      return super().sample_for_picture(num, key, clearest=clearest)
    classes = self.spec.num_classes
    images, labels = self.sample(max(num, _SAMPLES_AT_ONCE), clearest=clearest, key=key)
    assert labels is not None
    order = np.concatenate([np.flatnonzero(labels == k)[: num // classes] for k in range(classes)])
    return images[order], labels[order]

  @functools.cached_property
  def _generate(self) -> Callable[..., jax.Array]:
    return jax.jit(self.gan.generate)  # kept, so that the next call of `sample` need not compile
