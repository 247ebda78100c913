"""Checks of a release of moments: how far a record moves it, and what noise it gets."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings
from dpgan_jax.models.moments.encoding import Means, weights
from dpgan_jax.models.moments.images.cells import ROUNDS
from dpgan_jax.models.moments.images.encoding import ImageEncoding
from dpgan_jax.models.moments.images.scattering_encoding import ScatteringEncoding
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.privacy import exact_noise
from dpgan_jax.privacy.releases import second_moments
from experiments.trust.statistical_checks import Violation

_SHAPE, _CLASSES, _N, _MANY = (5, 5, 1), 3, 40, 20_000
_DRAWS = 40


@functools.cache
def _moments(epsilon: float, num_records: int = _N) -> Moments:
  spec = Spec(num_records=num_records, shape=_SHAPE, class_names=tuple('abc'), name='made')
  config = TrainConfig(target_epsilon=epsilon, delta=1e-5, moments_coefficients=25)
  return settings.make(config, spec)


def _records(n: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(n)
  codes = _moments(math.inf).encoding.encode(rng.integers(0, 256, (n, *_SHAPE), np.uint8))
  return codes, np.arange(n) % _CLASSES


def released(
  codes: np.ndarray, labels: np.ndarray, moments: Moments, number: int = 0,
  first: Means | None = None,
) -> tuple[Means, np.ndarray]:  # fmt: skip
  """Both releases, by the secret of this number; the second follows from `first`, if given."""
  secret = number.to_bytes(32, 'big')
  means = release.release_means(codes, labels, moments, secret)
  return means, release.release_seconds(codes, labels, first or means, moments, secret)


def require_charged(draws: Mapping[str, Any], within: float | Mapping[str, float]) -> None:
  """Refuses noise, by name and in units of what is accounted for, whose deviation is not 1."""
  for name, found in draws.items():
    deviation = float(np.std(found))
    if not abs(deviation - 1) < (within if isinstance(within, float) else within[name]):
      raise Violation(f'noise of {name} is {deviation:.3g} times what is accounted for')


def require_moved_by_one(what: str, moved: Mapping[str, float]) -> None:
  """Refuses what a record moves by more than the sensitivity, in units of which it is given."""
  for name, by in moved.items():
    if not by <= 1 + 1e-6:
      raise Violation(f'one {what} moves {name} by {by:.4g} of the sensitivity')


def noise_of_moments_is_charged() -> None:
  """Of no records at all, centres, counts, sums and covariances have the noise that is accounted
  for, and what one record is part of adds up to the mechanisms.

  A deviation of n draws is off by 1/√(2n), here at most 1/√(2·120): a third off is five of that.
  """
  moments, nothing = _moments(1.0), (np.zeros((0, 25)), np.zeros(0, int))
  encoding: Any = moments.encoding
  first, second = (moments.stages[name].noise_multiplier for name in (MEANS, SECONDS))
  in_sum, in_count = weights(moments.dim)
  upper = np.triu_indices(moments.dim, 1)
  centred, summed, release_sum = [], [], exact_noise.release_sum

  def watched(vectors: Any, *, noise_multiplier: float, **about: Any) -> np.ndarray:
    found = release_sum(vectors, noise_multiplier=noise_multiplier, **about)
    (centred if vectors.shape[1] == moments.dim + 2 else summed).append((found, noise_multiplier))
    return found

  covariances = []
  with mock.patch.object(exact_noise, 'release_sum', watched):
    for number in range(_DRAWS):
      means, seconds = released(*nothing, moments, number)
      scale = second * encoding.bound(means.scale) ** 2 / math.sqrt(2)
      covariances.append(seconds[:, upper[0], upper[1]] / scale)
  if not all(sigma > 0 for _, sigma in (*centred, *summed)):
    raise Violation('a sum is released without noise')
  precisions = [max(1 / sigma**2 for _, sigma in part) for part in (centred, summed)]
  if not sum(precisions) <= 1.001 / first**2:
    raise Violation('centre and sums of a class cost more than is accounted for')
  told = encoding.noise(first)
  counts = [released(*nothing, moments, number)[0].counts for number in range(_DRAWS)]
  require_charged(
    {
      'centres': [found * math.sqrt(precisions[0]) for found, _ in centred],
      'sums': [found * math.sqrt(precisions[1]) for found, _ in summed],
      'covariances': covariances,
      'counts': np.array(counts) / told[0],
    },
    1 / 3,
  )
  if not math.isclose(told[0], 1 / in_count / math.sqrt(precisions[1]), rel_tol=1e-6):
    raise Violation('another noise of counts is told than there is')
  if not math.isclose(told[1], encoding.bound(1.0) / in_sum / math.sqrt(precisions[1]),
                      rel_tol=1e-6):  # fmt: skip
    raise Violation('another noise of sums is told than there is')


def classes_have_noise_of_their_own() -> None:
  """Two classes of no records: what is released of them is not the same."""
  moments, nothing = _moments(1.0, _MANY), (np.zeros((0, 25)), np.zeros(0, int))
  means, seconds = released(*nothing, moments)
  if (means.sums[0] == means.sums[1]).any() or (seconds[0] == seconds[1]).all():
    raise Violation('two classes got the same noise: their difference is free of it')


def one_record_moves_moments_by_one() -> None:
  """The longest code there is, in any class, in units of each sensitivity; what later bounds follow
  from is public by then, the same with the record and without.
  """
  codes, labels = _records(_N)
  _require_one_record_moves_by_one(_moments(math.inf), codes, labels, _SHAPE)
  images = np.random.default_rng(0).integers(0, 256, (_N, 8, 8, 1), np.uint8)
  in_cells = _in_cells(math.inf)
  _require_one_record_moves_by_one(in_cells, in_cells.encoding.encode(images), labels, (8, 8, 1))


def _require_one_record_moves_by_one(
  moments: Moments, codes: np.ndarray, labels: np.ndarray, shape: tuple[int, int, int]
) -> None:
  encoding: Any = moments.encoding
  about = {'noise_multiplier': 0.0, 'secret': bytes(32), 'purpose': 'check'}
  before = encoding.release_centre(codes, **about)
  centre, scale = encoding.centre_of(before, 0.0)
  means = release.release_means(codes, labels, moments, bytes(32))
  own = codes[labels == 1] - centre
  count, sums = encoding.release_sums(own, scale, **about)
  in_sum, in_count = weights(moments.dim)
  for size in (1.0, 1e6):  # beyond what an image can be, too
    longest = size * encoding.encode(np.full((1, *shape), 255, np.uint8))
    more = (np.concatenate([codes, longest]), np.append(labels, 1))
    moved = {'centre': encoding.release_centre(more[0], **about) - before}
    more_count, more_sums = encoding.release_sums(
      np.concatenate([own, longest - centre]), scale, **about
    )
    moved['sums'] = np.append(
      (more_sums - sums) * in_sum / encoding.bound(scale), (more_count - count) * in_count
    )
    seconds = [
      release.release_seconds(*records, means, moments, bytes(32))
      for records in (more, (codes, labels))
    ]
    moved['covariances'] = (seconds[0] - seconds[1]) / encoding.bound_of_products(means) ** 2
    require_moved_by_one('record', {n: float(np.linalg.norm(by)) for n, by in moved.items()})


def codes_are_of_one_image_each() -> None:
  """Whatever other images there are, frequencies and features of the first stay the same."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (9, 8, 8, 1), np.uint8)
  scattering = _scattering()
  frequencies = settings.make(scattering.config.replace(matching_steps=None), scattering.spec)
  for encoding in (frequencies.encoding, scattering.encoding):
    others = np.concatenate([255 - images[1:], images[:1]])
    if not (encoding.encode(images)[0] == encoding.encode(others)[-1]).all():
      raise Violation('the code of an image follows from other images')


