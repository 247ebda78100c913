"""Ours, jax-privacy, optax.contrib, and JAX without privacy; see `protocol`.

Everybody else's network is plain Flax (`nn.Conv`, `nn.max_pool`); ours is the same with this
project's layers, of the same parameters. Modes are `<library>_<loop>`: `scan` takes many steps in
one compiled loop, `jit` one per call. Ours has the loop that it trains with, `scan`.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax_privacy
import jax_privacy.noise_addition
import numpy as np
import optax

import dpgan_jax
from dpgan_jax.networks import layers
from dpgan_jax.privacy import transforms
from experiments.benchmarks import nets
from experiments.benchmarks.protocol import Job, Session, cores, measure_peak, serve

Params = Any
# step(params, state, images, labels) -> (params, state)
Step = Callable[[Params, Any, jax.Array, jax.Array], tuple[Params, Any]]


class Model(nn.Module):
  """A network of `nets`, with this project's layers or with Flax's own."""

  net: nets.Net
  ours: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = images
    for index, layer in enumerate(self.net.layers):
      x = self._apply(layer, x if layer.kernel else x.reshape(x.shape[0], -1))
      if index == 0 and self.net.label_layer:
        planes = jax.nn.one_hot(labels, nets.CLASSES, dtype=x.dtype)[:, None, None, :]
        planes = jnp.broadcast_to(planes, (*images.shape[:3], nets.CLASSES))
        x = jnp.concatenate([x, self._apply(self.net.label_layer, planes)], -1)
    return x if self.net.loss == 'softmax' else x.reshape(x.shape[0])

  def _apply(self, layer: nets.Layer, x: jax.Array) -> jax.Array:
    padding, window = 'SAME' if layer.same else 'VALID', (layer.kernel, layer.kernel)
    if not layer.kernel:
      module: nn.Module = nn.Dense(layer.out, name=layer.name)
    elif self.ours:
      module = layers.Conv(layer.out, window, stride=layer.stride, padding=padding, name=layer.name)
    else:
      strides = (layer.stride, layer.stride)
      module = nn.Conv(layer.out, window, strides=strides, padding=padding, name=layer.name)
    x = module(x)
    if layer.activation:
      x = nn.relu(x) if layer.activation == 'relu' else nn.leaky_relu(x, 0.2)
    if not layer.pool:
      return x
    return layers.max_pool(x, 2, 1) if self.ours else nn.max_pool(x, (2, 2))


def losses(model: Model, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
  logits = model.apply({'params': params}, images, labels)
  if model.net.loss == 'softmax':
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return optax.sigmoid_binary_cross_entropy(logits, jnp.ones_like(logits))


def initial(net: nets.Net) -> Params:
  """The weights that all contenders start from, as Flax has them."""
  params: Params = {}
  for name, value in nets.init_params(net).items():
    layer, kind = name.split('/')
    params.setdefault(layer, {})[kind] = jnp.asarray(value)
  return params


# --- The contenders: gradients of a batch, and what becomes of them before SGD. ---

Gradients = Callable[[Params, jax.Array, jax.Array], Any]
Library = Callable[[nets.Net, Job], tuple[Gradients, list[Any]]]


def one_example_loss(model: Model) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
  return lambda params, image, label: losses(model, params, image[None], label[None])[0]


def mean_loss(model: Model) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
  return lambda params, images, labels: jnp.mean(losses(model, params, images, labels))


def ours(net: nets.Net, job: Job, strategy: str) -> tuple[Gradients, list[Any]]:
  """This project's private step, as another project would write it."""
  clipped_grad = dpgan_jax.clipped_grad(
    one_example_loss(Model(net, ours=True)), l2_clip_norm=job.clip, strategy=strategy,
    microbatch_size=job.microbatch,
  )  # fmt: skip
  noise = transforms.noise_sum(job.clip, job.noise, job.batch, jax.random.key(1))
  return (lambda *batch: clipped_grad(*batch).sum), [noise]


def nonprivate(net: nets.Net, job: Job, with_our_layers: bool) -> Any:
  del job
  return jax.grad(mean_loss(Model(net, with_our_layers))), []


def with_jax_privacy(net: nets.Net, job: Job) -> Any:
  # The mean of a batch of one, its default.
  clipped_grad = jax_privacy.clipped_grad(
    mean_loss(Model(net)), l2_clip_norm=job.clip, batch_argnums=(1, 2)
  )
  privatizer = jax_privacy.noise_addition.gaussian_privatizer(
    stddev=job.noise * job.clip, prng_key=jax.random.key(1)
  )
  return clipped_grad, [privatizer, optax.scale(1 / job.batch)]


