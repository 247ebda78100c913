"""The one-run audit: a GAN is trained once, with many canaries, and an adversary says who was in.

Training is the real thing: the budget, `GAN.step`, the one loop, ledger, checkpoints. Three
adversaries guess, each with a score per canary that is higher for those it believes to be in:

* `gradient` sees every noisy gradient, as the guarantee allows, and knows every record but the
  coins: it takes out what the known records are expected to contribute, and adds up how far the
  rest goes in the direction of each canary's own gradient;
* `loss` sees the discriminator at the start and at the end: how far the canary's loss came down;
* `samples` sees only what is published: how near the nearest sample is.

Canaries that are gradients and no images are for the first adversary only.

The data set that the ε is about has N + m records: the private images and all canaries. The run is
a release of its own, and spends its ε on top of any other run's.

Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), algorithm 1 and section 6.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _keys, _validate
from dpgan_jax.auditing import bounds, membership
from dpgan_jax.auditing.canaries import AuditedMechanism, Canaries, plant, training_labels
from dpgan_jax.budget.budget import STAGE, Budget
from dpgan_jax.data.images.dataset import ImageDataset, to_model_range, to_uint8
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GANState, StepMetrics
from dpgan_jax.networks import discriminators
from dpgan_jax.networks.losses import LOSSES
from dpgan_jax.privacy import clipping
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import plan
from dpgan_jax.run.loop import Run
from dpgan_jax.run.stages import CompiledStage, steps_per_report

PyTree = Any
_KNOWN = 256  # private records per step from which the contribution of all of them is estimated
_STEP_OF_DIFFERENCE = 0.01  # in parameter space, for the derivative along a gradient


class AuditState(NamedTuple):
  """What an audit carries from step to step.

  Attributes:
    gan: the state of the run.
    gradient_scores: float32[m], so far.
    loss_at_start: float32[m], of D on each canary.
  """

  gan: GANState
  gradient_scores: jax.Array
  loss_at_start: jax.Array

  @property
  def step(self) -> jax.Array:
    """Steps taken."""
    return self.gan.step


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneRunAudit:
  """What came of an audit.

  Attributes:
    mechanism: what was claimed, of N + m records.
    accounted_epsilon: its ε at its δ.
    confidence: of each bound.
    canaries: m.
    present: how many of them were in.
    by: what each adversary could show.
  """

  mechanism: DPMechanism
  accounted_epsilon: float
  confidence: float
  canaries: int
  present: int
  by: dict[str, bounds.Guesses]


def audit_run(
  config: TrainConfig,
  dataset: ImageDataset,
  canaries: Canaries,
  run_dir: str | os.PathLike[str],
  *,
  confidence: float = 0.95,
  progress: bool = True,
  about: dict[str, Any] | None = None,
) -> OneRunAudit:
  """Trains with canaries and audits the run; the same call continues an interrupted one.

  Args:
    config: the settings of the run, as for `trainer.train`.
    dataset: the private images.
    canaries: what is planted among them.
    run_dir: directory of the audit, made where missing; it holds a ledger and checkpoints.
    confidence: of each adversary's bound.
    progress: show a progress bar on stderr.
    about: public settings that must be the same when continuing, such as the canaries' kind.

  Raises:
    InputError: the directory belongs to another run, or settings do not fit the data.
  """
  planted, present = plant(dataset, canaries)
  settings = {**config.to_dict(), 'canaries': len(canaries), **(about or {})}
  opened = Run.open(
    run_dir,
    settings,
    planted,
    make=lambda: _Planned(plan.make_budget(config, len(planted)).mechanism, settings),
    read=_Planned.read,
    progress=progress,
  )
  with opened as (planned, run):
    stage = AuditStage(config, planned.mechanism, planted, present, canaries)
    state = run.carry_out(stage)
  return OneRunAudit(
    mechanism=planned.mechanism,
    accounted_epsilon=planned.mechanism.epsilon(),
    confidence=confidence,
    canaries=len(canaries),
    present=int(canaries.present.sum()),
    by=_guess(stage.gan, state, canaries, stage.losses, confidence),
  )


@dataclasses.dataclass(frozen=True)
class _Planned:
  """What an audit is going to do; one mechanism, of N + m records."""

  mechanism: DPMechanism
  settings: Mapping[str, Any]

  @property
  def budget(self) -> Budget:
    return Budget(self.mechanism)

  def to_record(self) -> dict[str, Any]:
    return {'config': dict(self.settings), 'mechanism': self.mechanism.to_dict()}

  @classmethod
  def read(cls, saved: Mapping[str, Any], where: object) -> _Planned:
    try:
      return cls(DPMechanism.from_dict(saved['mechanism']), saved['config'])
    except (KeyError, TypeError, AttributeError) as error:
      raise _validate.InputError(f'{where} is not the record of an audit: {error!r}') from None


class AuditStage(CompiledStage):
  """Steps of the GAN with an adversary beside them, who sees every noisy gradient."""

  name = STAGE
  reads_batches_alone = False  # the adversary looks at every canary

  def __init__(
    self,
    config: TrainConfig,
    mechanism: DPMechanism,
    planted: ImageDataset,
    present: np.ndarray,
    canaries: Canaries,
  ) -> None:
    """Reads and writes nothing yet.

    Args:
      config: the settings of the run.
      mechanism: what is claimed, of N + m records.
      planted: the private images and all canaries.
      present: bool [N + m], who is in.
      canaries: what was planted.
    """
    watched = AuditedMechanism.watch(mechanism, present, canaries.coordinates)
    self.gan = GAN(config, watched, planted.spec)
    self.losses = _canary_losses(self.gan, canaries)
    self._score = _make_score(self.gan, canaries, self.losses)
    self._planted, self._canaries = planted, canaries
    self.mechanisms = {STAGE: mechanism}
    self.stride = steps_per_report(config, mechanism)

  def init(self, key: jax.Array) -> AuditState:
    state = self.gan.init(key)
    at_start = self.losses(state.d_params)
    return AuditState(state, jnp.zeros_like(at_start), at_start)

  def data(self) -> tuple[jax.Array, ...]:
    labels = training_labels(self._planted, self._canaries)
    return jnp.asarray(self._planted.images), jnp.asarray(labels)

  def step(self, state: AuditState, *data: jax.Array) -> tuple[AuditState, StepMetrics]:
    after, seen = self.gan.step(state.gan, *data)
    noise: Any = after.d_opt_state
    evidence = self._score(state.gan.d_params, noise[0].released, state.gan.step, *data)
    return AuditState(after, state.gradient_scores + evidence, state.loss_at_start), seen

  def shown(self, means: Mapping[str, float]) -> Mapping[str, float]:
    return {'d_fake': means['d_loss_fake']}


def count_parameters(config: TrainConfig, dataset: ImageDataset) -> int:
  """How many parameters the discriminator of these settings has."""
  module = discriminators.make_discriminator(
    config.discriminator, dataset.spec.shape, dataset.spec.num_classes
  )
  images, labels = jnp.zeros((1, *dataset.spec.shape)), jnp.zeros((1,), jnp.int32)
  shapes = jax.eval_shape(module.init, _keys.from_seed(0), images, labels)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))


# --- what the adversaries see --------------------------------------------------------------------


def _canary_loss(gan: GAN) -> Callable[..., jax.Array]:
  """D's loss on one real example, without a gradient penalty: its direction is enough to guess."""
  discriminator, d_real = gan.discriminator, LOSSES[gan.config.loss].d_real

  def loss(params: PyTree, image: jax.Array, label: jax.Array) -> jax.Array:
    logits: Any = discriminator.apply({'params': params}, to_model_range(image)[None], label[None])
    return d_real(logits[0])

  return loss