def bounds_follow_from_what_was_released() -> None:
  """Of other records, with the same released centre, the scale of all bounds is the same."""
  moments = _moments(1.0)
  encoding: Any = moments.encoding
  told = np.full(moments.dim + 2, 0.5)
  with mock.patch.object(type(encoding), 'release_centre', return_value=told):
    scales = {
      release.release_means(codes / part, labels, moments, bytes(32)).scale
      for part in (1, 9)
      for codes, labels in [_records(_N)]
    }
  if len(scales) > 1:
    raise Violation('how far sums are bounded follows from the records, not from the release')


def covariances_are_around_what_was_released() -> None:
  """Around centres that are no class's mean, Σ(x - μ)(x - μ)ᵀ is that of these centres."""
  moments, (codes, labels) = _moments(math.inf), _records(_N)
  elsewhere = Means(np.ones(_CLASSES), np.full((_CLASSES, moments.dim), 0.1), 10.0)
  seconds = release.release_seconds(codes / 3, labels, elsewhere, moments, bytes(32))
  for k in range(_CLASSES):
    around = codes[labels == k] / 3 - 0.1
    if not np.allclose(seconds[k], around.T @ around, atol=0.05):
      raise Violation('covariances are around a mean of the records, which nobody has charged for')


def axes_follow_from_what_was_released() -> None:
  """Of other images, with the same draft released, codes are along the same axes."""
  encoding = _scattering().encoding
  assert isinstance(encoding, ScatteringEncoding)
  rng = np.random.default_rng(0)
  low = encoding.draft_dim
  told = Means(np.full(1, 9.0), rng.normal(size=(1, low)), 1.0)
  with mock.patch.multiple(
    ImageEncoding, release_means=mock.Mock(return_value=told),
    release_products=mock.Mock(return_value=np.diag(np.arange(9.0, 9.0 + low))),
  ):  # fmt: skip
    one, other = (
      encoding.release_axes(
        encoding.encode(rng.integers(0, most, (9, 8, 8, 1), np.uint8)), noise_multiplier=1.0,
        secret=bytes(32), purpose='check',
      )
      for most in (256, 9)
    )  # fmt: skip
  if not all((a == b).all() for a, b in zip(one, other, strict=True)):
    raise Violation('axes of codes follow from the records, which nobody has charged for')


