"""A trained generator on its own: draw samples, save, load. Nothing private is in it.

The file is safetensors: the generator's arrays (and those of the classifiers that name its samples,
where it knows no classes itself), and in its metadata the settings, the mechanisms and the number
of steps taken, from which anyone can compute ε again. It holds no discriminator, optimizer state or
key, nothing that ε does not cover, and loading it runs no code.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from dpgan_jax import _files, _keys, _validate, data, label_cnn, labelling
from dpgan_jax.budget import Budget
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN, GeneratorState
from dpgan_jax.labelling import Labeller
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.plan import LARGEST_SIDE

_FORMAT = 'dpgan_jax generator 1'
# Of other names, since an earlier version would read them without, and state too small an ε.
_FORMAT_WITH_LABELLER = 'dpgan_jax generator 2'
_FORMAT_WITH_CNN = 'dpgan_jax generator 3'
_PAST = 'past'
_SAMPLES_AT_ONCE = 1000
_DRAWS_NAMED_AT_ONCE = 10  # a classifier's features of an image are larger than the image
_MOST_DRAWS = 100  # images drawn for one that is kept, where a labeller has to find its class


@dataclasses.dataclass(frozen=True)
class Model:
  """A generator with the record of how it was trained.

  Attributes:
    gan: settings, mechanism, image shape, number of classes.
    generator: its arrays.
    steps: discriminator steps it was trained with.
    class_names: one for each class.
    dataset: name of the data set.
    labeller: names the samples of a generator that knows no classes; None: they have none, or the
      generator knows them.
    past: arrays of the same generator by the earlier step that they are of; each of them draws as
      many samples.

  Raises:
    InputError: `past` is of later steps than `steps`, which would cost more than is said.
  """

  gan: GAN
  generator: GeneratorState
  steps: int
  class_names: tuple[str, ...]
  dataset: str
  labeller: Labeller | None = None
  past: Mapping[int, GeneratorState] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if self.past and not 0 <= min(self.past) <= max(self.past) < self.steps:
      raise _validate.InputError(
        f'expected past generators of steps before {self.steps}, got {sorted(self.past)}'
      )

  @property
  def is_conditional(self) -> bool:
    """Whether samples have a class, and can be asked for by class."""
    return self.labeller is not None or self.gan.is_conditional

  @property
  def budget(self) -> Budget:
    """All stages of the run."""
    return Budget(self.gan.mechanism, {} if self.labeller is None else self.labeller.stages)

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
    classes = self.gan.num_classes
    if _validate.fraction('clearest', clearest, open_right=False) * _MOST_DRAWS < 1:
      raise _validate.InputError(f'expected clearest >= {1 / _MOST_DRAWS:g}, got {clearest:g}')
    if clearest < 1 and self.labeller is None:
      raise _validate.InputError(
        'expected clearest only where a private classifier names samples (label_share): nothing '
        'else says how clear they are'
      )
    label_key, key = jax.random.split(_keys.require('key', key))
    if labels is None and self.labeller is not None:
      return self._drawn_and_named(num, clearest, key)
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

    if self.labeller is not None:
      return self._found(labels, clearest, key), labels.astype(np.int64)
    parts = []
    for i, start in enumerate(range(0, num, _SAMPLES_AT_ONCE)):
      wanted = labels[start : start + _SAMPLES_AT_ONCE]
      parts.append(self._draw(jax.random.fold_in(key, i), wanted)[: len(wanted)])
    return np.concatenate(parts), labels.astype(np.int64) if self.is_conditional else None

  @property
  def earlier(self) -> tuple[GeneratorState, ...]:
    """The generators of `past` in the order of their steps."""
    return tuple(self.past[step] for step in sorted(self.past))

  def _draw(self, key: jax.Array, labels: np.ndarray) -> np.ndarray:
    """`_SAMPLES_AT_ONCE` images, the first of them of `labels`: one shape, one compilation."""
    padded = np.zeros(_SAMPLES_AT_ONCE, np.int32)
    padded[: len(labels)] = labels
    if not self.past:
      return data.to_uint8(np.asarray(self._generate(self.generator, key, jnp.asarray(padded))))
    generators = (*self.earlier, self.generator)
    each = -(-_SAMPLES_AT_ONCE // len(generators))
    # At random which generator draws which image: those asked for may be of few classes.
    place_key, key = jax.random.split(key)
    places = np.asarray(jax.random.permutation(place_key, len(generators) * each))
    wanted = np.resize(padded, len(places))[places].reshape(len(generators), each)
    images = np.zeros((len(places), *self.gan.image_shape), np.uint8)
    for i, generator in enumerate(generators):
      drawn = self._generate(generator, jax.random.fold_in(key, i), jnp.asarray(wanted[i]))
      images[places[i * each : (i + 1) * each]] = data.to_uint8(np.asarray(drawn))
    return images[:_SAMPLES_AT_ONCE]

  def _drawn_and_named(
    self, num: int, clearest: float, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray]:
    images: list[np.ndarray] = []
    names: list[np.ndarray] = []
    draws, left = 0, num
    while left > 0:
      wanted = min(_DRAWS_NAMED_AT_ONCE, math.ceil(left / clearest / _SAMPLES_AT_ONCE))
      keys = [jax.random.fold_in(key, i) for i in range(draws, draws + wanted)]
      drawn = np.concatenate([self._draw(k, np.zeros(0, np.int32)) for k in keys])
      found = self._named(drawn[:left] if clearest == 1 else drawn, clearest)
      images.append(found[0][:left])
      names.append(found[1][:left])
      draws, left = draws + wanted, left - len(images[-1])
    return np.concatenate(images), np.concatenate(names)

  def _named(self, images: np.ndarray, clearest: float) -> tuple[np.ndarray, np.ndarray]:
    """The clearest of `images`, in their order, and their classes."""
    assert self.labeller is not None
    if clearest == 1:
      return images, self.labeller.label(images)
    said = self.labeller.log_probabilities(images)
    kept = labelling.clearest(said, clearest)
    return images[kept], said[kept].argmax(axis=-1)

  def _found(self, labels: np.ndarray, clearest: float, key: jax.Array) -> np.ndarray:
    """Draws until the labeller has found an image for each of `labels`; first come, first taken."""
    places = [list(np.flatnonzero(labels == k)[::-1]) for k in range(self.gan.num_classes)]
    images = np.zeros((len(labels), *self.gan.image_shape), np.uint8)
    left, drawn = len(labels), 0
    most = _MOST_DRAWS * (len(labels) + _SAMPLES_AT_ONCE)
    while left:
      if drawn >= most:
        missing = max(range(len(places)), key=lambda k: len(places[k]))
        raise _validate.InputError(
          f'of {drawn} images that the generator drew, too few are of class '
          f'{self.class_names[missing]}: ask for other labels, or train it longer'
        )
      found = self._draw(jax.random.fold_in(key, drawn // _SAMPLES_AT_ONCE), labels[:0])
      drawn += len(found)
      for image, label in zip(*self._named(found, clearest), strict=True):
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
    classes = self.gan.num_classes
    shown = np.arange(num, dtype=np.int64) * classes // num
    if self.labeller is None:
      wanted = shown if self.is_conditional else None
      return self.sample(num, labels=wanted, clearest=clearest, key=key)
    images, labels = self.sample(max(num, _SAMPLES_AT_ONCE), clearest=clearest, key=key)
    assert labels is not None
    order = np.concatenate([np.flatnonzero(labels == k)[: num // classes] for k in range(classes)])
    return images[order], labels[order]

  @functools.cached_property
  def _generate(self) -> Callable[..., jax.Array]:
    return jax.jit(self.gan.generate)  # kept, so that the next call of `sample` need not compile

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the generator to `path` (safetensors), whole or not at all. It may be published."""
    record: dict[str, Any] = {
      'format': _FORMAT,
      'config': _public_config(self.gan.config).to_dict(),
      'mechanism': self.gan.mechanism.to_dict(),
      'image_shape': list(self.gan.image_shape),
      'num_classes': self.gan.num_classes,
      'class_names': list(self.class_names),
      'dataset': self.dataset,
      'steps': self.steps,
    }
    tensors = {_name(path): leaf for path, leaf in _leaves(self.generator)}
    if self.past:
      record['past'] = sorted(self.past)
      tensors |= {_name(path): leaf for path, leaf in _leaves(_numbered(self.past))}
    if self.labeller is not None:
      record['format'] = _FORMAT_WITH_LABELLER
      record['labeller'] = labelling.to_record(self.labeller.classifier)
      if self.labeller.cnn is not None:
        record['format'] = _FORMAT_WITH_CNN
        record['label_cnn'] = labelling.to_record(self.labeller.cnn.classifier)
      tensors |= {_name(path): leaf for path, leaf in _leaves({'labeller': self.labeller.arrays})}
    with _files.atomic_write(path, 'wb') as file:
      file.write(safetensors.flax.save(tensors, {'dpgan_jax': json.dumps(record, sort_keys=True)}))