def _canary_losses(gan: GAN, canaries: Canaries) -> Callable[[PyTree], jax.Array]:
  """D's parameters → its loss on every canary, float32[m]."""
  images, labels = jnp.asarray(canaries.images), jnp.asarray(canaries.labels)
  d_real = LOSSES[gan.config.loss].d_real

  def losses(params: PyTree) -> jax.Array:
    logits: Any = gan.discriminator.apply({'params': params}, to_model_range(images), labels)
    return d_real(logits)

  return losses


def _make_score(
  gan: GAN, canaries: Canaries, losses: Callable[[PyTree], jax.Array]
) -> Callable[..., jax.Array]:
  """The adversary's part of a step: (params, noisy gradient, step, images, labels) → float32[m].

  It is, but for a factor, the log-likelihood ratio of the noisy gradient u to first order in q.
  With ĝ the canary's clipped gradient, ⟨ĝ, B·u⟩ is ‖ĝ‖² larger where the canary joined, which it
  did with probability q if it is in. What the known records contribute on average is subtracted
  from B·u: all private ones, and half of each canary.
  """
  mechanism, q = gan.mechanism, gan.mechanism.sampling_probability
  canary_images, canary_labels = jnp.asarray(canaries.images), jnp.asarray(canaries.labels)
  known = mechanism.num_examples - len(canaries)
  gradient = clipping.clipped_grad(
    _canary_loss(gan),
    l2_clip_norm=mechanism.l2_clip_norm,
    strategy=gan.config.clipping_strategy,  # pyright: ignore (a str that TrainConfig has checked)
  )

  def score(
    params: PyTree, released: PyTree, step: jax.Array, images: jax.Array, labels: jax.Array
  ) -> jax.Array:
    # Which records are looked at is no secret and touches no draw of the run.
    key = jax.random.fold_in(_keys.from_seed(0), step)
    some = jax.random.randint(key, (_KNOWN,), 0, known)
    theirs = gradient(params, images[some], labels[some]).sum
    weight = q * known / _KNOWN
    rest = jax.tree.map(lambda r, g: mechanism.batch_size * r - weight * g, released, theirs)
    if canaries.coordinates is not None:
      flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(rest)])
      return flat[jnp.asarray(canaries.coordinates)] / mechanism.l2_clip_norm
    own = gradient(params, canary_images, canary_labels)
    rest = jax.tree.map(lambda r, g: r - q / 2 * g, rest, own.sum)
    return clipping.clip_factors(own.norms, mechanism.l2_clip_norm) * along(params, rest)

  def along(params: PyTree, direction: PyTree) -> jax.Array:
    """⟨gradient of each canary, direction⟩ by a central difference: layers with a backward rule of
    their own have no forward derivative."""
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(direction)))
    share = _STEP_OF_DIFFERENCE / jnp.maximum(size, 1e-30)

    def moved(sign: float) -> jax.Array:
      return losses(jax.tree.map(lambda p, d: p + sign * share * d, params, direction))

    return (moved(1.0) - moved(-1.0)) / (2 * share)

  return score


