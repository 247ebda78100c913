"""Faults that take more than a line: what is put in the place of a part of the package.

`Swap` puts it there. The functions below each take the original and return the faulty thing.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import attrs
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.budget.budget import STAGE
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.models import gan
from dpgan_jax.privacy import clipping, sharding, step_noise
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.sampling import PoissonBatch
from dpgan_jax.privacy.sampling import TruncatedPoissonSampler as Sampler
from experiments.trust import gan_checks


@dataclasses.dataclass(frozen=True)
class Swap:
  """Puts `make(original)` in the place of `owner.name`."""

  owner: Any
  name: str
  make: Callable[[Any], Any]

  @property
  def where(self) -> str:
    if isinstance(self.owner, dict):
      return f'{self.name}'
    owner = getattr(self.owner, '__name__', type(self.owner).__name__)
    return f'{owner}.{self.name}'

  def plant(self) -> contextlib.AbstractContextManager[Any]:
    if isinstance(self.owner, dict):
      return mock.patch.dict(self.owner, {self.name: self.make(self.owner[self.name])})
    original = inspect.getattr_static(self.owner, self.name)
    return mock.patch.object(self.owner, self.name, self.make(original))


def swap(owner: Any, name: str, make: Callable[[Any], Any]) -> tuple[Swap, ...]:
  return (Swap(owner, name, make),)


def to(value: Any) -> Callable[[Any], Any]:
  """The replacement that does not look at what it replaces."""
  return lambda _: value


def around(faulty: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
  """The replacement that calls `faulty(original, ...)` where the original would be called."""
  return lambda original: lambda *args, **named: faulty(original, *args, **named)


# --- the noisy sum --------------------------------------------------------------------------------


@around
def divided_by_realised(make: Any, self: DPMechanism, key: jax.Array) -> Any:
  """noise_sum or clip_and_noise of a mechanism, with the number who came in the place of B."""
  right = make(self, key)

  def update(updates: Any, state: Any, params: Any = None, *, mask: Any = None, **rest: Any):
    found, state = right.update(updates, state, params, mask=mask, **rest)
    factor = self.batch_size / jnp.maximum(jnp.sum(mask), 1)
    return jax.tree.map(lambda u: u * factor, found), state

  return type(right)(right.init, update)


def wrapped_update(change: Callable[..., Any]) -> Callable[[Any], Any]:
  """Replaces the `update` of the transform that `noise_sum` returns by `change(update, ...)`."""

  @around
  def make(noise_sum: Any, *arguments: Any, **named: Any) -> Any:
    right = noise_sum(*arguments, **named)
    return type(right)(right.init, functools.partial(change, right.update))

  return make


def no_noise_on_an_empty_batch(update: Any, updates: Any, state: Any, *rest: Any, **named: Any):
  found, state = update(updates, state, *rest, **named)
  present = sum(jnp.sum(jnp.abs(u)) for u in jax.tree.leaves(updates)) > 0
  return jax.tree.map(lambda u: jnp.where(present, u, 0), found), state


def same_noise_every_step(update: Any, updates: Any, state: Any, *rest: Any, **named: Any):
  found, _ = update(updates, state._replace(count=jnp.int32(0)), *rest, **named)
  return found, state._replace(count=state.count + 1)


def gram_as_computed(a: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
  """⟨AAᵀ, DDᵀ⟩ of each example as float32 has it, and none that is formed after all."""
  products = jnp.einsum('ngtk,ngsk->ngts', a, a) * jnp.einsum('ngtc,ngsc->ngts', d, d)
  return jnp.maximum(products.sum((1, 2, 3)), 0), jnp.zeros(len(a), bool)


def one_draw_for_all_leaves(key: jax.Array, tree: Any, c: float, sigma: float) -> Any:
  return jax.tree.map(lambda x: x + c * sigma * jax.random.normal(key, x.shape), tree)


@around
def one_draw_for_all_rows(original: Any, key: jax.Array, tree: Any, c: float, sigma: float) -> Any:
  rows = original(key, jax.tree.map(lambda x: jnp.zeros_like(x[:1]), tree), c, sigma)
  return jax.tree.map(lambda r, x: r + x, rows, tree)


def float_noise(key: jax.Array, tree: Any, c: float, sigma: float) -> Any:
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
  add = lambda x, k: x + c * sigma * jax.random.normal(k, x.shape)  # noqa: E731
  return jax.tree.map(add, tree, keys)


def float_release(contributions: Any, **named: Any) -> Any:
  total = np.sum(contributions, axis=0, dtype=np.float32)
  z = np.random.default_rng(0).standard_normal(total.shape, np.float32)
  return total + np.float32(named['l2_sensitivity'] * named['noise_multiplier']) * z


@around
def by_leaf(clipped_sum: Any, per_example: Any, **named: Any) -> Any:
  """Clips every leaf to C for itself."""
  parts = jax.tree.map(lambda leaf: clipped_sum(leaf, **named).sum, per_example)
  norms = clipped_sum(per_example, **named).norms
  return clipping.ClippedSum(parts, norms)


@around
def bad_entries_only(clipped_sum: Any, per_example: Any, **named: Any) -> Any:
  """Blanks the entries that are not finite, and keeps the rest of the example."""
  kept = jax.tree.map(lambda x: jnp.where(jnp.abs(x) < 1e30, x, 0), per_example)
  return clipped_sum(kept, **named)


@around
def bfloat16_sum(clipped_sum: Any, per_example: Any, **named: Any) -> Any:
  found = clipped_sum(per_example, **named)
  add = lambda total, x: (total + x.astype(jnp.bfloat16), None)  # noqa: E731
  zero = lambda x: jnp.zeros(x.shape[1:], jnp.bfloat16)  # noqa: E731
  sums = jax.tree.map(lambda x: jax.lax.scan(add, zero(x), x)[0], per_example)
  return found._replace(sum=jax.tree.map(lambda s: s.astype(jnp.float32), sums))


def per_microbatch(change: Callable[[Any, int], Any]) -> Callable[[Any], Any]:
  """Changes the sum of a `clipped_grad` that works in microbatches, told how many there are."""

  @around
  def make(
    clipped_grad: Any, loss: Any, *, microbatch_size: int | None = None, **named: Any
  ) -> Any:
    right = clipped_grad(loss, microbatch_size=microbatch_size, **named)
    if microbatch_size is None:
      return right

    def fn(params: Any, *batch: Any, mask: Any = None) -> Any:
      found = right(params, *batch, mask=mask)
      parts = math.ceil(jax.tree.leaves(batch)[0].shape[0] / microbatch_size)
      return found._replace(sum=change(found.sum, parts))

    return fn

  return make


def noise_each(total: Any, parts: int) -> Any:
  return step_noise.add_gaussian(jax.random.key(1), total, 1.0, 0.5 * math.sqrt(parts))


@around
def shuffled(call: Any, self: Sampler, key: jax.Array, step: jax.Array) -> Any:
  """Epochs of a permutation in batches of B, each as long as the others."""
  size = round(self.num_examples * self.sampling_probability)
  per_epoch = self.num_examples // size
  order = jax.random.permutation(jax.random.fold_in(key, step // per_epoch), self.num_examples)
  start = (step % per_epoch) * size
  indices = jnp.roll(order, -start)[: self.truncated_batch_size]
  return PoissonBatch(indices, jnp.arange(self.truncated_batch_size) < size)


@around
def in_order(call: Any, self: Sampler, key: jax.Array, step: jax.Array) -> Any:
  """Those who joined, by their numbers, and then the padding."""
  batch = call(self, key, step)
  order = jnp.lexsort((batch.indices, ~batch.mask))
  return PoissonBatch(batch.indices[order], batch.mask[order])


@around
def lowest_indices_kept(call: Any, self: Sampler, key: jax.Array, step: jax.Array) -> Any:
  joined = self.inclusion_mask(key, step)
  indices = jnp.argsort(~joined, stable=True)[: self.truncated_batch_size]
  return PoissonBatch(indices, joined[indices])


@around
def without_replacement(call: Any, self: Sampler, key: jax.Array, step: jax.Array) -> Any:
  batch = call(self, key, step)
  size = round(self.num_examples * self.sampling_probability)
  return batch._replace(mask=jnp.arange(self.truncated_batch_size) < size)


def mean_for_certain(self: Sampler) -> np.ndarray:
  """A distribution function that is 0 below the mean and 1 from it on."""
  mean = round(self.num_examples * self.sampling_probability)
  below = np.arange(self.truncated_batch_size) < mean
  return np.where(below[:, None], np.uint32([0, 0, 0]), np.uint32(2**32 - 1))


@around
def with_replacement(call: Any, self: Sampler, key: jax.Array, step: jax.Array) -> Any:
  _, joined = call(self, key, step)
  places = (self.truncated_batch_size,)
  key = self.step_key(key, step)
  return jax.random.randint(key, places, 0, self.num_examples, jnp.int32), joined


def event(**changes: Callable[[Any], Any]) -> tuple[Swap, ...]:
  """Accounts for steps whose fields are changed."""

  @around
  def make(event: Any, self: DPMechanism, steps: int | None = None) -> Any:
    done = event(self, steps)
    changed = {name: change(getattr(done.event, name)) for name, change in changes.items()}
    return attrs.evolve(done, event=attrs.evolve(done.event, **changed))

  return swap(DPMechanism, 'event', make)


def accountant_of(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """An accountant that takes the fields of a step for others than they are."""

  @around
  def make(epsilon: Any, event: Any, *rest: Any) -> float:
    changed = {name: change(event.event) for name, change in changes.items()}
    return epsilon(attrs.evolve(event, event=attrs.evolve(event.event, **changed)), *rest)

  return make


@around
def one_layer_forgotten(backward: Any, *arguments: Any) -> Any:
  """Norms found in one backward pass leave out all layers but the first."""
  found = backward(*arguments)
  if len(found.forms) < 2:
    return found
  form, _ = next(iter(found.forms.values()))
  return found._replace(norms=jnp.sqrt(form.squared))


@around
def twice_the_clip_norm(clipped_grad: Any, loss: Any, *, l2_clip_norm: float, **rest: Any) -> Any:
  return clipped_grad(loss, l2_clip_norm=2 * l2_clip_norm, **rest)


class BatchNormed(nn.Module):
  """A discriminator that normalises over the batch."""

  stateful: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = nn.Dense(4)(images.reshape(images.shape[0], -1))
    if self.stateful:
      x = nn.SpectralNorm(nn.Dense(4))(x, update_stats=True)
    else:
      x = nn.BatchNorm(use_running_average=False)(x)
    return nn.Dense(1)(x)[:, 0]


@around
def real_labels(fakes: Any, self: Any, g: Any, key: jax.Array, count: int, *split: Any) -> Any:
  """Labels of fakes drawn from the real ones."""
  drawn = jax.random.choice(key, gan_checks.dataset()[1], (count,))
  with mock.patch.object(jax.random, 'randint', return_value=drawn):
    return fakes(self, g, key, count, *split)


def stash_data(seen: dict[str, Any]) -> Swap:
  """Keeps the arguments of a step for another fault to use."""

  @around
  def make(step: Any, self: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
    seen.update(state=state, images=images, labels=labels)
    return step(self, state, images, labels)

  return Swap(gan.GAN, 'step', make)


def on_public_gradient(change: Callable[..., Any]) -> tuple[Swap, ...]:
  """Changes the gradient that gets no noise by `change(gan, grads, params, batch, seen)`."""
  seen: dict[str, Any] = {}

  @around
  def make(d_optimizer: Any, self: Any, noise_key: jax.Array | None = None) -> Any:
    right = d_optimizer(self, noise_key)

    def update(updates: Any, state: Any, params: Any, *, public_grads: Any, **rest: Any) -> Any:
      batch = self.mechanism.sampler(seen['state'].batch_key, seen['state'].step)
      public_grads = change(self, public_grads, params, batch, seen)
      return right.update(updates, state, params, public_grads=public_grads, **rest)

    return type(right)(right.init, update)

  return (stash_data(seen), Swap(gan.GAN, 'd_optimizer', make))


def real_data_as_public(loss_of: Callable[..., jax.Array]) -> tuple[Swap, ...]:
  """Adds the unclipped gradient of a loss on the real batch to the public gradient."""

  def change(self: Any, grads: Any, params: Any, batch: Any, seen: Any) -> Any:
    images = to_model_range(seen['images'][batch.indices])
    labels = seen['labels'][batch.indices]

    def mean_loss(p: Any) -> jax.Array:
      def logit(image: jax.Array, label: jax.Array) -> jax.Array:
        return self.discriminator.apply({'params': p}, image[None], label[None])[0]

      values = jax.vmap(lambda x, y: loss_of(lambda image: logit(image, y), x))(images, labels)
      return jnp.sum(jnp.where(batch.mask, values, 0)) / self.mechanism.batch_size

    return jax.tree.map(jnp.add, grads, jax.grad(mean_loss)(params))

  return on_public_gradient(change)


def fakes_as_many_as_came() -> tuple[Swap, ...]:
  """The fakes' half counts as many fakes as there are real examples."""

  def change(self: Any, grads: Any, params: Any, batch: Any, seen: Any) -> Any:
    share = jnp.sum(batch.mask) / self.fake_batch_size
    return jax.tree.map(lambda g: g * share, grads)

  return on_public_gradient(change)


