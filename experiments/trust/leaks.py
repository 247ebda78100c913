"""Faults that let private data past the noised sum, or past the noise in it: each is a tuple of
`faults.Swap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from dpgan_jax.models import gan
from dpgan_jax.models.classifier import CENTRE, Classifier
from dpgan_jax.privacy import clipping, transforms
from experiments.trust.faults import (
  Swap,
  fakes_as_many_as_came,
  stash_data,
  swap,
  wrapped_update,
)


def _after_d_step(change: Callable[[Any, Any], Any]) -> tuple[Swap, ...]:
  """Changes the state that a step of D leaves by `change(state, metrics)`."""

  def make(d_step: Any) -> Any:
    def faulty(self: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
      state, found = d_step(self, state, images, labels)
      return change(state, found), found

    return faulty

  return swap(gan.GAN, '_d_step', make)


def _d_optimizer(change: Callable[..., Any]) -> Callable[[Any], Any]:
  """Changes D's update by `change(gan, updates, clipped sum, state before)`."""

  def make(d_optimizer: Any) -> Any:
    def faulty(self: Any, noise_key: jax.Array | None = None) -> Any:
      right = d_optimizer(self, noise_key)

      def update(total: Any, state: Any, *rest: Any, **extra: Any) -> Any:
        found, after = right.update(total, state, *rest, **extra)
        return change(self, found, total), after

      return type(right)(right.init, update)

    return faulty

  return make


def _weights_of_d_by_the_clean_sum() -> tuple[Swap, ...]:
  change = lambda _, found, total: jax.tree.map(lambda u, s: u - 0.01 * s, found, total)  # noqa: E731
  return swap(gan.GAN, 'd_optimizer', _d_optimizer(change))


def _update_divided_by_the_realised_batch() -> tuple[Swap, ...]:
  seen: dict[str, Any] = {}

  def change(self: Any, found: Any, total: Any) -> Any:
    batch = self.mechanism.sampler(seen['state'].batch_key, seen['state'].step)
    share = self.mechanism.batch_size / jnp.maximum(jnp.sum(batch.mask), 1)
    return jax.tree.map(lambda u: u * share, found)

  return (stash_data(seen), Swap(gan.GAN, 'd_optimizer', _d_optimizer(change)))


def _fakes_from_a_real_statistic() -> tuple[Swap, ...]:
  """The latent vectors of fakes, D's and G's, are scaled by the brightness of the data."""
  seen: dict[str, Any] = {}

  def make(fakes: Any) -> Any:
    def faulty(self: Any, g: Any, key: jax.Array, count: int, *split: Any) -> Any:
      made, *rest = fakes(self, g, key, count, *split)
      return (made * (1 + 1e-3 * jnp.mean(seen['images'].astype(jnp.float32))), *rest)

    return faulty

  return (stash_data(seen), Swap(gan.GAN, '_fakes', make))