def what_an_image_is_part_of_is_charged() -> None:
  """All of it before covariances, the draft and cells too, costs what the stage is charged for."""
  for moments in (_scattering(), _in_cells(1.0)):
    _require_all_charged(moments)


def _require_all_charged(moments: Moments) -> None:
  spent, encoding = [], moments.encoding
  sums, products = exact_noise.release_sum, second_moments.release_second_moments

  def watched(right: Any) -> Any:
    def call(values: Any, *, noise_multiplier: float, purpose: str, **about: Any) -> np.ndarray:
      spent.append((noise_multiplier, purpose))
      return right(values, noise_multiplier=noise_multiplier, purpose=purpose, **about)

    return call

  images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
  with (
    mock.patch.object(exact_noise, 'release_sum', watched(sums)),
    mock.patch.object(second_moments, 'release_second_moments', watched(products)),
  ):
    release.release_means(encoding.encode(images), np.arange(9) % 3, moments, bytes(32))
  if len({purpose for _, purpose in spent}) < len(spent):
    raise Violation('two releases have the same noise')
  # An image is in one class, and in one cell each time.
  of_one = [s for s, purpose in spent if not re.search(r'(class|cell) [1-9]', purpose)]
  if not sum(1 / s**2 for s in of_one) <= 1.001 / moments.stages[MEANS].noise_multiplier ** 2:
    raise Violation('what an image is part of costs more than is accounted for')


def cells_follow_from_what_was_released() -> None:
  """Of other images, with the same sums released, cells and bounds are the same."""
  moments, n = _in_cells(1.0), 3000  # many: small cells are none, and stay where they are
  sums = iter(np.random.default_rng(0).normal(size=(1000, moments.dim)))
  told = [(500.0, 90 * next(sums)) for _ in range(_CLASSES * (1 + 2 * ROUNDS))]
  found = []
  for part in (1, 9):
    images = np.random.default_rng(part).integers(0, 256 // part, (n, 8, 8, 1)).astype(np.uint8)
    codes, answers = moments.encoding.encode(images), iter(told)
    with mock.patch.multiple(
      ImageEncoding, release_centre=lambda *_, **__: np.full(moments.dim + 2, 0.5),
      release_sums=lambda *_, answers=answers, **__: next(answers),
    ):  # fmt: skip
      found.append(release.release_means(codes, np.arange(n) % _CLASSES, moments, bytes(32)).cells)
  if not all((one == other).all() for one, other in zip(*found, strict=True)):
    raise Violation('cells follow from the records, not from what was released')


def _in_cells(epsilon: float) -> Moments:
  spec = Spec(num_records=_MANY, shape=(8, 8, 1), class_names=tuple('abc'), name='made')
  config = TrainConfig(
    target_epsilon=epsilon, delta=1e-5, moments_coefficients=25, moments_cells=2
  )
  return settings.make(config, spec)


def _scattering() -> Moments:
  spec = Spec(num_records=9, shape=(8, 8, 1), class_names=tuple('abc'), name='made')
  config = TrainConfig(target_epsilon=1.0, delta=1e-5, moments_coefficients=25, matching_steps=1)
  return settings.make(config, spec)