@around
def pace_by_real_loss(
  d_step: Any, self: Any, state: Any, images: jax.Array, labels: jax.Array
) -> Any:
  state, found = d_step(self, state, images, labels)
  pace = state.pace._replace(fake_accuracy=state.pace.fake_accuracy + found.d_loss_real)
  return state._replace(pace=pace), found


def charged_late(charge: Any) -> Any:
  """Charges steps when the next ones are asked for, that is, after they were taken."""
  waiting: dict[int, int] = {}

  def faulty(self: Ledger, up_to_step: int, stage: str = STAGE) -> None:
    if earlier := waiting.get(id(self)):
      charge(self, earlier, stage)
    waiting[id(self)] = up_to_step

  return faulty


@around
def noise_starts_anew(start_or_resume: Any, *arguments: Any, **named: Any) -> Any:
  """A restart that forgets how many noise vectors were drawn."""
  state = start_or_resume(*arguments, **named)
  noise, *rest = state.d_opt_state
  return state._replace(d_opt_state=(noise._replace(count=0 * noise.count), *rest))


def remade(**changes: Any) -> Callable[[Any], Any]:
  """A class whose instances are made with other arguments than were given."""
  return lambda make: lambda **fields: make(**{**fields, **changes})


# --- moments --------------------------------------------------------------------------------------