def with_optax_contrib(net: nets.Net, job: Job) -> Any:
  aggregate = optax.contrib.differentially_private_aggregate(
    job.clip, job.noise, key=jax.random.key(1)
  )
  return jax.vmap(jax.grad(one_example_loss(Model(net))), (None, 0, 0)), [aggregate]


LIBRARIES: dict[str, Library] = {
  'ours_nonprivate': functools.partial(nonprivate, with_our_layers=True),
  'ours_vmap': functools.partial(ours, strategy='vmap'),
  'ours_ghost': functools.partial(ours, strategy='auto'),
  'nonprivate': functools.partial(nonprivate, with_our_layers=False),
  'jax_privacy': with_jax_privacy,
  'optax': with_optax_contrib,
}


def learning(
  job: Job, params: Params, gradients: Gradients, transforms: list[Any]
) -> tuple[Step, Any]:
  """A step of SGD by these gradients, transformed, and the initial state of its optimizer."""
  optimizer = optax.chain(*transforms, optax.sgd(job.learning_rate))

  def step(params: Params, state: Any, images: jax.Array, labels: jax.Array) -> Any:
    updates, state = optimizer.update(gradients(params, images, labels), state, params)
    return optax.apply_updates(params, updates), state

  return step, optimizer.init(params)


class Program:
  """A contender in its loop; the data is on the device, and what it carries is donated."""

  note = ''

  def __init__(self, job: Job):
    library, loop = job.mode.rsplit('_', 1)
    self._per_call = {'scan': job.chunk, 'jit': 1}[loop]
    self._data = tuple(map(jnp.asarray, job.data()))
    params = initial(job.spec)
    step, state = learning(job, params, *LIBRARIES[library](job.spec, job))
    self._carry: Any = (params, state, jax.random.key(2))
    self._call: Any = jax.jit(steps_in_loop(job, step, self._per_call), donate_argnums=0)

  def prepare(self) -> None:
    self._call = self._call.lower(self._carry, *self._data).compile()

  def run(self, steps: int) -> int:
    calls = -(-steps // self._per_call)
    for _ in range(calls):
      self._carry = self._after(self._call(self._carry, *self._data))
    jax.block_until_ready(self._carry)
    return calls * self._per_call

  def _after(self, result: Any) -> Any:
    """What the next call takes of a call's result."""
    return result

  def parameters(self) -> dict[str, np.ndarray]:
    return {
      f'{layer}/{kind}': np.array(value)
      for layer, leaves in self._carry[0].items()
      for kind, value in leaves.items()
    }

  @property
  def device_bytes(self) -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')


def steps_in_loop(job: Job, step: Step, length: int) -> Callable[..., Any]:
  """`length` steps, each on its own random batch; of one step alone there is no loop."""

  def one(carry: Any, images: jax.Array, labels: jax.Array) -> Any:
    params, state, key = carry
    key, batch_key = jax.random.split(key)
    if job.fixed_batch:
      index = jnp.arange(job.batch)
    else:
      index = jax.random.randint(batch_key, (job.batch,), 0, job.examples)
    params, state = step(params, state, images[index], labels[index])
    return params, state, key

  def many(carry: Any, images: jax.Array, labels: jax.Array) -> Any:
    if length == 1:
      return one(carry, images, labels)
    return jax.lax.scan(lambda c, _: (one(c, images, labels), None), carry, length=length)[0]

  return many


def describe() -> dict[str, Any]:
  names = ('jax', 'flax', 'optax', 'jax-privacy', 'numpy')
  versions = {name: importlib.metadata.version(name) for name in names}
  device = jax.devices()[0]
  kind = device.platform if device.platform == 'cpu' else f'{device.platform} {device.device_kind}'
  versions['dpgan_jax'] = dpgan_jax.__version__
  return {'versions': versions, 'threads': cores(), 'device': kind}


def peak() -> float:
  size = 3072 if jax.default_backend() == 'cpu' else 8192
  a = jax.random.uniform(jax.random.key(0), (size, size))
  product = jax.jit(lambda a: jnp.matmul(a, a, precision='highest'))
  return measure_peak(lambda: product(a).block_until_ready(), size)


if __name__ == '__main__':
  serve(Session(Program, describe, peak))
