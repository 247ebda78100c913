"""A release of moments as a model that draws records, class by class.

>>> import jax
>>> from dpgan_jax import load_dataset
>>> from dpgan_jax.models.moments import release, settings
>>> from dpgan_jax.privacy.exact_noise import new_secret
>>> digits = load_dataset('digits')
>>> moments = settings.make(TrainConfig(target_epsilon=8.0), digits.spec)
>>> codes = moments.encoding.encode(digits.images)
>>> secret = new_secret()
>>> released = release.release_both(codes, digits.labels, moments, secret)
>>> model = MomentsSynthesizer(moments, *released)
>>> images, labels = model.sample(20, key=jax.random.key(0))
>>> images.shape, labels.shape, round(model.epsilon(), 2)
((20, 8, 8, 1), (20,), 8.0)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.dataset import parse_given
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments.encoding import Means, Model
from dpgan_jax.models.moments.images import matching
from dpgan_jax.models.moments.images.encoding import Gaussians
from dpgan_jax.models.moments.images.scattering_encoding import ScatteringEncoding
from dpgan_jax.models.moments.series.sequences import Sequences
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.models.moments.tables.encoding import Rows
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.networks.layers import count_parameters

_RECORDS_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True)
class MomentsSynthesizer(Synthesizer):
  """A release with its settings. What samples are drawn from follows from it free of cost.

  Attributes:
    moments: settings, encoding, mechanisms.
    means: the first release.
    seconds: float64 [L, s, s], the second release.
    network: parameters of the generator that matches them (`matching`); None without one.
  """

  moments: Moments
  means: Means
  seconds: np.ndarray
  network: Any = None
  steps = 1

  @property
  def config(self) -> TrainConfig:
    return self.moments.config

  @property
  def spec(self) -> Spec:
    return self.moments.spec

  @property
  def budget(self) -> Budget:
    return self.moments.budget

  @property
  def is_conditional(self) -> bool:
    return self.spec.num_classes > 1

  @property
  def num_parameters(self) -> int:
    groups, second = self.seconds.shape[:2]
    released = self.means.sums.size + self.means.counts.size + groups * second * (second + 1) // 2
    return released + count_parameters((self.means.cells, self.network))

  @property
  def usual_num(self) -> int:
    """Of persons, whose number N does not say how many rows they have: what the counts say."""
    if self.spec.schema is None or self.spec.schema.unit_column is None:
      return super().usual_num
    return max(1, round(float(self.means.counts.sum())))

  @functools.cached_property
  def shares(self) -> np.ndarray:
    """Of the records, by the noisy counts: float64 [K], ≥ 0, their sum 1."""
    counts = np.maximum(self.means.counts, 0)
    return counts / counts.sum() if counts.any() else np.full(len(counts), 1 / len(counts))

  @functools.cached_property
  def model(self) -> Model:
    """What samples are drawn from."""
    first, second = (self.moments.stages[name].noise_multiplier for name in (MEANS, SECONDS))
    released = self.moments.encoding.model(self.means, self.seconds, (first, second))
    if self.network is None:
      return released
    assert isinstance(released, Gaussians)  # settings have checked it
    return matching.Matched(released, self.network)

  def sample_given(
    self, num: int, given: Mapping[str, Any], *, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray | None]:
    if self.spec.schema is None or not isinstance(self.model, Rows | Sequences):
      return super().sample_given(num, given, key=key)
    _validate.integer('num', num, minimum=1)
    label, values = parse_given(self.spec.schema, given)
    if isinstance(self.model, Rows):
      rows, labels = self.model.draw_given(num, values, label, key)
    else:
      parts = [
        self.model.draw_given(min(_RECORDS_AT_ONCE, num - start), values, label, own)
        for start, own in _parts(num, key)
      ]
      rows, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rows, labels if self.is_conditional else None

  def _sample(
    self, num: int, labels: np.ndarray | None, clearest: float, key: jax.Array
  ) -> tuple[np.ndarray, np.ndarray | None]:
    del clearest  # 1: every image was asked for by its class
    label_key, key = jax.random.split(key)
    if labels is None:
      ends = np.cumsum(self.shares)
      # A place on a stratified line for each: the proportions are met as nearly as can be.
      places = (np.arange(num) + 0.5) / num * ends[-1]
      ordered = np.searchsorted(ends, places, side='right').clip(max=len(ends) - 1)
      labels = np.asarray(jax.random.permutation(label_key, ordered)).astype(np.int64)
    parts = []
    for start, own in _parts(num, key):
      wanted = np.zeros(_RECORDS_AT_ONCE, np.int64)  # one shape, one compilation
      wanted[: num - start] = labels[start : start + _RECORDS_AT_ONCE]
      parts.append(self.model.draw(wanted, own)[: num - start])
    return np.concatenate(parts), labels if self.is_conditional else None


def abstract_network(moments: Moments) -> Any:
  """Shapes and dtypes of `MomentsSynthesizer.network`; None of settings without one."""
  if moments.config.matching_steps is None:
    return None
  encoding = moments.encoding
  assert isinstance(encoding, ScatteringEncoding)  # settings have made it so
  return matching.abstract_params(encoding, moments.spec.num_classes)


def _parts(num: int, key: jax.Array) -> list[tuple[int, jax.Array]]:
  """(first record, key) of each part of so many."""
  starts = range(0, num, _RECORDS_AT_ONCE)
  return [(start, jax.random.fold_in(key, i)) for i, start in enumerate(starts)]