@around
def with_real_counts(right: Any, codes: Any, labels: Any, moments: Any, secret: bytes) -> Any:
  """Releases the numbers of records as they are."""
  means = right(codes, labels, moments, secret)
  counts = np.bincount(labels, minlength=moments.spec.num_classes).astype(float)
  return dataclasses.replace(means, counts=counts)


@around
def around_the_real_mean(
  right: Any, codes: Any, labels: Any, means: Any, moments: Any, secret: bytes
) -> Any:
  """Centres codes at the mean of their class instead of what was released of it."""
  sums = np.stack([codes[labels == k].sum(axis=0) for k in range(moments.spec.num_classes)])
  counts = np.bincount(labels, minlength=moments.spec.num_classes).astype(float)
  real = dataclasses.replace(means, sums=sums, counts=counts)
  return right(codes, labels, real, moments, secret)


def without_noise(right: Callable[..., Any]) -> Callable[..., Any]:
  """Releases what it should, as it is."""
  return lambda *args, noise_multiplier, **about: right(*args, noise_multiplier=0.0, **about)


@around
def scaled_by_real_distances(right: Any, self: Any, codes: Any, *args: Any, **about: Any) -> Any:
  """Bounds sums of classes by how far the records are from their mean."""
  told = type(self).centre_of
  scale = float(np.sqrt(np.square(codes - codes.mean(axis=0)).sum(axis=1).mean()))
  centre_of = lambda *given: (told(*given)[0], scale)  # noqa: E731
  with mock.patch.object(type(self), 'centre_of', centre_of):
    return right(self, codes, *args, **about)