def _public_gradient_with_real_examples() -> tuple[Swap, ...]:
  """A batch of fakes in which one in ten is a real image."""
  seen: dict[str, Any] = {}

  def make(fakes: Any) -> Any:
    def faulty(self: Any, g: Any, key: jax.Array, count: int, *split: Any) -> Any:
      made, *rest = fakes(self, g, key, count, *split)
      if count == self.fake_batch_size:
        real = seen['images'][: max(1, count // 10)].astype(jnp.float32) / 255
        made = made.at[: real.shape[0]].set(real)
      return (made, *rest)

    return faulty

  return (stash_data(seen), Swap(gan.GAN, '_fakes', make))


def fakes_bounded_by_real_norms(d_step: Any) -> Any:
  """Clips the fakes to the largest norm of a real gradient, where the cap is below 2B."""

  def faulty(self: Any, *args: Any) -> Any:
    _ = self.examples_at_once  # found before, with the right clipping
    right, norms = clipping.clipped_grad, []

    def clipped_grad(loss: Any, **named: Any) -> Any:
      def fn(params: Any, *batch: Any, mask: Any = None) -> Any:
        found = right(loss, **named)(params, *batch, mask=mask)
        if mask is not None:
          norms.append(found.norms)
        elif norms[0].shape[0] < 2 * self.mechanism.batch_size:
          share = jnp.minimum(1.0, jnp.max(norms[0]) / self.mechanism.l2_clip_norm)
          found = found._replace(sum=jax.tree.map(lambda s: s * share, found.sum))
        return found

      return fn

    with mock.patch.object(clipping, 'clipped_grad', clipped_grad):
      return d_step(self, *args)

  return faulty


def _shown_to_the_host(d_step: Any) -> Any:
  def faulty(self: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
    state, found = d_step(self, state, images, labels)
    jax.debug.print('loss {}', found.d_loss_real)
    return state, found

  return faulty


def _sum_kept_in_the_state(update: Any, updates: Any, state: Any, *rest: Any, **named: Any) -> Any:
  found, after = update(updates, state, *rest, **named)
  bright = sum(jnp.sum(u) for u in jax.tree.leaves(updates)) > 0
  return found, after._replace(count=after.count + bright)


def _without_noise(update: Any, updates: Any, state: Any, *rest: Any, **named: Any) -> Any:
  _, after = update(updates, state, *rest, **named)
  return jax.tree.map(lambda u: u / 12, updates), after


def _centre_kept_beside_the_noise(release: Any) -> Any:
  def faulty(self: Any, state: Any, inputs: Any, secret: bytes) -> Any:
    after = release(self, state, inputs, secret)
    mean = jnp.mean(jnp.asarray(inputs), axis=0).reshape(-1)
    return after._replace(centre=jnp.where(jnp.abs(mean) > 0, after.centre, 0.0))

  return faulty


def _average_by_accuracy(step: Any) -> Any:
  def faulty(self: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
    after, found = step(self, state, inputs, labels)
    worse = found.accuracy < 0.1
    keep = lambda old, new: jnp.where(worse, old, new)  # noqa: E731
    return after._replace(average=jax.tree.map(keep, state.average, after.average)), found

  return faulty


def _twice(step: Any) -> Any:
  def faulty(self: Any, state: Any, *data: Any) -> Any:
    return step(self, step(self, state, *data)[0], *data)

  return faulty


def _noise_key(self: Any, state: Any, purpose: int) -> jax.Array:
  return jax.random.fold_in(state.d_opt_state[0].key, purpose)


def _batch_key(self: Any, state: Any, purpose: int) -> jax.Array:
  return jax.random.fold_in(state.batch_key, purpose)


def _average_of_real(state: Any, found: Any) -> Any:
  keep = lambda a: jnp.where(found.d_loss_real > 1, a, 0.99 * a)  # noqa: E731
  return state._replace(g_average=jax.tree.map(keep, state.g_average))


def _paced(state: Any, found: Any) -> Any:
  waited = state.pace.waited + (found.realised_batch > 12).astype(jnp.int32)
  return state._replace(pace=state.pace._replace(waited=waited))


def every_256(update: Any, updates: Any, state: Any, *rest: Any, **named: Any) -> Any:
  """Noise that comes again after 256 steps."""
  found, _ = update(updates, state._replace(count=state.count % 256), *rest, **named)
  return found, state._replace(count=state.count + 1)


def centre_of_those_who_came(release: Any) -> Any:
  def faulty(self: Any, state: Any, inputs: Any, secret: bytes) -> Any:
    after = release(self, state, inputs, secret)
    factor = self.stages[CENTRE].num_examples / inputs.shape[0]
    return after._replace(centre=after.centre * factor)

  return faulty


def without_failed_runs(read: Any) -> Any:
  def faulty(folder: Any, failures: Any) -> Any:
    table = read(folder, failures)
    return dataclasses.replace(table, runs=tuple(r for r in table.runs if not r.reason))

  return faulty


def first_state_not_saved(save: Any) -> Any:
  def faulty(self: Any, step: int, *rest: Any) -> None:
    if step:
      save(self, step, *rest)

  return faulty


LEAKS: dict[str, tuple[Swap, ...]] = {
  'public gradients of real images': _public_gradient_with_real_examples(),
  'fakes from a real statistic': _fakes_from_a_real_statistic(),
  'as many fakes as came': fakes_as_many_as_came(),
  "fakes' bound from real norms": swap(gan.GAN, '_d_step', fakes_bounded_by_real_norms),
  'D by the sum without noise': swap(transforms, 'noise_sum', wrapped_update(_without_noise)),
  'D by the clean sum as well': _weights_of_d_by_the_clean_sum(),
  'the average of G by real images': _after_d_step(_average_of_real),
  'the realised batch as divisor': _update_divided_by_the_realised_batch(),
  'the pace by the realised batch': _after_d_step(_paced),
  'the sum in the state': swap(transforms, 'noise_sum', wrapped_update(_sum_kept_in_the_state)),
  'fakes by the noise key': swap(gan.GAN, '_fake_key', lambda _: _noise_key),
  'fakes by the batch key': swap(gan.GAN, '_fake_key', lambda _: _batch_key),
  'a loss shown to the host': swap(gan.GAN, '_d_step', _shown_to_the_host),
  'two sums in a step': swap(gan.GAN, '_d_step', _twice),
  "the centre's zeros without noise": swap(
    Classifier, 'release_centre', _centre_kept_beside_the_noise),
  'an average by accuracy': swap(Classifier, 'step', _average_by_accuracy),
}  # fmt: skip
"""What a proof of taint must refuse, by what is planted."""
