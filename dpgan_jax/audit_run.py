"""The one-run audit: a GAN is trained once, with many canaries, and an adversary says who was in.

Training is the real thing: `budget.make`, `GAN.step`, the ledger, the checkpoints. Three
adversaries guess, each with a score per canary that is higher for those it believes to be in:

* `gradient` sees every noisy gradient, as the guarantee allows, and knows every record but the
  coins: it takes out what the known records are expected to contribute, and adds up how far the
  rest goes in the direction of each canary's own gradient;
* `loss` sees the discriminator at the start and at the end: how far the canary's loss came down;
* `samples` sees only what is published: how near the nearest sample is.

Canaries that are gradients and no images are for the first adversary only.

The data set that the ε is about has N + m records: the private images and all canaries. What the
audit computes of the private images passes through the run's noisy gradients, so it is covered by
that run's ε for them; it is a release of its own, and spends that ε on top of any other run's.

Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), algorithm 1 and section 6.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import (
  _keys,
  audit_bounds,
  budget,
  clipping,
  data,
  membership,
  metrics,
  models,
  resume,
  trainer,
)
from dpgan_jax.budget import STAGE
from dpgan_jax.canaries import AuditedMechanism, Canaries, plant, training_labels
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.config import TrainConfig
from dpgan_jax.data import to_model_range
from dpgan_jax.gan import GAN, GANState
from dpgan_jax.ledger import Ledger
from dpgan_jax.losses import LOSSES
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.run_dir import RunDir

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
  by: dict[str, audit_bounds.Guesses]


def audit_run(
  config: TrainConfig,
  dataset: data.ImageDataset,
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
  run = RunDir.open(run_dir, create=True)
  with run.lock():
    settings = {'config': config.to_dict(), 'audit': {'canaries': len(canaries), **(about or {})}}
    if run.config.is_file():
      saved = run.load_config()
      for part, now in settings.items():
        run.check_same_config(saved.get(part, {}), now)
      mechanism = DPMechanism.from_dict(saved['mechanism'])
    else:
      mechanism = budget.make(config, len(planted)).mechanism
      run.save_config({**settings, 'mechanism': mechanism.to_dict()})
    watched = AuditedMechanism.watch(mechanism, present, canaries.coordinates)
    gan = GAN(config, watched, dataset.image_shape, dataset.num_classes)
    ledger = Ledger.open(
      run.ledger, stages={STAGE: mechanism}, data_fingerprint=planted.fingerprint()
    )
    losses = _canary_losses(gan, canaries)
    init = lambda key: _start(gan, losses, key)  # noqa: E731
    with Checkpoints(run.checkpoints) as checkpoints:
      state = resume.start_or_resume(init, config.seed, ledger, checkpoints, (STAGE,))
      ledger.require_covers(int(state.gan.step))
      state = _take_steps(gan, planted, canaries, losses, ledger, checkpoints, state, progress)
  return OneRunAudit(
    mechanism=mechanism,
    accounted_epsilon=mechanism.epsilon(),
    confidence=confidence,
    canaries=len(canaries),
    present=int(canaries.present.sum()),
    by=_guess(gan, state, canaries, losses, confidence),
  )


def count_parameters(config: TrainConfig, dataset: data.ImageDataset) -> int:
  """How many parameters the discriminator of these settings has."""
  module = models.make_discriminator(config.discriminator, dataset.image_shape, dataset.num_classes)
  images, labels = jnp.zeros((1, *dataset.image_shape)), jnp.zeros((1,), jnp.int32)
  shapes = jax.eval_shape(module.init, _keys.from_seed(0), images, labels)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))


def _start(gan: GAN, losses: Callable[[PyTree], jax.Array], key: jax.Array) -> AuditState:
  state = gan.init(key)
  at_start = losses(state.d_params)
  return AuditState(state, jnp.zeros_like(at_start), at_start)


def _take_steps(
  gan: GAN,
  planted: data.ImageDataset,
  canaries: Canaries,
  losses: Callable[[PyTree], jax.Array],
  ledger: Ledger,
  checkpoints: Checkpoints,
  state: AuditState,
  progress: bool,
) -> AuditState:
  step, total = int(state.gan.step), gan.mechanism.steps
  if step == total:
    return state
  images = jnp.asarray(planted.images)
  labels = jnp.asarray(training_labels(planted, canaries))
  stride = trainer.steps_per_report(gan.config, gan.mechanism)
  chunks: dict[int, Any] = {}
  budget = gan.mechanism.epsilon()
  bar = metrics.Progress(total, step, budget, resume.device_name()) if progress else None
  saved_at = time.monotonic()
  while step < total:
    length = min(stride - step % stride, total - step)
    if length not in chunks:
      chunks[length] = make_watched_chunk(gan, canaries, losses, length)
    ledger.charge(step + length, STAGE)
    state, losses_seen = chunks[length](state, images, labels)
    step += length
    spent = budget if step == total else gan.mechanism.epsilon(step)
    d = float(jnp.mean(losses_seen))  # waits for the device
    if bar:
      bar.update(step, spent, d_fake=d)
    if step == total or time.monotonic() - saved_at > 10:
      checkpoints.save(step, state, {})
      saved_at = time.monotonic()
  checkpoints.wait()
  if bar:
    bar.close()
  return state


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


def make_watched_chunk(
  gan: GAN, canaries: Canaries, losses: Callable[[PyTree], jax.Array], length: int
) -> Callable[..., tuple[AuditState, jax.Array]]:
  """`loop.make_chunk` with an adversary beside it: (state, images, labels) → (state, d_loss_fake).

  The adversary's part of a step is, but for a factor, the log-likelihood ratio of the noisy
  gradient u to first order in q. With ĝ the canary's clipped gradient, ⟨ĝ, B·u⟩ is ‖ĝ‖² larger
  where the canary joined, which it did with probability q if it is in. What the known records
  contribute on average is subtracted from B·u: all private ones, and half of each canary.
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
    some = jax.random.randint(jax.random.fold_in(_keys.from_seed(0), step), (_KNOWN,), 0, known)
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

  @jax.jit
  def chunk(
    state: AuditState, real_images: jax.Array, real_labels: jax.Array
  ) -> tuple[AuditState, jax.Array]:
    def step(carry: AuditState, _: None) -> tuple[AuditState, jax.Array]:
      after, seen = gan.step(carry.gan, real_images, real_labels)
      noise: Any = after.d_opt_state
      evidence = score(
        carry.gan.d_params, noise[0].released, carry.gan.step, real_images, real_labels
      )
      scores = carry.gradient_scores + evidence
      return AuditState(after, scores, carry.loss_at_start), seen.d_loss_fake

    return jax.lax.scan(step, state, None, length=length)

  return chunk