@around
def whole_rounds(right: Any, self: Any, noise_multiplier: float) -> tuple[float, ...]:
  """As if rounds of cells cost nothing."""
  first, *rounds, last = right(self, noise_multiplier)
  return first, *(noise_multiplier for _ in rounds), last


@around
def cells_of_records(
  right: Any, codes: Any, labels: Any, centres: Any, count: Any, _: Any, **about: Any
) -> Any:
  """k-means without noise."""

  def exact(number: int, own: Any, cell: Any, found: Any) -> Any:
    del number
    members = [cell == g for g in range(len(found))]
    return np.array([m.sum() for m in members]), np.stack([own[m].sum(axis=0) for m in members])

  return right(codes, labels, centres, count, exact, **about)


@around
def centred_by_records(right: Any, self: Any, records: Any) -> Any:
  """Takes the mean of all codes from each."""
  codes = right(self, records)
  return codes - codes.mean(axis=0)


@around
def axes_of_records(right: Any, self: Any, codes: Any, **about: Any) -> Any:
  """Codes along the axes of most variance of the records themselves."""
  axes = right(self, codes, **about)
  features = np.asarray(codes[:, : len(axes.centre)], np.float64)
  vectors = np.linalg.eigh(np.cov(features.T))[1][:, ::-1]
  return axes._replace(directions=vectors[:, : self.dim].astype(np.float32))


def grid_without_clipping(rows: Any, l2_sensitivity: float, grid: float) -> Any:
  """Whole multiples of the grid of any length."""
  del l2_sensitivity
  return np.trunc(np.asarray(rows, np.float64) / grid).astype(np.int64)


# --- tables ---------------------------------------------------------------------------------------


