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
  around,
  fakes_as_many_as_came,
  stash_data,
  swap,
  wrapped_update,
)


def _after_d_step(change: Callable[[Any, Any], Any]) -> tuple[Swap, ...]:
  """Changes the state that a step of D leaves by `change(state, metrics)`."""

  @around
  def make(d_step: Any, *args: Any) -> Any:
    state, found = d_step(*args)
    return change(state, found), found

  return swap(gan.GAN, '_d_step', make)


def _d_optimizer(change: Callable[..., Any]) -> tuple[Swap, ...]:
  """Changes D's update by `change(gan, updates, clipped sum)`."""

  @around
  def make(d_optimizer: Any, self: Any, noise_key: jax.Array | None = None) -> Any:
    right = d_optimizer(self, noise_key)

    def update(total: Any, state: Any, *rest: Any, **extra: Any) -> Any:
      found, after = right.update(total, state, *rest, **extra)
      return change(self, found, total), after

    return type(right)(right.init, update)

  return swap(gan.GAN, 'd_optimizer', make)


def _by_the_clean_sum(_: Any, found: Any, total: Any) -> Any:
  return jax.tree.map(lambda u, s: u - 0.01 * s, found, total)


def _update_divided_by_the_realised_batch() -> tuple[Swap, ...]:
  seen: dict[str, Any] = {}

  def change(self: Any, found: Any, total: Any) -> Any:
    batch = self.mechanism.sampler(seen['state'].batch_key, seen['state'].step)
    share = self.mechanism.batch_size / jnp.maximum(jnp.sum(batch.mask), 1)
    return jax.tree.map(lambda u: u * share, found)

  return (stash_data(seen), *_d_optimizer(change))


def _fakes(change: Callable[..., Any]) -> tuple[Swap, ...]:
  """Changes fakes, D's and G's, by `change(gan, fakes, the real images)`."""
  seen: dict[str, Any] = {}

  @around
  def make(fakes: Any, self: Any, *args: Any) -> Any:
    made, *rest = fakes(self, *args)
    return (change(self, made, seen['images'].astype(jnp.float32)), *rest)

  return (stash_data(seen), *swap(gan.GAN, '_fakes', make))


def _scaled_by_brightness(_: Any, fakes: Any, images: Any) -> Any:
  return fakes * (1 + 1e-3 * jnp.mean(images))


def _one_in_ten_real(self: Any, fakes: Any, images: Any) -> Any:
  if len(fakes) != self.fake_batch_size:
    return fakes
  real = images[: max(1, len(fakes) // 10)] / 255
  return fakes.at[: real.shape[0]].set(real)


@around
def fakes_bounded_by_real_norms(d_step: Any, self: Any, *args: Any) -> Any:
  """Clips the fakes to the largest norm of a real gradient, where the cap is below 2B."""
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


def _shown_to_the_host(state: Any, found: Any) -> Any:
  jax.debug.print('loss {}', found.d_loss_real)
  return state


def _sum_kept_in_the_state(update: Any, updates: Any, state: Any, *rest: Any, **named: Any) -> Any:
  found, after = update(updates, state, *rest, **named)
  bright = sum(jnp.sum(u) for u in jax.tree.leaves(updates)) > 0
  return found, after._replace(count=after.count + bright)


def _without_noise(update: Any, updates: Any, state: Any, *rest: Any, **named: Any) -> Any:
  _, after = update(updates, state, *rest, **named)
  return jax.tree.map(lambda u: u / 12, updates), after


@around
def _centre_kept_beside_the_noise(
  release: Any, self: Any, state: Any, inputs: Any, secret: bytes
) -> Any:
  after = release(self, state, inputs, secret)
  mean = jnp.mean(jnp.asarray(inputs), axis=0).reshape(-1)
  return after._replace(centre=jnp.where(jnp.abs(mean) > 0, after.centre, 0.0))


@around
def _average_by_accuracy(
  step: Any, self: Any, state: Any, inputs: jax.Array, labels: jax.Array
) -> Any:
  after, found = step(self, state, inputs, labels)
  worse = found.accuracy < 0.1
  keep = lambda old, new: jnp.where(worse, old, new)  # noqa: E731
  return after._replace(average=jax.tree.map(keep, state.average, after.average)), found


@around
def _twice(step: Any, self: Any, state: Any, *data: Any) -> Any:
  return step(self, step(self, state, *data)[0], *data)


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


@around
def centre_of_those_who_came(
  release: Any, self: Any, state: Any, inputs: Any, secret: bytes
) -> Any:
  after = release(self, state, inputs, secret)
  factor = self.stages[CENTRE].num_examples / inputs.shape[0]
  return after._replace(centre=after.centre * factor)


@around
def without_failed_runs(read: Any, folder: Any, failures: Any) -> Any:
  table = read(folder, failures)
  return dataclasses.replace(table, runs=tuple(r for r in table.runs if not r.reason))


@around
def first_state_not_saved(save: Any, self: Any, step: int, *rest: Any) -> None:
  if step:
    save(self, step, *rest)


LEAKS: dict[str, tuple[Swap, ...]] = {
  'public gradients of real images': _fakes(_one_in_ten_real),
  'fakes from a real statistic': _fakes(_scaled_by_brightness),
  'as many fakes as came': fakes_as_many_as_came(),
  "fakes' bound from real norms": swap(gan.GAN, '_d_step', fakes_bounded_by_real_norms),
  'D by the sum without noise': swap(transforms, 'noise_sum', wrapped_update(_without_noise)),
  'D by the clean sum as well': _d_optimizer(_by_the_clean_sum),
  'the average of G by real images': _after_d_step(_average_of_real),
  'the realised batch as divisor': _update_divided_by_the_realised_batch(),
  'the pace by the realised batch': _after_d_step(_paced),
  'the sum in the state': swap(transforms, 'noise_sum', wrapped_update(_sum_kept_in_the_state)),
  'fakes by the noise key': swap(gan.GAN, '_fake_key', lambda _: _noise_key),
  'fakes by the batch key': swap(gan.GAN, '_fake_key', lambda _: _batch_key),
  'a loss shown to the host': _after_d_step(_shown_to_the_host),
  'two sums in a step': swap(gan.GAN, '_d_step', _twice),
  "the centre's zeros without noise": swap(
    Classifier, 'release_centre', _centre_kept_beside_the_noise),
  'an average by accuracy': swap(Classifier, 'step', _average_by_accuracy),
}  # fmt: skip
"""What a proof of taint must refuse, by what is planted."""
