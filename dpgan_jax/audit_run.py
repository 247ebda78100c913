"""The one-run audit: a GAN is trained once, with many canaries, and an adversary says who was in.

Training is the real thing: `trainer.make_mechanism`, `GAN.step`, the ledger, the checkpoints. Three
adversaries guess, each with a score per canary that is higher for those it believes to be in:

* `gradient` sees every noisy gradient, as the guarantee allows, and adds up how far each goes in
  the direction of the canary's own gradient at that step;
* `loss` sees the discriminator at the start and at the end: how far the canary's loss came down;
* `samples` sees only what is published: how near the nearest sample is.

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

from dpgan_jax import audit_bounds, clipping, data, membership, metrics, trainer
from dpgan_jax.canaries import AuditedMechanism, Canaries, plant
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.config import TrainConfig
from dpgan_jax.data import to_model_range
from dpgan_jax.gan import GAN, GANState
from dpgan_jax.ledger import Ledger
from dpgan_jax.losses import LOSSES
from dpgan_jax.mechanism import DPMechanism
from dpgan_jax.run_dir import RunDir

PyTree = Any
ADVERSARIES = ('gradient', 'loss', 'samples')
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
      mechanism = trainer.make_mechanism(config, len(planted))
      run.save_config({**settings, 'mechanism': mechanism.to_dict()})
    watched = AuditedMechanism.watch(mechanism, present)
    gan = GAN(config, watched, dataset.image_shape, dataset.num_classes)
    ledger = Ledger.open(
      run.ledger, stages={trainer.STAGE: mechanism}, data_fingerprint=planted.fingerprint()
    )
    losses = _canary_losses(gan, canaries)
    init = lambda key: _start(gan, losses, key)  # noqa: E731
    with Checkpoints(run.checkpoints) as checkpoints:
      state = trainer.start_or_resume(init, config.seed, ledger, checkpoints)
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
  images, labels = jnp.asarray(planted.images), jnp.asarray(planted.labels)
  stride = trainer.steps_per_report(gan.config, gan.mechanism)
  chunks: dict[int, Any] = {}
  budget = gan.mechanism.epsilon()
  bar = metrics.Progress(total, step, budget, trainer.device_name()) if progress else None
  saved_at = time.monotonic()
  while step < total:
    length = min(stride - step % stride, total - step)
    if length not in chunks:
      chunks[length] = make_watched_chunk(gan, canaries, losses, length)
    ledger.charge(step + length, trainer.STAGE)
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

  The adversary's part of a step is the log-likelihood ratio of the noisy gradient u to first order
  in q: with ĝ the canary's clipped gradient, ⟨ĝ, B·u⟩ is ‖ĝ‖² larger where the canary joined, which
  it did with probability q if it is in. What all canaries have in common (the other examples' mean
  pulls at each of them) is taken out.
  """
  mechanism = gan.mechanism
  images, labels = jnp.asarray(canaries.images), jnp.asarray(canaries.labels)
  norms_of = mechanism.clipped_grad(_canary_loss(gan))

  def score(params: PyTree, released: PyTree) -> jax.Array:
    size = jnp.sqrt(sum(jnp.sum(r**2) for r in jax.tree.leaves(released)))
    # A central difference: layers with a backward rule of their own have no forward derivative.
    share = _STEP_OF_DIFFERENCE / jnp.maximum(size, 1e-30)

    def moved(sign: float) -> jax.Array:
      return losses(jax.tree.map(lambda p, r: p + sign * share * r, params, released))

    along = (moved(1.0) - moved(-1.0)) / (2 * share) * mechanism.batch_size
    norms = norms_of(params, images, labels).norms
    factors = clipping.clip_factors(norms, mechanism.l2_clip_norm)
    expected = mechanism.sampling_probability * (factors * norms) ** 2
    evidence = factors * along - expected / 2
    return evidence - jnp.mean(evidence)

  @jax.jit
  def chunk(
    state: AuditState, real_images: jax.Array, real_labels: jax.Array
  ) -> tuple[AuditState, jax.Array]:
    def step(carry: AuditState, _: None) -> tuple[AuditState, jax.Array]:
      after, seen = gan.step(carry.gan, real_images, real_labels)
      noise: Any = after.d_opt_state
      scores = carry.gradient_scores + score(carry.gan.d_params, noise[0].released)
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
  count = gan.config.num_samples
  labels = np.resize(np.arange(gan.num_classes, dtype=np.int32), count)
  key = jax.random.fold_in(jax.random.fold_in(state.gan.fake_key, state.gan.step), 2)
  generate = jax.jit(gan.generate)
  size = min(count, 1000)
  parts = []
  for start in range(0, count, size):
    wanted = np.resize(labels[start : start + size], size)
    parts.append(np.asarray(generate(state.gan.g_average, jax.random.fold_in(key, start), wanted)))
  samples = np.concatenate(parts)[:count]
  scores = {
    'gradient': np.asarray(state.gradient_scores),
    'loss': np.asarray(state.loss_at_start - jax.jit(losses)(state.gan.d_params)),
    'samples': -membership.nearest_distance(canaries.images, data.to_uint8(samples)),
  }
  delta, present = gan.mechanism.delta, canaries.present
  return {
    name: audit_bounds.guess(scores[name], present, delta=delta, confidence=confidence)
    for name in ADVERSARIES
  }