@around
def noise_of_one_way_counts(
  right: Any, counts: Any, noise_multiplier: float, squared_sensitivity: int, *rest: Any
) -> Any:
  """Gives scores and counts of pairs of five columns the noise of one-way counts."""
  return right(counts, noise_multiplier, min(squared_sensitivity, 5), *rest)


@around
def cells_of_real_counts(
  right: Any, self: Any, codes: Any, labels: Any, means: Any, classes: int, **about: Any
) -> Any:
  """Fine cells go together as the records say, not as what was released of them does."""
  ends = np.cumsum(self.fine_sizes)
  places = codes + ends - self.fine_sizes
  counts = [np.bincount(places[labels == k].ravel(), minlength=ends[-1]) for k in range(classes)]
  real = dataclasses.replace(means, sums=np.stack(counts).astype(float))
  return right(self, codes, labels, real, classes, **about)


@around
def cells_between_real_bounds(right: Any, self: Any, records: Any) -> Any:
  """Cuts numbers between the least and the largest that are there."""
  columns = [
    dataclasses.replace(column, lower=int(values.min()), upper=int(values.max()))
    if column.kind == 'integer'
    else column
    for column, values in zip(self.schema.modelled, records.T, strict=True)
  ]
  schema = dataclasses.replace(self.schema, columns=tuple(columns), target=None)
  return right(dataclasses.replace(self, schema=schema), records)


@around
def bounds_of_the_data(right: Any, self: Any, column: Any) -> Any:
  """Finds bounds without noise."""
  changes, missing = right(self, column)
  values = self.table.numbers(column.name)
  return {**changes, 'lower': np.nanmin(values), 'upper': np.nanmax(values)}, missing


@around
def scaled_by_real_counts(
  release_means: Any, self: Any, *args: Any, noise_multiplier: float, **about: Any
) -> Any:
  """The profile of series in units of the cells as they are."""
  exact = release_means(self, *args, noise_multiplier=0.0, **about)
  told = copy.copy(self)
  object.__setattr__(told, 'scores', lambda means: self.scores(exact))
  return release_means(told, *args, noise_multiplier=noise_multiplier, **about)


@around
def scaled_by_real_rates(
  release_means: Any, self: Any, codes: Any, *args: Any, **about: Any
) -> Any:
  """The values of series in units of the rates as they are."""
  told, traits = copy.copy(self), codes[:, self.columns :]
  exact = lambda scale, _, means: self.rates(  # noqa: E731
    scale, scale.vectors_of_rates(traits).sum(axis=0), means
  )
  object.__setattr__(told, 'rates', exact)
  return release_means(told, codes, *args, **about)


@around
def scaled_by_real_bounds(right: Any, self: Any, values: Any) -> Any:
  """Scales values of series by the least and the largest that are there."""
  del right, self
  low, high = np.nanmin(values), np.nanmax(values)
  return np.clip((values - low) / (high - low), 0, 1)


# --- several devices ------------------------------------------------------------------------------


def _device() -> Any:
  split = sharding.here()
  return jnp.int32(0) if split.axis is None else jax.lax.axis_index(split.axis)


def noise_of_each_device(update: Any, updates: Any, state: Any, *rest: Any, **named: Any):
  """The sum, with the noise of as many steps as there are devices."""
  clean, found = updates, []
  for _ in range(sharding.here().count):
    noisy, state = update(updates, state, *rest, **named)
    updates = jax.tree.map(jnp.zeros_like, clean)
    found.append(noisy)
  return jax.tree.map(lambda *each: sum(each), *found), state


def mean_after_the_noise(update: Any, updates: Any, state: Any, *rest: Any, **named: Any):
  """As where each device noises its own sum by the same key, and a mean follows: signal/devices."""
  share = jax.tree.map(lambda u: u / sharding.here().count, updates)
  return update(share, state, *rest, **named)


def key_of_a_device(step_key: Any) -> Any:
  return lambda *arguments: jax.random.fold_in(step_key(*arguments), _device())


def of_one_device(values: Any) -> Any:
  return lambda self, total, axis_name=None: values(self, total)


@around
def mean_over_devices(values: Any, self: Any, total: Any, axis_name: Any = None) -> Any:
  return [x / self.devices for x in values(self, total, axis_name)]


def batch_of_a_device(call: Any) -> Any:
  return lambda self, key, step: call(self, jax.random.fold_in(key, _device()), step)


@around
def cap_of_a_device(present: Any, self: Any, length: int, mask: Any = None) -> Any:
  found = present(self, length, mask)
  return found & (jnp.cumsum(found) <= 21 // self.count)  # B of the check
