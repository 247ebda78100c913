"""Proofs that private data enter a training step by the noised sum alone, read from its jaxpr.

Nothing is computed: a step is traced on shapes, and `taint` follows the records, the sampling key
and the noise key through every equation. As in `mechanism_checks`, a check passes where the package
is correct, and otherwise raises `Violation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.data.spec import Spec
from dpgan_jax.models.classifier import Classifier
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.privacy import exact_noise
from dpgan_jax.run import metrics, plan
from dpgan_jax.run.stages import make_chunk
from experiments.trust.statistical_checks import Violation
from tests.support import taint

N, SHAPE = 60, (8, 8, 1)
SPEC = Spec(num_records=N, shape=SHAPE, class_names=('a', 'b', 'c'), name='traced')

GANS: dict[str, dict[str, Any]] = {
  'default': {},
  # 20 < 2B = 24: a batch is no longer than some ways of looking at both halves at once.
  'cap below 2B': {'truncated_batch_size': 20, 'microbatch_size': 7, 'n_d_threshold': 0.6,
                   'compute_dtype': 'bfloat16'},
  'penalty': {'loss': 'wasserstein', 'gradient_penalty': 10.0, 'fake_batch_size': 30,
              'clipping_strategy': 'ghost', 'truncated_batch_size': 16},
  'weight clip': {'loss': 'wasserstein', 'd_weight_clip': 0.01, 'fake_gradient': 'plain',
                  'clipping_strategy': 'vmap', 'd_optimizer': 'sgd', 'g_optimizer': 'sgd'},
  'report': {'generator': 'report', 'discriminator': 'report', 'd_steps_per_g_step': 1,
             'learning_rate_schedule': 'cosine', 'd_learning_rate_end': 1e-5},
  'revisited': {'generator': 'revisited', 'discriminator': 'revisited', 'g_ema_decay': 0.0},
  'scattering': {'generator': 'dcgan', 'discriminator': 'scattering', 'microbatch_size': 1},
  'refiner': {'generator': 'refiner', 'target_epsilon': 4.0, 'noise_multiplier': None,
              'moments_share': 0.5, 'latent_dim': 12},
}  # fmt: skip
"""Settings that take other ways through a step of the GAN."""

CLASSIFIERS: dict[str, dict[str, Any]] = {
  'labeller': {'model': 'linear', 'features': 'scattering', 'scales': 2, 'average_from': 0.3,
               'momentum': 0.9, 'centre_noise_multiplier': 2.0},
  'label CNN': {'model': 'tutorial_cnn', 'features': 'pixels', 'average_from': 0.5},
  'microbatches': {'model': 'tutorial_cnn', 'features': 'pixels', 'microbatch_size': 5},
}  # fmt: skip


def make_gan(**settings: Any) -> GAN:
  usual = {'generator': 'compact', 'discriminator': 'compact', 'noise_multiplier': 1.0}
  config = TrainConfig(steps=40, batch_size=12, delta=1e-3, **(usual | settings))
  return plan.make(config, SPEC).gan


def make_classifier(**settings: Any) -> Classifier:
  usual = {'noise_multiplier': 1.0, 'steps': 40, 'batch_size': 12, 'delta': 1e-3}
  config = ClassifierConfig(**(usual | settings))
  return Classifier.create(config, SPEC)


def _label(path: str) -> str | None:
  """Of the inputs (state, records, their classes)."""
  if not path.startswith('[0]'):
    return taint.DATA
  name = path.split('.')[-1]
  if 'key' not in name:
    return None
  if 'opt_state' in path:
    return taint.NOISE
  return taint.BATCH if name == 'batch_key' else None


def require_noised(
  what: str, fn: Callable[..., Any], *args: Any, private: frozenset[str] = frozenset()
) -> None:
  """Proves that `fn(*args)` lets the records out by one noised sum alone.

  Args:
    what: name of the step, for errors.
    fn: (state, records ...) -> (state, metrics).
    *args: shapes of its arguments.
    private: names of the metrics that have to depend on the records; no other may.

  Raises:
    Violation: an output depends on records, on the sampling key or on a sum without noise, or on
      the noise key by itself; a metric that is not marked does, or a marked one does not; the host
      sees any of it; there is not exactly one noised sum.
  """
  found = taint.trace(fn, *args, label=_label)
  hidden = taint.SECRET | {taint.NOISE}
  for path, labels in found.outputs.items():
    if path.startswith('[0]'):
      own = {_label(path)}  # a key stays in the state, where it was
      if wrong := (labels & hidden) - own:
        raise Violation(f'{what}: state{path[3:]} depends on {_words(wrong)}')
  seen = {p.removeprefix('[1].') for p, s in found.outputs.items() if s and p.startswith('[1]')}
  if seen != private:
    raise Violation(
      f'{what}: metrics that depend on records: {sorted(seen)}; marked: {sorted(private)}'
    )
  if found.leaks:
    name, labels = found.leaks[0]
    raise Violation(f'{what}: {name} shows the host what depends on {_words(labels)}')
  if len(found.sums) != 1:
    raise Violation(f'{what}: expected one noised sum in a step, got {len(found.sums)}')


_NAMES = {
  taint.DATA: 'the records', taint.BATCH: 'who is in the batch',
  taint.SUM: 'a sum that is not noised', taint.NOISE: 'the noise by itself',
}  # fmt: skip


def _words(labels: frozenset[str]) -> str:
  return ', '.join(_NAMES[label] for label in sorted(labels))


def gan_step(way: str, *, chunk: int = 0, **changes: Any) -> None:
  """A step of the GAN with the settings `GANS[way]`, or a compiled chunk of so many."""
  gan = make_gan(**GANS[way], **changes)
  marked = metrics.REAL_DATA_METRICS & {
    'd_loss_real', 'd_real_accuracy', 'clipped_fraction', 'realised_batch'
  }  # fmt: skip
  if gan.config.gradient_penalty:
    marked -= {'d_real_accuracy'}  # a constant there
  require_noised(
    f'GAN, {way}', make_chunk(gan, chunk) if chunk else gan.step,
    jax.eval_shape(gan.init, jax.random.key(0)),
    jax.ShapeDtypeStruct((N, *SHAPE), jnp.uint8), jax.ShapeDtypeStruct((N,), jnp.int32),
    private=frozenset(marked),
  )  # fmt: skip


def classifier_step(way: str) -> None:
  """A step of a classifier with the settings `CLASSIFIERS[way]`."""
  model = make_classifier(**CLASSIFIERS[way])
  require_noised(
    f'classifier, {way}', model.step, jax.eval_shape(model.init, jax.random.key(0)),
    _inputs(model), jax.ShapeDtypeStruct((N,), jnp.int32),
    private=frozenset({'loss', 'accuracy', 'clipped_fraction', 'realised_batch'}),
  )  # fmt: skip


def centre_release() -> None:
  """The mean of the features: with another result of the exact noisy sum in its place, two data
  sets of different sizes leave the same state, so they take part by that sum alone.
  """
  model = make_classifier(**CLASSIFIERS['labeller'])
  state = jax.jit(lambda key: model.init(key))(jax.random.key(0))
  sums: list[Any] = []

  def release_sum(contributions: np.ndarray, **named: Any) -> np.ndarray:
    sums.append(named)
    return np.linspace(1, 2, contributions[0].size).reshape(contributions.shape[1:])

  ends = []
  with mock.patch.object(exact_noise, 'release_sum', release_sum):
    for seed, rows in ((0, N), (1, N - 7)):
      inputs = np.random.default_rng(seed).random((rows, *model.input_shape), np.float32)
      inputs[:, 0] *= seed  # a feature that none of the others has
      ends.append(model.release_centre(state, inputs, bytes(32)))
  differing = [
    jax.tree_util.keystr(path)
    for (path, one), two in zip(
      jax.tree_util.tree_leaves_with_path(ends[0]), jax.tree.leaves(ends[1]), strict=True
    )
    if not bool(jnp.all(one == two))
  ]
  if differing:
    raise Violation(f'centre: state{differing[0]} depends on the records')
  if len(sums) != 2 or sums[0] != sums[1]:
    raise Violation('centre: expected one noisy sum, with settings that no record has a part in')


def _inputs(model: Classifier) -> jax.ShapeDtypeStruct:
  dtype = jnp.uint8 if model.config.features == 'pixels' else jnp.float32
  return jax.ShapeDtypeStruct((N, *model.input_shape), dtype)


def records_enter_by_the_noised_sum_alone() -> None:
  """Two steps of a GAN, one of a classifier, and the centre; tests trace the other ways."""
  gan_step('default')
  gan_step('cap below 2B')
  classifier_step('labeller')
  centre_release()
