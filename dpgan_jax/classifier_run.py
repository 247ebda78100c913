"""A classifier's training in a directory: interruptible, resumed bit for bit.

Order of events, as in `trainer`: keys on the disk, charge on the disk, steps, metrics, checkpoint.
A killed run takes again, from the same keys, what was charged already.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import exact_noise, metrics, resume
from dpgan_jax.checkpoint import Checkpoints
from dpgan_jax.classifier import Classifier, ClassifierState, training
from dpgan_jax.ledger import Ledger
from dpgan_jax.run_dir import RunDir


def train(
  classifier: Classifier,
  init: Callable[[jax.Array], ClassifierState],
  inputs: Callable[[], np.ndarray],
  labels: np.ndarray,
  directory: RunDir,
  ledger: Ledger,
  *,
  first: Callable[[ClassifierState], ClassifierState] | None = None,
  progress: bool = True,
) -> ClassifierState:
  """Trains, or continues; returns the state after the last step.

  Args:
    classifier: the parts.
    init: makes the first state from the run's root key.
    inputs: makes the prepared inputs [N, ...]; it is called only if there are steps to take.
    labels: int32 [N].
    directory: where metrics and checkpoints go.
    ledger: charged for every step before it is taken; it covers the classifier's stages.
    first: what a new state becomes before it is kept; the data have no part in it.
    progress: show a progress bar on stderr.

  Raises:
    InputError: steps were charged that no checkpoint goes on from, or the ledger has lost lines.
  """
  seed, total = classifier.config.seed, classifier.mechanism.steps

  def fresh(state: ClassifierState) -> ClassifierState:
    if seed is None:  # a release of its own, so with a key of its own: 256 bits
      state = classifier.with_secret(state, exact_noise.new_secret())
    return state if first is None else first(state)

  with Checkpoints(directory.checkpoints) as checkpoints:
    state = resume.start_or_resume(init, seed, ledger, checkpoints, tuple(classifier.stages), fresh)
    # The centre is charged first, and a ledger can lose its end only: this covers it too.
    ledger.require_covers(step := int(state.step), classifier.stage)
    with metrics.MetricsWriter(directory.path, resume_step=step if step else None) as writer:
      if step == total:
        return state
      stride = classifier.config.steps_per_report or max(1, total // 20)
      budget = classifier.epsilon()
      prepared = inputs()
      bar = metrics.Progress(total, step, budget, resume.device_name()) if progress else None
      started = time.monotonic()
      chunks = training(classifier, state, prepared, labels, charge=ledger.charge, stride=stride)
      for state, history in chunks:
        means = {name: float(jnp.nanmean(v)) for name, v in history._asdict().items()}
        taken, step = int(state.step) - step, int(state.step)
        spent = budget if step == total else classifier.epsilon(step)
        speed = {'steps_per_second': taken / (time.monotonic() - started)}
        writer.write(step, {'epsilon': spent, **means}, clock=speed)
        if bar:
          bar.update(step, spent, loss=means['loss'])
        checkpoints.save(step, state, {})
        started = time.monotonic()
      checkpoints.wait()
      if bar:
        bar.close()
  return state
