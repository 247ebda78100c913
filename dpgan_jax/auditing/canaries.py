"""Records planted in a data set to see whether a run betrays them.

Every canary is in the data set or not by a fair coin of its own. N, q and the noise are those of
the data set with all candidates: a canary that lost its toss has a place in the data set but never
joins a batch. The (ε, δ) that is audited is that of adding or removing one record of the N + m.

Three kinds. Images of random pixels, or with a wrong label, are what a real person could
contribute; a network soon learns what they have in common, and little is left of each. The sharpest
test is a record whose gradient is one coordinate, another for each ('coordinates', the Dirac
canaries of Nasr et al. 2023, arXiv 2302.07956, section 5): far beyond the clip norm, and clipped by
the run's own clipping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpgan_jax import _validate
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.data.spec import Spec
from dpgan_jax.privacy import clipping, sampling
from dpgan_jax.privacy.mechanism import DPMechanism

PyTree = Any
KINDS = ('random_pixels', 'mislabelled', 'coordinates')
_STEEP = 100.0  # gradient norm of a coordinate canary, in clip norms: clipping decides


@dataclasses.dataclass(frozen=True, kw_only=True)
class Canaries:
  """Invented records and their coins.

  Attributes:
    images: uint8 [m, H, W, C].
    labels: int32 [m].
    present: bool [m], True with probability 1/2, independently: what an adversary has to guess.
    coordinates: for canaries that are gradients, int32 [m]: the entry of D's parameters (flattened
      and joined in the order of their leaves) that each is about. Images and labels are zeros.
  """

  images: np.ndarray
  labels: np.ndarray
  present: np.ndarray
  coordinates: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.images)


def make_canaries(
  kind: str,
  count: int,
  *,
  spec: Spec,
  others: ImageDataset | None = None,
  parameters: int | None = None,
  seed: int,
) -> Canaries:
  """Canaries and their coins, both a function of `seed`.

  Args:
    kind: 'random_pixels' (every pixel uniform, a random class), 'mislabelled' (images of `others`
      with a wrong class) or 'coordinates' (gradients along one parameter each).
    count: m.
    spec: what is public of the private data.
    others: for 'mislabelled', images that are not in the private data set: a test set.
    parameters: for 'coordinates', how many parameters D has.
    seed: of images, classes, coordinates and coins.

  Raises:
    InputError: arguments out of range, or fewer others, or parameters, than canaries.
  """
  _validate.one_of('canary_kind', kind, KINDS)
  _validate.integer('canaries', count, minimum=1)
  rng = np.random.default_rng(seed)
  present = rng.random(count) < 0.5
  if kind == 'random_pixels':
    images = rng.integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    labels = rng.integers(0, spec.num_classes, count, dtype=np.int32)
    return Canaries(images=images, labels=labels, present=present)
  if kind == 'coordinates':
    if parameters is None or parameters < count:
      raise _validate.InputError(
        f'expected canaries <= {parameters}, the parameters of the discriminator, got {count}'
      )
    return Canaries(
      images=np.zeros((count, *spec.shape), np.uint8),
      labels=np.zeros(count, np.int32),
      present=present,
      coordinates=rng.permutation(parameters)[:count].astype(np.int32),
    )
  if others is None or len(others) < count or others.spec.shape != spec.shape:
    found = 'none' if others is None else f'{len(others)} of {others.spec.shape}'
    raise _validate.InputError(
      f'expected at least {count} other images of {spec.shape} to mislabel, got {found}'
    )
  if spec.num_classes < 2:
    raise _validate.InputError('expected 2 classes or more to mislabel images, got 1')
  chosen = rng.permutation(len(others))[:count]
  wrong = rng.integers(1, spec.num_classes, count, dtype=np.int32)
  labels = ((others.labels[chosen] + wrong) % spec.num_classes).astype(np.int32)
  return Canaries(images=others.images[chosen], labels=labels, present=present)


def plant(dataset: ImageDataset, canaries: Canaries) -> tuple[ImageDataset, np.ndarray]:
  """The data set with all candidates at its end, and who is present: bool [N + m]."""
  planted = dataclasses.replace(
    dataset,
    images=np.concatenate([dataset.images, canaries.images]),
    labels=np.concatenate([dataset.labels, canaries.labels]),
  )
  return planted, np.concatenate([np.ones(len(dataset), bool), canaries.present])


def training_labels(planted: ImageDataset, canaries: Canaries) -> np.ndarray:
  """The labels to train with, int32 [N + m]: canaries that are gradients carry −1 − i."""
  if canaries.coordinates is None:
    return planted.labels
  marks = -1 - np.arange(len(canaries), dtype=np.int32)
  return np.concatenate([planted.labels[: -len(canaries)], marks])


def entry(tree: PyTree, index: jax.Array) -> jax.Array:
  """Entry `index` of all leaves of a tree, flattened and joined."""
  value, offset = jnp.zeros(()), 0
  for leaf in jax.tree.leaves(tree):
    here = (index >= offset) & (index < offset + leaf.size)
    at = jnp.clip(index - offset, 0, leaf.size - 1)
    value = value + jnp.where(here, leaf.reshape(-1)[at], 0.0)
    offset += leaf.size
  return value


# --- the mechanism that is watched ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresentSampler(sampling.TruncatedPoissonSampler):
  """The sampler of a data set in which some records are absent: they never join.

  In a batch that is cut, an absent record still takes its place. That pushes nobody out in one
  world who would stay in the other, so the accounted ε remains an upper bound.
  """

  present: np.ndarray = dataclasses.field(repr=False, compare=False)

  def __call__(self, key: jax.Array, step: jax.Array | int) -> sampling.PoissonBatch:
    batch = super().__call__(key, step)
    return batch._replace(mask=batch.mask & jnp.asarray(self.present)[batch.indices])


class WatchedState(NamedTuple):
  """The state of the noise, and the last noisy mean of the real gradients."""

  noise: Any
  released: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditedMechanism(DPMechanism):
  """A `DPMechanism` with absent records, whose noisy gradients can be looked at.

  Attributes:
    present: bool [N].
    coordinates: int32 [m]; the last m records have these gradients. None: all are images.
  """

  present: np.ndarray = dataclasses.field(repr=False, compare=False)
  coordinates: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  @classmethod
  def watch(
    cls, mechanism: DPMechanism, present: np.ndarray, coordinates: np.ndarray | None = None
  ) -> AuditedMechanism:
    if present.shape != (mechanism.num_examples,):
      raise _validate.InputError(
        f'expected present to be bool[{mechanism.num_examples}], one per example, got shape '
        f'{present.shape}'
      )
    names = [field.name for field in dataclasses.fields(DPMechanism)]
    fields = {name: getattr(mechanism, name) for name in names}
    return cls(**fields, present=present, coordinates=coordinates)

  @property
  def sampler(self) -> PresentSampler:
    return PresentSampler(**dataclasses.asdict(super().sampler), present=self.present)

  def clipped_grad(
    self, loss_fn: Callable[..., jax.Array], **how: Any
  ) -> Callable[..., clipping.ClippedGrad]:
    """The mechanism's own clipping of `loss_fn(params, image, label, ...)`, or of a canary's loss.

    A canary that is a gradient is told by its label, −1 − i, which no image has.
    """
    if self.coordinates is None:
      return super().clipped_grad(loss_fn, **how)
    coordinates, slope = jnp.asarray(self.coordinates), _STEEP * self.l2_clip_norm

    def loss(params: PyTree, image: jax.Array, label: jax.Array, *rest: jax.Array) -> jax.Array:
      of_image = loss_fn(params, image, jnp.maximum(label, 0), *rest)
      along = slope * entry(params, coordinates[jnp.maximum(-1 - label, 0)])
      return jnp.where(label < 0, along, of_image)

    return super().clipped_grad(loss, **how)

  def noise_sum(self, key: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """The mechanism's own noise, with a copy of what it releases kept in the state."""
    real = super().noise_sum(key)

    def init(params: PyTree) -> WatchedState:
      return WatchedState(real.init(params), jax.tree.map(jnp.zeros_like, params))

    def update(
      updates: PyTree,
      state: Any,  # WatchedState; optax types every state alike
      params: PyTree | None = None,
      *,
      public_grads: PyTree | None = None,
      **extra: Any,
    ) -> tuple[PyTree, Any]:
      released, noise = real.update(updates, state.noise, params, **extra)
      total: Any = released
      if public_grads is not None:
        total = jax.tree.map(lambda r, p: r + p.astype(r.dtype), released, public_grads)
      return total, WatchedState(noise, released)

    return optax.GradientTransformationExtraArgs(init, update)