def _guess(
  gan: GAN,
  state: AuditState,
  canaries: Canaries,
  losses: Callable[[PyTree], jax.Array],
  confidence: float,
) -> dict[str, audit_bounds.Guesses]:
  delta, present = gan.mechanism.delta, canaries.present
  scores = {'gradient': np.asarray(state.gradient_scores)}
  if canaries.coordinates is None:
    samples = data.to_uint8(_samples(gan, state.gan))
    scores['loss'] = np.asarray(state.loss_at_start - jax.jit(losses)(state.gan.d_params))
    scores['samples'] = -membership.nearest_distance(canaries.images, samples)
  return {
    name: audit_bounds.guess(each, present, delta=delta, confidence=confidence)
    for name, each in scores.items()
  }


def _samples(gan: GAN, state: GANState) -> np.ndarray:
  """What a run of these settings would leave as samples, float32 [n, H, W, C]."""
  count = gan.config.num_samples
  labels = np.resize(np.arange(gan.num_classes, dtype=np.int32), count)
  key = jax.random.fold_in(jax.random.fold_in(state.fake_key, state.step), 2)
  generate, size, parts = jax.jit(gan.generate), min(count, 1000), []
  for start in range(0, count, size):
    wanted = np.resize(labels[start : start + size], size)
    parts.append(np.asarray(generate(state.g_average, jax.random.fold_in(key, start), wanted)))
  return np.concatenate(parts)[:count]