def _guess(
  gan: GAN,
  state: AuditState,
  canaries: Canaries,
  losses: Callable[[PyTree], jax.Array],
  confidence: float,
) -> dict[str, bounds.Guesses]:
  delta, present = gan.mechanism.delta, canaries.present
  scores = {'gradient': np.asarray(state.gradient_scores)}
  if canaries.coordinates is None:
    samples = to_uint8(_samples(gan, state.gan))
    scores['loss'] = np.asarray(state.loss_at_start - jax.jit(losses)(state.gan.d_params))
    scores['samples'] = -membership.nearest_distance(canaries.images, samples)
  return {
    name: bounds.guess(each, present, delta=delta, confidence=confidence)
    for name, each in scores.items()
  }


def _samples(gan: GAN, state: GANState) -> np.ndarray:
  """What a run of these settings would leave as samples, float32 [n, H, W, C]."""
  count = gan.config.num_samples
  labels = np.resize(np.arange(gan.spec.num_classes, dtype=np.int32), count)
  key = jax.random.fold_in(jax.random.fold_in(state.fake_key, state.step), 2)
  generate, size, parts = jax.jit(gan.generate), min(count, 1000), []
  for start in range(0, count, size):
    wanted = np.resize(labels[start : start + size], size)
    parts.append(np.asarray(generate(state.g_average, jax.random.fold_in(key, start), wanted)))
  return np.concatenate(parts)[:count]
