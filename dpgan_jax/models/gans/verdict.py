"""What a trained GAN can be good for, from its samples and its discriminator alone.

Free of privacy cost: no real record is looked at, so this can tell what is surely broken (`_SAYS`)
and not how good the rest is, which `dpgan_jax.evaluate` does. The bounds were found on digits and
drawn shapes with such faults put in and without; experiments/own_data/gan_verdicts asks what they
say of trained GANs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.models import labelling
from dpgan_jax.models.gan import GAN, PyTree
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.models.moments.verdict import COLOURS, LEVELS

LOOKED_AT = 500  # samples
_STATIC = 100  # images of noise that D has to answer, too
_SEED = 20  # of that noise: public
# (useless, poor, usable): a value up to the first is useless, up to the second at most poor, up to
# the third at most usable.
_BOUNDS: Mapping[str, tuple[float, float, float]] = {
  'answers': (1e-4, 1e-3, 1e-3),
  'spread': (0.01, 0.03, 0.03),
  'distinct': (0.08, 0.2, 0.3),
  'shape': (0.1, 0.2, 0.2),
  'certainty': (0.15, 0.4, 0.6),
  'g_steps': (30, 100, 200),
}
_NOISES = (6.0, 3.0, 2.0)  # of `GAN.noise_in_d`: above the first samples are useless, and so on


@dataclasses.dataclass(frozen=True)
class Signs:
  """What tells a broken GAN from one that may have learnt; each a number without a unit.

  Attributes:
    answers: standard deviation of D's answers (logits) to samples, static and a blank image.
    spread: of a pixel over samples, root mean square, as a share of its range.
    distinct: distance of a sample to its nearest other, as a share of that between any two; the
      median. 0: they are copies of a few.
    shape: correlation of neighbouring pixels, once the mean image is taken away; 0: static.
    certainty: how surely samples are of their classes, 0 (as by chance) to 1; None: they have none.
    g_steps: how many steps the generator has taken.
    noise_in_d: `GAN.noise_in_d`.
  """

  answers: float
  spread: float
  distinct: float
  shape: float
  certainty: float | None
  g_steps: int
  noise_in_d: float


@dataclasses.dataclass(frozen=True)
class GANVerdict:
  """What samples of a GAN can be good for.

  Attributes:
    level: one of `LEVELS`.
    weakest: the sign that says so; None where all is well.
    sentence: all of it for people, with the next thing to do.
  """

  level: str
  weakest: str | None
  sentence: str

  @property
  def colour(self) -> str:
    return COLOURS[self.level]


def look(
  model: GANSynthesizer, d_params: PyTree, g_steps: int, images: np.ndarray,
  labels: np.ndarray | None,
) -> Signs:  # fmt: skip
  """The signs of a trained GAN.

  Args:
    model: its publishable part.
    d_params: the discriminator's parameters.
    g_steps: how many steps the generator has taken.
    images: samples uint8 [n, H, W, C], n ≥ 2; the first `LOOKED_AT` are looked at.
    labels: their classes, int [n]; None: they have none.
  """
  images = images[:LOOKED_AT]
  pixels = images.reshape(len(images), -1) / 255.0
  squares = (pixels**2).sum(axis=1)
  distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * pixels @ pixels.T, 0))
  usual = float(np.median(distances[np.triu_indices(len(images), 1)]))
  np.fill_diagonal(distances, np.inf)
  certainty = None
  if labels is not None and model.spec.num_classes > 1:
    certainty = _certainty(model, images, np.asarray(labels[:LOOKED_AT]))
  return Signs(
    answers=_answers(model.gan, d_params, images),
    spread=float(np.sqrt(pixels.var(axis=0).mean())),
    distinct=float(np.median(distances.min(axis=1))) / usual if usual else 0.0,
    shape=_shape(images / 255.0),
    certainty=certainty,
    g_steps=g_steps,
    noise_in_d=model.gan.noise_in_d,
  )


def _answers(gan: GAN, d_params: PyTree, images: np.ndarray) -> float:
  static = np.random.default_rng(_SEED).integers(0, 256, (_STATIC, *gan.spec.shape), np.uint8)
  asked = jnp.asarray(np.concatenate([images[:_STATIC], static, 0 * static[:1]]))
  labels = jnp.zeros(len(asked), jnp.int32)
  found = np.asarray(gan.logits(d_params, to_model_range(asked), labels))
  return float(found.std()) if np.isfinite(found).all() else 0.0


def _shape(images: np.ndarray) -> float:
  """Correlation of neighbours, down and across together: float [n, H, W, C] → [-1, 1]."""
  own = images - images.mean(axis=0)
  pairs = [(own[:, 1:], own[:, :-1]), (own[:, :, 1:], own[:, :, :-1])]
  both = sum(float((a * b).sum()) for a, b in pairs)
  lengths = sum(math.sqrt(float((a**2).sum()) * float((b**2).sum())) for a, b in pairs)
  return both / lengths if lengths else 0.0


def _certainty(model: GANSynthesizer, images: np.ndarray, labels: np.ndarray) -> float:
  classes = model.spec.num_classes
  if model.labellers:
    said = labelling.log_probabilities(model.labellers, images) / len(model.labellers)
    said = np.exp(said - said.max(axis=1, keepdims=True))
    surest = float((said.max(axis=1) / said.sum(axis=1)).mean())
  else:
    surest = _told_apart(images.reshape(len(images), -1) / 255.0, labels, classes)
  # One class alone is as good as none.
  shares = np.bincount(labels, minlength=classes) / len(labels)
  entropy = -float((shares * np.log(np.maximum(shares, 1e-12))).sum()) / math.log(classes)
  return max(0.0, (surest - 1 / classes) / (1 - 1 / classes)) * min(1.0, 2 * entropy)


def _told_apart(pixels: np.ndarray, labels: np.ndarray, classes: int) -> float:
  """Accuracy of a ridge regression on every other sample that learns from those between."""
  learnt, tested = pixels[::2], pixels[1::2]
  mean = learnt.mean(axis=0)
  kernel = (learnt - mean) @ (learnt - mean).T
  kernel += np.eye(len(kernel)) * (0.1 * np.trace(kernel) / len(kernel) + 1e-9)
  wanted = np.eye(classes)[labels[::2]]
  found = (tested - mean) @ (learnt - mean).T @ np.linalg.solve(kernel, wanted - wanted.mean(0))
  return float(np.mean((found + wanted.mean(0)).argmax(axis=1) == labels[1::2]))


# --- the rule ------------------------------------------------------------------------------------

_SAYS = {
  'answers': 'the discriminator answers everything alike and teaches nothing: lower '
  'd_learning_rate, or another discriminator',
  'spread': 'all samples are nearly the same image (the generator has collapsed): lower '
  'g_learning_rate, more d_steps_per_g_step, or method=moments, which cannot collapse',
  'distinct': 'samples are copies of a few images (the generator has collapsed in part): lower '
  'g_learning_rate, more d_steps_per_g_step, or method=moments, which cannot collapse',
  'shape': 'samples have no shapes, like static: a larger epsilon or batch_size, more '
  'steps, or method=moments',
  'certainty': 'nobody can tell the classes of samples apart: a larger epsilon or label_share, '
  'fewer classes, or method=moments; and see that the labels belong to the images',
  'g_steps': 'the generator has taken too few steps to learn: more steps, or fewer '
  'd_steps_per_g_step',
  'noise_in_d': 'noise drowns what the discriminator learns: fewer steps, a larger batch_size or '
  'epsilon, or a smaller discriminator',
}


def judge(signs: Signs) -> GANVerdict:
  """The verdict that follows from the signs: as bad as the worst of them."""
  levels = {}
  for name, value in dataclasses.asdict(signs).items():
    if name == 'noise_in_d':
      levels[name] = sum(value <= bound for bound in _NOISES)
    elif value is not None:
      levels[name] = sum(value > bound for bound in _BOUNDS[name])
  weakest = min(levels, key=lambda name: levels[name])
  level = LEVELS[levels[weakest]]
  said = f'{level.capitalize()} ({COLOURS[level]}): '
  if level == 'good':
    certain = '' if signs.certainty is None else ' of classes that can be told apart'
    said += (
      f'the discriminator is alive, samples are varied and have shapes{certain}. How near they are '
      'to real images, dpgan_jax.evaluate says.'
    )
    return GANVerdict(level, None, said)
  softened = '' if level in ('useless', 'poor') else 'to some extent, '
  return GANVerdict(level, weakest, f'{said}{softened}{_SAYS[weakest]}.')


def from_record(record: Mapping[str, Any]) -> Signs:
  """The inverse of `dataclasses.asdict`.

  Raises:
    TypeError, ValueError: not such a record.
  """
  values = {name: value if value is None else float(value) for name, value in record.items()}
  signs = Signs(**{**values, 'g_steps': int(record['g_steps'])})  # type: ignore[arg-type]
  if any(v is not None and not math.isfinite(v) for v in dataclasses.asdict(signs).values()):
    raise ValueError('expected finite numbers')
  return signs