def load(path: str | os.PathLike[str]) -> Model:
  """Reads what `Model.save` wrote.

  Raises:
    InputError: no such file, not a generator of this package, or a damaged one.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise _validate.InputError(f'expected a generator at {path}, found none')
  try:
    with safetensors.safe_open(path, 'flax') as file:
      record = json.loads((file.metadata() or {}).get('dpgan_jax', '{}'))
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, ValueError, RecursionError) as error:
    raise _validate.InputError(f'expected {path} to be a safetensors file, got: {error}') from None
  formats = (_FORMAT, _FORMAT_WITH_LABELLER, _FORMAT_WITH_CNN)
  if not isinstance(record, dict) or record.get('format') not in formats:
    raise _validate.InputError(f'{path} is not a dpgan_jax generator of this version')
  try:
    model = _without_arrays(record)
    most = (model.gan.config.g_mixture or 1) - 1
    past = [
      _validate.integer('past', step, minimum=0, maximum=model.steps - 1)
      for step in record.get('past', [])[: most + 1]
    ]
    if len(past) > most or len(set(past)) < len(past):
      raise _validate.InputError(f'expected past to be at most {most} steps, got {past}')
  except KeyError as error:
    raise _validate.InputError(f'{path} is damaged: it lacks {error}') from None
  except (AttributeError, TypeError, ValueError) as error:  # whatever a wrong type leads to
    raise _validate.InputError(f'{path} is damaged: {" ".join(str(error).split())}') from None
  abstract = jax.eval_shape(model.gan.init, _keys.from_seed(0)).g_average

  def filled(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda p, leaf: _checked(path, tensors.get(_name(p)), leaf, _name(p)), tree
    )

  labeller = model.labeller
  if labeller is not None:
    labeller = labeller.with_arrays(filled({'labeller': labeller.abstract_arrays})['labeller'])
  states = filled(_numbered(dict.fromkeys(past, abstract)))[_PAST]
  return dataclasses.replace(
    model, generator=filled(abstract), labeller=labeller, past={s: states[str(s)] for s in past}
  )


def _without_arrays(record: dict[str, Any]) -> Model:
  """The model that a file's metadata describe."""
  # Before any model is made of them: a generator of images of 2^30 columns is built without end.
  height, width, channels = (
    _validate.integer('image_shape', size, minimum=1, maximum=LARGEST_SIDE)
    for size in record['image_shape']
  )
  names = tuple(str(name) for name in record['class_names'])
  num_classes = _validate.integer('num_classes', record['num_classes'], minimum=1)
  if len(names) != num_classes:
    raise _validate.InputError(f'expected {num_classes} class_names, got {len(names)}')
  gan = GAN(
    TrainConfig.from_dict(record['config']),
    DPMechanism.from_dict(record['mechanism']),
    (height, width, channels),
    num_classes,
  )
  steps = _validate.integer('steps', record['steps'], minimum=0, maximum=gan.mechanism.steps)
  labeller = None
  if record['format'] != _FORMAT:
    about = (gan.image_shape, num_classes, None)
    cnn = None
    if record['format'] == _FORMAT_WITH_CNN:
      classifier = labelling.from_record(record['label_cnn'], *about, label_cnn.STAGE)
      cnn = Labeller(classifier, {}, jnp.zeros(()))
    classifier = labelling.from_record(record['labeller'], *about)
    labeller = Labeller(classifier, {}, jnp.zeros(()), cnn)
  if (labeller is None) != (gan.config.label_share is None):
    raise _validate.InputError('a labeller is there without label_share, or missing with it')
  # Generators of the steps before the last have none yet: what they are named by costs less.
  needs_cnn = gan.config.label_cnn_share is not None
  has_cnn = labeller is not None and labeller.cnn is not None
  if has_cnn and not needs_cnn:
    raise _validate.InputError('a CNN names samples without label_cnn_share')
  return Model(gan, GeneratorState({}, {}), steps, names, str(record['dataset']), labeller)


def _public_config(config: TrainConfig) -> TrainConfig:
  """Settings without the seed: whoever knows it can draw the noise again."""
  return config.replace(seed=None)


def _leaves(tree: Any) -> list[tuple[Any, jax.Array]]:
  return jax.tree_util.tree_leaves_with_path(tree)


def _numbered(past: Mapping[int, Any]) -> dict[str, dict[str, Any]]:
  return {_PAST: {str(step): generator for step, generator in past.items()}}


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _checked(
  path: str, array: jax.Array | None, expected: jax.ShapeDtypeStruct, name: str
) -> jax.Array:
  if array is None:
    raise _validate.InputError(f'{path} is damaged: it lacks {name}')
  if array.shape != expected.shape or array.dtype != expected.dtype:
    raise _validate.InputError(
      f'{path} is damaged: expected {name} to be {expected.dtype}{list(expected.shape)}, got '
      f'{array.dtype}{list(array.shape)}'
    )
  return array
